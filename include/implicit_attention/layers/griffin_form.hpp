// Griffin's unified form, from the layer's own activations or from what an engine still has of them; a part of griffin.hpp.
#pragma once

#include <algorithm>
#include <utility>

#include <implicit_attention/layers/griffin.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
UnifiedForm<S> Griffin<S>::lower(const Activations& act, Terms asked) const {
  const Terms terms = asked.resolved(named_sets_have);
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.log_a},
                                                         {Term::recurrence, &act.recurrent_gate},
                                                         {Term::recurrence, &act.pre_recurrent_gate},
                                                         {Term::recurrence, &act.input_gate},
                                                         {Term::recurrence, &act.pre_input_gate},
                                                         {Term::normalization, &act.normalizer},
                                                         {Term::gate, &act.gate_input},
                                                         {Term::gate, &act.gate},
                                                         {Term::convolution, &act.c},
                                                         {Term::convolution, &act.x}});
  const bool normalized = terms.has(Term::normalization), recurs = terms.has(Term::recurrence);
  detail::check_initial<Scalar>(
      layer_name, {{"convolution_tail", &act.initial.convolution_tail,
                    terms.has(Term::convolution) ? weights_.conv_1d_weight.cols() - 1 : 0, channels_, "(convolution width - 1, channels)"},
                   {"recurrent", &act.initial.recurrent, recurs ? 1 : 0, channels_, "(1, channels)"}});
  const Activations whole = completed(act, tokens, recurs, normalized);
  if (recurs) {
    form.recurrence = recurrence(whole, normalized);
    form.initial_state = detail::carried(act.initial.recurrent);
  } else {
    DiagonalRecurrence<Scalar> identity = identity_recurrence<Scalar>(tokens, channels_);
    if (normalized) identity.diagonal = whole.normalizer;  // m belongs to the key, and is there without the decays
    form.recurrence = std::move(identity);
  }
  if (terms.has(Term::gate))
    form.gate = detail::one_given<Scalar>(
        layer_name, tokens, channels_, "(tokens, channels)",
        {{"gate_input", &act.gate_input,
          [](const Array<Scalar>& before) { return Array<Scalar>(function_values<Scalar>(Function::gelu_tanh, *before)); }},
         {"gate", &act.gate}});
  if (terms.has(Term::convolution)) {
    form.convolution = weights_.conv_1d_weight;
    if (options_.convolution_within_documents) form.convolution_starts = act.starts;
    form.convolution_tail = detail::carried(act.initial.convolution_tail);
  }
  form.convolution_bias = if_on(terms, Term::bias, weights_.conv_1d_bias);
  return form;
}

/// What the recurrence reads, made of the forms that are there.
template <Real S>
typename Griffin<S>::Activations Griffin<S>::completed(const Activations& act, Index tokens, bool decays, bool normalized) const {
  Activations whole;
  whole.starts = act.starts;
  check_ascending(layer_name, "activations.starts", act.starts, tokens);
  const bool given = !act.log_a.empty() && !act.log_a_from.stale(act.log_a, {{"recurrent_gate", &act.recurrent_gate},
                                                                             {"pre_recurrent_gate", &act.pre_recurrent_gate}}),
             old_normalizer = act.normalizer_from.noted(act.normalizer) &&
                              (act.normalizer_starts != act.starts ||
                               act.normalizer_from.stale(act.normalizer, {{"log_a", &act.log_a},
                                                                          {"recurrent_gate", &act.recurrent_gate},
                                                                          {"pre_recurrent_gate", &act.pre_recurrent_gate}}));
  const bool makes_normalizer = normalized && (act.normalizer.empty() || old_normalizer);
  if (normalized && !makes_normalizer) {
    detail::check_activation(layer_name, "normalizer", act.normalizer, tokens, channels_, "(tokens, channels)");
    whole.normalizer = act.normalizer;
  }
  const auto of_gate = [&](const Array<Scalar>& gate) {
    if (rate_.empty())
      detail::raise(ErrorKind::shape, layer_name,
                    ": activations.log_a has to be made of the recurrent gate, and neither rate nor "
                    "rg_lru.recurrent_param is known for that");
    return Array<Scalar>(large_matrix((gate.matrix().array().rowwise() * rate_.matrix().row(0).array()).matrix()));
  };
  // log_a is what run() leaves beside the gate it was made of; alone, the gate serves.
  static const Array<Scalar> none;
  if (decays || makes_normalizer)
    whole.log_a = detail::one_given<Scalar>(layer_name, tokens, channels_, "(tokens, channels)",
                                            {{"log_a", given ? &act.log_a : &none},
                                             {"recurrent_gate", given ? &none : &act.recurrent_gate, of_gate},
                                             {"pre_recurrent_gate", given ? &none : &act.pre_recurrent_gate,
                                              [&](const Array<Scalar>& before) { return of_gate(sigmoid(before.matrix())); }}});
  if (decays)
    whole.input_gate = detail::one_given<Scalar>(
        layer_name, tokens, channels_, "(tokens, channels)",
        {{"input_gate", &act.input_gate},
         {"pre_input_gate", &act.pre_input_gate, [](const Array<Scalar>& before) { return sigmoid(before.matrix()); }}});
  if (makes_normalizer) {
    Matrix<Scalar> normalizer = sqrt_one_minus_square(whole.log_a.matrix());
    for (const Index start : act.starts) normalizer.row(start).setOnes();
    whole.normalizer = std::move(normalizer);
  }
  return whole;
}

template <Real S>
DiagonalRecurrence<S> Griffin<S>::recurrence(const Activations& act, bool normalized) const {
  DiagonalRecurrence<Scalar> recurrence;
  recurrence.tokens = act.log_a.rows();
  recurrence.channels = channels_;
  recurrence.step = act.log_a;
  recurrence.key_scale =
      normalized ? Array<Scalar>(large_matrix(act.input_gate.matrix().cwiseProduct(act.normalizer.matrix()))) : act.input_gate;
  recurrence.starts = act.starts;
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
