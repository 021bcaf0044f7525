// Token ids out of NumPy's .npy.
#pragma once

#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Whether bytes begin as a .npy file does.
[[nodiscard]] inline bool is_npy(std::string_view bytes) { return bytes.starts_with("\x93NUMPY"); }

namespace detail {

/// The value of a key in a .npy header, which is a Python dictionary on one line: what stands between `'key':` and the comma or brace that
/// ends it, parentheses aside.
[[nodiscard]] inline std::string_view npy_header_value(std::string_view header, std::string_view key) {
  const std::size_t name = header.find(message("'", key, "'"));
  const std::size_t colon = name == std::string_view::npos ? name : header.find(':', name);
  if (colon == std::string_view::npos) return {};
  const std::size_t begin = header.find_first_not_of(' ', colon + 1);
  if (begin == std::string_view::npos) return {};
  const std::size_t end = header[begin] == '(' ? header.find(')', begin) : header.find_first_of(",}", begin);
  return end == std::string_view::npos ? std::string_view() : header.substr(begin, end - begin + (header[begin] == '(' ? 1 : 0));
}

template <class Integer>
[[nodiscard]] Index npy_element(const char* data) {
  Integer value;
  std::memcpy(&value, data, sizeof(Integer));
  if constexpr (sizeof(Integer) == 8 && std::numeric_limits<Integer>::min() == 0)
    if (value > static_cast<Integer>(std::numeric_limits<Index>::max())) return -1;
  return static_cast<Index>(value);
}

}  // namespace detail

/// The integers of a .npy file's bytes: one axis, or one row of two axes. Fails (file), naming `where`, on anything else: floating-point
/// numbers, other byte orders, sizes that the file does not have.
[[nodiscard]] inline std::vector<Index> parse_npy_integers(std::string_view bytes, std::string_view where) {
  static_assert(std::endian::native == std::endian::little, ".npy is read on little-endian machines alone");
  const auto refuse = [&](std::string_view what) { detail::raise(ErrorKind::file, where, ": .npy: ", what); };
  if (!is_npy(bytes) || bytes.size() < 12) refuse("the header is cut short");
  const auto byte = [&](std::size_t at) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[at])); };
  const std::size_t version = byte(6);
  if (version < 1 || version > 3) refuse(detail::message("version ", version, " is not read here, expected 1 to 3"));
  const std::size_t begin = version == 1 ? 10 : 12;
  const std::size_t length = byte(8) | (byte(9) << 8U) | (version == 1 ? 0 : (byte(10) << 16U) | (byte(11) << 24U));
  if (length > bytes.size() - begin) refuse("the header is cut short");
  const std::string_view header = bytes.substr(begin, length), data = bytes.substr(begin + length);

  const std::string_view type = detail::npy_header_value(header, "descr");
  Index (*element)(const char*) = nullptr;
  std::size_t width = 0;
  const auto is = [&](std::string_view name, std::size_t size, Index (*read)(const char*)) {
    if (type.size() != name.size() + 3 || type.substr(2, name.size()) != name) return;
    if (type[1] != '<' && type[1] != '=' && !(type[1] == '|' && size == 1)) return;
    element = read;
    width = size;
  };
  is("i1", 1, detail::npy_element<std::int8_t>);
  is("u1", 1, detail::npy_element<std::uint8_t>);
  is("i2", 2, detail::npy_element<std::int16_t>);
  is("u2", 2, detail::npy_element<std::uint16_t>);
  is("i4", 4, detail::npy_element<std::int32_t>);
  is("u4", 4, detail::npy_element<std::uint32_t>);
  is("i8", 8, detail::npy_element<std::int64_t>);
  is("u8", 8, detail::npy_element<std::uint64_t>);
  if (element == nullptr)
    refuse(detail::message("elements are ", type.empty() ? "of no type" : printable(type, 30), ", expected integers such as '<i8'"));

  const std::string_view shape = detail::npy_header_value(header, "shape");
  std::vector<std::size_t> sizes;
  for (std::size_t at = 1; at < shape.size(); ++at) {
    if (shape[at] < '0' || shape[at] > '9') continue;
    std::size_t size = 0;
    const auto read = std::from_chars(shape.data() + at, shape.data() + shape.size(), size);
    if (read.ec != std::errc())
      refuse(detail::message("the shape ", printable(shape, 60), " has a size above ", std::numeric_limits<std::size_t>::max()));
    sizes.push_back(size);
    at = static_cast<std::size_t>(read.ptr - shape.data());
  }
  if (sizes.size() == 2 && sizes[0] == 1) sizes.erase(sizes.begin());
  if (sizes.size() != 1)
    refuse(detail::message("the shape is ", shape.empty() ? "missing" : printable(shape, 60), ", expected (tokens,) or (1, tokens)"));
  if (sizes[0] > data.size() / width || sizes[0] * width != data.size())
    refuse(detail::message(sizes[0], " elements of ", width, " bytes are expected, and the file holds ", data.size(), " bytes of them"));
  std::vector<Index> numbers(sizes[0]);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = element(data.data() + i * width);
    if (numbers[i] < 0 && type[2] == 'u') refuse(detail::message("element ", i, " is more than ", std::numeric_limits<Index>::max()));
  }
  return numbers;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
