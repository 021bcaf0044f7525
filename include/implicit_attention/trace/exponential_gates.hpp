// Exponential input gates kept in bounds by their running maximum (mLSTM; Beck et al. 2024, arXiv 2405.04517, eq. 15), as an operation.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What a recurrence with decay f_t and writes exp(input_t) becomes when its state is held as exp(-m_t) times itself.
template <Real S>
struct ExponentialGates {
  Value<S> maximum;    ///< m_t = max(m_{t-1} + log f_t, input_t): the largest exponent of a row of R
  Value<S> log_decay;  ///< log f_t + m_{t-1} - m_t <= 0
  Value<S> write;      ///< exp(input_t - m_t) <= 1
};

/// `input` and `log_forget` (tokens, heads); `carried` (1, heads) is the maximum carried in, empty: minus infinity, with which the first
/// decay, which nothing reads, is set to 0.
template <Real S>
[[nodiscard]] ExponentialGates<S> exponential_gates(const Value<S>& input, const Value<S>& log_forget, const Array<S>& carried = {}) {
  check_shape("exponential_gates", "the forget gates", *log_forget, input.rows(), input.cols(), "(tokens, heads)");
  const Index tokens = input.rows(), heads = input.cols();
  Matrix<S> maximum(tokens, heads), log_decay(tokens, heads), write(tokens, heads);
  for (Index head = 0; head < heads; ++head)
    for (Index t = 0; t < tokens; ++t) {
      const S gate = input.numbers(t, head), forget = log_forget.numbers(t, head);
      const bool first = t == 0 && carried.empty();
      const S before = t > 0 ? maximum(t - 1, head) : carried.empty() ? S(0) : carried(0, head);
      maximum(t, head) = first ? gate : std::max(before + forget, gate);
      log_decay(t, head) = first ? S(0) : std::min(before + forget - maximum(t, head), S(0));
      write(t, head) = std::exp(gate - maximum(t, head));
    }
  const std::vector<Array<S>> numbers = {std::move(maximum), std::move(log_decay), std::move(write)};
  Trace<S>& trace = *input.trace;
  if (!trace.records({&input, &log_forget})) return {trace.constant(numbers[0]), trace.constant(numbers[1]), trace.constant(numbers[2])};
  const bool has_past = !carried.empty();
  const std::vector<Value<S>> values = trace.record_all(numbers, [input, log_forget, numbers, has_past](Back<S>& back, Matrix<S>* g) {
    if (!back.exact()) return back.cannot_treat("exponential gates");
    const Index count = input.rows();
    for (Index part = 0; part < 3; ++part)
      if (g[part].size() == 0) g[part] = Matrix<S>::Zero(count, input.cols());
    Matrix<S> to_input(count, input.cols()), to_forget(count, input.cols());
    for (Index head = 0; head < input.cols(); ++head) {
      S through = 0;  // the gradient of m_t from later tokens
      for (Index t = count - 1; t >= 0; --t) {
        const bool first = t == 0 && !has_past;
        const S from_decay = first ? S(0) : g[1](t, head), from_write = g[2](t, head) * numbers[2](t, head);
        const S of_maximum = g[0](t, head) + through - from_decay - from_write;
        const bool decayed = !first && numbers[1](t, head) == S(0);  // the maximum came from before
        to_input(t, head) = from_write + (decayed ? S(0) : of_maximum);
        to_forget(t, head) = from_decay + (decayed ? of_maximum : S(0));
        through = to_forget(t, head);
      }
    }
    back.add(input, std::move(to_input));
    back.add(log_forget, std::move(to_forget));
  });
  return {values[0], values[1], values[2]};
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
