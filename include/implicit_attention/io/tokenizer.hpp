// Text to token ids and back, by what a model's directory holds.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tokenizers/vocabulary_text.hpp>
#include <implicit_attention/io/vocabulary.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

struct GgufVocabulary;  // tokenizers/gguf_vocabulary.hpp
namespace detail {
class TextCodec;
struct TokenText;
}  // namespace detail

/// How text becomes tokens.
enum class TokenizerKind {
  bytes,     ///< token id = byte
  symbols,   ///< one UTF-8 character a token; `<special>` tokens of the vocabulary are recognised, the longest first
  words,     ///< what stands between white space (as Python's str.split has it)
  subwords,  ///< pieces of words, as tokenizer.json, RWKV's world vocabulary or a GGUF file has them
  none       ///< token ids only: nothing tells how text would become tokens
};

/// `bytes`, `symbols` or `words`, for an option of a command line.
[[nodiscard]] TokenizerKind tokenizer_kind(std::string_view name);

/// Text to ids, ids to text, and labels for people.
class Tokenizer {
 public:
  /// By what `path` holds: a model's folder, or one of its files, which stands for the folder; but a GGUF file has its own tokenizer, and
  /// tokenizer.json (or 20B_tokenizer.json), rwkv_vocab_*.txt and tokenizer.model are theirs. In a folder a tokenizer that is there
  /// decides: tokenizer.json, rwkv_vocab_*.txt, merges.txt with vocab.json, tokenizer.model; then vocab.json (symbols if all its tokens but
  /// special ones are single characters, else words; neither where it is byte pairs'). Without any of them text is bytes if the model's
  /// vocabulary turns out to be 256.
  /// `choice` overrides: `bytes`, `symbols`, `words`, or a file or folder as above. What is chosen must be readable; what is found and
  /// cannot be read leaves token ids, and `encode` says why. No weights are needed: `fit` tells the model's size later.
  [[nodiscard]] static Tokenizer open(const std::filesystem::path& path, std::string_view choice = {},
                                      std::optional<Index> vocabulary_size = std::nullopt);
  /// The same in a folder, where the number of ids that the model takes is known: the rows of its embedding.
  [[nodiscard]] static Tokenizer open(const std::filesystem::path& directory, Index vocabulary_size,
                                      std::optional<TokenizerKind> kind = std::nullopt);
  /// A GGUF file's vocabulary, read elsewhere.
  [[nodiscard]] static Tokenizer of(const GgufVocabulary& vocabulary);

  /// Says how many ids the model takes, once that is known. Fails (file) where vocab.json has an id beyond.
  void fit(Index vocabulary_size);

  /// Whether the kind is known; else `fit` will say.
  [[nodiscard]] bool decided() const { return !nothing_found_ || size_ > 0; }
  [[nodiscard]] TokenizerKind kind() const { return kind_; }
  /// The largest id that text can become; nothing where words, symbols or bytes are tokens, whose ids are checked by `fit`, or none.
  [[nodiscard]] std::optional<Index> largest_id() const;
  /// 0 until it is known.
  [[nodiscard]] Index vocabulary_size() const { return size_; }
  /// The tokens of vocab.json; empty where there is another tokenizer.
  [[nodiscard]] const Vocabulary& vocabulary() const { return words_.vocabulary(); }

  /// The tokens of `text`, with what the model puts before and after, as `<bos>`, unless `ends` is false. Fails (value) on text that is
  /// empty, that is not UTF-8 where tokens are not bytes, or that has an unknown token where there is no `<unk>`.
  [[nodiscard]] std::vector<Index> encode(std::string_view text, bool ends = true) const;

  /// The tokens that the model puts before every text, as `<bos>`.
  [[nodiscard]] std::vector<Index> before() const;

  /// The text of tokens: what `encode` was given, where it keeps everything. Ids that no token has are left out; words have spaces between.
  [[nodiscard]] std::string decode(const std::vector<Index>& ids) const;

  /// The token of this name or text, as `<cls>` or ` dog`; for bytes, the byte itself or its label. Nothing if there is none.
  [[nodiscard]] std::optional<Index> find(std::string_view token) const;
  /// The same, or what `token` becomes if that is one token. Fails (value) otherwise, saying what it becomes.
  [[nodiscard]] Index id(std::string_view token) const;

