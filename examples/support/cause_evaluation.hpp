// Methods against known causes: whether the token that an output copies stands above the others.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <implicit_attention/metrics/bootstrap.hpp>

#include "evaluated_methods.hpp"
#include "known_causes.hpp"

namespace implicit_attention::examples {

/// What is compared with what. All sets lie in the causal prefix: tokens 0 to the explained position, that one included.
struct CauseComparison {
  const char* name;     ///< in JSON
  const char* title;    ///< of its table
  const char* meaning;  ///< one line
};
enum CauseComparisonIndex : std::size_t {
  source_against_negatives,
  source_against_alike,
  source_against_all,
  address_against_negatives,
  comparison_count
};
[[nodiscard]] const std::array<CauseComparison, comparison_count>& cause_comparisons();

struct CauseMetric {
  const char* name;
  const char* head;
  const char* meaning;
};
enum CauseMetricIndex : std::size_t { cause_auc, cause_top_one, cause_average_precision, cause_metric_count };
[[nodiscard]] const std::array<CauseMetric, cause_metric_count>& cause_metrics();

/// What a token's score is for a comparison.
enum class ScoreSign {
  as_is,     ///< signed: what speaks against the output stands below what says nothing
  positive,  ///< the positive part: what speaks against the output ties with what says nothing
  absolute   ///< what moves the output either way
};
/// Reads `signed`, `positive` or `absolute`.
[[nodiscard]] ScoreSign parse_score_sign(const std::string& text);

/// One row of the tables.
struct CauseMethod {
  std::string method, terms;
  /// One per explained output; NaN where one of the two sets is empty.
  std::array<std::array<std::vector<double>, cause_metric_count>, comparison_count> values{};
  /// As in EvaluatedMethod, one per output; none where no logit is explained.
  std::vector<double> explained{}, gaps{};
  std::vector<std::string> untreated{};  ///< relevance: operations that it has no rule for and reached
};

/// All results of one model.
struct CauseEvaluation {
  std::string model, architecture, causes, removal, reduce, scores;
  IntegrationPath integration{};
  std::uint64_t seed = 0;
  std::vector<Index> prompt_of;      ///< the prompt of every explained output
  Index prompts = 0, predicted = 0;  ///< predicted: outputs that are the model's likeliest token
  std::vector<std::string> unread;
  double seconds = 0;
  std::vector<CauseMethod> methods;
  std::vector<CauseMethod> ceilings;  ///< Shapley values, where asked for; `terms` says of how many permutations

  /// A metric's mean over outputs, with its bootstrap interval over prompts.
  [[nodiscard]] MeanInterval mean(const CauseMethod& method, std::size_t comparison, std::size_t metric) const;
  /// The mean of the differences a - b, output by output.
  [[nodiscard]] MeanInterval difference(const CauseMethod& a, const CauseMethod& b, std::size_t comparison, std::size_t metric) const;
  /// Whether a comparison is defined for any output.
  [[nodiscard]] bool has(std::size_t comparison) const;
};

struct CauseOptions {
  std::string model, causes, tokenizer, remove;
  IntegrationPath integration;
  std::string reduce, scores;
  Index limit = 0;         ///< prompts
  Index permutations = 0;  ///< of the Shapley values beside the methods; 0: none
  std::uint64_t seed = 1;
  int threads = 0;  ///< 0: all cores that the process may use
};

/// Reads the file, checks it whole, then the model, and explains every output by every method, a prompt a thread. Fails as
/// `read_known_causes` and the library do.
[[nodiscard]] CauseEvaluation evaluate_causes(const CauseOptions& options, const std::vector<MethodRow>& rows);

}  // namespace implicit_attention::examples
