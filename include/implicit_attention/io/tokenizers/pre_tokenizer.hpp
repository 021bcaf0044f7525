// How text is cut into words before the words become tokens ("pre_tokenizer" in tokenizer.json).
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/tokenizers/byte_alphabet.hpp>
#include <implicit_attention/io/tokenizers/json_fields.hpp>
#include <implicit_attention/io/tokenizers/regex.hpp>
#include <implicit_attention/io/tokenizers/text_cutter.hpp>
#include <implicit_attention/io/tokenizers/text_limit.hpp>
#include <implicit_attention/io/tokenizers/text_pattern.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// GPT-2's way to cut text.
inline constexpr std::string_view gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PreTokenizer {
 public:
  enum class Kind { split, metaspace, byte_level };
  using Behaviour = CutBehaviour;
  enum class Prefix { always, first, never };

  /// A way to cut, for split, and for byte_level where it has a pattern; and what becomes of spaces.
  struct Step : TextCut {
    Kind kind = Kind::split;
    std::string replacement;                            ///< metaspace: what stands for a space
    Prefix prefix = Prefix::never;                      ///< metaspace: whether a space goes before a piece; byte_level: always or never
    bool cut = true;                                    ///< metaspace: whether pieces are cut before each replacement
    std::string where = "a tokenizer's pre-tokenizer";  ///< its name in messages
  };

  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
  [[nodiscard]] static PreTokenizer read(const Json* document, const std::string& where);

  [[nodiscard]] bool byte_level() const {
    return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) { return step.kind == Kind::byte_level; });
  }

  /// Fails (limit) where the steps write far more than they read, see TextLimit. None writes more than four bytes for one.
  void operator()(Pieces& pieces) const {
    const auto bytes = [&] {
      std::size_t sum = 0;
      for (const Piece& piece : pieces.list) sum += piece.text.size();
      return sum;
    };
    const std::size_t most = TextLimit::of(bytes());
    for (const Step& step : steps_) {
      if (step.kind == Kind::metaspace) {
        metaspace(step, pieces);
      } else if (step.kind == Kind::byte_level) {
        byte_level(step, pieces);
      } else {
        split(step, pieces);
      }
      TextLimit{most, step.where}.check(bytes());
    }
  }

  /// A step that cuts with a pattern, every match a piece of its own.
  [[nodiscard]] static Step isolating(std::string_view pattern, std::string_view where) {
    Step step;
    step.pattern.emplace(std::make_shared<const Regex>(pattern, where));
    return step;
  }
  /// A step that writes bytes in the byte alphabet, and cuts nothing.
  [[nodiscard]] static Step bytes() {
    Step step;
    step.kind = Kind::byte_level;
    return step;
  }

 private:
  static void split(const Step& step, Pieces& pieces) {
    std::vector<Piece> out;
    TextCutter cut(step);
    for (const Piece& piece : pieces.list) cut(piece, out);
    pieces.list = std::move(out);
  }
  /// Puts a prefix before a piece that does not begin with it. The piece begins where it did.
  static void put_before(std::string& text, std::string_view prefix, std::size_t& start) {
    if (std::string_view(text).starts_with(prefix)) return;
    text.insert(0, prefix);
    if (start > 0) start += prefix.size();
  }
  static void metaspace(const Step& step, Pieces& pieces) {
    const TextPattern space{std::string(" ")};
    std::vector<Piece> out;
    TextCut before_each;
    before_each.pattern.emplace(step.replacement);
    before_each.behaviour = Behaviour::merged_with_next;
    TextCutter cut(before_each);
    for (Piece piece : pieces.list) {
      if (piece.start > 0) piece.start = space.replaced_start(piece.text, step.replacement, piece.start);
      std::string text = space.replaced(piece.text, step.replacement);
      if (step.prefix == Prefix::always || (step.prefix == Prefix::first && piece.start > 0))
        put_before(text, step.replacement, piece.start);
      piece.text = pieces.owned.emplace_back(std::move(text));
      if (step.cut)
        cut(piece, out);
      else if (!piece.text.empty())
        out.push_back(piece);
    }
    pieces.list = std::move(out);
  }
  static void byte_level(const Step& step, Pieces& pieces) {
    if (step.prefix == Prefix::always)
      for (Piece& piece : pieces.list)
        if (!piece.text.starts_with(' ')) {
          put_before(pieces.owned.emplace_back(piece.text), " ", piece.start);
          piece.text = pieces.owned.back();
        }
    if (step.pattern) split(step, pieces);
    std::size_t bytes = 0;
    for (const Piece& piece : pieces.list) bytes += piece.text.size();
    std::string& all = pieces.owned.emplace_back();
    all.reserve(2 * bytes);  // a character of the alphabet has at most two bytes: the text does not move
    for (Piece& piece : pieces.list) {
      const std::size_t begin = all.size();
      ByteAlphabet::instance().append(all, piece.text.substr(0, piece.start));
      const std::size_t start = all.size() - begin;
      ByteAlphabet::instance().append(all, piece.text.substr(piece.start));
      piece = {std::string_view(all).substr(begin), start};
    }
  }

  std::vector<Step> steps_;
};

