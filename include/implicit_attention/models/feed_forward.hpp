// Feed-forward parts: gated ones (Griffin's GELU, SiLU in the hybrids), plain ones, and RWKV's channel mixing.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// out = down_proj( f(gate_proj(u)) * up_proj(u) ), f = GELU in its tanh form (De et al. 2024, section 2.2) or another; without gate_proj,
/// out = down_proj( f(up_proj(u)) ).
template <Real S>
class GatedFeedForward {
 public:
  using Scalar = S;
  static constexpr std::string_view part_name = "GatedFeedForward";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents
  struct Weights {
    Array<Scalar> gate_proj_weight;  ///< (M, D), absent in a plain part
    Array<Scalar> gate_proj_bias;    ///< (M), may be absent
    Array<Scalar> up_proj_weight;    ///< (M, D)
    Array<Scalar> up_proj_bias;      ///< (M), may be absent
    Array<Scalar> down_proj_weight;  ///< (D, M)
    Array<Scalar> down_proj_bias;    ///< (D), may be absent
  };

  /// `gate_scale` multiplies the gate before its function (Falcon-H1).
  explicit GatedFeedForward(Weights weights, Function function = Function::gelu_tanh, Scalar gate_scale = 1);
  /// Reads the weights below a prefix such as `model.layers.0.mlp_block.`: gate_proj, up_proj, down_proj (or other names of the three;
  /// an empty one for the gate reads a plain part).
  [[nodiscard, gnu::cold]] static GatedFeedForward from_tensors(const PrefixedTensors<Scalar>& tensors,
                                                                Function function = Function::gelu_tanh,
                                                                const std::string& gate = "gate_proj", const std::string& up = "up_proj",
                                                                const std::string& down = "down_proj");

  [[nodiscard]] Index width() const { return weights_.up_proj_weight.cols(); }
  [[nodiscard]] Index inner_width() const { return weights_.up_proj_weight.rows(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  [[nodiscard]] Function function() const { return function_; }

  [[nodiscard]] Value<Scalar> run(const Value<Scalar>& u, RunContext<Scalar>& context) const;

 private:
  Weights weights_;
  Function function_;
  Scalar gate_scale_;
};

template <Real S>
GatedFeedForward<S>::GatedFeedForward(Weights weights, Function function, Scalar gate_scale)
    : weights_(std::move(weights)), function_(function), gate_scale_(gate_scale) {
  const Weights& w = weights_;
  const Index inner = w.up_proj_weight.rows(), width = w.up_proj_weight.cols();
  if (!w.gate_proj_weight.empty()) check_shape(part_name, "gate_proj.weight", w.gate_proj_weight, inner, width, "(inner width, width)");
  detail::check_bias(part_name, "gate_proj.bias", w.gate_proj_bias, inner, "inner width");
  detail::check_bias(part_name, "up_proj.bias", w.up_proj_bias, inner, "inner width");
  check_shape(part_name, "down_proj.weight", w.down_proj_weight, width, inner, "(width, inner width)");
  detail::check_bias(part_name, "down_proj.bias", w.down_proj_bias, width, "width");
}

template <Real S>
GatedFeedForward<S> GatedFeedForward<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Function function, const std::string& gate,
                                                      const std::string& up, const std::string& down) {
  Weights w;
  if (!gate.empty()) {
    w.gate_proj_weight = tensors.required(gate + ".weight", 2);
    w.gate_proj_bias = tensors.optional(gate + ".bias", 1);
  }
  w.up_proj_weight = tensors.required(up + ".weight", 2);
  w.up_proj_bias = tensors.optional(up + ".bias", 1);
  w.down_proj_weight = tensors.required(down + ".weight", 2);
  w.down_proj_bias = tensors.optional(down + ".bias", 1);
  return GatedFeedForward(std::move(w), function);
}

template <Real S>
Value<S> GatedFeedForward<S>::run(const Value<Scalar>& u, RunContext<Scalar>&) const {
  const Weights& w = weights_;
  Value<Scalar> up = linear(u, w.up_proj_weight, w.up_proj_bias);
  if (w.gate_proj_weight.empty()) return linear(apply_function(function_, std::move(up)), w.down_proj_weight, w.down_proj_bias);
  Value<Scalar> gate_input = times(linear(u, w.gate_proj_weight, w.gate_proj_bias), gate_scale_);
  return linear(gated_product(function_, std::move(gate_input), up), w.down_proj_weight, w.down_proj_bias);
}

/// RWKV's channel mixing: out = sigmoid(receptance) * value( relu(key)^2 ), key and receptance from each token mixed with the one before it
/// (RWKV-4 and 5: Peng et al. 2023, arXiv 2305.13048, eq. 17-18; RWKV-6: Peng et al. 2024, arXiv 2404.05892, eq. 26-28); RWKV-7 has no
/// receptance (Peng et al. 2025, arXiv 2503.14456).
template <Real S>
class ChannelMixing {
 public:
  using Scalar = S;
  static constexpr std::string_view part_name = "ChannelMixing";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents
  struct Weights {
    Array<Scalar> time_mix_key;         ///< (D): the weight of the token itself; the one before it has 1 less that; also time_maa_k, x_k
    Array<Scalar> time_mix_receptance;  ///< (D), absent without a receptance; also time_maa_r
    Array<Scalar> key_weight;           ///< (M, D)
    Array<Scalar> receptance_weight;    ///< (D, D), absent without a receptance
    Array<Scalar> value_weight;         ///< (D, M)
    bool mixes_weigh_previous = false;  ///< the mixes are weights of the token before (time_maa_k, x_k)
  };
  /// What one piece of a sequence hands to the next.
  struct State {
    Matrix<Scalar> shifted;  ///< (1, D): the last input
  };

