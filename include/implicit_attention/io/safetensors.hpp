// Reading safetensors: one file, or a checkpoint in shards, mapped into memory and handed out without a copy where that can be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/dtype.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/safetensors_header.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One safetensors file. Copies share the mapping; arrays read from it keep it alive.
class SafetensorsFile {
 public:
  /// Maps the file and checks its header whole. Fails with ErrorKind::file on anything that is not as the format has it.
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] std::string where() const { return path_text(file_->path()); }
  [[nodiscard]] const std::map<std::string, TensorInfo, std::less<>>& tensors() const { return header_->tensors; }
  [[nodiscard]] const std::map<std::string, std::string, std::less<>>& metadata() const { return header_->metadata; }

  /// The entry of a tensor, or null.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const {
    const auto found = header_->tensors.find(name);
    return found == header_->tensors.end() ? nullptr : &found->second;
  }
  /// The entry of a tensor that must be there.
  [[nodiscard]] const TensorInfo& info(std::string_view name) const;

  /// The numbers as a matrix: all axes but the last merged into rows; one row for a vector, 1 x 1 for a scalar.
  /// A view of the mapped file where they are stored as `Scalar`, aligned; else a copy, widened or narrowed (F64 to float rounds).
  template <Real Scalar>
  [[nodiscard]] Array<Scalar> read(std::string_view name) const;

  /// The same as it is stored. Fails if it is not there.
  [[nodiscard]] StoredTensor stored(std::string_view name) const;

  /// The numbers of an I64 or I32 tensor in order (token ids, positions); a tensor of another type is an error.
  [[nodiscard]] std::vector<std::int64_t> read_integers(std::string_view name) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  std::shared_ptr<const SafetensorsHeader> header_;
};

namespace detail {

/// Which file of a checkpoint in shards has which tensor, by its index (`model.safetensors.index.json`, `pytorch_model.bin.index.json`).
[[nodiscard]] std::map<std::string, std::string, std::less<>> read_shard_index(const std::filesystem::path& index);

}  // namespace detail

/// A model's weights as they lie in a directory: `model.safetensors`, or shards under `model.safetensors.index.json`.
class SafetensorsCheckpoint {
 public:
  /// `path` is a directory, a `.safetensors` file, or an index (`.json`). Where a directory holds both, the single file is taken.
  /// With an index, it decides: every tensor it lists must be in its shard, and what it does not list is not there.
  explicit SafetensorsCheckpoint(const std::filesystem::path& path);

  [[nodiscard]] const std::string& where() const { return where_; }
  /// All names, sorted.
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] const std::vector<SafetensorsFile>& files() const { return files_; }
  /// The entry of a tensor, or null.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const {
    const auto found = shard_of_.find(name);
    return found == shard_of_.end() ? nullptr : files_[found->second].find(name);
  }
  template <Real Scalar>
  [[nodiscard]] Array<Scalar> read(std::string_view name) const {
    return file_of(name).read<Scalar>(name);
  }
  [[nodiscard]] StoredTensor stored(std::string_view name) const { return file_of(name).stored(name); }
  [[nodiscard]] std::vector<std::int64_t> read_integers(std::string_view name) const { return file_of(name).read_integers(name); }

 private:
  [[nodiscard]] const SafetensorsFile& file_of(std::string_view name) const;
  void open_file(const std::filesystem::path& path);
  void open_shards(const std::filesystem::path& index);

  std::string where_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> shard_of_;
};

/// The tensors of a checkpoint as the models take them.
template <Real Scalar>
class SafetensorsSource final : public TensorSource<Scalar> {
 public:
  /// `path` as for SafetensorsCheckpoint.
  explicit SafetensorsSource(const std::filesystem::path& path) : checkpoint_(path) {}
  explicit SafetensorsSource(SafetensorsCheckpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}

  [[nodiscard]] std::string where() const override { return checkpoint_.where(); }
  [[nodiscard]] std::vector<std::string> names() const override { return checkpoint_.names(); }
  [[nodiscard]] std::optional<std::vector<Index>> shape(std::string_view name) const override {
    const TensorInfo* found = checkpoint_.find(name);
    return found == nullptr ? std::nullopt : std::optional(found->shape);
  }
  [[nodiscard]] Array<Scalar> read(std::string_view name) const override { return checkpoint_.read<Scalar>(name); }
  [[nodiscard]] std::optional<StoredTensor> stored(std::string_view name) const override {
    const TensorInfo* found = checkpoint_.find(name);
    return found == nullptr || !detail::readable(found->dtype) ? std::nullopt : std::optional(checkpoint_.stored(name));
  }
  [[nodiscard]] const SafetensorsCheckpoint& checkpoint() const { return checkpoint_; }

