#include "canvas.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <new>
#include <set>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <ft2build.h>
#include FT_FREETYPE_H
#include FT_MODULE_H
#include FT_SYSTEM_H
#include <png.h>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/replaced_file.hpp>

#include "terminal.hpp"
#include "text.hpp"

namespace implicit_attention::examples {
namespace {

std::string find_font(bool bold) {
  if (const char* chosen = std::getenv("IMPLICIT_ATTENTION_FONT"); chosen != nullptr && *chosen != '\0') {
    if (::access(chosen, R_OK) != 0) {
      detail::raise(ErrorKind::file, "font: IMPLICIT_ATTENTION_FONT names ", chosen,
                    ", which cannot be read; unset it, or name a .ttf file");
    }
    return chosen;
  }
  static constexpr std::array<const char*, 8> folders{"/usr/share/fonts/truetype/dejavu/",
                                                      "/usr/share/fonts/dejavu/",
                                                      "/usr/share/fonts/dejavu-sans-fonts/",
                                                      "/usr/share/fonts/TTF/",
                                                      "/usr/local/share/fonts/dejavu/",
                                                      "/opt/homebrew/share/fonts/",
                                                      "/usr/local/share/fonts/",
                                                      "/Library/Fonts/"};
  for (const char* folder : folders) {
    const std::string path = std::string(folder) + (bold ? "DejaVuSans-Bold.ttf" : "DejaVuSans.ttf");
    if (::access(path.c_str(), R_OK) == 0) return path;
  }
  if (bold) return find_font(false);
  detail::raise(
      ErrorKind::file,
      "font: DejaVu Sans was not found; install it (Debian, Ubuntu: fonts-dejavu-core; Fedora: dejavu-sans-fonts; Arch: ttf-dejavu), "
      "or name a .ttf file in IMPLICIT_ATTENTION_FONT");
}

/// Other fonts of this machine, for characters that DejaVu Sans lacks: those in the usual folders, upright and regular ones first.
std::vector<std::string> other_fonts() {
  namespace fs = std::filesystem;
  std::vector<std::string> folders{"/usr/share/fonts", "/usr/local/share/fonts", "/opt/homebrew/share/fonts", "/Library/Fonts",
                                   "/System/Library/Fonts"};
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0')
    for (const char* below : {"/.local/share/fonts", "/.fonts", "/Library/Fonts"}) folders.push_back(std::string(home) + below);
  if (const char* given = std::getenv("IMPLICIT_ATTENTION_FONT_FOLDER"); given != nullptr && *given != '\0') folders = {given};
  constexpr std::size_t most = 5000;
  std::vector<std::string> paths;
  for (const std::string& folder : folders) {
    std::error_code ignored;
    fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, ignored);
    for (; !ignored && entry != fs::recursive_directory_iterator() && paths.size() < most; entry.increment(ignored)) {
      const std::string ending = entry->path().extension().string();
      if (ending == ".ttf" || ending == ".otf" || ending == ".ttc" || ending == ".otc") paths.push_back(entry->path().string());
    }
  }
  const auto unusual = [](const std::string& path) {
    int count = path.find("Sans") == std::string::npos ? 1 : 0;
    for (const char* word : {"Bold", "Italic", "Oblique", "Mono", "Light", "Thin", "Black", "Condensed"})
      count += path.find(word) != std::string::npos ? 2 : 0;
    return count;
  };
  std::sort(paths.begin(), paths.end(),
            [&](const std::string& a, const std::string& b) { return unusual(a) != unusual(b) ? unusual(a) < unusual(b) : a < b; });
  return paths;
}

}  // namespace

struct Fonts::Faces {
  /// FreeType, and the faces that it opens. Where memory ends it goes on without a table, a module or a letter, and says nothing: a picture
  /// must not lack them, so that memory is asked for here.
  struct Library {
    Library() {
      if (with_memory(FT_New_Library(&memory, &handle)) != 0) detail::raise(ErrorKind::file, "font: FreeType does not start");
      FT_Add_Default_Modules(handle);
      FT_Set_Default_Properties(handle);
      if (failed) {
        FT_Done_Library(handle);
        throw std::bad_alloc();
      }
    }
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;
    ~Library() { FT_Done_Library(handle); }

    /// What a call of FreeType gave, unless it had too little memory.
    FT_Error with_memory(FT_Error error) const {
      if (failed) throw std::bad_alloc();
      return error;
    }

