// Agreement of scores with each other: with leave-one-out, with what people marked, with the same method on another model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/metrics/scores.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Spearman's rank correlation (1904): Pearson's correlation of the ranks, tied scores sharing the average of theirs. In [-1, 1], HIGHER
/// is more alike.
/// NaN where it is not defined: one token, or all scores of a side equal. Fails (shape) on unequal sizes.
[[nodiscard]] inline double spearman(const Scores& a, const Scores& b) {
  detail::check_same_size("spearman", "the second scores", b.size(), a.size());
  const std::vector<double> rank_a = average_ranks(a), rank_b = average_ranks(b);
  const double mean = 0.5 * static_cast<double>(a.size() + 1);
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < rank_a.size(); ++i) {
    ab += (rank_a[i] - mean) * (rank_b[i] - mean);
    aa += (rank_a[i] - mean) * (rank_a[i] - mean);
    bb += (rank_b[i] - mean) * (rank_b[i] - mean);
  }
  if (aa == 0 || bb == 0) return std::numeric_limits<double>::quiet_NaN();
  return std::clamp(ab / std::sqrt(aa * bb), -1.0, 1.0);  // ranks are halves: the sums are exact, their quotient may round past 1
}

/// The effect of each token alone: f(all) - f(all without token j), (tokens). n + 1 model runs.
template <PerturbedModel Model>
[[nodiscard]] Scores leave_one_out_effects(Index tokens, Model&& model) {
  if (tokens <= 0) detail::raise(ErrorKind::shape, "leave-one-out: there are no tokens, expected at least one");
  KeptTokens kept(static_cast<std::size_t>(tokens), true);
  const double whole = detail::run_kept("leave-one-out", model, kept);
  std::vector<double> effects;
  for (std::size_t token = 0; token < kept.size(); ++token) {
    kept[token] = false;
    effects.push_back(whole - detail::run_kept("leave-one-out", model, kept));
    kept[token] = true;
  }
  return effects;
}

/// Spearman's correlation of the scores with the effects of leaving single tokens out (Abnar & Zuidema 2020, arXiv 2005.00928,
/// section 4, there with blanks).
/// HIGHER is better; random scores have the mean 0. What a token does alone is not what it does together with others: a faithful method
/// need not reach 1. Ties: average ranks. One token, or a constant side: NaN, not defined.
template <PerturbedModel Model>
[[nodiscard]] double leave_one_out_correlation(const Scores& scores, Model&& model) {
  return spearman(scores, leave_one_out_effects(scores.size(), model));
}

/// The tokens that people marked as the reason: one flag per token.
using MarkedTokens = std::vector<bool>;

/// Precision and recall as the threshold falls from score to score; tied scores pass it together.
struct PrecisionRecall {
  std::vector<double> precision, recall;  ///< one point per distinct score, recall rising; empty where nothing is marked
};

/// The points of the precision-recall curve. Fails (shape) unless there is a flag per score.
[[nodiscard]] inline PrecisionRecall precision_recall(const Scores& scores, const MarkedTokens& marked) {
  detail::check_same_size("precision-recall", "the marks", static_cast<Index>(marked.size()), scores.size());
  PrecisionRecall curve;
  const auto all = static_cast<double>(std::count(marked.begin(), marked.end(), true));
  if (all == 0) return curve;
  const std::vector<Index> order = order_of(scores, RemovalOrder::most);
  double found = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (marked[static_cast<std::size_t>(order[i])]) found += 1;
    if (i + 1 < order.size() && scores[order[i + 1]] == scores[order[i]]) continue;
    curve.precision.push_back(found / static_cast<double>(i + 1));
    curve.recall.push_back(found / all);
  }
  return curve;
}

/// Area under the precision-recall curve by the trapezoid rule, from recall 0 with precision 1 on, as ERASER has it (DeYoung
/// et al. 2020, arXiv 1911.03429).
/// HIGHER is better; random scores get about the share of tokens that is marked. Ties pass the threshold together: a constant map has
/// one point and gets (1 + share) / 2, which flatters it; average_precision does not. One token that is marked: 1. Nothing marked: NaN.
[[nodiscard]] inline double area_under_precision_recall(const Scores& scores, const MarkedTokens& marked) {
  const PrecisionRecall curve = precision_recall(scores, marked);
  if (curve.recall.empty()) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0, precision = 1, recall = 0;
  for (std::size_t i = 0; i < curve.recall.size(); ++i) {
    sum += (curve.recall[i] - recall) * (curve.precision[i] + precision) / 2;
    precision = curve.precision[i];
    recall = curve.recall[i];
  }
  return sum;
}

/// The same area by steps: sum over points of (rise in recall) * precision, as scikit-learn's average_precision_score. HIGHER is better;
/// random scores get about the share of tokens that is marked. Ties pass the threshold together: a constant map gets exactly that share.
/// One token that is marked: 1. Nothing marked: NaN.
[[nodiscard]] inline double average_precision(const Scores& scores, const MarkedTokens& marked) {
  const PrecisionRecall curve = precision_recall(scores, marked);
  if (curve.recall.empty()) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0, recall = 0;
  for (std::size_t i = 0; i < curve.recall.size(); ++i) {
    sum += (curve.recall[i] - recall) * curve.precision[i];
    recall = curve.recall[i];
  }
  return sum;
}

/// How many of the k most relevant tokens are marked, divided by k: precision at k. HIGHER is better; random scores get about the share of
/// tokens that is marked. k = 0 means as many as are marked (R-precision): precision and recall are then the same number. Ties: in the
/// order of the text. k larger than the text counts as the whole text. One token: 1 if it is marked. Nothing marked: NaN for k = 0, else 0.
[[nodiscard]] inline double top_k_overlap(const Scores& scores, const MarkedTokens& marked, Index k = 0) {
  detail::check_same_size("top-k overlap", "the marks", static_cast<Index>(marked.size()), scores.size());
  if (k < 0) detail::raise(ErrorKind::value, "top-k overlap: k is ", k, ", expected at least 0");
  if (k == 0) k = static_cast<Index>(std::count(marked.begin(), marked.end(), true));
  if (k == 0) return std::numeric_limits<double>::quiet_NaN();
  k = std::min(k, scores.size());
  const std::vector<Index> order = order_of(scores, RemovalOrder::most);
  Index hits = 0;
  for (Index i = 0; i < k; ++i)
    if (marked[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]) ++hits;
  return static_cast<double>(hits) / static_cast<double>(k);
}

/// The same of two methods: how many tokens are among the k most relevant of both, divided by k. HIGHER is more alike. Ties: in the order
/// of the text on both sides, so that constant maps agree. One token: 1.
[[nodiscard]] inline double top_k_agreement(const Scores& a, const Scores& b, Index k) {
  detail::check_same_size("top-k agreement", "the second scores", b.size(), a.size());
  if (k <= 0) detail::raise(ErrorKind::value, "top-k agreement: k is ", k, ", expected at least 1");
  return top_k_overlap(a, only_first(order_of(b, RemovalOrder::most), std::min(k, b.size())), k);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
