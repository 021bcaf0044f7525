#include "token_strip.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>

#include "canvas.hpp"
#include "colour_scale.hpp"
#include "numbers.hpp"
#include "text.hpp"

namespace implicit_attention::examples {
namespace {

constexpr int page_width = 1800, column_gap = 36;
const TextStyle label_style{30, {24, 26, 32}, true};
const TextStyle token_style{28, {24, 26, 32}, false};
const TextStyle score_style{18, muted_ink, false};
constexpr Colour rule_colour{224, 226, 232}, empty_bar_colour{233, 235, 240}, bar_colour{92, 97, 108}, outline_colour{221, 223, 230};

// How tokens stand: words as boxes with their scores below, letters and bytes close together without.
struct BoxStyle {
  int height, padding, gap, line_gap;
  double radius;
  bool scores;
};
constexpr BoxStyle word_boxes{74, 12, 7, 12, 9, true};
constexpr BoxStyle letter_boxes{50, 5, 2, 8, 5, false};

void check(const TokenStrips& strips) {
  if (strips.strips.empty()) detail::raise(ErrorKind::shape, "token strips: nothing to draw, expected at least one strip");
  for (const TokenStrip& strip : strips.strips) {
    if (!strip.tokens.empty() && strip.tokens.size() == strip.scores.size()) continue;
    detail::raise(ErrorKind::shape, "token strips: ", strip.label.empty() ? "a strip" : visible(strip.label), " has ", strip.tokens.size(),
                  " tokens and ", strip.scores.size(), " scores, expected one score per token, and at least one");
  }
}

std::vector<ColourScale> scales_of(const TokenStrips& strips) {
  std::vector<ColourScale> scales(strips.strips.size());
  bool negative = false;
  double largest = 0;
  for (std::size_t k = 0; k < scales.size(); ++k) {
    scales[k].limit = 0;
    for (const double score : strips.strips[k].scores) {
      if (!std::isfinite(score)) continue;
      scales[k].limit = std::max(scales[k].limit, std::abs(score));
      negative = negative || score < 0;
    }
    largest = std::max(largest, scales[k].limit);
  }
  const bool diverging = strips.palette == Palette::diverging || (strips.palette == Palette::automatic && negative);
  for (ColourScale& scale : scales) {
    scale.kind = diverging ? ColourScale::Kind::diverging : ColourScale::Kind::highlight;
    if (strips.shared_scale) scale.limit = largest;
    if (scale.limit == 0) scale.limit = 1;
  }
  return scales;
}

BoxStyle boxes_of(const TokenStrips& strips) {
  std::size_t letters = 0, tokens = 0;
  for (const TokenStrip& strip : strips.strips) {
    for (const std::string& token : strip.tokens) letters += code_points(token).size();
    tokens += strip.tokens.size();
  }
  return static_cast<double>(letters) < 1.6 * static_cast<double>(tokens) ? letter_boxes : word_boxes;
}

std::string number_of(double score, double limit) {
  const int decimals = std::max(0, 1 - static_cast<int>(std::floor(std::log10(limit))));
  return with_minus(decimals > 4 || limit >= 1e4 ? significant(score, 2) : fixed(score, decimals));
}

// Places relative to the strip's own top left corner.
struct PlacedStrip {
  std::vector<DrawnToken> boxes;
  std::vector<std::string> words, numbers;
  int height = 0;
};

// How wide each box is, and what stands in it.
PlacedStrip measure(const Fonts& fonts, const TokenStrip& strip, const ColourScale& scale, const BoxStyle& style, int width) {
  PlacedStrip placed;
  for (std::size_t k = 0; k < strip.tokens.size(); ++k) {
    placed.words.push_back(fonts.shorten(visible(strip.tokens[k]), token_style, width - 2 * style.padding));
    placed.numbers.push_back(number_of(strip.scores[k], scale.limit));
    double inner = fonts.width(placed.words.back(), token_style);
    if (style.scores) inner = std::max(inner, fonts.width(placed.numbers.back(), score_style) - 8);
    placed.boxes.push_back({0, 0, static_cast<int>(std::ceil(inner)) + 2 * style.padding, style.height, scale.colour(strip.scores[k])});
  }
  return placed;
}

// The same sentence is laid out alike in every strip, so that strips can be compared word by word.
void align(const TokenStrips& strips, std::vector<PlacedStrip>& placed) {
  for (const TokenStrip& strip : strips.strips) {
    if (strip.tokens != strips.strips[0].tokens) return;
  }
  for (std::size_t k = 0; k < placed[0].boxes.size(); ++k) {
    int widest = 0;
    for (const PlacedStrip& strip : placed) widest = std::max(widest, strip.boxes[k].width);
    for (PlacedStrip& strip : placed) strip.boxes[k].width = widest;
  }
}

int lines_within(PlacedStrip& placed, const BoxStyle& style, int width) {
  int x = 0, line = 0;
  for (DrawnToken& box : placed.boxes) {
    if (x > 0 && x + box.width > width) {
      x = 0;
      ++line;
    }
    box.left = x;
    box.top = line * (style.height + style.line_gap);
    x += box.width + style.gap;
  }
  return line + 1;
}

// As few lines as the width allows, then lines of even length, so that no word stands alone on the last.
void wrap(PlacedStrip& placed, const BoxStyle& style, int width) {
  const int lines = lines_within(placed, style, width);
  int enough = width, little = 0;
  while (lines > 1 && enough - little > 1) {
    const int middle = (enough + little) / 2;
    (lines_within(placed, style, middle) <= lines ? enough : little) = middle;
  }
  lines_within(placed, style, enough);
  placed.height = lines * style.height + (lines - 1) * style.line_gap;
}

void draw_prediction(Canvas& canvas, const Fonts& fonts, const TokenStrip& strip, int left, int top, int width) {
  canvas.text(fonts, left, top + 34, fonts.shorten(visible(strip.prediction), label_style, width), label_style);
  if (strip.probability < 0) return;
  const double share = std::clamp(strip.probability, 0.0, 1.0);
  const int length = width - 96;
  canvas.fill_rounded(left, top + 51, length, 12, 6, empty_bar_colour);
  canvas.fill_rounded(left, top + 51, std::max(12, static_cast<int>(std::lround(share * length))), 12, 6, bar_colour);
  canvas.text(fonts, left + length + 12, top + 57 + centre_drop(caption_style), percent(share, share > 0.995 && share < 1 ? 1 : 0),
              caption_style);
}

// A small bar with its ends named; a strip with its own scale has no numbers to name in common, so its largest magnitude is `max`.
void draw_legend(Canvas& canvas, const Fonts& fonts, const TokenStrips& strips, const ColourScale& scale, int left, int middle) {
  const bool numbers = strips.shared_scale || strips.strips.size() == 1;
  const std::string high = numbers ? significant(scale.limit, 2) : "max";
  const std::string low = scale.kind == ColourScale::Kind::diverging ? with_minus("-" + high) : "0";
  constexpr int length = 300, thickness = 22;
  const double baseline = middle + centre_drop(caption_style);
  canvas.text(fonts, left, baseline, low, caption_style);
  const int start = left + static_cast<int>(std::ceil(fonts.width(low, caption_style))) + 12;
  canvas.fill(start - 1, middle - thickness / 2 - 1, length + 2, thickness + 2, rule_colour);
  for (int step = 0; step < length; ++step)
    canvas.fill(start + step, middle - thickness / 2, 1, thickness, scale.colour_at((step + 0.5) / length));
  const std::string words = visible(strips.value_name) + (numbers ? "" : ", relative to the largest in its row");
  canvas.text(fonts, start + length + 12, baseline, high + "    " + words, caption_style);
}

}  // namespace

DrawnTokenStrips write_token_strips(const std::string& path, const TokenStrips& strips) {
  check(strips);
  const Fonts fonts;
  const std::vector<ColourScale> scales = scales_of(strips);
  const BoxStyle style = boxes_of(strips);

  double widest_label = 0, widest_prediction = 0;
  Index missing = 0;
  bool probabilities = false;
  for (const TokenStrip& strip : strips.strips) {
    widest_label = std::max(widest_label, std::min(340.0, fonts.width(visible(strip.label), label_style)));
    widest_prediction = std::max(widest_prediction, std::min(300.0, fonts.width(visible(strip.prediction), label_style)));
    probabilities = probabilities || (strip.probability >= 0 && !strip.prediction.empty());
    missing += std::count_if(strip.scores.begin(), strip.scores.end(), [](double score) { return !std::isfinite(score); });
  }
  const int label_width = static_cast<int>(std::ceil(widest_label));
  const int prediction_width =
      widest_prediction > 0 ? std::max(static_cast<int>(std::ceil(widest_prediction)), probabilities ? 240 : 0) : 0;
  const int tokens_left = page_margin + label_width + (label_width > 0 ? column_gap : 0);
  const int tokens_width = page_width - page_margin - tokens_left - (prediction_width > 0 ? prediction_width + column_gap : 0);

  std::vector<PlacedStrip> placed;
  std::vector<std::string> title_lines, caption_lines;
  if (!strips.title.empty()) title_lines = fonts.wrap(visible(strips.title), title_style, page_width - 2 * page_margin);
  std::string notes = strips.caption.empty() ? "" : visible(strips.caption);
  if (missing > 0) notes += detail::message(notes.empty() ? "" : " ", "Grey: not a finite number.");
  if (!notes.empty()) caption_lines = fonts.wrap(notes, caption_style, page_width - 2 * page_margin);
  constexpr int row_gap = 48, legend_height = 56;
  const int head = title_lines.empty() ? 0 : static_cast<int>(title_lines.size()) * 50 + 22;
  int height = page_margin + head;
  for (std::size_t k = 0; k < strips.strips.size(); ++k) {
    placed.push_back(measure(fonts, strips.strips[k], scales[k], style, tokens_width));
  }
  align(strips, placed);
  for (PlacedStrip& strip : placed) {
    wrap(strip, style, tokens_width);
    strip.height = std::max(strip.height, prediction_width > 0 ? 74 : 0);
    height += strip.height + row_gap;
  }
  const int foot = height - row_gap / 2;
  height += legend_height + (caption_lines.empty() ? 0 : 12 + static_cast<int>(caption_lines.size()) * 32) + page_margin - row_gap / 2;

  Canvas canvas(page_width, height);
  for (std::size_t k = 0; k < title_lines.size(); ++k) {
    canvas.text(fonts, page_margin, page_margin + 32 + 50 * static_cast<double>(k), title_lines[k], title_style);
  }
  DrawnTokenStrips drawn{page_width, height, {}, {}};
  int top = page_margin + head;
  for (std::size_t k = 0; k < placed.size(); ++k) {
    const TokenStrip& strip = strips.strips[k];
    if (k > 0) canvas.fill(page_margin, top - row_gap / 2 - 1, page_width - 2 * page_margin, 2, rule_colour);
    canvas.text(fonts, page_margin, top + 34, fonts.shorten(visible(strip.label), label_style, 340), label_style);
    for (std::size_t token = 0; token < placed[k].boxes.size(); ++token) {
      DrawnToken& box = placed[k].boxes[token];
      box.left += tokens_left;
      box.top += top;
      const int rim = difference(box.colour, {255, 255, 255}) < 0.1 ? 2 : 0;  // so that a pale box is still a box
      if (rim > 0) canvas.fill_rounded(box.left, box.top, box.width, box.height, style.radius, outline_colour);
      canvas.fill_rounded(box.left + rim, box.top + rim, box.width - 2 * rim, box.height - 2 * rim, style.radius - rim, box.colour);
      TextStyle word = token_style, number = score_style;
      word.colour = number.colour = readable_on(box.colour);
      const double middle = box.left + box.width / 2.0;
      canvas.text(fonts, middle, box.top + (style.scores ? 34 : style.height / 2.0 + centre_drop(word)), placed[k].words[token], word,
                  Anchor::middle);
      if (style.scores) canvas.text(fonts, middle, box.top + 61, placed[k].numbers[token], number, Anchor::middle);
    }
    if (prediction_width > 0) draw_prediction(canvas, fonts, strip, page_width - page_margin - prediction_width, top, prediction_width);
    drawn.tokens.push_back(placed[k].boxes);
    top += placed[k].height + row_gap;
  }
  canvas.fill(page_margin, foot - 1, page_width - 2 * page_margin, 2, rule_colour);
  draw_legend(canvas, fonts, strips, scales[0], page_margin, foot + 40);
  for (std::size_t k = 0; k < caption_lines.size(); ++k) {
    canvas.text(fonts, page_margin, height - page_margin - 32 * static_cast<double>(caption_lines.size() - 1 - k), caption_lines[k],
                caption_style);
  }
  canvas.write_png(path);
  drawn.missing_glyphs = fonts.missing();
  return drawn;
}

}  // namespace implicit_attention::examples
