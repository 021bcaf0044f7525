// The recurrences as operations: y = R x with every factor of R, by the fused kernels there are and their adjoints.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/scan.hpp>
#include <implicit_attention/kernels/scan_gradient.hpp>
#include <implicit_attention/kernels/surrounded_matrix.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>
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

/// y = f(z) * (R + diag(skip)) x, plus what `initial_state` (state, channels) gives, a constant; (tokens, channels). One operation: the
/// scan does all of it. Relevance holds R; half goes to a gate that is homogeneous in z. The state after the last token goes to
/// `final_state` if it is not null. `x_of`: what x is a function of, where something else keeps that anyway; the record then does without
/// x.
template <Real S>
[[nodiscard]] Value<S> diagonal_recurrence(const DiagonalRecurrence<S>& of_one_text, const DiagonalInputs<S>& inputs,
                                           const FunctionOf<S>& gate, const Array<S>& skip, const Value<S>& x,
                                           const Array<S>& initial_state = {}, Matrix<S>* final_state = nullptr,
                                           const FunctionOf<S>& x_of = {}) {
  Trace<S>& trace = *x.trace;
  DiagonalRecurrence<S> recurrence = of_one_text;
  recurrence.starts = trace.starts_with(of_one_text.starts);
  recurrence.check();
  const auto surround = [recurrence, skip](const Matrix<S>* gates) {
    SurroundedDiagonal<S> surrounded;
    surrounded.recurrence = recurrence;
    surrounded.skip = skip;
    if (gates != nullptr) surrounded.gate = Array<S>::view(*gates);
    return surrounded;
  };
  Matrix<S> out = large_matrix<S>(recurrence.tokens, recurrence.channels, "an output");
  {
    const Matrix<S> gates = gate.z.empty() ? Matrix<S>() : function_values<S>(gate.function, *gate.z, trace.executor());
    ScanInput<S> input;
    input.x = x.numbers;
    input.initial_state = initial_state;
    if (final_state != nullptr) {
      final_state->resize(recurrence.state, recurrence.channels);
      View<S> state(*final_state);
      scan<S>(surround(gate.z.empty() ? nullptr : &gates), input, out, trace.executor(), &state);
    } else {
      scan<S>(surround(gate.z.empty() ? nullptr : &gates), input, out, trace.executor());
    }
  }
  if (!trace.records({&x, &gate.z, &inputs.step, &inputs.query, &inputs.key, &inputs.query_scale, &inputs.key_scale, &inputs.diagonal}))
    return trace.constant(std::move(out));
  const Value<S> kept = x_of.z.empty() ? x : x.link();
  auto way_back = [recurrence, inputs, gate, skip, kept, x_of, initial_state, surround](Back<S>& back, const Matrix<S>& g) {
    const auto values = [&](const FunctionOf<S>& of) {
      return of.z.empty() ? Matrix<S>() : function_values<S>(of.function, *of.z, back.executor());
    };
    const bool gated = !gate.z.empty();
    const Matrix<S> gates = values(gate);
    Value<S> in = kept;  // x; its numbers, where they are read
    const auto need_numbers = [&] {
      if (in.empty()) in.numbers = values(x_of);
    };
    const auto by_rows = [&](const auto& body) { detail::for_row_panels(g.rows(), g.cols(), back.executor(), body); };
    if (!back.exact()) {
      const SurroundedDiagonal<S> ungated = surround(nullptr);
      Matrix<S> affine;
      if (!initial_state.empty()) {
        ScanInput<S> input;
        input.initial_state = initial_state;
        affine = large_matrix<S>(g.rows(), g.cols(), "a carried state");
        scan<S>(ungated, input, affine, back.executor());
      }
      const bool halved = gated && homogeneous(gate.function) && back.way() == WayBack::relevance;
      Matrix<S> through = detail::filled_by_rows<S>(g.rows(), g.cols(), back.executor(), [&](View<S> panel, Index first, Index count) {
        detail::Numbers<S> numbers = detail::numbers_in<S>(panel);
        numbers = detail::numbers_in<S>(g, first, count);
        if (gated) numbers *= detail::numbers_in<S>(gates, first, count);
        if (halved) numbers *= S(0.5);
      });
      Matrix<S> grad_x = large_matrix<S>(g.rows(), g.cols(), "a gradient");
      scan_transposed<S>(ungated, through, grad_x, back.executor());
      if (affine.size() != 0) back.add_bias_share(detail::sum_of_products<S>(affine, through));
      back.add(in, std::move(grad_x));
      if (!halved || !gate.z.recorded()) return;
      need_numbers();
      ScanInput<S> input;
      input.x = in.numbers;
      input.initial_state = initial_state;
      Matrix<S> grad_z = large_matrix<S>(g.rows(), g.cols(), "a gradient");  // not y / gate: a gate may be zero
      scan<S>(ungated, input, grad_z, back.executor());
      by_rows([&](Index first, Index count) {
        detail::Numbers<S> part = detail::numbers_in<S>(grad_z, first, count);
        part *= S(0.5) * detail::numbers_in<S>(g, first, count);
        detail::multiply_by_function<S>(part, detail::take_scales<S>, gate.function, (*gate.z).middleRows(first, count));
      });
      return back.add(gate.z, std::move(grad_z));
    }
    // y = gate (R + skip) x, with the gate as the scale of the queries: what it is multiplied with need not be kept, nor divided out of y.
    DiagonalRecurrence<S> gated_recurrence = recurrence;
    const auto times = [](const Array<S>& a, const Matrix<S>& b) -> Array<S> {
      if (a.empty()) return Array<S>::view(b);
      return detail::each_times_each<S>(*a, b);
    };
    if (gated) {
      gated_recurrence.query_scale = times(recurrence.query_scale, gates);
      if (recurrence.read_before_update) gated_recurrence.diagonal = times(recurrence.diagonal, gates);
    }
    need_numbers();
    ScanGradient<S> scanned = scan_gradient<S>(gated_recurrence, *in, initial_state, g, back.executor());
    const bool of_gate = gated && gate.z.recorded();
    Matrix<S> grad_gate;
    if (of_gate && recurrence.query_scale.empty())
      grad_gate = std::move(scanned.query_scale);
    else if (of_gate)
      grad_gate = detail::each_times_each<S>(scanned.query_scale, *recurrence.query_scale);
    by_rows([&](Index first, Index count) {
      for (Index token = first; token < first + count; ++token) {
        const detail::ConstNumbers<S> weight = detail::numbers_in<S>(g, token, 1);
        if (of_gate && recurrence.read_before_update)
          detail::numbers_in<S>(grad_gate, token, 1) +=
              detail::numbers_in<S>(scanned.diagonal, token, 1) * detail::ConstNumbers<S>(recurrence.diagonal.row(token), g.cols());
        if (!skip.empty()) {
          const detail::ConstNumbers<S> skips(skip.row(0), g.cols());
          if (gated)
            detail::numbers_in<S>(scanned.input, token, 1) += weight * detail::numbers_in<S>(gates, token, 1) * skips;
          else
            detail::numbers_in<S>(scanned.input, token, 1) += weight * skips;
          if (of_gate)
            detail::numbers_in<S>(grad_gate, token, 1) += weight * detail::ConstNumbers<S>(in.numbers.row(token), g.cols()) * skips;
        }
      }
      if (of_gate)
        detail::multiply_by_function<S>(detail::numbers_in<S>(grad_gate, first, count), detail::take_slopes<S>, gate.function,
                                        (*gate.z).middleRows(first, count));
    });
    if (of_gate) back.add(gate.z, std::move(grad_gate));
    if (gated && inputs.query_scale.recorded()) detail::multiply_by<S>(scanned.query_scale, gates);
    if (gated && inputs.diagonal.recorded()) detail::multiply_by<S>(scanned.diagonal, gates);
    back.add(in, std::move(scanned.input));
    back.add(inputs.step, std::move(scanned.step));
    back.add(inputs.query, std::move(scanned.query));
    back.add(inputs.key, std::move(scanned.key));
    back.add(inputs.query_scale, std::move(scanned.query_scale));
    back.add(inputs.key_scale, std::move(scanned.key_scale));
    back.add(inputs.diagonal, std::move(scanned.diagonal));
  };
  return trace.record(std::move(out), std::move(way_back));
}

