// Whole language models forwards: the public implementations' numbers, causality, prefixes, positions, and what a pass keeps.
#include <cmath>
#include <fstream>

#include <implicit_attention/models/explainer.hpp>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>

#include <models/models.hpp>

namespace {

using namespace models_test;
namespace fs = std::filesystem;

const char* const public_models[] = {"protmamba", "rwkv4-tiny", "griffin-shakespeare"};

template <class Scalar>
LanguageModel<Scalar> load(const fs::path& folder) {
  return load_language_model(SafetensorsSource<Scalar>(folder), read_configuration(folder));
}
}  // namespace

TEMPLATE_TEST_CASE("public trained models give their expected logits", "[models]", double, float) {
  using Scalar = TestType;
  constexpr bool wide = std::is_same_v<Scalar, double>;
  for (const char* name : public_models) {
    const auto folder = test_support::shared_data(fs::path("realdata") / name);
    if (!folder) {
      WARN(test_support::shared_data_missing(std::string("realdata/") + name));
      continue;
    }
    INFO(name);
    const SafetensorsFile expected(*folder / "expected.safetensors");
    const LanguageModel<Scalar> model = load<Scalar>(*folder);
    const ForwardPass<Scalar> pass = model.forward(integers(expected, "input_ids"), test_support::every_logit());
    const Matrix<double> logits = *expected.read<double>("logits");
    // Absolute, of logits of a few tens: float's own rounding through eight layers is within 1e-4.
    CHECK((pass.logits.template cast<double>() - logits).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < (wide ? 1e-10 : 1e-4));
    Index most_likely = 0;
    pass.logits.bottomRows(1).row(0).maxCoeff(&most_likely);
    CHECK(most_likely == integers(expected, "target_token").front());
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      INFO("layer " << layer);
      CHECK(relative_error(*pass.layers[static_cast<std::size_t>(layer)].y(),
                           Matrix<double>(*expected.read<double>(detail::message("layer", layer, ".y")))) < (wide ? 1e-12 : 2e-5));
    }
    if (expected.find("published.input_ids") == nullptr) continue;
    // The projects' own float32 numbers.
    const bool last = expected.find("published.last_logits") != nullptr;
    const ForwardOptions options = last ? ForwardOptions() : test_support::every_logit();
    const Matrix<double> published = *expected.read<double>(last ? "published.last_logits" : "published.logits");
    const ForwardPass<Scalar> again = model.forward(integers(expected, "published.input_ids"), options);
    CHECK((again.logits.template cast<double>() - published).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-4);
  }
}

TEST_CASE("the shipped models give the logits recorded when they were trained", "[models]") {
  for (const char* name : shipped_models) {
    INFO(name);
    const LanguageModel<double> model = shipped<double>(name);
    const LanguageModel<float> narrow = shipped<float>(name);
    std::ifstream stream(fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "examples" / "models" / name / "expected.json");
    const Json document = Json::parse(stream);
    for (const Json& sentence : document.at("sentences")) {
      const auto ids = sentence.at("input_ids").get<std::vector<Index>>();
      const auto logits = sentence.at("logits").get<std::vector<double>>();
      const Matrix<double> expected = Eigen::Map<const RowVector<double>>(logits.data(), static_cast<Index>(logits.size()));
      ForwardOptions options;
      options.logit_positions = Indices::last();
      // They are recorded to 12 decimals.
      CHECK((model.forward(ids, options).logits - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-11);
      CHECK(relative_error(narrow.forward(ids, options).logits, expected) < 2e-5);
    }
  }
}

TEST_CASE("a model's logits depend on no later token, and the first tokens alone give the same", "[models]") {
  for (const char* name : shipped_models) {
    INFO(name);
    const LanguageModel<double> model = shipped<double>(name);
    const std::vector<Index> ids = some_ids(40, model.vocabulary());  // longer than the shipped Griffin's window
    const ForwardPass<double> whole = model.forward(ids, test_support::every_logit());
    for (const Index first : {Index(1), Index(2), Index(3), Index(17), Index(39)}) {
      INFO(first << " tokens");
      std::vector<Index> other = ids;
      for (std::size_t token = static_cast<std::size_t>(first); token < other.size(); ++token)
        other[token] = (other[token] + 1) % model.vocabulary();
      // Matrix products of another size may round otherwise.
      CHECK(relative_error(Matrix<double>(model.forward(other, test_support::every_logit()).logits.topRows(first)),
                           Matrix<double>(whole.logits.topRows(first))) < 1e-13);
      const std::vector<Index> prefix(ids.begin(), ids.begin() + first);
      CHECK(relative_error(model.forward(prefix, test_support::every_logit()).logits, Matrix<double>(whole.logits.topRows(first))) < 1e-13);
    }
  }
}

TEST_CASE("every layer's attention follows from one pass, and is exact", "[models]") {
  for (const char* name : shipped_models) {
    const LanguageModel<double> model = shipped<double>(name);
    const ForwardPass<double> pass = model.forward(some_ids(24, model.vocabulary()));
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      INFO(name << " layer " << layer);
      const LayerPass<double>& kept = pass.layers[static_cast<std::size_t>(layer)];
      const ImplicitAttention<double> attention = model.implicit_attention(pass, layer);
      CHECK(attention.channels() == model.channels(layer));
      const Matrix<double> y = attention.apply(*kept.x()) + attention.bias();
      CHECK(relative_error(y, Matrix<double>(*kept.y())) < 1e-12);
      // The residual stream goes from layer to layer.
      const Array<double>& next =
          layer + 1 < model.layer_count() ? pass.layers[static_cast<std::size_t>(layer) + 1].residual : pass.final_residual;
      CHECK((kept.output.matrix() - next.matrix()).isZero(0));
    }
  }
}

