// `evaluate` as people run it: tables and numbers over a handful of texts, ways to take tokens away, labels of all kinds, complaints.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <examples/programs.hpp>

#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/io/json.hpp>

namespace {

using namespace implicit_attention;
using namespace example_test;

std::string written(const TemporaryFolder& folder, const std::string& name, const std::string& text) {
  std::ofstream(folder / name, std::ios::binary) << text;
  return (folder / name).string();
}

const Json& result(const Json& evaluation, const std::string& method, const std::string& terms = "") {
  for (const Json& entry : evaluation.at("results"))
    if (entry.at("method") == method && (terms.empty() || entry.at("terms") == terms)) return entry;
  FAIL("no row " << method << " " << terms);
  return evaluation;
}

double mean(const Json& entry, const std::string& metric) { return entry.at("metrics").at(metric).at("mean").get<double>(); }

}  // namespace

TEST_CASE("evaluate: the recorded predictions, methods in the right order, the same numbers for the same seed", "[evaluate]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out.json", again = folder / "again.json";
  for (const std::string model : {"mamba", "rwkv4", "griffin"}) {
    INFO(model);
    const std::string directory = "examples/models/" + model;
    const Json expected = *read_json_object(fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / directory / "expected.json");
    std::string lines;
    double explained = 0;
    for (const Json& sentence : expected.at("sentences")) {
      lines += std::string(sentence.at("predicted") == "positive" ? "1" : "0") + "\t" + sentence.at("text").get<std::string>() + "\n";
      explained += std::abs(sentence.at("logits")[3].get<double>() - sentence.at("logits")[4].get<double>()) / 3;  // negative, positive
    }
    const std::vector<std::string> arguments{
        "--model", directory, "--data", written(folder, "data.tsv", lines), "--methods", "leave-one-out,relevance,random,raw"};
    std::vector<std::string> first = arguments, second = arguments;
    // Whatever the threads: one, a text each, or all of them within a text.
    first.insert(first.end(), {"--out", out.string(), "--threads", "1"});
    second.insert(second.end(), {"--out", again.string(), "--markdown", "--threads", model == "rwkv4" ? "7" : "2"});
    const Outcome text = run_well(folder, "evaluate", first);
    CHECK_THAT(text.out, contains_text("3 texts of data.tsv, 100.0 % predicted right"));
    const Outcome markdown = run_well(folder, "evaluate", second);
    CHECK_THAT(markdown.out, contains_text("| leave-one-out |"));
    Json evaluation = *read_json_object(out), repeated = *read_json_object(again);
    evaluation.erase("seconds");
    repeated.erase("seconds");
    CHECK(evaluation == repeated);
    CHECK(evaluation.at("texts") == 3);
    CHECK(evaluation.at("predicted_right") == 3);
    // Float, through a few layers, of numbers about 10.
    const Json& conservation = result(evaluation, "relevance").at("conservation");
    CHECK(conservation.at("mean_explained").get<double>() == Approx(explained).margin(1e-4));
    CHECK(conservation.at("mean_gap").get<double>() < 1e-4);
    const Json& truth = result(evaluation, "leave-one-out");
    const Json& random = result(evaluation, "random");
    CHECK(mean(truth, "leave_one_out_correlation") == Approx(1));
    CHECK(mean(truth, "flipping_difference") > 0);
    CHECK(mean(truth, "flipping_difference") > mean(random, "flipping_difference"));
    CHECK(mean(truth, "comprehensiveness") > mean(random, "comprehensiveness"));
    CHECK(mean(truth, "infidelity") < mean(random, "infidelity"));
    CHECK(truth.at("metrics").at("pruning").at("less_random").at("mean").get<double>() ==
          Approx(mean(truth, "pruning") - mean(random, "pruning")));
    for (const Json& entry : evaluation.at("results"))
      for (const auto& [name, metric] : entry.at("metrics").items()) {
        INFO(entry.at("method") << " " << name);
        if (name.rfind("marked", 0) == 0) {  // nobody marked words here
          CHECK(metric.at("texts") == 0);
          continue;
        }
        CHECK(metric.at("texts") == 3);
        CHECK(metric.at("low").get<double>() <= metric.at("mean").get<double>());
        CHECK(metric.at("mean").get<double>() <= metric.at("high").get<double>());
      }
    // Every layer, and then all that is left.
    CHECK(result(evaluation, "raw").at("randomized_model_stages").size() == (model == "griffin" ? 4 : 3));
  }
}

