// The randomised-model check (Adebayo et al. 2018, arXiv 1810.03292): an explanation of a model must change when its weights do.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/metrics/agreement.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Gives the scores of the same input with the weights of the first `stage` parts re-drawn; stage 0 is the model as it is.
template <class Explain>
concept RandomizedExplanation = std::invocable<Explain&, Index> && std::convertible_to<std::invoke_result_t<Explain&, Index>, Scores>;

/// How similar the scores are to the original ones, stage by stage; (stages) each.
struct RandomizationCheck {
  std::vector<double> similarity;           ///< Spearman's correlation of the scores with those of the original weights
  std::vector<double> absolute_similarity;  ///< the same of their absolute values: a flipped sign is no new explanation
};

/// Cascading randomisation: similarity[s] compares explain(s + 1) with explain(0). LOWER is better: near 0 once enough is re-drawn (what
/// remains says that a method shows the input, not the model). Which parts are re-drawn in which order is the caller's; the paper goes
/// from the output to the input. Ties: average ranks. One token, or constant scores: NaN, not defined.
template <RandomizedExplanation Explain>
[[nodiscard]] RandomizationCheck randomized_model_check(Index stages, Explain&& explain) {
  if (stages <= 0) detail::raise(ErrorKind::value, "randomised-model check: ", stages, " stages, expected at least one");
  const Scores original = explain(Index{0});
  RandomizationCheck check;
  for (Index stage = 1; stage <= stages; ++stage) {
    const Scores redrawn = explain(stage);
    detail::check_same_size("randomised-model check", detail::message("the scores of stage ", stage), redrawn.size(), original.size());
    check.similarity.push_back(spearman(original, redrawn));
    check.absolute_similarity.push_back(spearman(original.absolute(), redrawn.absolute()));
  }
  return check;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
