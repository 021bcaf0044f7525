// rwkv.cpp's binary format, versions 4 to 7 of RWKV: names and values brought back to those of BlinkDL's checkpoints.
//
// Header of six u32: magic 0x67676d66, file version (100, 101), vocabulary, width, layers, type; then records to the end: u32 axes
// (1 to 3), key length, type; u32 sizes, innermost first; key; numbers. Blocks of file version 100 are ggml's first, and are refused.
//
// The converter changed values; they come back so, `...` standing for `blocks.N.att.`:
//
// | version | in the file                       | here                                                                                       |
// |---------|-----------------------------------|--------------------------------------------------------------------------------------------|
// | 4       | time_decay = -exp(raw)            | `...time_decay` (D): log of the negative, in double: raw to within the file's own rounding  |
// | 5.1     | time_decay = exp(-exp(raw))       | `...time_decay_factor` (H): what the state is multiplied by at a token, as stored            |
// | 5.1     | time_first = exp(raw)             | `...time_first_factor` (H): what the current token is multiplied by, as stored               |
// | 5.2     | time_decay = exp(-exp(raw))       | `...time_decay_factor` (H, P); time_faaaa (H, P) as it is                                    |
// | 6       | time_decay raw                    | `...time_decay` (1, 1, D); time_faaaa (H, P); time_maa_w1 (D, 5r), time_maa_w2 (5, r, D),    |
// |         |                                   | time_decay_w1, _w2 transposed back                                                           |
// | 7       | x_rwkvag (6, 1, D)                | `...x_r x_w x_k x_v x_a x_g` (1, 1, D); w1 w2 a1 a2 v1 v2 g1 g2 transposed back;             |
// |         |                                   | k_k k_a w0 a0 v0 (1, 1, D); r_k (H, K)                                                       |
//
// A factor near 1 has lost the digits of its logarithm already, so that none is taken and none undone. Mixes (`time_mix_*`, `time_maa_*`,
// `x_k`) are (1, 1, D), as BlinkDL has them. The configuration: `model_type` (rwkv, rwkv5, rwkv6, rwkv7), `rwkv_version` ("4", "5.1",
// "5.2", "6", "7"), `vocab_size`, `hidden_size`, `num_hidden_layers`, `layer_norm_epsilon` (1e-5), and from 5.1 on `head_size` (7: that of
// r_k) and `group_norm_epsilon` (1e-5 for 5.x, whose files were trained so; 64e-5 for 6 and 7).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/bytes.hpp>
#include <implicit_attention/io/dtype.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// rwkv.cpp numbers its types in its own way; nothing if it has no such number, or one that no program reads any more.
[[nodiscard]] constexpr std::optional<Dtype> rwkv_cpp_dtype(std::uint32_t number) {
  switch (number) {
    case 0:
      return Dtype::F32;
    case 1:
      return Dtype::F16;
    case 2:
      return Dtype::Q4_0;
    case 3:
      return Dtype::Q4_1;
    case 7:
      return Dtype::Q5_0;
    case 8:
      return Dtype::Q5_1;
    case 9:
      return Dtype::Q8_0;
    default:
      return std::nullopt;
  }
}

/// Reads one file.
class RwkvCppReader {
 public:
  explicit RwkvCppReader(std::shared_ptr<const MappedFile> file) : file_(std::move(file)), where_(path_text(file_->path())) {}

  [[nodiscard]] std::pair<TensorTable, Configuration> read() {
    ByteReader reader(file_->text(), where_);
    if (reader.number<std::uint32_t>() != 0x67676d66U) raise(ErrorKind::file, where_, ": not a file of rwkv.cpp");
    version_ = reader.number<std::uint32_t>();
    if (version_ != 100 && version_ != 101) raise(ErrorKind::file, where_, ": is rwkv.cpp's format ", version_, ", expected 100 or 101");
    vocabulary_ = reader.number<std::uint32_t>();
    width_ = reader.number<std::uint32_t>();
    layers_ = reader.number<std::uint32_t>();
    if (const auto type = reader.number<std::uint32_t>(); !rwkv_cpp_dtype(type))  // that most tensors have
      raise(ErrorKind::file, where_, ": its header says type ", type, ", expected F32, F16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0");
    if (width_ < 1 || vocabulary_ < 1 || layers_ < 1) raise(ErrorKind::file, where_, ": its header has a size of 0");
    table_.where = where_;
    while (reader.left() > 0) record(reader);
    const std::string version = rwkv_version();
    for (auto& [name, tensor] : take_all()) bring_back(version, name, std::move(tensor));
    return {std::move(table_), configuration(version)};
  }

