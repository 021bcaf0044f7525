// `explain` as people run it: predictions, scores and maps of the shipped models, pictures, the terminal, complaints.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <examples/programs.hpp>
#include <support/sanitizers.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

namespace {

using namespace implicit_attention;
using namespace example_test;

}  // namespace

TEST_CASE("explain: the shipped models' recorded logits and labels", "[explain]") {
  const TemporaryFolder folder;
  for (const std::string model : {"mamba", "rwkv4", "griffin"}) {
    const Json expected = *read_json_object(fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "examples" / "models" / model / "expected.json");
    for (const Json& sentence : expected.at("sentences")) {
      const auto text = sentence.at("text").get<std::string>();
      INFO(model << ": " << text);
      for (const std::string precision : {"float64", "float32"}) {
        const fs::path out = folder / "out.safetensors";
        const Outcome outcome =
            run_well(folder, "explain",
                     {"--model", models + model, "--text", text, "--append", "<cls>", "--precision", precision, "--out", out.string()});
        CHECK_THAT(outcome.out, contains_text("\n  " + sentence.at("predicted").get<std::string>()));
        const SafetensorsFile file(out);
        const auto ids = file.read_integers("input_ids");
        CHECK(std::vector<std::int64_t>(ids.begin(), ids.end()) == sentence.at("input_ids").get<std::vector<std::int64_t>>());
        const auto logits = sentence.at("logits").get<std::vector<double>>();
        const Matrix<double> ours = file.read<double>("logits").matrix();
        REQUIRE(ours.rows() == static_cast<Index>(ids.size()));
        REQUIRE(ours.cols() == static_cast<Index>(logits.size()));
        double difference = 0;
        for (std::size_t k = 0; k < logits.size(); ++k)
          difference = larger(difference, std::abs(ours(ours.rows() - 1, static_cast<Index>(k)) - logits[k]));
        // Recorded to 12 decimals; float: 6e-8 of numbers about 10, through a few layers.
        CHECK(difference <= (precision == "float64" ? 1e-9 : 1e-4));
      }
    }
  }
}

TEST_CASE("explain: scores are the row of the map, and rollout's rows sum to one", "[explain]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out.safetensors";
  run_well(folder, "explain",
           {"--model", models + "griffin", "--text", "a film that is never dull <cls>", "--position", "4", "--method", "raw,rollout",
            "--precision", "float64", "--out", out.string()});
  const SafetensorsFile file(out);
  for (const std::string method : {"raw", "rollout"}) {
    REQUIRE(file.info("scores." + method).shape == std::vector<Index>{7});
    const Matrix<double> map = file.read<double>("map." + method).matrix(), scores = file.read<double>("scores." + method).matrix();
    REQUIRE(map.rows() == 7);
    CHECK(map.row(4) == scores.row(0));
    for (Index i = 0; i < 7; ++i)
      for (Index j = i + 1; j < 7; ++j) CHECK(map(i, j) == 0);
    if (method == "rollout")
      for (Index i = 0; i < 7; ++i) CHECK(map.row(i).sum() == Approx(1).epsilon(1e-12));
  }

  // One layer, one row at a time: the same numbers as materialize reduces.
  const fs::path map = folder / "map.safetensors";
  run_well(folder, "materialize",
           {"--model", models + "griffin", "--layer", "2", "--text", "a film that is never dull <cls>", "--reduce", "mean", "--precision",
            "float64", "--out", map.string()});
  run_well(folder, "explain",
           {"--model", models + "griffin", "--layer", "2", "--text", "a film that is never dull <cls>", "--reduce", "mean", "--precision",
            "float64", "--out", out.string()});
  CHECK((SafetensorsFile(out).read<double>("map").matrix() - SafetensorsFile(map).read<double>("attention").matrix())
            .cwiseAbs()
            .template maxCoeff<Eigen::PropagateNaN>() <= 1e-15);
}

TEST_CASE("explain: numbers as JSON", "[explain]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out.json", same = folder / "same.safetensors";
  const std::vector<std::string> arguments{"--model", models + "rwkv4", "--tokens", "8,1091,77,18,2", "--method",
                                           "rollout", "--reduce",       "mean",     "--precision",    "float64"};
  run_well(folder, "explain", with(arguments, {"--out", out.string()}));
  run_well(folder, "explain", with(arguments, {"--out", same.string()}));
  const Json json = *read_json_object(out);
  const SafetensorsFile tensors(same);
  CHECK(json.at("input_ids") == Json({8, 1091, 77, 18, 2}));
  CHECK(json.at("tokens").at(0) == "a");
  CHECK(json.at("tokens").at(4) == "<cls>");
  CHECK(json.at("position") == 4);
  CHECK(json.at("logits").size() == 1);  // at the position explained; --all-logits for the rest
  CHECK(json.at("logits").at(0).size() == 7145);
  CHECK(json.at("predictions").size() == 5);
  const Array<double> scores = tensors.read<double>("scores"), map = tensors.read<double>("map");
  REQUIRE(json.at("scores").size() == 5);
  for (Index j = 0; j < 5; ++j) {
    CHECK(json.at("scores").at(static_cast<std::size_t>(j)).get<double>() == scores(0, j));
    CHECK(json.at("map").at(2).at(static_cast<std::size_t>(j)).get<double>() == map(2, j));
  }
}

