// Hybrids and their relatives: names as files have them, both answers of a clamp, lost tensors, keys that change a model.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/random.hpp>
#include <support/shared_data.hpp>

#include <models/golden_models.hpp>

namespace {

using namespace models_test;
namespace fs = std::filesystem;

/// The golden case whose name begins so; nothing where the data is not here.
std::optional<Golden> golden(const std::string& begin) {
  for (const fs::path& path : golden_models())
    if (path.filename().string().rfind(begin, 0) == 0) return Golden(path);
  return std::nullopt;
}
std::optional<fs::path> shared_case(const std::string& name) {
  const auto folder = test_support::shared_data(fs::path("cases") / name);
  if (!folder) WARN(test_support::shared_data_missing("cases/" + name));
  return folder;
}
Matrix<double> logits(const Tensors<double>& tensors, const Configuration& configuration, const std::vector<Index>& ids) {
  return load_language_model<double>(tensors, configuration).forward(ids, test_support::every_logit()).logits;
}
void check_case_logits(const std::string& name) {
  const auto folder = shared_case(name);
  if (!folder) return;
  INFO(name);
  const SafetensorsFile expected(*folder / "expected.safetensors");
  const auto numbers = expected.read_integers("input_ids");
  const LanguageModel<double> model = load_language_model(SafetensorsSource<double>(*folder), read_configuration(*folder));
  CHECK(relative_error(model.forward({numbers.begin(), numbers.end()}, test_support::every_logit()).logits,
                       Matrix<double>(*expected.read<double>("logits"))) < 1e-9);
}

}  // namespace

TEST_CASE("checkpoints as people have them: inner norms, a base model's names, a lost bias", "[models]") {
  check_case_logits("falcon-mamba");
  check_case_logits("base-model-names");
  check_case_logits("unused-tensor-inner-norms");
  if (const auto folder = shared_case("missing-bias-griffin"))
    CHECK_THROWS_WITH(load_language_model(SafetensorsSource<double>(*folder), read_configuration(*folder)),
                      contains_text("model.layers.1.temporal_block.linear_x.bias is missing"));
}

TEST_CASE("prefixes that wrappers add, and those that other tools use, are found", "[models]") {
  for (const char* name : {"lm_nemotron_h_seed02", "lm_bamba_seed00", "lm_falcon_mamba_seed01", "lm_zamba2_seed00", "lm_mamba2_seed03"}) {
    const auto one = golden(name);
    if (!one) continue;
    INFO(name);
    const Tensors<double> plain = one->weights<double>();
    const std::string own = plain.has("model.embed_tokens.weight") ? "model." : "backbone.";
    for (const std::string prefix : {"", "model.", "backbone.", "transformer."})
      for (const std::string wrapper : {"", "module.", "_orig_mod.", "module._orig_mod."}) {
        INFO(wrapper << prefix);
        Tensors<double> renamed;
        for (const auto& [tensor, numbers] : plain.tensors)
          renamed.tensors[wrapper + (tensor.rfind(own, 0) == 0 ? prefix + tensor.substr(own.size()) : tensor)] = numbers;
        CHECK(relative_error(logits(renamed, one->configuration, one->ids), one->expected("logits")) < 1e-9);
      }
  }
}

TEST_CASE("a checkpoint that lost a tensor, or has one more, is refused by its name", "[models]") {
  for (const char* name : {"lm_nemotron_h_seed00",
                           "lm_nemotron_h_seed01",
                           "lm_nemotron_h_seed02",
                           "lm_granitemoehybrid_seed01",
                           "lm_bamba",
                           "lm_falcon_h1_seed00",
                           "lm_falcon_h1_seed01",
                           "lm_zamba2_seed00",
                           "lm_zamba2_seed02",
                           "lm_jamba_seed00",
                           "lm_jamba_seed01",
                           "lm_falcon_mamba_seed00",
                           "lm_falcon_mamba_seed01",
                           "lm_mamba2_seed03",
                           "lm_mamba2_seed04",
                           "lm_qwen35_seed00",
                           "lm_qwen3next_seed02",
                           "lm_qwen3next_moe_seed03",
                           "lm_qwen35_moe_seed01",
                           "lm_olmo_hybrid_seed00",
                           "lm_olmo_hybrid_seed01",
                           "lm_kimi_linear_seed00",
                           "lm_kimi_linear_seed01",
                           "lm_lfm2_seed00",
                           "lm_lfm2_seed01"}) {
    const auto one = golden(name);
    if (!one) continue;
    const Tensors<double> whole = one->weights<double>();
    for (const auto& [tensor, numbers] : whole.tensors) {
      INFO(name << " without " << tensor);
      Tensors<double> lacking = whole;
      lacking.tensors.erase(tensor);
      CHECK_THROWS(load_language_model<double>(lacking, one->configuration));
    }
    Tensors<double> more = whole;
    const std::string extra = whole.has("model.embed_tokens.weight") ? "model.layers.0.new.weight" : "backbone.layers.0.new.weight";
    more.set_zero(extra, {2, 2});
    CHECK_THROWS_WITH(load_language_model<double>(more, one->configuration), contains_text(extra));
  }
}

TEST_CASE("a tensor that every public layer of a family has is named where it is lost", "[models]") {
  const std::pair<const char*, const char*> rows[] = {
      {"lm_qwen35_seed00", "model.layers.3.self_attn.q_norm.weight"},
      {"lm_qwen3next_seed02", "model.layers.1.self_attn.k_norm.weight"},
      {"lm_qwen3next_seed02", "model.layers.0.linear_attn.conv1d.weight"},
      {"lm_qwen35_seed00", "model.layers.0.linear_attn.A_log"},
      {"lm_lfm2_seed00", "model.layers.2.self_attn.q_layernorm.weight"},
      {"lm_lfm2_seed00", "model.layers.2.self_attn.k_layernorm.weight"},
      {"lm_olmo_hybrid_seed00", "model.layers.3.self_attn.k_norm.weight"},
      {"lm_olmo_hybrid_seed00", "model.layers.0.linear_attn.g_proj.weight"},
      {"lm_olmo_hybrid_seed01", "model.layers.1.linear_attn.b_proj.weight"},
      {"lm_olmo_hybrid_seed00", "model.layers.0.linear_attn.q_conv1d.weight"},
      {"lm_kimi_linear_seed00", "model.layers.1.block_sparse_moe.gate.e_score_correction_bias"},
      {"lm_falcon_h1_seed00", "model.layers.0.mamba.dt_bias"},
      {"lm_qwen35_seed00", "model.layers.0.linear_attn.in_proj_qkv.weight"},
      {"lm_qwen35_seed00", "model.layers.0.linear_attn.dt_bias"},
      {"lm_qwen3next_seed02", "model.layers.0.linear_attn.in_proj_qkvz.weight"},
      {"lm_nemotron_h_seed00", "backbone.layers.0.mixer.A_log"},
      {"lm_nemotron_h_seed02", "backbone.layers.1.mixer.gate.weight"},
      {"lm_falcon_h1_seed01", "model.layers.0.self_attn.o_proj.weight"},
      {"lm_rwkv7_seed00", "blocks.1.att.v1"},
      {"lm_rwkv7_seed01", "model.layers.0.attn.r_proj.weight"},
      {"lm_rwkv7_seed01", "model.layers.0.attn.g_norm.weight"},
      {"lm_rwkv7_seed01", "model.layers.1.attn.v_lora.lora.0.weight"},
      // what tells the kind of the layer, too
      {"lm_kimi_linear_seed00", "model.layers.3.self_attn.kv_a_proj_with_mqa.weight"},
      {"lm_kimi_linear_seed00", "model.layers.1.block_sparse_moe.gate.weight"},
      {"lm_kimi_linear_seed00", "model.layers.1.block_sparse_moe.experts.0.w1.weight"},
      {"lm_jamba_seed00", "model.layers.1.feed_forward.router.weight"},
      {"lm_jamba_seed00", "model.layers.0.feed_forward.gate_proj.weight"},
      {"lm_lfm2_seed00", "model.layers.2.self_attn.out_proj.weight"},
      {"lm_zamba2_seed00", "model.layers.1.linear.weight"},
      {"lm_qwen35_seed00", "model.layers.3.self_attn.q_proj.weight"},
      {"lm_olmo_hybrid_seed00", "model.layers.3.self_attn.q_proj.weight"},
      {"lm_bamba_seed00", "model.layers.2.self_attn.q_proj.weight"},
      {"lm_granitemoehybrid_seed00", "model.layers.2.self_attn.q_proj.weight"},
      {"lm_jamba_seed00", "model.layers.2.self_attn.q_proj.weight"},
      {"lm_lfm2_seed00", "model.layers.2.self_attn.q_proj.weight"},
      {"lm_nemotron_h_seed00", "backbone.layers.3.mixer.q_proj.weight"},
  };
  for (const auto& [name, tensor] : rows) {
    INFO(name);
    const auto one = golden(name);
    if (!one) continue;
    Tensors<double> lacking = one->weights<double>();
    REQUIRE(lacking.tensors.erase(tensor) == 1);
    CHECK_THROWS_WITH(load_language_model<double>(lacking, one->configuration), contains_text(std::string(tensor) + " is missing"));
  }
}

