// Published vocabularies against published ids; which file in a folder decides; and files that nobody vouches for.
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/io/tokenizers/gguf_metadata.hpp>
#include <implicit_attention/io/tokenizers/gguf_vocabulary.hpp>
#include <implicit_attention/io/tokenizers/hugging_face.hpp>
#include <implicit_attention/io/tokenizers/labels.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>
#include <implicit_attention/io/tokenizers/world.hpp>

#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

using Ids = std::vector<Index>;
using Texts = std::vector<std::string>;

namespace {

/// Every line of a `.golden.jsonl`: a text and its ids.
void check_golden_lines(const Tokenizer& tokenizer, const fs::path& path) {
  std::ifstream file(path);
  std::size_t lines = 0;
  for (std::string line; std::getline(file, line); ++lines) {
    INFO(line);
    const Json golden = Json::parse(line);
    CHECK(tokenizer.encode(golden["text"].get<std::string>()) == golden["ids"].get<Ids>());
  }
  CHECK(lines > 50);
}

/// llama.cpp's pair of files: texts with a line between, and a line of ids for each.
void check_golden_pair(const Tokenizer& tokenizer, const fs::path& gguf) {
  const std::string texts = read_bytes(gguf.string() + ".inp"), separator = "\n__ggml_vocab_test__\n";
  std::istringstream lines(read_bytes(gguf.string() + ".out"));
  std::string line;
  std::size_t count = 0;
  for (std::size_t begin = 0; begin < texts.size(); ++count) {
    const std::size_t end = std::min(texts.find(separator, begin), texts.size());
    const std::string text = texts.substr(begin, end - begin);
    begin = end + separator.size();
    REQUIRE(std::getline(lines, line));
    Ids expected;
    std::istringstream numbers(line);
    for (Index id = 0; numbers >> id;) expected.push_back(id);
    INFO("text " << count << ": " << text);
    if (expected.empty())
      CHECK(error_of([&] { (void)tokenizer.encode(text); }));
    else
      CHECK(tokenizer.encode(text) == expected);
  }
  CHECK(count > 20);
  CHECK_FALSE(std::getline(lines, line));
}

/// Text comes back as it was: every line of `folder`'s texts, and bytes of any kind but `missing`, which the vocabulary has no tokens for.
void check_round_trip(const Tokenizer& tokenizer, const fs::path& folder, const std::string& missing = "") {
  std::size_t lines = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".zip") continue;
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) {
      if (line.empty()) continue;
      if (const std::string back = tokenizer.decode(tokenizer.encode(line)); back != line)
        FAIL_CHECK(entry.path() << ": \"" << line << "\" comes back as \"" << back << '"');
      ++lines;
    }
  }
  CHECK(lines > 10'000);
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string bytes(1 + random() % 60, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % (round % 2 == 0 ? 256 : 128));
    if (bytes.find_first_of(missing) != std::string::npos) {
      const auto error = error_of([&] { (void)tokenizer.encode(bytes); });
      REQUIRE(error);
      CHECK_THAT(error->message, contains_text("has no token for the byte \\x"));
      continue;
    }
    // Normal forms may change what is text; what is none must stay.
    const std::string back = tokenizer.decode(tokenizer.encode(bytes));
    INFO(printable(bytes, 400));
    if (utf8_error(bytes) != std::string::npos || detail::normalized(bytes, detail::NormalForm::nfc) == bytes) CHECK(back == bytes);
  }
}

std::optional<fs::path> vocabulary(const std::string& name) { return test_support::shared_data("realdata/vocab/" + name); }

int rounds(int usual) {
  const char* const given = std::getenv("IMPLICIT_ATTENTION_FUZZ_ROUNDS");
  return given == nullptr ? usual : std::atoi(given);
}

std::string small_tokenizer() {
  return R"j({"version":"1.0","truncation":null,"padding":null,
"added_tokens":[{"id":20,"content":"<|end|>","special":true,"normalized":false,"lstrip":true,"rstrip":false,"single_word":false},
 {"id":21,"content":"  ","special":false,"normalized":true}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"Regex":"q+"},"content":"h"},{"type":"Lowercase"}]},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[
 {"type":"Split","pattern":{"Regex":"\\p{N}{1,3}|\\s+(?!\\S)"},"behavior":"MergedWithNext","invert":false},
 {"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":true,"use_regex":true}]},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<|end|>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
 "pair":[],"special_tokens":{"<|end|>":{"id":"<|end|>","ids":[20],"tokens":["<|end|>"]}}},