 private:
  void record(ByteReader& reader) {
    const auto axes = reader.number<std::uint32_t>(), key_length = reader.number<std::uint32_t>(), type = reader.number<std::uint32_t>();
    const std::size_t at = reader.position();
    if (axes < 1 || axes > 3) raise(ErrorKind::file, where_, ": the tensor at byte ", at, " has ", axes, " axes, expected 1 to 3");
    std::vector<Index> shape;
    for (std::uint32_t axis = 0; axis < axes; ++axis) shape.insert(shape.begin(), static_cast<Index>(reader.number<std::uint32_t>()));
    if (key_length > 256)
      raise(ErrorKind::file, where_, ": the tensor at byte ", at, " has a name of ", key_length, " bytes, expected at most 256");
    const std::string_view name = reader.take(key_length);
    const std::string who = message(where_, ": tensor ", printable(name));
    const std::optional<Dtype> dtype = rwkv_cpp_dtype(type);
    if (!dtype) raise(ErrorKind::file, who, ": is of type ", type, ", expected F32, F16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0");
    if (in_blocks(*dtype) && version_ == 100)
      raise(ErrorKind::file, who, ": has blocks of rwkv.cpp's format 100, which no newer program reads: quantise the model again");
    const std::optional<Index> count = element_count(shape, 16);
    const auto together = static_cast<Index>(dtype_numbers(*dtype));
    if (!count || *count == 0 || shape.back() % together != 0)
      raise(ErrorKind::file, who, ": a shape of ", shape_text(shape), " of ", dtype_name(*dtype));
    const std::string_view raw = reader.take(static_cast<std::uint64_t>(*count / together) * dtype_bytes(*dtype));
    const auto [rows, columns] = rows_and_columns(shape);
    CheckpointTensor tensor =
        whole_tensor(std::move(shape), stored_rows(*dtype, rows, columns, reinterpret_cast<const std::byte*>(raw.data()), file_));
    if (!table_.tensors.emplace(std::string(name), std::move(tensor)).second) raise(ErrorKind::file, who, ": appears twice");
  }

  [[nodiscard]] std::map<std::string, CheckpointTensor, std::less<>> take_all() { return std::exchange(table_.tensors, {}); }
  [[nodiscard]] const CheckpointTensor* find(std::string_view name) const {
    const auto found = table_.tensors.find(name);
    return found == table_.tensors.end() ? nullptr : &found->second;
  }

  // By the tensors of the first layer, as rwkv.cpp tells it.
  [[nodiscard]] std::string rwkv_version() {
    const auto has = [&](std::string_view name) { return find(message("blocks.0.att.", name)) != nullptr; };
    if (const CheckpointTensor* bonus = find("blocks.0.att.r_k")) {
      head_size_ = bonus->shape.back();
      return "7";
    }
    // One row of numbers a head.
    if (has("ln_x.weight"))
      for (const std::string_view by_head : {"blocks.0.att.time_faaaa", "blocks.0.att.time_decay"})
        if (const CheckpointTensor* tensor = find(by_head); head_size_ == 0 && tensor != nullptr)
          head_size_ = static_cast<Index>(width_) / tensor->shape.front();
    if (has("time_maa_x")) return "6";
    if (has("gate.weight")) return "5.2";
    if (has("ln_x.weight")) return "5.1";
    if (has("time_decay")) return "4";
    raise(ErrorKind::file, where_, ": the tensors are those of no RWKV known here, expected blocks.0.att.time_decay or blocks.0.att.r_k");
  }