TEST_CASE("an output projection of attention that gives another width than the model's is named", "[models]") {
  const std::pair<const char*, const char*> rows[] = {{"lm_qwen35_seed00", "model.layers.3.self_attn.o_proj.weight"},
                                                      {"lm_olmo_hybrid_seed00", "model.layers.3.self_attn.o_proj.weight"},
                                                      {"lm_bamba_seed00", "model.layers.2.self_attn.o_proj.weight"},
                                                      {"lm_granitemoehybrid_seed00", "model.layers.2.self_attn.o_proj.weight"},
                                                      {"lm_falcon_h1_seed00", "model.layers.0.self_attn.o_proj.weight"},
                                                      {"lm_jamba_seed00", "model.layers.2.self_attn.o_proj.weight"},
                                                      {"lm_lfm2_seed00", "model.layers.2.self_attn.out_proj.weight"},
                                                      {"lm_nemotron_h_seed00", "backbone.layers.3.mixer.o_proj.weight"}};
  for (const auto& [name, tensor] : rows) {
    const auto one = golden(name);
    if (!one) continue;
    INFO(name);
    Tensors<double> cut = one->weights<double>();
    const Matrix<double> weight = *cut.read(tensor);
    cut.set(tensor, {weight.rows() - 1, weight.cols()}, weight.topRows(weight.rows() - 1));
    CHECK_THROWS_WITH(load_language_model<double>(cut, one->configuration),
                      contains_text(std::string(tensor) + " is (" + std::to_string(weight.rows() - 1)));
  }
}

TEST_CASE("a stored head that differs where the port ties by default is named", "[models]") {
  for (const char* name : {"lm_falcon_mamba_seed00", "lm_lfm2_seed01", "lm_zamba2_seed00", "lm_mamba2_seed00"}) {
    const auto one = golden(name);
    if (!one) continue;
    INFO(name);
    const Configuration silent = without(without(one->configuration, "tie_word_embeddings"), "tie_embedding");
    Tensors<double> own = one->weights<double>();
    const bool mamba = own.has("backbone.embeddings.weight");
    const Array<double> embedding = own.read(mamba ? "backbone.embeddings.weight" : "model.embed_tokens.weight");
    own.set("lm_head.weight", {embedding.rows(), embedding.cols()}, 2 * *embedding);
    if (std::string(name) == "lm_mamba2_seed00")  // Hugging Face's Mamba-2 does not tie
      CHECK(logits(own, silent, one->ids).allFinite());
    else
      CHECK_THROWS_WITH(load_language_model<double>(own, silent), contains_text("tensor lm_head.weight is another than the embedding"));
    own.set("lm_head.weight", {embedding.rows(), embedding.cols()}, *embedding);
    CHECK(logits(own, silent, one->ids).allFinite());
  }
}

TEST_CASE("Mamba-2 with the keys of a released file: those that the port does not read change nothing", "[models]") {
  const auto one = golden("lm_mamba2_seed03");
  if (!one) return;
  Configuration released = with(with(one->configuration, "norm_before_gate", true), "time_step_rank", Index(256));
  released = with(with(released, "intermediate_size", Index(64)), "time_step_init_scheme", "random");
  CHECK(relative_error(logits(one->weights<double>(), released, one->ids), one->expected("logits")) < 1e-9);
  CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), with(released, "intermediate_size", Index(128))),
                    contains_text("key intermediate_size is 128, expected 64"));
}

TEST_CASE("LFM2 with the keys of a released file: how weights were drawn at first changes nothing", "[models]") {
  const auto one = golden("lm_lfm2_seed00");
  if (!one) return;
  Configuration released = with(with(one->configuration, "block_use_xavier_init", true), "conv_use_xavier_init", true);
  released = with(with(with(released, "block_mlp_init_scale", 1.0), "block_out_init_scale", 1.0), "theta", 1e6);
  CHECK(relative_error(logits(one->weights<double>(), released, one->ids), one->expected("logits")) < 1e-9);
  CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), with(released, "theta", 1e4)),
                    contains_text("key theta is 10000, expected 1e+06"));
}

TEST_CASE("OLMo Hybrid with the keys of a released file: how weights were drawn at first changes nothing", "[models]") {
  const auto one = golden("lm_olmo_hybrid_seed00");
  if (!one) return;
  Configuration released = with(with(one->configuration, "linear_a_log_min", 0.0), "linear_a_log_max", 16.0);
  released = with(with(with(released, "linear_dt_min", 0.001), "linear_dt_max", 0.1), "linear_dt_init_floor", 1e-4);
  CHECK(relative_error(logits(one->weights<double>(), released, one->ids), one->expected("logits")) < 1e-9);
  CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), with(released, "linear_dt_scale", 2.0)),
                    contains_text("key linear_dt_scale is not understood"));
}

TEST_CASE("an eps that the model does not take is named", "[models]") {
  if (const auto one = golden("lm_mamba2_seed00")) {
    const Tensors<double> tensors = one->weights<double>();
    CHECK_THROWS_WITH(load_language_model<double>(tensors, with(one->configuration, "rms_norm_eps", 1e-3)),
                      contains_text("key rms_norm_eps is not understood"));
    Configuration authors = with({{"ssm_cfg.layer", "Mamba2"}, {"tie_embeddings", false}});
    if (const auto groups = one->configuration.integer({"n_groups"})) authors.set("ssm_cfg.ngroups", *groups);
    CHECK_NOTHROW(load_language_model<double>(tensors, authors));
    CHECK_THROWS_WITH(load_language_model<double>(tensors, with(authors, "rms_norm_eps", 1e-3)),
                      contains_text("key rms_norm_eps is not understood"));
  }
  if (const auto one = golden("lm_jamba_seed00"))
    CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), with(one->configuration, "layer_norm_epsilon", 1e-3)),
                      contains_text("key layer_norm_epsilon is 0.001, expected 1e-06"));
  if (const auto one = golden("lm_bamba_seed00"))
    CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), with(one->configuration, "layer_norm_epsilon", 1e-3)),
                      contains_text("key rms_norm_eps is 1e-05, expected 0.001: key layer_norm_epsilon says so"));
  if (const auto one = golden("lm_mamba2_seed00"))
    CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(),
                                                  with(with(one->configuration, "layer_norm_epsilon", 1e-5), "norm_epsilon", 1e-3)),
                      contains_text("key norm_epsilon is 0.001, expected 1e-05: key layer_norm_epsilon says so"));
  if (const auto one = golden("lm_qwen35_seed00"))
    CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), with(with(one->configuration, "partial_rotary_factor", 0.5),
                                                                               "rope_parameters.partial_rotary_factor", 0.25)),
                      contains_text("key partial_rotary_factor is 0.5, expected 0.25: key rope_parameters.partial_rotary_factor"));
  if (const auto one = golden("lm_nemotron_h_seed00"))
    CHECK_THROWS_WITH(
        load_language_model<double>(one->weights<double>(), with(without(one->configuration, "layer_norm_epsilon"), "norm_eps", 1e-3)),
        contains_text("the norms take layer_norm_epsilon, 1e-5 where it is absent"));
}

