// BambaForCausalLM: Mamba-2 with a few attention layers, each followed by a gated MLP.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/hybrid_parts.hpp>
#include <implicit_attention/models/mamba2_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads a Bamba language model. Rotary positions rotate the first attn_rotary_emb numbers of each head (half of it where the key is
/// absent). Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_bamba_lm(const TensorSource<Scalar>& source, const Configuration& given = {}) {
  const Configuration configuration = detail::with_model_type(given, "bamba");
  Index layers = 0;
  LanguageModelParts<Scalar> parts =
      detail::begin_model(source, configuration, "BambaForCausalLM", "model.embed_tokens.weight", "model.layers.", layers);
  const PrefixedTensors<Scalar> tensors(source, "model.");
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-5);
  parts.has_positions = true;
  detail::ignore_keys_of_parts(configuration);
  detail::ignore_keys(configuration, {"attn_rotary_emb", "partial_rotary_factor", "rope_parameters.partial_rotary_factor"});
  typename SoftmaxAttention<Scalar>::Options attention;
  attention.rotary_base = detail::rotary_base(configuration, 10000.0);
  std::vector<std::string> kinds;
  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block = tensors.below(detail::message("layers.", layer, "."));
    const PrefixedTensors<Scalar> attends = block.below("self_attn.");
    kinds.emplace_back(detail::has_attention(attends) ? "attention" : "mamba");
    const auto read = [&]() -> PartPointer<Scalar> {
      if (kinds.back() == "mamba") return mixer_part(detail::read_mamba2(block.below("mamba."), configuration));
      const Index size = attends.required("q_proj.weight", 2).rows() / detail::read_attention_heads(attends, configuration);
      attention.rotary_part = detail::rotary_share(configuration, 0.5);
      if (const auto rotated = configuration.number({"attn_rotary_emb"})) {
        if (!(*rotated >= 0 && *rotated <= static_cast<double>(size)) || std::fmod(*rotated, 2) != 0)
          detail::raise(ErrorKind::value, configuration.where(), ": key attn_rotary_emb is ", *rotated,
                        ", expected an even number of 0 to ", size, ": the heads have that many");
        attention.rotary_part = *rotated / static_cast<double>(size);
      }
      return mixer_part(detail::read_attention(attends, configuration, attention));
    };
    Sublayer<Scalar> mixer(detail::read_rms_norm(block, "input_layernorm", eps), read());
    parts.blocks.push_back({{std::move(mixer),
                             {detail::read_rms_norm(block, "pre_ff_layernorm", eps),
                              feed_forward_part(detail::read_gated_part(block.below("feed_forward."), configuration))}}});
  }
  detail::expect_listed_layers(configuration, "attn_layer_indices", kinds, "attention");
  detail::expect_layer_kinds(configuration, {"layer_types", "layers_block_type"}, kinds,
                             {{"linear_attention", "mamba"}, {"full_attention", "attention"}});
  parts.final_norm = detail::read_rms_norm(tensors, "final_layernorm", eps);
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings"}, false);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
