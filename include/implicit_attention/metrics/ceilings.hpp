// How far a metric could be moved: Shapley values by sampled permutations, and greedy searches on the perturbation curve itself. Both run
// the model far more often than any explanation does; they say how much is left.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/metrics/perturbation.hpp>
#include <implicit_attention/core/random_numbers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Orders of 0 ... tokens - 1 drawn by the seed, `count` of them: an order, then the same backwards, then the next. Pairs of opposite
/// orders average to a smaller error than orders of their own (antithetic sampling; Mitchell et al. 2022, arXiv 2104.12199, section 4).
[[nodiscard]] inline std::vector<std::vector<Index>> opposite_permutations(Index tokens, Index count, std::uint64_t seed) {
  if (tokens <= 0) detail::raise(ErrorKind::shape, "permutations: there are no tokens, expected at least one");
  if (count <= 0) detail::raise(ErrorKind::value, "permutations: ", count, " of them, expected at least one");
  detail::RandomEngine engine(seed);
  std::vector<Index> order(static_cast<std::size_t>(tokens));
  std::iota(order.begin(), order.end(), Index{0});
  std::vector<std::vector<Index>> orders;
  while (static_cast<Index>(orders.size()) < count) {
    for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[detail::uniform_index(engine, left)]);
    orders.push_back(order);
    if (static_cast<Index>(orders.size()) == count) break;
    orders.push_back(order);
    std::reverse(orders.back().begin(), orders.back().end());
  }
  return orders;
}

/// Shapley values (Shapley 1953) by sampled permutations (Castro et al. 2009): scores[j] is the mean, over `permutations` orders in which
/// tokens come into an empty text one by one, of f with token j and those before it less f with those before it alone. The unit is that of
/// f; sum(scores) = f(all) - f(none) exactly, for any number of permutations. Unbiased; opposite_permutations gives the orders. At most
/// permutations * (tokens - 1) + 2 runs. The best that scores of single tokens can say about all sets of tokens: exact for a model that
/// adds tokens up. One token: f(all) - f(none).
template <PerturbedModel Model>
[[nodiscard]] Scores shapley_values(Index tokens, Model&& model, Index permutations, std::uint64_t seed) {
  const std::vector<std::vector<Index>> orders = opposite_permutations(tokens, permutations, seed);
  const double none = detail::run_kept("Shapley values", model, KeptTokens(static_cast<std::size_t>(tokens), false)),
               all = detail::run_kept("Shapley values", model, KeptTokens(static_cast<std::size_t>(tokens), true));
  std::vector<double> sums(static_cast<std::size_t>(tokens), 0.0);
  for (const std::vector<Index>& order : orders) {
    KeptTokens kept(order.size(), false);
    double before = none;
    for (std::size_t place = 0; place < order.size(); ++place) {
      const auto token = static_cast<std::size_t>(order[place]);
      kept[token] = true;
      const double value = place + 1 == order.size() ? all : detail::run_kept("Shapley values", model, kept);
      sums[token] += value - before;
      before = value;
    }
  }
  for (double& sum : sums) sum /= static_cast<double>(permutations);
  return sums;
}

/// What a greedy search makes of the curve over taken tokens.
enum class SearchGoal {
  lowest,  ///< each step takes the token without which f is lowest, as removal of the most relevant first aims at
  highest  ///< each step takes the token without which f is highest, as removal of the least relevant first aims at
};

/// The perturbation curve of a greedy search: values[k] = f with k tokens taken, each chosen as best for the goal given those taken before;
/// of equal ones the first in the text. tokens * (tokens + 1) / 2 + 1 runs. A search step by step is not the best of all orders, but no map
/// that was made without running the model knows as much.
template <PerturbedModel Model>
[[nodiscard]] Curve greedy_curve(Index tokens, SearchGoal goal, Model&& model) {
  if (tokens <= 0) detail::raise(ErrorKind::shape, "greedy search: there are no tokens, expected at least one");
  KeptTokens kept(static_cast<std::size_t>(tokens), true);
  Curve curve{{0.0}, {detail::run_kept("greedy search", model, kept)}};
  for (Index step = 1; step <= tokens; ++step) {
    double best = std::numeric_limits<double>::quiet_NaN();
    std::size_t chosen = 0;
    for (std::size_t token = 0; token < kept.size(); ++token) {
      if (!kept[token]) continue;
      kept[token] = false;
      const double value = detail::run_kept("greedy search", model, kept);
      kept[token] = true;
      if (std::isnan(best) || (goal == SearchGoal::lowest ? value < best : value > best)) {
        best = value;
        chosen = token;
      }
    }
    kept[chosen] = false;
    curve.fractions.push_back(static_cast<double>(step) / static_cast<double>(tokens));
    curve.values.push_back(best);
  }
  return curve;
}

/// flipping_difference with both curves searched: area under the highest less that under the lowest. No one map has to reach it: each curve
/// has an order of its own. HIGHER means that more is left to the methods. One token: 0.
template <PerturbedModel Model>
[[nodiscard]] double greedy_flipping_difference(Index tokens, Model&& model, AreaRule rule = AreaRule::trapezoid) {
  return area(greedy_curve(tokens, SearchGoal::highest, model), rule) - area(greedy_curve(tokens, SearchGoal::lowest, model), rule);
}

/// pruning with the curve searched: each step takes the token that keeps (f(all) - f)^2 smallest. LOWER means that more is left. One token:
/// as pruning.
template <PerturbedModel Model>
[[nodiscard]] double greedy_pruning(Index tokens, Model&& model, AreaRule rule = AreaRule::trapezoid) {
  if (tokens <= 0) detail::raise(ErrorKind::shape, "greedy search: there are no tokens, expected at least one");
  const double whole = detail::run_kept("greedy search", model, KeptTokens(static_cast<std::size_t>(tokens), true));
  return area(greedy_curve(tokens, SearchGoal::lowest,
                           [&](const KeptTokens& kept) {
                             const double value = detail::run_kept("greedy search", model, kept);
                             return (whole - value) * (whole - value);
                           }),
              rule);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
