// The header of a safetensors file. It is untrusted: every size and offset in it is checked against the file before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/dtype.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One tensor of a file, as its header has it.
struct TensorInfo {
  Dtype dtype = Dtype::F32;
  std::string dtype_text = "F32";  ///< as the file has it; of a type not known here, `dtype` is `other`
  std::vector<Index> shape;
  Index count = 0;        ///< numbers: the product of the shape
  std::size_t begin = 0;  ///< first byte, from the beginning of the file
  std::size_t bytes = 0;
};

/// What a file holds.
struct SafetensorsHeader {
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string, std::less<>> metadata;
};

namespace detail {

/// The format's own limit on the header; ours on the number of axes.
inline constexpr std::uint64_t safetensors_header_limit = 100'000'000;
inline constexpr std::size_t safetensors_axis_limit = 64;

}  // namespace detail

/// Reads and checks the header that `file` begins with; `where` names the file in errors.
/// Nothing is allocated on the word of the header: memory grows with the bytes that are really there.
[[nodiscard]] SafetensorsHeader parse_safetensors_header(std::string_view file, std::string_view where);

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

template <class Document>
[[nodiscard]] std::vector<Index> natural_numbers(const Document& value, std::string_view who, std::string_view what) {
  if (!value.is_array()) raise(ErrorKind::file, who, ": ", what, " is ", json_text(value), ", expected a list of integers");
  std::vector<Index> numbers;
  for (const Document& element : value) {
    const std::optional<Index> number = json_natural_number(element);
    if (!number)
      raise(ErrorKind::file, who, ": ", what, " is ", json_text(value), ": ", json_text(element), " is not an integer from 0 to ",
            std::numeric_limits<Index>::max());
    numbers.push_back(*number);
  }
  return numbers;
}

template <class Document>
[[nodiscard]] const Document& field(const Document& tensor, const char* key, std::string_view who) {
  const auto found = tensor.find(key);
  if (found == tensor.end()) raise(ErrorKind::file, who, ": has no ", key, ", expected dtype, shape and data_offsets");
  return *found;
}

/// One tensor's entry; `data_begin` and `data_size` are where the numbers of all tensors stand in the file.
template <class Document>
[[nodiscard]] TensorInfo tensor_info(const Document& entry, std::string_view who, std::size_t data_begin, std::size_t data_size) {
  if (!entry.is_object()) raise(ErrorKind::file, who, ": is ", json_text(entry), ", expected an object of dtype, shape and data_offsets");
  const Document& dtype_value = field(entry, "dtype", who);
  if (!dtype_value.is_string()) raise(ErrorKind::file, who, ": dtype is ", json_text(dtype_value), ", expected a string such as \"F32\"");
  // A type that cannot be read, or that is newer than this library, is no reason to refuse the other tensors.
  TensorInfo info;
  info.dtype_text = dtype_value.template get_ref<const std::string&>();
  info.dtype = dtype_of_name(info.dtype_text).value_or(Dtype::other);
  info.shape = natural_numbers(field(entry, "shape", who), who, "shape");
  const std::optional<Index> count = element_count(info.shape, dtype_bytes(info.dtype));
  if (!count) raise(ErrorKind::file, who, ": shape ", shape_text(info.shape), " overflows: more numbers than memory has addresses");
  info.count = *count;
  const std::size_t together = dtype_numbers(info.dtype);
  if (static_cast<std::size_t>(*count) % together != 0)
    raise(ErrorKind::file, who, ": shape ", shape_text(info.shape), " of ", info.dtype_text, " is not a whole number of bytes");
  info.bytes = static_cast<std::size_t>(*count) / together * dtype_bytes(info.dtype);

  const std::vector<Index> offsets = natural_numbers(field(entry, "data_offsets", who), who, "data_offsets");
  if (offsets.size() != 2) raise(ErrorKind::file, who, ": data_offsets has ", offsets.size(), " numbers, expected 2, begin and end");
  const auto begin = static_cast<std::size_t>(offsets[0]), end = static_cast<std::size_t>(offsets[1]);
  if (begin > end) raise(ErrorKind::file, who, ": data_offsets ", shape_text(offsets), " end before they begin");
  if (end > data_size)
    raise(ErrorKind::file, who, ": data_offsets ", shape_text(offsets), " reach beyond the ", data_size,
          " bytes of data in the file; is it cut short?");
  if (info.dtype == Dtype::other) info.bytes = end - begin;
  if (end - begin != info.bytes)
    raise(ErrorKind::file, who, ": data_offsets ", shape_text(offsets), " hold ", end - begin, " bytes, expected ", info.bytes, " = ",
          shape_text(info.shape), " of ", info.dtype_text);
  info.begin = data_begin + begin;
  return info;
}

