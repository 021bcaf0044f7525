// Qwen, OLMo Hybrid, Kimi Linear and LFM2: what their configurations may say, what is an error, and that nothing is passed over in silence.
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>

#include <models/models.hpp>

namespace {

using namespace models_test;

const char* const qwen_moe = "lm_qwen35_moe_seed00_released_text_config_L16";
const char* const next_moe = "lm_qwen3next_moe_seed03_released_fused_L12";
const char* const next_dense = "lm_qwen3next_seed02_fused_hybrid4_hidden24_L20";
const char* const rwkv7 = "lm_rwkv7_seed01_fla_names_layers3_hidden32_L12";
const char* const kimi = "lm_kimi_linear_seed00_released_hidden24_L16";
const char* const kimi_groups = "lm_kimi_linear_seed01_qlora_norenorm_shared2_groups_L6";
const char* const olmo = "lm_olmo_hybrid_seed00_released_nope_hidden32_L16";
const char* const olmo_rope = "lm_olmo_hybrid_seed01_rope_gqa_bias_packed_hv6_L12";
const char* const lfm2 = "lm_lfm2_seed00_released_keys_hidden32_L16";
const char* const lfm2_rare = "lm_lfm2_seed01_bias_untied_conv4_ropeparams_L2";

struct GoldenCheckpoint {
  explicit GoldenCheckpoint(const Golden& golden)
      : tensors(golden.weights<double>()), configuration(golden.configuration), ids(golden.ids), logits(golden.expected("logits")) {}
  Tensors<double> tensors;
  Configuration configuration;
  std::vector<Index> ids;
  Matrix<double> logits;

  [[nodiscard]] LanguageModel<double> load() const { return load_language_model<double>(tensors, configuration); }
  [[nodiscard]] double deviation() const { return relative_error(load().forward(ids, test_support::every_logit()).logits, logits); }
};

/// A golden checkpoint, or nothing where the shared data are not on this machine.
std::optional<GoldenCheckpoint> checkpoint(const std::string& name) {
  const auto folder = test_support::shared_data("golden");
  if (!folder) {
    WARN(test_support::shared_data_missing("golden"));
    return std::nullopt;
  }
  return GoldenCheckpoint(Golden(*folder / (name + ".safetensors")));
}

struct Change {
  const char* model;
  std::string what;
  std::function<void(GoldenCheckpoint&)> make;
  std::vector<std::string> said;  ///< what the error must say; empty: no error
};

std::function<void(GoldenCheckpoint&)> set(std::string key, Configuration::Value value) {
  return [key, value](GoldenCheckpoint& c) { c.configuration.set(key, value); };
}
std::function<void(GoldenCheckpoint&)> erase(std::string tensor) {
  return [tensor](GoldenCheckpoint& c) { REQUIRE(c.tensors.tensors.erase(tensor) == 1); };
}
using Texts = std::vector<std::string>;
using Numbers = std::vector<double>;

}  // namespace

TEST_CASE("a complaint about a shape names no tensor of another part", "[models]") {
  // These layers call their weights otherwise than their files do, and other parts of the same model have tensors of those names.
  struct Cut {
    const char *model, *tensor, *said;
    std::vector<Index> shape;
  };
  const std::vector<Cut> cuts = {
      {rwkv7, "model.layers.1.attn.k_proj.weight", "Rwkv7: key.weight is (30, 32)", {30, 32}},
      {rwkv7, "model.layers.0.attn.v_proj.weight", "Rwkv7: value.weight is (32, 30)", {32, 30}},
      {next_dense, "model.layers.2.linear_attn.out_proj.weight", "GatedDeltaNet: o_proj.weight is (23, 24)", {23, 24}},
      {next_dense, "model.layers.3.linear_attn.norm.weight", "GatedDeltaNet: v_proj.weight is (24, 24) and o_norm.weight (7)", {7}},
  };
  for (const Cut& cut : cuts) {
    std::optional<GoldenCheckpoint> c = checkpoint(cut.model);
    if (!c) return;
    INFO(cut.model << ": " << cut.tensor);
    REQUIRE(c->tensors.tensors.count(cut.tensor) == 1);
    c->tensors.set_zero(cut.tensor, cut.shape);
    CHECK_THAT(test_support::what_of([&] { static_cast<void>(c->load()); }), contains_text(cut.said));
  }
}

