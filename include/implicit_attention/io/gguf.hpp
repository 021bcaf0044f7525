// GGUF files, versions 2 and 3: metadata, and tensors that stay in the mapped file. Names and values are those of the file;
// gguf_model.hpp translates them to those of the public checkpoints.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/ggml_types.hpp>
#include <implicit_attention/io/gguf_reader.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One GGUF file. Texts are views of the mapped file, which lives as long as this does.
class GgufFile {
 public:
  using Value = GgufValue;

  /// Maps the file and checks all of it. Fails with ErrorKind::file.
  explicit GgufFile(const std::filesystem::path& path) : GgufFile(MappedFile::open(path)) {}
  explicit GgufFile(std::shared_ptr<const MappedFile> file) : file_(std::move(file)), where_(path_text(file_->path())) { read(); }

  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] const std::filesystem::path& path() const { return file_->path(); }
  [[nodiscard]] const std::map<std::string, Value, std::less<>>& metadata() const { return metadata_; }
  [[nodiscard]] const std::map<std::string, CheckpointTensor, std::less<>>& tensors() const { return tensors_; }

  /// A key's value, or null.
  [[nodiscard]] const Value* find(std::string_view key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? nullptr : &found->second;
  }
  /// A key's value of one type; nothing if the key is absent, an error if it is of another type.
  template <class T>
  [[nodiscard]] std::optional<T> get(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const T* typed = std::get_if<T>(value)) return *typed;
    if constexpr (std::is_same_v<T, double>)
      if (const std::int64_t* whole = std::get_if<std::int64_t>(value)) return static_cast<double>(*whole);
    detail::raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is ", detail::gguf_value_types[value->index()],
                  ", expected ", detail::gguf_value_types[Value(std::in_place_type<T>).index()]);
  }
  /// A list of texts, such as `tokenizer.ggml.tokens`; null if it is absent or of another type.
  [[nodiscard]] const std::vector<std::string_view>* texts(std::string_view key) const {
    const Value* value = find(key);
    return value == nullptr ? nullptr : std::get_if<std::vector<std::string_view>>(value);
  }
  /// `general.architecture`, which must be there.
  [[nodiscard]] std::string architecture() const {
    const auto name = get<std::string_view>("general.architecture");
    if (!name) detail::raise(ErrorKind::file, where_, ": metadata key general.architecture is missing");
    return std::string(*name);
  }

 private:
  void read() {
    detail::GgufReader reader(file_->text(), where_);
    const auto [tensors, keys] = reader.counts();
    for (std::uint64_t i = 0; i < keys; ++i) {
      auto [name, value] = reader.key(i);
      if (!metadata_.emplace(std::string(name), std::move(value)).second)
        detail::raise(ErrorKind::file, where_, ": metadata key ", printable(name), " appears twice");
    }
    const std::uint64_t alignment = this->alignment();
    std::vector<detail::GgufTensor> found;
    for (std::uint64_t i = 0; i < tensors; ++i) found.push_back(reader.tensor());
    const std::uint64_t begin = (reader.position() + alignment - 1) / alignment * alignment;
    if (found.empty()) return;
    if (begin > file_->size()) detail::raise(ErrorKind::file, where_, ": ends before its tensors begin; is the file cut short?");
    place(std::move(found), file_->text().substr(static_cast<std::size_t>(begin)), alignment);
  }
  /// The offset of every tensor is a multiple of this.
  [[nodiscard]] std::uint64_t alignment() const {
    const std::int64_t given = get<std::int64_t>("general.alignment").value_or(32);
    constexpr std::int64_t most = 1 << 20;
    if (given < 1 || given > most || !std::has_single_bit(static_cast<std::uint64_t>(given)))
      detail::raise(ErrorKind::file, where_, ": general.alignment is ", given, ", expected a power of two up to ", most);
    return static_cast<std::uint64_t>(given);
  }
  /// Adds the tensors. Fails unless all of them lie within `data` and none overlaps another.
  void place(std::vector<detail::GgufTensor> tensors, std::string_view data, std::uint64_t alignment) {
    std::sort(tensors.begin(), tensors.end(), [](const detail::GgufTensor& a, const detail::GgufTensor& b) { return a.offset < b.offset; });
    std::uint64_t free = 0;
    for (const detail::GgufTensor& each : tensors) {
      if (each.offset % alignment != 0)
        detail::raise(ErrorKind::file, where_, ": tensor ", printable(each.name), " begins at byte ", each.offset,
                      ", expected a multiple of ", alignment);
      if (each.offset < free)
        detail::raise(ErrorKind::file, where_, ": tensor ", printable(each.name), " begins at byte ", each.offset,
                      ", within the one before it");
      if (each.offset > data.size() || each.bytes > data.size() - each.offset)
        detail::raise(ErrorKind::file, where_, ": tensor ", printable(each.name), ", ", each.bytes, " bytes at ", each.offset,
                      ", reaches beyond the ", data.size(), " bytes of data in the file; is it cut short?");
      free = each.offset + each.bytes;
      add(each, data);
    }
  }

  void add(const detail::GgufTensor& made, std::string_view data) {
    const std::optional<Dtype> dtype = detail::ggml_dtype(made.type);
    const auto [rows, columns] = detail::rows_and_columns(made.shape);
    CheckpointTensor tensor = detail::whole_tensor(
        made.shape, detail::stored_rows(dtype.value_or(Dtype::other), rows, columns,
                                        reinterpret_cast<const std::byte*>(data.data()) + static_cast<std::size_t>(made.offset), file_));
    if (!dtype) {
      tensor.unreadable = detail::ggml_type_text(made.type);
      tensor.parts.front().stored.row_bytes = 0;  // nothing is read from it
      // No type of ggml has sixteen numbers in a byte.
      if (static_cast<std::uint64_t>(made.count) / 16 > data.size() - made.offset)
        detail::raise(ErrorKind::file, where_, ": tensor ", printable(made.name), ", ", shape_text(made.shape), " of ", tensor.unreadable,
                      ", reaches beyond the data in the file; is it cut short?");
    }
    if (!tensors_.emplace(std::string(made.name), std::move(tensor)).second)
      detail::raise(ErrorKind::file, where_, ": tensor ", printable(made.name), " appears twice");
  }

  std::shared_ptr<const MappedFile> file_;
  std::string where_;
  std::map<std::string, Value, std::less<>> metadata_;
  std::map<std::string, CheckpointTensor, std::less<>> tensors_;
};

