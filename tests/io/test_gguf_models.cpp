// Every family that GGUF files come of: the golden models, made into GGUF as the public converter makes them, give the golden logits.
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>
#include <support/tensors.hpp>

#include <implicit_attention/io/gguf_model.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/load.hpp>

#include "gguf_converter.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

/// A golden model as its public checkpoint has it.
struct Original {
  explicit Original(const std::filesystem::path& path) : file(path) {
    for (const auto& [name, info] : file.tensors()) {
      if (name.rfind("weight.", 0) != 0) continue;
      const Array<float> numbers = file.read<float>(name);
      T t;
      for (const Index size : info.shape) t.shape.push_back(static_cast<std::uint64_t>(size));
      for (Index i = 0; i < numbers.size(); ++i) t.data.push_back(numbers(i / numbers.cols(), i % numbers.cols()));
      weights[name.substr(7)] = std::move(t);
    }
    const auto& said = file.metadata();
    std::string text = said.at(said.count("config") != 0 ? "config" : "case");
    for (std::size_t at = text.find("Infinity"); at != std::string::npos; at = text.find("Infinity")) text.replace(at, 8, "1e300");
    config = nlohmann::json::parse(text);
    for (const std::int64_t id : file.read_integers("input.input_ids")) ids.push_back(static_cast<Index>(id));
    logits = file.read<double>("expected.logits").matrix();
  }
  SafetensorsFile file;
  GgufConverter::Weights weights;
  nlohmann::json config;
  std::vector<Index> ids;
  Matrix<double> logits;
};

LanguageModel<double> opened(const std::string& bytes) {
  const TemporaryFolder folder;
  write_bytes(folder / "model.gguf", bytes);
  const Checkpoint<double> checkpoint = open_checkpoint<double>(folder.path());
  return load_language_model<double>(*checkpoint.source, checkpoint.configuration);
}

/// The largest difference of logits from golden ones, relative to the largest. Rates, 1 + w and multiplied weights are rounded to float.
double deviation(const Original& original, const GgufConverter& converter) {
  const Matrix<double> logits = opened(converter.file()).forward(original.ids, test_support::every_logit()).logits;
  if (logits.rows() != original.logits.rows() || logits.cols() != original.logits.cols()) return 1e300;
  return (logits - original.logits).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() / original.logits.cwiseAbs().maxCoeff();
}
void check(const Original& original, const GgufConverter& converter) {
  constexpr double rounding = 2e-6;
  try {
    CHECK(deviation(original, converter) < rounding);
  } catch (const Error& failed) {
    FAIL_CHECK(failed.what());
  }
}
/// The error that reading the file ends in; empty if it ends well.
std::string error(const GgufConverter& converter) {
  const auto caught = error_of([&] { static_cast<void>(opened(converter.file())); });
  return caught ? caught->message : "";
}
/// Nothing where the golden files are not on this machine.
std::optional<Original> original_of(std::string_view golden) {
  const std::string name = "golden/" + std::string(golden) + ".safetensors";
  const auto path = test_support::shared_data(name);
  if (path) return std::optional<Original>(std::in_place, *path);
  WARN(test_support::shared_data_missing(name));
  return std::nullopt;
}

