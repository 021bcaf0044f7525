// Softmax attention as a layer of the hybrids: global or in a sliding window, with grouped key/value heads, rotary positions, norms of
// queries and keys, a soft cap and an output gate. Its attention matrices are its own: softmax weights, one matrix a head.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/layers/key_value_state.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/low_rank.hpp>
#include <implicit_attention/trace/rotary.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, H query heads, K key/value heads (K divides H) of size P each, E = H P:
///
///     q = rotary(norm(q_proj(u)))    k = rotary(norm(k_proj(u)))    v = v_proj(u)       query head h reads key/value head h K / H
///     R_h[i,j] = softmax_j( cap(scale q_i . k_j) )  over the tokens that i sees
///     x = v, repeated for every query head    y_h = gate_h (R_h x_h)    out = o_proj(y)
///
/// The softmax is part of the recurrence; the only other term is the gate, where there is one. Heads, window and rotation cannot be read
/// off the weights, and are options.
template <Real S>
class SoftmaxAttention : public LayerInterface<SoftmaxAttention<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "SoftmaxAttention";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents
  static constexpr bool reads_positions = true;      ///< see LayerInterface::activations

  struct Weights {
    Array<Scalar> q_proj_weight;  ///< (E, D); with an output gate (2E, D): for each head its queries, then its gate
    Array<Scalar> q_proj_bias;    ///< as many, may be absent
    Array<Scalar> k_proj_weight;  ///< (K P, D)
    Array<Scalar> k_proj_bias;    ///< (K P), may be absent
    Array<Scalar> v_proj_weight;  ///< (K P, D)
    Array<Scalar> v_proj_bias;    ///< (K P), may be absent
    Array<Scalar> o_proj_weight;  ///< (D, E)
    Array<Scalar> o_proj_bias;    ///< (D), may be absent
    Array<Scalar> q_norm_weight;  ///< (P): each head by itself, or (E): the whole width; may be absent
    Array<Scalar> k_norm_weight;  ///< (P) or (K P), may be absent
    LowRank<Scalar> q_adapter;    ///< beside q_proj, may be absent (Zamba2's shared blocks)
    LowRank<Scalar> k_adapter;    ///< beside k_proj, may be absent
    LowRank<Scalar> v_adapter;    ///< beside v_proj, may be absent
  };

  /// A window that leaves nothing out.
  static constexpr Index every_token = std::numeric_limits<Index>::max();

  struct Options {
    Index heads = 1;             ///< H
    Index window = every_token;  ///< token i sees token j where i - window <= j
    double rotary_part = 0;      ///< the share of each head that is rotated, its first part
    double rotary_base = 10000;  ///< theta: pair n of r rotated numbers, by position * theta^(-2n/r)
    bool rotary_pairs = false;   ///< pairs (2n, 2n + 1) rather than (n, n + r/2)
    double scale = 0;            ///< what scores are multiplied by; 0: 1 / sqrt(P)
    double key_scale = 1;        ///< what keys are multiplied by, before the rotation
    double soft_cap = 0;         ///< scores = cap tanh(scores / cap); 0: none
    bool causal = true;
    bool output_gate = false;    ///< y is multiplied by the sigmoid of a gate that q_proj gives as well
    double norm_eps = 1e-6;      ///< of the norms of queries and keys
    bool norm_one_plus = false;  ///< their weights are stored less 1
  };

  /// What one piece of a sequence hands to the next.
  using State = KeyValueState<Scalar>;

  /// One sequence through the layer. An engine that has run the layer itself views its query and key here, both after the rotation.
  struct Activations {
    Array<Scalar> x;               ///< (L, E): values, repeated for every query head: the linear input
    Array<Scalar> query;           ///< (L, E): rotated, not yet scaled
    Array<Scalar> key;             ///< (L, K P): rotated
    Array<Scalar> gate_input;      ///< (L, E): before the sigmoid; empty without an output gate
    std::vector<Index> positions;  ///< (L): what was rotated by
    Array<Scalar> y;               ///< (L, E): output before the output projection
    Array<Scalar> out;             ///< (L, D)
    State initial;                 ///< the state carried in; empty matrices if none
    State final;                   ///< the state after the last token
  };

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  SoftmaxAttention(Weights weights, Options options);

  /// Reads the weights below a prefix such as `model.layers.2.temporal_block.`, under their public names.
  [[nodiscard, gnu::cold]] static SoftmaxAttention from_tensors(const PrefixedTensors<Scalar>& tensors, Options options);

  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] Index heads() const { return options_.heads; }
  [[nodiscard]] Index head_size() const { return head_size_; }
  /// Key/value heads K.
  [[nodiscard]] Index key_heads() const { return shared_ / head_size_; }
  [[nodiscard]] Index window() const { return options_.window; }
  [[nodiscard]] bool causal() const { return options_.causal; }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// Runs the layer on u (L, D) within a trace. The context's positions rotate queries and keys and nothing else: as in the public port,
  /// attention looks across the border between packed documents. Without positions they are 0, 1, ..., or go on from `initial`.
  [[nodiscard]] LayerRun<SoftmaxAttention> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// The unified form. Needs query and key, and gate_input where there is a gate. Weights are made when rows are asked for.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.o_proj_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.o_proj_bias; }

  /// The first column of the key/value head that a query head reads.
  [[nodiscard]] Index key_column(Index head) const { return head / (heads() / key_heads()) * head_size_; }

 private:
  [[nodiscard]] SoftmaxRecurrence<Scalar> recurrence(const Activations& act) const;
  [[nodiscard]] Norm<Scalar> head_norm(const char* name, const Array<Scalar>& weight, Index heads) const;

  Weights weights_;
  Options options_;
  Rotary rotary_;
  Norm<Scalar> query_norm_, key_norm_;
  Index width_ = 0, channels_ = 0, head_size_ = 0, shared_ = 0;
};

