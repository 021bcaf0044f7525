// What the time mixings of RWKV-5, RWKV-6 and RWKV-7 share: states, low-rank maps, names, the group norm over heads, and the recurrence
// with a bonus of the first two.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/head_scales.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What one piece of a sequence hands to the next.
template <Real Scalar>
struct RwkvState {
  Matrix<Scalar> shifted;  ///< (1, D): the last input
  /// (heads * state, head channels): sums of keys times centred values. An engine's own state, of values as they are, serves as well: it is
  /// centred when it is read.
  Matrix<Scalar> state;
};

/// x -> up f(down x) + bias.
template <Real Scalar>
struct LowRankMap {
  Array<Scalar> down;  ///< (rank, inputs)
  Array<Scalar> up;    ///< (outputs, rank)
  Array<Scalar> bias;  ///< (outputs), or empty

  [[nodiscard]] bool empty() const { return down.empty(); }
};

template <Real S>
[[nodiscard]] Value<S> low_rank(const LowRankMap<S>& map, Function between, const Value<S>& x) {
  return linear(apply_function(between, linear(x, map.down)), map.up, map.bias);
}

namespace detail {

/// All numbers in one row, (1, rows * columns).
template <Real Scalar>
[[nodiscard]] Array<Scalar> one_row(const Array<Scalar>& array) {
  const Matrix<Scalar> numbers = *array;
  return Matrix<Scalar>(Eigen::Map<const Matrix<Scalar>>(numbers.data(), 1, numbers.size()));
}

/// The first of several names of one tensor that is there; the first of all, to be missed by name, where none is.
template <Real Scalar>
[[nodiscard]] std::string_view one_of(const PrefixedTensors<Scalar>& tensors, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names)
    if (tensors.has(name)) return name;
  return *names.begin();
}

/// Whether the projections have flash-linear-attention's names rather than the author's; by either, so that a lost one is named as missing.
template <Real Scalar>
[[nodiscard]] bool has_fla_names(const PrefixedTensors<Scalar>& tensors) {
  return tensors.has("r_proj.weight") || tensors.has("k_proj.weight");
}

/// The map called `name`: BlinkDL stores the factors of x w1 w2 and the bias w0; flash-linear-attention the transposes of the factors, as
/// weights of linear maps.
template <Real Scalar>
[[nodiscard, gnu::cold]] LowRankMap<Scalar> read_low_rank(const PrefixedTensors<Scalar>& tensors, const std::string& name, bool biased) {
  const std::string lora = name + "_lora.lora.";
  LowRankMap<Scalar> map;
  if (tensors.has(lora + "0.weight") || has_fla_names(tensors)) {
    map = {tensors.required(lora + "0.weight", 2), tensors.required(lora + "2.weight", 2), {}};
    if (biased) map.bias = tensors.required(lora + "2.bias");
  } else {
    map = {transposed(tensors.required(name + "1", 2)), transposed(tensors.required(name + "2", 2)), {}};
    if (biased) map.bias = tensors.required(name + "0");
  }
  return map;
}

template <Real Scalar>
void check_low_rank(std::string_view who, std::string_view name, const LowRankMap<Scalar>& map, Index inputs, Index outputs, bool biased) {
  const std::string of(name);
  if (map.empty() || map.up.empty()) raise(ErrorKind::shape, who, ": ", name, ": a factor of a low-rank map is empty");
  check_shape(who, of + ": the first factor", map.down, map.down.rows(), inputs, "(rank, inputs)");
  check_shape(who, of + ": the second factor", map.up, outputs, map.down.rows(), "(outputs, rank)");
  if (biased) check_vector(who, of + ": the bias", map.bias, outputs, "outputs");
}

/// A state that is carried in fits the layer.
template <Real Scalar>
void check_state(std::string_view who, const RwkvState<Scalar>& state, Index width, Index rows, Index columns) {
  check_vector(who, "state.shifted", state.shifted, width, "width");
  check_shape(who, "state.state", state.state, rows, columns, "(heads * state, channels / heads)");
}
/// The state that a form begins with, where there is one.
template <Real Scalar>
void check_initial_state(std::string_view who, const RwkvState<Scalar>& state, Index rows, Index columns) {
  check_initial<Scalar>(who, {{"shifted", &state.shifted}, {"state", &state.state, rows, columns, "(heads * state, channels / heads)"}});
}
template <Real Scalar>
[[nodiscard]] Array<Scalar> centred_state(const RwkvState<Scalar>& state) {
  return state.state.size() == 0 ? Array<Scalar>() : Array<Scalar>(centred<Scalar>(state.state, 1));
}

