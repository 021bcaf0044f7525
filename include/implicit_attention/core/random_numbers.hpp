// Seeded random numbers that are the same with every standard library: <random>'s engines are specified exactly, its distributions are not.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// std::mt19937_64, number for number: <random> takes a compiler as long as a third of Eigen.
/// Nishimura and Matsumoto's MT19937-64; the constants are those of [rand.predef].
class RandomEngine {
 public:
  explicit RandomEngine(std::uint64_t seed) {
    state_[0] = seed;
    for (std::size_t i = 1; i < size; ++i) state_[i] = 6364136223846793005U * (state_[i - 1] ^ (state_[i - 1] >> 62)) + i;
  }

  [[nodiscard]] std::uint64_t operator()() {
    if (next_ == size) twist();
    std::uint64_t number = state_[next_++];
    number ^= (number >> 29) & 0x5555555555555555U;
    number ^= (number << 17) & 0x71D67FFFEDA60000U;
    number ^= (number << 37) & 0xFFF7EEE000000000U;
    return number ^ (number >> 43);
  }

 private:
  void twist() {
    constexpr std::uint64_t lower = 0x7FFFFFFFU;  // 31 bits
    for (std::size_t i = 0; i < size; ++i) {
      const std::uint64_t joined = (state_[i] & ~lower) | (state_[(i + 1) % size] & lower);
      state_[i] = state_[(i + size / 2) % size] ^ (joined >> 1) ^ ((joined & 1U) * 0xB5026F5AA96619E9U);
    }
    next_ = 0;
  }

  static constexpr std::size_t size = 312;
  std::array<std::uint64_t, size> state_;
  std::size_t next_ = size;
};

/// Uniform in [0, 1).
[[nodiscard]] inline double uniform(RandomEngine& engine) { return static_cast<double>(engine() >> 11) * 0x1p-53; }
/// Uniform among 0 ... count - 1.
[[nodiscard]] inline std::size_t uniform_index(RandomEngine& engine, std::size_t count) {
  return static_cast<std::size_t>(uniform(engine) * static_cast<double>(count));
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
