// Mamba-3 (arXiv 2603.15569): a trapezoidal rule for the state, rotations made of the input, one or several inputs and outputs a head.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/data_rotation.hpp>
#include <implicit_attention/trace/row_normalizers.hpp>
#include <implicit_attention/trace/token_order.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With E channels in H heads, state N, G groups of B and C, S angles and rank R (formulation-delta: "Mamba-3"):
///
///     [z | x | B | C | dt | A | lambda | angle] = u in_proj^T      dt = softplus(dt + dt_bias)    A = -max(phi(A), 1e-4)    lambda = sigmoid(.)
///     B, C = rms(.) weight + bias, turned by theta_t = sum_{s<=t} pi tanh(angle_s) dt_s
///     R^{rs}[i,j] = C^r_i . B^s_j exp( sum_{t=j+1..i} A_t dt_t ) (dt_j lambda_j + [j < i] dt_{j+1} (1 - lambda_{j+1}))
///     y = sum_r mimo_o[r] silu(z mimo_z[r]) norm( sum_s (R^{rs} + [r = s] D) (mimo_x[s] x) )      out = y out_proj^T
///
/// mimo_x stands in the place of the activation, mimo_o belongs to the gate; with R = 1 there are none. The norm, over each head, is optional.
template <Real S>
class Mamba3 : public LayerInterface<Mamba3<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Mamba-3";

  struct Weights {
    Array<Scalar> in_proj_weight;                ///< (2E + 2RGN + 3H + S, D)
    Array<Scalar> dt_bias;                       ///< (H)
    Array<Scalar> B_norm_weight, C_norm_weight;  ///< (N)
    Array<Scalar> B_bias, C_bias;                ///< (H R, N)
    Array<Scalar> D;                             ///< (H)
    Array<Scalar> norm_weight;                   ///< (E), may be absent
    Array<Scalar> mimo_x, mimo_z, mimo_o;        ///< (H R, P), where R > 1
    Array<Scalar> out_proj_weight;               ///< (D, E)
  };
  struct Options {
    Index groups = 1;               ///< G
    double rope_fraction = 0;       ///< the share of the state that is turned: S = fraction N / 2; 0: what in_proj has rows for
    bool softplus_rate = false;     ///< phi is softplus (flash-linear-attention) rather than the authors' heavy tail
    double norm_eps = 1e-5;         ///< of all norms
  };
  [[nodiscard]] static Options options(const Configuration& configuration);

  /// What one piece of a sequence hands to the next: the last token's second half-step needs the token after it.
  struct State {
    Matrix<Scalar> recurrent;  ///< (H N, P)
    Matrix<Scalar> key;        ///< (R, H N): the last token's B, turned
    Matrix<Scalar> x;          ///< (1, E): the last token's linear input
    Matrix<Scalar> angle;      ///< (1, H S)
  };
  /// One sequence through the layer. The implicit attention needs query, key, log_decay, key_scale, diagonal, z and, with a norm, o.
  struct Activations {
    Array<Scalar> x;                        ///< (L, E): linear input
    Array<Scalar> z;                        ///< (L, E): gate branch, before silu
    std::vector<Array<Scalar>> query, key;  ///< R of (L, H N): C and B, turned
    Array<Scalar> dt, rate, trap;           ///< (L, H): after softplus; A < 0; lambda
    Array<Scalar> angle;                    ///< (L, H S): theta, modulo 2 pi
    Array<Scalar> log_decay;                ///< (L, H): A dt
    Array<Scalar> key_scale;                ///< (L, H): dt_j lambda_j + dt_{j+1} (1 - lambda_{j+1})
    Array<Scalar> own_scale;                ///< (L, H): dt_j lambda_j, on the diagonal
    std::vector<Array<Scalar>> o;           ///< R of (L, E): before the norm
    Array<Scalar> y;                        ///< (L, E): output before the output projection
    Array<Scalar> out;                      ///< (L, D)
    Matrix<Scalar> carried;                 ///< (H N, P): the carried-in state and its last token's half-step; empty if none
    State initial, final;
  };

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  explicit Mamba3(Weights weights, Options options = {});
  /// Reads the weights below a prefix such as `backbone.layers.0.mixer.`, under their public names.
  [[nodiscard]] static Mamba3 from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return weights_.out_proj_weight.rows(); }
  [[nodiscard]] Index channels() const { return weights_.out_proj_weight.cols(); }
  [[nodiscard]] Index heads() const { return weights_.D.size(); }
  [[nodiscard]] Index state() const { return weights_.B_norm_weight.size(); }
  [[nodiscard]] Index rank() const { return weights_.B_bias.rows() / heads(); }
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
  /// Row r of every head, side by side: of an array (H R, columns), (1, H columns).
  [[nodiscard]] Array<Scalar> of_rank(const Array<Scalar>& array, Index r) const;
  [[nodiscard]] Matrix<Scalar> carried(const State& initial, const Activations& act) const;

  Weights weights_;
  Options options_;
  Index angles_ = 0;
  Norm<Scalar> B_norm_, C_norm_, norm_;
  Array<Scalar> skip_;  // (1, E)
};

