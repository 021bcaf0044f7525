// The layer of examples/own_layer.cpp, which stands outside the library: its operator, its map against a loop from its equation, its
// gradient against finite differences, its relevance against what it has to add up to.
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/models/edge_knock_out.hpp>

// Its main returns nothing, as only a main may.
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wreturn-type"
#endif
#define main own_layer_main
#include "../../examples/own_layer.cpp"
#undef main
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace {

constexpr Index own_width = 6;

GatedAverage own_layer(std::uint64_t seed) {
  test_support::Draw draw(seed);
  const auto square = [&] { return Array<double>(Matrix<double>(draw.normals<double>(own_width, own_width) * 0.6)); };
  return {square(), square(), square()};
}

LanguageModel<double> own_model() {
  test_support::Draw draw(5);
  LanguageModelParts<double> parts;
  parts.name = "OwnModel";
  parts.embedding = draw.normals<double>(12, own_width);
  parts.head = draw.normals<double>(12, own_width);
  parts.final_norm = Norm<double>::rms(own_width, 1e-5);
  for (std::uint64_t layer = 0; layer < 3; ++layer)
    parts.blocks.push_back({{{Norm<double>::rms(own_width, 1e-5), mixer_part(own_layer(10 + layer))}}});
  return LanguageModel<double>(parts);
}

const std::vector<Index> own_ids{3, 1, 4, 0, 5, 9, 2};

}  // namespace

TEST_CASE("a layer of one's own: its map is that of its equation, and gives its output", "[own_layer]") {
  const GatedAverage layer = own_layer(1);
  const Index tokens = 9;
  const Matrix<double> u = test_support::Draw(2).normals<double>(tokens, own_width);
  Trace<double> trace;
  RunContext<double> context;
  const LayerRun<GatedAverage> run = layer.run(trace.constant(u), context);
  const AttentionMatrix<double> maps = ImplicitAttention<double>(layer.lower(run.activations, Terms::all())).materialize();
  const Matrix<double> f = u * layer.forget.matrix().transpose(), z = u * layer.gate.matrix().transpose(),
                       x = u * layer.input.matrix().transpose();
  const auto squash = [](double v) { return 1 / (1 + std::exp(-v)); };
  for (Index e = 0; e < own_width; ++e) {
    const Matrix<double> map = maps.channel(e);
    for (Index i = 0; i < tokens; ++i) {
      double y = 0;
      for (Index j = 0; j < tokens; ++j) {
        double entry = j > i ? 0 : z(i, e) * squash(z(i, e)) * squash(f(j, e));
        for (Index t = j + 1; t <= i; ++t) entry *= 1 - squash(f(t, e));
        CHECK(std::abs(map(i, j) - entry) < 1e-14);
        y += entry * x(j, e);
      }
      CHECK(std::abs((*run.y)(i, e) - y) < 1e-14);
    }
  }
}

TEST_CASE("a layer of one's own in a stack: the gradient of every token is that of finite differences", "[own_layer]") {
  const LanguageModel<double> model = own_model();
  const Index last = static_cast<Index>(own_ids.size()) - 1, token = 7, contrast = 8;
  Explainer<double> explainer(model, own_ids);
  const Attribution<double> scores = explainer.explain(Method::gradient_x_input, {last, token, contrast});
  REQUIRE(scores.scores.size() == static_cast<Index>(own_ids.size()));
  const Matrix<double> embeddings = model.embed(own_ids);
  const auto value = [&](Index scaled, double factor) {
    Matrix<double> changed = embeddings;
    changed.row(scaled) *= factor;
    const ForwardPass<double> pass = model.forward_embeddings(changed);
    return pass.logits(pass.logits.rows() - 1, token) - pass.logits(pass.logits.rows() - 1, contrast);
  };
  // d/dt of the value with token j's embedding times 1 + t is that embedding times its gradient.
  for (Index j = 0; j <= last; ++j) {
    constexpr double step = 1e-5;
    const double difference = (value(j, 1 + step) - value(j, 1 - step)) / (2 * step);
    CHECK(std::abs(scores.scores(j) - difference) < 1e-8 * (1 + std::abs(difference)));
  }
}

