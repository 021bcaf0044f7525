// What the example programs draw: heat maps and token strips as PNG files, tokens and tables in the terminal.
#include <support/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <png.h>

#include <implicit_attention/core/error.hpp>
#include <support/canvas.hpp>
#include <support/errors.hpp>
#include <support/heat_map.hpp>
#include <support/numbers.hpp>
#include <support/progress.hpp>
#include <support/terminal.hpp>
#include <support/text.hpp>
#include <support/token_strip.hpp>

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;
using test_support::what_of;

// A folder of this test's own, gone afterwards.
struct Scratch {
  std::filesystem::path folder;
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "drawing-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    folder = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
  [[nodiscard]] std::string operator/(const char* name) const { return (folder / name).string(); }
  [[nodiscard]] std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
  }
};

struct Picture {
  int width = 0, height = 0;
  std::vector<unsigned char> pixels;
  [[nodiscard]] Colour at(int x, int y) const {
    REQUIRE(x >= 0);
    REQUIRE(y >= 0);
    REQUIRE(x < width);
    REQUIRE(y < height);
    const std::size_t place = 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x));
    return {pixels[place], pixels[place + 1], pixels[place + 2]};
  }
  [[nodiscard]] bool any_ink(int left, int top, int right, int bottom) const {
    for (int y = top; y < bottom; ++y) {
      for (int x = left; x < right; ++x) {
        if (!(at(x, y) == Colour{255, 255, 255})) return true;
      }
    }
    return false;
  }
};

Picture read_png(const std::string& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  REQUIRE(png_image_begin_read_from_file(&image, path.c_str()) != 0);
  CHECK((image.format & PNG_FORMAT_FLAG_ALPHA) == 0);
  image.format = PNG_FORMAT_RGB;
  Picture picture{static_cast<int>(image.width), static_cast<int>(image.height), std::vector<unsigned char>(PNG_IMAGE_SIZE(image))};
  REQUIRE(png_image_finish_read(&image, nullptr, picture.pixels.data(), 0, nullptr) != 0);
  return picture;
}

// The colour near a cell's top left corner: numbers may stand in its middle.
Colour cell(const Picture& picture, const DrawnPanel& panel, Index row, Index column) {
  const int width = panel.width / static_cast<int>(panel.columns), height = panel.height / static_cast<int>(panel.rows);
  return picture.at(panel.left + static_cast<int>(column) * width + width / 8, panel.top + static_cast<int>(row) * height + height / 8);
}

Matrix<double> causal(Index size, double first = 1) {
  Matrix<double> map = Matrix<double>::Zero(size, size);
  for (Index i = 0; i < size; ++i) {
    for (Index j = 0; j <= i; ++j) map(i, j) = first * static_cast<double>(1 + (3 * i + 5 * j) % 7);
  }
  return map;
}

std::vector<std::string> words(Index count, const std::string& word = "token") {
  std::vector<std::string> all;
  for (Index k = 0; k < count; ++k) all.push_back(word + std::to_string(k));
  return all;
}

HeatMap one_panel(Matrix<double> values) {
  HeatMap map;
  map.title = "A map";
  map.panels.emplace_back();
  map.panels[0].values = std::move(values);
  return map;
}

Environment environment(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const char* name) -> const char* {
    const auto found = values.find(name);
    return found == values.end() ? nullptr : found->second.c_str();
  };
}

// Without our own colour sequences, ESC [ numbers m; anything else stays and is found by `controls`.
std::string without_colours(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text.compare(at, 2, "\x1b[") == 0) {
      const std::size_t end = text.find_first_not_of("0123456789;", at + 2);
      if (end != std::string::npos && text[end] == 'm') {
        at = end;
        continue;
      }
    }
    out += text[at];
  }
  return out;
}

bool controls(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](char letter) { return letter != '\n' && static_cast<unsigned char>(letter) < 0x20; });
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TokenScores scored_sentence() {
  TokenScores scores;
  scores.tokens = {"a", "touching", "tale", "of", "people", "."};
  scores.scores = {0.01, 0.4, 0.2, 0.0, 0.1, 0.05};
  return scores;
}

}  // namespace

TEST_CASE("a heat map is a PNG of the announced size, with the colour map's colours in its cells") {
  const Scratch scratch;
  HeatMap map = one_panel(causal(5));
  map.spacing = Spacing::linear;
  map.panels[0].row_labels = map.panels[0].column_labels = {"the", "film", "is", "great", "."};
  const DrawnHeatMap drawn = write_heat_map(scratch / "map.png", map);
  const Picture picture = read_png(scratch / "map.png");
  CHECK(picture.width == drawn.width);
  CHECK(picture.height == drawn.height);
  CHECK(scratch.files() == 1);
  const DrawnPanel& panel = drawn.panels.at(0);
  CHECK(panel.width == 5 * 128);
  CHECK(panel.causal);
  CHECK_FALSE(panel.diverging);
  const double largest = map.panels[0].values.maxCoeff();
  CHECK(panel.limit == largest);
  for (Index i = 0; i < 5; ++i) {
    for (Index j = 0; j < 5; ++j) {
      INFO("row " << i << ", column " << j);
      CHECK(cell(picture, panel, i, j) == (j > i ? masked_colour : sequential_colour(map.panels[0].values(i, j) / largest)));
    }
  }
  CHECK(picture.any_ink(panel.left - 60, panel.top, panel.left - 10, panel.top + 128));                                // a row label
  CHECK(picture.any_ink(panel.left, panel.top + panel.height + 10, panel.left + 128, panel.top + panel.height + 60));  // a column label
}

