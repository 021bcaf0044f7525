// The cell of mLSTM (Beck et al. 2024, arXiv 2405.04517) and the norm behind it: what its two layers share.
#pragma once

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/clamp.hpp>
#include <implicit_attention/trace/exponential_gates.hpp>
#include <implicit_attention/trace/row_normalizers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What one piece of a sequence hands to the next. The recurrent state is held as exp(-maximum) times itself.
template <Real S>
struct MlstmCellState {
  Matrix<S> recurrent;   ///< (H K, P)
  Matrix<S> normalizer;  ///< (H K, 1): the same recurrence on ones
  Matrix<S> maximum;     ///< (1, H): m
};

/// What the implicit attention of a cell needs.
template <Real S>
struct MlstmCellActivations {
  Array<S> query;                    ///< (L, H K)
  Array<S> key;                      ///< (L, H K), scaled by K^-1/2
  Array<S> log_decay;                ///< (L, H): log f_t + m_{t-1} - m_t
  Array<S> write;                    ///< (L, H): exp(input gate - m_t)
  Array<S> maximum;                  ///< (L, H): m, the largest exponent of each row of R, which R is divided by exponentially
  Array<S> normalizer;               ///< (L, H): 1 / (max(|sum_j R|, exp(-m)) + eps)
  Array<S> cell_output;              ///< (L, E): normalizer (R x), x centred: before the norm
  MadeFrom<S> normalizer_from = {};  ///< what run() made normalizer from
};

/// With H heads of K keys and P values, and x the values less their mean over each head:
///
///     R[i,j] = q_i . k_j K^-1/2 exp( input_j + sum_{t=j+1..i} log f_t - m_i )      m_i = the largest exponent of row i
///     normalization = w / sqrt(mean_h(c^2) + norm_eps) / (max(|sum_j R|, exp(-m)) + eps),    c = the normalised rows times x
///
/// Centring the values instead of what R gives is exact, since R is the head's own (formulation: "Group norm with a mean").
template <Real S>
struct MlstmCell {
  Index heads = 1, state = 1, channels = 1;
  S eps = S(1e-6);
  Norm<S> norm;        ///< RMS over each head of the centred numbers
  Array<S> norm_bias;  ///< (E), may be absent

  void check_state(std::string_view who, const MlstmCellState<S>& initial) const {
    check_shape(who, "state.recurrent", initial.recurrent, heads * state, channels / heads, "(heads * state, channels / heads)");
    check_shape(who, "state.normalizer", initial.normalizer, heads * state, 1, "(heads * state, 1)");
    check_shape(who, "state.maximum", initial.maximum, 1, heads, "(1, heads)");
  }

  /// The normalised cell output (L, E), the norm's bias added. q, k (L, H K); x (L, E), centred; gates (L, H). `gate_bias` (1, H), or
  /// empty, is a constant part of the input gate that `input_gate` is without: it moves m alone, so that a large one costs no digits.
  [[nodiscard]] Value<S> run(const Value<S>& query, const Value<S>& key, const Value<S>& x, const Value<S>& input_gate,
                             const Value<S>& log_forget, const Array<S>& gate_bias, MlstmCellActivations<S>& act,
                             const MlstmCellState<S>& initial, MlstmCellState<S>& final) const {
    Matrix<S> before = initial.maximum;
    if (before.size() != 0 && !gate_bias.empty()) before -= gate_bias.matrix();
    ExponentialGates<S> gates = exponential_gates(input_gate, log_forget, detail::carried(before));
    if (!gate_bias.empty()) gates.maximum = plus_row(gates.maximum, gate_bias);
    HeadInputs<S> inputs;
    inputs.query = query;
    inputs.key = times(key, S(1) / std::sqrt(static_cast<S>(state)));
    inputs.key_scale = gates.write;
    inputs.log_decay = gates.log_decay;
    act.query = query.numbers;
    act.key = inputs.key.numbers;
    act.log_decay = gates.log_decay.numbers;
    act.write = gates.write.numbers;
    act.maximum = gates.maximum.numbers;
    final.maximum = act.maximum.matrix().bottomRows(1);
    const Value<S> o = head_recurrence(recurrence(act), inputs, x, detail::carried(initial.recurrent), &final.recurrent);
    const Value<S> sums = row_sums(recurrence(act), inputs, detail::carried(initial.normalizer), &final.normalizer);
    // Bounded where exp(-m) would be infinite: its reciprocal is below the smallest normal number either way, and the gradient must not be
    // 0 times infinity.
    const S largest = std::log(std::numeric_limits<S>::max()) - S(1);
    const Value<S> floor = apply_function(Function::exp, clamp(times(gates.maximum, S(-1)), -std::numeric_limits<S>::infinity(), largest));
    const Value<S> normalizer = reciprocal(magnitude_at_least(sums, floor), eps);
    act.normalizer = normalizer.numbers;
    const Value<S> cell = scale(spread_heads(normalizer, channels / heads), o);
    act.cell_output = cell.numbers;
    act.normalizer_from = {act.normalizer,
                           {{"query", &act.query}, {"key", &act.key}, {"log_decay", &act.log_decay}, {"write", &act.write}},
                           initial.normalizer};
    const Value<S> normed = normalize(norm, cell);
    return norm_bias.empty() ? normed : plus_row(normed, norm_bias);
  }

