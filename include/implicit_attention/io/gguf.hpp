// GGUF files, versions 2 and 3: metadata, and tensors where they stand in the mapped file. Names and values are the file's own here;
// gguf_model.hpp brings them back to those of the public checkpoints.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/bytes.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// ggml's number of a type, as GGUF and rwkv.cpp have it; nothing if it is not read here.
[[nodiscard]] constexpr std::optional<Dtype> ggml_dtype(std::uint32_t number) {
  switch (number) {
    case 0:
      return Dtype::F32;
    case 1:
      return Dtype::F16;
    case 2:
      return Dtype::Q4_0;
    case 3:
      return Dtype::Q4_1;
    case 6:
      return Dtype::Q5_0;
    case 7:
      return Dtype::Q5_1;
    case 8:
      return Dtype::Q8_0;
    case 12:
      return Dtype::Q4_K;
    case 13:
      return Dtype::Q5_K;
    case 14:
      return Dtype::Q6_K;
    case 24:
      return Dtype::I8;
    case 25:
      return Dtype::I16;
    case 26:
      return Dtype::I32;
    case 27:
      return Dtype::I64;
    case 28:
      return Dtype::F64;
    case 30:
      return Dtype::BF16;
    default:
      return std::nullopt;
  }
}

/// The names of ggml's other types, for messages.
[[nodiscard]] inline std::string ggml_type_text(std::uint32_t number) {
  constexpr std::array<std::pair<std::uint32_t, std::string_view>, 18> others{{{9, "Q8_1"},
                                                                               {10, "Q2_K"},
                                                                               {11, "Q3_K"},
                                                                               {15, "Q8_K"},
                                                                               {16, "IQ2_XXS"},
                                                                               {17, "IQ2_XS"},
                                                                               {18, "IQ3_XXS"},
                                                                               {19, "IQ1_S"},
                                                                               {20, "IQ4_NL"},
                                                                               {21, "IQ3_S"},
                                                                               {22, "IQ2_S"},
                                                                               {23, "IQ4_XS"},
                                                                               {29, "IQ1_M"},
                                                                               {34, "TQ1_0"},
                                                                               {35, "TQ2_0"},
                                                                               {39, "MXFP4"},
                                                                               {40, "NVFP4"},
                                                                               {41, "Q1_0"}}};
  for (const auto& [known, name] : others)
    if (known == number) return std::string(name);
  return message("ggml type ", number);
}

}  // namespace detail

/// One GGUF file. Texts are views of the mapped file, which lives as long as this does.
class GgufFile {
 public:
  /// A metadata value; integers of all widths are one, as are both widths of reals.
  using Value = std::variant<bool, std::int64_t, double, std::string_view, std::vector<std::int64_t>, std::vector<double>,
                             std::vector<std::string_view>>;

