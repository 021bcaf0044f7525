// The tokenizer of a GGUF file's vocabulary.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/tokenizers/gguf_pre_tokenizers.hpp>
#include <implicit_attention/io/tokenizers/pipeline.hpp>
#include <implicit_attention/io/tokenizers/world.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The keys `tokenizer.ggml.*` of a GGUF file, as they stand there. Ids are places in `tokens`.
struct GgufVocabulary {
  std::string where;       ///< the file, for messages
  std::string model, pre;  ///< `model`: gpt2, llama or rwkv; `pre`: how gpt2 cuts words
  std::vector<std::string> tokens, merges;
  std::vector<float> scores;        ///< llama: the higher, the sooner a token is made
  std::vector<std::int32_t> types;  ///< `token_type`: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; empty: all normal
  std::optional<Index> bos, eos, unknown;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

namespace detail {

/// The tokens of a vocabulary and their types. Fails (file), naming the key, where keys contradict each other.
/// The vocabulary must outlive it.
class GgufTokens {
 public:
  enum Type : std::int32_t { usual = 1, unknown = 2, control = 3, user_defined = 4, unused = 5 };

  explicit GgufTokens(const GgufVocabulary& vocabulary) : from_(vocabulary) {
    const std::size_t count = from_.tokens.size();
    if (count == 0) refuse("tokens", "is missing or empty");
    if (!from_.types.empty() && from_.types.size() != count)
      refuse("token_type", message("has ", from_.types.size(), " entries, expected one for each of ", count, " tokens"));
    for (const auto& [key, id] :
         {std::pair("bos_token_id", from_.bos), std::pair("eos_token_id", from_.eos), std::pair("unknown_token_id", from_.unknown)})
      if (id && (*id < 0 || static_cast<std::size_t>(*id) >= count)) refuse(key, message("is ", *id, ", expected 0 to ", count - 1));
  }
  [[noreturn]] void refuse(std::string_view key, std::string_view what) const {
    raise(ErrorKind::file, from_.where, ": tokenizer.ggml.", key, " ", what);
  }
  [[nodiscard]] const GgufVocabulary& vocabulary() const { return from_; }
  [[nodiscard]] std::int32_t type(std::size_t id) const { return from_.types.empty() ? static_cast<std::int32_t>(usual) : from_.types[id]; }
  /// Whether a token may take part in merges, or be made by one.
  [[nodiscard]] bool mergeable(std::size_t id) const { return type(id) == usual || type(id) == user_defined || type(id) == unused; }

  [[nodiscard]] TokenTable table() const {
    TokenTable tokens;
    for (std::size_t id = 0; id < from_.tokens.size(); ++id)
      if (!from_.tokens[id].empty()) tokens.add(from_.tokens[id], static_cast<Index>(id), from_.where + ": tokenizer.ggml.tokens");
    return tokens;
  }
  /// Tokens that are found in a text before it is cut.
  [[nodiscard]] std::vector<AddedToken> added() const {
    std::vector<AddedToken> list;
    for (std::size_t id = 0; id < from_.tokens.size(); ++id) {
      const bool special = type(id) == control || type(id) == unknown;
      if ((!special && type(id) != user_defined) || from_.tokens[id].empty()) continue;
      AddedToken token;
      token.content = from_.tokens[id];
      token.id = static_cast<Index>(id);
      token.special = special;
      token.normalized = false;
      list.push_back(std::move(token));
    }
    return list;
  }
  /// What goes before and after a text; `usual_bos`: whether a text begins with the bos token where no key says so.
  [[nodiscard]] PostProcessor ends(bool usual_bos) const {
    PostProcessor processor;
    if (from_.add_bos.value_or(usual_bos)) {
      if (!from_.bos) refuse("bos_token_id", "is missing, expected the token that a text begins with");
      processor.before.push_back(*from_.bos);
    }
    if (from_.add_eos.value_or(false)) {
      if (!from_.eos) refuse("eos_token_id", "is missing, expected the token that a text ends with");
      processor.after.push_back(*from_.eos);
    }
    return processor;
  }