/// RWKV-4's average: o = P x + carry with normalised weights P of exponentials of keys, given as an operator; y = sigmoid(r) o.
/// The weights of a row sum to 1, so with g' = gate * d y,
///     d k_j = sum_i g'_i P[i,j] (x_j - o_i) = x_j (P^T g')_j - (P^T (g' o))_j:
/// two transposed applications of the normalised weights, in which no exponential is ever out of scale.
template <Real S>
[[nodiscard]] Value<S> exponential_average(const ImplicitAttention<S>& weights, const Value<S>& key, const Value<S>& receptance,
                                           const Value<S>& x, Matrix<S>* final_state = nullptr) {
  Trace<S>& trace = *x.trace;
  Matrix<S> out = weights.run(*x, final_state, trace.executor());
  out.array() *= sigmoid(*receptance).array();
  if (!trace.records({&x, &key, &receptance})) return trace.constant(std::move(out));
  return trace.record(std::move(out), [weights, key, receptance, x](Back<S>& back, const Matrix<S>& g) {
    const Matrix<S> gate = sigmoid(*receptance);
    Matrix<S> weighted = g.cwiseProduct(gate);
    Matrix<S> grad_x = weights.apply_transpose(weighted, back.executor());
    if (!back.exact()) {
      if (!weights.form().initial_state.empty()) back.add_bias_share(weights.carry(back.executor()).cwiseProduct(weighted).sum());
      return back.add(x, std::move(grad_x));
    }
    const Matrix<S> average = weights.run(*x, nullptr, back.executor());  // not y / gate, since a gate may be zero
    back.add(receptance, (weighted.array() * average.array() * (S(1) - gate.array())).matrix());
    weighted.array() *= average.array();
    back.add(key, (*x).cwiseProduct(grad_x) - weights.apply_transpose(weighted, back.executor()));
    back.add(x, std::move(grad_x));
  });
}

