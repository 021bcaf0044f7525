// What the layers with a delta rule share: DeltaNet (Yang et al. 2024, arXiv 2406.06484), Gated DeltaNet (arXiv 2412.06464) and Kimi Delta
// Attention (arXiv 2510.26692) differ only in how they make the decay and the gate.
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/layers/delta_rule_weights.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, H key heads of width K, Hv value heads of width V (Hv a multiple of H), E = Hv V:
///
///     c = Conv [q|k|v]      q, k, v = silu(c)      unit(t) = t / sqrt(sum t^2 + 1e-6) per head      q = K^-1/2 unit(q)     k = unit(k)
///     beta = sigmoid(b), 1 without b; doubled, 2 without b, where negative eigenvalues are allowed (arXiv 2411.12537)
///     S_t = (I - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T     o_t = S_t^T q_t      value head h reads key head h // (Hv / H)
///     y = f(z) * o_norm / sqrt(mean_V o^2 + eps)           out = y o_proj^T
///
/// The decay g and the gate's input z come from the layer; f is its gate's function. Without convolutions, c = [q|k|v].
template <Real S>
class DeltaRule {
 public:
  using Scalar = S;

  using Weights = DeltaRuleWeights<Scalar>;

  struct Options {
    Index key_heads = 0;                ///< H; 0: as many as value heads
    bool negative_eigenvalues = false;  ///< beta is doubled: 2 sigmoid(b), or 2
    double norm_eps = 1e-5;             ///< of the norm of the heads' outputs
  };

  /// What one piece of a sequence hands to the next.
  struct State {
    Matrix<Scalar> convolution_tail;  ///< (W - 1, 2 H K + E): the last q | k | v before the convolution, oldest first; empty without one
    Matrix<Scalar> recurrent;         ///< (Hv K, V): row h K + n is key channel n of value head h
  };

  /// What `lower` needs of the weights: what an engine whose projections are quantised holds in plain numbers. Sizes stand here, for there
  /// are no projections to read them off.
  struct EngineWeights {
    Index value_heads = 0;          ///< Hv
    Index key_size = 0;             ///< K
    Array<Scalar> o_norm_weight;    ///< (V)
    Array<Scalar> v_conv1d_weight;  ///< (E, W); absent: no convolution
    Array<Scalar> v_conv1d_bias;    ///< (E), may be absent
    Array<Scalar> A = {};           ///< (Hv): -exp(A_log), ggml's ssm_a; or
    Array<Scalar> A_log = {};       ///< (Hv); neither is needed by an engine that hands in log_decay or decay
    bool has_decay = true;          ///< false: DeltaNet
    bool has_beta = true;           ///< false: beta is 1, or 2 with negative_eigenvalues
    bool has_gate = true;           ///< false: there is no z
    /// Value head h reads key head h mod H, as ggml's operation broadcasts them, instead of h // (Hv / H).
    bool tiled_key_heads = false;
  };

  /// One sequence through the layer. An engine that has run the layer itself views its own buffers here. Each of query, key, beta,
  /// log_decay and z serves in one of its forms.
  struct Activations {
    Array<Scalar> x;                   ///< (L, E): the v projection: the linear input
    Array<Scalar> c;                   ///< (L, E): after v's convolution, with its bias
    Array<Scalar> a = {};              ///< (L, E): silu(c), where an engine has kept neither c nor x
    Array<Scalar> query;               ///< (L, H K): of length K^-1/2
    Array<Scalar> unit_query = {};     ///< (L, H K): of length 1, before K^-1/2
    Array<Scalar> pre_query = {};      ///< (L, H K): before its length is divided by
    Array<Scalar> key;                 ///< (L, H K): of length 1
    Array<Scalar> pre_key = {};        ///< (L, H K): before its length is divided by
    Array<Scalar> beta;                ///< (L, Hv), doubled already; empty where it is 1
    Array<Scalar> pre_beta = {};       ///< (L, Hv): before the sigmoid
    Array<Scalar> log_decay;           ///< (L, Hv) or (L, Hv K): g <= 0; empty without a decay
    Array<Scalar> decay = {};          ///< (L, Hv) or (L, Hv K): exp(g)
    Array<Scalar> pre_log_decay = {};  ///< as many columns: what softplus is taken of, with dt_bias; needs the rates
    Array<Scalar> o;                   ///< (L, E): R v
    Array<Scalar> z;                   ///< (L, E): the gate's input; empty without a gate
    Array<Scalar> gate = {};           ///< (L, E): its function of it
    Array<Scalar> y;                   ///< (L, E): output before the output projection
    Array<Scalar> out;                 ///< (L, D)
    State initial;                     ///< the state carried in; empty matrices if none
    State final;                       ///< the state after the last token
    MadeFrom<Scalar> c_from = {};      ///< what run() made c from; it is made again where that is another
  };

  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channels() const { return channels_; }
  /// Value heads Hv: there is one matrix for each.
  [[nodiscard]] Index heads() const { return heads_; }
  [[nodiscard]] Index key_heads() const { return key_heads_; }
  /// The width K of a key head, and V of a value head.
  [[nodiscard]] Index state() const { return state_; }
  [[nodiscard]] Index head_size() const { return channels_ / heads_; }
  /// W; 0 without a convolution.
  [[nodiscard]] Index convolution_width() const { return shared_.v_conv1d_weight.cols(); }

