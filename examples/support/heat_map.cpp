#include "heat_map.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include <implicit_attention/core/error.hpp>

#include "canvas.hpp"
#include "colour_scale.hpp"
#include "numbers.hpp"
#include "text.hpp"

namespace implicit_attention::examples {
namespace {

constexpr double masked = std::numeric_limits<double>::infinity();  // among a plan's cells: after the diagonal
constexpr int margin = 48, panel_gap = 56, longest_label = 220, label_gap = 14, shortest_vertical_bar = 240;
const TextStyle title_style{38, {24, 26, 32}, true};
const TextStyle subtitle_style{27, {24, 26, 32}, true};
const TextStyle axis_style{24, muted_ink, false};
const TextStyle caption_style{22, muted_ink, false};

// One axis of a panel: which numbers share a cell, how large a cell is, which labels are drawn.
struct Axis {
  Index count = 0;    // rows or columns of the matrix
  Index block = 1;    // of them in one cell
  Index cells = 0;    // drawn
  int cell = 1;       // pixels
  Index step = 1;     // one label every `step` rows or columns
  bool words = false; // labels are the caller's; else numbers
  TextStyle style;
  int room = 0;       // pixels across the axis for its labels; 0: none drawn
  [[nodiscard]] int length() const { return static_cast<int>(cells) * cell; }
  [[nodiscard]] double centre(Index i) const { return (static_cast<double>(i) + 0.5) / static_cast<double>(block) * cell; }
  [[nodiscard]] Index labels() const { return room == 0 ? 0 : (count + step - 1) / step; }
};

// A panel as it will be drawn.
struct Plan {
  const Panel* panel = nullptr;
  Axis rows, columns;
  Matrix<double> cells;  // means over blocks; not a number: grey, `masked`: blank
  bool causal = false;
  Index missing = 0;     // entries that are not finite
  ColourScale scale;
  int left = 0, top = 0; // of the cells
};

Index token_of(const Panel& panel, Index row) { return panel.row_tokens.empty() ? row : panel.row_tokens[static_cast<std::size_t>(row)]; }

void check(const HeatMap& map) {
  if (map.panels.empty()) raise(ErrorKind::shape, "heat map: no panels to draw, expected at least one");
  for (std::size_t k = 0; k < map.panels.size(); ++k) {
    const Panel& panel = map.panels[k];
    const Index rows = panel.values.rows(), columns = panel.values.cols();
    if (panel.values.size() == 0) {
      raise(ErrorKind::shape, message("heat map: panel ", k, " is (", rows, ", ", columns, "), expected at least one row and one column"));
    }
    const auto fits = [&](std::size_t labels, Index expected, const char* what) {
      if (labels == 0 || static_cast<Index>(labels) == expected) return;
      raise(ErrorKind::shape, message("heat map: panel ", k, " has ", labels, " ", what, ", expected ", expected, " or none"));
    };
    fits(panel.row_labels.size(), rows, "row labels");
    fits(panel.column_labels.size(), columns, "column labels");
    fits(panel.row_tokens.size(), rows, "row tokens");
  }
}

bool blank_after_diagonal(const Panel& panel) {
  if (!panel.causal || (panel.row_tokens.empty() && panel.values.rows() != panel.values.cols())) return false;
  for (Index i = 0; i < panel.values.rows(); ++i) {
    for (Index j = std::max<Index>(0, token_of(panel, i) + 1); j < panel.values.cols(); ++j) {
      if (!(panel.values(i, j) == 0)) return false;
    }
  }
  return true;
}

// `aim` and `most`: the length a panel should have and may have, pixels. Small cells that are to carry words are enlarged until they can.
Axis axis_of(Index count, bool words, int aim, int most) {
  Axis axis;
  axis.count = count;
  axis.words = words;
  axis.block = (count + most - 1) / most;
  axis.cells = (count + axis.block - 1) / axis.block;
  const int smallest = words && count * 20 <= most ? 20 : 1;
  const double fitting = static_cast<double>(aim) / static_cast<double>(axis.cells);
  axis.cell = std::clamp(static_cast<int>(std::lround(fitting)), smallest, 128);
  while (axis.cell > 1 && axis.length() > most) --axis.cell;
  return axis;
}

// Square cells, unless that would make a panel too thin to see (one row of many tokens).
void square(Axis& rows, Axis& columns) {
  if (rows.block > 1 || columns.block > 1) {
    if (rows.block == 1) rows.cell = std::min(rows.cell, 64);
    if (columns.block == 1) columns.cell = std::min(columns.cell, 64);
    return;
  }
  const int side = std::min(rows.cell, columns.cell);
  const auto grown = [side](const Axis& axis, int shortest) {
    const int wanted = static_cast<int>((shortest + axis.cells - 1) / axis.cells);
    return std::clamp(wanted, side, std::max(side, 128));
  };
  rows.cell = grown(rows, 64);
  columns.cell = grown(columns, 160);
}

Index nice_step(double least) {
  for (Index power = 1;; power *= 10) {
    for (const Index leading : {1, 2, 5}) {
      if (static_cast<double>(leading * power) >= least) return leading * power;
    }
  }
}

std::string label_of(const Fonts& fonts, const Plan& plan, bool row, Index i) {
  const Axis& axis = row ? plan.rows : plan.columns;
  if (!axis.words) return message(row ? token_of(*plan.panel, i) : i);
  const std::string& word = (row ? plan.panel->row_labels : plan.panel->column_labels)[static_cast<std::size_t>(i)];
  return fonts.shorten(visible(word), axis.style, longest_label);
}

// Words of columns are turned to read upwards, so both axes need a letter's height per label; column numbers lie flat and need their width.
void choose_step(const Fonts& fonts, Plan& plan, bool row) {
  Axis& axis = row ? plan.rows : plan.columns;
  const double largest = axis.words ? 24 : 21;
  axis.style = {std::clamp(std::floor(0.82 * axis.cell), 17.0, largest), axis.words ? Colour{24, 26, 32} : muted_ink, false};
  const double per_token = static_cast<double>(axis.cell) / static_cast<double>(axis.block);
  if (axis.words) {
    axis.step = std::max<Index>(1, static_cast<Index>(std::ceil(1.12 * axis.style.size / per_token)));
  } else {
    Index last = axis.count - 1;
    if (row) {
      for (Index i = 0; i < axis.count; ++i) last = std::max(last, token_of(*plan.panel, i));
    }
    axis.style.size = 21;
    const double need = row ? 2.2 * axis.style.size : 1.6 * fonts.width(message(last), axis.style) + 8;
    axis.step = nice_step(need / per_token);
  }
}

void measure_labels(const Fonts& fonts, Plan& plan, bool row) {
  Axis& axis = row ? plan.rows : plan.columns;
  double widest = 0;
  for (Index i = 0; i < axis.count; i += axis.step) widest = std::max(widest, fonts.width(label_of(fonts, plan, row, i), axis.style));
  axis.room = label_gap + 2 + static_cast<int>(std::ceil(!row && !axis.words ? axis.style.size : widest));
}

void choose_labels(const Fonts& fonts, Plan& plan) {
  choose_step(fonts, plan, true);
  choose_step(fonts, plan, false);
  // Numbers along both sides of a square map are the same numbers.
  if (!plan.rows.words && !plan.columns.words && plan.rows.count == plan.columns.count) {
    plan.rows.step = plan.columns.step = std::max(plan.rows.step, plan.columns.step);
  }
  for (const bool row : {true, false}) measure_labels(fonts, plan, row);
}
void average(Plan& plan) {
  const Matrix<double>& values = plan.panel->values;
  plan.cells.resize(plan.rows.cells, plan.columns.cells);
  for (Index r = 0; r < plan.rows.cells; ++r) {
    for (Index c = 0; c < plan.columns.cells; ++c) {
      double sum = 0;
      Index count = 0;
      bool missing = false;
      for (Index i = r * plan.rows.block; i < std::min((r + 1) * plan.rows.block, values.rows()); ++i) {
        const Index end = plan.causal ? std::min(values.cols(), token_of(*plan.panel, i) + 1) : values.cols();
        for (Index j = c * plan.columns.block; j < std::min((c + 1) * plan.columns.block, end); ++j) {
          if (std::isfinite(values(i, j))) {
            sum += values(i, j);
            ++count;
          } else {
            missing = true;
            ++plan.missing;
          }
        }
      }
      plan.cells(r, c) = missing ? std::nan("") : count == 0 ? masked : sum / static_cast<double>(count);
    }
  }
}

// Whether most entries of the panels would be too near zero to be told apart by colours in proportion.
bool crowded_at_zero(const std::vector<Plan>& plans, const std::vector<double>& limits) {
  Index small = 0, all = 0;
  for (std::size_t k = 0; k < plans.size(); ++k) {
    for (Index cell = 0; cell < plans[k].cells.size(); ++cell) {
      const double value = plans[k].cells.data()[cell];
      if (!std::isfinite(value) || value == 0) continue;
      ++all;
      if (std::abs(value) < 0.05 * limits[k]) ++small;
    }
  }
  return static_cast<double>(small) > 0.7 * static_cast<double>(all);
}

// The scale of each panel, or the one of all. A map of nothing but zeros gets the scale [0, 1].
void choose_scales(const HeatMap& map, std::vector<Plan>& plans) {
  double largest_of_all = 0;
  bool negative = false;
  std::vector<double> largest;
  for (const Plan& plan : plans) {
    double here = 0;
    for (Index k = 0; k < plan.cells.size(); ++k) {
      const double value = plan.cells.data()[k];
      if (!std::isfinite(value)) continue;
      here = std::max(here, std::abs(value));
      negative = negative || value < 0;
    }
    largest.push_back(here);
    largest_of_all = std::max(largest_of_all, here);
  }
  const bool diverging = map.palette == Palette::diverging || (map.palette == Palette::automatic && negative);
  if (map.shared_scale) largest.assign(plans.size(), largest_of_all);
  const bool root = map.spacing == Spacing::root || (map.spacing == Spacing::automatic && crowded_at_zero(plans, largest));
  for (std::size_t k = 0; k < plans.size(); ++k) {
    plans[k].scale.kind = diverging ? ColourScale::Kind::diverging : ColourScale::Kind::sequential;
    plans[k].scale.spacing = root ? Spacing::root : Spacing::linear;
    plans[k].scale.limit = largest[k] > 0 ? largest[k] : 1;
  }
}

std::string notes_of(const HeatMap& map, const std::vector<Plan>& plans) {
  std::string notes;
  const auto say = [&notes](const std::string& sentence) { notes += (notes.empty() ? "" : " ") + sentence; };
  Index row_block = 1, column_block = 1, missing = 0;
  bool zero = true;
  for (const Plan& plan : plans) {
    row_block = std::max(row_block, plan.rows.block);
    column_block = std::max(column_block, plan.columns.block);
    missing += plan.missing;
    for (Index k = 0; k < plan.cells.size(); ++k) zero = zero && (plan.cells.data()[k] == 0 || plan.cells.data()[k] == masked);
  }
  if (row_block > 1 || column_block > 1) {
    say(message("Averaged down: a point is the mean of ", plans.size() > 1 ? "up to " : "", row_block, " \u00d7 ", column_block, " entries."));
  }
  if (plans[0].scale.spacing == Spacing::root) say("Colours follow the square root of the magnitude, so that small entries show.");
  if (!map.shared_scale && plans.size() > 1) say("Each panel has a scale of its own.");
  if (missing > 0) say(message("Grey: ", grouped(missing), missing == 1 ? " entry that is" : " entries that are", " not a finite number."));
  if (zero) say("All entries are zero.");
  return notes;
}

void draw_cells(Canvas& canvas, const Fonts& fonts, const Plan& plan) {
  const int width = plan.columns.cell, height = plan.rows.cell;
  const int gap = std::min(width, height) >= 64 ? 3 : std::min(width, height) >= 32 ? 1 : 0;
  canvas.fill(plan.left, plan.top, plan.columns.length(), plan.rows.length(), gap > 0 ? Colour{255, 255, 255} : masked_colour);
  const TextStyle number{std::min(26.0, 0.27 * width), {}, false};
  for (Index r = 0; r < plan.rows.cells; ++r) {
    for (Index c = 0; c < plan.columns.cells; ++c) {
      const double value = plan.cells(r, c);
      const int left = plan.left + static_cast<int>(c) * width, top = plan.top + static_cast<int>(r) * height;
      const Colour colour = value == masked ? masked_colour : plan.scale.colour(value);
      const int inset = value == masked ? 0 : gap;
      canvas.fill(left, top, width - inset, height - inset, colour);
      if (width < 76 || height < 60 || value == masked) continue;
      TextStyle style = number;
      style.colour = readable_on(colour);
      canvas.text(fonts, left + (width - gap) / 2.0, top + height / 2.0 + centre_drop(style), with_minus(significant(value, 2)), style, Anchor::middle);
    }
  }
}

// Numbers get a tick, as on a ruler; words stand in front of their row or column anyway.
void draw_labels(Canvas& canvas, const Fonts& fonts, const Plan& plan) {
  const Axis &rows = plan.rows, &columns = plan.columns;
  const int bottom = plan.top + rows.length();
  for (Index i = 0; rows.room > 0 && i < rows.count; i += rows.step) {
    const double y = plan.top + rows.centre(i);
    if (!rows.words) canvas.fill(plan.left - 8, static_cast<int>(y) - 1, 6, 2, muted_ink);
    canvas.text(fonts, plan.left - label_gap, y + centre_drop(rows.style), label_of(fonts, plan, true, i), rows.style, Anchor::end);
  }
  for (Index j = 0; columns.room > 0 && j < columns.count; j += columns.step) {
    const double x = plan.left + columns.centre(j);
    const std::string label = label_of(fonts, plan, false, j);
    if (columns.words) {
      canvas.text_upwards(fonts, x + centre_drop(columns.style), bottom + label_gap, label, columns.style, Anchor::end);
    } else {
      canvas.fill(static_cast<int>(x) - 1, bottom + 3, 2, 6, muted_ink);
      canvas.text(fonts, x, bottom + label_gap + 0.75 * columns.style.size, label, columns.style, Anchor::middle);
    }
  }
}

// What stands around the cells of every panel of the grid, and where its columns and rows begin.
struct Grid {
  Index across = 1, down = 1;
  std::vector<int> left, right, width;  // per grid column: room for labels, room for a bar, cells
  std::vector<int> top, bottom, height; // per grid row
  int content_width = 0, content_height = 0;
};

}  // namespace

DrawnHeatMap write_heat_map(const std::string& path, const HeatMap& map) {
  check(map);
  const Fonts fonts;
  const Index count = static_cast<Index>(map.panels.size());
  Grid grid;
  grid.across = map.panels_per_row > 0 ? std::min(map.panels_per_row, count)
                : count <= 3           ? count
                                       : static_cast<Index>(std::ceil(std::sqrt(static_cast<double>(count))));
  grid.down = (count + grid.across - 1) / grid.across;
  const int aim = grid.across == 1 ? 1150 : grid.across == 2 ? 860 : grid.across == 3 ? 680 : 540;
  const int most = grid.across == 1 ? 1600 : grid.across == 2 ? 1200 : grid.across == 3 ? 900 : 720;

  std::vector<Plan> plans(map.panels.size());
  for (Index k = 0; k < count; ++k) {
    Plan& plan = plans[static_cast<std::size_t>(k)];
    plan.panel = &map.panels[static_cast<std::size_t>(k)];
    plan.rows = axis_of(plan.panel->values.rows(), !plan.panel->row_labels.empty(), aim, most);
    plan.columns = axis_of(plan.panel->values.cols(), !plan.panel->column_labels.empty(), aim, most);
    square(plan.rows, plan.columns);
    plan.causal = blank_after_diagonal(*plan.panel);
    average(plan);
    choose_labels(fonts, plan);
    // Small multiples: rows that mean the same as those of the panel on the left are not labelled again.
    if (k % grid.across != 0) {
      const Panel& before = map.panels[static_cast<std::size_t>(k - 1)];
      const bool same = before.values.rows() == plan.panel->values.rows() && before.row_labels == plan.panel->row_labels &&
                        before.row_tokens == plan.panel->row_tokens && plans[static_cast<std::size_t>(k - 1)].rows.cell == plan.rows.cell;
      if (same) plan.rows.room = 0;
    }
  }
  choose_scales(map, plans);

  // Room around the cells, then places.
  const bool any_subtitle = std::any_of(map.panels.begin(), map.panels.end(), [](const Panel& panel) { return !panel.subtitle.empty(); });
  const bool own_bars = !map.shared_scale && count > 1;
  const auto zeros = [](Index size) { return std::vector<int>(static_cast<std::size_t>(size), 0); };
  grid.left = grid.right = grid.width = zeros(grid.across);
  grid.top = grid.bottom = grid.height = zeros(grid.down);
  const auto vertical_bar = [](int height) { return height >= shortest_vertical_bar; };
  for (Index k = 0; k < count; ++k) {
    const Plan& plan = plans[static_cast<std::size_t>(k)];
    const std::size_t c = static_cast<std::size_t>(k % grid.across), r = static_cast<std::size_t>(k / grid.across);
    grid.left[c] = std::max(grid.left[c], plan.rows.room + (c == 0 && !map.row_axis.empty() ? 44 : 0));
    grid.width[c] = std::max(grid.width[c], plan.columns.length());
    grid.height[r] = std::max(grid.height[r], plan.rows.length());
    grid.top[r] = any_subtitle ? 46 : 0;
    int below = plan.columns.room + (map.column_axis.empty() ? 0 : 44);
    if (own_bars) {
      const bool vertical = vertical_bar(plan.rows.length());
      const int room = 26 + colour_bar_room(fonts, plan.scale, map.value_name, vertical ? plan.rows.length() : plan.columns.length(), vertical).across;
      (vertical ? grid.right[c] : below) += vertical ? std::max(0, room - grid.right[c]) : room;
    }
    grid.bottom[r] = std::max(grid.bottom[r], below);
  }
  for (std::size_t c = 0; c < grid.width.size(); ++c) grid.content_width += grid.left[c] + grid.width[c] + grid.right[c] + (c > 0 ? panel_gap : 0);
  for (std::size_t r = 0; r < grid.height.size(); ++r) grid.content_height += grid.top[r] + grid.height[r] + grid.bottom[r] + (r > 0 ? panel_gap : 0);

  // One bar for all stands right of the first row of panels, or below everything where that row is too low for one.
  const bool beside = vertical_bar(grid.height[0]);
  const int bar_length = beside ? grid.height[0] : std::min(grid.width[0], 800);
  int words_width = grid.content_width;
  if (!own_bars) {
    const int room = 30 + colour_bar_room(fonts, plans[0].scale, map.value_name, bar_length, beside).across;
    if (beside) words_width += room;
    if (!beside) grid.content_height += room;
  }
  words_width = std::max(words_width, 760);
  const std::string notes = notes_of(map, plans);
  std::vector<std::string> title_lines, caption_lines;
  if (!map.title.empty()) title_lines = fonts.wrap(visible(map.title), title_style, words_width);
  for (const std::string& words : {map.caption, notes}) {
    if (words.empty()) continue;
    const std::vector<std::string> lines = fonts.wrap(words == notes ? words : visible(words), caption_style, words_width);
    caption_lines.insert(caption_lines.end(), lines.begin(), lines.end());
  }
  for (const std::string& line : title_lines) words_width = std::max(words_width, static_cast<int>(std::ceil(fonts.width(line, title_style))));
  const int head = title_lines.empty() ? 0 : static_cast<int>(title_lines.size()) * 50 + 22;
  const int foot = caption_lines.empty() ? 0 : static_cast<int>(caption_lines.size()) * 32 + 24;

  Canvas canvas(words_width + 2 * margin, head + grid.content_height + foot + 2 * margin);
  for (std::size_t k = 0; k < title_lines.size(); ++k) {
    canvas.text(fonts, margin, margin + 32 + 50 * static_cast<double>(k), title_lines[k], title_style);
  }
  DrawnHeatMap drawn;
  int y = margin + head;
  for (Index r = 0; r < grid.down; ++r) {
    const std::size_t row = static_cast<std::size_t>(r);
    int x = margin;
    for (Index c = 0; c < grid.across && r * grid.across + c < count; ++c) {
      const std::size_t column = static_cast<std::size_t>(c);
      Plan& plan = plans[static_cast<std::size_t>(r * grid.across + c)];
      plan.left = x + grid.left[column];
      plan.top = y + grid.top[row];
      const int bottom = plan.top + plan.rows.length();
      if (!plan.panel->subtitle.empty()) {
        const int room = plan.columns.length() + grid.right[column];
        canvas.text(fonts, plan.left, plan.top - 18, fonts.shorten(visible(plan.panel->subtitle), subtitle_style, room), subtitle_style);
      }
      draw_cells(canvas, fonts, plan);
      draw_labels(canvas, fonts, plan);
      if (c == 0 && !map.row_axis.empty()) {
        // On a panel lower than these words they begin at its top and reach down beside the column labels.
        const double middle = std::max(plan.rows.length(), static_cast<int>(fonts.width(map.row_axis, axis_style))) / 2.0;
        canvas.text_upwards(fonts, x + 24, plan.top + middle, map.row_axis, axis_style, Anchor::middle);
      }
      if (!map.column_axis.empty()) {
        canvas.text(fonts, plan.left + plan.columns.length() / 2.0, bottom + plan.columns.room + 32, map.column_axis, axis_style, Anchor::middle);
      }
      if (own_bars) {
        const bool vertical = vertical_bar(plan.rows.length());
        const int below = bottom + plan.columns.room + (map.column_axis.empty() ? 0 : 44) + 26;
        draw_colour_bar(canvas, fonts, plan.scale, map.value_name, vertical ? plan.left + plan.columns.length() + 26 : plan.left,
                        vertical ? plan.top : below, vertical ? plan.rows.length() : plan.columns.length(), vertical);
      }
      drawn.panels.push_back({plan.left, plan.top, plan.columns.length(), plan.rows.length(), plan.rows.cells, plan.columns.cells,
                              plan.rows.labels(), plan.columns.labels(), plan.scale.limit, plan.scale.kind == ColourScale::Kind::diverging,
                              plan.causal});
      x += grid.left[column] + grid.width[column] + grid.right[column] + panel_gap;
    }
    y += grid.top[row] + grid.height[row] + grid.bottom[row] + panel_gap;
  }
  if (!own_bars) {
    const int left = beside ? margin + grid.content_width + 30 : margin + grid.left[0];
    const int top = beside ? margin + head + grid.top[0] : y - panel_gap + 30;
    draw_colour_bar(canvas, fonts, plans[0].scale, map.value_name, left, top, bar_length, beside);
  }
  for (std::size_t k = 0; k < caption_lines.size(); ++k) {
    canvas.text(fonts, margin, canvas.height() - margin - 32 * static_cast<double>(caption_lines.size() - 1 - k), caption_lines[k], caption_style);
  }
  canvas.write_png(path);
  drawn.width = canvas.width();
  drawn.height = canvas.height();
  drawn.notes = notes;
  return drawn;
}

}  // namespace implicit_attention::examples