 private:
  const GgufVocabulary& from_;
};

/// Sentencepiece merges, of all neighbours that make a token, those of the highest score first. As merges: every way to cut a token into
/// two tokens, ranked by its score. There is a score for each token.
inline void add_score_merges(const GgufTokens& tokens, BytePairModel& model) {
  const GgufVocabulary& from = tokens.vocabulary();
  const std::size_t count = from.tokens.size();
  std::vector<std::size_t> order;
  for (std::size_t id = 0; id < count; ++id) {
    if (!(from.scores[id] == from.scores[id])) tokens.refuse("scores", message("[", id, "]: is not a number"));
    if (tokens.mergeable(id)) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return from.scores[a] > from.scores[b]; });
  std::size_t rank = 0;
  for (std::size_t place = 0; place < order.size(); ++place) {
    if (place > 0 && from.scores[order[place]] < from.scores[order[place - 1]]) rank = place;
    const std::string_view token = from.tokens[order[place]];
    for (std::size_t cut = std::max<std::size_t>(utf8_character_size(token, 0), 1); cut < token.size();
         cut += std::max<std::size_t>(utf8_character_size(token, cut), 1)) {
      const std::optional<Index> left = model.tokens().id(token.substr(0, cut)), right = model.tokens().id(token.substr(cut));
      if (left && right && tokens.mergeable(static_cast<std::size_t>(*left)) && tokens.mergeable(static_cast<std::size_t>(*right)))
        model.add_merge(token.substr(0, cut), token.substr(cut), rank);
    }
  }
}

/// The tokenizer of each kind of vocabulary. The vocabulary must outlive it.
class GgufTokenizer {
 public:
  /// Fails (file), naming the key, on what is not read here.
  [[nodiscard]] static std::shared_ptr<const TextCodec> make(const GgufVocabulary& vocabulary) { return GgufTokenizer(vocabulary).make(); }

 private:
  explicit GgufTokenizer(const GgufVocabulary& vocabulary) : tokens_(vocabulary) {}

  [[nodiscard]] std::shared_ptr<const TextCodec> make() const {
    const GgufVocabulary& from = tokens_.vocabulary();
    if (from.model == "gpt2") return byte_level();
    if (from.model == "llama") return metaspace();
    if (from.model == "rwkv") return world();
    tokens_.refuse("model", message("is \"", printable(from.model), "\", expected gpt2, llama or rwkv"));
  }

  [[nodiscard]] std::shared_ptr<const TextCodec> byte_level() const {
    const GgufVocabulary& from = tokens_.vocabulary();
    // Older files lack this key. Those of models that are read here hold GPT-NeoX's vocabulary, for which the public converter writes mpt
    // today.
    const GgufPreTokenizer* const found = find_gguf_pre_tokenizer(from.pre.empty() ? "mpt" : from.pre);
    if (found == nullptr) {
      std::string names;
      for (const GgufPreTokenizer& one : gguf_pre_tokenizers()) names += one.names;
      tokens_.refuse("pre",
                     message("is \"", printable(from.pre), "\", expected one of:", names, "; give the model's tokenizer.json instead"));
    }
    BytePairModel::Options options;
    options.ignore_merges = found->ignore_merges;
    BytePairModel model(tokens_.table(), std::move(options), from.where + ": tokenizer.ggml");
    for (std::size_t rank = 0; rank < from.merges.size(); ++rank) {
      const std::string_view merge = from.merges[rank];
      const std::size_t space = merge.find(' ', 1);  // a first token may itself be a space
      if (space == std::string_view::npos || space + 1 == merge.size())
        tokens_.refuse("merges", message("[", rank, "]: is \"", printable(merge), "\", expected two tokens and a space between"));
      model.add_merge(merge.substr(0, space), merge.substr(space + 1), rank);
    }
    std::vector<PreTokenizer::Step> steps;
    for (const std::string_view pattern : found->patterns)
      if (!pattern.empty()) steps.push_back(PreTokenizer::isolating(pattern, from.where));
    steps.push_back(PreTokenizer::bytes());
    std::vector<Normalizer::Step> steps_before;
    if (found->nfc) steps_before.emplace_back();  // NFC
    Decoder::Step decode;
    decode.kind = Decoder::Kind::byte_level;
    return std::make_shared<const Pipeline>(Pipeline::Parts{from.where, tokens_.added(), Normalizer(std::move(steps_before)),
                                                            PreTokenizer(std::move(steps)), std::move(model),
                                                            tokens_.ends(found->add_bos && from.bos), Decoder({decode})});
  }

