// A file's path as messages show it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include <implicit_attention/core/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// `path` with control characters and bytes that are not UTF-8 escaped: an index of shards may name any file, and so may a folder that
/// somebody else packed.
[[nodiscard]] inline std::string path_text(const std::filesystem::path& path) {
  constexpr std::size_t longest = 4096;        // PATH_MAX of Linux
  const std::u8string text = path.u8string();  // not string(): what other systems call so need not be UTF-8
  return printable({reinterpret_cast<const char*>(text.data()), text.size()}, longest);
}
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
