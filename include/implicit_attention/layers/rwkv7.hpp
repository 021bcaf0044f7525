// RWKV-7's time mixing (Goose; Peng et al. 2025, arXiv 2503.14456, section 4): heads whose state forgets by diagonal plus rank one.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/layers/rwkv_shared.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, H heads of K key and V value channels, E = H V; x_m = u_t + m (u_{t-1} - u_t) for x_r, x_w, x_k, x_v, x_a, x_g:
///
///     r, k, v0 = x_r, x_k, x_v through receptance, key, value                                       g = sigmoid(x_g g1) g2
///     log w = -exp(-1/2) sigmoid(w0 + tanh(x_w w1) w2)                                              eta = sigmoid(a0 + x_a a1 a2)
///     kk = k k_k / max(|k k_k|, 1e-12) per head            k~ = k (1 + (eta - 1) k_a)
///     v = v0 + sigmoid(v0_bias + x_v v1 v2) (v_first - v0); v_first = v0 of the first layer, which has v = v0
///     S_t = (diag(w_t) - (kk_t eta_t) kk_t^T) S_{t-1} + k~_t v_t^T          o_t = S_t^T r_t         (erased before the decay, read after)
///     y = g (group_norm(o) + (sum_K r k~ r_k) v)                                                    out = y output^T
///
/// The linear input is v; R acts on it less its mean over the head, the group norm's centring, which all channels of a head share (x), and
/// the bonus on v as it is: the form's second path. The first values travel as the shared value `v_first`.
template <Real S>
class Rwkv7 : public LayerInterface<Rwkv7<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Rwkv7";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents
  /// The shared value that the first layer makes and the others read.
  static constexpr const char* first_values = "v_first";

  struct Weights {
    std::array<Array<Scalar>, 6> x;               ///< (D) each: x_r, x_w, x_k, x_v, x_a, x_g
    LowRankMap<Scalar> w, a, v, g;                ///< w1 w2 w0, ...; v is empty in the first layer, g has no bias
    Array<Scalar> k_k, k_a;                       ///< (H K)
    Array<Scalar> r_k;                            ///< (H, K)
    Array<Scalar> receptance_weight, key_weight;  ///< (H K, D)
    Array<Scalar> value_weight;                   ///< (E, D)
    Array<Scalar> output_weight;                  ///< (D, E)
    Array<Scalar> output_bias;                    ///< (D), absent in all published models but one
    Array<Scalar> ln_x_weight, ln_x_bias;         ///< (E)
  };

  struct Options {
    /// Beside the variance of o: 64e-5 in the author's code, head size * 1e-5 in flash-linear-attention and transformers.
    double group_norm_eps = 64e-5;
  };

  using State = RwkvState<Scalar>;

  /// One sequence through the layer. An engine that has run the layer itself views its own buffers here.
  struct Activations {
    Array<Scalar> x;                   ///< (L, E): value less its mean over the head
    Array<Scalar> value;               ///< (L, E): v, after the value residual
    Array<Scalar> own_value;           ///< (L, E): v0
    Array<Scalar> receptance;          ///< (L, H K): r
    Array<Scalar> key;                 ///< (L, H K): k~
    Array<Scalar> log_decay;           ///< (L, H K): log w
    Array<Scalar> decay = {};          ///< (L, H K): w, in place of log_decay where an engine has kept that
    Array<Scalar> pre_decay = {};      ///< (L, H K): what the sigmoid of log w is taken of, in place of log_decay
    Array<Scalar> removal;             ///< (L, H K): kk eta
    Array<Scalar> probe;               ///< (L, H K): -kk
    Array<Scalar> gate;                ///< (L, E): g
    Array<Scalar> bonus;               ///< (L, H): sum_K r k~ r_k; computed where it is empty
    Array<Scalar> pre_norm;            ///< (L, E): o
    Array<Scalar> y;                   ///< (L, E): output before the output projection
    Array<Scalar> out;                 ///< (L, D)
    State initial;                     ///< the state carried in; empty matrices if none
    State final;                       ///< the state after the last token
    MadeFrom<Scalar> bonus_from = {};  ///< what run() made bonus from; it is made again where that is another

    /// What papers call the layer's input, as R is published: v itself.
    [[nodiscard]] const Array<Scalar>& reported_input() const { return value; }
  };

  /// What `lower` needs of the weights: what an engine whose projections are quantised holds in plain numbers.
  struct EngineWeights {
    Array<Scalar> r_k;                     ///< (H, K)
    Array<Scalar> ln_x_weight, ln_x_bias;  ///< (E)
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Rwkv7(Weights weights, Options options = {});

  /// A descriptor without projections: it lowers what an engine has run, and cannot run itself; `width()` is 0.
  [[nodiscard]] static Rwkv7 for_engine(EngineWeights weights, Options options = {});

  /// Reads the weights below a prefix such as `blocks.0.att.` (BlinkDL's names; transformers' after `rwkv7.`) or `model.layers.0.attn.`
  /// (flash-linear-attention's). `first` says that this is the model's first layer, whose v0, v1, v2 nothing reads; without it, a layer is
  /// the first if it has none.
  [[nodiscard, gnu::cold]] static Rwkv7 from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {}, bool first = false);

  [[nodiscard]] Index width() const { return weights_.key_weight.cols(); }
  [[nodiscard]] Index channels() const { return weights_.ln_x_weight.size(); }
  [[nodiscard]] Index heads() const { return weights_.r_k.rows(); }
  [[nodiscard]] Index state_size() const { return weights_.r_k.cols(); }
  [[nodiscard]] bool has_value_residual() const { return !weights_.v.empty(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace. Fails (ErrorKind::value) where a value residual finds no `v_first` in the context.
  [[nodiscard]] LayerRun<Rwkv7> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// The linear input: x, or where it is empty `value` less its mean over the head. An engine has v alone.
  [[nodiscard]] Array<Scalar> linear_input(const Activations& act) const;

  /// The unified form; the bonus is the term `skip`. Needs gate, pre_norm and what R is made of, and for the bonus `value` (and `bonus`, or
  /// receptance and key). pre_norm may be of values as they are: their mean does not change the norm's scale.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.output_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.output_bias; }

 private:
  Rwkv7() = default;
  [[nodiscard]] HeadRecurrence<Scalar> recurrence(const Array<Scalar>& log_decay, const Activations& act) const {
    return detail::head_recurrence_of(act.receptance, act.key, log_decay, heads(), channels(), act.removal, act.probe);
  }
  static constexpr double log_decay_scale = -0.60653065971263342360;  // -exp(-1/2)

  enum Mix : std::size_t { mix_r, mix_w, mix_k, mix_v, mix_a, mix_g };
  static constexpr std::array<const char*, 6> mix_names{"x_r", "x_w", "x_k", "x_v", "x_a", "x_g"};

  Weights weights_;
  Array<Scalar> bonus_;  // (1, H K): r_k
  Norm<Scalar> norm_;
};

template <Real S>
Rwkv7<S>::Rwkv7(Weights weights, Options options) : weights_(std::move(weights)) {
  const Weights& w = weights_;
  const Index keys = w.r_k.size(), heads = w.r_k.rows(), channels = w.value_weight.rows(), width = w.key_weight.cols();
  if (keys == 0 || channels == 0 || channels % heads != 0)
    detail::raise_shape(layer_name, "value.weight", "is ", shape_text({channels, w.value_weight.cols()}),
                        ", expected (channels, width), channels a multiple of the ", heads, " rows of r_k");
  check_shape(layer_name, "key.weight", w.key_weight, keys, width, "(numbers of r_k, width)");
  check_shape(layer_name, "receptance.weight", w.receptance_weight, keys, width, "(numbers of r_k, width)");
  check_shape(layer_name, "value.weight", w.value_weight, channels, width, "(channels, width)");
  check_shape(layer_name, "output.weight", w.output_weight, width, channels, "(width, channels)");
  detail::check_bias(layer_name, "output.bias", w.output_bias, width, "width");
  for (std::size_t m = 0; m < 6; ++m) check_vector(layer_name, mix_names[m], w.x[m], width, "width");
  for (const auto& [name, vector] : {std::pair{"k_k", &w.k_k}, std::pair{"k_a", &w.k_a}})
    check_vector(layer_name, name, *vector, keys, "numbers of r_k");
  detail::check_low_rank(layer_name, "w", w.w, width, keys, true);
  detail::check_low_rank(layer_name, "a", w.a, width, keys, true);
  detail::check_low_rank(layer_name, "g", w.g, width, channels, false);
  if (has_value_residual()) detail::check_low_rank(layer_name, "v", w.v, width, channels, true);
  bonus_ = detail::one_row(w.r_k);
  norm_ = detail::group_norm(layer_name, w.ln_x_weight, w.ln_x_bias, channels, heads, options.group_norm_eps);
}

template <Real S>
Rwkv7<S> Rwkv7<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options, bool first) {
  const bool of_fla = detail::has_fla_names(tensors);
  const auto one_of = [&](std::string_view author, std::string_view fla) {  // where neither is there, the one that such a file has
    return tensors.has(author) || (!of_fla && !tensors.has(fla)) ? author : fla;
  };
  Weights w;
  for (std::size_t m = 0; m < 6; ++m) w.x[m] = tensors.required(mix_names[m]);
  w.w = detail::read_low_rank(tensors, "w", true);
  w.a = detail::read_low_rank(tensors, "a", true);
  w.g = detail::read_low_rank(tensors, "g", false);
  // BlinkDL's files and transformers' have v0, v1, v2 in the first layer too: they are read, and used for nothing.
  if (tensors.has(one_of("v1", "v_lora.lora.0.weight")) || tensors.has(one_of("v2", "v_lora.lora.2.weight")))
    w.v = detail::read_low_rank(tensors, "v", true);
  if (first) w.v = {};
  w.k_k = tensors.required("k_k");
  w.k_a = tensors.required("k_a");
  w.r_k = tensors.required("r_k", 2);
  w.receptance_weight = tensors.required(one_of("receptance.weight", "r_proj.weight"), 2);
  w.key_weight = tensors.required(one_of("key.weight", "k_proj.weight"), 2);
  w.value_weight = tensors.required(one_of("value.weight", "v_proj.weight"), 2);
  w.output_weight = tensors.required(one_of("output.weight", "o_proj.weight"), 2);
  w.output_bias = tensors.optional("output.bias", 1);
  w.ln_x_weight = tensors.required(one_of("ln_x.weight", "g_norm.weight"), 1);
  w.ln_x_bias = tensors.required(one_of("ln_x.bias", "g_norm.bias"), 1);
  return Rwkv7(std::move(w), options);
}

