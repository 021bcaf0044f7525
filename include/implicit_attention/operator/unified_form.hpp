// What every layer lowers to (formulation: "The unified form"):
//     y = A x + bias + carry,     A_e = diag(gate_e) diag(norm_e) (R_e + diag(skip_e)) diag(act_e) Conv_e
#pragma once

#include <variant>
#include <vector>

#include <implicit_attention/kernels/recurrence.hpp>
#include <implicit_attention/operator/terms.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One sequence through one layer, in the terms of the papers. An empty array is a term that is absent or off.
template <Real Scalar>
struct UnifiedForm {
  std::variant<DiagonalRecurrence<Scalar>, ExplicitRecurrence<Scalar>> recurrence;
  Array<Scalar> gate;                     ///< (tokens, channels), at the output token
  Array<Scalar> normalization;            ///< (tokens, channels), at the output token
  Array<Scalar> skip;                     ///< (1, channels), the layer's own D
  Array<Scalar> activation;               ///< (tokens, channels), the activation as a data-dependent scale
  Array<Scalar> convolution;              ///< (channels, width), as in the checkpoints; `[e, t]` weighs token i - width + 1 + t
  Array<Scalar> convolution_bias;         ///< (1, channels)
  Array<Scalar> convolution_tail;         ///< (width - 1, channels): linear inputs before the first token, carried in
  Array<Scalar> initial_state;            ///< (state, channels): the recurrent state carried in; with an explicit recurrence
                                          ///< (tokens, channels): what the past adds to R a
  std::vector<Index> convolution_starts;  ///< where the convolution is masked between packed documents

  [[nodiscard]] Index tokens() const;
  [[nodiscard]] Index channels() const;

  /// Fails unless all parts fit each other.
  void check() const;
};

template <Real Scalar>
Index UnifiedForm<Scalar>::tokens() const {
  return std::visit([](const auto& form) { return form.tokens; }, recurrence);
}

template <Real Scalar>
Index UnifiedForm<Scalar>::channels() const {
  return std::visit([](const auto& form) { return form.channels; }, recurrence);
}

template <Real Scalar>
void UnifiedForm<Scalar>::check() const {
  std::visit([](const auto& form) { form.check(); }, recurrence);
  const Index length = tokens(), count = channels();
  const auto per_token = [&](const char* name, const Array<Scalar>& array) {
    if (!array.empty()) check_shape("UnifiedForm", name, array, length, count, "(tokens, channels)");
  };
  per_token("gate", gate);
  per_token("normalization", normalization);
  per_token("activation", activation);
  if (!skip.empty()) check_vector("UnifiedForm", "skip", skip, count, "channels");
  if (!convolution_bias.empty()) check_vector("UnifiedForm", "convolution_bias", convolution_bias, count, "channels");
  if (!convolution.empty()) check_shape("UnifiedForm", "convolution", convolution, count, convolution.cols(), "(channels, width)");
  if (!convolution_tail.empty())
    check_shape("UnifiedForm", "convolution_tail", convolution_tail, convolution.cols() - 1, count, "(width - 1, channels)");
  if (!initial_state.empty()) {
    if (const auto* diagonal = std::get_if<DiagonalRecurrence<Scalar>>(&recurrence))
      check_shape("UnifiedForm", "initial_state", initial_state, diagonal->state, count, "(state, channels)");
    else
      per_token("initial_state", initial_state);
  }
  check_ascending("UnifiedForm", "convolution_starts", convolution_starts, length);
}

/// `array` if the term is on, else an empty one.
template <Real Scalar>
[[nodiscard]] Array<Scalar> if_on(Terms terms, Term term, const Array<Scalar>& array) {
  return terms.has(term) ? array : Array<Scalar>();
}

/// R = identity: what stands for a recurrence that is off.
template <Real Scalar>
[[nodiscard]] DiagonalRecurrence<Scalar> identity_recurrence(Index tokens, Index channels) {
  DiagonalRecurrence<Scalar> identity;
  identity.tokens = tokens;
  identity.channels = channels;
  identity.step = Matrix<Scalar>(Matrix<Scalar>::Zero(tokens, channels));
  identity.query_scale = identity.step;  // nothing but the diagonal is read
  identity.exclusive = true;
  identity.diagonal = Matrix<Scalar>(Matrix<Scalar>::Ones(tokens, channels));
  return identity;
}

IMPLICIT_ATTENTION_NAMESPACE_END