TEST_CASE("keys that nothing asks for: lists of whatever, names of nothing, and those of generating text", "[models]") {
  const auto said = [](const Configuration& configuration) {
    return error_of([&] { detail::expect_all_understood(configuration, "Mamba"); });
  };
  Configuration lists;
  lists.set_mixed_list("window_pairs");
  CHECK_THAT(said(lists), contains_text("key window_pairs is not understood by Mamba"));
  CHECK(said(with({{"\x1B[31m", Index(1)}})).find("key \\x1B[31m is not understood by Mamba") != std::string::npos);
  Configuration of_text;
  for (const char* key : {"bad_words_ids", "begin_suppress_tokens", "forced_decoder_ids"}) of_text.set_mixed_list(key);
  of_text.set("forced_bos_token_id", Index(1));
  of_text.set("max_length", Index(20));
  of_text.set("force_bos_token_insert", true);
  CHECK(said(of_text) == "no error");
  // Of these two, transformers' own configurations alone tell that they are of generating text.
  for (const char* key : {"top_k", "temperature"}) {
    CHECK_THAT(said(with({{key, 0.7}})), contains_text(detail::message("key ", key, " is not understood by Mamba")));
    CHECK(said(with({{"model_type", "mamba"}, {key, 0.7}})) == "no error");
  }
  CHECK_THAT(said(with({{"model_type", "mamba"}, {"attn_cfg.top_k", Index(50)}})), contains_text("key attn_cfg.top_k is not understood"));
  CHECK(said(with({{"n_ctx", Index(262144)}, {"is_decoder", true}, {"unsloth_fixed", true}, {"text_config.unsloth_version", "2025.1"}})) ==
        "no error");
  for (const char* key : {"", "text_config.", "."}) {  // a name of no characters at the top
    CHECK_THAT(said(with({{key, Index(1)}})), contains_text(detail::message("key ", key, " is not understood by Mamba")));
    CHECK_FALSE(detail::describes_only(key));
  }
  CHECK(detail::describes_only("text_config._name_or_path"));
}

TEST_CASE("a layer's own configuration has no key that nothing asks for, switched off or not; a whole model's may", "[models]") {
  using Value = Configuration::Value;
  for (const Value& off : {Value(false), Value(Index(0)), Value(0.0), Value(std::string()), Value(std::vector<double>())}) {
    const Configuration own = with({{"rmsnorm", off}});
    CHECK_THROWS_WITH(detail::expect_layer_understood(own, "Mamba-2"), contains_text("key rmsnorm is not understood by Mamba-2"));
    CHECK_NOTHROW(detail::expect_layer_understood(with(own, "model_type", "mamba2"), "Mamba-2"));
    CHECK_NOTHROW(detail::expect_all_understood(own, "Mamba2ForCausalLM"));
  }
}

TEST_CASE("what the authors' code is told of initialisation is let pass; what it is told of the layer is held against it", "[models]") {
  const auto one = golden("lm_mamba2_seed00");
  if (!one) return;
  const Tensors<double> tensors = one->weights<double>();
  const PrefixedTensors<double> layer(tensors, "backbone.layers.0.mixer.");
  const auto read = [&](const char* key, const Configuration::Value& value) {
    return error_of([&] {
      const Configuration authors = with({{"ssm_cfg.layer", "Mamba2"}, {"ssm_cfg.ngroups", Index(1)}, {key, value}});
      static_cast<void>(detail::read_mamba2_layer(layer, authors));
      detail::expect_layer_understood(authors, "Mamba-2");
    });
  };
  for (const char* key : {"ssm_cfg.chunk_size", "ssm_cfg.dt_min", "ssm_cfg.dt_init_floor", "ssm_cfg.use_mem_eff_path", "attn_layer_idx"})
    CHECK(read(key, Index(1)) == "no error");
  CHECK(read("ssm_cfg.A_init_range", std::vector<double>{1, 16}) == "no error");
  CHECK(read("ssm_cfg.D_has_hdim", false) == "no error");
  CHECK(read("ssm_cfg.d_ssm", Index(64)) == "no error");
  CHECK(read("ssm_cfg.activation", "swish") == "no error");
  CHECK_THAT(read("ssm_cfg.D_has_hdim", true), contains_text("key ssm_cfg.D_has_hdim is true, expected false: D has 8 numbers"));
  CHECK_THAT(read("ssm_cfg.d_ssm", Index(32)), contains_text("key ssm_cfg.d_ssm is 32, expected 64"));
  CHECK_THAT(read("ssm_cfg.activation", "relu"), contains_text("key ssm_cfg.activation is relu, expected silu"));
  CHECK_THAT(read("ssm_cfg.chunks", Index(1)), contains_text("key ssm_cfg.chunks is not understood by Mamba-2"));
  CHECK_THAT(read("ssm_cfg.chunks", false), contains_text("key ssm_cfg.chunks is not understood by Mamba-2"));
}

TEST_CASE("weights that are codes are refused by the key that says so, before a tensor is read", "[models]") {
  const Tensors<double> none;
  for (const char* key : {"quantization_config", "text_config.quantization_config", "quantization"}) {
    const auto said = [&](const Configuration& configuration) {
      return error_of([&] { static_cast<void>(load_language_model<double>(none, configuration)); });
    };
    CHECK_THAT(said(with({{"model_type", "mamba"}, {(std::string(key) + ".quant_method").c_str(), "fp8"}})),
               contains_text(detail::message("key ", key, " says that the weights are quantised by fp8, which is not read here")));
    CHECK_THAT(said(with({{"model_type", "mamba"}, {(std::string(key) + ".load_in_4bit").c_str(), true}})),
               contains_text(detail::message("key ", key, " says that the weights are quantised, which is not read here")));
  }
}

TEST_CASE("factors that the numbers cannot hold are refused by their keys", "[models]") {
  using List = std::vector<double>;
  struct Row {
    const char* model;
    const char* key;
    Configuration::Value value;
    const char* text;
  };
  const Row rows[] = {
      {"lm_falcon_h1_seed00", "embedding_multiplier", 1e308, "key embedding_multiplier is 1e+308, expected at most 3.40"},
      {"lm_falcon_h1_seed00", "key_multiplier", -1e308, "key key_multiplier is -1e+308, expected at most 3.40"},
      {"lm_falcon_h1_seed00", "mlp_multipliers", List{1, 1e308}, "key mlp_multipliers is 1e+308, expected at most 3.40"},
      {"lm_falcon_h1_seed00", "ssm_multipliers", List{1, 1, 1, 1e308, 1}, "key ssm_multipliers is 1e+308, expected at most 3.40"},
      {"lm_granitemoehybrid_seed00", "residual_multiplier", 1e308, "key residual_multiplier is 1e+308, expected at most 3.40"},
      {"lm_granitemoehybrid_seed00", "attention_multiplier", 1e308, "key attention_multiplier is 1e+308, expected at most 3.40"},
      {"lm_granitemoehybrid_seed00", "logits_scaling", 1e-320, "key logits_scaling is "},
      {"lm_kimi_linear_seed00", "routed_scaling_factor", 1e308, "key routed_scaling_factor is 1e+308, expected at most 3.40"},
      {"lm_nemotron_h_seed02", "routed_scaling_factor", 1e308, "key routed_scaling_factor is 1e+308, expected at most 3.40"},
      {"lm_mamba2_seed03", "time_step_limit", List{1e308, std::numeric_limits<double>::infinity()},
       "key time_step_limit is 1e+308, expected at most 3.40"},
      {"lm_griffin_seed00", "logits_soft_cap", 1e308, "key logits_soft_cap is 1e+308, expected at most 3.40"},
  };
  for (const Row& row : rows) {
    const auto one = golden(row.model);
    if (!one) continue;
    INFO(row.model << ", " << row.key);
    CHECK_THROWS_WITH(load_language_model<float>(one->weights<float>(), with(one->configuration, row.key, row.value)),
                      contains_text(detail::message("config.json: ", row.text)));
  }
}

