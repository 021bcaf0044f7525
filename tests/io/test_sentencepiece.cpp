// tokenizer.model: models that sentencepiece's own library trains here, and its own ids. Without the library: what the error says.
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/io/tokenizers/byte_pair.hpp>
#include <implicit_attention/io/tokenizers/character_map.hpp>
#include <implicit_attention/io/tokenizers/normalizer.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>
#include <implicit_attention/io/tokenizers/unigram.hpp>

#include "files.hpp"

#ifndef IMPLICIT_ATTENTION_SENTENCEPIECE_TRAIN  // whether the library that trains models is there: it is one of its own
#define IMPLICIT_ATTENTION_SENTENCEPIECE_TRAIN 0
#endif

#if IMPLICIT_ATTENTION_IO_SENTENCEPIECE && IMPLICIT_ATTENTION_SENTENCEPIECE_TRAIN
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>
#endif

using namespace implicit_attention;
using namespace io_test;

using Ids = std::vector<Index>;

#if IMPLICIT_ATTENTION_IO_SENTENCEPIECE && IMPLICIT_ATTENTION_SENTENCEPIECE_TRAIN
namespace {

/// A model of 600 tokens of this project's own text.
void train(const TemporaryFolder& folder, const std::string& options) {
  const std::string text = std::string(IMPLICIT_ATTENTION_SOURCE_DIR) + "/README.md";
  const sentencepiece::util::Status done = sentencepiece::SentencePieceTrainer::Train(
      "--input=" + text + " --model_prefix=" + (folder / "tokenizer").string() +
      " --vocab_size=600 --hard_vocab_limit=false --num_threads=1 --minloglevel=2 --user_defined_symbols=<start_of_turn> " + options);
  REQUIRE(done.ok());
}
Ids own_ids(const sentencepiece::SentencePieceProcessor& model, const std::string& text) {
  const std::vector<int> ids = model.EncodeAsIds(text);
  return {ids.begin(), ids.end()};
}

const std::vector<std::string> sample_texts{
    "The attention of a model",   " two  spaces, and an end ", "a", "Ünïcödé \u4E2D\u56FD \U0001F600 \uFB01n \u2460", "tabs\tand\nlines",
    "<start_of_turn>user\nhello", "0123456789 %$#@!"};

/// The map of characters in a model's bytes: field 2 of field 3, both with their length before them.
std::string character_map(std::string_view bytes, std::uint64_t wanted = 3) {
  const auto number = [&bytes] {
    std::uint64_t value = 0;
    for (unsigned shift = 0; !bytes.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes.front());
      bytes.remove_prefix(1);
      value |= std::uint64_t(byte & 0x7FU) << shift;
      if (byte < 0x80U) break;
    }
    return value;
  };
  while (!bytes.empty()) {
    const std::uint64_t key = number();
    const std::uint64_t size = key % 8 == 0 ? (number(), 0) : key % 8 == 5 ? 4 : key % 8 == 1 ? 8 : number();
    const std::string_view value = bytes.substr(0, size);
    bytes.remove_prefix(value.size());
    if (key == wanted * 8 + 2) return wanted == 2 ? std::string(value) : character_map(value, 2);
  }
  return {};
}

}  // namespace