/// x, or where an engine has the values alone, those less their mean over each head.
template <Real Scalar>
[[nodiscard]] Array<Scalar> centred_input(std::string_view who, const Array<Scalar>& x, const Array<Scalar>& value, Index channels,
                                          Index heads) {
  if (!x.empty()) return x;
  check_activation(who, "value", value, value.rows(), channels, "(tokens, channels); x, which is empty, is made of it");
  return centred<Scalar>(*value, heads);
}

/// A recurrence with a query and a key of its own for every head; with `removal` and `probe` it is diagonal plus rank one.
template <Real Scalar>
[[nodiscard]] HeadRecurrence<Scalar> head_recurrence_of(const Array<Scalar>& query, const Array<Scalar>& key,
                                                        const Array<Scalar>& log_decay, Index heads, Index channels,
                                                        const Array<Scalar>& removal = {}, const Array<Scalar>& probe = {}) {
  HeadRecurrence<Scalar> made;
  made.tokens = query.rows();
  made.channels = channels;
  made.heads = made.groups = heads;
  made.state = query.cols() / heads;
  made.query = query;
  made.key = key;
  made.log_decay = log_decay;
  if (!removal.empty()) made.transition = Transition::rank_one;
  made.removal = removal;
  made.probe = probe;
  return made;
}

/// The norm of every head by itself.
template <Real Scalar>
[[nodiscard]] Norm<Scalar> group_norm(std::string_view who, const Array<Scalar>& weight, const Array<Scalar>& bias, Index channels,
                                      Index heads, double eps) {
  check_vector(who, "ln_x.weight", weight, channels, "channels");
  check_vector(who, "ln_x.bias", bias, channels, "channels");
  return Norm<Scalar>::layer(weight, bias, eps, heads);
}

/// The group norm around a recurrence whose output before it is `pre_norm`. A head's channels share the recurrence, so that subtracting
/// their mean commutes with it and stands in the linear input (formulation: "Group norm"); what is left is a scale and a bias.
template <Real Scalar>
void surround_with_group_norm(std::string_view who, const Norm<Scalar>& norm, const Array<Scalar>& pre_norm, Index tokens, Terms terms,
                              UnifiedForm<Scalar>& form) {
  if (terms.has(Term::normalization)) {
    check_activation(who, "pre_norm", pre_norm, tokens, norm.width(), "(tokens, channels)");
    form.normalization = norm.held_scale(norm.statistics(*pre_norm));
  }
  if (terms.has(Term::bias)) form.norm_bias = norm.bias();
}

}  // namespace detail

/// The recurrence of RWKV-5 and RWKV-6 (Peng et al. 2024, arXiv 2404.05892, eq. 17-20), behind their projections, for each of H heads of
/// size P, with E = H P:
///
///     S_t = diag(w_t) S_{t-1} + k_t x_t^T       o_t = (S_{t-1} + diag(f) k_t x_t^T)^T r_t       x = v less its mean over the head
///     y = silu(g) * (weight * o / sqrt(mean_P o^2 + eps) + bias), eps beside the variance of o; without g the gate is 1
template <Real S>
class BonusRecurrence {
 public:
  using Scalar = S;

  /// One sequence. An engine that has run the layer itself views its own buffers here.
  struct Activations {
    Array<Scalar> x;                   ///< (L, E): value less its mean over the head: the linear input
    Array<Scalar> value;               ///< (L, E)
    Array<Scalar> receptance;          ///< (L, E)
    Array<Scalar> key;                 ///< (L, E)
    Array<Scalar> log_decay;           ///< (L, E), RWKV-5: (L or 1, E or H): the logarithm of w
    Array<Scalar> bonus;               ///< (L, H): sum_n r f k; computed where it is empty
    Array<Scalar> gate_input;          ///< (L, E): g, before the SiLU; empty in a layer without a gate
    Array<Scalar> pre_norm;            ///< (L, E): o
    Array<Scalar> y;                   ///< (L, E): output before the output projection
    Array<Scalar> out;                 ///< (L, D)
    RwkvState<Scalar> initial;         ///< the state carried in; empty matrices if none
    RwkvState<Scalar> final;           ///< the state after the last token
    MadeFrom<Scalar> bonus_from = {};  ///< what run() made bonus from; it is made again where that is another
  };
  /// The linear input and the output, within a trace.
  struct Run {
    Value<Scalar> x, y;
  };

  BonusRecurrence() = default;
  /// `bonus` (1, E) or (H, P): f; `weight`, `bias` (E) of the group norm. Fails (ErrorKind::shape) naming the tensor. `who`: for messages.
  BonusRecurrence(std::string_view who, Index heads, const Array<Scalar>& bonus, const Array<Scalar>& weight, const Array<Scalar>& bias,
                  double eps)
      : who_(who), heads_(heads), bonus_(detail::one_row(bonus)) {
    check_divides(who, channels(), "numbers of the bonus", heads, "heads");
    norm_ = detail::group_norm(who, weight, bias, channels(), heads, eps);
  }

