// Maps of single layers against what really happens when an edge, or a token's input, is knocked out of the layer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/core/types.hpp>

#include "evaluated_methods.hpp"

namespace implicit_attention::examples {

/// What is measured of a layer's map.
struct MapMetric {
  const char* name;     ///< in JSON
  const char* head;     ///< of its column
  bool higher;          ///< whether higher is better
  const char* meaning;  ///< one line
};
enum MapMetricIndex : std::size_t { map_edges, map_edges_unexplained, map_inputs, map_inputs_unexplained, map_metric_count };
[[nodiscard]] const std::array<MapMetric, map_metric_count>& map_metrics();

/// One row of the table of maps: what a method makes of each layer by itself.
struct EvaluatedMap {
  std::string method;  ///< the method whose map it is
  std::string terms_name;
  Terms terms;
  std::array<std::vector<double>, map_metric_count> values{};  ///< one per text, the mean over layers; NaN where not defined
};

/// The maps of those methods that have one for a layer by itself, in their order, then the edge map under the same formulations, whether it
/// is asked for or not, then random numbers.
[[nodiscard]] std::vector<EvaluatedMap> map_rows(const std::vector<MethodRow>& rows, const std::string& terms);

/// The layers that mix tokens and that nothing can be knocked out of, since several of their mixers are one part.
[[nodiscard]] std::vector<Index> layers_without_knock_out(const LanguageModel<float>& model);

/// Knocks at most `most_edges` edges and every token's input out of each layer that it can, and adds to every row how its maps predict it.
void knock_out(const LanguageModel<float>& model, const std::vector<Index>& ids, const Target& target, ReductionKind reduction,
               Index most_edges, std::uint64_t seed, const Executor& executor, std::vector<EvaluatedMap>& rows);

}  // namespace implicit_attention::examples
