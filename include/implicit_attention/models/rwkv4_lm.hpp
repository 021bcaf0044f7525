// RwkvForCausalLM: RWKV-4 (Peng et al. 2023, arXiv 2305.13048), as Hugging Face names its tensors and as BlinkDL does.
#pragma once

#include <string>
#include <utility>

#include <implicit_attention/models/rwkv_lm.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads an RWKV-4 language model: `rwkv.embeddings.weight, rwkv.blocks.N.attention.*` or `emb.weight, blocks.N.att.*`. Sizes come from
/// the weights, the blocks' `layer_norm_epsilon` (1e-5) from the configuration, and every other key that is there must agree with
/// the weights. The last norm's eps is 1e-5 whatever the key says, as in the public code. `rescale_every` guards half precision against
/// overflow and is not applied. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_rwkv4_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"rwkv", "rwkv4"}, "the tensors are those of an RWKV-4 language model");
  detail::expect_text(configuration, "rwkv_version", {"4"}, "the tensors are those of an RWKV-4 language model");
  const detail::RwkvNames names = detail::rwkv_names(source);
  for (const char* later : {"ln_x.weight", "time_maa_x", "x_r", "r_k"})
    if (const std::string name = names.blocks + "0." + names.attention + later; source.has(name))
      detail::raise(ErrorKind::value, source.where(), ": tensor ", source.name_in_file(name),
                    " is there: this is RWKV-5 or later, expected RWKV-4");
  const double eps = detail::positive_number(configuration, {"layer_norm_epsilon"}, 1e-5);
  return detail::read_rwkv_model("RwkvForCausalLM", source, configuration, names, eps, 1e-5,
                                 [&](const PrefixedTensors<Scalar>& attention, const PrefixedTensors<Scalar>& mixing, Index) {
                                   Rwkv4<Scalar> mixer = detail::read_rwkv4(attention, configuration);
                                   ChannelMixing<Scalar> feed_forward = ChannelMixing<Scalar>::from_tensors(mixing);
                                   detail::expect_integer(configuration, {"intermediate_size", "dim_ffn"}, feed_forward.inner_width(),
                                                          "the channel mixing's key.weight has that many rows");
                                   return std::pair(mixer_part(std::move(mixer)), feed_forward_part(std::move(feed_forward)));
                                 });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