TEST_CASE("evaluate: formulations, ways to take away, labels as tokens and ids, texts of one word", "[evaluate]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out.json";
  std::string said;  // on stderr
  const auto evaluate = [&](const std::string& lines, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"--model", mamba, "--data", written(folder, "data.tsv", lines), "--out", out.string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    said = run_well(folder, "evaluate", arguments).err;
    return *read_json_object(out);
  };
  const std::string film = "1 a gripping and moving film\n\n0 a dull mess\r\n";
  const Json formulations = evaluate(film, {"--methods", "raw,gradient-x-input", "--terms", "recurrence,published,all,recurrence+gate"});
  CHECK(formulations.at("results").size() == 5);
  CHECK(formulations.at("formulations").size() == 3);
  std::set<double> distinct;
  for (const std::string terms : {"recurrence", "published", "all", "recurrence+gate"})
    distinct.insert(mean(result(formulations, "raw", terms), "sensitivity_max"));
  CHECK(distinct.size() == 4);
  CHECK(formulations.at("formulations")[0].at("metrics").at("pruning").at("mean").get<double>() ==
        Approx(mean(result(formulations, "raw", "all"), "pruning") - mean(result(formulations, "raw", "recurrence"), "pruning")));

  std::set<double> areas;
  for (const std::string remove : {"unk", "zero", "drop"}) {
    const Json removed = evaluate(film, {"--methods", "leave-one-out", "--remove", remove});
    CHECK(removed.at("removal") == remove);
    CHECK(mean(result(removed, "leave-one-out"), "leave_one_out_correlation") == Approx(1));
    areas.insert(mean(result(removed, "leave-one-out"), "activation"));
  }
  CHECK(areas.size() == 3);

  // What is drawn depends on a text's line, so the lines stay where they are.
  const Json numbers = evaluate(film, {"--methods", "relevance"});
  const Json named = evaluate("positive a gripping and moving film\n\nnegative a dull mess\n", {"--methods", "relevance"});
  CHECK(named.at("results") == numbers.at("results"));
  CHECK_THAT(said, contains_text("class negative: token \"negative\", id 3\nclass positive: token \"positive\", id 4\n"));
  CHECK(named.at("predicted_right") == numbers.at("predicted_right"));
  const Json ids = evaluate("7001 a gripping and moving film\n\n7002 a dull mess\n7003 a film\n", {"--methods", "relevance"});
  CHECK(ids.at("texts") == 3);
  CHECK(mean(result(ids, "relevance"), "activation") > 0);

  const Json marked = evaluate("1\ta gripping film\t1\n0 a dull mess\n0\ta dull mess\t1-2\n", {"--methods", "leave-one-out,random"});
  CHECK(result(marked, "random").at("metrics").at("marked_words_average_precision").at("texts") == 2);
  CHECK(result(marked, "leave-one-out").at("metrics").at("marked_words_top_k_overlap").at("texts") == 2);
  CHECK(mean(result(marked, "leave-one-out"), "marked_words_average_precision") == 1);

  const Json word = evaluate("1 gripping\n", {"--methods", "raw", "--remove", "drop"});
  CHECK(result(word, "raw").at("metrics").at("leave_one_out_correlation").at("mean").is_null());
  CHECK(result(word, "raw").at("metrics").at("leave_one_out_correlation").at("texts") == 0);
  CHECK(mean(result(word, "raw"), "flipping_difference") == 0);
  const Json bare = evaluate("1 gripping\n", {"--methods", "raw", "--remove", "drop", "--append", ""});  // no token left: logits of zero
  CHECK(mean(result(bare, "raw"), "flipping_difference") == 0);

  const Json few = evaluate("1 a\n1 b\n1 c\n0 d\n0 e\n", {"--methods", "random", "--limit", "2"});
  CHECK(few.at("texts") == 2);

  // Nothing named: every method that scores tokens first of all; the edge map's row is there, its scores where they are named.
  std::set<std::string> expected, came;
  for (const MethodName& method : method_names)
    if (method.method != Method::edge_map) expected.emplace(method.name);
  const Json every = evaluate("1 a film\n", {"--terms", "all", "--edges", "2", "--permutations", "2"});
  for (const Json& entry : every.at("results")) came.insert(entry.at("method").get<std::string>());
  CHECK(came == expected);
  int rows = 0;
  for (const Json& row : every.at("layer_maps")) rows += row.at("map") == "edge-map";
  CHECK(rows == 1);
  const Json named_edges = evaluate("1 a film\n", {"--methods", "edge-map", "--terms", "all", "--edges", "2", "--permutations", "0"});
  CHECK(named_edges.at("results").size() == 1);
  rows = 0;
  for (const Json& row : named_edges.at("layer_maps")) rows += row.at("map") == "edge-map";
  CHECK(rows == 1);
}