template <Real S>
LayerRun<Rwkv7<S>> Rwkv7<S>::run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial) const {
  detail::check_projections(layer_name, weights_.key_weight);
  const Weights& w = weights_;
  Activations act;
  if (initial != nullptr) {
    detail::check_state(layer_name, *initial, width(), heads() * state_size(), channels() / heads());
    act.initial = *initial;
  }
  const Value<Scalar> before = token_shift(u, detail::carried(act.initial.shifted));
  const auto mixed = [&](Mix m) { return token_mix(before, u, w.x[m]); };  // u + m (before - u)
  const Value<Scalar> r = linear(mixed(mix_r), w.receptance_weight), k = linear(mixed(mix_k), w.key_weight);
  const Value<Scalar> value_input = mixed(mix_v), own = linear(value_input, w.value_weight);
  Value<Scalar> v = own;
  if (has_value_residual()) {
    const Value<Scalar>* const first = context.find(first_values);
    if (first == nullptr)
      detail::raise(ErrorKind::value, "Rwkv7: a layer with a value residual (v1, v2) needs the values of the model's first layer as ",
                    first_values, ", and there are none");
    check_shape(layer_name, first_values, *first, own.rows(), channels(), "(tokens, channels)");
    v = add(own, scale(sigmoid(low_rank(w.v, Function::identity, value_input)), subtract(*first, own)));
  } else {
    context.share(first_values, own);
  }
  const Value<Scalar> x = centre(v, heads());
  const Value<Scalar> decay = times(sigmoid(low_rank(w.w, Function::tanh, mixed(mix_w))), S(log_decay_scale));
  const Value<Scalar> eta = sigmoid(low_rank(w.a, Function::identity, mixed(mix_a)));
  const Value<Scalar> g = low_rank(w.g, Function::sigmoid, mixed(mix_g));
  const Value<Scalar> kk = unit_length(times_row(k, w.k_k), heads(), S(1e-12));
  const Value<Scalar> key = scale(one_minus(times_row(one_minus(eta), w.k_a)), k);
  const Value<Scalar> removal = scale(eta, kk), probe = times(kk, S(-1));
  const Value<Scalar> bonus = head_dot(times_row(r, bonus_), key, heads());
  act.value = v.numbers;
  act.own_value = own.numbers;
  act.x = x.numbers;
  act.receptance = r.numbers;
  act.key = key.numbers;
  act.log_decay = decay.numbers;
  act.removal = removal.numbers;
  act.probe = probe.numbers;
  act.gate = g.numbers;
  act.bonus = bonus.numbers;
  act.bonus_from = {act.bonus, {{"receptance", &act.receptance}, {"key", &act.key}}};
  const Value<Scalar> o = head_recurrence<Scalar>(recurrence(act.log_decay, act), {r, key, {}, decay, removal, probe, {}}, x,
                                                  detail::centred_state(act.initial), &act.final.state);
  act.pre_norm = o.numbers;
  // The gate is no function of its input that could be divided by it: relevance holds it.
  const Value<Scalar> y = scale(g, add(normalize(norm_, o), scale(spread_heads(bonus, channels() / heads()), v)));
  const Value<Scalar> out = linear(y, w.output_weight, w.output_bias);
  act.y = y.numbers;
  act.out = out.numbers;
  act.final.shifted = (*u).bottomRows(1);
  return {std::move(act), x, y, out, v};
}

template <Real S>
Array<S> Rwkv7<S>::linear_input(const Activations& act) const {
  return detail::centred_input(layer_name, act.x, act.value, channels(), heads());
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/rwkv7_form.hpp>
