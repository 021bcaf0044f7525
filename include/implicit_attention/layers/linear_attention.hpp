// Linear attention with feature maps (Katharopoulos et al. 2020, arXiv 2006.16236), causal, on queries, keys and values as they come.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/row_normalizers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With H heads, u = [q | k | v] side by side, (L, 2 H K + H P):
///
///     R_h[i,j] = scale phi(q_i) . phi(k_j)        phi(t) = elu(t) + 1
///     normalization_i = 1 / (sum_j R_h[i,j] + eps): rows then sum to 1        y = normalization (R v)        out = y
///
/// It has no weights: sizes are options. Where they are not given, the values are as wide as `v` of the run context, and without one as the
/// keys.
template <Real S>
class LinearAttention : public LayerInterface<LinearAttention<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "LinearAttention";

  struct Weights {};
  struct Options {
    Index heads = 1;         ///< H
    Index key_size = 0;      ///< K; 0: what u has room for
    Index value_size = 0;    ///< P; 0: see above
    bool normalized = true;  ///< rows are divided by their sums
    double scale = 0;        ///< 0: K^-1/2
    double eps = 1e-10;
  };
  /// From the keys of the public layers.
  [[nodiscard]] static Options options(const Configuration& configuration);

  /// What one piece of a sequence hands to the next.
  struct State {
    Matrix<Scalar> recurrent;   ///< (H K, P)
    Matrix<Scalar> normalizer;  ///< (H K, 1): the sum of the keys
  };

  /// One sequence through the layer. The implicit attention needs query, key and normalizer.
  struct Activations {
    Array<Scalar> x;                        ///< (L, E): the values: the linear input
    Array<Scalar> query;                    ///< (L, H K): scale phi(q)
    Array<Scalar> key;                      ///< (L, H K): phi(k)
    Array<Scalar> normalizer;               ///< (L, H): 1 / (sum_j R + eps); empty without normalization
    Array<Scalar> y;                        ///< (L, E)
    Array<Scalar> out;                      ///< (L, E): y itself
    State initial;                          ///< the state carried in; empty matrices if none
    State final;                            ///< the state after the last token
    MadeFrom<Scalar> normalizer_from = {};  ///< what run() made normalizer from
  };

  /// Fails (ErrorKind::value) unless the sizes can be.
  explicit LinearAttention(Options options);

  /// 2 H K + H P; 0 where the input is to tell.
  [[nodiscard]] Index width() const {
    return options_.key_size == 0 || options_.value_size == 0 ? 0 : heads() * (2 * options_.key_size + options_.value_size);
  }
  /// H P; 0 where the input is to tell.
  [[nodiscard]] Index channels() const { return heads() * options_.value_size; }
  [[nodiscard]] Index heads() const { return options_.heads; }

  /// Runs the layer on u (L, 2 H K + H P) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<LinearAttention> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form (formulation: "Linear attention").
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

 private:
  [[nodiscard]] HeadRecurrence<Scalar> recurrence(const Activations& act) const;
  /// H P of this input. Fails unless u divides into queries, keys and values.
  [[nodiscard]] Index values_of(const Value<Scalar>& u, const RunContext<Scalar>& context) const;

  Options options_;
};

template <Real S>
typename LinearAttention<S>::Options LinearAttention<S>::options(const Configuration& configuration) {
  Options made;
  made.heads = configuration.integer({"num_heads"}).value_or(1);
  made.key_size = configuration.integer({"head_k_dim", "head_dim"}).value_or(0);
  made.value_size = configuration.integer({"head_v_dim", "head_dim"}).value_or(0);
  made.normalized = configuration.boolean({"normalize"}).value_or(true);
  made.scale = configuration.number({"scale"}).value_or(0);
  made.eps = configuration.positive_number({"eps"}).value_or(made.eps);
  const std::string map = configuration.text({"feature_map"}).value_or("elu+1");
  if (map != "elu+1") detail::raise(ErrorKind::value, configuration.where(), ": feature_map is \"", map, "\", expected \"elu+1\"");
  return made;
}

template <Real S>
LinearAttention<S>::LinearAttention(Options options) : options_(options) {
  constexpr Index most = 1 << 20;  // of each: a configuration may hold any number, and they are multiplied
  if (options.heads < 1 || options.key_size < 0 || options.value_size < 0 ||
      std::max({options.heads, options.key_size, options.value_size}) > most)
    detail::raise(ErrorKind::value, "LinearAttention: heads, key_size and value_size are ", options.heads, ", ", options.key_size, " and ",
                  options.value_size, ", expected at least 1, 0 and 0, and at most ", most);
}

