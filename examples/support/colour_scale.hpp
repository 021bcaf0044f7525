// From numbers to colours, and the bar that tells a reader which is which.
#pragma once

#include <string>

#include "canvas.hpp"
#include "colour.hpp"
#include "heat_map.hpp"

namespace implicit_attention::examples {

/// The colours of one or several panels.
struct ColourScale {
  enum class Kind { sequential, diverging, highlight };
  Kind kind = Kind::sequential;
  Spacing spacing = Spacing::linear;  ///< never automatic: that is decided before
  double limit = 1;                   ///< the number at the end, > 0

  [[nodiscard]] double low() const { return kind == Kind::diverging ? -limit : 0; }
  /// Where `value` lies on the bar, 0 to 1.
  [[nodiscard]] double place(double value) const;
  /// The colour at a place of the bar.
  [[nodiscard]] Colour colour_at(double place) const;
  /// The colour of a number; grey where it is not one.
  [[nodiscard]] Colour colour(double value) const;
};

/// The room a colour bar takes beside its length.
struct BarRoom {
  int across = 0;  ///< pixels from the bar's near side to the far end of its words
  int along =
      0;  ///< pixels of the longer of the bar and its name, which a horizontal bar writes in full and a vertical one cuts to its length
};
/// `length` is that of the coloured part, pixels. A vertical bar has its words on the right, a horizontal one below.
[[nodiscard]] BarRoom colour_bar_room(const Fonts& fonts, const ColourScale& scale, const std::string& name, int length, bool vertical);
void draw_colour_bar(Canvas& canvas, const Fonts& fonts, const ColourScale& scale, const std::string& name, int left, int top, int length,
                     bool vertical);

/// Muted ink for axes, ticks and captions.
inline constexpr Colour muted_ink{92, 97, 108};
/// What all pictures have alike: their margin, pixels, and how titles and captions look.
inline constexpr int page_margin = 48;
inline constexpr TextStyle title_style{38, {24, 26, 32}, true};
inline constexpr TextStyle caption_style{22, muted_ink, false};

}  // namespace implicit_attention::examples