TEST_CASE("a signed map is centred on zero, and the square root opens small numbers up") {
  const Scratch scratch;
  Matrix<double> values(2, 2);
  values << -0.5, 2, 0, 1;
  HeatMap map = one_panel(values);
  map.spacing = Spacing::linear;
  DrawnHeatMap drawn = write_heat_map(scratch / "map.png", map);
  Picture picture = read_png(scratch / "map.png");
  CHECK(drawn.panels[0].diverging);
  CHECK_FALSE(drawn.panels[0].causal);
  CHECK(cell(picture, drawn.panels[0], 0, 0) == diverging_colour(-0.25));
  CHECK(cell(picture, drawn.panels[0], 0, 1) == diverging_colour(1));
  CHECK(cell(picture, drawn.panels[0], 1, 0) == diverging_colour(0));
  map.spacing = Spacing::root;
  drawn = write_heat_map(scratch / "map.png", map);
  picture = read_png(scratch / "map.png");
  CHECK(cell(picture, drawn.panels[0], 0, 0) == diverging_colour(-0.5));
  CHECK_THAT(drawn.notes, contains_text("square root"));
}

TEST_CASE("spacing by itself: in proportion, unless nearly all numbers would be one colour") {
  const Scratch scratch;
  CHECK_THAT(write_heat_map(scratch / "even.png", one_panel(causal(20))).notes, !contains_text("square root"));
  Matrix<double> steep = 0.01 * causal(20);
  steep(10, 3) = 100;
  CHECK_THAT(write_heat_map(scratch / "steep.png", one_panel(steep)).notes, contains_text("square root"));
}

TEST_CASE("entries that are not numbers are grey and counted; constant and zero maps can be drawn") {
  const Scratch scratch;
  Matrix<double> values = causal(6);
  values(4, 1) = std::nan("");
  values(5, 2) = -std::numeric_limits<double>::infinity();
  DrawnHeatMap drawn = write_heat_map(scratch / "nan.png", one_panel(values));
  Picture picture = read_png(scratch / "nan.png");
  CHECK(cell(picture, drawn.panels[0], 4, 1) == not_a_number_colour);
  CHECK(cell(picture, drawn.panels[0], 5, 2) == not_a_number_colour);
  CHECK(std::isfinite(drawn.panels[0].limit));
  CHECK_FALSE(drawn.panels[0].diverging);
  CHECK_THAT(drawn.notes, contains_text("2 entries"));

  drawn = write_heat_map(scratch / "nothing.png", one_panel(Matrix<double>::Constant(3, 3, std::nan(""))));
  CHECK_THAT(drawn.notes, contains_text("9 entries"));
  drawn = write_heat_map(scratch / "constant.png", one_panel(Matrix<double>::Constant(3, 3, 0.25)));
  picture = read_png(scratch / "constant.png");
  CHECK(cell(picture, drawn.panels[0], 0, 2) == sequential_colour(1));
  CHECK(drawn.notes.empty());
  drawn = write_heat_map(scratch / "zero.png", one_panel(Matrix<double>::Zero(3, 3)));
  picture = read_png(scratch / "zero.png");
  CHECK(cell(picture, drawn.panels[0], 2, 0) == sequential_colour(0));
  CHECK_THAT(drawn.notes, contains_text("zero"));
  write_heat_map(scratch / "one.png", one_panel(Matrix<double>::Constant(1, 1, 1e-300)));
  write_heat_map(scratch / "large.png", one_panel(Matrix<double>::Constant(2, 2, 1e300)));
}

TEST_CASE("labels: all where they fit, every k-th where they do not, numbers where there are none") {
  const Scratch scratch;
  for (const Index size : {1, 24, 72, 300}) {
    HeatMap map = one_panel(causal(size));
    map.panels[0].row_labels = map.panels[0].column_labels = words(size);
    const DrawnPanel panel = write_heat_map(scratch / "map.png", map).panels[0];
    INFO("size " << size);
    CHECK(panel.rows == size);
    CHECK(panel.row_labels == panel.column_labels);
    if (size <= 72) CHECK(panel.row_labels == size);
    if (size == 300) {
      CHECK(panel.row_labels < 100);
      CHECK(panel.row_labels >= 30);
    }
  }
  const DrawnPanel numbers = write_heat_map(scratch / "map.png", one_panel(causal(600))).panels[0];
  CHECK(numbers.column_labels == 12);  // 0, 50, ... 550
  CHECK(numbers.row_labels == 12);
  HeatMap longest = one_panel(causal(3));
  longest.panels[0].row_labels = {std::string(5000, 'w'), "\x1b[2J\n\xff", "\u4e2d\u6587"};
  CHECK(write_heat_map(scratch / "map.png", longest).width < 1400);
}

