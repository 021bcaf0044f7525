// GGUF's metadata as the keys of the public config.json files; a family is a function.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/gguf_configuration_writer.hpp>
#include <implicit_attention/io/gguf_families.hpp>
#include <implicit_attention/io/gguf_keys.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

// Each of these sets the keys of one family, and returns whether the model has rotary positions.

[[nodiscard]] inline bool gguf_mamba_keys(GgufConfigurationWriter& config) {
  const bool second = config.keys().architecture() == "mamba2";
  const GgufKeys& keys = config.keys();
  config.type(second ? "mamba2" : keys.boolean("ssm.dt_b_c_rms").value_or(false) ? "falcon_mamba" : "mamba");
  config.integers({{"ssm.inner_size", "intermediate_size"}, {"ssm.state_size", "state_size"}, {"ssm.conv_kernel", "conv_kernel"}});
  if (second) {
    config.integers({{"ssm.time_step_rank", "num_heads"}, {"ssm.group_count", "n_groups"}});
    config.set("head_dim", config.ratio("ssm.inner_size", "ssm.time_step_rank"));
  } else {
    config.integers({{"ssm.time_step_rank", "time_step_rank"}});
  }
  config.numbers({{"attention.layer_norm_rms_epsilon", "layer_norm_epsilon"}});
  return false;
}

[[nodiscard]] inline bool gguf_rwkv_keys(GgufConfigurationWriter& config) {
  const std::string& family = config.keys().architecture();
  const GgufKeys& keys = config.keys();
  config.type(family);
  config.set("rwkv_version", family.substr(4));
  config.integers({{"wkv.head_size", "head_size"}, {"feed_forward_length", "intermediate_size"}});
  config.numbers({{"attention.layer_norm_epsilon", "layer_norm_epsilon"}});
  config.set("group_norm_epsilon", 64e-5);
  static_cast<void>(keys.integer("rescale_every_n_layers"));  // GgufRwkvNames undoes it
  return false;
}

[[nodiscard]] inline bool gguf_qwen_keys(GgufConfigurationWriter& config) {
  const std::string& family = config.keys().architecture();
  const GgufKeys& keys = config.keys();
  config.type(family == "qwen3next" ? "qwen3_next" : family == "qwen35" ? "qwen3_5_text" : "qwen3_5_moe_text");
  config.attention_keys();
  config.integers({{"ssm.conv_kernel", "linear_conv_kernel_dim"},
                   {"ssm.state_size", "linear_key_head_dim"},
                   {"ssm.group_count", "linear_num_key_heads"},
                   {"ssm.time_step_rank", "linear_num_value_heads"},
                   {"feed_forward_length", "intermediate_size"},
                   {"expert_count", "num_experts"},
                   {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"}});
  config.expert_keys();
  config.set("linear_value_head_dim", config.ratio("ssm.inner_size", "ssm.time_step_rank"));
  config.numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}});
  if (const auto part = config.rotated_part()) config.set("partial_rotary_factor", *part);
  // The three positions of a text's token are equal; the order of value heads concerns the tensors only. The last four are Ollama's.
  for (const std::string_view key :
       {"rope.dimension_sections", "mrope_sections", "rope.mrope_section", "rope.mrope_interleaved", "ssm.v_head_reordered"})
    static_cast<void>(keys.find(key));
  config.expect_experts(1, true);
  if (keys.boolean("norm_top_k_prob") == false)
    config.wrong("norm_top_k_prob", "false", "true: the weights of experts are divided by their sum");
  if (family == "qwen3next" && keys.integer("expert_count").value_or(0) > 0) config.set("norm_topk_prob", true);
  config.set("norm_weights_include_one", true);
  const Index interval = keys.integer("full_attention_interval").value_or(4);
  if (interval < 1) raise(ErrorKind::file, keys.where(), ": full_attention_interval is ", interval, ", expected at least 1");
  // A list of layers takes precedence over the interval.
  const bool listed = keys.has("attention.recurrent_layers");
  config.layer_kinds("layer_types", [&](Index layer) {
    const bool full = listed ? !keys.flag_of_layer("attention.recurrent_layers", layer) : (layer + 1) % interval == 0;
    return std::string(full ? "full_attention" : "linear_attention");
  });
  return true;
}

