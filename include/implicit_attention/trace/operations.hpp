// The operations that layers are written from. Each gives its numbers and, where the pass is recorded, its two ways back: the exact
// gradient, and relevance (MambaLRP, arXiv 2406.07592) with data-dependent scales held constant.
//
//   product(a, b)  both factors carry relevance, half each: gates that are homogeneous in their input (SiLU, GELU, linear gates)
//   gate(a, b)     the same for the gate of a token mixer, which is part of the layer's operator A and held by WayBack::attention
//   scale(s, x)    s is a scale and carries none: sigmoid gates, decays, softmax weights, routing, norm statistics
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/trace/norms.hpp>
#include <implicit_attention/trace/functions.hpp>
#include <implicit_attention/trace/products.hpp>
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
    back.add(x, project_back<S>(g, weight, back.executor()));
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
/// One of take_values, take_slopes and take_scales of rows of x, as factors of numbers that are there.
template <Real S>
void multiply_by_function(Numbers<S> numbers, TakeFunction<S> take, Function function, ConstView<S> x) {
  Matrix<S> factors = x;
  take(function, numbers_in<S>(factors));
  numbers *= numbers_in<S>(factors);
}

template <Real S>
struct FunctionBack {
  static constexpr std::string_view operation = "apply_function";
  Value<S> x;
  Function function;
  void walk(Back<S>& back, Matrix<S>& g) const {
    if (!back.exact() && !homogeneous(function)) return back.cannot_treat(function_name(function));
    for_row_panels(g.rows(), g.cols(), back.executor(), [&](Index first, Index count) {
      multiply_by_function<S>(numbers_in<S>(g, first, count), back.exact() ? take_slopes<S> : take_scales<S>, function,
                              (*x).middleRows(first, count));
    });
    back.add(x, std::move(g));
  }
};

template <Real S>
struct SoftplusBack {
  static constexpr std::string_view operation = "softplus";
  Value<S> x;
  Array<S> out;  // the slope is 1 - exp(-out): the numbers of x need not be kept
  void walk(Back<S>& back, Matrix<S>& g) const {
    if (!back.exact()) return back.cannot_treat(function_name(Function::softplus));
    for_row_panels(g.rows(), g.cols(), back.executor(), [&](Index first, Index count) {
      numbers_in<S>(g, first, count) *= -(-ConstNumbers<S>(out.row(first), count * out.cols())).expm1();
    });
    back.add(x, std::move(g));
  }
};
}  // namespace detail

/// f(x), number by number. Relevance goes through functions f(x) = scale(x) x; it has no rule for the others.
template <Real S>
[[nodiscard]] Value<S> apply_function(Function function, const Value<S>& x) {
  Matrix<S> out = function_values<S>(function, *x, x.trace->executor());
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), detail::FunctionBack<S>{x, function});
}
template <Real S>
[[nodiscard]] Value<S> sigmoid(const Value<S>& x) {
  return apply_function(Function::sigmoid, x);
}
template <Real S>
[[nodiscard]] Value<S> silu(const Value<S>& x) {
  return apply_function(Function::silu, x);
}
template <Real S>
[[nodiscard]] Value<S> softplus(const Value<S>& x) {
  Array<S> out = function_values<S>(Function::softplus, *x, x.trace->executor());
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(out, detail::SoftplusBack<S>{x.link(), out});
}

/// a + b.
template <Real S>
[[nodiscard]] Value<S> add(const Value<S>& a, const Value<S>& b) {
  Matrix<S> out = detail::filled_by_rows<S>(a.rows(), a.cols(), a.trace->executor(), [&](View<S> panel, Index first, Index count) {
    panel = (*a).middleRows(first, count) + (*b).middleRows(first, count);
  });
  if (!a.trace->records({&a, &b})) return a.trace->constant(std::move(out));
  return a.trace->record(std::move(out), [a = a.link(), b = b.link()](Back<S>& back, Matrix<S>& g) {
    back.add(a, g);
    back.add(b, std::move(g));
  });
}

/// a - b.
template <Real S>
[[nodiscard]] Value<S> subtract(const Value<S>& a, const Value<S>& b) {
  Matrix<S> out = large_matrix(*a - *b);
  if (!a.trace->records({&a, &b})) return a.trace->constant(std::move(out));
  return a.trace->record(std::move(out), [a = a.link(), b = b.link()](Back<S>& back, Matrix<S>& g) {
    back.add(a, g);
    back.add(b, -g);
  });
}