"decoder":{"type":"Sequence","decoders":[{"type":"ByteLevel"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","unk_token":"?","fuse_unk":true,"byte_fallback":true,"vocab":{"?":0,"h":1,"i":2,"hi":3,"Ġ":4,"Ġh":5,"Ġhi":6,"1":7},
 "merges":["h i","Ġ h","Ġh i"]}})j";
}

}  // namespace

TEST_CASE("vocabularies: GPT-NeoX's tokenizer.json", "[io]") {
  const auto path = vocabulary("20B_tokenizer.json");
  if (!path) {
    WARN(test_support::shared_data_missing("realdata/vocab/20B_tokenizer.json"));
    return;
  }
  const Tokenizer tokenizer = Tokenizer::open(".", path->string());
  CHECK(tokenizer.kind() == TokenizerKind::subwords);
  check_golden_lines(tokenizer, path->parent_path() / "neox.golden.jsonl");
  // Bytes that are in no UTF-8 text.
  check_round_trip(tokenizer, path->parent_path() / ".." / "text", "\xC0\xC1\xF5\xF6\xF7\xF8\xF9\xFA\xFB\xFC\xFD\xFE\xFF");

  CHECK(tokenizer.labels(tokenizer.encode("The dog sat.\n")) == Texts{"The", " dog", " sat", ".", "\\n"});
  CHECK(tokenizer.id(" dog") == tokenizer.id("\xC4\xA0"
                                             "dog"));
  CHECK(tokenizer.label(tokenizer.id(" dog")) == " dog");
  CHECK(tokenizer.id("<|endoftext|>") == 0);
  CHECK_FALSE(tokenizer.find("<unk>"));
  CHECK(tokenizer.id("     ") == 50273);  // an added token
  const auto error = error_of([&] { (void)tokenizer.id(" dogcat"); });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("\" dogcat\" is not a single token, but these: \" dog\" (" +
                                           std::to_string(tokenizer.id(" dog")) + "), \"cat\""));
  // U+1F999 is four bytes in several tokens: the first shows it.
  const Ids llama = tokenizer.encode("a \xF0\x9F\xA6\x99!");
  const Texts labels = tokenizer.labels(llama);
  CHECK(labels[1] == " \xF0\x9F\xA6\x99");
  CHECK(labels[2] == "\u22EF");
  CHECK(labels.back() == "!");
  CHECK(tokenizer.labels({llama[1]}) == Texts{" \\xF0\\x9F"});
  CHECK(tokenizer.labels({60000}) == Texts{"60000"});
}

TEST_CASE("vocabularies: GGUF files", "[io]") {
  const auto gpt2 = vocabulary("ggml-vocab-gpt-2.gguf"), neox = vocabulary("ggml-vocab-gpt-neox.gguf");
  if (!gpt2 || !neox) {
    WARN(test_support::shared_data_missing("realdata/vocab/ggml-vocab-*.gguf"));
    return;
  }
  for (const auto& entry : fs::directory_iterator(gpt2->parent_path()))
    if (entry.path().extension() == ".inp") {
      const fs::path gguf = entry.path().parent_path() / entry.path().stem();
      INFO(gguf);
      const Tokenizer tokenizer = Tokenizer::open(gguf);
      check_golden_pair(tokenizer, gguf);
    }
  const Tokenizer tokenizer = Tokenizer::open(*neox);
  CHECK(tokenizer.kind() == TokenizerKind::subwords);
  check_golden_lines(tokenizer, neox->parent_path() / "neox.golden.jsonl");
}

