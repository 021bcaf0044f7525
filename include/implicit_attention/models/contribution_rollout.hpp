// Attribution by vectors, without a gradient: what each token adds to each output of a layer, after the output projection, followed through
// the layers. Contribution rollout multiplies maps of the vectors' norms; ALTI-Logit (Ferrando et al. 2023, arXiv 2305.12535) those of how
// much nearer each vector brings an output to what it is, and shares out the logit's direct parts by them. Both are exact here: the
// contributions are those of the implicit attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <vector>

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/models/language_model.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The contributions of the tokens to one layer's residual stream behind its token mixers:
///
///     o_i = r_i + sum_j v_ij + what no token adds,      v_ij = s_i o W_o (A[i,j] o x_j)
///
/// with s the scales between the projection and the residual stream (a norm's, held), and second paths and parallel mixers summed.
template <Real S>
class LayerContributions {
 public:
  /// Of a layer that mixes tokens, and of a pass of it. Fails (ErrorKind::value) where a mixer's projection is not known, where its output
  /// goes through a norm that subtracts a mean, and where mixers follow each other within the layer.
  LayerContributions(const LanguageModel<S>& model, const LayerPass<S>& pass, Index layer, Terms terms = Terms::all())
      : before_(pass.residual), after_(pass.middle) {
    const auto refuse = [&](const char* what) {
      raise(ErrorKind::value, message("contributions: layer ", layer, " of ", model.name(), " ", what));
    };
    const Block<S>& block = model.block(layer);
    const auto mixing = [](const Sublayer<S>& sublayer) {
      return std::any_of(sublayer.branches.begin(), sublayer.branches.end(), [](const Branch<S>& b) { return b.part->channels() != 0; });
    };
    for (std::size_t index = 0; index < block.sublayers.size(); ++index)
      if (mixing(block.sublayers[index]) != (index == 0)) refuse("has its token mixers elsewhere than in its first sublayer");
    const Sublayer<S>& sublayer = block.sublayers.front();
    Matrix<S> sum = Matrix<S>::Zero(before_.rows(), before_.cols());
    std::size_t next = 0;
    for (const Branch<S>& branch : sublayer.branches) {
      if (branch.part->channels() == 0) {
        if (!sublayer.norm_after.empty()) refuse("has a norm behind a token mixer and a feed-forward part together");
        continue;
      }
      const MixerRun<S>& mixer = pass.mixer(static_cast<Index>(next++));
      if (mixer.projection.empty()) refuse("does not tell its output projection");
      sum += branch.output_scale * *mixer.out;
      const ImplicitAttention<S> attention = mixer.attention(terms);
      const S scale = branch.output_scale * sublayer.residual_scale;
      mixers_.push_back({attention, mixer.x.numbers, mixer.projection, scale});
    }
    if (sublayer.norm_after.empty()) return;
    if (sublayer.norm_after.centred()) refuse("has a norm that subtracts a mean behind its token mixer");
    held_ = sublayer.norm_after.held_scale(sublayer.norm_after.statistics(sum));
  }

  [[nodiscard]] Index tokens() const { return before_.rows(); }

  /// v_ij of every token j <= i, (i + 1, D); with `residual`, r_i is added to token i's own.
  [[nodiscard]] Matrix<S> vectors(Index i, bool residual) const {
    Matrix<S> all = Matrix<S>::Zero(i + 1, before_.cols());
    for (const Mixer& mixer : mixers_) all += mixer.scale * detail::contributions_row(mixer.attention, mixer.x, mixer.projection, i);
    if (held_.size() != 0) all.array().rowwise() *= held_.row(i).array();
    if (residual) all.row(i) += before_.matrix().row(i);
    return all;
  }

  /// How row i is mixed: shares of the tokens j <= i, (1, i + 1), not negative, with sum 1.
  ///   - by norm: |v_ij|_2, the residual with token i's own;
  ///   - by proximity (ALTI): (|o_i|_1 - |o_i - v_ij|_1)^+.
  /// Where all are zero the token keeps itself.
  [[nodiscard]] RowVector<S> shares(Index i, bool by_proximity) const {
    const Matrix<S> v = vectors(i, true);
    RowVector<S> shares(i + 1);
    const RowVector<S> o = after_.matrix().row(i);
    const S length = o.template lpNorm<1>();
    for (Index j = 0; j <= i; ++j) {
      const S share = by_proximity ? length - (o - v.row(j)).template lpNorm<1>() : v.row(j).norm();
      shares[j] = share < S(0) ? S(0) : share;  // a NaN stays
    }
    const S sum = shares.sum();
    if (sum == S(0)) {
      shares.setZero();
      shares[i] = S(1);
      return shares;
    }
    return shares / sum;
  }

 private:
  struct Mixer {
    ImplicitAttention<S> attention;
    Array<S> x, projection;
    S scale;
  };
  std::vector<Mixer> mixers_;
  Array<S> before_, after_;
  Matrix<S> held_;
};

