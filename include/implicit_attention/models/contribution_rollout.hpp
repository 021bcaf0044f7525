// Attribution by vectors, without a gradient: what each token adds to each output of a layer, after the output projection. Contribution
// norms are the vectors' lengths, layer by layer; contribution rollout multiplies maps of them through the layers; ALTI-Logit (Ferrando et
// al. 2023, arXiv 2305.12535) multiplies maps of how much closer each vector brings an output to its final value, and shares out the
// logit's direct parts by them. All are exact here: the contributions are those of the implicit attention.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/models/language_model.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The contributions of the tokens to one layer's residual stream behind its token mixers:
///
///     o_i = r_i + sum_j v_ij + what no token adds,      v_ij = s_i o W_o (A[i,j] o x_j)
///
/// with s the scales between the projection and the residual stream (a norm's, held), and second paths and parallel mixers summed.
template <Real S>
class LayerContributions {
 public:
  /// For a layer that mixes tokens and a pass through it. Fails (ErrorKind::value) where a mixer's projection is not known, where its
  /// output goes through a norm that subtracts a mean, and where a later sublayer mixes tokens, too. Where a part holds several mixers in
  /// sequence (Zamba2's hybrid layers), the last one is used, whose projection gives the part's output: a pass lists it first.
  LayerContributions(const LanguageModel<S>& model, const LayerPass<S>& pass, Index layer, Terms terms = Terms::all())
      : before_(pass.residual), after_(pass.middle) {
    const auto refuse = [&](const char* what) {
      detail::raise(ErrorKind::value, "contributions: layer ", layer, " of ", model.name(), " ", what);
    };
    if (!model.causal()) detail::raise(ErrorKind::value, "contributions: ", model.name(), " is not causal");
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
      if (mixer.projection.empty())
        refuse("has a token mixer whose output projection is not known, expected a layer with a member output_projection()");
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
  [[nodiscard]] Matrix<S> vectors(Index i, bool residual, const Executor& executor = serial_executor()) const {
    Matrix<S> all = Matrix<S>::Zero(i + 1, before_.cols());
    for (const Mixer& mixer : mixers_)
      all += mixer.scale * detail::contributions_row(mixer.attention, mixer.x, mixer.projection, i, executor);
    if (held_.size() != 0) all.array().rowwise() *= held_.row(i).array();
    if (residual) all.row(i) += before_.matrix().row(i);
    return all;
  }

  /// |v_ij|_2 of every token j <= i, (1, i + 1).
  [[nodiscard]] RowVector<S> norms(Index i, const Executor& executor = serial_executor()) const {
    return vectors(i, false, executor).rowwise().norm().transpose();
  }

  /// How row i is mixed: shares of the tokens j <= i, (1, i + 1), not negative, with sum 1.
  ///   - by norm: |v_ij|_2, the residual with token i's own;
  ///   - by proximity (ALTI): (|o_i|_1 - |o_i - v_ij|_1)^+.
  /// Where all are zero the token keeps itself.
  [[nodiscard]] RowVector<S> shares(Index i, bool by_proximity) const { return shares_of(i, vectors(i, false), by_proximity); }
  /// The same, where vectors(i, false) are known.
  [[nodiscard]] RowVector<S> shares_of(Index i, Matrix<S> v, bool by_proximity) const {
    v.row(i) += before_.matrix().row(i);
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

/// weights (targets, tokens) through a layer's mixing: row t is sum_i weights[t, i] P[i, .]. Each row of P is made once, and some of them
/// at a time: memory is linear in tokens. The vectors of the tokens `visited`, without the residual, are shown to `visit`, by several
/// threads at once.
template <Real S>
[[nodiscard]] Matrix<S> mixed_back(const LayerContributions<S>& layer, const Matrix<S>& weights, bool by_proximity,
                                   const Executor& executor, const std::vector<Index>& visited = {},
                                   const std::function<void(Index i, const Matrix<S>& v)>& visit = {}) {
  constexpr Index rows_at_a_time = 64;
  Matrix<S> mixed = Matrix<S>::Zero(weights.rows(), weights.cols());
  std::vector<RowVector<S>> rows(static_cast<std::size_t>(std::min(rows_at_a_time, weights.cols())));
  for (Index first = 0; first < weights.cols(); first += rows_at_a_time) {
    const Index count = std::min(rows_at_a_time, weights.cols() - first);
    detail::run_loop(executor, count, [&](Index k) {
      const Index i = first + k;
      const bool mixes = !weights.col(i).isZero(0), shown = std::find(visited.begin(), visited.end(), i) != visited.end();
      if (!mixes && !shown) return;
      Matrix<S> v = layer.vectors(i, false);
      if (shown) visit(i, v);
      if (mixes) rows[static_cast<std::size_t>(k)] = layer.shares_of(i, std::move(v), by_proximity);
    });
    detail::run_loop(executor, weights.rows(), [&](Index t) {
      for (Index i = first; i < first + count; ++i)  // a row that does not count must not be read: it may be NaN
        if (weights(t, i) != S(0)) mixed.row(t).head(i + 1) += weights(t, i) * rows[static_cast<std::size_t>(i - first)];
    });
  }
  return mixed;
}

/// Visits the contributions in each of `layers`, which are in rising order, from the last to the first.
template <Real S, class Visit>
void each_layer_of_contributions(const LanguageModel<S>& model, const ForwardPass<S>& pass, const std::vector<Index>& layers, Terms terms,
                                 const Executor& executor, const Visit& visit) {
  for (std::size_t left = layers.size(); left > 0; --left) {
    const Index layer = layers[left - 1];
    visit(LayerContributions<S>(model, model.layer_pass(pass, layer, executor, false), layer, terms));
  }
}

/// The direction (1, width) in the last residual stream whose product with it is the target's logit, less its contrast's, with the scales
/// of the final norm and the soft cap held.
template <Real S>
[[nodiscard]] RowVector<S> logit_direction(const LanguageModel<S>& model, const ForwardPass<S>& pass, const Target& target) {
  detail::check_position("ALTI-Logit", target.position, pass.tokens());
  const LanguageModelParts<S>& parts = model.parts();
  const ConstView<S> logits = pass.logits_at(target.position);
  RowVector<S> w = RowVector<S>::Zero(model.width());
  const auto add = [&](const char* what, Index id, S amount) {
    check_index(id, model.vocabulary(), "ALTI-Logit: ", what, " token");
    if (parts.soft_cap > S(0)) amount *= soft_cap_scale(logits(0, id) / parts.soft_cap);  // cap tanh(l / cap) = scale l
    w += amount * detail::row_of(parts.head, id);
  };
  add("target", target.token, S(1));
  if (target.contrast) add("contrast", *target.contrast, S(-1));
  const ConstView<S> last(pass.final_residual.row(target.position), 1, model.width());
  w.array() *= parts.logit_scale * parts.final_norm.held_scale(parts.final_norm.statistics(last)).row(0).array();
  if (parts.final_norm.centred()) w.array() -= w.mean();
  return w;
}

/// Adds a layer's |v_ij|_2 at i = positions[r] to row r.
template <Real S>
void add_contribution_norms(const LayerContributions<S>& layer, const std::vector<Index>& positions, Matrix<S>& norms,
                            const Executor& executor) {
  const auto add = [&](Index r, const Executor& within) {
    const Index position = positions[static_cast<std::size_t>(r)];
    norms.row(r).head(position + 1) += layer.norms(position, within);
  };
  if (norms.rows() == 1) return add(0, executor);
  detail::run_loop(executor, norms.rows(), [&](Index r) { add(r, serial_executor()); });
}

template <Real S>
[[nodiscard]] Attribution<S> only_row(const Matrix<S>& rows, Index position) {
  Attribution<S> result;
  result.position = position;
  result.scores = rows.row(0);
  return result;
}

}  // namespace detail

/// Contribution norms, (positions, tokens): row r is the mean over `layers`, which mix tokens, of |v_ij|_2 at i = positions[r]. How much
/// each token adds to the position in a layer, without a target; not negative. Time tokens * channels * width a layer and position.
template <Real S>
[[nodiscard]] Matrix<S> contribution_norms(const LanguageModel<S>& model, const ForwardPass<S>& pass, const std::vector<Index>& positions,
                                           const std::vector<Index>& layers, Terms terms = Terms::all(),
                                           const Executor& executor = serial_executor()) {
  for (const Index position : positions) detail::check_position("contribution norms", position, pass.tokens());
  detail::check_layers("contribution norms", static_cast<Index>(layers.size()));
  Matrix<S> norms = Matrix<S>::Zero(static_cast<Index>(positions.size()), pass.tokens());
  detail::each_layer_of_contributions(model, pass, layers, terms, executor, [&](const LayerContributions<S>& layer) {
    detail::add_contribution_norms(layer, positions, norms, executor);
  });
  norms /= static_cast<S>(layers.size());
  detail::check_finite("contribution norms", "the result", norms);
  return norms;
}

/// Contribution rollout, (positions, tokens): the rows `positions` of P_last ... P_0, P the shares by norm; not negative, each of sum 1.
/// For pictures without a target. Time tokens^2 * channels * width a layer, for any number of positions.
template <Real S>
[[nodiscard]] Matrix<S> contribution_rollout(const LanguageModel<S>& model, const ForwardPass<S>& pass, const std::vector<Index>& positions,
                                             Terms terms = Terms::all(), const Executor& executor = serial_executor()) {
  Matrix<S> rows = Matrix<S>::Zero(static_cast<Index>(positions.size()), pass.tokens());
  for (Index r = 0; r < rows.rows(); ++r) {
    const Index position = positions[static_cast<std::size_t>(r)];
    detail::check_position("contribution rollout", position, pass.tokens());
    rows(r, position) = S(1);
  }
  detail::each_layer_of_contributions(model, pass, model.mixing_layers(), terms, executor,
                                      [&](const LayerContributions<S>& layer) { rows = detail::mixed_back(layer, rows, false, executor); });
  detail::check_finite("contribution rollout", "the result", rows);
  return rows;
}
/// The row of one position.
template <Real S>
[[nodiscard]] Attribution<S> contribution_rollout(const LanguageModel<S>& model, const ForwardPass<S>& pass, Index position,
                                                  Terms terms = Terms::all(), const Executor& executor = serial_executor()) {
  return detail::only_row(contribution_rollout(model, pass, std::vector<Index>{position}, terms, executor), position);
}

/// ALTI-Logit, (targets, tokens): sum over layers l of c_l P_{l-1} ... P_0, c_l[j] = w . v_pj the direct part of the logit that token j's
/// vector is, and w . r_0[p] at p itself; P the shares by proximity, w the direction of the logit (token less contrast) through the final
/// norm and the soft cap, whose scales are held. Needs the positions' logits. Signed. What feed-forward parts add directly is not shared
/// out. Time as for contribution_rollout.
template <Real S>
[[nodiscard]] Matrix<S> alti_logit(const LanguageModel<S>& model, const ForwardPass<S>& pass, const std::vector<Target>& targets,
                                   Terms terms = Terms::all(), const Executor& executor = serial_executor()) {
  const auto count = static_cast<Index>(targets.size());
  Matrix<S> directions(count, model.width()), rows = Matrix<S>::Zero(count, pass.tokens()), direct = rows;
  std::vector<Index> positions;
  for (const Target& target : targets) {
    directions.row(static_cast<Index>(positions.size())) = detail::logit_direction(model, pass, target);
    positions.push_back(target.position);
  }
  detail::each_layer_of_contributions(model, pass, model.mixing_layers(), terms, executor, [&](const LayerContributions<S>& layer) {
    rows = detail::mixed_back<S>(layer, rows, true, executor, positions, [&](Index i, const Matrix<S>& v) {
      for (Index t = 0; t < count; ++t)
        if (positions[static_cast<std::size_t>(t)] == i) direct.row(t).head(i + 1) = (v * directions.row(t).transpose()).transpose();
    });
    rows += direct;
  });
  Trace<S> trace(false, executor);
  const Array<S> first = model.enter(trace.input(pass.embeddings)).numbers;
  for (Index t = 0; t < count; ++t) {
    const Index position = positions[static_cast<std::size_t>(t)];
    rows(t, position) += directions.row(t).dot(first.matrix().row(position));
  }
  detail::check_finite("ALTI-Logit", "the result", rows);
  return rows;
}
/// The row of one target.
template <Real S>
[[nodiscard]] Attribution<S> alti_logit(const LanguageModel<S>& model, const ForwardPass<S>& pass, Index position, Index token,
                                        std::optional<Index> contrast = std::nullopt, Terms terms = Terms::all(),
                                        const Executor& executor = serial_executor()) {
  return detail::only_row(alti_logit(model, pass, std::vector<Target>{{position, token, contrast}}, terms, executor), position);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
