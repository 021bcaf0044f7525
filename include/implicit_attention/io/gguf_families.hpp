// How the public checkpoints of each family name what GGUF names for all alike; a family is a line.
#pragma once

#include <array>
#include <string_view>

#include <implicit_attention/config.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// How a family's public checkpoints name what GGUF names for all alike.
struct GgufFamily {
  std::string_view architecture;
  std::string_view layers, embedding, final_norm;
  std::string_view mixer, attention;               ///< prefixes below a layer
  std::string_view mixer_norm, feed_forward_norm;  ///< norms before the two
  std::string_view feed_forward;
  std::array<std::string_view, 3> gate_up_down;
  std::string_view router, correction, experts;
  std::array<std::string_view, 3> expert_gate_up_down;
  std::string_view shared;
};

inline constexpr std::array<std::string_view, 3> gguf_proj{"gate_proj", "up_proj", "down_proj"};
inline constexpr std::array<std::string_view, 3> gguf_w132{"w1", "w3", "w2"};
// clang-format off
inline constexpr std::array<GgufFamily, 14> gguf_families{{
    {"mamba", "backbone.layers.", "backbone.embeddings", "backbone.norm_f", "mixer.", "mixer.", "norm", "", "", gguf_proj, "", "", "", gguf_proj, ""},
    {"mamba2", "backbone.layers.", "backbone.embeddings", "backbone.norm_f", "mixer.", "mixer.", "norm", "", "", gguf_proj, "", "", "", gguf_proj, ""},
    {"qwen35", "model.layers.", "model.embed_tokens", "model.norm", "linear_attn.", "self_attn.", "input_layernorm", "post_attention_layernorm", "mlp.", gguf_proj, "mlp.gate", "", "", gguf_proj, "mlp.shared_expert."},
    {"qwen35moe", "model.layers.", "model.embed_tokens", "model.norm", "linear_attn.", "self_attn.", "input_layernorm", "post_attention_layernorm", "mlp.", gguf_proj, "mlp.gate", "", "mlp.experts.", gguf_proj, "mlp.shared_expert."},
    {"qwen3next", "model.layers.", "model.embed_tokens", "model.norm", "linear_attn.", "self_attn.", "input_layernorm", "post_attention_layernorm", "mlp.", gguf_proj, "mlp.gate", "", "mlp.experts.", gguf_proj, "mlp.shared_expert."},
    {"falcon-h1", "model.layers.", "model.embed_tokens", "model.final_layernorm", "mamba.", "self_attn.", "input_layernorm", "pre_ff_layernorm", "feed_forward.", gguf_proj, "", "", "", gguf_proj, ""},
    {"granitehybrid", "model.layers.", "model.embed_tokens", "model.norm", "mamba.", "self_attn.", "input_layernorm", "post_attention_layernorm", "shared_mlp.", {"", "", "output_linear"}, "block_sparse_moe.router.layer", "", "block_sparse_moe.", {"", "", "output_linear"}, "shared_mlp."},
    {"bamba", "model.layers.", "model.embed_tokens", "model.final_layernorm", "mamba.", "self_attn.", "input_layernorm", "pre_ff_layernorm", "feed_forward.", gguf_proj, "", "", "", gguf_proj, ""},
    {"nemotron_h", "backbone.layers.", "backbone.embeddings", "backbone.norm_f", "mixer.", "mixer.", "norm", "", "mixer.", gguf_proj, "mixer.gate", "mixer.gate.e_score_correction_bias", "mixer.experts.", gguf_proj, "mixer.shared_experts."},
    {"nemotron_h_moe", "backbone.layers.", "backbone.embeddings", "backbone.norm_f", "mixer.", "mixer.", "norm", "", "mixer.", gguf_proj, "mixer.gate", "mixer.gate.e_score_correction_bias", "mixer.experts.", gguf_proj, "mixer.shared_experts."},
    {"lfm2", "model.layers.", "model.embed_tokens", "model.embedding_norm", "conv.", "self_attn.", "operator_norm", "ffn_norm", "feed_forward.", gguf_w132, "", "", "", gguf_w132, ""},
    {"lfm2moe", "model.layers.", "model.embed_tokens", "model.embedding_norm", "conv.", "self_attn.", "operator_norm", "ffn_norm", "feed_forward.", gguf_w132, "feed_forward.gate", "feed_forward.expert_bias", "feed_forward.experts.", gguf_w132, ""},
    {"jamba", "model.layers.", "model.embed_tokens", "model.final_layernorm", "mamba.", "self_attn.", "input_layernorm", "pre_ff_layernorm", "feed_forward.", gguf_proj, "feed_forward.router", "", "feed_forward.experts.", gguf_proj, ""},
    {"kimi-linear", "model.layers.", "model.embed_tokens", "model.norm", "self_attn.", "self_attn.", "input_layernorm", "post_attention_layernorm", "mlp.", gguf_proj, "block_sparse_moe.gate", "block_sparse_moe.gate.e_score_correction_bias", "block_sparse_moe.experts.", gguf_w132, "block_sparse_moe.shared_experts."},
}};
// clang-format on

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
