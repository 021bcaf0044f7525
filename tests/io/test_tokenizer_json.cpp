// tokenizer.json, part by part: what each does to a text, and what is refused.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <support/catch.hpp>

#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/io/tokenizers/hugging_face.hpp>

#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

using Ids = std::vector<Index>;
using Texts = std::vector<std::string>;

namespace {

std::shared_ptr<const detail::TextCodec> codec(const std::string& json) {
  return detail::read_tokenizer_json(*implicit_attention::parse_json_object(json, "tokenizer.json"), "tokenizer.json");
}
Ids ids(const detail::TextCodec& tokenizer, const std::string& text) {
  Ids out;
  tokenizer.encode(text, out);
  return out;
}
Ids ids(const std::string& json, const std::string& text) { return ids(*codec(json), text); }

std::string normalized(const std::string& json, const std::string& text) {
  const Json document = Json::parse(json);
  return detail::Normalizer::read(&document, "normalizer")(text);
}
Texts pieces(const std::string& json, const std::string& text) {
  const Json document = Json::parse(json);
  detail::Pieces all;
  all.list.push_back({text, detail::code_point_at(text, 0).length});
  detail::PreTokenizer::read(&document, "pre_tokenizer")(all);
  Texts texts;
  for (const detail::Piece& piece : all.list) texts.emplace_back(piece.text);
  return texts;
}
std::string decoded(const std::string& json, const Texts& tokens) {
  const Json document = Json::parse(json);
  return detail::Decoder::read(&document, "decoder")(tokens);
}

/// Llama-2's layout: 0 <unk>, 1 <s>, 2 </s>, the bytes from 3, then what is given.
std::string byte_fallback(const std::string& tokens, const std::string& merges) {
  std::string vocab = R"("<unk>":0,"<s>":1,"</s>":2)";
  for (unsigned byte = 0; byte < 256; ++byte)
    vocab += ",\"" + detail::byte_token(static_cast<unsigned char>(byte)) + "\":" + std::to_string(byte + 3);
  return R"({"added_tokens":[{"id":0,"content":"<unk>","special":true,"normalized":false},
    {"id":1,"content":"<s>","special":true,"normalized":false}],
    "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
      {"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
    "pre_tokenizer":null,
    "post_processor":{"type":"TemplateProcessing",
      "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
      "pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}},
    "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},
      {"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
    "model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{)" +
         vocab + "," + tokens + R"(},"merges":[)" + merges + "]}}";
}

}  // namespace

TEST_CASE("tokenizer.json: byte pairs merge in the order they were learnt in", "[io]") {
  const std::string vocab = R"("vocab":{"a":0,"b":1,"c":2,"ab":3,"bc":4,"abc":5,"aa":6,"<unk>":7})";
  // "b c" was learnt before "a b": a bc, which no merge joins.
  CHECK(ids(R"({"model":{"type":"BPE",)" + vocab + R"(,"merges":["b c","a b"]}})", "abc") == Ids{0, 4});
  CHECK(ids(R"({"model":{"type":"BPE",)" + vocab + R"(,"merges":["a b","b c","ab c"]}})", "abcab") == Ids{5, 3});
  CHECK(ids(R"({"model":{"type":"BPE",)" + vocab + R"(,"merges":[["a","b"],["ab","c"]]}})", "abc") == Ids{5});
  CHECK(ids(R"({"model":{)" + vocab + R"(,"merges":["a a"]}})", "aaaaa") == Ids{6, 6, 0});  // the leftmost first; no type
  // Merges are not looked at where the word is a token.
  CHECK(ids(R"({"model":{"type":"BPE","ignore_merges":true,)" + vocab + R"(,"merges":["b c"]}})", "abc") == Ids{5});
  CHECK(ids(R"({"model":{"type":"BPE","ignore_merges":true,)" + vocab + R"(,"merges":["b c"]}})", "abcb") == Ids{0, 4, 1});
  // In a word so long that it is cut where no merge reaches over, parts that are tokens are no words.
  Ids parts(70, 2);
  parts.insert(parts.end(), {0, 4});
  CHECK(ids(R"({"model":{"type":"BPE","ignore_merges":true,)" + vocab + R"(,"merges":["b c","a b"]}})", std::string(70, 'c') + "abc") ==
        parts);

  CHECK(ids(R"({"model":{"type":"BPE","unk_token":"<unk>",)" + vocab + R"(,"merges":[]}})", "axyb") == Ids{0, 7, 7, 1});
  CHECK(ids(R"({"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,)" + vocab + R"(,"merges":[]}})", "axyb") == Ids{0, 7, 1});
  const auto error = error_of([&] { (void)ids(R"({"model":{"type":"BPE",)" + vocab + R"(,"merges":[]}})", "ax"); });
  REQUIRE(error);
  CHECK(error->kind == ErrorKind::value);
  CHECK(error->message == "tokenizer.json: model: \"x\" is not a token of the vocabulary, and there is none for what is unknown");

  SECTION("marks inside of words and at their ends") {
    const std::string start = R"({"pre_tokenizer":{"type":"WhitespaceSplit"},"model":{"type":"BPE",)";
    CHECK(ids(start + R"("continuing_subword_prefix":"##","vocab":{"a":0,"##b":1,"##c":2,"ab":3,"##bc":4},"merges":["a ##b"]}})",
              "abc a") == Ids{3, 2, 0});
    CHECK(ids(start + R"("end_of_word_suffix":"</w>","vocab":{"a":0,"b":1,"b</w>":2,"a</w>":3,"ab</w>":4},"merges":["a b</w>"]}})",
              "ab ba") == Ids{4, 1, 3});
  }
}

TEST_CASE("tokenizer.json: long words give what merging the whole of them by hand gives", "[io]") {
  // Random merges over a few letters and an unknown one; texts long enough to be cut where no merge can reach over.
  std::mt19937 random(11);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::string> tokens{"a", "b", "c", "_", "\u00e9"};
    std::vector<std::pair<std::string, std::string>> merges;
    while (merges.size() < 12) {
      const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
      if (std::find(tokens.begin(), tokens.end(), left + right) != tokens.end()) continue;
      merges.emplace_back(left, right);
      tokens.push_back(left + right);
    }
    Json model{{"type", "BPE"}, {"unk_token", "?"}, {"fuse_unk", round % 2 == 0}, {"vocab", {{"?", 0}}}, {"merges", Json::array()}};
    for (std::size_t k = 0; k < tokens.size(); ++k) model["vocab"][tokens[k]] = k + 1;
    for (const auto& [left, right] : merges) model["merges"].push_back({left, right});
    const auto tokenizer = codec(Json{{"model", model}}.dump());

    std::string text;
    std::vector<std::string> symbols;
    for (int k = 0; k < 200; ++k) {
      const std::vector<std::string> letters{"a", "b", "c", "_", "\u00e9", "z"};
      const std::string letter = letters[random() % 20 == 0 ? 5 : random() % 5];
      text += letter;
      if (letter != "z" || symbols.empty() || symbols.back() != "?" || round % 2 != 0) symbols.push_back(letter == "z" ? "?" : letter);
    }
    for (const auto& [left, right] : merges)  // a merge makes no pair that an earlier one joins, so one after the other will do
      for (std::size_t k = 0; k + 1 < symbols.size(); ++k)
        if (symbols[k] == left && symbols[k + 1] == right) {
          symbols[k] += right;
          symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(k) + 1);
        }
    Ids expected;
    for (const std::string& symbol : symbols) expected.push_back(symbol == "?" ? 0 : model["vocab"][symbol].get<Index>());
    INFO(text);
    CHECK(ids(*tokenizer, text) == expected);
  }
}