  /// Fails unless every id is one the model takes.
  void check(const std::vector<Index>& ids) const;

  /// An id as a person reads it: its text, a byte as itself or as `\n` or `\xE2`, and the id where nothing names it.
  /// Fit for a terminal: control characters in a vocabulary are escaped.
  [[nodiscard]] std::string label(Index id) const;
  /// The labels of tokens in a row. A character whose bytes lie in several of them is shown whole by the first, and each other that holds
  /// nothing else is `\u22EF`.
  [[nodiscard]] std::vector<std::string> labels(const std::vector<Index>& ids) const;

 private:
  [[nodiscard]] static std::filesystem::path folder_of(const std::filesystem::path& path);
  void take(std::shared_ptr<const detail::TextCodec> codec);
  /// What a model's folder holds, or a file of it. A GGUF file has its own tokenizer.
  void open_found(const std::filesystem::path& path, std::optional<Index> size);
  void open_chosen(const std::filesystem::path& path);
  void open_folder(const std::filesystem::path& folder, std::optional<TokenizerKind> kind, std::optional<Index> size);
  /// Files that look like a tokenizer's, for a message.
  [[nodiscard]] static std::string others_hint(const std::filesystem::path& folder);
  void read_vocabulary(const std::filesystem::path& file, std::optional<TokenizerKind> kind, std::optional<Index> size);
  /// What tells that the tokens of vocab.json are pieces of words; empty if nothing does. Cutting at white space would give other tokens
  /// than the model was trained on, and nobody would notice.
  [[nodiscard]] std::string why_byte_pairs(const std::filesystem::path& folder) const;

  [[nodiscard]] detail::TokenText text_of(Index id) const;
  /// The tokens of a text that is not a single token, for a message.
  [[nodiscard]] std::string pieces_hint(const std::vector<Index>& ids) const;

  [[nodiscard]] Index checked_byte(unsigned char byte) const;

  TokenizerKind kind_ = TokenizerKind::none;
  std::string where_, why_none_, not_found_;  // why_none_: what a message says where kind_ is none; not_found_: its part that needs no size
  Index size_ = 0;
  bool nothing_found_ = false;  // in the folder: bytes, if the model's vocabulary is that small
  std::shared_ptr<const detail::TextCodec> codec_;
  detail::VocabularyText words_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <system_error>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/folder.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizers/byte_alphabet.hpp>
#include <implicit_attention/io/tokenizers/gguf_vocabulary.hpp>
#include <implicit_attention/io/tokenizers/labels.hpp>
#include <implicit_attention/io/tokenizers/text_codec.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>
#include <implicit_attention/io/tokenizers/tokenizer_file.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_IO_BODY TokenizerKind tokenizer_kind(std::string_view name) {
  if (name == "bytes") return TokenizerKind::bytes;
  if (name == "symbols") return TokenizerKind::symbols;
  if (name == "words") return TokenizerKind::words;
  detail::raise(ErrorKind::value, "tokenizer \"", printable(name), "\" is unknown, expected bytes, symbols or words");
}

IMPLICIT_ATTENTION_IO_BODY Tokenizer Tokenizer::open(const std::filesystem::path& path, std::string_view choice,
                                                     std::optional<Index> vocabulary_size) {
  Tokenizer tokenizer;
  std::error_code ignored;
  if (choice == "bytes" || choice == "symbols" || choice == "words") {
    tokenizer.open_folder(folder_of(path), tokenizer_kind(choice), vocabulary_size);
  } else if (choice.empty()) {
    tokenizer.open_found(path, vocabulary_size);
  } else {
    detail::check_reachable(choice);
    if (!std::filesystem::exists(choice, ignored))
      detail::raise(ErrorKind::value, "tokenizer \"", printable(choice),
                    "\" is neither bytes, symbols or words, nor a file or folder that is there");
    tokenizer.open_chosen(choice);
  }
  if (vocabulary_size) tokenizer.fit(*vocabulary_size);
  return tokenizer;
}

