// Text to tokens: added tokens, normalizer, pre-tokenizer, model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizers/added_tokens.hpp>
#include <implicit_attention/io/tokenizers/byte_alphabet.hpp>
#include <implicit_attention/io/tokenizers/byte_pair.hpp>
#include <implicit_attention/io/tokenizers/byte_pair_session.hpp>
#include <implicit_attention/io/tokenizers/normalizer.hpp>
#include <implicit_attention/io/tokenizers/pre_tokenizer.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>
#include <implicit_attention/io/tokenizers/unigram.hpp>
#include <implicit_attention/io/tokenizers/word_piece.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// The models that make tokens of words.
using TokenModel = std::variant<BytePairModel, UnigramModel, WordLevelModel, WordPieceModel>;

/// What text goes through to become tokens.
struct PipelineStages {
  PipelineStages(std::string name, std::vector<AddedToken> added_tokens, Normalizer first, PreTokenizer second, TokenModel last)
      : where(std::move(name)),
        normalizer(std::move(first)),
        pre_tokenizer(std::move(second)),
        model(std::move(last)),
        added(std::move(added_tokens), normalizer),
        byte_level(pre_tokenizer.byte_level() || normalizer.has(Normalizer::Kind::byte_level)) {}

  [[nodiscard]] const TokenTable& tokens() const {
    return std::visit([](const auto& kind) -> const TokenTable& { return kind.tokens(); }, model);
  }
  [[nodiscard]] const UnknownTokens& unknown() const {
    if (const auto* const byte_pairs = std::get_if<BytePairModel>(&model)) return byte_pairs->options().unknown;
    if (const auto* const unigram = std::get_if<UnigramModel>(&model)) return unigram->unknown();
    if (const auto* const pieces = std::get_if<WordPieceModel>(&model)) return pieces->unknown();
    return std::get<WordLevelModel>(model).unknown();
  }

  std::string where;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenModel model;
  AddedTokens added;
  bool byte_level;  ///< words are written in the byte alphabet
};

/// Texts to tokens through these stages. Remembers the words seen before; for one thread. The stages must outlive it.
class PipelineSession {
 public:
  explicit PipelineSession(const PipelineStages& stages) : stages_(stages) {
    if (const auto* const model = std::get_if<BytePairModel>(&stages.model)) byte_pairs_.emplace(*model);
  }
  /// A text of whole characters; `at_start`: whether the whole text begins with it.
  void raw_text(std::string_view text, bool at_start, std::vector<Index>& ids) {
    std::vector<AddedTokens::Part> parts, later;
    stages_.added.split_raw(text, parts);
    for (const AddedTokens::Part& part : parts) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        const bool first = at_start && part.text.data() == text.data() && !part.text.empty();
        std::size_t start = first ? std::max<std::size_t>(code_point_at(part.text, 0).length, 1) : 0;
        const bool plain = stages_.normalizer.empty();
        const std::string normal = plain ? std::string() : first ? stages_.normalizer(part.text, start) : stages_.normalizer(part.text);
        const Piece here{plain ? part.text : std::string_view(normal), start};
        later.clear();
        stages_.added.split_normalized(here.text, later);
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
  /// Bytes that are not UTF-8, at `position` of the text. A vocabulary need not have a token for each.
  void raw_bytes(std::string_view bytes, std::size_t position, std::vector<Index>& ids) {
    const auto refuse = [&](unsigned char byte) {
      raise(ErrorKind::value, "the text is not valid UTF-8 at byte ", position, ", and ", stages_.where, " has no token for the byte ",
            byte_label(byte));
    };
    if (stages_.byte_level) {
      std::string word;
      for (const char byte : bytes) {
        const std::string& letter = ByteAlphabet::instance().character(static_cast<unsigned char>(byte));
        if (!stages_.tokens().id(letter)) refuse(static_cast<unsigned char>(byte));
        word += letter;
      }
      return model(word, ids);
    }
    if (!stages_.unknown().append_bytes(stages_.tokens(), bytes, ids)) refuse(static_cast<unsigned char>(bytes.front()));
  }

 private:
  void words(const Piece& text, std::vector<Index>& ids) {
    Pieces pieces;
    pieces.list.push_back(text);
    stages_.pre_tokenizer(pieces);
    for (const Piece& piece : pieces.list) model(piece.text, ids);
  }
  void model(std::string_view word, std::vector<Index>& ids) {
    if (byte_pairs_) return byte_pairs_->encode(word, ids);
    if (const auto* const unigram = std::get_if<UnigramModel>(&stages_.model)) return unigram->encode(word, ids);
    if (const auto* const pieces = std::get_if<WordPieceModel>(&stages_.model)) return pieces->encode(word, ids);
    std::get<WordLevelModel>(stages_.model).encode(word, ids);
  }

  const PipelineStages& stages_;
  std::optional<BytePairSession> byte_pairs_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
