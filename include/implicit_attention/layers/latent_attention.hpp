// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) without positions, as in Kimi Linear (arXiv 2510.26692).
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <implicit_attention/layers/key_value_state.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With width D, H heads, and n, p, v, c = `qk_nope_head_dim`, `qk_rope_head_dim`, `v_head_dim`, `kv_lora_rank`:
///
///     q = q_proj u, or q_b rms(q_a u)      [latent | k_p] = kv_a u      [k_n | x] per head = kv_b rms(latent)      k = [k_n | k_p]
///     y = softmax(q k (n + p)^-1/2) x      out = y o_proj^T             k_p is the same for all heads; nothing is rotated
///
/// The linear input x (L, H v) are the values.
template <Real S>
class LatentAttention : public LayerInterface<LatentAttention<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "LatentAttention";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights {
    Array<Scalar> q_proj_weight;              ///< (H (n + p), D); or, where queries are of low rank, the next three
    Array<Scalar> q_a_proj_weight;            ///< (rank, D)
    Array<Scalar> q_a_layernorm_weight;       ///< (rank)
    Array<Scalar> q_b_proj_weight;            ///< (H (n + p), rank)
    Array<Scalar> kv_a_proj_with_mqa_weight;  ///< (c + p, D)
    Array<Scalar> kv_a_layernorm_weight;      ///< (c)
    Array<Scalar> kv_b_proj_weight;           ///< (H (n + v), c), rows grouped by head
    Array<Scalar> o_proj_weight;              ///< (D, H v)
  };

  struct Options {
    Index heads = 1;         ///< H
    double norm_eps = 1e-6;  ///< of the norms of the latents
  };

  /// What one piece of a sequence hands to the next: keys (past tokens, H (n + p)) and values (past tokens, H v), all of them.
  using State = KeyValueState<Scalar>;

  /// One sequence through the layer. An engine that has run the layer itself views its own buffers here.
  struct Activations {
    Array<Scalar> x;      ///< (L, H v): values: the linear input
    Array<Scalar> query;  ///< (L, H (n + p)), not yet scaled
    Array<Scalar> key;    ///< (L, H (n + p))
    Array<Scalar> y;      ///< (L, H v): output before the output projection
    Array<Scalar> out;    ///< (L, D)
    State initial;        ///< the state carried in; empty matrices if none
    State final;          ///< the state after the last token
  };

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  LatentAttention(Weights weights, Options options);

  /// Reads the weights below a prefix such as `model.layers.3.self_attn.`, under their public names.
  [[nodiscard, gnu::cold]] static LatentAttention from_tensors(const PrefixedTensors<Scalar>& tensors, Options options);

  [[nodiscard]] Index width() const { return weights_.kv_a_proj_with_mqa_weight.cols(); }
  [[nodiscard]] Index channels() const { return weights_.o_proj_weight.cols(); }
  [[nodiscard]] Index heads() const { return heads_; }
  /// n, p, v and c.
  [[nodiscard]] Index own_key_size() const { return own_; }
  [[nodiscard]] Index shared_key_size() const { return shared_; }
  [[nodiscard]] Index value_size() const { return channels() / heads_; }
  [[nodiscard]] Index latent_size() const { return weights_.kv_b_proj_weight.cols(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<LatentAttention> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// The unified form. Needs query and key. Weights are made when rows are asked for.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, H v) of the output projection, which has no bias.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.o_proj_weight; }

 private:
  [[nodiscard]] SoftmaxRecurrence<Scalar> recurrence(const Activations& act) const;
  [[nodiscard]] Index keys() const { return heads_ * (own_ + shared_); }

  Weights weights_;
  Norm<Scalar> query_norm_, latent_norm_;
  Index heads_ = 0, own_ = 0, shared_ = 0;
};

template <Real S>
LatentAttention<S>::LatentAttention(Weights weights, Options options) : weights_(std::move(weights)), heads_(options.heads) {
  const Weights& w = weights_;
  const bool low_rank = !w.q_a_proj_weight.empty();
  const Array<Scalar>& queries = low_rank ? w.q_b_proj_weight : w.q_proj_weight;
  if (heads_ < 1 || channels() == 0 || channels() % heads_ != 0)
    detail::raise_shape(layer_name, "o_proj.weight", "is ", shape_text({w.o_proj_weight.rows(), channels()}),
                        ", expected (width, heads * value size) with ", heads_, " heads");
  check_shape(layer_name, "o_proj.weight", w.o_proj_weight, width(), channels(), "(width, heads * value size)");
  const Index latent = latent_size();
  shared_ = w.kv_a_proj_with_mqa_weight.rows() - latent;
  own_ = w.kv_b_proj_weight.rows() / heads_ - value_size();
  if (shared_ < 0 || latent == 0)
    detail::raise_shape(layer_name, "kv_a_proj_with_mqa.weight", "is ", shape_text({w.kv_a_proj_with_mqa_weight.rows(), width()}),
                        ", expected (", latent, " + shared key size, width): kv_b_proj.weight has ", latent, " columns");
  if (own_ < 0 || own_ + shared_ == 0)
    detail::raise_shape(layer_name, "kv_b_proj.weight", "is ", shape_text({w.kv_b_proj_weight.rows(), latent}),
                        ", expected (heads * (own key size + ", value_size(), "), latent size) with ", heads_, " heads");
  check_shape(layer_name, "kv_b_proj.weight", w.kv_b_proj_weight, heads_ * (own_ + value_size()), latent,
              "(heads * (own key size + value size), latent size)");
  check_vector(layer_name, "kv_a_layernorm.weight", w.kv_a_layernorm_weight, latent, "latent size");
  if (low_rank) {
    check_shape(layer_name, "q_a_proj.weight", w.q_a_proj_weight, w.q_a_proj_weight.rows(), width(), "(rank, width)");
    check_vector(layer_name, "q_a_layernorm.weight", w.q_a_layernorm_weight, w.q_a_proj_weight.rows(), "rank");
    query_norm_ = Norm<Scalar>::rms(w.q_a_layernorm_weight, options.norm_eps);
  }
  check_shape(layer_name, low_rank ? "q_b_proj.weight" : "q_proj.weight", queries, keys(), low_rank ? w.q_a_proj_weight.rows() : width(),
              "(heads * (own key size + shared key size), width or rank)");
  latent_norm_ = Norm<Scalar>::rms(w.kv_a_layernorm_weight, options.norm_eps);
}

template <Real S>
LatentAttention<S> LatentAttention<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  // By any of the three, so that a lost one is named as missing.
  if (tensors.has("q_a_proj.weight") || tensors.has("q_a_layernorm.weight") || tensors.has("q_b_proj.weight")) {
    w.q_a_proj_weight = tensors.required("q_a_proj.weight", 2);
    w.q_a_layernorm_weight = tensors.required("q_a_layernorm.weight", 1);
    w.q_b_proj_weight = tensors.required("q_b_proj.weight", 2);
  } else {
    w.q_proj_weight = tensors.required("q_proj.weight", 2);
  }
  w.kv_a_proj_with_mqa_weight = tensors.required("kv_a_proj_with_mqa.weight", 2);
  w.kv_a_layernorm_weight = tensors.required("kv_a_layernorm.weight", 1);
  w.kv_b_proj_weight = tensors.required("kv_b_proj.weight", 2);
  w.o_proj_weight = tensors.required("o_proj.weight", 2);
  return LatentAttention(std::move(w), options);
}