TEST_CASE("a map larger than the picture is averaged, and says so") {
  const Scratch scratch;
  Matrix<double> values(1700, 1700);
  for (Index i = 0; i < values.rows(); ++i) {
    for (Index j = 0; j < values.cols(); ++j) values(i, j) = (i + j) % 2 == 0 ? 0.5 : 1.5;
  }
  values(1699, 1698) = std::nan("");
  const DrawnHeatMap drawn = write_heat_map(scratch / "map.png", one_panel(values));
  const DrawnPanel& panel = drawn.panels[0];
  const Picture picture = read_png(scratch / "map.png");
  CHECK(panel.rows == 850);
  CHECK(panel.row_labels == panel.column_labels);  // the same numbers along both sides
  CHECK(panel.width <= 1600);
  CHECK(panel.limit == 1);  // the largest mean, not the largest entry
  CHECK(picture.at(panel.left + 300, panel.top + 7) == sequential_colour(1));
  CHECK(picture.at(panel.left + panel.width - 1, panel.top + panel.height - 1) == not_a_number_colour);
  CHECK_THAT(drawn.notes, contains_text("mean of 2 \u00d7 2"));
}

TEST_CASE("selected rows: one row is high enough to see, and blank after its own token") {
  const Scratch scratch;
  HeatMap map = one_panel(causal(30).middleRows(12, 1));
  map.panels[0].row_tokens = {12};
  const DrawnHeatMap drawn = write_heat_map(scratch / "row.png", map);
  const Picture picture = read_png(scratch / "row.png");
  CHECK(drawn.panels[0].height >= 60);
  CHECK(drawn.panels[0].causal);
  CHECK(cell(picture, drawn.panels[0], 0, 12) == sequential_colour(map.panels[0].values(0, 12) / drawn.panels[0].limit));
  CHECK(cell(picture, drawn.panels[0], 0, 13) == masked_colour);
  map.panels[0].causal = false;
  CHECK_FALSE(write_heat_map(scratch / "row.png", map).panels[0].causal);
}

TEST_CASE("panels: one scale or one each, side by side or below each other, never on top of each other") {
  const Scratch scratch;
  for (const std::size_t count : {2u, 3u, 5u}) {
    for (const bool shared : {true, false}) {
      HeatMap map;
      map.shared_scale = shared;
      for (std::size_t k = 0; k < count; ++k) {
        map.panels.emplace_back();
        map.panels[k].values = causal(8 + static_cast<Index>(k), static_cast<double>(k + 1));
        map.panels[k].subtitle = "channel " + std::to_string(k);
      }
      const DrawnHeatMap drawn = write_heat_map(scratch / "map.png", map);
      REQUIRE(drawn.panels.size() == count);
      for (std::size_t k = 0; k < count; ++k) {
        const DrawnPanel& panel = drawn.panels[k];
        CHECK(panel.limit == (shared ? 7.0 * static_cast<double>(count) : 7.0 * static_cast<double>(k + 1)));
        CHECK(panel.left + panel.width < drawn.width);
        CHECK(panel.top + panel.height < drawn.height);
        for (std::size_t other = 0; other < k; ++other) {
          const DrawnPanel& before = drawn.panels[other];
          CHECK((before.left + before.width < panel.left || before.top + before.height < panel.top));
        }
      }
    }
  }
}

TEST_CASE("what a colour bar means is written in full, however small the map") {
  const Scratch scratch;
  const std::string name = "mean |attention| over channels and layers";
  const auto ink_in = [](const Picture& picture, int left, int right) {
    Index dark = 0;
    for (int x = left; x < right; ++x) {
      for (int y = 0; y < picture.height; ++y) {
        const auto place = 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(picture.width) + static_cast<std::size_t>(x));
        dark += picture.pixels[place] + picture.pixels[place + 1] + picture.pixels[place + 2] < 690 ? 1 : 0;
      }
    }
    return dark;
  };
  for (const Index tokens : {1, 2, 3, 40}) {
    for (const std::size_t panels : {1u, 2u}) {
      for (const bool shared : {true, false}) {
        HeatMap map;
        map.shared_scale = shared;
        map.panels.resize(panels);
        for (Panel& panel : map.panels) panel.values = causal(tokens, 1);
        map.value_name = name;
        (void)write_heat_map(scratch / "map.png", map);
        const Picture picture = read_png(scratch / "map.png");
        CHECK(ink_in(picture, 0, 40) == 0);
        CHECK(ink_in(picture, picture.width - 40, picture.width) == 0);
        // Of a name that is cut, more letters would add no ink.
        map.value_name = name + " iiiiiiiiii";
        (void)write_heat_map(scratch / "longer.png", map);
        const Picture longer = read_png(scratch / "longer.png");
        CHECK(ink_in(longer, 0, longer.width) > ink_in(picture, 0, picture.width) + 60);
      }
    }
  }
}

