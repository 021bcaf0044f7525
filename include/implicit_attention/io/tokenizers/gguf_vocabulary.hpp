// A GGUF file's vocabulary as the tokenizer that it was made from.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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

/// What a name of `tokenizer.ggml.pre` stands for: expressions, one after the other, each match a piece; and what those models add.
struct GgufPreTokenizer {
  std::string_view names;  ///< with spaces between and around
  std::array<std::string_view, 6> patterns;
  bool ignore_merges = false, add_bos = false;
  bool nfc = false;  ///< their own tokenizers bring text to this normal form, which no key of the file says
};

[[nodiscard]] inline std::span<const GgufPreTokenizer> gguf_pre_tokenizers() {
  // GPT-2's own, without its last alternative: what no match takes is a piece anyway.
  static constexpr std::string_view gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))";
  static constexpr std::string_view qwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  static constexpr std::string_view han_and_hangul = R"([\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
  static constexpr std::array<GgufPreTokenizer, 17> all{{
      {" mpt olmo ", {gpt2}, false, false, true},
      {" gpt-2 jais phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert exaone4 trillion granite-docling ",
       {gpt2}},
      {" llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
       {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       true},
      {" dbrx smaug-bpe glm4 chatglm-bpe ",
       {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {" qwen2 ", {qwen2}, false, false, true},
      {" deepseek-r1-qwen kormo stablelm2 megrez hunyuan solar-open grok-2 ", {qwen2}},
      {" qwen35 ",
       {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       false,
       true},
      {" starcoder refact command-r smollm codeshell exaone minerva-7b ", {R"(\p{N})", gpt2}},
      {" falcon ", {R"([\p{P}\$\+<=>\^~\|`]+)", gpt2, "[0-9][0-9][0-9]"}},
      {" default ", {R"([\p{P}\$\+<=>\^~\|]+)", gpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {" deepseek-v3 hunyuan-dense ",
       {R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)",
        R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {" deepseek-coder ", {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", han_and_hangul, R"(\p{N})"}},
      {" deepseek-llm ",
       {R"([\r\n])", R"(\s?\p{L&}+)", R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)", R"(\s+$)",
        han_and_hangul, R"(\p{N}+)"}},
      {" tekken ",
       {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       true},
      {" gpt-4o llama4 minimax-m2 ",
       {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {" kimi-k2 ",
       {R"(\p{Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])*(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])+(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {" bloom poro-chat gpt3-finnish ", {R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{0964}\x{06D4}\x{060C})]+)"}},
  }};
  return all;
}

class GgufTokenizer {
 public:
  /// Fails (file), naming the key, on what is not read here.
  [[nodiscard]] static std::shared_ptr<const TextCodec> make(const GgufVocabulary& vocabulary) { return GgufTokenizer(vocabulary).make(); }

 private:
  explicit GgufTokenizer(const GgufVocabulary& vocabulary) : from_(vocabulary) {
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

  enum Type : std::int32_t { usual = 1, unknown = 2, control = 3, user_defined = 4, unused = 5 };
  [[nodiscard]] std::int32_t type(std::size_t id) const { return from_.types.empty() ? static_cast<std::int32_t>(usual) : from_.types[id]; }

  [[nodiscard]] std::shared_ptr<const TextCodec> make() const {
    if (from_.model == "gpt2") return byte_level();
    if (from_.model == "llama") return metaspace();
    if (from_.model == "rwkv") return world();
    refuse("model", message("is \"", printable(from_.model), "\", expected gpt2, llama or rwkv"));
  }

  [[nodiscard]] TokenTable table() const {
    TokenTable tokens;
    for (std::size_t id = 0; id < from_.tokens.size(); ++id)
      if (!from_.tokens[id].empty()) tokens.add(from_.tokens[id], static_cast<Index>(id), from_.where + ": tokenizer.ggml.tokens");
    return tokens;
  }
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
  [[nodiscard]] PostProcessor ends(bool usual_bos) const {
    PostProcessor processor;
    if (from_.add_bos.value_or(usual_bos)) {
      if (!from_.bos) refuse("bos_token_id", "is missing, and a text is to begin with it");
      processor.before.push_back(*from_.bos);
    }
    if (from_.add_eos.value_or(false)) {
      if (!from_.eos) refuse("eos_token_id", "is missing, and a text is to end with it");
      processor.after.push_back(*from_.eos);
    }
    return processor;
  }

  [[nodiscard]] std::shared_ptr<const TextCodec> byte_level() const {
    // Files from before there was this key. Those that models of ours come in hold GPT-NeoX's vocabulary, for which the public converter
    // writes mpt since.
    const std::string pre = from_.pre.empty() ? "mpt" : from_.pre;
    const auto known = gguf_pre_tokenizers();
    const auto found = std::find_if(known.begin(), known.end(), [&](const GgufPreTokenizer& one) {
      return pre.find(' ') == std::string::npos && one.names.find(" " + pre + " ") != std::string_view::npos;
    });
    if (found == known.end()) {
      std::string names;
      for (const GgufPreTokenizer& one : known) names += one.names;
      refuse("pre", message("is \"", printable(from_.pre), "\", expected one of:", names, "; give the model's tokenizer.json instead"));
    }
    BytePairModel::Options options;
    options.ignore_merges = found->ignore_merges;
    BytePairModel model(table(), std::move(options), from_.where + ": tokenizer.ggml");
    for (std::size_t rank = 0; rank < from_.merges.size(); ++rank) {
      const std::string_view merge = from_.merges[rank];
      const std::size_t space = merge.find(' ', 1);  // a first token may itself be a space
      if (space == std::string_view::npos || space + 1 == merge.size())
        refuse("merges", message("[", rank, "]: is \"", printable(merge), "\", expected two tokens and a space between"));
      model.add_merge(merge.substr(0, space), merge.substr(space + 1), rank);
    }
    std::vector<PreTokenizer::Step> steps;
    for (const std::string_view pattern : found->patterns)
      if (!pattern.empty()) steps.push_back(PreTokenizer::isolating(pattern, from_.where));
    steps.push_back(PreTokenizer::bytes());
    std::vector<Normalizer::Step> steps_before;
    if (found->nfc) steps_before.emplace_back();  // NFC
    Decoder::Step decode;
    decode.kind = Decoder::Kind::byte_level;
    return std::make_shared<const Pipeline>(Pipeline::Parts{from_.where, added(), Normalizer(std::move(steps_before)),
                                                            PreTokenizer(std::move(steps)), std::move(model),
                                                            ends(found->add_bos && from_.bos), Decoder({decode})});
  }

  /// Sentencepiece's byte pairs: of all neighbours that make a token, those with the highest score go first. As merges: every way to cut a
  /// token into two tokens, ranked by its score.
  [[nodiscard]] std::shared_ptr<const TextCodec> metaspace() const {
    const std::size_t count = from_.tokens.size();
    if (from_.scores.size() != count)
      refuse("scores", message("has ", from_.scores.size(), " entries, expected one for each of ", count, " tokens"));
    BytePairModel::Options options;
    options.unknown.id = from_.unknown ? from_.unknown : std::optional<Index>();
    options.unknown.byte_fallback = true;
    options.unknown.fuse = true;
    BytePairModel model(table(), std::move(options), from_.where + ": tokenizer.ggml");
    std::vector<std::size_t> order;
    for (std::size_t id = 0; id < count; ++id) {
      if (!(from_.scores[id] == from_.scores[id])) refuse("scores", message("[", id, "]: is not a number"));
      if (mergeable(id)) order.push_back(id);
    }
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return from_.scores[a] > from_.scores[b]; });
    std::size_t rank = 0;
    for (std::size_t place = 0; place < order.size(); ++place) {
      if (place > 0 && from_.scores[order[place]] < from_.scores[order[place - 1]]) rank = place;
      const std::string_view token = from_.tokens[order[place]];
      for (std::size_t cut = std::max<std::size_t>(utf8_character_size(token, 0), 1); cut < token.size();
           cut += std::max<std::size_t>(utf8_character_size(token, cut), 1)) {
        const std::optional<Index> left = model.tokens().id(token.substr(0, cut)), right = model.tokens().id(token.substr(cut));
        if (left && right && mergeable(static_cast<std::size_t>(*left)) && mergeable(static_cast<std::size_t>(*right)))
          model.add_merge(token.substr(0, cut), token.substr(cut), rank);
      }
    }
    // Unlike Hugging Face's metaspace, a space is put before text that begins with one, too.
    const std::string space = "\xE2\x96\x81";
    std::vector<Normalizer::Step> steps;
    Normalizer::Step replace;
    replace.kind = Normalizer::Kind::replace;
    replace.pattern.emplace(std::string(" "));
    replace.content = space;
    if (from_.add_space_prefix.value_or(true)) {
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
    strip.start = from_.add_space_prefix.value_or(true) ? 1 : 0;
    return std::make_shared<const Pipeline>(Pipeline::Parts{from_.where, added(), Normalizer(std::move(steps)), PreTokenizer(),
                                                            std::move(model), ends(true), Decoder({back, bytes, fuse, strip})});
  }
  [[nodiscard]] bool mergeable(std::size_t id) const { return type(id) == usual || type(id) == user_defined || type(id) == unused; }

  /// The public converter writes a token's bytes as Python's repr shows them, without b and quotes. Id 0 is a mark.
  [[nodiscard]] std::shared_ptr<const TextCodec> world() const {
    TokenTable tokens;
    const std::string where = from_.where + ": tokenizer.ggml.tokens";
    for (std::size_t id = 1; id < from_.tokens.size(); ++id) {
      if (type(id) == unused || type(id) == control || from_.tokens[id].empty()) continue;
      std::optional<std::string> bytes = python_unescaped(from_.tokens[id], true);
      if (!bytes || bytes->empty())
        refuse("tokens", message("[", id, "]: \"", printable(from_.tokens[id]), "\" has an escape that is not read here"));
      tokens.add(std::move(*bytes), static_cast<Index>(id), where);
    }
    if (tokens.empty()) refuse("tokens", "holds no tokens");
    return std::make_shared<const WorldVocabulary>(std::move(tokens), from_.where);
  }

  const GgufVocabulary& from_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
