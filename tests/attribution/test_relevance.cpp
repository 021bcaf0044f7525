// Relevance as the record of a pass gives it, against a second source: the rules written layer by layer from each layer's own matrices.
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/models/explainer.hpp>
#include <reference/relevance.hpp>
#include <support/every_logit.hpp>

#include <attribution/cases.hpp>

namespace relevance_test {
namespace {

using namespace attribution_test;
using Step = RelevanceStep<double>;

/// Sums of a few hundred products, in another order.
constexpr double tolerance = 1e-12;

double sum_of(const Numbers& a, const Numbers& b) { return a.cwiseProduct(b).sum(); }

/// Width 6, 8 channels in 4 heads, 2 groups of B and C.
Mamba2<double> random_mamba2(Draw& draw, bool norm, bool before_gate) {
  const Index width = 6, channels = 8, heads = 4, shared = 2 * 3, rows = 2 * channels + 2 * shared + heads;
  Mamba2<double>::Weights w;
  w.in_proj_weight = weight(draw, rows, width);
  w.in_proj_bias = draw.normals<double>(1, rows, 0.3);
  w.conv1d_weight = draw.normals<double>(channels + 2 * shared, 4, 0.5);
  w.conv1d_bias = draw.normals<double>(1, channels + 2 * shared, 0.3);
  w.dt_bias = draw.normals<double>(1, heads);
  w.A_log = draw.uniforms<double>(1, heads, -1, 2);
  w.D = draw.normals<double>(1, heads);
  if (norm) w.norm_weight = draw.normals<double>(1, channels);
  w.out_proj_weight = weight(draw, width, channels);
  w.out_proj_bias = draw.normals<double>(1, width, 0.3);
  Mamba2<double>::Options options;
  options.groups = options.norm_groups = 2;
  options.norm_before_gate = before_gate;
  return Mamba2<double>(w, options);
}

/// A layer's relevance from the record of one run.
template <class Layer>
Step recorded(const Layer& layer, const Numbers& u, const Numbers& g, const typename Layer::State* initial,
              const std::vector<Index>& starts = {}, const std::vector<Index>& positions = {}) {
  Trace<double> trace(true, serial_executor(), starts);
  RunContext<double> context;
  context.positions = positions;
  const Value<double> input = trace.input(u);
  const LayerRun<Layer> run = layer.run(input, context, initial);
  WalkResult<double> walked = trace.walk_back(WayBack::relevance, {{run.out, g}}, {input});
  CHECK(walked.untreated.empty());
  // Conserved: what the tokens and the constants take is what is explained.
  const double explained = sum_of(*run.out, g), taken = sum_of(u, walked.gradients.front());
  CHECK(std::abs(taken + walked.bias_share - explained) <= tolerance * (1 + std::abs(taken) + std::abs(walked.bias_share)));
  return {std::move(walked.gradients.front()), walked.bias_share};
}

void check_step(const Step& came, const Step& expected) {
  CHECK(relative_error(came.grad, expected.grad) <= tolerance);
  CHECK(std::abs(came.bias_share - expected.bias_share) <= tolerance * (1 + std::abs(expected.bias_share)));
}

/// One text, the next piece of one, and three documents in one sequence.
template <class Layer>
void check_layer(const Layer& layer, Draw& draw) {
  const Index tokens = 9;
  const Numbers before = draw.normals<double>(5, layer.width()), u = draw.normals<double>(tokens, layer.width()),
                g = draw.normals<double>(tokens, layer.width());
  check_step(recorded(layer, u, g, nullptr), relevance_through(layer, layer.activations(u), g));

  const typename Layer::State state = layer.activations(before).final;
  const typename Layer::Activations continued = layer.activations(u, &state);
  REQUIRE(layer.implicit_attention(continued).carry().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 1e-3);
  check_step(recorded(layer, u, g, &state), relevance_through(layer, continued, g));

  const std::vector<Index> starts = {0, 4, 5}, positions = {0, 1, 2, 3, 0, 0, 1, 2, 3};
  Step each{Numbers(tokens, layer.width()), 0};
  for (std::size_t document = 0; document < starts.size(); ++document) {
    const Index first = starts[document], count = (document + 1 < starts.size() ? starts[document + 1] : tokens) - first;
    const Numbers own = u.middleRows(first, count);
    const Step step = relevance_through(layer, layer.activations(own), Numbers(g.middleRows(first, count)));
    each.grad.middleRows(first, count) = step.grad;
    each.bias_share += step.bias_share;
  }
  check_step(recorded(layer, u, g, nullptr, starts, positions), each);
}

/// A model of cases.hpp, from one logit, or the difference of two, back to its embeddings.
Step model_relevance(const LanguageModel<double>& model, const std::vector<Index>& ids, const Target& target) {
  const ForwardPass<double> pass = model.forward(ids, test_support::every_logit());
  const LanguageModelParts<double>& parts = model.parts();
  double bias_share = 0;
  const auto walk = [&](Step step) {
    bias_share += step.bias_share;
    return std::move(step.grad);
  };
  const Numbers raw = parts.final_norm(*pass.final_residual) * parts.head.matrix().transpose();
  Numbers g = Numbers::Zero(raw.rows(), raw.cols());
  const auto seed = [&](Index token, double sign) {
    const double logit = raw(target.position, token);
    g(target.position, token) += sign * (parts.soft_cap > 0 ? parts.soft_cap * std::tanh(logit / parts.soft_cap) / logit : 1);
  };
  seed(target.token, 1);
  if (target.contrast) seed(*target.contrast, -1);
  g = walk(relevance_through_norm<double>(parts.final_norm, *pass.final_residual, walk(relevance_through_linear<double>(g, parts.head))));
  for (Index layer = model.layer_count() - 1; layer >= 0; --layer) {
    const Block<double>& block = model.block(layer);
    const LayerPass<double>& at = pass.layers[static_cast<std::size_t>(layer)];
    if (block.sublayers.size() > 1) {
      const Norm<double>& norm = block.sublayers[1].norm;
      const Numbers u = norm(*at.middle);
      Numbers d;
      if (const auto* gated = block.find<GatedFeedForward<double>>()) d = walk(relevance_through(*gated, u, g));
      if (const auto* mixing = block.find<ChannelMixing<double>>()) d = walk(relevance_through(*mixing, u, g));
      g += walk(relevance_through_norm<double>(norm, *at.middle, d));
    }
    const Norm<double>& norm = block.sublayers[0].norm;
    const Numbers u = norm(*at.residual);
    Numbers d;
    const auto mixer = [&](const auto* of) {
      if (of != nullptr) d = walk(relevance_through(*of, of->activations(u), g));
    };
    mixer(block.find<Mamba<double>>());
    mixer(block.find<Rwkv4<double>>());
    mixer(block.find<Griffin<double>>());
    mixer(block.find<SoftmaxAttention<double>>());
    g += walk(relevance_through_norm<double>(norm, *at.residual, d));
  }
  g = parts.embedding_norm.empty() ? Numbers(parts.embedding_scale * g)
                                   : walk(relevance_through_norm<double>(parts.embedding_norm, *pass.embeddings, g));
  return {std::move(g), bias_share};
}

/// The scores of the tokens: embedding times gradient, summed over the width.
RowVector<double> scores_of(const LanguageModel<double>& model, const std::vector<Index>& ids, const Step& step) {
  return model.embed(ids).cwiseProduct(step.grad).rowwise().sum().transpose();
}

/// A feed-forward part with a function that relevance has no rule for.
struct SigmoidFeedForward {
  using Scalar = double;
  static constexpr std::string_view part_name = "SigmoidFeedForward";
  Array<double> in, out;
  [[nodiscard]] Index width() const { return in.cols(); }
  [[nodiscard]] Value<double> run(const Value<double>& u, RunContext<double>&) const { return linear(sigmoid(linear(u, in)), out); }
};

}  // namespace

TEST_CASE("relevance: a layer's record agrees with the second source", "[attribution]") {
  Draw draw(61);
  for (const bool biases : {true, false}) {
    INFO("biases " << biases);
    check_layer(random_mamba(draw, 6, 8, biases), draw);
    check_layer(random_griffin(draw, 6, 8, biases), draw);
  }
  check_layer(random_mamba2(draw, false, false), draw);
  check_layer(random_mamba2(draw, true, false), draw);
  check_layer(random_mamba2(draw, true, true), draw);
  check_layer(random_rwkv4(draw, 6, 8), draw);
}

TEST_CASE("relevance: documents behind a carried state", "[attribution]") {
  Draw draw(62);
  const Griffin<double> port = random_griffin(draw, 6, 8, true);
  for (const bool convolution_within_documents : {false, true}) {
    const Griffin<double> layer(port.weights(), {convolution_within_documents});
    const Numbers before = draw.normals<double>(5, 6), u = draw.normals<double>(7, 6), g = draw.normals<double>(7, 6);
    const std::vector<Index> positions = {5, 6, 0, 1, 0, 0, 1};
    const Griffin<double>::State state = layer.activations(before).final;
    check_step(recorded(layer, u, g, &state, {}, positions), relevance_through(layer, layer.activations(u, positions, &state), g));
  }
}

TEST_CASE("relevance: a whole model's agrees with the second source", "[attribution]") {
  for (const std::string& architecture : architectures())
    for (const bool biases : {true, false}) {
      const LanguageModel<double> model = random_model(architecture, 63, biases);
      const std::vector<Index> ids = random_ids(9, 64);
      for (const std::optional<Index> contrast : {std::optional<Index>(), std::optional<Index>(7)})
        for (const Index position : {Index(8), Index(5)}) {
          const Target target{position, 3, contrast};
          const Step expected = model_relevance(model, ids, target);
          for (const Keep keep : {Keep::activations, Keep::residuals}) {
            INFO(architecture << ", biases " << biases << ", contrast " << contrast.has_value() << ", position " << position
                              << ", activations kept " << (keep == Keep::activations));
            ForwardOptions options = test_support::every_logit();
            options.keep = keep;
            Explainer<double> explainer(model, ids, options);
            const Attribution<double> result = explainer.explain(Method::relevance, target);
            CHECK(relative_error(result.scores, scores_of(model, ids, expected)) <= tolerance);
            CHECK(std::abs(result.bias_share - expected.bias_share) <= tolerance * (1 + std::abs(expected.bias_share)));
            CHECK(result.untreated.empty());
          }
        }
      // The second of two documents, as the text that it is.
      ForwardOptions together = test_support::every_logit();
      together.starts = {0, 4};
      const ForwardPass<double> pass = model.forward(ids, together);
      const Attribution<double> packed = relevance(model, pass, logit_gradient(pass, 8, 3, Index(7)), 8);
      const std::vector<Index> second(ids.begin() + 4, ids.end());
      const Step alone = model_relevance(model, second, {4, 3, Index(7)});
      CHECK(packed.scores.head(4).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() == 0);
      CHECK(relative_error(packed.scores.tail(5), scores_of(model, second, alone)) <= tolerance);
      CHECK(std::abs(packed.bias_share - alone.bias_share) <= tolerance * (1 + std::abs(alone.bias_share)));
    }
}

TEST_CASE("relevance names the operations that it has no rule for", "[attribution]") {
  Draw draw(65);
  LanguageModelParts<double> parts = random_model("mamba", 66).parts();
  parts.blocks[1].sublayers.emplace_back(Norm<double>::rms(6, 1e-5),
                                         feed_forward_part(SigmoidFeedForward{weight(draw, 8, 6), weight(draw, 6, 8)}));
  const LanguageModel<double> model(std::move(parts));
  const std::vector<Index> ids = random_ids(5, 67);
  for (const Keep keep : {Keep::activations, Keep::residuals}) {
    ForwardOptions options;
    options.keep = keep;
    Explainer<double> explainer(model, ids, options);
    const Attribution<double> result = explainer.explain(Method::relevance, {4, 3, {}});
    CHECK(result.untreated == std::vector<std::string>{"sigmoid"});
    // What reached it is missing from the sum.
    CHECK(std::abs(result.scores.sum() + result.bias_share - result.explained) > 1e-3);
  }
}

}  // namespace relevance_test
