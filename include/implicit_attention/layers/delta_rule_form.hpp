// The delta rule's unified form, from the layer's own activations or from what an engine still has of them; a part of delta_rule.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>

#include <implicit_attention/layers/delta_rule.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
UnifiedForm<S> DeltaRule<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.query},
                                                         {Term::recurrence, &act.unit_query},
                                                         {Term::recurrence, &act.pre_query},
                                                         {Term::recurrence, &act.key},
                                                         {Term::recurrence, &act.pre_key},
                                                         {Term::recurrence, &act.beta},
                                                         {Term::recurrence, &act.pre_beta},
                                                         {Term::recurrence, &act.log_decay},
                                                         {Term::recurrence, &act.decay},
                                                         {Term::recurrence, &act.pre_log_decay},
                                                         {Term::gate, &act.z},
                                                         {Term::gate, &act.gate},
                                                         {Term::normalization, &act.o},
                                                         {Term::activation, &act.c},
                                                         {Term::activation, &act.x},
                                                         {Term::activation, &act.a}}),
              keys = key_heads_ * state_;
  const auto check = [&](const char* name, const Array<Scalar>& array, Index columns, std::string_view meaning) {
    detail::check_activation(name_, name, array, tokens, columns, meaning);
  };
  const Array<Scalar>& taps = shared_.v_conv1d_weight;
  const bool makes_c =
                 terms.has(Term::activation) && (act.c.empty() || act.c_from.stale(act.c, {{"x", &act.x}}, act.initial.convolution_tail)),
             reads_tail = makes_c || terms.has(Term::convolution);
  detail::check_initial<Scalar>(
      name_, {{"convolution_tail", &act.initial.convolution_tail, reads_tail && !taps.empty() ? taps.cols() - 1 : 0, 2 * keys + channels_,
               "(convolution width - 1, 2 * key heads * key size + channels)"},
              {"recurrent", &act.initial.recurrent, terms.has(Term::recurrence) ? heads_ * state_ : 0, channels_ / heads_,
               "(value heads * key size, channels / value heads)"}});
  if (terms.has(Term::recurrence)) {
    form.recurrence = recurrence(scales(act, tokens));
    form.initial_state = detail::carried(act.initial.recurrent);
  } else {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels_);
  }
  if (has_gate_ && terms.has(Term::gate))
    form.gate = detail::one_given<Scalar>(
        name_, tokens, channels_, "(tokens, channels)",
        {{"z", &act.z, [&](const Array<Scalar>& before) { return Array<Scalar>(function_values<Scalar>(gate_, *before)); }},
         {"gate", &act.gate}});
  if (terms.has(Term::normalization)) {
    check("o", act.o, channels_, "(tokens, channels)");
    form.normalization = output_norm_.held_scale(output_norm_.statistics(*act.o));
  }
  const Array<Scalar> tail =
      reads_tail ? detail::carried(act.initial.convolution_tail).middle_columns(2 * keys, channels_) : Array<Scalar>();
  if (terms.has(Term::activation)) {
    if (act.c.empty() && act.x.empty() && !act.a.empty()) detail::raise_activated_only<Scalar>(name_);
    if (makes_c)
      detail::check_activation(name_, "x", act.x, tokens, channels_, "(tokens, channels); c is made of it", act.c.empty() ? " or c" : "");
    const Array<Scalar> c = !makes_c ? act.c
                            : taps.empty()
                                ? act.x
                                : detail::convolution_of<Scalar>(act.x, taps, shared_.v_conv1d_bias, tail, {}, serial_executor());
    check("c", c, channels_, "(tokens, channels)");
    form.activation = silu_scale(c.matrix());
  }
  if (terms.has(Term::convolution)) {
    form.convolution = taps;
    form.convolution_tail = tail;
  }
  form.convolution_bias = if_on(terms, Term::bias, shared_.v_conv1d_bias);
  return form;
}

template <Real S>
typename DeltaRule<S>::Scales DeltaRule<S>::scales(const Activations& act, Index tokens) const {
  const Index keys = key_heads_ * state_;
  const auto normed = [](const Norm<Scalar>& norm) {
    return [&norm](const Array<Scalar>& before) { return Array<Scalar>(norm(*before)); };
  };
  Scales given;
  given.query = detail::one_given<Scalar>(
      name_, tokens, keys, "(tokens, key heads * key size)",
      {{"query", &act.query},
       {"unit_query", &act.unit_query,
        [&](const Array<Scalar>& unit) { return Matrix<Scalar>(unit.matrix() / std::sqrt(static_cast<Scalar>(state_))); }},
       {"pre_query", &act.pre_query, normed(query_norm_)}});
  given.key = detail::one_given<Scalar>(name_, tokens, keys, "(tokens, key heads * key size)",
                                        {{"key", &act.key}, {"pre_key", &act.pre_key, normed(key_norm_)}});
  if (has_beta_)
    given.beta = detail::one_given<Scalar>(
        name_, tokens, heads_, "(tokens, value heads)",
        {{"beta", &act.beta}, {"pre_beta", &act.pre_beta, [&](const Array<Scalar>& before) {
                                 return Matrix<Scalar>(sigmoid(before.matrix()) * Scalar(negative_eigenvalues_ ? 2 : 1));
                               }}});
  else if (negative_eigenvalues_)
    given.beta = constant_beta(tokens);
  if (decays_ != 0)
    given.log_decay = detail::one_given<Scalar>(
        name_, tokens, decays_, "(tokens, value heads or value heads * key size)",
        {{"log_decay", &act.log_decay},
         {"decay", &act.decay, [](const Array<Scalar>& decay) { return large_matrix(decay.matrix().array().log().matrix()); }},
         {"pre_log_decay", &act.pre_log_decay, [&](const Array<Scalar>& before) {
            if (rates_.size() != before.cols())
              detail::raise(ErrorKind::shape, name_,
                            ": activations.log_decay is empty, and A or A_log is not known that it could be made "
                            "with from pre_log_decay");
            return Matrix<Scalar>((softplus(before.matrix()).array().rowwise() * rates_.matrix().row(0).array()).matrix());
          }}});
  return given;
}

template <Real S>
HeadRecurrence<S> DeltaRule<S>::recurrence(const Scales& act) const {
  HeadRecurrence<Scalar> rule;
  rule.tokens = act.query.rows();
  rule.channels = channels_;
  rule.heads = heads_;
  rule.groups = key_heads_;
  rule.state = state_;
  rule.query = act.query;
  rule.key = act.key;
  rule.key_scale = act.beta;
  rule.log_decay = act.log_decay;
  if (tiled_ && key_heads_ != heads_) {
    rule.groups = heads_;
    rule.query = Matrix<Scalar>(act.query.matrix().replicate(1, heads_ / key_heads_));
    rule.key = Matrix<Scalar>(act.key.matrix().replicate(1, heads_ / key_heads_));
  }
  rule.transition = Transition::delta;  // decays, erases from the decayed state, then writes
  return rule;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