  /// Maps the file and checks everything it says. Fails with ErrorKind::file.
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
    detail::raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is of another type than expected");
  }
  /// A list of texts, `tokenizer.ggml.tokens` say: null if it is absent or no list of texts.
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
    ByteReader reader(file_->text(), where_);
    if (reader.take(4) != "GGUF") detail::raise(ErrorKind::file, where_, ": not a GGUF file");
    const auto version = reader.number<std::uint32_t>();
    if (version != 0 && (version & 0xFFFFU) == 0)
      detail::raise(ErrorKind::file, where_, ": is a big-endian GGUF file, expected little-endian");
    if (version != 2 && version != 3) detail::raise(ErrorKind::file, where_, ": is GGUF of version ", version, ", expected 2 or 3");
    const auto tensor_count = reader.number<std::uint64_t>(), key_count = reader.number<std::uint64_t>();
    // Every key and tensor takes bytes, so a count beyond the file ends in an error before memory is taken.
    for (std::uint64_t i = 0; i < key_count; ++i) {
      const std::string_view key = text(reader);
      const auto type = reader.number<std::uint32_t>();
      if (key.empty() || key.size() > 65535)
        detail::raise(ErrorKind::file, where_, ": metadata key ", i, " has a name of ", key.size(), " bytes");
      if (!metadata_.emplace(std::string(key), value(reader, type, key)).second)
        detail::raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is there twice");
    }
    std::uint64_t alignment = 32;
    if (const auto given = get<std::int64_t>("general.alignment")) {
      if (*given < 1 || *given > (1 << 20) || !std::has_single_bit(static_cast<std::uint64_t>(*given)))
        detail::raise(ErrorKind::file, where_, ": general.alignment is ", *given, ", expected a power of two");
      alignment = static_cast<std::uint64_t>(*given);
    }
    std::vector<Info> infos;
    for (std::uint64_t i = 0; i < tensor_count; ++i) infos.push_back(info(reader));
    const std::uint64_t begin = (reader.position() + alignment - 1) / alignment * alignment;
    if (infos.empty()) return;
    if (begin > file_->size()) detail::raise(ErrorKind::file, where_, ": ends before its tensors begin; is the file cut short?");
    const std::string_view data = file_->text().substr(static_cast<std::size_t>(begin));
    std::sort(infos.begin(), infos.end(), [](const Info& a, const Info& b) { return a.offset < b.offset; });
    std::uint64_t free = 0;
    for (const Info& each : infos) {
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

  [[nodiscard]] static std::string_view text(ByteReader& reader) { return reader.take(reader.number<std::uint64_t>()); }

  // A scalar of types 0 to 12 but text (8) and list (9); false if the type is another.
  template <class Use>
  [[nodiscard]] static bool number(ByteReader& reader, std::uint32_t type, Use use) {
    switch (type) {
      case 0:
        return use(static_cast<std::int64_t>(reader.number<std::uint8_t>())), true;
      case 1:
        return use(static_cast<std::int64_t>(reader.number<std::int8_t>())), true;
      case 2:
        return use(static_cast<std::int64_t>(reader.number<std::uint16_t>())), true;
      case 3:
        return use(static_cast<std::int64_t>(reader.number<std::int16_t>())), true;
      case 4:
        return use(static_cast<std::int64_t>(reader.number<std::uint32_t>())), true;
      case 5:
        return use(static_cast<std::int64_t>(reader.number<std::int32_t>())), true;
      case 6:
        return use(static_cast<double>(reader.number<float>())), true;
      case 7:
        return use(static_cast<std::int64_t>(reader.number<std::uint8_t>())), true;
      case 10:  // what is above the signed range makes no sense here; it wraps and is found to be negative
        return use(static_cast<std::int64_t>(reader.number<std::uint64_t>())), true;
      case 11:
        return use(reader.number<std::int64_t>()), true;
      case 12:
        return use(reader.number<double>()), true;
      default:
        return false;
    }
  }

  [[nodiscard]] Value value(ByteReader& reader, std::uint32_t type, std::string_view key) const {
    if (type == 8) return text(reader);
    if (type == 9) return list(reader, key);
    Value result = std::int64_t{0};
    if (!number(reader, type, [&](auto read) { result = read; }))
      detail::raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is of type ", type, ", which the format does not define");
    if (type == 7) {
      const std::int64_t truth = std::get<std::int64_t>(result);
      if (truth > 1) detail::raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is ", truth, ", expected true or false");
      result = truth == 1;
    }
    return result;
  }

  [[nodiscard]] Value list(ByteReader& reader, std::string_view key) const {
    const auto type = reader.number<std::uint32_t>();
    const auto count = reader.number<std::uint64_t>();
    const auto too_long = [&] {
      detail::raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is a list of ", count, ", but only ", reader.left(),
                    " bytes are left; is the file cut short?");
    };
    if (count > reader.left()) too_long();
    if (type == 8) {
      std::vector<std::string_view> all;
      for (std::uint64_t i = 0; i < count; ++i) all.push_back(text(reader));
      return all;
    }
    std::vector<std::int64_t> integers;
    std::vector<double> reals;
    for (std::uint64_t i = 0; i < count; ++i) {
      const bool known = number(reader, type, [&](auto read) {
        if constexpr (std::is_same_v<decltype(read), double>)
          reals.push_back(read);
        else
          integers.push_back(read);
      });
      if (!known)
        detail::raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is a list of type ", type, ", which is not read here");
    }
    if (type == 6 || type == 12) return reals;
    return integers;
  }

  struct Info {
    std::string_view name;
    std::vector<Index> shape;  // outermost first
    std::uint32_t type = 0;
    std::uint64_t offset = 0, bytes = 0;
    Index count = 0;
  };

  [[nodiscard]] Info info(ByteReader& reader) const {
    Info made;
    made.name = text(reader);
    const std::string who = detail::message(where_, ": tensor ", printable(made.name));
    if (made.name.empty() || made.name.size() > 256) detail::raise(ErrorKind::file, who, ": its name has ", made.name.size(), " bytes");
    const auto axes = reader.number<std::uint32_t>();
    if (axes > 8) detail::raise(ErrorKind::file, who, ": has ", axes, " axes, expected at most 8");
    for (std::uint32_t axis = 0; axis < axes; ++axis) {
      const auto size = reader.number<std::uint64_t>();
      if (size == 0 || size > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
        detail::raise(ErrorKind::file, who, ": an axis of size ", size);
      made.shape.insert(made.shape.begin(), static_cast<Index>(size));
    }
    if (made.shape.empty()) made.shape.push_back(1);
    made.type = reader.number<std::uint32_t>();
    made.offset = reader.number<std::uint64_t>();
    const std::optional<Dtype> dtype = detail::ggml_dtype(made.type);
    const std::optional<Index> count = detail::element_count(made.shape, 16);
    if (!count)
      detail::raise(ErrorKind::file, who, ": shape ", shape_text(made.shape), " overflows: more numbers than memory has addresses");
    made.count = *count;
    if (!dtype) return made;  // of a type that is not read: its bytes are not known
    const auto together = static_cast<Index>(dtype_numbers(*dtype));
    if (made.shape.back() % together != 0)
      detail::raise(ErrorKind::file, who, ": rows of shape ", shape_text(made.shape), " are no whole blocks of ", together, " numbers, as ",
                    dtype_name(*dtype), " has them");
    made.bytes = static_cast<std::uint64_t>(*count / together) * dtype_bytes(*dtype);
    return made;
  }

  void add(const Info& made, std::string_view data) {
    const std::optional<Dtype> dtype = detail::ggml_dtype(made.type);
    const auto [rows, columns] = detail::rows_and_columns(made.shape);
    CheckpointTensor tensor = detail::whole_tensor(
        made.shape, detail::stored_rows(dtype.value_or(Dtype::other), rows, columns,
                                        reinterpret_cast<const std::byte*>(data.data()) + static_cast<std::size_t>(made.offset), file_));
    if (!dtype) {
      tensor.unreadable = detail::ggml_type_text(made.type);
      tensor.parts.front().stored.row_bytes = 0;  // nothing is read from it
      // No type of ggml's holds sixteen numbers in a byte.
      if (static_cast<std::uint64_t>(made.count) / 16 > data.size() - made.offset)
        detail::raise(ErrorKind::file, where_, ": tensor ", printable(made.name), ", ", shape_text(made.shape), " of ", tensor.unreadable,
                      ", reaches beyond the data in the file; is it cut short?");
    }
    if (!tensors_.emplace(std::string(made.name), std::move(tensor)).second)
      detail::raise(ErrorKind::file, where_, ": tensor ", printable(made.name), " is there twice");
  }

  std::shared_ptr<const MappedFile> file_;
  std::string where_;
  std::map<std::string, Value, std::less<>> metadata_;
  std::map<std::string, CheckpointTensor, std::less<>> tensors_;
};

