// Tokens back to text ("decoder" in tokenizer.json).
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/tokenizers/byte_alphabet.hpp>
#include <implicit_attention/io/tokenizers/json_fields.hpp>
#include <implicit_attention/io/tokenizers/pre_tokenizer.hpp>
#include <implicit_attention/io/tokenizers/text_pattern.hpp>
#include <implicit_attention/io/tokenizers/token_changes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Steps that change a list of tokens' texts, which are then joined. Bytes that are not UTF-8 stay as they are.
class Decoder {
 public:
  enum class Kind { byte_level, metaspace, byte_fallback, fuse, replace, strip, word_piece, word_ends, ctc };
  struct Step {
    Kind kind = Kind::fuse;
    std::optional<TextPattern> pattern;  ///< metaspace, replace; word_ends: the mark of a word's last token; ctc: the blank
    std::string content;                 ///< replace; strip: the character; word_piece: the mark of a token that goes on; ctc: of a space
    std::size_t start = 0, stop = 0;     ///< strip: how many characters at most, before and after
    bool prefix = false;                 ///< metaspace: the text's first space was put there by the pre-tokenizer
    bool tidy = false;                   ///< word_piece, ctc: no space before punctuation
    std::string where = "a tokenizer's decoder";  ///< its name in messages
  };

  Decoder() = default;
  explicit Decoder(std::vector<Step> steps) : steps_(std::move(steps)) {}
  /// Tokens with spaces between where there is no document. Fails (file) on a type or key that is not known.
  [[nodiscard]] static Decoder read(const Json* document, const std::string& where);

  /// Fails (limit) where the steps write far more than they read, see TextLimit.
  [[nodiscard]] std::string operator()(std::vector<std::string> tokens) const {
    std::size_t bytes = 0;
    for (const std::string& token : tokens) bytes += token.size() + 1;  // a step may put a space before each
    for (const Step& step : steps_) apply(step, tokens, TextLimit::of(bytes));
    std::string text;
    for (std::size_t i = 0; i < tokens.size(); ++i) text.append(i == 0 ? "" : separator_).append(tokens[i]);
    return text;
  }
  /// The bytes that a token stands for within a text.
  [[nodiscard]] std::string token_bytes(std::string_view token) const {
    std::vector<std::string> one{std::string(token)};
    for (const Step& step : steps_)
      if (step.kind != Kind::strip) apply(step, one, TextLimit::of(token.size()), false);
    return one.empty() ? std::string() : std::move(one.front());
  }

 private:
  /// `most`: bytes that may come out; `whole`: the tokens are those of a whole text, and not one token within it.
  static void apply(const Step& step, std::vector<std::string>& tokens, std::size_t most, bool whole = true) {
    switch (step.kind) {
      case Kind::byte_level:
        for (std::string& token : tokens)
          if (std::optional<std::string> bytes = ByteAlphabet::instance().bytes(token)) token = std::move(*bytes);
        if (whole) fuse_tokens(tokens);  // a character's bytes lie in several tokens
        return;
      case Kind::byte_fallback:
        join_byte_tokens(tokens);
        return;
      case Kind::metaspace:
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          // The published decoder drops every replacement in the first token, and with it spaces that the text began with.
          const bool prefixed = i == 0 && whole && step.prefix && tokens[i].starts_with(step.content);
          tokens[i] = step.pattern->replaced(tokens[i], " ");
          if (prefixed) tokens[i].erase(0, 1);
        }
        return;
      case Kind::replace: {
        std::size_t written = 0;
        for (std::string& token : tokens) {
          token = step.pattern->replaced(token, step.content, {most, step.where, written});
          written += token.size();
        }
        return;
      }
      case Kind::strip:
        for (std::string& token : tokens) strip_token(token, step.content, step.start, step.stop);
        return;
      case Kind::word_piece:
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          if (i > 0 || !whole) {
            const bool goes_on = !step.content.empty() && tokens[i].starts_with(step.content);
            tokens[i] = goes_on ? tokens[i].substr(step.content.size()) : " " + tokens[i];
          }
          if (step.tidy) tokens[i] = tidied(tokens[i]);
        }
        return;
      case Kind::word_ends:
        for (std::size_t i = 0; i < tokens.size(); ++i)
          tokens[i] = step.pattern->replaced(tokens[i], i + 1 == tokens.size() && whole ? "" : " ");
        return;
      case Kind::ctc: {
        tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
        for (std::string& token : tokens) {
          token = step.pattern->replaced(token, "");
          if (step.tidy) token = TextPattern(step.content).replaced(tidied(std::move(token)), " ");
        }
        tokens.erase(std::remove(tokens.begin(), tokens.end(), std::string()), tokens.end());
        return;
      }
      case Kind::fuse:
        fuse_tokens(tokens);
        return;
    }
  }

  std::vector<Step> steps_;
  std::string separator_;
};

