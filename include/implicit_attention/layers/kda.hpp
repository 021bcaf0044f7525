// Kimi Delta Attention (Kimi Team 2025, arXiv 2510.26692): the delta rule with one decay a key channel.
#pragma once

#include <string>
#include <utility>

#include <implicit_attention/layers/decay_rate.hpp>
#include <implicit_attention/layers/delta_rule.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The delta rule with one decay a key channel of each value head and a sigmoid gate:
///
///     f = u f_a^T f_b^T + dt_bias       g = -exp(A_log) softplus(f), or, with a lower bound m < 0,  g = m sigmoid(exp(A_log) f)
///     z = u g_a^T g_b^T + g_bias        y = sigmoid(z) * norm(o)
///
/// f and g may also be of full rank: f_a, g_a are absent then. Sizes are read off the weights.
template <Real S>
class Kda : public LayerInterface<Kda<S>>, public DeltaRule<S> {
 public:
  using Scalar = S;
  using typename DeltaRule<S>::State;
  using typename DeltaRule<S>::Activations;
  using typename DeltaRule<S>::EngineWeights;
  static constexpr std::string_view layer_name = "Kda";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights : DeltaRule<S>::Weights {
    Array<Scalar> f_a_proj_weight;  ///< (rank, D); absent: full rank
    Array<Scalar> f_b_proj_weight;  ///< (Hv K, rank or D)
    Array<Scalar> g_a_proj_weight;  ///< (rank, D); absent: full rank
    Array<Scalar> g_b_proj_weight;  ///< (E, rank or D); absent: no gate
    Array<Scalar> g_b_proj_bias;    ///< (E), may be absent
  };
  struct Options : DeltaRule<S>::Options {
    double lower_bound = 0;  ///< m < 0 of the log decay; 0: none
  };

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  explicit Kda(Weights weights, Options options = {});

  /// Reads the weights below a prefix such as `model.layers.0.self_attn.`: f_a_proj and f_b_proj (the Kimi checkpoints), f_proj.0 and
  /// f_proj.1 (flash-linear-attention) or f_proj alone (full rank), and the same for g.
  [[nodiscard, gnu::cold]] static Kda from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  /// A descriptor without projections: it lowers what an engine has run, and cannot run itself; `width()` is 0. With a lower bound the
  /// log decays are handed in as they are.
  [[nodiscard]] static Kda for_engine(const EngineWeights& weights, Options options = {}) { return Kda(weights, options); }

  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<Kda> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

 private:
  Kda(const EngineWeights& weights, const Options& options);
  static void check_lower_bound(const Options& options) {
    if (!(options.lower_bound <= 0))
      detail::raise(ErrorKind::value, layer_name, ": lower_bound is ", options.lower_bound, ", expected below 0, or 0 for none");
  }
  static Value<Scalar> low_rank(const Value<Scalar>& u, const Array<Scalar>& down, const Array<Scalar>& up, const Array<Scalar>& bias) {
    return linear(down.empty() ? u : linear(u, down), up, bias);
  }

  Weights weights_;
  Scalar lower_bound_;
  Array<Scalar> rate_;  // exp(A_log), (1, Hv K)
};