TEST_CASE("sentencepiece: the library's own ids, and text back", "[io]") {
  const std::string options = GENERATE("--model_type=bpe --byte_fallback=true --normalization_rule_name=identity",
                                       "--model_type=bpe --byte_fallback=true --add_dummy_prefix=false --remove_extra_whitespaces=false "
                                       "--normalization_rule_name=identity",
                                       "--model_type=unigram", "--model_type=unigram --byte_fallback=true", "--model_type=char");
  INFO(options);
  const TemporaryFolder folder;
  train(folder, options);
  sentencepiece::SentencePieceProcessor model;
  REQUIRE(model.Load((folder / "tokenizer.model").string()).ok());
  const Tokenizer tokenizer = Tokenizer::open(folder.path());
  REQUIRE(tokenizer.kind() == TokenizerKind::subwords);
  const bool bytes = options.find("byte_fallback") != std::string::npos;
  for (const std::string& text : sample_texts) {
    INFO(text);
    const Ids ids = tokenizer.encode(text);
    CHECK(ids == own_ids(model, text));
    std::string back;
    REQUIRE(model.Decode(std::vector<int>(ids.begin(), ids.end()), &back).ok());
    if (bytes) CHECK(tokenizer.decode(ids) == back);  // without byte fallback the library writes U+2047 for what is unknown
  }
  // What is kept as it is comes back as it was.
  if (options.find("remove_extra_whitespaces=false") != std::string::npos)
    for (const std::string text : {" two  spaces, and an end ", "\u4E2D \U0001F600", "tab\tand\nline"})
      CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  // A text in pieces, as people read it.
  std::string row;
  for (const std::string& label : tokenizer.labels(tokenizer.encode("The attention \U0001F600 of it"))) row += label;
  if (bytes) {
    CHECK(row.find("attention \U0001F600\u22EF\u22EF\u22EF of") != std::string::npos);
    CHECK(row.find("\xE2\x96\x81") == std::string::npos);
  }
  // Marks are one token each, found by their names, and never text.
  CHECK(tokenizer.id("<s>") == 1);
  CHECK(tokenizer.id("</s>") == 2);
  CHECK(tokenizer.id("<start_of_turn>") == model.PieceToId("<start_of_turn>"));
  CHECK(tokenizer.encode("<s>").front() == 1);
  // A token by its text, spaces as spaces.
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    if (model.IsControl(id) || model.IsUnknown(id) || model.IsByte(id)) continue;
    INFO(model.IdToPiece(id));
    CHECK(tokenizer.find(model.IdToPiece(id)) == Index(id));
    CHECK(tokenizer.find(detail::TextPattern(std::string("\xE2\x96\x81")).replaced(model.IdToPiece(id), " ")) == Index(id));
  }
  const auto error = error_of([&] { (void)tokenizer.encode("\xFF"); });
  REQUIRE(error);
  CHECK(error->message == "the text is not valid UTF-8 at byte 0");
  CHECK(error_of([&] { (void)tokenizer.encode(""); }));
  CHECK(tokenizer.decode({-1, 5'000'000}).empty());
}

