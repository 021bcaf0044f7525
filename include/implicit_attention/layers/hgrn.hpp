// HGRN (Qin et al. 2023, arXiv 2311.04823): a gated recurrence of each channel by itself, its forget gate bounded from below.
#pragma once

#include <utility>

#include <implicit_attention/layers/head_mixer.hpp>
#include <implicit_attention/trace/bounded_forget_gate.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Each of E channels has a recurrence of its own:
///
///     f = b + (1 - b) sigmoid(f_proj u)        x = i_proj u
///     R_e[i,j] = (1 - f_j) prod_{t=j+1..i} f_t
///     y = silu(g_proj u) norm(R silu(x)), the norm over the whole width        out = y o_proj^T
///
/// The lower bound b (E) is an input, `lower_bound` of the run context, and 0 where there is none. Short convolutions come before SiLU.
template <Real S>
class Hgrn : public HeadMixer<Hgrn<S>, S> {
  using Base = HeadMixer<Hgrn<S>, S>;

 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "HGRN";
  using Weights = HeadMixerWeights<S>;
  using Options = HeadMixerOptions;
  using typename Base::Activations;
  using typename Base::MixerInput;

  [[nodiscard]] static Options options(const Configuration& configuration) { return HeadMixerOptions::from_configuration(configuration); }

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor.
  Hgrn(Weights weights, Options options) : Base(std::move(weights), by_channel(options), names, true) {
    check_shape(layer_name, "f_proj.weight", this->weights().k_proj.weight, this->channels(), this->width(), "(channels, width)");
  }
  /// Reads the weights below a prefix such as `model.layers.0.attn.`, under their public names.
  [[nodiscard, gnu::cold]] static Hgrn from_tensors(const PrefixedTensors<Scalar>& tensors, const Options& options) {
    return Hgrn(Base::read(tensors, options, names, "g_norm.weight"), options);
  }

  [[nodiscard]] Index state_rows() const { return 1; }
  [[nodiscard]] Index state_columns() const { return this->channels(); }

  /// o = R silu(x) and what it is made of.
  [[nodiscard]] Value<Scalar> mix(const MixerInput& in, Activations& act) const {
    const Value<S>* bound = in.context->find("lower_bound");
    const ForgetGate<S> forget = bounded_forget_gate(in.key, bound == nullptr ? Array<S>() : bound->numbers);
    act.key = forget.write.numbers;
    act.log_decay = forget.log_decay.numbers;
    DiagonalInputs<S> inputs;
    inputs.step = forget.log_decay;
    inputs.key_scale = forget.write;
    return diagonal_recurrence(recurrence(act), inputs, {}, {}, in.content, in.state, &act.final.recurrent);
  }
  [[nodiscard]] bool activated() const { return true; }

  [[nodiscard]] DiagonalRecurrence<Scalar> recurrence(const Activations& act) const {
    DiagonalRecurrence<Scalar> recurrence;
    recurrence.tokens = act.key.rows();
    recurrence.channels = this->channels();
    recurrence.step = act.log_decay;
    recurrence.key_scale = act.key;
    return recurrence;
  }
  void check_recurrence(const Activations& act, Index tokens) const {
    detail::check_activation(layer_name, "key", act.key, tokens, this->channels(), "(tokens, channels)");
    detail::check_activation(layer_name, "log_decay", act.log_decay, tokens, this->channels(), "(tokens, channels)");
  }

 private:
  static constexpr const char* names[3] = {"", "f", "i"};
  [[nodiscard]] static Options by_channel(Options options) {
    options.heads = options.key_value_heads = 1;  // no heads: what is asked of them is asked of the width
    return options;
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
