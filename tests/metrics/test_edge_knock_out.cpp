// Edges and inputs knocked out of one layer, against a rerun that shares nothing with it but the parts: contributions by double loops over
// every channel's matrix, and the rest of the model as a model of its own.
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/models/edge_knock_out.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <models/golden_models.hpp>

namespace {

using namespace models_test;
namespace fs = std::filesystem;
using Numbers = Matrix<double>;

/// The logits at `position` of what comes behind a layer's first sublayer, begun with another residual stream there.
Numbers logits_behind(const LanguageModel<double>& model, Index layer, const Numbers& middle, Index position) {
  LanguageModelParts<double> parts = model.parts();
  parts.embedding_norm = {};
  parts.embedding_scale = 1;
  parts.blocks.erase(parts.blocks.begin(), parts.blocks.begin() + static_cast<std::ptrdiff_t>(layer));
  std::vector<Sublayer<double>>& sublayers = parts.blocks.front().sublayers;
  sublayers.erase(sublayers.begin());
  if (sublayers.empty()) parts.blocks.erase(parts.blocks.begin());
  if (parts.blocks.empty()) return model.logits_of(middle).row(position);
  return LanguageModel<double>(parts).forward_embeddings(middle, test_support::every_logit()).logits.row(position);
}

double value_of(const Numbers& logits, const Target& target) {
  return logits(0, target.token) - (target.contrast ? logits(0, *target.contrast) : 0.0);
}

/// Whether a layer is one token mixer behind a norm, and other parts behind it: what the rerun of this file can do.
bool plain(const LanguageModel<double>& model, const ForwardPass<double>& pass, Index layer) {
  const Sublayer<double>& first = model.block(layer).sublayers.front();
  return first.branches.size() == 1 && first.branches.front().part->channels() != 0 && first.norm_after.empty() && pass.shared.empty() &&
         !model.parts().shares_embeddings && pass.layers[static_cast<std::size_t>(layer)].mixers.size() == 1;
}

/// Effects of a few edges and inputs of one layer, by rerun and by KnockOut: the largest difference relative to the largest effect.
void check_layer(const LanguageModel<double>& model, const ForwardPass<double>& pass, const KnockOut<double>& knock_out, Index layer,
                 const Target& target) {
  INFO(model.name() << " layer " << layer);
  const LayerPass<double>& of_layer = pass.layers[static_cast<std::size_t>(layer)];
  const Sublayer<double>& sublayer = model.block(layer).sublayers.front();
  const Branch<double>& branch = sublayer.branches.front();
  const double scale = branch.output_scale * sublayer.residual_scale;
  const ImplicitAttention<double> attention = model.implicit_attention(of_layer, layer);
  const auto matrix = attention.materialize();
  const Numbers projection = *of_layer.mixer().projection;
  const double whole = value_of(pass.logits.row(target.position), target);
  CHECK(whole == Approx(value_of(logits_behind(model, layer, *of_layer.middle, target.position), target)).epsilon(1e-9));

  std::vector<Edge> edges = sample_edges(target.position, 6, 5);
  edges.insert(edges.end(), {{target.position, 0}, {target.position, target.position}});  // in the last layer the others do nothing
  Numbers expected(1, static_cast<Index>(edges.size()));
  for (std::size_t e = 0; e < edges.size(); ++e) {
    const auto [i, j] = edges[e];
    Numbers middle = *of_layer.middle;
    for (Index d = 0; d < projection.rows(); ++d)
      for (Index channel = 0; channel < projection.cols(); ++channel) {
        double edge = matrix(channel, i, j) * of_layer.x()(j, channel);
        if (attention.has_second()) {
          const auto second = attention.second().materialize();
          edge += second(channel, i, j) * attention.second_input()(j, channel);
        }
        middle(i, d) -= scale * projection(d, channel) * edge;
      }
    expected(0, static_cast<Index>(e)) = whole - value_of(logits_behind(model, layer, middle, target.position), target);
  }
  CHECK(relative_error(knock_out.edge_effects(layer, edges, target), expected) < 1e-7);

  const std::vector<Index> tokens{0, target.position / 2, target.position};
  Numbers without(1, 3);
  for (std::size_t k = 0; k < tokens.size(); ++k) {
    Trace<double> trace(false);
    RunContext<double> context;
    context.layer = layer;
    Numbers u = branch.input_scale * *of_layer.u;
    u.row(tokens[k]).setZero();
    const Numbers middle = *of_layer.residual + scale * *branch.part->run(trace.input(u), context);
    without(0, static_cast<Index>(k)) = whole - value_of(logits_behind(model, layer, middle, target.position), target);
  }
  CHECK(relative_error(knock_out.input_effects(layer, tokens, target), without) < 1e-7);
}

}  // namespace

