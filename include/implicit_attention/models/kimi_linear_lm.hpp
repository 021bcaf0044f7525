// KimiLinearForCausalLM (arXiv 2510.26692): Kimi Delta Attention, latent attention without positions in every fourth layer, and experts.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/layers/latent_attention.hpp>
#include <implicit_attention/models/decoder.hpp>
#include <implicit_attention/models/delta_rule_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// s = sigmoid(gate u); the best k of s + bias; w = s of these, / (sum + 1e-20) if moe_renormalize and k > 1;
/// out = routed_scaling_factor sum w expert(u) + shared(u). Experts of groups that are not chosen are left out, not scored 0.
template <Real Scalar>
[[nodiscard, gnu::cold]] MixtureOfExperts<Scalar> read_kimi_experts(const PrefixedTensors<Scalar>& tensors,
                                                                    const Configuration& configuration) {
  typename MixtureOfExperts<Scalar>::Weights w;
  typename MixtureOfExperts<Scalar>::Options options;
  w.router_weight = tensors.required("gate.weight", 2);
  w.correction_bias = tensors.required("gate.e_score_correction_bias", 1);
  w.experts = read_routed_experts(tensors, configuration, w.router_weight.rows());
  if (has_shared_experts(tensors))
    w.shared = GatedFeedForward<Scalar>::from_tensors(PrefixedTensors<Scalar>(tensors.source(), tensors.prefix() + "shared_experts."),
                                                      Function::silu);
  const Index inner = std::max(w.experts.empty() ? Index(1) : w.experts.front().inner_width(), Index(1));
  // Every key has two spellings, the checkpoint's own and that of transformers, which reads both; they must agree.
  expect_integer(configuration, {"n_routed_experts", "num_local_experts"}, w.router_weight.rows(), "the router has that many rows");
  expect_integer(configuration, {"num_shared_experts", "n_shared_experts"}, w.shared ? w.shared->inner_width() / inner : 0,
                 message(tensors.name_in_file("shared_experts"), " is as wide as that many experts"));
  expect_text(configuration, "moe_router_activation_func", {"sigmoid"}, "no other scores of experts are read here");
  options.scores = RouterScores::sigmoid;
  options.choice.chosen = required_integer(configuration, {"num_experts_per_token", "num_experts_per_tok"});
  const Index groups = configuration.integer({"num_expert_group", "n_group"}).value_or(1),
              kept = configuration.integer({"topk_group"}).value_or(1);
  static_cast<void>(configuration.boolean({"use_grouped_topk"}));
  options.choice.groups = groups;
  options.choice.chosen_groups = kept;
  expect_choice(configuration, options.choice, w.router_weight.rows());
  if (kept == groups) options.choice.groups = options.choice.chosen_groups = 1;
  // With one expert a token the checkpoint's own code does not renormalise; transformers does.
  const bool renormalize = configuration.boolean({"moe_renormalize", "norm_topk_prob"}).value_or(true);
  options.normalize = renormalize && options.choice.chosen > 1;
  options.normalize_eps = 1e-20;
  options.scaling = read_factor<Scalar>(configuration, "routed_scaling_factor");
  return MixtureOfExperts<Scalar>(std::move(w), options);
}

}  // namespace detail

