// The unified form of layers whose heads share a matrix; a part of head_mixer.hpp.
#pragma once

#include <utility>

#include <implicit_attention/layers/head_mixer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <class Derived, Real S>
UnifiedForm<S> HeadMixer<Derived, S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.query},
                                                         {Term::recurrence, &act.key},
                                                         {Term::normalization, &act.o},
                                                         {Term::normalization, &act.normalizer},
                                                         {Term::gate, &act.gate_input},
                                                         {Term::activation, &act.c},
                                                         {Term::activation, &act.x}});
  const auto check = [&](const char* name, const Array<Scalar>& array) {
    detail::check_activation(Derived::layer_name, name, array, tokens, channels(), "(tokens, channels)");
  };
  const bool makes_c = terms.has(Term::activation) && self().activated() &&
                       (act.c.empty() || act.c_from.stale(act.c, {{"x", &act.x}}, act.initial.value_tail)),
             reads_tail = content_.convolved() && (makes_c || terms.has(Term::convolution));
  detail::check_initial<Scalar>(
      Derived::layer_name,
      {{"query_tail", &act.initial.query_tail},
       {"key_tail", &act.initial.key_tail},
       {"value_tail", &act.initial.value_tail, reads_tail ? content_.tail_rows() : 0, channels(), "(convolution width - 1, channels)"},
       {"recurrent", &act.initial.recurrent, terms.has(Term::recurrence) ? self().state_rows() : 0, self().state_columns(),
        "(heads * state, channels / heads)"}});
  if (terms.has(Term::recurrence)) {
    self().check_recurrence(act, tokens);
    form.recurrence = self().recurrence(act);
    form.initial_state = detail::carried(act.initial.recurrent);
  } else {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels());
  }
  if (terms.has(Term::normalization)) {
    check("o", act.o);
    Matrix<S> scale = norm_.held_scale(norm_.statistics(*act.o));
    if (self().divides_rows() || !act.normalizer.empty()) {
      detail::check_activation(Derived::layer_name, "normalizer", act.normalizer, tokens, heads(), "(tokens, heads)");
      act.normalizer_from.check(Derived::layer_name, "normalizer", act.normalizer,
                                {{"query", &act.query}, {"key", &act.key}, {"log_decay", &act.log_decay}});
      scale.array() *= spread_columns<S>(*act.normalizer, channels() / heads()).array();
    }
    form.normalization = std::move(scale);
  }
  if (terms.has(Term::gate) && !common_.g_proj_weight.empty()) {
    check("gate_input", act.gate_input);
    form.gate = silu(act.gate_input.matrix());
  }
  const Array<Scalar> tail = detail::carried(act.initial.value_tail);
  if (terms.has(Term::activation) && self().activated()) {
    if (makes_c) check("x", act.x);
    const bool convolve = makes_c && content_.convolved();
    const Array<Scalar> c = !makes_c   ? act.c
                            : convolve ? Array<Scalar>(detail::convolution_of<Scalar>(
                                             act.x, content_.convolution_weight, content_.convolution_bias, tail, {}, serial_executor()))
                                       : act.x;
    check("c", c);
    form.activation = silu_scale(c.matrix());
  }
  if (terms.has(Term::convolution) && content_.convolved()) {
    form.convolution = content_.convolution_weight;
    form.convolution_tail = tail;
  }
  form.convolution_bias = if_on(terms, Term::bias, content_.convolution_bias);
  return form;
}

template <class Derived, Real S>
void HeadMixer<Derived, S>::check_recurrence(const Activations& act, Index tokens) const {
  detail::check_activation(Derived::layer_name, "query", act.query, tokens, state_rows(), "(tokens, heads * state)");
  detail::check_activation(Derived::layer_name, "key", act.key, tokens, state_rows(), "(tokens, heads * state)");
  detail::check_log_decay(Derived::layer_name, act.log_decay, tokens, heads(), state_rows(), Derived::decays_of_data);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
