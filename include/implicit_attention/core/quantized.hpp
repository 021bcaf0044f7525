// ggml's blocks of quantised numbers, as GGUF files and rwkv.cpp's hold them. Little-endian; d and m are float16.
//
// | type | numbers | bytes, in this order                                          | number i                                              |
// |------|---------|---------------------------------------------------------------|-------------------------------------------------------|
// | Q4_0 | 32      | d, 16 of nibbles                                              | d (q - 8)                                             |
// | Q4_1 | 32      | d, m, 16 of nibbles                                           | d q + m                                               |
// | Q5_0 | 32      | d, 4 of fifth bits, 16 of nibbles                             | d (q - 16)                                            |
// | Q5_1 | 32      | d, m, 4 of fifth bits, 16 of nibbles                          | d q + m                                               |
// | Q8_0 | 32      | d, 32 signed bytes                                            | d q                                                   |
// | Q4_K | 256     | d, m, 12 of scales and minima, 128 of nibbles                 | d s q - m t, s and t of 6 bits for each 32            |
// | Q5_K | 256     | d, m, 12 of scales and minima, 32 of fifth bits, 128          | the same with 5 bits                                  |
// | Q6_K | 256     | 128 of low nibbles, 64 of high pairs, 16 signed scales, d     | d s (q - 32), s for each 16                           |
//
// In the first four the low nibbles are numbers 0 to 15 and the high ones 16 to 31. Everything is computed in float, product by product
// from the left, as the format's own programs do, so that the numbers are theirs bit for bit.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <implicit_attention/core/dtype.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

[[nodiscard]] inline float half_at(const std::byte* from) {
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return half_to_float(bits);
}
[[nodiscard]] inline unsigned byte_at(const std::byte* from, std::size_t i) { return std::to_integer<unsigned>(from[i]); }

/// Q4_0, Q4_1, Q5_0, Q5_1: 32 numbers of four or five bits.
inline void widen_nibbles(const std::byte* block, bool fifth_bit, bool has_minimum, float* to) {
  const float scale = half_at(block), minimum = has_minimum ? half_at(block + 2) : 0.0F;
  const std::byte* next = block + (has_minimum ? 4 : 2);
  std::uint32_t high = 0;
  if (fifth_bit) {
    std::memcpy(&high, next, sizeof(high));
    next += sizeof(high);
  }
  const int zero = has_minimum ? 0 : fifth_bit ? 16 : 8;
  const auto number = [&](unsigned nibble, std::size_t i) {
    const unsigned quantised = nibble | ((high >> i & 1U) << 4U);
    const float product = scale * static_cast<float>(static_cast<int>(quantised) - zero);
    return has_minimum ? product + minimum : product;
  };
  for (std::size_t i = 0; i < 16; ++i) {
    const unsigned both = byte_at(next, i);
    to[i] = number(both & 0xFU, i);
    to[i + 16] = number(both >> 4U, i + 16);
  }
}

/// Q4_K and Q5_K: eight groups of 32 numbers, each with a scale and a minimum of six bits.
inline void widen_k_nibbles(const std::byte* block, bool fifth_bit, float* to) {
  const float scale = half_at(block), minimum = half_at(block + 2);
  const std::byte* const six_bits = block + 4;
  const std::byte* const fifths = block + 16;
  const std::byte* const nibbles = fifths + (fifth_bit ? 32 : 0);
  for (std::size_t group = 0; group < 8; ++group) {
    // The first four scales and minima are the low six bits of bytes 0 to 7; the others share bytes 8 to 11 and the upper two bits.
    const std::size_t low = group % 4;
    const unsigned s = group < 4 ? byte_at(six_bits, low) & 63U : (byte_at(six_bits, 8 + low) & 15U) | (byte_at(six_bits, low) >> 6U << 4U);
    const unsigned m =
        group < 4 ? byte_at(six_bits, 4 + low) & 63U : byte_at(six_bits, 8 + low) >> 4U | (byte_at(six_bits, 4 + low) >> 6U << 4U);
    const float d = scale * static_cast<float>(s), subtracted = minimum * static_cast<float>(m);
    for (std::size_t i = 0; i < 32; ++i) {
      unsigned quantised = byte_at(nibbles, group / 2 * 32 + i) >> (group % 2 * 4) & 0xFU;
      if (fifth_bit) quantised |= (byte_at(fifths, i) >> group & 1U) << 4U;
      to[group * 32 + i] = d * static_cast<float>(quantised) - subtracted;
    }
  }
}

/// Q6_K: sixteen groups of 16 numbers.
inline void widen_q6_k(const std::byte* block, float* to) {
  const std::byte *const low = block, *const high = block + 128, *const scales = block + 192;
  const float d = half_at(block + 208);
  for (std::size_t i = 0; i < 256; ++i) {
    // Two halves of 128 numbers; in a half four runs of 32 share 64 bytes of low nibbles and 32 bytes of high pairs.
    const std::size_t half = i / 128, run = i % 128 / 32, column = i % 32;
    const unsigned nibble = byte_at(low, half * 64 + run % 2 * 32 + column) >> (run / 2 * 4) & 0xFU;
    const unsigned pair = byte_at(high, half * 32 + column) >> (run * 2) & 3U;
    const int quantised = static_cast<int>(nibble | pair << 4U) - 32;
    const auto scale = static_cast<std::int8_t>(byte_at(scales, i / 16));
    to[i] = d * static_cast<float>(scale) * static_cast<float>(quantised);
  }
}

/// One block of `dtype_numbers` numbers.
inline void widen_block(Dtype dtype, const std::byte* block, float* to) {
  switch (dtype) {
    case Dtype::Q4_0:
      return widen_nibbles(block, false, false, to);
    case Dtype::Q4_1:
      return widen_nibbles(block, false, true, to);
    case Dtype::Q5_0:
      return widen_nibbles(block, true, false, to);
    case Dtype::Q5_1:
      return widen_nibbles(block, true, true, to);
    case Dtype::Q8_0: {
      const float scale = half_at(block);
      for (std::size_t i = 0; i < 32; ++i) to[i] = scale * static_cast<float>(static_cast<std::int8_t>(byte_at(block, 2 + i)));
      return;
    }
    case Dtype::Q4_K:
      return widen_k_nibbles(block, false, to);
    case Dtype::Q5_K:
      return widen_k_nibbles(block, true, to);
    case Dtype::Q6_K:
      return widen_q6_k(block, to);
    default:
      return;
  }
}

/// `count` numbers of a row of blocks, from number `first` on.
template <Real Scalar>
void widen_blocks_part(Dtype dtype, const std::byte* row, Index first, Index count, Scalar* to) {
  std::array<float, 256> numbers;
  const auto in_block = static_cast<Index>(dtype_numbers(dtype));
  for (Index done = 0; done < count;) {
    const Index block = (first + done) / in_block, skipped = (first + done) % in_block;
    const Index here = std::min(in_block - skipped, count - done);
    widen_block(dtype, row + static_cast<std::size_t>(block) * dtype_bytes(dtype), numbers.data());
    for (Index i = 0; i < here; ++i) to[done + i] = static_cast<Scalar>(numbers[static_cast<std::size_t>(skipped + i)]);
    done += here;
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
