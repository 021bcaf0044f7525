// RetNet's multi-scale retention (Sun et al. 2023, arXiv 2307.08621), in the form of flash-linear-attention and in its authors' own.
#pragma once

#include <cmath>
#include <utility>

#include <implicit_attention/layers/head_mixer.hpp>
#include <implicit_attention/trace/rotary.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With H heads of K keys and P values:
///
///     R_h[i,j] = q_i . k_j K^-1/2 gamma_h^(i-j)        gamma_h = 1 - 2^(-5-h)        q, k rotated
///     y = silu(g_proj u) norm_h(R_h v)                 out = y o_proj^T
///
/// flash-linear-attention rotates the halves of a head (n, n + K/2) by 10000^(-2n/K); short convolutions with SiLU may follow q, k and v,
/// and the one on v is content. The authors' parallel form (torchscale) rotates pairs (2n, 2n + 1) by 10000^(-linspace(0, 1, K/2)), divides
/// rows by sqrt(sum_j gamma^(i-j)) and then by clamp(sum_j |row|, 1, 5e4), and its norm has no weight.
template <Real S>
class RetNet : public HeadMixer<RetNet<S>, S> {
  using Base = HeadMixer<RetNet<S>, S>;

 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "RetNet";
  static constexpr bool decays_of_data = false;
  using Weights = HeadMixerWeights<S>;
  using typename Base::Activations;
  using typename Base::MixerInput;

  struct Options : HeadMixerOptions {
    bool parallel = false;  ///< the authors' parallel form
  };
  /// From flash-linear-attention's keys, or the authors' with `parallel`.
  [[nodiscard]] static Options options(const Configuration& configuration, bool parallel = false) {
    Options made{HeadMixerOptions::from_configuration(configuration), parallel};
    if (parallel && !configuration.has("layernorm_eps")) made.norm_eps = 1e-6;
    return made;
  }

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor.
  RetNet(Weights weights, Options options);
  /// Reads the weights below a prefix such as `model.layers.0.attn.`, under their public names.
  [[nodiscard, gnu::cold]] static RetNet from_tensors(const PrefixedTensors<Scalar>& tensors, const Options& options);

  /// log gamma_h, (1, H).
  [[nodiscard]] const Array<Scalar>& log_decay() const { return log_decay_; }

  /// o = R v and what it is made of. The context's positions rotate queries and keys.
  [[nodiscard]] Value<Scalar> mix(const MixerInput& in, Activations& act) const;
  [[nodiscard]] bool activated() const { return this->weights().v_proj.convolved(); }
  [[nodiscard]] bool divides_rows() const { return parallel_; }

 private:
  static constexpr const char* names[3] = {"q", "k", "v"};
  [[nodiscard]] Value<Scalar> divisors(const HeadInputs<Scalar>& inputs) const;

  bool parallel_ = false;
  Array<Scalar> log_decay_;
  Rotary rotary_;
};

template <Real S>
RetNet<S>::RetNet(Weights weights, Options options) : Base(std::move(weights), options, names), parallel_(options.parallel) {
  const Index size = this->state();
  Matrix<S> log_decay(1, this->heads());
  for (Index head = 0; head < this->heads(); ++head) log_decay(0, head) = std::log1p(-std::exp2(static_cast<S>(-5 - head)));
  log_decay_ = std::move(log_decay);
  if (size % 2 != 0) detail::raise(ErrorKind::shape, "RetNet: heads have ", size, " keys, expected an even number: they are rotated");
  rotary_.head_size = rotary_.rotated = size;
  if (!parallel_) return;
  rotary_.pairs = true;
  for (Index pair = 0; pair < size / 2; ++pair)
    rotary_.frequencies.push_back(size == 2 ? 1.0 : std::pow(10000.0, -static_cast<double>(pair) / static_cast<double>(size / 2 - 1)));
}

template <Real S>
RetNet<S> RetNet<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, const Options& options) {
  const char* norm = options.parallel ? "" : tensors.has("g_norm_swish_gate.weight") ? "g_norm_swish_gate.weight" : "g_norm.weight";
  return RetNet(Base::read(tensors, options, names, norm), options);
}

template <Real S>
Value<S> RetNet<S>::mix(const MixerInput& in, Activations& act) const {
  if (parallel_ && !in.state.empty())
    detail::raise(ErrorKind::value,
                  "RetNet: a state was carried in, and the parallel form has none: its rows are divided by their own sums");
  const std::vector<Index> positions = in.context->positions_of(in.u.rows(), act.initial.position);
  const auto activate = [](const ShortProjection<S>& projection, const Value<S>& x) { return projection.convolved() ? silu(x) : x; };
  const S scale_of_keys = S(1) / std::sqrt(static_cast<S>(this->state()));
  HeadInputs<S> inputs;
  inputs.query = rotary_positions(activate(this->weights().q_proj, in.query), rotary_, positions);
  inputs.key = rotary_positions(activate(this->weights().k_proj, in.key), rotary_, positions);
  inputs.key = times(repeat_heads(inputs.key, this->key_value_heads(), this->heads()), scale_of_keys);
  act.query = inputs.query.numbers;
  act.key = inputs.key.numbers;
  act.log_decay = log_decay_;
  const Value<S> o = head_recurrence(this->recurrence(act), inputs, in.content, in.state, &act.final.recurrent);
  if (!parallel_) return o;
  const Value<S> normalizer = divisors(inputs);
  act.normalizer = normalizer.numbers;
  return scale(spread_heads(normalizer, this->state_columns()), o);
}

/// 1 / (sqrt(sum_j gamma^(i-j)) clamp(sum_j |row|, 1, 5e4)), (L, H). The authors detach the second sum from the gradient; here it is exact.
template <Real S>
Value<S> RetNet<S>::divisors(const HeadInputs<Scalar>& inputs) const {
  Matrix<S> of_decays(inputs.query.rows(), this->heads());
  for (Index head = 0; head < this->heads(); ++head) {
    const S log_gamma = log_decay_(0, head), total = std::expm1(log_gamma);
    for (Index i = 0; i < of_decays.rows(); ++i)  // a geometric sum: (1 - gamma^(i+1)) / (1 - gamma)
      of_decays(i, head) = S(1) / std::sqrt(std::expm1(static_cast<S>(i + 1) * log_gamma) / total);
  }
  const Value<S> decays = inputs.query.trace->constant(std::move(of_decays));
  const Value<S> sums = scale(decays, absolute_row_sums(inputs.query, inputs.key, log_decay_));
  return scale(decays, reciprocal(clamp(sums, S(1), S(5e4))));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
