// A JSON object read key by key, so that nothing in it is passed over in silence.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/json.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// An object, the name by which messages call it (`tokenizer.json: normalizer`), and the keys that were asked for. null is absent.
/// The object must outlive it.
class JsonFields {
 public:
  JsonFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) raise(ErrorKind::file, where_, ": is ", json_text(object), ", expected an object");
  }
  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] std::string path(std::string_view key) const { return message(where_, ".", key); }

  /// Null where the key is absent.
  [[nodiscard]] const Json* find(std::string_view key) {
    known_.emplace_back(key);
    const auto found = object_.find(std::string(key));
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  [[nodiscard]] const Json& at(std::string_view key) {
    const Json* const found = find(key);
    if (found == nullptr) raise(ErrorKind::file, where_, ": there is no key \"", key, "\"");
    return *found;
  }
  [[nodiscard]] bool flag(std::string_view key, bool otherwise) {
    const Json* const found = find(key);
    if (found == nullptr) return otherwise;
    if (!found->is_boolean()) unexpected(key, *found, "true or false");
    return found->get<bool>();
  }
  [[nodiscard]] std::string text(std::string_view key) {
    const Json& found = at(key);
    if (!found.is_string()) unexpected(key, found, "a text");
    return found.get<std::string>();
  }
  [[nodiscard]] std::string text(std::string_view key, std::string_view otherwise) {
    return find(key) == nullptr ? std::string(otherwise) : text(key);
  }
  [[nodiscard]] Index natural_number(std::string_view key) {
    const Json& found = at(key);
    const std::optional<Index> number = json_natural_number(found);
    if (!number) unexpected(key, found, "an integer from 0");
    return *number;
  }
  [[nodiscard]] const Json& list(std::string_view key) {
    const Json& found = at(key);
    if (!found.is_array()) unexpected(key, found, "a list");
    return found;
  }
  [[nodiscard]] const Json& object(std::string_view key) {
    const Json& found = at(key);
    if (!found.is_object()) unexpected(key, found, "an object");
    return found;
  }
  /// The key may be there; it changes nothing here.
  void ignore(std::string_view key) { known_.emplace_back(key); }
  [[noreturn]] void unexpected(std::string_view key, const Json& value, std::string_view expected) const {
    raise(ErrorKind::file, path(key), ": is ", json_text(value), ", expected ", expected);
  }
  /// Fails, with all that is read here, if the object holds any other key.
  void finish() const {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
      std::string list;
      for (const std::string& known : known_) list += message(list.empty() ? "" : ", ", known);
      raise(ErrorKind::file, where_, ": key \"", printable(key), "\" (", json_text(value), ") is not read here; what is: ", list);
    }
  }

 private:
  const Json& object_;
  std::string where_;
  std::vector<std::string> known_;
};

/// What a list of steps calls its members.
[[nodiscard]] inline std::string json_element(std::string_view list, std::size_t index) { return message(list, "[", index, "]"); }

[[noreturn]] inline void unknown_type(const JsonFields& fields, std::string_view type, std::string_view known) {
  raise(ErrorKind::file, fields.where(), ": the type \"", printable(type), "\" is not read here; what is: ", known);
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