/// A model in one GGUF file, or in several named `...-00001-of-00003.gguf`: the metadata of the first, the tensors of all.
struct GgufModel {
  std::vector<GgufFile> files;
  std::map<std::string, CheckpointTensor, std::less<>> tensors;

  [[nodiscard]] const GgufFile& metadata() const { return files.front(); }
};

namespace detail {

/// Where the numbers of `-00002-of-00003.gguf` begin in a file's name, and how many files there are; nothing for another name.
[[nodiscard]] inline std::optional<std::pair<std::size_t, int>> gguf_split(std::string_view name) {
  constexpr std::string_view pattern = "-00000-of-00000.gguf";
  if (name.size() < pattern.size()) return std::nullopt;
  const std::size_t begin = name.size() - pattern.size();
  int count = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char letter = name[begin + i];
    if (pattern[i] == '0' ? letter < '0' || letter > '9' : letter != pattern[i]) return std::nullopt;
    if (i >= 10 && i < 15) count = count * 10 + (letter - '0');
  }
  return std::pair(begin, count);
}

}  // namespace detail

/// Opens a GGUF file, and the others of its model where there are several; any of them may be given.
[[nodiscard]] GgufModel open_gguf(const std::filesystem::path& path);

#if IMPLICIT_ATTENTION_IO_BODIES
IMPLICIT_ATTENTION_IO_BODY GgufModel open_gguf(const std::filesystem::path& path) {
  GgufModel model;
  const std::string name = path.filename().string();
  GgufFile given(path);
  const std::int64_t count = given.get<std::int64_t>("split.count").value_or(1);
  if (count <= 1) {
    model.tensors = given.tensors();
    model.files.push_back(std::move(given));
    return model;
  }
  const auto five_digits = [](std::int64_t value) {
    std::string number = detail::message(value);
    return number.insert(0, 5 - std::min<std::size_t>(5, number.size()), '0');
  };
  const auto split = detail::gguf_split(name);
  if (!split || split->second != count)
    detail::raise(ErrorKind::file, path_text(path), ": is one of ", count, " files of a model, expected a name that ends in -00001-of-",
                  five_digits(count), ".gguf, and the other files beside it");
  for (int i = 1; i <= split->second; ++i) {
    const std::filesystem::path each =
        path.parent_path() / (name.substr(0, split->first + 1) + five_digits(i) + name.substr(split->first + 6));
    GgufFile file(each);
    if (file.get<std::int64_t>("split.count") != count || file.get<std::int64_t>("split.no") != i - 1)
      detail::raise(ErrorKind::file, path_text(each), ": its keys split.no and split.count are not those of file ", i, " of ", count);
    for (const auto& [key, tensor] : file.tensors())
      if (!model.tensors.emplace(key, tensor).second)
        detail::raise(ErrorKind::file, path_text(each), ": tensor ", printable(key), " is in another file of the model too");
    model.files.push_back(std::move(file));
  }
  if (const auto total = model.metadata().get<std::int64_t>("split.tensors.count");
      total && static_cast<std::uint64_t>(*total) != model.tensors.size())
    detail::raise(ErrorKind::file, path_text(path), ": the ", count, " files have ", model.tensors.size(), " tensors, expected ", *total);
  return model;
}
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
