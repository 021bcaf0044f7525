// Writing rows of large results: past the caches, where the machine can.
//
// An ordinary store reads its cache line from memory before it writes to it, and stalls when many are under way; a streaming store does
// neither, so that memory is written while the next rows are computed. Measured (AVX-512, 16 KiB of rows after 16 KiB of rows, with
// arithmetic between them): the stores' own share of the time falls to less than half. A result that fits the caches is written through
// them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>  // not all of immintrin.h, which takes half as long to compile as Eigen
#endif

#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Results from this size on are written past the caches.
constexpr std::size_t streamed_from_bytes = std::size_t{4} << 20;

/// Writes numbers that are not read again soon. `finish` makes them visible to other threads.
template <Real Scalar>
class RowWriter {
 public:
  static constexpr Index line = numbers_in_a_line<Scalar>;

  explicit RowWriter(Index numbers) : streamed_(static_cast<std::size_t>(numbers) * sizeof(Scalar) >= streamed_from_bytes) {}

  void copy(const Scalar* from, Index count, Scalar* to) const {
    if (count <= 0) return;
#if defined(__SSE2__)
    if (streams(to)) {
      const Index head = std::min(rest_of_line(to), count), body = (count - head) / line * line;
      if (head > 0) std::copy(from, from + head, to);
      for (Index i = head; i < head + body; i += line) stream_line(from + i, to + i);
      if (head + body < count) std::copy(from + head + body, from + count, to + head + body);
      return;
    }
#endif
    std::copy(from, from + count, to);
  }

  void zeros(Index count, Scalar* to) const {
    if (count <= 0) return;
#if defined(__SSE2__)
    if (streams(to)) {
      const Index head = std::min(rest_of_line(to), count), body = (count - head) / line * line;
      if (head > 0) std::fill(to, to + head, Scalar(0));
      for (Index i = head; i < head + body; i += line) stream_zeros(to + i);
      if (head + body < count) std::fill(to + head + body, to + count, Scalar(0));
      return;
    }
#endif
    std::fill(to, to + count, Scalar(0));
  }

  /// copy() and zeros() at the end of a row. Its last line is written through the caches: some machines (AMD's Zen 5) take an uninterrupted
  /// stream at only half to nine tenths of memory's rate, and one ordinary line after every 8 to 256 streamed ones restores the whole rate.
  void copy_to_end(const Scalar* from, Index count, Scalar* to) const {
    const Index last = last_line(count, to);
    copy(from, count - last, to);
    std::copy(from + (count - last), from + count, to + (count - last));
  }
  void zeros_to_end(Index count, Scalar* to) const {
    const Index last = last_line(count, to);
    zeros(count - last, to);
    std::fill(to + (count - last), to + count, Scalar(0));
  }

  /// Whether whole lines from `to` on are written past the caches: stream() then may write them, from where a line begins.
  [[nodiscard]] bool streams([[maybe_unused]] const Scalar* to) const {
#if defined(__SSE2__)
    return streamed_ && reinterpret_cast<std::uintptr_t>(to) % sizeof(Scalar) == 0;  // no number straddles two lines
#else
    return false;
#endif
  }
  /// A register of numbers as they are computed, so that memory is written meanwhile.
  static void stream(Scalar* to, const Lanes<Scalar, register_lanes<Scalar>>& numbers) {
#if defined(__SSE2__)
    static_assert(sizeof numbers % sizeof(Part) == 0);
    for (std::size_t byte = 0; byte < sizeof numbers; byte += sizeof(Part))
      stream(reinterpret_cast<char*>(to) + byte, load(reinterpret_cast<const char*>(numbers.data()) + byte));
#else
    lanes<register_lanes<Scalar>>(to) = numbers;
#endif
  }

  /// Prefetches the last line of a row that ends before `end`: it, or a part of it, is written through the caches.
  void ask_for_last([[maybe_unused]] const Scalar* end) const {
#if defined(__GNUC__)
    if (streamed_) __builtin_prefetch(end - 1, 1);
#endif
  }

  void finish() const {
#if defined(__SSE2__)
    if (streamed_) _mm_sfence();
#endif
  }

 private:
  /// The size of the whole line with which `count` numbers from `to` on end; 0 where they do not end with one, or nothing is streamed.
  [[nodiscard]] Index last_line(Index count, const Scalar* to) const {
    return count >= line && streams(to) && rest_of_line(to + count) == 0 ? line : 0;
  }

#if defined(__SSE2__)
// No wider than Lanes, which are as wide as Eigen aligns arrays: a host may align them less than its registers.
#if defined(__AVX512F__) && EIGEN_MAX_STATIC_ALIGN_BYTES >= 64
  using Part = __m512i;
  static Part load(const char* from) { return _mm512_loadu_si512(from); }
  static Part zero() { return _mm512_setzero_si512(); }
  static void stream(char* to, Part part) { _mm512_stream_si512(reinterpret_cast<Part*>(to), part); }
#elif defined(__AVX__) && EIGEN_MAX_STATIC_ALIGN_BYTES >= 32
  using Part = __m256i;
  static Part load(const char* from) { return _mm256_loadu_si256(reinterpret_cast<const Part*>(from)); }
  static Part zero() { return _mm256_setzero_si256(); }
  static void stream(char* to, Part part) { _mm256_stream_si256(reinterpret_cast<Part*>(to), part); }
#else
  using Part = __m128i;
  static Part load(const char* from) { return _mm_loadu_si128(reinterpret_cast<const Part*>(from)); }
  static Part zero() { return _mm_setzero_si128(); }
  static void stream(char* to, Part part) { _mm_stream_si128(reinterpret_cast<Part*>(to), part); }
#endif
  static void stream_line(const Scalar* from, Scalar* to) {
    for (std::size_t byte = 0; byte < line_bytes; byte += sizeof(Part))
      stream(reinterpret_cast<char*>(to) + byte, load(reinterpret_cast<const char*>(from) + byte));
  }
  static void stream_zeros(Scalar* to) {
    for (std::size_t byte = 0; byte < line_bytes; byte += sizeof(Part)) stream(reinterpret_cast<char*>(to) + byte, zero());
  }
#endif

  bool streamed_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
