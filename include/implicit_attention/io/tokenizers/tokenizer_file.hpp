// Which file says how text becomes tokens, and reading it by what it holds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <implicit_attention/io/folder.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tokenizers/byte_pair_files.hpp>
#include <implicit_attention/io/tokenizers/gguf_metadata.hpp>
#include <implicit_attention/io/tokenizers/gguf_vocabulary.hpp>
#include <implicit_attention/io/tokenizers/hugging_face.hpp>
#include <implicit_attention/io/tokenizers/sentencepiece.hpp>
#include <implicit_attention/io/tokenizers/world.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// The file in a model's folder that decides: tokenizer.json, then RWKV's vocabulary (rwkv_vocab_*.txt, or vocab.txt where it is that),
/// then merges.txt with vocab.json, then tokenizer.model; nothing if there is none.
[[nodiscard]] inline std::optional<std::filesystem::path> tokenizer_file_in(const std::filesystem::path& folder) {
  check_reachable(folder / "tokenizer.json");
  if (is_file(folder / "tokenizer.json")) return folder / "tokenizer.json";
  std::error_code ignored;
  std::vector<std::filesystem::path> world;
  for (const std::string& name : names_in(folder, ignored))
    if (name.starts_with("rwkv_vocab") && name.ends_with(".txt") && is_file(folder / name)) world.push_back(folder / name);
  if (!world.empty()) return *std::max_element(world.begin(), world.end());  // the names end in a date
  if (is_file(folder / "vocab.txt") && WorldVocabulary::holds_literals(MappedFile::open(folder / "vocab.txt")->text()))
    return folder / "vocab.txt";
  if (is_file(folder / "merges.txt") && is_file(folder / "vocab.json")) return folder / "merges.txt";
  if (is_file(folder / "tokenizer.model")) return folder / "tokenizer.model";
  return std::nullopt;
}

/// Whether a file is a tokenizer by its name: one whose name ends in tokenizer.json, RWKV's vocabulary, or sentencepiece's tokenizer.model;
/// or a GGUF file. Of other names the folder decides.
[[nodiscard]] inline bool is_named_as_tokenizer(const std::filesystem::path& path) {
  const std::string name = path.filename().string(), extension = path.extension().string();
  return extension == ".gguf" || name.ends_with("tokenizer.json") || name.ends_with("tokenizer.model") ||
         (extension == ".txt" && name.starts_with("rwkv_vocab"));
}

/// Whether a file begins as a list of `1 '\x00' 1` does.
[[nodiscard]] inline bool looks_like_world_vocabulary(std::string_view text) {
  const std::size_t space = text.substr(0, 8).find(' ');
  if (space == std::string_view::npos || space == 0 || text.substr(0, space).find_first_not_of("0123456789") != std::string_view::npos)
    return false;
  std::string_view rest = text.substr(space + 1);
  if (rest.starts_with('b')) rest.remove_prefix(1);
  return rest.starts_with('\'') || rest.starts_with('"');
}

/// Reads a tokenizer by what the file holds; null where that is a JSON object without a model, which may be a vocab.json.
[[nodiscard]] inline std::shared_ptr<const TextCodec> read_text_codec(const std::filesystem::path& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const std::string_view text = file->text();
  if (text.starts_with("GGUF")) return GgufTokenizer::make(read_gguf_vocabulary(path));
  if (looks_like_world_vocabulary(text)) return WorldVocabulary::parse(text, path_text(path));
  if (WorldVocabulary::holds_literals(text)) return WorldVocabulary::parse_literals(text, path_text(path));
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if ((path.filename() == "merges.txt" || path.filename() == "vocab.json") && is_file(folder / "merges.txt") &&
      is_file(folder / "vocab.json"))
    return read_byte_pair_files(folder);
  if (path.extension() == ".model") return read_sentencepiece(path, text);
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin != std::string_view::npos && text[begin] == '{') {
    const JsonDocument read = implicit_attention::parse_json_object(text, path_text(path));
    const Json& document = read;
    if (!document.contains("model") || !document["model"].is_object()) return nullptr;
    return read_tokenizer_json(document, path_text(path));
  }
  raise(ErrorKind::file, path_text(path),
        ": is not a tokenizer that is read here, expected tokenizer.json, tokenizer.model, RWKV's vocabulary (rwkv_vocab_*.txt), a "
        "GGUF file, vocab.json, or merges.txt beside it");
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
