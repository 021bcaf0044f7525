// RWKV-5's time mixing (Eagle; Peng et al. 2024, arXiv 2404.05892, section 4.1): heads with a matrix state, read before the update.
#pragma once

#include <string_view>
#include <utility>

#include <implicit_attention/layers/rwkv_shared.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, H heads of size P and E = H P channels:
///
///     mix_m(u)_t = m u_t + (1 - m) u_{t-1}         r, k, v, g = mix(u) through receptance, key, value, gate
///     w = exp(-exp(time_decay))                    f = time_faaaa  (5.2), or exp(time_first) (5.1)
///     y = silu(g) * group_norm(o), o as in BonusRecurrence            out = y output^T
///
/// 5.1 has one decay and one bonus a head, and no gate. The group norm's eps cannot be read off the weights and is an option.
template <Real S>
class Rwkv5 : public LayerInterface<Rwkv5<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Rwkv5";
  static constexpr bool decays_of_data = false;
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights {
    Array<Scalar> time_decay;           ///< (H, P) or (H, 1), before the two exponentials; or empty:
    Array<Scalar> time_decay_factor;    ///< (H, P) or (H, 1): w itself, where the file has no other (rwkv.cpp)
    Array<Scalar> time_faaaa;           ///< (H, P) or (H, 1): f; or empty:
    Array<Scalar> time_first;           ///< (H, P) or (H, 1): the logarithm of f
    Array<Scalar> time_mix_key;         ///< (D)
    Array<Scalar> time_mix_value;       ///< (D)
    Array<Scalar> time_mix_receptance;  ///< (D)
    Array<Scalar> time_mix_gate;        ///< (D), absent without a gate
    Array<Scalar> key_weight;           ///< (E, D)
    Array<Scalar> value_weight;         ///< (E, D)
    Array<Scalar> receptance_weight;    ///< (E, D)
    Array<Scalar> gate_weight;          ///< (E, D), absent without a gate
    Array<Scalar> output_weight;        ///< (D, E)
    Array<Scalar> ln_x_weight;          ///< (E)
    Array<Scalar> ln_x_bias;            ///< (E)
  };

  struct Options {
    double group_norm_eps = 64e-5;  ///< beside the variance of o: 64e-5 with a head_size_divisor of 8, 1e-5 without one
  };

  using State = RwkvState<Scalar>;
  using Activations = typename BonusRecurrence<Scalar>::Activations;

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Rwkv5(Weights weights, Options options = {});

  /// Reads the weights below a prefix such as `rwkv.blocks.0.attention.` or `blocks.0.att.`, under their public names.
  [[nodiscard, gnu::cold]] static Rwkv5 from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return weights_.key_weight.cols(); }
  [[nodiscard]] Index channels() const { return weights_.key_weight.rows(); }
  [[nodiscard]] Index heads() const { return recurrence_.heads(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// Runs the layer on u (L, D) within a trace.
  [[nodiscard]] LayerRun<Rwkv5> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// The unified form. Needs what BonusRecurrence::lower needs of the terms that are on.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const {
    return recurrence_.lower(act, gated(), terms, decays_of_data);
  }

  /// The weight (D, E) of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.output_weight; }

 private:
  [[nodiscard]] bool gated() const { return !weights_.gate_weight.empty(); }
  // (H, P) or (H, 1) to (1, E).
  [[nodiscard]] static Array<Scalar> by_channel(const Array<Scalar>& array, Index head_size) {
    return detail::one_row(array.cols() == head_size ? array : Array<Scalar>(Matrix<Scalar>(array.matrix().replicate(1, head_size))));
  }

  Weights weights_;
  Options options_;
  Array<Scalar> log_decay_;  // (1, E) or (1, H)
  BonusRecurrence<Scalar> recurrence_;
};