TEST_CASE("what cannot be drawn or written is an error, and leaves no file") {
  const Scratch scratch;
  CHECK_THAT(what_of([&] { write_heat_map(scratch / "map.png", HeatMap{}); }), contains_text("no panels"));
  CHECK_THAT(what_of([&] { write_heat_map(scratch / "map.png", one_panel(Matrix<double>(0, 4))); }), contains_text("(0, 4)"));
  HeatMap mislabelled = one_panel(causal(4));
  mislabelled.panels[0].column_labels = words(3);
  CHECK_THAT(what_of([&] { write_heat_map(scratch / "map.png", mislabelled); }), contains_text("3 column labels, expected 4"));
  CHECK_THAT(what_of([&] { write_heat_map(scratch / "no/such/folder/map.png", one_panel(causal(4))); }), contains_text("no/such/folder"));
  CHECK_THAT(what_of([&] { write_heat_map(scratch.folder.string(), one_panel(causal(4))); }), contains_text("directory"));
  CHECK_THAT(what_of([&] { write_token_strips(scratch / "strip.png", TokenStrips{}); }), contains_text("nothing to draw"));
  TokenStrips uneven;
  uneven.strips.push_back({"Mamba", {"a", "b"}, {1.0}, "", -1});
  CHECK_THAT(what_of([&] { write_token_strips(scratch / "strip.png", uneven); }), contains_text("2 tokens and 1 scores"));
  CHECK(scratch.files() == 0);

  ::setenv("IMPLICIT_ATTENTION_FONT", "/nowhere/font.ttf", 1);
  CHECK_THAT(what_of([&] { write_heat_map(scratch / "map.png", one_panel(causal(4))); }), contains_text("/nowhere/font.ttf"));
  const std::string not_a_font = scratch / "text.ttf";
  std::ofstream(not_a_font) << "not a font";
  ::setenv("IMPLICIT_ATTENTION_FONT", not_a_font.c_str(), 1);
  CHECK_THAT(what_of([&] { write_heat_map(scratch / "map.png", one_panel(causal(4))); }),
             contains_text("text.ttf; is it a TrueType or OpenType font, and is there enough memory?"));
  ::unsetenv("IMPLICIT_ATTENTION_FONT");
  CHECK(scratch.files() == 1);
}

TEST_CASE("text lies where it should, upright and turned") {
  const Fonts fonts;
  const TextStyle style{40, {0, 0, 0}, false};
  const double width = fonts.width("HHHH", style);
  CHECK(width > 80);
  CHECK(fonts.width("HHHH", {20, {0, 0, 0}, false}) == Approx(width / 2).epsilon(0.02));  // advances are not rounded to pixels
  const auto box = [](const Canvas& canvas) {
    int left = canvas.width(), right = -1, top = canvas.height(), bottom = -1;
    for (int y = 0; y < canvas.height(); ++y) {
      for (int x = 0; x < canvas.width(); ++x) {
        if (canvas.at(x, y) == Colour{255, 255, 255}) continue;
        left = std::min(left, x);
        right = std::max(right, x);
        top = std::min(top, y);
        bottom = std::max(bottom, y);
      }
    }
    return std::vector<int>{left, right, top, bottom};
  };
  Canvas flat(400, 400), turned(400, 400);
  flat.text(fonts, 200, 100, "HHHH", style, Anchor::end);
  const std::vector<int> lying = box(flat);
  CHECK(std::abs(lying[1] - 200) <= 6);
  CHECK(std::abs(lying[3] - 99) <= 1);
  turned.text_upwards(fonts, 100, 200, "HHHH", style, Anchor::end);
  const std::vector<int> upwards = box(turned);
  CHECK(std::abs(upwards[2] - 200) <= 6);  // its end is at the top
  CHECK(std::abs(upwards[1] - 99) <= 1);   // letters stand left of the baseline
  CHECK(upwards[3] - upwards[2] == lying[1] - lying[0]);
  CHECK(fonts.width(fonts.shorten(std::string(100, 'm'), style, 200), style) <= 200);
  CHECK(fonts.shorten("short", style, 1000) == "short");
  for (const std::string& line : fonts.wrap("some words that go over several lines\nand a new one", style, 300))
    CHECK(fonts.width(line, style) <= 300);
  CHECK(fonts.wrap("a\nb", style, 300) == std::vector<std::string>{"a", "b"});
}

TEST_CASE("characters that no font has are named, and other fonts are looked through") {
  const Scratch scratch;
  const TextStyle style{40, {0, 0, 0}, false};
  ::setenv("IMPLICIT_ATTENTION_FONT_FOLDER", scratch.folder.c_str(), 1);  // no other fonts
  {
    const Fonts fonts;
    (void)fonts.width("a\u0416\u22ef", style);
    CHECK(fonts.missing().empty());
    (void)fonts.width("\u4e2d \U000F1234", style);
    CHECK(fonts.missing() == std::vector<char32_t>{0x4E2D, 0xF1234});
    CHECK_THAT(missing_glyphs_note(fonts.missing()), contains_text("No font here has \u4e2d (U+4E2D), "));
    CHECK(missing_glyphs_note({}).empty());
  }
  // A font that has a character which DejaVu Sans lacks: DejaVu's mathematical one, under another name, beside a file that is no font.
  const std::string other = "/usr/share/fonts/truetype/dejavu/DejaVuMathTeXGyre.ttf";
  if (std::filesystem::exists(other)) {
    std::ofstream(scratch / "Aaa.ttf") << "no font";
    std::filesystem::copy_file(other, scratch / "Other.ttf");
    const Fonts fonts;
    const double before = fonts.width("\U0001D7DA", style);  // a double-struck 2
    CHECK(before > 0);
    CHECK(fonts.missing().empty());
  }
  ::unsetenv("IMPLICIT_ATTENTION_FONT_FOLDER");
}

