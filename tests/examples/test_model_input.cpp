// What a model reads, as the command lines take it: from options, files and standard input, with the tokenizer that lies beside it.
#include <cstddef>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/watched_tensors.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <support/model_input.hpp>

#include "programs.hpp"

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;
using namespace example_test;
using io_test::error_of;
using io_test::write_bytes;

using Ids = std::vector<Index>;

Ids text_ids(const std::string& text) {
  SequenceOptions options;
  options.text = text;
  return sequence_ids(options, Tokenizer::open(".", "bytes"));
}
Ids token_ids(const std::string& tokens) {
  SequenceOptions options;
  options.tokens = tokens;
  return sequence_ids(options, Tokenizer::open(".", "bytes"));
}

}  // namespace

TEST_CASE("input: text from a file", "[input]") {
  const TemporaryFolder folder;
  const std::string file = (folder / "a.txt").string();
  write_bytes(file, "ab\n");
  CHECK(text_ids("@" + file) == Ids{'a', 'b'});  // without the line end of the last line
  write_bytes(file,
              "\xEF\xBB\xBF"
              "a\r\n\r\n");
  CHECK(text_ids("@" + file) == Ids{'a', '\r', '\n'});
  CHECK(text_ids("\xEF\xBB\xBF"
                 "a\n") == Ids{'a', '\n'});  // what is typed stays, but for the mark
  CHECK(text_ids("@@a") == Ids{'@', 'a'});
  write_bytes(file, std::string("\xFF\xFE"
                                "a\0",
                                4));
  CHECK_THAT(error_of([&] { (void)text_ids("@" + file); })->message, contains_text("--text: the text is UTF-16, expected UTF-8"));
  CHECK_THAT(error_of([&] { (void)text_ids("@/nowhere"); })->message, contains_text("--text: /nowhere cannot be opened: No such file"));
  CHECK_THAT(error_of([&] { (void)text_ids("@" + folder.path().string()); })->message, contains_text("is a folder, expected a file"));
  write_bytes(file, "");
  CHECK_THAT(error_of([&] { (void)text_ids("@" + file); })->message, contains_text("the text is empty"));
}

TEST_CASE("input: a number of the weights that is not finite is named as the file has it", "[input]") {
  TensorTable table;
  table.where = "model.gguf";
  for (const char* const name : {"backbone.layers.0.mixer.A", "backbone.layers.0.mixer.D"}) {
    static const float numbers[2] = {-1, std::numeric_limits<float>::quiet_NaN()};
    CheckpointTensor tensor = detail::whole_tensor(
        {2}, detail::stored_rows(Dtype::F32, 1, 2, reinterpret_cast<const std::byte*>(numbers), std::make_shared<const int>(0)));
    tensor.name_in_file = std::string("blk.0.ssm_") + (name[24] == 'A' ? "a" : "d");
    table.tensors[name] = tensor;
  }
  const TableSource<float> source(table);
  const WatchedTensors<float> watched(source);
  (void)watched.read("backbone.layers.0.mixer.D");
  CHECK(error_of([&] { refuse_small_weights_not_finite(watched); })->message ==
        "model.gguf: tensor blk.0.ssm_d (backbone.layers.0.mixer.D) holds NaN at (0, 1), expected finite numbers");
}

TEST_CASE("input: a file without end is refused where a text would be too long", "[input]") {
  if (!fs::exists("/dev/zero")) {
    WARN("skipped: this system has no /dev/zero");
    return;
  }
  // 256 MiB are read before it is: with as much again where a string grows, the largest piece of memory of these tests.
  const auto error = error_of([] { (void)text_ids("@/dev/zero"); });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("--text: /dev/zero is longer than the 268435456 bytes that are read"));
}

