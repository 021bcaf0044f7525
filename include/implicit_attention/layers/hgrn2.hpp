// HGRN2 (Qin et al. 2024, arXiv 2404.07904): gated linear attention whose keys are what the forget gate lets in.
#pragma once

#include <cmath>
#include <utility>

#include <implicit_attention/layers/head_mixer.hpp>
#include <implicit_attention/trace/bounded_forget_gate.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With H heads of K keys and P values:
///
///     f = b + (1 - b) sigmoid(f_proj u)        q = silu(q_proj u)        k = 1 - f        x = i_proj u
///     R_h[i,j] = K^-1/2 sum_n q[i,n] k[j,n] prod_{t=j+1..i} f[t,n]
///     y = norm(R x), over the whole width      out = y o_proj^T
///
/// The lower bound b (H K) is an input, `lower_bound` of the run context, and 0 where there is none. Short convolutions have no activation
/// of their own. The scale K^-1/2 matters only through the norm's eps.
template <Real S>
class Hgrn2 : public HeadMixer<Hgrn2<S>, S> {
  using Base = HeadMixer<Hgrn2<S>, S>;

 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "HGRN2";
  using Weights = HeadMixerWeights<S>;
  using Options = HeadMixerOptions;
  using typename Base::Activations;
  using typename Base::MixerInput;

  [[nodiscard]] static Options options(const Configuration& configuration) { return HeadMixerOptions::from_configuration(configuration); }

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor.
  Hgrn2(Weights weights, Options options) : Base(std::move(weights), options, names, true) {}
  /// Reads the weights below a prefix such as `model.layers.0.attn.`, under their public names.
  [[nodiscard, gnu::cold]] static Hgrn2 from_tensors(const PrefixedTensors<Scalar>& tensors, const Options& options) {
    return Hgrn2(Base::read(tensors, options, names, "g_norm.weight"), options);
  }

  /// o = R x and what it is made of.
  [[nodiscard]] Value<Scalar> mix(const MixerInput& in, Activations& act) const {
    const Value<S>* bound = in.context->find("lower_bound");
    const ForgetGate<S> forget = bounded_forget_gate(in.key, bound == nullptr ? Array<S>() : bound->numbers);
    HeadInputs<S> inputs;
    inputs.query = times(silu(in.query), S(1) / std::sqrt(static_cast<S>(this->state())));
    inputs.key = forget.write;
    inputs.log_decay = forget.log_decay;
    act.query = inputs.query.numbers;
    act.key = inputs.key.numbers;
    act.log_decay = inputs.log_decay.numbers;
    return head_recurrence(this->recurrence(act), inputs, in.content, in.state, &act.final.recurrent);
  }
  [[nodiscard]] bool activated() const { return false; }

 private:
  static constexpr const char* names[3] = {"q", "f", "i"};
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
