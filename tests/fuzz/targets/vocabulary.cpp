// vocab.json, and a text by its tokens: words and symbols.
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizers/vocabulary_text.hpp>
#include <implicit_attention/io/vocabulary.hpp>

#include "../harness.hpp"

static std::vector<std::string> seeds_of_vocabulary() {
  using namespace std::string_literals;
  return {"{\"<unk>\":0,\"the\":1,\"cat\":2}\0the cat  sat"s, "{\"a\":0,\"\xC3\xA9\":1,\"<mask>\":2,\"<s\":9}\0a<mask>\xC3\xA9z"s,
          "{\"a\":9223372036854775807,\"b\":5}\0b"s};
}

FUZZ_TARGET(vocabulary) {
  const auto [json, text] = fuzz::split(bytes);
  fuzz::accepted([&, &text = text, &json = json] {
    const fuzz::detail::VocabularyText words(fuzz::Vocabulary::read(fuzz::file_of(json), 1000), "fuzzed");
    (void)words.all_symbols();
    std::vector<fuzz::Index> ids;
    if (fuzz::utf8_error(text) != std::string_view::npos) return;
    fuzz::accepted([&] { words.encode_words(text, ids); });
    fuzz::accepted([&] { words.encode_symbols(text, ids); });
    for (const fuzz::Index id : ids) fuzz::require(words.vocabulary().token(id) != nullptr, "an id is a token's");
  });
}
