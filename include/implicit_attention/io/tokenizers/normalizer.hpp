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

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/tokenizers/byte_alphabet.hpp>
#include <implicit_attention/io/tokenizers/character_map.hpp>
#include <implicit_attention/io/tokenizers/json_fields.hpp>
#include <implicit_attention/io/tokenizers/text_changes.hpp>
#include <implicit_attention/io/tokenizers/text_limit.hpp>
#include <implicit_attention/io/tokenizers/text_pattern.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

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
    std::string where = "a tokenizer's normalizer";     ///< its name in messages
  };

  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
  /// No steps where there is no document. Fails (file) on a type or key that is not known.
  [[nodiscard]] static Normalizer read(const Json* document, const std::string& where);

  [[nodiscard]] bool empty() const { return steps_.empty(); }
  [[nodiscard]] bool has(Kind kind) const {
    for (const Step& step : steps_)
      if (step.kind == kind) return true;
    return false;
  }
  /// Fails (limit) where the steps write far more than they read, see TextLimit.
  [[nodiscard]] std::string operator()(std::string_view text) const {
    std::string out(text);
    for (const Step& step : steps_) out = apply(step, std::move(out), TextLimit::of(text.size()));
    return out;
  }
  /// The same of a text that begins where the whole one does; `start` becomes how many of its first bytes stand for the whole text's first
  /// character, or were put before it: 0 where that was removed, so that no piece begins where the text did.
  [[nodiscard]] std::string operator()(std::string_view text, std::size_t& start) const {
    std::string out(text);
    for (const Step& step : steps_) {
      start = start_after(step, out, start);
      out = apply(step, std::move(out), TextLimit::of(text.size()));
      while (start > 0 && start < out.size() && utf8_character_size(out, start) == 0) ++start;  // joined with an accent behind it
      start = std::min(start, out.size());
    }
    return out;
  }

 private:
  [[nodiscard]] static std::string apply(const Step& step, std::string text, std::size_t most) {
    const TextLimit limit{most, step.where};
    std::string out = changed(step, std::move(text), limit);
    limit.check(out.size());
    return out;
  }
  [[nodiscard]] static std::string changed(const Step& step, std::string text, const TextLimit& limit) {
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
        return step.pattern->replaced(text, step.content, limit);
      case Kind::precompiled:
        return (*step.map)(text, limit);
      case Kind::clean:
        return cleaned(text);
      case Kind::space_han:
        return spaced_han(text);
      case Kind::strip_nonspacing:
        return characters_kept(normalized(text, NormalForm::nfd), [](char32_t point) { return category(point) != UTF8PROC_CATEGORY_MN; });
      case Kind::nmt:
        return normalized_for_translation(text);
      case Kind::byte_level:
        break;
    }
    std::string out;
    ByteAlphabet::instance().append(out, text);
    return out;
  }
  /// `start` bytes stand for the first character before a step: how many do after it.
  [[nodiscard]] static std::size_t start_after(const Step& step, std::string_view text, std::size_t start) {
    const std::string_view first = text.substr(0, start);
    if (step.kind == Kind::prepend) return start > 0 ? step.content.size() + start : 0;
    if (step.kind == Kind::replace) return step.pattern->replaced_start(text, step.content, start);
    if (step.kind == Kind::strip) return stripped(first, step.left, false).size();
    return changed(step, std::string(first), {}).size();  // it changes characters one by one
  }

  std::vector<Step> steps_;
};

/// A step that needs no more than its name.
[[nodiscard]] inline std::optional<Normalizer::Kind> normalizer_kind(std::string_view type) {
  using Kind = Normalizer::Kind;
  constexpr std::array<std::pair<std::string_view, Kind>, 8> kinds{{{"NFC", Kind::nfc},
                                                                    {"NFD", Kind::nfd},
                                                                    {"NFKC", Kind::nfkc},
                                                                    {"NFKD", Kind::nfkd},
                                                                    {"Nmt", Kind::nmt},
                                                                    {"Lowercase", Kind::lower_case},
                                                                    {"StripAccents", Kind::strip_accents},
                                                                    {"ByteLevel", Kind::byte_level}}};
  for (const auto& [name, kind] : kinds)
    if (name == type) return kind;
  return std::nullopt;
}

/// Adds the steps of one object of tokenizer.json.
inline void read_normalizer_steps(const Json& document, const std::string& where, std::vector<Normalizer::Step>& steps) {
  using Kind = Normalizer::Kind;
  JsonFields fields(document, where);
  const std::string type = fields.text("type");
  Normalizer::Step step;
  step.where = message(where, " (", type, ")");
  if (type == "Sequence") {
    const Json& list = fields.list("normalizers");
    for (std::size_t i = 0; i < list.size(); ++i) read_normalizer_steps(list[i], json_element(where + ".normalizers", i), steps);
    return fields.finish();
  }
  if (const std::optional<Kind> plain = normalizer_kind(type)) {
    step.kind = *plain;
  } else if (type == "Precompiled") {
    const std::string encoded = fields.text("precompiled_charsmap");
    const std::optional<std::string> bytes = base64_bytes(encoded);
    if (!bytes) raise(ErrorKind::file, fields.path("precompiled_charsmap"), ": is not base64");
    step.kind = Kind::precompiled;
    step.map = std::make_shared<const CharacterMap>(*bytes, fields.path("precompiled_charsmap"));
  } else if (type == "BertNormalizer") {
    const auto also = [&](Kind kind, bool wanted) {
      step.kind = kind;
      if (wanted) steps.push_back(step);
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
  steps.push_back(std::move(step));
}

inline Normalizer Normalizer::read(const Json* document, const std::string& where) {
  std::vector<Step> steps;
  if (document != nullptr) read_normalizer_steps(*document, where, steps);
  return Normalizer(std::move(steps));
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
