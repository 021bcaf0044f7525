// Raw attention and rollout: against the shared golden cases, dense products, and at the edges.
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <implicit_attention/attribution/rollout.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <support/shared_data.hpp>

#include <attribution/cases.hpp>

namespace {

using namespace attribution_test;

// Sums of at most a hundred products of numbers near 1.
constexpr double rollout_tolerance = 1e-12;

std::vector<Numbers> random_maps(Index layers, Index tokens, std::uint64_t seed, double from = 0) {
  Draw draw(seed);
  std::vector<Numbers> maps;
  for (Index layer = 0; layer < layers; ++layer)
    maps.push_back(draw.uniforms<double>(tokens, tokens, from, 1).triangularView<Eigen::Lower>());
  return maps;
}

}  // namespace

TEST_CASE("rollout is that of the golden cases", "[attribution]") {
  const auto folder = test_support::shared_data("golden");
  if (!folder) {
    WARN(test_support::shared_data_missing("golden"));
    return;
  }
  Index cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("rollout_", 0) != 0) continue;
    INFO(name);
    const SafetensorsFile file(entry.path());
    const std::vector<Index> shape = file.info("input.maps").shape;
    const Numbers all = *file.read<double>("input.maps"), expected = *file.read<double>("expected.rollout");
    RolloutOptions<double> options;
    options.start_layer = file.read_integers("input.start_layer").front();
    const Index layers = shape[0], batch = shape[1], tokens = shape[2];
    for (Index sequence = 0; sequence < batch; ++sequence) {
      std::vector<Numbers> maps;
      for (Index layer = 0; layer < layers; ++layer) maps.push_back(all.middleRows((layer * batch + sequence) * tokens, tokens));
      const Numbers of_sequence = expected.middleRows(sequence * tokens, tokens);
      if (!of_sequence.allFinite()) continue;  // a row sum of zero: ours is finite, see below
      const Attribution<double> whole = rollout_map(maps, options);
      CHECK(relative_error(whole.map, of_sequence) <= rollout_tolerance);
      CHECK(whole.zero_rows.empty());
      for (Index position = 0; position < tokens; ++position)
        CHECK((rollout(maps, position, options).scores - of_sequence.row(position)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
              rollout_tolerance * of_sequence.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      ++cases;
    }
  }
  CHECK(cases >= 4);
}

TEST_CASE("rollout is the product of its layers' matrices", "[attribution]") {
  for (const Index tokens : {1, 2, 7}) {
    const std::vector<Numbers> maps = random_maps(4, tokens, 3 + static_cast<std::uint64_t>(tokens));
    for (const bool normalized : {true, false})
      for (const Index start : {0, 2, 3}) {
        RolloutOptions<double> options;
        options.start_layer = start;
        options.residual_weight = 0.5;
        options.normalize_rows = normalized;
        const Numbers expected = product_of_layers(maps, start, normalized, 0.5);
        CHECK(relative_error(rollout_map(maps, options).map, expected) <= rollout_tolerance);
        for (Index position = 0; position < tokens; ++position)
          CHECK(relative_error(rollout(maps, position, options).scores, expected.row(position)) <= rollout_tolerance);
      }
  }
}

TEST_CASE("rollout drops the smallest entries of each map", "[attribution]") {
  Numbers map(3, 3);
  map << 0.9, 0, 0, -0.1, 0.5, 0, 0.2, 0.3, 0.1;
  Numbers kept = map;
  kept(1, 0) = kept(2, 2) = kept(2, 0) = 0;  // three of six: -0.1 and 0.1 are equally small
  RolloutOptions<double> options;
  options.discard_ratio = 0.5;
  CHECK(relative_error(rollout_map<double>({map}, options).map, product_of_layers({kept}, 0, true)) <= rollout_tolerance);
  CHECK(relative_error(rollout<double>({map}, 2, options).scores, product_of_layers({kept}, 0, true).row(2)) <= rollout_tolerance);
  kept = map;
  kept(1, 0) = 0;  // of the two the first
  options.discard_ratio = 0.2;
  CHECK(relative_error(rollout_map<double>({map}, options).map, product_of_layers({kept}, 0, true)) <= rollout_tolerance);
}