[[nodiscard]] inline bool gguf_falcon_h1_keys(GgufConfigurationWriter& config) {
  config.type("falcon_h1");
  config.attention_keys();
  config.expect_whole_rotation();
  config.integers({{"ssm.conv_kernel", "mamba_d_conv"},
                   {"ssm.inner_size", "mamba_d_ssm"},
                   {"ssm.state_size", "mamba_d_state"},
                   {"ssm.time_step_rank", "mamba_n_heads"},
                   {"ssm.group_count", "mamba_n_groups"},
                   {"feed_forward_length", "intermediate_size"}});
  config.set("mamba_d_head", config.ratio("ssm.inner_size", "ssm.time_step_rank"));
  config.numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}});
  config.set("mamba_rms_norm", config.has_tensor("blk.0.ssm_norm.weight"));
  config.set("mamba_norm_before_gate", false);
  // The converter has multiplied all of them into the tensors. A tied head then has the embedding's multiplier instead of its own: all
  // logits are off by one factor, which the file does not hold.
  for (const std::string_view folded : {"embedding_multiplier", "lm_head_multiplier", "attention_in_multiplier", "attention_out_multiplier",
                                        "key_multiplier", "ssm_in_multiplier", "ssm_out_multiplier"})
    config.set(folded, 1.0);
  config.set("multipliers_folded", true);
  return true;
}

[[nodiscard]] inline bool gguf_granite_keys(GgufConfigurationWriter& config) {
  const GgufKeys& keys = config.keys();
  // Bamba is converted to the same architecture; Granite's multipliers tell them apart.
  const std::array<std::string_view, 4> scales{"attention.scale", "embedding_scale", "residual_scale", "logit_scale"};
  const bool rotary = keys.boolean("rope.scaling.finetuned").value_or(true);  // positions are on where the key is missing
  const bool bamba = std::none_of(scales.begin(), scales.end(), [&](std::string_view key) { return keys.has(key); });
  if (bamba && !rotary)
    config.wrong("rope.scaling.finetuned", "false", "true, as Bamba's files have it: there are none of Granite's scales");
  config.type(bamba ? "bamba" : "granitemoehybrid");
  config.expect_experts(1, true);
  config.integers({{"attention.head_count", "num_attention_heads"},
                   {"attention.head_count_kv", "num_key_value_heads"},
                   {"ssm.conv_kernel", "mamba_d_conv"},
                   {"ssm.state_size", "mamba_d_state"},
                   {"ssm.time_step_rank", "mamba_n_heads"},
                   {"ssm.group_count", "mamba_n_groups"}});
  config.set("mamba_d_head", config.ratio("ssm.inner_size", "ssm.time_step_rank"));
  config.numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}, {"rope.freq_base", "rope_theta"}});
  if (bamba) {
    config.integers({{"rope.dimension_count", "attn_rotary_emb"}, {"feed_forward_length", "intermediate_size"}});
  } else {
    // A scale of 0 means none; attention then has the usual one.
    const auto scale = [&](std::string_view key, std::string_view ours) {
      const bool there = keys.number(key).value_or(0) != 0;
      if (there) config.set(ours, config.shortest(*keys.number(key)));
      return there;
    };
    if (!scale("attention.scale", "attention_multiplier"))
      config.set("attention_multiplier", 1 / std::sqrt(static_cast<double>(config.head_width())));
    for (const auto& [key, ours] : {std::pair("embedding_scale", "embedding_multiplier"),
                                    std::pair("residual_scale", "residual_multiplier"), std::pair("logit_scale", "logits_scaling")})
      static_cast<void>(scale(key, ours));
    if (rotary) config.expect_whole_rotation();
    config.set("position_embedding_type", std::string(rotary ? "rope" : "nope"));
    const Index experts = keys.integer("expert_count").value_or(0);
    config.set("num_local_experts", experts);
    config.set("num_experts_per_tok", experts == 0 ? Index{0} : keys.integer("expert_used_count").value_or(0));
    if (experts > 0) config.integers({{"feed_forward_length", "intermediate_size"}});
    const bool shared = experts > 0 || keys.integer("expert_shared_feed_forward_length").value_or(0) > 0;
    config.integers({{shared ? "expert_shared_feed_forward_length" : "feed_forward_length", "shared_intermediate_size"}});
  }
  config.layer_kinds("layer_types", [&](Index layer) { return std::string(config.has_attention(layer) ? "attention" : "mamba"); });
  return rotary;
}