struct Case {
  std::string_view golden, architecture;
  bool fuse = false;
};
constexpr Case cases[] = {
    {"lm_mamba2_seed00_layers2_hidden32_L16", "mamba2"},
    {"lm_falcon_mamba_seed00_L16", "mamba"},
    {"lm_falcon_mamba_seed01_bias_tied_smallx_L12", "mamba"},
    {"lm_falcon_h1_seed00_nonorm_L16", "falcon-h1"},
    {"lm_bamba_seed00_L16", "granitehybrid"},
    {"lm_granitemoehybrid_seed00_dense_nope_tied_L16", "granitehybrid"},
    {"lm_granitemoehybrid_seed01_moe_L12", "granitehybrid"},
    {"lm_granitemoehybrid_seed01_moe_L12", "granitehybrid", true},
    {"lm_nemotron_h_seed00_dense_groups2_L16", "nemotron_h"},
    {"lm_nemotron_h_seed02_moe_L16", "nemotron_h_moe"},
    {"lm_nemotron_h_seed01_bias_smalldt_L12", "nemotron_h"},
    {"lm_lfm2_seed00_released_keys_hidden32_L16", "lfm2"},
    {"lm_lfm2_seed01_bias_untied_conv4_ropeparams_L2", "lfm2"},
    {"lm_jamba_seed00_moe_L16", "jamba"},
    {"lm_jamba_seed01_dense_tied_L12", "jamba"},
    {"lm_kimi_linear_seed00_released_hidden24_L16", "kimi-linear"},
    {"lm_kimi_linear_seed00_released_hidden24_L16", "kimi-linear", true},
    {"lm_qwen35_seed00_hybrid4_hidden32_L16", "qwen35"},
    {"lm_qwen35_moe_seed00_released_text_config_L16", "qwen35moe"},
    {"lm_qwen35_moe_seed00_released_text_config_L16", "qwen35moe", true},
    {"lm_qwen3next_moe_seed03_released_fused_L12", "qwen3next"},
    {"lm_qwen3next_moe_seed03_released_fused_L12", "qwen3next", true},
    {"lm_rwkv6_seed00_layers2_hidden32_L16", "rwkv6"},
    {"lm_rwkv6_seed04_layers2_hidden16_L2", "rwkv6"},
    {"lm_rwkv7_seed01_fla_names_layers3_hidden32_L12", "rwkv7"},
};

}  // namespace

TEST_CASE("GGUF: golden models of every family give the golden logits as the public converter writes them", "[io][golden]") {
  for (const Case& each_case : cases) {
    INFO(each_case.golden << " as " << each_case.architecture
                          << (each_case.fuse ? ", gate and up projections of experts in one tensor" : ""));
    if (const auto original = original_of(each_case.golden))
      check(*original, GgufConverter(std::string(each_case.architecture), original->weights, original->config, each_case.fuse));
  }
}

TEST_CASE("GGUF: tensors in blocks give the logits of what the blocks mean, whatever became of their rows and columns", "[io][golden]") {
  using Stored = GgufConverter::Stored;
  int in_blocks = 0, found = 0;
  for (const Case& each_case : cases) {
    INFO(each_case.golden << " as " << each_case.architecture
                          << (each_case.fuse ? ", gate and up projections of experts in one tensor" : ""));
    const auto original = original_of(each_case.golden);
    if (!original) continue;
    ++found;
    if (GgufConverter(std::string(each_case.architecture), original->weights, original->config, each_case.fuse, Stored::blocks)
            .in_blocks() == 0)
      continue;  // no matrix of it has rows of whole blocks
    ++in_blocks;
    Matrix<double> logits[2];
    for (const Stored stored : {Stored::blocks, Stored::widened_blocks}) {
      const GgufConverter converter(std::string(each_case.architecture), original->weights, original->config, each_case.fuse, stored);
      logits[stored == Stored::blocks] = opened(converter.file()).forward(original->ids, test_support::every_logit()).logits;
    }
    CHECK((logits[0] - logits[1]).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() <= 1e-12 * logits[1].cwiseAbs().maxCoeff());
    CHECK((logits[0] - original->logits).cwiseAbs().maxCoeff() > 1e-6 * original->logits.cwiseAbs().maxCoeff());
  }
  CHECK(in_blocks * 3 >= found * 2);
}

TEST_CASE("GGUF: layers that attend are listed, or follow an interval", "[io][golden]") {
  for (const auto& [golden, architecture] : {std::pair("lm_qwen35_seed01_tied_L3_lt_conv", "qwen35"),
                                             std::pair("lm_qwen3next_seed02_fused_hybrid4_hidden24_L20", "qwen3next")}) {
    INFO(golden);
    const auto original = original_of(golden);
    if (!original) continue;
    GgufConverter converter(architecture, original->weights, original->config);
    // Against the interval of four that the file has, too.
    CHECK_THAT(error(converter), contains_text("key layer_types"));
    std::vector<bool> recurrent;
    for (const auto& kind : original->config["layer_types"]) recurrent.push_back(kind == "linear_attention");
    converter.truths("attention.recurrent_layers", recurrent);
    check(*original, converter);
    converter.truths("attention.recurrent_layers", {true});
    CHECK_THAT(error(converter), contains_text("attention.recurrent_layers is a list of 1, expected one number a layer"));
  }
}