TEST_CASE("vocabularies: vocab.json and merges.txt give the published ids of GPT-2", "[io]") {
  const auto gpt2 = vocabulary("ggml-vocab-gpt-2.gguf");
  if (!gpt2) {
    WARN(test_support::shared_data_missing("realdata/vocab/ggml-vocab-gpt-2.gguf"));
    return;
  }
  const TemporaryFolder folder;
  const GgufVocabulary from = read_gguf_vocabulary(*gpt2);
  Json tokens = Json::object();
  for (std::size_t id = 0; id < from.tokens.size(); ++id) tokens[from.tokens[id]] = id;
  std::string merges = "#version: 0.2\n";
  for (const std::string& merge : from.merges) merges += merge + "\n";
  write_bytes(folder / "vocab.json", tokens.dump());
  write_bytes(folder / "merges.txt", merges);
  const Tokenizer tokenizer = Tokenizer::open(folder.path());
  CHECK(tokenizer.kind() == TokenizerKind::subwords);
  check_golden_pair(tokenizer, *gpt2);
  check_round_trip(tokenizer, gpt2->parent_path() / ".." / "text");
  CHECK(tokenizer.encode("a<|endoftext|>b") == Ids{64, 50256, 65});  // a special token without being named so anywhere
  for (const char* const file : {"merges.txt", "vocab.json"})
    CHECK(Tokenizer::open(".", (folder / file).string()).encode("The dog") == tokenizer.encode("The dog"));
}

