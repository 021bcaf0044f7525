// Folders laid out as people download them, with small random models: a sentence is typed, and explained in words.
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <examples/programs.hpp>
#include <io/archives.hpp>
#include <io/gguf_converter.hpp>
#include <support/shared_data.hpp>
#include <support/small_models.hpp>

#include <nlohmann/json.hpp>

#include <implicit_attention/io/safetensors_writer.hpp>

namespace {

using namespace implicit_attention;
using namespace example_test;
using nlohmann::json;

using Weights = test_support::Tensors<float>;

/// A small model of a kind, whose vocabulary has as many tokens as `rows`.
Weights random_weights(const std::string& kind, Index rows = 50) {
  for (test_support::SmallModel& model : test_support::small_models()) {
    if (model.name != kind) continue;
    for (test_support::SmallModel::Tensor& tensor : model.tensors)
      if (tensor.shape.front() == 50) tensor.shape.front() = rows;
    return model.checkpoint<float>(7);
  }
  FAIL("no model " << kind);
  return {};
}
void rename_below(Weights& weights, const std::string& from, const std::string& to) {
  for (const std::string& name : weights.names())
    if (name.rfind(from, 0) == 0) weights.rename(name, to + name.substr(from.size()));
}
std::string bytes_of_tensor(const Weights::Tensor& tensor) {
  const Matrix<float> numbers = tensor.numbers.matrix();
  std::string bytes(static_cast<std::size_t>(numbers.size()) * sizeof(float), '\0');
  std::memcpy(bytes.data(), numbers.data(), bytes.size());
  return bytes;
}

void write_safetensors_model(const fs::path& path, const Weights& weights) {
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : weights.tensors) tensors.push_back({name, ArrayToWrite(tensor.numbers.matrix().data(), tensor.shape)});
  write_safetensors(path, tensors, {{"format", "pt"}});
}
void write_shards(const fs::path& folder, const Weights& weights) {
  Weights halves[2];
  json map;
  std::size_t place = 0;
  for (const auto& [name, tensor] : weights.tensors) {
    const std::size_t half = place++ * 2 / weights.tensors.size();
    halves[half].tensors[name] = tensor;
    map[name] = "model-0000" + std::to_string(half + 1) + "-of-00002.safetensors";
  }
  for (std::size_t half = 0; half < 2; ++half)
    write_safetensors_model(folder / ("model-0000" + std::to_string(half + 1) + "-of-00002.safetensors"), halves[half]);
  io_test::write_bytes(folder / "model.safetensors.index.json", json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
}
/// As torch.save writes a state dictionary; the head shares the embedding's storage where `tied` names it.
void write_torch(const fs::path& path, const Weights& weights, const std::string& tied = "", const std::string& embedding = "") {
  namespace p = io_test::pickled;
  std::vector<std::pair<std::string, std::string>> items, storages;
  for (const auto& [name, tensor] : weights.tensors) {
    std::vector<std::int64_t> strides(tensor.shape.size(), 1);
    for (std::size_t axis = tensor.shape.size() - 1; axis-- > 0;) strides[axis] = strides[axis + 1] * tensor.shape[axis + 1];
    const std::string key = std::to_string(storages.size());
    storages.emplace_back(key, bytes_of_tensor(tensor));
    const std::vector<std::int64_t> shape(tensor.shape.begin(), tensor.shape.end());
    const std::string pickled = p::tensor(p::storage("FloatStorage", key, tensor.numbers.size()), 0, shape, strides);
    items.emplace_back(name, pickled);
    if (name == embedding) items.emplace_back(tied, pickled);
  }
  io_test::write_bytes(path, io_test::torch_bytes(p::dictionary(items), storages));
}

/// Byte pairs of the sentence's words, as Qwen's and Falcon's tokenizer.json have them; `space` is how a space is written.
json byte_pairs(const std::string& space, json vocabulary = json::object()) {
  const auto add = [&](const std::string& token) {
    if (!vocabulary.contains(token)) vocabulary[token] = vocabulary.size();
  };
  json merges = json::array();
  for (const char letter : std::string("thedogsa")) add(std::string(1, letter));
  add(space);
  for (const std::string word : {"the", " the", " dog", " sees"}) {
    std::string whole;
    for (const char letter : word) {
      const std::string symbol = letter == ' ' ? space : std::string(1, letter);
      if (!whole.empty() && !vocabulary.contains(whole + symbol)) {
        add(whole + symbol);
        merges.push_back(whole + " " + symbol);
      }
      whole += symbol;
    }
  }
  return {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}};
}
constexpr const char* byte_space = "\u0120";
json qwen_tokenizer() {
  const json byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const json split{{"type", "Split"},
                   {"pattern",
                    {{"Regex",
                      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|"
                      "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}},
                   {"behavior", "Isolated"},
                   {"invert", false}};
  return {{"version", "1.0"},
          {"added_tokens", {{{"id", 45}, {"content", "<|im_end|>"}, {"special", true}}}},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
          {"decoder", byte_level},
          {"model", byte_pairs(byte_space)}};
}
json gemma_tokenizer() {
  json model = byte_pairs("\u2581", {{"<pad>", 0}, {"<eos>", 1}, {"<bos>", 2}, {"<unk>", 3}});
  model.update({{"unk_token", "<unk>"}, {"byte_fallback", true}, {"fuse_unk", true}});
  const json piece{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, bos{{"SpecialToken", {{"id", "<bos>"}, {"type_id", 0}}}};
  return {
      {"version", "1.0"},
      {"added_tokens", {{{"id", 2}, {"content", "<bos>"}, {"special", true}}}},
      {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {bos, piece}},
        {"pair", {bos, piece}},
        {"special_tokens", {{"<bos>", {{"id", "<bos>"}, {"ids", {2}}, {"tokens", {"<bos>"}}}}}}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}},
      {"model", model}};
}

/// A sentence is typed, and words come back as words.
void check_explained(const TemporaryFolder& folder, const fs::path& model, const std::vector<std::string>& more = {}) {
  const Outcome outcome =
      run_well(folder, "explain", with({"--model", model.string(), "--text", "the dog sees the dog", "--method", "relevance,raw"}, more),
               {"LC_ALL=C.UTF-8"});
  INFO(outcome.out);
  CHECK(without_progress(outcome.err).empty());
  CHECK_THAT(outcome.out, contains_text("After \" dog\""));
  for (const char* const word : {" the ", " dog ", " sees "}) CHECK_THAT(outcome.out, contains_text(word));
  for (const char* const mark : {byte_space, "\u2581", "nan"}) CHECK(outcome.out.find(mark) == std::string::npos);
}
/// A true tokenizer's file; nothing, said once, where it is not on this machine.
std::optional<fs::path> published(const std::string& name) {
  const auto path = test_support::shared_data("realdata/vocab/" + name);
  if (!path) WARN(test_support::shared_data_missing("realdata"));
  return path;
}

constexpr Index neox_rows = 50280;

}  // namespace

TEST_CASE("a folder laid out as state-spaces/mamba-130m-hf", "[examples]") {
  const auto tokenizer = published("20B_tokenizer.json");
  if (!tokenizer) return;
  const TemporaryFolder folder;
  const fs::path model = folder / "mamba-130m-hf";
  fs::create_directories(model);
  Weights weights = random_weights("mamba", neox_rows);
  weights.tensors.erase("lm_head.weight");
  write_safetensors_model(model / "model.safetensors", weights);
  fs::copy(*tokenizer, model / "tokenizer.json");
  io_test::write_bytes(model / "tokenizer_config.json", R"({"add_prefix_space":false,"tokenizer_class":"GPTNeoXTokenizer"})");
  io_test::write_bytes(model / "generation_config.json", R"({"bos_token_id":0,"eos_token_id":0})");
  io_test::write_bytes(
      model / "config.json",
      R"({"architectures":["MambaForCausalLM"],"bos_token_id":0,"conv_kernel":4,"d_inner":64,"d_model":32,"eos_token_id":0,"expand":2,
      "fused_add_norm":true,"hidden_act":"silu","hidden_size":32,"initializer_range":0.1,"intermediate_size":64,"layer_norm_epsilon":1e-05,
      "model_type":"mamba","n_layer":2,"num_hidden_layers":2,"pad_token_id":0,"pad_vocab_size_multiple":8,"rescale_prenorm_residual":false,
      "residual_in_fp32":true,"rms_norm":true,"ssm_cfg":{},"state_size":8,"time_step_floor":0.0001,"time_step_init_scheme":"random",
      "time_step_max":0.1,"time_step_min":0.001,"time_step_rank":2,"time_step_scale":1.0,"torch_dtype":"float32",
      "transformers_version":"4.39.0.dev0","use_bias":false,"use_cache":true,"use_conv_bias":true,"vocab_size":50280})");
  check_explained(folder, model);
}