  [[nodiscard]] Index heads() const { return heads_; }
  [[nodiscard]] Index channels() const { return bonus_.size(); }
  [[nodiscard]] Index head_size() const { return channels() / heads_; }

  /// The linear input: x, or where it is empty `value` less its mean over the head. An engine has v alone.
  [[nodiscard]] Array<Scalar> linear_input(const Activations& act) const {
    return detail::centred_input(who_, act.x, act.value, channels(), heads_);
  }

  /// Takes a state over into `act`, or leaves it empty.
  void begin(const RwkvState<Scalar>* initial, Index width, Activations& act) const {
    if (initial == nullptr) return;
    detail::check_state(who_, *initial, width, channels(), head_size());
    act.initial = *initial;
  }

  /// Runs it on values of one trace; all but y's projection is written to `act`.
  [[nodiscard]] Run run(const Value<Scalar>& receptance, const Value<Scalar>& key, const Value<Scalar>& value,
                        const Value<Scalar>& log_decay, const Value<Scalar>& gate_input, Activations& act) const {
    const Value<Scalar> x = centre(value, heads_), diagonal = head_dot(receptance, times_row(key, bonus_), heads_);
    act.x = x.numbers;
    act.value = value.numbers;
    act.receptance = receptance.numbers;
    act.key = key.numbers;
    act.log_decay = log_decay.numbers;
    act.bonus = diagonal.numbers;
    act.bonus_from = {act.bonus, {{"receptance", &act.receptance}, {"key", &act.key}}};
    act.gate_input = gate_input.numbers;
    const Value<Scalar> o = head_recurrence<Scalar>(recurrence(act), {receptance, key, {}, log_decay, {}, {}, diagonal}, x,
                                                    detail::centred_state(act.initial), &act.final.state);
    act.pre_norm = o.numbers;
    Value<Scalar> y = normalize(norm_, o);
    if (!gate_input.empty()) y = gate(silu(gate_input), y);
    act.y = y.numbers;
    return {x, y};
  }

  /// The unified form: gate, normalization, recurrence (with the bonus on the diagonal) and bias. `gated`: the layer has a gate.
  /// `decays_of_data`: a layer's constant, as HeadMixer has it; where true (RWKV-6), log_decay is (L, E).
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, bool gated, Terms terms, bool decays_of_data = false) const {
    UnifiedForm<Scalar> form;
    const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.receptance},
                                                           {Term::recurrence, &act.key},
                                                           {Term::normalization, &act.pre_norm},
                                                           {Term::gate, &act.gate_input},
                                                           {Term::recurrence, &act.value},
                                                           {Term::recurrence, &act.x}});
    const auto check = [&](const char* name, const Array<Scalar>& array) {
      detail::check_activation(who_, name, array, tokens, channels(), "(tokens, channels)");
    };
    if (gated && terms.has(Term::gate)) {
      check("gate_input", act.gate_input);
      form.gate = silu(act.gate_input.matrix());
    }
    detail::surround_with_group_norm(who_, norm_, act.pre_norm, tokens, terms, form);
    if (!terms.has(Term::recurrence)) {
      form.recurrence = identity_recurrence<Scalar>(tokens, channels());
      return form;
    }
    check("receptance", act.receptance);
    check("key", act.key);
    detail::check_log_decay(who_, act.log_decay, tokens, heads_, channels(), decays_of_data);
    if (!act.bonus.empty()) detail::check_activation(who_, "bonus", act.bonus, tokens, heads_, "(tokens, heads)");
    detail::check_initial_state(who_, act.initial, channels(), channels() / heads_);
    form.recurrence = recurrence(act);
    form.initial_state = detail::centred_state(act.initial);
    return form;
  }

 private:
  [[nodiscard]] HeadRecurrence<Scalar> recurrence(const Activations& act) const {
    HeadRecurrence<Scalar> made = detail::head_recurrence_of(act.receptance, act.key, act.log_decay, heads_, channels());
    made.read_before_update = true;
    made.diagonal = act.bonus;
    if (act.bonus.empty() || act.bonus_from.stale(act.bonus, {{"receptance", &act.receptance}, {"key", &act.key}})) {
      Trace<Scalar> trace;
      made.diagonal = head_dot(trace.constant(act.receptance), times_row(trace.constant(act.key), bonus_), heads_).numbers;
    }
    return made;
  }

  std::string who_;
  Index heads_ = 1;
  Array<Scalar> bonus_;  // (1, E)
  Norm<Scalar> norm_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
