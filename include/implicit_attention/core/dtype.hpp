// How numbers are stored: plain types and blocks of quantised numbers. Types narrower than float are storage, widened where they are used.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The element types of public checkpoints. A file may hold any of them; those up to U8, and the blocks, can be read as numbers.
enum class Dtype {
  F64,
  F32,
  F16,
  BF16,
  I64,
  I32,
  I16,
  I8,
  U8,
  BOOL,
  U64,
  U32,
  U16,
  F8_E4M3,
  F8_E5M2,
  F8_E8M0,
  F6_E2M3,
  F6_E3M2,
  F4,
  C64,
  C128,
  Q4_0,  ///< the first of ggml's blocks; see core/quantized.hpp
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_0,
  Q4_K,
  Q5_K,
  Q6_K,
  other  ///< a type that only its file has a name for
};

namespace detail {
/// `numbers` numbers are stored together in `bytes` bytes.
struct DtypeFacts {
  std::string_view name;
  std::size_t numbers, bytes;
};
// In the order of Dtype.
inline constexpr std::array<DtypeFacts, 30> dtype_facts{
    {{"F64", 1, 8},    {"F32", 1, 4},     {"F16", 1, 2},      {"BF16", 1, 2},     {"I64", 1, 8},      {"I32", 1, 4},
     {"I16", 1, 2},    {"I8", 1, 1},      {"U8", 1, 1},       {"BOOL", 1, 1},     {"U64", 1, 8},      {"U32", 1, 4},
     {"U16", 1, 2},    {"F8_E4M3", 1, 1}, {"F8_E5M2", 1, 1},  {"F8_E8M0", 1, 1},  {"F6_E2M3", 4, 3},  {"F6_E3M2", 4, 3},
     {"F4", 2, 1},     {"C64", 1, 8},     {"C128", 1, 16},    {"Q4_0", 32, 18},   {"Q4_1", 32, 20},   {"Q5_0", 32, 22},
     {"Q5_1", 32, 24}, {"Q8_0", 32, 34},  {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210}, {"other", 1, 1}}};
}  // namespace detail

[[nodiscard]] constexpr std::string_view dtype_name(Dtype dtype) { return detail::dtype_facts[static_cast<std::size_t>(dtype)].name; }
/// Bytes of a number, or of a block of `dtype_numbers` of them.
[[nodiscard]] constexpr std::size_t dtype_bytes(Dtype dtype) { return detail::dtype_facts[static_cast<std::size_t>(dtype)].bytes; }
/// Numbers that are stored together: 1, or those of a block.
[[nodiscard]] constexpr std::size_t dtype_numbers(Dtype dtype) { return detail::dtype_facts[static_cast<std::size_t>(dtype)].numbers; }

/// The type of that name in a safetensors file; nothing if the format has none.
template <class = void>
[[nodiscard]] constexpr std::optional<Dtype> dtype_of_name(std::string_view name) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(Dtype::Q4_0); ++i)
    if (detail::dtype_facts[i].name == name) return static_cast<Dtype>(i);
  return std::nullopt;
}

/// IEEE 754 binary16 to float: every value, subnormals, infinities and NaN payloads included, is exact.
[[nodiscard]] inline float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16U;
  const std::uint32_t exponent = (bits >> 10U) & 0x1FU, fraction = bits & 0x3FFU;
  // Zero or subnormal: fraction * 2^-24. Both are computed and one is chosen by a mask: compilers turn a conditional into a branch, which
  // does not vectorise.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<std::int32_t>(fraction)) * 0x1p-24F);
  const std::uint32_t widened = exponent + (127U - 15U) * (1U + static_cast<std::uint32_t>(exponent == 0x1FU));
  const std::uint32_t small_bits = 0U - static_cast<std::uint32_t>(exponent == 0);
  return std::bit_cast<float>(sign | (subnormal & small_bits) | (((widened << 23U) | (fraction << 13U)) & ~small_bits));
}

