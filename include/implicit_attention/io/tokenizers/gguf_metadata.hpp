// The vocabulary in a GGUF file's key-values, read without its tensors.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizers/gguf_vocabulary.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Walks over the key-values and keeps those of the tokenizer. Every length is held against what is left of the file.
class GgufVocabularyReader {
 public:
  GgufVocabularyReader(std::string_view file, std::string where) : rest_(file) { vocabulary_.where = std::move(where); }

  [[nodiscard]] GgufVocabulary read() {
    static_assert(std::endian::native == std::endian::little, "GGUF is read on little-endian machines alone");
    if (take(4) != "GGUF") refuse("is not a GGUF file: it does not begin with GGUF");
    if (const auto version = number<std::uint32_t>(); version != 2 && version != 3)
      refuse(message("is GGUF of version ", version, ", expected 2 or 3"));
    (void)number<std::uint64_t>();  // tensors
    const auto pairs = number<std::uint64_t>();
    for (std::uint64_t i = 0; i < pairs; ++i) {
      const std::string_view key = text();
      const auto kind = number<std::uint32_t>();
      constexpr std::string_view prefix = "tokenizer.ggml.";
      if (key.starts_with(prefix))
        keep(key.substr(prefix.size()), kind);
      else
        skip(kind);
    }
    if (vocabulary_.model.empty()) refuse("holds no tokenizer.ggml.model");
    return std::move(vocabulary_);
  }

 private:
  enum Kind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

  [[noreturn]] void refuse(std::string_view what) const { raise(ErrorKind::file, vocabulary_.where, ": ", what); }
  std::string_view take(std::uint64_t bytes) {
    if (bytes > rest_.size()) refuse("ends in the middle of its key-values");
    const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(bytes));
    rest_.remove_prefix(taken.size());
    return taken;
  }
  template <class Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof(Number)).data(), sizeof(Number));
    return value;
  }
  std::string_view text() { return take(number<std::uint64_t>()); }
  [[nodiscard]] static std::size_t width(std::uint32_t kind) {
    switch (kind) {
      case u8:
      case i8:
      case boolean:
        return 1;
      case u16:
      case i16:
        return 2;
      case u32:
      case i32:
      case f32:
        return 4;
      case u64:
      case i64:
      case f64:
        return 8;
      default:
        return 0;
    }
  }
  void skip(std::uint32_t kind) {
    if (kind == string) {
      (void)text();
    } else if (kind == array) {
      const auto element = number<std::uint32_t>();
      const auto count = number<std::uint64_t>();
      if (element == string) {
        for (std::uint64_t i = 0; i < count; ++i) (void)text();
      } else {
        const std::size_t bytes = width(element);
        if (bytes == 0) refuse(message("has a list of elements of the type ", element, ", which is not read here"));
        if (count > rest_.size() / bytes) refuse("ends in the middle of its key-values");
        (void)take(count * bytes);
      }
    } else {
      if (width(kind) == 0) refuse(message("has a key of the type ", kind, ", which GGUF does not have"));
      (void)take(width(kind));
    }
  }

  void keep(std::string_view key, std::uint32_t kind) {
    if (key == "model" || key == "pre") {
      expect(key, kind, string);
      (key == "model" ? vocabulary_.model : vocabulary_.pre) = text();
    } else if (key == "tokens" || key == "merges") {
      std::vector<std::string>& list = key == "tokens" ? vocabulary_.tokens : vocabulary_.merges;
      for (std::uint64_t left = list_of(key, kind, string); left > 0; --left) list.emplace_back(text());
    } else if (key == "scores") {
      for (std::uint64_t left = list_of(key, kind, f32); left > 0; --left) vocabulary_.scores.push_back(number<float>());
    } else if (key == "token_type") {
      for (std::uint64_t left = list_of(key, kind, i32); left > 0; --left) vocabulary_.types.push_back(number<std::int32_t>());
    } else if (key == "bos_token_id" || key == "eos_token_id" || key == "unknown_token_id") {
      expect(key, kind, u32);
      (key == "bos_token_id" ? vocabulary_.bos : key == "eos_token_id" ? vocabulary_.eos : vocabulary_.unknown) = number<std::uint32_t>();
    } else if (key == "add_bos_token" || key == "add_eos_token" || key == "add_space_prefix") {
      expect(key, kind, boolean);
      (key == "add_bos_token"   ? vocabulary_.add_bos
       : key == "add_eos_token" ? vocabulary_.add_eos
                                : vocabulary_.add_space_prefix) = number<std::uint8_t>() != 0;
    } else {
      skip(kind);
    }
  }
  void expect(std::string_view key, std::uint32_t kind, std::uint32_t wanted) const {
    if (kind != wanted) refuse(message("tokenizer.ggml.", key, " is of the type ", kind, ", expected ", wanted));
  }
  std::uint64_t list_of(std::string_view key, std::uint32_t kind, std::uint32_t element) {
    expect(key, kind, array);
    const auto found = number<std::uint32_t>();
    if (found != element) refuse(message("tokenizer.ggml.", key, " is a list of the type ", found, ", expected ", element));
    return number<std::uint64_t>();
  }

  std::string_view rest_;
  GgufVocabulary vocabulary_;
};

}  // namespace detail

/// The vocabulary of a GGUF file. Fails (file) on one that ends early or has none.
[[nodiscard]] GgufVocabulary read_gguf_vocabulary(const std::filesystem::path& path);

#if IMPLICIT_ATTENTION_IO_BODIES
IMPLICIT_ATTENTION_IO_BODY GgufVocabulary read_gguf_vocabulary(const std::filesystem::path& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  return detail::GgufVocabularyReader(file->text(), path_text(path)).read();
}
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
