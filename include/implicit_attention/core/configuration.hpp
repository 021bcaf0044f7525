// A model's configuration: the few things that the weights' shapes cannot tell, under the keys of the public config.json files.
#pragma once

#include <cmath>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Keys and values; nested objects are flattened with a dot (`ssm_cfg.d_state`). A key that is null is absent.
class Configuration {
 public:
  using Value = std::variant<bool, Index, double, std::string, std::vector<std::string>, std::vector<double>>;

  Configuration() = default;
  explicit Configuration(std::string where) : where_(std::move(where)) {}

  /// `value` is a Value, or whatever one is made of. A template, so that files which set nothing have no std::variant to compile.
  template <class Given = Value>
  void set(std::string key, Given value) {
    values_[std::move(key)] = std::make_shared<const Value>(std::move(value));
  }
  [[nodiscard]] const std::string& where() const { return where_; }
  /// Whether a key is there; that alone does not count as having asked for it.
  [[nodiscard]] bool has(std::string_view key) const { return values_.find(std::string(key)) != values_.end(); }
  /// A key's value of any type, or null if it is absent; for keys that come in several types (`time_step_rank`: a number or "auto").
  [[nodiscard]] const Value* find(std::string_view key) const {
    asked_->emplace(key);
    if (!prefix_.empty()) asked_->emplace(prefix_ + std::string(key));
    const auto found = values_.find(std::string(key));
    return found == values_.end() ? nullptr : found->second.get();
  }
  /// All keys, sorted.
  [[nodiscard]] std::vector<std::string> keys() const {
    std::vector<std::string> all;
    for (const auto& [key, value] : values_) all.push_back(key);
    return all;
  }
  /// Whether a key was asked for. A key that nothing asks for was not understood. Copies share the record.
  [[nodiscard]] bool asked(std::string_view key) const { return asked_->find(key) != asked_->end(); }
  /// The keys below `prefix.`, without it, and those of the top that are not overridden; the record is shared.
  [[nodiscard]] Configuration below(std::string_view prefix) const {
    Configuration nested(where_);
    const std::string begin = std::string(prefix) + ".";
    nested.prefix_ = prefix_ + begin;
    nested.asked_ = asked_;
    for (const auto& [key, value] : values_)
      if (key.compare(0, begin.size(), begin) != 0) nested.values_[key] = value;
    for (const auto& [key, value] : values_)
      if (key.compare(0, begin.size(), begin) == 0) nested.values_[key.substr(begin.size())] = value;
    return nested;
  }

  /// The first of several spellings of a key that is there. A value of another type than asked for is an error.
  [[nodiscard]] std::optional<Index> integer(std::initializer_list<std::string_view> keys) const {
    return first<Index>(keys, "an integer");
  }
  [[nodiscard]] std::optional<bool> boolean(std::initializer_list<std::string_view> keys) const {
    return first<bool>(keys, "true or false");
  }
  [[nodiscard]] std::optional<std::string> text(std::initializer_list<std::string_view> keys) const {
    return first<std::string>(keys, "a string");
  }
  [[nodiscard]] std::optional<std::vector<std::string>> texts(std::initializer_list<std::string_view> keys) const {
    return first<std::vector<std::string>>(keys, "a list of strings");
  }
  /// A list of numbers, or one of [0, Infinity], whose infinities stand as they are.
  [[nodiscard]] std::optional<std::vector<double>> numbers(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (const Value* value = find(key))
        if (const auto* none = std::get_if<std::vector<std::string>>(value); none != nullptr && none->empty()) return std::vector<double>();
    return first<std::vector<double>>(keys, "a list of numbers");
  }
  /// Fails on NaN and infinities: no key here means something by them.
  [[nodiscard]] std::optional<double> number(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (const Value* value = find(key)) {
        if (const Index* whole = std::get_if<Index>(value)) return static_cast<double>(*whole);
        if (const double* real = std::get_if<double>(value); real != nullptr && !std::isfinite(*real))
          raise(ErrorKind::value, message(where_, ": key ", key, " is ",
                                          std::isnan(*real) ? "NaN"
                                          : *real > 0       ? "Infinity"
                                                            : "-Infinity",
                                          ", expected a finite number"));
      }
    return first<double>(keys, "a number");
  }
  /// The same of a number that must be above 0, such as a norm's eps.
  [[nodiscard]] std::optional<double> positive_number(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (const std::optional<double> value = number({key})) {
        if (!(*value > 0)) raise(ErrorKind::value, message(where_, ": key ", key, " is ", *value, ", expected a number above 0"));
        return value;
      }
    return std::nullopt;
  }

 private:
  template <class T>
  [[nodiscard]] std::optional<T> first(std::initializer_list<std::string_view> keys, std::string_view expected) const {
    for (const std::string_view key : keys)
      if (const Value* value = find(key)) {
        if (const T* typed = std::get_if<T>(value)) return *typed;
        raise(ErrorKind::value, message(where_, ": key ", key, " is not ", expected));
      }
    return std::nullopt;
  }

  std::string where_ = "configuration";
  std::string prefix_;                                          // of the object that these are the keys of, in the whole
  std::map<std::string, std::shared_ptr<const Value>> values_;  // never changed, so copies share them; and quicker to compile
  std::shared_ptr<std::set<std::string, std::less<>>> asked_ = std::make_shared<std::set<std::string, std::less<>>>();
};

IMPLICIT_ATTENTION_NAMESPACE_END
