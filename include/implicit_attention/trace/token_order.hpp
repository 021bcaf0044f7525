// Tokens in another order, as operations.
#pragma once

#include <utility>

#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The tokens from the last to the first.
template <Real S>
[[nodiscard]] Value<S> reverse_tokens(const Value<S>& x) {
  Matrix<S> out = (*x).colwise().reverse();
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link()](Back<S>& back, const Matrix<S>& g) { back.add(x, g.colwise().reverse()); });
}

/// x_{t+1}, and zeros at the last token.
template <Real S>
[[nodiscard]] Value<S> next_token(const Value<S>& x) {
  const Index tokens = x.rows();
  Matrix<S> out = Matrix<S>::Zero(tokens, x.cols());
  out.topRows(tokens - 1) = (*x).bottomRows(tokens - 1);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link()](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> shifted = Matrix<S>::Zero(g.rows(), g.cols());
    shifted.bottomRows(g.rows() - 1) = g.topRows(g.rows() - 1);
    back.add(x, std::move(shifted));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
