// Any text through tokenizers that are right: bytes that are no UTF-8, marks, long runs. The first byte says which tokenizer.
#include <array>
#include <functional>

#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizers/gguf_vocabulary.hpp>
#include <implicit_attention/io/tokenizers/hugging_face.hpp>
#include <implicit_attention/io/tokenizers/world.hpp>

#include "../codecs.hpp"

namespace {

using Codec = std::shared_ptr<const fuzz::detail::TextCodec>;

std::string byte_level(const std::string& before_model) {
  std::string vocab;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string letter = fuzz::detail::ByteAlphabet::instance().character(static_cast<unsigned char>(byte));
    vocab += (vocab.empty() ? "" : ",") + fuzz::Json(letter).dump() + ":" + std::to_string(byte);
  }
  return R"({"added_tokens":[{"id":300,"content":"<|end|>","special":true,"normalized":false}],)" + before_model +
         R"("decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{)" + vocab +
         R"(,"th":256,"the":257,"Ġthe":258,"aa":259,"aaaa":260},"merges":["t h","th e","Ġ the","a a","aa aa"]}})";
}
std::string byte_fallback() {
  std::string vocab = R"("<unk>":0)";
  for (unsigned byte = 0; byte < 256; ++byte)
    vocab += ",\"" + fuzz::detail::byte_token(static_cast<unsigned char>(byte)) + "\":" + std::to_string(byte + 1);
  return R"({"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"▁"},"decoder":{"type":"Sequence","decoders":[
    {"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},
    "model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{)" +
         vocab + R"(,"▁":257,"h":258,"i":259,"hi":260,"▁hi":261},"merges":["h i","▁ hi"]}})";
}
Codec json(const std::string& text) { return fuzz::detail::read_tokenizer_json(*fuzz::parse_json_object(text, "made"), "made"); }
Codec world() {
  std::string lines = "300 'the' 3\n301 ' the' 4\n";
  constexpr std::string_view digits = "0123456789abcdef";
  for (unsigned byte = 0; byte < 256; ++byte)
    lines += std::to_string(byte + 1) + " b'\\x" + digits[byte / 16] + digits[byte % 16] + "' 1\n";
  return fuzz::detail::WorldVocabulary::parse(lines, "made");
}
Codec gguf(const std::string& pre) {
  fuzz::GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = pre;
  for (unsigned byte = 0; byte < 256; ++byte)
    vocabulary.tokens.push_back(fuzz::detail::ByteAlphabet::instance().character(static_cast<unsigned char>(byte)));
  return fuzz::detail::GgufTokenizer::make(vocabulary);
}

struct One {
  Codec codec;
  bool exactly;  // every text, whatever its bytes, comes back
};
const std::vector<One>& tokenizers() {
  static const std::vector<One> all{
      {json(byte_level(R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)")), true},
      {json(byte_level("")), false},  // without a pre-tokenizer letters stand for bytes already
      {json(byte_level(
           R"("normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},)")),
       false},
      {json(byte_fallback()), false},
      {json(R"({"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},"decoder":{"type":"Metaspace",
        "replacement":"▁"},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["▁",-2.5],["the",-1.0],["t",-3.0],["h",-3.0],["e",-2.0]]}})"),
       false},
      {json(R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Lowercase"},{"type":"Strip","strip_left":true,
        "strip_right":true}]},"pre_tokenizer":{"type":"Whitespace"},"model":{"type":"WordLevel","unk_token":"?","vocab":{"?":0,"the":1}}})"),
       false},
      {world(), true},
      {gguf("gpt-2"), true},
      {gguf("llama-bpe"), true}};
  return all;
}

}  // namespace

static std::vector<std::string> seeds_of_text() {
  std::vector<std::string> all;
  for (std::size_t i = 0; i < tokenizers().size(); ++i) {
    all.emplace_back(1, static_cast<char>(i));
    all.back() += "It's the <|end|> 1234\r\n\n  caf\xC3\xA9 \xF0\x9F\xA6\x99 e\xCC\x81 \xFF\xC0";
  }
  return all;
}

FUZZ_TARGET(text) {
  if (bytes.empty()) return;
  const std::string_view text = bytes.substr(1);
  const One& one = tokenizers()[static_cast<unsigned char>(bytes[0]) % tokenizers().size()];
  fuzz::use(*one.codec, text, one.exactly);
  const std::string shown = fuzz::printable(text);
  fuzz::require(fuzz::utf8_error(shown) == std::string_view::npos && shown.size() < 200, "what is printed is UTF-8 and short");
}