TEST_CASE("tokenizer.json: byte fallback with a metaspace", "[io]") {
  const auto tokenizer = codec(byte_fallback(R"("▁":259,"h":260,"i":261,"▁h":262,"▁hi":263)", R"(["▁","h"],["▁h","i"])"));
  CHECK(ids(*tokenizer, "hi hi") == Ids{263, 263});
  CHECK(ids(*tokenizer, "h\xC3\xA9") == Ids{262, 3 + 0xC3, 3 + 0xA9});
  CHECK(ids(*tokenizer, "") == Ids{});
  CHECK(ids(*tokenizer, "hi<s>hi") == Ids{263, 1, 263});  // text behind a special token is normalized by itself
  CHECK(ids(*tokenizer, "h\xFFi") == Ids{262, 3 + 0xFF, 259, 261});
  CHECK(tokenizer->before() == Ids{1});
  CHECK(tokenizer->after().empty());
  CHECK(tokenizer->decode({263, 263, 3 + 0xC3, 3 + 0xA9}) == "hi hi\xC3\xA9");
  CHECK(tokenizer->find(" hi") == 263);
  CHECK(tokenizer->find("\xE2\x96\x81hi") == 263);
  CHECK(tokenizer->find("<s>") == 1);
  CHECK(tokenizer->find("h") == 260);
  CHECK(tokenizer->find("z") == 3 + 'z');
  CHECK_FALSE(tokenizer->find("zz"));
}

TEST_CASE("tokenizer.json: Unigram takes the likeliest way", "[io]") {
  const auto model = [](const std::string& more) {
    return R"({"model":{"type":"Unigram",)" + more +
           R"("vocab":[["<unk>",0],["a",-1],["b",-1.5],["ab",-2],["bc",-2.2],["c",-3],["<0xC3>",-9],["<0xA9>",-9]]}})";
  };
  // a bc: -3.2; ab c: -5; a b c: -5.5
  CHECK(ids(model(R"("unk_id":0,)"), "abc") == Ids{1, 4});
  CHECK(ids(model(R"("unk_id":0,)"), "ab") == Ids{3});          // -2 against -2.5
  CHECK(ids(model(R"("unk_id":0,)"), "axyb") == Ids{1, 0, 2});  // what is unknown in a row is one
  CHECK(ids(model(R"("unk_id":0,"byte_fallback":true,)"), "a\xC3\xA9") == Ids{1, 6, 7});
  CHECK(ids(model(R"("unk_id":0,"byte_fallback":true,)"), "ax") == Ids{1, 0});  // no token for that byte
  CHECK(error_of([&] { (void)ids(model(""), "ax"); }));
  // The unknown token's own text is unknown text.
  CHECK(ids(model(R"("unk_id":0,)"), "x<unk>a") == Ids{0, 1});
  CHECK(ids(model(R"("unk_id":0,"byte_fallback":true,)"), "a<unk>") == Ids{1, 0});
  // A way that is found later is taken if it is better, and what is unknown costs 10 more than the worst token.
  const auto small = [](const std::string& vocabulary) {
    return R"({"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",1],)" + vocabulary + "]}}";
  };
  CHECK(ids(small(R"(["a",-1],["b",-1.5],["ab",-4])"), "ab") == Ids{1, 2});
  CHECK(ids(small(R"(["xy",1])"), "xy") == Ids{1});
  CHECK(ids(small(R"(["xy",0.5])"), "xyz") == Ids{1, 0});
  // Of two ways that are as likely the one that is met first, as the public code takes it: what is unknown is one number to add.
  CHECK(ids(small(R"(["cc",-2.55],["w",-7.64])"), "ccc") == Ids{0, 1});
}

TEST_CASE("tokenizer.json: single words", "[io]") {
  const std::string json =
      R"({"pre_tokenizer":{"type":"Whitespace"},"model":{"type":"WordLevel","unk_token":"?","vocab":{"?":0,"cat":1,"!":2}}})";
  CHECK(ids(json, "cat dog!") == Ids{1, 0, 2});
  CHECK(codec(json)->decode({1, 2}) == "cat !");  // without a decoder: a space between
}

TEST_CASE("tokenizer.json: steps that write far more than they read are named", "[io]") {
  const auto doubled = [](const std::string& kind, int times) {  // each step's text is twice as long
    std::string steps;
    for (int k = 0; k < times; ++k)
      steps += std::string(k == 0 ? "" : ",") + R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"})";
    return R"({"type":"Sequence",")" + kind + R"(":[)" + steps + "]}";
  };
  CHECK(normalized(doubled("normalizers", 6), std::string(1000, 'a')).size() == 64000);
  CHECK(normalized(doubled("normalizers", 12), "a").size() == 4096);
  CHECK(decoded(doubled("decoders", 12), {"a"}).size() == 4096);
  const std::string grows = "[12] (Replace): the text grows beyond ";
  CHECK_THROWS_WITH(normalized(doubled("normalizers", 60), "a"),
                    contains_text("normalizer.normalizers" + grows + "4160 bytes, 64 for each"));
  CHECK_THROWS_WITH(decoded(doubled("decoders", 60), {"a"}), contains_text("decoder.decoders" + grows + "4224 bytes"));
  CHECK_THROWS_WITH(decoded(doubled("decoders", 60), Texts(100, "a")),
                    contains_text("decoder.decoders[7] (Replace): the text grows beyond 16896"));
  CHECK_THROWS_WITH(codec(R"({"decoder":)" + doubled("decoders", 60) + R"(,"model":{"type":"WordLevel","unk_token":"a","vocab":{"a":0}}})"),
                    contains_text("decoder.decoders" + grows + "4160 bytes"));
  std::string bytes;
  for (int k = 0; k < 40; ++k) bytes += std::string(k == 0 ? "" : ",") + R"({"type":"ByteLevel"})";
  CHECK_THROWS_WITH(normalized(R"({"type":"Sequence","normalizers":[)" + bytes + "]}", "\xC3\xA9"),
                    contains_text("(ByteLevel): the text grows beyond 4224 bytes"));
  CHECK_THROWS_WITH(pieces(R"({"type":"Sequence","pretokenizers":[)" + bytes + "]}", "\xC3\xA9"),
                    contains_text("(ByteLevel): the text grows beyond 4224 bytes"));
  CHECK_THROWS_WITH(pieces(R"({"type":"Metaspace","replacement":"  "})", "a b"), contains_text("replacement"));
  // Unicode's largest compatibility form, in an alphabet of bytes.
  CHECK_NOTHROW(normalized(R"({"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"ByteLevel"}]})", [] {
    std::string many;
    for (int k = 0; k < 1000; ++k) many += "\xEF\xB7\xBA";
    return many;
  }()));
}

