// What every layer lowers to (formulation: "The unified form"):
//     y = A x + bias + carry,     A_e = diag(gate_e) diag(norm_e) (R_h(e) + diag(skip_e)) diag(act_e) Conv_e
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <implicit_attention/operator/recurrence.hpp>
#include <implicit_attention/operator/terms.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real Scalar>
struct SecondPath;

/// What joins a form to those of the tokens before it, where it is a piece of a longer sequence. Only a stream reads it.
template <Real Scalar>
struct Continuation {
  bool ends_open = false;     ///< the token after the last one adds to its key_scale: Mamba-3 writes half of a token at the next one
  Array<Scalar> second_half;  ///< (1, heads): what the first token adds to the key_scale of the one before it; needed where it ends open
  Array<Scalar> log_scale;    ///< (1, channels), or empty: rows are divided by exp of it, which is these tokens' own (RWKV-4, undivided)
  bool has_all_taps = false;  ///< a ToeplitzRecurrence's kernel is zero beyond its length, and was not cut off with the tokens
};

/// One sequence through one layer, in the terms of the papers. An empty array is a term that is absent or off.
template <Real Scalar>
struct UnifiedForm {
  Recurrence<Scalar> recurrence;   ///< made from a DiagonalRecurrence, a HeadRecurrence, ...
  Array<Scalar> gate;              ///< (tokens, channels), at the output token
  Array<Scalar> normalization;     ///< (tokens, channels), at the output token
  Array<Scalar> skip;              ///< (1, channels), the layer's own D
  Array<Scalar> activation;        ///< (tokens, channels), the activation as a data-dependent scale
  Array<Scalar> convolution;       ///< (channels, width), as in the checkpoints; `[e, t]` weighs token i - width + 1 + t
  Array<Scalar> input_scale;       ///< (tokens, channels): a scale that stands before the convolution
  Array<Scalar> convolution_bias;  ///< (1, channels)
  Array<Scalar> norm_bias;         ///< (1, channels), or (tokens, channels): what is added behind the normalization and before the gate
  Array<Scalar> convolution_tail;  ///< (width - 1, channels): linear inputs before the first token, carried in
  Array<Scalar> initial_state;     ///< the recurrent state carried in: (state, channels) of a diagonal recurrence,
                                   ///< (heads * state, channels / heads) of a HeadRecurrence, else (tokens, channels): what the past adds
  std::vector<Index> convolution_starts;  ///< where the convolution is masked between packed documents
  bool reversed = false;                  ///< the form runs from the last token to the first: its arrays are in that order, too
  std::vector<UnifiedForm> more;          ///< forms on the same linear input whose outputs are added (two directions, several ranks)
  std::shared_ptr<const SecondPath<Scalar>> second;  ///< a form on an input of its own whose output is added
  Continuation<Scalar> continuation;                 ///< what a stream needs besides

  [[nodiscard]] Index tokens() const;
  [[nodiscard]] Index channels() const;

  /// Fails unless all parts fit each other.
  void check() const;
};

/// A path beside the main one, with its own linear input: y = A x + A_2 x_2 + bias (RWKV-7's bonus, the skip of an mLSTM block).
template <Real Scalar>
struct SecondPath {
  UnifiedForm<Scalar> form;
  Array<Scalar> input;  ///< (tokens, channels): x_2
};

template <Real Scalar>
Index UnifiedForm<Scalar>::tokens() const {
  return recurrence.tokens();
}

template <Real Scalar>
Index UnifiedForm<Scalar>::channels() const {
  return recurrence.channels();
}

template <Real Scalar>
void UnifiedForm<Scalar>::check() const {
  recurrence.check();
  const Index length = tokens(), count = channels();
  // What has rows is there, though they be empty: kernels go through rows.
  const auto per_token = [&](const char* name, const Array<Scalar>& array) {
    if (array.rows() != 0) check_shape("UnifiedForm", name, array, length, count, "(tokens, channels)");
  };
  per_token("gate", gate);
  per_token("normalization", normalization);
  per_token("activation", activation);
  per_token("input_scale", input_scale);
  if (skip.rows() != 0) check_vector("UnifiedForm", "skip", skip, count, "channels");
  if (convolution_bias.rows() != 0) check_vector("UnifiedForm", "convolution_bias", convolution_bias, count, "channels");
  if (norm_bias.rows() > 1)
    per_token("norm_bias", norm_bias);
  else if (norm_bias.rows() != 0)
    check_vector("UnifiedForm", "norm_bias", norm_bias, count, "channels");
  const Index width = std::max(convolution.cols(), Index(1));
  if (convolution.rows() != 0) check_shape("UnifiedForm", "convolution", convolution, count, width, "(channels, width)");
  if (convolution_tail.rows() != 0)
    check_shape("UnifiedForm", "convolution_tail", convolution_tail, width - 1, count, "(width - 1, channels)");
  if (initial_state.rows() != 0) {
    if (const DiagonalRecurrence<Scalar>* diagonal = recurrence.diagonal())
      check_shape("UnifiedForm", "initial_state", initial_state, diagonal->state, count, "(state, channels)");
    else if (const HeadRecurrence<Scalar>* heads = recurrence.heads())
      check_shape("UnifiedForm", "initial_state", initial_state, heads->heads * heads->state, heads->head_channels(),
                  "(heads * state, channels / heads)");
    else
      per_token("initial_state", initial_state);
  }
  check_ascending("UnifiedForm", "convolution_starts", convolution_starts, length);
  if (continuation.second_half.rows() != 0 && recurrence.heads() != nullptr)
    check_vector("UnifiedForm", "continuation.second_half", continuation.second_half, recurrence.heads()->heads, "heads");
  if (continuation.log_scale.rows() != 0) check_vector("UnifiedForm", "continuation.log_scale", continuation.log_scale, count, "channels");
  const auto same_size = [&](const UnifiedForm& other, const char* name) {
    if (other.tokens() != length || other.channels() != count)
      detail::raise(ErrorKind::shape, "UnifiedForm: ", name, " is of ", shape_text({other.tokens(), other.channels()}), ", expected ",
                    shape_text({length, count}), " = (tokens, channels)");
    other.check();
  };
  for (const UnifiedForm& form : more) same_size(form, "a form that is added");
  if (second) {
    same_size(second->form, "the second path");
    check_shape("UnifiedForm", "the second path's input", second->input, length, count, "(tokens, channels)");
  }
}

/// Softmax attention as the recurrence of a form, with what its carried-in keys and values add.
template <Real Scalar>
void set_softmax(UnifiedForm<Scalar>& form, SoftmaxRecurrence<Scalar> softmax) {
  if (softmax.past_key.rows() > 0) form.initial_state = softmax_carry(softmax, serial_executor());
  form.recurrence = std::move(softmax);
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
  identity.read_before_update = true;
  identity.diagonal = Matrix<Scalar>(Matrix<Scalar>::Ones(tokens, channels));
  return identity;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
