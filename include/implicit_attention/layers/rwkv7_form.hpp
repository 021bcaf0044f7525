// RWKV-7's unified form, from the layer's own activations or from what an engine still has of them; a part of rwkv7.hpp.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include <implicit_attention/layers/rwkv7.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
Rwkv7<S> Rwkv7<S>::for_engine(EngineWeights weights, Options options) {
  const Index heads = weights.r_k.rows(), channels = weights.ln_x_weight.size();
  if (weights.r_k.empty()) detail::raise_shape(layer_name, "r_k", "is empty, expected (heads, key size)");
  if (channels == 0 || channels % heads != 0)
    detail::raise_shape(layer_name, "ln_x.weight", "is (", channels, "), expected (channels), a multiple of the ", heads, " rows of r_k");
  Rwkv7 layer;
  layer.norm_ = detail::group_norm(layer_name, weights.ln_x_weight, weights.ln_x_bias, channels, heads, options.group_norm_eps);
  layer.bonus_ = detail::one_row(weights.r_k);
  layer.weights_.r_k = std::move(weights.r_k);
  layer.weights_.ln_x_weight = std::move(weights.ln_x_weight);
  layer.weights_.ln_x_bias = std::move(weights.ln_x_bias);
  return layer;
}

template <Real S>
UnifiedForm<S> Rwkv7<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.receptance},
                                                         {Term::recurrence, &act.key},
                                                         {Term::recurrence, &act.removal},
                                                         {Term::recurrence, &act.probe},
                                                         {Term::normalization, &act.pre_norm},
                                                         {Term::gate, &act.gate},
                                                         {Term::skip, &act.value},
                                                         {Term::recurrence, &act.x}});
  const auto check = [&](const char* name, const Array<Scalar>& array, Index columns, const char* meaning) {
    detail::check_activation(layer_name, name, array, tokens, columns, meaning);
  };
  if (terms.has(Term::gate)) {
    check("gate", act.gate, channels(), "(tokens, channels)");
    form.gate = act.gate;
  }
  detail::surround_with_group_norm(layer_name, norm_, act.pre_norm, tokens, terms, form);
  if (terms.has(Term::skip)) {
    check("value", act.value, channels(), "(tokens, channels)");
    Trace<Scalar> trace;
    Array<Scalar> bonus = act.bonus;
    if (bonus.empty() || act.bonus_from.stale(bonus, {{"receptance", &act.receptance}, {"key", &act.key}})) {
      check("receptance", act.receptance, heads() * state_size(), "(tokens, heads * state); bonus is made of it");
      check("key", act.key, heads() * state_size(), "(tokens, heads * state); bonus is made of it");
      bonus = head_dot(times_row(trace.constant(act.receptance), bonus_), trace.constant(act.key), heads()).numbers;
    }
    check("bonus", bonus, heads(), "(tokens, heads)");
    SecondPath<Scalar> second;
    second.form.recurrence = identity_recurrence<Scalar>(tokens, channels());
    second.form.gate = spread_heads(trace.constant(bonus), channels() / heads()).numbers;
    if (!form.gate.empty()) second.form.gate = Matrix<Scalar>(second.form.gate.matrix().cwiseProduct(*form.gate));
    second.input = act.value;
    form.second = std::make_shared<const SecondPath<Scalar>>(std::move(second));
  }
  if (!terms.has(Term::recurrence)) {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels());
    return form;
  }
  for (const auto& [name, array] : {std::pair{"receptance", &act.receptance}, std::pair{"key", &act.key},
                                    std::pair{"removal", &act.removal}, std::pair{"probe", &act.probe}})
    check(name, *array, heads() * state_size(), "(tokens, heads * state)");
  const Array<Scalar> log_decay = detail::one_given<Scalar>(
      layer_name, tokens, heads() * state_size(), "(tokens, heads * state)",
      {{"log_decay", &act.log_decay},
       {"decay", &act.decay, [](const Array<Scalar>& w) { return large_matrix(w.matrix().array().log().matrix()); }},
       {"pre_decay", &act.pre_decay,
        [](const Array<Scalar>& before) { return Matrix<Scalar>(sigmoid(before.matrix()) * static_cast<Scalar>(log_decay_scale)); }}});
  detail::check_initial_state(layer_name, act.initial, heads() * state_size(), channels() / heads());
  form.recurrence = recurrence(log_decay, act);
  form.initial_state = detail::centred_state(act.initial);
  return form;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