/// factor x, a constant factor.
template <Real S>
[[nodiscard]] Value<S> times(const Value<S>& x, S factor) {
  if (factor == S(1)) return x;
  Matrix<S> out = large_matrix(*x * factor);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link(), factor](Back<S>& back, Matrix<S>& g) {
    g *= factor;
    back.add(x, std::move(g));
  });
}

/// Every row of x times `row` (1, columns), constants.
template <Real S>
[[nodiscard]] Value<S> times_row(const Value<S>& x, const Array<S>& row) {
  check_vector("times_row", "row", row, x.cols(), "columns");
  Matrix<S> out = large_matrix(((*x).array().rowwise() * row.matrix().row(0).array()).matrix());
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link(), row](Back<S>& back, Matrix<S>& g) {
    g.array().rowwise() *= row.matrix().row(0).array();
    back.add(x, std::move(g));
  });
}

/// Every row of x plus `row` (1, columns), constants.
template <Real S>
[[nodiscard]] Value<S> plus_row(const Value<S>& x, const Array<S>& row) {
  check_vector("plus_row", "row", row, x.cols(), "columns");
  Matrix<S> out = *x;
  out.rowwise() += row.matrix().row(0);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link(), row](Back<S>& back, Matrix<S>& g) {
    if (!back.exact()) back.add_bias_share(g.colwise().sum().dot(row.matrix().row(0)));
    back.add(x, std::move(g));
  });
}

/// 1 - x.
template <Real S>
[[nodiscard]] Value<S> one_minus(const Value<S>& x) {
  Matrix<S> out = (S(1) - (*x).array()).matrix();
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x = x.link()](Back<S>& back, Matrix<S>& g) {
    if (!back.exact()) back.add_bias_share(g.sum());
    back.add(x, -g);
  });
}

namespace detail {
/// What a product does with the relevance of its first factor.
enum class FirstFactor { takes_half, takes_half_unless_held, held };

template <Real S>
struct ProductBack {
  static constexpr std::string_view operation = "product";
  Value<S> a, b;
  FirstFactor first;
  void walk(Back<S>& back, Matrix<S>& g) const {
    const bool held = first == FirstFactor::held || (first == FirstFactor::takes_half_unless_held && back.way() == WayBack::attention);
    if (!back.exact() && held) {
      g.array() *= (*a).array();
      return back.add(b, std::move(g));
    }
    if (!back.exact()) g *= S(0.5);
    if (a.recorded()) back.add(a, g.cwiseProduct(*b));
    g.array() *= (*a).array();
    back.add(b, std::move(g));
  }
};

template <Real S>
struct GatedProductBack {
  static constexpr std::string_view operation = "gated_product";
  Function function;
  Value<S> z, x;
  void walk(Back<S>& back, Matrix<S>& g) const {
    if (!back.exact()) g *= homogeneous(function) ? S(0.5) : S(1);
    if (z.recorded() && (back.exact() || homogeneous(function)))
      back.add(z, filled_by_rows<S>(g.rows(), g.cols(), back.executor(), [&](View<S> panel, Index row, Index rows) {
                 panel = g.middleRows(row, rows).cwiseProduct((*x).middleRows(row, rows));
                 multiply_by_function<S>(numbers_in<S>(panel), back.exact() ? take_slopes<S> : take_scales<S>, function,
                                         (*z).middleRows(row, rows));
               }));
    for_row_panels(g.rows(), g.cols(), back.executor(), [&](Index row, Index rows) {
      multiply_by_function<S>(numbers_in<S>(g, row, rows), take_values<S>, function, (*z).middleRows(row, rows));
    });
    back.add(x, std::move(g));
  }
};

template <Real S>
[[nodiscard]] Value<S> multiply(const Value<S>& a, const Value<S>& b, FirstFactor first) {
  check_shape("product", "the second factor", *b, a.rows(), a.cols(), "as the first");
  Matrix<S> out = detail::filled_by_rows<S>(a.rows(), a.cols(), a.trace->executor(), [&](View<S> panel, Index row, Index rows) {
    panel = (*a).middleRows(row, rows).cwiseProduct((*b).middleRows(row, rows));
  });
  if (!a.trace->records({&a, &b})) return a.trace->constant(std::move(out));
  return a.trace->record(std::move(out), ProductBack<S>{a, b, first});
}
}  // namespace detail

