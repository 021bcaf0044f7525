// Regular expressions as tokenizer files write them (Oniguruma's dialect), run by PCRE2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizers/spares.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Words, and what stands between words and white space, with the word character of UTS 18: joiners are parts of words, fractions are not.
inline constexpr std::string_view words_pattern =
    R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}]+)"
    R"(|[^\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}\s]+)";

/// An expression in Oniguruma's dialect as PCRE2 reads it. What the two read differently is spelled out: \s is Unicode's White_Space (PCRE2
/// adds U+180E), \w is Oniguruma's word character (alphabetic, marks, decimal digits, connectors, and Latin-1's other numbers) and \b the
/// border of such words, \h a hexadecimal digit, [:alpha:] Alphabetic, [:punct:] punctuation and symbols, a script is the property Script
/// (PCRE2 takes its extensions too), a set within a set joins it, and an intersection of sets, as `[\p{L}&&[^\p{Han}]]`, is a set after a
/// lookahead. Fails (file) on a negated set within a set otherwise.
[[nodiscard]] inline std::string pcre2_pattern(std::string_view pattern, std::string_view where) {
  static constexpr std::string_view space = R"(\t-\r\x{85}\p{Z})", digits = "0-9A-Fa-f";
  static constexpr std::string_view word =
      R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
  static constexpr std::array<std::string_view, 10> scripts{"Han",   "Hiragana", "Katakana", "Hangul", "Latin",
                                                            "Greek", "Cyrillic", "Arabic",   "Hebrew", "Thai"};
  const auto refuse = [&](std::string_view what) {
    raise(ErrorKind::file, where, ": regular expression \"", printable(pattern, 300), "\": ", what, " is not read here");
  };
  std::string out;
  int depth = 0;              // of sets
  std::size_t set_begin = 0;  // in `out`, of the outermost
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char letter = pattern[i];
    const std::string_view rest = pattern.substr(i + 1);
    if (letter == '[' && depth == 0) {
      depth = 1;
      set_begin = out.size();
      out += letter;
      if (rest.starts_with("^")) out += pattern[++i];
      if (pattern.substr(i + 1).starts_with("]")) {  // a bracket that stands first is a member
        out += R"(\])";
        ++i;
      }
    } else if (letter == '[' && !rest.starts_with(":")) {
      if (rest.starts_with("^")) refuse("a negated set within a set");
      ++depth;
    } else if (letter == '[') {  // [:alpha:]
      const std::size_t end = pattern.find(":]", i + 2);
      if (end == std::string_view::npos) refuse("a set that does not end");
      const std::string_view named = pattern.substr(i, end + 2 - i);
      if (named == "[:^punct:]") refuse(named);
      out += named == "[:alpha:]"    ? R"(\p{Alphabetic})"
             : named == "[:^alpha:]" ? R"(\P{Alphabetic})"
             : named == "[:punct:]"  ? R"(\p{P}\p{S})"
                                     : named;
      i = end + 1;
    } else if (letter == ']' && depth > 0) {
      if (--depth == 0) out += letter;
    } else if (letter == '&' && depth > 0 && rest.starts_with("&")) {
      const std::size_t end = std::min(rest.find_first_of("[]", 2), rest.size());  // of the second set
      const bool plain =
          depth == 1 && out[set_begin + 1] != '^' && rest.starts_with("&[") && rest.substr(end).starts_with("]]") && rest[end - 1] != '\\';
      if (!plain) refuse("an intersection of sets that is not like [a&&[b]]");
      out.insert(set_begin, message("(?:(?=", pcre2_pattern(rest.substr(1, end), where), ")"));
      out += "])";
      i += end + 2;
      depth = 0;
    } else if (letter != '\\' || rest.empty()) {
      out += letter;
    } else {
      const char next = pattern[++i];
      const std::string_view members = next == 's' || next == 'S' ? space : next == 'w' || next == 'W' ? word : digits;
      if (next == 's' || next == 'w' || next == 'h') {
        out += depth > 0 ? std::string(members) : message("[", members, "]");
      } else if (next == 'S' || next == 'W' || next == 'H') {
        if (depth > 0 && next != 'S') refuse(message("\\", next, " within a set"));
        out += depth > 0 ? std::string(R"(\S)") : message("[^", members, "]");
      } else if ((next == 'b' || next == 'B') && depth == 0) {
        const std::string before = message("(?<=[", word, "])"), after = message("(?=[", word, "])");
        const std::string not_before = message("(?<![", word, "])"), not_after = message("(?![", word, "])");
        out += next == 'b' ? message("(?:", before, not_after, "|", not_before, after, ")")
                           : message("(?:", before, after, "|", not_before, not_after, ")");
      } else {
        out += '\\';
        out += next;
        if (next == 'p' || next == 'P')
          for (const std::string_view script : scripts)
            if (rest.substr(1).starts_with(message("{", script, "}"))) {
              out += "{sc:";
              ++i;
              break;
            }
      }
    }
  }
  return out;
}

