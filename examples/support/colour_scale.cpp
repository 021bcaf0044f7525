#include "colour_scale.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "numbers.hpp"

namespace implicit_attention::examples {
namespace {

constexpr int thickness = 26, tick_length = 8;
const TextStyle tick_style{21, muted_ink, false};
const TextStyle name_style{22, muted_ink, false};

struct Ticks {
  std::vector<double> values;
  std::vector<std::string> labels;
  double widest = 0;
};

Ticks ticks_of(const Fonts& fonts, const ColourScale& scale, int length, bool vertical) {
  Ticks ticks;
  int count = std::clamp(length / (vertical ? 70 : 110), 2, 9);
  if (scale.kind == ColourScale::Kind::diverging) count = std::max(count, 3);
  ticks.values = nice_ticks(scale.low(), scale.limit, count);
  while (ticks.values.size() < 2 && count < 9) ticks.values = nice_ticks(scale.low(), scale.limit, ++count);  // one number is no scale
  // By the square root, even ticks crowd towards the end: 1, 2, 5, 10, ... instead, from the end inwards, where there is room.
  if (scale.spacing == Spacing::root) {
    ticks.values = {0};
    const double room = (vertical ? 46.0 : 84.0) / length;
    const auto add = [&](double value) {
      const bool free = std::none_of(ticks.values.begin(), ticks.values.end(),
                                     [&](double other) { return std::abs(scale.place(other) - scale.place(value)) < room; });
      if (free) ticks.values.push_back(value);
    };
    const int last = static_cast<int>(std::floor(std::log10(scale.limit)));
    for (int exponent = last; exponent > last - 4; --exponent) {
      for (const double leading : {5.0, 2.0, 1.0}) {
        const double value = leading * std::pow(10.0, exponent);
        if (value > scale.limit * (1 + 1e-9)) continue;
        add(value);
        if (scale.kind == ColourScale::Kind::diverging) add(-value);
      }
    }
    for (const double value : ticks.values) ticks.labels.push_back(with_minus(significant(value, 1)));
  } else {
    for (const std::string& label : tick_labels(ticks.values)) ticks.labels.push_back(with_minus(label));
  }
  for (const std::string& label : ticks.labels) ticks.widest = std::max(ticks.widest, fonts.width(label, tick_style));
  return ticks;
}

}  // namespace

double ColourScale::place(double value) const {
  double t = std::clamp(value / limit, -1.0, 1.0);
  if (spacing == Spacing::root) t = std::copysign(std::sqrt(std::abs(t)), t);
  return kind == Kind::diverging ? (t + 1) / 2 : std::max(t, 0.0);
}

Colour ColourScale::colour_at(double place) const {
  if (kind == Kind::diverging) return diverging_colour(2 * place - 1);
  return kind == Kind::highlight ? highlight_colour(place) : sequential_colour(place);
}

Colour ColourScale::colour(double value) const { return std::isfinite(value) ? colour_at(place(value)) : not_a_number_colour; }

BarRoom colour_bar_room(const Fonts& fonts, const ColourScale& scale, const std::string& name, int length, bool vertical) {
  const int words = name.empty() ? 0 : 40;
  const int along = std::max(length, static_cast<int>(std::ceil(fonts.width(name, name_style))));
  if (!vertical) return {thickness + tick_length + 30 + words, along};
  return {thickness + tick_length + 8 + static_cast<int>(std::ceil(ticks_of(fonts, scale, length, vertical).widest)) + words, along};
}

void draw_colour_bar(Canvas& canvas, const Fonts& fonts, const ColourScale& scale, const std::string& name, int left, int top, int length,
                     bool vertical) {
  const Colour frame{196, 199, 207};
  canvas.fill(left - 1, top - 1, (vertical ? thickness : length) + 2, (vertical ? length : thickness) + 2, frame);
  for (int step = 0; step < length; ++step) {
    const Colour colour = scale.colour_at((step + 0.5) / length);
    if (vertical) {
      canvas.fill(left, top + length - 1 - step, thickness, 1, colour);
    } else {
      canvas.fill(left + step, top, 1, thickness, colour);
    }
  }
  const Ticks ticks = ticks_of(fonts, scale, length, vertical);
  for (std::size_t k = 0; k < ticks.values.size(); ++k) {
    const int along = static_cast<int>(std::lround(scale.place(ticks.values[k]) * (length - 1)));
    if (vertical) {
      const int y = top + length - 1 - along;
      canvas.fill(left + thickness + 1, y - 1, tick_length, 2, muted_ink);
      canvas.text(fonts, left + thickness + tick_length + 8, y + centre_drop(tick_style), ticks.labels[k], tick_style);
    } else {
      canvas.fill(left + along - 1, top + thickness + 1, 2, tick_length, muted_ink);
      canvas.text(fonts, left + along, top + thickness + tick_length + 24, ticks.labels[k], tick_style, Anchor::middle);
    }
  }
  if (name.empty()) return;
  if (vertical) {
    const int x = left + colour_bar_room(fonts, scale, name, length, vertical).across - 6;
    canvas.text_upwards(fonts, x, top + length / 2.0, fonts.shorten(name, name_style, length), name_style, Anchor::middle);
  } else {
    const double middle = colour_bar_room(fonts, scale, name, length, vertical).along / 2.0;  // a longer name reaches to the right
    canvas.text(fonts, left + middle, top + thickness + tick_length + 30 + 28, name, name_style, Anchor::middle);
  }
}

}  // namespace implicit_attention::examples