TEST_CASE("tokenizer.json: normalizers", "[io]") {
  CHECK(normalized(R"({"type":"NFC"})", "e\xCC\x81") == "\xC3\xA9");
  CHECK(normalized(R"({"type":"NFD"})", "\xC3\xA9") == "e\xCC\x81");
  CHECK(normalized(R"({"type":"NFKC"})", "\xEF\xAC\x81\xC2\xBD") ==
        "fi1\xE2\x81\x84"
        "2");
  CHECK(normalized(R"({"type":"NFKD"})", "\xC7\x84") == "DZ\xCC\x8C");
  CHECK(normalized(R"({"type":"NFC"})", std::string("e\0\xCC\x81", 4)) == std::string("e\0\xCC\x81", 4));  // NUL is a character
  CHECK(normalized(R"({"type":"Lowercase"})", "\xC3\x89Z\xC4\xB0\xCE\xA3") == "\xC3\xA9zi\xCC\x87\xCF\x83");
  CHECK(normalized(R"({"type":"StripAccents"})", "e\xCC\x81!") == "e!");
  CHECK(normalized(R"({"type":"Strip"})",
                   " \t\xC2\xA0"
                   "a b\n") == "a b");
  CHECK(normalized(R"({"type":"Strip","strip_left":false,"strip_right":true})", " a ") == " a");
  CHECK(normalized(R"({"type":"Prepend","prepend":"_"})", "a") == "_a");
  CHECK(normalized(R"({"type":"Prepend","prepend":"_"})", "").empty());
  CHECK(normalized(R"({"type":"Replace","pattern":{"String":"."},"content":"!"})", "a.b") == "a!b");
  CHECK(normalized(R"({"type":"Replace","pattern":{"Regex":" {2,}"},"content":"_"})", "a  b c   ") == "a_b c_");
  // An empty match is replaced too, but not where the match before it ended.
  CHECK(normalized(R"({"type":"Replace","pattern":{"Regex":"^"},"content":"_"})", "ab") == "_ab");
  CHECK(normalized(R"({"type":"Replace","pattern":{"Regex":"$"},"content":"_"})", "ab") == "ab_");
  CHECK(normalized(R"({"type":"Replace","pattern":{"Regex":"^"},"content":"_"})", "").empty());
  CHECK(normalized(R"({"type":"Sequence","normalizers":[{"type":"Strip"},{"type":"Replace","pattern":{"Regex":"^"},"content":"_"}]})", "  ")
            .empty());
  CHECK(normalized(R"({"type":"Replace","pattern":{"Regex":"x*"},"content":"-"})", "abxxc d") == "-a-b-c- -d-");
  CHECK(normalized(R"({"type":"Replace","pattern":{"String":""},"content":"-"})", "ab\xC3\xA9") == "-a-b-\xC3\xA9-");
  CHECK(normalized(R"({"type":"Sequence","normalizers":[{"type":"NFD"},{"type":"StripAccents"},{"type":"Lowercase"}]})", "\xC3\x89") ==
        "e");
}

TEST_CASE("tokenizer.json: pre-tokenizers", "[io]") {
  CHECK(pieces(R"({"type":"ByteLevel","add_prefix_space":false})", "It's  42 caf\xC3\xA9!\n") == Texts{"It", "'s", "\xC4\xA0",
                                                                                                       "\xC4\xA0"
                                                                                                       "42",
                                                                                                       "\xC4\xA0"
                                                                                                       "caf\xC3\x83\xC2\xA9",
                                                                                                       "!", "\xC4\x8A"});
  CHECK(pieces(R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":false})", "a b") == Texts{"\xC4\xA0"
                                                                                                    "a\xC4\xA0"
                                                                                                    "b"});
  CHECK(pieces(R"({"type":"ByteLevel"})", " a") == Texts{"\xC4\xA0"
                                                         "a"});  // a space is there

  const auto split = [](const std::string& behaviour, const std::string& more = "") {
    return R"({"type":"Split","pattern":{"String":"-"},"behavior":")" + behaviour + "\"" + more + "}";
  };
  // The example of the tokenizers library's documentation.
  const std::string text = "the-final--countdown";
  CHECK(pieces(split("Removed"), text) == Texts{"the", "final", "countdown"});
  CHECK(pieces(split("Isolated"), text) == Texts{"the", "-", "final", "-", "-", "countdown"});
  CHECK(pieces(split("MergedWithPrevious"), text) == Texts{"the-", "final-", "-", "countdown"});
  CHECK(pieces(split("MergedWithNext"), text) == Texts{"the", "-final", "-", "-countdown"});
  CHECK(pieces(split("Contiguous"), text) == Texts{"the", "-", "final", "--", "countdown"});
  CHECK(pieces(split("Removed", R"(,"invert":true)"), text) == Texts{"-", "-", "-"});
  CHECK(pieces(R"({"type":"Split","pattern":{"Regex":"\\d{1,3}"},"behavior":"Isolated"})", "a12345b") == Texts{"a", "123", "45", "b"});
  CHECK(pieces(R"j({"type":"Split","pattern":{"Regex":"(?=[A-Z])"},"behavior":"Contiguous"})j", "aBCd") == Texts{"a", "B", "Cd"});
  // An empty match ends a piece.
  CHECK(pieces(R"j({"type":"Split","pattern":{"Regex":"(?=(\\d{3})+(?!\\d))"},"behavior":"Isolated"})j", "1234567") ==
        Texts{"1", "234", "567"});

  CHECK(pieces(R"({"type":"Digits","individual_digits":true})", "a12\xC2\xBD") == Texts{"a", "1", "2", "\xC2\xBD"});
  CHECK(pieces(R"({"type":"Digits","individual_digits":false})", "a12b") == Texts{"a", "12", "b"});
  CHECK(pieces(R"({"type":"Punctuation"})", "a!?$b\xE2\x80\x94") == Texts{"a", "!", "?", "$", "b", "\xE2\x80\x94"});
  CHECK(pieces(R"({"type":"Punctuation","behavior":"Contiguous"})", "a!?b") == Texts{"a", "!?", "b"});
  CHECK(pieces(R"({"type":"WhitespaceSplit"})",
               " a\xE3\x80\x80"
               "b!\t") == Texts{"a", "b!"});
  CHECK(pieces(R"({"type":"Whitespace"})", "a_1 b!? \xC3\xA9") == Texts{"a_1", "b", "!?", "\xC3\xA9"});

  const std::string mark = "\xE2\x96\x81";
  CHECK(pieces(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"always"})", "a  b") == Texts{mark + "a", mark, mark + "b"});
  CHECK(pieces(R"({"type":"Metaspace","replacement":"▁","add_prefix_space":false})", "a b") == Texts{"a", mark + "b"});
  CHECK(pieces(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":false})", "a b") ==
        Texts{mark + "a" + mark + "b"});
  CHECK(
      pieces(
          R"({"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"}]})",
          "a b") == Texts{mark + "a", "b"});
  CHECK(
      pieces(
          R"({"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"}]})",
          "a b") == Texts{mark + "a", mark + "b"});
}

