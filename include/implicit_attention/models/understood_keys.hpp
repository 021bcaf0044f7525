// Which keys of a public configuration have no effect on a forward pass, and the check that a loader asked for every other one.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The first part of a key; below `text_config`, in multimodal models, the second: `rope_parameters` of
/// `text_config.rope_parameters.rope_theta`.
template <class = void>
[[nodiscard]] std::string_view top_key(std::string_view key) {
  if (constexpr std::string_view nested = "text_config."; key.compare(0, nested.size(), nested) == 0) key.remove_prefix(nested.size());
  return key.substr(0, key.find('.'));
}

/// Keys of public configurations that describe, initialise or train, and change nothing of a forward pass.
template <class = void>
[[nodiscard]] bool describes_only(std::string_view key) {
  const std::string_view top = top_key(key);
  for (const std::string_view known :
       {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "auto_map", "use_cache", "chunk_size",
        "mamba_chunk_size", "residual_in_fp32", "fused_add_norm", "rms_norm_fused", "time_step_min", "time_step_max", "time_step_floor",
        "time_step_init_scheme", "time_step_scale", "rescale_prenorm_residual", "initializer_range", "initializer_factor", "vocab_size",
        "max_position_embeddings", "context_length", "max_sequence_length", "use_mamba_kernels", "num_logits_to_keep",
        "output_router_logits", "router_aux_loss_coef", "pad_vocab_size_multiple", "id2label", "label2id", "task_specific_params",
        "return_dict", "is_encoder_decoder", "tokenizer_class", "names", "form", "case", "layer", "architecture", "seed", "mamba_expand",
        "keys_to_ignore", "vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
        "mtp_num_hidden_layers", "mamba_dt_min", "mamba_dt_max", "mamba_dt_init_floor", "use_mem_eff_path", "attn_implementation",
        "use_bidirectional_attention", "rescale_every", "w_init_variance_scale", "final_w_init_variance_scale", "generation_config",
        "use_mambapy", "use_falcon_mambapy", "use_associative_scan", "mamba_ssm_cache_dtype", "mamba_ssm_dtype",
        "moe_shared_expert_overlap", "num_nextn_predict_layers", "mtp_layers_block_type", "mtp_hybrid_override_pattern",
        "mlp_expansion_factor", "linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max", "linear_dt_init_floor",
        "pretraining_tp", "z_loss_coefficient", "n_ctx", "is_decoder", "torchscript", "use_bfloat16", "tf_legacy_loss", "finetuning_task",
        "problem_type", "chunk_size_feed_forward", "gradient_checkpointing", "unsloth_version", "unsloth_fixed", "language_model_only",
        // of generating text, which older versions of transformers write into every configuration
        "bad_words_ids", "begin_suppress_tokens", "suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids",
        "force_bos_token_insert", "force_words_ids", "sequence_bias", "stop_strings", "max_length", "max_new_tokens", "min_length",
        "min_new_tokens", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "num_return_sequences", "diversity_penalty",
        "length_penalty", "repetition_penalty", "encoder_repetition_penalty", "exponential_decay_length_penalty", "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size", "top_p", "typical_p", "remove_invalid_values", "return_dict_in_generate", "output_scores",
        "output_attentions", "output_hidden_states", "penalty_alpha", "renormalize_logits", "epsilon_cutoff", "eta_cutoff", "min_p"})
    if (top == known) return true;
  // What the authors' code of Mamba and Mamba-2 is told of initialisation and of how to compute.
  if (constexpr std::string_view layer = "ssm_cfg."; key.substr(0, layer.size()) == layer)
    for (const std::string_view known : {"A_init_range", "conv_init", "dt_init", "dt_scale", "dt_min", "dt_max", "dt_init_floor",
                                         "chunk_size", "use_mem_eff_path", "use_fast_path", "sequence_parallel"})
      if (key.substr(layer.size()) == known) return true;
  const auto ends = [&](std::string_view end) { return top.size() >= end.size() && top.substr(top.size() - end.size()) == end; };
  return top.substr(0, 1) == "_" || ends("_token_id") || ends("_dropout") || ends("dropout") || ends("_dropout_prob") ||
         ends("_init_scale") || ends("_xavier_init") || ends("_loss_coef") || ends("_layer_name");
}