    static void* given(FT_Memory memory, void* block) {
      if (block == nullptr) static_cast<Library*>(memory->user)->failed = true;
      return block;
    }
    FT_MemoryRec_ memory{
        this, [](FT_Memory from, long size) { return given(from, std::malloc(static_cast<std::size_t>(size))); },
        [](FT_Memory, void* block) { std::free(block); },
        [](FT_Memory from, long, long size, void* block) { return given(from, std::realloc(block, static_cast<std::size_t>(size))); }};
    FT_Library handle = nullptr;
    bool failed = false;
  };

  struct Glyph {
    FT_UInt index = 0;
    double advance = 0;
    int left = 0, top = 0, width = 0, rows = 0;  // the bitmap's place relative to pen and baseline (top: upwards)
    std::vector<unsigned char> coverage;
  };

  Faces() {
    const std::array<std::string, 2> paths{find_font(false), find_font(true)};
    for (const bool bold : {false, true}) {
      const std::string& path = paths[bold ? 1 : 0];
      if (library.with_memory(FT_New_Face(library.handle, path.c_str(), 0, &face[bold ? 1 : 0])) != 0)
        detail::raise(ErrorKind::file, "font: FreeType cannot read ", path,  // without memory for the file it finds no format, either
                      "; is it a TrueType or OpenType font, and is there enough memory?");
    }
  }

  const Glyph& glyph(char32_t point, const TextStyle& style) {
    const int quarter_pixels = static_cast<int>(std::lround(style.size * 4));
    const auto key = std::make_pair(std::make_pair(quarter_pixels, style.bold), point);
    if (const auto known = glyphs.find(key); known != glyphs.end()) return known->second;
    FT_Face font = face[style.bold ? 1 : 0];
    Glyph made;
    made.index = FT_Get_Char_Index(font, point);
    FT_UInt index = made.index;  // made.index is for kerning, which is within the first font
    if (index == 0) {
      if (FT_Face other = other_face(point); other != nullptr) {
        font = other;
        index = FT_Get_Char_Index(font, point);
      } else {
        missing.insert(point);
      }
    }
    size(font, style);
    // Unhinted: letters keep their shape and spacing in both directions of writing.
    if (library.with_memory(FT_Load_Glyph(font, index, FT_LOAD_NO_HINTING | FT_LOAD_RENDER)) == 0) {
      const FT_GlyphSlot slot = font->glyph;
      made.advance = static_cast<double>(slot->linearHoriAdvance) / 65536;
      made.left = slot->bitmap_left;
      made.top = slot->bitmap_top;
      if (slot->bitmap.pixel_mode == FT_PIXEL_MODE_GRAY) {
        made.width = static_cast<int>(slot->bitmap.width);
        made.rows = static_cast<int>(slot->bitmap.rows);
        for (int row = 0; row < made.rows; ++row) {
          const unsigned char* line = slot->bitmap.buffer + static_cast<std::ptrdiff_t>(row) * slot->bitmap.pitch;
          made.coverage.insert(made.coverage.end(), line, line + made.width);
        }
      }
    }
    return glyphs.emplace(key, std::move(made)).first->second;
  }

  double kerning(FT_UInt left, FT_UInt right, const TextStyle& style) {
    FT_Face font = sized(style);
    FT_Vector move{0, 0};
    if (left == 0 || right == 0 || !FT_HAS_KERNING(font)) return 0;
    (void)library.with_memory(FT_Get_Kerning(font, left, right, FT_KERNING_UNFITTED, &move));
    return static_cast<double>(move.x) / 64;
  }

  // Visits each glyph of a line with the distance of its pen from the line's beginning; returns the line's length.
  template <class Visit>
  double walk(std::string_view line, const TextStyle& style, Visit&& visit) {
    double pen = 0;
    FT_UInt before = 0;
    for (const char32_t point : code_points(line)) {
      const Glyph& next = glyph(point, style);
      pen += kerning(before, next.index, style);
      visit(next, pen);
      pen += next.advance;
      before = next.index;
    }
    return pen;
  }

  FT_Face sized(const TextStyle& style) {
    FT_Face font = face[style.bold ? 1 : 0];
    size(font, style);
    return font;
  }
  void size(FT_Face font, const TextStyle& style) const {
    (void)library.with_memory(FT_Set_Char_Size(font, 0, static_cast<FT_F26Dot6>(std::lround(style.size * 4)) * 16, 72, 72));
  }

