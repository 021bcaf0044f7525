// Seeded random numbers that are the same with every standard library: <random>'s engines are specified exactly, its distributions are not.
#pragma once

#include <cstddef>
#include <random>

#include <implicit_attention/core/types.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Uniform in [0, 1).
[[nodiscard]] inline double uniform(std::mt19937_64& engine) { return static_cast<double>(engine() >> 11) * 0x1p-53; }
/// Uniform among 0 ... count - 1.
[[nodiscard]] inline std::size_t uniform_index(std::mt19937_64& engine, std::size_t count) {
  return static_cast<std::size_t>(uniform(engine) * static_cast<double>(count));
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