template <Real S>
LayerRun<LatentAttention<S>> LatentAttention<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  const Weights& w = weights_;
  Activations act;
  if (initial) {
    check_shape(layer_name, "state.key", initial->key, initial->key.rows(), keys(), "(past tokens, heads * key size)");
    check_shape(layer_name, "state.value", initial->value, initial->key.rows(), channels(), "(past tokens, heads * value size)");
    act.initial = *initial;
  }
  const Value<Scalar> query =
      query_norm_.empty() ? linear(u, w.q_proj_weight) : linear(normalize(query_norm_, linear(u, w.q_a_proj_weight)), w.q_b_proj_weight);
  const Value<Scalar> compressed = linear(u, w.kv_a_proj_with_mqa_weight);
  const Value<Scalar> expanded = linear(normalize(latent_norm_, columns(compressed, 0, latent_size())), w.kv_b_proj_weight);
  // [k_n | x] of every head, then k_p, which all heads share.
  const Value<Scalar> all = join<Scalar>({expanded, columns(compressed, latent_size(), shared_)});
  std::vector<Index> key_columns, value_columns;
  for (Index head = 0; head < heads_; ++head) {
    const Index first = head * (own_ + value_size());
    for (Index n = 0; n < own_; ++n) key_columns.push_back(first + n);
    for (Index n = 0; n < shared_; ++n) key_columns.push_back(expanded.cols() + n);
    for (Index n = 0; n < value_size(); ++n) value_columns.push_back(first + own_ + n);
  }
  const Value<Scalar> key = gather_columns(all, std::move(key_columns)), x = gather_columns(expanded, std::move(value_columns));
  act.x = x.numbers;
  act.query = query.numbers;
  act.key = key.numbers;
  act.final = next_key_value_state<Scalar>(*key, *x, act.initial, act.initial.key.rows() + key.rows(),
                                           detail::position_behind(layer_name, act.initial.position, u.rows()));
  const Value<Scalar> y = softmax_attention(recurrence(act), query, key, x);
  const Value<Scalar> out = linear(y, w.o_proj_weight);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
UnifiedForm<S> LatentAttention<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens =
      detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.query}, {Term::recurrence, &act.key}, {Term::recurrence, &act.x}});
  if (!terms.has(Term::recurrence)) {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels());
    return form;
  }
  detail::check_activation(layer_name, "query", act.query, tokens, keys(), "(tokens, heads * key size)");
  detail::check_activation(layer_name, "key", act.key, tokens, keys(), "(tokens, heads * key size)");
  detail::check_initial_keys(layer_name, act.initial, keys(), channels());
  set_softmax(form, recurrence(act));
  return form;
}

template <Real S>
SoftmaxRecurrence<S> LatentAttention<S>::recurrence(const Activations& act) const {
  SoftmaxRecurrence<Scalar> softmax;
  softmax.tokens = act.query.rows();
  softmax.channels = channels();
  softmax.heads = softmax.key_heads = heads_;
  softmax.query = act.query;
  softmax.key = act.key;
  softmax.scale = Scalar(1) / std::sqrt(static_cast<Scalar>(own_ + shared_));
  softmax.past_key = detail::carried(act.initial.key);
  softmax.past_value = detail::carried(act.initial.value);
  return softmax;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