TEST_CASE("GGUF: Ollama's files of Qwen3.5, Qwen3-Next, Nemotron-H and LFM2", "[io][golden]") {
  if (const auto original = original_of("lm_qwen35_seed00_hybrid4_hidden32_L16")) {
    GgufConverter converter("qwen35", original->weights, original->config);
    converter.rename(".ssm_dt.bias", ".ssm_dt");
    converter.sizes("attention.head_count_kv", {0, 0, 0, 1});
    for (const char* key : {"rope.dimension_sections", "mrope_sections", "rope.mrope_section"}) converter.sizes(key, {11, 11, 10});
    converter.truth("rope.mrope_interleaved", true);
    converter.truth("ssm.v_head_reordered", true);
    converter.sizes("vision.deepstack_visual_indexes", {});
    converter.size("vision_start_token_id", 3);
    converter.put("v.blk.0.attn_q.weight", {{2, 2}, std::vector<float>(4)});
    converter.put("mtp.fc.weight", {{2, 2}, std::vector<float>(4)});
    check(*original, converter);
    converter.truth("ssm.v_head_reordered", false);
    CHECK(deviation(*original, converter) > 1e-3);
  }
  if (const auto original = original_of("lm_qwen3next_moe_seed03_released_fused_L12")) {
    GgufConverter converter("qwen3next", original->weights, original->config);
    converter.change_architecture("qwen35moe");
    converter.truth("norm_top_k_prob", true);
    check(*original, converter);
    converter.truth("ssm.v_head_reordered", true);
    CHECK_THAT(error(converter), contains_text("qwen35moe.ssm.v_head_reordered is true, expected false: blk.0.ssm_ba.weight has its rows"));
    converter.truth("ssm.v_head_reordered", false);
    check(*original, converter);
    converter.truth("norm_top_k_prob", false);
    CHECK_THAT(error(converter), contains_text("qwen35moe.norm_top_k_prob is false, expected true"));
  }
  if (const auto original = original_of("lm_lfm2_seed00_released_keys_hidden32_L16")) {
    GgufConverter converter("lfm2", original->weights, original->config);
    converter.rename("token_embd_norm", "output_norm");
    converter.size("feed_forward_length", 64);  // not adjusted
    check(*original, converter);
  }
  if (const auto original = original_of("lm_nemotron_h_seed02_moe_L16")) {
    // A latent space that changes nothing: the experts' input times the unit matrix, and back.
    T unit{{32, 32}, std::vector<float>(32 * 32)};
    for (std::size_t i = 0; i < 32; ++i) unit.data[33 * i] = 1;
    GgufConverter converter("nemotron_h_moe", original->weights, original->config);
    for (const char* layer : {"blk.1.", "blk.4."})
      for (const char* name : {"ffn_latent_in.weight", "ffn_latent_out.weight"}) converter.put(std::string(layer) + name, unit);
    converter.real("attention.layer_norm_epsilon", 1e-5);
    check(*original, converter);
  }
}

TEST_CASE("GGUF: how experts of Kimi Linear are weighed stands in the file", "[io][golden]") {
  const auto original = original_of("lm_kimi_linear_seed01_qlora_norenorm_shared2_groups_L6");
  if (!original) return;
  GgufConverter converter("kimi-linear", original->weights, original->config);
  converter.size("expert_group_count", 4);
  converter.size("expert_group_used_count", 2);
  CHECK(deviation(*original, converter) > 1e-3);  // the weights are divided by their sum unless the file says otherwise
  converter.truth("expert_weights_norm", false);
  check(*original, converter);
  converter.size("expert_gating_func", 1);
  CHECK_THAT(error(converter), contains_text("kimi-linear.expert_gating_func is 1, expected 2 (sigmoid)"));
}

