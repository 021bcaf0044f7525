// The results of an evaluation, methods by metrics over texts, and how they are shown: tables in a terminal, Markdown, JSON.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/metrics/bootstrap.hpp>

#include "layer_maps.hpp"

namespace implicit_attention::examples {

/// A metric of the tables.
struct MetricInfo {
  const char* name;     ///< in JSON
  const char* head;     ///< of its column
  bool higher;          ///< whether higher is better
  const char* meaning;  ///< one line
};

enum MetricIndex : std::size_t {
  metric_positive,
  metric_negative,
  metric_activation,
  metric_pruning,
  metric_comprehensiveness,
  metric_sufficiency,
  metric_flipping,
  metric_leave_one_out,
  metric_infidelity,
  metric_sensitivity,
  metric_randomized,
  metric_marked_precision,
  metric_marked_overlap,
  metric_count
};
[[nodiscard]] const std::array<MetricInfo, metric_count>& metric_infos();

/// One row: a method; for methods made of attention, under one formulation.
struct EvaluatedMethod {
  std::string method;
  std::string terms;                                       ///< empty where they do not matter
  std::array<std::vector<double>, metric_count> values{};  ///< one per text; NaN where a metric is not defined for it
  std::vector<std::vector<double>> randomized{};           ///< (stages), one per text each
  /// Where scores add up to what is explained, one per text: |explained|, and |sum of scores + bias share + baseline - explained|.
  std::vector<double> explained{}, gaps{};
  Index texts_with_zero_rows = 0, texts_with_constant_layers = 0;
  std::vector<std::string> untreated{};  ///< relevance: operations that it has no rule for and reached
};

/// All results of one model.
struct Evaluation {
  std::string model, architecture, data, removal, reduce;
  IntegrationPath integration{};
  std::uint64_t seed = 0;
  Index texts = 0, right = 0;
  Index edges = 0;         ///< knocked out of a layer at most; 0: none were
  Index permutations = 0;  ///< of the Shapley values among the ceilings; 0: there are no ceilings
  Index repeated = 0;      ///< texts that metrics were measured on which explain a text many times
  double seconds = 0;
  std::vector<EvaluatedMethod> methods;
  std::vector<EvaluatedMethod> ceilings;  ///< what running the model on many sets of tokens reaches; `terms` says how many
  std::vector<EvaluatedMap> maps;
  std::vector<Index> layers_without_maps;  ///< that nothing could be knocked out of

  /// A metric's mean over texts with its bootstrap interval.
  [[nodiscard]] MeanInterval mean(const EvaluatedMethod& method, std::size_t metric) const;
  /// The mean of the differences a - b, text by text, with its interval.
  [[nodiscard]] MeanInterval difference(const EvaluatedMethod& a, const EvaluatedMethod& b, std::size_t metric) const;
  /// The same of a layer's maps.
  [[nodiscard]] MeanInterval mean(const EvaluatedMap& map, std::size_t metric) const;
  [[nodiscard]] MeanInterval difference(const EvaluatedMap& a, const EvaluatedMap& b, std::size_t metric) const;
  /// Whether a metric is defined for any text; metrics of marked words need texts with marks.
  [[nodiscard]] bool has(std::size_t metric) const;
  /// The row of a method and its terms; null if it is not there.
  [[nodiscard]] const EvaluatedMethod* find(const std::string& method, const std::string& terms) const;
};

/// What an evaluation of one text came to, as bytes (doubles one after the other), and joining it to that of the texts before. Joining
/// fails (file) where the bytes are those of another evaluation.
[[nodiscard]] std::string packed(const Evaluation& one);
void join(Evaluation& evaluation, std::string_view packed);

/// For a terminal of `width` columns (0: no limit): what was evaluated, tables, formulations compared, what the columns mean.
[[nodiscard]] std::string evaluation_text(const Evaluation& evaluation, int width);
/// The same for a README.
[[nodiscard]] std::string evaluation_markdown(const Evaluation& evaluation);
/// Means, intervals, and paired differences to random and between formulations.
[[nodiscard]] std::string evaluation_json(const Evaluation& evaluation);

}  // namespace implicit_attention::examples