[[nodiscard]] inline bool gguf_nemotron_keys(GgufConfigurationWriter& config) {
  const GgufKeys& keys = config.keys();
  config.type("nemotron_h");
  config.attention_keys();
  config.integers({{"ssm.conv_kernel", "conv_kernel"},
                   {"ssm.state_size", "ssm_state_size"},
                   {"ssm.time_step_rank", "mamba_num_heads"},
                   {"ssm.group_count", "n_groups"},
                   {"feed_forward_length", "intermediate_size"},
                   {"expert_count", "n_routed_experts"},
                   {"expert_shared_count", "n_shared_experts"},
                   {"expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size"},
                   {"expert_group_count", "n_group"},
                   {"expert_group_used_count", "topk_group"},
                   {"moe_latent_size", "moe_latent_size"}});
  config.expert_keys();
  config.set("mamba_head_dim", config.ratio("ssm.inner_size", "ssm.time_step_rank"));
  config.numbers({{"attention.layer_norm_rms_epsilon", "layer_norm_epsilon"}, {"expert_weights_scale", "routed_scaling_factor"}});
  const auto renormalised = keys.boolean("expert_weights_norm");
  if (renormalised) config.set("norm_topk_prob", *renormalised);
  config.expect_scores(2);
  config.layer_kinds("layers_block_type", [&](Index layer) {
    if (config.has_attention(layer)) return std::string("attention");
    if (keys.of_layer("feed_forward_length", layer) <= 0) return std::string("mamba");
    return std::string(config.has_tensor(message("blk.", layer, ".ffn_gate_inp.weight")) ? "moe" : "mlp");
  });
  return false;
}

[[nodiscard]] inline bool gguf_lfm2_keys(GgufConfigurationWriter& config) {
  const std::string& family = config.keys().architecture();
  const GgufKeys& keys = config.keys();
  config.type(family == "lfm2" ? "lfm2" : "lfm2_moe");
  config.attention_keys();
  config.integers(
      {{"shortconv.l_cache", "conv_L_cache"}, {"expert_count", "num_experts"}, {"leading_dense_block_count", "num_dense_layers"}});
  config.expert_keys();
  config.expect_experts(2, true);
  if (family == "lfm2moe") config.set("use_expert_bias", config.has_tensor(message("blk.", keys.layers() - 1, ".exp_probs_b.bias")));
  config.expect_whole_rotation();
  config.set("block_auto_adjust_ff_dim", false);  // the tensors have the width; not every converter writes the adjusted one
  config.numbers({{"attention.layer_norm_rms_epsilon", "norm_eps"}});
  config.layer_kinds("layer_types", [&](Index layer) { return std::string(config.has_attention(layer) ? "full_attention" : "conv"); });
  return true;
}

[[nodiscard]] inline bool gguf_jamba_keys(GgufConfigurationWriter& config) {
  config.type("jamba");
  config.integers({{"attention.head_count", "num_attention_heads"},
                   {"attention.head_count_kv", "num_key_value_heads"},
                   {"ssm.conv_kernel", "mamba_d_conv"},
                   {"ssm.state_size", "mamba_d_state"},
                   {"ssm.time_step_rank", "mamba_dt_rank"},
                   {"feed_forward_length", "intermediate_size"},
                   {"expert_count", "num_experts"},
                   {"expert_used_count", "num_experts_per_tok"}});
  config.set("mamba_expand", config.ratio("ssm.inner_size", "embedding_length"));
  config.expect_experts(1, false);
  config.numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}});
  config.layer_kinds("layers_block_type", [&](Index layer) { return std::string(config.has_attention(layer) ? "attention" : "mamba"); });
  return false;
}

