// Texts with labels, one per line, and the tokens of the vocabulary that stand for the labels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <implicit_attention/io/tokenizer.hpp>

#include "text_lines.hpp"

namespace implicit_attention::examples {

/// One line of a file: `label<tab or space>text`, then optionally a tab and the words that people marked as the reason for the label, such
/// as `0,5-7`, counted from 0.
struct LabelledText {
  std::string label, text, marks;
  Index line = 0;    ///< from 1
  bool tab = false;  ///< whether a tab stands behind the label
};

/// Reads a file of them; empty lines are passed over. Fails (file), naming the line, on one without a label or a text, and on a file
/// without any.
[[nodiscard]] std::vector<LabelledText> read_labelled_texts(const std::string& path);
/// The same of a file that has been opened; `path` is its name in messages.
[[nodiscard]] std::vector<LabelledText> read_labelled_texts(const TextLines& file, const std::string& path);
/// `limit` of the texts, drawn by `seed`, in the order of the file; all of them if they are no more.
[[nodiscard]] std::vector<LabelledText> some_texts(std::vector<LabelledText> texts, Index limit, std::uint64_t seed);

/// The marks of a text of `words` words, one flag each; empty where it has none. Fails, naming the line, on a word that is not there.
[[nodiscard]] std::vector<bool> marked_words(const std::string& path, const LabelledText& text, Index words);

/// The classes: the labels, and the token with which a model answers each.
struct Classes {
  std::vector<std::string> labels;
  std::vector<Index> tokens;
  /// The number of a label among them; fails if it is none of them.
  [[nodiscard]] Index of(const std::string& label) const;
};

/// The classes of texts whose labels are 0 and 1 where the vocabulary has `negative` and `positive`: these two; else the distinct
/// labels, all of them tokens' names or all of them ids. Fails (value) on a label that is neither, naming its line, on 0 and 1 mixed with
/// others where they mean `negative` and `positive`, and unless there are at least two; (file) where the labels look like the first words
/// of texts without labels.
[[nodiscard]] Classes classes_of(const std::vector<LabelledText>& texts, const Tokenizer& tokenizer);

/// How every label was understood: `class 1: token "positive", id 17`.
[[nodiscard]] std::vector<std::string> class_lines(const Classes& classes, const Tokenizer& tokenizer);

}  // namespace implicit_attention::examples
