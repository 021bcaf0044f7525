// RWKV's world vocabulary: tokens are byte strings, and a text is cut into the longest that fit, from left to right.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tokenizers/byte_trie.hpp>
#include <implicit_attention/io/tokenizers/text_codec.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// The bytes of what stands between the quotes of a Python literal. In a text, as against `b'...'`, escapes are characters and become
/// UTF-8. Nothing where an escape is none of those that Python's repr writes.
[[nodiscard]] inline std::optional<std::string> python_unescaped(std::string_view body, bool is_bytes) {
  std::string out;
  for (std::size_t i = 0; i < body.size(); ++i) {
    if (body[i] != '\\') {
      out.push_back(body[i]);
      continue;
    }
    if (++i == body.size()) return std::nullopt;
    const char letter = body[i];
    if (letter == 'n' || letter == 't' || letter == 'r') {
      out.push_back(letter == 'n' ? '\n' : letter == 't' ? '\t' : '\r');
    } else if (letter == '\\' || letter == '\'' || letter == '"') {
      out.push_back(letter);
    } else if (letter == 'x' || (!is_bytes && (letter == 'u' || letter == 'U'))) {
      const std::size_t digits = letter == 'x' ? 2 : letter == 'u' ? 4 : 8;
      if (body.size() - i - 1 < digits) return std::nullopt;
      const char *const begin = body.data() + i + 1, *const end = begin + digits;
      unsigned long value = 0;
      if (const auto read = std::from_chars(begin, end, value, 16); read.ec != std::errc() || read.ptr != end) return std::nullopt;
      if (value > 0x10FFFFU || (value >= 0xD800U && value <= 0xDFFFU)) return std::nullopt;
      if (is_bytes)
        out.push_back(static_cast<char>(value));
      else
        append_utf8(out, static_cast<char32_t>(value));
      i += digits;
    } else {
      return std::nullopt;
    }
  }
  return out;
}

/// The bytes of `'\r\n'` or `b'\xe2\x80'`, a text or bytes as Python writes them. Where it is neither, `refuse` is told why.
template <class Refuse>
[[nodiscard]] std::string python_literal(std::string_view literal, const Refuse& refuse) {
  const bool is_bytes = literal.starts_with('b');
  if (is_bytes) literal.remove_prefix(1);
  if (literal.size() < 2 || (literal.front() != '\'' && literal.front() != '"') || literal.front() != literal.back())
    refuse("holds no Python literal in quotes");
  std::optional<std::string> bytes = python_unescaped(literal.substr(1, literal.size() - 2), is_bytes);
  if (!bytes) refuse("has an escape that is not read here");
  if (bytes->empty()) refuse("is empty");
  return std::move(*bytes);
}

/// Greedy longest match. The id 0 marks the end of a text and stands for no bytes.
class WorldVocabulary final : public TextCodec {
 public:
  static constexpr std::string_view end_of_text = "<|endoftext|>";

  /// Tokens with their bytes. Fails (file) where two share an id or their bytes.
  WorldVocabulary(TokenTable tokens, std::string where) : where_(std::move(where)), tokens_(std::move(tokens)) {
    std::vector<ByteTrie::Entry> entries;
    for (const auto& [token, id] : tokens_.ids()) {
      if (!token.empty()) entries.push_back({token, id});
      largest_id_ = std::max(largest_id_, id);
    }
    trie_ = ByteTrie(std::move(entries));
  }

  /// Lines such as `276 '\r\n' 2` and `5 b'\xe2\x80' 2`: an id, a Python literal, and its length in bytes.
  [[nodiscard]] static std::shared_ptr<const WorldVocabulary> read(const std::filesystem::path& path) {
    const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
    return parse(file->text(), path_text(path));
  }
  [[nodiscard]] static std::shared_ptr<const WorldVocabulary> parse(std::string_view text, const std::string& where) {
    TokenTable tokens;
    for_each_line(text, [&](std::string_view line, Index line_number) {
      const auto refuse = [&](std::string_view what) {
        raise(ErrorKind::file, where, ":", line_number, ": \"", printable(line, 60), "\" ", what, ", expected for example: 276 '\\r\\n' 2");
      };
      const std::size_t first = line.find(' '), last = line.rfind(' ');
      if (first == std::string_view::npos || last <= first + 1) refuse("is not an id, text and length");
      const std::optional<Index> id = number(line.substr(0, first)), length = number(line.substr(last + 1));
      if (!id || !length) refuse("does not begin and end with a number");
      if (*id == 0) refuse("has the id 0, which ends a text");
      std::string bytes = python_literal(line.substr(first + 1, last - first - 1), refuse);
      if (static_cast<Index>(bytes.size()) != *length) refuse(message("is ", bytes.size(), " bytes long, not ", *length));
      tokens.add(std::move(bytes), *id, message(where, ":", line_number));
    });
    return made(std::move(tokens), where);
  }