/// The name of SoftmaxAttention before version 0.2.
template <Real S>
using LocalAttention [[deprecated("renamed: SoftmaxAttention")]] = SoftmaxAttention<S>;

template <Real S>
SoftmaxAttention<S>::SoftmaxAttention(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  const Index rows = w.q_proj_weight.rows(), parts = options.output_gate ? 2 : 1;
  width_ = w.q_proj_weight.cols();
  channels_ = rows / parts;
  if (w.q_proj_weight.empty()) detail::raise_shape(layer_name, "q_proj.weight", "is empty, expected (heads * head size, width)");
  if (options.heads < 1 || rows % parts != 0 || channels_ % options.heads != 0)  // no product: heads may be any number
    detail::raise_shape(layer_name, "q_proj.weight", "is ", shape_text({rows, width_}), ", expected (", options.output_gate ? "2 * " : "",
                        "heads * head size, width) with ", options.heads, " heads");
  head_size_ = channels_ / options.heads;
  shared_ = w.k_proj_weight.rows();
  if (shared_ == 0 || shared_ % head_size_ != 0 || options.heads % (shared_ / head_size_) != 0)
    detail::raise_shape(layer_name, "k_proj.weight", "is ", shape_text({shared_, w.k_proj_weight.cols()}),
                        ", expected (key heads * head size, width) with head size ", head_size_, " and key heads that divide ",
                        options.heads, " heads");
  detail::check_bias(layer_name, "q_proj.bias", w.q_proj_bias, rows, "rows of q_proj.weight");
  check_shape(layer_name, "k_proj.weight", w.k_proj_weight, shared_, width_, "(key heads * head size, width)");
  detail::check_bias(layer_name, "k_proj.bias", w.k_proj_bias, shared_, "key heads * head size");
  check_shape(layer_name, "v_proj.weight", w.v_proj_weight, shared_, width_, "(key heads * head size, width)");
  detail::check_bias(layer_name, "v_proj.bias", w.v_proj_bias, shared_, "key heads * head size");
  check_shape(layer_name, "o_proj.weight", w.o_proj_weight, w.o_proj_weight.rows(), channels_, "(width, heads * head size)");
  detail::check_bias(layer_name, "o_proj.bias", w.o_proj_bias, w.o_proj_weight.rows(), "width");
  w.q_adapter.check(layer_name, "q_adapter", rows, width_);
  w.k_adapter.check(layer_name, "k_adapter", shared_, width_);
  w.v_adapter.check(layer_name, "v_adapter", shared_, width_);
  if (options.window < 0) detail::raise(ErrorKind::value, "SoftmaxAttention: window is ", options.window, ", expected at least 0");
  if (!(options.rotary_part >= 0 && options.rotary_part <= 1))
    detail::raise(ErrorKind::value, "SoftmaxAttention: rotary_part is ", options.rotary_part, ", expected 0 to 1");
  if (!(options.rotary_base > 0))
    detail::raise(ErrorKind::value, "SoftmaxAttention: rotary_base is ", options.rotary_base, ", expected above 0");
  rotary_.head_size = head_size_;
  rotary_.rotated = static_cast<Index>(options.rotary_part * static_cast<double>(head_size_));
  rotary_.base = options.rotary_base;
  rotary_.pairs = options.rotary_pairs;
  if (rotary_.rotated % 2 != 0)
    detail::raise(ErrorKind::value, "SoftmaxAttention: rotary_part ", options.rotary_part, " of head size ", head_size_, " rotates ",
                  rotary_.rotated, " numbers, expected an even number");
  query_norm_ = head_norm("q_norm.weight", w.q_norm_weight, options.heads);
  key_norm_ = head_norm("k_norm.weight", w.k_norm_weight, key_heads());
}

template <Real S>
Norm<S> SoftmaxAttention<S>::head_norm(const char* name, const Array<Scalar>& weight, Index heads) const {
  if (weight.empty()) return {};
  if (weight.size() == heads * head_size_ && heads > 1) return Norm<Scalar>::rms(weight, options_.norm_eps, options_.norm_one_plus);
  check_vector(layer_name, name, weight, head_size_, "head size");
  return Norm<Scalar>::rms(Array<Scalar>(Matrix<Scalar>(weight.matrix().replicate(1, heads))), options_.norm_eps, options_.norm_one_plus,
                           heads);
}

