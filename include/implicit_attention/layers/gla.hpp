// Gated linear attention (Yang et al. 2023, arXiv 2312.06635): one decay a key channel, made of the input.
#pragma once

#include <cmath>
#include <limits>
#include <utility>

#include <implicit_attention/layers/head_mixer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With H heads of K keys and P values:
///
///     log decay = max(logsigmoid(u gk_0^T gk_1^T + bias) / normalizer, clamp_min)        one a key channel
///     R_h[i,j] = K^-1/2 sum_n q[i,n] k[j,n] exp( sum_{t=j+1..i} log decay[t,n] )
///     y = silu(g_proj u) norm_h(R_h v)        out = y o_proj^T
///
/// Short convolutions with SiLU may follow q, k and v; the one on v is content.
template <Real S>
class Gla : public HeadMixer<Gla<S>, S> {
  using Base = HeadMixer<Gla<S>, S>;

 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "GLA";
  using typename Base::Activations;
  using typename Base::MixerInput;

  struct Weights : HeadMixerWeights<S> {
    Array<Scalar> gk_proj_0_weight;  ///< (r, D)
    Array<Scalar> gk_proj_1_weight;  ///< (key/value heads * K, r)
    Array<Scalar> gk_proj_1_bias;    ///< (key/value heads * K), may be absent
  };
  struct Options : HeadMixerOptions {
    double gate_logit_normalizer = 16;
    double clamp_min = -std::numeric_limits<double>::infinity();  ///< of the log decay; -infinity: none
  };
  [[nodiscard]] static Options options(const Configuration& configuration) {
    Options made{HeadMixerOptions::from_configuration(configuration)};
    made.gate_logit_normalizer = configuration.number({"gate_logit_normalizer"}).value_or(made.gate_logit_normalizer);
    made.clamp_min = configuration.number({"clamp_min"}).value_or(made.clamp_min);
    return made;
  }

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  Gla(Weights weights, Options options);
  /// Reads the weights below a prefix such as `model.layers.0.attn.`, under their public names.
  [[nodiscard, gnu::cold]] static Gla from_tensors(const PrefixedTensors<Scalar>& tensors, const Options& options);

  /// The width r between the two projections of the decay.
  [[nodiscard]] Index rank() const { return gk_0_.rows(); }

  /// o = R v and what it is made of.
  [[nodiscard]] Value<Scalar> mix(const MixerInput& in, Activations& act) const;
  [[nodiscard]] bool activated() const { return this->weights().v_proj.convolved(); }

 private:
  static constexpr const char* names[3] = {"q", "k", "v"};

  Array<Scalar> gk_0_, gk_1_, gk_bias_;
  Options options_;
};

template <Real S>
Gla<S>::Gla(Weights weights, Options options)
    : Base(weights, options, names),
      gk_0_(weights.gk_proj_0_weight),
      gk_1_(weights.gk_proj_1_weight),
      gk_bias_(weights.gk_proj_1_bias),
      options_(options) {
  check_shape(layer_name, "gk_proj.0.weight", gk_0_, gk_0_.rows(), this->width(), "(rank, width)");
  const Index keys = this->weights().k_proj.weight.rows();
  check_shape(layer_name, "gk_proj.1.weight", gk_1_, keys, gk_0_.rows(), "(key/value heads * state, rank)");
  detail::check_bias(layer_name, "gk_proj.1.bias", gk_bias_, keys, "key/value heads * state");
  if (!(options.gate_logit_normalizer > 0))
    detail::raise(ErrorKind::value, "GLA: gate_logit_normalizer is ", options.gate_logit_normalizer, ", expected above 0");
  if (!(options.clamp_min <= 0)) detail::raise(ErrorKind::value, "GLA: clamp_min is ", options.clamp_min, ", expected at most 0");
}

template <Real S>
Gla<S> Gla<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, const Options& options) {
  Weights w;
  static_cast<HeadMixerWeights<S>&>(w) =
      Base::read(tensors, options, names, tensors.has("g_norm_swish_gate.weight") ? "g_norm_swish_gate.weight" : "g_norm.weight");
  w.gk_proj_0_weight = tensors.required("gk_proj.0.weight", 2);
  w.gk_proj_1_weight = tensors.required("gk_proj.1.weight", 2);
  w.gk_proj_1_bias = tensors.optional("gk_proj.1.bias", 1);
  return Gla(std::move(w), options);
}

template <Real S>
Value<S> Gla<S>::mix(const MixerInput& in, Activations& act) const {
  const HeadMixerWeights<S>& w = this->weights();
  HeadInputs<S> inputs;
  inputs.query = times(w.q_proj.convolved() ? silu(in.query) : in.query, S(1) / std::sqrt(static_cast<S>(this->state())));
  inputs.key = repeat_heads(w.k_proj.convolved() ? silu(in.key) : in.key, this->key_value_heads(), this->heads());
  Value<S> log_decay = apply_function(Function::log_sigmoid, linear(linear(in.u, gk_0_), gk_1_, gk_bias_));
  log_decay = times(log_decay, static_cast<S>(1 / options_.gate_logit_normalizer));
  if (std::isfinite(options_.clamp_min)) log_decay = clamp(log_decay, static_cast<S>(options_.clamp_min), S(0));
  inputs.log_decay = repeat_heads(log_decay, this->key_value_heads(), this->heads());
  act.query = inputs.query.numbers;
  act.key = inputs.key.numbers;
  act.log_decay = inputs.log_decay.numbers;
  return head_recurrence(this->recurrence(act), inputs, in.content, in.state, &act.final.recurrent);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
