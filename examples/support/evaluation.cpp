#include "evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/core/error.hpp>

#include "command_line.hpp"
#include "conservation.hpp"
#include "mean_intervals.hpp"
#include "method_table.hpp"
#include "numbers.hpp"
#include "text.hpp"
#include "written_json.hpp"

namespace implicit_attention::examples {
namespace {

/// The mean alone, without the cost of an interval.
double plain_mean(const EvaluatedMethod& method, std::size_t metric) { return bootstrap_mean(method.values[metric], 0, 1).mean; }

int decimals_of(const Evaluation& evaluation, std::size_t metric) {
  double largest = 0;
  for (const EvaluatedMethod& method : evaluation.methods)
    if (const double mean = plain_mean(method, metric); !std::isnan(mean)) largest = std::max(largest, std::abs(mean));
  return largest >= 100 ? 1 : largest >= 10 ? 2 : 3;
}

/// Which rows have a metric's best mean.
std::vector<bool> best_of(const Evaluation& evaluation, std::size_t metric) {
  std::vector<double> means;
  for (const EvaluatedMethod& method : evaluation.methods) means.push_back(plain_mean(method, metric));
  return best_rows(evaluation.methods, means, [&](double a, double b) {
    if (metric == metric_randomized) return std::abs(a) < std::abs(b);  // a negative similarity is a change as well: 0 is best
    return metric_infos()[metric].higher ? a > b : a < b;
  });
}

std::string head(std::size_t metric) {
  const MetricInfo& info = metric_infos()[metric];
  return std::string(info.head) + (info.higher ? " ↑" : " ↓");
}

/// The metrics that have a column.
std::vector<std::size_t> shown_metrics(const Evaluation& evaluation) {
  std::vector<std::size_t> shown;
  for (std::size_t metric = 0; metric < metric_count; ++metric)
    if (evaluation.has(metric)) shown.push_back(metric);
  return shown;
}

Table table_of(const Evaluation& evaluation, const std::vector<std::size_t>& shown, const std::string& best_begin,
               const std::string& best_end) {
  std::vector<EvaluatedMethod> rows = evaluation.methods;
  rows.insert(rows.end(), evaluation.ceilings.begin(), evaluation.ceilings.end());
  std::vector<MethodColumn> columns;
  for (const std::size_t metric : shown) {
    columns.push_back({head(metric), {}, best_of(evaluation, metric)});
    columns.back().best.resize(rows.size(), false);
    for (const EvaluatedMethod& method : rows)
      columns.back().cells.push_back(interval_cell(evaluation.mean(method, metric), decimals_of(evaluation, metric)));
  }
  return method_table(rows, columns, best_begin, best_end);
}

/// The rows of the maps' table as method_table takes them.
struct NamedMap {
  std::string method, terms;
};

Table map_table(const Evaluation& evaluation, const std::string& best_begin, const std::string& best_end) {
  std::vector<NamedMap> names;
  for (const EvaluatedMap& map : evaluation.maps) names.push_back({map.method, map.terms_name});
  std::vector<MethodColumn> columns;
  for (std::size_t metric = 0; metric < map_metric_count; ++metric) {
    const MapMetric& info = map_metrics()[metric];
    MethodColumn column{std::string(info.head) + (info.higher ? " ↑" : " ↓"), {}, {}};
    std::vector<double> means;
    for (const EvaluatedMap& map : evaluation.maps) {
      const MeanInterval mean = evaluation.mean(map, metric);
      column.cells.push_back(interval_cell(mean, 3));
      means.push_back(mean.mean);
    }
    column.best = best_rows(names, means, [&](double a, double b) { return info.higher ? a > b : a < b; });
    columns.push_back(std::move(column));
  }
  return method_table(names, columns, best_begin, best_end);
}
std::string map_title(const Evaluation& evaluation) {
  std::vector<std::string> left_out;
  for (const Index layer : evaluation.layers_without_maps) left_out.push_back(detail::message(layer));
  return detail::message("Maps of single layers against edges knocked out, at most ", evaluation.edges, " a layer, drawn by the seed",
                         left_out.empty() ? std::string()
                                          : detail::message("; without ", left_out.size() == 1 ? "layer " : "layers ", some_of(left_out),
                                                            ", whose mixers cannot be run apart"));
}

using MethodPair = FormulationPair<EvaluatedMethod>;

Table comparison_table(const Evaluation& evaluation, const std::vector<MethodPair>& pairs, const std::vector<std::size_t>& shown) {
  std::vector<std::string> heads{"method", "all less"};
  for (const std::size_t metric : shown) heads.push_back(head(metric));
  Table table(heads);
  for (const auto& [one, other] : pairs) {
    std::vector<std::string> cells{one->method, other->terms};
    for (const std::size_t metric : shown) {
      const MeanInterval difference = evaluation.difference(*one, *other, metric);
      const bool sure = difference.low > 0 || difference.high < 0;
      const bool better = sure && (difference.mean > 0) == metric_infos()[metric].higher;
      cells.push_back(interval_cell(difference, decimals_of(evaluation, metric)) + (!sure ? "  " : better ? " +" : " -"));
    }
    table.add(std::move(cells));
  }
  return table;
}

std::string description(const Evaluation& evaluation) {
  return detail::message(evaluation.architecture, ", ", evaluation.model, ": ", evaluation.texts,
                         evaluation.texts == 1 ? " text of " : " texts of ", evaluation.data, ", ",
                         percent(static_cast<double>(evaluation.right) / static_cast<double>(evaluation.texts)), " predicted right");
}

std::string removal_text(const Evaluation& evaluation) {
  if (evaluation.removal == "unk") return "replaced by <unk>";
  return evaluation.removal == "zero" ? "replaced by an embedding of zeros" : "dropped";
}

std::string ceilings_text(const Evaluation& evaluation) {
  if (evaluation.ceilings.empty()) return "";
  return detail::message(" Ceilings, which run the model on many sets of tokens: shapley, Shapley values by ", evaluation.permutations,
                         " permutations a text; greedy, a search on the curve itself, each of its two orders by itself.");
}

std::string repeated_text(const Evaluation& evaluation) {
  if (evaluation.repeated == 0 || evaluation.repeated == evaluation.texts) return "";
  return detail::message(" Sensitivity and redrawn, which explain a text many times, are of ", evaluation.repeated, " of the texts.");
}

std::string fine_print(const Evaluation& evaluation) {
  return detail::message(
      "Means over texts, ± half of their 95 % bootstrap intervals. Explained is the predicted class: its logit less that of the next "
      "likeliest class. "
      "A token that is taken away is ",
      removal_text(evaluation), ".", integration_text(evaluation.methods, evaluation.integration), ceilings_text(evaluation),
      repeated_text(evaluation));
}

}  // namespace

const std::array<MetricInfo, metric_count>& metric_infos() {
  static constexpr std::array<MetricInfo, metric_count> infos = {{
      {"positive_perturbation", "positive", false,
       "area under the accuracy while the most relevant 10 % to 90 % of the tokens are gone (arXiv 2403.01590)"},
      {"negative_perturbation", "negative", true, "the same with the least relevant tokens gone"},
      {"activation", "activation", true,
       "area under the probability of the predicted class while tokens come back, the most relevant first (arXiv 2403.01590)"},
      {"pruning", "pruning", false,
       "area under the squared change of the explained logits while tokens go, the smallest absolute relevance first (arXiv 2403.01590)"},
      {"comprehensiveness", "comprehens.", true, "fall of the probability without the most relevant 1, 5, 10, 20, 50 % (arXiv 1911.03429)"},
      {"sufficiency", "sufficiency", false, "fall of the probability with those alone"},
      {"flipping_difference", "flipping", true,
       "area under the explained logits with the least relevant gone first, less that with the most relevant gone first (arXiv "
       "2406.07592)"},
      {"leave_one_out_correlation", "one-out", true, "Spearman's correlation with the effect of taking single tokens away"},
      {"infidelity", "infidelity", false,
       "share of the changes under random removals that the rescaled scores do not predict (arXiv 1901.09392); 1: they predict nothing"},
      {"sensitivity_max", "sensitivity", false, "largest relative change of the scores under noise in the embeddings (arXiv 1901.09392)"},
      {"randomized_model_similarity", "redrawn", false,
       "Spearman's correlation of absolute scores with those of the model with all its weights shuffled (arXiv 1810.03292); 0: nothing in "
       "common"},
      {"marked_words_average_precision", "marked", true,
       "average precision of the words that people marked; random scores get about the share that is marked"},
      {"marked_words_top_k_overlap", "marked top", true, "share of marked words among as many of the most relevant ones as are marked"},
  }};
  return infos;
}

MeanInterval Evaluation::mean(const EvaluatedMethod& method, std::size_t metric) const {
  return bootstrap_mean(method.values[metric], seed);
}

MeanInterval Evaluation::difference(const EvaluatedMethod& a, const EvaluatedMethod& b, std::size_t metric) const {
  std::vector<double> differences;
  for (std::size_t text = 0; text < a.values[metric].size(); ++text) differences.push_back(a.values[metric][text] - b.values[metric][text]);
  return bootstrap_mean(differences, seed);
}

MeanInterval Evaluation::mean(const EvaluatedMap& map, std::size_t metric) const { return bootstrap_mean(map.values[metric], seed); }

MeanInterval Evaluation::difference(const EvaluatedMap& a, const EvaluatedMap& b, std::size_t metric) const {
  std::vector<double> differences;
  for (std::size_t text = 0; text < a.values[metric].size(); ++text) differences.push_back(a.values[metric][text] - b.values[metric][text]);
  return bootstrap_mean(differences, seed);
}

bool Evaluation::has(std::size_t metric) const {
  return std::any_of(methods.begin(), methods.end(),
                     [&](const EvaluatedMethod& method) { return !std::isnan(plain_mean(method, metric)); });
}

const EvaluatedMethod* Evaluation::find(const std::string& method, const std::string& terms) const {
  for (const EvaluatedMethod& row : methods)
    if (row.method == method && row.terms == terms) return &row;
  return nullptr;
}

namespace {

/// Stands before the row, the length and the characters of an operation without a rule, behind all other numbers.
constexpr double names_follow = -1;

/// Every list and every count of an evaluation, in one order: packing and joining cannot disagree. `stages`: of a model drawn anew; none
/// where the text is not among those that it was measured on.
template <class OfEvaluation, class List, class Count>
void each_number(OfEvaluation& evaluation, std::size_t stages, List list, Count count) {
  count(evaluation.right);
  for (auto* rows : {&evaluation.methods, &evaluation.ceilings})
    for (auto& method : *rows) {
      for (auto& values : method.values) list(values);
      list(method.explained);
      list(method.gaps);
      count(method.texts_with_zero_rows);
      count(method.texts_with_constant_layers);
    }
  for (auto& method : evaluation.methods) {
    if constexpr (!std::is_const_v<OfEvaluation>) method.randomized.resize(std::max(method.randomized.size(), stages));
    for (std::size_t stage = 0; stage < stages; ++stage) list(method.randomized[stage]);
  }
  for (auto& map : evaluation.maps)
    for (auto& values : map.values) list(values);
}

}  // namespace

std::string packed(const Evaluation& one) {
  std::string bytes;
  const auto put = [&](double number) { bytes.append(reinterpret_cast<const char*>(&number), sizeof(number)); };
  const std::size_t stages = one.methods.empty() ? 0 : one.methods.front().randomized.size();
  put(static_cast<double>(stages));
  each_number(
      one, stages,
      [&](const std::vector<double>& list) {
        put(static_cast<double>(list.size()));
        for (const double number : list) put(number);
      },
      [&](Index count) { put(static_cast<double>(count)); });
  // Where there are any, so that the results of other models are what they were.
  for (std::size_t row = 0; row < one.methods.size(); ++row)
    for (const std::string& operation : one.methods[row].untreated) {
      for (const double number : {names_follow, static_cast<double>(row), static_cast<double>(operation.size())}) put(number);
      for (const char letter : operation) put(static_cast<double>(letter));
    }
  return bytes;
}

void join(Evaluation& evaluation, std::string_view packed) {
  const auto next = [&] {
    double number = 0;
    if (packed.size() < sizeof(number)) detail::raise(ErrorKind::file, "there are fewer numbers than this evaluation has");
    std::memcpy(&number, packed.data(), sizeof(number));
    packed.remove_prefix(sizeof(number));
    return number;
  };
  const auto count_up_to = [&](std::size_t most) {
    const double number = next();
    if (!(number >= 0 && number <= static_cast<double>(most)) || number != std::floor(number))
      detail::raise(ErrorKind::file, "a count is ", number, ", expected a whole number from 0 to ", most);
    return static_cast<std::size_t>(number);
  };
  const std::size_t stages = count_up_to(packed.size() / sizeof(double));
  each_number(
      evaluation, stages,
      [&](std::vector<double>& list) {
        for (std::size_t left = count_up_to(1); left > 0; --left) list.push_back(next());
      },
      [&](Index& count) { count += static_cast<Index>(count_up_to(1)); });
  while (!packed.empty()) {
    if (next() != names_follow) detail::raise(ErrorKind::file, "there are more numbers than this evaluation has");
    const std::size_t row = count_up_to(evaluation.methods.size() - 1);
    std::string operation(count_up_to(packed.size() / sizeof(double)), '\0');
    for (char& letter : operation) letter = static_cast<char>(count_up_to(127));
    detail::append_new(evaluation.methods[row].untreated, {operation});
  }
}

std::string evaluation_text(const Evaluation& evaluation, int width) {
  constexpr int method_columns = 36, metric_columns = 18;
  const std::vector<std::size_t> shown = shown_metrics(evaluation);
  const std::size_t per_table =
      width <= 0 ? metric_count : static_cast<std::size_t>(std::max((width - method_columns) / metric_columns, 1));
  std::vector<std::vector<std::size_t>> tables;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    if (i % per_table == 0) tables.emplace_back();
    tables.back().push_back(shown[i]);
  }
  std::string text = description(evaluation) + "\n";
  for (const std::vector<std::size_t>& columns : tables) text += detail::message('\n', table_of(evaluation, columns, "", " *").text());
  if (const std::vector<MethodPair> pairs = formulation_pairs(evaluation.methods); !pairs.empty()) {
    text += "\nFormulations: all terms less the others, paired by text; + better, - worse, by intervals that hold no 0\n";
    for (const std::vector<std::size_t>& columns : tables)
      text += detail::message('\n', comparison_table(evaluation, pairs, columns).text());
  }
  if (!evaluation.maps.empty()) text += detail::message('\n', map_title(evaluation), "\n\n", map_table(evaluation, "", " *").text());
  text += detail::message('\n', conservation_text(sums_of_all(evaluation.methods), evaluation.integration.steps, "texts", false));
  text += detail::message('\n', fine_print(evaluation), " * best of its column, random scores aside; ↑ higher is better, ↓ lower.\n");
  for (const std::size_t metric : shown) text += "  " + pad(head(metric), 14) + metric_infos()[metric].meaning + "\n";
  if (!evaluation.maps.empty())
    for (const MapMetric& metric : map_metrics()) text += "  " + pad(metric.head, 14) + metric.meaning + "\n";
  return text;
}

