// Mamba-2, the state space dual layer (Dao & Gu 2024, arXiv 2405.21060), by itself and in every form that hybrids give it.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include <implicit_attention/layers/decay_rate.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/clamp.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, E channels in H heads, G groups of B and C, state N and convolution width W:
///
///     [z | x | B | C | dt] = u in_proj^T       c = Conv x + bias   a = silu(c)      [B | C] = silu(Conv [B | C] + bias)
///     dt = clamp(softplus(dt + dt_bias), limit)      A = -exp(A_log)
///     R_h[i,j] = C_i . B_j dt_j exp(A_h sum_{t=j+1..i} dt_t)      s = (R + D) a
///     y = norm(silu(z) s), or norm(s) silu(z) with the norm before the gate, or silu(z) s without a norm       out = y out_proj^T
///
/// The convolution of x is content, those of B and C make queries and keys. Head h reads group h G / H. The norm is an RMS norm over each
/// of `norm_groups` groups of channels. Relevance holds its statistics, as the implicit attention does.
template <Real S>
class Mamba2 : public LayerInterface<Mamba2<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Mamba2";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights {
    Array<Scalar> in_proj_weight;   ///< (2E + 2GN + H, D): rows of z, x, B, C, dt
    Array<Scalar> in_proj_bias;     ///< (2E + 2GN + H), may be absent
    Array<Scalar> conv1d_weight;    ///< (E + 2GN, W): of x, B, C
    Array<Scalar> conv1d_bias;      ///< (E + 2GN), may be absent
    Array<Scalar> dt_bias;          ///< (H)
    Array<Scalar> A_log;            ///< (H)
    Array<Scalar> D;                ///< (H), or (E): one a channel
    Array<Scalar> norm_weight;      ///< (E), absent where there is no norm
    Array<Scalar> out_proj_weight;  ///< (D, E)
    Array<Scalar> out_proj_bias;    ///< (D), may be absent
    Array<Scalar> row_scales;       ///< (2E + 2GN + H): what in_proj's rows are multiplied by, their biases too (Falcon-H1), or absent
  };

  struct Options {
    Index groups = 1;               ///< G
    Index norm_groups = 1;          ///< of the norm; the authors' code has G of them, Hugging Face's Mamba-2 and Bamba one
    bool norm_before_gate = false;  ///< norm(s) silu(z)
    double norm_eps = 1e-5;
    std::array<double, 2> time_step_limit = {0, std::numeric_limits<double>::infinity()};  ///< of dt after softplus
  };

  /// What one piece of a sequence hands to the next.
  struct State {
    Matrix<Scalar> convolution_tail;  ///< (W - 1, E + 2GN): the last x, B, C before the convolution, oldest first
    Matrix<Scalar> recurrent;         ///< (H N, P)
  };

  /// One sequence through the layer. An engine that has run the layer views its own buffers here: dt, B, C, z, c and s are what the
  /// implicit attention needs.
  struct Activations {
    Array<Scalar> x;               ///< (L, E): linear input, before convolution and activation
    Array<Scalar> z;               ///< (L, E): gate branch, before silu
    Array<Scalar> c;               ///< (L, E): x after the convolution, with its bias
    Array<Scalar> a;               ///< (L, E): silu(c)
    Array<Scalar> dt;              ///< (L, H): after softplus and limit
    Array<Scalar> B;               ///< (L, GN): after convolution and silu
    Array<Scalar> C;               ///< (L, GN): after convolution and silu
    Array<Scalar> s;               ///< (L, E): (R + D) a, before gate and norm
    Array<Scalar> y;               ///< (L, E): output before the output projection
    Array<Scalar> out;             ///< (L, D)
    State initial;                 ///< the state carried in; empty matrices if none
    State final;                   ///< the state after the last token
    MadeFrom<Scalar> c_from = {};  ///< what run() made c from
  };

  /// Checks every shape against the others; fails naming the tensor or the option.
  explicit Mamba2(Weights weights, Options options = {});
  /// Reads the weights below a prefix such as `backbone.layers.0.mixer.`, under their public names.
  [[nodiscard, gnu::cold]] static Mamba2 from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return weights_.in_proj_weight.cols(); }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] Index heads() const { return weights_.A_log.size(); }
  [[nodiscard]] Index state() const { return shared_ / options_.groups; }
  [[nodiscard]] Index convolution_width() const { return weights_.conv1d_weight.cols(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<Mamba2> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// The unified form (formulation: Mamba-2). Needs dt, B, C, z, c and s, as far as the terms read them.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.out_proj_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.out_proj_bias; }

 private:
  [[nodiscard]] HeadRecurrence<Scalar> recurrence(const Activations& act) const;

  Weights weights_;
  Options options_;
  Norm<Scalar> norm_;                // empty: none
  Array<Scalar> rate_, skip_;        // A (H), D (E)
  Index channels_ = 0, shared_ = 0;  // E, GN
};

template <Real S>
Mamba2<S>::Mamba2(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  channels_ = w.out_proj_weight.cols();
  shared_ = (w.conv1d_weight.rows() - channels_) / 2;
  const Index convolved = channels_ + 2 * shared_, rows = channels_ + convolved + heads();
  check_divides(layer_name, channels_, "channels (columns of out_proj.weight)", heads(), "heads (A_log)");
  check_divides(layer_name, heads(), "heads (A_log)", options.groups, "groups");
  check_divides(layer_name, shared_, "rows of conv1d.weight for B", options.groups, "groups");
  check_divides(layer_name, channels_, "channels", options.norm_groups, "groups of the norm");
  check_shape(layer_name, "conv1d.weight", w.conv1d_weight, convolved, std::max(convolution_width(), Index(1)), "(channels + 2GN, width)");
  detail::check_bias(layer_name, "conv1d.bias", w.conv1d_bias, convolved, "channels + 2*groups*state");
  check_shape(layer_name, "in_proj.weight", w.in_proj_weight, rows, width(), "(2*channels + 2*groups*state + heads, width)");
  detail::check_bias(layer_name, "in_proj.bias", w.in_proj_bias, rows, "2*channels + 2*groups*state + heads");
  detail::check_bias(layer_name, "row_scales", w.row_scales, rows, "rows of in_proj.weight");
  check_vector(layer_name, "dt_bias", w.dt_bias, heads(), "heads");
  check_vector(layer_name, "A_log", w.A_log, heads(), "heads");
  check_vector(layer_name, "D", w.D, w.D.size() == channels_ ? channels_ : heads(), "heads, or channels");
  detail::check_bias(layer_name, "norm.weight", w.norm_weight, channels_, "channels");
  check_shape(layer_name, "out_proj.weight", w.out_proj_weight, width(), channels_, "(width, channels)");
  detail::check_bias(layer_name, "out_proj.bias", w.out_proj_bias, width(), "width");
  if (const auto& limit = options.time_step_limit; !(limit[0] <= limit[1]))
    detail::raise(ErrorKind::value, "Mamba2: time_step_limit is ", limit[0], " to ", limit[1], ", expected the smaller number first");
  if (!w.norm_weight.empty()) norm_ = Norm<Scalar>::rms(w.norm_weight, options.norm_eps, false, options.norm_groups);
  rate_ = Matrix<Scalar>(-detail::decay_rate(w.A_log).matrix());
  Matrix<Scalar> skip(1, channels_);
  for (Index e = 0; e < channels_; ++e) skip(0, e) = w.D(0, w.D.size() == channels_ ? e : e / (channels_ / heads()));
  skip_ = std::move(skip);
}

template <Real S>
Mamba2<S> Mamba2<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.in_proj_weight = tensors.required("in_proj.weight", 2);
  w.in_proj_bias = tensors.optional("in_proj.bias", 1);
  w.conv1d_weight = tensors.required_convolution("conv1d.weight");
  w.conv1d_bias = tensors.optional("conv1d.bias", 1);
  w.dt_bias = tensors.required("dt_bias", 1);
  w.A_log = detail::read_decay_rate(tensors, 1);
  w.D = tensors.required("D", 1);
  w.norm_weight = tensors.optional("norm.weight", 1);
  w.out_proj_weight = tensors.required("out_proj.weight", 2);
  w.out_proj_bias = tensors.optional("out_proj.bias", 1);
  return Mamba2(std::move(w), options);
}

