#include "heat_map.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "canvas.hpp"
#include "colour_scale.hpp"
#include "heat_map_plan.hpp"
#include "numbers.hpp"
#include "text.hpp"

namespace implicit_attention::examples {
namespace {

constexpr int panel_gap = 56, shortest_vertical_bar = 240;
const TextStyle subtitle_style{27, {24, 26, 32}, true};
const TextStyle axis_style{24, muted_ink, false};

void draw_cells(Canvas& canvas, const Fonts& fonts, const PanelPlan& plan) {
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
      // Gaps lie between cells: at the edges a cell ends where the blank part does.
      canvas.fill(left, top, width - (c + 1 < plan.columns.cells ? inset : 0), height - (r + 1 < plan.rows.cells ? inset : 0), colour);
      if (width < 76 || height < 60 || value == masked) continue;
      TextStyle style = number;
      style.colour = readable_on(colour);
      canvas.text(fonts, left + (width - gap) / 2.0, top + height / 2.0 + centre_drop(style), with_minus(significant(value, 2)), style,
                  Anchor::middle);
    }
  }
}

// Numbers get a tick, as on a ruler; words stand in front of their row or column anyway.
void draw_labels(Canvas& canvas, const Fonts& fonts, const PanelPlan& plan) {
  const PanelAxis &rows = plan.rows, &columns = plan.columns;
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
  std::vector<int> left, right, width;   // per grid column: room for labels, room for a bar, cells
  std::vector<int> top, bottom, height;  // per grid row
  int content_width = 0, content_height = 0;
};

}  // namespace

DrawnHeatMap write_heat_map(const std::string& path, const HeatMap& map) {
  check_heat_map(map);
  const Fonts fonts;
  const Index count = static_cast<Index>(map.panels.size());
  Grid grid;
  grid.across = map.panels_per_row > 0 ? std::min(map.panels_per_row, count)
                : count <= 3           ? count
                                       : static_cast<Index>(std::ceil(std::sqrt(static_cast<double>(count))));
  grid.down = (count + grid.across - 1) / grid.across;
  const int aim = grid.across == 1 ? 1150 : grid.across == 2 ? 860 : grid.across == 3 ? 680 : 540;
  const int most = grid.across == 1 ? 1600 : grid.across == 2 ? 1200 : grid.across == 3 ? 900 : 720;

  std::vector<PanelPlan> plans(map.panels.size());
  for (Index k = 0; k < count; ++k) {
    PanelPlan& plan = plans[static_cast<std::size_t>(k)];
    plan = plan_panel(fonts, map.panels[static_cast<std::size_t>(k)], aim, most);
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
  // A bar stands beside its panel where its name has room there, else below: words that are cut off explain nothing.
  const auto vertical_bar = [&](int height) {
    return height >= shortest_vertical_bar && colour_bar_room(fonts, plans[0].scale, map.value_name, height, true).along <= height;
  };
  for (Index k = 0; k < count; ++k) {
    const PanelPlan& plan = plans[static_cast<std::size_t>(k)];
    const std::size_t c = static_cast<std::size_t>(k % grid.across), r = static_cast<std::size_t>(k / grid.across);
    grid.left[c] = std::max(grid.left[c], plan.rows.room + (c == 0 && !map.row_axis.empty() ? 44 : 0));
    grid.width[c] = std::max(grid.width[c], plan.columns.length());
    grid.height[r] = std::max(grid.height[r], plan.rows.length());
    grid.top[r] = any_subtitle ? 46 : 0;
    int below = plan.columns.room + (map.column_axis.empty() ? 0 : 44);
    if (own_bars) {
      const bool vertical = vertical_bar(plan.rows.length());
      const int length = vertical ? plan.rows.length() : plan.columns.length();
      const BarRoom room = colour_bar_room(fonts, plan.scale, map.value_name, length, vertical);
      grid.right[c] = std::max(grid.right[c], vertical ? 26 + room.across : room.along - plan.columns.length());
      if (!vertical) below += 26 + room.across;
    }
    grid.bottom[r] = std::max(grid.bottom[r], below);
  }
  for (std::size_t c = 0; c < grid.width.size(); ++c)
    grid.content_width += grid.left[c] + grid.width[c] + grid.right[c] + (c > 0 ? panel_gap : 0);
  for (std::size_t r = 0; r < grid.height.size(); ++r)
    grid.content_height += grid.top[r] + grid.height[r] + grid.bottom[r] + (r > 0 ? panel_gap : 0);

  // One bar for all stands right of the first row of panels, or below everything where that row is too low for one.
  const bool beside = vertical_bar(grid.height[0]);
  const int bar_length = beside ? grid.height[0] : std::min(grid.width[0], 800);
  int words_width = grid.content_width;
  if (!own_bars) {
    const BarRoom room = colour_bar_room(fonts, plans[0].scale, map.value_name, bar_length, beside);
    words_width = beside ? words_width + 30 + room.across : std::max(words_width, grid.left[0] + room.along);
    if (!beside) grid.content_height += 30 + room.across;
  }
  words_width = std::max(words_width, 600);
  const std::string notes = notes_of(map, plans);
  std::vector<std::string> title_lines, caption_lines;
  if (!map.title.empty()) title_lines = fonts.wrap(visible(map.title), title_style, words_width);
  for (const std::string& words : {map.caption, notes}) {
    if (words.empty()) continue;
    const std::vector<std::string> lines = fonts.wrap(words == notes ? words : visible(words), caption_style, words_width);
    caption_lines.insert(caption_lines.end(), lines.begin(), lines.end());
  }
  for (const std::string& line : title_lines)
    words_width = std::max(words_width, static_cast<int>(std::ceil(fonts.width(line, title_style))));
  const int head = title_lines.empty() ? 0 : static_cast<int>(title_lines.size()) * 50 + 22;
  const int foot = caption_lines.empty() ? 0 : static_cast<int>(caption_lines.size()) * 32 + 24;

  Canvas canvas(words_width + 2 * page_margin, head + grid.content_height + foot + 2 * page_margin);
  for (std::size_t k = 0; k < title_lines.size(); ++k) {
    canvas.text(fonts, page_margin, page_margin + 32 + 50 * static_cast<double>(k), title_lines[k], title_style);
  }
  DrawnHeatMap drawn;
  int y = page_margin + head;
  for (Index r = 0; r < grid.down; ++r) {
    const std::size_t row = static_cast<std::size_t>(r);
    int x = page_margin;
    for (Index c = 0; c < grid.across && r * grid.across + c < count; ++c) {
      const std::size_t column = static_cast<std::size_t>(c);
      PanelPlan& plan = plans[static_cast<std::size_t>(r * grid.across + c)];
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
        canvas.text(fonts, plan.left + plan.columns.length() / 2.0, bottom + plan.columns.room + 32, map.column_axis, axis_style,
                    Anchor::middle);
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
    const int left = beside ? page_margin + grid.content_width + 30 : page_margin + grid.left[0];
    const int top = beside ? page_margin + head + grid.top[0] : y - panel_gap + 30;
    draw_colour_bar(canvas, fonts, plans[0].scale, map.value_name, left, top, bar_length, beside);
  }
  for (std::size_t k = 0; k < caption_lines.size(); ++k) {
    canvas.text(fonts, page_margin, canvas.height() - page_margin - 32 * static_cast<double>(caption_lines.size() - 1 - k),
                caption_lines[k], caption_style);
  }
  canvas.write_png(path);
  drawn.width = canvas.width();
  drawn.height = canvas.height();
  drawn.notes = notes;
  drawn.missing_glyphs = fonts.missing();
  return drawn;
}

}  // namespace implicit_attention::examples
