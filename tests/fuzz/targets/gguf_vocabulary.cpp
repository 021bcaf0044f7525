// The vocabulary in a GGUF file's key-values.
#include <implicit_attention/io/tokenizers/gguf_metadata.hpp>
#include <implicit_attention/io/tokenizers/gguf_vocabulary.hpp>

#include <io/archives.hpp>

#include "../codecs.hpp"

static std::vector<std::string> seeds_of_gguf_vocabulary() {
  using namespace io_test::gguf;
  const auto texts = [](const std::string& name, const std::vector<std::string>& values) {
    std::string all = io_test::u32(8) + io_test::u64(values.size());
    for (const std::string& value : values) all += text(value);
    return key(name, 9, all);
  };
  const auto scores = [](const std::string& name, std::size_t count) {
    std::string all = io_test::u32(6) + io_test::u64(count);
    for (std::size_t i = 0; i < count; ++i) all += io_test::bytes_of<float>({-static_cast<float>(i)});
    return key(name, 9, all);
  };
  const std::string t = "tokenizer.ggml.";
  return {file({string(t + "model", "gpt2"), string(t + "pre", "qwen2"), texts(t + "tokens", {"a", "b", "ab", "<|x|>"}),
                texts(t + "merges", {"a b"}), integers(t + "token_type", {1, 1, 1, 3}), integer(t + "bos_token_id", 3)},
               {}),
          file({string("general.name", "x"), string(t + "model", "llama"),
                texts(t + "tokens", {"<unk>", "<s>", "<0x61>", "\xE2\x96\x81", "h"}), scores(t + "scores", 5),
                integers(t + "token_type", {2, 3, 6, 1, 1}), integer(t + "unknown_token_id", 0), boolean(t + "add_space_prefix", false)},
               {}),
          file({string(t + "model", "rwkv"), texts(t + "tokens", {"<s>", "a", "\\xff", "\\n"}), integers(t + "token_type", {3, 1, 1, 1})},
               {}, 2)};
}

FUZZ_TARGET(gguf_vocabulary) {
  fuzz::accepted([&] {
    const auto codec = fuzz::detail::GgufTokenizer::make(fuzz::detail::GgufVocabularyReader(bytes, "fuzzed").read());
    fuzz::use(*codec, "ab h a<|x|>\n\xFF");
    fuzz::use(*codec, bytes.substr(bytes.size() - std::min<std::size_t>(bytes.size(), 40)));
  });
}