TEST_CASE("a whole language model inside a multimodal one, and convolutions without the axis of length 1", "[models]") {
  for (const char* name : {"lm_mamba_seed03", "lm_mamba2_seed00", "lm_rwkv4_seed03", "lm_griffin_seed00", "lm_qwen35_seed00",
                           "lm_jamba_seed00", "lm_nemotron_h_seed00", "lm_falcon_h1_seed01", "lm_qwen3next_seed02"}) {
    const auto one = golden(name);
    if (!one) continue;
    INFO(name);
    const Tensors<double> plain = one->weights<double>();
    for (const std::string wrapper : {"language_model.", "model.language_model.", "module.language_model.", "model.", "module.model."}) {
      INFO(wrapper);
      Tensors<double> inside;
      for (const auto& [tensor, numbers] : plain.tensors) inside.tensors[wrapper + tensor] = numbers;
      if (wrapper.find("module.") != 0)  // of what the text does not use, a block may lack a bias
        for (const char* beside : {"visual.blocks.0.norm1.weight", "visual.blocks.0.norm1.bias", "visual.blocks.1.norm1.weight"})
          inside.set_zero(beside, {4});
      CHECK(relative_error(logits(inside, one->configuration, one->ids), one->expected("logits")) < 1e-9);
    }
    Tensors<double> flat = plain;
    Index convolutions = 0;
    for (auto& [tensor, numbers] : flat.tensors)
      if (tensor.find("conv") != std::string::npos && numbers.shape.size() == 3) {
        REQUIRE(numbers.shape[1] == 1);
        numbers.shape.erase(numbers.shape.begin() + 1);
        ++convolutions;
      }
    CHECK((convolutions > 0) == (std::string(name) != "lm_rwkv4_seed03"));
    CHECK(relative_error(logits(flat, one->configuration, one->ids), one->expected("logits")) < 1e-9);
  }
  if (const auto one = golden("lm_mamba_seed03")) {
    Tensors<double> other = one->weights<double>();
    const std::string name = "backbone.layers.0.mixer.conv1d.weight";
    std::vector<Index>& shape = other.tensors.at(name).shape;
    shape = {shape[0] / 2, 2, shape[2]};
    CHECK_THROWS_WITH(logits(other, one->configuration, one->ids), contains_text("tensor " + name + " is (64, 2, 4), expected"));
  }
}

TEST_CASE("names out of a file that is of no family are cut and escaped in what is said", "[models]") {
  Tensors<double> tensors;
  tensors.set("\x1B[31m" + std::string(5000, 'x'), {1, 1}, Matrix<double>::Ones(1, 1));
  const std::string error = error_of([&] {
    static_cast<void>(load_language_model<double>(tensors, with({{"model_type", "\n\x1B" + std::string(5000, 'y')}})));
  });
  CHECK_THAT(error, contains_text("the first is \\x1B[31mxxx") && contains_text("model_type is \\n\\x1Byyy"));
  CHECK(error.find('\x1B') == std::string::npos);
  CHECK(error.size() < 2000);
}

TEST_CASE("keys of a hybrid's other parts are let pass where model_type names it only", "[models]") {
  for (const auto& [key, type] : {std::pair("norm_eps", "nemotron_h"), {"n_group", "nemotron_h"}, {"attention_hidden_size", "zamba2"}}) {
    const Configuration untyped = with({{key, 1e-3}});
    CHECK_THROWS_WITH(detail::expect_layer_understood(untyped, "Mamba-2"), contains_text(std::string("key ") + key + " is not understood"));
    CHECK_THROWS_WITH(detail::expect_layer_understood(with(untyped, "model_type", "mamba2"), "Mamba-2"), contains_text(key));
    CHECK_NOTHROW(detail::expect_layer_understood(with(untyped, "model_type", type), "Mamba-2"));
  }
  // The layer's own reader does not ask for it, either.
  const auto one = golden("lm_mamba2_seed00");
  if (!one) return;
  Configuration plain = without(with(one->configuration, "norm_eps", 1e-3), "model_type");
  const Tensors<double> tensors = one->weights<double>();
  static_cast<void>(detail::read_mamba2_layer(PrefixedTensors<double>(tensors, "backbone.layers.0.mixer."), plain));
  CHECK_THROWS_WITH(detail::expect_layer_understood(plain, "Mamba-2"), contains_text("key norm_eps is not understood"));
}

TEST_CASE("delta rules by themselves are not read without the convolutions that the configuration has", "[models]") {
  for (const auto& [name, prefix, key] : {std::tuple("lm_kimi_linear_seed00", "model.layers.0.self_attn.", "short_conv_kernel_size"),
                                          {"lm_olmo_hybrid_seed00", "model.layers.0.linear_attn.", "linear_conv_kernel_dim"}}) {
    const auto one = golden(name);
    if (!one) continue;
    INFO(name);
    Tensors<double> lacking = one->weights<double>();
    for (const char* part : {"q", "k", "v"}) lacking.tensors.erase(detail::message(prefix, part, "_conv1d.weight"));
    const bool is_kimi = std::string(key) == "short_conv_kernel_size";
    const auto read = [&, layer = PrefixedTensors<double>(lacking, prefix)](const Configuration& configuration) {
      if (is_kimi)
        static_cast<void>(detail::read_kda(layer, configuration));
      else
        static_cast<void>(detail::read_gated_delta_net(layer, configuration));
    };
    CHECK_THROWS_WITH(read(one->configuration), contains_text("q_conv1d.weight is missing"));
    CHECK_THROWS_WITH(read(without(one->configuration, "model_type")), contains_text(key) && contains_text("expected 0"));
  }
}

namespace {
/// The keys of Kimi Linear's experts as its checkpoint has them, and as transformers spells them.
constexpr std::pair<const char*, const char*> kimi_spellings[] = {{"num_experts_per_token", "num_experts_per_tok"},
                                                                  {"num_experts", "n_routed_experts"},
                                                                  {"num_shared_experts", "n_shared_experts"},
                                                                  {"num_expert_group", "n_group"}};
}  // namespace

TEST_CASE("Kimi Linear as transformers' own port spells the sizes of its linear layers", "[models]") {
  const auto one = golden("lm_kimi_linear_seed00");
  if (!one) return;
  Configuration ported = one->configuration;
  for (const auto& [theirs, ours] : {std::pair("num_heads", "linear_num_heads"),
                                     {"head_dim", "linear_head_dim"},
                                     {"short_conv_kernel_size", "linear_conv_kernel_dim"}}) {
    const std::string key = detail::message("linear_attn_config.", theirs);
    const Index size = one->configuration.integer({key}).value();
    ported = with(without(ported, key), ours, size);
  }
  CHECK(relative_error(logits(one->weights<double>(), ported, one->ids), one->expected("logits")) < 1e-9);
  CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), with(ported, "linear_head_dim", Index(3))),
                    contains_text("key linear_head_dim is 3, expected"));
  // One layer by itself, with what the port writes of the others.
  for (const auto& [theirs, ours] : kimi_spellings) {
    const Index number = one->configuration.integer({theirs}).value();
    ported = with(without(ported, theirs), ours, number);
  }
  ported = with(with(ported, "qk_head_dim", Index(10)), "mlp_layer_types", std::vector<std::string>{"dense", "sparse", "sparse", "sparse"});
  ported = with(with(ported, "activation_situ_beta", 1.0), "dense_ffn_hidden", Index(9216));
  Configuration alone("config.json");  // of which nothing was asked for
  for (const std::string& key : ported.keys()) alone.set(key, *ported.find(key));
  const Tensors<double> tensors = one->weights<double>();
  CHECK_NOTHROW(detail::read_kda(PrefixedTensors<double>(tensors, "model.layers.0.self_attn."), alone));
  CHECK(error_of([&] { detail::expect_layer_understood(alone, "KDA"); }) == "no error");
}

TEST_CASE("Kimi Linear as transformers writes it: kinds of feed-forward parts, and its own spelling of every key", "[models]") {
  const auto one = golden("lm_kimi_linear_seed00");
  if (!one) return;
  const Tensors<double> tensors = one->weights<double>();
  const auto same = [&](const Configuration& configuration) {
    CHECK(relative_error(logits(tensors, configuration, one->ids), one->expected("logits")) < 1e-9);
  };
  const auto says = [&](const Configuration& configuration, const std::string& what) {
    CHECK_THROWS_WITH(load_language_model<double>(tensors, configuration), contains_text(what));
  };
  Configuration object = one->configuration;
  object.set_object("moe_layer_freq");
  says(object, "key moe_layer_freq is an object, expected");
  using Names = std::vector<std::string>;
  const Configuration written = with(with(one->configuration, "qk_head_dim", Index(10)), "pretraining_tp", Index(1));
  same(with(written, "mlp_layer_types", Names{"dense", "sparse", "sparse", "sparse"}));
  says(with(written, "mlp_layer_types", Names{"dense", "dense", "sparse", "sparse"}), "mlp_layer_types has dense for layer 1");
  says(with(written, "qk_head_dim", Index(6)), "key qk_head_dim is 6, expected 10");
  // Keys of the model that came after it, which later versions write with what switches them off.
  const Index dense = one->configuration.integer({"intermediate_size"}).value();
  const Configuration later =
      with(with(with(written, "activation_situ_beta", 1.0), "activation_situ_linear_beta", 1.0), "attn_res_block_size", Index(0));
  same(with(with(later, "mla_use_output_gate", false), "dense_ffn_hidden", dense));
  says(with(later, "dense_ffn_hidden", dense + 1), detail::message("key dense_ffn_hidden is ", dense + 1, ", expected ", dense));
  says(with(later, "attn_res_block_size", Index(12)), "key attn_res_block_size is 12, expected 0");
  says(with(later, "mla_use_output_gate", true), "key mla_use_output_gate is true, expected false");
  Configuration other = one->configuration;
  for (const auto& [theirs, ours] : kimi_spellings) {
    const Index number = one->configuration.integer({theirs}).value();
    other = with(without(other, theirs), ours, number);
    says(with(one->configuration, ours, number + 1), std::string("key ") + ours + " is ");
  }
  other = with(without(other, "moe_renormalize"), "norm_topk_prob", true);
  same(other);
  says(with(one->configuration, "norm_topk_prob", false), "key norm_topk_prob is false");
  CHECK(relative_error(logits(tensors, with(other, "norm_topk_prob", false), one->ids), one->expected("logits")) > 1e-3);
}

