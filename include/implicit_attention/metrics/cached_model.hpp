// A model whose outputs are cached: several metrics run it on the same sets of kept tokens.
#pragma once

#include <cstddef>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include <implicit_attention/metrics/scores.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A callable over sets of kept tokens that runs `model` once for each set. `model` may return anything that can be copied, several numbers
/// at once, for example; each metric then gets a lambda that chooses one of them:
///
///     CachedModel run([&](const KeptTokens& kept) { return outputs_of(kept); });
///     perturbation_curve(scores, RemovalOrder::most, Steps::each_token(), [&](const KeptTokens& kept) { return run(kept).logit; });
template <class Model>
class CachedModel {
 public:
  using Output = std::decay_t<std::invoke_result_t<Model&, const KeptTokens&>>;
  explicit CachedModel(Model model) : model_(std::move(model)) {}

  const Output& operator()(const KeptTokens& kept) {
    const auto found = outputs_.find(kept);
    if (found != outputs_.end()) return found->second;
    return outputs_.emplace(kept, model_(kept)).first->second;
  }
  /// How often the model was run.
  [[nodiscard]] std::size_t runs() const { return outputs_.size(); }

 private:
  Model model_;
  std::unordered_map<KeptTokens, Output> outputs_;
};

// clang-format off
/// The name of CachedModel before version 0.2.
template <class Model>
class [[deprecated("renamed: CachedModel")]] RememberedModel : public CachedModel<Model> {
 public:
  explicit RememberedModel(Model model) : CachedModel<Model>(std::move(model)) {}
};
// clang-format on

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