TEST_CASE("explain: a table in a pipe and under NO_COLOR, colours where they are asked for", "[explain]") {
  const TemporaryFolder folder;
  const std::vector<std::string> arguments{"--model", models + "mamba", "--text", "a gripping and moving film <cls>"};
  const std::string plain = run_well(folder, "explain", arguments, {"CLICOLOR_FORCE", "NO_COLOR"}).out;
  CHECK(plain.find('\x1b') == std::string::npos);
  CHECK_THAT(plain, contains_text("position  token"));
  CHECK_THAT(plain, contains_text("gripping"));
  CHECK_THAT(plain, contains_text("Mamba, " + models + "mamba, 2 layers, 6 tokens"));
  const std::string coloured = run_well(folder, "explain", arguments, {"NO_COLOR", "CLICOLOR_FORCE=1", "TERM=xterm-256color"}).out;
  CHECK_THAT(coloured, contains_text("\x1b[48;5;"));
  CHECK(run_well(folder, "explain", arguments, {"NO_COLOR=1", "CLICOLOR_FORCE=1", "TERM=xterm-256color"}).out.find('\x1b') ==
        std::string::npos);
}

TEST_CASE("explain: the implicit attention's share of a logit adds up with all terms, and is available layer by layer", "[explain]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out.json";
  const auto answer = [&](const std::vector<std::string>& more) {
    const Outcome outcome = run_well(
        folder, "explain",
        with({"--model", models + "griffin", "--text", "a film that is never dull <cls>", "--precision", "float64", "--out", out.string()},
             more));
    return std::pair(*read_json_object(out), outcome.out);
  };
  const auto sum = [](const Json& scores) {
    double total = 0;
    for (const Json& score : scores) total += score.get<double>();
    return total;
  };
  const auto [all, said] = answer({"--method", "vector-rollout"});
  CHECK(sum(all.at("scores")) + all.at("bias_share").get<double>() == Approx(all.at("explained").get<double>()).epsilon(1e-10));
  CHECK_THAT(said, contains_text("(the scores sum to"));
  const auto [fewer, said_of_fewer] =
      answer({"--method", "vector-rollout", "--terms", "recurrence"});  // what is left out is not in the sum
  CHECK(fewer.find("bias_share") == fewer.end());
  CHECK_THAT(said_of_fewer, contains_text("what the terms left out and the biases give is missing"));
  CHECK(said_of_fewer.find("together the logit of") == std::string::npos);

  const Json mean = answer({"--method", "relevance-attention"}).first.at("scores");
  std::vector<double> of_layers(mean.size(), 0.0);
  for (const std::string layer : {"0", "1", "2"}) {
    const auto [one, title] = answer({"--method", "relevance-attention", "--layer", layer});
    CHECK_THAT(title, contains_text("in layer " + layer));
    for (std::size_t token = 0; token < of_layers.size(); ++token) of_layers[token] += one.at("scores").at(token).get<double>() / 3;
  }
  for (std::size_t token = 0; token < of_layers.size(); ++token)
    CHECK(of_layers[token] == Approx(mean.at(token).get<double>()).epsilon(1e-10).margin(1e-12));
}

TEST_CASE("explain: pictures of one model and of several", "[explain]") {
  const TemporaryFolder folder;
  const auto is_png = [](const fs::path& path) { return io_test::read_bytes(path).rfind("\x89PNG\r\n", 0) == 0; };
  const fs::path one = folder / "one.png", three = folder / "three.png", maps = folder / "maps.png";
  const std::vector<std::string> text{"--text", "a gripping and moving film", "--append", "<cls>"};
  run_well(folder, "explain", with(text, {"--model", models + "mamba", "--method", "raw,rollout", "--out", one.string()}));
  run_well(folder, "explain",
           with(text, {"--model", models + "mamba", "--model", models + "rwkv4", "--model", models + "griffin", "--out", three.string()}));
  run_well(folder, "explain",
           with(text, {"--model", models + "mamba", "--model", models + "griffin", "--picture", "maps", "--out", maps.string()}));
  CHECK(is_png(one));
  CHECK(is_png(three));
  CHECK(is_png(maps));
}