  /// The unified form (formulation). Needs query, key, beta, log_decay and z, each in one of its forms, o, and c or x, as far as the layer
  /// has and the terms read them. Without the terms activation, convolution and bias its linear input is silu(c).
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) of the output projection, which has no bias.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return shared_.o_proj_weight; }

 protected:
  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  DeltaRule(std::string_view name, const Weights& weights, const Options& options, Function gate, bool has_gate);
  /// Without projections; a value head has one decay, or one a key channel.
  DeltaRule(std::string_view name, const EngineWeights& weights, const Options& options, Function gate, bool decay_by_key);

  /// What softplus of pre_log_decay is multiplied by: -exp(A_log), (1, decays); empty where it cannot be given.
  void set_rates(const Array<Scalar>& rates) { rates_ = rates; }

  /// Everything but the decay and the gate's input, either of which may be empty: the layer has none.
  template <class Layer>
  [[nodiscard]] LayerRun<Layer> run_rule(const Value<Scalar>& u, const Value<Scalar>& log_decay, const Value<Scalar>& z,
                                         const State* initial) const;

 private:
  /// The forms that the recurrence reads.
  struct Scales {
    Array<Scalar> query, key, beta, log_decay;
  };
  [[nodiscard]] Scales scales(const Activations& act, Index tokens) const;
  /// (tokens, Hv): what beta is without b where negative eigenvalues are allowed.
  [[nodiscard]] Matrix<Scalar> constant_beta(Index tokens) const { return Matrix<Scalar>::Constant(tokens, heads_, Scalar(2)); }
  [[nodiscard]] HeadRecurrence<Scalar> recurrence(const Scales& scales) const;
  void make_norms(const Options& options);
  [[nodiscard]] Index tail_rows() const { return convolution_width() > 0 ? convolution_width() - 1 : 0; }

  std::string_view name_;
  Weights shared_;
  Function gate_;
  bool has_gate_, negative_eigenvalues_, has_beta_, tiled_ = false;
  Index decays_ = 0;     // numbers a token; 0: no decay
  Array<Scalar> rates_;  // (1, decays): -exp(A_log), where pre_log_decay may be given
  Norm<Scalar> query_norm_, key_norm_, output_norm_;
  Index width_ = 0, channels_ = 0, heads_ = 0, key_heads_ = 0, state_ = 0;
};

