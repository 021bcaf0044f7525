// The recurrence of single channels as an operation: y = f(z) (R + diag(skip)) x with every factor of R, by the fused scan and its adjoint.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/scan.hpp>
#include <implicit_attention/kernels/scan_gradient.hpp>
#include <implicit_attention/trace/functions.hpp>
#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A decay made of a gate, and the factor that keeps the state in bounds: log a = rate r with r = sigmoid(input), m = sqrt(1 - a^2)
/// (De et al. 2024, arXiv 2402.19427, eq. 3-4); at the tokens in `starts` m = 1, whatever the gate says.
template <Real S>
struct GatedDecay {
  Array<S> gate;        ///< (tokens, channels): r
  Value<S> log_decay;   ///< (tokens, channels)
  Value<S> normalizer;  ///< (tokens, channels): m
};

/// `rate` (1, channels) <= 0. The slope of m has no limit as a goes to 1, but that times the gate's own has, and it is 0: so both are one
/// operation. There is no bound on the slope (the Hugging Face port bounds it by 1000, which tells only where 1 - a^2 < 2.5e-7).
template <Real S>
[[nodiscard]] GatedDecay<S> gated_decay(const Value<S>& input, const RowVector<S>& rate, const std::vector<Index>& starts) {
  GatedDecay<S> result;
  const Matrix<S> gate = sigmoid(*input);
  Matrix<S> log_decay = large_matrix(gate);
  for (Index token = 0; token < gate.rows(); ++token)
    detail::numbers_in<S>(log_decay, token, 1) *= detail::ConstNumbers<S>(rate.data(), rate.size());
  Matrix<S> normalizer = sqrt_one_minus_square(log_decay);
  for (const Index start : starts) normalizer.row(start).setOnes();
  result.gate = gate;
  const Array<S> log_a = std::move(log_decay), m = std::move(normalizer), r = result.gate;
  if (!input.trace->records({&input})) {
    result.log_decay = input.trace->constant(log_a);
    result.normalizer = input.trace->constant(m);
    return result;
  }
  const std::vector<Value<S>> values =
      input.trace->record_all({log_a, m}, [input, log_a, m, r, starts](Back<S>& back, Matrix<S>* gradients) {
        if (!back.exact()) return back.cannot_treat("gated decay");
        // d m / d log a = -a^2 / m, and d log a / d input = log a (1 - r). Joined, log a / m goes to 0 with m.
        Matrix<S> gradient = Matrix<S>::Zero(log_a.rows(), log_a.cols());
        if (gradients[0].size() != 0) gradient = gradients[0].cwiseProduct(log_a.matrix());
        if (gradients[1].size() != 0) {
          Matrix<S> slope = (m.matrix().array() > S(0)).select(log_a.matrix().array() / m.matrix().array(), S(0)).matrix();
          slope.array() *= (S(2) * log_a.matrix().array()).exp();
          gradient -= gradients[1].cwiseProduct(slope);
        }
        gradient.array() *= S(1) - r.matrix().array();
        for (const Index start : starts) gradient.row(start).setZero();  // there a = 0 and m = 1
        back.add(input, std::move(gradient));
      });
  result.log_decay = values[0];
  result.normalizer = values[1];
  return result;
}

/// Which values the arrays of a DiagonalRecurrence are, for the gradient; what is left out is a constant.
template <Real S>
struct DiagonalInputs {
  Value<S> step, query, key, query_scale, key_scale, diagonal;
};

/// Numbers f(z), computed where they are needed and kept nowhere: a gate at the output token, say.
template <Real S>
struct FunctionOf {
  Function function = Function::identity;
  Value<S> z;  ///< (tokens, channels), before the function; empty: there are no such numbers
};
template <Real S>
using GateInput [[deprecated("renamed: FunctionOf")]] = FunctionOf<S>;