TEST_CASE("a pass of logits alone has token mixers for whoever looks at them", "[own_layer]") {
  const LanguageModel<double> model = own_model();
  ForwardOptions options;
  options.keep = Keep::logits;
  const Matrix<double> logits = model.forward(own_ids, options).logits;
  Index seen = 0;
  const auto look = [&](Index layer, const LayerPass<double>& pass) {
    seen += static_cast<Index>(pass.mixers.size());
    CHECK(layer == seen - 1);
    CHECK(pass.x().rows() == static_cast<Index>(own_ids.size()));
  };
  CHECK(model.forward(own_ids, options, look).logits == logits);
  CHECK(seen == 3);
  options.keep = Keep::activations;
  CHECK(model.forward(own_ids, options).logits == logits);
  // The search for a number that is not finite looks at them, too.
  LanguageModelParts<double> parts = model.parts();
  parts.blocks[1].sublayers[0].branches[0].input_scale = std::numeric_limits<double>::infinity();
  options.keep = Keep::logits;
  options.check_finite = true;
  CHECK_THROWS_WITH(LanguageModel<double>(parts).forward(own_ids, options), contains_text("OwnModel, layer 1: "));
  CHECK_THROWS_WITH(LanguageModel<double>(parts).forward(own_ids, options), contains_text("NaN in linear input x at token 0, channel 0"));
}

TEST_CASE("a layer of one's own whose output is of another width than the model's is named", "[own_layer]") {
  struct NarrowPart final : Part<double> {
    [[nodiscard]] Value<double> run(const Value<double>& u, RunContext<double>& context) const override {
      return columns(own_layer(1).run(u, context).out, 0, own_width - 1);
    }
    [[nodiscard]] Index width() const override { return own_width; }
    [[nodiscard]] std::string name() const override { return "NarrowPart"; }
  };
  test_support::Draw draw(5);
  LanguageModelParts<double> parts;
  parts.name = "OwnModel";
  parts.embedding = parts.head = draw.normals<double>(12, own_width);
  parts.final_norm = Norm<double>::rms(own_width, 1e-5);
  parts.blocks.push_back({{{Norm<double>::rms(own_width, 1e-5), std::make_shared<const NarrowPart>()}}});
  CHECK_THROWS_WITH(LanguageModel<double>(parts).forward(own_ids),
                    contains_text("layer 0's NarrowPart: output is (7, 5), expected (7, 6)"));
  parts.head_bias = draw.normals<double>(1, 11);
  CHECK_THROWS_WITH(LanguageModel<double>(parts), contains_text("OwnModel: head_bias is (11), expected (12) = (vocabulary)"));
}

TEST_CASE("a part of one's own that says what it is not, or not all that it is, is named", "[own_layer]") {
  struct OwnPart final : Part<double> {
    Index said = 1;          // token mixers
    bool looks_back = true;  // what it says of itself
    bool mixes = true;
    bool second_path = false;  // has one, whose input its run does not give
    [[nodiscard]] Value<double> run(const Value<double>& u, RunContext<double>& context) const override {
      const GatedAverage layer = own_layer(1);
      const LayerRun<GatedAverage> run = layer.run(u, context);
      MixerRun<double> mixer;
      mixer.x = run.x;
      mixer.y = mixer.out = run.y;
      mixer.attention = [this, layer, act = run.activations](Terms terms) {
        UnifiedForm<double> form = layer.lower(act, terms);
        if (second_path) form.second = std::make_shared<const SecondPath<double>>(SecondPath<double>{layer.lower(act, terms), act.x});
        return ImplicitAttention<double>(form);
      };
      if (mixes) context.mixers.push_back(mixer);
      return run.out;
    }
    [[nodiscard]] Index width() const override { return own_width; }
    [[nodiscard]] Index channels() const override { return mixes ? own_width : 0; }
    [[nodiscard]] Index mixers() const override { return said; }
    [[nodiscard]] bool causal() const override { return looks_back; }
    [[nodiscard]] std::string name() const override { return "OwnPart"; }
  };
  const auto model_of = [](const auto& change) {
    const auto part = std::make_shared<OwnPart>();
    change(*part);
    LanguageModelParts<double> parts;
    parts.name = "OwnModel";
    parts.embedding = parts.head = test_support::Draw(5).normals<double>(12, own_width);
    parts.final_norm = Norm<double>::rms(own_width, 1e-5);
    parts.blocks.push_back({{{Norm<double>::rms(own_width, 1e-5), part}}});
    return LanguageModel<double>(parts);
  };
  const auto knocked_out = [](const LanguageModel<double>& model) {
    const ForwardPass<double> pass = model.forward(own_ids);
    (void)KnockOut<double>(model, pass).edge_effects(0, {{3, 1}}, {6, 1, {}});
  };
  const LanguageModel<double> both_ways = model_of([](OwnPart& part) { part.looks_back = false; });
  CHECK_THROWS_WITH(knocked_out(both_ways), contains_text("OwnModel looks at later tokens, expected a causal model"));
  CarriedStates states;
  CHECK_THROWS_WITH((void)both_ways.next_logits(own_ids, states), contains_text("a layer looks at later tokens, so there is no next one"));
  CHECK_THROWS_WITH(knocked_out(model_of([](OwnPart& part) { part.said = 2; })), contains_text("has 2 token mixers in fewer parts"));
  CHECK_THROWS_WITH(knocked_out(model_of([](OwnPart& part) { part.said = 0; })),
                    contains_text("the parts of layer 0 of OwnModel have 0 token mixers by Part::mixers(), and ran 1"));
  CHECK_THROWS_WITH(knocked_out(model_of([](OwnPart&) {})), contains_text("a token mixer whose output projection is not known"));

  const LanguageModel<double> mixes_none = model_of([](OwnPart& part) {
    part.mixes = false;
    part.said = 0;
  });
  CHECK_THROWS_WITH((void)mixes_none.implicit_attention(mixes_none.forward(own_ids), 0),
                    contains_text("OwnModel: layer 0 is a feed-forward part and mixes no tokens, so it has no attention"));

  const LanguageModel<double> two_paths = model_of([](OwnPart& part) { part.second_path = true; });
  const ForwardPass<double> pass = two_paths.forward(own_ids);
  const Matrix<double> d = Matrix<double>::Ones(pass.logits.rows(), pass.logits.cols());
  CHECK_THROWS_WITH((void)backward(two_paths, pass, d, held_attention_walk<double>(Terms::published())),
                    contains_text("a layer has a second path, and its run does not give the input of it"));
}

