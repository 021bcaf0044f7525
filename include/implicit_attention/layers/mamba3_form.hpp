// Mamba-3's unified form, one for each pair of ranks; a part of mamba3.hpp.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include <implicit_attention/layers/mamba3.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
UnifiedForm<S> Mamba3<S>::lower(const Activations& act, Terms terms) const {
  const Index R = rank(), E = channels(),
              tokens = detail::tokens_of<S>(terms, {{Term::recurrence, &act.log_decay},
                                                    {Term::recurrence, &act.key_scale},
                                                    {Term::gate, &act.z},
                                                    {Term::activation, &act.x}});
  const auto check = [&](const char* name, const Array<Scalar>& array, Index columns, const char* meaning) {
    detail::check_activation(layer_name, name, array, tokens, columns, meaning);
  };
  // Of so many arrays that of a rank, or of a pair of ranks.
  const auto one = [&](const char* name, const std::vector<Array<Scalar>>& arrays, Index of, Index count, Index columns) {
    if (static_cast<Index>(arrays.size()) > count)
      detail::raise(ErrorKind::shape, layer_name, ": activations.", name, " has ", arrays.size(), " arrays, expected ", count, " for rank ",
                    R);
    check(name, static_cast<Index>(arrays.size()) > of ? arrays[static_cast<std::size_t>(of)] : Array<S>(), columns, "(tokens, columns)");
  };
  const bool recurrent = terms.has(Term::recurrence);
  Array<S> second_half;  // dt (1 - lambda) of the first token, which the one before it is written with
  // The last token's key_scale is in no entry: a stream completes it by the next token's half. It is own_scale where that is known, for a
  // piece that is cut out of a whole run has the other half already.
  Array<S> key_scale = act.key_scale;
  if (recurrent) {
    check("log_decay", act.log_decay, heads(), "(tokens, heads)");
    check("key_scale", act.key_scale, heads(), "(tokens, heads)");
    act.log_decay_from.check(layer_name, "log_decay", act.log_decay, {{"rate", &act.rate}, {"dt", &act.dt}});
    act.key_scale_from.check(layer_name, "key_scale", act.key_scale, {{"dt", &act.dt}, {"trap", &act.trap}});
    act.own_scale_from.check(layer_name, "own_scale", act.own_scale, {{"dt", &act.dt}, {"trap", &act.trap}});
    if (act.carried.size() != 0 || act.initial.recurrent.size() != 0)
      check_shape(layer_name, "activations.carried", act.carried, heads() * state(), E / heads(), "(heads * state, channels / heads)");
    if (!act.dt.empty() && !act.own_scale.empty()) {
      check("dt", act.dt, heads(), "(tokens, heads)");
      check("own_scale", act.own_scale, heads(), "(tokens, heads)");
      second_half = Matrix<S>(act.dt.matrix().topRows(1) - act.own_scale.matrix().topRows(1));
      Matrix<S> scales = *key_scale;
      for (Index head = 0; head < heads(); ++head)
        if (S& last = scales(tokens - 1, head); !std::isnan(last)) last = act.own_scale(tokens - 1, head);
      key_scale = std::move(scales);
    }
  }
  if (terms.has(Term::gate)) check("z", act.z, E, "(tokens, channels)");
  std::vector<UnifiedForm<S>> forms;
  for (Index r = 0; r < R; ++r)
    for (Index s = 0; s < R; ++s) {
      if (!recurrent && r != s) continue;  // the identity stands for R as a whole
      UnifiedForm<S> form;
      if (recurrent) {
        one("query", act.query, r, R, heads() * state());
        one("key", act.key, s, R, heads() * state());
        one("diagonal", act.diagonal, r * R + s, R * R, heads());
        const auto pair = static_cast<std::size_t>(r * R + s);
        if (act.diagonal_from.size() > pair)
          act.diagonal_from[pair].check(layer_name, "diagonal", act.diagonal[pair],
                                        {{"query", &act.query[static_cast<std::size_t>(r)]},
                                         {"key", &act.key[static_cast<std::size_t>(s)]},
                                         {"own_scale", &act.own_scale}});
        HeadRecurrence<S> pair_recurrence = recurrence(act, r, s);
        pair_recurrence.key_scale = key_scale;
        form.recurrence = std::move(pair_recurrence);
        form.continuation.ends_open = true;
        form.continuation.second_half = second_half;
        if (s == 0) form.initial_state = detail::carried(act.carried);
      } else {
        form.recurrence = identity_recurrence<S>(tokens, E);
      }
      if (terms.has(Term::gate)) {
        Matrix<S> gates = *act.z;
        if (R > 1) gates.array().rowwise() *= weights_.of_rank(weights_.mimo_z, r).matrix().row(0).array();
        gates = silu(gates);
        if (R > 1) gates.array().rowwise() *= weights_.of_rank(weights_.mimo_o, r).matrix().row(0).array();
        form.gate = std::move(gates);
      }
      if (terms.has(Term::normalization) && !norm_.empty()) {
        one("o", act.o, r, R, E);
        form.normalization = norm_.held_scale(norm_.statistics(*act.o[static_cast<std::size_t>(r)]));
      }
      if (terms.has(Term::activation) && R > 1)
        form.activation = Matrix<S>(weights_.of_rank(weights_.mimo_x, s).matrix().replicate(tokens, 1));
      if (r == s) form.skip = if_on(terms, Term::skip, skip_);
      forms.push_back(std::move(form));
    }
  UnifiedForm<S> sum = std::move(forms.front());
  sum.more.assign(std::make_move_iterator(forms.begin() + 1), std::make_move_iterator(forms.end()));
  return sum;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