  /// The number of tokens that the cell's activations and `others`, those of the layer, are of.
  [[nodiscard]] static Index tokens(const MlstmCellActivations<S>& act, Terms terms, const std::vector<detail::ReadArray<S>>& others) {
    std::vector<detail::ReadArray<S>> arrays = {{Term::recurrence, &act.query},         {Term::recurrence, &act.key},
                                                {Term::recurrence, &act.log_decay},     {Term::recurrence, &act.write},
                                                {Term::normalization, &act.normalizer}, {Term::normalization, &act.cell_output}};
    arrays.insert(arrays.end(), others.begin(), others.end());
    return detail::tokens_of<S>(terms, arrays);
  }

  /// Fails unless the parts of a carried-in state that the form reads are all present, or every part is absent. The cell's parts are added
  /// to `parts`, those of the layer.
  void check_initial(std::string_view who, const MlstmCellState<S>& initial, Terms terms,
                     std::vector<detail::StatePart<S>> parts = {}) const {
    parts.push_back({"recurrent", &initial.recurrent, terms.has(Term::recurrence) ? heads * state : 0, channels / heads,
                     "(heads * state, channels / heads)"});
    parts.push_back({"normalizer", &initial.normalizer});
    parts.push_back({"maximum", &initial.maximum});
    detail::check_initial<S>(who, parts);
  }

  /// Recurrence, normalization and norm bias of the form, as far as they are on.
  void lower(std::string_view who, const MlstmCellActivations<S>& act, Index tokens, const MlstmCellState<S>& initial, Terms terms,
             UnifiedForm<S>& form) const {
    const auto check = [&](const char* name, const Array<S>& array, Index columns, const char* meaning) {
      detail::check_activation(who, name, array, tokens, columns, meaning);
    };
    if (terms.has(Term::recurrence)) {
      check("query", act.query, heads * state, "(tokens, heads * state)");
      check("key", act.key, heads * state, "(tokens, heads * state)");
      check("log_decay", act.log_decay, heads, "(tokens, heads)");
      check("write", act.write, heads, "(tokens, heads)");
      form.recurrence = recurrence(act);
      form.initial_state = detail::carried(initial.recurrent);
    } else {
      form.recurrence = identity_recurrence<S>(tokens, channels);
    }
    if (terms.has(Term::normalization)) {
      check("normalizer", act.normalizer, heads, "(tokens, heads)");
      check("cell_output", act.cell_output, channels, "(tokens, channels)");
      act.normalizer_from.check(who, "normalizer", act.normalizer,
                                {{"query", &act.query}, {"key", &act.key}, {"log_decay", &act.log_decay}, {"write", &act.write}},
                                initial.normalizer, "initial.normalizer");
      Matrix<S> scale = norm.held_scale(norm.statistics(*act.cell_output));
      scale.array() *= spread_columns<S>(*act.normalizer, channels / heads).array();
      form.normalization = std::move(scale);
    }
    form.norm_bias = if_on(terms, Term::bias, norm_bias);
  }

  [[nodiscard]] HeadRecurrence<S> recurrence(const MlstmCellActivations<S>& act) const {
    HeadRecurrence<S> recurrence;
    recurrence.tokens = act.query.rows();
    recurrence.channels = channels;
    recurrence.heads = recurrence.groups = heads;
    recurrence.state = state;
    recurrence.query = act.query;
    recurrence.key = act.key;
    recurrence.key_scale = act.write;
    recurrence.log_decay = act.log_decay;
    return recurrence;
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