TEST_CASE("evaluate: edges knocked out, ceilings, and metrics on some of the texts", "[evaluate]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out.json";
  const std::string data = written(folder, "data.tsv", "1 a gripping and moving film\n0 a dull mess of a film\n1 never dull\n");
  run_well(folder, "evaluate",
           {"--model", mamba, "--data", data, "--methods", "raw,relevance-attention,relevance,random", "--terms", "recurrence,all",
            "--edges", "12", "--permutations", "20", "--repeated", "1", "--out", out.string()});
  const Json evaluation = *read_json_object(out);
  CHECK(evaluation.at("edges_a_layer") == 12);
  CHECK(evaluation.at("permutations") == 20);
  CHECK(evaluation.at("repeated_texts") == 1);
  const Json& raw = result(evaluation, "raw", "all").at("metrics");
  CHECK(raw.at("sensitivity_max").at("texts") == 1);
  CHECK(raw.at("flipping_difference").at("texts") == 3);
  CHECK(
      raw.at("flipping_difference").at("less_relevance").at("mean").get<double>() ==
      Approx(mean(result(evaluation, "raw", "all"), "flipping_difference") - mean(result(evaluation, "relevance"), "flipping_difference")));

  std::vector<std::string> maps;
  double exact = 0, random = 0;
  for (const Json& row : evaluation.at("layer_maps")) {
    const std::string name = row.at("map");
    maps.push_back(name + (row.contains("terms") ? " " + row.at("terms").get<std::string>() : ""));
    const Json& edges = row.at("metrics").at("edges_correlation");
    CHECK(edges.at("texts") == 3);
    if (maps.back() == "edge-map all") exact = edges.at("mean").get<double>();
    if (name == "random") random = edges.at("mean").get<double>();
    CHECK(row.at("metrics").at("edges_unexplained").at("mean").get<double>() <= 1);
  }
  CHECK(maps == std::vector<std::string>{"raw recurrence", "raw all", "relevance-attention recurrence", "relevance-attention all",
                                         "edge-map recurrence", "edge-map all", "random"});
  CHECK(exact > 0.8);  // the derivative of what was measured
  CHECK(random < exact - 0.3);

  const Json& ceilings = evaluation.at("ceilings");
  REQUIRE(ceilings.size() == 2);
  CHECK(ceilings[0].at("samples") == "20 permutations");
  const double searched = ceilings[1].at("metrics").at("flipping_difference").at("mean").get<double>();
  CHECK(searched >= mean(result(evaluation, "relevance"), "flipping_difference"));
  CHECK(searched >= ceilings[0].at("metrics").at("flipping_difference").at("mean").get<double>());
  CHECK(ceilings[1].at("metrics").at("activation").at("mean").is_null());

  run_well(folder, "evaluate",
           {"--model", mamba, "--data", data, "--methods", "raw", "--edges", "0", "--permutations", "0", "--out", out.string()});
  const Json plain = *read_json_object(out);
  CHECK_FALSE(plain.contains("layer_maps"));
  CHECK_FALSE(plain.contains("ceilings"));
  check_mistake("evaluate", {"--model", mamba, "--data", data, "--edges", "-1"}, "--edges", "out.json");
  check_mistake("evaluate", {"--model", mamba, "--data", data, "--permutations", "few"}, "--permutations", "out.json");
  check_mistake("evaluate", {"--model", mamba, "--causes", data, "--edges", "5"}, "--edges and --causes exclude each other", "out.json");
}

