// Mamba's unified form, from the layer's own activations or from what an engine still has of them; a part of mamba.hpp.
#pragma once

#include <algorithm>
#include <string_view>

#include <implicit_attention/layers/mamba.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
UnifiedForm<S> Mamba<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.dt},
                                                         {Term::recurrence, &act.pre_dt},
                                                         {Term::recurrence, &act.B},
                                                         {Term::recurrence, &act.C},
                                                         {Term::gate, &act.z},
                                                         {Term::gate, &act.gate},
                                                         {Term::activation, &act.c},
                                                         {Term::activation, &act.x},
                                                         {Term::activation, &act.a}});
  const auto check = [&](const char* name, const Array<Scalar>& array, Index columns, std::string_view meaning) {
    detail::check_activation(layer_name, name, array, tokens, columns, meaning);
  };
  const bool makes_c =
                 terms.has(Term::activation) && (act.c.empty() || act.c_from.stale(act.c, {{"x", &act.x}}, act.initial.convolution_tail)),
             reads_tail = makes_c || terms.has(Term::convolution);
  detail::check_initial<Scalar>(
      layer_name, {{"convolution_tail", &act.initial.convolution_tail, reads_tail ? convolution_width() - 1 : 0, channels_,
                    "(convolution width - 1, channels)"},
                   {"recurrent", &act.initial.recurrent, terms.has(Term::recurrence) ? state_ : 0, channels_, "(state, channels)"}});
  if (terms.has(Term::recurrence)) {
    const Array<Scalar> dt = detail::one_given<Scalar>(
        layer_name, tokens, channels_, "(tokens, channels)",
        {{"dt", &act.dt}, {"pre_dt", &act.pre_dt, [](const Array<Scalar>& before) { return softplus(before.matrix()); }}});
    check("B", act.B, state_, "(tokens, state)");
    check("C", act.C, state_, "(tokens, state)");
    form.recurrence = recurrence(dt, act);
    form.initial_state = detail::carried(act.initial.recurrent);
  } else {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels_);
  }
  if (terms.has(Term::gate)) {
    form.gate =
        detail::one_given<Scalar>(layer_name, tokens, channels_, "(tokens, channels)",
                                  {{"z", &act.z, [](const Array<Scalar>& before) { return silu(before.matrix()); }}, {"gate", &act.gate}});
  }
  const Array<Scalar> tail = detail::carried(act.initial.convolution_tail);
  if (terms.has(Term::activation)) {
    if (act.c.empty() && act.x.empty() && !act.a.empty()) detail::raise_activated_only<Scalar>(layer_name);
    if (makes_c)
      detail::check_activation(layer_name, "x", act.x, tokens, channels_, "(tokens, channels); c is made of it",
                               act.c.empty() ? " or c" : "");
    const Array<Scalar> c =
        makes_c ? detail::convolution_of<Scalar>(act.x, weights_.conv1d_weight, weights_.conv1d_bias, tail, {}, serial_executor()) : act.c;
    check("c", c, channels_, "(tokens, channels)");
    form.activation = silu_scale(c.matrix());
  }
  form.skip = if_on(terms, Term::skip, weights_.D);
  if (terms.has(Term::convolution)) {
    form.convolution = weights_.conv1d_weight;
    form.convolution_tail = tail;
  }
  form.convolution_bias = if_on(terms, Term::bias, weights_.conv1d_bias);
  return form;
}

template <Real S>
DiagonalRecurrence<S> Mamba<S>::recurrence(const Array<Scalar>& dt, const Activations& act) const {
  DiagonalRecurrence<Scalar> recurrence;
  recurrence.tokens = dt.rows();
  recurrence.channels = channels_;
  recurrence.state = state_;
  recurrence.step = dt;
  recurrence.rate = rate_;
  recurrence.query = act.C;
  recurrence.key = act.B;
  recurrence.key_scale = dt;
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
