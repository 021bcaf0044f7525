#include "numbers.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <utility>

#include <implicit_attention/core/error.hpp>

#include "text.hpp"

namespace implicit_attention::examples {
namespace {

std::string printed(const char* format, int precision, double value) {
  std::array<char, 400> text{};
  std::snprintf(text.data(), text.size(), format, precision, value);
  return text.data();
}

std::string not_finite(double value) { return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf"; }

bool is_number(const std::string& cell) {
  if (cell.empty()) return false;
  const char first = cell[0];
  return (first >= '0' && first <= '9') ||
         ((first == '-' || first == '+' || first == '.') && cell.size() > 1 && cell[1] >= '0' && cell[1] <= '9') || cell == "nan" ||
         cell == "inf" || cell == "-inf" || cell == "-";
}

}  // namespace

std::string significant(double value, int digits) {
  if (!std::isfinite(value)) return not_finite(value);
  if (value == 0) return "0";
  const std::string scientific = printed("%.*e", digits - 1, value);
  const int exponent = std::atoi(scientific.c_str() + scientific.find('e') + 1);  // after rounding: 9.999 is 1.00e+01
  if (exponent < -4 || exponent >= 6) return scientific;
  return printed("%.*f", std::max(0, digits - 1 - exponent), value);
}

std::string fixed(double value, int decimals) {
  if (!std::isfinite(value)) return not_finite(value);
  const std::string text = printed("%.*f", decimals, value);
  return text[0] == '-' && text.find_first_not_of("-0.") == std::string::npos ? text.substr(1) : text;
}

std::string percent(double fraction, int decimals) { return fixed(100 * fraction, decimals) + " %"; }

std::string interval(double mean, double low, double high, int decimals) {
  return fixed(mean, decimals) + " [" + fixed(low, decimals) + ", " + fixed(high, decimals) + "]";
}

std::string byte_text(double bytes) {
  static constexpr std::array<const char*, 5> units{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (std::abs(bytes) >= 1024 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return (unit == 0 ? fixed(bytes, 0) : significant(bytes, 3)) + " " + units[unit];
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds)) return not_finite(seconds);
  if (seconds < 1e-3) return significant(seconds * 1e6) + " us";
  if (seconds < 1) return significant(seconds * 1e3) + " ms";
  if (seconds < 59.95) return significant(seconds) + " s";
  const long whole = std::lround(seconds);
  if (whole < 3600) return detail::message(whole / 60, " min ", whole % 60, " s");
  return detail::message(whole / 3600, " h ", whole / 60 % 60, " min");
}

std::string grouped(Index count) {
  std::string text = detail::message(count);
  const std::size_t digits_start = count < 0 ? 1 : 0;
  for (std::size_t at = text.size(); at > digits_start + 3;) text.insert(at -= 3, 1, ',');
  return text;
}

std::vector<double> nice_ticks(double low, double high, int count) {
  if (!(high > low) || !std::isfinite(low) || !std::isfinite(high) || count < 1) return {};
  const double span = high - low, slack = 1e-9;  // ends that are round but for rounding errors still get their tick
  const double size = std::isfinite(span) ? std::log10(span) : std::numeric_limits<double>::max_exponent10;  // from -1e308 to 1e308
  for (int exponent = static_cast<int>(std::floor(size)) - 3;; ++exponent) {
    for (const double leading : {1.0, 2.0, 5.0}) {
      const double step = leading * std::pow(10.0, exponent);
      const double first = std::ceil(low / step - slack), last = std::floor(high / step + slack);
      if (last - first + 1 > count) continue;
      std::vector<double> ticks;
      for (double k = first; k <= last; ++k) ticks.push_back(k == 0 ? 0.0 : k * step);
      return ticks;
    }
  }
}

std::vector<std::string> tick_labels(const std::vector<double>& ticks) {
  double largest = 0, step = 0;
  for (std::size_t k = 0; k < ticks.size(); ++k) {
    largest = std::max(largest, std::abs(ticks[k]));
    if (k > 0) step = step == 0 ? std::abs(ticks[k] - ticks[k - 1]) : std::min(step, std::abs(ticks[k] - ticks[k - 1]));
  }
  if (step == 0) step = largest == 0 ? 1 : largest;
  const int leading = static_cast<int>(std::floor(std::log10(step) + 1e-9));
  std::vector<std::string> labels;
  for (const double tick : ticks) {
    if (tick == 0) {
      labels.push_back("0");
    } else if (largest < 1e-3 || largest >= 1e5) {
      const int first_digit = static_cast<int>(std::floor(std::log10(std::abs(tick)) + 1e-9));
      const std::string text = printed("%.*e", std::max(0, first_digit - leading), tick);
      const std::size_t e = text.find('e');
      labels.push_back(detail::message(text.substr(0, e), "e", std::atoi(text.c_str() + e + 1)));
    } else {
      labels.push_back(fixed(tick, std::max(0, -leading)));
    }
  }
  return labels;
}

Table::Table(std::vector<std::string> heads) : heads_(std::move(heads)) {}

void Table::add(std::vector<std::string> cells) {
  if (cells.size() != heads_.size() || cells.empty()) {
    detail::raise(ErrorKind::shape, "Table: a row has ", cells.size(), " cells, expected ", heads_.size(), ", one per column");
  }
  rows_.push_back(std::move(cells));
}

void Table::rule() { rows_.emplace_back(); }

std::vector<bool> Table::numeric_columns() const {
  std::vector<bool> numeric(heads_.size(), false);
  for (std::size_t column = 0; column < heads_.size(); ++column) {
    bool any = false, all = true;
    for (const std::vector<std::string>& row : rows_) {
      if (row.empty() || row[column].empty()) continue;
      any = true;
      all = all && is_number(row[column]);
    }
    numeric[column] = any && all;
  }
  return numeric;
}

std::vector<int> Table::widths() const {
  std::vector<int> width;
  for (const std::string& head : heads_) width.push_back(display_width(head));
  for (const std::vector<std::string>& row : rows_) {
    for (std::size_t column = 0; column < row.size(); ++column) width[column] = std::max(width[column], display_width(row[column]));
  }
  return width;
}

std::string Table::text(const std::string& indent) const {
  const std::vector<bool> numeric = numeric_columns();
  const std::vector<int> width = widths();
  std::string rule = indent;
  for (std::size_t column = 0; column < width.size(); ++column) rule += std::string(static_cast<std::size_t>(width[column]), '-') + "  ";
  rule.resize(rule.find_last_not_of(' ') + 1);
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string out = indent;
    for (std::size_t column = 0; column < cells.size(); ++column) out += pad(cells[column], width[column], numeric[column]) + "  ";
    out.resize(out.find_last_not_of(' ') + 1);
    return out + "\n";
  };
  std::string out = line(heads_) + rule + "\n";
  for (const std::vector<std::string>& row : rows_) out += row.empty() ? rule + "\n" : line(row);
  return out;
}

std::string Table::markdown() const {
  const std::vector<bool> numeric = numeric_columns();
  const auto line = [](const std::vector<std::string>& cells) {
    std::string out = "|";
    for (const std::string& cell : cells) {
      out += " ";
      for (const char letter : cell) out += letter == '|' ? std::string("\\|") : std::string(1, letter);
      out += " |";
    }
    return out + "\n";
  };
  std::string out = line(heads_) + "|";
  for (const bool right : numeric) out += right ? "---:|" : "---|";
  out += "\n";
  for (const std::vector<std::string>& row : rows_) {
    if (!row.empty()) out += line(row);
  }
  return out;
}

}  // namespace implicit_attention::examples