TEST_CASE("a folder laid out as state-spaces/mamba-130m, which has no tokenizer", "[examples]") {
  const auto tokenizer = published("20B_tokenizer.json");
  if (!tokenizer) return;
  const TemporaryFolder folder;
  const fs::path model = folder / "mamba-130m";
  fs::create_directories(model);
  Weights weights = random_weights("mamba", neox_rows);
  weights.tensors.erase("lm_head.weight");
  weights.rename("backbone.embeddings.weight", "backbone.embedding.weight");
  write_torch(model / "pytorch_model.bin", weights, "lm_head.weight", "backbone.embedding.weight");
  io_test::write_bytes(model / "config.json",
                       R"({"d_model":32,"n_layer":2,"vocab_size":50277,"ssm_cfg":{},"rms_norm":true,"residual_in_fp32":true,
      "fused_add_norm":true,"pad_vocab_size_multiple":8})");
  check_explained(folder, model, {"--tokenizer", tokenizer->string()});
  const Outcome without = run(folder, "explain", {"--model", model.string(), "--text", "the dog"});
  CHECK(without.status == 2);
  CHECK_THAT(without.err, contains_text("name a tokenizer (--tokens, --tokenizer)"));
  // Another model's tokenizer, whose ids these small ones are, is told, and the answer stands.
  Weights small = random_weights("mamba", 20000);
  small.tensors.erase("lm_head.weight");
  write_torch(model / "pytorch_model.bin", small, "", "");
  io_test::write_bytes(model / "config.json", R"({"model_type":"mamba","vocab_size":20000,"hidden_size":32,"num_hidden_layers":2})");
  const Outcome foreign = run_well(folder, "explain", {"--model", model.string(), "--text", "the dog", "--tokenizer", tokenizer->string()});
  CHECK_THAT(foreign.err,
             contains_text(model.string() + ": the tokenizer has ids up to 50276, the model 0 to 19999: is it another model's?"));
  io_test::write_bytes(model / "config.json", R"({"d_model":32,"n_layer":2,"vocab_size":50277,"ssm_cfg":{},"pad_vocab_size_multiple":8})");
  // A head of its own is told, not dropped: the authors' code ties the two.
  Weights untied = weights;
  untied.tensors["lm_head.weight"] = random_weights("rwkv", neox_rows).tensors.at("head.weight");
  write_torch(model / "pytorch_model.bin", untied);
  const Outcome other = run(folder, "explain", {"--model", model.string(), "--tokens", "1,2"});
  CHECK(other.status == 2);
  CHECK_THAT(other.err, contains_text("tensor lm_head.weight is another than the embedding"));
}

