// A file that appears whole or not at all.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <system_error>

#include <implicit_attention/core/error.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Writes beside `path` and takes its place on `commit`; without that, what stood there stays and nothing is left behind.
/// Every failure (no such folder, disk full) is an error of ErrorKind::file that names `path` and the system's reason.
class ReplacedFile {
 public:
  explicit ReplacedFile(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code ignored;
    const std::string name = path_.string();
    if (path_.filename().empty()) raise(ErrorKind::file, message("\"", name, "\": cannot be written: not a file name"));
    if (std::filesystem::is_directory(path_, ignored)) raise(ErrorKind::file, message(name, ": cannot be written: is a directory"));
    // A device or a pipe must not be renamed over.
    if (std::filesystem::exists(path_, ignored) && !std::filesystem::is_regular_file(path_, ignored))
      raise(ErrorKind::file, message(name, ": cannot be written: is not a regular file"));
    target_ = std::filesystem::is_symlink(path_, ignored) ? std::filesystem::weakly_canonical(path_, ignored) : path_;
    // "x": a file of that name that is already there is somebody else's; then another name is tried.
    std::random_device entropy;
    for (int attempt = 0; attempt < 8 && stream_ == nullptr; ++attempt) {
      partial_ = target_;
      partial_ += message(".partial-", entropy());
      errno = 0;
      stream_ = std::fopen(partial_.string().c_str(), "wbx");
      if (stream_ == nullptr && errno != EEXIST) break;
    }
    if (stream_ == nullptr) fail(errno);
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
    std::error_code why;
    std::filesystem::rename(partial_, target_, why);
    if (why) fail(why.value());
    partial_.clear();
  }

 private:
  void discard() noexcept {
    if (stream_ != nullptr) std::fclose(stream_);
    stream_ = nullptr;
    std::error_code ignored;
    if (!partial_.empty()) std::filesystem::remove(partial_, ignored);
    partial_.clear();
  }
  [[noreturn]] void fail(int why) {
    discard();
    const std::string reason =
        why == 0 ? std::string("the system gives no reason") : std::error_code(why, std::generic_category()).message();
    raise(ErrorKind::file, message(path_.string(), ": cannot be written: ", reason));
  }

  std::filesystem::path path_, target_, partial_;
  std::FILE* stream_ = nullptr;
};

IMPLICIT_ATTENTION_NAMESPACE_END
