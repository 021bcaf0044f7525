// Seeded numbers that are the same everywhere: the engines of <random> are, its distributions differ between standard libraries.
#pragma once

#include <cstddef>
#include <random>

#include <implicit_attention/core/types.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Evenly in [0, 1).
[[nodiscard]] inline double uniform(std::mt19937_64& engine) { return static_cast<double>(engine() >> 11) * 0x1p-53; }
/// Evenly among 0 ... count - 1.
[[nodiscard]] inline std::size_t uniform_index(std::mt19937_64& engine, std::size_t count) {
  return static_cast<std::size_t>(uniform(engine) * static_cast<double>(count));
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