template <Real S>
DeltaRule<S>::DeltaRule(std::string_view name, const Weights& weights, const Options& options, Function gate, bool has_gate)
    : name_(name), shared_(weights), gate_(gate), has_gate_(has_gate), negative_eigenvalues_(options.negative_eigenvalues) {
  const Weights& w = shared_;
  width_ = w.v_proj_weight.cols();
  channels_ = w.v_proj_weight.rows();
  const Index size = w.o_norm_weight.size(), keys = w.k_proj_weight.rows();
  if (channels_ == 0 || size == 0 || channels_ % size != 0)
    detail::raise_shape(name, "v_proj.weight", "is ", shape_text({channels_, width_}), " and o_norm.weight (", size,
                        "), expected (value heads * value size, width) and (value size)");
  heads_ = channels_ / size;
  key_heads_ = options.key_heads == 0 ? heads_ : options.key_heads;
  if (key_heads_ < 1 || heads_ % key_heads_ != 0)
    detail::raise(ErrorKind::value, name, ": key_heads is ", key_heads_, ", expected a divisor of the ", heads_, " value heads");
  if (keys == 0 || keys % key_heads_ != 0)
    detail::raise_shape(name, "k_proj.weight", "is ", shape_text({keys, w.k_proj_weight.cols()}),
                        ", expected (key heads * key size, width) with ", key_heads_, " key heads");
  state_ = keys / key_heads_;
  check_shape(name, "q_proj.weight", w.q_proj_weight, keys, width_, "(key heads * key size, width)");
  check_shape(name, "k_proj.weight", w.k_proj_weight, keys, width_, "(key heads * key size, width)");
  if (!w.b_proj_weight.empty()) check_shape(name, "b_proj.weight", w.b_proj_weight, heads_, width_, "(value heads, width)");
  check_vector(name, "o_norm.weight", w.o_norm_weight, size, "value size");
  check_shape(name, "o_proj.weight", w.o_proj_weight, width_, channels_, "(width, value heads * value size)");
  if (!w.A_log.empty()) check_vector(name, "A_log", w.A_log, heads_, "value heads");
  const auto check_convolution = [&](const char* part, const Array<Scalar>& weight, const Array<Scalar>& bias, Index rows) {
    if (convolution_width() != 0 || !weight.empty())
      check_shape(name, detail::message(part, "_conv1d.weight"), weight, rows, convolution_width(),
                  "(channels, convolution width): q, k and v have one of the same width, or none has");
    detail::check_bias(name, detail::message(part, "_conv1d.bias"), bias, weight.empty() ? 0 : rows, "channels");
  };
  check_convolution("q", w.q_conv1d_weight, w.q_conv1d_bias, keys);
  check_convolution("k", w.k_conv1d_weight, w.k_conv1d_bias, keys);
  check_convolution("v", w.v_conv1d_weight, w.v_conv1d_bias, channels_);
  has_beta_ = !w.b_proj_weight.empty();
  decays_ = w.A_log.empty() ? 0 : w.dt_bias.size();
  make_norms(options);
}

template <Real S>
DeltaRule<S>::DeltaRule(std::string_view name, const EngineWeights& weights, const Options& options, Function gate, bool decay_by_key)
    : name_(name),
      gate_(gate),
      has_gate_(weights.has_gate),
      negative_eigenvalues_(options.negative_eigenvalues),
      has_beta_(weights.has_beta) {
  constexpr Index most_keys = Index(1) << 24;  // a norm over the keys is made here: no absurd size may be allocated
  heads_ = weights.value_heads;
  key_heads_ = options.key_heads == 0 ? heads_ : options.key_heads;
  state_ = weights.key_size;
  tiled_ = weights.tiled_key_heads;
  if (heads_ < 1 || state_ < 1)
    detail::raise(ErrorKind::value, name, ": value_heads is ", heads_, " and key_size ", state_, ", expected at least 1");
  if (heads_ > most_keys / state_)
    detail::raise(ErrorKind::value, name, ": value_heads is ", heads_, " and key_size ", state_, ", expected at most ", most_keys, " keys");
  if (key_heads_ < 1 || heads_ % key_heads_ != 0)
    detail::raise(ErrorKind::value, name, ": key_heads is ", key_heads_, ", expected a divisor of the ", heads_, " value heads");
  const Index decays_a_head = decay_by_key ? state_ : 1;
  decays_ = weights.has_decay ? heads_ * decays_a_head : 0;
  if (weights.o_norm_weight.empty()) detail::raise_shape(name, "o_norm.weight", "is empty, expected (value size)");
  channels_ = heads_ * weights.o_norm_weight.size();
  check_vector(name, "o_norm.weight", weights.o_norm_weight, weights.o_norm_weight.size(), "value size");
  const Array<Scalar>& taps = weights.v_conv1d_weight;
  if (!taps.empty()) check_shape(name, "v_conv1d.weight", taps, channels_, taps.cols(), "(value heads * value size, convolution width)");
  detail::check_bias(name, "v_conv1d.bias", weights.v_conv1d_bias, taps.empty() ? 0 : channels_, "value heads * value size");
  if (!weights.A.empty() || !weights.A_log.empty()) {
    rates_ = detail::engine_rate(name, weights.A, weights.A_log);
    check_vector(name, weights.A.empty() ? "A_log" : "A", rates_, heads_, "value heads");
    rates_ = detail::repeated(rates_, decays_a_head);
  }
  shared_.o_norm_weight = weights.o_norm_weight;
  shared_.v_conv1d_weight = taps;
  shared_.v_conv1d_bias = weights.v_conv1d_bias;
  make_norms(options);
}

