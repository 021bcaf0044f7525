// JSON from untrusted files: repeated keys are refused, depth and sizes are limited, errors name the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/host_macros_off.hpp>
#include <nlohmann/json.hpp>
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

using Json = nlohmann::json;

/// Limits beyond which a document is refused.
struct JsonLimits {
  std::size_t depth = 32;                                      ///< objects and lists inside each other
  std::size_t list = std::numeric_limits<std::size_t>::max();  ///< elements of one list
  std::size_t bytes = 100'000'000;                             ///< the text
};

/// A document that was read. It goes away without taking memory.
class JsonDocument {
 public:
  explicit JsonDocument(Json value) noexcept;
  JsonDocument(JsonDocument&& other) noexcept;
  JsonDocument(const JsonDocument&) = delete;
  JsonDocument& operator=(const JsonDocument&) = delete;
  ~JsonDocument();
  [[nodiscard]] const Json& operator*() const { return value_; }
  [[nodiscard]] const Json* operator->() const { return &value_; }
  operator const Json&() const& { return value_; }  // NOLINT(google-explicit-constructor): a document is a JSON value
  operator const Json&() && = delete;               // it would refer to what goes away: name the document, or copy `*document`

 private:
  Json value_;
};

/// Parses `text`; `where` names it in errors. Fails unless it is UTF-8, JSON, within the limits, and an object.
[[nodiscard]] JsonDocument parse_json_object(std::string_view text, std::string_view where, const JsonLimits& limits = {});

/// The same from a file.
[[nodiscard]] JsonDocument read_json_object(const std::filesystem::path& path, const JsonLimits& limits = {});

/// A value as it would stand in the file, cut to a length fit for a message.
[[nodiscard]] std::string json_text(const Json& value);

/// An integer from 0 to the largest Index; nothing if the value is anything else.
[[nodiscard]] std::optional<Index> json_natural_number(const Json& value);

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <implicit_attention/io/mapped_file.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Empties a value from the inside out. nlohmann-json's destructor takes memory for what a value holds, and where there is none ends the
/// program; for a value that holds nothing it takes none. Depth is limited when a document is read.
template <class Document>
void dismantle(Document& value) noexcept {
  if (auto* const object = value.template get_ptr<typename Document::object_t*>()) {
    for (auto& [key, inner] : *object) dismantle(inner);
    object->clear();
  } else if (auto* const list = value.template get_ptr<typename Document::array_t*>()) {
    for (Document& inner : *list) dismantle(inner);
    list->clear();
  }
}

/// Builds the document event by event, so that limits hold before memory is taken and a repeated key is seen.
template <class Document>
class JsonBuilder final : public nlohmann::json_sax<Document> {
 public:
  JsonBuilder(std::string_view where, const JsonLimits& limits) : where_(where), limits_(limits) {}
  JsonBuilder(const JsonBuilder&) = delete;
  JsonBuilder& operator=(const JsonBuilder&) = delete;
  ~JsonBuilder() override { dismantle(root_); }
  [[nodiscard]] JsonDocument take() { return JsonDocument(std::move(root_)); }

