// A key of a configuration, read as a type: what it may be, and what an error shows.
#pragma once

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/text.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What the value of a key may be.
using ConfigurationValue = std::variant<bool, Index, double, std::string, std::vector<std::string>, std::vector<double>>;

/// A value as errors show it.
[[nodiscard]] inline Index configuration_text(Index value) { return value; }
[[nodiscard]] inline double configuration_text(double value) { return value; }
[[nodiscard]] inline std::string configuration_text(bool value) { return value ? "true" : "false"; }
[[nodiscard]] inline std::string configuration_text(const std::string& value) { return printable(value); }
template <class T>
[[nodiscard]] std::string configuration_text(const std::vector<T>& list) {
  constexpr std::size_t most = 8;
  std::string text;
  for (std::size_t i = 0; i < list.size() && i < most; ++i) text += message(i == 0 ? "" : ", ", configuration_text(list[i]));
  return message("[", text, list.size() > most ? ", ...]" : "]");
}
/// The same where its type is what is wrong: 2.0 is no integer, and "2" no number.
template <class = void>
[[nodiscard]] std::string configuration_value_text(const ConfigurationValue& value) {
  if (const auto* const text = std::get_if<std::string>(&value)) return message("\"", configuration_text(*text), "\"");
  const std::string shown = std::visit([](const auto& typed) { return message(configuration_text(typed)); }, value);
  return std::holds_alternative<double>(value) && shown.find_first_not_of("-0123456789") == std::string::npos ? shown + ".0" : shown;
}

/// A key and its value, null where the key is absent. Reading it gives nothing then; a value that is not as `expected` is an error
/// (ErrorKind::value).
struct ConfigurationEntry {
  std::string_view where, key, expected;
  const ConfigurationValue* value;

  template <class T>
  [[nodiscard]] std::optional<T> as() const {
    if (value == nullptr) return std::nullopt;
    if (const T* found = std::get_if<T>(value)) return *found;
    raise(ErrorKind::value, where, ": key ", key, " is ", configuration_value_text(*value), ", expected ", expected);
  }
  /// A list of numbers. A list of nothing may be one of numbers or of texts.
  [[nodiscard]] std::optional<std::vector<double>> numbers() const {
    const auto* const texts = value == nullptr ? nullptr : std::get_if<std::vector<std::string>>(value);
    if (texts != nullptr && texts->empty()) return std::vector<double>();
    return as<std::vector<double>>();
  }
  [[nodiscard]] std::optional<std::vector<double>> finite_numbers() const {
    std::optional<std::vector<double>> list = numbers();
    if (list)
      for (const double number : *list) expect_finite(true, number);
    return list;
  }
  /// A number, an integer or not.
  [[nodiscard]] std::optional<double> finite_number() const {
    if (value != nullptr)
      if (const Index* const whole = std::get_if<Index>(value)) return static_cast<double>(*whole);
    const std::optional<double> real = as<double>();
    if (real) expect_finite(false, *real);
    return real;
  }
  [[nodiscard]] std::optional<double> positive_number() const {
    const std::optional<double> number = finite_number();
    if (number && !(*number > 0)) raise(ErrorKind::value, where, ": key ", key, " is ", *number, ", expected a number above 0");
    return number;
  }

 private:
  void expect_finite(bool one_of_several, double number) const {
    if (std::isfinite(number)) return;
    raise(ErrorKind::value, where, ": key ", key, one_of_several ? " holds " : " is ",
          std::isnan(number) ? "NaN"
          : number > 0       ? "Infinity"
                             : "-Infinity",
          ", expected ", one_of_several ? "finite numbers" : "a finite number");
  }
};

/// The value that read(key) gives for each of these keys that is there. Fails where two of them differ.
template <class Read>
[[nodiscard]] std::invoke_result_t<const Read&, std::string_view> agreed(std::string_view where,
                                                                         std::initializer_list<std::string_view> keys, const Read& read) {
  std::invoke_result_t<const Read&, std::string_view> counts;
  std::string_view first;
  for (const std::string_view key : keys) {
    const auto value = read(key);
    if (value && counts && !(*value == *counts))
      raise(ErrorKind::value, where, ": key ", key, " is ", configuration_text(*value), ", expected ", configuration_text(*counts),
            ": key ", first, " says so, and both are about the same thing");
    if (!value || counts) continue;
    counts = value;
    first = key;
  }
  return counts;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
