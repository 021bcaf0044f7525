// Reading a model's config.json.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/bodies.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// The keys and values of a JSON object.
[[nodiscard]] Configuration json_configuration(std::string_view text, const std::string& where);
}  // namespace detail

/// Reads `path`, a config.json or the directory that holds one. Nested objects are flattened with a dot; null is absent. NaN and the
/// infinities that Python writes are numbers, which Configuration::number and `finite_numbers` refuse and `numbers` hands on. A list whose
/// elements are all strings (an empty one too) becomes a list of strings, one of numbers a list of numbers; any other list, and an object,
/// is kept as a key whose value is of no use: asking for it is an error, as it is for a loader not to know the list's key. Fails with
/// ErrorKind::file, naming the file, also where two keys are one once flattened.
[[nodiscard]] Configuration read_configuration(const std::filesystem::path& path);

/// The configuration that a safetensors file carries in its metadata, as a JSON object under `key`; empty where there is none.
template <class File>
[[nodiscard]] Configuration read_metadata_configuration(const File& file, const std::string& key = "config") {
  Configuration configuration(detail::message(file.where(), ": metadata ", key));
  const auto& metadata = file.metadata();
  const auto found = metadata.find(key);
  if (found == metadata.end() || found->second.empty() || found->second.front() != '{') return configuration;
  return detail::json_configuration(found->second, configuration.where());
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Python writes NaN, Infinity and -Infinity, which JSON does not have; they become strings that begin with a zero byte, which
/// `python_number` reads. Text in quotes stays.
[[nodiscard]] inline std::string without_python_numbers(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool quoted = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view rest = text.substr(i);
    std::size_t word = 0;
    if (!quoted)
      for (const std::string_view name : {"-Infinity", "Infinity", "NaN"})
        if (rest.starts_with(name)) word = name.size();
    if (word != 0) {
      out.append("\"\\u0000").append(rest.substr(0, word)).append("\"");
      i += word;
      continue;
    }
    if (quoted && text[i] == '\\' && i + 1 < text.size())
      out += text[i++];
    else if (text[i] == '"')
      quoted = !quoted;
    out += text[i++];
  }
  return out;
}

/// What `without_python_numbers` made a string of, and what transformers writes in their place: {"__float__": "Infinity"}.
template <class Document>
[[nodiscard]] std::optional<double> python_number(const Document& value) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (value.is_object() && value.size() == 1 && value.begin().key() == "__float__" && value.begin()->is_string()) {
    const std::string_view tag = value.begin()->template get_ref<const std::string&>();
    if (tag == "NaN") return std::numeric_limits<double>::quiet_NaN();
    if (tag == "Infinity") return infinity;
    if (tag == "-Infinity") return -infinity;
  }
  if (!value.is_string()) return std::nullopt;
  const std::string_view text = value.template get_ref<const std::string&>();
  if (text == std::string_view("\0NaN", 4)) return std::numeric_limits<double>::quiet_NaN();
  if (text == std::string_view("\0Infinity", 9)) return infinity;
  if (text == std::string_view("\0-Infinity", 10)) return -infinity;
  return std::nullopt;
}

template <class Document>
void flatten(const Document& object, const std::string& prefix, std::string_view where, Configuration& configuration) {
  for (const auto& [name, value] : object.items()) {
    const std::string key = prefix + name;
    // {"a": {"b": 1}, "a.b": 2} has one key twice, whatever its values are; null is none.
    if (!value.is_null() && configuration.holds(key)) raise(ErrorKind::file, where, ": key ", printable(key), " appears twice");
    const auto set = [&](Configuration::Value found) { configuration.set(key, std::move(found)); };
    if (value.is_object() && !python_number(value)) {
      configuration.set_object(key);
      flatten(value, key + ".", where, configuration);
    } else if (value.is_boolean()) {
      set(value.template get<bool>());
    } else if (value.is_number_unsigned() &&
               value.template get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) {
      raise(ErrorKind::file, where, ": key ", printable(key), " is ", json_text(value), ", expected an integer of at most ",
            std::numeric_limits<Index>::max());
    } else if (value.is_number_integer()) {
      set(static_cast<Index>(value.template get<std::int64_t>()));
    } else if (value.is_number_float()) {
      set(value.template get<double>());
    } else if (const std::optional<double> number = python_number(value)) {
      set(*number);
    } else if (value.is_string()) {
      set(value.template get<std::string>());
    } else if (value.is_array()) {
      std::vector<std::string> texts;
      for (const Document& element : value)
        if (element.is_string() && !python_number(element)) texts.push_back(element.template get<std::string>());
      if (texts.size() == value.size()) {
        set(std::move(texts));
        continue;
      }
      // Numbers; null among them stands for an infinity that JSON cannot say: [0.0, null].
      std::vector<double> numbers;
      bool any = false;
      for (const Document& element : value) {
        const std::optional<double> not_finite = python_number(element);
        any = any || element.is_number() || not_finite;
        if (not_finite)
          numbers.push_back(*not_finite);
        else if (element.is_number() || element.is_null())
          numbers.push_back(element.is_null() ? std::numeric_limits<double>::infinity() : element.template get<double>());
      }
      if (any && numbers.size() == value.size())
        set(std::move(numbers));
      else
        configuration.set_mixed_list(key);
    }
  }
}

IMPLICIT_ATTENTION_IO_BODY Configuration json_configuration(std::string_view text, const std::string& where) {
  Configuration configuration(where);
  flatten(*implicit_attention::parse_json_object(without_python_numbers(text), where), "", where, configuration);
  return configuration;
}

}  // namespace detail

IMPLICIT_ATTENTION_IO_BODY Configuration read_configuration(const std::filesystem::path& path) {
  std::error_code ignored;
  const std::filesystem::path file_path = std::filesystem::is_directory(path, ignored) ? path / "config.json" : path;
  const std::string where = path_text(file_path);
  const std::shared_ptr<const MappedFile> file = MappedFile::open(file_path);
  if (file->size() == 0) detail::raise(ErrorKind::file, where, ": is empty, expected a JSON object");
  return detail::json_configuration(file->text(), where);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