[[nodiscard]] inline bool gguf_kimi_keys(GgufConfigurationWriter& config) {
  const GgufKeys& keys = config.keys();
  config.type("kimi_linear");
  config.integers({{"attention.head_count", "num_attention_heads"},
                   {"attention.head_count", "linear_attn_config.num_heads"},
                   {"kda.head_dim", "linear_attn_config.head_dim"},
                   {"ssm.conv_kernel", "linear_attn_config.short_conv_kernel_size"},
                   {"attention.q_lora_rank", "q_lora_rank"},
                   {"attention.kv_lora_rank", "kv_lora_rank"},
                   {"rope.dimension_count", "qk_rope_head_dim"},
                   {"attention.value_length_mla", "v_head_dim"},
                   {"feed_forward_length", "intermediate_size"},
                   {"expert_count", "num_experts"},
                   {"expert_used_count", "num_experts_per_token"},
                   {"expert_feed_forward_length", "moe_intermediate_size"},
                   {"expert_shared_count", "num_shared_experts"},
                   {"expert_group_count", "num_expert_group"},
                   {"expert_group_used_count", "topk_group"},
                   {"leading_dense_block_count", "first_k_dense_replace"}});
  if (const auto whole = keys.integer("attention.key_length_mla"), rotated = keys.integer("rope.dimension_count"); whole && rotated)
    config.set("qk_nope_head_dim", *whole - *rotated);
  config.numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}, {"expert_weights_scale", "routed_scaling_factor"}});
  const auto renormalised = keys.boolean("expert_weights_norm");
  if (renormalised) config.set("moe_renormalize", *renormalised);
  config.expect_scores(2);
  config.layer_kinds("layer_types",
                     [&](Index layer) { return std::string(config.has_attention(layer) ? "full_attention" : "linear_attention"); });
  return false;
}

/// The function for each architecture that is read.
struct GgufFamilyKeys {
  std::string_view architecture;
  bool (*translate)(GgufConfigurationWriter& config);
};
inline constexpr std::array<GgufFamilyKeys, 15> gguf_family_keys{{{"mamba", gguf_mamba_keys},
                                                                  {"mamba2", gguf_mamba_keys},
                                                                  {"rwkv6", gguf_rwkv_keys},
                                                                  {"rwkv7", gguf_rwkv_keys},
                                                                  {"qwen35", gguf_qwen_keys},
                                                                  {"qwen35moe", gguf_qwen_keys},
                                                                  {"qwen3next", gguf_qwen_keys},
                                                                  {"falcon-h1", gguf_falcon_h1_keys},
                                                                  {"granitehybrid", gguf_granite_keys},
                                                                  {"nemotron_h", gguf_nemotron_keys},
                                                                  {"nemotron_h_moe", gguf_nemotron_keys},
                                                                  {"lfm2", gguf_lfm2_keys},
                                                                  {"lfm2moe", gguf_lfm2_keys},
                                                                  {"jamba", gguf_jamba_keys},
                                                                  {"kimi-linear", gguf_kimi_keys}}};

static_assert(std::all_of(gguf_families.begin(), gguf_families.end(),
                          [](const GgufFamily& family) {
                            return family.architecture == "bamba" ||  // files call it granitehybrid
                                   std::any_of(gguf_family_keys.begin(), gguf_family_keys.end(),
                                               [&](const GgufFamilyKeys& keys) { return keys.architecture == family.architecture; });
                          }),
              "a family whose tensors are named has keys that are translated");

/// A model's configuration, from its metadata and, for what only they tell, its tensors. Fails (file) on a key that may change the model
/// and is not understood.
[[nodiscard]] inline Configuration gguf_configuration(const GgufKeys& keys, const GgufConfigurationWriter::Tensors& tensors) {
  GgufConfigurationWriter config(keys, tensors);
  config.expect_layers_that_are_there();
  config.set("num_hidden_layers", keys.layers());
  config.integers({{"embedding_length", "hidden_size"}});
  if (const auto found = tensors.find("token_embd.weight"); found != tensors.end() && !found->second.shape.empty())
    config.set("vocab_size", found->second.shape.front());
  config.set("tie_word_embeddings", !config.has_tensor("output.weight"));
  bool rotary = false;
  for (const GgufFamilyKeys& family : gguf_family_keys)
    if (family.architecture == keys.architecture()) rotary = family.translate(config);
  if (keys.boolean("attention.causal") == false)
    config.wrong("attention.causal", "false", "true: a token that reads later ones is not supported");
  keys.expect_all_understood(rotary);
  return config.take();
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
