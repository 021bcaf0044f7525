// Every family of language models through the command lines: a small random model of each, written as people find it in a folder.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <examples/causes_file.hpp>
#include <examples/programs.hpp>
#include <support/every_logit.hpp>
#include <support/layer_recipes.hpp>
#include <support/shared_data.hpp>
#include <support/small_models.hpp>

#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>
#include <implicit_attention/models/backward.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/families.hpp>
#include <implicit_attention/models/load.hpp>

namespace {

using namespace implicit_attention;
using namespace example_test;

/// DIR/model.safetensors and DIR/config.json.
void write_model(const fs::path& directory, const test_support::SmallModel& kind, const test_support::Tensors<float>& checkpoint) {
  fs::create_directories(directory);
  io_test::write_bytes(directory / "config.json", kind.config);
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : checkpoint.tensors)
    tensors.push_back({name, ArrayToWrite(tensor.numbers.matrix().data(), tensor.shape)});
  write_safetensors(directory / "model.safetensors", tensors);
}

/// A configuration's keys as JSON; every value of a recipe is a flag, a number, a word or a list of numbers.
Json json_of(const std::vector<std::pair<std::string, Configuration::Value>>& configuration) {
  Json json = Json::object();
  for (const auto& [key, value] : configuration)
    std::visit([&, &name = key](const auto& given) { json[name] = given; }, value);  // infinities become null, as in public files
  return json;
}

