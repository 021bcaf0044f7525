// tokenizer.model, sentencepiece's own file, through its library: define IMPLICIT_ATTENTION_IO_SENTENCEPIECE as 1 and link it. Without it
// such a file is an error that says so.
#pragma once

#include <filesystem>
#include <memory>

#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tokenizers/byte_pair_files.hpp>

#ifndef IMPLICIT_ATTENTION_IO_SENTENCEPIECE
#define IMPLICIT_ATTENTION_IO_SENTENCEPIECE 0
#endif
#if IMPLICIT_ATTENTION_IO_SENTENCEPIECE
#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <implicit_attention/core/host_macros_off.hpp>
#include <sentencepiece_processor.h>
#include <implicit_attention/core/host_macros_on.hpp>
#endif

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

#if IMPLICIT_ATTENTION_IO_SENTENCEPIECE

/// Ids are the library's. Marks such as `<s>`, which the library never makes of text, are found in text as with every other tokenizer here.
class SentencePieceCodec final : public TextCodec {
 public:
  /// `added`: tokens beyond the model's own; `begin` and `end`: whether a text is put between the model's two marks.
  SentencePieceCodec(std::string_view bytes, std::string where, std::vector<AddedToken> added, bool begin, bool end)
      : where_(std::move(where)) {
    if (const sentencepiece::util::Status loaded = model_.LoadFromSerializedProto(bytes); !loaded.ok())
      raise(ErrorKind::file, where_, ": sentencepiece cannot read it: ", printable(loaded.error_message(), 200));
    own_ = model_.GetPieceSize();
    if (own_ <= 0) raise(ErrorKind::file, where_, ": holds no tokens");
    for (const AddedToken& token : added) {
      const bool inside = token.id < own_;
      if (inside && model_.IdToPiece(static_cast<int>(token.id)) != token.content)
        raise(ErrorKind::file, where_, ": the added token \"", printable(token.content), "\" has id ", token.id, ", which is \"",
              printable(model_.IdToPiece(static_cast<int>(token.id))), "\" in the model");
      largest_ = std::max(largest_, token.id);
    }
    largest_ = std::max<Index>(largest_, own_ - 1);
    for (int id = 0; id < own_; ++id) {
      const bool listed = std::any_of(added.begin(), added.end(), [&](const AddedToken& token) { return token.id == id; });
      if (!listed && (model_.IsControl(id) || model_.IsUnknown(id)) && !model_.IdToPiece(id).empty()) {
        AddedToken mark;
        mark.content = model_.IdToPiece(id);
        mark.id = id;
        mark.special = true;
        mark.normalized = false;
        added.push_back(std::move(mark));
      }
    }
    for (const bool byte : {false, true})  // a piece `\u2581` is preferred to `<0x20>`
      for (int id = 0; id < own_; ++id)
        if (model_.IsByte(id) == byte) by_bytes_.emplace(own_bytes(id), id);
    for (const AddedToken& token : added) by_name_.emplace(token.content, token.id);
    added_ = AddedTokens(std::move(added), Normalizer());
    std::string text;
    first_space_is_added_ = model_.Decode(std::vector<std::string>{space + "a"}, &text).ok() && text == "a";
    const auto mark = [&](bool wanted, int id, std::string_view name) {
      if (wanted && id < 0) raise(ErrorKind::file, where_, ": has no token for the ", name, " of a text, which its folder asks for");
      return wanted ? std::vector<Index>{id} : std::vector<Index>();
    };
    before_ = mark(begin, model_.bos_id(), "beginning");
    after_ = mark(end, model_.eos_id(), "end");
  }

  /// Fails (value) on text that is not UTF-8, which the library would change in silence.
  void encode(std::string_view text, std::vector<Index>& ids) const override {
    if (const std::size_t bad = utf8_error(text); bad != std::string_view::npos)
      raise(ErrorKind::value, "the text is not valid UTF-8 at byte ", bad);
    std::vector<AddedTokens::Part> parts;
    added_.split_raw(text, parts);
    std::vector<int> pieces;
    for (const AddedTokens::Part& part : parts) {
      if (part.id) {
        ids.push_back(*part.id);
        continue;
      }
      if (const sentencepiece::util::Status done = model_.Encode(part.text, &pieces); !done.ok())
        raise(ErrorKind::value, where_, ": sentencepiece cannot encode the text: ", printable(done.error_message(), 200));
      ids.insert(ids.end(), pieces.begin(), pieces.end());
    }
  }
  [[nodiscard]] std::vector<Index> before() const override { return before_; }
  [[nodiscard]] std::vector<Index> after() const override { return after_; }

