// Mamba's selective state space layer S6 (Gu & Dao 2023, arXiv 2312.00752), its implicit attention as in arXiv 2403.01590 eq. 12
// and arXiv 2405.16504, with every term: nothing of the layer is left out.
#pragma once

#include <cmath>
#include <utility>

#include <implicit_attention/layers/decay_rate.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, E channels, state N, convolution width W and dt rank R:
///
///     [x | z] = u in_proj^T      c = Conv x + conv_bias      a = silu(c)
///     [d | B | C] = a x_proj^T   dt = softplus(d dt_proj^T + dt_bias)   A = -exp(A_log)
///     R_e[i,j] = sum_n C[i,n] B[j,n] dt[j,e] exp( A[e,n] sum_{t=j+1..i} dt[t,e] )
///     y = silu(z) (R + D) a      out = y out_proj^T
///
/// All sizes are read off the weights. They are owned or viewed (Array::view), and named as in the public checkpoints.
template <Real S>
class Mamba : public LayerInterface<Mamba<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Mamba";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights {
    Array<Scalar> in_proj_weight;   ///< (2E, D)
    Array<Scalar> in_proj_bias;     ///< (2E), may be absent
    Array<Scalar> conv1d_weight;    ///< (E, W)
    Array<Scalar> conv1d_bias;      ///< (E), may be absent
    Array<Scalar> x_proj_weight;    ///< (R + 2N, E)
    Array<Scalar> dt_proj_weight;   ///< (E, R)
    Array<Scalar> dt_proj_bias;     ///< (E), may be absent
    Array<Scalar> A_log;            ///< (E, N)
    Array<Scalar> D;                ///< (E)
    Array<Scalar> out_proj_weight;  ///< (D, E)
    Array<Scalar> out_proj_bias;    ///< (D), may be absent
    Array<Scalar> dt_norm_weight;   ///< (R), may be absent: of an RMS norm of d before dt_proj (Jamba)
    Array<Scalar> B_norm_weight;    ///< (N), may be absent
    Array<Scalar> C_norm_weight;    ///< (N), may be absent
  };

  /// What one piece of a sequence hands to the next.
  struct State {
    Matrix<Scalar> convolution_tail;  ///< (W - 1, E): the last linear inputs, oldest first
    Matrix<Scalar> recurrent;         ///< (N, E)
  };

  /// One sequence through the layer. An engine that has run the layer itself views its own buffers here: z (or gate), dt (or pre_dt), B, C
  /// and c (or x, from which c is recomputed) are what the implicit attention needs.
  struct Activations {
    Array<Scalar> x;               ///< (L, E): linear input, before convolution and activation
    Array<Scalar> z;               ///< (L, E): gate branch, before silu
    Array<Scalar> gate = {};       ///< (L, E): silu(z), in place of z where an engine has kept that
    Array<Scalar> c;               ///< (L, E): after the convolution, with its bias
    Array<Scalar> a;               ///< (L, E): silu(c)
    Array<Scalar> dt;              ///< (L, E): after softplus
    Array<Scalar> pre_dt = {};     ///< (L, E): dt before softplus, with its bias, in place of dt
    Array<Scalar> B;               ///< (L, N)
    Array<Scalar> C;               ///< (L, N)
    Array<Scalar> y;               ///< (L, E): output before the output projection
    Array<Scalar> out;             ///< (L, D)
    State initial;                 ///< the state carried in; empty matrices if none
    State final;                   ///< the state after the last token
    MadeFrom<Scalar> c_from = {};  ///< what run() made c from; it is made again where that is another
  };

  struct Options {
    bool inner_norms = false;      ///< RMS norms of dt (before dt_proj), B and C without weights: Falcon-Mamba
    double inner_norm_eps = 1e-6;  ///< of these norms, with or without weights
  };

  /// What `lower` needs of the weights: what an engine whose projections are quantised holds in plain numbers.
  struct EngineWeights {
    Array<Scalar> A;              ///< (E, N): -exp(A_log), ggml's ssm_a; or
    Array<Scalar> A_log;          ///< (E, N)
    Array<Scalar> D;              ///< (E)
    Array<Scalar> conv1d_weight;  ///< (E, W)
    Array<Scalar> conv1d_bias;    ///< (E), may be absent
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Mamba(Weights weights, Options options = {});

  /// A descriptor without projections: it lowers what an engine has run, and cannot run itself; `width()` is 0.
  [[nodiscard]] static Mamba for_engine(EngineWeights weights);

  /// Reads the weights below a prefix such as `backbone.layers.0.mixer.`, under their public names.
  [[nodiscard, gnu::cold]] static Mamba from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] Index state() const { return state_; }
  [[nodiscard]] Index convolution_width() const { return weights_.conv1d_weight.cols(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  /// A = -exp(A_log), transposed: (N, E).
  [[nodiscard]] const Array<Scalar>& rate() const { return rate_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<Mamba> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// What stands between the projections: y from linear input x and gate branch z (L, E), given in `act.initial` where it begins. Fills
  /// everything of `act` but out. A layer of two directions runs it twice. Where y is not read (RunContext::output_read), it gives any numbers
  /// of its shape, and `act` has no y and no state after the last token.
  [[nodiscard]] Value<Scalar> mix(const Value<Scalar>& x, const Value<Scalar>& z, Activations& act, bool y_read = true) const;

  /// The unified form (formulation: Mamba). Needs z or gate, dt or pre_dt, B, C, and c or x, as far as the terms read them. Without the
  /// terms activation, convolution and bias its linear input is a.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// Releases what no form is made of: what stays is what `lower` reads.
  static void keep_for_maps(Activations& act) {
    act.a = act.y = act.out = Array<Scalar>();
    act.final = State();
  }

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.out_proj_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.out_proj_bias; }

 private:
  Mamba() = default;
  [[nodiscard]] DiagonalRecurrence<Scalar> recurrence(const Array<Scalar>& dt, const Activations& act) const;

  Weights weights_;
  Options options_;
  Array<Scalar> rate_;
  Norm<Scalar> dt_norm_, B_norm_, C_norm_;  // empty: none
  Index width_ = 0, channels_ = 0, state_ = 0;
};

template <Real S>
Mamba<S>::Mamba(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  channels_ = w.A_log.rows();
  state_ = w.A_log.cols();
  width_ = w.in_proj_weight.cols();
  const auto check = [](const char* name, const Array<Scalar>& array, Index rows, Index columns, std::string_view meaning,
                        std::string_view hint = {}) { check_shape("Mamba", name, array, rows, columns, meaning, hint); };
  const auto check_bias = [](const char* name, const Array<Scalar>& array, Index size, std::string_view meaning) {
    detail::check_bias(layer_name, name, array, size, meaning);
  };
  if (w.A_log.empty()) detail::raise_shape(layer_name, "A_log", "is empty, expected (channels, state)");
  check("in_proj.weight", w.in_proj_weight, 2 * channels_, width_, "(2*channels, width)");
  check_bias("in_proj.bias", w.in_proj_bias, 2 * channels_, "2*channels");
  check("conv1d.weight", w.conv1d_weight, channels_, std::max(w.conv1d_weight.cols(), Index(1)), "(channels, convolution width)");
  check_bias("conv1d.bias", w.conv1d_bias, channels_, "channels");
  const Index rank = w.dt_proj_weight.cols();
  check("dt_proj.weight", w.dt_proj_weight, channels_, rank, "(channels, dt_rank)");
  check("x_proj.weight", w.x_proj_weight, rank + 2 * state_, channels_, "(dt_rank + 2*state, channels)",
        detail::message("is dt_rank ", rank, " and state ", state_, "?"));
  check_bias("dt_proj.bias", w.dt_proj_bias, channels_, "channels");
  check_vector("Mamba", "D", w.D, channels_, "channels");
  check("out_proj.weight", w.out_proj_weight, width_, channels_, "(width, channels)");
  check_bias("out_proj.bias", w.out_proj_bias, width_, "width");
  const auto inner_norm = [&](const char* name, const Array<Scalar>& weight, Index size) {
    check_bias(name, weight, size, "inner width");
    if (!weight.empty()) return Norm<Scalar>::rms(weight, options.inner_norm_eps);
    return options.inner_norms ? Norm<Scalar>::rms(size, options.inner_norm_eps) : Norm<Scalar>();
  };
  dt_norm_ = inner_norm("dt_layernorm.weight", w.dt_norm_weight, rank);
  B_norm_ = inner_norm("b_layernorm.weight", w.B_norm_weight, state_);
  C_norm_ = inner_norm("c_layernorm.weight", w.C_norm_weight, state_);
  Matrix<Scalar> rate = detail::decay_rate(w.A_log).matrix();
  detail::Numbers<Scalar> numbers(rate.data(), rate.size());
  numbers = -numbers;
  rate_ = detail::transposed(Array<Scalar>(std::move(rate)));
}

template <Real S>
Mamba<S> Mamba<S>::for_engine(EngineWeights weights) {
  Mamba layer;
  const Array<Scalar> rate = detail::engine_rate(layer_name, weights.A, weights.A_log);
  layer.channels_ = rate.rows();
  layer.state_ = rate.cols();
  layer.rate_ = detail::transposed(rate);
  check_vector(layer_name, "D", weights.D, layer.channels_, "channels");
  check_shape(layer_name, "conv1d.weight", weights.conv1d_weight, layer.channels_, std::max(weights.conv1d_weight.cols(), Index(1)),
              "(channels, convolution width)");
  detail::check_bias(layer_name, "conv1d.bias", weights.conv1d_bias, layer.channels_, "channels");
  layer.weights_.D = std::move(weights.D);
  layer.weights_.conv1d_weight = std::move(weights.conv1d_weight);
  layer.weights_.conv1d_bias = std::move(weights.conv1d_bias);
  return layer;
}

template <Real S>
Mamba<S> Mamba<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.in_proj_weight = tensors.required("in_proj.weight", 2);
  w.in_proj_bias = tensors.optional("in_proj.bias", 1);
  w.conv1d_weight = tensors.required_convolution("conv1d.weight");
  w.conv1d_bias = tensors.optional("conv1d.bias", 1);
  w.x_proj_weight = tensors.required("x_proj.weight", 2);
  w.dt_proj_weight = tensors.required("dt_proj.weight", 2);
  w.dt_proj_bias = tensors.required("dt_proj.bias", 1);
  w.A_log = detail::read_decay_rate(tensors, 2);
  w.D = tensors.required("D", 1);
  w.out_proj_weight = tensors.required("out_proj.weight", 2);
  w.out_proj_bias = tensors.optional("out_proj.bias", 1);
  w.dt_norm_weight = tensors.optional("dt_layernorm.weight", 1);
  w.B_norm_weight = tensors.optional(tensors.has("B_layernorm.weight") ? "B_layernorm.weight" : "b_layernorm.weight", 1);
  w.C_norm_weight = tensors.optional(tensors.has("C_layernorm.weight") ? "C_layernorm.weight" : "c_layernorm.weight", 1);
  return Mamba(std::move(w), options);
}