TEST_CASE("tokenizer.json: regular expressions read as Oniguruma does", "[io]") {
  using detail::pcre2_pattern;
  const auto first = [](const std::string& pattern, const std::string& text) {
    const detail::Regex regex(pattern, "here");
    detail::Regex::Scratch scratch(regex);
    const auto found = regex.find(text, 0, scratch);
    return found ? text.substr(found->begin, found->end - found->begin) : std::string("none");
  };
  CHECK(first(R"(\s)", "\xE1\xA0\x8E") == "none");  // U+180E is no white space
  CHECK(first(R"([^\s]+)",
              "\xC2\x85"
              "a") == "a");  // U+0085 is
  CHECK(first(R"(\w+)", "a\xCC\x81\xE2\x80\xBF-") == "a\xCC\x81\xE2\x80\xBF");
  CHECK(first(R"(\w+)", "a\u00bd\u200db") == "a\u00bd");  // a fraction is of words, a joiner is not
  CHECK(first(R"(e.?\b)", "e\xCC\x81x") == "none");       // no word ends before an accent
  CHECK(first(R"(e\B.)", "e\xCC\x81x") == "e\xCC\x81");
  CHECK(first(R"(\b.)", " b") == "b");
  CHECK(first(R"([[:alpha:]]+)", "1a\u0345\u24b6.") == "a\u0345\u24b6");       // Alphabetic
  CHECK(first(R"([[:punct:]]+)", "a$\u00a2!b") == "$\u00a2!");                 // symbols too
  CHECK(first(R"(\p{Han}+)", "a\xE6\xBC\xA2\xE3\x80\x82") == "\xE6\xBC\xA2");  // not the full stop, which Chinese shares
  CHECK(first(R"([^(\s|[.,!])]+)", "(a.b") == "a");                            // a set in a set
  CHECK(first(R"([]a]+)", "b]a") == "]a");
  CHECK(first(R"((?i:'S))", "it's") == "'s");
  // An intersection of sets, as in the pattern of Kimi's models.
  CHECK(first(R"([\p{L}\p{M}&&[^\p{Han}]]+)",
              "\xE6\xBC\xA2"
              "ae\xCC\x81\xE6\xBC\xA2") == "ae\xCC\x81");
  CHECK(first(R"(.[\w&&[b-d]]{2})", "abcd") == "abc");
  for (const std::string bad : {"[^a&&[b]]", "[a&&b]", "[a&&[b[c]]]", "[a&&[b]c]", "[a[^b]]", "(", "[a", R"([\W])"}) {
    INFO(bad);
    const auto error = error_of([&] { (void)first(bad, "a"); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK(error->message.find("here: regular expression \"" + bad) == 0);
  }
  const auto slow = error_of([&] { (void)first("(a+a+)+(b|c)", std::string(5000, 'a')); });
  REQUIRE(slow);
  CHECK(slow->kind == ErrorKind::limit);
  CHECK_THAT(slow->message, contains_text("cannot be matched against this text: it takes more than 20000000 steps"));
}

TEST_CASE("tokenizer.json: added tokens", "[io]") {
  const auto json = [](const std::string& added, const std::string& more = "") {
    return R"({"added_tokens":[)" + added + "]," + more +
           R"("model":{"type":"BPE","unk_token":"?","vocab":{"?":0,"a":1,"b":2," ":3},"merges":[]}})";
  };
  CHECK(ids(json(R"({"id":9,"content":"<m>"})"), "a<m>b") == Ids{1, 9, 2});
  CHECK(ids(json(R"({"id":9,"content":"<m>"},{"id":8,"content":"<m><m>"})"), "<m><m><m>") == Ids{8, 9});  // the longest
  CHECK(ids(json(R"({"id":9,"content":"<m>"})"), "a <m> b") == Ids{1, 3, 9, 3, 2});
  CHECK(ids(json(R"({"id":9,"content":"<m>","lstrip":true})"), "a  <m> b") == Ids{1, 9, 3, 2});
  CHECK(ids(json(R"({"id":9,"content":"<m>","rstrip":true})"), "a <m>\n b") == Ids{1, 3, 9, 2});
  CHECK(ids(json(R"({"id":9,"content":"ab","single_word":true})"), "ab aba ab") == Ids{9, 3, 1, 2, 1, 3, 9});
  // White space that a token took does not hide a token that begins in it (Hugging Face's library finds all matches first).
  CHECK(ids(json(R"({"id":9,"content":" b","rstrip":true})"), "a b  b") == Ids{1, 9, 9});
  // A token of white space that takes what stands before it is not there where that was taken.
  CHECK(ids(json(R"({"id":9,"content":"\n","lstrip":true,"rstrip":true})"), "a\n\n\nb") == Ids{1, 9, 2});
  CHECK(ids(json(R"({"id":9,"content":"<m>","rstrip":true},{"id":8,"content":"\n","lstrip":true})"), "a<m> \nb") == Ids{1, 9, 2});
  // Normalized tokens are found in normalized text, others in the text as it is.
  const std::string lower = R"("normalizer":{"type":"Lowercase"},)";
  CHECK(ids(json(R"({"id":9,"content":"<M>","normalized":true})", lower), "<m>A<M>") == Ids{9, 1, 9});
  CHECK(ids(json(R"({"id":9,"content":"<M>","normalized":false})", lower), "<m>A<M>") == Ids{0, 0, 0, 1, 9});
  CHECK(ids(json(R"({"id":9,"content":"<M>","special":true})", lower), "<M>") == Ids{9});
  const auto taken = error_of([&] { (void)codec(json(R"({"id":1,"content":"<m>"})")); });
  REQUIRE(taken);
  CHECK(taken->message == "tokenizer.json: the added token \"<m>\" has id 1, but the vocabulary has \"a\" there");
}

TEST_CASE("tokenizer.json: what goes before and after", "[io]") {
  const std::string model = R"("model":{"type":"BPE","vocab":{"a":1},"merges":[]}})";
  const std::string both =
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"B","type_id":0}},{"Sequence":{"id":"A","type_id":0}},
    {"SpecialToken":{"id":"E","type_id":0}}],"pair":[{"Sequence":{"id":"B","type_id":0}}],
    "special_tokens":{"B":{"id":"B","ids":[7,8],"tokens":["x","y"]},"E":{"id":"E","ids":[9],"tokens":["z"]}}})";
  const auto tokenizer =
      codec(R"({"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel","trim_offsets":false},)" + both + "]}," + model);
  CHECK(tokenizer->before() == Ids{7, 8});
  CHECK(tokenizer->after() == Ids{9});
}

