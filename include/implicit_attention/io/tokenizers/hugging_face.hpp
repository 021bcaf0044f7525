// Reading tokenizer.json, the file that Hugging Face's tokenizers library writes.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/tokenizers/pipeline.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// The model of tokenizer.json; files of older versions leave out its type where it can be told.
[[nodiscard]] inline TokenModel read_token_model(const Json& document, const std::string& where) {
  JsonFields fields(document, where);
  std::string type = fields.text("type", "");
  if (type.empty()) type = fields.find("merges") != nullptr ? "BPE" : fields.find("unk_id") != nullptr ? "Unigram" : "";
  if (type == "BPE") return BytePairModel::read(document, where);
  if (type == "Unigram") return UnigramModel::read(document, where);
  if (type == "WordLevel") return WordLevelModel::read(document, where);
  if (type == "WordPiece") return WordPieceModel::read(document, where);
  unknown_type(fields, type, "BPE, Unigram, WordLevel, WordPiece");
}

/// Fails (file) on anything in it that is not read here, naming the key. `truncation` and `padding` are ignored: they are about lengths of
/// a batch in training.
[[nodiscard]] std::shared_ptr<const TextCodec> read_tokenizer_json(const Json& document, const std::string& where);

#if IMPLICIT_ATTENTION_IO_BODIES
IMPLICIT_ATTENTION_IO_BODY std::shared_ptr<const TextCodec> read_tokenizer_json(const Json& document, const std::string& where) {
  JsonFields fields(document, where);
  for (const std::string_view key : {"version", "truncation", "padding"}) fields.ignore(key);
  const Json* const added = fields.find("added_tokens");
  const Json* const normalizer = fields.find("normalizer");
  const Json* const pre_tokenizer = fields.find("pre_tokenizer");
  const Json* const post_processor = fields.find("post_processor");
  const Json* const decoder = fields.find("decoder");
  const Json& model = fields.object("model");
  fields.finish();
  return std::make_shared<const Pipeline>(
      Pipeline::Parts{where, AddedTokens::read(added, where + ": added_tokens"), Normalizer::read(normalizer, where + ": normalizer"),
                      PreTokenizer::read(pre_tokenizer, where + ": pre_tokenizer"), read_token_model(model, where + ": model"),
                      PostProcessor::read(post_processor, where + ": post_processor"), Decoder::read(decoder, where + ": decoder")});
}
#endif

[[nodiscard]] inline std::shared_ptr<const TextCodec> read_tokenizer_json(const std::filesystem::path& path) {
  const JsonDocument document = read_json_object(path);
  return read_tokenizer_json(*document, path_text(path));
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