TEST_CASE("what a pass keeps changes nothing that it computes", "[models]") {
  for (const char* name : shipped_models) {
    INFO(name);
    const LanguageModel<double> model = shipped<double>(name);
    const std::vector<Index> ids = some_ids(9, model.vocabulary());
    ForwardOptions options = test_support::every_logit();
    if (model.parts().has_positions) options.positions = {0, 1, 2, 0, 1, 2, 3, 4, 5};
    const ForwardPass<double> whole = model.forward(ids, options);
    options.keep = Keep::residuals;
    const ForwardPass<double> residuals = model.forward(ids, options);
    options.keep = Keep::logits;
    options.logit_positions = std::vector<Index>{8, 2};
    const ForwardPass<double> logits = model.forward(ids, options);
    CHECK(logits.layers.empty());
    REQUIRE(logits.logits.rows() == 2);
    for (const Index token : {Index(2), Index(8)})
      CHECK(relative_error(Matrix<double>(logits.logits_at(token)), Matrix<double>(whole.logits_at(token))) < 1e-14);
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      CHECK_FALSE(residuals.layers[static_cast<std::size_t>(layer)].kept());
      const LayerPass<double> again = model.layer_pass(residuals, layer);
      CHECK((again.y().matrix() - whole.layers[static_cast<std::size_t>(layer)].y().matrix()).isZero(0));
      CHECK((again.output.matrix() - whole.layers[static_cast<std::size_t>(layer)].output.matrix()).isZero(0));
    }
    const ForwardPass<double> embedded =
        model.forward_embeddings(*whole.embeddings, {Keep::logits, {}, whole.positions, serial_executor()});
    CHECK((embedded.logits - whole.logits).isZero(0));
    CHECK(embedded.ids.empty());
    CHECK(whole.ids == ids);
  }
}

