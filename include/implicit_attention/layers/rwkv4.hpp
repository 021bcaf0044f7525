// RWKV-4's time mixing (Peng et al. 2023, arXiv 2305.13048, eq. 11-16), its implicit attention in logarithms, for keys of any size.
#pragma once

#include <limits>
#include <utility>
#include <vector>

#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D and E channels:
///
///     mix_m(u)_t = m u_t + (1 - m) u_{t-1}       k, v, r = mix(u) through key, value, receptance     w = exp(time_decay)   f = time_first
///     p[i,j] = exp(k_j - (i-1-j) w) for j < i,   p[i,i] = exp(k_i + f)                               x = v
///     y_i = sigmoid(r_i) sum_j p[i,j] v_j / sum_j p[i,j]                                             out = y output^T
///
/// Sizes are read off the weights; the attention width E may differ from D. Weights are owned or viewed, named as in public checkpoints.
template <Real S>
class Rwkv4 : public LayerInterface<Rwkv4<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Rwkv4";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights {
    Array<Scalar> time_decay;           ///< (E), before the exponential
    Array<Scalar> time_first;           ///< (E)
    Array<Scalar> time_mix_key;         ///< (D)
    Array<Scalar> time_mix_value;       ///< (D)
    Array<Scalar> time_mix_receptance;  ///< (D)
    Array<Scalar> key_weight;           ///< (E, D)
    Array<Scalar> value_weight;         ///< (E, D)
    Array<Scalar> receptance_weight;    ///< (E, D)
    Array<Scalar> output_weight;        ///< (D, E)
  };

  /// What one piece of a sequence hands to the next: sums of exp(key - exponent) and of its products with the values.
  struct State {
    Matrix<Scalar> shifted;      ///< (1, D): the last input
    Matrix<Scalar> numerator;    ///< (1, E)
    Matrix<Scalar> denominator;  ///< (1, E)
    Matrix<Scalar> exponent;     ///< (1, E): what both sums are scaled by, exp(-exponent)
  };

  /// The recurrence with every exponential scaled to at most 1. With o_t = max(o_{t-1} - w, k_t), the state is kept times exp(-o_t).
  struct Weighting {
    Array<Scalar> exponent;                            ///< (L, E): o_{t-1}, what the state that token t reads is scaled by
    Array<Scalar> step;                                ///< (L, E): o_{t-1} - w - o_t, the log decay of the scaled state
    Array<Scalar> key_scale;                           ///< (L, E): exp(k_t - o_t)
    Array<Scalar> query_scale;                         ///< (L, E): weight of the scaled state in the normalised output
    Array<Scalar> diagonal;                            ///< (L, E): weight of the token itself, norm_i p[i,i]
    std::vector<Index> starts;                         ///< where documents begin in them, ascending; empty: it is one text
    Matrix<Scalar> final_denominator, final_exponent;  ///< (1, E)
    MadeFrom<Scalar> made_from = {};                   ///< the keys and the state that weighting() made exponent from
  };

  /// One sequence through the layer. An engine that has run the layer itself views its receptance, key and value (as x) here.
  struct Activations {
    Array<Scalar> x;           ///< (L, E): value, the linear input
    Array<Scalar> key;         ///< (L, E)
    Array<Scalar> receptance;  ///< (L, E): before the sigmoid
    Weighting weighting;  ///< recomputed where it is empty, or was made from other keys or another state; a host's own is taken as it is
    Array<Scalar> y;      ///< (L, E): output before the output projection
    Array<Scalar> out;    ///< (L, D)
    State initial;        ///< the state carried in; empty matrices if none
    State final;          ///< the state after the last token
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Rwkv4(Weights weights);

  /// Reads the weights below a prefix such as `rwkv.blocks.0.attention.` or `blocks.0.att.`, under their public names.
  [[nodiscard]] static Rwkv4 from_tensors(const PrefixedTensors<Scalar>& tensors);

  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  /// w = exp(time_decay), (1, E).
  [[nodiscard]] const RowVector<Scalar>& decay() const { return decay_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<Rwkv4> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// What the named sets of terms have besides: both are divided by the denominator, as in arXiv 2405.16504 and its code. A list,
  /// `Terms(Term::recurrence)`, gives the undivided p; see `lower` for its scale.
  static constexpr Terms named_sets_have = Term::normalization;

  /// The unified form (formulation: RWKV-4). Needs receptance and key. With the normalization off, R is p times
  /// exp(-unnormalised_log_scale), one constant per channel: an arbitrary scale, so that sizes compare within a channel only.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// With the normalization off, the log of what p is divided by, (1, E): the channel's largest exponent, so that entries are at most 1.
  [[nodiscard]] RowVector<Scalar> unnormalised_log_scale(const Activations& act) const;

  /// Scales all exponentials of a sequence of keys (L, E) to at most 1, and normalises; `starts` as in Weighting.
  [[nodiscard]] Weighting weighting(const Array<Scalar>& keys, const State& initial, const std::vector<Index>& starts = {}) const;

  /// The weight (D, E) and bias (none) of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.output_weight; }
  [[nodiscard]] Array<Scalar> output_bias() const { return {}; }

 private:
  /// That of the activations where it holds for them, else `made`, from their keys.
  [[nodiscard]] const Weighting& weighting_of(const Activations& act, Weighting& made) const;
  /// What of a carried-in state the weighting is made of: denominator and exponent, (2, E), empty where none was carried in.
  [[nodiscard]] static Matrix<Scalar> scaled_by(const State& initial);

  [[nodiscard]] DiagonalRecurrence<Scalar> normalised_recurrence(const Weighting& scaled) const;

  [[nodiscard]] RowVector<Scalar> unnormalised_log_scale(const Activations& act, const Weighting& scaled) const;

  Weights weights_;
  RowVector<Scalar> decay_;
  Index width_ = 0, channels_ = 0;
};

template <Real S>
Rwkv4<S>::Rwkv4(Weights weights) : weights_(std::move(weights)) {
  const Weights& w = weights_;
  channels_ = w.time_decay.size();
  width_ = w.key_weight.cols();
  if (channels_ == 0) detail::raise_shape(layer_name, "time_decay", "is empty, expected (channels)");
  check_vector("Rwkv4", "time_decay", w.time_decay, channels_, "channels");
  check_vector("Rwkv4", "time_first", w.time_first, channels_, "channels");
  const auto check_mix = [&](const char* name, const Array<Scalar>& mix) { check_vector("Rwkv4", name, mix, width_, "width"); };
  check_mix("time_mix_key", w.time_mix_key);
  check_mix("time_mix_value", w.time_mix_value);
  check_mix("time_mix_receptance", w.time_mix_receptance);
  check_shape("Rwkv4", "key.weight", w.key_weight, channels_, width_, "(channels, width)");
  check_shape("Rwkv4", "value.weight", w.value_weight, channels_, width_, "(channels, width)");
  check_shape("Rwkv4", "receptance.weight", w.receptance_weight, channels_, width_, "(channels, width)");
  check_shape("Rwkv4", "output.weight", w.output_weight, width_, channels_, "(width, channels)");
  // A decay of exp(-1e30) per token is 0 already, and finite rates keep sums of them finite.
  decay_ = w.time_decay.matrix().array().exp().min(Scalar(1e30)).matrix().row(0);
}

template <Real S>
Rwkv4<S> Rwkv4<S>::from_tensors(const PrefixedTensors<Scalar>& tensors) {
  const auto vector = [&](const char* name) {
    const Array<Scalar> numbers = tensors.required(name);
    if (numbers.rows() != 1)
      detail::raise(ErrorKind::shape, tensors.source().where(), ": tensor ", tensors.name_in_file(name), " is ",
                    shape_text(*tensors.source().shape(tensors.prefix() + name)), ", expected one row of numbers");
    return numbers;
  };
  Weights w;
  w.time_decay = vector("time_decay");
  w.time_first = vector("time_first");
  w.time_mix_key = vector(tensors.has("time_mix_k") ? "time_mix_k" : "time_mix_key");
  w.time_mix_value = vector(tensors.has("time_mix_v") ? "time_mix_v" : "time_mix_value");
  w.time_mix_receptance = vector(tensors.has("time_mix_r") ? "time_mix_r" : "time_mix_receptance");
  w.key_weight = tensors.required("key.weight", 2);
  w.value_weight = tensors.required("value.weight", 2);
  w.receptance_weight = tensors.required("receptance.weight", 2);
  w.output_weight = tensors.required("output.weight", 2);
  return Rwkv4(std::move(w));
}

template <Real S>
LayerRun<Rwkv4<S>> Rwkv4<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  Activations act;
  if (initial) {
    check_vector("Rwkv4", "state.shifted", initial->shifted, width_, "width");
    check_vector("Rwkv4", "state.numerator", initial->numerator, channels_, "channels");
    check_vector("Rwkv4", "state.denominator", initial->denominator, channels_, "channels");
    check_vector("Rwkv4", "state.exponent", initial->exponent, channels_, "channels");
    act.initial = *initial;
  }
  const Weights& w = weights_;
  const Value<Scalar> before = token_shift(u, detail::carried(act.initial.shifted));
  const Value<Scalar> key = linear(token_mix(u, before, w.time_mix_key), w.key_weight);
  const Value<Scalar> x = linear(token_mix(u, before, w.time_mix_value), w.value_weight);
  const Value<Scalar> receptance = linear(token_mix(u, before, w.time_mix_receptance), w.receptance_weight);
  act.key = key.numbers;
  act.x = x.numbers;
  act.receptance = receptance.numbers;
  act.weighting = weighting(act.key, act.initial, u.trace->starts());
  // y = sigmoid(r) P x, P normalised
  const ImplicitAttention<Scalar> weights(lower(act, Terms(Term::recurrence) | Term::normalization));
  const Value<Scalar> y = exponential_average(weights, key, receptance, x, &act.final.numerator);
  act.final.denominator = act.weighting.final_denominator;
  act.final.exponent = act.weighting.final_exponent;
  act.final.shifted = (*u).bottomRows(1);
  const Value<Scalar> out = linear(y, w.output_weight);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
RowVector<S> Rwkv4<S>::unnormalised_log_scale(const Activations& act) const {
  Weighting made;
  return unnormalised_log_scale(act, weighting_of(act, made));
}

template <Real S>
typename Rwkv4<S>::Weighting Rwkv4<S>::weighting(const Array<Scalar>& keys, const State& initial, const std::vector<Index>& starts) const {
  const Index tokens = keys.rows();
  const auto activation = [&] { return large_matrix<Scalar>(tokens, channels_, "an activation"); };
  Matrix<Scalar> exponent = activation(), step = activation(), key_scale = activation(), query_scale = activation(),
                 diagonal = activation();
  constexpr Scalar nothing = Scalar(-1e30);  // the exponent of an empty state: its weight is zero
  Eigen::Array<Scalar, 7, Eigen::Dynamic, Eigen::RowMajor> rows(7, channels_);
  auto o = rows.row(0), denominator = rows.row(1), key = rows.row(2), own = rows.row(3), state = rows.row(4), next = rows.row(5),
       power = rows.row(6);
  o.setConstant(nothing);
  denominator.setZero();
  if (initial.denominator.size() != 0) {
    denominator = initial.denominator.row(0).array();
    o = (denominator > Scalar(0)).select(initial.exponent.row(0).array(), nothing);
  }
  const auto first = weights_.time_first.matrix().row(0).array();
  const auto decay = decay_.array();
  auto start = starts.begin();
  for (Index token = 0; token < tokens; ++token) {
    if (start != starts.end() && *start == token) {
      o.setConstant(nothing);
      denominator.setZero();
      ++start;
    }
    key = keys.matrix().row(token).array();
    next = o.max(key + first);
    own = (key + first) - next;
    state = o - next;
    // One of the two is 0, so that one exponential serves both: exp(x) >= 1 + x, which is 1 at 0. A NaN in either is in the sum.
    power = (own + state).exp();
    own = power.max(own + Scalar(1));
    state = power.max(state + Scalar(1));
    next = denominator * state + own;
    exponent.row(token) = o;
    diagonal.row(token) = own / next;
    query_scale.row(token) = state / next;
    next = (o - decay).max(key);
    // Before anything is in the state its decay means nothing: zero keeps sums of steps exact.
    step.row(token) = (o <= nothing).select(Scalar(0), (o - next) - decay);
    key_scale.row(token) = (key - next).exp();
    denominator = denominator * step.row(token).array().exp() + key_scale.row(token).array();
    o = next;
  }
  Weighting result;
  result.starts = starts;
  result.exponent = std::move(exponent);
  result.made_from = {result.exponent, {{"key", &keys}}, scaled_by(initial)};
  result.step = std::move(step);
  result.key_scale = std::move(key_scale);
  result.query_scale = std::move(query_scale);
  result.diagonal = std::move(diagonal);
  result.final_denominator = denominator.matrix();
  result.final_exponent = o.matrix();
  return result;
}

template <Real S>
DiagonalRecurrence<S> Rwkv4<S>::normalised_recurrence(const Weighting& scaled) const {
  DiagonalRecurrence<Scalar> recurrence;
  recurrence.tokens = scaled.step.rows();
  recurrence.channels = channels_;
  recurrence.step = scaled.step;
  recurrence.key_scale = scaled.key_scale;
  recurrence.query_scale = scaled.query_scale;
  recurrence.read_before_update = true;
  recurrence.diagonal = scaled.diagonal;
  recurrence.starts = scaled.starts;
  return recurrence;
}

template <Real S>
RowVector<S> Rwkv4<S>::unnormalised_log_scale(const Activations& act, const Weighting& scaled) const {
  // Of the finite ones: the scale is every row's, and rows before a NaN or an infinity stay what they are.
  const auto largest = [](const Array<Scalar>& numbers) -> RowVector<Scalar> {
    constexpr Scalar lowest = std::numeric_limits<Scalar>::lowest();
    return numbers.matrix().array().isFinite().select(numbers.matrix().array(), lowest).colwise().maxCoeff().matrix();
  };
  return (largest(act.key) + weights_.time_first.matrix().row(0)).cwiseMax(largest(scaled.exponent));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/rwkv4_form.hpp>
