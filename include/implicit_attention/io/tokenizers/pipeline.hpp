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
#include <variant>
#include <vector>

#include <implicit_attention/io/tokenizers/added_tokens.hpp>
#include <implicit_attention/io/tokenizers/byte_pair.hpp>
#include <implicit_attention/io/tokenizers/byte_pair_session.hpp>
#include <implicit_attention/io/tokenizers/decoder.hpp>
#include <implicit_attention/io/tokenizers/normalizer.hpp>
#include <implicit_attention/io/tokenizers/post_processor.hpp>
#include <implicit_attention/io/tokenizers/pre_tokenizer.hpp>
#include <implicit_attention/io/tokenizers/spares.hpp>
#include <implicit_attention/io/tokenizers/text_codec.hpp>
#include <implicit_attention/io/tokenizers/unigram.hpp>
#include <implicit_attention/io/tokenizers/word_piece.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

class Pipeline final : public TextCodec {
 public:
  using Model = std::variant<BytePairModel, UnigramModel, WordLevelModel, WordPieceModel>;
  struct Parts {
    std::string where;
    std::vector<AddedToken> added;
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    Model model;
    PostProcessor post_processor;
    Decoder decoder;
  };

  /// Fails (file) where an added token's id is another token's.
  explicit Pipeline(Parts parts)
      : where_(std::move(parts.where)),
        normalizer_(std::move(parts.normalizer)),
        pre_tokenizer_(std::move(parts.pre_tokenizer)),
        model_(std::move(parts.model)),
        post_processor_(std::move(parts.post_processor)),
        decoder_(std::move(parts.decoder)),
        added_(std::move(parts.added), normalizer_),
        byte_level_(pre_tokenizer_.byte_level() || normalizer_.has(Normalizer::Kind::byte_level)) {
    for (const AddedToken& token : added_.list()) {
      const std::optional<std::string_view> other = tokens().token(token.id);
      const std::optional<Index> id = tokens().id(token.content);
      if ((other && *other != token.content) || (id && *id != token.id))
        raise(ErrorKind::file, where_, ": the added token \"", printable(token.content), "\" has id ", token.id,
              ", but the vocabulary has ", id ? message("it as ", *id) : message("\"", printable(*other), "\" there"));
      if (const auto [first, fresh] = added_ids_.emplace(token.content, token.id); !fresh && first->second != token.id)
        raise(ErrorKind::file, where_, ": the added token \"", printable(token.content), "\" is there twice");
      largest_id_ = std::max(largest_id_, token.id);
    }
    for (const auto& [token, id] : tokens().ids()) {
      by_bytes_.emplace(decoder_.token_bytes(token), id);
      largest_id_ = std::max(largest_id_, id);
    }
  }

  void encode(std::string_view text, std::vector<Index>& ids) const override {
    std::unique_ptr<Session> kept = spares_.take([this] { return std::make_unique<Session>(*this); });
    Session& session = *kept;
    for (std::size_t position = 0; position < text.size();) {
      // What is no UTF-8 goes past everything that works on characters.
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
      // Two tokens may stand for one text, as `a` and `<0x61>` do; the one that is written like it goes first.
      const std::optional<Index> same = tokens().id(token);
      return same && bytes(*same) == token ? same : found->second;
    }
    return tokens().id(token);
  }
  [[nodiscard]] std::optional<std::string> bytes(Index id) const override {
    if (const AddedToken* const added = added_.find(id)) return added->content;
    const std::optional<std::string_view> token = tokens().token(id);
    return token ? std::optional(decoder_.token_bytes(*token)) : std::nullopt;
  }
  [[nodiscard]] bool special(Index id) const override {
    const AddedToken* const added = added_.find(id);
    return added != nullptr && added->special;
  }
  [[nodiscard]] std::string decode(const std::vector<Index>& ids) const override {
    std::vector<std::string> texts;
    for (const Index id : ids) {
      const AddedToken* const added = added_.find(id);
      const std::optional<std::string_view> token = added != nullptr ? std::optional<std::string_view>(added->content) : tokens().token(id);
      if (token) texts.emplace_back(*token);
    }
    return decoder_(std::move(texts));
  }
  [[nodiscard]] Index largest_id() const override { return largest_id_; }

