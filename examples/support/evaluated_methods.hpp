// The rows of an evaluation's table: methods, and for those made of attention, formulations.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/models/language_model.hpp>
#include <implicit_attention/core/array.hpp>

namespace implicit_attention::examples {

/// One row, before it is filled.
struct MethodRow {
  Method method;
  std::string terms_name;  ///< as on the command line; empty where terms do not matter
  Terms terms;
};

/// Methods (names with commas between; empty: all but edge-map, whose maps `map_rows` has) times formulations (the same; the
/// terms of one joined by +), for those that depend on them. Fails (value) on names that are not known and on a row asked for twice.
[[nodiscard]] std::vector<MethodRow> method_rows(const std::string& methods, const std::string& terms);

/// How integrated gradients are taken in an evaluation, as --baseline and --steps say.
struct IntegrationPath {
  std::string baseline = "removed";  ///< removed: what stands for a token that is taken away; zero; mean, of the model's embeddings
  Index steps = 0;                   ///< evenly spaced points; 0: as many as the tolerance takes

  /// `how` begins at what stands for a removed token; `model` is the whole one.
  void set(MethodOptions<float>& how, const LanguageModel<float>& model) const;
  /// For below a table that has them.
  [[nodiscard]] std::string text() const;
};

/// What is said of it below a table of `methods`: nothing where none is integrated gradients.
template <class Methods>
[[nodiscard]] std::string integration_text(const Methods& methods, const IntegrationPath& path) {
  const std::string_view name = method_info(Method::integrated_gradients).name;
  return std::any_of(methods.begin(), methods.end(), [&](const auto& row) { return row.method == name; }) ? path.text() : std::string();
}

/// How `count` things are cut down to `limit`: which ones stay, in their order, drawn by the seed. All of them where they are no more.
[[nodiscard]] std::vector<std::size_t> drawn(std::size_t count, Index limit, std::uint64_t seed);

/// How tokens are taken away, as --remove names it: as it was asked, else by <unk> where the vocabulary has it, else as embeddings of
/// zeros. Fails (value) where <unk> is asked for and is not there.
[[nodiscard]] std::string removal_name(const std::string& asked, bool has_unknown, const std::string& model);
[[nodiscard]] Removal removal_named(const std::string& name);

}  // namespace implicit_attention::examples
