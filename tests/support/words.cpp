#include "words.hpp"

namespace test_support {

Words::Words(std::initializer_list<Word> words) {
  for (const Word& word : words) words_.emplace_back(word.text);
}

}  // namespace test_support