IMPLICIT_ATTENTION_IO_BODY Tokenizer Tokenizer::open(const std::filesystem::path& directory, Index vocabulary_size,
                                                     std::optional<TokenizerKind> kind) {
  Tokenizer tokenizer;
  if (kind)
    tokenizer.open_folder(directory, kind, vocabulary_size);
  else
    tokenizer.open_found(directory, vocabulary_size);
  tokenizer.fit(vocabulary_size);
  return tokenizer;
}

IMPLICIT_ATTENTION_IO_BODY Tokenizer Tokenizer::of(const GgufVocabulary& vocabulary) {
  Tokenizer tokenizer;
  tokenizer.where_ = vocabulary.where;
  tokenizer.take(detail::GgufTokenizer::make(vocabulary));
  return tokenizer;
}

IMPLICIT_ATTENTION_IO_BODY void Tokenizer::fit(Index vocabulary_size) {
  size_ = vocabulary_size;
  for (const auto& [token, id] : vocabulary().ids())
    if (id >= size_)
      detail::raise(ErrorKind::file, where_, ": vocab.json: token \"", printable(token), "\": its id ", id,
                    " is beyond the model's vocabulary of ", size_, " (ids 0 to ", size_ - 1, ")");
  if (!nothing_found_) return;
  kind_ = size_ == 256 ? TokenizerKind::bytes : TokenizerKind::none;
  why_none_ = detail::message(not_found_, ", and the vocabulary is ", size_, ", not the 256 of bytes");
}

IMPLICIT_ATTENTION_IO_BODY std::vector<Index> Tokenizer::encode(std::string_view text, bool ends) const {
  if (kind_ == TokenizerKind::none)
    detail::raise(ErrorKind::value, where_, ": text cannot become tokens: ", why_none_, "; give token ids, or name a tokenizer");
  std::vector<Index> ids;
  if (kind_ == TokenizerKind::bytes) {
    for (const char letter : text) ids.push_back(checked_byte(static_cast<unsigned char>(letter)));
  } else if (kind_ == TokenizerKind::subwords) {
    codec_->encode(text, ids);
  } else {
    if (const std::size_t bad = utf8_error(text); bad != std::string_view::npos)
      detail::raise(ErrorKind::value, "the text is not valid UTF-8 at byte ", bad);
    kind_ == TokenizerKind::symbols ? words_.encode_symbols(text, ids) : words_.encode_words(text, ids);
  }
  if (ids.empty()) detail::raise(ErrorKind::value, "the text is empty: expected at least one token");
  if (kind_ == TokenizerKind::subwords && ends) {
    const std::vector<Index> before = codec_->before(), after = codec_->after();
    ids.insert(ids.begin(), before.begin(), before.end());
    ids.insert(ids.end(), after.begin(), after.end());
  }
  return ids;
}

IMPLICIT_ATTENTION_IO_BODY std::optional<Index> Tokenizer::largest_id() const {
  return codec_ ? std::optional(codec_->largest_id()) : std::nullopt;
}
IMPLICIT_ATTENTION_IO_BODY std::vector<Index> Tokenizer::before() const { return codec_ ? codec_->before() : std::vector<Index>(); }

IMPLICIT_ATTENTION_IO_BODY std::string Tokenizer::decode(const std::vector<Index>& ids) const {
  if (kind_ == TokenizerKind::subwords) return codec_->decode(ids);
  std::string text;
  for (const Index id : ids) {
    if (kind_ == TokenizerKind::bytes && id >= 0 && id < 256) text.push_back(static_cast<char>(id));
    const std::string* const token = vocabulary().token(id);
    if (token != nullptr && kind_ == TokenizerKind::words && !text.empty()) text += ' ';
    if (token != nullptr) text += *token;
  }
  return text;
}

IMPLICIT_ATTENTION_IO_BODY std::optional<Index> Tokenizer::find(std::string_view token) const {
  if (const std::optional<Index> found = vocabulary().id(token)) return found;
  if (kind_ == TokenizerKind::bytes)
    for (unsigned byte = 0; byte < 256; ++byte)
      if ((token.size() == 1 && static_cast<unsigned char>(token[0]) == byte) || token == byte_label(static_cast<unsigned char>(byte)))
        return checked_byte(static_cast<unsigned char>(byte));
  return codec_ && !token.empty() ? codec_->find(token) : std::nullopt;
}