/// Reads a Kimi Linear language model. Tensors tell the kind of a layer; from the configuration it takes
/// linear_attn_config.num_heads (linear_num_heads in files of transformers' own port) and .gate_lower_bound (none), num_attention_heads,
/// rms_norm_eps (1e-5), num_experts_per_token, num_expert_group, topk_group, moe_renormalize (true), routed_scaling_factor (1); every other
/// key must agree with the weights. Nothing is rotated, whatever rope_theta says. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_kimi_linear_lm(const TensorSource<Scalar>& source,
                                                                   const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"kimi_linear"}, "the tensors are those of a Kimi Linear language model");
  detail::expect_boolean(configuration, {"mla_use_nope"}, true, "latent attention with rotary positions is not read here");
  detail::expect_boolean(configuration, {"mla_use_output_gate"}, false, "latent attention with an output gate is not read here");
  detail::expect_integer(configuration, {"attn_res_block_size"}, 0, "attention over the residuals of earlier blocks is not read here");
  // These change nothing: the betas belong to an activation that hidden_act would name. dense_ffn_hidden is checked where layers have it.
  detail::ignore_keys(configuration, {"rope_theta", "head_dim", "model_max_length", "num_nextn_predict_layers", "activation_situ_beta",
                                      "activation_situ_linear_beta", "dense_ffn_hidden"});
  LanguageModelParts<Scalar> parts;
  parts.name = "KimiLinearForCausalLM";
  const Index layers = detail::begin_decoder(source, configuration, "model.", parts);
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-5);
  typename Kda<Scalar>::Options linear;
  linear.key_heads = detail::required_integer(configuration, {"linear_attn_config.num_heads", "linear_num_heads"});
  linear.norm_eps = eps;
  linear.lower_bound = configuration.number({"linear_attn_config.gate_lower_bound"}).value_or(0.0);
  typename LatentAttention<Scalar>::Options full;
  full.heads = detail::required_integer(configuration, {"num_attention_heads"});
  full.norm_eps = 1e-6;  // as the checkpoint's own code and transformers have it; engines take rms_norm_eps
  const Index dense_layers = configuration.integer({"first_k_dense_replace"}).value_or(0);
  if (dense_layers < 0)
    detail::raise(ErrorKind::value, configuration.where(), ": key first_k_dense_replace is ", dense_layers, ", expected at least 0");
  const Index frequency = configuration.find("moe_layer_freq") != nullptr ? detail::required_integer(configuration, {"moe_layer_freq"}) : 1;

  detail::expect_boolean(configuration, {"attention_bias"}, false, "its projections have no biases");
  std::vector<std::string> kinds, feeds;
  bool has_experts = false;
  for (Index layer = 0; layer < layers; ++layer) {
    const std::string name = detail::message("model.layers.", layer, ".");
    const PrefixedTensors<Scalar> block(source, name), attention(source, name + "self_attn.");
    const bool is_full = detail::has_any(attention, {"kv_a_proj_with_mqa.weight", "kv_b_proj.weight"});
    for (const std::string_view key : {"linear_attn_config.full_attn_layers", "linear_attn_config.kda_layers"})  // counted from 1
      detail::expect_layer_is(configuration, key, detail::listed(configuration, key, layer, 1),
                              is_full == (key == "linear_attn_config.full_attn_layers"), layer, "listed");
    kinds.emplace_back(is_full ? "full_attention" : "linear_attention");
    PartPointer<Scalar> mixer;
    if (is_full) {
      LatentAttention<Scalar> read = LatentAttention<Scalar>::from_tensors(attention, full);
      detail::expect_integer(configuration, {"kv_lora_rank"}, read.latent_size(), "kv_b_proj.weight has that many columns");
      detail::expect_integer(configuration, {"qk_nope_head_dim"}, read.own_key_size(), "kv_b_proj.weight has keys that wide");
      detail::expect_integer(configuration, {"qk_rope_head_dim"}, read.shared_key_size(), "kv_a_proj_with_mqa.weight has a key that wide");
      detail::expect_integer(configuration, {"qk_head_dim"}, read.own_key_size() + read.shared_key_size(),
                             "both parts of a key are that wide");
      detail::expect_integer(configuration, {"v_head_dim"}, read.value_size(), "o_proj.weight has that many columns a head");
      detail::expect_integer(configuration, {"q_lora_rank"}, read.weights().q_a_proj_weight.rows(), "q_a_proj.weight has that many rows");
      mixer = mixer_part(std::move(read));
    } else {
      detail::expect_delta_rule_tensors(attention, false);
      Kda<Scalar> read = Kda<Scalar>::from_tensors(attention, linear);
      detail::expect_delta_rule(configuration, read);
      mixer = mixer_part(std::move(read));
    }
    const PrefixedTensors<Scalar> sparse =
        block.below(detail::has_experts(block.below("block_sparse_moe.")) ? "block_sparse_moe." : "mlp.");
    const bool is_sparse = detail::has_experts(sparse);
    has_experts = has_experts || is_sparse;
    feeds.emplace_back(is_sparse ? "sparse" : "dense");
    if (configuration.has("first_k_dense_replace"))
      detail::expect_layer_is(configuration, "first_k_dense_replace", layer >= dense_layers && layer % frequency == 0, is_sparse, layer,
                              "a mixture of experts");
    PartPointer<Scalar> feed_forward;
    if (is_sparse) {
      feed_forward = feed_forward_part(detail::read_kimi_experts(sparse, configuration));
    } else {
      GatedFeedForward<Scalar> dense = detail::read_gated_part(sparse, configuration);
      detail::expect_integer(configuration, {"dense_ffn_hidden"}, dense.inner_width(),
                             "the dense layers' up_proj.weight has that many rows");
      feed_forward = feed_forward_part(std::move(dense));
    }
    parts.blocks.push_back({{{detail::read_rms_norm(block, "input_layernorm", eps), std::move(mixer)},
                             {detail::read_rms_norm(block, "post_attention_layernorm", eps), std::move(feed_forward)}}});
  }
  detail::expect_layer_kinds(configuration, {"layer_types"}, kinds, {});
  detail::expect_layer_kinds(configuration, {"mlp_layer_types"}, feeds, {});
  detail::ignore_keys_without(
      configuration, kinds, "linear_attention",
      {"linear_attn_config.head_dim", "linear_attn_config.short_conv_kernel_size", "linear_head_dim", "linear_conv_kernel_dim"});
  detail::ignore_keys_without(configuration, kinds, "full_attention",
                              {"kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "qk_head_dim", "v_head_dim"});
  if (!has_experts)
    detail::ignore_keys(configuration,
                        {"moe_intermediate_size", "num_experts", "num_experts_per_token", "num_shared_experts", "moe_renormalize",
                         "moe_router_activation_func", "routed_scaling_factor", "num_expert_group", "topk_group", "use_grouped_topk",
                         "n_routed_experts", "num_local_experts", "num_experts_per_tok", "n_shared_experts", "norm_topk_prob", "n_group"});
  return detail::end_decoder(source, configuration, std::move(parts),
                             detail::read_rms_norm(PrefixedTensors<Scalar>(source, "model."), "norm", eps));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