  /// Sentencepiece's byte pairs.
  [[nodiscard]] std::shared_ptr<const TextCodec> metaspace() const {
    const GgufVocabulary& from = tokens_.vocabulary();
    const std::size_t count = from.tokens.size();
    if (from.scores.size() != count)
      tokens_.refuse("scores", message("has ", from.scores.size(), " entries, expected one for each of ", count, " tokens"));
    BytePairModel::Options options;
    options.unknown.id = from.unknown;
    options.unknown.byte_fallback = true;
    options.unknown.fuse = true;
    BytePairModel model(tokens_.table(), std::move(options), from.where + ": tokenizer.ggml");
    add_score_merges(tokens_, model);
    // Unlike in Hugging Face's metaspace, a space also goes before a text that begins with one.
    const std::string space = "\xE2\x96\x81";
    std::vector<Normalizer::Step> steps;
    Normalizer::Step replace;
    replace.kind = Normalizer::Kind::replace;
    replace.pattern.emplace(std::string(" "));
    replace.content = space;
    if (from.add_space_prefix.value_or(true)) {
      Normalizer::Step prepend;
      prepend.kind = Normalizer::Kind::prepend;
      prepend.content = space;
      steps.push_back(std::move(prepend));
    }
    steps.push_back(std::move(replace));
    Decoder::Step back, bytes, fuse, strip;
    back.kind = Decoder::Kind::replace;
    back.pattern.emplace(space);
    back.content = " ";
    bytes.kind = Decoder::Kind::byte_fallback;
    strip.kind = Decoder::Kind::strip;
    strip.content = " ";
    strip.start = from.add_space_prefix.value_or(true) ? 1 : 0;
    return std::make_shared<const Pipeline>(Pipeline::Parts{from.where, tokens_.added(), Normalizer(std::move(steps)), PreTokenizer(),
                                                            std::move(model), tokens_.ends(true), Decoder({back, bytes, fuse, strip})});
  }
  /// The public converter writes a token's bytes as Python's repr shows them, without b and quotes. Id 0 stands for no text.
  [[nodiscard]] std::shared_ptr<const TextCodec> world() const {
    const GgufVocabulary& from = tokens_.vocabulary();
    TokenTable tokens;
    const std::string where = from.where + ": tokenizer.ggml.tokens";
    for (std::size_t id = 1; id < from.tokens.size(); ++id) {
      if (tokens_.type(id) == GgufTokens::unused || tokens_.type(id) == GgufTokens::control || from.tokens[id].empty()) continue;
      std::optional<std::string> bytes = python_unescaped(from.tokens[id], true);
      if (!bytes || bytes->empty())
        tokens_.refuse("tokens", message("[", id, "]: \"", printable(from.tokens[id]), "\" has an escape that is not read here"));
      tokens.add(std::move(*bytes), static_cast<Index>(id), where);
    }
    if (tokens.empty()) tokens_.refuse("tokens", "holds no tokens");
    return std::make_shared<const WorldVocabulary>(std::move(tokens), from.where);
  }

  GgufTokens tokens_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
