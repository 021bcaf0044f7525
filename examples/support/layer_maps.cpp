#include "layer_maps.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/metrics/agreement.hpp>
#include <implicit_attention/metrics/infidelity.hpp>
#include <implicit_attention/models/edge_knock_out.hpp>

#include "command_line.hpp"

namespace implicit_attention::examples {
namespace {

constexpr double not_defined = std::numeric_limits<double>::quiet_NaN();

bool has_layer_map(Method method) {
  switch (method) {
    case Method::raw:
    case Method::gradient:
    case Method::gradient_mean:
    case Method::gradient_maximum:
    case Method::relevance_attention:
    case Method::contribution_norms:
    case Method::contribution_rollout:
    case Method::alti_logit:
      return true;
    default:
      return false;
  }
}

/// Everything that maps of one text are made of.
struct TextMaps {
  const LanguageModel<float>& model;
  const ForwardPass<float>& pass;
  const BackwardPass<float>& exact;
  ReductionKind reduction;
  detail::RandomEngine draws;

  /// (tokens, tokens): entry (i, j) is what the map says of the edge from j to i in the layer's first mixer, whose edges are knocked out.
  Matrix<float> of_layer(const EvaluatedMap& row, Index layer, const BackwardPass<float>* held) {
    const LayerPass<float> layer_pass = model.layer_pass(pass, layer, serial_executor(), false);
    if (row.method == "random") {
      Matrix<float> map(pass.tokens(), pass.tokens());
      for (Index entry = 0; entry < map.size(); ++entry) map.data()[entry] = static_cast<float>(detail::uniform(draws));
      return map;
    }
    const ImplicitAttention<float> attention = model.implicit_attention(layer_pass, layer, row.terms);
    const LayerBackward<float>& d = exact.layers[static_cast<std::size_t>(layer)];
    switch (parse_method(row.method)) {
      case Method::raw: {
        Reduction<float> how;
        how.kind = reduction;
        return attention.reduce(how);
      }
      case Method::gradient:
        return gradient_weighted_map<float>({attention, layer_pass.x(), d.y, d.residual}, GradientForm::exact);
      case Method::gradient_mean:
        return gradient_weighted_map<float>({attention, layer_pass.x(), d.y, d.residual}, GradientForm::mean_gradient);
      case Method::gradient_maximum:
        return gradient_weighted_map<float>({attention, layer_pass.x(), d.y, d.residual}, GradientForm::token_maximum);
      case Method::edge_map:
        return edge_map(attention, layer_pass.x(), d.y);
      case Method::relevance_attention:
        return edge_map(attention, layer_pass.x(), held->layers[static_cast<std::size_t>(layer)].y);
      default:
        break;
    }
    const LayerContributions<float> contributions(model, layer_pass, layer, row.terms);
    Matrix<float> map = Matrix<float>::Zero(pass.tokens(), pass.tokens());
    for (Index i = 0; i < map.rows(); ++i) {
      map.row(i).head(i + 1) = parse_method(row.method) == Method::alti_logit ? contributions.shares(i, true) : contributions.norms(i);
    }
    return map;
  }
};

/// How predicted numbers follow the actual ones: Spearman's correlation, and the share of the squares that stays unexplained when
/// the predicted ones are rescaled by their best factor.
struct Agreement {
  double correlation = not_defined, unexplained = not_defined;
};
Agreement agreement(const std::vector<double>& predicted, const std::vector<double>& actual) {
  Agreement result;
  result.correlation = spearman(predicted, actual);
  const double none = infidelity(std::vector<double>(actual.size(), 0.0), actual);
  if (none > 0) result.unexplained = infidelity(predicted, actual, true) / none;
  return result;
}

/// A mean over layers, without those where it is not defined.
struct LayerMean {
  double sum = 0, count = 0;
  void add(double value) {
    if (std::isnan(value)) return;
    sum += value;
    count += 1;
  }
  [[nodiscard]] double mean() const { return count > 0 ? sum / count : not_defined; }
};

}  // namespace

const std::array<MapMetric, map_metric_count>& map_metrics() {
  static constexpr std::array<MapMetric, map_metric_count> metrics = {{
      {"edges_correlation", "edges", true,
       "Spearman's correlation of a layer's map with what the explained logits lose when one edge is taken out of the layer, "
       "y_i <- y_i - A[i,j] o x_j (of mixers side by side, the first), and the rest of the model is run; mean over layers"},
      {"edges_unexplained", "unexplained", false,
       "share of those changes' squares that the map, times its best factor, does not predict; 1: it predicts nothing"},
      {"inputs_correlation", "inputs", true,
       "Spearman's correlation of the sums of the map's columns with what is lost when one token's input to the layer's mixer is zero, "
       "gates "
       "and decays computed again"},
      {"inputs_unexplained", "unexplained", false, "share of those changes' squares that the sums do not predict"},
  }};
  return metrics;
}

std::vector<EvaluatedMap> map_rows(const std::vector<MethodRow>& rows, const std::string& terms) {
  std::vector<EvaluatedMap> maps;
  for (const MethodRow& row : rows)
    if (has_layer_map(row.method)) maps.push_back({std::string(method_info(row.method).name), row.terms_name, row.terms});
  for (const MethodRow& row : method_rows("raw", terms))
    maps.push_back({std::string(method_info(Method::edge_map).name), row.terms_name, row.terms});
  maps.push_back({"random", "", Terms::all()});
  return maps;
}

std::vector<Index> layers_without_knock_out(const LanguageModel<float>& model) {
  const ForwardPass<float> pass = model.forward({0});
  const KnockOut<float> knock(model, pass);
  std::vector<Index> layers;
  for (const Index layer : model.mixing_layers())
    if (!knock.reaches(layer)) layers.push_back(layer);
  return layers;
}

void knock_out(const LanguageModel<float>& model, const std::vector<Index>& ids, const Target& target, ReductionKind reduction,
               Index most_edges, std::uint64_t seed, const Executor& executor, std::vector<EvaluatedMap>& rows) {
  ForwardOptions forward;
  forward.logit_positions = Indices({target.position});
  forward.executor = executor;
  const ForwardPass<float> pass = model.forward(ids, forward);
  const Matrix<float> gradient = logit_gradient(pass, target.position, target.token, target.contrast);
  BackwardOptions<float> walk;
  walk.executor = executor;
  const BackwardPass<float> exact = backward(model, pass, gradient, walk);
  std::vector<BackwardPass<float>> held(rows.size());  // relevance-attention's walk
  for (std::size_t row = 0; row < rows.size(); ++row)
    if (rows[row].method == method_info(Method::relevance_attention).name)
      held[row] = backward(model, pass, gradient, held_attention_walk<float>(rows[row].terms, executor));
  TextMaps maps{model, pass, exact, reduction, detail::RandomEngine(seed)};
  const KnockOut<float> knock(model, pass, executor);
  std::vector<Index> tokens;
  for (Index token = 0; token <= target.position; ++token) tokens.push_back(token);
  std::vector<std::array<LayerMean, map_metric_count>> means(rows.size());
  for (const Index layer : model.mixing_layers()) {
    if (!knock.reaches(layer)) continue;
    const std::vector<Edge> edges = sample_edges(target.position, most_edges, seed + static_cast<std::uint64_t>(layer));
    const RowVector<double> lost = knock.edge_effects(layer, edges, target).cast<double>(),
                            lost_inputs = knock.input_effects(layer, tokens, target).cast<double>();
    const std::vector<double> actual(lost.begin(), lost.end()), actual_inputs(lost_inputs.begin(), lost_inputs.end());
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const Matrix<double> map = maps.of_layer(rows[row], layer, &held[row]).cast<double>();
      std::vector<double> predicted, predicted_inputs;
      for (const Edge& edge : edges) predicted.push_back(map(edge.to, edge.from));
      for (const Index token : tokens) predicted_inputs.push_back(map.col(token).segment(token, target.position + 1 - token).sum());
      const Agreement of_edges = agreement(predicted, actual), of_inputs = agreement(predicted_inputs, actual_inputs);
      means[row][map_edges].add(of_edges.correlation);
      means[row][map_edges_unexplained].add(of_edges.unexplained);
      means[row][map_inputs].add(of_inputs.correlation);
      means[row][map_inputs_unexplained].add(of_inputs.unexplained);
    }
  }
  for (std::size_t row = 0; row < rows.size(); ++row)
    for (std::size_t metric = 0; metric < map_metric_count; ++metric) rows[row].values[metric].push_back(means[row][metric].mean());
}

}  // namespace implicit_attention::examples
