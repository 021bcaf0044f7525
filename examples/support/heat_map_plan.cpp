#include "heat_map_plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <implicit_attention/core/error.hpp>

#include "numbers.hpp"
#include "text.hpp"

namespace implicit_attention::examples {
namespace {

constexpr int longest_label = 220;

Index token_of(const Panel& panel, Index row) { return panel.row_tokens.empty() ? row : panel.row_tokens[static_cast<std::size_t>(row)]; }

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
PanelAxis axis_of(Index count, bool words, int aim, int most) {
  PanelAxis axis;
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
void square(PanelAxis& rows, PanelAxis& columns) {
  if (rows.block > 1 || columns.block > 1) {
    if (rows.block == 1) rows.cell = std::min(rows.cell, 64);
    if (columns.block == 1) columns.cell = std::min(columns.cell, 64);
    return;
  }
  const int side = std::min(rows.cell, columns.cell);
  const auto grown = [side](const PanelAxis& axis, int shortest) {
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

// Words of columns are turned to read upwards, so both axes need a letter's height per label; column numbers lie flat and need their width.
void choose_step(const Fonts& fonts, PanelPlan& plan, bool row) {
  PanelAxis& axis = row ? plan.rows : plan.columns;
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
    const double need = row ? 2.2 * axis.style.size : 1.6 * fonts.width(detail::message(last), axis.style) + 8;
    axis.step = nice_step(need / per_token);
  }
}

void measure_labels(const Fonts& fonts, PanelPlan& plan, bool row) {
  PanelAxis& axis = row ? plan.rows : plan.columns;
  double widest = 0;
  for (Index i = 0; i < axis.count; i += axis.step) widest = std::max(widest, fonts.width(label_of(fonts, plan, row, i), axis.style));
  axis.room = label_gap + 2 + static_cast<int>(std::ceil(!row && !axis.words ? axis.style.size : widest));
}

void choose_labels(const Fonts& fonts, PanelPlan& plan) {
  choose_step(fonts, plan, true);
  choose_step(fonts, plan, false);
  // Numbers along both sides of a square map are the same numbers.
  if (!plan.rows.words && !plan.columns.words && plan.rows.count == plan.columns.count) {
    plan.rows.step = plan.columns.step = std::max(plan.rows.step, plan.columns.step);
  }
  for (const bool row : {true, false}) measure_labels(fonts, plan, row);
}

void average(PanelPlan& plan) {
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
bool crowded_at_zero(const std::vector<PanelPlan>& plans, const std::vector<double>& limits) {
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

}  // namespace

std::string label_of(const Fonts& fonts, const PanelPlan& plan, bool row, Index i) {
  const PanelAxis& axis = row ? plan.rows : plan.columns;
  if (!axis.words) return detail::message(row ? token_of(*plan.panel, i) : i);
  const std::string& word = (row ? plan.panel->row_labels : plan.panel->column_labels)[static_cast<std::size_t>(i)];
  return fonts.shorten(visible(word), axis.style, longest_label);
}

void check_heat_map(const HeatMap& map) {
  if (map.panels.empty()) detail::raise(ErrorKind::shape, "heat map: no panels to draw, expected at least one");
  for (std::size_t k = 0; k < map.panels.size(); ++k) {
    const Panel& panel = map.panels[k];
    const Index rows = panel.values.rows(), columns = panel.values.cols();
    if (panel.values.size() == 0) {
      detail::raise(ErrorKind::shape, "heat map: panel ", k, " is (", rows, ", ", columns, "), expected at least one row and one column");
    }
    const auto fits = [&](std::size_t labels, Index expected, const char* what) {
      if (labels == 0 || static_cast<Index>(labels) == expected) return;
      detail::raise(ErrorKind::shape, "heat map: panel ", k, " has ", labels, " ", what, ", expected ", expected, " or none");
    };
    fits(panel.row_labels.size(), rows, "row labels");
    fits(panel.column_labels.size(), columns, "column labels");
    fits(panel.row_tokens.size(), rows, "row tokens");
  }
}

PanelPlan plan_panel(const Fonts& fonts, const Panel& panel, int aim, int most) {
  PanelPlan plan;
  plan.panel = &panel;
  plan.rows = axis_of(panel.values.rows(), !panel.row_labels.empty(), aim, most);
  plan.columns = axis_of(panel.values.cols(), !panel.column_labels.empty(), aim, most);
  square(plan.rows, plan.columns);
  plan.causal = blank_after_diagonal(panel);
  average(plan);
  choose_labels(fonts, plan);
  return plan;
}

void choose_scales(const HeatMap& map, std::vector<PanelPlan>& plans) {
  double largest_of_all = 0;
  bool negative = false;
  std::vector<double> largest;
  for (const PanelPlan& plan : plans) {
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

std::string notes_of(const HeatMap& map, const std::vector<PanelPlan>& plans) {
  std::string notes;
  const auto say = [&notes](const std::string& sentence) { notes += (notes.empty() ? "" : " ") + sentence; };
  Index row_block = 1, column_block = 1, missing = 0;
  bool zero = true;
  for (const PanelPlan& plan : plans) {
    row_block = std::max(row_block, plan.rows.block);
    column_block = std::max(column_block, plan.columns.block);
    missing += plan.missing;
    for (Index k = 0; k < plan.cells.size(); ++k) zero = zero && (plan.cells.data()[k] == 0 || plan.cells.data()[k] == masked);
  }
  if (row_block > 1 || column_block > 1) {
    say(detail::message("Averaged down: a point is the mean of ", plans.size() > 1 ? "up to " : "", row_block, " \u00d7 ", column_block,
                        " entries."));
  }
  if (plans[0].scale.spacing == Spacing::root) say("Colours follow the square root of the magnitude, so that small entries show.");
  if (!map.shared_scale && plans.size() > 1) say("Each panel has a scale of its own.");
  if (missing > 0)
    say(detail::message("Grey: ", grouped(missing), missing == 1 ? " entry that is" : " entries that are", " not a finite number."));
  if (zero) say("All entries are zero.");
  return notes;
}

}  // namespace implicit_attention::examples
