// Writing NumPy's .npy; reading is npy_reader.hpp's.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/array_to_write.hpp>
#include <implicit_attention/io/dtype.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/replaced_file.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Writes one array to `path`, whole or not at all: format 1.0, little-endian, C order, `<f4`, `<f8` or `<i8`, of any rank.
inline void write_npy(const std::filesystem::path& path, const ArrayToWrite& numbers) {
  const std::size_t bytes = numbers.checked_bytes(path_text(path));
  const std::string_view type = numbers.dtype() == Dtype::F64 ? "<f8" : numbers.dtype() == Dtype::F32 ? "<f4" : "<i8";
  std::string header = detail::message("{'descr': '", type, "', 'fortran_order': False, 'shape': (");
  for (const Index size : numbers.shape()) header += detail::message(size, ", ");
  if (numbers.shape().size() > 1)
    header.resize(header.size() - 2);  // (2, 3)
  else if (!numbers.shape().empty())
    header.resize(header.size() - 1);  // (2,)
  header += "), }";
  // Magic, version and length take 10 bytes; the numbers begin at a multiple of 64, so that the file can be mapped.
  header.resize((header.size() + 1 + 10 + 63) / 64 * 64 - 10 - 1, ' ');
  header += '\n';
  constexpr std::size_t most = 0xFFFF;
  if (header.size() > most)
    detail::raise(ErrorKind::limit, path_text(path), ": ", numbers.shape().size(), " axes take a header of ", header.size(),
                  " bytes, and that of a .npy file has at most ", most);

  ReplacedFile file(path);
  file.write("\x93NUMPY\x01\x00", 8);
  const unsigned char length[2] = {static_cast<unsigned char>(header.size() & 0xFFU), static_cast<unsigned char>(header.size() >> 8U)};
  file.write(length, sizeof(length));
  file.write(header.data(), header.size());
  numbers.append_to(file, bytes);
  file.commit();
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
