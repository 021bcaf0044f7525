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

/// A label that is a token's id.
std::optional<Index> token_id(const std::string& label, const Tokenizer& tokenizer) {
  Index id = 0;
  const char* const end = label.data() + label.size();
  const auto read = std::from_chars(label.data(), end, id);
  if (read.ec != std::errc() || read.ptr != end || id < 0 || id >= tokenizer.vocabulary_size()) return std::nullopt;
  return id;
}

/// Fails (file) where the labels look like the first words of texts without labels: words before a space, and hardly one occurs again.
void refuse_texts_alone(const std::vector<LabelledText>& texts, const std::map<std::string, Index>& first_lines) {
  const auto count = static_cast<Index>(texts.size()), different = static_cast<Index>(first_lines.size());
  const bool known = std::any_of(first_lines.begin(), first_lines.end(), [](const auto& entry) {
    const std::string& label = entry.first;
    return label == "negative" || label == "positive" || label.find_first_not_of("0123456789") == std::string::npos;
  });
  const bool tabs = std::any_of(texts.begin(), texts.end(), [](const LabelledText& text) { return text.tab; });
  if (known || tabs || different == 1 || 2 * different <= count) return;
  detail::raise(ErrorKind::file, "--data: ", count, " lines begin with ", different, " different words, the first with \"",
                printable(texts.front().label, 40),
                "\", expected a label before each text, for example: 1 a gripping film (a word as a label needs a tab after it)");
}

}  // namespace

std::vector<LabelledText> read_labelled_texts(const std::string& path) { return read_labelled_texts(TextLines(path), path); }

std::vector<LabelledText> read_labelled_texts(const TextLines& file, const std::string& path) {
  std::vector<LabelledText> texts;
  for (const auto& [line, here] : file.lines()) {
    const std::size_t split = here.find_first_of(" \t");
    const std::size_t begin = split == std::string_view::npos ? split : here.find_first_not_of(" \t", split);
    if (split == 0 || begin == std::string_view::npos)
      detail::raise(ErrorKind::file, path, ":", line, ": \"", printable(here, 40),
                    "\" is not a label and text, expected for example: 1 a gripping film");
    std::string_view text = here.substr(begin), marks;
    if (const std::size_t tab = text.rfind('\t');
        tab != std::string_view::npos && text.find_first_not_of("0123456789,-", tab + 1) == std::string_view::npos) {
      marks = text.substr(tab + 1);
      text = text.substr(0, tab);
    }
    texts.push_back({std::string(here.substr(0, split)), std::string(text), std::string(marks), line, here[split] == '\t'});
  }
  if (texts.empty()) detail::raise(ErrorKind::file, path, ": there are no texts, expected lines such as: 1 a gripping film");
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
  for (const Index word : parse_index_list(detail::message(path, ":", text.line), text.marks)) {
    if (word >= words)
      detail::raise(ErrorKind::file, path, ":", text.line, ": word ", word, " is marked, but the text has ", words, ", from 0");
    marked[static_cast<std::size_t>(word)] = true;
  }
  return marked;
}

Index Classes::of(const std::string& label) const {
  const auto found = std::find(labels.begin(), labels.end(), label);
  if (found == labels.end()) detail::raise(ErrorKind::value, "label ", printable(label), " is none of the classes");
  return found - labels.begin();
}

Classes classes_of(const std::vector<LabelledText>& texts, const Tokenizer& tokenizer) {
  std::map<std::string, Index> first_lines;
  for (const LabelledText& text : texts) first_lines.emplace(text.label, text.line);
  refuse_texts_alone(texts, first_lines);
  const auto any_label = [&](const auto& holds) {
    return std::any_of(first_lines.begin(), first_lines.end(), [&](const auto& entry) { return holds(entry.first); });
  };
  const auto other_than_binary = [](const std::string& label) { return label != "0" && label != "1"; };
  const std::optional<Index> negative = tokenizer.find("negative"), positive = tokenizer.find("positive");
  if (negative && positive && !any_label(other_than_binary)) return {{"0", "1"}, {*negative, *positive}};
  // Tokens' names, or ids: a mixture would be a guess.
  const auto a_name =
      std::find_if(first_lines.begin(), first_lines.end(), [&](const auto& entry) { return tokenizer.find(entry.first).has_value(); });
  const bool names = a_name != first_lines.end();
  const bool binary = negative && positive && !names && (first_lines.count("0") != 0 || first_lines.count("1") != 0);
  std::string mixed;  // said after labels that are nothing at all
  Classes classes;
  for (const auto& [label, line] : first_lines) {
    const std::string who = detail::message("--data: label \"", printable(label, 40), "\" of line ", line);
    const std::optional<Index> name = tokenizer.find(label), id = token_id(label, tokenizer);
    if (!name && !id)
      detail::raise(ErrorKind::value, who, " is neither a token of the vocabulary nor an id from 0 to ", tokenizer.vocabulary_size() - 1);
    if (binary && other_than_binary(label))
      mixed = mixed.empty() ? detail::message(who, " is not a class: 0 and 1 stand for the tokens negative and positive") : mixed;
    if (names && !name && mixed.empty())
      mixed = detail::message(who, " is an id where label \"", printable(a_name->first, 40), "\" of line ", a_name->second,
                              " is a token of the vocabulary, expected all of one kind");
    classes.labels.push_back(label);
    classes.tokens.push_back(names && name ? *name : id.value_or(0));
  }
  if (!mixed.empty()) detail::raise(ErrorKind::value, mixed);
  if (classes.labels.size() < 2)
    detail::raise(ErrorKind::value, "--data: all labels are \"", printable(classes.labels.front(), 40),
                  "\", expected at least two classes to tell apart");
  return classes;
}

std::vector<std::string> class_lines(const Classes& classes, const Tokenizer& tokenizer) {
  std::vector<std::string> lines;
  constexpr std::size_t most = 12;
  const std::size_t shown = classes.labels.size() > most ? most - 1 : classes.labels.size();
  for (std::size_t k = 0; k < shown; ++k)
    lines.push_back(detail::message("class ", printable(classes.labels[k], 40), ": token \"",
                                    printable(tokenizer.label(classes.tokens[k]), 40), "\", id ", classes.tokens[k]));
  if (shown < classes.labels.size()) lines.push_back(detail::message("and ", classes.labels.size() - shown, " classes more"));
  return lines;
}

}  // namespace implicit_attention::examples