TEST_CASE("tokenizer.json: decoders", "[io]") {
  CHECK(decoded(R"({"type":"ByteLevel"})", {"\xC4\xA0"
                                            "a",
                                            "\xC3\x83", "\xC2\xA9", "  "}) == " a\xC3\xA9  ");
  CHECK(decoded(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"always"})", {"▁a", "▁b"}) == "a b");
  CHECK(decoded(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"never"})", {"▁a", "▁b"}) == " a b");
  CHECK(decoded(R"({"type":"ByteFallback"})", {"<0xC3>", "<0xA9>", "<0x>"}) == "\xC3\xA9<0x>");
  CHECK(decoded(R"({"type":"Strip","content":"_","start":1,"stop":2})", {"__a___"}) == "_a_");
  // What follows is what Hugging Face's library (0.22.2) gives.
  CHECK(decoded(R"({"type":"BPEDecoder","suffix":"</w>"})", {"a", "b</w>", "b</w>", "c c"}) == "ab b c c");
  CHECK(decoded(R"({"type":"BPEDecoder"})", {"a</w>", "b</w>"}) == "a b");
  const Texts spoken{"a", "a", "<pad>", "a", "|", "|", "<pad>", "|", ".", " .", "b<pad>", "<pad>"};
  CHECK(decoded(R"({"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":true})", spoken) == "aa  ..b");
  CHECK(decoded(R"({"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":false})", spoken) == "aa||. .b");
  // A metaspace alone is the start's, and no space of the token; bytes in a row are one text.
  CHECK(decoded(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"always"})", {" a", "▁b"}) == " a b");
  CHECK(decoded(R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"WordPiece","prefix":"##","cleanup":false}]})",
                {"<0xC3>", "<0xA9>", "a", "<0x41>"}) == "\xC3\xA9 a A");
  CHECK(decoded(R"({"type":"Sequence","decoders":[{"type":"ByteLevel"},{"type":"WordPiece","prefix":"##","cleanup":false}]})",
                {"a", "b"}) == "ab");
  CHECK(decoded(R"({"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"_"},"content":" "},{"type":"Fuse"},
    {"type":"Strip","content":" ","start":1,"stop":0}]})",
                {"_a", "_b"}) == "a b");
}

namespace {

/// A map of characters as sentencepiece writes one: a double array whose units hold a label (bits 0 to 7), whether a word ends (8), and the
/// distance to its children (from 10), found by trying; a child stands at its parent's place, moved by the distance, moved by its byte.
std::string character_map(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string texts;
  std::vector<std::uint32_t> units(1, 0);
  std::vector<bool> taken(1, true);
  struct Node {
    std::size_t place;
    std::string prefix;
  };
  std::vector<Node> waiting{{0, ""}};
  for (std::size_t next = 0; next < waiting.size(); ++next) {
    const Node node = waiting[next];
    std::vector<unsigned> children;  // 0: a word ends here, and the child is its value
    std::size_t value = 0;
    for (const auto& [from, to] : entries) {
      if (from.size() < node.prefix.size() || from.compare(0, node.prefix.size(), node.prefix) != 0) continue;
      const unsigned child = from.size() == node.prefix.size() ? 0 : static_cast<unsigned char>(from[node.prefix.size()]);
      if (std::find(children.begin(), children.end(), child) == children.end()) children.push_back(child);
      if (child == 0) {
        value = texts.size();
        texts += to + '\0';
      }
    }
    if (children.empty()) continue;
    std::size_t distance = 1;
    const auto free = [&] {
      return std::all_of(children.begin(), children.end(), [&](unsigned child) {
        const std::size_t place = node.place ^ distance ^ child;
        return place >= taken.size() || !taken[place];
      });
    };
    while (!free()) ++distance;
    units[node.place] |= static_cast<std::uint32_t>(distance) << 10U;
    for (const unsigned child : children) {
      const std::size_t place = node.place ^ distance ^ child;
      if (place >= units.size()) {
        units.resize(place + 1, 0);
        taken.resize(place + 1, false);
      }
      taken[place] = true;
      units[place] = child == 0 ? 0x8000'0000U | static_cast<std::uint32_t>(value) : child;
      if (child == 0)
        units[node.place] |= 1U << 8U;
      else
        waiting.push_back({place, node.prefix + static_cast<char>(child)});
    }
  }
  units.resize((units.size() + 255) / 256 * 256 + 256, 0);
  std::string bytes = bytes_of<std::uint32_t>({static_cast<std::uint32_t>(4 * units.size())});
  bytes.append(reinterpret_cast<const char*>(units.data()), 4 * units.size());
  return bytes + texts;
}

std::string base64(const std::string& bytes) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t three = 0;
    for (std::size_t k = 0; k < 3; ++k)
      three = three << 8U | (i + k < bytes.size() ? static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i + k])) : 0U);
    for (std::size_t k = 0; k < 4; ++k) text += i + k > bytes.size() ? '=' : digits[three >> (18 - 6 * k) & 63U];
  }
  return text;
}

}  // namespace

TEST_CASE("tokenizer.json: a precompiled map of characters", "[io]") {
  for (const std::string& bytes : {std::string("\0\xFF\x10", 3), std::string("ab"), std::string("a"), std::string()})
    CHECK(detail::base64_bytes(base64(bytes)) == bytes);
  for (const std::string bad : {"A", "AB", "ABC", "AB=C", "A===", "AB==CD==", "QQ=", "QR==", "Q\nQ=", "Q Q="})
    CHECK_FALSE(detail::base64_bytes(bad));

  const std::string map = character_map({{"\u2460", "1"},        // a circled digit
                                         {"\uFB01", "fi"},       // a ligature
                                         {"\t", " "},            // white space
                                         {"\u200B", ""},         // nothing at all
                                         {"e\u0301", "\u00E9"},  // two characters of one cluster
                                         {"\u00BD", "1/2"},      // longer than it was
                                         {"\u0301", "'"}});      // a mark by itself
  const std::string json = R"({"type":"Precompiled","precompiled_charsmap":")" + base64(map) + "\"}";
  CHECK(normalized(json, "") == "");
  CHECK(normalized(json, "plain") == "plain");
  CHECK(normalized(json, "\u2460 \uFB01n\td\u200Be") == "1 fin de");
  CHECK(normalized(json, "cafe\u0301") == "caf\u00E9");
  CHECK(normalized(json, "a\u0301\u00BD") == "a'1/2");
  CHECK(normalized(json, "\u2461\u0301") == "\u2461'");
  // Of a cluster of less than six bytes the shortest entry decides for all of it, as Hugging Face has it; a longer one goes by characters.
  const std::string shortest = character_map({{"e", "E"}, {"e\u0301", "\u00E9"}});
  const std::string short_json = R"({"type":"Precompiled","precompiled_charsmap":")" + base64(shortest) + "\"}";
  CHECK(normalized(short_json, "e\u0301") == "E");
  CHECK(normalized(short_json, "e\u0301\u0301\u0301") == "E\u0301\u0301\u0301");
  CHECK(normalized(json, std::string("a\0b", 3)) == std::string("a\0b", 3));

  SECTION("as a part of Unigram, as T5 has it") {
    const std::string whole = R"({"normalizer":)" + json + R"(,
      "pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"},
      "decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"},
      "model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["▁",-2],["▁fi",-1],["n",-3],["1",-2.5]]}})";
    const auto tokenizer = codec(whole);
    CHECK(ids(*tokenizer, "\uFB01n\u2460") == Ids{2, 3, 4});
    CHECK(tokenizer->decode({2, 3, 4}) == "fin1");
  }
  SECTION("a damaged trie is an error, never a read beyond it") {
    std::mt19937 random(7);
    int errors = 0;
    for (int round = 0; round < 20000; ++round) {
      std::string bytes = map;
      for (int change = 0; change < 3; ++change) bytes[4 + random() % (bytes.size() - 4)] = static_cast<char>(random());
      if (random() % 4 == 0) {  // a trie that is cut short, and says so
        const auto size = static_cast<std::uint32_t>(4 * (1 + random() % 64));
        bytes = bytes_of<std::uint32_t>({size}) + bytes.substr(4, size);
      }
      const auto error = error_of([&] {
        const detail::CharacterMap damaged(bytes, "made");
        const std::string out = damaged("\u2460\uFB01n\td\u200Be e\u0301\u00BD");
        CHECK(utf8_error(out) == std::string::npos);
      });
      if (!error) continue;
      ++errors;
      CHECK(error->kind == ErrorKind::file);
      CHECK(error->message.find("made: ") == 0);
    }
    CHECK(errors > 500);
  }
}