  void bring_back(const std::string& version, const std::string& name, CheckpointTensor tensor) {
    const std::string who = message(where_, ": tensor ", printable(name));
    const std::size_t dot = name.rfind('.');
    const std::string prefix = name.substr(0, dot + 1);
    const std::string_view last = std::string_view(name).substr(dot + 1);
    const auto width = static_cast<Index>(width_);
    const auto keep = [&](std::string_view as, CheckpointTensor kept) {
      if (!table_.tensors.emplace(prefix + std::string(as), std::move(kept)).second)
        raise(ErrorKind::file, who, ": appears twice, once as its parts");
    };
    const auto is = [&](std::initializer_list<std::string_view> names) {
      return std::find(names.begin(), names.end(), last) != names.end();
    };
    const bool attention = prefix.ends_with(".att.");
    if (attention && last == "time_decay" && version == "4") {
      tensor.factor = -1;
      tensor.logarithm = true;
      return keep(last, std::move(tensor));
    }
    if (attention && version.front() == '5' && is({"time_decay", "time_first", "time_faaaa"})) {
      const Index heads = tensor.shape.front();
      const Index per_head = *element_count(tensor.shape, 1) / heads;
      reshape(tensor, per_head == 1 ? std::vector<Index>{heads} : std::vector<Index>{heads, per_head}, who);
      return keep(last == "time_faaaa" ? last : last == "time_decay" ? "time_decay_factor" : "time_first_factor", std::move(tensor));
    }
    if (attention && version == "6") {
      if (is({"time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2"})) return keep(last, transposed(tensor, who));
      if (last == "time_faaaa") {
        reshape(tensor, {tensor.shape.front(), *element_count(tensor.shape, 1) / tensor.shape.front()}, who);
        return keep(last, std::move(tensor));
      }
      if (last == "time_decay") {
        reshape(tensor, {1, 1, width}, who);
        return keep(last, std::move(tensor));
      }
    }
    if (attention && version == "7") {
      if (is({"w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"})) return keep(last, transposed(tensor, who));
      if (last == "x_rwkvag") {
        reshape(tensor, {6, width}, who);
        for (Index i = 0; i < 6; ++i)
          keep(message("x_", std::string_view("rwkvag").substr(static_cast<std::size_t>(i), 1)),
               whole_tensor({1, 1, width}, some_rows(tensor.parts.front().stored, i, 1)));
        return;
      }
      if (is({"k_k", "k_a", "w0", "a0", "v0"})) reshape(tensor, {1, 1, width}, who);
    }
    if ((attention || prefix.ends_with(".ffn.")) &&
        (last.starts_with("time_mix_") || (last.starts_with("time_maa_") && last.size() == 10) || last == "x_k"))
      reshape(tensor, {1, 1, width}, who);
    keep(last, std::move(tensor));
  }

  [[nodiscard]] Configuration configuration(const std::string& version) const {
    Configuration made(where_);
    made.set("model_type", version == "4" ? std::string("rwkv") : message("rwkv", version.substr(0, 1)));
    made.set("rwkv_version", version);
    made.set("vocab_size", static_cast<Index>(vocabulary_));
    made.set("hidden_size", static_cast<Index>(width_));
    made.set("num_hidden_layers", static_cast<Index>(layers_));
    made.set("layer_norm_epsilon", 1e-5);
    if (version != "4") {
      made.set("head_size", head_size_);
      made.set("group_norm_epsilon", version.front() == '5' ? 1e-5 : 64e-5);
    }
    return made;
  }

  std::shared_ptr<const MappedFile> file_;
  std::string where_;
  TensorTable table_;
  std::uint32_t version_ = 0, vocabulary_ = 0, width_ = 0, layers_ = 0;
  Index head_size_ = 0;
};

}  // namespace detail

/// Reads a file of rwkv.cpp. Fails (ErrorKind::file or shape), naming the tensor.
[[nodiscard]] std::pair<TensorTable, Configuration> read_rwkv_cpp(std::shared_ptr<const MappedFile> file);

#if IMPLICIT_ATTENTION_IO_BODIES
IMPLICIT_ATTENTION_IO_BODY std::pair<TensorTable, Configuration> read_rwkv_cpp(std::shared_ptr<const MappedFile> file) {
  return detail::RwkvCppReader(std::move(file)).read();
}
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
