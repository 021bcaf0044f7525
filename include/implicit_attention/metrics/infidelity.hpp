// Infidelity and sensitivity (Yeh et al. 2019, arXiv 1901.09392), as captum defines them.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/core/random_numbers.hpp>
#include <implicit_attention/metrics/scores.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Infidelity from its ingredients: mean over samples s of (p_s - c_s)^2, where p_s = I_s . scores is the change that the scores
/// predict for perturbation I_s, and c_s = f(x) - f(x - I_s) the actual change. LOWER is better, 0 is perfect.
/// `rescale`: the predicted changes are first multiplied by the factor that minimises the result,
/// b = sum p_s c_s / sum p_s^2 (0 where all p_s are 0), so that methods need not know the unit of f; captum's `normalize`.
[[nodiscard]] inline double infidelity(const std::vector<double>& predicted, const std::vector<double>& actual, bool rescale = false) {
  if (predicted.empty() || predicted.size() != actual.size())
    detail::raise(ErrorKind::shape, "infidelity: there are ", predicted.size(), " predicted changes and ", actual.size(),
                  " actual ones, expected the same number, and at least one");
  double products = 0, squares = 0;
  for (std::size_t s = 0; s < actual.size(); ++s) {
    if (!std::isfinite(predicted[s]) || !std::isfinite(actual[s]))
      detail::raise(ErrorKind::value, "infidelity: sample ", s, " is not finite");
    products += predicted[s] * actual[s];
    squares += predicted[s] * predicted[s];
  }
  const double factor = !rescale ? 1 : squares > 0 ? products / squares : 0;
  double sum = 0;
  for (std::size_t s = 0; s < actual.size(); ++s) sum += (factor * predicted[s] - actual[s]) * (factor * predicted[s] - actual[s]);
  return sum / static_cast<double>(actual.size());
}

/// Sets of kept tokens for `infidelity`, (samples): each token is taken away with `probability`, at least one always. A draw that takes
/// none is drawn again; after a thousand of them in a row one token is taken, each as likely as the others: so small a probability hardly
/// ever takes two. The same seed gives the same sets, so that methods are compared on the same perturbations. One token: it is removed in
/// every set.
[[nodiscard]] inline std::vector<KeptTokens> random_perturbations(Index tokens, Index samples, double probability, std::uint64_t seed) {
  if (tokens <= 0) detail::raise(ErrorKind::shape, "random_perturbations: there are no tokens, expected at least one");
  if (samples <= 0) detail::raise(ErrorKind::value, "random_perturbations: ", samples, " samples, expected at least one");
  if (!(probability > 0 && probability <= 1))
    detail::raise(ErrorKind::value, "random_perturbations: probability ", probability, ", expected above 0, up to 1");
  detail::RandomEngine engine(seed);
  constexpr int most_empty_draws = 1000;
  std::vector<KeptTokens> sets;
  for (int empty_draws = 0; static_cast<Index>(sets.size()) < samples;) {
    KeptTokens kept(static_cast<std::size_t>(tokens), true);
    for (std::size_t token = 0; token < kept.size(); ++token) kept[token] = detail::uniform(engine) >= probability;
    if (tokens == 1) kept[0] = false;
    const bool empty = std::find(kept.begin(), kept.end(), false) == kept.end();
    if (empty && ++empty_draws < most_empty_draws) continue;
    if (empty) kept[detail::uniform_index(engine, kept.size())] = false;
    empty_draws = 0;
    sets.push_back(std::move(kept));
  }
  return sets;
}

