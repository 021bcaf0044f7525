// RWKV-6's time mixing (Finch; Peng et al. 2024, arXiv 2404.05892, section 4.2): token shift and decay depend on the data.
#pragma once

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/layers/rwkv_shared.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, H heads of size P and E = H P channels, d_t = u_{t-1} - u_t and m in w, k, v, r, g, in this order:
///
///     t_m = tanh((u + d time_maa_x) time_maa_w1)[m] time_maa_w2[m]          x_m = u + d (time_maa_m + t_m)                (eq. 14-16)
///     r, k, v, g = x_r, x_k, x_v, x_g through receptance, key, value, gate                    f = time_faaaa
///     log w = -exp(time_decay + tanh(x_w time_decay_w1) time_decay_w2), a decay a token and key channel
///     y = silu(g) * group_norm(o), o as in BonusRecurrence            out = y output^T
template <Real S>
class Rwkv6 : public LayerInterface<Rwkv6<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Rwkv6";
  static constexpr bool decays_of_data = true;
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights {
    Array<Scalar> time_maa_x;               ///< (D)
    std::array<Array<Scalar>, 5> time_maa;  ///< (D) each: time_maa_w, k, v, r, g
    Array<Scalar> time_maa_w1;              ///< (D, 5 rank)
    Array<Scalar> time_maa_w2;              ///< (5 rank, D)
    Array<Scalar> time_decay;               ///< (E)
    Array<Scalar> time_decay_w1;            ///< (D, rank)
    Array<Scalar> time_decay_w2;            ///< (rank, E)
    Array<Scalar> time_faaaa;               ///< (H, P)
    Array<Scalar> key_weight;               ///< (E, D)
    Array<Scalar> value_weight;             ///< (E, D)
    Array<Scalar> receptance_weight;        ///< (E, D)
    Array<Scalar> gate_weight;              ///< (E, D)
    Array<Scalar> output_weight;            ///< (D, E)
    Array<Scalar> ln_x_weight;              ///< (E)
    Array<Scalar> ln_x_bias;                ///< (E)
  };

  struct Options {
    double group_norm_eps = 64e-5;  ///< beside the variance of o
  };

  using State = RwkvState<Scalar>;
  using Activations = typename BonusRecurrence<Scalar>::Activations;

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Rwkv6(Weights weights, Options options = {});

  /// Reads the weights below a prefix such as `rwkv.blocks.0.attention.` or `blocks.0.att.`, under their public names.
  [[nodiscard, gnu::cold]] static Rwkv6 from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return weights_.key_weight.cols(); }
  [[nodiscard]] Index channels() const { return weights_.key_weight.rows(); }
  [[nodiscard]] Index heads() const { return recurrence_.heads(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// Runs the layer on u (L, D) within a trace.
  [[nodiscard]] LayerRun<Rwkv6> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// The unified form. Needs what BonusRecurrence::lower needs of the terms that are on.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const {
    return recurrence_.lower(act, true, terms, decays_of_data);
  }

  /// The weight (D, E) of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.output_weight; }

 private:
  enum Mix : std::size_t { decay, key, value, receptance, gate };

  Weights weights_;
  Options options_;
  LowRankMap<Scalar> decay_;
  Array<Scalar> mix_down_;                 // (5 rank, D)
  std::array<Array<Scalar>, 5> mix_up_{};  // (D, rank) each
  BonusRecurrence<Scalar> recurrence_;
};

