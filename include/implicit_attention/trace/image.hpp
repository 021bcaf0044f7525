// Operations on tokens that are the pixels of an image, row after row, and linear attention that sees all of them.
#pragma once

#include <algorithm>
#include <utility>

#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Tokens as (rows, columns) of an image: token = row * columns + column.
struct ImageGrid {
  Index rows = 1, columns = 1;
  [[nodiscard]] Index tokens() const { return rows * columns; }
};

namespace detail {
/// Calls body(output token, input token, tap) for every pair that a square kernel of an odd `width` joins; nothing is beyond the border.
template <class Body>
void for_image_taps(const ImageGrid& grid, Index width, const Body& body) {
  const Index reach = width / 2;
  for (Index row = 0; row < grid.rows; ++row)
    for (Index column = 0; column < grid.columns; ++column)
      for (Index dr = std::max(-reach, -row); dr <= std::min(reach, grid.rows - 1 - row); ++dr)
        for (Index dc = std::max(-reach, -column); dc <= std::min(reach, grid.columns - 1 - column); ++dc)
          body(row * grid.columns + column, (row + dr) * grid.columns + column + dc, (dr + reach) * width + dc + reach);
}
}  // namespace detail

/// The depthwise convolution of x (tokens, channels) with taps (width^2, channels), zeros beyond the border; a cross-correlation, as in
/// torch. `bias` (1, channels) or empty.
template <Real S>
[[nodiscard]] Value<S> image_convolution(const Value<S>& x, const ImageGrid& grid, Index width, const Array<S>& taps,
                                         const Array<S>& bias = {}) {
  check_shape("image_convolution", "the input", *x, grid.tokens(), x.cols(), "(rows * columns, channels)");
  check_shape("image_convolution", "the taps", taps, width * width, x.cols(), "(width^2, channels)");
  Matrix<S> out = Matrix<S>::Zero(x.rows(), x.cols());
  if (!bias.empty()) out.rowwise() += bias.matrix().row(0);
  detail::for_image_taps(grid, width, [&](Index to, Index from, Index tap) {
    out.row(to).array() += taps.matrix().row(tap).array() * (*x).row(from).array();
  });
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link(), grid, width, taps, bias](Back<S>& back, const Matrix<S>& g) {
    if (!back.exact() && !bias.empty()) back.add_bias_share(g.colwise().sum().dot(bias.matrix().row(0)));
    Matrix<S> gradient = Matrix<S>::Zero(g.rows(), g.cols());
    detail::for_image_taps(grid, width, [&](Index to, Index from, Index tap) {
      gradient.row(from).array() += taps.matrix().row(tap).array() * g.row(to).array();
    });
    back.add(x, std::move(gradient));
  });
}

/// The mean over all tokens, at every token.
template <Real S>
[[nodiscard]] Value<S> token_mean(const Value<S>& x) {
  Matrix<S> out = (*x).colwise().mean().replicate(x.rows(), 1);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out),
                         [x = x.link()](Back<S>& back, const Matrix<S>& g) { back.add(x, g.colwise().mean().replicate(g.rows(), 1)); });
}

/// factor q (k^T x) of every head, which all tokens see, in linear time: q, k (tokens, heads * K), x (tokens, heads * P). Relevance holds q
/// and k.
template <Real S>
[[nodiscard]] Value<S> full_linear_attention(const Value<S>& q, const Value<S>& k, const Value<S>& x, Index heads, S factor) {
  const Index keys = q.cols() / heads, values = x.cols() / heads;
  check_shape("full_linear_attention", "the keys", *k, x.rows(), q.cols(), "as the queries");
  Matrix<S> out(x.rows(), x.cols());
  const auto head_of = [](ConstView<S> m, Index head, Index size) { return Matrix<S>(m.middleCols(head * size, size)); };
  for (Index head = 0; head < heads; ++head) {
    const Matrix<S> state = head_of(*k, head, keys).transpose() * head_of(*x, head, values);
    out.middleCols(head * values, values).noalias() = factor * (head_of(*q, head, keys) * state);
  }
  if (!x.trace->records({&q, &k, &x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [q, k, x, heads, keys, values, factor, head_of](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> to_q(q.rows(), q.cols()), to_k(k.rows(), k.cols()), to_x(x.rows(), x.cols());
    for (Index head = 0; head < heads; ++head) {
      const Matrix<S> of_q = head_of(*q, head, keys), of_k = head_of(*k, head, keys), of_g = factor * head_of(g, head, values);
      const Matrix<S> adjoint = of_q.transpose() * of_g;
      to_x.middleCols(head * values, values).noalias() = of_k * adjoint;
      if (!back.exact()) continue;
      const Matrix<S> of_x = head_of(*x, head, values);
      to_q.middleCols(head * keys, keys).noalias() = of_g * (of_x.transpose() * of_k);
      to_k.middleCols(head * keys, keys).noalias() = of_x * adjoint.transpose();
    }
    back.add(x, std::move(to_x));
    if (!back.exact()) return;
    back.add(q, std::move(to_q));
    back.add(k, std::move(to_k));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
