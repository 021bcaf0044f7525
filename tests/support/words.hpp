// Words in braces, as a function's argument.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace test_support {

/// The words of a command line or of a message, as in `run(folder, "explain", {"--model", mamba})`. Hundreds of calls have some: here a word
/// is where its letters are until one function, compiled once, makes strings of all. A list of std::string is made where it stands, with what
/// each word takes down that was made before a failure.
class Words {
 public:
  struct Word {
    std::string_view text;
    Word(const char* word) : text(word) {}
    Word(std::string_view word) : text(word) {}
    Word(const std::string& word) : text(word) {}
    Word(const std::filesystem::path& word) : text(word.native()) {}
  };
  Words() = default;
  Words(std::initializer_list<Word> words);
  Words(std::vector<std::string> words) : words_(std::move(words)) {}

  [[nodiscard]] const std::vector<std::string>& list() const { return words_; }
  [[nodiscard]] auto begin() const { return words_.begin(); }
  [[nodiscard]] auto end() const { return words_.end(); }

 private:
  std::vector<std::string> words_;
};

}  // namespace test_support
