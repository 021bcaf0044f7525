// Disks that are full and files that may not grow, at every byte: the error names the file and the reason, what stood there stays, and
// nothing of ours is left.
#include <csignal>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <io/files.hpp>
#include <support/catch.hpp>

#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

#if defined(__unix__)
#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {
/// The permissions that a file has when somebody first changes them; -1: nobody has.
int mode_when_changed = -1;
/// The how-manieth look at an open file finds it a byte shorter; 0: none does.
int look_that_finds_less = 0;
}  // namespace
// In place of the C library's, which std::filesystem calls.
extern "C" int fchmodat(int folder, const char* path, mode_t mode, int flags) noexcept {
  static const auto real = reinterpret_cast<int (*)(int, const char*, mode_t, int)>(::dlsym(RTLD_NEXT, "fchmodat"));
  struct stat status {};
  if (mode_when_changed < 0 && ::fstatat(folder, path, &status, 0) == 0) mode_when_changed = static_cast<int>(status.st_mode & 0777U);
  return real(folder, path, mode, flags);
}
extern "C" int fstat(int file, struct stat* status) noexcept {
  static const auto real = reinterpret_cast<int (*)(int, struct stat*)>(::dlsym(RTLD_NEXT, "fstat"));
  const int failure = real(file, status);
  if (look_that_finds_less > 0 && --look_that_finds_less == 0) --status->st_size;
  return failure;
}

using namespace implicit_attention;
using namespace io_test;

namespace {

/// While it lives no file grows beyond `bytes`: what is written there fails, as on a disk that is full, or, where it was kept in memory
/// until then, closing the file does.
class FileLimit {
 public:
  explicit FileLimit(std::size_t bytes) : signal_(std::signal(SIGXFSZ, SIG_IGN)) {
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before_) == 0);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;
  ~FileLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, signal_);
  }

 private:
  rlimit before_{};
  void (*signal_)(int);
};

template <class Write>
void fails_at_every_size(Write write, std::size_t step) {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.out";
  write(path);
  const std::string expected = read_bytes(path);
  for (std::size_t bytes = 0; bytes < expected.size(); bytes += step) {
    write_bytes(path, "before");
    std::optional<Caught> error;
    {
      const FileLimit limit(bytes);
      error = error_of([&] { write(path); });
    }
    INFO("no more than " << bytes << " bytes of " << expected.size());
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK_THAT(error->message, contains_text(path.string() + ": cannot be written: "));
    CHECK(error->message.size() > (path.string() + ": cannot be written: ").size() + 5);
    CHECK(read_bytes(path) == "before");
    CHECK(folder.entries() == 1);
  }
  const FileLimit limit(expected.size());
  write(path);
  CHECK(read_bytes(path) == expected);
  CHECK(folder.entries() == 1);
}

}  // namespace

TEST_CASE("files that may not grow: small ones fail when they are closed") {
  const std::vector<double> numbers(3, 0.5);
  fails_at_every_size([&](const fs::path& path) { write_npy(path, ArrayToWrite(numbers.data(), {3})); }, 7);
  fails_at_every_size([&](const fs::path& path) { write_safetensors(path, {{"a", ArrayToWrite(numbers.data(), {3})}}); }, 7);
}

TEST_CASE("files that may not grow: large ones fail while they are written") {
  const std::vector<float> numbers(20'000, 0.5F);
  fails_at_every_size([&](const fs::path& path) { write_npy(path, ArrayToWrite(numbers.data(), {200, 100})); }, 7777);
  fails_at_every_size(
      [&](const fs::path& path) {
        write_safetensors(path, {{"a", ArrayToWrite(numbers.data(), {100, 100})}, {"b", ArrayToWrite(numbers.data(), {20'000})}});
      },
      13'331);
}

TEST_CASE("a file that only its owner may read is not there for others before its permissions are changed") {
  const TemporaryFolder folder;
  const mode_t mask = ::umask(0);
  write_bytes(folder / "secret.npy", "before");
  fs::permissions(folder / "secret.npy", fs::perms::owner_read | fs::perms::owner_write);
  for (const std::string name : {"secret.npy", "new.npy"}) {
    mode_when_changed = -1;
    const ReplacedFile file(folder / name);
    CHECK(mode_when_changed == (name == "new.npy" ? -1 : 0600));
    int found = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder.path()))
      if (entry.path().filename().string().find(name + ".partial-") == 0) {
        ++found;
        CHECK(entry.status().permissions() == static_cast<fs::perms>(name == "new.npy" ? 0666 : 0600));
      }
    CHECK(found == 1);
  }
  ::umask(mask);
}

TEST_CASE("a file that may not be written is not replaced, though its folder may be written") {
  const TemporaryFolder folder;
  write_bytes(folder / "a.npy", "before");
  fs::permissions(folder.path(), fs::perms::all);
  fs::permissions(folder / "a.npy", fs::perms::owner_read | fs::perms::group_read | fs::perms::others_read);
  const uid_t user = ::geteuid();
  if (user == 0) REQUIRE(::seteuid(65534) == 0);  // who may write everything
  const auto error = error_of([&] { const ReplacedFile file(folder / "a.npy"); });
  const auto beside = error_of([&] { const ReplacedFile file(folder / "b.npy"); });
  REQUIRE(::seteuid(user) == 0);
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("a.npy: cannot be written: Permission denied"));
  CHECK_FALSE(beside);
  CHECK(read_bytes(folder / "a.npy") == "before");
  CHECK(folder.entries() == 1);
}

TEST_CASE("a mapped file that is cut short within its last page keeps what it was") {
  const TemporaryFolder folder;
  for (const std::size_t size : {std::size_t{2}, std::size_t{100}, std::size_t{4096}, std::size_t{4098}, std::size_t{10'000}}) {
    const fs::path path = folder / "mapped";
    const std::string bytes(size, 'x');
    write_bytes(path, bytes);
    const auto file = MappedFile::open(path);
    fs::resize_file(path, (size - 1) / 4096 * 4096 + (size - 1) % 4096 / 2 + 1);  // half of the last page's bytes: the page is still there
    CHECK(file->text() == bytes);
  }
}

TEST_CASE("a file that becomes shorter while it is mapped is an error") {
  const TemporaryFolder folder;
  write_bytes(folder / "mapped", "xyz");
  look_that_finds_less = 2;  // the first says how much is mapped
  const auto error = error_of([&] { return MappedFile::open(folder / "mapped")->text(); });
  look_that_finds_less = 0;
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("mapped: became shorter while it was opened"));
}

TEST_CASE("a file whose folder goes away before it is put in its place") {
  const TemporaryFolder folder;
  fs::create_directories(folder / "below");
  const auto error = error_of([&] {
    ReplacedFile file(folder / "below" / "a.npy");
    file.write("half", 4);
    fs::remove_all(folder / "below");
    file.commit();
  });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("a.npy: cannot be written: "));
  CHECK(folder.entries() == 0);
}
#endif