template <Real S>
typename Mamba3<S>::Options Mamba3<S>::options(const Configuration& configuration) {
  Options made;
  made.groups = configuration.integer({"ngroups", "n_groups"}).value_or(1);
  made.rope_fraction = configuration.number({"rope_fraction"}).value_or(0);
  made.norm_eps = configuration.number({"norm_eps"}).value_or(made.norm_eps);
  const std::string phi = configuration.text({"activation"}).value_or("heavy_tail");
  if (phi != "heavy_tail" && phi != "softplus")
    raise(ErrorKind::value, message(configuration.where(), ": activation is \"", phi, "\", expected \"heavy_tail\" or \"softplus\""));
  made.softplus_rate = phi == "softplus";
  return made;
}

template <Real S>
Mamba3<S>::Mamba3(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  const Index H = heads(), N = state(), E = channels(), G = options.groups;
  if (H < 1 || N < 1 || E % H != 0 || w.B_bias.rows() < H || w.B_bias.rows() % H != 0)
    raise(ErrorKind::shape, message("Mamba-3: B_bias has ", w.B_bias.rows(), " rows and out_proj.weight ", E, " columns, expected multiples of ",
                                    H, " heads, the size of D"));
  if (G < 1 || H % G != 0) raise(ErrorKind::value, message("Mamba-3: ", H, " heads do not divide into ", G, " groups"));
  const Index R = rank(), P = E / H, before_angles = 2 * E + 2 * R * G * N + 3 * H;
  const auto check = [](const char* name, const Array<Scalar>& array, Index rows, Index columns, const char* meaning) {
    check_shape(layer_name, name, array, rows, columns, meaning);
  };
  angles_ = options.rope_fraction != 0 ? static_cast<Index>(options.rope_fraction * static_cast<double>(N)) / 2
                                       : w.in_proj_weight.rows() - before_angles;
  if (angles_ < 0 || 2 * angles_ > N)
    raise(ErrorKind::shape, message("Mamba-3: in_proj.weight has ", w.in_proj_weight.rows(), " rows, expected ", before_angles, " and 0 to ",
                                    N / 2, " angles = 2*channels + 2*rank*groups*state + 3*heads + angles"));
  check("in_proj.weight", w.in_proj_weight, before_angles + angles_, width(), "(2*channels + 2*rank*groups*state + 3*heads + angles, width)");
  check_vector(layer_name, "dt_bias", w.dt_bias, H, "heads");
  check_vector(layer_name, "C_norm.weight", w.C_norm_weight, N, "state");
  check("B_bias", w.B_bias, H * R, N, "(heads * rank, state)");
  check("C_bias", w.C_bias, H * R, N, "(heads * rank, state)");
  detail::check_bias(layer_name, "norm.weight", w.norm_weight, E, "channels");
  if (R > 1)
    for (const auto& [name, array] : {std::pair("mimo_x", &w.mimo_x), std::pair("mimo_z", &w.mimo_z), std::pair("mimo_o", &w.mimo_o)})
      check(name, *array, H * R, P, "(heads * rank, channels / heads)");
  const auto over_groups = [&](const Array<Scalar>& weight) {
    return Norm<S>::rms(Array<S>(Matrix<S>(weight.matrix().replicate(1, R * G))), options.norm_eps, false, R * G);
  };
  B_norm_ = over_groups(w.B_norm_weight);
  C_norm_ = over_groups(w.C_norm_weight);
  if (!w.norm_weight.empty()) norm_ = Norm<S>::rms(w.norm_weight, options.norm_eps, false, H);
  skip_ = spread_columns<S>(*w.D, P);
}

