// Scores of tokens, as every metric takes them; their order and ranks; sets of kept tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <numeric>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Which tokens a perturbed input still has: one flag per scored token, true = kept. How the others are removed (replaced by `<unk>` or by
/// a zero embedding, or left out) is decided by the caller's model.
using KeptTokens = std::vector<bool>;

/// Runs a model on the tokens that are kept and gives one number: a logit, a difference of two, a probability, 1 or 0 for right or wrong.
template <class Model>
concept PerturbedModel = std::invocable<Model&, const KeptTokens&> && std::convertible_to < std::invoke_result_t<Model&, const KeptTokens&>,
double > ;

/// One score per token, from a row or a column of float or double. Metrics compute in double, also for models in float.
/// Fails on no scores at all (shape) and on a NaN or an infinity (value), naming the token.
class Scores {
 public:
  template <class Derived>
  Scores(const Eigen::DenseBase<Derived>& scores) {  // NOLINT(google-explicit-constructor): rows and columns convert to scores
    static_assert(Real<typename Derived::Scalar>, "implicit_attention: scores are float or double");
    if (scores.rows() != 1 && scores.cols() != 1)
      detail::raise(ErrorKind::shape, "scores are ", shape_text({scores.rows(), scores.cols()}),
                    ", expected (tokens): one row or one column");
    numbers_.reserve(static_cast<std::size_t>(scores.size()));
    for (Index row = 0; row < scores.rows(); ++row)
      for (Index column = 0; column < scores.cols(); ++column) numbers_.push_back(static_cast<double>(scores.derived().coeff(row, column)));
    check();
  }
  Scores(std::vector<double> scores) : numbers_(std::move(scores)) { check(); }  // NOLINT(google-explicit-constructor)
  Scores(std::initializer_list<double> scores) : numbers_(scores) { check(); }

  [[nodiscard]] Index size() const { return static_cast<Index>(numbers_.size()); }
  [[nodiscard]] double operator[](Index token) const { return numbers_[static_cast<std::size_t>(token)]; }
  [[nodiscard]] const std::vector<double>& numbers() const { return numbers_; }
  /// The absolute values.
  [[nodiscard]] Scores absolute() const {
    std::vector<double> values = numbers_;
    for (double& value : values) value = std::abs(value);
    return values;
  }

 private:
  void check() const {
    if (numbers_.empty()) detail::raise(ErrorKind::shape, "there are no scores, expected one per token and at least one token");
    for (std::size_t token = 0; token < numbers_.size(); ++token)
      if (!std::isfinite(numbers_[token]))
        detail::raise(ErrorKind::value, "the score of token ", token, " is ", std::isnan(numbers_[token]) ? "NaN" : "an infinity",
                      ", expected finite numbers; are there NaN in the weights or the input, or factors in the "
                      "configuration that are too large?");
  }
  std::vector<double> numbers_;
};

/// Which tokens come first.
enum class RemovalOrder {
  most,           ///< highest score first
  least,          ///< lowest score first: of signed scores, what speaks most against the target
  least_absolute  ///< smallest absolute value first: what matters least either way
};

/// The name of RemovalOrder before version 0.2.
using Relevance [[deprecated("renamed: RemovalOrder")]] = RemovalOrder;

/// Tokens in that order. Ties stay in the order of the text, in every one of the three orders: a constant map gets the same order from
/// `most` and from `least`, so that a difference of the two is 0.
[[nodiscard]] inline std::vector<Index> order_of(const Scores& scores, RemovalOrder first) {
  std::vector<Index> order(static_cast<std::size_t>(scores.size()));
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
    if (first == RemovalOrder::most) return scores[a] > scores[b];
    if (first == RemovalOrder::least) return scores[a] < scores[b];
    return std::abs(scores[a]) < std::abs(scores[b]);
  });
  return order;
}

/// Ranks 1..n of the scores, lowest first; tied scores share the average of their ranks.
[[nodiscard]] inline std::vector<double> average_ranks(const Scores& scores) {
  const std::vector<Index> order = order_of(scores, RemovalOrder::least);
  std::vector<double> ranks(order.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin + 1;
    while (end < order.size() && scores[order[end]] == scores[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) ranks[static_cast<std::size_t>(order[i])] = 0.5 * static_cast<double>(begin + 1 + end);
    begin = end;
  }
  return ranks;
}

/// All `tokens` but the first `count` of `order`, or only those.
[[nodiscard]] inline KeptTokens without_first(const std::vector<Index>& order, Index count) {
  KeptTokens kept(order.size(), true);
  for (Index i = 0; i < count; ++i) kept[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = false;
  return kept;
}
[[nodiscard]] inline KeptTokens only_first(const std::vector<Index>& order, Index count) {
  KeptTokens kept(order.size(), false);
  for (Index i = 0; i < count; ++i) kept[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = true;
  return kept;
}

namespace detail {

/// Runs the model on kept tokens; fails if its result is not a finite number.
template <PerturbedModel Model>
[[nodiscard]] double run_kept(std::string_view who, Model& model, const KeptTokens& kept) {
  const double value = static_cast<double>(model(kept));
  if (!std::isfinite(value))
    raise(ErrorKind::value, who, ": the model gives ", std::isnan(value) ? "NaN" : "an infinity", " with ",
          static_cast<Index>(std::count(kept.begin(), kept.end(), true)), " of ", static_cast<Index>(kept.size()),
          " tokens kept, expected a finite number");
  return value;
}

inline void check_same_size(std::string_view who, std::string_view what, Index came, Index expected) {
  if (came != expected) raise(ErrorKind::shape, who, ": ", what, " are ", came, ", expected ", expected, ", one per token");
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