TEST_CASE("keys that are absent have the defaults of the public ports", "[models]") {
  if (const auto one = golden("lm_qwen35_seed00"))  // whose base is 10000
    CHECK(relative_error(logits(one->weights<double>(), without(one->configuration, "rope_theta"), one->ids), one->expected("logits")) <
          1e-9);
  if (const auto one = golden("lm_kimi_linear_seed01")) {  // 4 groups of two experts, of which 2 stay, and 1 without the key
    const Tensors<double> tensors = one->weights<double>();
    const Configuration two = with(one->configuration, "num_experts_per_token", Index(2));
    const Matrix<double> absent = logits(tensors, without(two, "topk_group"), one->ids);
    CHECK((absent - logits(tensors, with(two, "topk_group", Index(1)), one->ids)).isZero(0));
    CHECK(relative_error(absent, logits(tensors, two, one->ids)) > 1e-3);
  }
  for (const char* name : {"lm_nemotron_h_seed00", "lm_mamba2_seed00"})  // 8 groups of a state of 128
    if (const auto one = golden(name)) {
      const Configuration bare = without(without(without(one->configuration, "n_groups"), "ssm_state_size"), "state_size");
      CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), bare), contains_text("n_groups and state_size are missing"));
    }
}

TEST_CASE("keys that the public ports write beside those that count", "[models]") {
  if (const auto one = golden("lm_nemotron_h_seed01")) {  // with biases of in_proj and out_proj
    const Tensors<double> tensors = one->weights<double>();
    const Configuration written = with(one->configuration, "mamba_proj_bias", false);
    CHECK(relative_error(logits(tensors, written, one->ids), one->expected("logits")) < 1e-9);
    CHECK_THROWS_WITH(load_language_model<double>(tensors, with(one->configuration, "use_bias", false)), contains_text("key use_bias is"));
    CHECK_THROWS_WITH(load_language_model<double>(tensors, without(written, "use_bias")), contains_text("key mamba_proj_bias is"));
  }
  if (const auto one = golden("lm_bamba_seed00"))
    CHECK(relative_error(logits(one->weights<double>(), with(one->configuration, "z_loss_coefficient", 1e-4), one->ids),
                         one->expected("logits")) < 1e-9);
  if (const auto one = golden("lm_griffin_seed00")) {
    const auto positions = [&](const char* type) {
      return with(with(with(one->configuration, "rope_parameters.rope_theta", 10000.0), "rope_parameters.partial_rotary_factor", 0.5),
                  "rope_parameters.rope_type", type);
    };
    CHECK(relative_error(logits(one->weights<double>(), positions("default"), one->ids), one->expected("logits")) < 1e-9);
    CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), positions("linear")),
                      contains_text("scaled rotary positions are not read here"));
  }
}

namespace {

/// A dense golden LFM2 whose layers from the second on have experts: of four, two are chosen, whose outputs together are the dense part's.
struct SparseLfm2 {
  static constexpr Index experts = 4, first_sparse = 1;
  Tensors<double> tensors;
  Configuration configuration;

  explicit SparseLfm2(const Golden& dense) : tensors(dense.weights<double>()) {
    configuration = with(dense.configuration, "model_type", "lfm2_moe");
    configuration = with(with(configuration, "num_dense_layers", Index(first_sparse)), "num_experts", Index(experts));
    configuration = with(with(configuration, "num_experts_per_tok", Index(2)), "moe_intermediate_size", Index(40));
    configuration = with(with(configuration, "norm_topk_prob", true), "use_expert_bias", true);
    configuration = with(configuration, "routed_scaling_factor", 1.000001);  // takes back what 1e-6 beside the sum of scores takes
    for (Index layer = first_sparse; layer < 3; ++layer) {
      const std::string feed = detail::message("model.layers.", layer, ".feed_forward.");
      for (Index expert = 0; expert < experts; ++expert)
        for (const char* name : {"w1", "w3", "w2"}) {
          const auto& whole = tensors.tensors.at(feed + name + ".weight");
          const double factor = name == std::string("w2") && expert % 2 == 1 ? (expert == 1 ? 0.5 : 1.5) : expert % 2 == 1 ? 1 : 3;
          tensors.set(detail::message(feed, "experts.", expert, ".", name, ".weight"), whole.shape, factor * whole.numbers.matrix());
        }
      for (const char* name : {"w1", "w3", "w2"}) tensors.tensors.erase(feed + name + ".weight");
      tensors.set_zero(feed + "gate.weight", {experts, 24});
      tensors.set(feed + "expert_bias", {experts}, (Matrix<double>(1, 4) << 0, 3, -1, 2).finished());
    }
  }
};

}  // namespace