template <Real S>
SoftmaxAttention<S> SoftmaxAttention<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  const auto either = [&](const char* one, const char* other) {
    return std::string(tensors.has(one) || !tensors.has(other) ? one : other);
  };
  const std::string output = either("o_proj.weight", "out_proj.weight") == "o_proj.weight" ? "o_proj" : "out_proj";
  Weights w;
  w.q_proj_weight = tensors.required("q_proj.weight", 2);
  w.q_proj_bias = tensors.optional("q_proj.bias", 1);
  w.k_proj_weight = tensors.required("k_proj.weight", 2);
  w.k_proj_bias = tensors.optional("k_proj.bias", 1);
  w.v_proj_weight = tensors.required("v_proj.weight", 2);
  w.v_proj_bias = tensors.optional("v_proj.bias", 1);
  w.o_proj_weight = tensors.required(output + ".weight", 2);
  w.o_proj_bias = tensors.optional(output + ".bias", 1);
  w.q_norm_weight = tensors.optional(either("q_norm.weight", "q_layernorm.weight"), 1);
  w.k_norm_weight = tensors.optional(either("k_norm.weight", "k_layernorm.weight"), 1);
  return SoftmaxAttention(std::move(w), options);
}

template <Real S>
LayerRun<SoftmaxAttention<S>> SoftmaxAttention<S>::run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial) const {
  const Weights& w = weights_;
  Activations act;
  if (initial) {
    check_shape(layer_name, "state.key", initial->key, initial->key.rows(), shared_, "(tokens, key heads * head size)");
    check_shape(layer_name, "state.value", initial->value, initial->key.rows(), shared_, "(tokens, key heads * head size)");
    act.initial = *initial;
  }
  act.positions = context.positions_of(u.rows(), act.initial.position);
  Value<Scalar> query = adapted_linear(u, w.q_proj_weight, w.q_proj_bias, w.q_adapter), gate_input;
  if (options_.output_gate) {
    std::vector<Index> queries, gates;
    for (Index channel = 0; channel < channels_; ++channel) {
      queries.push_back(channel / head_size_ * 2 * head_size_ + channel % head_size_);
      gates.push_back(queries.back() + head_size_);
    }
    gate_input = gather_columns(query, gates);
    query = gather_columns(query, queries);
  }
  Value<Scalar> key = adapted_linear(u, w.k_proj_weight, w.k_proj_bias, w.k_adapter);
  if (!query_norm_.empty()) query = normalize(query_norm_, query);
  if (!key_norm_.empty()) key = normalize(key_norm_, key);
  query = rotary_positions(query, rotary_, act.positions);
  key = rotary_positions(times(key, static_cast<Scalar>(options_.key_scale)), rotary_, act.positions);
  const Value<Scalar> value = adapted_linear(u, w.v_proj_weight, w.v_proj_bias, w.v_adapter);
  const Value<Scalar> x = repeat_heads(value, key_heads(), heads());
  act.query = query.numbers;
  act.key = key.numbers;
  act.gate_input = gate_input.numbers;
  act.x = x.numbers;
  act.final = next_key_value_state<Scalar>(*key, *value, act.initial, options_.window, act.positions.back() + 1);
  Value<Scalar> y = softmax_attention(recurrence(act), query, key, x);
  if (options_.output_gate) y = scale(sigmoid(gate_input), y);
  const Value<Scalar> out = linear(y, w.o_proj_weight, w.o_proj_bias);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
UnifiedForm<S> SoftmaxAttention<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(
      terms, {{Term::recurrence, &act.query}, {Term::recurrence, &act.key}, {Term::gate, &act.gate_input}, {Term::recurrence, &act.x}});
  if (options_.output_gate && terms.has(Term::gate)) {
    detail::check_activation(layer_name, "gate_input", act.gate_input, tokens, channels_, "(tokens, channels)");
    form.gate = sigmoid(act.gate_input.matrix());
  }
  if (!terms.has(Term::recurrence)) {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels_);
    return form;
  }
  detail::check_activation(layer_name, "query", act.query, tokens, channels_, "(tokens, heads * head size)");
  detail::check_activation(layer_name, "key", act.key, tokens, shared_, "(tokens, key heads * head size)");
  detail::check_initial_keys(layer_name, act.initial, shared_, shared_);
  set_softmax(form, recurrence(act));
  return form;
}

template <Real S>
SoftmaxRecurrence<S> SoftmaxAttention<S>::recurrence(const Activations& act) const {
  SoftmaxRecurrence<Scalar> softmax;
  softmax.tokens = act.query.rows();
  softmax.channels = channels_;
  softmax.heads = heads();
  softmax.key_heads = key_heads();
  softmax.query = act.query;
  softmax.key = act.key;
  softmax.scale = options_.scale != 0 ? static_cast<Scalar>(options_.scale) : Scalar(1) / std::sqrt(static_cast<Scalar>(head_size_));
  softmax.soft_cap = static_cast<Scalar>(options_.soft_cap);
  softmax.causal = options_.causal;
  softmax.window = options_.window == every_token ? -1 : options_.window;
  softmax.past_key = detail::carried(act.initial.key);
  softmax.past_value = detail::carried(act.initial.value);
  return softmax;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