/// A text that must not be empty; where `otherwise` is given, the text of files that leave it out.
[[nodiscard]] inline std::string text_not_empty(JsonFields& fields, std::string_view key, std::string_view otherwise) {
  std::string text = otherwise.empty() ? fields.text(key) : fields.text(key, otherwise);
  if (text.empty()) raise(ErrorKind::file, fields.path(key), ": is empty, expected a character");
  return text;
}

/// Adds the steps of one object of tokenizer.json.
inline void read_decoder_steps(const Json& document, const std::string& where, std::vector<Decoder::Step>& steps) {
  using Kind = Decoder::Kind;
  JsonFields fields(document, where);
  const std::string type = fields.text("type");
  Decoder::Step step;
  step.where = message(where, " (", type, ")");
  if (type == "Sequence") {
    const Json& list = fields.list("decoders");
    for (std::size_t i = 0; i < list.size(); ++i) read_decoder_steps(list[i], json_element(where + ".decoders", i), steps);
    return fields.finish();
  }
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
    for (const std::string_view key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.ignore(key);
  } else if (type == "Metaspace") {
    step.kind = Kind::metaspace;
    step.content = text_not_empty(fields, "replacement", "\xE2\x96\x81");
    step.pattern.emplace(step.content);
    step.prefix = read_prepend_scheme(fields) != PreTokenizer::Prefix::never;
    fields.ignore("split");
    fields.ignore("str_rep");
  } else if (type == "ByteFallback") {
    step.kind = Kind::byte_fallback;
  } else if (type == "Fuse") {
    step.kind = Kind::fuse;
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    step.pattern = TextPattern::read(fields, "pattern");
    step.content = fields.text("content");
  } else if (type == "WordPiece") {
    step.kind = Kind::word_piece;
    step.content = fields.text("prefix", "##");
    step.tidy = fields.flag("cleanup", true);
  } else if (type == "BPEDecoder") {
    step.kind = Kind::word_ends;
    step.pattern.emplace(text_not_empty(fields, "suffix", "</w>"));
  } else if (type == "CTC") {
    step.kind = Kind::ctc;
    step.pattern.emplace(text_not_empty(fields, "pad_token", "<pad>"));
    step.content = text_not_empty(fields, "word_delimiter_token", "|");
    step.tidy = fields.flag("cleanup", true);
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    step.content = text_not_empty(fields, "content", {});
    step.start = static_cast<std::size_t>(fields.natural_number("start"));
    step.stop = static_cast<std::size_t>(fields.natural_number("stop"));
  } else {
    unknown_type(fields, type, "ByteLevel, Metaspace, ByteFallback, Fuse, Replace, Strip, WordPiece, BPEDecoder, CTC, Sequence");
  }
  fields.finish();
  steps.push_back(std::move(step));
}

inline Decoder Decoder::read(const Json* document, const std::string& where) {
  std::vector<Step> steps;
  if (document != nullptr) read_decoder_steps(*document, where, steps);
  Decoder decoder(std::move(steps));
  if (document == nullptr) decoder.separator_ = " ";  // as Hugging Face's library does without a decoder
  return decoder;
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