TEST_CASE("LFM2 with experts: the bias chooses and does not weigh, the sum of the scores has 1e-6 beside it", "[models]") {
  const auto dense = golden("lm_lfm2_seed01");
  if (!dense) return;
  const SparseLfm2 sparse(*dense);
  CHECK(relative_error(logits(sparse.tensors, sparse.configuration, dense->ids), dense->expected("logits")) < 1e-9);

  SECTION("experts that are stacked") {
    Tensors<double> stacked = sparse.tensors;
    for (Index layer = SparseLfm2::first_sparse; layer < 3; ++layer) {
      const std::string experts = detail::message("model.layers.", layer, ".feed_forward.experts.");
      Matrix<double> first(4 * 80, 24), down(4 * 24, 40);
      for (Index expert = 0; expert < 4; ++expert) {
        const auto take = [&](const char* name) {
          const std::string tensor = detail::message(experts, expert, ".", name, ".weight");
          const Matrix<double> numbers = stacked.read(tensor).matrix();
          stacked.tensors.erase(tensor);
          return numbers;
        };
        first.middleRows(expert * 80, 40) = take("w1");
        first.middleRows(expert * 80 + 40, 40) = take("w3");
        down.middleRows(expert * 24, 24) = take("w2");
      }
      stacked.set(experts + "gate_up_proj", {4, 80, 24}, first);
      stacked.set(experts + "down_proj", {4, 24, 40}, down);
    }
    CHECK(relative_error(logits(stacked, sparse.configuration, dense->ids), dense->expected("logits")) < 1e-9);
  }
  SECTION("scores that differ, against a plain loop") {
    Tensors<double> drawn = sparse.tensors;
    test_support::Draw draw(91);
    for (Index layer = SparseLfm2::first_sparse; layer < 3; ++layer) {
      const std::string feed = detail::message("model.layers.", layer, ".feed_forward.");
      drawn.set(feed + "gate.weight", {4, 24}, draw.normals<double>(4, 24, 0.8));
      drawn.set(feed + "expert_bias", {4}, draw.normals<double>(1, 4, 0.3));
    }
    const ForwardPass<double> pass = load_language_model<double>(drawn, sparse.configuration).forward({3, 1, 4, 1, 5});
    const Matrix<double> before = *pass.layers[1].middle, after = *pass.layers[2].residual;
    const auto weight = [&](const std::string& name) -> Matrix<double> { return drawn.read("model.layers.1." + name).matrix(); };
    for (Index token = 0; token < before.rows(); ++token) {
      RowVector<double> u = before.row(token) / std::sqrt(before.row(token).squaredNorm() / 24 + 1e-6);
      u.array() *= weight("ffn_norm.weight").row(0).array();
      std::vector<std::pair<double, Index>> compared;
      std::vector<double> scores;
      for (Index expert = 0; expert < 4; ++expert) {
        scores.push_back(1 / (1 + std::exp(-u.dot(weight("feed_forward.gate.weight").row(expert)))));
        compared.emplace_back(-scores.back() - weight("feed_forward.expert_bias")(0, expert), expert);
      }
      std::sort(compared.begin(), compared.end());
      const double sum = scores[static_cast<std::size_t>(compared[0].second)] + scores[static_cast<std::size_t>(compared[1].second)];
      RowVector<double> out = RowVector<double>::Zero(24);
      for (int k = 0; k < 2; ++k) {
        const Index expert = compared[static_cast<std::size_t>(k)].second;
        const std::string own = detail::message("feed_forward.experts.", expert, ".");
        const RowVector<double> gate = u * weight(own + "w1.weight").transpose();
        const RowVector<double> up = u * weight(own + "w3.weight").transpose();
        const RowVector<double> inner = (gate.array() / (1 + (-gate.array()).exp()) * up.array()).matrix();
        out += 1.000001 * scores[static_cast<std::size_t>(expert)] / (sum + 1e-6) * inner * weight(own + "w2.weight").transpose();
      }
      CHECK(relative_error(after.row(token) - before.row(token), out) < 1e-12);
    }
  }
  SECTION("what does not fit is named") {
    const auto refused = [&](const Tensors<double>& tensors, const Configuration& configuration, const char* words) {
      CHECK_THROWS_WITH(load_language_model<double>(tensors, configuration), contains_text(words));
    };
    const Configuration& right = sparse.configuration;
    refused(sparse.tensors, with(right, "num_dense_layers", Index(2)), "by key num_dense_layers, layer 1 is not a mixture of experts");
    refused(sparse.tensors, with(right, "num_experts", Index(5)), "key num_experts is 5");
    refused(sparse.tensors, with(right, "num_experts_per_tok", Index(5)), "key num_experts_per_tok is 5");
    refused(sparse.tensors, with(right, "use_expert_bias", false), "key use_expert_bias is false");
    refused(sparse.tensors, with(right, "moe_intermediate_size", Index(41)), "key moe_intermediate_size is 41");
    refused(sparse.tensors, with(right, "model_type", "lfm2"), "layer 1 is not a mixture of experts");
    for (const auto& [tensor, numbers] : sparse.tensors.tensors) {
      INFO("without " << tensor);
      Tensors<double> lacking = sparse.tensors;
      lacking.tensors.erase(tensor);
      CHECK_THROWS(load_language_model<double>(lacking, right));
    }
  }
}

TEST_CASE("Zamba2: the port's clamp of dt, and the authors' code without it", "[models]") {
  const auto one = golden("lm_zamba2_seed02");
  if (!one) return;
  const Matrix<double> unclamped = one->expected("logits_without_clamp");
  CHECK(relative_error(unclamped, one->expected("logits")) > 1e-3);
  const Configuration open = with(one->configuration, "time_step_limit", std::vector<double>{0, std::numeric_limits<double>::infinity()});
  CHECK(relative_error(logits(one->weights<double>(), open, one->ids), unclamped) < 1e-9);
  CHECK(relative_error(logits(one->weights<double>(), with(one->configuration, "time_step_min", 0.0), one->ids), unclamped) < 1e-9);
}

TEST_CASE("Nemotron-H: other spellings give the same model", "[models]") {
  const auto one = golden("lm_nemotron_h_seed02");
  if (!one) return;
  const auto same = [&](const Tensors<double>& tensors, const Configuration& configuration) {
    CHECK(relative_error(logits(tensors, configuration, one->ids), one->expected("logits")) < 1e-9);
  };
  const Tensors<double> tensors = one->weights<double>();
  const Configuration unnamed = without(one->configuration, "hybrid_override_pattern");
  using Names = std::vector<std::string>;
  same(tensors, with(unnamed, "layers_block_type", Names{"mamba", "moe", "mamba", "attention", "moe"}));
  same(tensors, with(unnamed, "layer_types", Names{"linear_attention", "moe", "linear_attention", "full_attention", "moe"}));
  same(tensors, with(one->configuration, "num_hidden_layers", Index(52)));
  same(tensors, with(one->configuration, "norm_eps", 1e-5));  // as Nemotron 3 writes it, beside layer_norm_epsilon
  CHECK_THROWS_WITH(load_language_model<double>(tensors, with(one->configuration, "norm_eps", 1e-6)), contains_text("key norm_eps is"));
  // All experts in two tensors, as newer files have them.
  Tensors<double> stacked = tensors;
  for (const std::string layer : {"1", "4"})
    for (const std::string part : {"up_proj", "down_proj"}) {
      Matrix<double> all;
      Index columns = 0;
      for (Index expert = 0; expert < 6; ++expert) {
        const std::string name = "backbone.layers." + layer + ".mixer.experts." + std::to_string(expert) + "." + part + ".weight";
        const Array<double> own = stacked.read(name);
        columns = own.cols();
        all.conservativeResize(all.rows() + own.rows(), columns);
        all.bottomRows(own.rows()) = *own;
        stacked.tensors.erase(name);
      }
      const Index rows = all.rows() / 6;
      stacked.set("backbone.layers." + layer + ".mixer.experts." + part, {6, rows, columns}, std::move(all));
    }
  same(stacked, one->configuration);
  // Latent projections that change nothing, around the routed experts alone; groups of which all stay.
  Tensors<double> latent = tensors;
  for (const std::string layer : {"1", "4"})
    for (const std::string part : {"fc1_latent_proj", "fc2_latent_proj"})
      latent.set("backbone.layers." + layer + ".mixer." + part + ".weight", {32, 32}, Matrix<double>::Identity(32, 32));
  same(latent, with(one->configuration, "moe_latent_size", Index(32)));
  same(tensors, with(with(one->configuration, "n_group", Index(3)), "topk_group", Index(3)));
}

TEST_CASE("Falcon-Mamba's older key, Jamba's older name, and Granite with positions", "[models]") {
  if (const auto one = golden("lm_falcon_mamba_seed01")) {
    const Configuration older = with(with(one->configuration, "model_type", std::string("mamba")), "use_bcdt_rms", true);
    CHECK(relative_error(logits(one->weights<double>(), older, one->ids), one->expected("logits")) < 1e-9);
    const Configuration no = with(older, "use_bcdt_rms", false);
    CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), no), contains_text("mixer_rms_eps"));
  }
  if (const auto one = golden("lm_jamba_seed01")) {
    Tensors<double> older;
    for (const auto& [name, numbers] : one->weights<double>().tensors) {
      const std::size_t at = name.find("feed_forward.");
      older.tensors[at == std::string::npos ? name : name.substr(0, at + 13) + "experts.0." + name.substr(at + 13)] = numbers;
    }
    CHECK(relative_error(logits(older, one->configuration, one->ids), one->expected("logits")) < 1e-9);
  }
  if (const auto one = golden("lm_granitemoehybrid_seed00")) {
    const Configuration turned = with(one->configuration, "position_embedding_type", std::string("rope"));
    CHECK(relative_error(logits(one->weights<double>(), turned, one->ids), one->expected("logits")) > 1e-3);
    const Configuration none = without(one->configuration, "position_embedding_type");
    CHECK(relative_error(logits(one->weights<double>(), none, one->ids), one->expected("logits")) < 1e-9);
  }
}