TEST_CASE("contradictions between a configuration and its weights are named", "[models]") {
  const std::vector<Change> changes = {
      {qwen_moe, "an unknown key", set("text_config.gamma", Index(3)), {"text_config.gamma", "not understood"}},
      {qwen_moe, "key heads", set("text_config.linear_num_key_heads", Index(3)), {"key_heads is 3", "4 value heads"}},
      {qwen_moe, "one key head", set("text_config.linear_num_key_heads", Index(1)), {"linear_key_head_dim is 8, expected 16"}},
      {qwen_moe, "value heads", set("text_config.linear_num_value_heads", Index(2)), {"linear_num_value_heads is 2, expected 4"}},
      {qwen_moe, "convolution", set("text_config.linear_conv_kernel_dim", Index(3)), {"linear_conv_kernel_dim is 3, expected 4"}},
      {qwen_moe, "experts a token", set("text_config.num_experts_per_tok", Index(0)), {"num_experts_per_tok is 0"}},
      {qwen_moe, "more experts than there are", set("text_config.num_experts_per_tok", Index(7)), {"expected 1 to 6"}},
      {qwen_moe, "experts", set("text_config.num_experts", Index(5)), {"num_experts is 5, expected 6"}},
      {qwen_moe, "experts' width", set("text_config.moe_intermediate_size", Index(11)), {"moe_intermediate_size is 11, expected 12"}},
      {qwen_moe, "shared width", set("text_config.shared_expert_intermediate_size", Index(1)), {"is 1, expected 16"}},
      {qwen_moe, "weights not divided", set("text_config.norm_topk_prob", false), {"norm_topk_prob is false, expected true"}},
      {qwen_moe, "no gate", set("text_config.attn_output_gate", false), {"attn_output_gate is false, expected true"}},
      {qwen_moe, "rope kind", set("text_config.rope_parameters.type", std::string("yarn")), {"is yarn, expected default"}},
      {qwen_moe, "rope as text", set("text_config.rope_parameters", std::string()), {"rope_parameters is \"\", expected an object"}},
      {qwen_moe, "activation", set("text_config.hidden_act", std::string("gelu")), {"hidden_act is gelu"}},
      {qwen_moe,
       "layer types",
       set("text_config.layer_types", Texts{"linear_attention", "full_attention", "linear_attention", "full_attention"}),
       {"full_attention for layer 1, expected linear_attention"}},
      {qwen_moe, "too few layer types", set("text_config.layer_types", Texts{"linear_attention"}), {"1 entries", "4 layers"}},
      {qwen_moe,
       "a missing tensor",
       erase("model.language_model.layers.1.linear_attn.dt_bias"),
       {"tensor model.language_model.layers.1.linear_attn.dt_bias is missing"}},
      {qwen_moe, "no A_log", erase("model.language_model.layers.1.linear_attn.A_log"), {"layers.1.linear_attn.A_log is missing"}},
      {qwen_moe,
       "an unused tensor",
       [](GoldenCheckpoint& c) { c.tensors.set_zero("model.language_model.layers.1.linear_attn.in_proj_a.bias", {4}); },
       {"layers.1.linear_attn.in_proj_a.bias", "not used"}},
      {qwen_moe,
       "the vision tower",
       [](GoldenCheckpoint& c) {
         c.tensors.set_zero("model.visual.blocks.0.weight", {4, 4});
       },
       {}},
      {next_moe, "interval", set("full_attention_interval", Index(2)), {"full_attention_interval, layer 1 is full attention"}},
      {next_moe, "interval 0", set("full_attention_interval", Index(0)), {"full_attention_interval is 0"}},
      {next_moe, "a dense layer", set("mlp_only_layers", Numbers{2}), {"layer 2 is not a mixture of experts"}},
      {next_moe, "sparse step", set("decoder_sparse_step", Index(2)), {"layer 0 is not a mixture of experts"}},
      {next_moe, "key heads that do not fit the fused rows", set("linear_num_key_heads", Index(5)), {"in_proj_qkvz.weight is (72, 24)"}},
      {next_dense, "inner width", set("intermediate_size", Index(47)), {"intermediate_size is 47, expected 48"}},
      {next_dense, "bias", set("attention_bias", true), {"attention_bias is true", "q_proj.bias is missing"}},
      {kimi, "positions in latent attention", set("mla_use_nope", false), {"mla_use_nope is false, expected true"}},
      {kimi, "layers counted from 0", set("linear_attn_config.full_attn_layers", Numbers{3}), {"layer 2 is listed"}},
      {kimi, "dense layers", set("first_k_dense_replace", Index(0)), {"layer 0 is a mixture of experts"}},
      {kimi, "key width", set("qk_nope_head_dim", Index(8)), {"qk_nope_head_dim is 8, expected 6"}},
      {kimi, "value width", set("v_head_dim", Index(4)), {"v_head_dim is 4, expected 8"}},
      {kimi, "heads", set("num_attention_heads", Index(3)), {"o_proj.weight is (24, 16)", "3 heads"}},
      {kimi, "groups", set("num_expert_group", Index(-1)), {"num_expert_group is -1"}},
      {kimi, "no groups that stay", set("topk_group", Index(-1)), {"topk_group is -1"}},
      {kimi, "shared experts", set("num_shared_experts", Index(2)), {"num_shared_experts is 2, expected 1"}},
      {kimi, "scores", set("moe_router_activation_func", std::string("softmax")), {"moe_router_activation_func is softmax"}},
      {kimi, "a positive lower bound", set("linear_attn_config.gate_lower_bound", 5.0), {"lower_bound is 5"}},
      {kimi,
       "no number of heads",
       [](GoldenCheckpoint& c) {
         Configuration other("other");
         for (const std::string& key : c.configuration.keys())
           if (key != "linear_attn_config.num_heads") other.set(key, *c.configuration.find(key));
         c.configuration = other;
       },
       {"linear_attn_config.num_heads is missing"}},
      {olmo, "positions on top", set("rope_theta", 1e4), {"rope_theta", "not understood"}},
      {lfm2, "inner width", set("block_multiple_of", Index(32)), {"is 64, expected 48"}},
      {lfm2, "attention layers", set("full_attn_idxs", Numbers{1}), {"full_attn_idxs, layer 1 is listed"}},
      {lfm2,
       "layer_types goes before full_attn_idxs",
       [](GoldenCheckpoint& c) {
         c.configuration.set("full_attn_idxs", Numbers{1});
         c.configuration.set("layer_types", Texts{"conv", "conv", "full_attention", "conv"});
       },
       {}},
      {lfm2, "bias", set("conv_bias", true), {"conv_bias is true", "no conv.bias"}},
      {lfm2, "convolution", set("conv_L_cache", Index(4)), {"conv_L_cache is 4, expected 3"}},
      {lfm2_rare, "tie_embedding goes before tie_word_embeddings", set("tie_word_embeddings", true), {}},
      {lfm2_rare, "tied after all", set("tie_embedding", true), {"tie_embedding is true", "another than the embedding"}},
  };
  for (const Change& change : changes) {
    std::optional<GoldenCheckpoint> c = checkpoint(change.model);
    if (!c) return;
    INFO(change.model << ": " << change.what);
    change.make(*c);
    if (change.said.empty()) {
      CHECK(c->deviation() < 1e-12);
      continue;
    }
    std::string said;
    try {
      static_cast<void>(c->load());
    } catch (const std::exception& error) {
      said = error.what();
    }
    INFO("said: " << said);
    for (const std::string& part : change.said) CHECK(said.find(part) != std::string::npos);
  }
}