/// bfloat16 to float: the upper half of its bits.
[[nodiscard]] inline float bfloat16_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }

namespace detail {
/// The product of sizes that are not negative; nothing where it, times `bytes`, is beyond what an Index counts.
template <class = void>
[[nodiscard]] std::optional<Index> element_count(const std::vector<Index>& shape, std::size_t bytes) {
  const Index most = std::numeric_limits<Index>::max() / static_cast<Index>(bytes);
  Index count = 1;
  bool overflows = false, none = false;
  for (const Index size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) none = true;
    if (size > 0 && count > most / size) overflows = true;
    if (!overflows && size > 0) count *= size;
  }
  if (overflows) return std::nullopt;
  return none ? 0 : count;
}

/// `count` numbers stored as `Stored`, `distance` bytes apart, at any alignment, each through `convert` to `to`.
template <class Stored, class Number, class Convert>
void convert_numbers(const std::byte* from, Index count, Number* to, Convert convert, std::size_t distance = sizeof(Stored)) {
  // In chunks of fixed size, which compilers vectorise at -O2, through arrays that alias nothing; not for a row of a few numbers.
  if (distance == sizeof(Stored) && count >= 8) {
    constexpr std::size_t together = 64;
    std::array<Stored, together> stored{};
    std::array<Number, together> converted;
    for (Index first = 0; first < count; first += static_cast<Index>(together)) {
      const std::size_t here = std::min(together, static_cast<std::size_t>(count - first));
      std::memcpy(stored.data(), from + static_cast<std::size_t>(first) * sizeof(Stored), here * sizeof(Stored));
      for (std::size_t i = 0; i < together; ++i) converted[i] = static_cast<Number>(convert(stored[i]));
      std::memcpy(to + first, converted.data(), here * sizeof(Number));
    }
    return;
  }
  for (Index i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, from + static_cast<std::size_t>(i) * distance, sizeof(Stored));
    to[i] = static_cast<Number>(convert(stored));
  }
}

/// Whether `widen` reads that type.
constexpr bool readable(Dtype dtype) { return dtype <= Dtype::U8; }
/// Whether that type is one of ggml's blocks.
constexpr bool in_blocks(Dtype dtype) { return dtype >= Dtype::Q4_0 && dtype <= Dtype::Q6_K; }

/// Numbers of a readable type into float or double, from numbers that stand `stride` numbers apart. From F64 and the integers to a
/// narrower type they are rounded to nearest; what is too large for it becomes infinite.
template <Real Scalar>
void widen(Dtype dtype, const std::byte* from, Index count, Scalar* to, Index stride = 1) {
  const auto as_is = [](auto number) { return number; };
  const std::size_t distance = dtype_bytes(dtype) * static_cast<std::size_t>(stride);
  switch (dtype) {
    case Dtype::F64:
      return convert_numbers<double>(from, count, to, as_is, distance);
    case Dtype::F32:
      return convert_numbers<float>(from, count, to, as_is, distance);
    case Dtype::F16:
      return convert_numbers<std::uint16_t>(
          from, count, to, [](std::uint16_t bits) { return half_to_float(bits); }, distance);
    case Dtype::BF16:
      return convert_numbers<std::uint16_t>(
          from, count, to, [](std::uint16_t bits) { return bfloat16_to_float(bits); }, distance);
    case Dtype::I64:
      return convert_numbers<std::int64_t>(from, count, to, as_is, distance);
    case Dtype::I32:
      return convert_numbers<std::int32_t>(from, count, to, as_is, distance);
    case Dtype::I16:
      return convert_numbers<std::int16_t>(from, count, to, as_is, distance);
    case Dtype::I8:
      return convert_numbers<std::int8_t>(from, count, to, as_is, distance);
    case Dtype::U8:
      return convert_numbers<std::uint8_t>(from, count, to, as_is, distance);
    default:
      return;
  }
}
}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