template <Real S>
LayerRun<Mamba<S>> Mamba<S>::run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial) const {
  detail::check_projections(layer_name, weights_.in_proj_weight);
  Activations act;
  if (initial) {
    check_shape("Mamba", "state.convolution_tail", initial->convolution_tail, convolution_width() - 1, channels_,
                "(convolution width - 1, channels)");
    check_shape("Mamba", "state.recurrent", initial->recurrent, state_, channels_, "(state, channels)");
    act.initial = *initial;
  }
  const Weights& w = weights_;
  const auto half = [&](const Array<Scalar>& bias, Index first) { return bias.empty() ? bias : bias.middle_columns(first, channels_); };
  // [x | z] = u in_proj^T
  const Value<Scalar> x = linear(u, w.in_proj_weight.middle_rows(0, channels_), half(w.in_proj_bias, 0));
  const Value<Scalar> z = linear(u, w.in_proj_weight.middle_rows(channels_, channels_), half(w.in_proj_bias, channels_));
  const Value<Scalar> y = mix(x, z, act, context.output_read);
  const Value<Scalar> out = linear(y, w.out_proj_weight, w.out_proj_bias, context.output_read ? nullptr : &u.numbers);
  if (context.output_read) act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
Value<S> Mamba<S>::mix(const Value<Scalar>& x, const Value<Scalar>& z, Activations& act, bool y_read) const {
  detail::check_projections(layer_name, weights_.x_proj_weight);
  const Weights& w = weights_;
  const Index rank = w.dt_proj_weight.cols();
  const Array<Scalar> tail = detail::carried(act.initial.convolution_tail), state = detail::carried(act.initial.recurrent);
  const Value<Scalar> c = convolution(x, w.conv1d_weight, w.conv1d_bias, tail);
  const Value<Scalar> a = silu(c);
  // [d | B | C] = a x_proj^T
  const Value<Scalar> selected = linear(a, w.x_proj_weight);
  const auto part = [&](Index first, Index count, const Norm<Scalar>& norm) {
    const Value<Scalar> numbers = columns(selected, first, count);
    return norm.empty() ? numbers : normalize(norm, numbers);
  };
  const Value<Scalar> B = part(rank, state_, B_norm_), C = part(rank + state_, state_, C_norm_);
  const Value<Scalar> dt = softplus(linear(part(0, rank, dt_norm_), w.dt_proj_weight, w.dt_proj_bias));
  act.x = x.numbers;
  act.z = z.numbers;
  act.c = c.numbers;
  act.c_from = {act.c, {{"x", &act.x}}, act.initial.convolution_tail};
  act.a = a.numbers;
  act.dt = dt.numbers;
  act.B = B.numbers;
  act.C = C.numbers;
  // y = silu(z) (R + D) a
  DiagonalInputs<Scalar> inputs;
  inputs.step = inputs.key_scale = dt;
  inputs.query = C;
  inputs.key = B;
  const Value<Scalar> y = diagonal_recurrence(recurrence(act.dt, act), inputs, {Function::silu, z}, w.D, a, state, &act.final.recurrent,
                                              {Function::silu, c}, y_read ? nullptr : &x.numbers);
  if (!y_read) return y;
  act.final.convolution_tail = next_tail<Scalar>(*x, tail, convolution_width());
  act.y = y.numbers;
  return y;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/mamba_form.hpp>
