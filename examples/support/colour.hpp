// Colours a reader can measure by eye: equal steps in a value are equal steps in lightness (OKLab, Ottosson 2020).
#pragma once

#include <cstdint>

namespace implicit_attention::examples {

/// An sRGB colour.
struct Colour {
  std::uint8_t red = 0, green = 0, blue = 0;
  friend bool operator==(const Colour&, const Colour&) = default;
};

/// Which colours stand for which numbers.
enum class Palette {
  automatic,   ///< diverging where there is a negative number, else sequential
  sequential,  ///< zero to the largest: dark indigo, magenta, orange, pale yellow
  diverging    ///< minus to plus the largest magnitude: blue, near-white, red
};

/// The sequential map at t in [0, 1] (clamped): lightness rises steadily from dark indigo to pale yellow.
[[nodiscard]] Colour sequential_colour(double t);
/// The diverging map at t in [-1, 1] (clamped): blue, near-white at zero, red; equal lightness at -t and t.
[[nodiscard]] Colour diverging_colour(double t);
/// For text backgrounds, t in [0, 1] (clamped): white to a warm orange-red, so that zero is no colour at all.
[[nodiscard]] Colour highlight_colour(double t);
/// The WCAG 2 relative luminance, 0 (black) to 1 (white).
[[nodiscard]] double luminance(Colour colour);
/// How different two colours look: their distance in OKLab, 1 between black and white.
[[nodiscard]] double difference(Colour one, Colour other);
/// Near-black or white, whichever reads better on `background` (the larger WCAG contrast).
[[nodiscard]] Colour readable_on(Colour background);

/// What lies outside the numbers: the blank half of a causal map, and entries that are not numbers.
inline constexpr Colour masked_colour{226, 228, 234};
inline constexpr Colour not_a_number_colour{139, 143, 150};

}  // namespace implicit_attention::examples
