// Operations number by number: functions, sums, products.
#pragma once

#include <initializer_list>
#include <string_view>
#include <utility>

#include <implicit_attention/trace/functions.hpp>
#include <implicit_attention/trace/products.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// Numbers of the values' shape, made by fill(panel, first, count) row by row: in place of the first of them whose last use this is, that
/// is, where nothing shares them, and, where `walk_reads` them, nothing is recorded. An operation takes what it may overwrite by value, so
/// that whoever has no more use for a value moves it in: a text's activations are then one array after the other in the same memory.
template <Real S, class Fill>
[[nodiscard]] Array<S> filled_over(std::initializer_list<Value<S>*> values, const Fill& fill, bool walk_reads = true) {
  const Value<S>& first_value = **values.begin();
  const Index rows = first_value.rows(), columns = first_value.cols();
  const Executor& executor = first_value.trace->executor();
  if (!walk_reads || !first_value.trace->recording())
    for (Value<S>* const value : values)
      if (Matrix<S>* const own = value->numbers.sole_owner(); own != nullptr && own->rows() == rows && own->cols() == columns) {
        for_row_panels(rows, columns, executor,
                       [&](Index first, Index count) { fill(View<S>(own->data() + first * columns, count, columns), first, count); });
        return std::move(value->numbers);
      }
  return filled_by_rows<S>(rows, columns, executor, fill);
}

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

/// f(x), in place of x where this is its last use.
template <Real S>
[[nodiscard]] Array<S> function_over(Function function, Value<S>& x, bool walk_reads = true) {
  return filled_over<S>(
      {&x},
      [function, from = *x](View<S> panel, Index first, Index count) {
        set_changed<S>(panel, from.middleRows(first, count), [function](Numbers<S> numbers) { take_values<S>(function, numbers); });
      },
      walk_reads);
}
}  // namespace detail

/// f(x), number by number. Relevance goes through functions f(x) = scale(x) x; it has no rule for the others.
template <Real S>
[[nodiscard]] Value<S> apply_function(Function function, Value<S> x) {
  Array<S> out = detail::function_over(function, x);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), detail::FunctionBack<S>{x, function});
}
template <Real S>
[[nodiscard]] Value<S> sigmoid(Value<S> x) {
  return apply_function(Function::sigmoid, std::move(x));
}
template <Real S>
[[nodiscard]] Value<S> silu(Value<S> x) {
  return apply_function(Function::silu, std::move(x));
}
template <Real S>
[[nodiscard]] Value<S> softplus(Value<S> x) {
  Array<S> out = detail::function_over(Function::softplus, x, false);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(out, detail::SoftplusBack<S>{x.link(), out});
}

/// a + b.
template <Real S>
[[nodiscard]] Value<S> add(Value<S> a, Value<S> b) {
  Array<S> out = detail::filled_over<S>(
      {&a, &b},
      [from_a = *a, from_b = *b](View<S> panel, Index first, Index count) {
        panel = from_a.middleRows(first, count) + from_b.middleRows(first, count);
      },
      false);
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
[[nodiscard]] Value<S> times(Value<S> x, S factor) {
  if (factor == S(1)) return x;
  Array<S> out = detail::filled_over<S>(
      {&x}, [factor, from = *x](View<S> panel, Index first, Index count) { panel = from.middleRows(first, count) * factor; }, false);
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
[[nodiscard]] Value<S> multiply(Value<S> a, Value<S> b, FirstFactor first) {
  check_shape("product", "the second factor", *b, a.rows(), a.cols(), "as the first");
  Array<S> out = filled_over<S>({&a, &b}, [from_a = *a, from_b = *b](View<S> panel, Index row, Index rows) {
    panel = from_a.middleRows(row, rows).cwiseProduct(from_b.middleRows(row, rows));
  });
  if (!a.trace->records({&a, &b})) return a.trace->constant(std::move(out));
  return a.trace->record(std::move(out), ProductBack<S>{a, b, first});
}
}  // namespace detail

/// a * b, number by number, both homogeneous in the input: half of the relevance to each.
template <Real S>
[[nodiscard]] Value<S> product(Value<S> a, Value<S> b) {
  return detail::multiply(std::move(a), std::move(b), detail::FirstFactor::takes_half);
}
/// The gate of a token mixer times what it gates: as `product`, but held by WayBack::attention.
template <Real S>
[[nodiscard]] Value<S> gate(Value<S> a, Value<S> b) {
  return detail::multiply(std::move(a), std::move(b), detail::FirstFactor::takes_half_unless_held);
}
/// f(z) * x, number by number, half of the relevance to each: f(z) is computed again where it is needed and kept nowhere.
template <Real S>
[[nodiscard]] Value<S> gated_product(Function function, Value<S> z, const Value<S>& x) {
  Array<S> out = detail::filled_over<S>({&z}, [function, from = *z, &x](View<S> panel, Index first, Index count) {
    detail::set_changed<S>(panel, from.middleRows(first, count),
                           [function](detail::Numbers<S> z_numbers) { detail::take_values<S>(function, z_numbers); });
    panel.array() *= ConstView<S>((*x).middleRows(first, count)).array();
  });
  if (!x.trace->records({&z, &x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), detail::GatedProductBack<S>{function, z, x});
}
/// s * x, number by number: s is a scale and carries no relevance.
template <Real S>
[[nodiscard]] Value<S> scale(Value<S> s, Value<S> x) {
  return detail::multiply(std::move(s), std::move(x), detail::FirstFactor::held);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
