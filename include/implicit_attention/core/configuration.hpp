// A model's configuration: the few things that the weights' shapes cannot tell, under the keys of the public config.json files.
#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/configuration_entry.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Keys and values; nested objects are flattened with a dot (`ssm_cfg.d_state`). A key that is null is absent.
class Configuration {
 public:
  using Value = detail::ConfigurationValue;

  Configuration() = default;
  explicit Configuration(std::string where) : where_(std::move(where)) {}

  /// `value` is a Value, or what one can be made of. A template, so that files which set nothing have no std::variant to compile.
  template <class Given = Value>
  void set(std::string key, Given value) {
    set_shared(std::move(key), std::make_shared<const Value>(std::move(value)));
  }
  /// A key whose value is of another type: an object, or a list of neither numbers only nor texts only. Asking for it is an error. A list
  /// that nothing asks for counts as not understood; an object does not, for its keys are keys of their own.
  void set_object(std::string key) { set_unusable(std::move(key), Unusable::object); }
  void set_mixed_list(std::string key) { set_unusable(std::move(key), Unusable::mixed_list); }
  [[nodiscard]] const std::string& where() const { return where_; }
  /// Whether a key is there with a value of one of these types; that alone does not count as having asked for it.
  [[nodiscard]] bool has(std::string_view key) const { return values_.find(std::string(key)) != values_.end(); }
  /// Whether a key is there with a value of any kind, an object or a mixed list too.
  [[nodiscard]] bool holds(std::string_view key) const { return has(key) || unusable_.find(key) != unusable_.end(); }
  /// A key's value of any type, or null if it is absent; for keys that come in several types (`time_step_rank`: a number or "auto").
  /// Fails (value) where the key is there with a value of another type.
  [[nodiscard]] const Value* find(std::string_view key) const { return look_up(key, "a number, a string or a list of either"); }
  /// All keys but those of objects, sorted.
  [[nodiscard]] std::vector<std::string> keys() const {
    std::set<std::string> all;
    for (const auto& [key, value] : values_) all.insert(key);
    for (const auto& [key, kind] : unusable_)
      if (kind == Unusable::mixed_list) all.insert(key);
    return {all.begin(), all.end()};
  }
  /// Whether a key was read. A key that nothing reads was not understood. Copies share the record.
  [[nodiscard]] bool asked(std::string_view key) const { return asked_->find(key) != asked_->end(); }
  /// The keys below `prefix.`, without it, and those of the top that are not overridden; the record is shared.
  [[nodiscard]] Configuration below(std::string_view prefix) const {
    Configuration nested(where_);
    const std::string begin = std::string(prefix) + ".";
    nested.prefix_ = prefix_ + begin;
    nested.asked_ = asked_;
    const auto is_below = [&](const std::string& key) { return key.compare(0, begin.size(), begin) == 0; };
    for (const bool inner : {false, true}) {
      for (const auto& [key, value] : values_)
        if (is_below(key) == inner) nested.set_shared(inner ? key.substr(begin.size()) : key, value);
      for (const auto& [key, kind] : unusable_)
        if (is_below(key) == inner) nested.set_unusable(inner ? key.substr(begin.size()) : key, kind);
    }
    return nested;
  }

