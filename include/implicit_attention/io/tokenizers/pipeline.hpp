// A tokenizer in Hugging Face's parts: added tokens, normalizer, pre-tokenizer, model, post-processor, decoder.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/tokenizers/added_tokens.hpp>
#include <implicit_attention/io/tokenizers/decoder.hpp>
#include <implicit_attention/io/tokenizers/normalizer.hpp>
#include <implicit_attention/io/tokenizers/pipeline_session.hpp>
#include <implicit_attention/io/tokenizers/post_processor.hpp>
#include <implicit_attention/io/tokenizers/pre_tokenizer.hpp>
#include <implicit_attention/io/tokenizers/spares.hpp>
#include <implicit_attention/io/tokenizers/text_codec.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Encodes and decodes through these parts, and looks up tokens.
class Pipeline final : public TextCodec {
 public:
  struct Parts {
    std::string where;
    std::vector<AddedToken> added;
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    TokenModel model;
    PostProcessor post_processor;
    Decoder decoder;
  };

  /// Fails (file) where an added token's id is another token's.
  explicit Pipeline(Parts parts)
      : stages_(std::move(parts.where), std::move(parts.added), std::move(parts.normalizer), std::move(parts.pre_tokenizer),
                std::move(parts.model)),
        post_processor_(std::move(parts.post_processor)),
        decoder_(std::move(parts.decoder)) {
    for (const AddedToken& token : stages_.added.list()) {
      const std::optional<std::string_view> other = tokens().token(token.id);
      const std::optional<Index> id = tokens().id(token.content);
      if ((other && *other != token.content) || (id && *id != token.id))
        raise(ErrorKind::file, stages_.where, ": the added token \"", printable(token.content), "\" has id ", token.id,
              ", but the vocabulary has ", id ? message("it as ", *id) : message("\"", printable(*other), "\" there"));
      if (const auto [first, fresh] = added_ids_.emplace(token.content, token.id); !fresh && first->second != token.id)
        raise(ErrorKind::file, stages_.where, ": the added token \"", printable(token.content), "\" appears twice");
      largest_id_ = std::max(largest_id_, token.id);
    }
    for (const auto& [token, id] : tokens().ids()) {
      by_bytes_.emplace(decoder_.token_bytes(token), id);
      largest_id_ = std::max(largest_id_, id);
    }
  }

  void encode(std::string_view text, std::vector<Index>& ids) const override {
    std::unique_ptr<PipelineSession> kept = spares_.take([this] { return std::make_unique<PipelineSession>(stages_); });
    PipelineSession& session = *kept;
    for (std::size_t position = 0; position < text.size();) {
      // Bytes that are not UTF-8 skip all stages that work on characters.
      const std::size_t bad = utf8_error(text.substr(position));
      const std::size_t end = bad == std::string_view::npos ? text.size() : position + bad;
      session.raw_text(text.substr(position, end - position), position == 0, ids);
      position = end;
      std::size_t after = position;
      while (after < text.size() && utf8_character_size(text, after) == 0) ++after;
      if (after > position) session.raw_bytes(text.substr(position, after - position), position, ids);
      position = after;
    }
    spares_.give(std::move(kept));
  }
  [[nodiscard]] std::vector<Index> before() const override { return post_processor_.before; }
  [[nodiscard]] std::vector<Index> after() const override { return post_processor_.after; }

  [[nodiscard]] std::optional<Index> find(std::string_view token) const override {
    if (const auto found = added_ids_.find(std::string(token)); found != added_ids_.end()) return found->second;
    if (const auto found = by_bytes_.find(std::string(token)); found != by_bytes_.end()) {
      // Two tokens may stand for one text, as `a` and `<0x61>` do; the one that is spelled like it is preferred.
      const std::optional<Index> same = tokens().id(token);
      return same && bytes(*same) == token ? same : found->second;
    }
    return tokens().id(token);
  }
  [[nodiscard]] std::optional<std::string> bytes(Index id) const override {
    if (const AddedToken* const added = stages_.added.find(id)) return added->content;
    const std::optional<std::string_view> token = tokens().token(id);
    return token ? std::optional(decoder_.token_bytes(*token)) : std::nullopt;
  }
  [[nodiscard]] bool special(Index id) const override {
    const AddedToken* const added = stages_.added.find(id);
    return added != nullptr && added->special;
  }
  [[nodiscard]] std::string decode(const std::vector<Index>& ids) const override {
    std::vector<std::string> texts;
    for (const Index id : ids) {
      const AddedToken* const added = stages_.added.find(id);
      const std::optional<std::string_view> token = added != nullptr ? std::optional<std::string_view>(added->content) : tokens().token(id);
      if (token) texts.emplace_back(*token);
    }
    return decoder_(std::move(texts));
  }
  [[nodiscard]] Index largest_id() const override { return largest_id_; }

 private:
  [[nodiscard]] const TokenTable& tokens() const { return stages_.tokens(); }

  PipelineStages stages_;
  PostProcessor post_processor_;
  Decoder decoder_;
  Index largest_id_ = 0;
  std::unordered_map<std::string, Index> by_bytes_, added_ids_;
  Spares<PipelineSession> spares_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
