#include "colour.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace implicit_attention::examples {
namespace {

constexpr double pi = 3.14159265358979323846;

struct Lab {
  double lightness, a, b;
};

// A place on a colour map: lightness is the map's own straight line, so a control point only says chroma and hue (degrees).
struct Control {
  double at, chroma, hue;
};

double to_srgb(double linear) { return linear <= 0.0031308 ? 12.92 * linear : 1.055 * std::pow(linear, 1 / 2.4) - 0.055; }
double to_linear(double srgb) { return srgb <= 0.04045 ? srgb / 12.92 : std::pow((srgb + 0.055) / 1.055, 2.4); }

// OKLab to linear sRGB, from the matrices of the definition (B. Ottosson, "A perceptual color space for image processing", 2020).
std::array<double, 3> linear_rgb(const Lab& lab) {
  const double l = std::pow(lab.lightness + 0.3963377774 * lab.a + 0.2158037573 * lab.b, 3);
  const double m = std::pow(lab.lightness - 0.1055613458 * lab.a - 0.0638541728 * lab.b, 3);
  const double s = std::pow(lab.lightness - 0.0894841775 * lab.a - 1.2914855480 * lab.b, 3);
  return {4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
          -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s};
}

Lab oklab(Colour colour) {
  const double red = to_linear(colour.red / 255.0), green = to_linear(colour.green / 255.0), blue = to_linear(colour.blue / 255.0);
  const double l = std::cbrt(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue);
  const double m = std::cbrt(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue);
  const double s = std::cbrt(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue);
  return {0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s, 1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
          0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s};
}

// A colour that a screen cannot show loses chroma, never lightness: lightness is what carries the number.
Colour shown(double lightness, double a, double b) {
  double keep = 1;
  std::array<double, 3> rgb{};
  for (int attempt = 0; attempt < 60; ++attempt, keep *= 0.97) {
    rgb = linear_rgb({lightness, keep * a, keep * b});
    if (*std::min_element(rgb.begin(), rgb.end()) >= -1e-4 && *std::max_element(rgb.begin(), rgb.end()) <= 1 + 1e-4) break;
  }
  const auto byte = [](double linear) {
    return static_cast<std::uint8_t>(std::lround(255 * std::clamp(to_srgb(std::clamp(linear, 0.0, 1.0)), 0.0, 1.0)));
  };
  return {byte(rgb[0]), byte(rgb[1]), byte(rgb[2])};
}

// A smooth curve through the control points (Catmull-Rom over a and b, evenly spaced points).
template <std::size_t Count>
Colour along(const std::array<Control, Count>& controls, double t, double first_lightness, double last_lightness) {
  t = std::isnan(t) ? 0 : std::clamp(t, 0.0, 1.0);
  const double place = t * static_cast<double>(Count - 1);
  const std::size_t left = std::min(static_cast<std::size_t>(place), Count - 2);
  const double u = place - static_cast<double>(left);
  std::array<double, 4> a{}, b{};
  for (std::size_t k = 0; k < 4; ++k) {
    const Control& control = controls[std::min(left + k < 1 ? 0 : left + k - 1, Count - 1)];
    a[k] = control.chroma * std::cos(control.hue * pi / 180);
    b[k] = control.chroma * std::sin(control.hue * pi / 180);
  }
  const auto curve = [u](const std::array<double, 4>& p) {
    return 0.5 * (2 * p[1] + (p[2] - p[0]) * u + (2 * p[0] - 5 * p[1] + 4 * p[2] - p[3]) * u * u +
                  (3 * p[1] - p[0] - 3 * p[2] + p[3]) * u * u * u);
  };
  return shown(first_lightness + t * (last_lightness - first_lightness), curve(a), curve(b));
}

constexpr std::array<Control, 7> sequential_controls{{{0.0, 0.055, 284},
                                                      {1 / 6.0, 0.125, 292},
                                                      {2 / 6.0, 0.175, 316},
                                                      {3 / 6.0, 0.190, 0},
                                                      {4 / 6.0, 0.175, 34},
                                                      {5 / 6.0, 0.145, 70},
                                                      {1.0, 0.070, 103}}};
constexpr std::array<Control, 5> blue_controls{
    {{0.0, 0.0, 245}, {0.25, 0.055, 245}, {0.5, 0.110, 250}, {0.75, 0.140, 256}, {1.0, 0.135, 262}}};
constexpr std::array<Control, 5> red_controls{{{0.0, 0.0, 40}, {0.25, 0.065, 48}, {0.5, 0.135, 38}, {0.75, 0.170, 29}, {1.0, 0.160, 24}}};
constexpr std::array<Control, 5> highlight_controls{
    {{0.0, 0.0, 85}, {0.25, 0.060, 82}, {0.5, 0.110, 72}, {0.75, 0.150, 58}, {1.0, 0.185, 42}}};

}  // namespace

Colour sequential_colour(double t) { return along(sequential_controls, t, 0.17, 0.97); }

Colour diverging_colour(double t) { return t < 0 ? along(blue_controls, -t, 0.97, 0.38) : along(red_controls, t, 0.97, 0.38); }

Colour highlight_colour(double t) { return along(highlight_controls, t, 1.0, 0.66); }

double luminance(Colour colour) {
  return 0.2126 * to_linear(colour.red / 255.0) + 0.7152 * to_linear(colour.green / 255.0) + 0.0722 * to_linear(colour.blue / 255.0);
}

double difference(Colour one, Colour other) {
  const Lab a = oklab(one), b = oklab(other);
  return std::sqrt(std::pow(a.lightness - b.lightness, 2) + std::pow(a.a - b.a, 2) + std::pow(a.b - b.b, 2));
}

Colour readable_on(Colour background) {
  const Colour dark{24, 26, 32}, light{255, 255, 255};
  const double ground = luminance(background);
  const double with_dark = (ground + 0.05) / (luminance(dark) + 0.05), with_light = 1.05 / (ground + 0.05);
  return with_dark >= with_light ? dark : light;
}

}  // namespace implicit_attention::examples