  // The first of this machine's other fonts that has the character; null if none has.
  FT_Face other_face(char32_t point) {
    for (FT_Face known : others)
      if (FT_Get_Char_Index(known, point) != 0) return known;
    if (!looked) waiting = other_fonts();
    looked = true;
    while (next_waiting < waiting.size()) {
      FT_Face opened = nullptr;
      if (library.with_memory(FT_New_Face(library.handle, waiting[next_waiting++].c_str(), 0, &opened)) != 0) continue;
      if (!FT_IS_SCALABLE(opened)) {  // pictures of one size, as colour emoji are
        FT_Done_Face(opened);
        continue;
      }
      others.push_back(opened);
      if (FT_Get_Char_Index(opened, point) != 0) return opened;
    }
    return nullptr;
  }

  Library library;
  std::array<FT_Face, 2> face{};
  std::vector<FT_Face> others;  // opened so far, in the order of `waiting`
  std::vector<std::string> waiting;
  std::size_t next_waiting = 0;
  bool looked = false;
  std::set<char32_t> missing;
  std::map<std::pair<std::pair<int, bool>, char32_t>, Glyph> glyphs;
};

Fonts::Fonts() : faces_(std::make_unique<Faces>()) {}
Fonts::Fonts(Fonts&&) noexcept = default;
Fonts& Fonts::operator=(Fonts&&) noexcept = default;
Fonts::~Fonts() = default;

double Fonts::width(std::string_view text, const TextStyle& style) const {
  return faces_->walk(text, style, [](const Faces::Glyph&, double) {});
}

std::vector<char32_t> Fonts::missing() const { return {faces_->missing.begin(), faces_->missing.end()}; }

std::string missing_glyphs_note(const std::vector<char32_t>& missing) {
  if (missing.empty()) return {};
  constexpr std::size_t most = 8;
  std::string list;
  for (std::size_t k = 0; k < std::min(most, missing.size()); ++k) {
    std::array<char, 16> number{};
    std::snprintf(number.data(), number.size(), "U+%04X", static_cast<unsigned>(missing[k]));
    list += detail::message(list.empty() ? "" : ", ", visible(utf8(missing[k])), " (", number.data(), ")");
  }
  if (missing.size() > most) list += detail::message(" and ", missing.size() - most, " more");
  return detail::message("No font here has ", list,
                         ": drawn as boxes. Install a font that does (Debian, Ubuntu: fonts-noto-core, fonts-noto-cjk, fonts-symbola), "
                         "or name one in IMPLICIT_ATTENTION_FONT.");
}

void warn_of_missing_glyphs(const char* program, const std::vector<char32_t>& missing) {
  if (!missing.empty()) print(detail::message(program, ": ", missing_glyphs_note(missing), "\n"), terminal_of(stderr), stderr);
}

std::string Fonts::shorten(std::string_view text, const TextStyle& style, double pixels) const {
  if (width(text, style) <= pixels) return std::string(text);
  const std::vector<char32_t> points = code_points(text);
  const double room = pixels - width("\u2026", style);
  std::string kept;
  for (const char32_t point : points) {
    const std::string longer = kept + utf8(point);
    if (width(longer, style) > room) break;
    kept = longer;
  }
  return kept + "\u2026";
}

std::vector<std::string> Fonts::wrap(std::string_view text, const TextStyle& style, double pixels) const {
  std::vector<std::string> lines;
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    std::string line;
    for (std::size_t at = start; at < end;) {
      const std::size_t stop = std::min(text.find(' ', at), end);
      const std::string word(text.substr(at, stop - at));
      const std::string longer = line.empty() ? word : line + " " + word;
      if (!line.empty() && width(longer, style) > pixels) {
        lines.push_back(line);
        line = word;
      } else {
        line = longer;
      }
      at = stop + 1;
    }
    lines.push_back(line);
    start = end + 1;
  }
  return lines;
}

Canvas::Canvas(int width, int height, Colour background) : width_(width), height_(height) {
  pixels_.reserve(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  for (std::size_t pixel = 0; pixel < static_cast<std::size_t>(width) * static_cast<std::size_t>(height); ++pixel) {
    pixels_.insert(pixels_.end(), {background.red, background.green, background.blue});
  }
}

Colour Canvas::at(int x, int y) const {
  const std::size_t place = 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width_) + static_cast<std::size_t>(x));
  return {pixels_[place], pixels_[place + 1], pixels_[place + 2]};
}

