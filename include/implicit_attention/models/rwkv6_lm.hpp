// RWKV-6 (Finch) as published: Hugging Face's and BlinkDL's names.
#pragma once

#include <implicit_attention/models/rwkv_lm.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads an RWKV-6 language model with the tensors `rwkv.embeddings.weight, rwkv.blocks.N.attention.*` or `emb.weight, blocks.N.att.*`.
/// The configuration is used as load_rwkv5_lm uses it. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_rwkv6_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"rwkv6"}, "the tensors are those of an RWKV-6 language model");
  detail::expect_text(configuration, "rwkv_version", {"6"}, "the tensors are those of an RWKV-6 language model");
  const double eps = detail::positive_number(configuration, {"layer_norm_epsilon"}, 1e-5);
  return detail::read_rwkv_model("Rwkv6ForCausalLM", source, configuration, detail::rwkv_names(source), eps, 1e-5,
                                 [&](const PrefixedTensors<Scalar>& attention, const PrefixedTensors<Scalar>& mixing, Index) {
                                   return std::pair(mixer_part(detail::read_rwkv6(attention, configuration)),
                                                    feed_forward_part(ChannelMixing<Scalar>::from_tensors(mixing)));
                                 });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
