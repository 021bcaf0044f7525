// What will be asked of an explainer.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/attribution/method_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What will be asked, told before the model runs, so that one run suffices: rows of raw attention and contribution norms are taken
/// while the layers run, several methods made of gradients share one walk back, and what none of them needs is not kept. Anything else may
/// be asked as well; then the model runs again where it has to.
template <Real Scalar>
struct ExplanationPlan {
  std::vector<Method> methods;    ///< empty: nothing is known
  MethodOptions<Scalar> options;  ///< with which they will be asked
  bool whole = false;             ///< whether layers are read at every token of the text, whatever is explained

  [[nodiscard]] bool has(Method method) const { return std::find(methods.begin(), methods.end(), method) != methods.end(); }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