TEST_CASE("an edge knocked out is the model run without it", "[knock-out]") {
  const std::string name = GENERATE("mamba", "rwkv4", "griffin");
  const LanguageModel<double> model = shipped(name);
  const ForwardPass<double> pass = model.forward(some_ids(9, model.vocabulary()), test_support::every_logit());
  const KnockOut<double> knock_out(model, pass);
  for (const Index layer : model.mixing_layers()) {
    REQUIRE(plain(model, pass, layer));
    check_layer(model, pass, knock_out, layer, {8, 4, 3});
    check_layer(model, pass, knock_out, layer, {5, 4, std::nullopt});
  }
}

TEST_CASE("the same in every family whose layers a rerun can be written for", "[knock-out]") {
  std::set<std::string> families;
  for (const fs::path& path : golden_models()) {
    const Golden golden(path);
    INFO(path.filename().string());
    const LanguageModel<double> model = load_language_model<double>(golden.weights<double>(), golden.configuration);
    const ForwardPass<double> pass = model.forward(golden.ids, test_support::every_logit());
    if (!model.causal()) continue;
    const KnockOut<double> knock_out(model, pass);
    for (const Index layer : model.mixing_layers()) {
      if (!plain(model, pass, layer) || pass.layers[static_cast<std::size_t>(layer)].mixer().projection.empty()) continue;
      check_layer(model, pass, knock_out, layer, {pass.tokens() - 1, golden.integers("expected.target_token").front(), std::nullopt});
      families.insert(model.name());
    }
  }
  CHECK(families.size() >= (test_support::shared_data("golden") ? 8U : 1U));
}

TEST_CASE("a layer without all edges of a row has what no token adds there, and edge effects follow their derivative", "[knock-out]") {
  const LanguageModel<double> model = shipped("mamba");
  const Index tokens = 7;
  Explainer<double> explainer(model, some_ids(tokens, model.vocabulary()));
  const Target target{tokens - 1, 4, 3};
  const KnockOut<double> knock_out(model, explainer.pass());
  const BackwardPass<double>& gradients = explainer.gradients(target);
  const std::vector<Edge> all = sample_edges(tokens - 1, 1000, 1);
  CHECK(all.size() == static_cast<std::size_t>(tokens * (tokens + 1) / 2));
  // The last layer's edges into other rows than the last do nothing: the model has no other mixer behind them.
  const RowVector<double> last = knock_out.edge_effects(1, all, target);
  const Numbers map = edge_map(model.implicit_attention(explainer.pass(), 1), explainer.pass().layers[1].x(), gradients.layers[1].y);
  for (std::size_t e = 0; e < all.size(); ++e) {
    if (all[e].to < tokens - 1)
      CHECK(last[static_cast<Index>(e)] == 0);
    else  // small edges: the derivative, up to the square of their size
      CHECK(last[static_cast<Index>(e)] ==
            Approx(map(all[e].to, all[e].from)).margin(0.05 * map.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()).epsilon(0.3));
  }
}

TEST_CASE("knocked-out edges: any number of workers, any kept pass, the same bits", "[knock-out]") {
  const LanguageModel<float> model = [] {
    const fs::path folder = fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "examples" / "models" / "griffin";
    return load_language_model(SafetensorsSource<float>(folder), read_configuration(folder));
  }();
  const std::vector<Index> ids = some_ids(8, model.vocabulary());
  ForwardOptions residuals;
  residuals.keep = Keep::residuals;
  const std::vector<Edge> edges = sample_edges(7, 20, 2);
  const Target target{7, 4, 3};
  const RowVector<float> one = KnockOut<float>(model, model.forward(ids)).edge_effects(1, edges, target);
  CHECK(one == KnockOut<float>(model, model.forward(ids, residuals)).edge_effects(1, edges, target));
  CHECK(one == KnockOut<float>(model, model.forward(ids), thread_executor(3)).edge_effects(1, edges, target));
}