/// A model in one GGUF file, or in several named `...-00001-of-00003.gguf`: the first has the metadata, the tensors are those of all.
struct GgufModel {
  std::vector<GgufFile> files;
  std::map<std::string, CheckpointTensor, std::less<>> tensors;

  [[nodiscard]] const GgufFile& metadata() const { return files.front(); }
};

namespace detail {

/// Where the numbers of `-00002-of-00003.gguf` begin in a file's name, and how many files there are; nothing if it is not so named.
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
[[nodiscard]] inline GgufModel open_gguf(const std::filesystem::path& path) {
  GgufModel model;
  const std::string name = path.filename().string();
  GgufFile given(path);
  const std::int64_t count = given.get<std::int64_t>("split.count").value_or(1);
  if (count <= 1) {
    model.tensors = given.tensors();
    model.files.push_back(std::move(given));
    return model;
  }
  const auto split = detail::gguf_split(name);
  if (!split || split->second != count)
    detail::raise(ErrorKind::file, path_text(path), ": is one of ", count, " files of a model, expected a name that ends in -00001-of-0000",
                  count, ".gguf, as it was when it was made, with the others beside it");
  for (int i = 1; i <= split->second; ++i) {
    std::string number = detail::message(i);
    number.insert(0, 5 - std::min<std::size_t>(5, number.size()), '0');
    const std::filesystem::path each = path.parent_path() / (name.substr(0, split->first + 1) + number + name.substr(split->first + 6));
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

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