template <Real S>
Mamba3<S> Mamba3<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.in_proj_weight = tensors.required("in_proj.weight", 2);
  w.dt_bias = tensors.required("dt_bias", 1);
  w.B_norm_weight = tensors.required("B_norm.weight", 1);
  w.C_norm_weight = tensors.required("C_norm.weight", 1);
  w.B_bias = tensors.required("B_bias", 3);
  w.C_bias = tensors.required("C_bias", 3);
  w.D = tensors.required("D", 1);
  w.norm_weight = tensors.optional("norm.weight", 1);
  w.mimo_x = tensors.optional("mimo_x", 3);
  w.mimo_z = tensors.optional("mimo_z", 3);
  w.mimo_o = tensors.optional("mimo_o", 3);
  w.out_proj_weight = tensors.required("out_proj.weight", 2);
  return Mamba3(std::move(w), options);
}

template <Real S>
LayerRun<Mamba3<S>> Mamba3<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  const Weights& w = weights_;
  const Index H = heads(), N = state(), E = channels(), G = options_.groups, R = rank(), P = E / H;
  Activations act;
  if (initial) {
    check_shape(layer_name, "state.recurrent", initial->recurrent, H * N, P, "(heads * state, channels / heads)");
    check_shape(layer_name, "state.key", initial->key, R, H * N, "(rank, heads * state)");
    check_shape(layer_name, "state.x", initial->x, 1, E, "(1, channels)");
    check_shape(layer_name, "state.angle", initial->angle, 1, H * angles_, "(1, heads * angles)");
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
  const auto turned = [&](const Value<S>& all, const Array<Scalar>& bias, Index r) {  // the heads' own keys of rank r
    const Value<S> biased = plus_row(repeat_heads(columns(all, r * G * N, G * N), G, H), of_rank(bias, r));
    return angles_ == 0 ? biased : rotate_by_angles(biased, angle, H, R == 1);
  };
  std::vector<Value<S>> query, key, content;
  for (Index r = 0; r < R; ++r) {
    query.push_back(turned(C, w.C_bias, r));
    key.push_back(turned(B, w.B_bias, r));
    content.push_back(R == 1 ? x : times_row(x, of_rank(w.mimo_x, r)));
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
  if (initial) act.carried = carried(*initial, act);
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
      Matrix<S> last;
      o = add(o, head_recurrence(recurrence(act, r, s), inputs, content[static_cast<std::size_t>(s)],
                                 s == 0 ? detail::carried(act.carried) : Array<S>(), &last));
      if (r == 0) act.final.recurrent += last;
    }
    act.o.push_back(o.numbers);
    if (!norm_.empty()) o = normalize(norm_, o);
    Value<S> part = gate(silu(R == 1 ? z : times_row(z, of_rank(w.mimo_z, r))), o);
    if (R > 1) part = times_row(part, of_rank(w.mimo_o, r));
    y = r == 0 ? part : add(y, part);
  }
  const Value<S> out = linear(y, w.out_proj_weight);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
