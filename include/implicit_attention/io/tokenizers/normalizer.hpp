// What a tokenizer does to text before anything else: normal forms, lower case, replacements ("normalizer" in tokenizer.json).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/io/tokenizers/byte_alphabet.hpp>
#include <implicit_attention/io/tokenizers/character_map.hpp>
#include <implicit_attention/io/tokenizers/json_fields.hpp>
#include <implicit_attention/io/tokenizers/regex.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// A fixed text or an expression to look for.
class TextPattern {
 public:
  explicit TextPattern(std::string text) : text_(std::move(text)) {}
  explicit TextPattern(std::shared_ptr<const Regex> regex) : regex_(std::move(regex)) {}
  /// `{"String": " "}` or `{"Regex": "\\s"}`.
  [[nodiscard]] static TextPattern read(JsonFields& owner, std::string_view key) {
    JsonFields fields(owner.object(key), owner.path(key));
    const Json* const text = fields.find("String");
    const Json* const regex = fields.find("Regex");
    fields.finish();
    if ((text == nullptr) == (regex == nullptr)) raise(ErrorKind::file, fields.where(), ": expected one of String and Regex");
    if (regex != nullptr) return TextPattern(std::make_shared<const Regex>(fields.text("Regex"), fields.where()));
    std::string fixed = fields.text("String");
    if (fixed.empty()) return TextPattern(std::make_shared<const Regex>("", fields.where()));  // matches between all characters
    return TextPattern(std::move(fixed));
  }

  /// What looking for it needs to work in; one for many texts.
  class Search {
   public:
    explicit Search(const TextPattern& pattern) : pattern_(pattern) {
      if (pattern.regex_) scratch_ = pattern.regex_->take_scratch();
    }
    Search(Search&&) = delete;
    ~Search() {
      if (scratch_) pattern_.regex_->give_scratch(std::move(scratch_));
    }

    /// Calls `piece(begin, end, matched)` for every match and every stretch between matches, in order. A match may be empty, but not where
    /// the match before it ended. In a text that is empty nothing matches, as in Hugging Face's library.
    template <class Piece>
    void split(std::string_view text, Piece&& piece) {
      std::size_t rest = 0;
      const auto match = [&](std::size_t begin, std::size_t end) {
        if (rest < begin) piece(rest, begin, false);
        piece(begin, end, true);
        rest = end;
      };
      const std::string& fixed = pattern_.text_;
      if (scratch_) {
        std::optional<std::size_t> last;
        for (std::size_t from = 0; !text.empty() && from <= text.size();) {
          const std::optional<Span> found = pattern_.regex_->find(text, from, *scratch_);
          if (!found) break;
          const auto [begin, end] = *found;
          if (begin < end || last != begin) match(begin, end);
          last = end;
          from = begin < end ? end : end + std::max<std::size_t>(code_point_at(text, end).length, 1);
        }
      } else if (!fixed.empty()) {
        for (std::size_t at = text.find(fixed); at != std::string_view::npos; at = text.find(fixed, at + fixed.size()))
          match(at, at + fixed.size());
      }
      if (rest < text.size()) piece(rest, text.size(), false);
    }

   private:
    const TextPattern& pattern_;
    std::unique_ptr<Regex::Scratch> scratch_;
  };

  [[nodiscard]] std::string replaced(std::string_view text, std::string_view content) const {
    std::string out;
    out.reserve(text.size());
    Search(*this).split(
        text, [&](std::size_t begin, std::size_t end, bool matched) { out += matched ? content : text.substr(begin, end - begin); });
    return out;
  }
  /// Of a text whose first `start` bytes stand for the whole text's first character: how many do in `replaced(text, content)`. What takes the
  /// place of a match stands where the match's last byte did.
  [[nodiscard]] std::size_t replaced_start(std::string_view text, std::string_view content, std::size_t start) const {
    std::size_t now = 0;
    Search(*this).split(text, [&](std::size_t begin, std::size_t end, bool matched) {
      if (matched)
        now += end <= start ? content.size() : 0;
      else
        now += std::min(end, std::max(start, begin)) - begin;
    });
    return now;
  }

 private:
  std::string text_;
  std::shared_ptr<const Regex> regex_;
};

/// Steps that text goes through, in order. Text that comes in is well-formed UTF-8, and so is what goes out.
class Normalizer {
 public:
  enum class Kind {
    nfc,
    nfd,
    nfkc,
    nfkd,
    lower_case,
    strip_accents,
    strip,
    prepend,
    replace,
    byte_level,
    precompiled,
    clean,
    space_han,
    strip_nonspacing,
    nmt
  };
  struct Step {
    Kind kind = Kind::nfc;
    std::string content;                                ///< prepend, replace
    std::optional<TextPattern> pattern;                 ///< replace
    bool left = true, right = true;                     ///< strip
    std::shared_ptr<const CharacterMap> map = nullptr;  ///< precompiled
  };

  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
  [[nodiscard]] static Normalizer read(const Json* document, const std::string& where) {
    Normalizer normalizer;
    if (document != nullptr) normalizer.read_step(*document, where);
    return normalizer;
  }

