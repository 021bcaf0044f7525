// Scores in the terminal: coloured tokens where colours can be seen, a plain aligned table where they cannot.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>

#include "colour.hpp"

namespace implicit_attention::examples {

enum class ColourDepth { none, palette256, truecolour };

/// What a stream can show.
struct Terminal {
  ColourDepth colours = ColourDepth::none;
  int width = 80;            ///< columns
  bool interactive = false;  ///< a person's terminal, not a pipe or a file, nor TERM=dumb
  bool unicode = true;       ///< the locale is UTF-8
};

/// Reads an environment variable; null where it is unset (as std::getenv).
using Environment = std::function<const char*(const char*)>;

/// What `stream` can show. Colours are for terminals. NO_COLOR (non-empty), CLICOLOR=0 and TERM=dumb turn them off; CLICOLOR_FORCE
/// (neither empty nor 0) turns them on whatever the stream is, unless NO_COLOR says otherwise. COLORTERM (truecolor, 24bit) and TERM
/// (direct) tell 24-bit terminals from those with 256 colours.
[[nodiscard]] Terminal terminal_of(std::FILE* stream);
/// The same rules over given facts; `width` 0 or less: taken from COLUMNS, else 80.
[[nodiscard]] Terminal terminal_of(bool interactive, int width, const Environment& environment);

/// A sentence and its scores.
struct TokenScores {
  std::string title;                     ///< a line above; may be empty
  std::vector<std::string> tokens;       ///< as they are to be read; control characters are shown escaped, never written raw
  std::vector<double> scores;            ///< one per token
  std::vector<Index> ids;                ///< one per token, for the table; empty: not shown
  std::string value_name = "relevance";  ///< what is measured
  Palette palette = Palette::automatic;  ///< sequential (white to orange) where no score is negative, else blue-white-red
  std::string separator = " ";           ///< between tokens in coloured text: a space for words, nothing for bytes and symbols
  bool with_legend = true;               ///< whether a legend stands below coloured text
};

/// The sentence on coloured backgrounds, wrapped at the terminal's width, with a legend; without colours the table of `score_table`.
/// Fails (shape) where scores do not match tokens or there are none.
[[nodiscard]] std::string show_tokens(const TokenScores& scores, const Terminal& terminal);
/// Position, token, score and a bar, one line each; no escape sequences.
[[nodiscard]] std::string score_table(const TokenScores& scores, const Terminal& terminal);

/// Writes `text`, in ASCII where the locale has nothing else.
void print(const std::string& text, const Terminal& terminal, std::FILE* stream = stdout);

}  // namespace implicit_attention::examples
