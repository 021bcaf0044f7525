// A text or an expression to look for in text ("Replace" and "Split" in tokenizer.json).
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/tokenizers/json_fields.hpp>
#include <implicit_attention/io/tokenizers/regex.hpp>
#include <implicit_attention/io/tokenizers/text_limit.hpp>
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

  /// A search for it, with the memory that it works in; one serves many texts. The pattern must outlive it.
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
    /// the match before it ended. Nothing matches in an empty text, as in Hugging Face's library.
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

  [[nodiscard]] std::string replaced(std::string_view text, std::string_view content, const TextLimit& limit = {}) const {
    std::string out;
    out.reserve(text.size());
    Search(*this).split(text, [&](std::size_t begin, std::size_t end, bool matched) {
      limit.append(out, matched ? content : text.substr(begin, end - begin));
    });
    return out;
  }
  /// Of a text whose first `start` bytes stand for the whole text's first character: how many do in `replaced(text, content)`. A
  /// replacement stands where the match's last byte did.
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

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