TEST_CASE("token strips: colours by score, the same sentence in the same places, nothing outside the page") {
  const Scratch scratch;
  TokenStrips strips;
  strips.title = "One sentence";
  for (const char* label : {"Mamba", "RWKV-4"}) {
    TokenStrip strip;
    strip.label = label;
    strip.tokens = words(40);
    strip.tokens[2] = ".";  // as wide as its score: 0.50 here, 0.0015 there
    for (int k = 0; k < 40; ++k) strip.scores.push_back((label[0] == 'M' ? 1 : 0.003) * (k % 5) / 4.0);
    strip.prediction = "positive";
    strip.probability = 0.93;
    strips.strips.push_back(strip);
  }
  strips.strips[1].scores[7] = std::nan("");
  const DrawnTokenStrips drawn = write_token_strips(scratch / "strip.png", strips);
  const Picture picture = read_png(scratch / "strip.png");
  CHECK(picture.width == drawn.width);
  CHECK(picture.height == drawn.height);
  REQUIRE(drawn.tokens.size() == 2);
  for (std::size_t k = 0; k < 40; ++k) {
    const DrawnToken &first = drawn.tokens[0][k], &second = drawn.tokens[1][k];
    CHECK(first.colour == highlight_colour(static_cast<double>(k % 5) / 4));  // each strip has its own scale
    CHECK(second.colour == (k == 7 ? not_a_number_colour : first.colour));
    CHECK(picture.at(first.left + first.width / 2, first.top + 5) == first.colour);
    CHECK(first.left == second.left);
    CHECK(first.width == second.width);
    CHECK(first.left + first.width < drawn.width);
    CHECK(second.top + second.height < drawn.height);
  }
  CHECK(drawn.tokens[0].back().top > drawn.tokens[0].front().top);  // wrapped
  strips.shared_scale = true;
  CHECK(write_token_strips(scratch / "strip.png", strips).tokens[1][4].colour == highlight_colour(0.003));
  strips.strips[0].scores[0] = -0.5;
  CHECK(write_token_strips(scratch / "strip.png", strips).tokens[0][0].colour == diverging_colour(-0.5));
  strips.strips[0].tokens[3] = std::string(3000, 'x');
  const DrawnTokenStrips longest = write_token_strips(scratch / "strip.png", strips);
  for (const DrawnToken& token : longest.tokens[0]) CHECK(token.left + token.width <= longest.width);
}

TEST_CASE("colour maps are perceptual: steady in lightness, even in steps, balanced around zero") {
  double smallest = 1, largest = 0;
  for (int k = 0; k < 100; ++k) {
    const double t = k / 100.0, next = (k + 1) / 100.0;
    CHECK(luminance(sequential_colour(next)) > luminance(sequential_colour(t)));
    CHECK(luminance(highlight_colour(next)) < luminance(highlight_colour(t)) + 1e-9);
    for (const double sign : {-1.0, 1.0}) CHECK(luminance(diverging_colour(sign * next)) < luminance(diverging_colour(sign * t)) + 1e-9);
    // Lightness is equal on both sides; luminance, which is not lightness, is so for colours of unlike hue only roughly.
    CHECK(luminance(diverging_colour(t)) == Approx(luminance(diverging_colour(-t))).margin(0.06));
    if (k % 5 == 0) {
      const double step = difference(sequential_colour(t), sequential_colour(t + 0.05));
      smallest = std::min(smallest, step);
      largest = larger(largest, step);
    }
  }
  CHECK(largest < 2 * smallest);
  CHECK(sequential_colour(-3) == sequential_colour(0));
  CHECK(sequential_colour(7) == sequential_colour(1));
  CHECK(difference({0, 0, 0}, {255, 255, 255}) == Approx(1).epsilon(1e-3));
  for (int k = -20; k <= 20; ++k) {
    const Colour ground = diverging_colour(k / 20.0), ink = readable_on(ground);
    const double bright = std::max(luminance(ground), luminance(ink)), dim = std::min(luminance(ground), luminance(ink));
    CHECK((bright + 0.05) / (dim + 0.05) >= 4.0);
  }
}

