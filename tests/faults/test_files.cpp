// Disks that are full and files that may not grow, at every byte: the error names the file and the reason, what stood there stays, and
// nothing of ours is left.
#include <csignal>
#include <string>
#include <vector>

#include <io/files.hpp>
#include <support/catch.hpp>

#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

#if defined(__unix__)
#include <sys/resource.h>

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
