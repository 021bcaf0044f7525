// Writing safetensors.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <implicit_attention/io/array_to_write.hpp>
#include <implicit_attention/io/bodies.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A tensor under its name: `{"y", matrix}`, `{"attention", {data, {channels, rows, tokens}}}`, `{"input_ids", ids}`.
struct TensorToWrite {
  std::string name;
  ArrayToWrite numbers;
};

/// Writes `tensors` to `path`, whole or not at all. Wider types stand first, so that every tensor is aligned to its type; within a
/// type they keep their order, and the same tensors give the same bytes. Fails, before anything is written, on a name that is
/// there twice or not UTF-8, and on a shape that does not fit its numbers.
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/dtype.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/safetensors_header.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
inline std::string quoted(std::string_view text, std::string_view who) {
  if (utf8_error(text) != std::string_view::npos)
    raise(ErrorKind::value, who, ": cannot be written: \"", printable(text), "\" is not valid UTF-8");
  return Json(text).dump();
}
}  // namespace detail

IMPLICIT_ATTENTION_IO_BODY void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                                                  const std::map<std::string, std::string>& metadata) {
  const std::string where = path_text(path);
  std::vector<const TensorToWrite*> order;
  std::set<std::string_view> names{"__metadata__"};
  for (const TensorToWrite& tensor : tensors) {
    if (!names.insert(tensor.name).second)
      detail::raise(ErrorKind::value, where, ": tensor ", printable(tensor.name),
                    ": cannot be written: ", tensor.name == "__metadata__" ? "the name is reserved" : "the name appears twice");
    order.push_back(&tensor);
  }
  std::stable_sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    return dtype_bytes(a->numbers.dtype()) > dtype_bytes(b->numbers.dtype());
  });

  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
      header += detail::message(key == metadata.begin()->first ? "" : ",", detail::quoted(key, where), ":", detail::quoted(value, where));
    header += '}';
  }
  std::vector<std::size_t> sizes;
  std::size_t begin = 0;
  for (const TensorToWrite* tensor : order) {
    sizes.push_back(tensor->numbers.checked_bytes(detail::message(where, ": tensor ", printable(tensor->name))));
    header += detail::message(header.size() > 1 ? "," : "", detail::quoted(tensor->name, where), ":{\"dtype\":\"",
                              dtype_name(tensor->numbers.dtype()), "\",\"shape\":[");
    for (std::size_t axis = 0; axis < tensor->numbers.shape().size(); ++axis)
      header += detail::message(axis == 0 ? "" : ",", tensor->numbers.shape()[axis]);
    header += detail::message("],\"data_offsets\":[", begin, ",", begin + sizes.back(), "]}");
    begin += sizes.back();
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > detail::safetensors_header_limit)
    detail::raise(ErrorKind::limit, where, ": the header would be ", header.size(), " bytes; the format allows ",
                  detail::safetensors_header_limit);

  ReplacedFile file(path);
  const auto length = static_cast<std::uint64_t>(header.size());
  file.write(&length, sizeof(length));
  file.write(header.data(), header.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i]->numbers.append_to(file, sizes[i]);
  file.commit();
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