template <Real S>
void DeltaRule<S>::make_norms(const Options& options) {
  const Weights& w = shared_;
  const Index keys = key_heads_ * state_;
  if (!(options.norm_eps >= 0)) detail::raise(ErrorKind::value, name_, ": norm_eps is ", options.norm_eps, ", expected at least 0");
  // unit(t) = K^-1/2 t / sqrt(mean t^2 + 1e-6 / K): the eps stands inside the root, beside the sum of squares.
  const Scalar length = Scalar(1) / std::sqrt(static_cast<Scalar>(state_));
  const auto unit = [&](Scalar factor) {
    return Norm<Scalar>::rms(Array<Scalar>(Matrix<Scalar>(Matrix<Scalar>::Constant(1, keys, factor))), 1e-6 / static_cast<double>(state_),
                             false, key_heads_);
  };
  query_norm_ = unit(length * length);
  key_norm_ = unit(length);
  output_norm_ =
      Norm<Scalar>::rms(Array<Scalar>(Matrix<Scalar>(w.o_norm_weight.matrix().replicate(1, heads_))), options.norm_eps, false, heads_);
}

template <Real S>
template <class Layer>
LayerRun<Layer> DeltaRule<S>::run_rule(const Value<Scalar>& u, const Value<Scalar>& log_decay, const Value<Scalar>& z,
                                       const State* initial) const {
  detail::check_projections(name_, shared_.v_proj_weight);
  const Weights& w = shared_;
  const Index tail_columns = convolution_width() > 0 ? 2 * key_heads_ * state_ + channels_ : 0;
  Activations act;
  if (initial) {
    check_shape(name_, "state.convolution_tail", initial->convolution_tail, tail_rows(), tail_columns,
                "(convolution width - 1, columns of q, k and v)");
    check_shape(name_, "state.recurrent", initial->recurrent, heads_ * state_, head_size(), "(value heads * key size, value size)");
    act.initial = *initial;
  }
  const Array<Scalar> tail = detail::carried(act.initial.convolution_tail);
  act.final.convolution_tail.resize(tail_rows(), tail_columns);
  Index first = 0;
  const auto convolved = [&](const Value<Scalar>& numbers, const Array<Scalar>& weight, const Array<Scalar>& bias) {
    const Index begin = std::exchange(first, first + numbers.cols());
    if (weight.empty()) return numbers;
    const Array<Scalar> before = tail.middle_columns(begin, numbers.cols());
    if (act.final.convolution_tail.size() != 0)
      act.final.convolution_tail.middleCols(begin, numbers.cols()) = next_tail<Scalar>(*numbers, before, convolution_width());
    return convolution(numbers, weight, bias, before);
  };
  const Value<Scalar> q = normalize(query_norm_, silu(convolved(linear(u, w.q_proj_weight), w.q_conv1d_weight, w.q_conv1d_bias)));
  const Value<Scalar> k = normalize(key_norm_, silu(convolved(linear(u, w.k_proj_weight), w.k_conv1d_weight, w.k_conv1d_bias)));
  const Value<Scalar> x = linear(u, w.v_proj_weight);
  const Value<Scalar> c = convolved(x, w.v_conv1d_weight, w.v_conv1d_bias);
  Value<Scalar> beta;
  if (has_beta_)
    beta = times(sigmoid(linear(u, w.b_proj_weight)), negative_eigenvalues_ ? Scalar(2) : Scalar(1));
  else if (negative_eigenvalues_)
    beta = u.trace->constant(constant_beta(u.rows()));
  act.x = x.numbers;
  act.c = c.numbers;
  act.c_from = {act.c, {{"x", &act.x}}, act.initial.convolution_tail};
  act.query = q.numbers;
  act.key = k.numbers;
  act.beta = beta.numbers;
  act.log_decay = log_decay.numbers;
  act.z = z.numbers;
  HeadInputs<Scalar> inputs;
  inputs.query = q;
  inputs.key = k;
  inputs.key_scale = beta;
  inputs.log_decay = log_decay;
  const Value<Scalar> o = head_recurrence(recurrence({act.query, act.key, act.beta, act.log_decay}), inputs, silu(c),
                                          detail::carried(act.initial.recurrent), &act.final.recurrent);
  Value<Scalar> y = normalize(output_norm_, o);  // the norm first, then the gate
  if (has_gate_) {
    const Value<Scalar> gates = apply_function(gate_, z);
    y = homogeneous(gate_) ? gate(gates, y) : scale(gates, y);
  }
  const Value<Scalar> out = linear(y, w.o_proj_weight);
  act.o = o.numbers;
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/delta_rule_form.hpp>