TEST_CASE("text from elsewhere is made safe and measured") {
  CHECK(visible("plain") == "plain");
  CHECK(visible("a\nb\tc\rd") == "a\\nb\\tc\\rd");
  CHECK(visible("\x1b[2J\x07") == "\\x1b[2J\\x07");
  CHECK(visible("\xc2\x9b"
                "31m") == "\\x9b31m");  // the one-character form of ESC [
  CHECK(visible("\u202eevil\u2066") == "\\u202eevil\\u2066");
  CHECK(visible("\xff\xc0\xaf") == "\\xff\\xc0\\xaf");
  CHECK(visible(std::string("\0x", 2)) == "\\x00x");
  CHECK(visible("\x7f") == "\\x7f");
  CHECK(visible("  ") == "\u2423\u2423");
  CHECK(visible(" the") == " the");
  CHECK(visible("\u0301") == "\u25cc\u0301");
  CHECK(visible("br\u00fbl\u00e9e \u4e2d \U0001F600") == "br\u00fbl\u00e9e \u4e2d \U0001F600");
  CHECK(display_width("br\u00fbl\u00e9e") == 6);
  CHECK(display_width("e\u0301") == 1);
  CHECK(display_width("\u4e2d\u6587") == 4);
  CHECK(shorten("unbelievable", 6) == "unbel\u2026");
  CHECK(shorten("short", 5) == "short");
  CHECK(display_width(shorten("\u4e2d\u6587\u4e2d", 4)) <= 4);
  CHECK(pad("\u00e9", 3) == "\u00e9  ");
  // Where tables by hand differ from Unicode's.
  CHECK(display_width("\u0D4D\U0001D167\U0001E8D0") == 0);    // marks of Malayalam, of music, of Mende Kikakui
  CHECK(display_width("\u231A\u26BD\u2705\U0001F7E9") == 8);  // emoji below U+1F300 and between its ranges
  CHECK(display_width("\u303F\u00A1") == 2);                  // narrow among the wide, and ambiguous
  CHECK(visible("a\u3164\u180e") == "a\\u3164\\u180e");       // a filler, a separator that nobody sees
  CHECK(ascii("caf\u00e9\u2026 \U0001F600") == "caf\\u00e9... \\U0001f600");
  CHECK(ascii("\xff") == "\\xff");
  CHECK(pad("ab", 4, true) == "  ab");
  for (const char32_t point : {U'a', U'\u00e9', U'\u4e2d', U'\U0001F600'}) CHECK(code_points(utf8(point)) == std::vector<char32_t>{point});
}

TEST_CASE("a locale without UTF-8 gets ASCII") {
  TokenScores scores{"Caf\u00e9", {"caf\u00e9", "  ", "\u22ef"}, {0.5, -0.25, 1}, {7, 8, 12345}};
  for (const bool colours : {false, true}) {
    Terminal terminal;
    terminal.unicode = false;
    if (colours) terminal.colours = ColourDepth::truecolour;
    const std::string text = colours ? show_tokens(scores, terminal) : score_table(scores, terminal);
    // The title is the caller's to print.
    const std::string rest = text.substr(text.find('\n'));
    CHECK(std::all_of(rest.begin(), rest.end(), [](char letter) { return static_cast<unsigned char>(letter) < 0x80; }));
    CHECK_THAT(rest, contains_text("caf\\u00e9"));
  }
  const std::vector<std::string> lines = lines_of(score_table(scores, Terminal()));
  CHECK_THAT(lines[1], contains_text("token     id"));
  CHECK_THAT(lines[4], contains_text("\u22ef      12345"));
}

TEST_CASE("colours are for terminals that want them") {
  const auto depth = [](bool interactive, std::map<std::string, std::string> values) {
    return terminal_of(interactive, 80, environment(std::move(values))).colours;
  };
  CHECK(depth(true, {{"TERM", "xterm-256color"}}) == ColourDepth::palette256);
  CHECK(depth(true, {{"TERM", "xterm-256color"}, {"COLORTERM", "truecolor"}}) == ColourDepth::truecolour);
  CHECK(depth(true, {{"TERM", "xterm-direct"}}) == ColourDepth::truecolour);
  CHECK(depth(true, {{"TERM", "dumb"}, {"COLORTERM", "truecolor"}}) == ColourDepth::none);
  CHECK(depth(true, {}) == ColourDepth::none);
  CHECK(depth(false, {{"TERM", "xterm-256color"}, {"COLORTERM", "24bit"}}) == ColourDepth::none);
  CHECK(depth(true, {{"TERM", "xterm-256color"}, {"NO_COLOR", "1"}}) == ColourDepth::none);
  CHECK(depth(true, {{"TERM", "xterm-256color"}, {"NO_COLOR", ""}}) == ColourDepth::palette256);
  CHECK(depth(true, {{"TERM", "xterm-256color"}, {"CLICOLOR", "0"}}) == ColourDepth::none);
  CHECK(depth(false, {{"CLICOLOR_FORCE", "1"}}) == ColourDepth::palette256);
  CHECK(depth(false, {{"CLICOLOR_FORCE", "1"}, {"COLORTERM", "truecolor"}}) == ColourDepth::truecolour);
  CHECK(depth(false, {{"TERM", "xterm"}, {"CLICOLOR_FORCE", "0"}}) == ColourDepth::none);
  CHECK(depth(false, {{"CLICOLOR_FORCE", "1"}, {"NO_COLOR", "1"}}) == ColourDepth::none);
  CHECK(terminal_of(false, 0, environment({{"COLUMNS", "132"}})).width == 132);
  CHECK(terminal_of(false, 0, environment({{"COLUMNS", "-5"}})).width == 80);
  CHECK(terminal_of(false, 0, environment({})).width == 80);
  CHECK(terminal_of(false, 0, environment({{"LC_ALL", "C"}, {"LANG", "en_GB.UTF-8"}})).unicode == false);
  CHECK(terminal_of(false, 0, environment({{"LANG", "en_GB.UTF-8"}})).unicode);
}