// What each of these does to the logits is in the formulation's tables; that it does something is what is held here.
TEST_CASE("keys that change the model change it", "[models]") {
  const std::vector<Change> changes = {
      {next_moe, "weights of experts not divided", set("norm_topk_prob", false), {}},
      {next_moe, "theta", set("rope_theta", Index(10000)), {}},
      {next_moe, "the whole head rotated", set("partial_rotary_factor", 1.0), {}},
      {next_moe, "eps", set("rms_norm_eps", 1e-3), {}},
      {next_moe, "experts a token", set("num_experts_per_tok", Index(3)), {}},
      {kimi, "weights not divided", set("moe_renormalize", false), {}},
      {kimi, "factor", set("routed_scaling_factor", 1.0), {}},
      {kimi, "one expert a token", set("num_experts_per_token", Index(1)), {}},
      {kimi, "a lower bound", set("linear_attn_config.gate_lower_bound", -5.0), {}},
      {kimi_groups,
       "no groups",
       [](GoldenCheckpoint& c) {
         c.configuration.set("num_expert_group", Index(1));
         c.configuration.set("topk_group", Index(1));
       },
       {}},
      {olmo, "beta not doubled", set("linear_allow_neg_eigval", false), {}},
      {olmo, "positions", set("rope_parameters.rope_theta", 10000.0), {}},
      {olmo_rope, "beta doubled", set("linear_allow_neg_eigval", true), {}},
      {lfm2, "theta", set("rope_theta", 1e3), {}},
      {lfm2, "eps", set("norm_eps", 1e-2), {}},
  };
  for (const Change& change : changes) {
    std::optional<GoldenCheckpoint> c = checkpoint(change.model);
    if (!c) return;
    INFO(change.model << ": " << change.what);
    CHECK(c->deviation() < 1e-12);
    change.make(*c);
    CHECK(c->deviation() > 1e-6);
  }
}