TEST_CASE("evaluate: mistakes", "[evaluate]") {
  const TemporaryFolder folder;
  const std::string good = written(folder, "good.tsv", "1 a gripping film\n");
  const auto mistake = [&](const std::vector<std::string>& arguments, const std::string& words) {
    check_mistake("evaluate", arguments, words, "out.json");
  };
  mistake({}, "--");
  mistake({"--model", mamba}, "--data");
  mistake({"--model", "nowhere", "--data", good}, "no folder nowhere");
  mistake({"--model", mamba, "--data", "nowhere.tsv"}, "nowhere.tsv");
  mistake({"--model", mamba, "--data", good, "--methods", "guess"}, "unknown method \"guess\", expected one of raw");
  mistake({"--model", mamba, "--data", good, "--methods", "raw,raw"}, "raw is asked for twice");
  mistake({"--model", mamba, "--data", good, "--methods", ""}, "--methods: the value is empty");
  mistake({"--model", mamba, "--data", good, "--join", ""}, "--join: the value is empty");
  mistake({"--model", mamba, "--data", good, "--terms", "recurrence,everything"}, "unknown term \"everything\"");
  mistake({"--model", mamba, "--data", good, "--remove", "mask"}, "mask");
  mistake({"--model", mamba, "--data", good, "--limit", "0"}, "limit");
  mistake({"--model", mamba, "--data", good, "--append", "<eos>"}, "<eos>");
  mistake({"--model", mamba, "--data", written(folder, "empty.tsv", "\n\n")}, "empty.tsv: there are no texts");
  mistake({"--model", mamba, "--data", written(folder, "bare.tsv", "1 fine\nlonely\n")}, "bare.tsv:2: \"lonely\" is not a label and text");
  mistake({"--model", mamba, "--data", written(folder, "label.tsv", "good a film\n1 b\n99999 c\n")}, "label \"99999\" of line 3");
  mistake({"--model", mamba, "--data", written(folder, "mixed.tsv", "1 a film\n7 b\n")},
          "label \"7\" of line 2 is an id where label \"1\" of line 1 is a token of the vocabulary, expected all of one kind");
  mistake({"--model", mamba, "--data", written(folder, "unlabelled.tsv", "a film\nanother film\nit is long\n")},
          "3 lines begin with 3 different words, the first with \"a\"");
  mistake({"--model", mamba, "--data", good, "--seed", "-1"}, "--seed: \"-1\" is not a whole number of at least 0");
  mistake({"--model", mamba, "--data", good, "--permutations", "9223372036854775807"},
          "--permutations: \"9223372036854775807\" is not a whole number from 0 to 100000");
  mistake({"--limti", "3"}, "there is no option --limti, perhaps --limit is meant");
  mistake({"--model", mamba, "--data", written(folder, "one.tsv", "film a film\n")}, "at least two classes");
  mistake({"--model", mamba, "--data", written(folder, "marks.tsv", "1 a film\n0\ta film\t0,2\n")},
          "marks.tsv:2: word 2 is marked, but the text has 2");
  mistake({"--model", mamba, "--data", written(folder, "marks.tsv", "0\ta film\t0-\n")}, "marks.tsv:1: 0- is not a range");
  mistake({"--model", mamba, "--data", written(folder, "binary.tsv", "1 a film\n0 \xff\n")}, "binary.tsv:2: the text is not valid UTF-8");
  check_mistake("evaluate", {"--model", mamba, "--data", good}, "expected .json", "out.txt");
}

