// OlmoHybridForCausalLM: Gated DeltaNet with full attention in every fourth layer; norms before the linear layers, after the full ones.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/decoder.hpp>
#include <implicit_attention/models/delta_rule_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads an OLMo Hybrid language model:
///
///     linear:  r += gdn(norm1 r)    r += mlp(norm2 r)        full:  r += post_attention_layernorm(attn r)   r += post_feedforward_layernorm(mlp r)
///
/// so `post_attention_layernorm` is what follows attention in a full layer and what precedes the feed-forward part in a linear one. Tensors
/// tell the kind of a layer. From the configuration it takes num_attention_heads, linear_num_key_heads (as many),
/// linear_allow_neg_eigval (true), rms_norm_eps (1e-6; the heads' norm of linear layers has 1e-5 whatever it says) and
/// rope_parameters.rope_theta, without which there are no positions. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_olmo_hybrid_lm(const TensorSource<Scalar>& source,
                                                                   const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"olmo_hybrid"}, "the tensors are those of an OLMo Hybrid language model");
  LanguageModelParts<Scalar> parts;
  parts.name = "OlmoHybridForCausalLM";
  const Index layers = detail::begin_decoder(source, configuration, "model.", parts);
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-6);

  typename GatedDeltaNet<Scalar>::Options linear;
  linear.key_heads =
      detail::required_integer(configuration, {configuration.has("linear_num_key_heads") ? "linear_num_key_heads" : "num_attention_heads"});
  linear.negative_eigenvalues = configuration.boolean({"linear_allow_neg_eigval"}).value_or(true);
  linear.norm_eps = 1e-5;  // whatever rms_norm_eps is
  typename SoftmaxAttention<Scalar>::Options full;
  full.norm_eps = eps;
  parts.has_positions = configuration.find("rope_parameters.rope_theta") != nullptr;
  if (parts.has_positions) detail::read_rotary(configuration, 10000, 1, full);
  detail::ignore_keys(configuration, {"rope_parameters.rope_type"});  // no meaning without a base

  std::vector<std::string> kinds;
  for (Index layer = 0; layer < layers; ++layer) {
    const std::string name = detail::message("model.layers.", layer, ".");
    const PrefixedTensors<Scalar> block(source, name), attention(source, name + "self_attn."), delta(source, name + "linear_attn.");
    PartPointer<Scalar> feed_forward =
        feed_forward_part(detail::read_gated_part(PrefixedTensors<Scalar>(source, name + "mlp."), configuration));
    const bool is_full = detail::has_attention(attention);
    kinds.emplace_back(is_full ? "full_attention" : "linear_attention");
    if (is_full) {
      detail::expect_present(attention, {"q_norm.weight", "k_norm.weight"});
      // Norms of queries and keys are over the whole width, before it is split into heads.
      Sublayer<Scalar> mixer({}, mixer_part(detail::read_attention(attention, configuration, full))), mlp({}, std::move(feed_forward));
      mixer.norm_after = detail::read_rms_norm(block, "post_attention_layernorm", eps);
      mlp.norm_after = detail::read_rms_norm(block, "post_feedforward_layernorm", eps);
      parts.blocks.push_back({{std::move(mixer), std::move(mlp)}});
      continue;
    }
    detail::expect_present(delta, {"a_proj.weight", "b_proj.weight", "g_proj.weight"});
    detail::expect_boolean(configuration, {"linear_use_gate"}, true, "g_proj.weight is there");
    detail::expect_delta_rule_tensors(delta, false);
    GatedDeltaNet<Scalar> mixer = GatedDeltaNet<Scalar>::from_tensors(delta, linear);
    detail::expect_delta_rule(configuration, mixer);
    // The other names are those of the library. By either of the two, so that a lost one is named as missing.
    const bool released = block.has("attention_layer_norm.weight") || block.has("feedforward_layer_norm.weight");
    parts.blocks.push_back(
        {{{detail::read_rms_norm(block, released ? "attention_layer_norm" : "input_layernorm", eps), mixer_part(std::move(mixer))},
          {detail::read_rms_norm(block, released ? "feedforward_layer_norm" : "post_attention_layernorm", eps), std::move(feed_forward)}}});
  }
  detail::expect_layer_kinds(configuration, {"layer_types"}, kinds, {});
  detail::ignore_delta_rule_keys_without_layers(configuration, kinds);
  detail::ignore_keys_without(configuration, kinds, "full_attention", {"head_dim"});
  return detail::end_decoder(source, configuration, std::move(parts),
                             detail::read_rms_norm(PrefixedTensors<Scalar>(source, "model."), "norm", eps));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