TEST_CASE("GGUF: Falcon-H1 with the norm of its mixer", "[io][golden]") {
  // The converter takes no biases, so the golden model is one of a golden file without them; it is read under its public names.
  auto original = original_of("lm_falcon_h1_seed01_norm_groups2_bias_L12");
  if (!original) return;
  const auto is_bias = [](const auto& named) { return named.first.ends_with("_proj.bias"); };
  test_support::Tensors<double> tensors(SafetensorsSource<double>(original->file.where()), "weight.");
  for (auto at = original->weights.begin(); at != original->weights.end();) {
    const bool bias = is_bias(*at);
    if (bias) tensors.tensors.erase(at->first);
    at = bias ? original->weights.erase(at) : std::next(at);
  }
  Configuration configuration = read_metadata_configuration(original->file, "config");
  for (const char* key : {"attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias"}) configuration.set(key, false);
  original->logits = load_language_model<double>(tensors, configuration).forward(original->ids, test_support::every_logit()).logits;
  check(*original, GgufConverter("falcon-h1", original->weights, original->config));
}

TEST_CASE("GGUF: a key that may change the model and is not understood is named", "[io]") {
  using Change = void (*)(GgufConverter&);
  struct Bad {
    std::string_view golden, architecture;
    Change change;
    std::string_view message;
  };
  const std::string_view qwen = "lm_qwen35_seed00_hybrid4_hidden32_L16", falcon = "lm_falcon_h1_seed00_nonorm_L16",
                         lfm2 = "lm_lfm2_seed00_released_keys_hidden32_L16", mamba = "lm_mamba2_seed00_layers2_hidden32_L16",
                         jamba = "lm_jamba_seed00_moe_L16", bamba = "lm_bamba_seed00_L16", granite = "lm_granitemoehybrid_seed01_moe_L12",
                         rwkv = "lm_rwkv6_seed00_layers2_hidden32_L16";
  using C = GgufConverter;
  const std::vector<Bad> all{
      {qwen, "qwen35", [](C& c) { c.text("rope.scaling.type", "yarn"); }, "key qwen35.rope.scaling.type (yarn) is not understood"},
      {qwen, "qwen35", [](C& c) { c.real("rope.scaling.factor", 4); }, "key qwen35.rope.scaling.factor (4) is not understood"},
      {qwen, "qwen35", [](C& c) { c.size("attention.sliding_window", 8); }, "key qwen35.attention.sliding_window (8) is not understood"},
      {qwen, "qwen35", [](C& c) { c.real("attention.scale", 0.5); }, "key qwen35.attention.scale (0.5) is not understood"},
      {qwen, "qwen35", [](C& c) { c.real("final_logit_softcapping", 30); }, "key qwen35.final_logit_softcapping (30) is not understood"},
      {qwen, "qwen35", [](C& c) { c.truth("attention.causal", false); }, "key qwen35.attention.causal is false, expected true"},
      {qwen, "qwen35", [](C& c) { c.size("attention.value_length", 8); },
       "attention.value_length is 8, expected 16, as attention.key_length"},
      {qwen, "qwen35", [](C& c) { c.size("pooling_type", 1); }, "key qwen35.pooling_type (1) is not understood"},
      {qwen, "qwen35",
       [](C& c) {
         c.sizes("attention.head_count", {0, 0, 1, 2});
       },
       "attention.head_count is 1 for one layer and 2 for another"},
      {qwen, "qwen35", [](C& c) { c.set_text("general.type", "adapter"); }, "general.type is adapter, expected model"},
      {qwen, "qwen35",
       [](C& c) {
         c.put("blk.4.attn_norm.weight", {{32}, std::vector<float>(32)});
       },
       "1 tensor is not used"},
      {qwen, "qwen35", [](C& c) { c.size("block_count", 3); }, "tensors are not used by Qwen3_5ForCausalLM (blk.3."},
      {qwen, "qwen35", [](C& c) { c.size("block_count", 100000); },
       "qwen35.block_count makes 100000 layers, expected at most 1000: the file has "},
      {qwen, "qwen35", [](C& c) { c.set_text("general.architecture", "clip"); },
       "general.architecture is clip, expected one of rwkv6, rwkv7, mamba"},
      {falcon, "falcon-h1", [](C& c) { c.size("rope.dimension_count", 4); }, "rope.dimension_count is 4, expected the width of a head"},
      {falcon, "falcon-h1", [](C& c) { c.real("residual_scale", 0.5); }, "key falcon-h1.residual_scale (0.5) is not understood"},
      {lfm2, "lfm2", [](C& c) { c.size("embedding_length_out", 8); }, "key lfm2.embedding_length_out (8) is not understood"},
      {mamba, "mamba2", [](C& c) { c.truth("ssm.dt_b_c_rms", true); }, "key mamba2.ssm.dt_b_c_rms (true) is not understood"},
      {jamba, "jamba", [](C& c) { c.truth("expert_weights_norm", true); }, "jamba.expert_weights_norm is true, expected false"},
      {jamba, "jamba", [](C& c) { c.size("expert_gating_func", 2); }, "jamba.expert_gating_func is 2, expected 1 (softmax)"},
      {jamba, "jamba", [](C& c) { c.real("expert_weights_scale", 2); }, "key jamba.expert_weights_scale (2) is not understood"},
      {bamba, "granitehybrid", [](C& c) { c.truth("rope.scaling.finetuned", false); }, "rope.scaling.finetuned is false"},
      {jamba, "jamba", [](C& c) { c.size("expert_count", 3); }, "(3, rows, columns), as expert_count is 3"},
      {jamba, "jamba", [](C& c) { c.size("expert_count", 5000); }, "(5000, rows, columns), as expert_count is 5000"},
      {granite, "granitehybrid",
       [](C& c) {
         c.erase("rope.scaling.finetuned");
         c.text("rope.scaling.type", "yarn");
       },
       "key granitehybrid.rope.scaling.type (yarn) is not understood"},
      {granite, "granitehybrid",
       [](C& c) {
         c.erase("rope.scaling.finetuned");
         c.size("rope.dimension_count", 2);
       },
       "rope.dimension_count is 2, expected the width of a head"},
      {qwen, "qwen35", [](C& c) { c.size("rope.dimension_count", 24); }, "rope.dimension_count is 24, expected 0 to 16"},
      {granite, "granitehybrid", [](C& c) { c.size("expert_group_count", 2); },
       "key granitehybrid.expert_group_count (2) is not understood"},
      {rwkv, "rwkv6", [](C& c) { c.size("token_shift_count", 1); }, "key rwkv6.token_shift_count (1) is not understood"}};
  for (const Bad& bad : all) {
    const auto original = original_of(bad.golden);
    if (!original) continue;
    INFO(bad.message);
    GgufConverter converter(std::string(bad.architecture), original->weights, original->config);
    bad.change(converter);
    CHECK_THAT(error(converter), contains_text(std::string(bad.message)));
  }
}

