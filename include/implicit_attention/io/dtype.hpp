// How numbers stand in files: little-endian, and what is narrower than float is storage only.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

static_assert(std::endian::native == std::endian::little, "implicit_attention/io reads little-endian files as they stand in memory");

/// The element types of the safetensors format. All may stand in a file; those up to I32 can be read as numbers.
enum class Dtype { F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL, F8_E4M3, F8_E5M2 };

namespace detail {
struct DtypeFacts {
  std::string_view name;
  std::size_t bytes;
};
// In the order of Dtype.
inline constexpr std::array<DtypeFacts, 15> dtype_facts{{{"F64", 8},
                                                         {"F32", 4},
                                                         {"F16", 2},
                                                         {"BF16", 2},
                                                         {"I64", 8},
                                                         {"I32", 4},
                                                         {"I16", 2},
                                                         {"I8", 1},
                                                         {"U64", 8},
                                                         {"U32", 4},
                                                         {"U16", 2},
                                                         {"U8", 1},
                                                         {"BOOL", 1},
                                                         {"F8_E4M3", 1},
                                                         {"F8_E5M2", 1}}};
}  // namespace detail

[[nodiscard]] constexpr std::string_view dtype_name(Dtype dtype) { return detail::dtype_facts[static_cast<std::size_t>(dtype)].name; }
[[nodiscard]] constexpr std::size_t dtype_bytes(Dtype dtype) { return detail::dtype_facts[static_cast<std::size_t>(dtype)].bytes; }

/// The type of that name; nothing if the format has none.
[[nodiscard]] constexpr std::optional<Dtype> dtype_of_name(std::string_view name) {
  for (std::size_t i = 0; i < detail::dtype_facts.size(); ++i)
    if (detail::dtype_facts[i].name == name) return static_cast<Dtype>(i);
  return std::nullopt;
}

/// The C++ types that are written: float, double, and whatever integer of 64 bits the system has.
template <class T>
concept Storable = Real<T> ||(std::signed_integral<T> && sizeof(T) == 8);

/// The type in which numbers of a C++ type are stored.
template <Storable Number>
constexpr Dtype dtype_of = std::same_as<Number, double>  ? Dtype::F64
                           : std::same_as<Number, float> ? Dtype::F32
                                                         : Dtype::I64;

/// IEEE 754 binary16 to float: every value, subnormals, infinities and NaN payloads included, is exact.
[[nodiscard]] inline float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16U;
  const std::uint32_t exponent = (bits >> 10U) & 0x1FU, fraction = bits & 0x3FFU;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign == 0 ? magnitude : -magnitude;
  }
  const std::uint32_t widened = exponent == 0x1FU ? 0xFFU : exponent + (127U - 15U);
  return std::bit_cast<float>(sign | (widened << 23U) | (fraction << 13U));
}

/// bfloat16 to float: the upper half of its bits.
[[nodiscard]] inline float bfloat16_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }

namespace detail {
/// The product of sizes that are not negative; nothing where it, times `bytes`, is beyond what an Index counts.
[[nodiscard]] inline std::optional<Index> element_count(const std::vector<Index>& shape, std::size_t bytes) {
  const Index most = std::numeric_limits<Index>::max() / static_cast<Index>(bytes);
  Index count = 1;
  for (const Index size : shape) {
    if (size < 0 || (size > 0 && count > most / size)) return std::nullopt;
    count *= size;
  }
  return count;
}

/// `count` numbers stored as `Stored` at `from`, at any alignment, each through `convert` to `to`.
template <class Stored, class Number, class Convert>
void convert_numbers(const std::byte* from, Index count, Number* to, Convert convert) {
  for (Index i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, from + static_cast<std::size_t>(i) * sizeof(Stored), sizeof(Stored));
    to[i] = static_cast<Number>(convert(stored));
  }
}

/// Whether `widen` reads that type.
constexpr bool readable(Dtype dtype) { return static_cast<int>(dtype) <= static_cast<int>(Dtype::I32); }

/// Numbers of a readable type into float or double. From F64 and the integers to a narrower type they are rounded to nearest;
/// what is too large for it becomes infinite.
template <Real Scalar>
void widen(Dtype dtype, const std::byte* from, Index count, Scalar* to) {
  const auto as_is = [](auto number) { return number; };
  switch (dtype) {
    case Dtype::F64:
      return convert_numbers<double>(from, count, to, as_is);
    case Dtype::F32:
      return convert_numbers<float>(from, count, to, as_is);
    case Dtype::F16:
      return convert_numbers<std::uint16_t>(from, count, to, half_to_float);
    case Dtype::BF16:
      return convert_numbers<std::uint16_t>(from, count, to, bfloat16_to_float);
    case Dtype::I64:
      return convert_numbers<std::int64_t>(from, count, to, as_is);
    case Dtype::I32:
      return convert_numbers<std::int32_t>(from, count, to, as_is);
    default:
      return;
  }
}
}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