 private:
  SafetensorsCheckpoint checkpoint_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <system_error>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_IO_BODY SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(MappedFile::open(path)),
      header_(std::make_shared<const SafetensorsHeader>(parse_safetensors_header(file_->text(), path_text(path)))) {}

IMPLICIT_ATTENTION_IO_BODY const TensorInfo& SafetensorsFile::info(std::string_view name) const {
  if (const TensorInfo* found = find(name)) return *found;
  detail::raise(ErrorKind::file, where(), ": tensor ", printable(name), " is missing");
}

IMPLICIT_ATTENTION_IO_BODY StoredTensor SafetensorsFile::stored(std::string_view name) const {
  const TensorInfo& tensor = info(name);
  const auto [rows, columns] = detail::rows_and_columns(tensor.shape);
  return detail::stored_rows(tensor.dtype, rows, columns, file_->data() + tensor.begin, file_);
}

IMPLICIT_ATTENTION_IO_BODY std::vector<std::int64_t> SafetensorsFile::read_integers(std::string_view name) const {
  const TensorInfo& tensor = info(name);
  const std::byte* from = file_->data() + tensor.begin;
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(tensor.count));
  const auto as_is = [](auto number) { return number; };
  if (tensor.dtype == Dtype::I64) {
    detail::convert_numbers<std::int64_t>(from, tensor.count, numbers.data(), as_is);
  } else if (tensor.dtype == Dtype::I32) {
    detail::convert_numbers<std::int32_t>(from, tensor.count, numbers.data(), as_is);
  } else {
    detail::raise(ErrorKind::file, where(), ": tensor ", printable(name), " is ", printable(tensor.dtype_text),
                  ", expected integers, I64 or I32");
  }
  return numbers;
}

template <Real Scalar>
Array<Scalar> SafetensorsFile::read(std::string_view name) const {
  const TensorInfo& tensor = info(name);
  if (!detail::readable(tensor.dtype))
    detail::raise(ErrorKind::file, where(), ": tensor ", printable(name), " is ", printable(tensor.dtype_text),
                  ", expected F64, F32, F16, BF16 or integers");
  const StoredTensor from = stored(name);
  return detail::stored_array<Scalar>(from);
}

IMPLICIT_ATTENTION_IO_BODY std::map<std::string, std::string, std::less<>> detail::read_shard_index(const std::filesystem::path& index) {
  const JsonDocument read = read_json_object(index);
  const Json& document = read;
  const auto map = document.find("weight_map");
  if (map == document.end() || !map->is_object())
    detail::raise(ErrorKind::file, path_text(index), ": expected an object weight_map, from tensor names to shard files");
  std::map<std::string, std::string, std::less<>> shard_of;
  for (const auto& [name, value] : map->items()) {
    const std::string who = detail::message(path_text(index), ": tensor ", printable(name));
    if (!value.is_string()) detail::raise(ErrorKind::file, who, ": its shard is ", json_text(value), ", expected a file name");
    const auto& shard = value.template get_ref<const std::string&>();
    // A shard lies beside its index: anything that could lead elsewhere is refused.
    if (shard.empty() || shard == "." || shard == ".." || shard.find_first_of(std::string_view("/\\:\0", 4)) != std::string::npos)
      detail::raise(ErrorKind::file, who, ": its shard is \"", printable(shard), "\", expected a plain file name beside the index");
    shard_of.emplace(name, shard);
  }
  return shard_of;
}

IMPLICIT_ATTENTION_IO_BODY SafetensorsCheckpoint::SafetensorsCheckpoint(const std::filesystem::path& path) : where_(path_text(path)) {
  std::error_code ignored;
  const std::filesystem::path single = path / "model.safetensors", index = path / "model.safetensors.index.json";
  detail::check_reachable(single);
  if (!std::filesystem::is_directory(path, ignored)) {
    path.extension() == ".json" ? open_shards(path) : open_file(path);
  } else if (detail::is_file(single)) {
    open_file(single);
  } else if (detail::is_file(index)) {
    open_shards(index);
  } else {
    const bool pickled = std::filesystem::exists(path / "pytorch_model.bin", ignored);
    detail::raise(ErrorKind::file, where_, ": no model here: expected model.safetensors or model.safetensors.index.json",
                  pickled ? "; pytorch_model.bin is there: convert it to safetensors" : "");
  }
}

IMPLICIT_ATTENTION_IO_BODY std::vector<std::string> SafetensorsCheckpoint::names() const {
  std::vector<std::string> all;
  for (const auto& [name, shard] : shard_of_) all.push_back(name);
  return all;
}

IMPLICIT_ATTENTION_IO_BODY const SafetensorsFile& SafetensorsCheckpoint::file_of(std::string_view name) const {
  const auto found = shard_of_.find(name);
  if (found == shard_of_.end()) detail::raise(ErrorKind::file, where_, ": tensor ", printable(name), " is missing");
  return files_[found->second];
}

IMPLICIT_ATTENTION_IO_BODY void SafetensorsCheckpoint::open_file(const std::filesystem::path& path) {
  files_.emplace_back(path);
  for (const auto& [name, info] : files_.front().tensors()) shard_of_.emplace(name, 0);
}

IMPLICIT_ATTENTION_IO_BODY void SafetensorsCheckpoint::open_shards(const std::filesystem::path& index) {
  std::map<std::string, std::size_t, std::less<>> opened;
  for (const auto& [name, shard] : detail::read_shard_index(index)) {
    const auto [position, fresh] = opened.emplace(shard, files_.size());
    if (fresh) files_.emplace_back(index.parent_path() / shard);
    if (files_[position->second].find(name) == nullptr)
      detail::raise(ErrorKind::file, path_text(index), ": tensor ", printable(name), ": the index has it in ", printable(shard),
                    ", but it is not there");
    shard_of_.emplace(name, position->second);
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
