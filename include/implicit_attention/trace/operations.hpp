// The operations that layers are written from. Each gives its numbers and, where the pass is recorded, its two ways back: the exact
// gradient, and relevance (MambaLRP, arXiv 2406.07592) with data-dependent scales held constant.
//
//   product(a, b)  both factors carry relevance, half each: gates that are homogeneous in their input (SiLU, GELU, linear gates)
//   gate(a, b)     the same for the gate of a token mixer, which is part of the layer's operator A and held by WayBack::attention
//   scale(s, x)    s is a scale and carries none: sigmoid gates, decays, softmax weights, routing, norm statistics
#pragma once

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/trace/elementwise.hpp>
#include <implicit_attention/trace/norms.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
template <Real S>
struct LinearBack {
  static constexpr std::string_view operation = "linear";
  Value<S> x;
  Array<S> weight, bias;
  void walk(Back<S>& back, const Matrix<S>& g) const {
    if (!bias.empty() && !back.exact()) back.add_bias_share(g.colwise().sum().dot(bias.matrix().row(0)));
    if (x.recorded()) project_back<S>(g, weight, back.gradient(x.slot), back.executor());
  }
};
}  // namespace detail

/// x weight^T + bias, (tokens, rows of weight); `weight` (outputs, inputs), `bias` (1, outputs) or empty. `known`: the numbers, where they
/// have been computed before (a model's logits, whose way back alone is wanted).
template <Real S>
[[nodiscard]] Value<S> linear(const Value<S>& x, const Array<S>& weight, const Array<S>& bias = {}, const Array<S>* known = nullptr) {
  if (x.cols() != weight.cols())
    detail::raise(ErrorKind::shape, "linear: the input is ", shape_text({x.rows(), x.cols()}), ", expected (tokens, ", weight.cols(), ")");
  Array<S> out = known != nullptr ? *known : Array<S>(detail::project<S>(*x, weight, bias, x.trace->executor()));
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), detail::LinearBack<S>{x.link(), weight, bias});
}

/// Block-diagonal: out[h, q] = sum_p x[h, p] weight[h, p, q] + bias[h, q]; `weight` is (blocks * size, size), `bias` (blocks, size).
template <Real S>
[[nodiscard]] Value<S> block_linear(const Value<S>& x, const Array<S>& weight, const Array<S>& bias = {}) {
  const Index size = weight.cols(), blocks = x.cols() / size;
  check_shape("block_linear", "the weight", weight, x.cols(), size, "(blocks * size, size)");
  Matrix<S> out = large_matrix<S>(x.rows(), x.cols(), "a projection");
  Matrix<S> panel;
  for (Index block = 0; block < blocks; ++block) {
    detail::set_product(out.middleCols(block * size, size), (*x).middleCols(block * size, size),
                        detail::numbers_of(weight, block * size, size, 0, size, panel));
    if (!bias.empty()) out.middleCols(block * size, size).rowwise() += bias.matrix().row(block);
  }
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link(), weight, bias, size, blocks](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> gradient(g.rows(), g.cols()), numbers;
    for (Index block = 0; block < blocks; ++block) {
      detail::set_product(gradient.middleCols(block * size, size), g.middleCols(block * size, size),
                          detail::numbers_of(weight, block * size, size, 0, size, numbers), detail::Transposed::right);
      if (!bias.empty() && !back.exact())
        back.add_bias_share(g.middleCols(block * size, size).colwise().sum().dot(bias.matrix().row(block)));
    }
    back.add(x, std::move(gradient));
  });
}

namespace detail {
template <Real S>
struct ColumnsBack {
  static constexpr std::string_view operation = "columns";
  Value<S> x;
  Index first;
  void walk(Back<S>& back, const Matrix<S>& g) const { back.add_columns(x, first, g); }
};
}  // namespace detail

/// Neighbouring columns of x, without a copy.
template <Real S>
[[nodiscard]] Value<S> columns(const Value<S>& x, Index first, Index count) {
  Array<S> part = x.numbers.middle_columns(first, count);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(part));
  return x.trace->record(std::move(part), detail::ColumnsBack<S>{x, first});
}

/// Chosen columns of x, in the order of `indices`.
template <Real S>
[[nodiscard]] Value<S> gather_columns(const Value<S>& x, std::vector<Index> indices) {
  Matrix<S> out = large_matrix<S>(x.rows(), static_cast<Index>(indices.size()), "an activation");
  for (Index row = 0; row < out.rows(); ++row)
    for (std::size_t column = 0; column < indices.size(); ++column) out(row, static_cast<Index>(column)) = x.numbers(row, indices[column]);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x, indices = std::move(indices)](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> spread = Matrix<S>::Zero(x.rows(), x.cols());
    for (Index row = 0; row < g.rows(); ++row)
      for (std::size_t column = 0; column < indices.size(); ++column) spread(row, indices[column]) += g(row, static_cast<Index>(column));
    back.add(x, std::move(spread));
  });
}

