// Text to tokens and labels, for every kind of vocabulary.
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/tokenizer.hpp>

#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

using Ids = std::vector<Index>;
using Texts = std::vector<std::string>;

TEST_CASE("tokenizer: bytes where the vocabulary is 256", "[io]") {
  const TemporaryFolder folder;
  const Tokenizer bytes = Tokenizer::open(folder.path(), 256);
  CHECK(bytes.kind() == TokenizerKind::bytes);
  CHECK(bytes.encode("a\n\xC3\xA9") == Ids{97, 10, 0xC3, 0xA9});
  CHECK(bytes.encode(std::string("\0\xFF", 2)) == Ids{0, 255});  // bytes need not be UTF-8
  CHECK(bytes.labels({97, 32, 10, 9, 13, 0, 0xC3, 127}) == Texts{"a", " ", "\\n", "\\t", "\\r", "\\x00", "\\xC3", "\\x7F"});
  CHECK(bytes.id("\n") == 10);
  CHECK(bytes.id("\\n") == 10);
  CHECK(bytes.id("A") == 65);

  const Tokenizer ids = Tokenizer::open(folder.path(), 50280);
  CHECK(ids.kind() == TokenizerKind::none);
  CHECK(ids.labels({0, 97, 50279}) == Texts{"0", "97", "50279"});
  // What is said once holds whatever was said before.
  Tokenizer later = Tokenizer::open(folder.path(), std::string_view(), Index(256));
  later.fit(300);
  const auto refused = error_of([&] { (void)later.encode("a"); });
  REQUIRE(refused);
  CHECK_THAT(refused->message, contains_text("and the vocabulary is 300, not the 256 of bytes; give token ids"));
  CHECK_FALSE(refused->message.find("vocabulary is 256") != std::string::npos);
  CHECK(Tokenizer::open(folder.path(), 50280, TokenizerKind::bytes).encode("a") == Ids{97});

  write_bytes(folder / "vocab.json", R"({"a": 0, "b": 1})");
  CHECK(Tokenizer::open(folder.path(), 256).encode("ab") == Ids{0, 1});  // vocab.json goes first
  CHECK(Tokenizer::open(folder.path(), 256, TokenizerKind::bytes).encode("ab") == Ids{97, 98});
}

TEST_CASE("tokenizer: symbols where all tokens but special ones are single characters", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "vocab.json", R"({"<cls>": 0, "<cls><cls>": 1, "<unk>": 2, "M": 3, "K": 4,)"
                                     R"( "<": 5, "\u00e9": 6, "\ud83d\ude00": 7, "\n": 8, "c": 9, "<mask-1>": 11})");
  const Tokenizer symbols = Tokenizer::open(folder.path(), 12);
  CHECK(symbols.kind() == TokenizerKind::symbols);
  CHECK(symbols.encode("<cls>MKM") == Ids{0, 3, 4, 3});
  CHECK(symbols.encode("<cls><cls>M<cls>") == Ids{1, 3, 0});  // the longest first
  CHECK(symbols.encode("<<mask-1><c") == Ids{5, 11, 5, 9});
  CHECK(symbols.encode("\xC3\xA9\xF0\x9F\x98\x80") == Ids{6, 7});
  CHECK(symbols.encode("MxK m") == Ids{3, 2, 4, 2, 2});  // unknown symbols, case included
  CHECK(symbols.labels({0, 6, 8, 10, 99}) == Texts{"<cls>", "\xC3\xA9", "\\n", "10", "99"});
  CHECK(symbols.id("<cls>") == 0);
  CHECK(Tokenizer::open(folder.path(), 12, TokenizerKind::words).encode("M <cls>  nothing") == Ids{3, 0, 2});
}

TEST_CASE("tokenizer: words otherwise", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "vocab.json", R"({"<pad>": 0, "<unk>": 1, "<cls>": 2, "negative": 3, "positive": 4,)"
                                     R"( "a": 5, "good": 6, "film": 7, "cr\u00e8me": 8})");
  const Tokenizer words = Tokenizer::open(folder.path(), 9);
  CHECK(words.kind() == TokenizerKind::words);
  CHECK(words.encode("  a good\tfilm\n<cls> ") == Ids{5, 6, 7, 2});
  CHECK(words.encode("a\xC2\xA0good\xE2\x80\x83"
                     "film\xE3\x80\x80"
                     "cr\xC3\xA8me") == Ids{5, 6, 7, 8});   // white space beyond ASCII
  CHECK(words.encode("a Good FILM !") == Ids{5, 6, 7, 1});  // a vocabulary without upper case was made from lower-cased text
  CHECK(words.labels({4, 1}) == Texts{"positive", "<unk>"});

  SECTION("a vocabulary with upper case means what it says") {
    write_bytes(folder / "vocab.json", R"({"<unk>": 1, "Good": 2, "good": 3, "film": 4})");
    CHECK(Tokenizer::open(folder.path(), 5).encode("Good good Film GOOD") == Ids{2, 3, 1, 1});
  }
  SECTION("byte pairs that mark a word's end, or that it goes on, are no words") {
    for (const char* const token : {"film</w>", "fil@@"}) {
      INFO(token);
      write_bytes(folder / "vocab.json", std::string(R"({"<unk>": 0, "a": 1, ")") + token + R"(": 2})");
      const Tokenizer pairs = Tokenizer::open(folder.path(), 3);
      CHECK(pairs.kind() == TokenizerKind::none);
      const auto error = error_of([&] { (void)pairs.encode("a film"); });
      REQUIRE(error);
      CHECK_THAT(error->message, contains_text(std::string("the token \"") + token + "\" in vocab.json means byte pairs"));
    }
  }
  SECTION("special tokens alone are words") {
    write_bytes(folder / "vocab.json", R"({"<unk>": 0, "<cls>": 1})");
    CHECK(Tokenizer::open(folder.path(), 2).kind() == TokenizerKind::words);
  }
}

TEST_CASE("tokenizer: a real vocabulary", "[io]") {
  const auto folder = test_support::shared_data("realdata/protmamba");
  if (!folder) {
    WARN(test_support::shared_data_missing("realdata/protmamba"));
    return;
  }
  const Tokenizer symbols = Tokenizer::open(*folder, 40);  // rows of its embedding
  CHECK(symbols.kind() == TokenizerKind::symbols);
  CHECK(symbols.encode("<cls>MKV<mask-1>-") == Ids{0, 20, 15, 7, 33, 30});
  CHECK(symbols.label(39) == "39");
}
