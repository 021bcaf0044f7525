// FalconH1ForCausalLM: Mamba-2 and attention side by side in every layer, with the multipliers that its training scaled by.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/hybrid_parts.hpp>
#include <implicit_attention/models/mamba2_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads a Falcon-H1 language model. With u = input_layernorm(r) and v = pre_ff_layernorm(r'):
///
///     r' = r + ssm_out_multiplier mamba(ssm_in_multiplier u) + attention_out_multiplier attention(attention_in_multiplier u)
///     r'' = r' + mlp_multipliers[1] down_proj( up_proj(v) silu(mlp_multipliers[0] gate_proj(v)) )
///
/// ssm_multipliers scale in_proj's z, x, B, C, dt with their biases, key_multiplier the keys before their rotation, embedding_multiplier
/// and lm_head_multiplier both ends, also where the head is tied. The multipliers stay apart from the weights, so that a gradient belongs
/// to the embedding as it is stored. Mamba-2 is a layer's first mixer; attention is called `attention`.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_falcon_h1_lm(const TensorSource<Scalar>& source, const Configuration& given = {}) {
  const Configuration configuration = detail::with_model_type(given, "falcon_h1");
  Index layers = 0;
  LanguageModelParts<Scalar> parts =
      detail::begin_model(source, configuration, "FalconH1ForCausalLM", "model.embed_tokens.weight", "model.layers.", layers);
  const PrefixedTensors<Scalar> tensors(source, "model.");
  const auto multiplier = [&](std::string_view key) { return static_cast<Scalar>(detail::read_factor<Scalar>(configuration, key)); };
  detail::expect_boolean(configuration, {"mamba_use_mlp"}, true, "every layer has a feed-forward part");
  detail::ignore_keys(configuration, {"multipliers_folded"});  // then the file's tensors have them, and their keys are 1
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-5);
  parts.has_positions = true;
  parts.embedding_scale = multiplier("embedding_multiplier");
  parts.logit_scale = multiplier("lm_head_multiplier");
  const std::vector<double> mlp = detail::read_factors<Scalar>(configuration, "mlp_multipliers", 2);
  typename SoftmaxAttention<Scalar>::Options attention;
  attention.rotary_part = 1;
  attention.rotary_base = detail::rotary_base(configuration, 10000.0);
  attention.key_scale = detail::read_factor<Scalar>(configuration, "key_multiplier");
  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block = tensors.below(detail::message("layers.", layer, "."));
    Sublayer<Scalar> mixers, feed_forward;
    mixers.norm = detail::read_rms_norm(block, "input_layernorm", eps);
    mixers.branches.push_back({mixer_part(detail::read_mamba2(block.below("mamba."), configuration)), multiplier("ssm_in_multiplier"),
                               multiplier("ssm_out_multiplier")});
    mixers.branches.push_back({mixer_part(detail::read_attention(block.below("self_attn."), configuration, attention), "attention"),
                               multiplier("attention_in_multiplier"), multiplier("attention_out_multiplier")});
    feed_forward.norm = detail::read_rms_norm(block, "pre_ff_layernorm", eps);
    feed_forward.branches.push_back(
        {feed_forward_part(detail::read_gated_part(block.below("feed_forward."), configuration, static_cast<Scalar>(mlp[0]))), Scalar(1),
         static_cast<Scalar>(mlp[1])});
    parts.blocks.push_back({{std::move(mixers), std::move(feed_forward)}});
  }
  parts.final_norm = detail::read_rms_norm(tensors, "final_layernorm", eps);
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings"}, false);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