TEST_CASE("a folder laid out as RWKV/rwkv-4-169m-pile", "[examples]") {
  const auto tokenizer = published("20B_tokenizer.json");
  if (!tokenizer) return;
  const TemporaryFolder folder;
  const fs::path model = folder / "rwkv-4-169m-pile";
  fs::create_directories(model);
  write_torch(model / "pytorch_model.bin", random_weights("rwkv", 50277));
  fs::copy(*tokenizer, model / "tokenizer.json");
  io_test::write_bytes(model / "special_tokens_map.json", R"({"bos_token":"<|endoftext|>","eos_token":"<|endoftext|>"})");
  io_test::write_bytes(
      model / "config.json",
      R"({"architectures":["RwkvForCausalLM"],"attention_hidden_size":32,"bos_token_id":0,"context_length":1024,"eos_token_id":0,
      "hidden_size":32,"intermediate_size":128,"layer_norm_epsilon":1e-05,"model_type":"rwkv","num_hidden_layers":2,"rescale_every":6,
      "tie_word_embeddings":false,"transformers_version":"4.30.0.dev0","use_cache":true,"vocab_size":50277})");
  check_explained(folder, model);
}

TEST_CASE("a folder laid out as google/recurrentgemma-2b", "[examples]") {
  const TemporaryFolder folder;
  const fs::path model = folder / "recurrentgemma-2b";
  fs::create_directories(model);
  Weights weights = random_weights("recurrent_gemma");
  weights.tensors.erase("lm_head.weight");
  write_shards(model, weights);
  io_test::write_bytes(model / "tokenizer.json", gemma_tokenizer().dump());
  io_test::write_bytes(
      model / "config.json",
      R"({"_block_types":["recurrent","recurrent","attention"],"architectures":["RecurrentGemmaForCausalLM"],"attention_bias":false,
      "attention_dropout":0.0,"attention_window_size":2048,"block_types":["recurrent","recurrent","attention"],"bos_token_id":2,
      "conv1d_width":4,"embeddings_scale_by_sqrt_dim":true,"eos_token_id":1,"final_w_init_variance_scale":0.07692307692307693,"head_dim":8,
      "hidden_activation":"gelu_pytorch_tanh","hidden_size":32,"intermediate_size":96,"logits_soft_cap":30.0,"lru_width":32,
      "model_type":"recurrent_gemma","num_attention_heads":4,"num_hidden_layers":3,"num_key_value_heads":1,"pad_token_id":0,
      "partial_rotary_factor":0.5,"rms_norm_eps":1e-06,"rope_theta":10000.0,"torch_dtype":"bfloat16",
      "transformers_version":"4.40.0.dev0","use_cache":true,"vocab_size":50,"w_init_variance_scale":0.01})");
  check_explained(folder, model);
}