TEST_CASE("input: token ids in every form", "[input]") {
  const Ids three{1, 20, 3};
  for (const std::string text : {"1,20,3", "1 20 3", "[1, 20, 3]", " [1,20,3]\n", "1\n20\n3\n", "1 , 20\t3",
                                 "\xEF\xBB\xBF"
                                 "1,20,3"}) {
    INFO(text);
    CHECK(token_ids(text) == three);
  }
  CHECK(token_ids("5-7 1") == Ids{5, 6, 7, 1});
  for (const std::string batch : {"[[1, 20, 3]]", " [ [1,20,3] ] \n", "[[1 20 3]]"}) CHECK(token_ids(batch) == three);  // of one text
  CHECK_THAT(error_of([&] { (void)token_ids("[[1,2],[3]]"); })->message,
             contains_text("--tokens: there are 2 lists in the list, expected one text's ids, for example [[5, 6, 7]]"));
  for (const std::string bad : {"", "[]", "1,,2", "1,2,", ",1", "[1", "1]", "[[1,2],[3]]", "[[1,2]", "[[1,2]]]", "[[]]", "[[[1]]]",
                                "[[1],2]", "1.5", "0x1", "1 - 2", "-1", "1;2", "one"}) {
    INFO(bad);
    const auto error = error_of([&] { (void)token_ids(bad); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::value);
    CHECK_THAT(error->message, contains_text("--tokens"));
  }
  std::string endless(100'000, '1');
  endless += 'x';
  const auto bad_end = error_of([&] { (void)token_ids(endless); });
  REQUIRE(bad_end);
  CHECK(bad_end->message.size() < 300);  // the list is not repeated

  const TemporaryFolder folder;
  std::string million = "[";
  std::vector<std::int64_t> numbers(1'000'000);
  Ids expected(numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<std::int64_t>(i * 7919 % 50000);
    expected[i] = static_cast<Index>(numbers[i]);
    million += (i == 0 ? "" : ", ") + std::to_string(numbers[i]);
  }
  write_bytes(folder / "ids.json", million + "]\n");
  CHECK(token_ids("@" + (folder / "ids.json").string()) == expected);
  write_npy(folder / "ids.npy", numbers);
  CHECK(token_ids("@" + (folder / "ids.npy").string()) == expected);
}

TEST_CASE("input: standard input, and a tokenizer that is there decides", "[input]") {
  const TemporaryFolder folder;
  const fs::path model = fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "examples" / "models" / "mamba";
  fs::copy(model / "model.safetensors", folder / "model.safetensors");
  fs::copy(model / "config.json", folder / "config.json");
  const std::string tokenizer = R"({"added_tokens":[{"id":20,"content":"<s>","special":true}],
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"},
    "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
      "special_tokens":{"<s>":{"id":"<s>","ids":[20],"tokens":["<s>"]}}},
    "model":{"type":"BPE","vocab":{"a":0,"c":1,"t":2,"at":3,"cat":4,"Ġ":5,"Ġcat":6,"Ã":7,"©":8},"merges":["a t","c at","Ġ cat"]}})";
  write_bytes(folder / "tokenizer.json", tokenizer);
  const TemporaryFolder scratch;
  const std::string out = (scratch / "out.json").string();

  const Outcome shown =
      run_well(scratch, "explain", {"--model", folder.path().string(), "--text", "a cat cat\u00e9", "--target", " cat", "--out", out},
               {"LC_ALL=C.UTF-8"});
  const Json json = *read_json_object(out);
  CHECK(json.at("input_ids") == Json({20, 0, 6, 6, 7, 8}));
  CHECK(json.at("tokens") == Json({"<s>", "a", " cat", " cat", "\u00e9", "\u22EF"}));
  CHECK(json.at("target") == 6);
  CHECK_THAT(shown.out, contains_text("position  token"));
  CHECK_THAT(shown.out, contains_text("  id "));
  CHECK_THAT(shown.out, contains_text("\u00e9"));
  const std::string plain = run_well(scratch, "explain", {"--model", folder.path().string(), "--text", "a cat\u00e9"}, {"LC_ALL=C"}).out;
  CHECK(std::all_of(plain.begin(), plain.end(), [](char letter) { return static_cast<unsigned char>(letter) < 0x80; }));

  // Programs here read nothing from standard input but what a shell gives them.
  const std::string program = quoted((fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / "explain").string());
  const std::string piped =
      "printf 'a cat\\n' | " + program + " --model " + quoted(folder.path().string()) + " --text - --out " + quoted(out) + " >/dev/null";
  CHECK(std::system(piped.c_str()) == 0);
  CHECK(read_json_object(out)->at("input_ids") == Json({20, 0, 6}));
  const std::string two = "printf 'a cat\\n' | " + program + " --model " + quoted(folder.path().string()) + " --model " +
                          quoted(folder.path().string()) + " --text - >/dev/null";
  CHECK(std::system(two.c_str()) == 0);  // several models read one text

  // What cannot be encoded is said before weights are looked at: these have the wrong sizes.
  write_bytes(folder / "config.json", R"({"architectures":["MambaForCausalLM"],"model_type":"mamba","hidden_size":7})");
  check_mistake("explain", {"--model", folder.path().string(), "--text", "dog"}, "\"d\" is not a token of the vocabulary", "out.json");
  // A choice overrides, and ids need no tokenizer that can be read.
  fs::remove(folder / "config.json");
  fs::copy(model / "config.json", folder / "config.json");
  write_bytes(folder / "tokenizer.json", "{}");
  check_mistake("explain", {"--model", folder.path().string(), "--text", "a"}, "tokenizer.json: there is no object \"model\"", "out.json");
  run_well(scratch, "explain", {"--model", folder.path().string(), "--tokens", "[0, 6]"});
  write_bytes(scratch / "other.json", tokenizer);
  run_well(scratch, "explain",
           {"--model", folder.path().string(), "--text", "a cat", "--tokenizer", (scratch / "other.json").string(), "--out", out});
  CHECK(read_json_object(out)->at("input_ids") == Json({20, 0, 6}));
}