UnifiedForm<S> Mamba3<S>::lower(const Activations& act, Terms terms) const {
  const Index R = rank(), E = channels(), tokens = std::max({act.log_decay.rows(), act.z.rows(), act.x.rows()});
  const auto check = [&](const char* name, const Array<Scalar>& array, Index columns, const char* meaning) {
    detail::check_activation(layer_name, name, array, tokens, columns, meaning);
  };
  const auto one = [&](const char* name, const std::vector<Array<Scalar>>& arrays, Index r, Index columns) {
    check(name, static_cast<Index>(arrays.size()) > r ? arrays[static_cast<std::size_t>(r)] : Array<S>(), columns, "(tokens, columns)");
  };
  const bool recurrent = terms.has(Term::recurrence);
  if (recurrent) {
    check("log_decay", act.log_decay, heads(), "(tokens, heads)");
    check("key_scale", act.key_scale, heads(), "(tokens, heads)");
    check("own_scale", act.own_scale, heads(), "(tokens, heads)");
  }
  if (terms.has(Term::gate)) check("z", act.z, E, "(tokens, channels)");
  std::vector<UnifiedForm<S>> forms;
  for (Index r = 0; r < R; ++r)
    for (Index s = 0; s < R; ++s) {
      if (!recurrent && r != s) continue;  // the identity stands for R as a whole
      UnifiedForm<S> form;
      if (recurrent) {
        one("query", act.query, r, heads() * state());
        one("key", act.key, s, heads() * state());
        form.recurrence = recurrence(act, r, s);
        if (s == 0) form.initial_state = detail::carried(act.carried);
      } else {
        form.recurrence = identity_recurrence<S>(tokens, E);
      }
      if (terms.has(Term::gate)) {
        Matrix<S> gates = *act.z;
        if (R > 1) gates.array().rowwise() *= of_rank(weights_.mimo_z, r).matrix().row(0).array();
        gates = silu(gates);
        if (R > 1) gates.array().rowwise() *= of_rank(weights_.mimo_o, r).matrix().row(0).array();
        form.gate = std::move(gates);
      }
      if (terms.has(Term::normalization) && !norm_.empty()) {
        one("o", act.o, r, E);
        form.normalization = norm_.held_scale(norm_.statistics(*act.o[static_cast<std::size_t>(r)]));
      }
      if (terms.has(Term::activation) && R > 1) form.activation = Matrix<S>(of_rank(weights_.mimo_x, s).matrix().replicate(tokens, 1));
      if (r == s) form.skip = if_on(terms, Term::skip, skip_);
      forms.push_back(std::move(form));
    }
  UnifiedForm<S> sum = std::move(forms.front());
  sum.more.assign(std::make_move_iterator(forms.begin() + 1), std::make_move_iterator(forms.end()));
  return sum;
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
  Matrix<S> diagonal(recurrence.tokens, heads());  // the token itself has had its first half-step only
  for (Index head = 0; head < heads(); ++head)
    diagonal.col(head) = (*recurrence.query)
                             .middleCols(head * state(), state())
                             .cwiseProduct((*recurrence.key).middleCols(head * state(), state()))
                             .rowwise()
                             .sum()
                             .cwiseProduct(act.own_scale.matrix().col(head));
  recurrence.diagonal = std::move(diagonal);
  return recurrence;
}

template <Real S>
Array<S> Mamba3<S>::of_rank(const Array<Scalar>& array, Index r) const {
  Matrix<S> row(1, heads() * array.cols());
  for (Index head = 0; head < heads(); ++head) row.middleCols(head * array.cols(), array.cols()) = array.matrix().row(head * rank() + r);
  return row;
}

template <Real S>
Matrix<S> Mamba3<S>::carried(const State& initial, const Activations& act) const {
  const Index N = state(), P = channels() / heads();
  Matrix<S> state_before = initial.recurrent;
  for (Index s = 0; s < rank(); ++s) {
    const RowVector<S> x = rank() == 1 ? RowVector<S>(initial.x.row(0))
                                       : RowVector<S>(initial.x.row(0).cwiseProduct(of_rank(weights_.mimo_x, s).matrix().row(0)));
    for (Index head = 0; head < heads(); ++head)
      state_before.middleRows(head * N, N).noalias() += (act.dt(0, head) - act.own_scale(0, head)) *
                                                        initial.key.row(s).segment(head * N, N).transpose() * x.segment(head * P, P);
  }
  return state_before;
}

IMPLICIT_ATTENTION_NAMESPACE_END
