// Numbers made to be read: significant digits, intervals, durations, sizes, and tables whose columns line up.
#pragma once

#include <string>
#include <vector>

#include <implicit_attention/core/types.hpp>

namespace implicit_attention::examples {

/// `value` to `digits` significant digits, without an exponent between 1e-4 and 1e6: `0.0123`, `1.20`, `3.40e-07`, `nan`.
[[nodiscard]] std::string significant(double value, int digits = 3);
/// `value` with `decimals` digits after the point; `-0.00` is `0.00`.
[[nodiscard]] std::string fixed(double value, int decimals = 3);
/// 0.934 as `93.4 %`.
[[nodiscard]] std::string percent(double fraction, int decimals = 1);
/// `0.412 [0.398, 0.427]`: a mean and its interval.
[[nodiscard]] std::string interval(double mean, double low, double high, int decimals = 3);
/// 1536 as `1.50 KiB`.
[[nodiscard]] std::string byte_text(double bytes);
/// 0.0021 as `2.10 ms`, 75 as `1 min 15 s`.
[[nodiscard]] std::string duration_text(double seconds);
/// 65536 as `65,536`.
[[nodiscard]] std::string grouped(Index count);

/// Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], at most `count` of them, with zero exactly zero.
[[nodiscard]] std::vector<double> nice_ticks(double low, double high, int count);
/// The ticks as text, all with the same number of decimals, or all with an exponent.
[[nodiscard]] std::vector<std::string> tick_labels(const std::vector<double>& ticks);

/// A table made to be read. Columns of numbers are right aligned, columns of words left.
class Table {
 public:
  /// The heads of the columns.
  explicit Table(std::vector<std::string> heads);
  /// One row; fails (shape) unless it has a cell per column. An empty cell is fine.
  void add(std::vector<std::string> cells);
  /// A rule between the rows before and after.
  void rule();
  /// Aligned for a terminal or a file, each line preceded by `indent`.
  [[nodiscard]] std::string text(const std::string& indent = "") const;
  /// As a Markdown table, for a README.
  [[nodiscard]] std::string markdown() const;

 private:
  [[nodiscard]] std::vector<bool> numeric_columns() const;
  [[nodiscard]] std::vector<int> widths() const;
  std::vector<std::string> heads_;
  std::vector<std::vector<std::string>> rows_;  // an empty row is a rule
};

}  // namespace implicit_attention::examples
