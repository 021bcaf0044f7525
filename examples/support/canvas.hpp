// A picture in memory: rectangles, anti-aliased text, writing as PNG. Pixels, origin at the top left.
// Drawn at twice the density of a screen's nominal pixels, so that text stays crisp where a page shows it at half size.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "colour.hpp"

namespace implicit_attention::examples {

/// How text looks: its size is that of the em square, in pixels.
struct TextStyle {
  double size = 24;
  Colour colour{24, 26, 32};
  bool bold = false;
};

/// Where the given point lies on the text: at its beginning, middle or end.
enum class Anchor { begin, middle, end };

/// DejaVu Sans (regular and bold) through FreeType: wide coverage of scripts, and in every distribution. Found through the environment
/// variable IMPLICIT_ATTENTION_FONT (a .ttf or .otf file) or at the usual places; fails (file) naming the package where there is none.
/// Characters that it lacks come from this machine's other fonts (those in IMPLICIT_ATTENTION_FONT_FOLDER alone, if that is set).
class Fonts {
 public:
  Fonts();
  Fonts(Fonts&&) noexcept;
  Fonts& operator=(Fonts&&) noexcept;
  ~Fonts();
  /// Width of a line of text, pixels.
  [[nodiscard]] double width(std::string_view text, const TextStyle& style) const;
  /// `text` if it is at most `pixels` wide, else its beginning and an ellipsis.
  [[nodiscard]] std::string shorten(std::string_view text, const TextStyle& style, double pixels) const;
  /// `text` broken at spaces into lines at most `pixels` wide (a longer word gets a line of its own); line ends in it are kept.
  [[nodiscard]] std::vector<std::string> wrap(std::string_view text, const TextStyle& style, double pixels) const;
  /// The characters met so far that no font here has.
  [[nodiscard]] std::vector<char32_t> missing() const;

 private:
  friend class Canvas;
  struct Faces;
  std::unique_ptr<Faces> faces_;
};

/// The picture.
class Canvas {
 public:
  Canvas(int width, int height, Colour background = {255, 255, 255});
  [[nodiscard]] int width() const { return width_; }
  [[nodiscard]] int height() const { return height_; }
  [[nodiscard]] Colour at(int x, int y) const;
  /// Sets one pixel; outside the picture nothing happens (here and below).
  void set(int x, int y, Colour colour);
  void fill(int left, int top, int width, int height, Colour colour);
  /// A rectangle with anti-aliased round corners.
  void fill_rounded(int left, int top, int width, int height, double radius, Colour colour);
  /// One line of text on the baseline `y`; control characters must be gone (see `visible`).
  void text(const Fonts& fonts, double x, double y, std::string_view line, const TextStyle& style, Anchor anchor = Anchor::begin);
  /// The same, turned to read upwards: `x` is the baseline (letters stand left of it), `y` the anchor along it.
  void text_upwards(const Fonts& fonts, double x, double y, std::string_view line, const TextStyle& style, Anchor anchor = Anchor::begin);
  /// Writes an RGB PNG to a temporary file beside `path` and renames it when whole. Fails (file) without leaving anything behind.
  void write_png(const std::string& path) const;

 private:
  void blend(int x, int y, Colour colour, double coverage);
  void glyphs(const Fonts& fonts, double x, double y, std::string_view line, const TextStyle& style, Anchor anchor, bool upwards);
  int width_, height_;
  std::vector<std::uint8_t> pixels_;  // (height, width, 3)
};

/// The distance from the middle of a line of text down to its baseline, so that it stands centred on a point.
[[nodiscard]] inline double centre_drop(const TextStyle& style) { return 0.355 * style.size; }

/// A sentence that names characters which no font had; empty if there are none.
[[nodiscard]] std::string missing_glyphs_note(const std::vector<char32_t>& missing);
/// Says it on stderr, if there are any.
void warn_of_missing_glyphs(const char* program, const std::vector<char32_t>& missing);

/// `text` with a typographer's minus sign.
[[nodiscard]] std::string with_minus(std::string_view text);

}  // namespace implicit_attention::examples