IMPLICIT_ATTENTION_IO_BODY Index Tokenizer::id(std::string_view token) const {
  if (const std::optional<Index> found = find(token)) return *found;
  const std::string who = detail::message(where_, ": token \"", printable(token), "\"");
  if (kind_ == TokenizerKind::bytes) detail::raise(ErrorKind::value, who, " is not a single byte, and bytes are the tokens here");
  if (codec_) {
    std::vector<Index> ids;
    codec_->encode(token, ids);
    if (ids.size() == 1) return ids.front();
    detail::raise(ErrorKind::value, who, " is not a single token", pieces_hint(ids));
  }
  if (vocabulary().empty())
    detail::raise(ErrorKind::value, who, " cannot be looked up: ", nothing_found_ ? "there is no vocab.json" : why_none_);
  detail::raise(ErrorKind::value, who, " is not in vocab.json", words_.special_hint());
}

IMPLICIT_ATTENTION_IO_BODY void Tokenizer::check(const std::vector<Index>& ids) const {
  if (ids.empty()) detail::raise(ErrorKind::value, "there are no tokens: expected at least one");
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || (size_ > 0 && ids[i] >= size_))
      detail::raise(ErrorKind::value, "token ", i, " is ", ids[i], ", expected ",
                    size_ > 0 ? detail::message("0 to ", size_ - 1, ", the model's vocabulary") : "an id from 0");
}

IMPLICIT_ATTENTION_IO_BODY std::string Tokenizer::label(Index id) const { return labels({id}).front(); }

IMPLICIT_ATTENTION_IO_BODY std::vector<std::string> Tokenizer::labels(const std::vector<Index>& ids) const {
  std::vector<detail::TokenText> texts;
  texts.reserve(ids.size());
  for (const Index id : ids) texts.push_back(text_of(id));
  return detail::labels_of(texts);
}

IMPLICIT_ATTENTION_IO_BODY std::filesystem::path Tokenizer::folder_of(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) ? path : path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

IMPLICIT_ATTENTION_IO_BODY void Tokenizer::take(std::shared_ptr<const detail::TextCodec> codec) {
  codec_ = std::move(codec);
  kind_ = TokenizerKind::subwords;
}

IMPLICIT_ATTENTION_IO_BODY void Tokenizer::open_found(const std::filesystem::path& path, std::optional<Index> size) {
  const std::filesystem::path folder = folder_of(path);
  const bool own = path != folder && detail::is_named_as_tokenizer(path);
  where_ = path_text(path);
  std::optional<std::filesystem::path> file;
  try {  // a caller with token ids needs no tokenizer
    file = own ? path : detail::tokenizer_file_in(folder);
    if (file) take(detail::read_text_codec(*file));
    if (file && !codec_) detail::raise(ErrorKind::file, file->string(), ": there is no object \"model\"");
  } catch (const Error& error) {
    if (file && file->filename() == "merges.txt") open_folder(folder, std::nullopt, size);  // whose tokens can be shown
    kind_ = TokenizerKind::none;
    why_none_ = error.what();
    return;
  }
  if (!file) open_folder(folder, std::nullopt, size);
}

IMPLICIT_ATTENTION_IO_BODY void Tokenizer::open_chosen(const std::filesystem::path& path) {
  where_ = path_text(path);
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    const std::optional<std::filesystem::path> file = detail::tokenizer_file_in(path);
    if (!file && !detail::is_file(path / "vocab.json"))
      detail::raise(ErrorKind::file, where_, ": there is no tokenizer here, expected tokenizer.json, rwkv_vocab_*.txt or vocab.json");
    if (!file) return open_folder(path, std::nullopt, std::nullopt);
    take(detail::read_text_codec(*file));
    if (!codec_) detail::raise(ErrorKind::file, file->string(), ": there is no object \"model\"");
  } else {
    take(detail::read_text_codec(path));
    if (codec_) return;
    where_ = path_text(folder_of(path));
    read_vocabulary(path, std::nullopt, std::nullopt);
  }
}