TEST_CASE("a sentence in colours: every token on its colour, wrapped, with a legend") {
  TokenScores scores = scored_sentence();
  scores.title = "Mamba";
  Terminal terminal;
  terminal.colours = ColourDepth::truecolour;
  terminal.width = 20;
  const std::string text = show_tokens(scores, terminal);
  const Colour full = highlight_colour(1);
  CHECK_THAT(text, contains_text("\x1b[48;2;" + std::to_string(full.red) + ";" + std::to_string(full.green) + ";" +
                                 std::to_string(full.blue) + "m"));
  const std::string plain = without_colours(text);
  CHECK_FALSE(controls(plain));
  CHECK_THAT(plain, contains_text("Mamba\na touching tale of\npeople .\n"));
  CHECK_THAT(plain, contains_text("0.400  relevance"));
  const std::vector<std::string> lines = lines_of(text);
  for (std::size_t k = 1; k < lines.size(); ++k) CHECK((k + 1 == lines.size() || lines[k].substr(lines[k].size() - 4) == "\x1b[0m"));

  terminal.colours = ColourDepth::palette256;
  CHECK_THAT(show_tokens(scores, terminal), contains_text("\x1b[48;5;"));
  CHECK_THAT(show_tokens(scores, terminal), !contains_text("48;2;"));

  scores.tokens[1] = "\x1b[31m\nx\x9b";
  scores.tokens[2] = std::string(50, 'y');
  scores.scores[3] = std::nan("");
  scores.title = "\x1b]0;title\x07";
  const std::string hostile = without_colours(show_tokens(scores, terminal));
  CHECK_FALSE(controls(hostile));
  CHECK_THAT(hostile, contains_text("\\x1b[31m\\nx"));
  for (const std::string& line : lines_of(hostile)) CHECK((display_width(line) <= 20 || line.find("relevance") != std::string::npos));
}

TEST_CASE("without colours a sentence is an aligned table, and holds no escape") {
  TokenScores scores = scored_sentence();
  Terminal terminal;
  terminal.width = 60;
  const std::string table = show_tokens(scores, terminal);
  CHECK(table == score_table(scores, terminal));
  CHECK_FALSE(controls(table));
  const std::vector<std::string> lines = lines_of(table);
  REQUIRE(lines.size() == 7);
  CHECK(lines[0] == "position  token     relevance");
  CHECK_THAT(lines[2], contains_text("       1  touching      0.400  \u2588\u2588\u2588"));
  CHECK(lines[4] == "       3  of            0.000");
  for (const std::string& line : lines) CHECK(display_width(line) <= 60);
  for (const int width : {40, 36, 28, 26}) {  // bars go, then ends of tokens
    INFO(width);
    Terminal narrow = terminal;
    narrow.width = width;
    for (const std::string& line : lines_of(score_table(scores, narrow))) CHECK(display_width(line) <= width);
    narrow.colours = ColourDepth::palette256;
    std::string legend = lines_of(show_tokens(scores, narrow)).back();
    for (std::size_t at = 0; (at = legend.find('\x1b')) != std::string::npos;) legend.erase(at, legend.find('m', at) - at + 1);
    CHECK(display_width(legend) <= width);
  }

  terminal.unicode = false;
  scores.scores[0] = -0.4;
  scores.scores[3] = std::nan("");
  scores.tokens[0] = "\x1b[2J";
  const std::string ascii = score_table(scores, terminal);
  CHECK_FALSE(controls(ascii));
  CHECK(std::all_of(ascii.begin(), ascii.end(), [](char letter) { return static_cast<unsigned char>(letter) < 0x80; }));
  const std::vector<std::string> signed_lines = lines_of(ascii);
  CHECK_THAT(signed_lines[1], contains_text("\\x1b[2J"));
  CHECK_THAT(signed_lines[1], contains_text("###|"));
  CHECK_THAT(signed_lines[2], contains_text("|###"));
  CHECK_THAT(signed_lines[4], contains_text("nan"));
  CHECK(signed_lines[1].find('|') == signed_lines[2].find('|'));

  scores.scores.pop_back();
  CHECK_THAT(what_of([&] { (void)show_tokens(scores, terminal); }), contains_text("6 tokens and 5 scores"));
  CHECK_THAT(what_of([&] { (void)score_table(TokenScores{}, terminal); }), contains_text("at least one"));
  TokenScores single;
  single.tokens = {"x"};
  single.scores = {0};
  CHECK_THAT(score_table(single, terminal), contains_text("0.00"));
}

