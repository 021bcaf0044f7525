// Metrics of faithfulness by removing or inserting tokens: perturbation, activation, pruning, flipping, insertion, comprehensiveness,
// sufficiency. f(kept) below is what the model gives when only the kept tokens are there.
#pragma once

#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/metrics/curve.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// f over the steps, each time of the tokens that `kept` keeps when the first so many of the order are told; errors name the metric.
template <PerturbedModel Model>
[[nodiscard]] Curve curve_of_kept(std::string_view metric, const Scores& scores, RemovalOrder first, const Steps& steps, Model& model,
                                  KeptTokens (*kept)(const std::vector<Index>& order, Index count)) {
  const std::vector<Index> order = order_of(scores, first);
  Curve curve;
  for (const auto& [fraction, count] : steps.of(scores.size())) {
    curve.fractions.push_back(fraction);
    curve.values.push_back(run_kept(metric, model, kept(order, count)));
  }
  return curve;
}
}  // namespace detail

/// f after the first share of tokens in the order is taken away: values[s] = f(all without the first k_s), fractions[s] = the share gone.
template <PerturbedModel Model>
[[nodiscard]] Curve perturbation_curve(const Scores& scores, RemovalOrder first, const Steps& steps, Model&& model) {
  return detail::curve_of_kept("perturbation", scores, first, steps, model, without_first);
}

/// f when only the first share of tokens in the order is there, from none on: values[s] = f(the first k_s alone), fractions[s] = the
/// share that is there.
template <PerturbedModel Model>
[[nodiscard]] Curve insertion_curve(const Scores& scores, RemovalOrder first, const Steps& steps, Model&& model) {
  return detail::curve_of_kept("insertion", scores, first, steps, model, only_first);
}

/// Positive perturbation (arXiv 2403.01590, section 4.2; Chefer et al. 2021): the area under f while the most relevant tokens go first.
/// LOWER is better. With f = 1 where the predicted class is right (or unchanged) and 0 where not, the mean over texts is the area under
/// their accuracy; f may as well be a probability or a logit. The paper's steps are 10 % to 90 %; it does not say by which rule it
/// divides the area, so both are here. Ties: in the order of the text. One token: gone from a share of one half on.
template <PerturbedModel Model>
[[nodiscard]] double positive_perturbation(const Scores& scores, Model&& model, const Steps& steps = Steps::tenths(),
                                           AreaRule rule = AreaRule::trapezoid) {
  return area(perturbation_curve(scores, RemovalOrder::most, steps, model), rule);
}

/// Negative perturbation (the same sources): the area under f while the least relevant tokens go first. HIGHER is better.
/// Ties and one token: as above; with all scores equal, the same number as positive_perturbation.
template <PerturbedModel Model>
[[nodiscard]] double negative_perturbation(const Scores& scores, Model&& model, const Steps& steps = Steps::tenths(),
                                           AreaRule rule = AreaRule::trapezoid) {
  return area(perturbation_curve(scores, RemovalOrder::least, steps, model), rule);
}

/// The metric "area under activation" (arXiv 2403.01590, appendix A; Ali et al. 2022): f, the probability of the target, while tokens are
/// put back into an empty text, the most relevant first, one at a time. HIGHER is better. Ties: in the order of the text. One token: the
/// mean of f without and with it.
template <PerturbedModel Model>
[[nodiscard]] double activation(const Scores& scores, Model&& model, const Steps& steps = Steps::each_token(),
                                AreaRule rule = AreaRule::trapezoid) {
  return area(insertion_curve(scores, RemovalOrder::most, steps, model), rule);
}

/// The squared error of f while tokens go, least absolute relevance first: values[s] = (f(all) - f(all without the first k_s))^2.
template <PerturbedModel Model>
[[nodiscard]] Curve pruning_curve(const Scores& scores, const Steps& steps, Model&& model) {
  const double whole = detail::run_kept("pruning", model, KeptTokens(static_cast<std::size_t>(scores.size()), true));
  Curve curve = perturbation_curve(scores, RemovalOrder::least_absolute, steps, model);
  for (double& value : curve.values) value = (whole - value) * (whole - value);
  return curve;
}

