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

/// Metadata values of a GGUF file: a type and its bytes.
namespace gguf {
inline std::string text(std::string_view value) { return u64(value.size()) + std::string(value); }
inline std::string key(std::string_view name, unsigned type, const std::string& value) { return text(name) + u32(type) + value; }
inline std::string integer(std::string_view name, std::uint32_t value) { return key(name, 4, u32(value)); }
inline std::string real(std::string_view name, float value) { return key(name, 6, bytes_of<float>({value})); }
inline std::string boolean(std::string_view name, bool value) { return key(name, 7, u8(value ? 1 : 0)); }
inline std::string string(std::string_view name, std::string_view value) { return key(name, 8, text(value)); }
inline std::string integers(std::string_view name, const std::vector<std::uint32_t>& values) {
  std::string all = u32(4) + u64(values.size());
  for (const std::uint32_t value : values) all += u32(value);
  return key(name, 9, all);
}

struct Tensor {
  std::string name;
  std::vector<std::uint64_t> shape;  // outermost first, as PyTorch has it
  unsigned type = 0;
  std::string data;
};

inline std::string file(const std::vector<std::string>& keys, const std::vector<Tensor>& tensors, unsigned version = 3) {
  std::string head = "GGUF" + u32(version) + u64(tensors.size()) + u64(keys.size()), data;
  for (const std::string& each : keys) head += each;
  for (const Tensor& tensor : tensors) {
    head += text(tensor.name) + u32(tensor.shape.size());
    for (std::size_t axis = tensor.shape.size(); axis-- > 0;) head += u64(tensor.shape[axis]);
    head += u32(tensor.type) + u64(data.size());
    data += tensor.data;
    data.resize((data.size() + 31) / 32 * 32);
  }
  head.resize((head.size() + 31) / 32 * 32);
  return head + data;
}
}  // namespace gguf

/// One tensor of rwkv.cpp's binary.
inline std::string rwkv_record(std::string_view name, const std::vector<std::uint32_t>& shape, const std::string& data, unsigned type = 0) {
  std::string record = u32(shape.size()) + u32(name.size()) + u32(type);
  for (std::size_t axis = shape.size(); axis-- > 0;) record += u32(shape[axis]);
  return record + std::string(name) + data;
}
inline std::string rwkv_header(unsigned version, unsigned vocabulary, unsigned width, unsigned layers, unsigned type = 0) {
  return u32(0x67676d66) + u32(version) + u32(vocabulary) + u32(width) + u32(layers) + u32(type);
}

}  // namespace io_test
