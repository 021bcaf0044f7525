// tokenizer.json, and after a zero byte a text for it.
#include <implicit_attention/io/tokenizers/hugging_face.hpp>

#include "../codecs.hpp"

static std::vector<std::string> seeds_of_tokenizer_json() {
  using namespace std::string_literals;
  const std::string begin =
      R"({"added_tokens":[{"id":20,"content":"<|end|>","special":true,"normalized":false,"lstrip":true,"rstrip":false,)"
      R"("single_word":false},{"id":21,"content":"  ","special":false,"normalized":true}],)";
  const std::string text = "\0hi 11 <|end|>h\xC3\xA9"s;
  return {
      begin +
          R"j("normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"Regex":"q+"},"content":"h"},{"type":"Lowercase"}]},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}|\\s+(?!\\S)"},"behavior":"MergedWithNext","invert":false},
{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":true,"use_regex":true}]},
"decoder":{"type":"Sequence","decoders":[{"type":"ByteLevel"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","unk_token":"?","fuse_unk":true,"byte_fallback":true,"vocab":{"?":0,"h":1,"i":2,"hi":3,"Ġ":4,"Ġh":5,"Ġhi":6,"1":7},"merges":["h i","Ġ h","Ġh i"]}})j" +
          text,
      R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}},
"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},
"model":{"type":"BPE","unk_token":"<unk>","byte_fallback":true,"vocab":{"<unk>":0,"<s>":1,"▁":2,"h":3,"i":4,"▁h":5,"<0x21>":6},"merges":[["▁","h"]]}})" +
          text,
      R"({"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},"decoder":{"type":"Metaspace","replacement":"▁"},
"model":{"type":"Unigram","unk_id":0,"byte_fallback":false,"vocab":[["<unk>",0.0],["▁",-2.5],["hi",-1.0],["h",-3.0],["i",-3.0],["▁hi",-0.5]]}})" +
          text,
      R"({"pre_tokenizer":{"type":"Whitespace"},"model":{"type":"WordLevel","unk_token":"?","vocab":{"?":0,"hi":1}}})" + text};
}

FUZZ_TARGET(tokenizer_json) {
  const auto [json, text] = fuzz::split(bytes);
  fuzz::accepted([&, &text = text, &json = json] {
    const auto codec = fuzz::detail::read_tokenizer_json(*fuzz::parse_json_object(json, "fuzzed"), "fuzzed");
    fuzz::use(*codec, text);
    fuzz::use(*codec, "hi h1 <|end|>\n\xF0\x9F\xA6\x99");
  });
}