/// Two more keys of generating text, which by themselves are a number of experts and a scale of scores: beside `model_type` they are what
/// transformers writes. No family here takes either from a whole model's configuration.
template <class = void>
[[nodiscard]] bool generates_only(const Configuration& configuration, std::string_view key) {
  for (const std::string_view known : {"top_k", "temperature", "text_config.top_k", "text_config.temperature"})
    if (key == known) return configuration.has("model_type");
  return false;
}

/// Whether a key's own value switches something off: false, 0, an empty text or list.
template <class = void>
[[nodiscard]] bool is_off(const Configuration& configuration, std::string_view key) {
  const auto of = [](const auto& typed) {
    using Type = std::decay_t<decltype(typed)>;
    if constexpr (std::is_arithmetic_v<Type>)
      return typed == Type(0);
    else
      return typed.empty();
  };
  return configuration.has(key) && std::visit(of, *configuration.find(key));
}

/// Fails on the mark of quantised weights (transformers', MLX's), before any tensor is read: what is stored then are codes, and scales
/// beside them.
template <class = void>
[[gnu::cold]] void expect_not_quantised(const Configuration& configuration) {
  const std::vector<std::string> keys = configuration.keys();
  for (const std::string_view key : {"quantization_config", "text_config.quantization_config", "quantization"}) {
    const std::string inner = message(key, ".");
    if ((!configuration.has(key) || is_off(configuration, key)) &&
        std::none_of(keys.begin(), keys.end(), [&](const std::string& name) { return name.compare(0, inner.size(), inner) == 0; }))
      continue;
    const std::string method = inner + "quant_method";
    const Configuration::Value* const value = configuration.has(method) ? configuration.find(method) : nullptr;
    const std::string* const name = value == nullptr ? nullptr : std::get_if<std::string>(value);
    raise(ErrorKind::value, configuration.where(), ": key ", key, " says that the weights are quantised",
          name == nullptr ? std::string() : message(" by ", printable(*name)),
          ", which is not read here; expected the folder that they were made from, or a GGUF file");
  }
}