template <Real S>
Kda<S>::Kda(Weights weights, Options options)
    : DeltaRule<S>(layer_name, weights, options, Function::sigmoid, !weights.g_b_proj_weight.empty()),
      weights_(std::move(weights)),
      lower_bound_(static_cast<Scalar>(options.lower_bound)) {
  const Weights& w = weights_;
  const Index decays = this->heads() * this->state();
  const auto check_low_rank = [&](const std::string& name, const Array<Scalar>& down, const Array<Scalar>& up, Index rows) {
    if (!down.empty()) check_shape(layer_name, name + "_a_proj.weight", down, down.rows(), this->width(), "(rank, width)");
    check_shape(layer_name, name + "_b_proj.weight", up, rows, down.empty() ? this->width() : down.rows(),
                "(outputs, rank), or (outputs, width) where it is alone");
  };
  check_vector(layer_name, "A_log", w.A_log, this->heads(), "value heads");
  check_vector(layer_name, "dt_bias", w.dt_bias, decays, "value heads * key size");
  check_low_rank("f", w.f_a_proj_weight, w.f_b_proj_weight, decays);
  if (!w.g_b_proj_weight.empty()) check_low_rank("g", w.g_a_proj_weight, w.g_b_proj_weight, this->channels());
  detail::check_bias(layer_name, "g_b_proj.bias", w.g_b_proj_bias, this->channels(), "value heads * value size");
  check_lower_bound(options);
  rate_ = detail::repeated(detail::decay_rate(w.A_log), this->state());
  if (lower_bound_ == Scalar(0)) rate_ = Matrix<Scalar>(-rate_.matrix());
}

template <Real S>
Kda<S>::Kda(const EngineWeights& weights, const Options& options)
    : DeltaRule<S>(layer_name, weights, options, Function::sigmoid, true), lower_bound_(static_cast<Scalar>(options.lower_bound)) {
  check_lower_bound(options);
  if (!weights.has_decay) detail::raise(ErrorKind::value, layer_name, ": has_decay is false, expected true");
  if (lower_bound_ != Scalar(0)) this->set_rates({});
}

template <Real S>
Kda<S> Kda<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.q_proj_weight = tensors.required("q_proj.weight", 2);
  w.k_proj_weight = tensors.required("k_proj.weight", 2);
  w.v_proj_weight = tensors.required("v_proj.weight", 2);
  w.b_proj_weight = tensors.required("b_proj.weight", 2);
  w.read_convolutions(tensors);
  w.A_log = detail::as_row(detail::read_decay_rate(tensors, 0));
  w.dt_bias = tensors.required("dt_bias", 1);
  w.o_norm_weight = tensors.required("o_norm.weight", 1);
  w.o_proj_weight = tensors.required("o_proj.weight", 2);
  const auto read = [&](const std::string& name, Array<Scalar>& down, Array<Scalar>& up) {
    const bool full = tensors.has(name + "_proj.weight"),
               numbered = tensors.has(name + "_proj.0.weight") || tensors.has(name + "_proj.1.weight");
    if (!full && !numbered && !tensors.has(name + "_a_proj.weight") && !tensors.has(name + "_b_proj.weight"))
      detail::raise(ErrorKind::file, tensors.source().where(), ": tensor ", tensors.name_in_file(name + "_a_proj.weight"),
                    " is missing, and so are its other forms, ", name, "_proj.weight and ", name, "_proj.0.weight");
    const std::string last = name + (full ? "_proj" : numbered ? "_proj.1" : "_b_proj");
    if (!full) down = tensors.required(name + (numbered ? "_proj.0.weight" : "_a_proj.weight"), 2);
    up = tensors.required(last + ".weight", 2);
    return last;
  };
  read("f", w.f_a_proj_weight, w.f_b_proj_weight);
  w.g_b_proj_bias = tensors.optional(read("g", w.g_a_proj_weight, w.g_b_proj_weight) + ".bias", 1);
  return Kda(std::move(w), options);
}

template <Real S>
LayerRun<Kda<S>> Kda<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  const Weights& w = weights_;
  const Value<Scalar> f = low_rank(u, w.f_a_proj_weight, w.f_b_proj_weight, w.dt_bias);
  const Value<Scalar> log_decay =
      lower_bound_ < Scalar(0) ? times(sigmoid(times_row(f, rate_)), lower_bound_) : times_row(softplus(f), rate_);
  Value<Scalar> z;
  if (!w.g_b_proj_weight.empty()) z = low_rank(u, w.g_a_proj_weight, w.g_b_proj_weight, w.g_b_proj_bias);
  return this->template run_rule<Kda>(u, log_decay, z, initial);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
