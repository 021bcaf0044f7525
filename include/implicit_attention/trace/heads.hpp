// Operations between heads and their channels: heads repeated, multiplied with each other, and spread.
#pragma once

#include <utility>

#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Every key/value head repeated for the query heads that read it: (tokens, key_heads * size) to (tokens, heads * size).
template <Real S>
[[nodiscard]] Value<S> repeat_heads(const Value<S>& x, Index key_heads, Index heads) {
  if (heads == key_heads) return x;
  const Index size = x.cols() / key_heads, shared = heads / key_heads;
  Matrix<S> out = large_matrix<S>(x.rows(), heads * size, "an activation");
  for (Index head = 0; head < heads; ++head) out.middleCols(head * size, size) = (*x).middleCols(head / shared * size, size);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x, heads, size, shared](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> sum = Matrix<S>::Zero(x.rows(), x.cols());
    for (Index head = 0; head < heads; ++head) sum.middleCols(head / shared * size, size) += g.middleCols(head * size, size);
    back.add(x, std::move(sum));
  });
}

/// The dot product of each head: (tokens, heads * size) twice to (tokens, heads). Relevance has no rule for it: its results are scales.
template <Real S>
[[nodiscard]] Value<S> head_dot(const Value<S>& a, const Value<S>& b, Index heads) {
  check_shape("head_dot", "the second factor", *b, a.rows(), a.cols(), "as the first");
  const Index size = a.cols() / heads;
  Matrix<S> out(a.rows(), heads);
  for (Index head = 0; head < heads; ++head)
    out.col(head) = (*a).middleCols(head * size, size).cwiseProduct((*b).middleCols(head * size, size)).rowwise().sum();
  if (!a.trace->records({&a, &b})) return a.trace->constant(std::move(out));
  return a.trace->record(std::move(out), [a, b, heads, size](Back<S>& back, const Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("head_dot");
    Matrix<S> to_a = *b, to_b = *a;
    for (Index head = 0; head < heads; ++head) {
      to_a.middleCols(head * size, size).array().colwise() *= g.col(head).array();
      to_b.middleCols(head * size, size).array().colwise() *= g.col(head).array();
    }
    back.add(a, std::move(to_a));
    back.add(b, std::move(to_b));
  });
}

/// One number a head for every one of its channels: (tokens, heads) to (tokens, heads * size).
template <Real S>
[[nodiscard]] Matrix<S> spread_columns(ConstView<S> x, Index size) {
  Matrix<S> out = large_matrix<S>(x.rows(), x.cols() * size, "an activation");
  for (Index head = 0; head < x.cols(); ++head) out.middleCols(head * size, size).colwise() = x.col(head);
  return out;
}

/// The same as an operation.
template <Real S>
[[nodiscard]] Value<S> spread_heads(const Value<S>& x, Index size) {
  Matrix<S> out = spread_columns<S>(*x, size);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x, size](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> sum(x.rows(), x.cols());
    for (Index head = 0; head < x.cols(); ++head) sum.col(head) = g.middleCols(head * size, size).rowwise().sum();
    back.add(x, std::move(sum));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
