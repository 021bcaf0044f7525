// Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of numbers of a head are rotated by an angle.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// How the numbers of a head are rotated: the first `rotated` of them, pair n of r by position * base^(-2n/r).
struct Rotary {
  Index head_size = 0;
  Index rotated = 0;  ///< an even number; 0: nothing is rotated
  double base = 10000;
  bool pairs = false;               ///< neighbours (2n, 2n + 1) are a pair, rather than (n, n + r/2)
  std::vector<double> frequencies;  ///< of every pair, instead of those of the base; empty: the base's

  [[nodiscard]] double frequency(Index pair) const {
    if (!frequencies.empty()) return frequencies[static_cast<std::size_t>(pair)];
    return std::pow(base, -2.0 * static_cast<double>(pair) / static_cast<double>(rotated));
  }
};

/// Turns every head by its token's position, forwards (direction 1) or back (-1), in place; numbers are (tokens, any number of heads).
template <Real Scalar>
void rotate(Matrix<Scalar>& numbers, const Rotary& rotary, const std::vector<Index>& positions, int direction) {
  const Index half = rotary.rotated / 2, apart = rotary.pairs ? 1 : half, step = rotary.pairs ? 2 : 1;
  for (Index pair = 0; pair < half; ++pair) {
    const double frequency = rotary.frequency(pair);
    for (Index token = 0; token < numbers.rows(); ++token) {
      const double angle = static_cast<double>(positions[static_cast<std::size_t>(token)]) * frequency;
      const Scalar cosine = static_cast<Scalar>(std::cos(angle)), sine = static_cast<Scalar>(direction * std::sin(angle));
      for (Index column = pair * step; column < numbers.cols(); column += rotary.head_size) {
        const Scalar first = numbers(token, column), second = numbers(token, column + apart);
        numbers(token, column) = first * cosine - second * sine;
        numbers(token, column + apart) = second * cosine + first * sine;
      }
    }
  }
}

/// Every head of x (tokens, heads * head_size) rotated by its token's position. A rotation's transpose is the rotation back.
template <Real S>
[[nodiscard]] Value<S> rotary_positions(const Value<S>& x, const Rotary& rotary, const std::vector<Index>& positions) {
  if (rotary.rotated == 0) return x;
  Matrix<S> out = *x;
  rotate(out, rotary, positions, 1);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x, rotary, positions](Back<S>& back, Matrix<S>& g) {
    rotate(g, rotary, positions, -1);
    back.add(x, std::move(g));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