TEST_CASE("rollout without a matrix gives the same numbers", "[attribution]") {
  for (const std::string& architecture : architectures())
    for (const Index tokens : {1, 9}) {
      INFO(architecture << ", " << tokens << " tokens");
      const LanguageModel<double> model = random_model(architecture, 5);
      const ForwardPass<double> pass = model.forward(random_ids(tokens, 6));
      const auto attention_of = [&](Index layer) { return model.implicit_attention(pass, layer); };
      std::vector<Numbers> maps;
      for (Index layer = 0; layer < model.layer_count(); ++layer) {
        maps.push_back(mean(dense(attention_of(layer))));
        CHECK(relative_error(attention_of(layer).reduce(), maps.back()) <= rollout_tolerance);
      }
      for (const bool normalized : {true, false})
        for (const Index start : {0, 1}) {
          RolloutOptions<double> options;
          options.start_layer = start;
          options.residual_weight = 2;  // keeps row sums of signed maps away from zero
          options.normalize_rows = normalized;
          const Numbers expected = product_of_layers(maps, start, normalized, 2);
          for (Index position = 0; position < tokens; position += 4) {
            const Attribution<double> came = rollout_matrix_free<double>(model.layer_count(), attention_of, position, options);
            CHECK(relative_error(came.scores, expected.row(position)) <= 1e-11);  // divided by sums that may be small
            CHECK(came.position == position);
          }
        }
    }
}

TEST_CASE("rows that sum to zero are left undivided and named", "[attribution]") {
  Numbers first = Numbers::Zero(3, 3), second = Numbers::Zero(3, 3);
  first << 0.5, 0, 0, 0.25, -1.25, 0, 0.1, 0.2, 0.3;  // row 1 and the identity: 0.25, -0.25
  second << 1, 0, 0, 0, 1, 0, -0.1, -0.7, -0.2;       // row 2: the sum is zero but for rounding
  CHECK(detail::zero_row_sum(1.0, -0.1 - 0.7 - 0.2, 3));
  CHECK(detail::zero_row_sum(1.0, -1 + 6e-16, 3));  // three additions: at most three units in the last place, 2.2e-16
  CHECK(!detail::zero_row_sum(1.0, -1 + 8e-16, 3));
  const Numbers row_1 = (Numbers(1, 3) << 0.25, -0.25, 0).finished();
  const Attribution<double> whole = rollout_map<double>({first, second});
  CHECK(whole.zero_rows == std::vector<LayerRow>{{0, 1}, {1, 2}});
  CHECK(whole.map.allFinite());
  CHECK(relative_error(whole.map.row(1), row_1) <= rollout_tolerance);
  for (Index position = 0; position < 3; ++position) {
    const Attribution<double> row = rollout<double>({first, second}, position);
    CHECK(relative_error(row.scores, whole.map.row(position)) <= rollout_tolerance);
    const std::vector<LayerRow> expected[] = {{}, {{0, 1}}, {{0, 1}, {1, 2}}};  // those that the row depends on
    CHECK(row.zero_rows == expected[position]);
  }
  RolloutOptions<double> nothing;
  nothing.residual_weight = 0;
  const Attribution<double> zero = rollout_map<double>({Numbers::Zero(2, 2)}, nothing);
  CHECK(zero.map.isZero());
  CHECK(zero.zero_rows.size() == 2);

  // Without a matrix, too: the weights of local attention sum to 1, less an identity to zero.
  const LanguageModel<double> model = random_model("griffin", 7);
  const ForwardPass<double> pass = model.forward(random_ids(6, 8));
  const auto attention_of = [&](Index layer) { return model.implicit_attention(pass, layer); };
  RolloutOptions<double> less;
  less.residual_weight = -1;
  less.start_layer = 2;
  const Attribution<double> free = rollout_matrix_free<double>(3, attention_of, 4, less);
  CHECK(free.zero_rows == std::vector<LayerRow>{{2, 4}});
  CHECK(relative_error(free.scores, mean(dense(attention_of(2))).row(4) - Numbers::Identity(6, 6).row(4)) <= rollout_tolerance);
}

