// Mamba-3 (arXiv 2603.15569): a trapezoidal rule for the state, rotations made of the input, one or several inputs and outputs a head.
#pragma once

#include <limits>
#include <utility>
#include <vector>

#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/layers/mamba3_weights.hpp>
#include <implicit_attention/trace/data_rotation.hpp>
#include <implicit_attention/trace/row_normalizers.hpp>
#include <implicit_attention/trace/token_order.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With E channels in H heads, state N, G groups of B and C, S angles and rank R (formulation: "Mamba-3"):
///
///     [z | x | B | C | dt | A | lambda | angle] = u in_proj^T      dt = softplus(dt + dt_bias)    A = -max(phi(A), 1e-4)    lambda = sigmoid(.)
///     B, C = rms(.) weight + bias, rotated by theta_t = sum_{s<=t} pi tanh(angle_s) dt_s
///     R^{rs}[i,j] = C^r_i . B^s_j exp( sum_{t=j+1..i} A_t dt_t ) (dt_j lambda_j + [j < i] dt_{j+1} (1 - lambda_{j+1}))
///     y = sum_r mimo_o[r] silu(z mimo_z[r]) norm( sum_s (R^{rs} + [r = s] D) (mimo_x[s] x) )      out = y out_proj^T
///
/// mimo_x takes the place of the activation, mimo_o belongs to the gate; with R = 1 there are none. The norm, over each head, is optional.
template <Real S>
class Mamba3 : public LayerInterface<Mamba3<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Mamba-3";

  using Weights = Mamba3Weights<Scalar>;
  using Options = Mamba3Options;
  [[nodiscard]] static Options options(const Configuration& configuration) { return Options::from_configuration(configuration); }

  using State = Mamba3State<Scalar>;
  /// One sequence through the layer. The implicit attention needs query, key, log_decay, key_scale, diagonal, z and, with a norm, o; a
  /// piece of a stream also dt and own_scale, since its first token writes half of the one before it.
  struct Activations {
    Array<Scalar> x;                        ///< (L, E): linear input
    Array<Scalar> z;                        ///< (L, E): gate branch, before silu
    std::vector<Array<Scalar>> query, key;  ///< R of (L, H N): C and B, rotated
    Array<Scalar> dt, rate, trap;           ///< (L, H): after softplus; A < 0; lambda
    Array<Scalar> angle;                    ///< (L, H S): theta, modulo 2 pi
    Array<Scalar> log_decay;                ///< (L, H): A dt
    Array<Scalar> key_scale;                ///< (L, H): dt_j lambda_j + dt_{j+1} (1 - lambda_{j+1})
    Array<Scalar> own_scale;                ///< (L, H): dt_j lambda_j
    std::vector<Array<Scalar>> diagonal;    ///< R^2 of (L, H), (r, s): C^r_j . B^s_j dt_j lambda_j
    std::vector<Array<Scalar>> o;           ///< R of (L, E): before the norm
    Array<Scalar> y;                        ///< (L, E): output before the output projection
    Array<Scalar> out;                      ///< (L, D)
    Matrix<Scalar> carried;                 ///< (H N, P): the carried-in state and its last token's half-step; empty if none
    State initial, final;
    MadeFrom<Scalar> log_decay_from = {}, key_scale_from = {}, own_scale_from = {};  ///< what run() made them from
    std::vector<MadeFrom<Scalar>> diagonal_from = {};                                ///< as many as diagonal
  };

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  explicit Mamba3(Weights weights, Options options = {});
  /// Reads the weights below a prefix such as `backbone.layers.0.mixer.`, under their public names.
  [[nodiscard, gnu::cold]] static Mamba3 from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {}) {
    return Mamba3(Weights::from_tensors(tensors), options);
  }

  [[nodiscard]] Index width() const { return weights_.out_proj_weight.rows(); }
  [[nodiscard]] Index channels() const { return weights_.out_proj_weight.cols(); }
  [[nodiscard]] Index heads() const { return weights_.D.size(); }
  [[nodiscard]] Index state() const { return weights_.B_norm_weight.size(); }
  [[nodiscard]] Index rank() const { return weights_.rank(); }
  [[nodiscard]] Index angles() const { return angles_; }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in (a constant).
  [[nodiscard]] LayerRun<Mamba3> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form: a sum of R^2 forms, in the order (r, s).
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.out_proj_weight; }

 private:
  [[nodiscard]] HeadRecurrence<Scalar> recurrence(const Activations& act, Index r, Index s) const;

  Weights weights_;
  Options options_;
  Index angles_ = 0;
  Norm<Scalar> B_norm_, C_norm_, norm_;
  Array<Scalar> skip_;  // (1, E)
};

template <Real S>
Mamba3<S>::Mamba3(Weights weights, Options options)
    : weights_(std::move(weights)), options_(options), angles_(weights_.check(layer_name, options)) {
  const Weights& w = weights_;
  const Index R = rank(), G = options.groups;
  const auto over_groups = [&](const Array<Scalar>& weight) {
    return Norm<S>::rms(Array<S>(Matrix<S>(weight.matrix().replicate(1, R * G))), options.norm_eps, false, R * G);
  };
  B_norm_ = over_groups(w.B_norm_weight);
  C_norm_ = over_groups(w.C_norm_weight);
  if (!w.norm_weight.empty()) norm_ = Norm<S>::rms(w.norm_weight, options.norm_eps, false, heads());
  skip_ = spread_columns<S>(*w.D, channels() / heads());
}

