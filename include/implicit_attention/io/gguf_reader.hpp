// The bytes of a GGUF file, versions 2 and 3: its keys and the descriptions of its tensors, in their order in the file.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/bytes.hpp>
#include <implicit_attention/io/dtype.hpp>
#include <implicit_attention/io/ggml_types.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A metadata value. Integers of all widths are one type, and so are reals. Texts are views of the file.
using GgufValue = std::variant<bool, std::int64_t, double, std::string_view, std::vector<std::int64_t>, std::vector<double>,
                               std::vector<std::string_view>>;

namespace detail {

/// What errors call a value, by the type that it has in the variant.
inline constexpr std::array<std::string_view, std::variant_size_v<GgufValue>> gguf_value_types = {
    "a truth value", "an integer", "a number", "a text", "a list of integers", "a list of numbers", "a list of texts"};

/// What a GGUF file says of one tensor.
struct GgufTensor {
  std::string_view name;
  std::vector<Index> shape;  ///< outermost first
  std::uint32_t type = 0;
  std::uint64_t offset = 0, bytes = 0;
  Index count = 0;
};

/// Reads a GGUF file from its beginning, one call after the other: its counts, its keys, its tensors. Every size but those of the tensors'
/// numbers, which GgufFile checks, is checked against the bytes that are there.
class GgufReader {
 public:
  struct Counts {
    std::uint64_t tensors = 0, keys = 0;
  };

  /// `where` names the file in errors; both texts must live as long as this.
  GgufReader(std::string_view file, std::string_view where) : where_(where), bytes_(file, where) {}