TEST_CASE("models of one kind of layer alone, with the keys of all kinds", "[models]") {
  struct Row {
    const char* model;
    const char* layer;
    std::vector<std::string> kind;  ///< for layer_types, if there is such a key
  };
  const Row rows[] = {
      {"lm_granitemoehybrid_seed00", "0", {"mamba"}},
      {"lm_granitemoehybrid_seed00", "2", {"attention"}},
      {"lm_bamba_seed00", "0", {}},
      {"lm_bamba_seed00", "2", {}},
      {"lm_jamba_seed00", "1", {}},
      {"lm_jamba_seed00", "2", {}},
      {"lm_qwen35_seed00", "0", {"linear_attention"}},
      {"lm_qwen35_seed00", "3", {"full_attention"}},
      {"lm_qwen3next_moe_seed03", "0", {}},
      {"lm_qwen3next_moe_seed03", "3", {}},
      {"lm_olmo_hybrid_seed01", "0", {"full_attention"}},
      {"lm_olmo_hybrid_seed01", "1", {"linear_attention"}},
      {"lm_lfm2_seed01", "0", {"full_attention"}},
      {"lm_lfm2_seed01", "1", {"conv"}},
      {"lm_kimi_linear_seed00", "0", {}},
      {"lm_kimi_linear_seed00", "3", {}},
      {"lm_nemotron_h_seed02", "0", {}},
      {"lm_zamba2_seed00", "0", {}},
  };
  for (const Row& row : rows) {
    const auto one = golden(row.model);
    if (!one) continue;
    INFO(row.model << ", layer " << row.layer);
    // The other layers of the whole model give nothing: what is left is the one.
    Tensors<double> alone, silenced = one->weights<double>();
    for (const auto& [name, numbers] : one->weights<double>().tensors) {
      const std::size_t at = name.find("layers.");
      if (at != std::string::npos &&
          name.compare(at, detail::message("layers.", row.layer, ".").size(), detail::message("layers.", row.layer, ".")) != 0)
        for (const char* output : {"out_proj", "o_proj", "down_proj", ".w2.", "output_linear"})
          if (name.find(output) != std::string::npos) silenced.set_zero(name, *silenced.shape(name));
      const std::string own = detail::message("layers.", row.layer, ".");
      if (at == std::string::npos)
        alone.tensors[name] = numbers;
      else if (name.compare(at, own.size(), own) == 0)
        alone.tensors[name.substr(0, at) + "layers.0." + name.substr(at + own.size())] = numbers;
    }
    Configuration single = with(one->configuration, "num_hidden_layers", Index(1));
    for (const char* key :
         {"layer_types", "layers_block_type", "full_attention_interval", "attn_layer_indices", "attn_layer_period", "expert_layer_period",
          "hybrid_override_pattern", "first_k_dense_replace", "linear_attn_config.kda_layers", "linear_attn_config.full_attn_layers"})
      single = without(single, key);
    if (!row.kind.empty()) single = with(single, "layer_types", row.kind);
    if (std::string(row.model) == "lm_nemotron_h_seed02") single = with(single, "hybrid_override_pattern", "M");
    CHECK(load_language_model<double>(alone, single).layer_count() == 1);
    CHECK(relative_error(logits(alone, single, one->ids), logits(silenced, one->configuration, one->ids)) < 1e-12);
  }
}

TEST_CASE("Nemotron-H of Mamba-2 and experts alone is not taken for Mamba-2", "[models]") {
  const auto one = golden("lm_nemotron_h_seed02");
  if (!one) return;
  // Its layers are MEM*E: without what the last three give, the first two are the model.
  Tensors<double> silenced = one->weights<double>(), first;
  for (auto& [name, numbers] : one->weights<double>().tensors) {
    const bool later = name.rfind("backbone.layers.", 0) == 0 && name[16] >= '2';
    const bool output = name.find("out_proj.weight") != std::string::npos || name.find("o_proj.weight") != std::string::npos ||
                        name.find("down_proj.weight") != std::string::npos;
    if (!later) first.tensors[name] = numbers;
    if (later && output) silenced.set_zero(name, *silenced.shape(name));
  }
  const Configuration two = with(with(one->configuration, "hybrid_override_pattern", "ME"), "num_hidden_layers", Index(2));
  CHECK(relative_error(logits(first, two, one->ids), logits(silenced, one->configuration, one->ids)) < 1e-12);
  CHECK(load_language_model<double>(first, two).name() == "NemotronHForCausalLM");
  CHECK(load_language_model<double>(first, without(two, "model_type")).name() == "NemotronHForCausalLM");
  // Of Mamba-2 alone nothing but the pattern tells that the file means what model_type says.
  Tensors<double> pure;
  for (const auto& [name, numbers] : first.tensors)
    if (name.rfind("backbone.layers.1.", 0) != 0) pure.tensors[name] = numbers;
  const Configuration single = with(with(two, "hybrid_override_pattern", "M"), "num_hidden_layers", Index(1));
  CHECK(load_language_model<double>(pure, single).name() == "NemotronHForCausalLM");
  CHECK_THROWS_WITH(load_language_model<double>(pure, without(without(single, "hybrid_override_pattern"), "layers_block_type")),
                    contains_text("key model_type is nemotron_h, expected mamba2"));
}

TEST_CASE("layers by themselves name a tensor that their naming always has, and an option that is not read", "[models]") {
  const auto folder = test_support::shared_data("golden");
  if (!folder) return;
  const auto read = [&](const std::string& name, std::string_view arch, const std::string& lost, const std::string& key,
                        Configuration::Value value) {
    const fs::path path = *folder / (name + ".safetensors");
    const SafetensorsFile file(path);
    Tensors<double> tensors;
    const SafetensorsSource<double> source(path);
    for (const std::string& tensor : source.names())
      if (tensor != lost) tensors.set(tensor, *source.shape(tensor), Matrix<double>(*source.read(tensor)));
    for (const LayerFamily<double>& family : layer_families<double>())
      if (family.name == arch)
        static_cast<void>(
            family.read(PrefixedTensors<double>(tensors, "weight."), with(read_metadata_configuration(file), key, std::move(value))));
  };
  if (!fs::exists(*folder / "gdn_seed00_qwen35_realistic_B2_L24.safetensors")) return;
  for (const char* lost : {"weight.conv1d.weight", "weight.A_log"})
    CHECK_THROWS_WITH(read("gdn_seed00_qwen35_realistic_B2_L24", "gdn", lost, "form", true),
                      contains_text(std::string(lost) + " is missing"));
  CHECK_THROWS_WITH(read("gla_seed00_realistic_B2_L24", "gla", "", "use_output_gate", false),
                    contains_text("key use_output_gate is false, expected true"));
  CHECK_THROWS_WITH(read("retnet_seed00_realistic_B2_L24", "retnet", "", "elementwise_affine", false),
                    contains_text("key elementwise_affine is false, expected true"));
  CHECK_NOTHROW(read("retnet_parallel_seed00_realistic_B2_L16", "retnet_parallel", "", "elementwise_affine", false));
  CHECK_THROWS_WITH(read("retnet_parallel_seed00_realistic_B2_L16", "retnet_parallel", "", "elementwise_affine", true),
                    contains_text("key elementwise_affine is true, expected false"));
}

TEST_CASE("layers of hybrids by themselves, with the configuration of the whole model, give the model's numbers", "[models]") {
  const std::pair<const char*, const char*> kinds[] = {
      {"mixer.dt_bias", "mamba2"},  {"mamba.dt_bias", "mamba2"}, {"mixer.dt_proj.weight", "mamba"}, {"mamba.dt_proj.weight", "mamba"},
      {"linear_attn.A_log", "gdn"}, {"self_attn.A_log", "kda"},  {"conv.conv.weight", "lfm2"}};
  int compared = 0;
  for (const fs::path& path : golden_models()) {
    const Golden one(path);
    const Tensors<double> tensors = one.weights<double>();
    for (const auto& [name, numbers] : tensors.tensors)
      for (const auto& [end, arch] : kinds) {
        const std::size_t at = name.find("layers."), tail = name.size() - std::min(name.size(), std::string(end).size());
        if (at == std::string::npos || name.compare(tail, std::string::npos, end) != 0 || name.find('.', at + 7) + 1 != tail) continue;
        const std::string layer = "layer" + name.substr(at + 7, tail - at - 8);
        if (one.file.find("expected." + layer + "_mixer_in") == nullptr || one.file.find("expected." + layer + "_y") == nullptr) continue;
        INFO(path.filename().string() << ", " << name);
        const std::string prefix = name.substr(0, name.find('.', tail) + 1);
        for (const LayerFamily<double>& family : layer_families<double>()) {
          if (family.name != arch) continue;
          CHECK_NOTHROW(detail::expect_layer_type(family, one.configuration));
          const PartPointer<double> part = family.read(PrefixedTensors<double>(tensors, prefix), one.configuration);
          CHECK_NOTHROW(detail::expect_layer_understood(one.configuration, family.title));
          Trace<double> trace(false);
          RunContext<double> context;
          static_cast<void>(part->run(trace.input(Array<double>(Matrix<double>(one.expected(layer + "_mixer_in")))), context));
          CHECK(relative_error(*context.mixers.front().y.numbers, one.expected(layer + "_y")) < 1e-9);
          ++compared;
        }
      }
  }
  if (golden("lm_falcon_h1")) CHECK(compared > 40);
}