TEST_CASE("Griffin's positions restart documents in the recurrent layers and turn queries and keys", "[models]") {
  const LanguageModel<double> model = shipped<double>("griffin");
  const std::vector<Index> ids = some_ids(12, model.vocabulary());
  ForwardOptions options = test_support::every_logit();
  options.positions = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const ForwardPass<double> plain = model.forward(ids, test_support::every_logit()), counted = model.forward(ids, options);
  CHECK((plain.logits - counted.logits).isZero(0));

  options.positions = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6};
  const ForwardPass<double> packed = model.forward(ids, options);
  const AttentionMatrix<double> attention = model.implicit_attention(packed, 0, Terms::recurrence()).materialize();
  REQUIRE(model.block(0).find<Griffin<double>>() != nullptr);
  CHECK(attention.channel(0).block(5, 0, 7, 5).isZero(0));
  CHECK_FALSE(model.implicit_attention(counted, 0, Terms::recurrence()).materialize().channel(0).block(5, 0, 7, 5).isZero(0));
  CHECK((packed.logits.topRows(5) - plain.logits.topRows(5)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
  CHECK((packed.logits.bottomRows(7) - plain.logits.bottomRows(7)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 1e-3);

  // Positions that begin above 0 reset nothing; rotations are relative, so that attention sees the same distances.
  options.positions = {7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18};
  const ForwardPass<double> shifted = model.forward(ids, options);
  REQUIRE(shifted.layers[0].activations<Griffin<double>>() != nullptr);
  CHECK(shifted.layers[0].activations<Griffin<double>>()->starts.empty());
}

TEST_CASE("bad calls of a language model are told before work starts", "[models]") {
  const LanguageModel<double> model = shipped<double>("mamba"), griffin = shipped<double>("griffin");
  ForwardOptions positions;
  positions.positions = {0, 1};
  ForwardOptions negative = positions;
  negative.positions = {0, -1, 2};
  ForwardOptions row;
  row.logit_positions = std::vector<Index>{3};
  ForwardOptions logits;
  logits.keep = Keep::logits;
  const Index vocabulary = model.vocabulary();
  const auto says = [](auto call, const std::string& text) {
    try {
      static_cast<void>(call());
      FAIL_CHECK("no error; expected: " << text);
    } catch (const Error& error) {
      CHECK_THAT(error.what(), contains_text(text));
    }
  };
  says([&] { return model.forward({}); }, "MambaForCausalLM: there are no token ids, expected at least one");
  says(
      [&] {
        return model.forward({1, vocabulary});
      },
      detail::message("token id ", vocabulary, " at position 1 is out of range, expected 0 to ", vocabulary - 1));
  says([&] { return model.forward({-1}); }, "token id -1 at position 0 is out of range");
  says([&] { return model.forward({1, 2}, positions); }, "positions were given, but this model has none");
  says([&] { return griffin.forward({1, 2, 3}, positions); }, "positions are (2), expected (3) = (tokens)");
  says([&] { return griffin.forward({1, 2, 3}, negative); }, "position -1 of token 1 is negative");
  says([&] { return model.forward({1, 2, 3}, row); }, "logit position 3 is out of range, expected 0 to 2");
  says([&] { return model.forward_embeddings(Matrix<double>(0, model.width())); }, "there are no embeddings");
  says([&] { return model.forward_embeddings(Matrix<double>(Matrix<double>::Zero(2, 5))); },
       detail::message("the embeddings are (2, 5), expected (tokens, ", model.width(), ")"));
  says([&] { return model.block(2); }, "layer 2 is out of range, expected 0 to 1");
  says([&] { return model.layer_pass(model.forward({1}, logits), 0); },
       "the pass kept 0 layers of 2; run it with Keep::residuals or Keep::activations");
  says(
      [&] {
        return model.forward({1, 2, 3}).logits_at(3);
      },
      "no logits were computed at token 3 of 3; ForwardOptions::logit_positions says where they are");
  says([&] { return model.forward({1}).layers[0].mixer(1); }, "token mixer 1 was asked for, and this layer has 1");
  says([&] { return LayerPass<double>().y(); }, "were not kept");
}

TEST_CASE("the first number that is not finite is named by layer, token and channel, where that is asked for", "[models]") {
  const LanguageModel<double> model = shipped<double>("mamba");
  const std::vector<Index> ids = some_ids(7, model.vocabulary());
  ForwardOptions options = test_support::every_logit();
  CHECK_FALSE(options.check_finite);
  options.check_finite = true;
  CHECK((model.forward(ids, options).logits - model.forward(ids, test_support::every_logit()).logits).isZero(0));

  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [&](const auto& call, const std::string& text) {
    INFO(text);
    CHECK_THROWS_WITH(call(), contains_text(text));
  };
  Matrix<double> embeddings = model.embed(ids);
  embeddings(3, 5) = nan;
  refused([&] { static_cast<void>(model.forward_embeddings(embeddings, options)); },
          "MambaForCausalLM: NaN in the embeddings at token 3, channel 5, expected finite numbers");
  CHECK(model.forward_embeddings(embeddings, test_support::every_logit())
            .logits.topRows(3)
            .allFinite());  // not asked for, and earlier tokens are untouched

  LanguageModelParts<double> parts = model.parts();
  parts.blocks[1].sublayers[0].branches[0].output_scale = nan;
  refused([&] { static_cast<void>(LanguageModel<double>(parts).forward(ids, options)); },
          "MambaForCausalLM, layer 1: NaN in the residual stream after it at token 0, channel 0");
  parts.blocks[1].sublayers[0].branches[0].input_scale = std::numeric_limits<double>::infinity();
  refused([&] { static_cast<void>(LanguageModel<double>(parts).forward(ids, options)); }, "MambaForCausalLM, layer 1: ");
  // An explanation finds the place by itself.
  Explainer<double> explainer(LanguageModel<double>(parts), ids);
  refused([&] { static_cast<void>(explainer.explain(Method::relevance, {6, 0, {}})); }, "MambaForCausalLM, layer 1: ");
}

TEST_CASE("a part without a state to hand on is named, and a later piece is refused", "[models]") {
  const LanguageModel<double> model = long_convolution();
  const std::vector<Index> ids{3, 1, 4, 1, 5};
  CarriedStates states;
  const Matrix<double> logits = model.next_logits(ids, states);
  CHECK(logits == model.forward(ids).logits.bottomRows(1));
  CHECK(states.refusals() == std::vector<std::string>{"S4D"});
  CHECK_THROWS_WITH(model.next_logits({9}, states), "Long: S4D returns no state; the whole sequence must be run again");
  // The states of another model.
  CarriedStates others;
  const LanguageModel<double> mamba = shipped<double>("mamba"), rwkv = shipped<double>("rwkv4");
  (void)mamba.next_logits(ids, others);
  CHECK_THROWS_WITH(rwkv.next_logits({9}, others), "CarriedStates: these states belong to another model");
  CHECK_THROWS_WITH(mamba.next_logits({}, others), contains_text("there are no token ids"));
}
