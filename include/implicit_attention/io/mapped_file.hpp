// A whole file as bytes in memory: mapped where the system can, read elsewhere.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#ifndef IMPLICIT_ATTENTION_IO_MMAP
#if defined(__unix__) || defined(__APPLE__)
#define IMPLICIT_ATTENTION_IO_MMAP 1
#else
#define IMPLICIT_ATTENTION_IO_MMAP 0
#endif
#endif
#if IMPLICIT_ATTENTION_IO_MMAP
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#include <fstream>
#endif

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/path_text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
[[noreturn]] inline void cannot_open(const std::filesystem::path& path, const std::error_code& why) {
  raise(ErrorKind::file, path_text(path), ": cannot be opened: ", why.message());
}

/// Whether a file is there. Fails where its name is taken by something else, such as a link to nothing (a download that is not whole):
/// going on without the file would be another model.
[[nodiscard]] inline bool is_file(const std::filesystem::path& path) {
  std::error_code why, ignored;
  const std::filesystem::file_status status = std::filesystem::status(path, why);
  if (std::filesystem::is_regular_file(status)) return true;
  if (std::filesystem::exists(status)) raise(ErrorKind::file, path_text(path), ": is not a regular file");
  if (status.type() == std::filesystem::file_type::none) cannot_open(path, why);
  if (std::filesystem::is_symlink(path, ignored)) raise(ErrorKind::file, path_text(path), ": is a link to nothing");
  return false;
}

/// Fails, with the system's reason, where nobody may look for `path`: what may be there must not be called missing.
inline void check_reachable(const std::filesystem::path& path) {
  std::error_code why;
  static_cast<void>(std::filesystem::status(path, why));
  if (why == std::errc::permission_denied) cannot_open(path, why);
}
}  // namespace detail

// Its layout differs when the file is read whole, so it has another name: two units must not mix them.
#if !IMPLICIT_ATTENTION_IO_MMAP
inline namespace read_whole {
#endif

/// The bytes of one file, read-only, for as long as this object lives. As with any mapping, a file must not be cut short by another
/// process meanwhile; replace files by renaming, as the writers here do. Where one is cut short all the same, reading the pages that are
/// gone raises SIGBUS, which nothing here handles: a host may (the example programs do, and name the file), or build with
/// IMPLICIT_ATTENTION_IO_MMAP=0, where the bytes are the object's own. The missing end of the page in which the file now ends reads as
/// zeros, unless that page was the file's last one, of which a copy is kept.
class MappedFile {
 public:
  /// Maps `path`. Fails, with the system's reason, if it is not a regular file that can be read.
  [[nodiscard]] static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path) {
    return std::shared_ptr<const MappedFile>(new MappedFile(path));
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::string_view text() const {
    return size_ == 0 ? std::string_view() : std::string_view(reinterpret_cast<const char*>(data_), size_);
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

#if IMPLICIT_ATTENTION_IO_MMAP
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

 private:
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {
    // Non-blocking, so that a pipe in the file's place is an error and not a wait.
    const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) detail::cannot_open(path_, std::error_code(errno, std::generic_category()));
    struct stat status {};
    int failure = ::fstat(file, &status) == 0 ? 0 : errno;
    const bool regular = failure == 0 && S_ISREG(status.st_mode);
    const bool fits = status.st_size >= 0 && static_cast<std::uintmax_t>(status.st_size) <= std::numeric_limits<std::size_t>::max() / 2;
    off_t now = status.st_size;
    if (regular && fits && status.st_size > 0) {
      void* mapped = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
      if (mapped == MAP_FAILED) {
        failure = errno;
      } else {
        data_ = static_cast<const std::byte*>(mapped);
        size_ = static_cast<std::size_t>(status.st_size);
        keep_last_page();
        if (::fstat(file, &status) == 0) now = status.st_size;
      }
    }
    ::close(file);
    if (failure != 0) detail::cannot_open(path_, std::error_code(failure, std::generic_category()));
    if (!regular) detail::raise(ErrorKind::file, path_text(path_), ": is not a regular file");
    if (!fits) detail::raise(ErrorKind::file, path_text(path_), ": is larger than this machine can address");
    if (now >= 0 && static_cast<std::uintmax_t>(now) < size_) {
      ::munmap(const_cast<std::byte*>(data_), size_);  // no destructor follows
      detail::raise(ErrorKind::file, path_text(path_), ": became shorter while it was opened");
    }
  }
  /// Has the last page copied, by writing a byte of it as it is: where a file is cut short within a page the system raises no signal, and
  /// the rest of that page would read as zeros. Where it may not be written, the mapping stays as it is.
  void keep_last_page() const {
    const long page = ::sysconf(_SC_PAGESIZE);
    if (page <= 0) return;
    const std::size_t size = static_cast<std::size_t>(page), begin = (size_ - 1) / size * size;
    std::byte* const last = const_cast<std::byte*>(data_) + begin;
    if (::mprotect(last, size, PROT_READ | PROT_WRITE) != 0) return;
    volatile std::byte* const written = last;
    *written = static_cast<std::byte>(*written);
    static_cast<void>(::mprotect(last, size, PROT_READ));
  }
#else
  ~MappedFile() = default;

 private:
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code why;
    if (const std::filesystem::file_status status = std::filesystem::status(path_, why);
        std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
      detail::raise(ErrorKind::file, path_text(path_), ": is not a regular file");
    const std::uintmax_t size = std::filesystem::file_size(path_, why);
    if (why) detail::cannot_open(path_, why);
    if (size > std::numeric_limits<std::size_t>::max() / 2)
      detail::raise(ErrorKind::file, path_text(path_), ": is larger than this machine can address");
    std::ifstream stream(path_, std::ios::binary);
    bytes_.resize(static_cast<std::size_t>(size));
    if (!stream.read(reinterpret_cast<char*>(bytes_.data()), static_cast<std::streamsize>(size)))
      detail::raise(ErrorKind::file, path_text(path_), ": cannot be read");
    data_ = bytes_.data();
    size_ = bytes_.size();
  }
#endif

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
#if !IMPLICIT_ATTENTION_IO_MMAP
  std::vector<std::byte> bytes_;
#endif
};

#if !IMPLICIT_ATTENTION_IO_MMAP
}  // namespace read_whole
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