/// Keys of a whole model's configuration that a layer read by itself has nothing to do with. What one family says of its other parts may be
/// an option of a layer elsewhere (`norm_eps`, `attention_hidden_size`): such a key is let pass where `model_type` names the family only.
template <class = void>
[[nodiscard]] bool concerns_other_parts(const Configuration& configuration, std::string_view key) {
  using Names = std::vector<std::string_view>;
  struct Owned {
    Names types, keys;
  };
  static const Names common = {"num_hidden_layers",
                               "n_layer",
                               "tie_word_embeddings",
                               "tie_embeddings",
                               "intermediate_size",
                               "hidden_act",
                               "layer_types",
                               "layers_block_type",
                               "attn_layer_indices",
                               "head_dim_attention",
                               "hidden_size",
                               "d_model",
                               "lm_head_multiplier",
                               "embedding_multiplier",
                               "logits_scaling",
                               "residual_multiplier",
                               "attention_multiplier",
                               "sliding_window",
                               "mlp_bias",
                               "num_experts",
                               "num_local_experts",
                               "num_experts_per_tok",
                               "logits_soft_cap",
                               "embeddings_scale_by_sqrt_dim",
                               "attention_window_size",
                               "norm_epsilon",
                               "d_intermediate",
                               "attn_layer_idx",
                               "attn_cfg"};
  static const std::vector<Owned> owned = {
      // softmax attention beside the layer, and experts, of all hybrids
      {{"nemotron_h", "granitemoehybrid", "falcon_h1", "zamba2", "jamba", "bamba", "qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe",
        "qwen3_5_moe_text", "olmo_hybrid", "kimi_linear", "lfm2", "lfm2_moe", "recurrent_gemma"},
       {"num_attention_heads", "num_key_value_heads", "head_dim", "attention_bias", "rope_theta", "rope_parameters", "rope_scaling",
        "partial_rotary_factor", "norm_topk_prob", "moe_intermediate_size"}},
      {{"qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"},
       {"attn_output_gate", "full_attention_interval", "shared_expert_intermediate_size", "decoder_sparse_step", "mlp_only_layers"}},
      {{"lfm2", "lfm2_moe"},
       {"num_dense_layers", "use_expert_bias", "routed_scaling_factor", "full_attn_idxs", "use_pos_enc", "block_ff_dim",
        "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of", "block_use_swiglu", "block_norm_eps", "block_dim",
        "tie_embedding"}},
      {{"kimi_linear"},
       {"q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "mla_use_nope",
        "moe_layer_freq",
        "moe_renormalize",
        "moe_router_activation_func",
        "num_experts_per_token",
        "num_expert_group",
        "topk_group",
        "use_grouped_topk",
        "num_shared_experts",
        "routed_scaling_factor",
        "first_k_dense_replace",
        "model_max_length",
        "n_group",
        "mlp_layer_types",
        "n_routed_experts",
        "n_shared_experts",
        "qk_head_dim",
        "dense_ffn_hidden",
        "activation_situ_beta",
        "activation_situ_linear_beta"}},
      // rms_norm_eps here and in Zamba2, and layer_norm_epsilon in Mamba, are those of the blocks' norms; the mixer's own has another
      {{"nemotron_h"},
       {"n_routed_experts", "n_shared_experts", "n_group", "topk_group", "routed_scaling_factor", "moe_shared_expert_intermediate_size",
        "moe_latent_size", "mlp_hidden_act", "hybrid_override_pattern", "attention_head_dim", "norm_eps", "rms_norm_eps",
        "time_step_rank"}},
      {{"zamba2"},
       {"attention_head_dim", "attention_hidden_size", "kv_channels", "num_query_groups", "ffn_hidden_size", "use_mem_rope",
        "use_long_context", "adapter_rank", "num_mem_blocks", "use_shared_attention_adapter", "use_shared_mlp_adapter", "hybrid_layer_ids",
        "rms_norm_eps"}},
      {{"mamba", "falcon_mamba"}, {"layer_norm_epsilon"}},
      {{"granitemoehybrid"}, {"shared_intermediate_size", "position_embedding_type", "init_method", "normalization_function"}},
      {{"falcon_h1"},
       {"mlp_multipliers", "mamba_use_mlp", "key_multiplier", "attention_in_multiplier", "attention_out_multiplier", "ssm_out_multiplier"}},
      {{"jamba"}, {"attn_layer_offset", "attn_layer_period", "expert_layer_offset", "expert_layer_period"}},
      {{"recurrent_gemma"}, {"block_types", "rms_norm_eps"}},
      {{"bamba"}, {"attn_rotary_emb"}}};
  const auto in = [](const Names& names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  if (in(common, top_key(key))) return true;
  // In a multimodal model the two differ, and the whole model's counts.
  const std::string nested = configuration.text({"text_config.model_type"}).value_or("");
  const std::string type = configuration.text({"model_type"}).value_or(nested);
  return std::any_of(owned.begin(), owned.end(), [&](const Owned& row) { return in(row.types, type) && in(row.keys, top_key(key)); });
}

/// Fails on a configuration key that the loader did not ask for: it may change the model. Keys that only describe are let pass, and so
/// are values that switch something off (false, 0, an empty list) in the configuration of a whole model, of which public code writes
/// hundreds. A layer's own configuration, which names no model, says what the layer is: `rmsnorm: false` in it is a key to be refused as
/// `rmsnorm: true` is. A list that is of no use here (of lists, of truth values) is on.
template <class = void>
[[gnu::cold]] void expect_all_understood(const Configuration& configuration, std::string_view architecture, bool layer_alone = false) {
  const bool whole =
      !layer_alone || configuration.has("model_type") || configuration.has("text_config.model_type") || configuration.has("architectures");
  for (const std::string& key : configuration.keys()) {
    if (configuration.asked(key) || describes_only(key) || generates_only(configuration, key) ||
        (layer_alone && concerns_other_parts(configuration, key)))
      continue;
    if (!whole || !is_off(configuration, key))
      raise(ErrorKind::value, configuration.where(), ": key ", printable(key), " is not understood by ", architecture,
            ", expected no key that may change the model; remove it if it changes nothing");
  }
}

template <class = void>
[[gnu::cold]] void expect_layer_understood(const Configuration& configuration, std::string_view title) {
  expect_all_understood(configuration, title, true);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