IMPLICIT_ATTENTION_IO_BODY void Tokenizer::open_folder(const std::filesystem::path& folder, std::optional<TokenizerKind> kind,
                                                       std::optional<Index> size) {
  where_ = path_text(folder);
  const std::filesystem::path file = folder / "vocab.json";
  if (kind != TokenizerKind::bytes && detail::is_file(file)) return read_vocabulary(file, kind, size);
  if (kind == TokenizerKind::symbols || kind == TokenizerKind::words)
    detail::raise(ErrorKind::file, where_, ": no vocab.json here, which symbols and words need; expected bytes, or token ids");
  nothing_found_ = !kind;
  kind_ = kind ? *kind : TokenizerKind::none;
  why_none_ = not_found_ = "no vocab.json, tokenizer.json or rwkv_vocab_*.txt here" + others_hint(folder);
}

IMPLICIT_ATTENTION_IO_BODY std::string Tokenizer::others_hint(const std::filesystem::path& folder) {
  std::error_code ignored;
  std::string hint;
  for (const std::string& name : detail::names_in(folder, ignored))
    if ((name.find("token") != std::string::npos || name.find("vocab") != std::string::npos || name.ends_with(".model")) &&
        !name.ends_with(".py") && hint.size() < 120)
      hint += detail::message(hint.empty() ? " (not read: " : ", ", printable(name));
  return hint.empty() ? hint : hint + ")";
}

IMPLICIT_ATTENTION_IO_BODY void Tokenizer::read_vocabulary(const std::filesystem::path& file, std::optional<TokenizerKind> kind,
                                                           std::optional<Index> size) {
  words_ = detail::VocabularyText(Vocabulary::read(file, size ? *size : detail::TokenTable::largest_id + 1), where_);
  if (!kind) why_none_ = why_byte_pairs(file.parent_path());
  kind_ = kind ? *kind : why_none_.empty() ? words_.all_symbols() ? TokenizerKind::symbols : TokenizerKind::words : TokenizerKind::none;
}

IMPLICIT_ATTENTION_IO_BODY std::string Tokenizer::why_byte_pairs(const std::filesystem::path& folder) const {
  const std::string end = " byte pairs, which need tokenizer.json, or merges.txt beside it";
  if (detail::is_file(folder / "tokenizer_config.json")) return "tokenizer_config.json beside vocab.json means" + end;
  for (const auto& [token, id] : vocabulary().ids())
    if (token.starts_with("\u0120") || token.starts_with("\u2581") || (token.size() > 4 && token.ends_with("</w>")) ||
        (token.size() > 2 && token.ends_with("@@")))
      return detail::message("the token \"", printable(token), "\" in vocab.json means", end);
  return {};
}

IMPLICIT_ATTENTION_IO_BODY detail::TokenText Tokenizer::text_of(Index id) const {
  if (kind_ == TokenizerKind::bytes && id >= 0 && id < 256) return {std::string(1, static_cast<char>(id)), false};
  if (const std::string* const token = vocabulary().token(id)) {
    // A vocab.json of byte pairs has nothing to encode with, but its tokens can be read.
    std::optional<std::string> bytes = kind_ == TokenizerKind::none ? detail::ByteAlphabet::instance().bytes(*token) : std::nullopt;
    return bytes ? detail::TokenText{std::move(*bytes), false} : detail::TokenText{*token, true};
  }
  std::optional<std::string> bytes = codec_ ? codec_->bytes(id) : std::nullopt;
  if (!bytes || bytes->empty()) return {detail::message(id), true};
  return {std::move(*bytes), codec_->special(id)};
}

IMPLICIT_ATTENTION_IO_BODY std::string Tokenizer::pieces_hint(const std::vector<Index>& ids) const {
  std::string hint;
  for (const Index id : ids) {
    if (hint.size() > 120) return hint + ", ...";
    hint += detail::message(hint.empty() ? ", but these: " : ", ", "\"", label(id), "\" (", id, ")");
  }
  return hint;
}

IMPLICIT_ATTENTION_IO_BODY Index Tokenizer::checked_byte(unsigned char byte) const {
  if (size_ > 0 && byte >= size_)
    detail::raise(ErrorKind::value, where_, ": byte ", static_cast<int>(byte), " is beyond the model's vocabulary of ", size_);
  return byte;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