/// Which values the arrays of a HeadRecurrence are, for the gradient; what is left out is a constant.
template <Real S>
struct HeadInputs {
  Value<S> query, key, key_scale, log_decay, removal, probe, diagonal;
};

/// o = R x, plus what `initial_state` (heads * state, channels / heads) gives, a constant; (tokens, channels). Relevance holds R.
template <Real S>
[[nodiscard]] Value<S> head_recurrence(const HeadRecurrence<S>& of_one_text, const HeadInputs<S>& inputs, const Value<S>& x,
                                       const Array<S>& initial_state = {}, Matrix<S>* final_state = nullptr) {
  Trace<S>& trace = *x.trace;
  HeadRecurrence<S> recurrence = of_one_text;
  recurrence.starts = trace.starts_with(of_one_text.starts);
  recurrence.check();
  check_shape("head_recurrence", "x", *x, recurrence.tokens, recurrence.channels, "(tokens, channels)");
  Matrix<S> out = large_matrix<S>(recurrence.tokens, recurrence.channels, "an output");
  if (final_state != nullptr) {
    final_state->resize(recurrence.heads * recurrence.state, recurrence.head_channels());
    View<S> state(*final_state);
    head_scan<S>(recurrence, x.numbers, initial_state, out, trace.executor(), &state);
  } else {
    head_scan<S>(recurrence, x.numbers, initial_state, out, trace.executor());
  }
  if (!trace.records(
          {&x, &inputs.query, &inputs.key, &inputs.key_scale, &inputs.log_decay, &inputs.removal, &inputs.probe, &inputs.diagonal}))
    return trace.constant(std::move(out));
  return trace.record(std::move(out), [recurrence, inputs, x, initial_state](Back<S>& back, const Matrix<S>& g) {
    if (!back.exact()) {
      if (!initial_state.empty()) {
        Matrix<S> carried = large_matrix<S>(g.rows(), g.cols(), "a carried state");
        head_scan<S>(recurrence, Array<S>(), initial_state, carried, back.executor());
        back.add_bias_share(carried.cwiseProduct(g).sum());
      }
      Matrix<S> grad_x = large_matrix<S>(g.rows(), g.cols(), "a gradient");
      head_scan_transposed<S>(recurrence, g, grad_x, back.executor());
      return back.add(x, std::move(grad_x));
    }
    HeadScanGradient<S> scanned = head_scan_gradient<S>(recurrence, *x, initial_state, g, back.executor());
    back.add(x, std::move(scanned.input));
    back.add(inputs.query, std::move(scanned.query));
    back.add(inputs.key, std::move(scanned.key));
    back.add(inputs.key_scale, std::move(scanned.key_scale));
    back.add(inputs.log_decay, std::move(scanned.log_decay));
    back.add(inputs.removal, std::move(scanned.removal));
    back.add(inputs.probe, std::move(scanned.probe));
    back.add(inputs.diagonal, std::move(scanned.diagonal));
  });
}

namespace detail {
/// The softmax attention of each of the documents in `starts` by itself: body(its recurrence, its first token, its tokens, an executor). No
/// starts: all of it.
template <Real S, class Body>
void for_each_document(const SoftmaxRecurrence<S>& whole, const std::vector<Index>& starts, const Executor& executor, const Body& body) {
  if (starts.empty()) return body(whole, Index(0), whole.tokens, executor);
  if (whole.past_key.rows() > 0)
    raise(ErrorKind::value, "softmax_attention: keys were carried in, and several documents stand in the sequence that would read them");
  executor(static_cast<Index>(starts.size()), [&](Index index) {
    const std::size_t document = static_cast<std::size_t>(index);
    const Index first = starts[document], count = (document + 1 < starts.size() ? starts[document + 1] : whole.tokens) - first;
    SoftmaxRecurrence<S> own = whole;
    own.tokens = count;
    own.query = whole.query.middle_rows(first, count);
    own.key = whole.key.middle_rows(first, count);
    body(own, first, count, serial_executor());
  });
}
}  // namespace detail

