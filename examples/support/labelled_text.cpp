#include "labelled_text.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string_view>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/text.hpp>

#include "command_line.hpp"
#include "evaluated_methods.hpp"
#include "text_lines.hpp"

namespace implicit_attention::examples {
namespace {

std::optional<Index> label_token(const std::string& label, const Tokenizer& tokenizer) {
  if (const std::optional<Index> named = tokenizer.find(label)) return named;
  Index id = 0;
  const char* const end = label.data() + label.size();
  const auto read = std::from_chars(label.data(), end, id);
  if (read.ec != std::errc() || read.ptr != end || id < 0 || id >= tokenizer.vocabulary_size()) return std::nullopt;
  return id;
}

}  // namespace

std::vector<LabelledText> read_labelled_texts(const std::string& path) {
  const TextLines file(path);
  std::vector<LabelledText> texts;
  for (const auto& [line, here] : file.lines()) {
    const std::size_t split = here.find_first_of(" \t");
    const std::size_t begin = split == std::string_view::npos ? split : here.find_first_not_of(" \t", split);
    if (split == 0 || begin == std::string_view::npos)
      raise(ErrorKind::file,
            message(path, ":", line, ": \"", printable(here, 40), "\" is no label and text, expected for example: 1 a gripping film"));
    std::string_view text = here.substr(begin), marks;
    if (const std::size_t tab = text.rfind('\t');
        tab != std::string_view::npos && text.find_first_not_of("0123456789,-", tab + 1) == std::string_view::npos) {
      marks = text.substr(tab + 1);
      text = text.substr(0, tab);
    }
    texts.push_back({std::string(here.substr(0, split)), std::string(text), std::string(marks), line});
  }
  if (texts.empty()) raise(ErrorKind::file, message(path, ": there are no texts, expected lines such as: 1 a gripping film"));
  return texts;
}

std::vector<LabelledText> some_texts(std::vector<LabelledText> texts, Index limit, std::uint64_t seed) {
  std::vector<LabelledText> chosen;
  for (const std::size_t i : drawn(texts.size(), limit, seed)) chosen.push_back(std::move(texts[i]));
  return chosen;
}

std::vector<bool> marked_words(const std::string& path, const LabelledText& text, Index words) {
  if (text.marks.empty()) return {};
  std::vector<bool> marked(static_cast<std::size_t>(words), false);
  for (const Index word : parse_index_list(message(path, ":", text.line), text.marks)) {
    if (word >= words)
      raise(ErrorKind::file, message(path, ":", text.line, ": word ", word, " is marked, but the text has ", words, ", from 0"));
    marked[static_cast<std::size_t>(word)] = true;
  }
  return marked;
}

Index Classes::of(const std::string& label) const {
  const auto found = std::find(labels.begin(), labels.end(), label);
  if (found == labels.end()) raise(ErrorKind::value, message("label ", printable(label), " is none of the classes"));
  return found - labels.begin();
}

Classes classes_of(const std::vector<LabelledText>& texts, const Tokenizer& tokenizer) {
  std::map<std::string, Index> first_lines;
  for (const LabelledText& text : texts) first_lines.emplace(text.label, text.line);
  const bool binary =
      std::all_of(first_lines.begin(), first_lines.end(), [](const auto& entry) { return entry.first == "0" || entry.first == "1"; });
  const std::optional<Index> negative = tokenizer.find("negative"), positive = tokenizer.find("positive");
  if (binary && negative && positive) return {{"0", "1"}, {*negative, *positive}};
  Classes classes;
  for (const auto& [label, line] : first_lines) {
    const std::optional<Index> token = label_token(label, tokenizer);
    if (!token)
      raise(ErrorKind::value, message("--data: label \"", printable(label, 40), "\" of line ", line,
                                      " is neither a token of the vocabulary nor an id from 0 to ", tokenizer.vocabulary_size() - 1));
    classes.labels.push_back(label);
    classes.tokens.push_back(*token);
  }
  if (classes.labels.size() < 2)
    raise(ErrorKind::value,
          message("--data: all labels are \"", printable(classes.labels.front(), 40), "\", expected at least two classes to tell apart"));
  return classes;
}

}  // namespace implicit_attention::examples