TEST_CASE("configurations of hybrids that contradict the weights, or change what is not read, are refused by the key", "[models]") {
  struct Row {
    const char* model;
    const char* key;
    Configuration::Value value;
    const char* text;
  };
  using Names = std::vector<std::string>;
  using List = std::vector<double>;
  const Row rows[] = {
      {"lm_nemotron_h_seed02", "hybrid_override_pattern", "MEM*-", "key hybrid_override_pattern is MEM*-, expected MEM*E"},
      {"lm_nemotron_h_seed02", "layers_block_type", Names{"mamba"}, "key layers_block_type has 1 entries, expected 5"},
      {"lm_nemotron_h_seed02", "mlp_hidden_act", "silu", "key mlp_hidden_act is silu, expected relu2"},
      {"lm_nemotron_h_seed02", "n_routed_experts", Index(5), "key n_routed_experts is 5, expected 6"},
      {"lm_nemotron_h_seed02", "n_shared_experts", Index(0), "key n_shared_experts is 0, expected 1"},
      {"lm_nemotron_h_seed02", "num_experts_per_tok", Index(7), "key num_experts_per_tok is 7, expected 1 to 6"},
      {"lm_nemotron_h_seed02", "n_group", Index(4), "key n_group is 4, expected a divisor of 6"},
      {"lm_nemotron_h_seed02", "topk_group", Index(3), "key topk_group is 3, expected 1 to "},
      {"lm_granitemoehybrid_seed01", "num_experts_per_tok", Index(7), "key num_experts_per_tok is 7, expected 1 to 6"},
      {"lm_granitemoehybrid_seed01", "num_attention_heads", Index(5), "key num_attention_heads is 5, expected a divisor of 32"},
      {"lm_bamba_seed00", "attn_rotary_emb", Index(-4), "key attn_rotary_emb is -4, expected an even number of 0 to 8"},
      {"lm_bamba_seed00", "attn_rotary_emb", Index(7), "key attn_rotary_emb is 7, expected an even number of 0 to 8"},
      {"lm_bamba_seed00", "attn_rotary_emb", Index(10), "key attn_rotary_emb is 10, expected an even number of 0 to 8"},
      {"lm_griffin_seed00", "partial_rotary_factor", -0.125, "key partial_rotary_factor is -0.125, expected 0 to 1"},
      {"lm_qwen35_seed00", "partial_rotary_factor", 1.5, "key partial_rotary_factor is 1.5, expected 0 to 1"},
      {"lm_kimi_linear_seed00", "first_k_dense_replace", Index(-1), "key first_k_dense_replace is -1, expected at least 0"},
      {"lm_kimi_linear_seed00", "topk_group", Index(7), "key topk_group is 7, expected 1 to 1"},
      {"lm_kimi_linear_seed00", "num_experts_per_token", Index(9), "key num_experts_per_token is 9, expected 1 to 6"},
      {"lm_olmo_hybrid_seed00", "linear_use_gate", false, "key linear_use_gate is false, expected true"},
      {"lm_nemotron_h_seed02", "mamba_num_heads", Index(4), "key mamba_num_heads is 4, expected 8"},
      {"lm_nemotron_h_seed02", "n_groups", Index(3), "key ssm_state_size: 8 numbers of state times 3 groups is 24, expected 16"},
      {"lm_nemotron_h_seed02", "use_bias", true, "in_proj.bias is missing"},
      {"lm_nemotron_h_seed02", "use_conv_bias", false, "conv1d.bias is there"},
      {"lm_nemotron_h_seed02", "sliding_window", Index(64), "key sliding_window is not understood"},
      {"lm_nemotron_h_seed00", "mlp_bias", true, "up_proj.bias is missing"},
      {"lm_nemotron_h_seed00", "time_step_limit", List{0.2, 0.1},
       "key time_step_limit is [0.2, 0.1], expected two numbers, the smaller one first"},
      {"lm_nemotron_h_seed00", "num_key_value_heads", Index(4), "key num_key_value_heads is 4, expected 2"},
      {"lm_granitemoehybrid_seed01", "layer_types", Names{"mamba", "mamba", "mamba"}, "key layer_types has mamba for layer 1"},
      {"lm_granitemoehybrid_seed01", "num_local_experts", Index(0), "key num_local_experts is 0, expected 6"},
      {"lm_granitemoehybrid_seed01", "position_embedding_type", "alibi", "key position_embedding_type is alibi, expected nope"},
      {"lm_granitemoehybrid_seed01", "shared_intermediate_size", Index(48), "key shared_intermediate_size is 48, expected 24"},
      {"lm_granitemoehybrid_seed00", "num_local_experts", Index(4), "block_sparse_moe.router.layer.weight is missing"},
      {"lm_granitemoehybrid_seed00", "rope_scaling.type", "yarn", "key rope_scaling.type is not understood"},
      {"lm_bamba_seed00", "attn_layer_indices", List{1}, "key attn_layer_indices names layer 1"},
      {"lm_bamba_seed00", "rope_parameters.rope_type", "llama3", "key rope_parameters.rope_type is llama3, expected default"},
      {"lm_falcon_h1_seed00", "ssm_multipliers", List{1, 1}, "key ssm_multipliers has 2 numbers, expected 5"},
      {"lm_falcon_h1_seed00", "ssm_multipliers", List{1, 1, std::nan(""), 1, 1}, "key ssm_multipliers holds NaN"},
      {"lm_falcon_h1_seed00", "mlp_multipliers", List{1, -std::numeric_limits<double>::infinity()}, "mlp_multipliers holds -Infinity"},
      {"lm_falcon_h1_seed00", "mamba_d_ssm", Index(64), "key mamba_d_ssm is 64, expected 48"},
      {"lm_falcon_h1_seed00", "mamba_rms_norm", true, "mamba.norm.weight is missing"},
      {"lm_falcon_h1_seed00", "projectors_bias", true, "out_proj.bias is missing"},
      {"lm_falcon_h1_seed00", "mamba_use_mlp", false, "key mamba_use_mlp is false, expected true"},
      {"lm_zamba2_seed00", "num_mem_blocks", Index(0), "key num_mem_blocks is 0, expected at least 1"},
      {"lm_zamba2_seed00", "use_long_context", true, "key use_long_context is true, expected false"},
      {"lm_zamba2_seed00", "use_shared_attention_adapter", false, "linear_q_adapter_list.0.0.weight is there"},
      {"lm_zamba2_seed00", "hybrid_layer_ids", List{1}, "key hybrid_layer_ids does not name layer 3"},
      {"lm_zamba2_seed00", "hidden_act", "silu", "key hidden_act is silu, expected gelu"},
      {"lm_zamba2_seed00", "adapter_rank", Index(4), "key adapter_rank is 4, expected 3"},
      {"lm_jamba_seed00", "attn_layer_offset", Index(1), "keys attn_layer_period 4 and attn_layer_offset 1 do not fit layer 1"},
      {"lm_jamba_seed00", "expert_layer_period", Index(4), "keys expert_layer_period 4 and expert_layer_offset 1 do not fit layer 3"},
      {"lm_jamba_seed00", "num_experts", Index(3), "key num_experts is 3, expected 4"},
      {"lm_jamba_seed00", "mamba_d_state", Index(4), "key mamba_d_state is 4, expected 8"},
      {"lm_falcon_mamba_seed00", "intermediate_size", Index(512), "key intermediate_size is 512, expected 64"},
      {"lm_falcon_mamba_seed00", "model_type", "mamba", "key expand is 16, expected 2"},
      {"lm_mamba2_seed03", "head_dim", Index(16), "key head_dim is 16, expected 8"},
      {"lm_mamba2_seed03", "hidden_act", "gelu", "key hidden_act is gelu, expected silu"},
      {"lm_mamba2_seed03", "expand", Index(3), "key expand is 3, expected 2"},
  };
  for (const Row& row : rows) {
    const auto one = golden(row.model);
    if (!one) continue;
    INFO(row.model << ", " << row.key);
    CHECK_THROWS_WITH(load_language_model<double>(one->weights<double>(), with(one->configuration, row.key, row.value)),
                      contains_text(row.text));
  }
}
