// `explain` over many texts, of what models write, and of conversations: equal to plain runs, through interruptions, and what it refuses.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <examples/programs.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/tokenizers/byte_alphabet.hpp>
#include <implicit_attention/models/load.hpp>

namespace {

using namespace implicit_attention;
using namespace example_test;

const fs::path source = IMPLICIT_ATTENTION_SOURCE_DIR;

std::string list_of(const std::vector<Index>& ids) {
  std::string text;
  for (const Index id : ids) text += (text.empty() ? "" : ",") + std::to_string(id);
  return text;
}

/// What the model writes after `ids`: the whole text is run again for every token.
std::vector<Index> by_whole_runs(const fs::path& folder, std::vector<Index> ids, Index count) {
  const Checkpoint<double> checkpoint = open_checkpoint<double>(folder);
  const LanguageModel<double> model = load_language_model<double>(*checkpoint.source, checkpoint.configuration);
  for (Index token = 0; token < count; ++token) {
    const Matrix<double> logits = model.forward(ids).logits;
    Index best = 0;
    logits.row(logits.rows() - 1).maxCoeff(&best);
    ids.push_back(best);
  }
  return ids;
}

/// The shipped model under another configuration.
fs::path copied(const TemporaryFolder& folder, const std::string& model, const std::string& name) {
  fs::copy(source / "examples" / "models" / model, folder / name);
  return folder / name;
}

/// A tokenizer.json of single bytes and these special tokens after them.
void write_byte_tokenizer(const fs::path& path, const std::vector<std::string>& special) {
  Json vocabulary = Json::object(), added = Json::array();
  for (unsigned byte = 0; byte < 256; ++byte)
    vocabulary[detail::ByteAlphabet::instance().character(static_cast<unsigned char>(byte))] = byte;
  for (std::size_t k = 0; k < special.size(); ++k)
    added.push_back({{"id", 256 + k},
                     {"content", special[k]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const Json document = {{"added_tokens", added},
                         {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                         {"decoder", {{"type", "ByteLevel"}}},
                         {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
  io_test::write_bytes(path, document.dump());
}

}  // namespace

TEST_CASE("explain --generate: what repeated whole runs give, and each token explained as a plain run explains it", "[explain]") {
  struct Case {
    fs::path model;
    std::vector<Index> prompt;
    Index count;
  };
  std::vector<Case> cases;
  for (const char* const name : {"mamba", "rwkv4", "griffin"})
    cases.push_back({source / "examples" / "models" / name, {8, 1091, 77, 18}, 5});
  for (const char* const name : {"griffin-shakespeare", "rwkv4-tiny"}) {
    if (const auto folder = test_support::shared_data(fs::path("realdata") / name))
      cases.push_back({*folder, {10, 20, 15, 7, 12}, 40});  // beyond Griffin's attention window of 32
    else
      WARN(test_support::shared_data_missing(std::string("realdata/") + name));
  }
  const std::vector<std::string> methods{"raw", "rollout", "relevance", "gradient-x-input", "leave-one-out"};
  for (const Case& one : cases) {
    INFO(one.model.string());
    const TemporaryFolder folder;
    const fs::path out = folder / "out.json", plain = folder / "plain.json", tensors = folder / "out.safetensors";
    const std::vector<std::string> question{
        "--model", one.model.string(), "--method", "raw,rollout,relevance,gradient-x-input,leave-one-out", "--precision", "float64"};
    const std::vector<std::string> writes = with(question, {"--tokens", list_of(one.prompt), "--generate", std::to_string(one.count)});
    const Outcome outcome = run_well(folder, "explain", with(writes, {"--out", out.string()}));
    CHECK_THAT(outcome.out, contains_text("it wrote " + std::to_string(one.count) + " tokens"));
    CHECK(outcome.out.find("stopped") == std::string::npos);
    CHECK(outcome.out.find("read again") == std::string::npos);  // the state was carried
    const Json json = *read_json_object(out);
    const std::vector<Index> expected = by_whole_runs(one.model, one.prompt, one.count);
    CHECK(json.at("input_ids").get<std::vector<Index>>() == expected);
    CHECK(json.at("prompt_tokens") == one.prompt.size());
    REQUIRE(json.at("targets").size() == static_cast<std::size_t>(one.count));
    for (const std::size_t k : {std::size_t{0}, static_cast<std::size_t>(one.count) / 2, static_cast<std::size_t>(one.count) - 1}) {
      const std::size_t position = one.prompt.size() - 1 + k;
      CHECK(json.at("positions").at(k) == position);
      CHECK(json.at("targets").at(k) == expected[position + 1]);
      CHECK(json.at("predictions").at(k).at(0).at("id") == expected[position + 1]);
      run_well(folder, "explain",
               with(question, {"--tokens", list_of(expected), "--position", std::to_string(position), "--target",
                               std::to_string(expected[position + 1]), "--out", plain.string()}));
      const Json alone = *read_json_object(plain);
      for (const std::string& method : methods) {
        INFO(method << ", token " << k);
        const auto ours = json.at("scores." + method).at(k).get<std::vector<double>>(),
                   theirs = alone.at("scores." + method).get<std::vector<double>>();
        REQUIRE(ours.size() == theirs.size());
        double largest = 0, difference = 0;
        for (std::size_t j = 0; j < ours.size(); ++j) {
          largest = larger(largest, std::abs(theirs[j]));
          difference = larger(difference, std::abs(ours[j] - theirs[j]));
        }
        CHECK(largest > 0);
        CHECK(difference <= 1e-12 * largest);  // one run for all targets may sum in another order than one for each
      }
    }
    run_well(folder, "explain", with(writes, {"--out", tensors.string()}));
    const SafetensorsFile file(tensors);
    CHECK(file.info("scores.raw").shape == std::vector<Index>{one.count, static_cast<Index>(expected.size())});
    CHECK(file.info("targets").shape == std::vector<Index>{one.count});
    const auto first = json.at("scores.raw").at(0).get<std::vector<double>>();
    const Matrix<double> same = file.read<double>("scores.raw").matrix();
    for (std::size_t j = 0; j < first.size(); ++j) CHECK(same(0, static_cast<Index>(j)) == first[j]);
  }
}

TEST_CASE("explain --generate: the model's own end of a text", "[explain]") {
  const TemporaryFolder folder;
  const fs::path model = copied(folder, "mamba", "model");
  const std::vector<std::string> ask{
      "--model", model.string(), "--text", "the", "--generate", "6", "--out", (folder / "out.json").string()};
  run_well(folder, "explain", ask);
  const auto written = read_json_object(folder / "out.json")->at("targets").get<std::vector<Index>>();
  REQUIRE(written.size() == 6);
  std::size_t third = 2;  // a token that has not been there before ends the text where it comes first
  while (third < 6 && std::find(written.begin(), written.begin() + static_cast<std::ptrdiff_t>(third), written[third]) !=
                          written.begin() + static_cast<std::ptrdiff_t>(third))
    ++third;
  REQUIRE(third < 6);
  const auto configure = [&](const char* file, const Json& ends) {
    Json configuration = Json::object();
    if (fs::exists(model / file)) configuration = *read_json_object(model / file);
    configuration["eos_token_id"] = ends;
    io_test::write_bytes(model / file, configuration.dump());
  };
  configure("config.json", written[third]);
  const Outcome outcome = run_well(folder, "explain", ask);
  CHECK_THAT(outcome.out, contains_text("it stopped at the end-of-text token"));
  Json json = *read_json_object(folder / "out.json");
  CHECK(json.at("targets").get<std::vector<Index>>() ==
        std::vector<Index>(written.begin(), written.begin() + static_cast<std::ptrdiff_t>(third) + 1));
  CHECK(json.at("ended") == written[third]);
  configure("generation_config.json", Json({7000, written[0]}));  // what it says counts more
  CHECK_THAT(run_well(folder, "explain", ask).out, contains_text("it wrote one token; it stopped"));
  CHECK(read_json_object(folder / "out.json")->at("targets").size() == 1);

  fs::remove(folder / "out.json");
  const auto refused = [&](const Json& ends, const std::string& words) {
    configure("generation_config.json", ends);
    const Outcome wrong = run(folder, "explain", ask);
    CHECK(wrong.status == 2);
    CHECK_THAT(wrong.err, contains_text(words));
    CHECK_FALSE(fs::exists(folder / "out.json"));
  };
  refused("</s>", "generation_config.json: key eos_token_id is neither a token's id nor a list of them");
  refused(Json({1.5}), "key eos_token_id is neither");
  // What the model cannot write ends nothing, and is said.
  for (const Index foreign : {Index(7145), Index(-1)}) {
    configure("generation_config.json", Json({foreign, written[third]}));
    const Outcome noted = run(folder, "explain", ask);
    CHECK(noted.status == 0);
    CHECK_THAT(noted.err,
               contains_text("the end-of-text token is " + std::to_string(foreign) + ", the model has 0 to 7144: it does not end"));
    CHECK_THAT(noted.out, contains_text("it stopped at the end-of-text token"));
  }
}

TEST_CASE("explain --generate: strips, maps, colours and a table", "[explain]") {
  const TemporaryFolder folder;
  const std::vector<std::string> ask{"--model", models + "griffin", "--text",       "a film that is", "--generate",
                                     "3",       "--method",         "raw,relevance"};
  for (const std::string picture : {"strips", "maps"}) {
    const fs::path out = folder / (picture + ".png");
    run_well(folder, "explain", with(ask, {"--picture", picture, "--out", out.string()}));
    CHECK(io_test::read_bytes(out).rfind("\x89PNG\r\n", 0) == 0);
  }
  const std::string plain = run_well(folder, "explain", ask, {"CLICOLOR_FORCE", "NO_COLOR"}).out;
  CHECK(plain.find('\x1b') == std::string::npos);
  CHECK_THAT(plain, contains_text("What made each token, by relevance"));
  CHECK_THAT(plain, contains_text("largest scores, and where they are"));
  const std::string coloured = run_well(folder, "explain", ask, {"NO_COLOR", "CLICOLOR_FORCE=1", "TERM=xterm-256color", "COLUMNS=100"}).out;
  CHECK_THAT(coloured, contains_text("\x1b[48;5;"));
}

TEST_CASE("explain --data: a line for a line, whatever the threads, through interruptions, in shares", "[explain]") {
  const TemporaryFolder folder;
  const fs::path data = folder / "texts.txt", out = folder / "scores.jsonl";
  std::string texts =
      "\xEF\xBB\xBF"
      "a gripping film <cls>\r\n\r\n   \n";
  for (int k = 0; k < 40; ++k) texts += "it is film number " + std::to_string(k) + (k % 3 == 0 ? " and never dull" : "") + " <cls>\n";
  texts +=
      "not \xE9"
      "ven UTF-8 <cls>\n" +
      std::string(40 * 5, 'a') + " " + "a a a a a a a a a a a a <cls>\nthe last one <cls>";
  io_test::write_bytes(data, texts);
  const std::vector<std::string> ask{"--model", models + "mamba", "--data", data.string(), "--method", "raw,relevance", "--longest", "12"};
  const auto explained = [&](const std::vector<std::string>& more, const fs::path& to) {
    const Outcome outcome = run(folder, "explain", with(with(ask, more), {"--out", to.string()}));
    INFO(outcome.err);
    CHECK(outcome.status == 1);  // two texts are wrong
    return outcome;
  };
  const Outcome whole = explained({}, out);
  CHECK_THAT(whole.out, contains_text("42 of 44 texts explained"));
  CHECK_THAT(whole.err,
             contains_text("explain: 2 of 44 texts could not be explained; the first: line 44: the text is not valid UTF-8 at byte 4"));
  const std::string bytes = io_test::read_bytes(out);

  std::vector<Json> lines;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = bytes.find('\n', begin);
    lines.push_back(Json::parse(bytes.substr(begin, end - begin)));
    begin = end + 1;
  }
  REQUIRE(lines.size() == 44);
  CHECK(lines[0].at("line") == 1);
  CHECK(lines[1].at("line") == 4);  // two empty lines are passed over, and counted
  CHECK(lines[41] == Json({{"line", 44}, {"error", "the text is not valid UTF-8 at byte 4"}}));
  CHECK_THAT(lines[42].at("error").get<std::string>(), contains_text("the text has 14 tokens, more than the 12 of --longest"));
  CHECK(lines[43].at("tokens") == Json({"the", "last", "one", "<cls>"}));
  // The same as a plain run.
  const fs::path plain = folder / "plain.json";
  run_well(folder, "explain",
           {"--model", models + "mamba", "--text", "it is film number 3 and never dull <cls>", "--method", "raw,relevance", "--out",
            plain.string()});
  const Json alone = *read_json_object(plain);
  for (const char* const key : {"input_ids", "tokens", "position", "predictions", "target", "explained.relevance"})
    CHECK(lines[4].at(key) == alone.at(key));
  for (const char* const key : {"scores.raw", "scores.relevance"}) {  // float; a plain run into a file makes whole maps, in another order
    REQUIRE(lines[4].at(key).size() == 9);
    for (std::size_t j = 0; j < 9; ++j)
      CHECK(lines[4].at(key).at(j).get<double>() == Approx(alone.at(key).at(j).get<double>()).epsilon(1e-5));
  }

  for (const char* const threads : {"1", "2", "7"}) {
    explained({"--threads", threads}, folder / (std::string("threads") + threads + ".jsonl"));
    CHECK(io_test::read_bytes(folder / (std::string("threads") + threads + ".jsonl")) == bytes);
  }
  std::string joined;
  for (const char* const share : {"1/3", "2/3", "3/3"}) {
    const fs::path to = folder / (std::string("share") + share[0] + ".jsonl");
    const Outcome outcome = run(folder, "explain", with(ask, {"--shard", share, "--out", to.string()}));
    CHECK(outcome.status == (share[0] == '3' ? 1 : 0));
    joined += io_test::read_bytes(to);
  }
  CHECK(joined == bytes);

  // Interrupted anywhere, it goes on after the last whole line.
  for (const std::size_t cut : {std::size_t{0}, std::size_t{5}, bytes.find('\n') + 1, bytes.size() / 2,
                                bytes.rfind('\n', bytes.size() - 2) + 1, bytes.size() - 1, bytes.size()}) {
    INFO("cut at byte " << cut);
    io_test::write_bytes(out, bytes.substr(0, cut));
    const Outcome outcome = explained({}, out);
    CHECK(io_test::read_bytes(out) == bytes);
    CHECK_THAT(outcome.err, contains_text("2 of 44 texts could not be explained; the first: line 44"));  // of both runs
    CHECK((outcome.out.find("of the results were there already") != std::string::npos) == (cut > bytes.find('\n')));
  }

  // Anything else than what it was made with is refused, and nothing is changed.
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& words, const std::string& expected) {
    const Outcome outcome = run(folder, "explain", with(arguments, {"--out", out.string()}));
    CHECK(outcome.status == 2);
    CHECK_THAT(outcome.err, contains_text(words));
    CHECK(outcome.out.empty());
    CHECK(io_test::read_bytes(out) == expected);
  };
  const std::string made = "scores.jsonl was made with ";
  refused(with(ask, {"--target", "positive"}), made + "target \"argmax\", and is \"positive\" now; name another file, or remove ", bytes);
  refused(with(ask, {"--shard", "1/2"}), made + "shard \"1/1\", and is \"1/2\" now", bytes);
  refused({"--model", models + "rwkv4", "--data", data.string()}, made + "model ", bytes);
  io_test::write_bytes(data, texts + "\none more <cls>");
  refused(ask, made + "data ", bytes);
  io_test::write_bytes(data, texts);
  // What another version of the programs has written may mean something else.
  const std::string settings = io_test::read_bytes(out.string() + ".settings.json");
  for (const std::string key :
       {"version", "precision", "terms", "position", "contrast", "layer", "reduce", "baseline", "steps", "longest"}) {
    INFO(key);
    nlohmann::ordered_json other = nlohmann::ordered_json::parse(settings);
    REQUIRE(other.contains(key));
    const nlohmann::json before = other[key];
    other[key] = "0.0.1";
    io_test::write_bytes(out.string() + ".settings.json", other.dump());
    refused(ask, made + key + " \"0.0.1\", and is " + before.dump() + " now; name another file, or remove ", bytes);
    other.erase(key);
    io_test::write_bytes(out.string() + ".settings.json", other.dump());
    refused(ask, made + "no " + key + ", which is " + before.dump() + " now", bytes);
  }
  io_test::write_bytes(out.string() + ".settings.json", settings);
  const std::string foreign = "{\"line\":2,\"scores\":[]}\n";
  io_test::write_bytes(out, foreign);
  refused(ask, "scores.jsonl:1: is not the result of line 1 of the texts", foreign);
  io_test::write_bytes(out, bytes + bytes.substr(0, bytes.find('\n') + 1));
  refused(ask, "has more lines than there are texts, 44", bytes + bytes.substr(0, bytes.find('\n') + 1));
  fs::remove(out.string() + ".settings.json");
  io_test::write_bytes(out, bytes);
  refused(ask, "scores.jsonl is there, but not ", bytes);
  io_test::write_bytes(out.string() + ".settings.json", "[]");
  refused(ask, "expected an object", bytes);
}

TEST_CASE("explain --data: JSON Lines, unknown words, and one text whose numbers are no numbers", "[explain]") {
  const TemporaryFolder folder;
  const fs::path data = folder / "texts.jsonl", out = folder / "scores.jsonl";
  io_test::write_bytes(data,
                       "{\"text\": \"good film\", \"label\": 1}\n"
                       "{\"tokens\": [1, 0]}\n"
                       "{\"text\": \"a splendid film\"}\n"
                       "{\"text\": \"film\", \"tokens\": [1]}\n"
                       "{\"label\": 1}\n"
                       "{\"text\": 5}\n"
                       "{\"tokens\": [1, -1]}\n"
                       "{\"tokens\": [1, 7145]}\n"
                       "{\"tokens\": []}\n"
                       "{\"tokens\": \"1\"}\n"
                       "{\"text\": \"\"}\n"
                       "{\"text\": \"fi\n"
                       "[1]\n"
                       "{\"text\": \"a \xFF\"}\n");
  io_test::write_bytes(folder / "vocab.json", "{\"good\": 0, \"film\": 1, \"a\": 2}");
  const Outcome outcome = run(folder, "explain",
                              {"--model", models + "mamba", "--tokenizer", (folder / "vocab.json").string(), "--data", data.string(),
                               "--append", "a", "--out", out.string()});
  CHECK(outcome.status == 1);
  CHECK_THAT(outcome.out, contains_text("2 of 14 texts explained"));
  const std::string bytes = io_test::read_bytes(out);
  const std::vector<std::string> words{"\"input_ids\":[0,1,2]",
                                       "\"input_ids\":[1,0,2]",
                                       "\"splendid\\\" is not in",
                                       "has both \\\"text\\\" and \\\"tokens\\\"",
                                       "has neither \\\"text\\\" nor \\\"tokens\\\"",
                                       "\\\"text\\\" is 5, expected a string",
                                       "\\\"tokens\\\" has -1, expected ids",
                                       "token 1 is 7145, expected 0 to 7144",
                                       "there are no tokens",
                                       "\\\"tokens\\\" is \\\"1\\\", expected a list of ids",
                                       "the text is empty",
                                       "not valid JSON",
                                       "expected an object, found array",
                                       "not valid UTF-8"};
  std::size_t begin = 0;
  for (std::size_t k = 0; k < words.size(); ++k) {
    const std::size_t end = bytes.find('\n', begin);
    REQUIRE(end != std::string::npos);
    const std::string line = bytes.substr(begin, end - begin);
    CHECK_THAT(line, contains_text("{\"line\":" + std::to_string(k + 1) + (k < 2 ? "," : ",\"error\":\"")));
    CHECK_THAT(line, contains_text(words[k]));
    begin = end + 1;
  }
  CHECK(begin == bytes.size());

  // The embedding of one word is NaN: a text with it comes to nothing, the others are what they were.
  const fs::path broken = copied(folder, "rwkv4", "broken");
  const Json vocabulary = *read_json_object(broken / "vocab.json");
  io_test::write_bytes(folder / "few.txt", "a film\nnever dull\na film\n");
  const auto few = [&](const fs::path& model, const std::string& to) {
    return run(folder, "explain", {"--model", model.string(), "--data", (folder / "few.txt").string(), "--out", (folder / to).string()});
  };
  CHECK(few(broken, "good.jsonl").status == 0);
  std::string weights = io_test::read_bytes(broken / "model.safetensors");
  std::uint64_t length = 0;
  for (std::size_t k = 8; k-- > 0;) length = 256 * length + static_cast<unsigned char>(weights[k]);
  const Json embedding = Json::parse(weights.substr(8, length)).at("rwkv.embeddings.weight");
  REQUIRE(embedding.at("dtype") == "F16");
  const std::size_t row = vocabulary.at("dull").get<std::size_t>() * embedding.at("shape").at(1).get<std::size_t>();
  weights.replace(8 + length + embedding.at("data_offsets").at(0).get<std::size_t>() + 2 * row, 2, std::string("\x00\x7e", 2));
  io_test::write_bytes(broken / "model.safetensors", weights);
  const Outcome some = few(broken, "bad.jsonl");
  CHECK(some.status == 1);
  CHECK_THAT(some.err, contains_text("1 of 3 texts could not be explained; the first: line 2: "));
  CHECK_THAT(some.err, contains_text("tensor rwkv.embeddings.weight holds NaN at ("));
  const std::string good = io_test::read_bytes(folder / "good.jsonl"), bad = io_test::read_bytes(folder / "bad.jsonl");
  const std::size_t first = good.find('\n') + 1;
  CHECK(bad.substr(0, first) == good.substr(0, first));
  CHECK(bad.substr(bad.rfind('\n', bad.size() - 2)) == good.substr(good.rfind('\n', good.size() - 2)));
}

TEST_CASE("explain --chat: the templates of three families", "[explain]") {
  const TemporaryFolder folder;
  const std::string text = "  Why?\n";
  struct Case {
    std::vector<std::string> special;
    std::string expected;
  };
  const std::vector<Case> cases = {
      {{"<|im_start|>", "<|im_end|>"}, "<|im_start|>user\n  Why?\n<|im_end|>\n<|im_start|>assistant\n"},
      {{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
       "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
      {{"<bos>", "<start_of_turn>", "<end_of_turn>"}, "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n"},
  };
  const fs::path tokenizer = folder / "tokenizer.json", out = folder / "out.json";
  const std::vector<std::string> ask{"--model", models + "mamba", "--tokenizer", tokenizer.string(), "--chat", "--text",
                                     text,      "--out",          out.string()};
  for (const Case& one : cases) {
    write_byte_tokenizer(tokenizer, one.special);
    run_well(folder, "explain", ask);
    std::string read;
    const Json json = *read_json_object(out);
    for (const Json& id : json.at("input_ids")) {
      const auto number = id.get<std::size_t>();
      read += number < 256 ? std::string(1, static_cast<char>(number)) : one.special.at(number - 256);
    }
    CHECK(read == one.expected);
    CHECK(std::all_of(one.special.begin(), one.special.end(), [&](const std::string& token) {  // one token each
      return std::count(json.at("tokens").begin(), json.at("tokens").end(), token) > 0;
    }));
  }
  fs::remove(out);
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& words) {
    const Outcome outcome = run(folder, "explain", arguments);
    CHECK(outcome.status == 2);
    CHECK_THAT(outcome.err, contains_text(words));
    CHECK_FALSE(fs::exists(out));
  };
  refused({"--model", models + "mamba", "--tokenizer", tokenizer.string(), "--chat", "--text", " \n"}, "the text is empty");
  write_byte_tokenizer(tokenizer, {"<|im_start|>"});
  refused(ask, "--chat: the vocabulary has none of the known chat markers");
  refused({"--model", models + "mamba", "--chat", "--text", "a film"}, "--chat: the vocabulary has none of the known chat markers");
  refused({"--model", models + "mamba", "--chat", "--tokens", "1,2"}, "--chat: a turn is made of text");
}

TEST_CASE("explain: options that mean nothing together", "[explain]") {
  const TemporaryFolder folder;
  const std::string data = (folder / "texts.txt").string();
  io_test::write_bytes(data, "a film <cls>\n");
  io_test::write_bytes(folder / "empty.txt", "\n \n");
  io_test::write_bytes(folder / "wide.txt",
                       "\xFF\xFE"
                       "a");
  const std::vector<std::string> one{"--model", models + "mamba", "--text", "a film <cls>"},
      many{"--model", models + "mamba", "--data", data};
  struct Case {
    std::vector<std::string> arguments;
    std::string words, out;
  };
  const std::vector<Case> cases = {
      {with(one, {"--generate", "0"}), "--generate", "out.json"},
      {with(one, {"--generate", "-3"}), "--generate", "out.json"},
      {with(one, {"--generate", "3", "--position", "1"}), "--generate and --position exclude each other", "out.json"},
      {with(one, {"--generate", "3", "--target", "positive"}), "--generate and --target exclude each other", "out.json"},
      {with(one, {"--generate", "3", "--save-gradients"}), "--generate and --save-gradients exclude each other", "out.safetensors"},
      {with(one, {"--shard", "1/2"}), "--shard: is about the texts of --data FILE", "out.json"},
      {with(one, {"--longest", "5"}), "--longest: is about the texts of --data FILE", "out.json"},
      {with(one, {"--threads", "0"}), "--threads", "out.json"},
      {with(one, {"--data", data}), "--data and --text exclude each other", "out.jsonl"},
      {with(many, {"--generate", "3"}), "--data and --generate exclude each other", "out.jsonl"},
      {with(many, {"--title", "A"}), "--data and --title exclude each other", "out.jsonl"},
      {with(many, {"--model", models + "rwkv4"}), "--data: one model explains the texts, and --model names 2", "out.jsonl"},
      {many, "--data: scores go to a file, expected --out FILE.jsonl", ""},
      {many, "out.json\" ends in .json, expected .jsonl", "out.json"},
      {with(many, {"--shard", "0/2"}), "--shard: \"0/2\" is not a share, expected I/N with I from 1 to N", "out.jsonl"},
      {with(many, {"--shard", "3/2"}), "--shard: \"3/2\" is not a share", "out.jsonl"},
      {with(many, {"--shard", "1/2/3"}), "--shard: \"1/2/3\" is not a share", "out.jsonl"},
      {with(many, {"--shard", "half"}), "--shard: \"half\" is not a share", "out.jsonl"},
      {with(many, {"--target", "splendidly unknown"}), "token \"splendidly unknown\" is not in vocab.json", "out.jsonl"},
      {with(many, {"--append", "<eos>"}), "token \"<eos>\" is not in vocab.json", "out.jsonl"},
      {with(many, {"--layer", "2"}), "--layer: 2 is out of range", "out.jsonl"},
      {with(many, {"--method", "gradcam"}), "unknown method", "out.jsonl"},
      {{"--model", models + "mamba", "--data", (folder / "empty.txt").string()}, "there are no texts", "out.jsonl"},
      {{"--model", models + "mamba", "--data", (folder / "wide.txt").string()}, "the text is UTF-16, expected UTF-8", "out.jsonl"},
      {{"--model", models + "mamba", "--data", (folder / "none.txt").string()}, "none.txt", "out.jsonl"},
  };
  for (const Case& mistake : cases) check_mistake("explain", mistake.arguments, mistake.words, mistake.out);
  // A position that a text does not have is wrong with that text alone.
  io_test::write_bytes(data, "a film <cls>\nfilm\n");
  const Outcome outcome = run(folder, "explain", with(many, {"--position", "2", "--out", (folder / "out.jsonl").string()}));
  CHECK(outcome.status == 1);
  CHECK_THAT(outcome.err, contains_text("1 of 2 texts could not be explained; the first: line 2: position 2 is out of range"));
}

TEST_CASE("explain --data: a run goes on with the files that it began with alone", "[explain]") {
  const TemporaryFolder folder;
  const fs::path data = folder / "texts.txt", out = folder / "scores.jsonl", tokenizer = folder / "tokenizer" / "words.json";
  fs::create_directory(folder / "tokenizer");
  const fs::path model = copied(folder, "mamba", "model");
  io_test::write_bytes(data, "good film\na film\n");
  const std::string words = "{\"good\": 0, \"film\": 1, \"a\": 2}", others = "{\"good\": 1, \"film\": 0, \"a\": 2}";
  io_test::write_bytes(tokenizer, words);
  const std::vector<std::string> ask{"--model",     model.string(),     "--data", data.string(),
                                     "--tokenizer", tokenizer.string(), "--out",  out.string()};
  run_well(folder, "explain", ask);
  const std::string bytes = io_test::read_bytes(out);
  const auto refused = [&](const std::string& begin) {
    const Outcome outcome = run(folder, "explain", ask);
    CHECK(outcome.status == 2);
    CHECK_THAT(outcome.err, contains_text("scores.jsonl was made with " + begin));
    CHECK(io_test::read_bytes(out) == bytes);
  };
  const std::string size = std::to_string(words.size()) + " bytes, hash ";
  io_test::write_bytes(tokenizer, others);  // as long as before
  refused("tokenizer file words.json \"" + size);
  io_test::write_bytes(tokenizer, words);
  CHECK_THAT(run_well(folder, "explain", ask).out, contains_text("2 of the results were there already"));
  io_test::write_bytes(folder / "tokenizer" / "merges.txt", "a b\n");
  refused("no tokenizer file merges.txt, which is \"4 bytes, hash ");
  fs::remove(folder / "tokenizer" / "merges.txt");

  const std::string configuration = io_test::read_bytes(model / "config.json");
  io_test::write_bytes(model / "config.json", configuration + " ");
  refused("model file config.json \"" + std::to_string(configuration.size()) + " bytes, hash ");
  io_test::write_bytes(model / "config.json", configuration);
  fs::rename(model / "vocab.json", folder / "vocab.json");
  refused("model file vocab.json \"");
  fs::rename(folder / "vocab.json", model / "vocab.json");
  io_test::write_bytes(model / "README.md", "nothing that is read");
  run_well(folder, "explain", ask);
  const auto written = fs::last_write_time(model / "model.safetensors");
  fs::last_write_time(model / "model.safetensors", written + std::chrono::seconds(1));
  refused("model file model.safetensors \"");
  fs::last_write_time(model / "model.safetensors", written);
  run_well(folder, "explain", ask);
}

TEST_CASE("explain: NaN in what stands for a removed token is named", "[explain]") {
  // The head of this model is another tensor than its embedding: the text's logits are finite.
  const TemporaryFolder folder;
  const std::string name = "rwkv.embeddings.weight";
  const fs::path broken = model_with_nan(folder, "rwkv4", name, "broken", 1);
  check_mistake("explain", {"--model", broken.string(), "--text", "a film <cls>", "--method", "leave-one-out"},
                "tensor " + name + " holds NaN at (1, 0), expected finite numbers", "out.json");
  run_well(folder, "explain", {"--model", broken.string(), "--text", "a film <cls>", "--method", "raw,relevance"});
  io_test::write_bytes(folder / "texts.txt", "a film <cls>\n");
  const Outcome many = run(folder, "explain",
                           {"--model", broken.string(), "--data", (folder / "texts.txt").string(), "--method", "leave-one-out", "--out",
                            (folder / "out.jsonl").string()});
  CHECK(many.status == 1);
  CHECK_THAT(many.err, contains_text("tensor " + name + " holds NaN at (1, 0)"));
}