TEST_CASE("progress is silent at first; a bar in a terminal, throttled and erased; lines elsewhere, by themselves where nothing advances") {
  const auto output = [](bool interactive, std::chrono::steady_clock::duration delay, Index steps) {
    std::FILE* file = std::tmpfile();
    REQUIRE(file != nullptr);
    Terminal terminal;
    terminal.interactive = interactive;
    terminal.width = 50;
    {
      ProgressBar bar("scoring\x1b[2J a long description of what is going on", steps, file, terminal, delay);
      for (Index k = 0; k < steps; ++k) bar.advance();
    }
    std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
    std::rewind(file);
    REQUIRE(std::fread(text.data(), 1, text.size(), file) == text.size());
    std::fclose(file);
    return text;
  };
  const std::string lines = output(false, std::chrono::seconds(0), 1000);
  CHECK(lines.rfind("scoring\\x1b[2J a long description of what is going on: 0 %", 0) == 0);
  CHECK(lines.find('\n') + 1 == lines.size());  // the next one is due in ten seconds
  CHECK(lines.find_first_of("\r\x1b") == std::string::npos);
  CHECK(output(false, std::chrono::hours(1), 1000).empty());
  CHECK(output(true, std::chrono::hours(1), 1000).empty());
  const std::string drawn = output(true, std::chrono::seconds(0), 1000);
  CHECK_THAT(drawn, contains_text("/1,000"));
  CHECK(drawn.find('\x1b') == std::string::npos);
  CHECK(drawn.size() < 4000);  // a handful of bars at most, not a thousand
  const std::size_t last = drawn.rfind('\r'), before = drawn.rfind('\r', last - 1);
  CHECK(last == drawn.size() - 1);
  CHECK(drawn.find_first_not_of(' ', before + 1) == last);  // erased by spaces
  const std::string bar = drawn.substr(1, drawn.find('\r', 1) - 1);
  CHECK(display_width(bar) <= 49);
}

TEST_CASE("numbers are written to be read") {
  CHECK(significant(0.012345) == "0.0123");
  CHECK(significant(1.2) == "1.20");
  CHECK(significant(9.999) == "10.0");
  CHECK(significant(-123456.0) == "-123456");
  CHECK(significant(3.4e-7) == "3.40e-07");
  CHECK(significant(1e6) == "1.00e+06");
  CHECK(significant(0) == "0");
  CHECK(significant(std::nan("")) == "nan");
  CHECK(fixed(-0.0001, 2) == "0.00");
  CHECK(fixed(2.5, 1) == "2.5");
  CHECK(percent(0.9341) == "93.4 %");
  CHECK(interval(0.5, 0.25, 0.75, 2) == "0.50 [0.25, 0.75]");
  CHECK(byte_text(1536) == "1.50 KiB");
  CHECK(byte_text(12) == "12 B");
  CHECK(duration_text(0.0021) == "2.10 ms");
  CHECK(duration_text(75) == "1 min 15 s");
  CHECK(duration_text(7300) == "2 h 1 min");
  CHECK(grouped(65536) == "65,536");
  CHECK(grouped(-1234567) == "-1,234,567");
  CHECK(grouped(999) == "999");
  CHECK(tick_labels(nice_ticks(0, 1, 6)) == std::vector<std::string>{"0", "0.2", "0.4", "0.6", "0.8", "1.0"});
  CHECK(tick_labels(nice_ticks(-0.31, 0.31, 5)) == std::vector<std::string>{"-0.2", "0", "0.2"});
  CHECK(nice_ticks(-1.3e308, 1.3e308, 5).size() == 5);  // further apart than a number goes
  CHECK(tick_labels(nice_ticks(0, 3.2e-5, 4)) == std::vector<std::string>{"0", "1e-5", "2e-5", "3e-5"});
  CHECK(tick_labels(nice_ticks(0, 1700, 4)) == std::vector<std::string>{"0", "500", "1000", "1500"});
  for (const double limit : {1e-300, 3e-8, 0.07, 1.0, 9.99, 12345.0, 1e300}) {
    for (const int count : {2, 5, 9}) {
      const std::vector<double> ticks = nice_ticks(-limit, limit, count);
      INFO("limit " << limit << ", count " << count);
      CHECK(ticks.size() >= 1);
      CHECK(static_cast<int>(ticks.size()) <= count);
      CHECK(std::count(ticks.begin(), ticks.end(), 0.0) == 1);
    }
  }
  CHECK(nice_ticks(1, 1, 5).empty());
}

TEST_CASE("a table's columns line up, and it knows Markdown") {
  Table table({"method", "area", "note"});
  table.add({"rollout", "0.71", "a"});
  table.rule();
  table.add({"br\u00fbl\u00e9e", "-10.2", "b|c"});
  CHECK(table.text() ==
        "method    area  note\n"
        "-------  -----  ----\n"
        "rollout   0.71  a\n"
        "-------  -----  ----\n"
        "br\u00fbl\u00e9e   -10.2  b|c\n");
  CHECK(table.markdown() ==
        "| method | area | note |\n"
        "|---|---:|---|\n"
        "| rollout | 0.71 | a |\n"
        "| br\u00fbl\u00e9e | -10.2 | b\\|c |\n");
  CHECK_THAT(what_of([&] { table.add({"one"}); }), contains_text("1 cells, expected 3"));
}