/// The metric "pruning" (arXiv 2403.01590, appendix A; Ali et al. 2022): the area under pruning_curve, f being the logit; the mean over
/// texts is the area under the mean squared error. LOWER is better. Its unit is that of the logit, squared: not for comparing models.
/// Ties of absolute values: in the order of the text. One token: half of its squared effect (trapezoid and mean alike).
template <PerturbedModel Model>
[[nodiscard]] double pruning(const Scores& scores, Model&& model, const Steps& steps = Steps::each_token(),
                             AreaRule rule = AreaRule::trapezoid) {
  return area(pruning_curve(scores, steps, model), rule);
}

/// Difference of flipping areas, Delta A^F = A_LeRF - A_MoRF (MambaLRP, arXiv 2406.07592): the area under the target's score while the
/// least relevant tokens go first, less that while the most relevant go first. HIGHER is better; random scores have the mean 0.
/// Ties: in the order of the text both times, so a constant map gets 0. One token: 0.
template <PerturbedModel Model>
[[nodiscard]] double flipping_difference(const Scores& scores, Model&& model, const Steps& steps = Steps::each_token(),
                                         AreaRule rule = AreaRule::trapezoid) {
  return area(perturbation_curve(scores, RemovalOrder::least, steps, model), rule) -
         area(perturbation_curve(scores, RemovalOrder::most, steps, model), rule);
}

/// Difference of insertion areas, Delta A^I = A_MoRF - A_LeRF (the same source): the area while tokens are put back into an empty text,
/// most relevant first, less that with the least relevant first. HIGHER is better. Where no scores are tied and tokens are taken away and
/// put back in the same way, it visits the same sets as flipping and is the same number. It differs only if `model` does (if tokens are
/// replaced by others when flipped, for example, and inserted into blanks). Ties and one token: as flipping_difference.
template <PerturbedModel Model>
[[nodiscard]] double insertion_difference(const Scores& scores, Model&& model, const Steps& steps = Steps::each_token(),
                                          AreaRule rule = AreaRule::trapezoid) {
  return area(insertion_curve(scores, RemovalOrder::most, steps, model), rule) -
         area(insertion_curve(scores, RemovalOrder::least, steps, model), rule);
}

/// How much the prediction needs the most relevant tokens, and how far they suffice.
struct Rationale {
  double comprehensiveness = 0;  ///< mean over thresholds of f(all) - f(all without the top share); HIGHER is better
  double sufficiency = 0;        ///< mean over thresholds of f(all) - f(the top share alone); LOWER is better
};

/// The shares of ERASER (DeYoung et al. 2020, arXiv 1911.03429).
[[nodiscard]] inline std::vector<double> rationale_thresholds() { return {0.01, 0.05, 0.1, 0.2, 0.5}; }

/// Comprehensiveness and sufficiency (DeYoung et al. 2020, section 4.2), f being the probability of the class predicted from the whole
/// text: areas over the perturbation curve (AOPC), means over thresholds, each of which takes its share of the tokens rounded up, so at
/// least one. Ties: in the order of the text. One token: f(all) - f(none), and 0.
template <PerturbedModel Model>
[[nodiscard]] Rationale comprehensiveness_and_sufficiency(const Scores& scores, Model&& model,
                                                          const std::vector<double>& thresholds = rationale_thresholds()) {
  if (thresholds.empty())
    detail::raise(ErrorKind::value, "comprehensiveness: there are no thresholds, expected at least one above 0, up to 1");
  for (const double threshold : thresholds)
    if (!(threshold > 0 && threshold <= 1))
      detail::raise(ErrorKind::value, "comprehensiveness: threshold ", threshold, " is out of range, expected above 0, up to 1");
  const std::vector<Index> order = order_of(scores, RemovalOrder::most);
  const double whole = detail::run_kept("comprehensiveness", model, KeptTokens(order.size(), true));
  Rationale result;
  for (const double threshold : thresholds) {
    // A little less, so that 0.07 * 100 = 7.000000000000001 is 7 tokens.
    const auto count = static_cast<Index>(std::ceil(threshold * static_cast<double>(order.size()) - 1e-9));
    result.comprehensiveness += whole - detail::run_kept("comprehensiveness", model, without_first(order, count));
    result.sufficiency += whole - detail::run_kept("sufficiency", model, only_first(order, count));
  }
  result.comprehensiveness /= static_cast<double>(thresholds.size());
  result.sufficiency /= static_cast<double>(thresholds.size());
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