  bool null() override { return put(nullptr) != nullptr; }
  bool boolean(bool value) override { return put(value) != nullptr; }
  bool number_integer(typename Document::number_integer_t value) override { return put(value) != nullptr; }
  bool number_unsigned(typename Document::number_unsigned_t value) override { return put(value) != nullptr; }
  bool number_float(typename Document::number_float_t value, const typename Document::string_t& /*text*/) override {
    return put(value) != nullptr;
  }
  bool string(typename Document::string_t& value) override { return put(std::move(value)) != nullptr; }
  bool binary(typename Document::binary_t& /*value*/) override { return false; }
  bool start_object(std::size_t /*elements*/) override { return open(Document::object()); }
  bool start_array(std::size_t /*elements*/) override { return open(Document::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(typename Document::string_t& name) override {
    Document& object = *open_.back();
    if (object.contains(name)) raise(ErrorKind::file, where_, ": JSON: key \"", printable(name), "\" appears twice");
    next_ = &object[name];
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*last*/, const nlohmann::detail::exception& why) override {
    std::string_view reason = why.what();  // "[json.exception.parse_error.101] parse error at ..."
    if (const std::size_t prefix = reason.find("] "); prefix != std::string_view::npos) reason.remove_prefix(prefix + 2);
    raise(ErrorKind::file, where_, ": not valid JSON at byte ", position, ": ", printable(reason, 200));
  }

 private:
  template <class Value>
  Document* put(Value&& value) {
    if (open_.empty()) return &(root_ = std::forward<Value>(value));
    if (!open_.back()->is_array()) return &(*next_ = std::forward<Value>(value));
    if (open_.back()->size() >= limits_.list)
      raise(ErrorKind::file, where_, ": JSON: a list is longer than the ", limits_.list, " elements that are allowed here");
    return &open_.back()->emplace_back(std::forward<Value>(value));
  }
  bool open(Document&& container) {
    if (open_.size() >= limits_.depth)
      raise(ErrorKind::file, where_, ": JSON: nested deeper than the ", limits_.depth, " levels that are allowed here");
    open_.push_back(put(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view where_;
  const JsonLimits& limits_;
  Document root_;
  Document* next_ = nullptr;     // the value of the key read last; std::map keeps it in place
  std::vector<Document*> open_;  // a list does not grow while something inside it is open, so these stay valid
};

template <class Document>
[[nodiscard]] JsonDocument parse_json_object(std::string_view text, std::string_view where, const JsonLimits& limits) {
  if (text.size() > limits.bytes) raise(ErrorKind::file, where, ": is ", text.size(), " bytes of JSON, expected at most ", limits.bytes);
  if (const std::size_t bad = utf8_error(text); bad != std::string_view::npos)
    raise(ErrorKind::file, where, ": not valid UTF-8 at byte ", bad);
  // The parser takes a zero byte for the end, whatever comes behind it.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos)
    raise(ErrorKind::file, where, ": not valid JSON at byte ", zero + 1, ": a zero byte");
  JsonBuilder<Document> builder(where, limits);
  if (!Document::sax_parse(text.begin(), text.end(), &builder)) raise(ErrorKind::file, where, ": not valid JSON");
  JsonDocument document = builder.take();
  if (!document->is_object()) raise(ErrorKind::file, where, ": JSON: expected an object, found ", document->type_name());
  return document;
}
template <class Document>
[[nodiscard]] std::string json_text(const Document& value) {
  return printable(value.dump(-1, ' ', false, Document::error_handler_t::replace), 60);
}

}  // namespace detail

IMPLICIT_ATTENTION_IO_BODY JsonDocument::JsonDocument(Json value) noexcept : value_(std::move(value)) {}
IMPLICIT_ATTENTION_IO_BODY JsonDocument::JsonDocument(JsonDocument&& other) noexcept : value_(std::move(other.value_)) {}
IMPLICIT_ATTENTION_IO_BODY JsonDocument::~JsonDocument() { detail::dismantle(value_); }

IMPLICIT_ATTENTION_IO_BODY JsonDocument parse_json_object(std::string_view text, std::string_view where, const JsonLimits& limits) {
  return detail::parse_json_object<Json>(text, where, limits);
}

IMPLICIT_ATTENTION_IO_BODY JsonDocument read_json_object(const std::filesystem::path& path, const JsonLimits& limits) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  return parse_json_object(file->text(), path_text(path), limits);
}

IMPLICIT_ATTENTION_IO_BODY std::string json_text(const Json& value) { return detail::json_text<Json>(value); }

IMPLICIT_ATTENTION_IO_BODY std::optional<Index> json_natural_number(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<std::uint64_t>();
  if (number > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) return std::nullopt;
  return static_cast<Index>(number);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