/// The largest entry of A x + bias - y, all of it as `materialize` wrote it.
double left_over(const SafetensorsFile& file) {
  const Matrix<double> A = file.read<double>("attention").matrix(), bias = file.read<double>("bias").matrix(),
                       x = file.read<double>("linear_input").matrix(), y = file.read<double>("y").matrix();
  const Index tokens = y.rows();
  REQUIRE(A.rows() == y.cols() * tokens);
  REQUIRE((A.allFinite() && bias.allFinite() && x.allFinite() && y.allFinite()));
  double largest = 0;
  for (Index channel = 0; channel < y.cols(); ++channel) {
    const Matrix<double> again = A.middleRows(channel * tokens, tokens) * x.col(channel) + bias.row(channel).transpose();
    largest = larger(largest, (again - y.col(channel)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  }
  return largest / (1 + y.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
}

}  // namespace

TEST_CASE("every family: explain by all methods, and materialize of every layer that mixes tokens", "[explain][materialize][families]") {
  const std::string tokens = "5,6,7,2,9";
  std::string all_methods;
  for (const MethodName& method : method_names) all_methods += (all_methods.empty() ? "" : ",") + std::string(method.name);
  for (const test_support::SmallModel& kind : test_support::small_models()) {
    INFO(kind.name);
    const TemporaryFolder folder;
    const test_support::Tensors<float> checkpoint = kind.checkpoint<float>(31);
    const fs::path directory = folder / kind.name, out = folder / "out.safetensors";
    write_model(directory, kind, checkpoint);

    run_well(folder, "explain",
             {"--model", directory.string(), "--tokens", tokens, "--method", all_methods, "--precision", "float64", "--out", out.string()});
    const SafetensorsFile explained(out);
    for (const MethodName& method : method_names) {
      INFO(method.name);
      const Matrix<double> scores = explained.read<double>("scores." + std::string(method.name)).matrix();
      CHECK(scores.size() == 5);
      CHECK(scores.allFinite());
    }

    const LanguageModel<double> model = load_language_model<double>(kind.checkpoint<double>(31), kind.configuration);
    const ForwardPass<double> pass = model.forward({5, 6, 7, 2, 9}, test_support::every_logit());
    const Matrix<double> logits = pass.logits, written = explained.read<double>("logits").matrix();
    REQUIRE(written.allFinite());
    CHECK((written.bottomRows(1) - logits.bottomRows(1)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
          1e-12 * logits.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    run_well(folder, "explain",
             {"--model", directory.string(), "--tokens", tokens, "--method", "gradient-x-input", "--save-gradients", "--precision",
              "float64", "--out", out.string()});
    const SafetensorsFile saved(out);
    Index predicted = 0;
    logits.row(logits.rows() - 1).maxCoeff(&predicted);
    const BackwardPass<double> gradients = backward(model, pass, logit_gradient(pass, 4, predicted));
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      const LayerPass<double> layer_pass = model.layer_pass(pass, layer);
      for (std::size_t index = 0; index < layer_pass.mixers.size(); ++index) {
        const MixerRun<double>& mixer = layer_pass.mixers[index];
        // As the reference data name them: attention beside a recurrent mixer is layerN.attention_y, its gradient layerN.attention_grad_y.
        const std::string before = "layer" + std::to_string(layer) + "." + (mixer.kind.empty() ? "" : mixer.kind + "_");
        INFO(before);
        CHECK((saved.read<double>(before + "y").matrix() - *mixer.y).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
              1e-12 * (1 + (*mixer.y).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
        const Matrix<double> gradient = *gradients.layers[static_cast<std::size_t>(layer)].mixers_y[index];
        REQUIRE(saved.info(before + "grad_y").shape == saved.info(before + "y").shape);
        CHECK((saved.read<double>(before + "grad_y").matrix() - gradient).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
              1e-12 * gradient.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      }
    }
    for (const Index layer : model.mixing_layers()) {
      INFO("layer " << layer);
      run_well(folder, "materialize",
               {"--model", directory.string(), "--layer", std::to_string(layer), "--tokens", tokens, "--precision", "float64", "--out",
                out.string()});
      const SafetensorsFile file(out);
      const MixerRun<double> mixer = model.layer_pass(pass, layer).mixer();
      const Matrix<double> y = *mixer.y;
      REQUIRE(file.read<double>("y").matrix().allFinite());
      CHECK((file.read<double>("y").matrix() - y).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-12 * (1 + y.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
      if (!mixer.attention(Terms::all()).has_second() && mixer.reported_input.empty()) CHECK(left_over(file) <= 1e-12);
    }
  }
}

TEST_CASE("explain: a layer's edges and those of its heads, as the library has them; what is wrong with a layer or a head is said",
          "[explain][families]") {
  int with_heads = 0, without = 0, idle = 0;
  for (const test_support::SmallModel& kind : test_support::small_models()) {
    if (kind.name != "mamba" && kind.name != "nemotron_h" && kind.name != "falcon_h1") continue;
    INFO(kind.name);
    const TemporaryFolder folder;
    const fs::path directory = folder / kind.name, out = folder / "out.safetensors";
    write_model(directory, kind, kind.checkpoint<float>(31));
    const LanguageModel<double> model = load_language_model<double>(kind.checkpoint<double>(31), kind.configuration);
    Explainer<double> explainer(model, {5, 6, 7, 2, 9}, test_support::every_logit());
    const std::vector<Index> mixing = model.mixing_layers();
    const Index layer = mixing.back();
    const std::vector<std::string> ask{"--model", directory.string(), "--tokens", "5,6,7,2,9", "--target", "3", "--precision", "float64"};
    const auto written = [&](const std::vector<std::string>& more) {
      const Outcome outcome = run_well(folder, "explain", with(with(ask, more), {"--out", out.string()}));
      CHECK(outcome.err.find("has no effect") == std::string::npos);
      return std::pair(Matrix<double>(SafetensorsFile(out).read<double>("scores").matrix()), outcome.out);
    };
    MethodOptions<double> how;
    how.layer = layer;
    how.with_map = true;
    const auto check_same = [&](const Matrix<double>& came, const RowVector<double>& expected) {
      REQUIRE(came.size() == expected.size());
      CHECK((RowVector<double>(came.reshaped().transpose()) - expected).cwiseAbs().maxCoeff() <= 1e-10 * expected.cwiseAbs().maxCoeff());
    };
    const std::vector<std::string> of_layer{"--layer", std::to_string(layer)};
    const auto [scores, said] = written(with(of_layer, {"--method", "edge-map"}));
    check_same(scores, explainer.explain(Method::edge_map, {4, 3, {}}, how).scores);
    CHECK_THAT(said, contains_text("what the token's edges are worth to the logit in layer " + std::to_string(layer)));

    const bool has_heads = model.layer_pass(explainer.pass(), layer).mixer().attention(Terms::recurrence()).heads() > 1;
    (has_heads ? with_heads : without) += 1;
    if (has_heads) {
      how.heads = {1};
      for (const Method method : {Method::edge_map, Method::relevance_attention}) {
        const auto [head, title] = written(with(of_layer, {"--method", std::string(method_info(method).name), "--heads", "1"}));
        how.with_map = method_info(method).has_map;
        check_same(head, explainer.explain(method, {4, 3, {}}, how).scores);
        CHECK_THAT(title, contains_text(", heads 1"));
      }
      // Neither a method nor a target: heads are those of a target.
      CHECK_THAT(run_well(folder, "explain",
                          {"--model", directory.string(), "--tokens", "5,6,7,2,9", "--layer", std::to_string(layer), "--heads", "1"})
                     .out,
                 contains_text("what attention moves of the logit in layer " + std::to_string(layer) + ", heads 1"));
      check_mistake("explain", with(ask, with(of_layer, {"--method", "edge-map", "--heads", "99"})), "--heads: head 99 is out of range",
                    "out.json");
      check_mistake("explain", with(ask, with(of_layer, {"--method", "edge-map,raw", "--heads", "1"})),
                    "--heads: raw takes a layer as a whole; relevance-attention and edge-map can look at its heads", "out.json");
      check_mistake("explain", with(ask, {"--method", "edge-map", "--heads", "1"}),
                    "--heads: heads are those of one layer, expected --layer N", "out.json");
      check_mistake("explain", with(ask, with(of_layer, {"--method", "edge-map", "--heads", "one"})), "--heads: ", "out.json");
    } else {
      check_mistake("explain", with(ask, with(of_layer, {"--method", "edge-map", "--heads", "0"})),
                    "--heads: the channels of layer " + std::to_string(layer), "out.json");
    }
    for (Index other = 0; other < model.layer_count(); ++other)
      if (std::find(mixing.begin(), mixing.end(), other) == mixing.end()) {
        ++idle;
        check_mistake("explain", with(ask, {"--method", "edge-map", "--layer", std::to_string(other)}), "mixes no tokens, expected one of ",
                      "out.json");
      }
  }
  CHECK((with_heads == 2 && without == 1 && idle > 0));
}

TEST_CASE("every family: evaluate by all methods under three formulations, over texts and against causes", "[evaluate][families]") {
  for (const test_support::SmallModel& kind : test_support::small_models()) {
    INFO(kind.name);
    const TemporaryFolder folder;
    const fs::path directory = folder / kind.name, out = folder / "out.json";
    write_model(directory, kind, kind.checkpoint<float>(31));
    const Index vocabulary = load_language_model<float>(kind.checkpoint<float>(31), kind.configuration).vocabulary();
    Json words = Json::object();
    for (Index id = 0; id < vocabulary; ++id) words["w" + std::to_string(id)] = id;
    io_test::write_bytes(directory / "vocab.json", words.dump());
    io_test::write_bytes(folder / "texts", "w3\tw5 w6 w7 w2 w4\nw8\tw6 w2 w7 w4 w1\n");
    std::string all_methods;  // edge-map with them, which is there where it is asked for
    for (const MethodName& method : method_names) all_methods += (all_methods.empty() ? "" : ",") + std::string(method.name);
    const std::vector<std::string> ask{"--model",   directory.string(), "--terms",        "recurrence,published,all",
                                       "--methods", all_methods,        "--permutations", "2",
                                       "--out",     out.string()};
    const auto rows = [&](const std::vector<std::string>& more) {
      run_well(folder, "evaluate", with(ask, more));
      Json evaluation = *read_json_object(out);
      std::size_t expected = 0;
      for (const MethodName& method : method_names) expected += method.from_attention ? 3 : 1;
      REQUIRE(evaluation.at("results").size() == expected);
      return evaluation;
    };
    const auto is_sum = [](const Json& row) {
      const std::string word = row.at("sums_to_explained");
      if (word != "yes") return;
      const Json& sums = row.at("conservation");
      CHECK(sums.at("mean_gap").get<double>() <= 1e-3 * (1 + sums.at("mean_explained").get<double>()));
    };
    // The metrics that explain a text many times take integrated gradients of as many points as the error needs, thousands in some families:
    // in one of them here, and below, of causes, once in each.
    std::vector<std::string> of_data{"--data", (folder / "texts").string(), "--edges", "4", "--repeated", "1"};
    if (kind.name != "mamba") of_data = with(std::move(of_data), {"--steps", "4"});
    const Json of_texts = rows(of_data);
    if (kind.name == "rwkv7_reverse") {  // its head has a bias: what is explained is a difference of two classes' logits, biases and all
      const LanguageModel<float> model = load_language_model<float>(kind.checkpoint<float>(31), kind.configuration);
      double mean = 0;
      for (const std::vector<Index>& ids : {std::vector<Index>{5, 6, 7, 2, 4}, std::vector<Index>{6, 2, 7, 4, 1}}) {
        const auto pass = model.forward(ids);
        mean += std::abs(static_cast<double>(pass.logits(0, 3)) - static_cast<double>(pass.logits(0, 8))) / 2;
      }
      const auto relevance = std::find_if(of_texts.at("results").begin(), of_texts.at("results").end(),
                                          [](const Json& row) { return row.at("method") == "relevance"; });
      CHECK(relevance->at("conservation").at("mean_explained").get<double>() == Approx(mean).epsilon(1e-4));
    }
    for (const Json& row : of_texts.at("results")) {
      INFO(row.at("method") << " " << row.value("terms", ""));
      CHECK(row.at("metrics").at("flipping_difference").at("mean").is_number());
      CHECK(row.at("metrics").at("sensitivity_max").at("mean").is_number());
      is_sum(row);
    }
    CHECK(of_texts.at("ceilings").size() == 2);
    // Zamba2's hybrid layers have two mixers in one part.
    CHECK(of_texts.value("layers_without_maps", Json::array()) == (kind.name == "zamba2" ? Json{1, 3} : Json::array()));
    for (const Json& map : of_texts.at("layer_maps")) CHECK(map.at("metrics").at("edges_unexplained").at("texts") == 2);
    const std::string causes =
        written(folder, "causes.safetensors",
                arrays_of({{5, 6, 7, 2, 4}, {6, 2, 7, 4, 1}}, {{0, 4, 3, 1, 0, {2, 3}}, {1, 3, 8, 2, -1, {0, 1}}}, 5));
    const Json of_causes = rows({"--causes", causes});
    for (const Json& row : of_causes.at("results")) {
      INFO(row.at("method") << " " << row.value("terms", ""));
      CHECK(row.at("comparisons").at("source_against_negatives").at("auc").at("outputs") == 2);
      is_sum(row);
    }
  }
}

TEST_CASE("explain: saved gradients of two mixers side by side are those of the reference implementation", "[explain][families]") {
  for (const std::string name : {"lm_falcon_h1_seed00_nonorm_L16", "lm_falcon_h1_seed01_norm_groups2_bias_L12"}) {
    const auto path = test_support::shared_data("golden/" + name + ".safetensors");
    if (!path) {
      WARN(test_support::shared_data_missing("golden/" + name));
      continue;
    }
    INFO(name);
    const TemporaryFolder folder;
    const SafetensorsFile golden(*path);
    std::vector<std::pair<std::string, Matrix<double>>> weights;
    for (const auto& [tensor, info] : golden.tensors())
      if (tensor.rfind("weight.", 0) == 0) weights.emplace_back(tensor, *golden.read<double>(tensor));
    std::vector<TensorToWrite> tensors;
    for (const auto& [tensor, numbers] : weights)
      tensors.push_back({tensor.substr(7), ArrayToWrite(numbers.data(), golden.info(tensor).shape)});
    write_safetensors(folder / "model.safetensors", tensors);
    io_test::write_bytes(folder / "config.json", golden.metadata().at("config"));
    std::string ids;
    for (const auto id : golden.read_integers("input.input_ids")) ids += (ids.empty() ? "" : ",") + std::to_string(id);
    const fs::path out = folder / "out.safetensors";
    run_well(folder, "explain",
             {"--model", folder.path().string(), "--tokens", ids, "--method", "gradient-x-input", "--target",
              std::to_string(golden.read_integers("expected.target_token").front()), "--save-gradients", "--precision", "float64", "--out",
              out.string()});
    const SafetensorsFile saved(out);
    for (const std::string layer : {"layer0", "layer1"})
      for (const std::string mixer : {"", "attention_"}) {
        INFO(layer << " " << mixer);
        const Matrix<double> expected = *golden.read<double>("expected." + layer + "_" + mixer + "grad_y");
        for (const std::string& tensor : {layer + "." + mixer + "grad_y", layer + ".grad_" + mixer + "y"}) {
          REQUIRE(saved.info(tensor).shape == std::vector<Index>{expected.rows(), expected.cols()});
          CHECK((saved.read<double>(tensor).matrix() - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
                1e-11 * expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
        }
      }
  }
}

TEST_CASE("every family of layers: materialize --arch", "[materialize][families]") {
  for (const test_support::Recipe& recipe : test_support::recipes()) {
    if (!recipe.inputs.empty()) continue;  // what other layers share or carried in is no file's
    INFO(recipe.family << " " << recipe.title);
    const TemporaryFolder folder;
    test_support::DrawnLayer layer(recipe, 71);
    const Matrix<double> u = layer.draw.normals<double>(recipe.tokens, recipe.width);
    std::vector<TensorToWrite> tensors{{"input.hidden_states", u}};
    for (const auto& [name, tensor] : layer.tensors.tensors)
      tensors.push_back({"weight." + name, ArrayToWrite(tensor.numbers.matrix().data(), tensor.shape)});
    const fs::path weights = folder / "layer.safetensors", config = folder / "config.json", out = folder / "out.safetensors";
    write_safetensors(weights, tensors);
    io_test::write_bytes(config, json_of(recipe.configuration).dump());
    run_well(folder, "materialize",
             {"--arch", recipe.family, "--weights", weights.string(), "--prefix", "weight.", "--input",
              weights.string() + ":input.hidden_states", "--config", config.string(), "--precision", "float64", "--out", out.string()});
    const SafetensorsFile file(out);
    const test_support::DrawnLayer::Run run = layer.run(u);
    const Matrix<double> y = *run.mixer.y;
    REQUIRE(file.read<double>("y").matrix().allFinite());
    CHECK((file.read<double>("y").matrix() - y).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
          1e-12 * (1 + y.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
    if (!run.mixer.attention(Terms::all()).has_second()) CHECK(left_over(file) <= 1e-12);
  }
}
