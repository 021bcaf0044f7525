#include "cause_report.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include <implicit_attention/core/error.hpp>

#include "command_line.hpp"
#include "conservation.hpp"
#include "mean_intervals.hpp"
#include "method_table.hpp"
#include "numbers.hpp"
#include "written_json.hpp"

namespace implicit_attention::examples {
namespace {

Index outputs(const CauseEvaluation& evaluation) { return static_cast<Index>(evaluation.prompt_of.size()); }

std::string description(const CauseEvaluation& evaluation) {
  return detail::message(evaluation.architecture, ", ", evaluation.model, ": ", outputs(evaluation), " outputs of ", evaluation.prompts,
                         " prompts of ", evaluation.causes, ", ",
                         percent(static_cast<double>(evaluation.predicted) / static_cast<double>(outputs(evaluation))),
                         " predicted by the model");
}

std::string sign_text(const CauseEvaluation& evaluation) {
  if (evaluation.scores == "signed") return "scores as they are, signed";
  return evaluation.scores == "positive" ? "the positive part of scores" : "absolute scores";
}

std::string fine_print(const CauseEvaluation& evaluation) {
  std::string text = detail::message(
      "Means over outputs, ± half of their 95 % bootstrap intervals over prompts. Explained is the target's logit; ranked are ",
      sign_text(evaluation), ", of tokens up to the explained position.");
  text += integration_text(evaluation.methods, evaluation.integration);
  for (const CauseMethod& method : evaluation.methods)
    if (!method.untreated.empty()) text += detail::message(" ", method.method, " has no rule for ", some_of(method.untreated), ".");
  for (const CauseMethod& ceiling : evaluation.ceilings)
    text += detail::message(" Ceiling: Shapley values by ", ceiling.terms, " a prompt, tokens taken away as in leave-one-out.");
  if (2 * evaluation.predicted < outputs(evaluation))
    text += " The model predicts fewer than half of these tokens: their causes are those of models that do, so this says little.";
  if (!evaluation.unread.empty()) text += detail::message(" Arrays not read: ", some_of(evaluation.unread), ".");
  return text;
}

Table table_of(const CauseEvaluation& evaluation, std::size_t comparison, const std::string& best_begin, const std::string& best_end) {
  std::vector<CauseMethod> rows = evaluation.methods;
  rows.insert(rows.end(), evaluation.ceilings.begin(), evaluation.ceilings.end());
  std::vector<MethodColumn> columns;
  for (std::size_t metric = 0; metric < cause_metric_count; ++metric) {
    MethodColumn column{detail::message(cause_metrics()[metric].head, " ↑"), {}, {}};
    std::vector<double> means;
    for (const CauseMethod& method : rows) {
      const MeanInterval mean = evaluation.mean(method, comparison, metric);
      column.cells.push_back(interval_cell(mean, 3));
      if (means.size() < evaluation.methods.size()) means.push_back(mean.mean);
    }
    column.best = best_rows(evaluation.methods, means, std::greater<>());
    column.best.resize(rows.size(), false);  // a ceiling is no method
    columns.push_back(std::move(column));
  }
  return method_table(rows, columns, best_begin, best_end);
}

using CauseMethodPair = FormulationPair<CauseMethod>;

Table formulation_table(const CauseEvaluation& evaluation, const std::vector<CauseMethodPair>& pairs) {
  std::vector<std::string> heads{"method", "all less"};
  for (std::size_t comparison = 0; comparison < comparison_count; ++comparison)
    if (evaluation.has(comparison)) heads.push_back(detail::message(cause_comparisons()[comparison].title, ", AUC"));
  Table table(heads);
  for (const auto& [one, other] : pairs) {
    std::vector<std::string> cells{one->method, other->terms};
    for (std::size_t comparison = 0; comparison < comparison_count; ++comparison) {
      if (!evaluation.has(comparison)) continue;
      const MeanInterval difference = evaluation.difference(*one, *other, comparison, cause_auc);
      cells.push_back(interval_cell(difference, 3) + (difference.low > 0 ? " +" : difference.high < 0 ? " -" : "  "));
    }
    table.add(std::move(cells));
  }
  return table;
}

}  // namespace

std::string cause_text(const CauseEvaluation& evaluation) {
  std::string text = description(evaluation) + "\n";
  for (std::size_t comparison = 0; comparison < comparison_count; ++comparison) {
    if (!evaluation.has(comparison)) continue;
    const CauseComparison& info = cause_comparisons()[comparison];
    text += detail::message("\n", info.title, ": ", info.meaning, "\n\n", table_of(evaluation, comparison, "", " *").text());
  }
  if (const std::vector<CauseMethodPair> pairs = formulation_pairs(evaluation.methods); !pairs.empty())
    text +=
        detail::message("\nFormulations: all terms less the others, paired by output; + better, - worse, by intervals that hold no 0\n\n",
                        formulation_table(evaluation, pairs).text());
  text += detail::message('\n', conservation_text(sums_of_all(evaluation.methods), evaluation.integration.steps, "outputs", false));
  text += detail::message('\n', fine_print(evaluation), " * best of its column, random scores aside.\n");
  for (const CauseMetric& metric : cause_metrics()) text += detail::message("  ", metric.head, ": ", metric.meaning, "\n");
  return text;
}

std::string cause_markdown(const CauseEvaluation& evaluation) {
  std::string text = "**" + description(evaluation) + "**\n";
  for (std::size_t comparison = 0; comparison < comparison_count; ++comparison) {
    if (!evaluation.has(comparison)) continue;
    const CauseComparison& info = cause_comparisons()[comparison];
    text += detail::message("\n", info.title, ": ", info.meaning, ".\n\n", table_of(evaluation, comparison, "**", "**").markdown());
  }
  if (const std::vector<CauseMethodPair> pairs = formulation_pairs(evaluation.methods); !pairs.empty())
    text +=
        detail::message("\nAll terms less the other formulations, paired by output (+ better, - worse, by intervals that hold no 0):\n\n",
                        formulation_table(evaluation, pairs).markdown());
  text += detail::message('\n', conservation_text(sums_of_all(evaluation.methods), evaluation.integration.steps, "outputs", true));
  text += "\n<!-- columns -->\n" + fine_print(evaluation) + " Bold: best of its column, random scores aside.\n\n";
  for (const CauseMetric& metric : cause_metrics()) text += detail::message("- ", metric.head, ": ", metric.meaning, "\n");
  return text;
}

namespace {
void add_results(OrderedJson& json, const CauseEvaluation& evaluation) {
  json["model"] = evaluation.model;
  json["architecture"] = evaluation.architecture;
  json["causes"] = evaluation.causes;
  json["prompts"] = evaluation.prompts;
  json["outputs"] = outputs(evaluation);
  json["predicted"] = evaluation.predicted;
  json["removal"] = evaluation.removal;
  json["baseline"] = evaluation.integration.baseline;
  json["steps"] = evaluation.integration.steps;
  json["reduce"] = evaluation.reduce;
  json["scores"] = evaluation.scores;
  json["seed"] = evaluation.seed;
  json["seconds"] = evaluation.seconds;
  json["target"] = "logit of the target";
  json["interval"] = "95 % percentile bootstrap over prompts";
  json["arrays_not_read"] = evaluation.unread;
  for (const CauseMetric& metric : cause_metrics()) json["metrics"][metric.name] = {{"better", "higher"}, {"meaning", metric.meaning}};
  for (const CauseComparison& comparison : cause_comparisons()) json["comparisons"][comparison.name] = comparison.meaning;
  // Every comparison by every metric, by what gives the interval.
  const auto intervals = [&](const auto& interval_of) {
    OrderedJson all;
    for (std::size_t comparison = 0; comparison < comparison_count; ++comparison)
      for (std::size_t metric = 0; metric < cause_metric_count; ++metric)
        all[cause_comparisons()[comparison].name][cause_metrics()[metric].name] = interval_json(interval_of(comparison, metric), "outputs");
    return all;
  };
  const auto relevance = std::find_if(evaluation.methods.begin(), evaluation.methods.end(),
                                      [](const CauseMethod& method) { return method.method == "relevance"; });
  json["results"] = OrderedJson::array();
  for (const CauseMethod& method : evaluation.methods) {
    OrderedJson result;
    result["method"] = method.method;
    if (!method.terms.empty()) result["terms"] = method.terms;
    result["comparisons"] =
        intervals([&](std::size_t comparison, std::size_t metric) { return evaluation.mean(method, comparison, metric); });
    if (relevance != evaluation.methods.end() && &*relevance != &method)
      result["less_relevance"] = intervals(
          [&](std::size_t comparison, std::size_t metric) { return evaluation.difference(method, *relevance, comparison, metric); });
    add_conservation(result, sums_of(method), evaluation.integration.steps);
    if (!method.untreated.empty()) result["untreated"] = method.untreated;
    json["results"].push_back(std::move(result));
  }
  for (const CauseMethod& ceiling : evaluation.ceilings)
    json["ceilings"].push_back(
        {{"method", ceiling.method}, {"samples", ceiling.terms}, {"comparisons", intervals([&](std::size_t comparison, std::size_t metric) {
                                                                    return evaluation.mean(ceiling, comparison, metric);
                                                                  })}});
  for (const auto& [one, other] : formulation_pairs(evaluation.methods)) {
    OrderedJson pair{{"method", one->method}, {"terms", one->terms}, {"less", other->terms}};
    pair["comparisons"] = intervals(
        [&, a = one, b = other](std::size_t comparison, std::size_t metric) { return evaluation.difference(*a, *b, comparison, metric); });
    json["formulations"].push_back(std::move(pair));
  }
}
}  // namespace

std::string cause_json(const CauseEvaluation& evaluation) {
  return written_json(1, [&](OrderedJson& json) { add_results(json, evaluation); });
}

}  // namespace implicit_attention::examples
