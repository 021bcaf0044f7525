// A recorded forward pass, walked from its outputs back to its inputs.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/trace/causal_convolution.hpp>
#include <implicit_attention/trace/diagonal_recurrence.hpp>
#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// Whether their names are all different.
template <class... Ways>
constexpr bool names_differ() {
  const std::array<std::string_view, sizeof...(Ways)> names = {Ways::operation...};
  for (std::size_t a = 0; a < names.size(); ++a)
    for (std::size_t b = 0; b < a; ++b)
      if (names[a] == names[b]) return false;
  return true;
}

/// Walks the way back `way`, whose type is the one of `Ways` with that name.
template <class... Ways, Real S>
void walk_one_of(std::string_view name, const void* way, Back<S>& back, Matrix<S>& gradient) {
  static_assert(names_differ<Ways...>());
  const auto walks = [&]<class Way>(const Way* candidate) {
    if (name != Way::operation) return false;
    candidate->walk(back, gradient);
    return true;
  };
  if (!(walks(static_cast<const Ways*>(way)) || ...)) raise(ErrorKind::value, "Trace: no way back is called ", name);
}

/// The same among all named ways back. The operations of the per-channel layers have these; an operation that only one kind of layer uses
/// keeps its way back as a lambda expression, so that a program with another layer need not compile it to get gradients.
template <Real S>
void walk_named(std::string_view name, const void* way, Back<S>& back, Matrix<S>& gradient) {
  walk_one_of<LinearBack<S>, ColumnsBack<S>, FunctionBack<S>, SoftplusBack<S>, ProductBack<S>, GatedProductBack<S>, NormBack<S>,
              ConvolutionBack<S>, DiagonalRecurrenceBack<S>>(name, way, back, gradient);
}
}  // namespace detail

template <Real S>
WalkResult<S> Trace<S>::walk_back(WayBack way, std::vector<Seed<Scalar>> seeds, const std::vector<Value<Scalar>>& wanted,
                                  const std::vector<Detour<Scalar>>& detours) const {
  if (!recording_) detail::raise(ErrorKind::value, "Trace: this pass was not recorded, so it cannot be walked back");
  const detail::SubnormalsAsZero here;  // gradients fade, too
  const Executor as_zero = detail::with_subnormals_as_zero(executor_);
  Back<Scalar> back(way, as_zero, static_cast<std::size_t>(slots_));
  for (Seed<Scalar>& seed : seeds) back.add(seed.value, std::move(seed.gradient));
  WalkResult<Scalar> result;
  result.gradients.resize(wanted.size());
  const auto keep = [&](Index slot) {
    for (std::size_t k = 0; k < wanted.size(); ++k)
      if (wanted[k].slot == slot) result.gradients[k] = back.gradient(slot);
  };
  std::vector<bool> made(static_cast<std::size_t>(slots_));
  for (std::size_t index = steps_.size(); index-- > 0;) {
    const Step& step = steps_[index];
    bool reached = false;
    for (Index slot = step.first; slot < step.first + step.count; ++slot) {
      made[static_cast<std::size_t>(slot)] = true;
      keep(slot);
      bool left = false;
      for (const Detour<Scalar>& detour : detours)
        if (detour.at.slot == slot && back.gradient(slot).size() != 0) {
          back.add(detour.to, detour.through(back.gradient(slot)));
          left = true;
        }
      if (left) back.gradient(slot).resize(0, 0);
      reached = reached || back.gradient(slot).size() != 0;
    }
    if (reached && step.way != nullptr)
      detail::walk_named(step.named, step.way.get(), back, back.gradient(step.first));
    else if (reached)
      step.back(back, &back.gradient(step.first));
    for (Index slot = step.first; slot < step.first + step.count; ++slot) back.gradient(slot).resize(0, 0);
  }
  for (std::size_t k = 0; k < wanted.size(); ++k) {
    const Value<Scalar>& value = wanted[k];
    if (value.recorded() && !made[static_cast<std::size_t>(value.slot)]) result.gradients[k] = back.gradient(value.slot);
    if (result.gradients[k].size() == 0) result.gradients[k] = Matrix<Scalar>::Zero(value.rows(), value.cols());
  }
  result.bias_share = back.bias_share();
  result.untreated = back.untreated();
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