  explicit ChannelMixing(Weights weights);
  /// Reads the weights below a prefix such as `rwkv.blocks.0.feed_forward.` or `blocks.0.ffn.`; the name of the mix tells the version.
  [[nodiscard, gnu::cold]] static ChannelMixing from_tensors(const PrefixedTensors<Scalar>& tensors);

  [[nodiscard]] Index width() const { return weights_.key_weight.cols(); }
  [[nodiscard]] Index inner_width() const { return weights_.key_weight.rows(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  [[nodiscard]] Value<Scalar> run(const Value<Scalar>& u, RunContext<Scalar>& context) const;

 private:
  Weights weights_;
};

template <Real S>
ChannelMixing<S>::ChannelMixing(Weights weights) : weights_(std::move(weights)) {
  const Weights& w = weights_;
  const Index width = w.key_weight.cols(), inner = w.key_weight.rows();
  check_vector(part_name, "time_mix_key", w.time_mix_key, width, "width");
  check_shape(part_name, "value.weight", w.value_weight, width, inner, "(width, inner width)");
  if (w.receptance_weight.empty()) return;
  check_vector(part_name, "time_mix_receptance", w.time_mix_receptance, width, "width");
  check_shape(part_name, "receptance.weight", w.receptance_weight, width, width, "(width, width)");
}

template <Real S>
ChannelMixing<S> ChannelMixing<S>::from_tensors(const PrefixedTensors<Scalar>& tensors) {
  Weights w;
  const auto choose = [&](std::string_view one, std::string_view other) { return tensors.has(one) ? one : other; };
  const bool seventh = tensors.has("x_k"), sixth = tensors.has("time_maa_k") || tensors.has("time_maa_r");
  w.mixes_weigh_previous = seventh || sixth;
  w.time_mix_key = tensors.required(seventh ? "x_k" : sixth ? "time_maa_k" : choose("time_mix_k", "time_mix_key"));
  w.key_weight = tensors.required("key.weight", 2);
  w.value_weight = tensors.required("value.weight", 2);
  if (!seventh) {
    w.time_mix_receptance = tensors.required(sixth ? "time_maa_r" : choose("time_mix_r", "time_mix_receptance"));
    w.receptance_weight = tensors.required("receptance.weight", 2);
  }
  return ChannelMixing(std::move(w));
}

template <Real S>
Value<S> ChannelMixing<S>::run(const Value<Scalar>& u, RunContext<Scalar>& context) const {
  const Weights& w = weights_;
  Array<Scalar> last;  // of the piece before
  if (context.carried != nullptr) {
    if (const State* const initial = context.carried->template before<State>()) last = initial->shifted;
    context.carried->leave(State{Matrix<Scalar>((*u).bottomRows(1))});
  }
  const Value<Scalar> before = token_shift(u, last);
  const auto mixed = [&](const Array<Scalar>& m) { return w.mixes_weigh_previous ? token_mix(before, u, m) : token_mix(u, before, m); };
  Value<Scalar> key = linear(mixed(w.time_mix_key), w.key_weight);
  Value<Scalar> value = linear(apply_function(Function::relu_squared, std::move(key)), w.value_weight);
  if (w.receptance_weight.empty()) return value;
  return scale(sigmoid(linear(mixed(w.time_mix_receptance), w.receptance_weight)), std::move(value));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
