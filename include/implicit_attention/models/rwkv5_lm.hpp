// RWKV-5 (Eagle) as published: Hugging Face's and BlinkDL's names.
#pragma once

#include <implicit_attention/models/rwkv_lm.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads an RWKV-5 language model, 5.1 or 5.2, with the tensors `rwkv.embeddings.weight, rwkv.blocks.N.attention.*` or `emb.weight,
/// blocks.N.att.*`. From the configuration it takes `layer_norm_epsilon` (1e-5; the last norm's is 1e-5 whatever it says, as in the public
/// code) and the group norm's eps: `head_size_divisor`, or `group_norm_eps`, without either 64e-5 as BlinkDL trained. Every other key that
/// is there must agree with the weights, except `intermediate_size`, which the public ports ignore. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_rwkv5_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"rwkv5"}, "the tensors are those of an RWKV-5 language model");
  detail::expect_text(configuration, "rwkv_version", {"5.2", "5.1"}, "the tensors are those of an RWKV-5 language model");
  detail::expect_text(configuration, "model_version", {"5_2"}, "the tensors are those of an RWKV-5 language model");
  const double eps = detail::positive_number(configuration, {"layer_norm_epsilon"}, 1e-5);
  return detail::read_rwkv_model("Rwkv5ForCausalLM", source, configuration, detail::rwkv_names(source), eps, 1e-5,
                                 [&](const PrefixedTensors<Scalar>& attention, const PrefixedTensors<Scalar>& mixing, Index) {
                                   return std::pair(mixer_part(detail::read_rwkv5(attention, configuration)),
                                                    feed_forward_part(ChannelMixing<Scalar>::from_tensors(mixing)));
                                 });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