/// a * b, number by number, both homogeneous in the input: half of the relevance to each.
template <Real S>
[[nodiscard]] Value<S> product(const Value<S>& a, const Value<S>& b) {
  return detail::multiply(a, b, detail::FirstFactor::takes_half);
}
/// The gate of a token mixer times what it gates: as `product`, but held by WayBack::attention.
template <Real S>
[[nodiscard]] Value<S> gate(const Value<S>& a, const Value<S>& b) {
  return detail::multiply(a, b, detail::FirstFactor::takes_half_unless_held);
}
/// f(z) * x, number by number, half of the relevance to each: f(z) is computed again where it is needed and kept nowhere.
template <Real S>
[[nodiscard]] Value<S> gated_product(Function function, const Value<S>& z, const Value<S>& x) {
  Matrix<S> out = detail::filled_by_rows<S>(z.rows(), z.cols(), z.trace->executor(), [&](View<S> panel, Index first, Index count) {
    panel = ConstView<S>((*z).middleRows(first, count));
    detail::take_values<S>(function, detail::numbers_in<S>(panel));
    panel.array() *= ConstView<S>((*x).middleRows(first, count)).array();
  });
  if (!x.trace->records({&z, &x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), detail::GatedProductBack<S>{function, z, x});
}
/// s * x, number by number: s is a scale and carries no relevance.
template <Real S>
[[nodiscard]] Value<S> scale(const Value<S>& s, const Value<S>& x) {
  return detail::multiply(s, x, detail::FirstFactor::held);
}

/// Neighbouring columns of x, without a copy.
template <Real S>
[[nodiscard]] Value<S> columns(const Value<S>& x, Index first, Index count) {
  Array<S> part = x.numbers.middle_columns(first, count);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(part));
  return x.trace->record(std::move(part), [x, first](Back<S>& back, const Matrix<S>& g) { back.add_columns(x, first, g); });
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
  std::shared_ptr<const typename Norm<S>::Statistics> made;
  void walk(Back<S>& back, const Matrix<S>& g) const {
    if (back.exact()) return back.add(x, norm.backward(*x, *made, g, back.executor()));
    if (norm.bias().size() != 0) back.add_bias_share(g.colwise().sum().dot(norm.bias()));
    back.add(x, norm.backward_scale_constant(*made, g, back.executor()));
  }
};
}  // namespace detail

/// A norm of every token (and group). `statistics`, if given, receives what it divided by. Relevance holds them.
template <Real S>
[[nodiscard]] Value<S> normalize(const Norm<S>& norm, const Value<S>& x, typename Norm<S>::Statistics* statistics = nullptr) {
  if (x.cols() != norm.width())
    detail::raise(ErrorKind::shape, "norm: the input is ", shape_text({x.rows(), x.cols()}), ", expected (tokens, ", norm.width(), ")");
  const auto made = std::make_shared<const typename Norm<S>::Statistics>(norm.statistics(*x, x.trace->executor()));
  if (statistics != nullptr) *statistics = *made;
  Matrix<S> out = norm.apply(*x, *made, x.trace->executor());
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), detail::NormBack<S>{x, norm, made});
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
[[nodiscard]] Value<S> soft_cap(const Value<S>& x, S cap, const Array<S>* known = nullptr) {
  const Array<S> out = known != nullptr ? *known : Array<S>(Matrix<S>((cap * ((*x).array() / cap).tanh()).matrix()));
  if (!x.trace->records({&x})) return x.trace->constant(out);
  return x.trace->record(out, [x = x.link(), cap, out](Back<S>& back, Matrix<S>& g) {
    if (back.exact())
      g.array() *= S(1) - (out.matrix().array() / cap).square();
    else  // with t = tanh(x / cap) the scale is t / artanh(t)
      g = g.binaryExpr(
          *out, [cap](S gradient, S number) { return number == S(0) ? gradient : gradient * (number / cap) / std::atanh(number / cap); });
    back.add(x, std::move(g));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/trace/causal_convolution.hpp>  // was part of this header: for one release
