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

/// `count` bytes of a block, where what is written cannot overlap them: compilers vectorise the loops over them.
template <std::size_t count>
[[nodiscard]] std::array<std::uint8_t, count> bytes_at(const std::byte* from) {
  std::array<std::uint8_t, count> bytes;
  std::memcpy(bytes.data(), from, count);
  return bytes;
}

/// Q4_0, Q4_1, Q5_0, Q5_1: 32 numbers of four or five bits.
template <bool fifth_bit, bool has_minimum>
void widen_nibbles(const std::byte* block, float* to) {
  const float scale = half_at(block), minimum = has_minimum ? half_at(block + 2) : 0.0F;
  const std::byte* next = block + (has_minimum ? 4 : 2);
  std::uint32_t high = 0;
  if (fifth_bit) {
    std::memcpy(&high, next, sizeof(high));
    next += sizeof(high);
  }
  const int zero = has_minimum ? 0 : fifth_bit ? 16 : 8;
  const std::array<std::uint8_t, 16> nibbles = bytes_at<16>(next);
  const auto number = [&](unsigned nibble, unsigned i) {
    const unsigned quantised = fifth_bit ? nibble | ((high >> i & 1U) << 4U) : nibble;
    const float product = scale * static_cast<float>(static_cast<int>(quantised) - zero);
    return has_minimum ? product + minimum : product;
  };
  for (unsigned i = 0; i < 16; ++i) to[i] = number(nibbles[i] & 0xFU, i);
  for (unsigned i = 0; i < 16; ++i) to[i + 16] = number(unsigned{nibbles[i]} >> 4U, i + 16);
}

/// Q4_K and Q5_K: eight groups of 32 numbers, each with a scale and a minimum of six bits.
template <bool fifth_bit>
void widen_k_nibbles(const std::byte* block, float* to) {
  const float scale = half_at(block), minimum = half_at(block + 2);
  const std::byte* const six_bits = block + 4;
  const std::array<std::uint8_t, 32> fifths = fifth_bit ? bytes_at<32>(block + 16) : std::array<std::uint8_t, 32>{};
  const std::byte* const nibbles = block + 16 + (fifth_bit ? 32 : 0);
  for (std::size_t group = 0; group < 8; ++group) {
    // The first four scales and minima are the low six bits of bytes 0 to 7; the others share bytes 8 to 11 and the upper two bits.
    const std::size_t low = group % 4;
    const unsigned s = group < 4 ? byte_at(six_bits, low) & 63U : (byte_at(six_bits, 8 + low) & 15U) | (byte_at(six_bits, low) >> 6U << 4U);
    const unsigned m =
        group < 4 ? byte_at(six_bits, 4 + low) & 63U : byte_at(six_bits, 8 + low) >> 4U | (byte_at(six_bits, 4 + low) >> 6U << 4U);
    const float d = scale * static_cast<float>(s), subtracted = minimum * static_cast<float>(m);
    const std::array<std::uint8_t, 32> both = bytes_at<32>(nibbles + group / 2 * 32);
    for (std::size_t i = 0; i < 32; ++i) {
      unsigned quantised = unsigned{both[i]} >> (group % 2 * 4) & 0xFU;
      if (fifth_bit) quantised |= (unsigned{fifths[i]} >> group & 1U) << 4U;
      to[group * 32 + i] = d * static_cast<float>(static_cast<int>(quantised)) - subtracted;
    }
  }
}

/// Q6_K: sixteen groups of 16 numbers.
inline void widen_q6_k(const std::byte* block, float* to) {
  const std::byte *const low = block, *const high = block + 128, *const scales = block + 192;
  const float d = half_at(block + 208);
  // Two halves of 128 numbers; in a half four runs of 32 share 64 bytes of low nibbles and 32 bytes of high pairs.
  for (std::size_t group = 0; group < 16; ++group) {
    const std::size_t half = group / 8, run = group % 8 / 2, column = group % 2 * 16;
    const std::array<std::uint8_t, 16> nibbles = bytes_at<16>(low + half * 64 + run % 2 * 32 + column);
    const std::array<std::uint8_t, 16> pairs = bytes_at<16>(high + half * 32 + column);
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(byte_at(scales, group)));
    for (std::size_t i = 0; i < 16; ++i) {
      const unsigned nibble = unsigned{nibbles[i]} >> (run / 2 * 4) & 0xFU, pair = unsigned{pairs[i]} >> (run * 2) & 3U;
      to[group * 16 + i] = scale * static_cast<float>(static_cast<int>(nibble | pair << 4U) - 32);
    }
  }
}

/// One block of `dtype_numbers` numbers.
inline void widen_block(Dtype dtype, const std::byte* block, float* to) {
  switch (dtype) {
    case Dtype::Q4_0:
      return widen_nibbles<false, false>(block, to);
    case Dtype::Q4_1:
      return widen_nibbles<false, true>(block, to);
    case Dtype::Q5_0:
      return widen_nibbles<true, false>(block, to);
    case Dtype::Q5_1:
      return widen_nibbles<true, true>(block, to);
    case Dtype::Q8_0: {
      const float scale = half_at(block);
      const std::array<std::uint8_t, 32> bytes = bytes_at<32>(block + 2);
      for (std::size_t i = 0; i < 32; ++i) to[i] = scale * static_cast<float>(static_cast<std::int8_t>(bytes[i]));
      return;
    }
    case Dtype::Q4_K:
      return widen_k_nibbles<false>(block, to);
    case Dtype::Q5_K:
      return widen_k_nibbles<true>(block, to);
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
    std::copy_n(numbers.begin() + skipped, here, to + done);
    done += here;
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
