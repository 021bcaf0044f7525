// Matrices as pictures: a PNG with title, token labels, axes and colour bar, one or several panels.
#pragma once

#include <string>
#include <vector>

#include <implicit_attention/core/types.hpp>

#include "colour.hpp"

namespace implicit_attention::examples {

/// How a number becomes a place on the colour map. Ticks of the colour bar always show the numbers themselves.
enum class Spacing {
  automatic,  ///< by the root where over 70 % of the entries other than zero are below 5 % of the largest; the picture says so
  linear,     ///< in proportion
  root        ///< by the signed square root, which shows the small entries of a map that a few large ones dominate
};

/// One matrix of a picture.
struct Panel {
  std::string subtitle;                    ///< a line above the panel; may be empty
  Matrix<double> values;                   ///< (query tokens, key tokens); entries that are not finite are drawn grey and counted
  std::vector<std::string> row_labels;     ///< one per row (UTF-8), or none: row numbers are shown instead
  std::vector<std::string> column_labels;  ///< one per column, or none
  std::vector<Index> row_tokens;           ///< which token each row stands for, where rows were selected; empty: row i is token i
  bool causal = true;                      ///< leave the part after the diagonal blank, if it holds only zeros and the map has
                                           ///< a diagonal (is square, or names its row_tokens)
};

/// A picture: panels in a grid, their scale(s), and words.
struct HeatMap {
  std::string title;                      ///< the first line
  std::string caption;                    ///< a line or more below, before the notes that the drawing adds
  std::vector<Panel> panels;              ///< at least one
  std::string row_axis = "query token";   ///< what the rows are
  std::string column_axis = "key token";  ///< what the columns are
  std::string value_name = "attention";   ///< what the colour bar measures
  Palette palette = Palette::automatic;   ///< for all panels together
  Spacing spacing = Spacing::automatic;   ///< for all panels together
  bool shared_scale = true;               ///< one colour bar for all panels, or one each
  Index panels_per_row = 0;               ///< 0: chosen for a picture not much wider than high
};

/// What was drawn and where, for tests and captions. Pixels, origin at the top left.
struct DrawnPanel {
  int left = 0, top = 0, width = 0, height = 0;  ///< the cells' rectangle
  Index rows = 0, columns = 0;                   ///< cells drawn: fewer than the matrix has where it was averaged down
  Index row_labels = 0, column_labels = 0;       ///< labels drawn
  double limit = 0;                              ///< the number at the end of the colour scale
  bool diverging = false;                        ///< from -limit to limit, or from 0 to limit
  bool causal = false;                           ///< whether the part after the diagonal was left blank
};
struct DrawnHeatMap {
  int width = 0, height = 0;
  std::vector<DrawnPanel> panels;
  std::string notes;                     ///< what the drawing says below the caption: averaging, missing numbers
  std::vector<char32_t> missing_glyphs;  ///< characters that no font had
};

/// Draws `map` and writes it to `path` as an RGB PNG, through a temporary file beside it that is renamed when whole.
/// A map too large for the picture (over about 1600 cells a side) is averaged over blocks of cells, and the picture says so.
/// Fails (shape) on an empty matrix, no panels, or labels that do not match; (file) where the path cannot be written or
/// no font is found, naming the package that has it.
DrawnHeatMap write_heat_map(const std::string& path, const HeatMap& map);

}  // namespace implicit_attention::examples