TEST_CASE("raw attention is the reduced map's row, of one layer or averaged", "[attribution]") {
  for (const std::string& architecture : architectures()) {
    INFO(architecture);
    const LanguageModel<double> model = random_model(architecture, 7);
    const ForwardPass<double> pass = model.forward(random_ids(8, 8));
    const auto attention_of = [&](Index layer) { return model.implicit_attention(pass, layer); };
    Numbers average = Numbers::Zero(8, 8);
    Reduction<double> reduction;
    reduction.kind = ReductionKind::mean_abs;
    for (Index layer = 0; layer < 3; ++layer) {
      const Numbers map = joined(dense(attention_of(layer)), [](double entry, Index, Index, Index) { return std::abs(entry); });
      average += map / 3;
      CHECK(relative_error(raw_attention_map(attention_of(layer), reduction).map, map) <= rollout_tolerance);
      CHECK(relative_error(raw_attention(attention_of(layer), 5, reduction).scores, map.row(5)) <= rollout_tolerance);
    }
    CHECK(relative_error(raw_attention<double>(3, attention_of, 5, reduction).scores, average.row(5)) <= rollout_tolerance);
    CHECK(relative_error(raw_attention_map<double>(3, attention_of, reduction).map, average) <= rollout_tolerance);
  }
}

TEST_CASE("rollout and raw attention refuse what makes no sense", "[attribution]") {
  const std::vector<Numbers> maps = random_maps(3, 4, 9);
  RolloutOptions<double> options;
  const auto fails = [&](auto call, const std::string& text) { CHECK_THAT(failure(call), contains_text(text)); };
  fails([&] { static_cast<void>(rollout(maps, 4)); }, "position 4 is out of range, expected 0 to 3");
  fails([&] { static_cast<void>(rollout(maps, -1)); }, "position -1 is out of range");
  fails([&] { static_cast<void>(rollout(std::vector<Numbers>{}, 0)); }, "there are no layers");
  fails([&] { static_cast<void>(rollout_map(std::vector<Numbers>{Numbers(0, 0)})); }, "there are no tokens");
  options.start_layer = 3;
  fails([&] { static_cast<void>(rollout_map(maps, options)); }, "start layer 3 is out of range, expected 0 to 2");
  options.start_layer = -1;
  fails([&] { static_cast<void>(rollout(maps, 0, options)); }, "start layer -1 is out of range");
  options = {};
  options.discard_ratio = 1;
  fails([&] { static_cast<void>(rollout_map(maps, options)); }, "discard ratio is 1, expected at least 0 and less than 1");
  options = {};
  options.residual_weight = std::numeric_limits<double>::infinity();
  fails([&] { static_cast<void>(rollout_map(maps, options)); }, "residual weight");
  std::vector<Numbers> bad = maps;
  bad[1](2, 1) = std::numeric_limits<double>::quiet_NaN();
  fails([&] { static_cast<void>(rollout_map(bad)); }, "NaN in the map of layer 1 at (2, 1)");
  fails([&] { static_cast<void>(rollout(bad, 0)); }, "NaN in the map of layer 1 at (2, 1)");
  bad[1] = Numbers::Zero(4, 3);
  fails([&] { static_cast<void>(rollout_map(bad)); }, "the map of layer 1 is (4, 3), expected (4, 4) = (tokens, tokens)");

  const LanguageModel<double> model = random_model("mamba", 7);
  const ForwardPass<double> pass = model.forward(random_ids(3, 8));
  const auto attention_of = [&](Index layer) { return model.implicit_attention(pass, layer); };
  options = {};
  options.discard_ratio = 0.5;
  fails([&] { static_cast<void>(rollout_matrix_free<double>(3, attention_of, 0, options)); }, "needs the maps' entries");
  fails([&] { static_cast<void>(rollout_matrix_free<double>(3, attention_of, 3)); }, "position 3 is out of range");
  fails([&] { static_cast<void>(raw_attention(attention_of(0), 3)); }, "position 3 is out of range");
  fails([&] { static_cast<void>(raw_attention<double>(0, attention_of, 0, {})); }, "there are no layers");
}

TEST_CASE("a constant map rolls out to something finite", "[attribution]") {
  const Numbers constant = Numbers::Constant(3, 3, 0.25);
  CHECK(relative_error(rollout_map<double>({constant, constant}).map, product_of_layers({constant, constant}, 0, true)) <=
        rollout_tolerance);
  RowVector<double> row(3);
  row << 1, 2, 3;
  const Numbers repeated = map_of_one_row_repeated(row);
  for (Index i = 0; i < 3; ++i) CHECK(repeated.row(i) == row);
}
