#include "terminal.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utility>

#include <implicit_attention/core/error.hpp>

#include "colour_scale.hpp"
#include "numbers.hpp"
#include "text.hpp"

namespace implicit_attention::examples {
namespace {

std::string value_of(const Environment& environment, const char* name) {
  const char* value = environment(name);
  return value == nullptr ? std::string() : std::string(value);
}

bool holds(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

bool utf8_locale(const Environment& environment) {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string value = value_of(environment, name);
    if (!value.empty()) return holds(value, "UTF-8") || holds(value, "utf8") || holds(value, "utf-8") || holds(value, "UTF8");
  }
  return false;
}

// The colour of the 256-colour palette's cube (16 to 231) and grey ramp (232 to 255) that looks nearest; the first 16 are the user's own.
int nearest_of_256(Colour colour) {
  static constexpr std::array<int, 6> levels{0, 95, 135, 175, 215, 255};
  const auto byte = [](int value) { return static_cast<std::uint8_t>(value); };
  int best = 16;
  double least = 10;
  for (int index = 16; index < 256; ++index) {
    const int cube = index - 16, grey = 8 + 10 * (index - 232);
    const auto level = [&](int place) { return byte(levels[static_cast<std::size_t>(place)]); };
    const Colour candidate =
        index < 232 ? Colour{level(cube / 36), level(cube / 6 % 6), level(cube % 6)} : Colour{byte(grey), byte(grey), byte(grey)};
    const double here = difference(candidate, colour);
    if (here < least) {
      least = here;
      best = index;
    }
  }
  return best;
}

constexpr const char* reset = "\x1b[0m";

std::string code(ColourDepth depth, Colour colour, bool background) {
  const char* layer = background ? "48" : "38";
  if (depth == ColourDepth::palette256) return detail::message("\x1b[", layer, ";5;", nearest_of_256(colour), "m");
  return detail::message("\x1b[", layer, ";2;", int{colour.red}, ";", int{colour.green}, ";", int{colour.blue}, "m");
}

std::string painted(const Terminal& terminal, Colour background, const std::string& text) {
  return code(terminal.colours, background, true) + code(terminal.colours, readable_on(background), false) + text + reset;
}

ColourScale scale_of(const TokenScores& scores) {
  if (scores.tokens.size() != scores.scores.size() || scores.tokens.empty()) {
    detail::raise(ErrorKind::shape, "token scores: ", scores.tokens.size(), " tokens and ", scores.scores.size(),
                  " scores, expected one score per token, and at least one");
  }
  ColourScale scale;
  bool negative = false;
  double limit = 0;
  for (const double score : scores.scores) {
    if (!std::isfinite(score)) continue;
    limit = std::max(limit, std::abs(score));
    negative = negative || score < 0;
  }
  const bool diverging = scores.palette == Palette::diverging || (scores.palette == Palette::automatic && negative);
  scale.kind = diverging ? ColourScale::Kind::diverging : ColourScale::Kind::highlight;
  scale.limit = limit > 0 ? limit : 1;
  return scale;
}

std::string legend(const ColourScale& scale, const TokenScores& scores, const Terminal& terminal) {
  const std::string low = scale.kind == ColourScale::Kind::diverging ? detail::message("-", significant(scale.limit)) : "0";
  const std::string high = detail::message(" ", significant(scale.limit), "  ", visible(scores.value_name));
  const int room = terminal.width - display_width(low) - 1 - display_width(high);
  const int steps = std::clamp(std::min(std::max(terminal.width - 40, 8), room), 2, 24);
  std::string bar;
  for (int step = 0; step < steps; ++step) {
    const double place = scale.kind == ColourScale::Kind::diverging ? static_cast<double>(step) / (steps - 1) : (step + 1.0) / steps;
    bar += code(terminal.colours, scale.colour_at(place), true) + " ";
  }
  return low + " " + bar + reset + high + "\n";
}

/// Text as this terminal can show it.
std::string shown(const std::string& text, const Terminal& terminal) { return terminal.unicode ? visible(text) : ascii(visible(text)); }

std::string titled(const TokenScores& scores) { return scores.title.empty() ? std::string() : visible(scores.title) + "\n"; }

// A bar from an axis to the right, in eighths of a column, or with `#`.
std::string rightward(double columns, bool unicode) {
  static constexpr std::array<const char*, 8> eighths{"", "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589"};
  if (!unicode) return std::string(static_cast<std::size_t>(std::lround(columns)), '#');
  const long total = std::lround(8 * columns);
  std::string bar;
  for (long k = 0; k < total / 8; ++k) bar += "\u2588";
  return bar + eighths[static_cast<std::size_t>(total % 8)];
}

// A bar from an axis to the left: Unicode has a right half block, but no other right-hand fractions in every font.
std::string leftward(double columns, bool unicode) {
  if (!unicode) return std::string(static_cast<std::size_t>(std::lround(columns)), '#');
  const long halves = std::lround(2 * columns);
  std::string bar = halves % 2 != 0 ? "\u2590" : "";
  for (long k = 0; k < halves / 2; ++k) bar += "\u2588";
  return bar;
}

}  // namespace

Terminal terminal_of(bool interactive, int width, const Environment& environment) {
  Terminal terminal;
  const std::string term = value_of(environment, "TERM"), depth = value_of(environment, "COLORTERM"),
                    force = value_of(environment, "CLICOLOR_FORCE");
  const bool dumb = term == "dumb" || term.empty();
  terminal.interactive = interactive && !dumb;
  const bool forced = !force.empty() && force != "0";
  const bool refused = !value_of(environment, "NO_COLOR").empty();
  if (!refused && (forced || (terminal.interactive && value_of(environment, "CLICOLOR") != "0"))) {
    const bool full = depth == "truecolor" || depth == "24bit" || holds(term, "direct");
    terminal.colours = full ? ColourDepth::truecolour : ColourDepth::palette256;
  }
  if (width <= 0) width = std::atoi(value_of(environment, "COLUMNS").c_str());
  terminal.width = width > 0 ? std::clamp(width, 20, 1000) : 80;
  terminal.unicode = utf8_locale(environment);
  return terminal;
}

Terminal terminal_of(std::FILE* stream) {
  const int descriptor = ::fileno(stream);
  winsize size{};
  const bool interactive = ::isatty(descriptor) != 0;
  const int width = interactive && ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
  return terminal_of(interactive, width, [](const char* name) -> const char* { return std::getenv(name); });
}

void print(const std::string& text, const Terminal& terminal, std::FILE* stream) {
  std::fputs((terminal.unicode ? text : ascii(text)).c_str(), stream);
}

std::string show_tokens(const TokenScores& scores, const Terminal& terminal) {
  if (terminal.colours == ColourDepth::none) return score_table(scores, terminal);
  const ColourScale scale = scale_of(scores);
  // Between tokens the paper is that of a score of zero, so that a sentence reads as highlighted text on any terminal's background.
  const Colour paper = scale.colour(0);
  const std::string separator = scores.separator == " " ? " " : visible(scores.separator);
  const int gap = display_width(separator);
  std::string out = titled(scores);
  int column = 0;
  for (std::size_t k = 0; k < scores.tokens.size(); ++k) {
    const std::string token = shown(scores.tokens[k], terminal);
    const int width = display_width(token);
    const Colour colour = scale.colour(scores.scores[k]);
    if (column > 0 && column + gap + width > terminal.width) {
      out += "\n";
      column = 0;
    }
    if (column > 0 && gap > 0) {
      out += painted(terminal, paper, separator);
      column += gap;
    }
    // A token wider than the terminal goes over several lines.
    std::string piece;
    int piece_width = 0;
    for (const char32_t point : code_points(token)) {
      const std::string letter = utf8(point);
      const int letter_width = display_width(letter);
      if (column + piece_width + letter_width > terminal.width) {
        out += painted(terminal, colour, piece) + "\n";
        piece.clear();
        column = piece_width = 0;
      }
      piece += letter;
      piece_width += letter_width;
    }
    if (!piece.empty()) out += painted(terminal, colour, piece);
    column += piece_width;
  }
  return out + "\n" + (scores.with_legend ? legend(scale, scores, terminal) : std::string());
}

std::string score_table(const TokenScores& scores, const Terminal& terminal) {
  const ColourScale scale = scale_of(scores);
  const bool diverging = scale.kind == ColourScale::Kind::diverging;
  const int exponent = static_cast<int>(std::floor(std::log10(scale.limit)));
  const auto number = [&](double score) {
    return exponent < -5 || exponent > 5 ? significant(score) : fixed(score, std::max(0, 2 - exponent));
  };
  std::vector<std::string> tokens, numbers;
  const bool with_ids = scores.ids.size() == scores.tokens.size();
  int longest_token = display_width("token"), id_width = 2, number_width = display_width(scores.value_name);
  for (std::size_t k = 0; k < scores.tokens.size(); ++k) {
    numbers.push_back(number(scores.scores[k]));
    number_width = std::max(number_width, display_width(numbers.back()));
    if (with_ids) id_width = std::max(id_width, display_width(detail::message(scores.ids[k])));
  }
  const int position_width = std::max(8, static_cast<int>(detail::message(scores.tokens.size() - 1).size()));
  // What a narrow terminal has no room for goes: bars, then ends of tokens.
  const int beside = terminal.width - position_width - number_width - (with_ids ? id_width + 2 : 0) - 4;
  for (const std::string& token : scores.tokens) {
    tokens.push_back(shown(shorten(visible(token), std::clamp(beside, 5, 28)), terminal));
    longest_token = std::max(longest_token, display_width(tokens.back()));
  }
  const int room = std::min(beside - longest_token - 2, 40);
  const bool bars = room >= 8;
  const int side = diverging ? (room - 1) / 2 : room;
  const std::string axis = terminal.unicode ? "\u2502" : "|";

  std::string out = titled(scores) + pad("position", position_width, true) + "  " + pad("token", longest_token) + "  " +
                    (with_ids ? pad("id", id_width, true) + "  " : "") + pad(visible(scores.value_name), number_width, true) + "\n";
  for (std::size_t k = 0; k < tokens.size(); ++k) {
    const double score = scores.scores[k];
    const double columns = std::isfinite(score) ? std::min(1.0, std::abs(score) / scale.limit) * side : 0;
    const bool left = score < 0;
    std::string line = pad(detail::message(k), position_width, true) + "  " + pad(tokens[k], longest_token) + "  " +
                       (with_ids ? pad(detail::message(scores.ids[k]), id_width, true) + "  " : "") + pad(numbers[k], number_width, true) +
                       "  ";
    if (bars && diverging) line += pad(left ? leftward(columns, terminal.unicode) : "", side, true) + axis;
    if (bars && !left) line += rightward(columns, terminal.unicode);
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace implicit_attention::examples