template <Real S>
LayerRun<Mamba2<S>> Mamba2<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  const Weights& w = weights_;
  const Index E = channels_, GN = shared_;
  Activations act;
  if (initial) {
    check_shape(layer_name, "state.convolution_tail", initial->convolution_tail, convolution_width() - 1, E + 2 * GN, "(W - 1, E + 2GN)");
    check_shape(layer_name, "state.recurrent", initial->recurrent, heads() * state(), E / heads(), "(heads * state, channels / heads)");
    act.initial = *initial;
  }
  const Array<Scalar> tail = detail::carried(act.initial.convolution_tail);
  const auto project = [&](Index first, Index count) {
    const Value<Scalar> rows = linear(u, w.in_proj_weight.middle_rows(first, count), w.in_proj_bias.middle_columns(first, count));
    return w.row_scales.empty() ? rows : times_row(rows, w.row_scales.middle_columns(first, count));
  };
  const Value<Scalar> z = project(0, E), x = project(E, E), BC = project(2 * E, 2 * GN);
  const Value<Scalar> c = convolution(x, w.conv1d_weight.middle_rows(0, E), w.conv1d_bias.middle_columns(0, E), tail.middle_columns(0, E));
  const Value<Scalar> selected = silu(
      convolution(BC, w.conv1d_weight.middle_rows(E, 2 * GN), w.conv1d_bias.middle_columns(E, 2 * GN), tail.middle_columns(E, 2 * GN)));
  const Value<Scalar> a = silu(c), B = columns(selected, 0, GN), C = columns(selected, GN, GN);
  Value<Scalar> dt = softplus(plus_row(project(2 * E + 2 * GN, heads()), w.dt_bias));
  if (options_.time_step_limit != Options().time_step_limit)
    dt = clamp(dt, static_cast<Scalar>(options_.time_step_limit[0]), static_cast<Scalar>(options_.time_step_limit[1]));
  act.x = x.numbers;
  act.z = z.numbers;
  act.c = c.numbers;
  act.c_from = {act.c, {{"x", &act.x}}, act.initial.convolution_tail};
  act.a = a.numbers;
  act.dt = dt.numbers;
  act.B = B.numbers;
  act.C = C.numbers;
  // s = (R + D) a
  const HeadInputs<Scalar> inputs{C, B, dt, times_row(dt, rate_), {}, {}, {}};
  const Value<Scalar> s =
      add(head_recurrence(recurrence(act), inputs, a, detail::carried(act.initial.recurrent), &act.final.recurrent), times_row(a, skip_));
  act.s = s.numbers;
  act.final.convolution_tail = next_tail<Scalar>(*join<Scalar>({x, BC}), tail, convolution_width());
  const Value<Scalar> normed = options_.norm_before_gate && !norm_.empty() ? normalize(norm_, s) : s;
  Value<Scalar> y = gate(silu(z), normed);
  if (!options_.norm_before_gate && !norm_.empty()) y = normalize(norm_, y);
  const Value<Scalar> out = linear(y, w.out_proj_weight, w.out_proj_bias);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/mamba2_form.hpp>