  /// An integer under any of several spellings of one key; nothing where none of them is there. All are asked for, and where more than one
  /// is there they must agree: else the error (ErrorKind::value) names both and their values. A value of another type is an error, under
  /// any of the spellings. Where the public code prefers one key to another, they are not spellings of one: ask for them one by one.
  [[nodiscard]] std::optional<Index> integer(std::initializer_list<std::string_view> keys) const {
    return detail::agreed(where_, keys, [&](std::string_view key) { return entry(key, "an integer").as<Index>(); });
  }
  /// The same of true or false.
  [[nodiscard]] std::optional<bool> boolean(std::initializer_list<std::string_view> keys) const {
    return detail::agreed(where_, keys, [&](std::string_view key) { return entry(key, "true or false").as<bool>(); });
  }
  /// The same of a string.
  [[nodiscard]] std::optional<std::string> text(std::initializer_list<std::string_view> keys) const {
    return detail::agreed(where_, keys, [&](std::string_view key) { return entry(key, "a string").as<std::string>(); });
  }
  /// The same of a list of strings, which agree in every element.
  [[nodiscard]] std::optional<std::vector<std::string>> texts(std::initializer_list<std::string_view> keys) const {
    return detail::agreed(where_, keys,
                          [&](std::string_view key) { return entry(key, "a list of strings").as<std::vector<std::string>>(); });
  }
  /// The same of a list of numbers, or one of [0, Infinity], whose infinities stand as they are.
  [[nodiscard]] std::optional<std::vector<double>> numbers(std::initializer_list<std::string_view> keys) const {
    return detail::agreed(where_, keys, [&](std::string_view key) { return entry(key, "a list of numbers").numbers(); });
  }
  /// The same of a number, an integer or not: 1 and 1.0 agree. Fails on NaN and infinities, which no key here may have.
  [[nodiscard]] std::optional<double> number(std::initializer_list<std::string_view> keys) const {
    return detail::agreed(where_, keys, [&](std::string_view key) { return entry(key, "a number").finite_number(); });
  }
  /// The same of a list of numbers that must be finite.
  [[nodiscard]] std::optional<std::vector<double>> finite_numbers(std::initializer_list<std::string_view> keys) const {
    return detail::agreed(where_, keys, [&](std::string_view key) { return entry(key, "a list of numbers").finite_numbers(); });
  }
  /// The same of a number that must be above 0, such as a norm's eps.
  [[nodiscard]] std::optional<double> positive_number(std::initializer_list<std::string_view> keys) const {
    return detail::agreed(where_, keys, [&](std::string_view key) { return entry(key, "a number").positive_number(); });
  }

 private:
  /// A key, which counts as asked for, to be read as what is `expected`.
  [[nodiscard]] detail::ConfigurationEntry entry(std::string_view key, std::string_view expected) const {
    return {where_, key, expected, look_up(key, expected)};
  }
  enum class Unusable { object, mixed_list };
  using SharedValue = std::shared_ptr<const Value>;
  void set_shared(std::string key, SharedValue value) {
    unusable_.erase(key);
    values_[std::move(key)] = std::move(value);
  }
  void set_unusable(std::string key, Unusable kind) {
    values_.erase(key);
    unusable_[std::move(key)] = kind;
  }
  /// A key's value, which counts as asked for; null if it is absent. Fails, with `expected`, where it is an object or a mixed list, and
  /// where a key that it stands below is none.
  [[nodiscard]] const Value* look_up(std::string_view key, std::string_view expected) const {
    if (const auto unusable = unusable_.find(key); unusable != unusable_.end())
      detail::raise(ErrorKind::value, where_, ": key ", key,
                    unusable->second == Unusable::object ? " is an object" : " is a list that holds neither numbers nor texts alone",
                    ", expected ", expected);
    // A key below one that is no object: {"rope_parameters": ""} does not say that rope_parameters.rope_theta is absent.
    for (std::size_t dot = key.find('.'); dot != std::string_view::npos; dot = key.find('.', dot + 1))
      if (const auto outer = values_.find(std::string(key.substr(0, dot))); outer != values_.end())
        detail::raise(ErrorKind::value, where_, ": key ", outer->first, " is ", detail::configuration_value_text(*outer->second),
                      ", expected an object");
    asked_->emplace(key);
    if (!prefix_.empty()) asked_->emplace(prefix_ + std::string(key));
    const auto found = values_.find(std::string(key));
    return found == values_.end() ? nullptr : found->second.get();
  }

  std::string where_ = "configuration";
  std::string prefix_;                                     // of the object that these are the keys of, in the whole
  std::map<std::string, SharedValue> values_;              // never changed, so copies share them; and quicker to compile
  std::map<std::string, Unusable, std::less<>> unusable_;  // the other keys
  std::shared_ptr<std::set<std::string, std::less<>>> asked_ = std::make_shared<std::set<std::string, std::less<>>>();
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