TEST_CASE("experts and copies of tensors under other public names give the same model", "[models]") {
  std::optional<GoldenCheckpoint> c = checkpoint(kimi);
  if (!c) return;
  SECTION("Kimi's experts merged into mlp, its convolutions without the middle axis, A_log by heads") {
    std::vector<std::string> names = c->tensors.names();
    for (const std::string& name : names) {
      if (const auto at = name.find("block_sparse_moe."); at != std::string::npos) {
        std::string to = name;
        to.replace(at, 17, "mlp.");
        for (const auto& [from, other] : {std::pair("w1", "gate_proj"), std::pair("w3", "up_proj"), std::pair("w2", "down_proj")})
          if (const auto part = to.find(std::string(".") + from + "."); part != std::string::npos) to.replace(part + 1, 2, other);
        c->tensors.rename(name, to);
      } else if (name.find("_conv1d.weight") != std::string::npos) {
        auto& shape = c->tensors.tensors.at(name).shape;
        shape = {shape[0], shape[2]};
      } else if (name.find("A_log") != std::string::npos) {
        c->tensors.tensors.at(name).shape = {2, 1};
      }
    }
    CHECK(c->deviation() < 1e-12);
  }
  SECTION("without model_type") {
    for (const char* name : {kimi, next_dense, olmo, lfm2}) {
      GoldenCheckpoint untyped = *checkpoint(name);
      Configuration other("other");
      for (const std::string& key : untyped.configuration.keys())
        if (key != "model_type") other.set(key, *untyped.configuration.find(key));
      untyped.configuration = other;
      INFO(name);
      CHECK(untyped.deviation() < 1e-12);
    }
  }
}

TEST_CASE("only what was asked for is understood", "[models]") {
  Configuration whole("whole");
  whole.set("a", Index(1));
  whole.set("text_config.b", Index(2));
  whole.set("text_config.c", Index(3));
  CHECK(whole.has("a"));
  CHECK_FALSE(whole.asked("a"));
  const Configuration nested = whole.below("text_config");
  CHECK(nested.integer({"b"}) == 2);
  CHECK(nested.integer({"a"}) == 1);
  CHECK(whole.asked("a"));
  CHECK(whole.asked("text_config.b"));
  CHECK_FALSE(whole.asked("text_config.c"));
}