TEST_CASE("a folder laid out as tiiuae/falcon-mamba-7b", "[examples]") {
  const TemporaryFolder folder;
  const fs::path model = folder / "falcon-mamba-7b";
  fs::create_directories(model);
  write_shards(model, random_weights("falcon_mamba"));
  io_test::write_bytes(model / "tokenizer.json", qwen_tokenizer().dump());
  for (const test_support::SmallModel& kind : test_support::small_models())
    if (kind.name == "falcon_mamba") io_test::write_bytes(model / "config.json", kind.config);
  check_explained(folder, model);
}

TEST_CASE("a folder laid out as Qwen/Qwen3.5-0.8B, and a GGUF file of it", "[examples]") {
  const TemporaryFolder folder;
  json text;
  for (const test_support::SmallModel& kind : test_support::small_models())
    if (kind.name == "qwen3_5") text = json::parse(kind.config);
  text.update({{"attention_bias", false}, {"attn_output_gate", true}, {"full_attention_interval", 2}, {"hidden_act", "silu"}});
  SECTION("the folder") {
    const fs::path model = folder / "Qwen3.5-0.8B";
    fs::create_directories(model);
    Weights weights = random_weights("qwen3_5");
    rename_below(weights, "model.", "model.language_model.");
    weights.set_zero("model.visual.blocks.0.attn.qkv.weight", {4, 2});
    weights.set_zero("mtp.fc.weight", {2, 2});
    write_shards(model, weights);
    io_test::write_bytes(model / "tokenizer.json", qwen_tokenizer().dump());
    io_test::write_bytes(model / "config.json", json{{"architectures", {"Qwen3_5ForConditionalGeneration"}},
                                                     {"model_type", "qwen3_5"},
                                                     {"image_token_id", 248056},
                                                     {"text_config", text},
                                                     {"tie_word_embeddings", true},
                                                     {"transformers_version", "4.57.0.dev0"},
                                                     {"vision_config", {{"depth", 12}, {"model_type", "qwen3_5"}}}}
                                                    .dump());
    check_explained(folder, model);
  }
  SECTION("GGUF, with its vocabulary") {
    io_test::GgufConverter::Weights weights;
    for (const auto& [name, tensor] : random_weights("qwen3_5").tensors) {
      io_test::T t{{tensor.shape.begin(), tensor.shape.end()}, {}};
      for (Index i = 0; i < tensor.numbers.size(); ++i)
        t.data.push_back(tensor.numbers(i / tensor.numbers.cols(), i % tensor.numbers.cols()));
      weights[name] = std::move(t);
    }
    io_test::GgufConverter converter("qwen35", weights, text);
    const json pairs = byte_pairs(byte_space);
    std::vector<std::string> tokens(50), merges;
    for (std::size_t id = 0; id < tokens.size(); ++id) tokens[id] = "[PAD" + std::to_string(id) + "]";
    for (const auto& [token, id] : pairs["vocab"].items()) tokens[id.get<std::size_t>()] = token;
    for (const json& merge : pairs["merges"]) merges.push_back(merge.get<std::string>());
    converter.set_text("tokenizer.ggml.model", "gpt2");
    converter.set_text("tokenizer.ggml.pre", "qwen35");
    converter.set_texts("tokenizer.ggml.tokens", tokens);
    converter.set_texts("tokenizer.ggml.merges", merges);
    io_test::write_bytes(folder / "Qwen3.5-0.8B-F32.gguf", converter.file());
    check_explained(folder, folder / "Qwen3.5-0.8B-F32.gguf");
  }
}

TEST_CASE("BlinkDL's .pth beside RWKV's vocabulary", "[examples]") {
  const auto vocabulary = published("rwkv_vocab_v20230424.txt");
  if (!vocabulary) return;
  const TemporaryFolder folder;
  const fs::path model = folder / "rwkv7-g1";
  fs::create_directories(model);
  const Weights weights = random_weights("rwkv7", 65536);
  write_torch(model / "rwkv7-g1-0.1b-20250307-ctx4096.pth", weights);
  fs::copy(*vocabulary, model / "rwkv_vocab_v20230424.txt");
  check_explained(folder, model);
  check_explained(folder, model / "rwkv7-g1-0.1b-20250307-ctx4096.pth");
}
