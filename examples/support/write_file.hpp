// A file written in one go.
#pragma once

#include <string>
#include <string_view>

#include <implicit_attention/io/replaced_file.hpp>

namespace implicit_attention::examples {

/// The file is there whole, or what stood there stays. Fails (file) as ReplacedFile does.
inline void write_file(const std::string& path, std::string_view bytes) {
  ReplacedFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

}  // namespace implicit_attention::examples
