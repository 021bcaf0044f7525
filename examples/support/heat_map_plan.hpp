// What a heat map will show, decided before anything is drawn: cells, their sizes, labels and scales.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "canvas.hpp"
#include "colour_scale.hpp"
#include "heat_map.hpp"

namespace implicit_attention::examples {

/// Among a plan's cells: after the diagonal, left blank.
inline constexpr double masked = std::numeric_limits<double>::infinity();
/// Pixels between a panel and its labels.
inline constexpr int label_gap = 14;

/// One axis of a panel: which numbers share a cell, how large a cell is, which labels are drawn.
struct PanelAxis {
  Index count = 0;     // rows or columns of the matrix
  Index block = 1;     // of them in one cell
  Index cells = 0;     // drawn
  int cell = 1;        // pixels
  Index step = 1;      // one label every `step` rows or columns
  bool words = false;  // labels are the caller's; else numbers
  TextStyle style;
  int room = 0;  // pixels across the axis for its labels; 0: none drawn
  [[nodiscard]] int length() const { return static_cast<int>(cells) * cell; }
  [[nodiscard]] double centre(Index i) const { return (static_cast<double>(i) + 0.5) / static_cast<double>(block) * cell; }
  [[nodiscard]] Index labels() const { return room == 0 ? 0 : (count + step - 1) / step; }
};

/// A panel as it will be drawn.
struct PanelPlan {
  const Panel* panel = nullptr;
  PanelAxis rows, columns;
  Matrix<double> cells;  // means over blocks; not a number: grey, `masked`: blank
  bool causal = false;
  Index missing = 0;  // entries that are not finite
  ColourScale scale;
  int left = 0, top = 0;  // of the cells
};

/// Fails (shape) on what cannot be drawn.
void check_heat_map(const HeatMap& map);
/// A panel's cells and labels. `aim` and `most`: the length its sides should have and may have, pixels.
[[nodiscard]] PanelPlan plan_panel(const Fonts& fonts, const Panel& panel, int aim, int most);
/// The scale of each panel, or the one of all. A map of zeros gets the scale [0, 1].
void choose_scales(const HeatMap& map, std::vector<PanelPlan>& plans);
/// Notes that the picture adds: averaging, the square root, missing numbers.
[[nodiscard]] std::string notes_of(const HeatMap& map, const std::vector<PanelPlan>& plans);
/// The text at a row or a column, cut to fit.
[[nodiscard]] std::string label_of(const Fonts& fonts, const PanelPlan& plan, bool row, Index i);

}  // namespace implicit_attention::examples