namespace detail {

/// weights (1, position + 1) through a layer's mixing: sum_i weights_i P[i, .].
template <Real S>
[[nodiscard]] RowVector<S> mixed_back(const LayerContributions<S>& layer, const RowVector<S>& weights, bool by_proximity,
                                      const Executor& executor) {
  Matrix<S> rows = Matrix<S>::Zero(weights.size(), weights.size());
  executor(weights.size(), [&](Index i) {
    if (weights[i] != S(0)) rows.row(i).head(i + 1) = weights[i] * layer.shares(i, by_proximity);
  });
  return rows.colwise().sum();
}

template <Real S>
[[nodiscard]] Attribution<S> scores_up_to(std::string_view who, const RowVector<S>& row, Index position, Index tokens) {
  Attribution<S> result;
  result.position = position;
  result.scores = RowVector<S>::Zero(tokens);
  result.scores.head(position + 1) = row;
  check_finite(who, "the result", result.scores);
  return result;
}

/// What the layers of a pass that mix tokens are made of, from the last to the first.
template <Real S, class Visit>
void each_mixing_layer(const LanguageModel<S>& model, const ForwardPass<S>& pass, Terms terms, const Executor& executor,
                       const Visit& visit) {
  if (!model.causal()) raise(ErrorKind::value, message("contributions: ", model.name(), " is not causal"));
  const std::vector<Index> layers = model.mixing_layers();
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer)
    visit(LayerContributions<S>(model, model.layer_pass(pass, *layer, executor, false), *layer, terms));
}

}  // namespace detail

/// Contribution rollout: row `position` of P_last ... P_0, P the shares by norm; not negative, sum 1. For pictures without a target. Time
/// tokens^2 * channels * width a layer.
template <Real S>
[[nodiscard]] Attribution<S> contribution_rollout(const LanguageModel<S>& model, const ForwardPass<S>& pass, Index position,
                                                  Terms terms = Terms::all(), const Executor& executor = serial_executor()) {
  detail::check_position("contribution rollout", position, pass.tokens());
  RowVector<S> row = RowVector<S>::Unit(position + 1, position);
  detail::each_mixing_layer(model, pass, terms, executor,
                            [&](const LayerContributions<S>& layer) { row = detail::mixed_back(layer, row, false, executor); });
  return detail::scores_up_to("contribution rollout", row, position, pass.tokens());
}

/// ALTI-Logit: sum over layers l of c_l P_{l-1} ... P_0, c_l[j] = w . v_pj the direct part of the logit that token j's vector is, and
/// w . r_0[p] at p itself; P the shares by proximity, w the direction of the logit (token less contrast) through the final norm and the
/// soft cap, whose scales are held. Needs the position's logits. Signed. What feed-forward parts add directly is not shared out. Time as for contribution_rollout.
template <Real S>
[[nodiscard]] Attribution<S> alti_logit(const LanguageModel<S>& model, const ForwardPass<S>& pass, Index position, Index token,
                                        std::optional<Index> contrast = std::nullopt, Terms terms = Terms::all(),
                                        const Executor& executor = serial_executor()) {
  detail::check_position("ALTI-Logit", position, pass.tokens());
  const LanguageModelParts<S>& parts = model.parts();
  const ConstView<S> logits = pass.logits_at(position);
  RowVector<S> w = RowVector<S>::Zero(model.width());
  const auto add = [&](const char* what, Index id, S amount) {
    check_index(id, model.vocabulary(), "ALTI-Logit: ", what, " token");
    if (parts.soft_cap > S(0) && logits(0, id) != S(0))  // cap tanh(l / cap) = scale l
      amount *= logits(0, id) / (parts.soft_cap * std::atanh(logits(0, id) / parts.soft_cap));
    w += amount * detail::row_of(parts.head, id);
  };
  add("target", token, S(1));
  if (contrast) add("contrast", *contrast, S(-1));
  const ConstView<S> last(pass.final_residual.row(position), 1, model.width());
  w.array() *= parts.logit_scale * parts.final_norm.held_scale(parts.final_norm.statistics(last)).row(0).array();
  if (parts.final_norm.centred()) w.array() -= w.mean();

  RowVector<S> row = RowVector<S>::Zero(position + 1);
  detail::each_mixing_layer(model, pass, terms, executor, [&](const LayerContributions<S>& layer) {
    if (!row.isZero(0)) row = detail::mixed_back(layer, row, true, executor);
    row += (layer.vectors(position, false) * w.transpose()).transpose();
  });
  Trace<S> trace(false, executor);
  const Array<S> first = model.enter(trace.input(pass.embeddings)).numbers;
  row[position] += w.dot(first.matrix().row(position));
  return detail::scores_up_to("ALTI-Logit", row, position, pass.tokens());
}

IMPLICIT_ATTENTION_NAMESPACE_END