template <Real S>
Rwkv6<S>::Rwkv6(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  const Index width = w.key_weight.cols(), channels = w.key_weight.rows(), heads = w.time_faaaa.rows();
  if (heads < 1 || channels == 0 || channels % heads != 0)
    detail::raise_shape(layer_name, "key.weight", "is ", shape_text({channels, width}),
                        ", expected (channels, width), channels a multiple of the ", heads, " rows of time_faaaa");
  check_shape(layer_name, "time_faaaa", w.time_faaaa, heads, channels / heads, "(heads, head size)");
  check_shape(layer_name, "value.weight", w.value_weight, channels, width, "(channels, width)");
  check_shape(layer_name, "receptance.weight", w.receptance_weight, channels, width, "(channels, width)");
  check_shape(layer_name, "gate.weight", w.gate_weight, channels, width, "(channels, width)");
  check_shape(layer_name, "output.weight", w.output_weight, width, channels, "(width, channels)");
  check_vector(layer_name, "time_maa_x", w.time_maa_x, width, "width");
  constexpr std::array<const char*, 5> names{"time_maa_w", "time_maa_k", "time_maa_v", "time_maa_r", "time_maa_g"};
  for (std::size_t m = 0; m < names.size(); ++m) check_vector(layer_name, names[m], w.time_maa[m], width, "width");
  const Index rank = w.time_maa_w1.cols() / 5;
  if (rank < 1) detail::raise_shape(layer_name, "time_maa_w1", "has ", w.time_maa_w1.cols(), " columns, expected a multiple of 5");
  check_shape(layer_name, "time_maa_w1", w.time_maa_w1, width, 5 * rank, "(width, 5 * rank)");
  check_shape(layer_name, "time_maa_w2", w.time_maa_w2, 5 * rank, width, "(5 * rank, width)");
  mix_down_ = detail::transposed(w.time_maa_w1);
  for (Index m = 0; m < 5; ++m) mix_up_[static_cast<std::size_t>(m)] = detail::transposed(w.time_maa_w2.middle_rows(m * rank, rank));
  if (w.time_decay_w1.empty() || w.time_decay_w2.empty()) detail::raise(ErrorKind::shape, "Rwkv6: time_decay_w1 or time_decay_w2 is empty");
  decay_ = {detail::transposed(w.time_decay_w1), detail::transposed(w.time_decay_w2), w.time_decay};
  detail::check_low_rank(layer_name, "time_decay", decay_, width, channels, true);
  recurrence_ = {layer_name, heads, detail::one_row(w.time_faaaa), w.ln_x_weight, w.ln_x_bias, options.group_norm_eps};
}

template <Real S>
Rwkv6<S> Rwkv6<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.time_maa_x = tensors.required("time_maa_x");
  w.time_maa = {tensors.required("time_maa_w"), tensors.required("time_maa_k"), tensors.required("time_maa_v"),
                tensors.required("time_maa_r"), tensors.required("time_maa_g")};
  w.time_maa_w1 = tensors.required("time_maa_w1", 2);
  w.time_maa_w2 = tensors.required("time_maa_w2", 3);
  w.time_decay = tensors.required("time_decay");
  w.time_decay_w1 = tensors.required("time_decay_w1", 2);
  w.time_decay_w2 = tensors.required("time_decay_w2", 2);
  w.time_faaaa = tensors.required("time_faaaa", 2);
  w.key_weight = tensors.required("key.weight", 2);
  w.value_weight = tensors.required("value.weight", 2);
  w.receptance_weight = tensors.required("receptance.weight", 2);
  w.gate_weight = tensors.required("gate.weight", 2);
  w.output_weight = tensors.required("output.weight", 2);
  w.ln_x_weight = tensors.required("ln_x.weight", 1);
  w.ln_x_bias = tensors.required("ln_x.bias", 1);
  return Rwkv6(std::move(w), options);
}

template <Real S>
LayerRun<Rwkv6<S>> Rwkv6<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  const Weights& w = weights_;
  Activations act;
  recurrence_.begin(initial, width(), act);
  const Value<Scalar> d = subtract(token_shift(u, detail::carried(act.initial.shifted)), u);
  const Value<Scalar> hidden = apply_function(Function::tanh, linear(add(u, times_row(d, w.time_maa_x)), mix_down_));
  const Index rank = hidden.cols() / 5;
  // The mix is a scale of this very sequence: relevance holds it, the gradient goes through it.
  const auto mixed = [&](Mix m) {
    const Value<Scalar> shift = linear(columns(hidden, static_cast<Index>(m) * rank, rank), mix_up_[m], w.time_maa[m]);
    return add(u, scale(shift, d));
  };
  const Value<Scalar> log_decay = negative_exp(low_rank(decay_, Function::tanh, mixed(Mix::decay)));
  const Value<Scalar> r = linear(mixed(Mix::receptance), w.receptance_weight), k = linear(mixed(Mix::key), w.key_weight);
  const Value<Scalar> v = linear(mixed(Mix::value), w.value_weight), gate_input = linear(mixed(Mix::gate), w.gate_weight);
  const auto [x, y] = recurrence_.run(r, k, v, log_decay, gate_input, act);
  const Value<Scalar> out = linear(y, w.output_weight);
  act.out = out.numbers;
  act.final.shifted = (*u).bottomRows(1);
  return {std::move(act), x, y, out};
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
