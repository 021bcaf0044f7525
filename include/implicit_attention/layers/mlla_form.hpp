// MLLA's unified form; a part of mlla.hpp.
#pragma once

#include <utility>

#include <implicit_attention/layers/mlla.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
UnifiedForm<S> Mlla<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<S> form;
  const Index N = detail::tokens_of<S>(terms, {{Term::recurrence, &act.query},
                                               {Term::recurrence, &act.key},
                                               {Term::normalization, &act.normalizer},
                                               {Term::activation, &act.c},
                                               {Term::gate, &act.gate_input},
                                               {Term::activation, &act.x}}),
              E = channels();
  const auto check = [&](const char* name, const Array<Scalar>& array, Index columns, const char* meaning) {
    detail::check_activation(layer_name, name, array, N, columns, meaning);
  };
  if (terms.has(Term::gate)) {
    check("gate_input", act.gate_input, E, "(tokens, channels)");
    form.gate = silu(act.gate_input.matrix());
  }
  if (terms.has(Term::recurrence)) check("query", act.query, E, "(tokens, channels)");
  if (terms.has(Term::recurrence)) check("key", act.key, E, "(tokens, channels)");
  if (terms.has(Term::normalization)) {
    check("normalizer", act.normalizer, heads(), "(tokens, heads)");
    act.normalizer_from.check(layer_name, "normalizer", act.normalizer, {{"query", &act.query}, {"key", &act.key}});
  }
  if (terms.has(Term::activation)) {
    check("c", act.c, E, "(tokens, channels)");
    act.c_from.check(layer_name, "c", act.c, {{"x", &act.x}});
  }
  ExplicitRecurrence<S> recurrence;
  recurrence.tokens = N;
  recurrence.channels = E;
  recurrence.causal = N == 1;
  // R_h alone is a head's; what stands right of it is each channel's own. Without the skip the normalization is a term of the form.
  const bool by_head = terms.has(Term::recurrence) && !terms.has(Term::skip) && !terms.has(Term::activation) &&
                       !terms.has(Term::convolution) && !terms.has(Term::bias);
  recurrence.heads = by_head ? heads() : E;
  recurrence.mixed = !by_head;
  if (by_head && terms.has(Term::normalization)) form.normalization = spread_columns<S>(*act.normalizer, E / heads());
  const Matrix<S> activation = terms.has(Term::activation) ? silu_scale(act.c.matrix()) : Matrix<S>();
  Matrix<S> weights = large_matrix<S>(recurrence.heads * N, N, "the matrices of MLLA's channels");
  Matrix<S> affine = Matrix<S>::Zero(N, E);
  const bool affine_on = terms.has(Term::bias) && !(weights_.dwc_bias.empty() && weights_.lepe_bias.empty());
  const ImageGrid grid = grid_of(N);
  Matrix<S> mixer, convolved(N, N);
  for (Index index = 0; index < recurrence.heads; ++index) {
    const Index head = by_head ? index : index / (E / heads());
    mixer = terms.has(Term::recurrence) ? head_matrix(act, head) : Matrix<S>(Matrix<S>::Identity(N, N));
    if (!by_head && terms.has(Term::normalization)) mixer.array().colwise() *= act.normalizer.matrix().col(head).array();
    if (terms.has(Term::skip))
      detail::for_image_taps(grid, lepe_kernel_, [&](Index to, Index from, Index tap) { mixer(to, from) += lepe_taps_(tap, index); });
    if (terms.has(Term::activation))
      for (Index token = 0; token < N; ++token) mixer.col(token) *= activation(token, index);
    if (affine_on && !weights_.dwc_bias.empty()) affine.col(index) = mixer.rowwise().sum() * weights_.dwc_bias(0, index);
    if (affine_on && !weights_.lepe_bias.empty() && terms.has(Term::skip)) affine.col(index).array() += weights_.lepe_bias(0, index);
    if (!terms.has(Term::convolution)) {
      weights.middleRows(index * N, N) = mixer;
      continue;
    }
    convolved.setZero();
    detail::for_image_taps(grid, kernel_,
                           [&](Index to, Index from, Index tap) { convolved.col(from) += mixer.col(to) * taps_(tap, index); });
    weights.middleRows(index * N, N) = convolved;
  }
  recurrence.weights = std::move(weights);
  form.recurrence = std::move(recurrence);
  if (affine_on) form.norm_bias = std::move(affine);
  return form;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