TEST_CASE("input: what needs no weights is said before they are read", "[input]") {
  const TemporaryFolder folder;
  for (const char* const file : {"model.safetensors", "vocab.json"})
    fs::copy(fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "examples" / "models" / "mamba" / file, folder / file);
  // The configuration is not that of the weights: reading them would end in another message.
  write_bytes(folder / "config.json", R"({"architectures":["MambaForCausalLM"],"model_type":"mamba","hidden_size":7})");
  const std::string model = folder.path().string();
  const auto explain = [&](std::vector<std::string> more, const std::string& words, const std::string& out = "out.json") {
    more.insert(more.begin(), {"--model", model});
    check_mistake("explain", more, words, out);
  };
  explain({"--text", "film"}, "hidden_size");
  explain({"--tokens", "999999"}, "token 0 is 999999, expected 0 to 7144, the model's vocabulary");
  explain({"--text", "film", "--target", " dog"}, "token \" dog\" is not in vocab.json");
  explain({"--text", "film", "--target", "7145"}, "--target: token 7145 is out of range, expected 0 to 7144");
  explain({"--text", "film", "--contrast", "zorkmid"}, "token \"zorkmid\" is not in vocab.json");
  explain({"--text", "film", "--baseline", "zorkmid"}, "token \"zorkmid\" is not in vocab.json");
  explain({"--text", "a film", "--position", "2"}, "position 2 is out of range, expected 0 to 1");
  explain({"--text", "a film", "--layer", "2"}, "--layer: 2 is out of range, expected 0 to 1");
  std::string long_text;
  for (int k = 0; k < 40000; ++k) long_text += "1 ";
  write_bytes(folder / "ids.txt", long_text);
  explain({"--tokens", "@" + (folder / "ids.txt").string(), "--method", "raw", "--picture", "maps"}, "--picture: a map of 40000 x 40000",
          "out.png");
  write_bytes(folder / "texts.txt", "film\n");
  const std::string data = (folder / "texts.txt").string();
  explain({"--data", data, "--append", "zorkmid"}, "token \"zorkmid\" is not in vocab.json", "out.jsonl");
  explain({"--data", data, "--target", "zorkmid"}, "token \"zorkmid\" is not in vocab.json", "out.jsonl");
  write_bytes(folder / "labels.tsv", "zorkmid\ta film\nfilm\ta\n");
  check_mistake("evaluate", {"--model", model, "--data", (folder / "labels.tsv").string()}, "label \"zorkmid\" of line 1 is neither",
                "out.json");
  check_mistake("materialize", {"--model", model, "--layer", "0", "--tokens", "7145"}, "token 0 is 7145, expected 0 to 7144", "out.npy");
}