 private:
  [[nodiscard]] const TokenTable& tokens() const {
    return std::visit([](const auto& model) -> const TokenTable& { return model.tokens(); }, model_);
  }

  /// What calls of encode remember, one at a time: the words that there have been.
  class Session {
   public:
    explicit Session(const Pipeline& pipeline) : pipeline_(pipeline) {
      if (const auto* const model = std::get_if<BytePairModel>(&pipeline.model_)) byte_pairs_.emplace(*model);
    }
    void raw_text(std::string_view text, bool at_start, std::vector<Index>& ids) {
      std::vector<AddedTokens::Part> parts, later;
      pipeline_.added_.split_raw(text, parts);
      for (const AddedTokens::Part& part : parts) {
        if (part.id) {
          ids.push_back(*part.id);
        } else {
          const bool first = at_start && part.text.data() == text.data() && !part.text.empty();
          std::size_t start = first ? std::max<std::size_t>(code_point_at(part.text, 0).length, 1) : 0;
          const bool plain = pipeline_.normalizer_.empty();
          const std::string normal = plain   ? std::string()
                                     : first ? pipeline_.normalizer_(part.text, start)
                                             : pipeline_.normalizer_(part.text);
          const Piece here{plain ? part.text : std::string_view(normal), start};
          later.clear();
          pipeline_.added_.split_normalized(here.text, later);
          for (const AddedTokens::Part& inner : later) {
            const auto begin = static_cast<std::size_t>(inner.text.data() - here.text.data());
            if (inner.id)
              ids.push_back(*inner.id);
            else
              words(here.part(begin, begin + inner.text.size()), ids);
          }
        }
      }
    }
    /// Bytes that are no UTF-8, at `position` of the text. A vocabulary need not have a token for each.
    void raw_bytes(std::string_view bytes, std::size_t position, std::vector<Index>& ids) {
      const auto refuse = [&](unsigned char byte) {
        raise(ErrorKind::value, "the text is not valid UTF-8 at byte ", position, ", and ", pipeline_.where_, " has no token for the byte ",
              byte_label(byte));
      };
      if (pipeline_.byte_level_) {
        std::string word;
        for (const char byte : bytes) {
          const std::string& letter = ByteAlphabet::instance().character(static_cast<unsigned char>(byte));
          if (!pipeline_.tokens().id(letter)) refuse(static_cast<unsigned char>(byte));
          word += letter;
        }
        return model(word, ids);
      }
      const UnknownTokens& unknown =
          std::visit([](const auto& kind) -> const UnknownTokens& { return unknown_of(kind); }, pipeline_.model_);
      if (!unknown.append_bytes(pipeline_.tokens(), bytes, ids)) refuse(static_cast<unsigned char>(bytes.front()));
    }

   private:
    static const UnknownTokens& unknown_of(const BytePairModel& model) { return model.options().unknown; }
    static const UnknownTokens& unknown_of(const UnigramModel& model) { return model.unknown(); }
    static const UnknownTokens& unknown_of(const WordLevelModel& model) { return model.unknown(); }
    static const UnknownTokens& unknown_of(const WordPieceModel& model) { return model.unknown(); }

    void words(const Piece& text, std::vector<Index>& ids) {
      Pieces pieces;
      pieces.list.push_back(text);
      pipeline_.pre_tokenizer_(pieces);
      for (const Piece& piece : pieces.list) model(piece.text, ids);
    }
    void model(std::string_view word, std::vector<Index>& ids) {
      if (byte_pairs_) return byte_pairs_->encode(word, ids);
      if (const auto* const unigram = std::get_if<UnigramModel>(&pipeline_.model_)) return unigram->encode(word, ids);
      if (const auto* const pieces = std::get_if<WordPieceModel>(&pipeline_.model_)) return pieces->encode(word, ids);
      std::get<WordLevelModel>(pipeline_.model_).encode(word, ids);
    }

    const Pipeline& pipeline_;
    std::optional<BytePairSession> byte_pairs_;
  };

  std::string where_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Model model_;
  PostProcessor post_processor_;
  Decoder decoder_;
  AddedTokens added_;
  bool byte_level_;
  Index largest_id_ = 0;
  std::unordered_map<std::string, Index> by_bytes_, added_ids_;
  Spares<Session> spares_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