TEST_CASE("sentencepiece: what lies beside the model", "[io]") {
  const TemporaryFolder folder;
  train(folder, "--model_type=bpe --byte_fallback=true");
  const auto with = [&](const std::string& configuration) {
    write_bytes(folder / "tokenizer_config.json", configuration);
    return Tokenizer::open(folder.path());
  };
  CHECK(with(R"({"tokenizer_class":"LlamaTokenizer"})").before() == Ids{1});
  CHECK(with(R"({"tokenizer_class":"GemmaTokenizerFast","add_bos_token":false})").before().empty());
  const Ids t5 = with(R"({"tokenizer_class":"T5Tokenizer"})").encode("a");
  CHECK(t5.back() == 2);
  CHECK(t5.front() != 1);
  const Tokenizer more = with(
      R"({"add_bos_token":false,"added_tokens_decoder":{"1":{"content":"<s>","special":true},"700":{"content":"<extra>","special":true}}})");
  CHECK(more.id("<extra>") == 700);
  CHECK(more.encode("<extra><s>") == Ids{700, 1});
  CHECK(more.label(700) == "<extra>");
  struct Bad {
    std::string configuration, message;
  };
  const std::vector<Bad> all{
      {R"({"tokenizer_class":"XLMRobertaTokenizer"})", "names XLMRobertaTokenizer, which may give tokens other ids"},
      {R"({"added_tokens_decoder":{"5":{"content":"<new>"}}})", "the added token \"<new>\" has id 5, which is "},
      {R"({"added_tokens_decoder":{"x":{"content":"<new>"}}})", "added_tokens_decoder: \"x\" is"},
      {R"({"add_bos_token":"yes"})", "add_bos_token: is \"yes\", expected true or false"},
      {R"({"tokenizer_class":5})", "tokenizer_class: is 5, expected a text"},
      {"[", "tokenizer_config.json"},
  };
  for (const Bad& bad : all) {
    INFO(bad.configuration);
    const auto error = error_of([&] { (void)with(bad.configuration).encode("a"); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text(bad.message));
  }
  fs::remove(folder / "tokenizer_config.json");
  const std::string whole = read_bytes(folder / "tokenizer.model");
  const auto chosen = [&] { (void)Tokenizer::open(".", (folder / "tokenizer.model").string()).encode("a"); };
  CHECK_FALSE(error_of(chosen));
  for (const std::string& bytes :
       {std::string(), std::string("\x0A\x0E"), std::string("not a model"), whole.substr(0, whole.size() / 2), std::string(100, '\0')}) {
    write_bytes(folder / "tokenizer.model", bytes);
    const auto error = error_of(chosen);
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK_THAT(error->message, contains_text("tokenizer.model: "));
  }
}

TEST_CASE("sentencepiece: tokenizer.json's parts agree with the library", "[io]") {
  const TemporaryFolder folder;
  train(folder, "--model_type=unigram --normalization_rule_name=nmt_nfkc --remove_extra_whitespaces=false");
  sentencepiece::SentencePieceProcessor model;
  REQUIRE(model.Load((folder / "tokenizer.model").string()).ok());
  const std::string map = character_map(read_bytes(folder / "tokenizer.model"));
  REQUIRE(map.size() > 100'000);
  const detail::CharacterMap characters(map, "nmt_nfkc");
  CHECK(characters("\uFF21\uFF22 \u2460 \uFB01n \u3000\u00BD") == "AB 1 fin  1\u20442");
  // Unigram by the same scores, behind the same map.
  detail::TokenTable table;
  std::vector<double> scores;
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    table.add(model.IdToPiece(id), id, "model");
    scores.push_back(static_cast<double>(model.GetScore(id)));
  }
  detail::UnknownTokens unknown;
  unknown.id = model.unk_id();
  // Marks and what users defined are no candidates; here they do not occur in text.
  const detail::UnigramModel unigram(std::move(table), std::move(scores), unknown, "model");
  for (const std::string text :
       {"the gated recurrence of a layer", "\uFF21ttention \u2460 maps", "a row costs one row", "models, files and tokens"}) {
    std::string spaced = "\xE2\x96\x81";
    for (const char letter : characters(text)) letter == ' ' ? spaced += "\xE2\x96\x81" : spaced += letter;
    Ids ids;
    unigram.encode(spaced, ids);
    CHECK(ids == own_ids(model, text));
  }
}

#elif IMPLICIT_ATTENTION_IO_SENTENCEPIECE

TEST_CASE("sentencepiece: files that are no models", "[io]") {
  test_support::data_was_missing() = true;
  WARN("there is no sentencepiece_train to make models with: the ids of sentencepiece's models were not tested");
  const TemporaryFolder folder;
  for (const std::string& bytes : {std::string(), std::string("\x0A\x0E"), std::string("not a model"), std::string(100, '\0')}) {
    write_bytes(folder / "tokenizer.model", bytes);
    const auto error = error_of([&] { (void)Tokenizer::open(".", (folder / "tokenizer.model").string()).encode("a"); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK_THAT(error->message, contains_text("tokenizer.model: "));
  }
}

#else

TEST_CASE("sentencepiece: without its library the error says what to do", "[io]") {
  test_support::data_was_missing() = true;
  WARN("built without sentencepiece (Debian's libsentencepiece-dev): its models were not tested");
  const TemporaryFolder folder;
  write_bytes(folder / "tokenizer.model", "\x0A\x0E");
  const Tokenizer tokenizer = Tokenizer::open(folder.path());
  CHECK(tokenizer.kind() == TokenizerKind::none);
  const auto error = error_of([&] { (void)tokenizer.encode("a"); });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("libsentencepiece-dev"));
  CHECK_THAT(error->message, contains_text("put the model's tokenizer.json beside it"));
}

#endif