TEST_CASE("tokenizer.json: WordPiece, as BERT has it", "[io]") {
  const std::string json = R"({"added_tokens":[{"id":0,"content":"[PAD]","special":true},{"id":2,"content":"[CLS]","special":true},
      {"id":3,"content":"[SEP]","special":true}],
    "normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
    "pre_tokenizer":{"type":"BertPreTokenizer"},
    "post_processor":{"type":"BertProcessing","cls":["[CLS]",2],"sep":["[SEP]",3]},
    "decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
    "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":12,
      "vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"un":4,"##aff":5,"##able":6,"the":7,"##a":8,"cafe":9,"!":10,",":11,"\u4E2D":12,
        "\u56FD":13,"##\u00DF":14,"a":15,"u":16,"##n":17,"'":18,"s":19}}})";
  const auto tokenizer = codec(json);
  CHECK(ids(*tokenizer, "unaffable") == Ids{4, 5, 6});  // the paper's word
  CHECK(ids(*tokenizer, "The CAFÉ, the caf\u0065\u0301!") == Ids{7, 9, 11, 7, 9, 10});
  CHECK(ids(*tokenizer, "unaffably") == Ids{1});  // one unknown piece: all of the word
  CHECK(ids(*tokenizer, "\u4E2D\u56FD") == Ids{12, 13});
  CHECK(ids(*tokenizer, "a\u00DF") == Ids{15, 14});
  CHECK(ids(*tokenizer, "the\tthe\r\n the\u00A0the") == Ids{7, 7, 7, 7});
  CHECK(ids(*tokenizer, "th\u200De\uFFFD") == Ids{7});  // what Unicode calls other goes
  CHECK(ids(*tokenizer, "aaaaaaaaaaaa").size() == 12);  // twelve characters are the most
  CHECK(ids(*tokenizer, "aaaaaaaaaaaaa") == Ids{1});
  CHECK(ids(*tokenizer, "[CLS]the[SEP]") == Ids{2, 7, 3});  // marks in the text
  CHECK(tokenizer->before() == Ids{2});
  CHECK(tokenizer->after() == Ids{3});
  CHECK(tokenizer->decode({7, 4, 5, 6, 11, 9, 10}) == "the unaffable, cafe!");
  CHECK(tokenizer->decode({7, 18, 19}) == "the ' s");
  CHECK(tokenizer->bytes(6) == "able");
  CHECK(tokenizer->bytes(7) == " the");
  CHECK(tokenizer->find(" the") == Index(7));
  CHECK(tokenizer->find("the") == Index(7));
  CHECK(tokenizer->find("##able") == Index(6));
  CHECK(tokenizer->special(2));

  CHECK(normalized(R"({"type":"BertNormalizer"})", "a\u0378\uE000\u00ADb") ==
        "a\u0378"
        "b");  // what is not assigned stays
  CHECK(normalized(R"({"type":"BertNormalizer","lowercase":false})", "ÀB\u4E2Dc") == "ÀB \u4E2D c");
  CHECK(normalized(R"({"type":"BertNormalizer","lowercase":false,"strip_accents":true,"handle_chinese_chars":false})", "ÀB\u4E2D\x01") ==
        "AB\u4E2D");
  CHECK(normalized(R"({"type":"BertNormalizer","clean_text":false,"strip_accents":false})", "À\tB") == "à\tb");
  CHECK(pieces(R"({"type":"BertPreTokenizer"})", "it's  a-b $5") == Texts{"it", "'", "s", "a", "-", "b", "$", "5"});
  CHECK(decoded(R"({"type":"WordPiece","prefix":"##","cleanup":false})", {"##uelo", "Ara", "##\u00FAj", "##o", "No", "##guera", "."}) ==
        "##uelo Ara\u00FAjo Noguera .");
  const auto error = error_of([&] { (void)ids(R"({"model":{"type":"WordPiece","vocab":{"a":0}}})", "b"); });
  REQUIRE(error);
  CHECK(error->message == "tokenizer.json: model: \"b\" is not a token of the vocabulary, and there is none for what is unknown");
}