namespace detail {
/// gate * (R + diag(skip)), as the scans take it; `gate` (tokens, channels) or empty.
template <Real S>
[[nodiscard]] SurroundedDiagonal<S> gated_and_skipped(const DiagonalRecurrence<S>& recurrence, const Array<S>& skip, const Array<S>& gate) {
  SurroundedDiagonal<S> surrounded;
  surrounded.recurrence = recurrence;
  surrounded.skip = skip;
  surrounded.gate = gate;
  return surrounded;
}

/// A function, or its slope, of a few numbers at a time; nothing where there are none or the function is none.
template <Real S>
[[nodiscard]] NumberChange<S> change_by(const FunctionOf<S>& of, TakeFunction<S> take) {
  if (of.z.empty() || of.function == Function::identity) return {};
  return [take, function = of.function](Numbers<S> numbers) { take(function, numbers); };
}

template <Real S>
struct DiagonalRecurrenceBack {
  static constexpr std::string_view operation = "diagonal_recurrence";
  DiagonalRecurrence<S> recurrence;
  DiagonalInputs<S> inputs;
  FunctionOf<S> gate;
  Array<S> skip;
  Value<S> x;  // without its numbers where they are those of x_of
  FunctionOf<S> x_of;
  Array<S> initial_state;

  void walk(Back<S>& back, const Matrix<S>& g) const {
    if (back.exact())
      walk_gradient(back, g);
    else
      walk_relevance(back, g, values(gate, back));
  }

 private:
  [[nodiscard]] static Matrix<S> values(const FunctionOf<S>& of, const Back<S>& back) {
    return of.z.empty() ? Matrix<S>() : function_values<S>(of.function, *of.z, back.executor());
  }
  [[nodiscard]] Array<S> numbers_of_x(const Back<S>& back) const { return x.empty() ? Array<S>(values(x_of, back)) : x.numbers; }
  void walk_relevance(Back<S>& back, const Matrix<S>& g, const Matrix<S>& gates) const;
  void walk_gradient(Back<S>& back, const Matrix<S>& g) const;
};

template <Real S>
void DiagonalRecurrenceBack<S>::walk_relevance(Back<S>& back, const Matrix<S>& g, const Matrix<S>& gates) const {
  const bool gated = !gate.z.empty();
  const SurroundedDiagonal<S> ungated = gated_and_skipped<S>(recurrence, skip, {});
  Matrix<S> affine;
  if (!initial_state.empty()) {
    ScanInput<S> input;
    input.initial_state = initial_state;
    affine = large_matrix<S>(g.rows(), g.cols(), "a carried state");
    scan<S>(ungated, input, affine, back.executor());
  }
  const bool halved = gated && homogeneous(gate.function) && back.way() == WayBack::relevance;
  Matrix<S> through = filled_by_rows<S>(g.rows(), g.cols(), back.executor(), [&](View<S> panel, Index first, Index count) {
    Numbers<S> numbers = numbers_in<S>(panel);
    numbers = numbers_in<S>(g, first, count);
    if (gated) numbers *= numbers_in<S>(gates, first, count);
    if (halved) numbers *= S(0.5);
  });
  Matrix<S> grad_x = large_matrix<S>(g.rows(), g.cols(), "a gradient");
  scan_transposed<S>(ungated, through, grad_x, back.executor());
  if (affine.size() != 0) back.add_bias_share(sum_of_products<S>(affine, through));
  back.add(x, std::move(grad_x));
  if (!halved || !gate.z.recorded()) return;
  ScanInput<S> input;
  input.x = numbers_of_x(back);
  input.initial_state = initial_state;
  Matrix<S> grad_z = large_matrix<S>(g.rows(), g.cols(), "a gradient");  // not y / gate: a gate may be zero
  scan<S>(ungated, input, grad_z, back.executor());
  for_row_panels(g.rows(), g.cols(), back.executor(), [&](Index first, Index count) {
    Numbers<S> part = numbers_in<S>(grad_z, first, count);
    part *= S(0.5) * numbers_in<S>(g, first, count);
    multiply_by_function<S>(part, take_scales<S>, gate.function, (*gate.z).middleRows(first, count));
  });
  back.add(gate.z, std::move(grad_z));
}

template <Real S>
void DiagonalRecurrenceBack<S>::walk_gradient(Back<S>& back, const Matrix<S>& g) const {
  const bool one_step = inputs.step.recorded() && inputs.step.slot == inputs.key_scale.slot;
  const Array<S>& of_x = x.empty() ? x_of.z.numbers : x.numbers;
  ScanFunctions<S> functions;
  if (x.empty()) functions.input = change_by<S>(x_of, take_values<S>);
  functions.gate = change_by<S>(gate, take_values<S>);
  functions.gate_slope = change_by<S>(gate, take_slopes<S>);
  ScanGradient<S> scanned = scan_gradient<S>(gated_and_skipped<S>(recurrence, skip, gate.z.numbers), *of_x, initial_state, g,
                                             back.executor(), one_step, functions);
  back.add(gate.z, std::move(scanned.gate));
  back.add(x, std::move(scanned.input));
  back.add(inputs.step, std::move(scanned.step));
  back.add(inputs.query, std::move(scanned.query));
  back.add(inputs.key, std::move(scanned.key));
  back.add(inputs.query_scale, std::move(scanned.query_scale));
  if (!one_step) back.add(inputs.key_scale, std::move(scanned.key_scale));
  back.add(inputs.diagonal, std::move(scanned.diagonal));
}
}  // namespace detail