TEST_CASE("a stack that lacks a layer, a part or its embedding is named", "[own_layer]") {
  LanguageModelParts<double> parts;
  parts.name = "OwnModel";
  parts.final_norm = Norm<double>::rms(own_width, 1e-5);
  CHECK_THROWS_WITH(LanguageModel<double>(parts), contains_text("OwnModel: the embedding is empty, expected (vocabulary, width)"));
  parts.embedding = parts.head = test_support::Draw(5).normals<double>(12, own_width);
  CHECK_THROWS_WITH(LanguageModel<double>(parts), contains_text("OwnModel: there is no layer"));
  for (std::uint64_t layer = 0; layer < 2; ++layer)
    parts.blocks.push_back({{{Norm<double>::rms(own_width, 1e-5), mixer_part(own_layer(10 + layer))}}});
  CHECK_NOTHROW(LanguageModel<double>(parts));
  LanguageModelParts<double> changed = parts;
  changed.blocks[1].sublayers[0].branches[0].part = nullptr;
  CHECK_THROWS_WITH(LanguageModel<double>(changed), contains_text("OwnModel: layer 1 has an empty part"));
  changed.blocks[1].sublayers[0].branches.clear();
  CHECK_THROWS_WITH(LanguageModel<double>(changed), contains_text("OwnModel: layer 1 has a sublayer without a part"));
  changed = parts;
  changed.blocks[0].sublayers[0].norm = Norm<double>::rms(own_width - 1, 1e-5);
  CHECK_THROWS_WITH(LanguageModel<double>(changed), contains_text("OwnModel: layer 0's norm is 5 wide, expected 6 as the embedding is"));
}

TEST_CASE("a layer of one's own in a stack: every method that needs no output projection gives scores, and relevance adds up to the logit",
          "[own_layer]") {
  const LanguageModel<double> model = own_model();
  const Index last = static_cast<Index>(own_ids.size()) - 1;
  Explainer<double> explainer(model, own_ids);
  for (const MethodName& method : method_names) {
    INFO(method.name);
    if (method.method == Method::contribution_norms || method.method == Method::contribution_rollout ||
        method.method == Method::alti_logit) {
      CHECK_THROWS_WITH(explainer.explain(method.method, {last, 7, {}}),
                        contains_text("expected a layer with a member output_projection()"));
      continue;
    }
    const Attribution<double> why = explainer.explain(method.method, {last, 7, {}});
    CHECK(why.scores.size() == static_cast<Index>(own_ids.size()));
    CHECK(why.scores.allFinite());
    CHECK(why.scores.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0);
  }
  const ForwardPass<double> pass = model.forward(own_ids);
  const Attribution<double> relevance = explainer.explain(Method::relevance, {last, 7, {}});
  CHECK(std::abs(relevance.scores.sum() - pass.logits(pass.logits.rows() - 1, 7)) < 1e-12);
}