TEST_CASE("GGUF: what only describes, switches nothing on or concerns images is let pass", "[io][golden]") {
  struct Good {
    std::string_view golden, architecture;
  };
  for (const Good& good :
       {Good{"lm_qwen35_seed00_hybrid4_hidden32_L16", "qwen35"}, Good{"lm_granitemoehybrid_seed01_moe_L12", "granitehybrid"},
        Good{"lm_nemotron_h_seed00_dense_groups2_L16", "nemotron_h"}}) {
    INFO(good.architecture);
    const auto original = original_of(good.golden);
    if (!original) continue;
    GgufConverter converter(std::string(good.architecture), original->weights, original->config);
    converter.set_text("quantize.imatrix.file", "imatrix.dat");
    converter.set_text("someone.else", "said something");
    converter.set_text("rope.note", "of no architecture");
    converter.text("rope.scaling.type", "none");
    converter.real("rope.scaling.factor", 1);
    converter.size("rope.scaling.original_context_length", 4096);
    converter.size("attention.sliding_window", 0);
    if (good.architecture != "granitehybrid") converter.size("expert_used_count", 2);  // there are none
    converter.truth("attention.causal", true);
    converter.size("pooling_type", 0);
    converter.size("vision.block_count", 12);
    converter.size("image_token_id", 7);
    converter.sizes("deepstack_mapping", {0, 1});
    converter.put("v.blk.0.attn_q.weight", {{2, 2}, std::vector<float>(4)});
    converter.put("mm.0.weight", {{2}, std::vector<float>(2)});
    if (good.architecture != "qwen35") {  // without rotary positions
      converter.text("rope.scaling.type", "yarn");
      converter.real("rope.scaling.factor", 8);
    }
    check(*original, converter);
  }
}