  /// The same vocabulary as the ports to transformers have it in `vocab.txt`: a literal such as `b'\r\n'` a line, whose id is the number of
  /// the line from 0; the first, `b'<s>'`, stands for the end of a text. (Those ports cut a text at spaces first, and so find shorter
  /// tokens in rows of spaces than the models were trained on.)
  [[nodiscard]] static std::shared_ptr<const WorldVocabulary> parse_literals(std::string_view text, const std::string& where) {
    TokenTable tokens;
    for_each_line(text, [&](std::string_view line, Index line_number) {
      if (line_number == 1) return;
      const auto refuse = [&](std::string_view what) {
        raise(ErrorKind::file, where, ":", line_number, ": \"", printable(line, 60), "\" ", what, ", expected for example: b'\\r\\n'");
      };
      tokens.add(python_literal(line, refuse), line_number - 1, message(where, ":", line_number));
    });
    return made(std::move(tokens), where);
  }
  /// Whether a text begins as such a list does.
  [[nodiscard]] static bool holds_literals(std::string_view text) {
    for (const std::string_view first : {"b'<s>'", "b\"<s>\"", "<s>"})
      if (text.starts_with(first)) {
        text.remove_prefix(first.size());
        if (text.starts_with('\r')) text.remove_prefix(1);
        return text.starts_with("\nb'") || text.starts_with("\nb\"");
      }
    return false;
  }

  void encode(std::string_view text, std::vector<Index>& ids) const override {
    for (std::size_t position = 0; position < text.size();) {
      const auto [length, id] = trie_.longest(text, position);
      if (length == 0)
        raise(ErrorKind::value, where_, ": no token begins with the byte \"", byte_label(static_cast<unsigned char>(text[position])), "\"");
      ids.push_back(id);
      position += length;
    }
  }
  [[nodiscard]] std::optional<Index> find(std::string_view token) const override {
    if (token == end_of_text) return 0;
    return tokens_.id(token);
  }
  [[nodiscard]] std::optional<std::string> bytes(Index id) const override {
    if (id == 0) return std::string(end_of_text);
    const std::optional<std::string_view> token = tokens_.token(id);
    return token ? std::optional<std::string>(*token) : std::nullopt;
  }
  [[nodiscard]] bool special(Index id) const override { return id == 0; }
  [[nodiscard]] std::string decode(const std::vector<Index>& ids) const override {
    std::string text;
    for (const Index id : ids) text += bytes(id).value_or("");
    return text;
  }
  [[nodiscard]] Index largest_id() const override { return largest_id_; }

 private:
  /// Lines that are not empty, with their numbers from 1.
  template <class Use>
  static void for_each_line(std::string_view text, const Use& use) {
    Index line_number = 1;
    for (std::string_view rest = text; !rest.empty(); ++line_number) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!line.empty()) use(line, line_number);
    }
  }
  [[nodiscard]] static std::shared_ptr<const WorldVocabulary> made(TokenTable tokens, const std::string& where) {
    if (tokens.empty()) raise(ErrorKind::file, where, ": holds no tokens");
    return std::make_shared<const WorldVocabulary>(std::move(tokens), where);
  }
  [[nodiscard]] static std::optional<Index> number(std::string_view digits) {
    Index value = 0;
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (digits.empty() || read.ec != std::errc() || read.ptr != digits.data() + digits.size() || value < 0) return std::nullopt;
    return value;
  }

  std::string where_;
  TokenTable tokens_;
  ByteTrie trie_;
  Index largest_id_ = 0;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