TEST_CASE("explain: every method at once, with a target, a contrast and gradients", "[explain]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out.safetensors";
  const std::vector<std::string> methods{"raw",
                                         "rollout",
                                         "gradient",
                                         "gradient-2403.01590",
                                         "gradient-2405.16504",
                                         "relevance",
                                         "gradient-x-input",
                                         "integrated-gradients",
                                         "leave-one-out"};
  std::string list;
  for (const std::string& method : methods) list += (list.empty() ? "" : ",") + method;
  for (const std::string model : {"mamba", "rwkv4", "griffin"}) {
    INFO(model);
    const Outcome outcome = run_well(folder, "explain",
                                     {"--model", models + model, "--text", "never dull <cls>", "--method", list, "--target", "positive",
                                      "--contrast", "3", "--save-gradients", "--precision", "float64", "--out", out.string()});
    CHECK_THAT(outcome.out, contains_text("the logit of \"positive\" less that of \"negative\""));
    const SafetensorsFile file(out);
    for (const std::string& method : methods) {
      INFO(method);
      CHECK(file.info("scores." + method).shape == std::vector<Index>{3});
      CHECK(file.read<double>("scores." + method).matrix().allFinite());
      const bool from_attention =
          method.rfind("ra", 0) == 0 || method.rfind("ro", 0) == 0 || method == "gradient" || method.rfind("gradient-2", 0) == 0;
      CHECK((file.find("map." + method) != nullptr) == from_attention);
    }
    CHECK(file.info("layer1.y").shape == file.info("layer1.grad_y").shape);
    CHECK(file.read<double>("layer0.grad_y").matrix().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0);
    // Leave-one-out by hand: the contrast with a word replaced by <unk>, token 1.
    const Matrix<double> logits = file.read<double>("logits").matrix();
    const auto ids = file.read_integers("input_ids");
    const fs::path other = folder / "other.safetensors";
    run_well(folder, "explain",
             {"--model", models + model, "--tokens", std::to_string(ids[0]) + ",1,2", "--precision", "float64", "--out", other.string()});
    const Matrix<double> without = SafetensorsFile(other).read<double>("logits").matrix();
    const double fall = (logits(2, 4) - logits(2, 3)) - (without(2, 4) - without(2, 3));
    CHECK(file.read<double>("scores.leave-one-out")(0, 1) == Approx(fall).epsilon(1e-9));
  }
}

TEST_CASE("explain: one token, a target less itself, and NaN in the weights, by every method", "[explain]") {
  const TemporaryFolder folder;
  const std::string all =
      "raw,rollout,gradient,gradient-2403.01590,gradient-2405.16504,relevance,gradient-x-input,integrated-gradients,leave-one-out,random";
  for (const std::string model : {"mamba", "rwkv4", "griffin"}) {
    INFO(model);
    const Outcome one =
        run_well(folder, "explain", {"--model", models + model, "--text", "<cls>", "--method", all, "--target", "positive"});
    CHECK_THAT(one.out, contains_text(model == "mamba" ? "by rollout (row of" : "by rollout"));
    CHECK_THAT(one.out, contains_text("the baseline gives"));
    const Outcome nothing =
        run_well(folder, "explain",
                 {"--model", models + model, "--text", "a film <cls>", "--method", all, "--target", "positive", "--contrast", "positive"});
    CHECK_THAT(nothing.out, contains_text(model == "griffin" ? "(in 3 of 3 layers the map or the gradient is the same everywhere)"
                                                             : "(in 2 of 2 layers the map or the gradient is the same everywhere)"));
    const std::string nothing_to_explain = "(target and contrast are the same token, and their difference is 0 whatever the model reads)";
    CHECK_THAT(nothing.out, contains_text(nothing_to_explain));
    CHECK(one.out.find(nothing_to_explain) == std::string::npos);
    const Outcome other = run_well(folder, "explain",
                                   {"--model", models + model, "--text", "a film <cls>", "--method", "gradient-x-input", "--target",
                                    "positive", "--contrast", "negative"});
    CHECK(other.out.find(nothing_to_explain) == std::string::npos);

    const std::string name = first_norm(model);
    const fs::path broken = model_with_nan(folder, model, name);
    for (const std::string method : {"raw", "rollout", "gradient", "gradient-2403.01590", "gradient-2405.16504", "relevance",
                                     "gradient-x-input", "integrated-gradients", "leave-one-out", "random"})
      check_mistake("explain", {"--model", broken.string(), "--text", "a film <cls>", "--target", "positive", "--method", method},
                    "tensor " + name + " holds NaN at (0, 0), expected finite numbers", "out.json");
    check_mistake("explain", {"--model", broken.string(), "--text", "a film <cls>", "--generate", "2"},
                  "tensor " + name + " holds NaN at (0, 0), expected finite numbers", "out.json");
  }
}