/// A compiled expression. Looking for matches changes nothing in it, so threads may share one.
class Regex {
 public:
  /// Of one search, as PCRE2 counts them.
  static constexpr std::uint32_t most_steps = 20'000'000;

  /// Fails (file), naming `where`, the expression and the place in it, on what PCRE2 does not accept.
  Regex(std::string_view pattern, std::string_view where) : pattern_(pattern) {
    const std::string translated = pcre2_pattern(pattern, where);
    int code = 0;
    std::size_t offset = 0;
    // ^ and $ are those of lines in Oniguruma. Never \C: it could cut a character in two.
    code_.reset(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(translated.data()), translated.size(),
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset, nullptr));
    if (!code_)
      raise(ErrorKind::file, where, ": regular expression \"", printable(pattern, 300), "\": ", error_text(code), " at byte ", offset,
            " of what PCRE2 reads, \"", printable(translated, 300), "\"");
    jit_ = pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  [[nodiscard]] const std::string& pattern() const { return pattern_; }

  /// What one search needs to work in; made once for many texts, used by one thread.
  class Scratch {
   public:
    explicit Scratch(const Regex& regex)
        : match_(pcre2_match_data_create_from_pattern_8(regex.code_.get(), nullptr), pcre2_match_data_free_8),
          context_(pcre2_match_context_create_8(nullptr), pcre2_match_context_free_8),
          stack_(pcre2_jit_stack_create_8(std::size_t{32} << 10U, std::size_t{16} << 20U, nullptr), pcre2_jit_stack_free_8) {
      if (!match_ || !context_ || !stack_) raise(ErrorKind::limit, "there is not enough memory for a regular expression");
      pcre2_jit_stack_assign_8(context_.get(), nullptr, stack_.get());
      pcre2_set_match_limit_8(context_.get(), most_steps);
    }

   private:
    friend class Regex;
    std::unique_ptr<pcre2_match_data_8, void (*)(pcre2_match_data_8*)> match_;
    std::unique_ptr<pcre2_match_context_8, void (*)(pcre2_match_context_8*)> context_;
    std::unique_ptr<pcre2_jit_stack_8, void (*)(pcre2_jit_stack_8*)> stack_;
  };

  /// A place to work in, to be given back.
  [[nodiscard]] std::unique_ptr<Scratch> take_scratch() const {
    return spares_.take([this] { return std::make_unique<Scratch>(*this); });
  }
  void give_scratch(std::unique_ptr<Scratch> scratch) const noexcept { spares_.give(std::move(scratch)); }

  /// The first match in `text` that begins at `from` or later. `text` is well-formed UTF-8. Fails (limit) on an expression that takes too
  /// long on this text.
  [[nodiscard]] std::optional<Span> find(std::string_view text, std::size_t from, Scratch& scratch) const {
    const auto subject = reinterpret_cast<PCRE2_SPTR8>(text.data() == nullptr ? "" : text.data());
    const int found =
        jit_ ? pcre2_jit_match_8(code_.get(), subject, text.size(), from, 0, scratch.match_.get(), scratch.context_.get())
             : pcre2_match_8(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, scratch.match_.get(), scratch.context_.get());
    if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (found < 0)
      raise(ErrorKind::limit, "the regular expression \"", printable(pattern_, 200), "\" cannot be matched against this text: ",
            found == PCRE2_ERROR_MATCHLIMIT ? message("it takes more than ", most_steps, " steps") : error_text(found));
    const std::size_t* const ends = pcre2_get_ovector_pointer_8(scratch.match_.get());
    // A \K in a lookahead could set the end before the beginning.
    return Span{ends[0], ends[1] < ends[0] ? ends[0] : ends[1]};
  }

 private:
  [[nodiscard]] static std::string error_text(int code) {
    std::array<PCRE2_UCHAR8, 200> text{};
    pcre2_get_error_message_8(code, text.data(), text.size());
    return reinterpret_cast<const char*>(text.data());
  }

  std::string pattern_;
  std::unique_ptr<pcre2_code_8, void (*)(pcre2_code_8*)> code_{nullptr, pcre2_code_free_8};
  bool jit_ = false;
  Spares<Scratch> spares_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