/// Fails unless the tensors, in the order of their bytes, fill the data without gap or overlap, as the format demands.
template <class Header>
void check_layout(const Header& header, std::string_view where, std::size_t data_begin, std::size_t data_size) {
  using Entry = std::pair<const std::string, TensorInfo>;
  std::vector<const Entry*> entries;
  for (const Entry& entry : header.tensors) entries.push_back(&entry);
  std::sort(entries.begin(), entries.end(), [](const Entry* a, const Entry* b) {
    return a->second.begin != b->second.begin ? a->second.begin < b->second.begin : a->second.bytes < b->second.bytes;
  });
  std::size_t expected = data_begin;
  const Entry* before = nullptr;
  for (const Entry* entry : entries) {
    const std::size_t begin = entry->second.begin;
    if (begin < expected)
      raise(ErrorKind::file, where, ": tensors ", printable(before->first), " and ", printable(entry->first),
            " overlap: ", printable(entry->first), " begins at byte ", begin - data_begin, ", expected ", expected - data_begin);
    if (begin > expected)
      raise(ErrorKind::file, where, ": tensor ", printable(entry->first), " begins at byte ", begin - data_begin, ", expected ",
            expected - data_begin, ": a gap that no tensor claims");
    expected = begin + entry->second.bytes;
    before = entry;
  }
  if (expected != data_begin + data_size)
    raise(ErrorKind::file, where, ": ", data_size, " bytes of data, expected ", expected - data_begin,
          ": the bytes at the end belong to no tensor");
}

/// A hint where the first bytes are those of another well-known kind of file.
[[nodiscard]] inline std::string_view other_format_hint(std::string_view bytes) {
  if (bytes.starts_with("version https://git-lfs")) return "; this is a Git LFS pointer: fetch the file itself with git lfs pull";
  if (bytes.starts_with("PK\x03\x04")) return "; this looks like a zip archive, as PyTorch writes: convert it to safetensors";
  if (bytes.starts_with("GGUF")) return "; this looks like a GGUF file: convert it to safetensors";
  if (bytes.starts_with("\x93NUMPY")) return "; this is a NumPy file: convert it to safetensors";
  return "";
}

template <class Document>
[[nodiscard]] SafetensorsHeader parse_safetensors_header(std::string_view file, std::string_view where) {
  constexpr std::size_t prefix = 8;
  const std::string_view hint = other_format_hint(file);
  if (file.size() < prefix)
    raise(ErrorKind::file, where, ": not a safetensors file: ", file.size(), " bytes, expected at least 8 for the header's length", hint);
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), prefix);
  if (length > safetensors_header_limit)
    raise(ErrorKind::file, where, ": not a safetensors file: header length ", length, ", expected at most ", safetensors_header_limit,
          hint);
  if (length > file.size() - prefix)
    raise(ErrorKind::file, where, ": header length ", length, ", but only ", file.size() - prefix, " bytes follow; is the file cut short?",
          hint);
  const std::string header_where = message(where, ": header");
  const std::string_view text = file.substr(prefix, static_cast<std::size_t>(length));
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || text[first] != '{')
    raise(ErrorKind::file, header_where, ": expected a JSON object beginning with {, found ",
          first == std::string_view::npos ? "nothing" : printable(text.substr(first, 1)));
  JsonLimits limits;
  limits.depth = 3;
  limits.list = safetensors_axis_limit;
  const JsonDocument read = parse_json_object(text, header_where, limits);
  const Document& document = read;

  SafetensorsHeader header;
  const std::size_t data_begin = prefix + static_cast<std::size_t>(length), data_size = file.size() - data_begin;
  for (const auto& [name, entry] : document.items()) {
    if (name == "__metadata__") {
      if (entry.is_null()) continue;
      if (!entry.is_object())
        raise(ErrorKind::file, header_where, ": __metadata__ is ", json_text(entry), ", expected an object of strings");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string())
          raise(ErrorKind::file, header_where, ": __metadata__: ", printable(key), " is ", json_text(value), ", expected a string");
        header.metadata.emplace(key, value.template get<std::string>());
      }
      continue;
    }
    header.tensors.emplace(name, tensor_info(entry, message(where, ": tensor ", printable(name)), data_begin, data_size));
  }
  check_layout(header, where, data_begin, data_size);
  return header;
}

}  // namespace detail

IMPLICIT_ATTENTION_IO_BODY SafetensorsHeader parse_safetensors_header(std::string_view file, std::string_view where) {
  return detail::parse_safetensors_header<Json>(file, where);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
