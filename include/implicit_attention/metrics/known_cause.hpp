// Scores of tokens against a cause that is known: whether the token that causes an output stands above tokens that do not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string_view>
#include <vector>

#include <implicit_attention/metrics/agreement.hpp>
#include <implicit_attention/metrics/scores.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The scores of the tokens that are compared, in the order of the text, and which of them are marked.
struct ComparedTokens {
  std::vector<double> scores;
  MarkedTokens marked;
  Index causes = 0, others = 0;
  /// Whether there is anything on both sides.
  [[nodiscard]] bool both() const { return causes > 0 && others > 0; }
};

[[nodiscard]] inline ComparedTokens compared_tokens(std::string_view who, const Scores& scores, const MarkedTokens& marked,
                                                    const MarkedTokens& against) {
  check_same_size(who, "the marks", static_cast<Index>(marked.size()), scores.size());
  check_same_size(who, "the tokens compared against", static_cast<Index>(against.size()), scores.size());
  ComparedTokens compared;
  for (std::size_t token = 0; token < marked.size(); ++token) {
    if (marked[token] && against[token])
      raise(ErrorKind::value, who, ": token ", token, " is marked and compared against, expected one of the two");
    if (!marked[token] && !against[token]) continue;
    compared.scores.push_back(scores[static_cast<Index>(token)]);
    compared.marked.push_back(marked[token]);
    (marked[token] ? compared.causes : compared.others) += 1;
  }
  return compared;
}

}  // namespace detail

/// All tokens that are not marked: what a cause is compared against by default.
[[nodiscard]] inline MarkedTokens all_others(MarkedTokens marked) {
  marked.flip();
  return marked;
}

/// Area under the receiver operating characteristic: the share of pairs (a marked token, a token of `against`) in which the marked one
/// scores higher; a tie counts half (Mann & Whitney 1947; Hanley & McNeil 1982). Tokens in neither set take no part. HIGHER is better: 1 if
/// every marked token stands above all others, 0.5 for random scores and for a constant map. O(n log n), by average ranks. NaN where a
/// set is empty. Fails (shape) unless there is a flag per score in both, (value) on a token in both.
[[nodiscard]] inline double area_under_roc(const Scores& scores, const MarkedTokens& marked, const MarkedTokens& against) {
  const detail::ComparedTokens compared = detail::compared_tokens("area under ROC", scores, marked, against);
  if (!compared.both()) return std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> ranks = average_ranks(compared.scores);
  double sum = 0;  // of halves: exact
  for (std::size_t i = 0; i < ranks.size(); ++i)
    if (compared.marked[i]) sum += ranks[i];
  const auto causes = static_cast<double>(compared.causes), others = static_cast<double>(compared.others);
  return (sum - causes * (causes + 1) / 2) / (causes * others);
}

/// Whether a marked token has the highest score of those compared: 1 or 0; where several tokens share the highest score, the share of
/// them that is marked, which is the mean over all ways to break the tie. HIGHER is better; random scores and a constant map get the share
/// of compared tokens that is marked. NaN where a set is empty. Fails as area_under_roc.
[[nodiscard]] inline double top_one(const Scores& scores, const MarkedTokens& marked, const MarkedTokens& against) {
  const detail::ComparedTokens compared = detail::compared_tokens("top-1", scores, marked, against);
  if (!compared.both()) return std::numeric_limits<double>::quiet_NaN();
  const double highest = *std::max_element(compared.scores.begin(), compared.scores.end());
  double tied = 0, hits = 0;
  for (std::size_t i = 0; i < compared.scores.size(); ++i)
    if (compared.scores[i] == highest) {
      tied += 1;
      hits += compared.marked[i] ? 1 : 0;
    }
  return hits / tied;
}

/// average_precision among the tokens compared alone. With one marked token it is 1 / rank, ties ranked last. HIGHER is better. NaN where a
/// set is empty. Fails as area_under_roc.
[[nodiscard]] inline double average_precision(const Scores& scores, const MarkedTokens& marked, const MarkedTokens& against) {
  const detail::ComparedTokens compared = detail::compared_tokens("average precision", scores, marked, against);
  return compared.both() ? average_precision(compared.scores, compared.marked) : std::numeric_limits<double>::quiet_NaN();
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
