// RWKV-4's unified form; a part of rwkv4.hpp.
#pragma once

#include <utility>

#include <implicit_attention/layers/rwkv4.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
UnifiedForm<S> Rwkv4<S>::lower(const Activations& act, Terms asked) const {
  const Terms terms = asked.resolved(named_sets_have);
  UnifiedForm<Scalar> form;
  const Index tokens =
      detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.key}, {Term::gate, &act.receptance}, {Term::recurrence, &act.x}});
  const auto check = [&](const char* name, const Array<Scalar>& array) {
    detail::check_activation(layer_name, name, array, tokens, channels_, "(tokens, channels)");
  };
  if (terms.has(Term::gate)) {
    check("receptance", act.receptance);
    form.gate = sigmoid(act.receptance.matrix());
  }
  if (!terms.has(Term::recurrence)) {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels_);
    return form;
  }
  check("key", act.key);
  check_ascending(layer_name, "activations.weighting.starts", act.weighting.starts, tokens);
  Weighting made;
  const Weighting& scaled = weighting_of(act, made);
  DiagonalRecurrence<Scalar> recurrence = normalised_recurrence(scaled);
  if (!terms.has(Term::normalization)) {
    const RowVector<Scalar> scale = unnormalised_log_scale(act, scaled);
    form.continuation.log_scale = Matrix<Scalar>(scale);
    recurrence.query_scale = large_matrix((scaled.exponent.matrix().rowwise() - scale).array().exp().matrix());
    const RowVector<Scalar> first = weights_.time_first.matrix().row(0) - scale;
    recurrence.diagonal = large_matrix((act.key.matrix().rowwise() + first).array().exp().matrix());
  }
  form.recurrence = std::move(recurrence);
  form.initial_state = detail::carried(act.initial.numerator);
  return form;
}

template <Real S>
Matrix<S> Rwkv4<S>::scaled_by(const State& initial) {
  if (initial.denominator.size() == 0) return {};
  Matrix<Scalar> both(2, initial.denominator.cols());
  both << initial.denominator, initial.exponent;
  return both;
}

template <Real S>
const typename Rwkv4<S>::Weighting& Rwkv4<S>::weighting_of(const Activations& act, Weighting& made) const {
  const State& before = act.initial;
  detail::check_initial<Scalar>(layer_name, {{"shifted", &before.shifted},
                                             {"numerator", &before.numerator, 1, channels_, "(1, channels)"},
                                             {"denominator", &before.denominator, 1, channels_, "(1, channels)"},
                                             {"exponent", &before.exponent, 1, channels_, "(1, channels)"}});
  const Weighting& w = act.weighting;
  if (w.step.empty() || w.made_from.stale(w.exponent, {{"key", &act.key}}, scaled_by(before)))
    return made = weighting(act.key, before, w.starts);
  for (const auto& [name, array] :
       {std::pair{"weighting.exponent", &w.exponent}, std::pair{"weighting.step", &w.step}, std::pair{"weighting.key_scale", &w.key_scale},
        std::pair{"weighting.query_scale", &w.query_scale}, std::pair{"weighting.diagonal", &w.diagonal}})
    detail::check_activation(layer_name, name, *array, act.key.rows(), channels_, "(tokens, channels)");
  return w;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
