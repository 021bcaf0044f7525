// Tokens back to text ("decoder" in tokenizer.json).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/io/tokenizers/byte_alphabet.hpp>
#include <implicit_attention/io/tokenizers/json_fields.hpp>
#include <implicit_attention/io/tokenizers/pre_tokenizer.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Steps over a list of tokens' texts; what they end as is joined. Bytes that are no UTF-8 stay bytes.
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
  };

  Decoder() = default;
  explicit Decoder(std::vector<Step> steps) : steps_(std::move(steps)) {}
  [[nodiscard]] static Decoder read(const Json* document, const std::string& where) {
    Decoder decoder;
    if (document == nullptr)
      decoder.separator_ = " ";  // Hugging Face's way where there is no decoder
    else
      decoder.read_step(*document, where);
    return decoder;
  }

  [[nodiscard]] std::string operator()(std::vector<std::string> tokens) const {
    for (const Step& step : steps_) apply(step, tokens);
    std::string text;
    for (std::size_t i = 0; i < tokens.size(); ++i) text.append(i == 0 ? "" : separator_).append(tokens[i]);
    return text;
  }
  /// The bytes that a token stands for within a text.
  [[nodiscard]] std::string token_bytes(std::string_view token) const {
    std::vector<std::string> one{std::string(token)};
    for (const Step& step : steps_)
      if (step.kind != Kind::strip) apply(step, one, false);
    return one.empty() ? std::string() : std::move(one.front());
  }

 private:
  /// `whole`: the tokens are those of a text from its start to its end, and not one within it.
  static void apply(const Step& step, std::vector<std::string>& tokens, bool whole = true) {
    switch (step.kind) {
      case Kind::byte_level:
        for (std::string& token : tokens)
          if (std::optional<std::string> bytes = ByteAlphabet::instance().bytes(token)) token = std::move(*bytes);
        if (whole) fuse(tokens);  // a character's bytes lie in several tokens
        return;
      case Kind::byte_fallback:
        join_bytes(tokens);
        return;
      case Kind::metaspace:
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          // The published decoder drops every replacement in the first token, and with it spaces that the text began with.
          const bool prefixed = i == 0 && whole && step.prefix && tokens[i].starts_with(step.content);
          tokens[i] = step.pattern->replaced(tokens[i], " ");
          if (prefixed) tokens[i].erase(0, 1);
        }
        return;
      case Kind::replace:
        for (std::string& token : tokens) token = step.pattern->replaced(token, step.content);
        return;
      case Kind::strip:
        for (std::string& token : tokens) strip(step, token);
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
        fuse(tokens);
        return;
    }
  }
  static void fuse(std::vector<std::string>& tokens) {
    std::string all;
    for (const std::string& token : tokens) all += token;
    tokens.assign(1, all);
  }
  /// Tokens of bytes as their bytes: those in a row are one text.
  static void join_bytes(std::vector<std::string>& tokens) {
    std::size_t kept = 0;
    bool after_byte = false;
    for (std::string& token : tokens) {
      const std::optional<unsigned char> byte = byte_of_token(token);
      if (byte && after_byte)
        tokens[kept - 1] += static_cast<char>(*byte);
      else
        tokens[kept++] = byte ? std::string(1, static_cast<char>(*byte)) : std::move(token);
      after_byte = byte.has_value();
    }
    tokens.resize(kept);
  }
  static void strip(const Step& step, std::string& token) {
    const std::string& unit = step.content;
    for (std::size_t k = 0; k < step.start && token.starts_with(unit); ++k) token.erase(0, unit.size());
    for (std::size_t k = 0; k < step.stop && token.ends_with(unit); ++k) token.resize(token.size() - unit.size());
  }

  /// Hugging Face's clean-up of English, in its order.
  [[nodiscard]] static std::string tidied(std::string text) {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> changes{{{" .", "."},
                                                                                            {" ?", "?"},
                                                                                            {" !", "!"},
                                                                                            {" ,", ","},
                                                                                            {" ' ", "'"},
                                                                                            {" n't", "n't"},
                                                                                            {" 'm", "'m"},
                                                                                            {" do not", " don't"},
                                                                                            {" 's", "'s"},
                                                                                            {" 've", "'ve"},
                                                                                            {" 're", "'re"}}};
    for (const auto& [from, to] : changes)
      if (text.find(from) != std::string::npos) text = TextPattern(std::string(from)).replaced(text, to);
    return text;
  }

  /// A text that the file has, or, where there is one, that older files leave out.
  [[nodiscard]] static std::string not_empty(JsonFields& fields, std::string_view key, std::string_view otherwise) {
    std::string text = otherwise.empty() ? fields.text(key) : fields.text(key, otherwise);
    if (text.empty()) raise(ErrorKind::file, fields.path(key), ": is empty, expected a character");
    return text;
  }
  void read_step(const Json& document, const std::string& where) {
    JsonFields fields(document, where);
    const std::string type = fields.text("type");
    Step step;
    if (type == "Sequence") {
      const Json& list = fields.list("decoders");
      for (std::size_t i = 0; i < list.size(); ++i) read_step(list[i], json_element(where + ".decoders", i));
      return fields.finish();
    }
    if (type == "ByteLevel") {
      step.kind = Kind::byte_level;
      for (const std::string_view key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.ignore(key);
    } else if (type == "Metaspace") {
      step.kind = Kind::metaspace;
      step.content = not_empty(fields, "replacement", "\xE2\x96\x81");
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
      step.pattern.emplace(not_empty(fields, "suffix", "</w>"));
    } else if (type == "CTC") {
      step.kind = Kind::ctc;
      step.pattern.emplace(not_empty(fields, "pad_token", "<pad>"));
      step.content = not_empty(fields, "word_delimiter_token", "|");
      step.tidy = fields.flag("cleanup", true);
    } else if (type == "Strip") {
      step.kind = Kind::strip;
      step.content = not_empty(fields, "content", {});
      step.start = static_cast<std::size_t>(fields.natural_number("start"));
      step.stop = static_cast<std::size_t>(fields.natural_number("stop"));
    } else {
      unknown_type(fields, type, "ByteLevel, Metaspace, ByteFallback, Fuse, Replace, Strip, WordPiece, BPEDecoder, CTC, Sequence");
    }
    fields.finish();
    steps_.push_back(std::move(step));
  }

  std::vector<Step> steps_;
  std::string separator_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