void Canvas::set(int x, int y, Colour colour) {
  if (x < 0 || y < 0 || x >= width_ || y >= height_) return;
  const std::size_t place = 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width_) + static_cast<std::size_t>(x));
  pixels_[place] = colour.red;
  pixels_[place + 1] = colour.green;
  pixels_[place + 2] = colour.blue;
}

void Canvas::blend(int x, int y, Colour colour, double coverage) {
  if (coverage <= 0 || x < 0 || y < 0 || x >= width_ || y >= height_) return;
  const Colour under = at(x, y);
  const auto mix = [coverage](std::uint8_t from, std::uint8_t to) {
    return static_cast<std::uint8_t>(std::lround(from + coverage * (to - from)));
  };
  set(x, y, {mix(under.red, colour.red), mix(under.green, colour.green), mix(under.blue, colour.blue)});
}

void Canvas::fill(int left, int top, int width, int height, Colour colour) {
  for (int y = std::max(0, top); y < std::min(height_, top + height); ++y) {
    for (int x = std::max(0, left); x < std::min(width_, left + width); ++x) set(x, y, colour);
  }
}

void Canvas::fill_rounded(int left, int top, int width, int height, double radius, Colour colour) {
  radius = std::min({radius, width / 2.0, height / 2.0});
  for (int y = top; y < top + height; ++y) {
    for (int x = left; x < left + width; ++x) {
      // Distance into the corner's quarter circle, from pixel centres; half a pixel either side of the rim is the anti-aliasing.
      const double across = std::max({left + radius - (x + 0.5), (x + 0.5) - (left + width - radius), 0.0});
      const double down = std::max({top + radius - (y + 0.5), (y + 0.5) - (top + height - radius), 0.0});
      blend(x, y, colour, std::clamp(radius - std::hypot(across, down) + 0.5, 0.0, 1.0));
    }
  }
}

void Canvas::glyphs(const Fonts& fonts, double x, double y, std::string_view line, const TextStyle& style, Anchor anchor, bool upwards) {
  const double share = anchor == Anchor::begin ? 0 : anchor == Anchor::middle ? 0.5 : 1;
  const double before = share == 0 ? 0 : share * fonts.width(line, style);
  fonts.faces_->walk(line, style, [&](const Fonts::Faces::Glyph& glyph, double pen) {
    const int along = static_cast<int>(std::lround((upwards ? -y : x) - before + pen)) + glyph.left;
    const int across = static_cast<int>(std::lround(upwards ? x : y)) - glyph.top;
    for (int row = 0; row < glyph.rows; ++row) {
      for (int column = 0; column < glyph.width; ++column) {
        const double coverage = glyph.coverage[static_cast<std::size_t>(row * glyph.width + column)] / 255.0;
        if (upwards) {
          blend(across + row, -(along + column), style.colour, coverage);
        } else {
          blend(along + column, across + row, style.colour, coverage);
        }
      }
    }
  });
}

void Canvas::text(const Fonts& fonts, double x, double y, std::string_view line, const TextStyle& style, Anchor anchor) {
  glyphs(fonts, x, y, line, style, anchor, false);
}

void Canvas::text_upwards(const Fonts& fonts, double x, double y, std::string_view line, const TextStyle& style, Anchor anchor) {
  glyphs(fonts, x, y, line, style, anchor, true);
}

void Canvas::write_png(const std::string& path) const {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width_);
  image.height = static_cast<png_uint_32>(height_);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t bytes = 0;
  std::vector<unsigned char> encoded;
  bool whole = png_image_write_get_memory_size(image, bytes, 0, pixels_.data(), 0, nullptr) != 0;
  if (whole) {
    encoded.resize(bytes);
    whole = png_image_write_to_memory(&image, encoded.data(), &bytes, 0, pixels_.data(), 0, nullptr) != 0;
  }
  if (!whole) detail::raise(ErrorKind::file, path, ": libpng cannot encode the picture: ", image.message);

  ReplacedFile file(path);
  file.write(encoded.data(), bytes);
  file.commit();
}

std::string with_minus(std::string_view text) {
  std::string out;
  for (const char letter : text) out += letter == '-' ? std::string("\u2212") : std::string(1, letter);
  return out;
}

}  // namespace implicit_attention::examples