template <Real S>
LayerRun<Mamba3<S>> Mamba3<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  const Weights& w = weights_;
  const Index H = heads(), N = state(), E = channels(), G = options_.groups, R = rank(), P = E / H;
  Activations act;
  if (initial) {
    initial->check(layer_name, w, angles_);
    act.initial = *initial;
  }
  Index at = 0;
  const Value<S> projected = linear(u, w.in_proj_weight);
  const auto next = [&](Index count) { return columns(projected, std::exchange(at, at + count), count); };
  const Value<S> z = next(E), x = next(E), B = normalize(B_norm_, next(R * G * N)), C = normalize(C_norm_, next(R * G * N));
  const Value<S> dt = softplus(plus_row(next(H), w.dt_bias)), rate_input = next(H), trap = sigmoid(next(H));
  const Value<S> phi = options_.softplus_rate ? softplus(rate_input) : heavy_tail(rate_input);
  const Value<S> rate = times(clamp(phi, S(1e-4), std::numeric_limits<S>::infinity()), S(-1));
  const Value<S> log_decay = scale(rate, dt), own_scale = scale(trap, dt);
  const Value<S> key_scale = add(own_scale, next_token(subtract(dt, own_scale)));
  Value<S> angle;
  if (angles_ > 0) angle = running_angles(next(angles_), dt, detail::carried(act.initial.angle));
  const auto rotated = [&](const Value<S>& all, const Array<Scalar>& bias, Index r) {  // the heads' own keys of rank r
    const Value<S> biased = plus_row(repeat_heads(columns(all, r * G * N, G * N), G, H), w.of_rank(bias, r));
    return angles_ == 0 ? biased : rotate_by_angles(biased, angle, H, R == 1);
  };
  std::vector<Value<S>> query, key, content;
  for (Index r = 0; r < R; ++r) {
    query.push_back(rotated(C, w.C_bias, r));
    key.push_back(rotated(B, w.B_bias, r));
    content.push_back(R == 1 ? x : times_row(x, w.of_rank(w.mimo_x, r)));
    act.query.push_back(query.back().numbers);
    act.key.push_back(key.back().numbers);
  }
  act.x = x.numbers;
  act.z = z.numbers;
  act.dt = dt.numbers;
  act.rate = rate.numbers;
  act.trap = trap.numbers;
  act.angle = angle.numbers;
  act.log_decay = log_decay.numbers;
  act.key_scale = key_scale.numbers;
  act.own_scale = own_scale.numbers;
  act.log_decay_from = {act.log_decay, {{"rate", &act.rate}, {"dt", &act.dt}}};
  act.key_scale_from = {act.key_scale, {{"dt", &act.dt}, {"trap", &act.trap}}};
  act.own_scale_from = {act.own_scale, {{"dt", &act.dt}, {"trap", &act.trap}}};
  if (initial) act.carried = initial->continued(w, dt.numbers, own_scale.numbers);
  act.final = {Matrix<S>::Zero(H * N, P), Matrix<S>(R, H * N), (*x).bottomRows(1), Matrix<S>(1, H * angles_)};
  if (angles_ > 0) act.final.angle = (*angle).bottomRows(1);
  Value<S> y;
  for (Index r = 0; r < R; ++r) {
    act.final.key.row(r) = (*key[static_cast<std::size_t>(r)]).bottomRows(1);
    Value<S> o = times_row(content[static_cast<std::size_t>(r)], skip_);
    for (Index s = 0; s < R; ++s) {
      HeadInputs<S> inputs;
      inputs.query = query[static_cast<std::size_t>(r)];
      inputs.key = key[static_cast<std::size_t>(s)];
      inputs.key_scale = key_scale;
      inputs.log_decay = log_decay;
      inputs.diagonal = scale(own_scale, head_dot(inputs.query, inputs.key, H));
      act.diagonal.push_back(inputs.diagonal.numbers);
      act.diagonal_from.push_back({act.diagonal.back(),
                                   {{"query", &act.query[static_cast<std::size_t>(r)]},
                                    {"key", &act.key[static_cast<std::size_t>(s)]},
                                    {"own_scale", &act.own_scale}}});
      Matrix<S> last;
      o = add(o, head_recurrence(recurrence(act, r, s), inputs, content[static_cast<std::size_t>(s)],
                                 s == 0 ? detail::carried(act.carried) : Array<S>(), &last));
      if (r == 0) act.final.recurrent += last;
    }
    act.o.push_back(o.numbers);
    if (!norm_.empty()) o = normalize(norm_, o);
    Value<S> part = gate(silu(R == 1 ? z : times_row(z, w.of_rank(w.mimo_z, r))), o);
    if (R > 1) part = times_row(part, w.of_rank(w.mimo_o, r));
    y = r == 0 ? part : add(y, part);
  }
  const Value<S> out = linear(y, w.out_proj_weight);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
HeadRecurrence<S> Mamba3<S>::recurrence(const Activations& act, Index r, Index s) const {
  HeadRecurrence<S> recurrence;
  recurrence.tokens = act.log_decay.rows();
  recurrence.channels = channels();
  recurrence.heads = recurrence.groups = heads();
  recurrence.state = state();
  recurrence.query = act.query[static_cast<std::size_t>(r)];
  recurrence.key = act.key[static_cast<std::size_t>(s)];
  recurrence.key_scale = act.key_scale;
  recurrence.log_decay = act.log_decay;
  recurrence.diagonal = act.diagonal[static_cast<std::size_t>(r * rank() + s)];  // its own token has had its first half-step only
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/mamba3_form.hpp>
