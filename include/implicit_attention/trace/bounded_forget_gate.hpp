// The forget gate of HGRN and HGRN2 with its lower bound, as an operation: right where the gate is near 0 and near 1.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// f = b + (1 - b) sigmoid(z): what is kept; 1 - f: what is written.
template <Real S>
struct ForgetGate {
  Value<S> write;      ///< 1 - f = (1 - b) sigmoid(-z)
  Value<S> log_decay;  ///< log f
};

/// z (tokens, columns) with the lower bound b (1, columns) in [0, 1], empty: 0. Neither 1 - f nor log f is computed from a rounded f near 1
/// (formulation: HGRN): with bounds near 1 that loses 9 digits in double.
template <Real S>
[[nodiscard]] ForgetGate<S> bounded_forget_gate(const Value<S>& z, const Array<S>& bound) {
  if (!bound.empty()) check_vector("forget gate", "lower_bound", bound, z.cols(), "channels");
  Matrix<S> write(z.rows(), z.cols()), log_decay(z.rows(), z.cols());
  for (Index column = 0; column < z.cols(); ++column) {
    const S b = bound.empty() ? S(0) : bound(0, column);
    if (!(b >= S(0) && b <= S(1)))
      detail::raise(ErrorKind::value, "forget gate: lower_bound of channel ", column, " is ", b, ", expected 0 to 1");
    for (Index token = 0; token < z.rows(); ++token) {
      const S number = z.numbers(token, column), other = (S(1) - b) * sigmoid(-number);
      write(token, column) = other;
      if (other < S(0.5))
        log_decay(token, column) = std::log1p(-other);
      else  // a sum of positive numbers; without a bound log sigmoid(z), which has no underflow
        log_decay(token, column) = b == S(0) ? -softplus(-number) : std::log(b + (S(1) - b) * sigmoid(number));
    }
  }
  const Array<S> kept = std::move(write), decay = std::move(log_decay);
  if (!z.trace->records({&z})) return {z.trace->constant(kept), z.trace->constant(decay)};
  const std::vector<Value<S>> values = z.trace->record_all({kept, decay}, [z, kept, decay](Back<S>& back, Matrix<S>* gradients) {
    if (!back.exact()) return back.cannot_treat("forget gate");
    // d(1 - f)/dz = -(1 - f) sigmoid(z), d log f/dz = (1 - f) sigmoid(z) / f, where f = sigmoid(z) if there is no bound and both vanish.
    Matrix<S> gradient(z.rows(), z.cols());
    for (Index i = 0; i < gradient.rows(); ++i)
      for (Index j = 0; j < gradient.cols(); ++j) {
        const S s = sigmoid(z.numbers(i, j)), ratio = decay(i, j) > S(-30) ? s * std::exp(-decay(i, j)) : S(1);
        const S to_write = gradients[0].size() != 0 ? gradients[0](i, j) : S(0),
                to_decay = gradients[1].size() != 0 ? gradients[1](i, j) : S(0);
        gradient(i, j) = kept(i, j) * (to_decay * ratio - to_write * s);
      }
    back.add(z, std::move(gradient));
  });
  return {values[0], values[1]};
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