TEST_CASE("inputs knocked out of documents that stand in one sequence: each as by itself, and nothing in another", "[knock-out]") {
  const std::string name = GENERATE("mamba", "rwkv4", "griffin");
  const Keep keep = GENERATE(Keep::activations, Keep::residuals);
  INFO(name);
  const LanguageModel<double> model = shipped(name);
  const std::vector<Index> ids = some_ids(13, model.vocabulary()), starts{0, 5, 6};
  ForwardOptions options;
  options.keep = keep;
  options.logit_positions = Indices::all();
  ForwardOptions together = options;
  together.starts = starts;
  const KnockOut<double> packed(model, model.forward(ids, together));
  std::vector<Index> tokens;
  for (Index token = 0; token < 13; ++token) tokens.push_back(token);
  for (std::size_t document = 0; document < starts.size(); ++document) {
    const Index first = starts[document], end = document + 1 < starts.size() ? starts[document + 1] : 13;
    const KnockOut<double> alone(model, model.forward(std::vector<Index>(ids.begin() + first, ids.begin() + end), options));
    for (const Index layer : model.mixing_layers())
      for (const Index position : {first, end - 1}) {
        INFO("document " << document << ", layer " << layer << ", position " << position);
        const RowVector<double> effects = packed.input_effects(layer, tokens, {position, 4, 3});
        Numbers own = Numbers::Zero(1, 13);  // what stands in another document does nothing
        for (Index token = first; token < end; ++token)
          own(0, token) = alone.input_effects(layer, {token - first}, {position - first, 4, 3})[0];
        CHECK(own(0, position) != 0);
        CHECK((effects - own).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <
              1e-10 * own.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      }
  }
  // The attention of such a run is not that of one text, and so are its edges.
  CHECK_THAT(error_of([&] { (void)packed.edge_effects(0, {{1, 1}}, {1, 4, 3}); }), contains_text("several documents ran in one sequence"));
}

TEST_CASE("sampled edges: in order, without repetition, the same for the same seed, evenly spread", "[knock-out]") {
  const std::vector<Edge> edges = sample_edges(19, 150, 7);
  CHECK(edges.size() == 150);
  std::set<std::pair<Index, Index>> seen;
  for (const auto& [to, from] : edges) {
    CHECK((from >= 0 && from <= to && to <= 19));
    CHECK((seen.empty() || std::pair(to, from) > *seen.rbegin()));
    seen.insert({to, from});
  }
  CHECK(seen.size() == 150);
  std::vector<int> counts(6, 0);  // of 6 edges, 2 are drawn: each in a third of 3,000 draws, standard deviation 26
  for (std::uint64_t seed = 0; seed < 3000; ++seed)
    for (const auto& [to, from] : sample_edges(2, 2, seed)) ++counts[static_cast<std::size_t>(to * (to + 1) / 2 + from)];
  for (const int count : counts) CHECK(std::abs(count - 1000) < 130);
  CHECK_THAT(error_of([] { (void)sample_edges(-1, 2, 1); }), contains_text("position -1"));
  CHECK_THAT(error_of([] { (void)sample_edges(std::numeric_limits<Index>::max(), 2, 1); }), contains_text("expected at most 16777216"));
  CHECK_THAT(error_of([] { (void)sample_edges(3, 0, 1); }), contains_text("at most 0 edges"));
}

TEST_CASE("knock-out: what is out of range is named", "[knock-out]") {
  const LanguageModel<double> model = shipped("mamba");
  const ForwardPass<double> pass = model.forward(some_ids(4, model.vocabulary()));
  const KnockOut<double> knock_out(model, pass);
  const Target target{3, 4, 3};
  CHECK_THAT(error_of([&] { (void)knock_out.edge_effects(0, {{1, 2}}, target); }), contains_text("edge (1, 2) is out of range"));
  CHECK_THAT(error_of([&] { (void)knock_out.edge_effects(0, {{4, 2}}, target); }), contains_text("edge (4, 2) is out of range"));
  CHECK_THAT(error_of([&] { (void)knock_out.edge_effects(2, {{1, 1}}, target); }), contains_text("layer 2"));
  CHECK_THAT(error_of([&] { (void)knock_out.edge_effects(0, {{1, 1}}, target, 1); }), contains_text("token mixer 1 of layer 0"));
  CHECK_THAT(error_of([&] { (void)knock_out.edge_effects(0, {{1, 1}}, {4, 4, 3}); }), contains_text("4"));
  CHECK_THAT(error_of([&] { (void)knock_out.edge_effects(0, {{1, 1}}, {3, -1, 3}); }), contains_text("target token -1"));
  CHECK_THAT(error_of([&] { (void)knock_out.edge_effects(0, {{1, 1}}, {3, 1, 999999}); }), contains_text("contrast token 999999"));
  CHECK_THAT(error_of([&] { (void)knock_out.input_effects(0, {4}, target); }), contains_text("4"));
  ForwardOptions logits;
  logits.keep = Keep::logits;
  CHECK_THAT(error_of([&] { KnockOut<double>(model, model.forward({1, 2}, logits)); }), contains_text("kept 0 layers"));
}
