// The recurrences of heads, softmax attention and RWKV-4's average as operations: y = R x with every factor of R, by the fused kernels and
// their adjoints. Those of channels are in diagonal_recurrence.hpp.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/surrounded_matrix.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>
#include <implicit_attention/trace/diagonal_recurrence.hpp>
#include <implicit_attention/trace/functions.hpp>
#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

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
  if (whole.past_key.rows() > 0) raise(ErrorKind::value, "softmax_attention: carried-in keys cannot be combined with several documents");
  detail::run_loop(executor, static_cast<Index>(starts.size()), [&](Index index) {
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
    if (starts.empty()) {  // one document: there is nothing to join
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