/// Infidelity (Yeh et al. 2019, eq. 1) with tokens taken away: I is 1 where a token is gone and 0 elsewhere, so scores are to be effects
/// of whole tokens, as gradient x input and leave-one-out are. mean over sets of (sum of scores of the gone tokens - (f(all) -
/// f(kept)))^2. LOWER is better; unit: f squared. Ties do not matter. One token: with `rescale`, 0 unless its score is 0.
template <PerturbedModel Model>
[[nodiscard]] double infidelity(const Scores& scores, const std::vector<KeptTokens>& perturbations, Model&& model, bool rescale = false) {
  const double whole = detail::run_kept("infidelity", model, KeptTokens(static_cast<std::size_t>(scores.size()), true));
  std::vector<double> predicted, actual;
  for (const KeptTokens& kept : perturbations) {
    detail::check_same_size("infidelity", "a perturbation's flags", static_cast<Index>(kept.size()), scores.size());
    double sum = 0;
    for (std::size_t token = 0; token < kept.size(); ++token)
      if (!kept[token]) sum += scores[static_cast<Index>(token)];
    predicted.push_back(sum);
    actual.push_back(whole - detail::run_kept("infidelity", model, kept));
  }
  return infidelity(predicted, actual, rescale);
}

/// The part of the changes that scores leave unexplained: rescaled infidelity divided by the mean of c_s^2. In [0, 1], LOWER is better; 1
/// is what scores of all zeros get. It can be averaged over texts whose changes have different sizes. NaN where the model never changes.
/// Not in the paper: its infidelity, in a unit that texts share. Ties do not matter. One token: 0 unless its score is 0.
template <PerturbedModel Model>
[[nodiscard]] double relative_infidelity(const Scores& scores, const std::vector<KeptTokens>& perturbations, Model&& model) {
  const double none = infidelity(Scores(std::vector<double>(static_cast<std::size_t>(scores.size()), 0.0)), perturbations, model);
  if (none == 0) return std::numeric_limits<double>::quiet_NaN();
  return infidelity(scores, perturbations, model, true) / none;
}

/// `input` (any shape, token embeddings for example) plus uniform noise from [-radius, radius] on every number.
/// The same seed gives the same noise.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> perturbed_within(ConstView<Scalar> input, Scalar radius, std::uint64_t seed) {
  if (!(radius >= Scalar(0)) || !std::isfinite(radius))
    detail::raise(ErrorKind::value, "perturbed_within: the radius is ", radius, ", expected a finite number of at least 0");
  detail::RandomEngine engine(seed);
  Matrix<Scalar> result = input;
  for (Index i = 0; i < result.size(); ++i) result.data()[i] += static_cast<Scalar>((2 * detail::uniform(engine) - 1)) * radius;
  return result;
}

/// Gives the scores for the perturbed input number `sample`, 0, 1, ...
template <class Explain>
concept PerturbedExplanation = std::invocable<Explain&, Index> && std::convertible_to<std::invoke_result_t<Explain&, Index>, Scores>;

/// Maximum sensitivity (Yeh et al. 2019, eq. 5): max over samples d of |scores(x + d) - scores(x)| / |scores(x)|, Euclidean norms. LOWER
/// is better, but a method that ignores its input gets 0. captum draws 10 perturbations evenly from the max-norm ball of radius 0.02;
/// which ones is the caller's (perturbed_within). Where scores(x) are all 0, the norm counts as 1, as in captum. Ties do not
/// matter; one token is no special case.
template <PerturbedExplanation Explain>
[[nodiscard]] double sensitivity_max(const Scores& scores, Index samples, Explain&& explain) {
  if (samples <= 0) detail::raise(ErrorKind::value, "sensitivity: ", samples, " samples, expected at least one");
  double norm = 0, largest = 0;
  for (const double score : scores.numbers()) norm += score * score;
  for (Index sample = 0; sample < samples; ++sample) {
    const Scores other = explain(sample);
    detail::check_same_size("sensitivity", detail::message("the scores of sample ", sample), other.size(), scores.size());
    double squares = 0;
    for (Index token = 0; token < scores.size(); ++token) squares += (other[token] - scores[token]) * (other[token] - scores[token]);
    largest = std::max(largest, squares);
  }
  return std::sqrt(largest / (norm > 0 ? norm : 1.0));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