TEST_CASE("tokenizer.json: what is not read is named", "[io]") {
  const std::string model = R"("model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]})";
  struct Bad {
    std::string json, message;
  };
  const std::vector<Bad> all{
      {"{}", "tokenizer.json: there is no key \"model\""},
      {"{" + model + R"(,"colour":1})",
       "tokenizer.json: key \"colour\" (1) is not read here; what is: version, truncation, padding, added_tokens"},
      {R"({"model":{"type":"Morphemes","vocab":{}}})",
       "tokenizer.json: model: the type \"Morphemes\" is not read here; what is: BPE, Unigram, WordLevel, WordPiece"},
      {R"({"model":{"type":"WordPiece","vocab":{}}})", "model.vocab: holds no tokens"},
      {R"({"model":{"type":"WordPiece","vocab":{"a":0},"max_input_chars_per_word":-1}})", "is -1, expected an integer from 0"},
      {R"({"model":{"type":"WordPiece","vocab":{"a":0},"merges":[]}})", "model: key \"merges\""},
      {R"({"model":{"vocab":{"a":0}}})", "the type \"\" is not read here"},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.1}})", "model.dropout: is 0.1, expected null"},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[],"cache":0.1}})", "key \"cache\""},
      {R"({"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}})", "token \"a\": its id is -1"},
      {R"({"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}})", "id 0 is that of"},
      {R"({"model":{"type":"BPE","vocab":{"a":99999999999},"merges":[]}})", "its id is 99999999999, expected 0 to 2147483647"},
      {R"({"model":{"type":"BPE","vocab":{},"merges":[]}})", "model.vocab: holds no tokens"},
      {R"({"model":{"type":"BPE","vocab":[],"merges":[]}})", "model.vocab: is [], expected an object"},
      {R"({"model":{"type":"BPE","vocab":{"a":0}}})", "there is no key \"merges\""},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["aa"]}})", "merges[0]: is \"aa\", expected"},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a a a"]}})", "merges[0]: is \"a a a\""},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[["a"]]}})", "merges[0]: is [\"a\"]"},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a a"]}})", "merges[0]: \"aa\", of \"a\" and \"a\", is not in the vocabulary"},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a x"]}})", "merges[0]: \"x\""},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"?"}})", "model.unk_token: \"?\" is not in the vocabulary"},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[],"byte_fallback":1}})", "model.byte_fallback: is 1, expected true or false"},
      {R"({"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":3}})", "model.unk_id: is 3, expected 0 to 0"},
      {R"({"model":{"type":"Unigram","vocab":[["a"]]}})", "model.vocab[0]: is [\"a\"], expected [token, score]"},
      {R"({"model":{"type":"Unigram","vocab":[["a",0],["a",1]]}})", "token \"a\" appears twice, with the ids 0 and 1"},
      {R"({"normalizer":{"type":"Precompiled","precompiled_charsmap":""},)" + model + "}",
       "normalizer.precompiled_charsmap: has 0 bytes, expected a trie's size first"},
      {R"({"normalizer":{"type":"Precompiled","precompiled_charsmap":"AA="},)" + model + "}", "precompiled_charsmap: is not base64"},
      {R"({"normalizer":{"type":"Precompiled","precompiled_charsmap":"////fw=="},)" + model + "}",
       "precompiled_charsmap: names a trie of 2147483647 bytes, and 0 follow"},
      {R"({"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAAAA=="},)" + model + "}", "names a trie of 0 bytes"},
      {R"({"normalizer":{"type":"Precompiled","precompiled_charsmap":"BAAAAAAAAAD/"},)" + model + "}",
       "its texts are not valid UTF-8 at byte 0"},
      {R"({"normalizer":{"type":"Precompiled"},)" + model + "}", "there is no key \"precompiled_charsmap\""},
      {R"({"normalizer":{"type":"NFC","form":1},)" + model + "}", "normalizer: key \"form\""},
      {R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"Nmt"},{"type":"Rot13"}]},)" + model + "}",
       "normalizer.normalizers[1]: the type \"Rot13\""},
      {R"({"normalizer":{"type":"BertNormalizer","lowercase":1},)" + model + "}", "normalizer.lowercase: is 1, expected true or false"},
      {R"({"normalizer":{"type":"Replace","pattern":{"Glob":"*"},"content":""},)" + model + "}", "normalizer.pattern: key \"Glob\""},
      {R"({"normalizer":{"type":"Replace","pattern":{"Regex":"("},"content":""},)" + model + "}", "regular expression \"(\""},
      {R"({"pre_tokenizer":{"type":"BertPreTokenizer","cut":1},)" + model + "}", "pre_tokenizer: key \"cut\""},
      {R"({"pre_tokenizer":{"type":"UnicodeScripts"},)" + model + "}", "pre_tokenizer: the type \"UnicodeScripts\""},
      {R"({"pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"Kept"},)" + model + "}",
       "pre_tokenizer.behavior: is \"Kept\""},
      {R"({"pre_tokenizer":{"type":"Metaspace","prepend_scheme":"last"},)" + model + "}", "pre_tokenizer.prepend_scheme: is \"last\""},
      {R"({"pre_tokenizer":[],)" + model + "}", "pre_tokenizer: is [], expected an object"},
      {R"({"post_processor":{"type":"BertProcessing"},)" + model + "}", "post_processor: there is no key \"cls\""},
      {R"({"post_processor":{"type":"BertProcessing","cls":["a"],"sep":["b",1]},)" + model + "}",
       "post_processor.cls: is [\"a\"], expected a token and its id"},
      {R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}}],"special_tokens":{}},)" +
           model + "}",
       "\"x\" is not among the special_tokens"},
      {R"({"post_processor":{"type":"TemplateProcessing","single":[],"special_tokens":{}},)" + model + "}", "there is no {\"Sequence\""},
      {R"({"decoder":{"type":"Morse"},)" + model + "}", "decoder: the type \"Morse\" is not read here; what is: ByteLevel,"},
      {R"({"decoder":{"type":"CTC","pad_token":""},)" + model + "}", "decoder.pad_token: is empty"},
      {R"({"decoder":{"type":"BPEDecoder","suffix":""},)" + model + "}", "decoder.suffix: is empty"},
      {R"({"pre_tokenizer":{"type":"CharDelimiterSplit","delimiter":"ab"},)" + model + "}",
       "pre_tokenizer.delimiter: is \"ab\", expected one character"},
      {R"({"pre_tokenizer":{"type":"CharDelimiterSplit"},)" + model + "}", "pre_tokenizer: there is no key \"delimiter\""},
      {R"({"pre_tokenizer":{"type":"FixedLength","length":0},)" + model + "}", "pre_tokenizer.length: is 0, expected"},
      {R"({"decoder":{"type":"WordPiece","cleanup":"no"},)" + model + "}", "decoder.cleanup: is \"no\", expected true or false"},
      {R"({"decoder":{"type":"Strip","content":"","start":0,"stop":0},)" + model + "}", "decoder.content: is empty"},
      {R"({"added_tokens":{},)" + model + "}", "added_tokens: is {}, expected a list"},
      {R"({"added_tokens":[{"id":5}],)" + model + "}", "added_tokens[0]: there is no key \"content\""},
      {R"({"added_tokens":[{"id":5,"content":""}],)" + model + "}", "added_tokens[0].content: is empty"},
      {R"({"added_tokens":[{"id":5,"content":"x","glow":true}],)" + model + "}", "added_tokens[0]: key \"glow\""},
      {R"({"added_tokens":[{"id":5,"content":"x"},{"id":6,"content":"x"}],)" + model + "}", "the added token \"x\" appears twice"},
  };
  for (const Bad& bad : all) {
    INFO(bad.json);
    const auto error = error_of([&] { (void)codec(bad.json); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK(error->message.find("tokenizer.json") == 0);
    CHECK_THAT(error->message, contains_text(bad.message));
  }
}

TEST_CASE("tokenizer.json: rarer normalizers and pre-tokenizers", "[io]") {
  // Expected values are those of Hugging Face's library, 0.22.2.
  CHECK(normalized(R"({"type":"Nmt"})", "a\tb\u200bc\u0001d\u2581\ufeff\u007f\u00adx\n") == "a b cd  \u00adx ");
  CHECK(pieces(R"({"type":"CharDelimiterSplit","delimiter":"-"})", "a-c--b ") == Texts{"a", "c", "b "});
  CHECK(pieces(R"({"type":"CharDelimiterSplit","delimiter":"\u00e9"})", "\u00e9a\u00e9") == Texts{"a"});
  CHECK(pieces(R"({"type":"FixedLength","length":2})", "ab\u00e9d ") == Texts{"ab", "\u00e9d", " "});
  CHECK(pieces(R"({"type":"FixedLength"})", "abcdefg") == Texts{"abcde", "fg"});
  CHECK(pieces(R"({"type":"Whitespace"})", "a\u200db \u00bd\u00b2.") == Texts{"a\u200db", "\u00bd\u00b2."});
  // The first piece gets a metaspace only where it begins with the text's first character.
  const std::string first = R"({"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":false})";
  const std::string sequence = R"({"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},)" + first + "]}";
  CHECK(pieces(sequence, "a b") == Texts{"_a", "b"});
  CHECK(pieces(sequence, " a b") == Texts{"a", "b"});
  const std::string model = R"("model":{"type":"WordLevel","unk_token":"?","vocab":{"?":0,"_a":1,"a":2}}})";
  for (const std::string normalizer :
       {R"({"type":"Strip","strip_left":true,"strip_right":true})", R"({"type":"Replace","pattern":{"String":" "},"content":""})"}) {
    const std::string start = R"({"normalizer":)" + normalizer + R"(,"pre_tokenizer":)" + first + ",";
    CHECK(ids(start + model, "a ") == Ids{1});
    CHECK(ids(start + model, " a") == Ids{2});
  }
  CHECK(ids(R"({"normalizer":{"type":"Strip","strip_left":false,"strip_right":true},"pre_tokenizer":)" + first + "," + model, "a ") ==
        Ids{1});
}

