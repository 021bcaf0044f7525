// Files of public checkpoint formats, put together by hand from their descriptions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "files.hpp"

namespace io_test {

inline std::string u8(unsigned value) { return std::string(1, static_cast<char>(value)); }
inline std::string u16(unsigned value) { return bytes_of<std::uint16_t>({static_cast<std::uint16_t>(value)}); }
inline std::string u32(std::uint64_t value) { return bytes_of<std::uint32_t>({static_cast<std::uint32_t>(value)}); }
inline std::string u64(std::uint64_t value) { return bytes_of<std::uint64_t>({value}); }

/// A zip archive of stored entries; a torch one if `checkpoint_zip` makes it.
inline std::string zip_bytes(const std::vector<std::pair<std::string, std::string>>& entries, unsigned method = 0) {
  std::string file, directory;
  for (const auto& [name, data] : entries) {
    const std::string sizes = u32(data.size()) + u32(data.size()) + u16(static_cast<unsigned>(name.size()));
    const std::size_t header = file.size();
    file += "PK\x03\x04" + u16(20) + u16(0) + u16(method) + u32(0) + u32(0) + sizes + u16(0) + name + data;
    directory += "PK\x01\x02" + u16(20) + u16(20) + u16(0) + u16(method) + u32(0) + u32(0) + sizes + u16(0) + u16(0) + u16(0) + u16(0) +
                 u32(0) + u32(header) + name;
  }
  const auto count = static_cast<unsigned>(entries.size());
  return file + directory + "PK\x05\x06" + u16(0) + u16(0) + u16(count) + u16(count) + u32(directory.size()) + u32(file.size()) + u16(0);
}

/// Pieces of a pickle.
namespace pickled {
inline std::string text(std::string_view value) { return "X" + u32(value.size()) + std::string(value); }
inline std::string integer(std::int64_t value) {
  return value >= 0 && value < 256 ? "K" + u8(static_cast<unsigned>(value)) : "\x8a\x08" + bytes_of<std::int64_t>({value});
}
inline std::string tuple(const std::vector<std::int64_t>& values) {
  std::string all = "(";
  for (const std::int64_t value : values) all += integer(value);
  return all + "t";
}
inline std::string name(std::string_view module, std::string_view what) {
  return "c" + std::string(module) + "\n" + std::string(what) + "\n";
}
inline std::string storage(std::string_view type, std::string_view key, std::int64_t count) {
  return "(" + text("storage") + name("torch", type) + text(key) + text("cpu") + integer(count) + "tQ";
}
inline std::string tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides) {
  return name("torch._utils", "_rebuild_tensor_v2") + "(" + storage + integer(offset) + tuple(shape) + tuple(strides) + "\x89" +
         name("collections", "OrderedDict") + ")RtR";
}
inline std::string dictionary(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string all = "}(";
  for (const auto& [key, value] : items) all += text(key) + value;
  return all + "u";
}
inline std::string whole(const std::string& value) { return "\x80\x02" + value + "."; }
}  // namespace pickled

/// What torch.save writes, of one pickled value and storages.
inline std::string torch_bytes(const std::string& pickled_value, const std::vector<std::pair<std::string, std::string>>& storages,
                               std::string_view byteorder = "little") {
  std::vector<std::pair<std::string, std::string>> entries{{"archive/data.pkl", pickled::whole(pickled_value)}};
  if (!byteorder.empty()) entries.emplace_back("archive/byteorder", byteorder);
  for (const auto& [key, data] : storages) entries.emplace_back("archive/data/" + key, data);
  entries.emplace_back("archive/version", "3\n");
  return zip_bytes(entries);
}

}  // namespace io_test
