// The rows of an evaluation's table: methods, and for those made of attention, formulations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/core/array.hpp>

namespace implicit_attention::examples {

/// One row, before it is filled.
struct MethodRow {
  Method method;
  std::string terms_name;  ///< as on the command line; empty where terms do not matter
  Terms terms;
};

/// Methods (names with commas between; empty: all but edge-map, whose maps `map_rows` has) times formulations (the same; the
/// terms of one joined by +), for those that depend on them. Fails (value) on names that are not known and on a row that is asked for twice.
[[nodiscard]] std::vector<MethodRow> method_rows(const std::string& methods, const std::string& terms);

/// How integrated gradients are taken in an evaluation.
struct IntegrationPath {
  std::optional<Array<float>> baseline;  ///< nothing: what stands for a token that is taken away; no numbers: zeros
  Index steps = 0;                       ///< even points; 0: as many as the tolerance takes

  /// `how` has what stands for a token that is taken away.
  void set(MethodOptions<float>& how) const {
    if (baseline) how.baseline = *baseline;
    how.integration_steps = steps;
  }
};
/// By --baseline (`removed`, `zero`, or `mean`, of the model's embeddings) and --steps.
[[nodiscard]] IntegrationPath integration_path(const std::string& baseline, Index steps, const Array<float>& embedding);

/// How `count` things are cut down to `limit`: which ones stay, in their order, drawn by the seed. All of them where they are no more.
[[nodiscard]] std::vector<std::size_t> drawn(std::size_t count, Index limit, std::uint64_t seed);

/// How tokens are taken away, as --remove names it: as it was asked, else by <unk> where the vocabulary has it, else as embeddings of
/// zeros. Fails (value) where <unk> is asked for and is not there.
[[nodiscard]] std::string removal_name(const std::string& asked, bool has_unknown, const std::string& model);
[[nodiscard]] Removal removal_named(const std::string& name);

}  // namespace implicit_attention::examples