  [[nodiscard]] bool empty() const { return steps_.empty(); }
  [[nodiscard]] bool has(Kind kind) const {
    for (const Step& step : steps_)
      if (step.kind == kind) return true;
    return false;
  }
  [[nodiscard]] std::string operator()(std::string_view text) const {
    std::string out(text);
    for (const Step& step : steps_) out = apply(step, std::move(out));
    return out;
  }
  /// The same of a text that begins where the whole one does; `start` becomes how many of its first bytes stand for the whole text's first
  /// character, or were put before it: 0 where that is gone, so that no piece begins where the text did.
  [[nodiscard]] std::string operator()(std::string_view text, std::size_t& start) const {
    std::string out(text);
    for (const Step& step : steps_) {
      start = start_after(step, out, start);
      out = apply(step, std::move(out));
      while (start > 0 && start < out.size() && utf8_character_size(out, start) == 0) ++start;  // joined with an accent behind it
      start = std::min(start, out.size());
    }
    return out;
  }

 private:
  [[nodiscard]] static std::string apply(const Step& step, std::string text) {
    switch (step.kind) {
      case Kind::nfc:
        return normalized(text, NormalForm::nfc);
      case Kind::nfd:
        return normalized(text, NormalForm::nfd);
      case Kind::nfkc:
        return normalized(text, NormalForm::nfkc);
      case Kind::nfkd:
        return normalized(text, NormalForm::nfkd);
      case Kind::lower_case:
        return detail::lower_case(text);
      case Kind::strip_accents:
        return without_marks(text);
      case Kind::strip:
        return stripped(text, step.left, step.right);
      case Kind::prepend:
        return text.empty() ? text : step.content + text;
      case Kind::replace:
        return step.pattern->replaced(text, step.content);
      case Kind::precompiled:
        return (*step.map)(text);
      case Kind::clean:
        return cleaned(text);
      case Kind::space_han:
        return spaced_han(text);
      case Kind::strip_nonspacing:
        return kept(normalized(text, NormalForm::nfd), [](char32_t point) { return category(point) != UTF8PROC_CATEGORY_MN; });
      case Kind::nmt:
        return nmt(text);
      case Kind::byte_level:
        break;
    }
    std::string out;
    ByteAlphabet::instance().append(out, text);
    return out;
  }
  /// How many of the first bytes stand for the first character once a step has been applied, which `start` do before.
  [[nodiscard]] static std::size_t start_after(const Step& step, std::string_view text, std::size_t start) {
    const std::string_view first = text.substr(0, start);
    if (step.kind == Kind::prepend) return start > 0 ? step.content.size() + start : 0;
    if (step.kind == Kind::replace) return step.pattern->replaced_start(text, step.content, start);
    if (step.kind == Kind::strip) return stripped(first, step.left, false).size();
    return apply(step, std::string(first)).size();  // of characters one by one
  }
  /// The characters of which `keep` says so.
  template <class Keep>
  [[nodiscard]] static std::string kept(std::string_view text, Keep keep) {
    std::string out;
    for (std::size_t position = 0; position < text.size();) {
      const CodePoint here = code_point_at(text, position);
      const std::size_t length = here.length == 0 ? 1 : here.length;
      if (here.length == 0 || keep(here.value)) out += text.substr(position, length);
      position += length;
    }
    return out;
  }
  [[nodiscard]] static std::string without_marks(std::string_view text) {
    return kept(text, [](char32_t point) { return !is_mark(point); });
  }
  /// BERT's, as Hugging Face's library does it: white space is a space; controls, formats and private characters go, unassigned ones stay.
  [[nodiscard]] static std::string cleaned(std::string_view text) {
    std::string out;
    for (std::size_t position = 0; position < text.size();) {
      const CodePoint here = code_point_at(text, position);
      const std::size_t length = here.length == 0 ? 1 : here.length;
      const bool blank = here.value == '\t' || here.value == '\n' || here.value == '\r';
      const utf8proc_category_t kind = category(here.value);
      const bool other = kind >= UTF8PROC_CATEGORY_CC && kind <= UTF8PROC_CATEGORY_CO;
      if (blank || (!other && is_white_space(here.value)))
        out += ' ';
      else if (!other && here.value != 0xFFFDU)
        out += text.substr(position, length);
      position += length;
    }
    return out;
  }
  /// Sentencepiece's rules for machine translation, as Hugging Face's library has them: controls go, what separates words is a space.
  [[nodiscard]] static std::string nmt(std::string_view text) {
    const auto is_control = [](char32_t point) {
      return (point >= 0x01 && point <= 0x08) || point == 0x0B || (point >= 0x0E && point <= 0x1F) || point == 0x7F || point == 0x8F ||
             point == 0x9F;
    };
    const auto separates = [](char32_t point) {
      return point == 0x09 || point == 0x0A || point == 0x0C || point == 0x0D || point == 0x1680 || (point >= 0x200B && point <= 0x200F) ||
             point == 0x2028 || point == 0x2029 || point == 0x2581 || point == 0xFEFF || point == 0xFFFD;
    };
    std::string out;
    for (std::size_t position = 0; position < text.size();) {
      const CodePoint here = code_point_at(text, position);
      const std::size_t length = here.length == 0 ? 1 : here.length;
      if (separates(here.value))
        out += ' ';
      else if (!is_control(here.value))
        out += text.substr(position, length);
      position += length;
    }
    return out;
  }
  /// BERT's: a space on both sides of every Han character.
  [[nodiscard]] static std::string spaced_han(std::string_view text) {
    static constexpr std::array<std::pair<char32_t, char32_t>, 8> blocks{{{0x4E00, 0x9FFF},
                                                                          {0x3400, 0x4DBF},
                                                                          {0x20000, 0x2A6DF},
                                                                          {0x2A700, 0x2B73F},
                                                                          {0x2B740, 0x2B81F},
                                                                          {0x2B920, 0x2CEAF},
                                                                          {0xF900, 0xFAFF},
                                                                          {0x2F800, 0x2FA1F}}};
    std::string out;
    for (std::size_t position = 0; position < text.size();) {
      const CodePoint here = code_point_at(text, position);
      const std::string_view character = text.substr(position, here.length == 0 ? 1 : here.length);
      const bool han = std::any_of(blocks.begin(), blocks.end(),
                                   [&](const auto& block) { return here.value >= block.first && here.value <= block.second; });
      if (han)
        out.append(1, ' ').append(character).append(1, ' ');
      else
        out += character;
      position += character.size();
    }
    return out;
  }
  [[nodiscard]] static std::string stripped(std::string_view text, bool left, bool right) {
    while (left && !text.empty()) {
      const CodePoint first = code_point_at(text, 0);
      if (first.length == 0 || !is_white_space(first.value)) break;
      text.remove_prefix(first.length);
    }
    while (right && !text.empty()) {
      const CodePoint last = code_point_before(text, text.size());
      if (last.length == 0 || !is_white_space(last.value)) break;
      text.remove_suffix(last.length);
    }
    return std::string(text);
  }

