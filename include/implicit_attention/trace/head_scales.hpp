// Operations that make the scales of head recurrences: decays of rates, and keys of unit length.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include <implicit_attention/trace/functions.hpp>
#include <implicit_attention/trace/products.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A log decay from a logarithmic rate: -exp(x). Beyond 60 the rate stays exp(60): the decay exp(-exp(60)) is 0 already in double, and
/// a finite rate keeps sums of rates and slopes finite, so that no decay changes. Relevance has no rule for it: its results are scales.
template <Real S>
[[nodiscard]] Value<S> negative_exp(const Value<S>& x) {
  Matrix<S> out = large_matrix(*x);
  detail::Numbers<S> numbers = detail::numbers_in<S>(out, 0, out.rows());
  detail::change_each<S>(numbers, [](S v) { return v > S(60) ? S(60) : v; });  // a NaN stays
  numbers = -numbers.exp();
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  const Array<S> rate = std::move(out);
  return x.trace->record(rate, [x, rate](Back<S>& back, Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("negative_exp");
    for (Index row = 0; row < g.rows(); ++row) {
      const S *const exponents = x.numbers.row(row), *const rates = rate.row(row);
      for (Index column = 0; column < g.cols(); ++column) g(row, column) *= exponents[column] > S(60) ? S(0) : rates[column];
    }
    back.add(x, std::move(g));
  });
}

/// Each head divided by its length, or by `floor` where it is shorter: x / max(|x|, floor), as PyTorch's `normalize` has it;
/// (tokens, heads * size). Relevance holds the lengths.
template <Real S>
[[nodiscard]] Value<S> unit_length(const Value<S>& x, Index heads, S floor) {
  const Index size = x.cols() / heads;
  Matrix<S> out = large_matrix<S>(x.rows(), x.cols(), "an activation"), inverse(x.rows(), heads);
  for (Index token = 0; token < x.rows(); ++token)
    for (Index head = 0; head < heads; ++head) {
      // The largest number taken out first: squares of tiny keys would vanish.
      const Eigen::Map<const RowVector<S>> vector(x.numbers.row(token) + head * size, size);
      inverse(token, head) = S(1) / std::max(vector.stableNorm(), floor);
      out.row(token).segment(head * size, size) = vector * inverse(token, head);
    }
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  const Array<S> unit = std::move(out), scale = std::move(inverse);
  return x.trace->record(unit, [x = x.link(), unit, scale, heads, size, floor](Back<S>& back, Matrix<S>& g) {
    for (Index token = 0; token < g.rows(); ++token)
      for (Index head = 0; head < heads; ++head) {
        Eigen::Map<RowVector<S>> part(&g(token, head * size), size);
        const Eigen::Map<const RowVector<S>> vector(unit.row(token) + head * size, size);
        const bool longer = scale(token, head) * floor < S(1);
        if (back.exact() && longer) part -= part.dot(vector) * vector;
        part *= scale(token, head);
      }
    back.add(x, std::move(g));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
