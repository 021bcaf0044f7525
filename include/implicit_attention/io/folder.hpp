// What a folder holds.
#pragma once

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dirent.h>
#define IMPLICIT_ATTENTION_IO_DIRENT 1
#else
#define IMPLICIT_ATTENTION_IO_DIRENT 0
#endif

#include <implicit_attention/config.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// The names in a folder, sorted, without `.` and `..`; `why` says what kept it from being read. Where memory runs out it throws
/// std::bad_alloc: libstdc++'s iterator of folders ends the program then.
[[nodiscard]] inline std::vector<std::string> names_in(const std::filesystem::path& folder, std::error_code& why) {
  why.clear();
  std::vector<std::string> names;
#if IMPLICIT_ATTENTION_IO_DIRENT
  const auto close = [](DIR* open) { ::closedir(open); };
  const std::unique_ptr<DIR, decltype(close)> open(::opendir(folder.c_str()), close);
  errno = open == nullptr ? errno : 0;
  while (open != nullptr) {
    const dirent* entry = ::readdir(open.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno == ENOMEM) throw std::bad_alloc();
  if (errno != 0) why = std::error_code(errno, std::generic_category());
#else
  for (std::filesystem::directory_iterator entry(folder, why), end; !why && entry != end; entry.increment(why))
    names.push_back(entry->path().filename().string());
#endif
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#undef IMPLICIT_ATTENTION_IO_DIRENT