TEST_CASE("evaluate: NaN in the weights is named, and nothing is written", "[evaluate]") {
  const TemporaryFolder folder;
  const std::string good = written(folder, "good.tsv", "1 a gripping film\n0 never dull\n");
  const fs::path out = folder / "out.json";
  for (const std::string model : {"mamba", "rwkv4", "griffin"}) {
    const std::string name = first_norm(model);
    const fs::path broken = model_with_nan(folder, model, name);
    const Outcome outcome = run(folder, "evaluate", {"--model", broken.string(), "--data", good, "--out", out.string()});
    CHECK(outcome.status == 2);
    CHECK(outcome.out.empty());
    CHECK_THAT(outcome.err, contains_text("evaluate: " + (broken / "model.safetensors").string() + ": tensor " + name +
                                          " holds NaN at (0, 0), expected finite numbers"));
    CHECK_FALSE(fs::exists(out));
  }
  // What stands for a removed word: no text holds it, and the whole text's logits are finite.
  const fs::path unknown = model_with_nan(folder, "mamba", "backbone.embeddings.weight", "unknown", 1);
  const Outcome outcome = run(folder, "evaluate", {"--model", unknown.string(), "--data", good, "--out", out.string()});
  CHECK(outcome.status == 2);
  CHECK_THAT(outcome.err, contains_text("tensor backbone.embeddings.weight holds NaN at (1, 0), expected finite numbers"));
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("evaluate: shares of the texts joined are the whole", "[evaluate]") {
  const TemporaryFolder folder;
  const std::string data = written(folder, "texts.tsv",
                                   "1 a gripping and moving film\n0 a dull mess\n1 never dull\n0 it is a mess\n1 moving\n"
                                   "0\tdull and long\t0,2\n1 a film\n");
  const std::vector<std::string> ask{"--model",    mamba, "--data",         data, "--methods", "raw,relevance,random",
                                     "--repeated", "3",   "--permutations", "2"};
  const auto to = [&](const std::string& name) { return (folder / name).string(); };
  const auto results = [&](const std::string& name) {
    Json json = *read_json_object(folder / name);
    json.erase("seconds");
    return json.dump();
  };
  const Outcome alone = run_well(folder, "evaluate", with(ask, {"--out", to("alone.json")}));
  std::vector<std::string> files;
  std::string together;
  for (const std::string share : {"1", "2", "3"}) {
    files.push_back(to("part." + share + ".jsonl"));
    const Outcome one = run_well(folder, "evaluate", with(ask, {"--shard", share + "/3", "--out", files.back()}));
    CHECK_THAT(one.out, contains_text(share == "3" ? "3 texts evaluated" : "2 texts evaluated"));
    together += io_test::read_bytes(files.back());
  }
  run_well(folder, "evaluate", with(ask, {"--out", to("whole.jsonl"), "--threads", "3"}));
  CHECK(io_test::read_bytes(folder / "whole.jsonl") == together);
  const auto joined = [&](const std::vector<std::string>& parts) { return with(with(ask, {"--join"}), parts); };
  const Outcome shown = run_well(folder, "evaluate", with(joined({files[2], files[0], files[1]}), {"--out", to("joined.json")}));
  CHECK(results("joined.json") == results("alone.json"));
  CHECK(shown.out.substr(0, shown.out.find("Written to")) == alone.out.substr(0, alone.out.find("Written to")));
  run_well(folder, "evaluate", with(joined({to("whole.jsonl")}), {"--out", to("joined.json")}));
  CHECK(results("joined.json") == results("alone.json"));
  CHECK(run_well(folder, "evaluate", with(joined(files), {"--markdown"})).out ==
        run_well(folder, "evaluate", with(ask, {"--markdown"})).out);

  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& words) {
    const Outcome outcome = run(folder, "evaluate", arguments);
    CHECK(outcome.status == 2);
    CHECK(outcome.out.empty());
    CHECK_THAT(outcome.err, contains_text(words));
  };
  refused(joined({files[0], files[2]}), "--join: share 2/3 is missing");
  refused(joined({files[0], files[1], files[0], files[2]}), "are both share 1/3");
  refused(joined({files[0], to("whole.jsonl")}), "whole.jsonl is share 1/1, and another file is one of 3");
  refused(with(joined(files), {"--seed", "2"}), "part.1.jsonl was made with seed 1, and is 2 now");
  refused(with(joined(files), {"--shard", "1/3"}), "--shard and --join exclude each other");
  refused(with(ask, {"--shard", "1/3"}), "--shard: a share's results go to a file, expected --out FILE.jsonl");
  refused(with(ask, {"--shard", "4/3", "--out", to("four.jsonl")}), "--shard: \"4/3\" is not a share");
  refused(with(ask, {"--markdown", "--out", to("four.jsonl")}), "--markdown");
  refused(with(ask, {"--seed", "2", "--shard", "1/3", "--out", files[0]}), "part.1.jsonl was made with seed 1, and is 2 now");
  CHECK_FALSE(fs::exists(folder / "four.jsonl"));
  // An interrupted share is gone on with, and refused until it is whole.
  const std::string bytes = io_test::read_bytes(files[2]);
  io_test::write_bytes(files[2], bytes.substr(0, bytes.find('\n') + 9));
  refused(joined(files), "part.3.jsonl has the results of 1 texts, expected 3: its run has not ended");
  CHECK_THAT(run_well(folder, "evaluate", with(ask, {"--shard", "3/3", "--out", files[2]})).out,
             contains_text("3 texts evaluated, 1 of the results were there already"));
  CHECK(io_test::read_bytes(files[2]) == bytes);
  // Files that somebody changed.
  const auto changed = [&](const std::string& text, const std::string& words) {
    io_test::write_bytes(files[2], text);
    refused(joined(files), words);
  };
  changed(bytes + bytes, "has more lines than its share has texts");
  changed("{\"line\":5,\"numbers\":[1.0,2.0]}\n" + bytes.substr(bytes.find('\n') + 1), "part.3.jsonl:1: ");
  changed("{\"line\":5,\"numbers\":[]}\n" + bytes.substr(bytes.find('\n') + 1), "there are fewer numbers than this evaluation has");
  changed("{\"line\":5,\"numbers\":[\"a\"]}\n" + bytes.substr(bytes.find('\n') + 1), "\"numbers\" has \"a\"");
  changed("{\"line\":9" + bytes.substr(9), "part.3.jsonl:1: is not the result of line 5");
  std::string more = bytes;
  more.insert(more.find("]}\n"), ",1.0");
  changed(more, "there are more numbers than this evaluation has");
  fs::remove(files[2] + ".settings.json");
  refused(joined(files), "which says what ");
}

