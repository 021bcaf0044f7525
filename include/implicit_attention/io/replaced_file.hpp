// A file that appears whole or not at all.
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <system_error>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/path_text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// Names of the files that are being written, for a signal handler to remove. More than fit are not known to it.
inline std::array<std::atomic<const char*>, 16> partial_files{};
}  // namespace detail

/// Removes what every ReplacedFile of this program has written so far and not put in its place: for a program's own handler of SIGINT,
/// SIGTERM and the like, which may call it (it only reads names and removes files). The program must end after it.
inline void remove_partial_files() noexcept {
  for (const std::atomic<const char*>& name : detail::partial_files)
    if (const char* const path = name.load()) std::remove(path);
}

/// Writes beside `path`, with the permissions of what stood there, and takes its place on `commit`; without that, what stood there stays
/// and nothing is left behind. A file that may not be written is not replaced either. A symbolic link is kept; its target is written, and
/// made if it does not exist. Every failure (no such folder, disk full) is an error of ErrorKind::file that names `path` and the system's
/// reason.
class ReplacedFile {
 public:
  explicit ReplacedFile(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code ignored;
    const std::string name = path_text(path_);
    if (path_.filename().empty()) detail::raise(ErrorKind::file, "\"", name, "\": cannot be written: not a file name");
    if (std::filesystem::is_directory(path_, ignored)) detail::raise(ErrorKind::file, name, ": cannot be written: is a directory");
    // A device or a pipe must not be renamed over.
    if (std::filesystem::exists(path_, ignored) && !std::filesystem::is_regular_file(path_, ignored))
      detail::raise(ErrorKind::file, name, ": cannot be written: is not a regular file");
    target_ = path_;
    for (int links = 0; std::filesystem::is_symlink(target_, ignored); ++links) {
      if (links == 40) fail(ELOOP);
      const std::filesystem::path next = std::filesystem::read_symlink(target_, ignored);
      target_ = target_.parent_path() / next;  // next itself where it is absolute
    }
    if (const int why = refusal(); why != 0) fail(why);
    // "x": a file of that name that is already there is somebody else's; then another name is tried. A signal may come at any moment, and
    // memory may end: the handler knows the name, and every allocation is done, before the file is there.
    std::random_device entropy;
    for (int attempt = 0; attempt < 8 && stream_ == nullptr; ++attempt) {
      forget();
      partial_ = target_;
      partial_ += detail::message(".partial-", entropy());
      name_ = partial_.string();
      remember();
      errno = 0;
      stream_ = created();
      if (stream_ == nullptr && errno != EEXIST) break;
    }
    if (stream_ == nullptr) {
      const int why = errno;
      forget();  // nothing of ours is there to be removed
      fail(why);
    }
    keep_permissions();  // those that a new file is not given
  }
  ReplacedFile(const ReplacedFile&) = delete;
  ReplacedFile& operator=(const ReplacedFile&) = delete;
  ~ReplacedFile() { discard(); }

  void write(const void* bytes, std::size_t count) {
    if (count == 0) return;
    errno = 0;
    if (std::fwrite(bytes, 1, count, stream_) != count) fail(errno);
  }

  /// Puts the file in its place.
  void commit() {
    errno = 0;
    std::FILE* stream = stream_;
    stream_ = nullptr;
    if (std::fclose(stream) != 0) fail(errno);
    keep_permissions();  // writing takes some of them away, and they may have been changed meanwhile
    std::error_code why;
    std::filesystem::rename(partial_, target_, why);
    if (why) fail(why.value());
    forget();
  }

 private:
  /// Why what stands there may not be written; 0 where it may, or nothing does. Taking its place asks its folder alone.
  [[nodiscard]] int refusal() const noexcept {
#if defined(__unix__) || defined(__APPLE__)
    const int file = ::open(target_.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) return errno == ENOENT ? 0 : errno;
    ::close(file);
#endif
    return 0;
  }
  /// The partial file, empty; null, with errno set, if it cannot be created or exists already. It is given no permission that the file to
  /// be replaced lacks: otherwise someone who may not read that file could open the partial one before its permissions are changed.
  [[nodiscard]] std::FILE* created() const {
#if defined(__unix__) || defined(__APPLE__)
    struct stat before {};
    const bool replaces = ::stat(target_.c_str(), &before) == 0;
    const int file = ::open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, replaces ? before.st_mode & 0777U : 0666U);
    if (file < 0) return nullptr;
    std::FILE* const stream = ::fdopen(file, "wb");
    if (stream != nullptr) return stream;
    const int why = errno;
    ::close(file);
    std::remove(name_.c_str());
    errno = why;
    return nullptr;
#else
    return std::fopen(name_.c_str(), "wbx");
#endif
  }
  /// Those of what stands there.
  void keep_permissions() noexcept {
    std::error_code ignored;
    if (const auto before = std::filesystem::status(target_, ignored); std::filesystem::is_regular_file(before))
      std::filesystem::permissions(partial_, before.permissions(), ignored);
  }
  void discard() noexcept {
    if (stream_ != nullptr) std::fclose(stream_);
    stream_ = nullptr;
    std::error_code ignored;
    if (!partial_.empty()) std::filesystem::remove(partial_, ignored);
    forget();
  }
  void remember() noexcept {
    for (std::atomic<const char*>& slot : detail::partial_files) {
      const char* empty = nullptr;
      if (!slot.compare_exchange_strong(empty, name_.c_str())) continue;
      slot_ = &slot;
      return;
    }
  }
  void forget() noexcept {
    if (slot_ != nullptr) slot_->store(nullptr);
    slot_ = nullptr;
    partial_.clear();
  }
  [[noreturn]] void fail(int why) {
    discard();
    const std::string reason =
        why == 0 ? std::string("the system gives no reason") : std::error_code(why, std::generic_category()).message();
    detail::raise(ErrorKind::file, path_text(path_), ": cannot be written: ", reason);
  }

  std::filesystem::path path_, target_, partial_;
  std::string name_;                          // of partial_, as a handler needs it
  std::atomic<const char*>* slot_ = nullptr;  // that has the name
  std::FILE* stream_ = nullptr;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
