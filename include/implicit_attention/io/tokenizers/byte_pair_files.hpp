// GPT-2's own two files: vocab.json, byte pairs written in the byte alphabet, and merges.txt, in the order in which they were learnt.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tokenizers/hugging_face.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// The merges as tokenizer.json lists them. A first line `#version: 0.2` and empty lines are passed over.
[[nodiscard]] inline Json read_merges_text(const std::filesystem::path& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  std::string_view rest = file->text();
  if (const std::size_t bad = utf8_error(rest); bad != std::string_view::npos)
    raise(ErrorKind::file, path_text(path), ": not valid UTF-8 at byte ", bad);
  Json merges = Json::array();
  for (Index number = 1; !rest.empty(); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const std::size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == line.size() || line.find(' ', space + 1) != std::string_view::npos)
      raise(ErrorKind::file, path_text(path), ":", number, ": is \"", printable(line, 40), "\", expected two tokens and a space between");
    merges.push_back({std::string(line.substr(0, space)), std::string(line.substr(space + 1))});
  }
  return merges;
}

/// The special tokens that lie beside: those of tokenizer_config.json, else of special_tokens_map.json and added_tokens.json, else
/// `<|endoftext|>` where the vocabulary has it.
[[nodiscard]] inline Json read_special_tokens(const std::filesystem::path& folder, const Json& configuration, const Json& vocabulary) {
  Json list = Json::array();
  const auto add = [&](const std::string& content, const Json& id, bool special) {
    const auto same = [&](const Json& other) { return other.at("content") == content; };
    if (std::none_of(list.begin(), list.end(), same))
      list.push_back({{"content", content}, {"id", id}, {"special", special}, {"normalized", false}});
  };
  const std::string where = path_text(folder / "tokenizer_config.json");
  if (const auto decoder = configuration.find("added_tokens_decoder"); decoder != configuration.end()) {
    if (!decoder->is_object()) raise(ErrorKind::file, where, ": added_tokens_decoder: is ", json_text(*decoder), ", expected an object");
    for (const auto& [id, token] : decoder->items()) {
      if (!token.is_object() || id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != std::string::npos)
        raise(ErrorKind::file, where, ": added_tokens_decoder: \"", printable(id), "\" is ", json_text(token),
              ", expected an id and an object");
      Json entry = token;
      entry["id"] = static_cast<std::uint64_t>(std::stoul(id));
      list.push_back(std::move(entry));
    }
    return list;
  }
  const JsonDocument added_file =
      is_file(folder / "added_tokens.json") ? read_json_object(folder / "added_tokens.json") : JsonDocument(Json::object());
  const Json& added = added_file;
  for (const auto& [content, id] : added.items()) add(content, id, false);
  const auto special = [&](const Json& token, const std::string& from) {
    const Json& content = token.is_object() && token.contains("content") ? token.at("content") : token;
    if (!content.is_string()) raise(ErrorKind::file, from, ": is ", json_text(token), ", expected a token");
    const auto name = content.get<std::string>();
    const auto known = vocabulary.find(name);
    if (known == vocabulary.end() && !added.contains(name))
      raise(ErrorKind::file, from, ": the token \"", printable(name), "\" is in neither vocab.json nor added_tokens.json");
    for (Json& entry : list)
      if (entry.at("content") == name) entry["special"] = true;
    add(name, known == vocabulary.end() ? added.at(name) : *known, true);
  };
  if (is_file(folder / "special_tokens_map.json")) {
    const JsonDocument map_file = read_json_object(folder / "special_tokens_map.json");
    const Json& map = map_file;
    for (const auto& [key, value] : map.items()) {
      const std::string from = message(path_text(folder / "special_tokens_map.json"), ": ", printable(key));
      if (value.is_array())
        for (const Json& token : value) special(token, from);
      else if (!value.is_null())
        special(value, from);
    }
  } else if (vocabulary.contains("<|endoftext|>")) {
    special("<|endoftext|>", "vocab.json");
  }
  return list;
}

/// Reads vocab.json and merges.txt in `folder` as GPT-2's tokenizer. Fails (file) where the files beside them
/// say that it is another one, with rules of its own: only tokenizer.json says how.
[[nodiscard]] inline std::shared_ptr<const TextCodec> read_byte_pair_files(const std::filesystem::path& folder) {
  const std::string where = path_text(folder / "merges.txt");
  const JsonDocument vocabulary_file = read_json_object(folder / "vocab.json");
  const Json& vocabulary = vocabulary_file;
  for (const auto& [token, id] : vocabulary.items())
    if (token.ends_with("</w>"))
      raise(ErrorKind::file, where, ": the token \"", printable(token),
            "\" in vocab.json is not a GPT-2 byte pair; tokenizer.json is needed");
  if (!vocabulary.contains("\u0120"))
    raise(ErrorKind::file, where,
          ": vocab.json has no \"\u0120\", GPT-2's space, so these are other byte pairs, which need tokenizer.json");
  const JsonDocument configuration_file =
      is_file(folder / "tokenizer_config.json") ? read_json_object(folder / "tokenizer_config.json") : JsonDocument(Json::object());
  const Json& configuration = configuration_file;
  JsonFields fields(configuration, path_text(folder / "tokenizer_config.json"));
  const std::string type = fields.text("tokenizer_class", "GPT2Tokenizer");
  // Not GPT-NeoX: its tokenizer.json also has a normalizer (NFC), which the two files do not tell.
  constexpr std::array<std::string_view, 4> same{"GPT2Tokenizer", "GPT2TokenizerFast", "CodeGenTokenizer", "CodeGenTokenizerFast"};
  if (std::find(same.begin(), same.end(), type) == same.end())
    raise(ErrorKind::file, where, ": tokenizer_config.json names ", printable(type),
          ", which has rules of its own; tokenizer.json is needed");
  for (const std::string_view key : {"add_bos_token", "add_eos_token"})
    if (fields.flag(key, false)) raise(ErrorKind::file, fields.path(key), ": is true, which is read from tokenizer.json alone");

  Json document;
  document["added_tokens"] = read_special_tokens(folder, configuration, vocabulary);
  document["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", fields.flag("add_prefix_space", false)}};
  document["decoder"] = {{"type", "ByteLevel"}};
  document["model"] = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", read_merges_text(folder / "merges.txt")}};
  const JsonDocument whole(std::move(document));
  return read_tokenizer_json(whole, where);
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