TEST_CASE("explain: public checkpoints with the logits their own code gives", "[explain]") {
  for (const std::string name : {"protmamba", "rwkv4-tiny", "griffin-shakespeare"}) {
    const auto model = test_support::shared_data("realdata/" + name);
    if (!model) {
      WARN(test_support::shared_data_missing("realdata/" + name));
      continue;
    }
    INFO(name);
    const TemporaryFolder folder;
    const SafetensorsFile expected(*model / "expected.safetensors");
    std::string ids;
    for (const auto id : expected.read_integers("input_ids")) ids += (ids.empty() ? "" : ",") + std::to_string(id);
    for (const std::string precision : {"float64", "float32"}) {
      const fs::path out = folder / "out.safetensors";
      run_well(folder, "explain",
               {"--model", model->string(), "--tokens", ids, "--method", "raw,rollout", "--save-gradients", "--precision", precision,
                "--out", out.string()});
      const SafetensorsFile file(out);
      const double difference = (file.read<double>("logits").matrix() - expected.read<double>("logits").matrix())
                                    .cwiseAbs()
                                    .template maxCoeff<Eigen::PropagateNaN>();
      CHECK(difference <= (precision == "float64" ? 1e-5 : 1e-4));
      CHECK(file.read<double>("scores.rollout").matrix().allFinite());
      if (precision == "float64") {
        const Matrix<double> ours = file.read<double>("layer0.grad_y").matrix(), theirs = expected.read<double>("layer0.grad_y").matrix();
        CHECK((ours - theirs).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
              1e-9 * theirs.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      }
    }
  }
}

namespace {

/// What `explain` is asked about a text of so many tokens, whose ids stand in a file of the folder.
std::vector<std::string> asked_about_long_text(const TemporaryFolder& folder, int tokens) {
  std::string ids = "3";
  for (int i = 1; i < tokens; ++i) ids += i % 2 == 0 ? " 5" : " 6";
  io_test::write_bytes(folder / "ids", ids);
  return {"--model", mamba, "--tokens", "@" + (folder / "ids").string()};
}

}  // namespace

TEST_CASE("explain: a .json of a long text has no map of its token pairs, a .safetensors has it", "[explain]") {
  const TemporaryFolder folder;
  const std::vector<std::string> asked = asked_about_long_text(folder, 512);
  const Outcome outcome = run_well(folder, "explain", with(asked, {"--out", (folder / "scores.json").string()}));
  CHECK_THAT(outcome.out,
             contains_text("(the map of every token pair is left out of the file: of more than 128 tokens a .safetensors holds it"));
  const std::string text = io_test::read_bytes(folder / "scores.json");
  CHECK(text.size() < 500000);
  CHECK(Json::parse(text).at("scores").size() == 512);
  CHECK_FALSE(Json::parse(text).contains("map"));
  run_well(folder, "explain", with(asked, {"--out", (folder / "scores.safetensors").string()}));
  CHECK(SafetensorsFile(folder / "scores.safetensors").read<double>("map").rows() == 512);
}

TEST_CASE("explain: a text that is too long for a map of its token pairs", "[explain]") {
  const TemporaryFolder folder;
  const std::vector<std::string> asked = asked_about_long_text(folder, 30001);
  const Outcome outcome = run_well(folder, "explain", with(asked, {"--out", (folder / "scores.json").string()}));
  CHECK_THAT(outcome.out, contains_text("(the map of every token pair is left out of the file: it takes more than 4096 MiB)"));
  const Json json = Json::parse(io_test::read_bytes(folder / "scores.json"));
  CHECK(json.at("scores").size() == 30001);
  CHECK_FALSE(json.contains("map"));
  check_mistake("explain", with(asked, {"--picture", "maps"}),
                "--picture: a map of 30001 x 30001 tokens takes more than the limit of 4096 MiB, expected strips", "out.png");
}

TEST_CASE("explain: scores that do not add up are said not to, with the number that is explained", "[explain]") {
  const TemporaryFolder folder;
  const std::string out = (folder / "out.json").string();
  const auto ask = [&](const std::string& method, const std::string& terms) {
    return run_well(folder, "explain",
                    {"--model", models + "mamba", "--text", "a film <cls>", "--method", method, "--terms", terms, "--out", out})
        .out;
  };
  const std::string need_not = "this method's scores need not add up to it";
  for (const char* method : {"relevance-attention", "alti-logit", "gradient", "gradient-x-input", "leave-one-out"}) {
    INFO(method);
    CHECK_THAT(ask(method, "all"), contains_text(need_not));
    const nlohmann::json written = nlohmann::json::parse(io_test::read_bytes(out));
    CHECK(written.at("explained").get<double>() == Approx(written.at("logits")[0][written.at("target").get<std::size_t>()].get<double>()));
    CHECK(!written.contains("bias_share"));
  }
  CHECK_THAT(ask("vector-rollout", "recurrence"), contains_text("what the terms left out and the biases give is missing"));
  for (const std::string& adds_up : {ask("vector-rollout", "all"), ask("relevance", "all")}) {
    CHECK_THAT(adds_up, contains_text("together the logit of"));
    CHECK(adds_up.find(need_not) == std::string::npos);
  }
  CHECK(ask("raw", "all").find("add up") == std::string::npos);  // it is about no logit
}

TEST_CASE("explain: the contrast may be what the model predicts, and lists may have blanks", "[explain]") {
  const TemporaryFolder folder;
  const auto scores = [&](const std::string& target, const std::string& contrast, const std::string& methods) {
    const fs::path out = folder / "contrast.json";
    run_well(folder, "explain",
             {"--model", models + "mamba", "--text", "a film <cls>", "--method", methods, "--target", target, "--contrast", contrast,
              "--out", out.string()});
    return *read_json_object(out);
  };
  const Json likeliest = scores("positive", "argmax", "relevance, gradient-x-input");
  CHECK(likeliest.at("contrast") == likeliest.at("predictions")[0].at("id"));
  const Json named = scores("positive", "negative", "relevance,gradient-x-input");
  for (const std::string key : {"target", "contrast", "scores.relevance", "scores.gradient-x-input"})
    CHECK(likeliest.at(key) == named.at(key));
}

TEST_CASE("explain: options that none of the methods looks at are named", "[explain]") {
  const TemporaryFolder folder;
  const auto says = [&](const std::string& method, const std::vector<std::string>& more) {
    return run_well(folder, "explain", with({"--model", models + "mamba", "--text", "a film <cls>", "--method", method}, more)).err;
  };
  const std::string of_no_logit = says("raw,rollout", {"--target", "positive", "--contrast", "negative"});
  for (const std::string option : {"--target", "--contrast"})
    CHECK_THAT(of_no_logit, contains_text(option + " has no effect on raw, rollout: it is for methods that explain a token's logit"));
  CHECK_THAT(says("relevance", {"--terms", "recurrence"}), contains_text("--terms has no effect on relevance"));
  CHECK_THAT(says("relevance", {"--reduce", "mean"}), contains_text("--reduce has no effect on relevance: it is for raw and rollout"));
  const std::string of_no_integral = says("relevance", {"--steps", "4", "--baseline", "mean"});
  for (const std::string option : {"--steps", "--baseline"})
    CHECK_THAT(of_no_integral, contains_text(option + " has no effect on relevance: it is for integrated-gradients"));
  CHECK_THAT(says("relevance", {"--terms", "all"}), contains_text("--terms has no effect on relevance"));  // though it is the default
  const std::string all = says("raw,relevance,integrated-gradients",
                               {"--target", "positive", "--terms", "recurrence", "--reduce", "mean", "--steps", "4", "--baseline", "mean"});
  CHECK(all.find("has no effect") == std::string::npos);
}

TEST_CASE("explain: the method that is not named is one that the other options are about", "[explain]") {
  const TemporaryFolder folder;
  const auto method_of = [&](const std::vector<std::string>& more) {
    const std::string out = (folder / "out.json").string();
    const Outcome outcome = run_well(folder, "explain", with({"--model", models + "mamba", "--text", "a film <cls>", "--out", out}, more));
    CHECK(outcome.err.find("has no effect") == std::string::npos);
    return nlohmann::json::parse(io_test::read_bytes(out)).at("method").get<std::string>();
  };
  CHECK(method_of({}) == "contribution-norms");
  CHECK(method_of({"--terms", "recurrence"}) == "contribution-norms");
  CHECK(method_of({"--layer", "0"}) == "contribution-norms");
  CHECK(method_of({"--reduce", "mean"}) == "raw");
  CHECK(method_of({"--target", "positive"}) == "relevance");
  CHECK(method_of({"--target", "argmax"}) == "relevance");
  CHECK(method_of({"--contrast", "negative"}) == "relevance");
  CHECK(method_of({"--target", "positive", "--terms", "recurrence"}) == "vector-rollout");
  CHECK(method_of({"--target", "positive", "--layer", "1"}) == "relevance-attention");
  CHECK(method_of({"--steps", "4"}) == "integrated-gradients");
  CHECK(method_of({"--baseline", "mean", "--target", "positive"}) == "integrated-gradients");
  CHECK(method_of({"--target", "positive", "--method", "gradient"}) == "gradient");
  CHECK(method_of({"--generate", "2"}) == "relevance");  // what each token that is written came from
  const Outcome maps = run_well(folder, "explain",
                                {"--model", models + "mamba", "--text", "a film <cls>", "--target", "positive", "--picture", "maps",
                                 "--out", (folder / "maps.png").string()});
  CHECK_THAT(maps.err, contains_text("--target has no effect on contribution-norms"));
}

TEST_CASE("explain: logits of more tokens than there is memory for are refused before weights are read", "[explain]") {
  const TemporaryFolder folder;
  std::string ids = "3";
  for (int i = 1; i < 9'000'000; ++i) ids += i % 2 == 0 ? " 5" : " 6";  // 718 GiB of logits
  io_test::write_bytes(folder / "ids", ids);
  const fs::path broken = model_with_nan(folder, "mamba", first_norm("mamba"));  // which reading the weights would find
  for (const std::string ending : {"safetensors", "json"}) {
    std::vector<std::string> ask{"--model", broken.string(), "--tokens", "@" + (folder / "ids").string()};
    if (ending == "json") ask.push_back("--all-logits");
    check_mistake(
        "explain", ask,
        "--out: the logits at all of 9,000,000 tokens, 7,145 numbers each, take 718 GiB, which this machine does not have; a .json "
        "without --all-logits holds those at the position alone",
        "out." + ending);
  }
}

TEST_CASE("explain: an infinite rate is named though every result is finite", "[explain]") {
  const TemporaryFolder folder;
  const std::string name = "backbone.layers.1.mixer.A_log";
  const fs::path broken = model_with_nan(folder, "mamba", name);
  std::string bytes = io_test::read_bytes(broken / "model.safetensors");
  const std::size_t at = bytes.find(std::string("\x00\x7e", 2), std::size_t{8} + static_cast<unsigned char>(bytes[0]) +
                                                                    std::size_t{256} * static_cast<unsigned char>(bytes[1]));
  bytes.replace(at, 2, std::string("\x00\x7c", 2));
  io_test::write_bytes(broken / "model.safetensors", bytes);
  check_mistake("explain", {"--model", broken.string(), "--text", "a film <cls>"}, "tensor " + name + " holds an infinity at (0, 0)",
                "out.json");
}

TEST_CASE("explain: a tensor that no layer reads may hold infinities", "[explain]") {
  const TemporaryFolder folder;
  const fs::path model = folder / "mamba", out = folder / "out.safetensors";
  fs::create_directories(model);
  const fs::path shipped = fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / models / "mamba";
  for (const char* name : {"config.json", "vocab.json"}) fs::copy(shipped / name, model / name);
  const SafetensorsFile file(shipped / "model.safetensors");
  const std::string read = "backbone.norm_f.weight", unread = "mtp.0.norm.weight";
  const auto explained = [&](const std::string& infinite) {
    std::vector<std::pair<std::string, Matrix<float>>> numbers;
    for (const auto& [name, info] : file.tensors()) numbers.emplace_back(name, *file.read<float>(name));
    numbers.emplace_back(unread, Matrix<float>::Ones(1, 5));
    std::vector<TensorToWrite> tensors;
    for (auto& [name, matrix] : numbers) {
      if (name == infinite) matrix(0, 1) = std::numeric_limits<float>::infinity();
      const std::vector<Index> shape = name == unread ? std::vector<Index>{5} : file.info(name).shape;
      tensors.push_back({name, ArrayToWrite(matrix.data(), shape)});
    }
    write_safetensors(model / "model.safetensors", tensors);
    return run(
        folder, "explain",
        {"--model", model.string(), "--text", "a film <cls>", "--method", "rollout", "--precision", "float64", "--out", out.string()});
  };
  REQUIRE(explained("none").status == 0);
  const Matrix<double> expected = *SafetensorsFile(out).read<double>("logits");
  const Outcome infinite = explained(unread);
  INFO(infinite.err);
  REQUIRE(infinite.status == 0);
  CHECK(SafetensorsFile(out).read<double>("logits").matrix() == expected);
  CHECK_THAT(explained(read).err, contains_text("tensor " + read + " holds an infinity at (0, 1)"));
}

TEST_CASE("explain: a text may begin with dashes, unless it is an option", "[explain]") {
  const TemporaryFolder folder;
  const auto ids = [&](const std::vector<std::string>& text) {
    const fs::path out = folder / "out.safetensors";
    run_well(folder, "explain",
             with(text, {"--model", models + "mamba", "--tokenizer", "bytes", "--method", "raw", "--out", out.string()}));
    const auto read = SafetensorsFile(out).read_integers("input_ids");
    return std::vector<Index>(read.begin(), read.end());
  };
  CHECK(ids({"--text", "--foo"}) == std::vector<Index>{'-', '-', 'f', 'o', 'o'});
  CHECK(ids({"--text", "-f"}) == std::vector<Index>{'-', 'f'});
  CHECK(ids({"--text=--method"}) == std::vector<Index>{'-', '-', 'm', 'e', 't', 'h', 'o', 'd'});
  check_mistake("explain", {"--model", models + "mamba", "--text", "--method", "raw"}, "--text has no value: --method follows", "");
}

TEST_CASE("explain: mistakes are one line, status 2, and no file", "[explain]") {
  const std::vector<std::string> start{"--model", models + "mamba", "--text", "a film <cls>"};
  struct Case {
    std::vector<std::string> arguments;
    std::string words, out = "out.json";
  };
  const std::vector<Case> cases = {
      {{}, "--model is required"},
      {{"--model", models + "mamba"}, "there is nothing to read: expected --text"},
      {{"--model", models + "mamba", "--text", ""}, "the text is empty"},
      {{"--model", models + "mamba", "--text", "", "--append", "<cls>"}, "the text is empty"},
      {{"--model", models + "mamba", "--text", "\xff\xfe"}, "UTF-16, expected UTF-8"},
      {{"--model", "examples", "--text", "a"}, "no model here: expected model.safetensors"},
      {{"--model", "no/such/folder", "--text", "a"}, "there is no folder no/such/folder"},
      {{"--model", "", "--text", "a"}, "--model: the name is empty"},
      {{"--model", models + "mamba", "--tokens", "1,-2"}, "is not a list of token ids, expected for example 1,2,3"},
      {{"--model", models + "mamba", "--tokens", "1,7145"}, "token 1 is 7145, expected 0 to 7144"},
      {with(start, {"--position", "3"}), "position 3 is out of range, expected 0 to 2"},
      {with(start, {"--position", "0,1"}), "is not a single position, expected last, or 0 to 2"},
      {with(start, {"--position", "all"}), "is not a single position"},
      {with(start, {"--position", "end"}), "--position: \"end\" is not a position, expected last, or a number from 0"},
      {with(start, {"--layer", "2"}), "--layer: 2 is out of range, expected 0 to 1"},
      {with(start, {"--layer", "0", "--method", "rollout"}), "--layer: rollout goes through all layers"},
      {with(start, {"--layer", "0", "--baseline", "zero"}), "--baseline and --layer exclude each other: it is for integrated-gradients"},
      {with(start, {"--layer", "0", "--steps", "9"}), "--steps and --layer exclude each other: it is for integrated-gradients"},
      {with(start, {"--method", "gradcam"}), "unknown method \"gradcam\", expected one of raw, rollout"},
      {with(start, {"--method", "raw,"}), "unknown method \"\""},
      {with(start, {"--method", "raw,relevence"}), "--method: unknown method \"relevence\", expected one of raw, "},
      {with(start, {"--method", "raw,relevence"}), "random, perhaps relevance is meant"},
      {with(start, {"--method", "integrated"}), "perhaps integrated-gradients is meant"},
      {with(start, {"--terms", "recurrence,gat"}), "--terms: unknown term \"gat\""},
      {with(start, {"--terms", "recurrence,gat"}), "perhaps gate is meant"},
      {with(start, {"--picture", "map"}), "--picture: \"map\" is unknown, perhaps maps is meant, expected strips or maps"},
      {with(start, {"--target", "positve"}), "--target: examples/models/mamba: token \"positve\" is not in vocab.json"},
      {with(start, {"--target", "positve"}), "perhaps positive is meant"},
      {with(start, {"--append", "<clss>"}), "perhaps <cls> is meant"},
      {with(start, {"--position", "-1"}), "--position: \"-1\" is not a position, expected last, or a number from 0"},
      {with(start, {"--generate", "many"}), "--generate: \"many\" is not a whole number from 1 to 100000"},
      {with(start, {"--threads", "0"}), "--threads: \"0\" is not a whole number from 1 to 4096"},
      {with(start, {"film"}), "\"film\" belongs to no option, expected quotes around a value of several words"},
      {{models + "mamba", "--text", "a film"}, "belongs to no option, perhaps --model examples/models/mamba is meant"},
      {with(start, {"-m", "raw"}), "there is no option -m; explain --help lists all options"},
      {{"--model", models + "mamab/", "--text", "a"}, "nor a file of that name, perhaps examples/models/mamba is meant, expected a folder"},
      {with(start, {"--method", "raw,rollout,raw"}), "--method: raw appears twice"},
      {with(start, {"--target", "7145"}), "--target: token 7145 is out of range, expected 0 to 7144"},
      {with(start, {"--target", "splendidly unknown"}), "token \"splendidly unknown\" is not in vocab.json"},
      {with(start, {"--target", ""}), "--target: the value is empty"},
      {with(start, {"--text", "a film"}), "--text appears twice, expected once"},
      {with(start, {"--method"}), "--method has no value: --out follows"},
      {with(start, {"-method", "raw"}), "there is no option -method, perhaps --method is meant"},
      {with(start, {"--layer", "0,1"}), "--layer: \"0,1\" is not a whole number"},
      {with(start, {"--layer", "0x1"}), "--layer: \"0x1\" is not a whole number"},
      {with(start, {"--layer", "99999999999999999999"}), "--layer: 99999999999999999999 is too large a number, expected at most"},
      {with(start, {"--layer", "-99999999999999999999"}), "--layer: -99999999999999999999 is out of range"},
      {with(start, {"--picture", "maps"}), "--picture: is about a picture, expected --out FILE.png"},
      {with(start, {"--title", "A film"}), "--title: is about a picture, expected --out FILE.png"},
      {with(start, {"--all-logits"}), "--all-logits: logits are written to a file of numbers", "out.png"},
      {{"--model", models + "mamba", "--text", "@"}, "--text: @ is without the name of a file"},
      {{"--model", models + "mamba/config.json", "--text", "a"}, "mamba/config.json holds no weights, expected the folder that it lies in"},
      {with(start, {"--contrast", ""}), "--contrast: the value is empty"},
      {with(start, {"--contrast", "argmax"}), "--contrast: argmax less itself is 0, expected --target TOKEN"},
      {with(start, {"--shard", ""}), "--shard: the value is empty"},
      {with(start, {"--title=", "--all-logits"}), "--title= has no value"},
      {with(start, {"--layer", ""}), "--layer: the value is empty"},
      {with(start, {"--tokenizer", ""}), "--tokenizer: the value is empty"},
      {with(start, {"--contrast", "-3"}), "token \"-3\" is not in vocab.json"},
      {with(start, {"--contrast", "99999"}), "--contrast: token 99999 is out of range"},
      {with(start, {"--save-gradients"}), "--save-gradients: gradients are written to a .safetensors file alone"},
      {with(start, {"--picture", "maps", "--method", "raw,relevance"}), "--picture: relevance has no map", "out.png"},
      {with(start, {"--terms", "all,skip"}), "unknown term \"all\""},
      {with(start, {"--reduce", "none"}), "--reduce: \"none\" is unknown, expected mean, mean-abs or mean-positive"},
      {with(start, {"--precision", "double"}), "--precision: \"double\" is unknown, expected float32 or float64"},
      {with(start, {"--tokenizer", "merges"}),
       "tokenizer \"merges\" is neither bytes, symbols or words, nor a file or folder that is there"},
      {with(start, {"--append", "<eos>"}), "token \"<eos>\" is not in vocab.json; special tokens there: <"},
      {with(start, {"--model", models + "rwkv4"}), ".json holds one model's numbers, and --model names 2"},
      {start, "expected .png, .json or .safetensors", "out.npy"},
      {start, "expected .png, .json or .safetensors", "out"},
      {start, "there is no folder", "nowhere/out.json"},
  };
  for (const Case& mistake : cases) check_mistake("explain", mistake.arguments, mistake.words, mistake.out);
}

TEST_CASE("explain: what is read is not written over", "[explain]") {
  const TemporaryFolder folder;
  const std::string tokens = (folder / "tokens.json").string();
  io_test::write_bytes(tokens, "[5, 6, 7]");
  const std::vector<std::string> start{"--model", models + "mamba", "--tokens", "@" + tokens, "--method", "raw", "--out"};
  const Outcome outcome = run(folder, "explain", with(start, {tokens}));
  CHECK(outcome.status == 2);
  CHECK_THAT(outcome.err, contains_text("tokens.json is read in this run"));
  CHECK(io_test::read_bytes(tokens) == "[5, 6, 7]");
  const Outcome config = run(folder, "explain", with(start, {models + "mamba/config.json"}));
  CHECK(config.status == 2);
  CHECK_THAT(config.err, contains_text("config.json is read in this run"));
  run_well(folder, "explain", with(start, {(folder / "other.json").string()}));
  // A model of one's own: its files by whatever name, link or option they are reached.
  const std::filesystem::path model = folder / "own";
  std::filesystem::create_directory(model);
  for (const char* name : {"config.json", "vocab.json", "model.safetensors"})
    std::filesystem::copy_file(std::string(IMPLICIT_ATTENTION_SOURCE_DIR) + "/" + models + "mamba/" + name,
                               model / (std::string(name) == "model.safetensors" ? "weights.safetensors" : name));
  const std::string weights = io_test::read_bytes(model / "weights.safetensors");
  const auto refused = [&](const std::string& read, const std::string& out, std::vector<std::string> more = {}) {
    const std::vector<std::string> arguments{"--model", read, "--tokens", "5,6,7", "--method", "raw", "--out", out};
    const Outcome outcome_of_out = run(folder, "explain", with(std::move(more), arguments));
    INFO(out);
    CHECK(outcome_of_out.status == 2);
    CHECK_THAT(outcome_of_out.err, contains_text("is read in this run"));
    CHECK(io_test::read_bytes(model / "weights.safetensors") == weights);
  };
  refused(model.string(), (model / "weights.safetensors").string());
  refused((model / "weights.safetensors").string(), (model / "config.json").string());
  std::filesystem::create_symlink(model / "weights.safetensors", folder / "link.safetensors");
  refused(model.string(), (folder / "link.safetensors").string());
  std::filesystem::copy_file(model / "vocab.json", folder / "names.json");
  refused(model.string(), (folder / "names.json").string(), {"--tokenizer", (folder / "names.json").string()});
  // Standard input that is a file.
  const std::string said = (folder / ".said").string();
  const int status = std::system(("cd " + quoted(IMPLICIT_ATTENTION_SOURCE_DIR) + " && " +
                                  quoted((fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / "explain").string()) + " --model " + mamba +
                                  " --tokens - --out " + quoted(tokens) + " <" + quoted(tokens) + " >/dev/null 2>" + quoted(said))
                                     .c_str());
  CHECK(WEXITSTATUS(status) == 2);
  CHECK_THAT(io_test::read_bytes(said), contains_text("tokens.json is read in this run (-)"));
  CHECK(io_test::read_bytes(tokens) == "[5, 6, 7]");
}

TEST_CASE("the small programs end in one line where they cannot work, and say what they do", "[explain]") {
  const TemporaryFolder folder;
  const auto ended = [&](const std::string& words, const std::string& program) {
    const Outcome outcome =
        run(folder, "/bin/sh", {"-c", words + " exec " + quoted((fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / program).string())});
    INFO(outcome.err);
    CHECK(outcome.status == 2);
    CHECK(outcome.out.find("A x") == std::string::npos);
    CHECK(outcome.err.find('\n') + 1 == outcome.err.size());
    return outcome.err;
  };
  CHECK_THAT(ended("cd / &&", "minimal"), contains_text("minimal: examples/models/mamba"));
#if defined(__GLIBC__) && !defined(TEST_ADDRESS_SANITIZER) && !defined(TEST_THREAD_SANITIZER)
  // A thread's stack is as large as a stack may grow: more than there are addresses.
  if (std::system("ulimit -s 100000000000 2>/dev/null") == 0) {
    CHECK_THAT(ended("ulimit -s 100000000000 &&", "engine_hook"), contains_text("engine: no memory or no thread: "));
    const Outcome alone =
        run(folder, "/bin/sh",
            {"-c", "ulimit -s 100000000000 && exec " + quoted((fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / "explain").string()) +
                       " --model " + mamba + " --tokens 5,6,7,2 --method raw --threads 4"});
    CHECK(alone.status == 0);
    CHECK(without_progress(alone.err).empty());
  }
#endif
  for (const char* program : {"engine_hook", "quantised_engine"}) {
    const Outcome help = run_well(folder, program, {"--help"});
    CHECK(help.err.empty());
    CHECK_THAT(help.out, contains_text(detail::message("Example:\n  ", program, "\n")));
    for (const std::vector<std::string>& wrong : {std::vector<std::string>{"--tokens"}, {"--help", "me"}, {""}}) {
      const Outcome outcome = run(folder, program, wrong);
      CHECK(outcome.status == 2);
      CHECK(outcome.out.empty());
      CHECK(outcome.err == detail::message(program, ": it takes no arguments; --help says what it does\n"));
    }
  }
}

TEST_CASE("minimal and engine_hook reconstruct what they say", "[explain]") {
  const TemporaryFolder folder;
  const auto deviation = [](const std::string& out) {
    const std::size_t by = out.rfind(" by ");
    REQUIRE(by != std::string::npos);
    return std::stod(out.substr(by + 4));
  };
  CHECK(deviation(run_well(folder, "minimal", {}).out) <= 1e-14);  // double, numbers about 1
  const std::string hooked = run_well(folder, "engine_hook", {}).out;
  CHECK(deviation(hooked) <= 1e-5);  // float, 192 tokens
  const std::string quantised = run_well(folder, "quantised_engine", {}).out;
  for (const char* layer : {"Mamba", "RWKV-7", "Griffin", "Gated DeltaNet"}) {
    CHECK_THAT(hooked, contains_text(layer));
    CHECK_THAT(quantised, contains_text(layer));
  }
}