TEST_CASE("GGUF: the layers for multi-token prediction alone are no model", "[io]") {
  const auto original = original_of("lm_qwen35_seed00_hybrid4_hidden32_L16");
  if (!original) return;
  GgufConverter::Weights outer;
  for (const auto& [name, t] : original->weights)
    if (name.find("layers.") == std::string::npos) outer[name] = t;
  nlohmann::json config = original->config;
  config["mtp_num_hidden_layers"] = 1;
  GgufConverter converter("qwen35", outer, config);
  converter.put("blk.4.nextn.enorm.weight", {{32}, std::vector<float>(32)});
  CHECK_THAT(error(converter), contains_text("has only the layers for multi-token prediction"));
}

TEST_CASE("GGUF: a tensor has its name in the file, though no layer of the file has it", "[io][golden]") {
  for (const Case& each_case : cases) {
    const auto original = original_of(each_case.golden);
    if (!original || each_case.fuse) continue;  // what the option joins is named apart where the file has neither
    GgufConverter converter(std::string(each_case.architecture), original->weights, original->config);
    const TemporaryFolder folder;
    const auto translated = [&] {
      write_bytes(folder / "model.gguf", converter.file());
      return translate_gguf(open_gguf(folder / "model.gguf")).first;
    };
    const TensorTable whole = translated();
    const TableSource<double> source(whole);
    const std::vector<gguf::Tensor> tensors = converter.tensors();
    for (const auto& [name, tensor] : whole.tensors) {
      INFO(each_case.golden << " as " << each_case.architecture << ": " << name);
      const std::string& in_file = tensor.name_in_file;
      const std::string expected = in_file == name ? name : detail::message(in_file, " (", name, ")");
      CHECK(source.name_in_file(name) == expected);
      // Granite's feed-forward part is ffn_* where there are no experts, ffn_*_shexp beside them, and both become the same.
      if (in_file.find("_shexp") != std::string::npos && each_case.architecture == "granitehybrid") continue;
      // Older files of Qwen3-Next have ssm_ba for ssm_alpha and ssm_beta; nothing reads what is beside the text.
      if (in_file.find("ssm_ba") != std::string::npos || name.rfind("mtp.", 0) == 0) continue;
      const std::string first = in_file.substr(0, in_file.find(" and "));  // of two that become one
      const std::string below = first.starts_with("blk.") ? first.substr(first.find('.', 4)) : first;
      converter.tensors() = tensors;
      std::erase_if(converter.tensors(), [&](const gguf::Tensor& each) { return each.name.ends_with(below); });
      std::string said;
      const auto refused = error_of([&, &missing = name] { said = TableSource<double>(translated()).name_in_file(missing); });
      if (refused)
        CHECK_THAT(refused->message, contains_text(below));  // of two that become one the other is there
      else
        CHECK(said == expected);
    }
  }
}

TEST_CASE("GGUF: what is wrong with one tensor of the file is told of it, though it is joined with another", "[io][golden]") {
  int joined = 0;
  for (const Case& each_case : cases) {
    const auto original = original_of(each_case.golden);
    if (!original || each_case.fuse) continue;
    GgufConverter whole(std::string(each_case.architecture), original->weights, original->config);
    for (std::size_t i = 0; i < whole.tensors().size(); ++i) {
      const std::string name = whole.tensors()[i].name, second = " and " + name.substr(name.find('.', 4) + 1);
      INFO(each_case.golden << " as " << each_case.architecture << ": " << name);
      GgufConverter spoilt = whole;
      gguf::Tensor& tensor = spoilt.tensors()[i];
      const std::string nan = bytes_of<float>({std::nanf("")});
      for (std::size_t at = 0; at < tensor.data.size(); at += nan.size()) tensor.data.replace(at, nan.size(), nan);
      const TemporaryFolder folder;
      write_bytes(folder / "model.gguf", spoilt.file());
      const TableSource<double> source(translate_gguf(open_gguf(folder / "model.gguf")).first);
      for (const std::string& each : source.names()) {
        if (!source.read(each).matrix().hasNaN()) continue;
        const std::string said = source.name_in_file(each);
        INFO(said);
        CHECK((said.starts_with(name) || said.find(second) != std::string::npos));
        if (said.find(" and ") == std::string::npos) continue;
        ++joined;
        // A type that is not read: which of the two has it is told as well.
        tensor.type = 19;
        CHECK_THAT(error(spoilt), contains_text("is IQ1_S in " + name + ", a type that is not read here"));
      }
    }
  }
  CHECK((joined > 8 || joined == 0));  // Granite's feed-forward parts, experts of two families, Kimi's keys and values
}

