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

IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Steps over a list of tokens' texts; what they end as is joined. Bytes that are no UTF-8 stay bytes.
class Decoder {
 public:
  enum class Kind { byte_level, metaspace, byte_fallback, fuse, replace, strip, word_piece };
  struct Step {
    Kind kind = Kind::fuse;
    std::optional<TextPattern> pattern;  ///< metaspace, replace
    std::string content;                 ///< replace; strip: the character; word_piece: the mark of a token that goes on
    std::size_t start = 0, stop = 0;     ///< strip: how many characters at most, before and after
    bool prefix = false;                 ///< metaspace: the text's first space was put there by the pre-tokenizer
    bool tidy = false;                   ///< word_piece: no space before punctuation
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
  static void apply(const Step& step, std::vector<std::string>& tokens, bool at_start = true) {
    switch (step.kind) {
      case Kind::byte_level:
        for (std::string& token : tokens)
          if (std::optional<std::string> bytes = ByteAlphabet::instance().bytes(token)) token = std::move(*bytes);
        return;
      case Kind::byte_fallback:
        for (std::string& token : tokens)
          if (const std::optional<unsigned char> byte = byte_of_token(token)) token = static_cast<char>(*byte);
        return;
      case Kind::metaspace:
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          tokens[i] = step.pattern->replaced(tokens[i], " ");
          if (i == 0 && at_start && step.prefix && tokens[i].starts_with(' ')) tokens[i].erase(0, 1);
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
          if (i > 0 || !at_start) {
            const bool goes_on = !step.content.empty() && tokens[i].starts_with(step.content);
            tokens[i] = goes_on ? tokens[i].substr(step.content.size()) : " " + tokens[i];
          }
          if (step.tidy) tokens[i] = tidied(tokens[i]);
        }
        return;
      case Kind::fuse: {
        std::string all;
        for (const std::string& token : tokens) all += token;
        tokens.assign(1, all);
        return;
      }
    }
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
      step.pattern.emplace(fields.text("replacement", "\xE2\x96\x81"));
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
    } else if (type == "Strip") {
      step.kind = Kind::strip;
      step.content = fields.text("content");
      if (step.content.empty()) raise(ErrorKind::file, message(fields.path("content"), ": is empty, expected a character"));
      step.start = static_cast<std::size_t>(fields.natural_number("start"));
      step.stop = static_cast<std::size_t>(fields.natural_number("stop"));
    } else {
      unknown_type(fields, type, "ByteLevel, Metaspace, ByteFallback, Fuse, Replace, Strip, WordPiece, Sequence");
    }
    fields.finish();
    steps_.push_back(std::move(step));
  }

  std::vector<Step> steps_;
  std::string separator_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
