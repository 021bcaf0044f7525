// Numbers kept within bounds.
#pragma once

#include <utility>

#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// min(max(x, lower), upper): the gradient passes where x is within the bounds, these included, as in public autograd. Relevance has no
/// rule for it: it makes scales.
template <Real S>
[[nodiscard]] Value<S> clamp(const Value<S>& x, S lower, S upper) {
  Matrix<S> out = (*x).cwiseMax(lower).cwiseMin(upper);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x, lower, upper](Back<S>& back, Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("clamp");
    g = ((*x).array() >= lower && (*x).array() <= upper).select(g, S(0));
    back.add(x, std::move(g));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
