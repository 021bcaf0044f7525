// Texts with labels and marks, one a line.
#include <support/labelled_text.hpp>

#include "../harness.hpp"

static std::vector<std::string> seeds_of_labelled_text() {
  return {"1 a gripping film\n0\ta dull one\t0,1-2\r\n\n", "\xEF\xBB\xBFpositive good\nnegative bad\t1\n", "a b\tc d\t9-3\n"};
}

FUZZ_TARGET(labelled_text) {
  namespace ex = implicit_attention::examples;
  fuzz::accepted([&] {
    const std::vector<ex::LabelledText> texts = ex::read_labelled_texts(fuzz::file_of(bytes).string());
    fuzz::require(!texts.empty(), "a file that is read has texts");
    for (const ex::LabelledText& text : texts) {
      fuzz::require(!text.label.empty() && !text.text.empty(), "a line has a label and a text");
      fuzz::accepted([&] {
        const std::vector<bool> marked = ex::marked_words("fuzzed", text, 8);
        fuzz::require(marked.empty() || marked.size() == 8, "marks are the words'");
      });
    }
    fuzz::require(ex::some_texts(texts, 2, 1).size() == std::min<std::size_t>(2, texts.size()), "as many are drawn as were asked for");
    fuzz::accepted([&] {
      const fuzz::Tokenizer letters = fuzz::Tokenizer::open("/nowhere", "bytes");
      const ex::Classes classes = ex::classes_of(texts, letters);
      fuzz::require(classes.labels.size() == classes.tokens.size() && classes.labels.size() >= 2, "every class has a token");
    });
  });
}
