// How the public checkpoints of each family name what GGUF names for all alike; a family is a line.
#pragma once

#include <array>
#include <string_view>

#include <implicit_attention/config.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
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

/// What GGUF calls tensors outside the layers, and in a layer after `blk.N.`; most weights may have a bias beside them.
inline constexpr std::array<std::string_view, 4> gguf_outer_names{"token_embd.weight", "token_embd_norm.weight", "output_norm.weight", "output.weight"};
inline constexpr std::array<std::string_view, 94> gguf_layer_names{
    "attn_norm.weight", "ffn_norm.weight", "post_attention_norm.weight", "attn_norm_2.weight", "shortconv.in_proj.weight",
    "shortconv.conv.weight", "shortconv.out_proj.weight", "ssm_a", "ssm_d", "ssm_conv1d.weight", "ssm_conv1d_q.weight",
    "ssm_conv1d_k.weight", "ssm_conv1d_v.weight", "ssm_dt.weight", "ssm_dt_norm.weight", "ssm_b_norm.weight", "ssm_c_norm.weight",
    "ssm_norm.weight", "ssm_out.weight", "attn_qkv.weight", "attn_gate.weight", "ssm_alpha.weight", "ssm_beta.weight", "ssm_ba.weight",
    "ssm_in.weight", "ssm_x.weight", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight", "attn_q.weight",
    "attn_k.weight", "attn_v.weight", "attn_output.weight", "attn_q_norm.weight", "attn_k_norm.weight", "attn_q_a.weight",
    "attn_q_a_norm.weight", "attn_q_b.weight", "attn_kv_a_mqa.weight", "attn_kv_a_norm.weight", "attn_kv_b.weight", "attn_k_b.weight",
    "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight", "ffn_gate_inp.weight", "exp_probs_b.bias", "ffn_gate_exps.weight",
    "ffn_up_exps.weight", "ffn_down_exps.weight", "ffn_gate_up_exps.weight", "ffn_gate_inp_shexp.weight", "ffn_gate_shexp.weight",
    "ffn_up_shexp.weight", "ffn_down_shexp.weight", "ffn_latent_down.weight", "ffn_latent_up.weight", "time_mix_ln.weight",
    "time_mix_output.weight", "time_mix_key.weight", "time_mix_value.weight", "time_mix_receptance.weight", "time_mix_gate.weight",
    "time_mix_lerp_fused.weight", "time_mix_lerp_x.weight", "time_mix_lerp_w.weight", "time_mix_lerp_k.weight", "time_mix_lerp_v.weight",
    "time_mix_lerp_r.weight", "time_mix_lerp_g.weight", "time_mix_first.weight", "time_mix_decay.weight", "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_a0.weight",
    "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_g1.weight",
    "time_mix_g2.weight", "time_mix_k_k.weight", "time_mix_k_a.weight", "time_mix_r_k.weight", "channel_mix_lerp_k.weight",
    "channel_mix_lerp_r.weight", "channel_mix_key.weight", "channel_mix_value.weight", "channel_mix_receptance.weight"};
// clang-format on

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