TEST_CASE("tokenizer.json: every piece that begins at the text's first character is a first one", "[io]") {
  // In Hugging Face's library, 0.22.2, a piece is first where its place in the given text is 0. A prefix has the place of what it was put
  // before, the parts of a character that of the character, and what replaces a match that of the match's last byte
  // (tokenizers/src/tokenizer/normalizer.rs).
  const std::string first = R"({"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":false})";
  const auto after = [&](const std::string& step) { return R"({"type":"Sequence","pretokenizers":[)" + step + "," + first + "]}"; };
  CHECK(pieces(after(R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true})"), "!a b") == Texts{"_Ġ!", "a", "Ġb"});
  CHECK(pieces(after(R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":false},{"type":"FixedLength","length":1})"), "ab") ==
        Texts{"_Ġ", "_a", "b"});
  CHECK(pieces(after(R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false},{"type":"FixedLength","length":1})"), "éb") ==
        Texts{"_Ã", "_©", "b"});
  CHECK(pieces(after(R"({"type":"Metaspace","replacement":"x","prepend_scheme":"always","split":false},{"type":"FixedLength","length":1})"),
               "a b") == Texts{"_x", "_a", "x", "b"});

  // Behind normalizers, in a vocabulary of single characters: 1 and 2 are x and y, 11 and 12 the same as first pieces.
  const std::string model = R"("model":{"type":"WordLevel","unk_token":"?","vocab":
      {"?":0,"x":1,"y":2,"e":3,"́":4,"z":5,"_x":11,"_y":12,"_e":13,"_́":14,"_z":15}}})";
  const auto encoded = [&](const std::string& steps, const std::string& text) {
    return ids(R"({"normalizer":{"type":"Sequence","normalizers":[)" + steps + R"(]},"pre_tokenizer":)" +
                   after(R"({"type":"FixedLength","length":1})") + "," + model,
               text);
  };
  const std::string prepend = R"({"type":"Prepend","prepend":"xy"})", strip = R"({"type":"Strip","strip_left":true,"strip_right":true})";
  const auto replace = [](const std::string& from, const std::string& to) {
    return R"({"type":"Replace","pattern":{"String":")" + from + R"("},"content":")" + to + R"("})";
  };
  CHECK(encoded(prepend, "ee") == Ids{11, 12, 13, 3});
  CHECK(encoded(strip + "," + prepend, " ee") == Ids{1, 2, 3, 3});  // the text's first character is gone
  CHECK(encoded(prepend + "," + replace("xy", "z"), "ee") == Ids{15, 13, 3});
  CHECK(encoded(prepend + "," + replace("xye", "zz"), "ee") == Ids{15, 15, 3});
  CHECK(encoded(replace("e", "xy"), "ee") == Ids{11, 12, 1, 2});
  CHECK(encoded(replace("ee", "xy"), "ee") == Ids{1, 2});  // in the place of the second
  CHECK(encoded(R"({"type":"NFD"})", "éx") == Ids{13, 14, 1});
  CHECK(encoded(R"({"type":"NFD"},{"type":"NFC"},{"type":"NFD"})", "éx") == Ids{13, 14, 1});
  CHECK(encoded(R"({"type":"NFC"},{"type":"NFD"})", "éx") == Ids{13, 14, 1});
  CHECK(encoded(R"({"type":"NFD"},{"type":"StripAccents"})", "éx") == Ids{13, 1});
  // A first piece of a part behind an added token is none of the text.
  CHECK(ids(R"({"added_tokens":[{"id":20,"content":"<s>","special":true}],"normalizer":)" + prepend + R"(,"pre_tokenizer":)" +
                after(R"({"type":"FixedLength","length":1})") + "," + model,
            "<s>e") == Ids{20, 1, 2, 3});
}

#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
TEST_CASE("tokenizer.json: a very long word leaves no memory behind", "[io]") {
  const auto tokenizer = codec(R"({"model":{"type":"BPE","vocab":{"a":0,"aa":1},"merges":["a a"]}})");
  const auto in_use = [] {
    const struct mallinfo2 now = mallinfo2();
    return now.uordblks + now.hblkhd;
  };
  {  // Where malloc is another's, as a sanitizer's, it counts nothing.
    const std::size_t none = in_use();
    const std::vector<char> known(std::size_t{1} << 20U, 'a');
    if (in_use() < none + known.size()) {
      WARN("skipped: the C library does not count this program's memory");
      return;
    }
  }
  (void)ids(*tokenizer, "aaa");
  const std::size_t before = in_use();
  {
    const std::string word(std::size_t{1} << 20U, 'a');
    CHECK(ids(*tokenizer, word) == Ids(word.size() / 2, 1));
  }
  CHECK(in_use() < before + (std::size_t{1} << 16U));
  CHECK(ids(*tokenizer, "aaa") == Ids{1, 0});
}
#endif

TEST_CASE("tokenizer.json: threads share a tokenizer, and a text's tokens do not depend on the texts before", "[io]") {
  const std::string json =
      R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":" ?[a-c]+"},"behavior":"Isolated","invert":false},
          "model":{"type":"BPE","unk_token":"?","vocab":{"?":0,"a":1,"b":2,"c":3," ":4,"ab":5,"bc":6,"abc":7},
                   "merges":["a b","ab c","b c"]}})";
  const auto tokenizer = codec(json);
  std::vector<std::string> texts;
  std::mt19937 random(3);
  for (int k = 0; k < 300; ++k) {
    std::string text;
    for (auto letters = random() % 30; letters > 0; --letters) text += "abc x"[random() % 5];
    texts.push_back(text + "a");
  }
  std::vector<Ids> alone;
  for (const std::string& text : texts) alone.push_back(ids(*codec(json), text));
  std::vector<std::vector<Ids>> of_threads(4);
  std::vector<std::thread> threads;
  for (std::vector<Ids>& own : of_threads)
    threads.emplace_back([&] {
      for (const std::string& text : texts) own.push_back(ids(*tokenizer, text));
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<Ids>& own : of_threads) CHECK(own == alone);
  // A text that fails leaves nothing behind.
  const auto strict = codec(R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})");
  REQUIRE(error_of([&] { (void)ids(*strict, "abx"); }));
  CHECK(ids(*strict, "aab") == Ids{0, 2});
}