TEST_CASE("vocabularies: vocab.json and merges.txt that are no GPT-2, or wrong", "[io]") {
  const TemporaryFolder folder;
  const std::string tokens = R"({"a":0,"b":1,"\u0120":2,"ab":3,"\u0120ab":4,"<s>":5,"a b":6})";
  const auto again = [&] {
    for (const char* const name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) fs::remove(folder / name);
    write_bytes(folder / "vocab.json", tokens);
    write_bytes(folder / "merges.txt", "#version: 0.2\na b\n\n\u0120 ab");
  };
  const auto ids = [&](const std::string& text) { return Tokenizer::open(folder.path(), Index{10}).encode(text); };
  again();
  CHECK(ids("ab ab") == Ids{3, 4});
  CHECK(ids("b") == Ids{1});
  write_bytes(folder / "tokenizer_config.json", R"({"tokenizer_class":"GPT2Tokenizer","add_prefix_space":true})");
  CHECK(ids("ab") == Ids{4});
  write_bytes(folder / "special_tokens_map.json", R"({"bos_token":"<s>","eos_token":{"content":"<e>"},"pad_token":null})");
  write_bytes(folder / "added_tokens.json", R"({"<e>":7})");
  write_bytes(folder / "tokenizer_config.json", "{}");
  CHECK(ids("<s>ab<e>") == Ids{5, 3, 7});
  CHECK(Tokenizer::open(folder.path(), Index{10}).id("<e>") == 7);

  fs::remove(folder / "special_tokens_map.json");
  write_bytes(folder / "tokenizer_config.json", R"({"added_tokens_decoder":{"8":{"content":"<t>","lstrip":true,"special":true}}})");
  CHECK(ids("ab <t>b") == Ids{3, 8, 1});

  struct Case {
    std::string file, bytes, words;
  };
  const std::vector<Case> cases{
      {"merges.txt", "#version: 0.2\na b c", "merges.txt:2: is \"a b c\", expected two tokens and a space between"},
      {"merges.txt", "ab", "merges.txt:1: is \"ab\", expected two tokens"},
      {"merges.txt", "a ", "expected two tokens"},
      {"merges.txt", "a \xFF", "merges.txt: not valid UTF-8 at byte 2"},
      {"merges.txt", "a c", "\"c\", of \"a\" and \"c\", is not in the vocabulary"},
      {"merges.txt", "b a", "\"ba\", of \"b\" and \"a\", is not in the vocabulary"},
      {"vocab.json", R"({"a":0,"b":1})", "vocab.json has no \"\u0120\", GPT-2's space"},
      {"vocab.json", R"({"a":0,"b</w>":1,"\u0120":2})", "the token \"b</w>\" in vocab.json is not a GPT-2 byte pair"},
      {"tokenizer_config.json", R"({"tokenizer_class":"Qwen2Tokenizer"})", "tokenizer_config.json names Qwen2Tokenizer"},
      {"tokenizer_config.json", R"({"tokenizer_class":"GPTNeoXTokenizer"})", "names GPTNeoXTokenizer, which has rules of its own"},
      {"tokenizer_config.json", R"({"tokenizer_class":5})", "tokenizer_class: is 5, expected a text"},
      {"tokenizer_config.json", R"({"add_bos_token":true})", "add_bos_token: is true"},
      {"tokenizer_config.json", R"({"added_tokens_decoder":{"x":{}}})", "added_tokens_decoder: \"x\" is {}, expected an id and an object"},
      {"tokenizer_config.json", R"({"added_tokens_decoder":{"7":{"content":""}}})", "content: is empty"},
      {"tokenizer_config.json", R"({"added_tokens_decoder":{"1":{"content":"<x>"}}})", "the vocabulary has \"b\" there"},
      {"special_tokens_map.json", R"({"eos_token":"<e>"})", "eos_token: the token \"<e>\" is in neither vocab.json nor added_tokens.json"},
      {"special_tokens_map.json", R"({"eos_token":5})", "eos_token: is 5, expected a token"},
      {"added_tokens.json", R"({"<e>":"7"})", "expected an integer from 0"},
  };
  for (const Case& one : cases) {
    INFO(one.file << ": " << one.bytes);
    again();
    write_bytes(folder / one.file, one.bytes);
    const auto error = error_of([&] { (void)ids("ab"); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text(one.words));
    CHECK_THAT(error->message, contains_text("give token ids"));
    CHECK(Tokenizer::open(folder.path(), Index{10}).labels({0, 9}) == Texts{"a", "9"});  // ids can still be shown
    const auto chosen = error_of([&] { (void)Tokenizer::open(".", folder.path().string()); });
    REQUIRE(chosen);
    CHECK_THAT(chosen->message, contains_text(one.words));
  }
}

TEST_CASE("vocabularies: RWKV's world", "[io]") {
  const auto path = vocabulary("rwkv_vocab_v20230424.txt");
  if (!path) {
    WARN(test_support::shared_data_missing("realdata/vocab/rwkv_vocab_v20230424.txt"));
    return;
  }
  const Tokenizer tokenizer = Tokenizer::open(".", path->string());
  CHECK(tokenizer.kind() == TokenizerKind::subwords);
  check_golden_lines(tokenizer, path->parent_path() / "rwkv.golden.jsonl");
  check_round_trip(tokenizer, path->parent_path() / ".." / "text");
  CHECK(tokenizer.label(0) == "<|endoftext|>");
  CHECK(tokenizer.id("\n") == 11);
}

TEST_CASE("vocabularies: RWKV's world as the ports to transformers have it, a literal a line", "[io]") {
  const TemporaryFolder folder;
  const std::string text = "b'<s>'\nb'\\x00'\nb'a'\r\nb' a'\nb\"it's\"\nb'\\xff'\nb'\\n'\n";
  write_bytes(folder / "vocab.txt", text);
  const Tokenizer tokenizer = Tokenizer::open(folder.path());
  CHECK(tokenizer.kind() == TokenizerKind::subwords);
  CHECK(tokenizer.encode("a ait's\xFF\n") == Ids{2, 3, 4, 5, 6});
  CHECK(tokenizer.label(0) == "<|endoftext|>");
  CHECK(Tokenizer::open("/nowhere", (folder / "vocab.txt").string()).encode(" a") == Ids{3});
  write_bytes(folder / "vocab.txt", "<s>\n" + text.substr(text.find('\n') + 1));
  CHECK(Tokenizer::open(folder.path()).encode(" a") == Ids{3});
  // Another vocab.txt is not this, and RWKV's own file goes before it.
  write_bytes(folder / "vocab.txt", "[PAD]\n[UNK]\nb'a'\n");
  CHECK(Tokenizer::open(folder.path()).kind() == TokenizerKind::none);
  write_bytes(folder / "vocab.txt", text);
  write_bytes(folder / "rwkv_vocab_v1.txt", "7 'a' 1\n");
  CHECK(Tokenizer::open(folder.path()).encode("a") == Ids{7});
  struct Bad {
    std::string line, message;
  };
  for (const Bad& bad : std::vector<Bad>{{"b'a", "holds no Python literal in quotes"},
                                         {"b'\\q'", "has an escape that is not read here"},
                                         {"b''", "is empty"},
                                         {"b'a'\nb'a'", "appears twice"}}) {
    INFO(bad.line);
    const auto error = error_of([&] { (void)detail::WorldVocabulary::parse_literals("b'<s>'\n" + bad.line + "\n", "vocab.txt"); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text(bad.message) && contains_text("vocab.txt:"));
  }
  CHECK_THAT(error_of([&] { (void)detail::WorldVocabulary::parse_literals("b'<s>'\n", "vocab.txt"); })->message,
             contains_text("holds no tokens"));
}

TEST_CASE("vocabularies: which file decides", "[io]") {
  const TemporaryFolder folder;
  const std::string json = R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"},
    "model":{"type":"BPE","vocab":{"a":0,"b":1,"Ġ":2,"Ġb":3},"merges":["Ġ b"]}})";
  const std::string world = "1 'a' 1\n2 ' ' 1\n3 ' b' 2\r\n4 b'\\xff' 1\n5 \"it's\" 4\n6 '\\u2003' 3\n";
  write_bytes(folder / "vocab.json", R"({"a":0,"b":1,"word":2})");
  CHECK(Tokenizer::open(folder.path()).kind() == TokenizerKind::words);
  write_bytes(folder / "rwkv_vocab_v1.txt", world);
  CHECK(Tokenizer::open(folder.path()).encode("a b\xFFit's\u2003") == Ids{1, 3, 4, 5, 6});
  write_bytes(folder / "tokenizer.json", json);
  CHECK(Tokenizer::open(folder.path()).encode("a b") == Ids{0, 3});
  CHECK(Tokenizer::open(folder.path(), 3).encode("a b") == Ids{0, 3});
  CHECK(error_of([&] { Tokenizer::open(folder.path(), 3).check({0, 3}); }));  // the model has no such id

  SECTION("a choice overrides") {
    const std::string rwkv = (folder / "rwkv_vocab_v1.txt").string(), words = (folder / "vocab.json").string();
    CHECK(Tokenizer::open(folder.path(), rwkv).encode("a b") == Ids{1, 3});
    CHECK(Tokenizer::open(folder.path(), words).encode("b a") == Ids{1, 0});
    CHECK(Tokenizer::open(folder.path(), "words").encode("b word") == Ids{1, 2});
    CHECK(Tokenizer::open(folder.path(), "bytes").encode("b") == Ids{98});
    CHECK(Tokenizer::open("/nowhere", folder.path().string()).encode("a b") == Ids{0, 3});
    const auto error = error_of([&] { (void)Tokenizer::open(folder.path(), "bpe"); });
    REQUIRE(error);
    CHECK(error->message == "tokenizer \"bpe\" is neither bytes, symbols or words, nor a file or folder that is there");
  }
  SECTION("a file of the model's folder stands for the folder") {
    write_bytes(folder / "model.pth", "PK");
    CHECK(Tokenizer::open(folder / "model.pth").encode("a b") == Ids{0, 3});
    write_bytes(folder / "tokenizer_config.json", "{}");
    CHECK(Tokenizer::open(folder / "tokenizer_config.json").encode("a b") == Ids{0, 3});
  }
  SECTION("the file of a tokenizer is that tokenizer, whatever lies beside it") {
    CHECK(Tokenizer::open(folder / "rwkv_vocab_v1.txt").encode("a b") == Ids{1, 3});
    fs::rename(folder / "tokenizer.json", folder / "20B_tokenizer.json");
    CHECK(Tokenizer::open(folder / "20B_tokenizer.json").encode("a b") == Ids{0, 3});
    CHECK(Tokenizer::open(folder.path()).encode("a b") == Ids{1, 3});
  }
  SECTION("what is found and cannot be read leaves ids") {
    write_bytes(folder / "tokenizer.json", "{}");
    const Tokenizer broken = Tokenizer::open(folder.path());
    CHECK(broken.kind() == TokenizerKind::none);
    const auto error = error_of([&] { (void)broken.encode("a"); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text("text cannot become tokens"));
    CHECK_THAT(error->message, contains_text("tokenizer.json: there is no object \"model\""));
    // What is chosen must be right.
    const auto chosen = error_of([&] { (void)Tokenizer::open(".", folder.path().string()); });
    REQUIRE(chosen);
    CHECK_THAT(chosen->message, contains_text("tokenizer.json: there is no object \"model\""));
    fs::create_directory(folder / "bare");
    const auto nothing = error_of([&] { (void)Tokenizer::open(".", (folder / "bare").string()); });
    REQUIRE(nothing);
    CHECK_THAT(nothing->message,
               contains_text("bare: there is no tokenizer here, expected tokenizer.json, rwkv_vocab_*.txt or vocab.json"));
  }
  SECTION("sentencepiece's own file") {
    fs::remove(folder / "tokenizer.json");
    fs::remove(folder / "rwkv_vocab_v1.txt");
    write_bytes(folder / "tokenizer.model", "\x0A\x0E");
    const auto error = error_of([&] { (void)Tokenizer::open(folder.path()).encode("a"); });
    REQUIRE(error);
#if IMPLICIT_ATTENTION_IO_SENTENCEPIECE
    CHECK_THAT(error->message, contains_text("tokenizer.model: sentencepiece cannot read it"));
#else
    CHECK_THAT(error->message, contains_text("put the model's tokenizer.json beside it"));
#endif
  }
  SECTION("nothing: bytes, if the model turns out to take them") {
    const TemporaryFolder empty;
    Tokenizer tokenizer = Tokenizer::open(empty.path());
    CHECK(tokenizer.kind() == TokenizerKind::none);
    tokenizer.fit(256);
    CHECK(tokenizer.encode("a") == Ids{97});
  }
}

TEST_CASE("vocabularies: a vocab.json of byte pairs is never read as words", "[io]") {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& why) {
    const auto error = error_of([&] { (void)Tokenizer::open(folder.path(), 10).encode("the cat"); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text(why));
    CHECK_THAT(error->message, contains_text("give token ids"));
  };
  write_bytes(folder / "vocab.json", R"({"the":0,"cat":1,"Ġcat":2})");
  refused(
      "\xC4\xA0"
      "cat");
  CHECK(Tokenizer::open(folder.path(), 10).labels({0, 2, 5}) == Texts{"the", " cat", "5"});
  write_bytes(folder / "vocab.json", R"({"the":0,"cat":1,"▁cat":2})");
  refused("byte pairs");
  write_bytes(folder / "vocab.json", R"({"the":0,"cat":1})");
  CHECK(Tokenizer::open(folder.path(), 10).encode("the cat") == Ids{0, 1});
  write_bytes(folder / "tokenizer_config.json", "{}");
  refused("tokenizer_config.json");
  CHECK(Tokenizer::open(folder.path(), "words", 10).encode("the cat") == Ids{0, 1});

  const auto shared = test_support::shared_data("cases/vocab-json-of-byte-pairs");
  if (!shared) {
    WARN(test_support::shared_data_missing("cases/vocab-json-of-byte-pairs"));
    return;
  }
  const Tokenizer tokenizer = Tokenizer::open(*shared, 16);
  const auto error = error_of([&] { (void)tokenizer.encode("the cat sat"); });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("text cannot become tokens"));
  CHECK_THAT(error->message, contains_text("tokenizer.json: model.merges[0]: \"th\", of \"t\" and \"h\", is not in the vocabulary"));
}