/// Values side by side, (tokens, sum of columns).
template <Real S>
[[nodiscard]] Value<S> join(const std::vector<Value<S>>& values) {
  Index width = 0;
  bool records = false;
  for (const Value<S>& value : values) {
    width += value.cols();
    records = records || value.recorded();
  }
  Trace<S>& trace = *values.front().trace;
  Matrix<S> out = large_matrix<S>(values.front().rows(), width, "an activation");
  Index first = 0;
  for (const Value<S>& value : values) {
    out.middleCols(first, value.cols()) = *value;
    first += value.cols();
  }
  if (!records) return trace.constant(std::move(out));
  return trace.record(std::move(out), [values](Back<S>& back, const Matrix<S>& g) {
    Index at = 0;
    for (const Value<S>& value : values) {
      if (value.recorded()) back.add(value, g.middleCols(at, value.cols()));
      at += value.cols();
    }
  });
}

namespace detail {
template <Real S>
struct NormBack {
  static constexpr std::string_view operation = "normalize";
  Value<S> x;
  Norm<S> norm;
  typename Norm<S>::Statistics made;
  void walk(Back<S>& back, const Matrix<S>& g) const {
    if (back.exact()) return back.add(x, norm.backward(*x, made, g, back.executor()));
    if (norm.bias().size() != 0) back.add_bias_share(g.colwise().sum().dot(norm.bias()));
    back.add(x, norm.backward_scale_constant(made, g, back.executor()));
  }
};
}  // namespace detail

/// A norm of every token (and group). `statistics`, if given, receives what it divided by. Relevance holds them.
template <Real S>
[[nodiscard]] Value<S> normalize(const Norm<S>& norm, const Value<S>& x, typename Norm<S>::Statistics* statistics = nullptr) {
  if (x.cols() != norm.width())
    detail::raise(ErrorKind::shape, "norm: the input is ", shape_text({x.rows(), x.cols()}), ", expected (tokens, ", norm.width(), ")");
  if (statistics == nullptr && !x.trace->records({&x})) return x.trace->constant(norm(*x, x.trace->executor()));
  typename Norm<S>::Statistics made = norm.statistics(*x, x.trace->executor());
  if (statistics != nullptr) *statistics = made;
  Matrix<S> out = norm.apply(*x, made, x.trace->executor());
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), detail::NormBack<S>{x, norm, std::move(made)});
}

/// x minus the mean over each of `groups` groups of neighbouring columns: a symmetric projection.
template <Real S>
[[nodiscard]] Matrix<S> centred(ConstView<S> x, Index groups) {
  Matrix<S> out = x;
  const Index size = x.cols() / groups;
  for (Index group = 0; group < groups; ++group) {
    Eigen::Block<Matrix<S>, Eigen::Dynamic, Eigen::Dynamic, false> part = out.middleCols(group * size, size);
    part.colwise() -= part.rowwise().mean().eval();
  }
  return out;
}
template <Real S>
[[nodiscard]] Value<S> centre(const Value<S>& x, Index groups) {
  Matrix<S> out = centred<S>(*x, groups);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link(), groups](Back<S>& back, const Matrix<S>& g) { back.add(x, centred<S>(g, groups)); });
}

/// cap tanh(x / cap): relevance holds tanh(x / cap) / (x / cap), 1 at 0. `known` as for `linear`.
template <Real S>
[[nodiscard]] Value<S> soft_cap(Value<S> x, S cap, const Array<S>* known = nullptr) {
  const auto capped = [cap, from = *x](View<S> panel, Index first, Index count) {
    panel.array() = cap * (from.middleRows(first, count).array() / cap).tanh();
  };
  Array<S> out = known != nullptr ? *known : detail::filled_over<S>({&x}, capped);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(out, [x = x.link(), cap, out](Back<S>& back, Matrix<S>& g) {
    if (back.exact())
      g.array() *= S(1) - (out.matrix().array() / cap).square();
    else
      g = g.binaryExpr(*out, [cap](S gradient, S number) { return gradient * soft_cap_scale(number / cap); });
    back.add(x, std::move(g));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/trace/causal_convolution.hpp>  // was part of this header: for one release
