// Scores in the terminal: coloured tokens where colours can be seen, a plain aligned table where they cannot; a progress bar.
#pragma once

#include <chrono>
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

/// A bar on stderr for anything that takes over a second: silent unless stderr is a terminal, drawn at most ten times a second,
/// erased at the end. Not for several threads at once.
class ProgressBar {
 public:
  using Clock = std::chrono::steady_clock;
  ProgressBar(std::string what, Index total);
  /// For tests: any stream, terminal and first delay.
  ProgressBar(std::string what, Index total, std::FILE* stream, const Terminal& terminal, Clock::duration first_delay);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();

  /// `steps` more of `total` are done.
  void advance(Index steps = 1);
  /// What is shown as done and as the whole, in the place of steps: steps may weigh pieces of work that people count.
  void count(Index done, Index total);
  /// Changes the words in front of the bar.
  void describe(std::string what);
  /// Erases the bar; nothing is drawn afterwards.
  void finish();

 private:
  void draw();
  std::string what_;
  Index total_ = 0, done_ = 0;
  Index shown_done_ = -1, shown_total_ = -1;  // below 0: the steps
  std::FILE* stream_;
  Terminal terminal_;
  Clock::time_point start_, next_;
  int drawn_width_ = 0;  // columns to erase
  bool finished_ = false;
};

}  // namespace implicit_attention::examples