template <Real S>
Index LinearAttention<S>::values_of(const Value<Scalar>& u, const RunContext<Scalar>& context) const {
  Index values = channels();
  if (const Value<S>* v = context.find("v"); values == 0 && v != nullptr) values = v->numbers.size() / u.rows();
  if (values == 0 && options_.key_size > 0) values = u.cols() - 2 * heads() * options_.key_size;
  if (values == 0) values = u.cols() / 3;
  const Index keys = u.cols() - values;
  if (values < 1 || keys < 1 || values % heads() != 0 || keys % (2 * heads()) != 0 ||
      (options_.key_size > 0 && keys != 2 * heads() * options_.key_size))
    detail::raise(ErrorKind::shape, "LinearAttention: the input is ", shape_text({u.rows(), u.cols()}), " with ", values,
                  " columns of values, expected (tokens, 2 * heads * key size + heads * value size) with ", heads(), " heads");
  return values;
}

template <Real S>
LayerRun<LinearAttention<S>> LinearAttention<S>::run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial) const {
  Activations act;
  const Index values = values_of(u, context), keys = (u.cols() - values) / 2;
  if (initial) {
    check_shape(layer_name, "state.recurrent", initial->recurrent, keys, values / heads(), "(heads * state, channels / heads)");
    check_shape(layer_name, "state.normalizer", initial->normalizer, keys, 1, "(heads * state, 1)");
    act.initial = *initial;
  }
  HeadInputs<S> inputs;
  const double factor = options_.scale != 0 ? options_.scale : 1 / std::sqrt(static_cast<double>(keys / heads()));
  inputs.query = times(apply_function(Function::elu_plus_one, columns(u, 0, keys)), static_cast<S>(factor));
  inputs.key = apply_function(Function::elu_plus_one, columns(u, keys, keys));
  const Value<S> x = columns(u, 2 * keys, values);
  act.query = inputs.query.numbers;
  act.key = inputs.key.numbers;
  act.x = x.numbers;
  Value<S> y = head_recurrence(recurrence(act), inputs, x, detail::carried(act.initial.recurrent), &act.final.recurrent);
  const Value<S> sums = row_sums(recurrence(act), inputs, detail::carried(act.initial.normalizer), &act.final.normalizer);
  if (options_.normalized) {
    const Value<S> normalizer = reciprocal(sums, static_cast<S>(options_.eps));
    act.normalizer = normalizer.numbers;
    act.normalizer_from = {act.normalizer, {{"query", &act.query}, {"key", &act.key}}, act.initial.normalizer};
    y = scale(spread_heads(normalizer, values / heads()), y);
  }
  act.y = act.out = y.numbers;
  return {std::move(act), x, y, y};
}

template <Real S>
UnifiedForm<S> LinearAttention<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.query},
                                                         {Term::recurrence, &act.key},
                                                         {Term::normalization, &act.normalizer},
                                                         {Term::recurrence, &act.x}}),
              keys = act.query.cols(), values = act.x.cols();
  // No weights tell the sizes of keys and values: x and query do where the options do not.
  const auto whole_heads = [&](const char* name, const Array<Scalar>& array, Index size, const char* meaning) {
    const Index columns = size > 0 ? heads() * size : std::max(array.cols() - array.cols() % heads(), heads());
    detail::check_activation(layer_name, name, array, tokens, columns, meaning);
  };
  whole_heads("x", act.x, options_.value_size, "(tokens, heads * value size)");
  if (terms.has(Term::recurrence)) {
    whole_heads("query", act.query, options_.key_size, "(tokens, heads * key size)");
    detail::check_activation(layer_name, "key", act.key, tokens, keys, "(tokens, heads * key size), as activations.query has it");
    detail::check_initial<Scalar>(layer_name,
                                  {{"normalizer", &act.initial.normalizer},
                                   {"recurrent", &act.initial.recurrent, keys, values / heads(), "(heads * key size, value size)"}});
    form.recurrence = recurrence(act);
    form.initial_state = detail::carried(act.initial.recurrent);
  } else {
    form.recurrence = identity_recurrence<Scalar>(tokens, values);
  }
  if (terms.has(Term::normalization) && options_.normalized) {
    detail::check_activation(layer_name, "normalizer", act.normalizer, tokens, heads(), "(tokens, heads)");
    act.normalizer_from.check(layer_name, "normalizer", act.normalizer, {{"query", &act.query}, {"key", &act.key}}, act.initial.normalizer,
                              "initial.normalizer");
    form.normalization = spread_columns<S>(*act.normalizer, values / heads());
  }
  return form;
}

template <Real S>
HeadRecurrence<S> LinearAttention<S>::recurrence(const Activations& act) const {
  HeadRecurrence<S> recurrence;
  recurrence.tokens = act.query.rows();
  recurrence.channels = act.x.cols();
  recurrence.heads = recurrence.groups = heads();
  recurrence.state = act.query.cols() / heads();
  recurrence.query = act.query;
  recurrence.key = act.key;
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