TEST_CASE("evaluate: it says which scores sum to what is explained, and which options nothing looks at", "[evaluate]") {
  const TemporaryFolder folder;
  const std::string data = written(folder, "texts", "1\ta good film\n0\ta dull film\n"), out = (folder / "out.json").string();
  const auto evaluated = [&](const std::vector<std::string>& more, const std::string& edges = "0") {
    return run_well(folder, "evaluate",
                    with({"--model", mamba, "--data", data, "--edges", edges, "--permutations", "0", "--repeated", "0"}, more));
  };
  const std::vector<std::string> methods{"--methods", "relevance,vector-rollout,integrated-gradients,gradient-x-input,raw,random",
                                         "--terms", "all,recurrence"};
  const std::string text = evaluated(with(methods, {"--out", out})).out;
  CHECK_THAT(text, contains_text("Do scores sum to what is explained? Means over texts, of absolute values:\n  relevance: yes, including "
                                 "the biases' share; off by "));
  CHECK_THAT(text, contains_text("\n  vector-rollout (all): yes, including the biases' share; off by "));
  CHECK_THAT(
      text, contains_text(
                "\n  vector-rollout (recurrence): no, even including the biases' share: what the terms left out give is missing; off by "));
  CHECK_THAT(text, contains_text("\n  integrated-gradients: yes, with the baseline's, up to the error of the integral; off by "));
  CHECK_THAT(text, contains_text("\n  gradient-x-input: need not\n  raw, random: no logit is explained\n"));
  const std::string markdown = evaluated(with(methods, {"--markdown"})).out;
  CHECK_THAT(markdown,
             contains_text("\nDo scores sum to what is explained? Means over texts, of absolute values:\n\n- relevance: yes, including "
                           "the biases' share; off by "));
  CHECK_THAT(markdown, contains_text("\n- gradient-x-input: need not\n- raw, random: no logit is explained\n\n<!-- columns -->\n"));
  const Json json = *read_json_object(out);
  const auto gap = [&](const std::string& method, const std::string& terms = "") {
    const Json& sums = result(json, method, terms).at("conservation");
    return sums.at("mean_gap").get<double>() / sums.at("mean_explained").get<double>();
  };
  CHECK(result(json, "relevance").at("sums_to_explained") == "yes");
  CHECK(gap("relevance") < 1e-4);
  CHECK(gap("vector-rollout", "all") < 1e-4);
  CHECK(result(json, "vector-rollout", "recurrence").at("sums_to_explained") == "terms_left_out");
  CHECK(gap("vector-rollout", "recurrence") > 1e-2);
  CHECK(result(json, "integrated-gradients").at("sums_to_explained") == "to_tolerance");
  CHECK(result(json, "gradient-x-input").at("sums_to_explained") == "need_not");
  CHECK(result(json, "raw", "all").at("sums_to_explained") == "no_logit");

  // Where the path begins changes the scores of integrated gradients, and nothing else; three points leave a gap.
  const auto path = [&](const std::vector<std::string>& more) {
    run_well(folder, "evaluate",
             with({"--model", mamba, "--data", data, "--edges", "0", "--permutations", "0", "--repeated", "0", "--methods",
                   "relevance,integrated-gradients", "--out", out},
                  more));
    return *read_json_object(out);
  };
  const auto conserved = [](const Json& evaluation, const std::string& method) { return result(evaluation, method).at("conservation"); };
  const Json removed = path({}), zero = path({"--baseline", "zero"}), mean = path({"--baseline", "mean"}), few = path({"--steps", "3"});
  for (const Json* const other : {&zero, &mean, &few}) {
    CHECK(conserved(*other, "integrated-gradients") != conserved(removed, "integrated-gradients"));
    CHECK(conserved(*other, "relevance") == conserved(removed, "relevance"));
  }
  CHECK(conserved(zero, "integrated-gradients") != conserved(mean, "integrated-gradients"));
  CHECK(result(mean, "integrated-gradients").at("sums_to_explained") == "to_tolerance");
  CHECK(result(few, "integrated-gradients").at("sums_to_explained") == "to_given_steps");
  CHECK(conserved(path({"--remove", "zero"}), "integrated-gradients") == conserved(path({"--baseline", "zero"}), "integrated-gradients"));
  CHECK(conserved(few, "integrated-gradients").at("mean_gap").get<double>() >
        conserved(removed, "integrated-gradients").at("mean_gap").get<double>());

  const std::string nothing =
      evaluated({"--methods", "relevance,random", "--terms", "all", "--reduce", "mean", "--steps", "3", "--baseline", "zero"}).err;
  for (const char* const option : {"--steps", "--baseline"})
    CHECK_THAT(nothing,
               contains_text(detail::message("evaluate: ", option, " has no effect on relevance, random: it is for integrated-gradients")));
  CHECK_THAT(nothing,
             contains_text("evaluate: --terms has no effect on relevance, random: it is for methods made of the implicit attention"));
  CHECK_THAT(nothing, contains_text("evaluate: --reduce has no effect on relevance, random: it is for raw and rollout"));
  // Maps of layers, where edges are knocked out, are of the terms and of the reduction, whatever the methods are.
  CHECK(evaluated({"--methods", "relevance,random", "--terms", "all", "--reduce", "mean"}, "1").err.find("no effect") == std::string::npos);
  CHECK(evaluated({"--methods", "raw", "--terms", "all", "--reduce", "mean"}).err.find("no effect") == std::string::npos);
}

