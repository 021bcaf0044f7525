// Pieces of a text, and how they are cut into smaller ones.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/io/tokenizers/text_pattern.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// A piece of a text. `start`: how many of its first bytes stand for the whole text's first character, or were put before it; 0 where it
/// begins further on. Several pieces may begin at the start: a prefix, and what it was put before.
struct Piece {
  std::string_view text;
  std::size_t start = 0;

  [[nodiscard]] Piece part(std::size_t begin, std::size_t end) const {
    return {text.substr(begin, end - begin), std::min(end, std::max(start, begin)) - begin};
  }
};

/// Pieces of a text, and the memory of those that are no longer parts of it.
struct Pieces {
  std::vector<Piece> list;
  std::deque<std::string> owned;
};

/// What becomes of matches. `contiguous`: neighbours of one sort, matches or not, become one piece.
enum class CutBehaviour { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// How to cut a text: by a pattern, by a class of characters, or every so many characters.
struct TextCut {
  std::optional<TextPattern> pattern;
  bool (*is_match)(char32_t) = nullptr;  ///< a class of characters, where there is no pattern
  std::size_t length = 0;                ///< that many characters, where this is above 0 and there is no pattern
  CutBehaviour behaviour = CutBehaviour::isolated;
  bool invert = false;  ///< what stands between matches counts as the match
};

/// Bytes of a text, and whether they are a match.
struct TextPart {
  std::size_t begin, end;
  bool matched;
};

/// Joins parts as the behaviour says, and puts those that are kept behind the other pieces.
inline void put_text_parts(CutBehaviour behaviour, const Piece& piece, std::vector<TextPart>& parts, std::vector<Piece>& out) {
  const auto put = [&](const TextPart& part) {
    if (part.begin < part.end) out.push_back(piece.part(part.begin, part.end));
  };
  if (behaviour == CutBehaviour::isolated || behaviour == CutBehaviour::removed) {
    for (const TextPart& part : parts)
      if (behaviour == CutBehaviour::isolated || !part.matched) put(part);
    return;
  }
  // A match joins the neighbour that is not a match; of several matches in a row, only the one beside it does.
  std::size_t kept = 0;
  if (behaviour == CutBehaviour::merged_with_next) {
    bool later_matched = false;
    std::vector<TextPart> reversed;
    for (std::size_t i = parts.size(); i-- > 0;) {
      if (parts[i].matched && !later_matched && !reversed.empty())
        reversed.back().begin = parts[i].begin;
      else
        reversed.push_back(parts[i]);
      later_matched = parts[i].matched;
    }
    for (std::size_t i = reversed.size(); i-- > 0;) put(reversed[i]);
    return;
  }
  bool earlier_matched = false;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const bool matched = parts[i].matched;
    const bool joins = kept > 0 && (behaviour == CutBehaviour::contiguous ? matched == earlier_matched : matched && !earlier_matched);
    if (joins)
      parts[kept - 1].end = parts[i].end;
    else
      parts[kept++] = parts[i];
    earlier_matched = matched;
  }
  parts.resize(kept);
  for (const TextPart& part : parts) put(part);
}

/// Cuts many texts in one way. The description of the cut must outlive it.
class TextCutter {
 public:
  explicit TextCutter(const TextCut& how) : how_(how) {
    if (how.pattern) search_.emplace(*how.pattern);
  }
  void operator()(const Piece& piece, std::vector<Piece>& out) {
    parts_.clear();
    search_ ? by_pattern(piece.text) : how_.length > 0 ? by_length(piece.text) : by_characters(piece.text);
    put_text_parts(how_.behaviour, piece, parts_, out);
  }

 private:
  void by_pattern(std::string_view text) {
    search_->split(text, [&](std::size_t begin, std::size_t end, bool matched) { parts_.push_back({begin, end, matched != how_.invert}); });
  }
  void by_length(std::string_view text) {
    std::size_t begin = 0, characters = 0;
    for (std::size_t position = 0; position < text.size();) {
      position += std::max<std::size_t>(code_point_at(text, position).length, 1);
      if (++characters < how_.length && position < text.size()) continue;
      parts_.push_back({begin, position, true});
      begin = position;
      characters = 0;
    }
  }
  void by_characters(std::string_view text) {
    std::size_t rest = 0;
    for (std::size_t position = 0; position < text.size();) {
      const CodePoint here = code_point_at(text, position);
      const std::size_t next = position + std::max<std::size_t>(here.length, 1);
      if (how_.is_match(here.value)) {
        if (rest < position) parts_.push_back({rest, position, how_.invert});
        parts_.push_back({position, next, !how_.invert});
        rest = next;
      }
      position = next;
    }
    if (rest < text.size()) parts_.push_back({rest, text.size(), how_.invert});
  }

  const TextCut& how_;
  std::optional<TextPattern::Search> search_;
  std::vector<TextPart> parts_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