/// `removed`, `isolated`, ... by their names in files.
[[nodiscard]] inline PreTokenizer::Behaviour read_behaviour(JsonFields& fields, PreTokenizer::Behaviour otherwise) {
  using Behaviour = PreTokenizer::Behaviour;
  const Json* const found = fields.find("behavior");
  if (found == nullptr) return otherwise;
  const std::string name = fields.text("behavior");
  if (name == "Removed") return Behaviour::removed;
  if (name == "Isolated") return Behaviour::isolated;
  if (name == "MergedWithPrevious") return Behaviour::merged_with_previous;
  if (name == "MergedWithNext") return Behaviour::merged_with_next;
  if (name == "Contiguous") return Behaviour::contiguous;
  fields.unexpected("behavior", *found, "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

/// A metaspace's `prepend_scheme`, or what older files have in its place: `add_prefix_space`.
[[nodiscard]] inline PreTokenizer::Prefix read_prepend_scheme(JsonFields& fields) {
  using Prefix = PreTokenizer::Prefix;
  const bool older = fields.flag("add_prefix_space", true);
  const Json* const found = fields.find("prepend_scheme");
  if (found == nullptr) return older ? Prefix::always : Prefix::never;
  const std::string name = fields.text("prepend_scheme");
  if (name == "always") return Prefix::always;
  if (name == "first") return Prefix::first;
  if (name == "never") return Prefix::never;
  fields.unexpected("prepend_scheme", *found, "always, first or never");
}

/// Adds the steps of one object of tokenizer.json.
inline void read_pre_tokenizer_steps(const Json& document, const std::string& where, std::vector<PreTokenizer::Step>& steps) {
  using Kind = PreTokenizer::Kind;
  using Behaviour = PreTokenizer::Behaviour;
  using Prefix = PreTokenizer::Prefix;
  JsonFields fields(document, where);
  const std::string type = fields.text("type");
  PreTokenizer::Step step;
  step.where = message(where, " (", type, ")");
  if (type == "Sequence") {
    const Json& list = fields.list("pretokenizers");
    for (std::size_t i = 0; i < list.size(); ++i) read_pre_tokenizer_steps(list[i], json_element(where + ".pretokenizers", i), steps);
    return fields.finish();
  }
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
    if (fields.flag("add_prefix_space", true)) step.prefix = Prefix::always;
    if (fields.flag("use_regex", true)) step.pattern.emplace(std::make_shared<const Regex>(gpt2_pattern, where));
    fields.ignore("trim_offsets");
  } else if (type == "Split") {
    step.pattern = TextPattern::read(fields, "pattern");
    (void)fields.at("behavior");
    step.behaviour = read_behaviour(fields, Behaviour::isolated);
    step.invert = fields.flag("invert", false);
  } else if (type == "Digits") {
    step.is_match = is_numeric;
    step.behaviour = fields.flag("individual_digits", false) ? Behaviour::isolated : Behaviour::contiguous;
  } else if (type == "Punctuation") {
    step.is_match = is_punctuation;
    step.behaviour = read_behaviour(fields, Behaviour::isolated);
  } else if (type == "CharDelimiterSplit") {
    std::string delimiter = fields.text("delimiter");
    if (delimiter.empty() || utf8_character_size(delimiter, 0) != delimiter.size())
      fields.unexpected("delimiter", fields.at("delimiter"), "one character");
    step.pattern.emplace(std::move(delimiter));
    step.behaviour = Behaviour::removed;
  } else if (type == "FixedLength") {
    step.length = fields.find("length") == nullptr ? 5 : static_cast<std::size_t>(fields.natural_number("length"));
    if (step.length == 0) fields.unexpected("length", fields.at("length"), "a number of characters from 1");
  } else if (type == "BertPreTokenizer") {
    step.is_match = is_white_space;
    step.behaviour = Behaviour::removed;
    steps.push_back(std::move(step));
    step = PreTokenizer::Step();
    step.is_match = is_punctuation;
  } else if (type == "WhitespaceSplit") {
    step.is_match = is_white_space;
    step.behaviour = Behaviour::removed;
  } else if (type == "Whitespace") {
    step.pattern.emplace(std::make_shared<const Regex>(words_pattern, where));
    step.behaviour = Behaviour::removed;
    step.invert = true;
  } else if (type == "Metaspace") {
    step.kind = Kind::metaspace;
    step.replacement = fields.text("replacement", "\xE2\x96\x81");
    if (step.replacement.empty()) raise(ErrorKind::file, fields.path("replacement"), ": is empty, expected a character");
    if (utf8_character_size(step.replacement, 0) != step.replacement.size())
      fields.unexpected("replacement", fields.at("replacement"), "one character");
    step.prefix = read_prepend_scheme(fields);
    step.cut = fields.flag("split", true);
    fields.ignore("str_rep");  // of older files: the same replacement
  } else {
    unknown_type(fields, type,
                 "ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, CharDelimiterSplit, FixedLength, "
                 "BertPreTokenizer, Sequence");
  }
  fields.finish();
  steps.push_back(std::move(step));
}

inline PreTokenizer PreTokenizer::read(const Json* document, const std::string& where) {
  std::vector<Step> steps;
  if (document != nullptr) read_pre_tokenizer_steps(*document, where, steps);
  return PreTokenizer(std::move(steps));
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