  [[nodiscard]] std::uint64_t position() const { return bytes_.position(); }
  /// Numbers of tensors and keys. Each takes bytes, so a count beyond the file ends in an error before memory is taken.
  [[nodiscard]] Counts counts() {
    if (bytes_.take(4) != "GGUF") raise(ErrorKind::file, where_, ": not a GGUF file");
    const auto version = bytes_.number<std::uint32_t>();
    if (version != 0 && (version & 0xFFFFU) == 0) raise(ErrorKind::file, where_, ": is a big-endian GGUF file, expected little-endian");
    if (version != 2 && version != 3) raise(ErrorKind::file, where_, ": is GGUF of version ", version, ", expected 2 or 3");
    Counts counts;
    counts.tensors = bytes_.number<std::uint64_t>();
    counts.keys = bytes_.number<std::uint64_t>();
    return counts;
  }
  /// The next key and its value; `index` is its number, for messages.
  [[nodiscard]] std::pair<std::string_view, GgufValue> key(std::uint64_t index) {
    const std::string_view name = text();
    const auto type = bytes_.number<std::uint32_t>();
    if (name.empty() || name.size() > 65535)
      raise(ErrorKind::file, where_, ": metadata key ", index, " has a name of ", name.size(), " bytes, expected 1 to 65535");
    return {name, value(type, name)};
  }
  /// The next tensor's name, shape, type and place. Whether the file has its bytes is not checked here.
  [[nodiscard]] GgufTensor tensor() {
    GgufTensor made;
    made.name = text();
    const std::string who = message(where_, ": tensor ", printable(made.name));
    if (made.name.empty() || made.name.size() > 256)
      raise(ErrorKind::file, who, ": its name has ", made.name.size(), " bytes, expected 1 to 256");
    const auto axes = bytes_.number<std::uint32_t>();
    if (axes > 8) raise(ErrorKind::file, who, ": has ", axes, " axes, expected at most 8");
    for (std::uint32_t axis = 0; axis < axes; ++axis) {
      const auto size = bytes_.number<std::uint64_t>();
      if (size == 0 || size > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
        raise(ErrorKind::file, who, ": an axis of size ", size, ", expected 1 to ", std::numeric_limits<Index>::max());
      made.shape.insert(made.shape.begin(), static_cast<Index>(size));
    }
    if (made.shape.empty()) made.shape.push_back(1);
    made.type = bytes_.number<std::uint32_t>();
    made.offset = bytes_.number<std::uint64_t>();
    const std::optional<Dtype> dtype = ggml_dtype(made.type);
    const std::optional<Index> count = element_count(made.shape, 16);
    if (!count) raise(ErrorKind::file, who, ": shape ", shape_text(made.shape), " overflows: more numbers than memory has addresses");
    made.count = *count;
    if (!dtype) return made;  // a type that is not read here, of unknown size
    const auto together = static_cast<Index>(dtype_numbers(*dtype));
    if (made.shape.back() % together != 0)
      raise(ErrorKind::file, who, ": rows of shape ", shape_text(made.shape), " are not a whole number of blocks of ", together,
            " numbers, as for ", dtype_name(*dtype));
    made.bytes = static_cast<std::uint64_t>(*count / together) * dtype_bytes(*dtype);
    return made;
  }

 private:
  [[nodiscard]] std::string_view text() { return bytes_.take(bytes_.number<std::uint64_t>()); }

  // A scalar, types 0 to 12 without text (8) and list (9); false if the type is another.
  template <class Use>
  [[nodiscard]] bool number(std::uint32_t type, Use use) {
    switch (type) {
      case 0:
        return use(static_cast<std::int64_t>(bytes_.number<std::uint8_t>())), true;
      case 1:
        return use(static_cast<std::int64_t>(bytes_.number<std::int8_t>())), true;
      case 2:
        return use(static_cast<std::int64_t>(bytes_.number<std::uint16_t>())), true;
      case 3:
        return use(static_cast<std::int64_t>(bytes_.number<std::int16_t>())), true;
      case 4:
        return use(static_cast<std::int64_t>(bytes_.number<std::uint32_t>())), true;
      case 5:
        return use(static_cast<std::int64_t>(bytes_.number<std::int32_t>())), true;
      case 6:
        return use(static_cast<double>(bytes_.number<float>())), true;
      case 7:
        return use(static_cast<std::int64_t>(bytes_.number<std::uint8_t>())), true;
      case 10:  // above the signed range it becomes negative, which is refused where it is used
        return use(static_cast<std::int64_t>(bytes_.number<std::uint64_t>())), true;
      case 11:
        return use(bytes_.number<std::int64_t>()), true;
      case 12:
        return use(bytes_.number<double>()), true;
      default:
        return false;
    }
  }

  [[nodiscard]] GgufValue value(std::uint32_t type, std::string_view key) {
    if (type == 8) return text();
    if (type == 9) return list(key);
    GgufValue result = std::int64_t{0};
    if (!number(type, [&](auto read) { result = read; }))
      raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is of type ", type, ", which the format does not define");
    if (type == 7) {
      const std::int64_t truth = std::get<std::int64_t>(result);
      if (truth > 1) raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is ", truth, ", expected true or false");
      result = truth == 1;
    }
    return result;
  }

  [[nodiscard]] GgufValue list(std::string_view key) {
    const auto type = bytes_.number<std::uint32_t>();
    const auto count = bytes_.number<std::uint64_t>();
    const auto too_long = [&] {
      raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is a list of ", count, ", but only ", bytes_.left(),
            " bytes are left; is the file cut short?");
    };
    if (count > bytes_.left()) too_long();
    if (type == 8) {
      std::vector<std::string_view> all;
      for (std::uint64_t i = 0; i < count; ++i) all.push_back(text());
      return all;
    }
    std::vector<std::int64_t> integers;
    std::vector<double> reals;
    for (std::uint64_t i = 0; i < count; ++i) {
      const bool known = number(type, [&](auto read) {
        if constexpr (std::is_same_v<decltype(read), double>)
          reals.push_back(read);
        else
          integers.push_back(read);
      });
      if (!known)
        raise(ErrorKind::file, where_, ": metadata key ", printable(key), " is a list of type ", type, ", which is not read here");
    }
    if (type == 6 || type == 12) return reals;
    return integers;
  }

  std::string_view where_;
  ByteReader bytes_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