TEST_CASE("vocabularies: GGUF's arrays", "[io]") {
  GgufVocabulary llama;
  llama.where = "a.gguf";
  llama.model = "llama";
  llama.tokens = {"<unk>", "<s>", "<0x21>", "▁", "h", "i", "▁h", "hi", "▁hi", "<|u|>"};
  llama.scores = {0, 0, 0, -9, -8, -7, -3, -2, -4, 0};
  llama.types = {2, 3, 6, 1, 1, 1, 1, 1, 1, 4};
  llama.bos = 1;
  llama.unknown = 0;
  const Tokenizer tokenizer = Tokenizer::of(llama);
  // "hi" has the highest score, so it is made first; then ▁ and hi.
  CHECK(tokenizer.encode("hi h!z") == Ids{1, 8, 6, 2, 0});
  CHECK(tokenizer.encode("hi<|u|>hi") == Ids{1, 8, 9, 8});
  CHECK(tokenizer.encode(" hi", false) == Ids{3, 8});
  CHECK_FALSE(tokenizer.find("x"));
  CHECK(tokenizer.decode({8, 6, 2}) == "hi h!");
  CHECK(tokenizer.labels({1, 8, 2}) == Texts{"<s>", " hi", "!"});
  llama.add_space_prefix = false;
  llama.add_bos = false;
  CHECK(Tokenizer::of(llama).encode("hi hi") == Ids{7, 8});

  GgufVocabulary world;
  world.where = "w.gguf";
  world.model = "rwkv";
  world.tokens = {"<s>", "a", "\\xff", "\\n", "a\\'", "[PAD5]"};
  world.types = {3, 1, 1, 1, 1, 5};
  CHECK(Tokenizer::of(world).encode("a\n\xFF"
                                    "a'") == Ids{1, 3, 2, 4});

  const auto refused = [](GgufVocabulary vocabulary, const std::function<void(GgufVocabulary&)>& change) {
    change(vocabulary);
    const auto error = error_of([&] { (void)Tokenizer::of(vocabulary); });
    return error ? error->message : std::string("read");
  };
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.model = "bert"; }),
             contains_text("a.gguf: tokenizer.ggml.model is \"bert\", expected gpt2, llama or rwkv"));
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.scores.pop_back(); }), contains_text("tokenizer.ggml.scores has 9 entries"));
  // Before the tokens are looked at: one of them appears twice.
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.scores.clear(), v.tokens[5] = "h"; }),
             contains_text("tokenizer.ggml.scores has 0 entries, expected one for each of 10 tokens"));
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.scores[4] = std::numeric_limits<float>::quiet_NaN(); }),
             contains_text("scores [4]: is not a number"));
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.types.push_back(1); }), contains_text("token_type has 11 entries"));
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.unknown = 10; }), contains_text("unknown_token_id is 10, expected 0 to 9"));
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.add_bos = true, v.bos.reset(); }), contains_text("bos_token_id is missing"));
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.model = "gpt2", v.pre = "pt"; }),
             contains_text("tokenizer.ggml.pre is \"pt\", expected one of: mpt"));
  CHECK_THAT(refused(llama, [](GgufVocabulary& v) { v.model = "gpt2", v.merges = {"h"}; }), contains_text("merges [0]: is \"h\""));
  CHECK_THAT(refused(world, [](GgufVocabulary& v) { v.tokens[2] = "\\q"; }), contains_text("tokens [2]: \"\\q\" has an escape"));
}