template <Real S>
Rwkv5<S>::Rwkv5(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  const Index width = w.key_weight.cols(), channels = w.key_weight.rows();
  const bool by_factor = w.time_decay.empty(), by_logarithm = w.time_faaaa.empty();
  const Array<Scalar>&decay = by_factor ? w.time_decay_factor : w.time_decay, &bonus = by_logarithm ? w.time_first : w.time_faaaa;
  const Index heads = decay.rows();
  if (heads < 1 || channels % heads != 0)
    detail::raise_shape(layer_name, "key.weight", "is ", shape_text({channels, width}),
                        ", expected (channels, width), channels a multiple of the ", heads, " rows of time_decay");
  const Index size = channels / heads;
  const auto check_heads = [&](const char* name, const Array<Scalar>& array) {
    check_shape(layer_name, name, array, heads, array.cols() == 1 ? 1 : size, "(heads, head size) or (heads, 1)");
  };
  check_heads(by_factor ? "time_decay_factor" : "time_decay", decay);
  check_heads(by_logarithm ? "time_first" : "time_faaaa", bonus);
  check_vector(layer_name, "time_mix_key", w.time_mix_key, width, "width");
  check_vector(layer_name, "time_mix_value", w.time_mix_value, width, "width");
  check_vector(layer_name, "time_mix_receptance", w.time_mix_receptance, width, "width");
  check_shape(layer_name, "value.weight", w.value_weight, channels, width, "(channels, width)");
  check_shape(layer_name, "receptance.weight", w.receptance_weight, channels, width, "(channels, width)");
  check_shape(layer_name, "output.weight", w.output_weight, width, channels, "(width, channels)");
  if (gated()) {
    check_vector(layer_name, "time_mix_gate", w.time_mix_gate, width, "width");
    check_shape(layer_name, "gate.weight", w.gate_weight, channels, width, "(channels, width)");
  }
  // log w = -exp(time_decay), never through w itself: a slow decay would lose its digits.
  Trace<Scalar> trace;
  const Array<Scalar> rates =
      by_factor ? Array<Scalar>(Matrix<Scalar>(decay.matrix().array().log().matrix())) : negative_exp(trace.constant(decay)).numbers;
  log_decay_ = detail::one_row(rates);
  const Array<Scalar> factor = by_logarithm ? Array<Scalar>(Matrix<Scalar>(bonus.matrix().array().exp().matrix())) : bonus;
  recurrence_ = {layer_name, heads, by_channel(factor, size), w.ln_x_weight, w.ln_x_bias, options.group_norm_eps};
}

template <Real S>
Rwkv5<S> Rwkv5<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  using detail::one_of;
  // One number a head stands in a vector (H), or in (H, 1).
  const auto by_head = [&](std::string_view name) {
    const Array<Scalar> numbers = tensors.required(name);
    return tensors.source().shape(tensors.prefix() + std::string(name))->size() == 1 ? detail::transposed(numbers) : numbers;
  };
  Weights w;
  if (tensors.has("time_decay_factor"))
    w.time_decay_factor = by_head("time_decay_factor");
  else
    w.time_decay = by_head("time_decay");
  bool gated = tensors.has("gate.weight");
  if (tensors.has("time_first_factor")) {
    w.time_faaaa = by_head("time_first_factor");
  } else if (tensors.has("time_first")) {
    w.time_first = by_head("time_first");
  } else {
    w.time_faaaa = by_head("time_faaaa");
    gated = true;  // only the version that stores the logarithm of its bonus goes without
  }
  w.time_mix_key = tensors.required(one_of(tensors, {"time_mix_key", "time_mix_k"}));
  w.time_mix_value = tensors.required(one_of(tensors, {"time_mix_value", "time_mix_v"}));
  w.time_mix_receptance = tensors.required(one_of(tensors, {"time_mix_receptance", "time_mix_r"}));
  w.key_weight = tensors.required("key.weight", 2);
  w.value_weight = tensors.required("value.weight", 2);
  w.receptance_weight = tensors.required("receptance.weight", 2);
  if (gated) {
    w.time_mix_gate = tensors.required(one_of(tensors, {"time_mix_gate", "time_mix_g"}));
    w.gate_weight = tensors.required("gate.weight", 2);
  }
  w.output_weight = tensors.required("output.weight", 2);
  w.ln_x_weight = tensors.required("ln_x.weight", 1);
  w.ln_x_bias = tensors.required("ln_x.bias", 1);
  return Rwkv5(std::move(w), options);
}

template <Real S>
LayerRun<Rwkv5<S>> Rwkv5<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  const Weights& w = weights_;
  Activations act;
  recurrence_.begin(initial, width(), act);
  const Value<Scalar> before = token_shift(u, detail::carried(act.initial.shifted));
  const Value<Scalar> receptance = linear(token_mix(u, before, w.time_mix_receptance), w.receptance_weight);
  const Value<Scalar> key = linear(token_mix(u, before, w.time_mix_key), w.key_weight);
  const Value<Scalar> value = linear(token_mix(u, before, w.time_mix_value), w.value_weight);
  const Value<Scalar> gate_input = gated() ? linear(token_mix(u, before, w.time_mix_gate), w.gate_weight) : Value<Scalar>();
  const auto [x, y] = recurrence_.run(receptance, key, value, u.trace->constant(log_decay_), gate_input, act);
  const Value<Scalar> out = linear(y, w.output_weight);
  act.out = out.numbers;
  act.final.shifted = (*u).bottomRows(1);
  return {std::move(act), x, y, out};
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