  void read_step(const Json& document, const std::string& where) {
    JsonFields fields(document, where);
    const std::string type = fields.text("type");
    Step step;
    if (type == "Sequence") {
      const Json& list = fields.list("normalizers");
      for (std::size_t i = 0; i < list.size(); ++i) read_step(list[i], json_element(where + ".normalizers", i));
      return fields.finish();
    }
    if (type == "NFC") {
      step.kind = Kind::nfc;
    } else if (type == "NFD") {
      step.kind = Kind::nfd;
    } else if (type == "NFKC") {
      step.kind = Kind::nfkc;
    } else if (type == "NFKD") {
      step.kind = Kind::nfkd;
    } else if (type == "Nmt") {
      step.kind = Kind::nmt;
    } else if (type == "Lowercase") {
      step.kind = Kind::lower_case;
    } else if (type == "StripAccents") {
      step.kind = Kind::strip_accents;
    } else if (type == "ByteLevel") {
      step.kind = Kind::byte_level;
    } else if (type == "Precompiled") {
      const std::string encoded = fields.text("precompiled_charsmap");
      const std::optional<std::string> bytes = base64_bytes(encoded);
      if (!bytes) raise(ErrorKind::file, fields.path("precompiled_charsmap"), ": is not base64");
      step.kind = Kind::precompiled;
      step.map = std::make_shared<const CharacterMap>(*bytes, fields.path("precompiled_charsmap"));
    } else if (type == "BertNormalizer") {
      const auto also = [&](Kind kind, bool wanted) {
        if (wanted) steps_.emplace_back().kind = kind;
      };
      const bool lower = fields.flag("lowercase", true);
      also(Kind::clean, fields.flag("clean_text", true));
      also(Kind::space_han, fields.flag("handle_chinese_chars", true));
      also(Kind::strip_nonspacing, fields.flag("strip_accents", lower));
      also(Kind::lower_case, lower);
      return fields.finish();
    } else if (type == "Strip") {
      step.kind = Kind::strip;
      step.left = fields.flag("strip_left", true);
      step.right = fields.flag("strip_right", true);
    } else if (type == "Prepend") {
      step.kind = Kind::prepend;
      step.content = fields.text("prepend");
    } else if (type == "Replace") {
      step.kind = Kind::replace;
      step.pattern = TextPattern::read(fields, "pattern");
      step.content = fields.text("content");
    } else {
      unknown_type(
          fields, type,
          "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace, ByteLevel, Precompiled, BertNormalizer, Nmt, Sequence");
    }
    fields.finish();
    steps_.push_back(std::move(step));
  }

  std::vector<Step> steps_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
