// The operations that read the tokens before: token shift and causal convolution.
#pragma once

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/convolution.hpp>
#include <implicit_attention/trace/products.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// x_{t-1}, with `before` (1, columns) or zeros before the first token, and before every token in `own_starts` and the trace's.
template <Real S>
[[nodiscard]] Value<S> token_shift(const Value<S>& x, const Array<S>& before = {}, const std::vector<Index>& own_starts = {}) {
  const std::vector<Index> starts = x.trace->starts_with(own_starts);
  const Index tokens = x.rows();
  Matrix<S> out = large_matrix<S>(tokens, x.cols(), "an activation");
  out.bottomRows(tokens - 1) = (*x).topRows(tokens - 1);
  if (before.empty())
    out.row(0).setZero();
  else
    out.row(0) = before.matrix().row(0);
  for (const Index start : starts) out.row(start).setZero();
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link(), before, starts](Back<S>& back, const Matrix<S>& g) {
    const Index count = g.rows();
    Matrix<S> shifted = Matrix<S>::Zero(count, g.cols());
    shifted.topRows(count - 1) = g.bottomRows(count - 1);
    for (const Index start : starts)
      if (start > 0) shifted.row(start - 1).setZero();
    if (!back.exact() && !before.empty() && (starts.empty() || starts.front() > 0))
      back.add_bias_share(g.row(0).dot(before.matrix().row(0)));
    back.add(x, std::move(shifted));
  });
}

/// RWKV's token shift, mix_m(x)_t = m x_t + (1 - m) x_{t-1}; m (1, columns), `shifted` = token_shift(x).
template <Real S>
[[nodiscard]] Value<S> token_mix(const Value<S>& x, const Value<S>& shifted, const Array<S>& m) {
  check_vector("token_mix", "the mix", m, x.cols(), "width");
  Matrix<S> out = detail::filled_by_rows<S>(x.rows(), x.cols(), x.trace->executor(), [&](View<S> panel, Index first, Index count) {
    const auto now = (*x).middleRows(first, count).array(), before = (*shifted).middleRows(first, count).array();
    panel.array() = before + (now - before).rowwise() * m.matrix().row(0).array();
  });
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link(), shifted = shifted.link(), m](Back<S>& back, Matrix<S>& g) {
    Matrix<S> now = detail::filled_by_rows<S>(g.rows(), g.cols(), back.executor(), [&](View<S> panel, Index first, Index count) {
      panel = (g.middleRows(first, count).array().rowwise() * m.matrix().row(0).array()).matrix();
      g.middleRows(first, count) -= panel;  // (1 - m) g
    });
    back.add(x, std::move(now));
    back.add(shifted, std::move(g));
  });
}

namespace detail {
/// Conv x + bias for a weight (channels, width). `tail` are the rows before x, (width - 1, channels) or none.
template <Real S>
[[nodiscard]] Matrix<S> convolution_of(const Array<S>& x, const Array<S>& weight, const Array<S>& bias, const Array<S>& tail,
                                       const std::vector<Index>& starts, const Executor& executor) {
  SurroundedDiagonal<S> surrounded;
  surrounded.recurrence.tokens = tail.empty() && x.empty() ? 0 : x.rows();
  surrounded.recurrence.channels = weight.rows();
  surrounded.taps = transposed(weight);
  surrounded.convolution_starts = starts;
  ScanInput<S> input;
  input.x = x;
  input.convolution_bias = bias;
  input.convolution_tail = tail;
  Matrix<S> out = large_matrix<S>(x.rows(), weight.rows(), "a convolution");
  convolve(surrounded, input, View<S>(out), executor);
  return out;
}

template <Real S>
struct ConvolutionBack {
  static constexpr std::string_view operation = "convolution";
  Value<S> x;
  Array<S> weight, bias, tail;
  std::vector<Index> starts;
  void walk(Back<S>& back, const Matrix<S>& g) const {
    if (!back.exact()) {
      if (!bias.empty()) back.add_bias_share(g.colwise().sum().dot(bias.matrix().row(0)));
      if (!tail.empty()) {
        const Array<S> nothing = Matrix<S>(Matrix<S>::Zero(g.rows(), g.cols()));
        back.add_bias_share(convolution_of<S>(nothing, weight, {}, tail, starts, back.executor()).cwiseProduct(g).sum());
      }
    }
    const Matrix<S> taps = weight.matrix().transpose();
    Matrix<S> gradient = large_matrix<S>(g.rows(), g.cols(), "a gradient");
    convolve_transposed<S>(taps, starts, g, gradient, back.executor());
    back.add(x, std::move(gradient));
  }
};
}  // namespace detail

/// The causal depthwise convolution of x (tokens, channels) with a weight (channels, width), `[e, t]` weighing token i - width + 1 + t:
/// Conv x + bias. `tail` (width - 1, channels) are the inputs before the first token, or empty; beyond the tokens of `own_starts` and the
/// trace's it does not look back.
template <Real S>
[[nodiscard]] Value<S> convolution(const Value<S>& x, const Array<S>& weight, const Array<S>& bias = {}, const Array<S>& tail = {},
                                   const std::vector<Index>& own_starts = {}) {
  const std::vector<Index> starts = x.trace->starts_with(own_starts);
  check_shape("convolution", "the weight", weight, x.cols(), std::max(weight.cols(), Index(1)), "(channels, width)");
  Matrix<S> out = detail::convolution_of(x.numbers, weight, bias, tail, starts, x.trace->executor());
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), detail::ConvolutionBack<S>{x.link(), weight, bias, tail, starts});
}

/// The last `width - 1` rows of (tail, x): what the next piece of the sequence needs of this one.
template <Real S>
[[nodiscard]] Matrix<S> next_tail(ConstView<S> x, const Array<S>& tail, Index width) {
  Matrix<S> next = Matrix<S>::Zero(width - 1, x.cols());
  for (Index row = 0; row < width - 1; ++row) {
    const Index source = x.rows() - (width - 1) + row;  // negative: in the tail
    if (source >= 0)
      std::copy_n(x.data() + source * x.outerStride(), x.cols(), next.data() + row * x.cols());
    else if (!tail.empty())
      std::copy_n(tail.row(width - 1 + source), x.cols(), next.data() + row * x.cols());
  }
  return next;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