std::string evaluation_markdown(const Evaluation& evaluation) {
  const std::vector<std::size_t> shown = shown_metrics(evaluation);
  std::string text = "**" + description(evaluation) + "**\n\n" + table_of(evaluation, shown, "**", "**").markdown();
  if (const std::vector<MethodPair> pairs = formulation_pairs(evaluation.methods); !pairs.empty())
    text += "\nAll terms less the other formulations, paired by text (+ better, - worse, by intervals that hold no 0):\n\n" +
            comparison_table(evaluation, pairs, shown).markdown();
  if (!evaluation.maps.empty()) text += detail::message('\n', map_title(evaluation), ":\n\n", map_table(evaluation, "**", "**").markdown());
  text += detail::message('\n', conservation_text(sums_of_all(evaluation.methods), evaluation.integration.steps, "texts", true));
  text += "\n<!-- columns -->\n" + fine_print(evaluation) +
          " Bold: best of its column, random scores aside. ↑ higher is "
          "better, ↓ lower.\n\n";
  for (const std::size_t metric : shown) text += "- " + head(metric) + ": " + metric_infos()[metric].meaning + "\n";
  if (!evaluation.maps.empty())
    for (const MapMetric& metric : map_metrics()) text += detail::message("- ", metric.head, ": ", metric.meaning, "\n");
  return text;
}