TEST_CASE("GGUF: a file without layers, and experts that nothing uses, are told as the file has them", "[io][golden]") {
  for (const Case& each_case : cases) {
    const auto original = original_of(each_case.golden);
    if (!original || each_case.fuse) continue;
    INFO(each_case.golden << " as " << each_case.architecture);
    GgufConverter bare(std::string(each_case.architecture), original->weights, original->config);
    std::erase_if(bare.tensors(), [](const gguf::Tensor& each) { return each.name.starts_with("blk."); });
    if (!each_case.architecture.starts_with("rwkv"))  // there the embedding's norm is one of the first layer's
      CHECK_THAT(error(bare), contains_text("there are no tensors blk.0.* ("));
    if (each_case.architecture != "nemotron_h_moe") continue;
    GgufConverter more(std::string(each_case.architecture), original->weights, original->config);
    const std::string up = ".ffn_up_exps.weight";
    gguf::Tensor gate;  // these experts have none
    for (const gguf::Tensor& each : more.tensors())
      if (each.name.ends_with(up)) gate = each;
    REQUIRE(gate.shape.front() > 1);
    const std::string layer = gate.name.substr(4, gate.name.size() - 4 - up.size());
    gate.name = detail::message("blk.", layer, ".ffn_gate_exps.weight");
    more.tensors().push_back(gate);
    CHECK_THAT(error(more), contains_text("1 tensor is not used by "));
    CHECK_THAT(error(more),
               contains_text(detail::message("(", gate.name, " (backbone.layers.", layer, ".mixer.experts.0.gate_proj.weight))")));
  }
}

TEST_CASE("GGUF: errors name the tensor that is missing, misshapen or unused as the file has it", "[io][golden]") {
  int misshapen = 0, named = 0;
  for (const Case& each_case : cases) {
    const auto original = original_of(each_case.golden);
    if (!original || each_case.fuse) continue;
    const GgufConverter whole(std::string(each_case.architecture), original->weights, original->config);
    const std::size_t count = GgufConverter(whole).tensors().size();
    for (std::size_t i = 0; i < count; ++i) {
      GgufConverter lacking = whole, longer = whole;
      const std::string name = lacking.tensors()[i].name;
      INFO(each_case.golden << " as " << each_case.architecture << ": " << name);
      lacking.tensors().erase(lacking.tensors().begin() + static_cast<std::ptrdiff_t>(i));
      if (const std::string said = error(lacking); said.empty())  // a head that is the embedding, and what nothing reads
        CHECK((name == "output.weight" || name.find(".nextn.") != std::string::npos || name.starts_with("blk.0.time_mix_v")));
      else
        CHECK_THAT(said, contains_text("model.gguf: ") && contains_text(name));
      gguf::Tensor& bent = longer.tensors()[i];
      bent.data += std::string(bent.data.size() / bent.shape.front(), '\0');
      ++bent.shape.front();
      const std::string said = error(longer);
      INFO(said);
      // A vocabulary may be longer than what the tokenizer gives. Norms, heads and feed-forward parts are named by role.
      if (said.empty())
        CHECK((name == "token_embd.weight" || name.find(".nextn.") != std::string::npos || name.starts_with("blk.0.time_mix_v")));
      for (const std::string_view layers : {"layers.", "blocks."})
        for (std::size_t at = said.find(layers); at != std::string::npos; at = said.find(layers, at + 1))
          CHECK(said[said.find_last_of(" (", at)] == '(');  // public names stand behind those of the file
      ++misshapen;
      named += said.find(" blk.") != std::string::npos;
    }
    GgufConverter more = whole;
    gguf::Tensor extra = more.tensors().front();
    extra.name = "blk.0.ssm_new.weight";
    more.tensors().push_back(extra);
    CHECK_THAT(error(more), contains_text("1 tensor is not used by "));
    CHECK_THAT(error(more), contains_text("(blk.0.ssm_new.weight)"));
  }
  INFO(named << " of " << misshapen << " name a tensor");
  CHECK(named * 3 >= misshapen * 2);
}