  [[nodiscard]] std::optional<Index> find(std::string_view token) const override {
    const std::string name(token);
    if (const auto found = by_name_.find(name); found != by_name_.end()) return found->second;
    const int same = model_.PieceToId(token);
    const bool written = same >= 0 && same < own_ && model_.IdToPiece(same) == name;
    // Two tokens may stand for one text, as `a` and `<0x61>` do; the one that is written like it goes first.
    if (written && own_bytes(same) == name) return same;
    if (const auto found = by_bytes_.find(name); found != by_bytes_.end()) return found->second;
    return written ? std::optional<Index>(same) : std::nullopt;
  }
  [[nodiscard]] std::optional<std::string> bytes(Index id) const override {
    if (const AddedToken* const added = added_.find(id)) return added->content;
    return id >= 0 && id < own_ ? std::optional(own_bytes(static_cast<int>(id))) : std::nullopt;
  }
  [[nodiscard]] bool special(Index id) const override {
    const AddedToken* const added = added_.find(id);
    return added != nullptr && added->special;
  }
  [[nodiscard]] std::string decode(const std::vector<Index>& ids) const override {
    std::string text;
    bool first = first_space_is_added_;
    for (const Index id : ids) {
      const std::string piece = bytes(id).value_or("");
      const bool begins = first && !special(id) && !piece.empty();
      text += begins && piece.front() == ' ' ? std::string_view(piece).substr(1) : std::string_view(piece);
      first = first && !begins;
    }
    return text;
  }
  [[nodiscard]] Index largest_id() const override { return largest_; }

 private:
  inline static const std::string space = "\xE2\x96\x81";  // how pieces write one

  [[nodiscard]] std::string own_bytes(int id) const {
    const std::string& piece = model_.IdToPiece(id);
    if (model_.IsControl(id) || model_.IsUnknown(id)) return piece;
    if (model_.IsByte(id))
      if (const std::optional<unsigned char> byte = byte_of_token(piece)) return std::string(1, static_cast<char>(*byte));
    return TextPattern(space).replaced(piece, " ");
  }

  std::string where_;
  sentencepiece::SentencePieceProcessor model_;
  int own_ = 0;
  Index largest_ = 0;
  bool first_space_is_added_ = false;
  AddedTokens added_;
  std::vector<Index> before_, after_;
  std::unordered_map<std::string, Index> by_bytes_, by_name_;
};

/// Reads `path`, and what tokenizer_config.json beside it says of added tokens and of marks around a text. Fails (file) where that names
/// a tokenizer whose ids are not the model's own.
[[nodiscard]] inline std::shared_ptr<const TextCodec> read_sentencepiece(const std::filesystem::path& path, std::string_view bytes) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  std::vector<AddedToken> added;
  bool begin = false, end = false;
  if (is_file(folder / "tokenizer_config.json")) {
    const JsonDocument configuration_file = read_json_object(folder / "tokenizer_config.json");
    const Json& configuration = configuration_file;
    const std::string where = path_text(folder / "tokenizer_config.json");
    JsonFields fields(configuration, where);
    std::string type = fields.text("tokenizer_class", "LlamaTokenizer");
    if (type.ends_with("Fast")) type.resize(type.size() - 4);
    constexpr std::array<std::string_view, 4> same{"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "T5Tokenizer"};
    if (std::find(same.begin(), same.end(), type) == same.end())
      raise(ErrorKind::file, path_text(path), ": tokenizer_config.json names ", printable(type),
            ", which may give tokens other ids than sentencepiece; tokenizer.json is needed");
    begin = fields.flag("add_bos_token", type != "T5Tokenizer");
    end = fields.flag("add_eos_token", type == "T5Tokenizer");
    if (configuration.contains("added_tokens_decoder")) {
      const JsonDocument list(read_special_tokens(folder, configuration, Json::object()));
      added = AddedTokens::read(&*list, where + ": added_tokens_decoder");
      for (AddedToken& token : added) token.normalized = false;  // marks are sought before normalization
    }
  }
  return std::make_shared<const SentencePieceCodec>(bytes, path_text(path), std::move(added), begin, end);
}

#else

[[nodiscard]] inline std::shared_ptr<const TextCodec> read_sentencepiece(const std::filesystem::path& path, std::string_view bytes) {
  static_cast<void>(bytes);
  raise(ErrorKind::file, path_text(path),
        ": sentencepiece's own format is read where the program was built with its library (Debian's libsentencepiece-dev), and "
        "this one was not; or put the model's tokenizer.json beside it (Hugging Face's transformers writes one: "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...))");
}

#endif

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