TEST_CASE("vocabularies: every way of GGUF to cut words compiles", "[io]") {
  for (const detail::GgufPreTokenizer& one : detail::gguf_pre_tokenizers()) {
    std::istringstream names{std::string(one.names)};
    for (std::string name; names >> name;) {
      INFO(name);
      GgufVocabulary vocabulary;
      vocabulary.model = "gpt2";
      vocabulary.pre = name;
      for (unsigned byte = 0; byte < 256; ++byte)
        vocabulary.tokens.push_back(detail::ByteAlphabet::instance().character(static_cast<unsigned char>(byte)));
      const std::string text = "It's 12345 \xE6\xBC\xA2\xE5\xAD\x97\xE3\x81\x8B caf\xC3\xA9, e\xCC\x81!\r\n\n  x";
      const Tokenizer tokenizer = Tokenizer::of(vocabulary);
      CHECK(tokenizer.decode(tokenizer.encode(text)) == (one.nfc ? detail::normalized(text, detail::NormalForm::nfc) : text));
    }
  }
}

TEST_CASE("vocabularies: malformed world vocabularies", "[io]") {
  struct Bad {
    std::string line, message;
  };
  for (const Bad& bad : std::vector<Bad>{{"x 'a' 1", "does not begin and end with a number"},
                                         {"1 'a'", "is not an id, text and length"},
                                         {"1", "is not an id, text and length"},
                                         {"0 'a' 1", "has the id 0, which ends a text"},
                                         {"1 a 1", "holds no Python literal in quotes"},
                                         {"1 'a\" 1", "holds no Python literal in quotes"},
                                         {"1 'a' 2", "is 1 bytes long, not 2"},
                                         {"1 '' 0", "is empty"},
                                         {"1 '\\q' 1", "has an escape that is not read here"},
                                         {"1 '\\xz1' 1", "has an escape that is not read here"},
                                         {"1 '\\ud800' 3", "has an escape that is not read here"},
                                         {"1 'a' 1\n1 'b' 1", "its id 1 is that of \"a\" too"},
                                         {"1 'a' 1\n2 b'a' 1", "appears twice"},
                                         {"99999999999 'a' 1", "expected 0 to 2147483647"},
                                         {"", "holds no tokens"}}) {
    INFO(bad.line);
    const auto error = error_of([&] { (void)detail::WorldVocabulary::parse(bad.line, "rwkv.txt"); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK_THAT(error->message, contains_text(bad.message));
  }
}

TEST_CASE("vocabularies: files with anything changed end in an error or in a tokenizer", "[io]") {
  const std::string good = small_tokenizer();
  std::mt19937 random(20240607);
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random()) % bound; };
  const auto use = [&](const detail::TextCodec& codec) {
    std::string text(below(30), '\0');
    for (char& byte : text) byte = below(3) == 0 ? static_cast<char>(below(256)) : "hi1 q<|end|>\n  "[below(15)];
    try {
      Ids ids;
      codec.encode(text, ids);
      (void)codec.decode(ids);
      std::vector<detail::TokenText> texts;
      for (const Index id : ids) texts.push_back({codec.bytes(id).value_or("?"), codec.special(id)});
      CHECK(detail::labels_of(texts).size() == ids.size());
    } catch (const Error&) {
    }
  };
  std::size_t read = 0, refused = 0;
  for (int round = 0; round < rounds(3000); ++round) {
    std::string bytes = good;
    for (std::size_t changes = 1 + below(3); changes > 0; --changes) {
      const std::size_t at = below(bytes.size());
      switch (below(4)) {
        case 0:
          bytes[at] = static_cast<char>(below(256));
          break;
        case 1:
          bytes.erase(at, 1 + below(20));
          break;
        case 2:
          bytes.insert(at, bytes.substr(below(bytes.size()), below(40)));
          break;
        default:
          bytes[at] = "{}[]\",:0123456789truefalsn\\"[below(27)];
      }
      if (bytes.empty()) bytes = "{";
    }
    try {
      use(*detail::read_tokenizer_json(*implicit_attention::parse_json_object(bytes, "changed"), "changed"));
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(read > 0);
  CHECK(refused > 0);

  // World vocabularies and GGUF, in the same way.
  const std::string world = "1 'a' 1\n2 ' ' 1\n3 ' b' 2\n4 b'\\xff' 1\n5 \"it's\" 4\n6 '\\u2003' 3\n";
  std::string gguf = "GGUF" + bytes_of<std::uint32_t>({3}) + bytes_of<std::uint64_t>({0, 3});
  const auto text = [](const std::string& value) { return bytes_of<std::uint64_t>({value.size()}) + value; };
  gguf += text("general.name") + bytes_of<std::uint32_t>({8}) + text("x");
  gguf += text("tokenizer.ggml.model") + bytes_of<std::uint32_t>({8}) + text("gpt2");
  gguf += text("tokenizer.ggml.tokens") + bytes_of<std::uint32_t>({9, 8}) + bytes_of<std::uint64_t>({2}) + text("a") + text("b");
  CHECK(detail::GgufVocabularyReader(gguf, "made").read().tokens == Texts{"a", "b"});
  for (int round = 0; round < rounds(3000); ++round) {
    const bool first = round % 2 == 0;
    std::string bytes = first ? world : gguf;
    for (std::size_t changes = 1 + below(3); changes > 0; --changes) bytes[below(bytes.size())] = static_cast<char>(below(256));
    if (below(4) == 0) bytes.resize(below(bytes.size()));
    try {
      if (first)
        use(*detail::WorldVocabulary::parse(bytes, "changed"));
      else
        use(*detail::GgufTokenizer::make(detail::GgufVocabularyReader(bytes, "changed").read()));
    } catch (const Error&) {
    }
  }
}