/// y = f(z) * (R + diag(skip)) x, plus what `initial_state` (state, channels) gives, a constant; (tokens, channels). One operation: the
/// scan does all of it. Relevance holds R; half goes to a gate that is homogeneous in z. The state after the last token goes to
/// `final_state` if it is not null. `x_of`: what x is a function of, where something else keeps that anyway; then the record keeps no x.
/// `known`: the numbers, or others of their shape, where the way back alone is wanted; there is no final state then.
template <Real S>
[[nodiscard]] Value<S> diagonal_recurrence(const DiagonalRecurrence<S>& of_one_text, const DiagonalInputs<S>& inputs,
                                           const FunctionOf<S>& gate, const Array<S>& skip, const Value<S>& x,
                                           const Array<S>& initial_state = {}, Matrix<S>* final_state = nullptr,
                                           const FunctionOf<S>& x_of = {}, const Array<S>* known = nullptr) {
  Trace<S>& trace = *x.trace;
  DiagonalRecurrence<S> recurrence = of_one_text;
  recurrence.starts = trace.starts_with(of_one_text.starts);
  recurrence.check();
  Array<S> numbers;
  if (known != nullptr) {
    numbers = *known;
  } else {
    Matrix<S> out = large_matrix<S>(recurrence.tokens, recurrence.channels, "an output");
    const SurroundedDiagonal<S> surrounded = detail::gated_and_skipped(recurrence, skip, gate.z.numbers);
    const NumberChange<S> gate_by = detail::change_by<S>(gate, detail::take_values<S>);
    ScanInput<S> input;
    input.x = x.numbers;
    input.initial_state = initial_state;
    if (final_state != nullptr) {
      final_state->resize(recurrence.state, recurrence.channels);
      View<S> state(*final_state);
      scan<S>(surrounded, input, out, trace.executor(), &state, gate_by);
    } else {
      scan<S>(surrounded, input, out, trace.executor(), nullptr, gate_by);
    }
    numbers = std::move(out);
  }
  if (!trace.records({&x, &gate.z, &inputs.step, &inputs.query, &inputs.key, &inputs.query_scale, &inputs.key_scale, &inputs.diagonal}))
    return trace.constant(std::move(numbers));
  const Value<S> kept = x_of.z.empty() ? x : x.link();
  return trace.record(std::move(numbers), detail::DiagonalRecurrenceBack<S>{recurrence, inputs, gate, skip, kept, x_of, initial_state});
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