/// o = R x + what carried-in keys and values give, R the softmax weights; x (tokens, channels), one block of columns a query head.
/// Relevance holds the weights.
template <Real S>
[[nodiscard]] Value<S> softmax_attention(const SoftmaxRecurrence<S>& recurrence, const Value<S>& query, const Value<S>& key,
                                         const Value<S>& x) {
  recurrence.check();
  Trace<S>& trace = *x.trace;
  check_shape("softmax_attention", "x", *x, recurrence.tokens, recurrence.channels, "(tokens, channels)");
  Matrix<S> out = large_matrix<S>(recurrence.tokens, recurrence.channels, "an output");
  const auto carry = [](const SoftmaxRecurrence<S>& softmax, const Executor& executor) -> Array<S> {
    return softmax.past_key.rows() == 0 ? Array<S>() : Array<S>(softmax_carry(softmax, executor));
  };
  detail::for_each_document<S>(recurrence, trace.starts(), trace.executor(),
                               [&](const SoftmaxRecurrence<S>& own, Index first, Index count, const Executor& executor) {
                                 matrix_apply<S>(SharedMatrix<S>(own), x.numbers.middle_rows(first, count), carry(own, executor),
                                                 out.middleRows(first, count), executor);
                               });
  if (!trace.records({&x, &query, &key})) return trace.constant(std::move(out));
  return trace.record(std::move(out), [recurrence, query, key, x, carry, starts = trace.starts()](Back<S>& back, const Matrix<S>& g) {
    if (!back.exact()) {
      Matrix<S> grad_x = large_matrix<S>(g.rows(), g.cols(), "a gradient");
      const Array<S> carried = carry(recurrence, back.executor());
      if (!carried.empty()) back.add_bias_share(carried.matrix().cwiseProduct(g).sum());
      detail::for_each_document<S>(
          recurrence, starts, back.executor(), [&](const SoftmaxRecurrence<S>& own, Index first, Index count, const Executor& executor) {
            matrix_apply_transposed<S>(SharedMatrix<S>(own), g.middleRows(first, count), grad_x.middleRows(first, count), executor);
          });
      return back.add(x, std::move(grad_x));
    }
    if (starts.empty()) {  // nothing is put together
      SoftmaxGradient<S> gradient = softmax_gradient<S>(recurrence, *x, g, back.executor());
      back.add(x, std::move(gradient.input));
      back.add(query, std::move(gradient.query));
      return back.add(key, std::move(gradient.key));
    }
    Matrix<S> grad_x = large_matrix<S>(g.rows(), g.cols(), "a gradient"),
              grad_query = large_matrix<S>(query.rows(), query.cols(), "a gradient"),
              grad_key = large_matrix<S>(key.rows(), key.cols(), "a gradient");
    detail::for_each_document<S>(
        recurrence, starts, back.executor(), [&](const SoftmaxRecurrence<S>& own, Index first, Index count, const Executor& executor) {
          SoftmaxGradient<S> gradient = softmax_gradient<S>(own, (*x).middleRows(first, count), g.middleRows(first, count), executor);
          grad_x.middleRows(first, count) = gradient.input;
          grad_query.middleRows(first, count) = gradient.query;
          grad_key.middleRows(first, count) = gradient.key;
        });
    back.add(x, std::move(grad_x));
    back.add(query, std::move(grad_query));
    back.add(key, std::move(grad_key));
  });
}

/// y_e[i] = sum_j kernel[e, i - j] x_e[j], the kernel (channels, length) a constant or `kernel`.
template <Real S>
[[nodiscard]] Value<S> toeplitz(const ToeplitzRecurrence<S>& recurrence, const Value<S>& kernel, const Value<S>& x) {
  recurrence.check();
  Trace<S>& trace = *x.trace;
  Matrix<S> out = large_matrix<S>(recurrence.tokens, recurrence.channels, "an output");
  matrix_apply<S>(SharedMatrix<S>(recurrence), x.numbers, Array<S>(), out, trace.executor());
  if (!trace.records({&x, &kernel})) return trace.constant(std::move(out));
  return trace.record(std::move(out), [recurrence, kernel, x](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> grad_x = large_matrix<S>(g.rows(), g.cols(), "a gradient");
    matrix_apply_transposed<S>(SharedMatrix<S>(recurrence), g, grad_x, back.executor());
    back.add(x, std::move(grad_x));
    if (back.exact() && kernel.recorded()) back.add(kernel, toeplitz_kernel_gradient<S>(recurrence, *x, g));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/trace/heads.hpp>  // was part of this header: for one release