namespace {
void add_results(OrderedJson& json, const Evaluation& evaluation) {
  json["model"] = evaluation.model;
  json["architecture"] = evaluation.architecture;
  json["data"] = evaluation.data;
  json["texts"] = evaluation.texts;
  json["predicted_right"] = evaluation.right;
  json["removal"] = evaluation.removal;
  json["baseline"] = evaluation.integration.baseline;
  json["steps"] = evaluation.integration.steps;
  json["reduce"] = evaluation.reduce;
  json["seed"] = evaluation.seed;
  json["seconds"] = evaluation.seconds;
  json["target"] = "logit of the predicted class less that of the next likeliest class";
  json["interval"] = "95 % percentile bootstrap over texts";
  for (const MetricInfo& info : metric_infos())
    json["metrics"][info.name] = {{"better", info.higher ? "higher" : "lower"}, {"meaning", info.meaning}};
  json["edges_a_layer"] = evaluation.edges;
  if (!evaluation.layers_without_maps.empty()) json["layers_without_maps"] = evaluation.layers_without_maps;
  json["permutations"] = evaluation.permutations;
  json["repeated_texts"] = evaluation.repeated;
  const EvaluatedMethod *random = evaluation.find("random", ""), *relevance = evaluation.find("relevance", "");
  json["results"] = OrderedJson::array();
  for (const EvaluatedMethod& method : evaluation.methods) {
    OrderedJson result;
    result["method"] = method.method;
    if (!method.terms.empty()) result["terms"] = method.terms;
    for (std::size_t metric = 0; metric < metric_count; ++metric) {
      OrderedJson& entry = result["metrics"][metric_infos()[metric].name] = interval_json(evaluation.mean(method, metric));
      if (random != nullptr && random != &method) entry["less_random"] = interval_json(evaluation.difference(method, *random, metric));
      if (relevance != nullptr && relevance != &method)
        entry["less_relevance"] = interval_json(evaluation.difference(method, *relevance, metric));
    }
    for (const std::vector<double>& stage : method.randomized)
      result["randomized_model_stages"].push_back(interval_json(bootstrap_mean(stage, evaluation.seed)));
    add_conservation(result, sums_of(method), evaluation.integration.steps);
    if (!method.untreated.empty()) result["untreated"] = method.untreated;
    result["texts_with_undivided_rows"] = method.texts_with_zero_rows;
    result["texts_with_constant_layers"] = method.texts_with_constant_layers;
    json["results"].push_back(std::move(result));
  }
  for (const auto& [one, other] : formulation_pairs(evaluation.methods)) {
    OrderedJson pair{{"method", one->method}, {"terms", one->terms}, {"less", other->terms}};
    for (std::size_t metric = 0; metric < metric_count; ++metric)
      pair["metrics"][metric_infos()[metric].name] = interval_json(evaluation.difference(*one, *other, metric));
    json["formulations"].push_back(std::move(pair));
  }
  for (const EvaluatedMethod& ceiling : evaluation.ceilings) {
    OrderedJson result{{"method", ceiling.method}, {"samples", ceiling.terms}};
    for (std::size_t metric = 0; metric < metric_count; ++metric) {
      OrderedJson& entry = result["metrics"][metric_infos()[metric].name] = interval_json(evaluation.mean(ceiling, metric));
      if (relevance != nullptr) entry["less_relevance"] = interval_json(evaluation.difference(ceiling, *relevance, metric));
    }
    json["ceilings"].push_back(std::move(result));
  }
  for (const EvaluatedMap& map : evaluation.maps) {
    OrderedJson result{{"map", map.method}};
    if (!map.terms_name.empty()) result["terms"] = map.terms_name;
    for (std::size_t metric = 0; metric < map_metric_count; ++metric) {
      OrderedJson& entry = result["metrics"][map_metrics()[metric].name] = interval_json(evaluation.mean(map, metric));
      entry["better"] = map_metrics()[metric].higher ? "higher" : "lower";
      for (const EvaluatedMap& other : evaluation.maps)
        if (map.terms_name == "all" && other.method == map.method && other.terms_name != "all")
          entry["less_" + other.terms_name] = interval_json(evaluation.difference(map, other, metric));
    }
    json["layer_maps"].push_back(std::move(result));
  }
}
}  // namespace

std::string evaluation_json(const Evaluation& evaluation) {
  return written_json(1, [&](OrderedJson& json) { add_results(json, evaluation); });
}

}  // namespace implicit_attention::examples