TEST_CASE("evaluate: the table that sums up an evaluation has its numbers, and the ceilings beside the methods", "[evaluate]") {
  const TemporaryFolder folder;
  if (run(folder, "/usr/bin/env", {"python3", "--version"}).status != 0) return;  // examples/evaluate.sh makes no such table there
  const std::string data = written(folder, "texts", "1\ta good film\n0\ta dull film\n"), recall = "examples/models/recall/mamba";
  const std::string of_texts = (folder / "mamba.json").string(), of_causes = (folder / "mamba-causes.json").string();
  const std::vector<std::string> methods{"--methods", "relevance,raw", "--permutations", "2"};
  run_well(folder, "evaluate", with(methods, {"--model", mamba, "--data", data, "--edges", "3", "--repeated", "0", "--out", of_texts}));
  run_well(folder, "evaluate",
           with(methods, {"--model", recall, "--causes", recall + "/causes.safetensors", "--limit", "2", "--out", of_causes}));
  const Outcome table = run(folder, "/usr/bin/env", {"python3", "examples/trust_table.py", folder.path().string(), "--models", "mamba"});
  INFO(table.err);
  REQUIRE(table.status == 0);
  const Json texts = *read_json_object(of_texts), causes = *read_json_object(of_causes);
  const auto number = [](const Json& mean, int decimals) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.*f", decimals, mean.at("mean").get<double>());
    return std::string(text);
  };
  // Every row of the first table: source, address, edges, flipping.
  const auto row = [&](const std::string& name, const Json& text, const Json* cause, const std::string& edges) {
    std::string expected = "\n| " + name + " | ";
    for (const auto& [comparison, decimals] : {std::pair{"source_against_negatives", 3}, {"address_against_negatives", 2}})
      expected += (cause == nullptr ? "" : number(cause->at("comparisons").at(comparison).at("auc"), decimals)) + " | ";
    return expected + edges + " | " + number(text.at("metrics").at("flipping_difference"), 2) + " |\n";
  };
  const Json &map = texts.at("layer_maps")[0], &ceilings = texts.at("ceilings");
  REQUIRE(map.at("map") == "raw");
  CHECK_THAT(table.out, contains_text(row("`relevance`", result(texts, "relevance"), &causes.at("results")[0], "")));
  CHECK_THAT(table.out, contains_text(row("`raw`", result(texts, "raw", "all"), &causes.at("results")[1],
                                          number(map.at("metrics").at("edges_correlation"), 2))));
  CHECK_THAT(table.out, contains_text(row("*shapley, 2 permutations*", ceilings[0], &causes.at("ceilings")[0], "")));
  CHECK_THAT(table.out, contains_text(row("*greedy, search*", ceilings[1], nullptr, "")));
  CHECK_THAT(table.out, contains_text("\n| *shapley* | *2 permutations* | "));
}
