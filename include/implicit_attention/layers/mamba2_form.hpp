// Mamba-2's unified form; a part of mamba2.hpp.
#pragma once

#include <implicit_attention/layers/mamba2.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
UnifiedForm<S> Mamba2<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.dt},
                                                         {Term::recurrence, &act.B},
                                                         {Term::recurrence, &act.C},
                                                         {Term::gate, &act.z},
                                                         {Term::activation, &act.c},
                                                         {Term::normalization, &act.s},
                                                         {Term::activation, &act.x}}),
              E = channels_;
  detail::check_initial<Scalar>(
      layer_name, {{"convolution_tail", &act.initial.convolution_tail, terms.has(Term::convolution) ? weights_.conv1d_weight.cols() - 1 : 0,
                    weights_.conv1d_weight.rows(), "(convolution width - 1, channels + 2*groups*state)"},
                   {"recurrent", &act.initial.recurrent, terms.has(Term::recurrence) ? heads() * state() : 0, E / heads(),
                    "(heads * state, channels / heads)"}});
  if (!terms.has(Term::recurrence)) form.recurrence = identity_recurrence<Scalar>(tokens, E);
  if (terms.has(Term::recurrence)) {
    detail::check_activation(layer_name, "dt", act.dt, tokens, heads(), "(tokens, heads)");
    detail::check_activation(layer_name, "B", act.B, tokens, shared_, "(tokens, groups * state)");
    detail::check_activation(layer_name, "C", act.C, tokens, shared_, "(tokens, groups * state)");
    form.recurrence = recurrence(act);
    form.initial_state = detail::carried(act.initial.recurrent);
  }
  const bool normalized = terms.has(Term::normalization) && !norm_.empty();
  const bool gates = terms.has(Term::gate) || (normalized && !options_.norm_before_gate);
  if (gates) detail::check_activation(layer_name, "z", act.z, tokens, E, "(tokens, channels)");
  const Array<Scalar> gate = gates ? Array<Scalar>(silu(act.z.matrix())) : Array<Scalar>();
  form.gate = if_on(terms, Term::gate, gate);
  if (normalized) {
    detail::check_activation(layer_name, "s", act.s, tokens, E, "(tokens, channels)");
    const Array<Scalar> normed = options_.norm_before_gate ? act.s : Array<Scalar>(Matrix<Scalar>((*act.s).cwiseProduct(*gate)));
    form.normalization = norm_.held_scale(norm_.statistics(*normed));
  }
  if (terms.has(Term::activation)) {
    detail::check_activation(layer_name, "c", act.c, tokens, E, "(tokens, channels)");
    act.c_from.check(layer_name, "c", act.c, {{"x", &act.x}}, act.initial.convolution_tail, "initial.convolution_tail");
    form.activation = silu_scale(act.c.matrix());
  }
  form.skip = if_on(terms, Term::skip, skip_);
  if (terms.has(Term::convolution)) {
    form.convolution = weights_.conv1d_weight.middle_rows(0, E);
    form.convolution_tail = detail::carried(act.initial.convolution_tail).middle_columns(0, E);
  }
  form.convolution_bias = if_on(terms, Term::bias, weights_.conv1d_bias.middle_columns(0, E));
  return form;
}

template <Real S>
HeadRecurrence<S> Mamba2<S>::recurrence(const Activations& act) const {
  HeadRecurrence<Scalar> recurrence;
  recurrence.tokens = act.dt.rows();
  recurrence.channels = channels_;
  recurrence.heads = heads();
  recurrence.groups = options_.groups;
  recurrence.state = state();
  recurrence.query = act.C;
  recurrence.key = act.B;
  recurrence.key_scale = act.dt;
  recurrence.log_decay = Matrix<Scalar>((act.dt.matrix().array().rowwise() * rate_.matrix().row(0).array()).matrix());
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
