// RWKV-7 (Goose) as published: BlinkDL's, transformers' and flash-linear-attention's names.
#pragma once

#include <implicit_attention/models/rwkv_lm.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads an RWKV-7 language model with the tensors `emb.weight, blocks.N.att.*` (BlinkDL), the same below `rwkv7.` (transformers), or
/// `model.embeddings.weight, model.layers.N.attn.*` (flash-linear-attention). From the configuration it takes `norm_eps` or
/// `layer_norm_epsilon` (1e-5), `norm_bias`, and the group norm's eps as detail::read_rwkv7 says; every other key that is there must agree
/// with the weights. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_rwkv7_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"rwkv7", "rwkv7_fla"}, "the tensors are those of an RWKV-7 language model");
  detail::expect_text(configuration, "rwkv_version", {"7"}, "the tensors are those of an RWKV-7 language model");
  detail::expect_text(configuration, "hidden_act", {"sqrelu", "relu2"}, "RWKV-7's channel mixing");
  detail::expect_boolean(configuration, {"use_deep_embed"}, false, "there are no such embeddings in an RWKV-7 checkpoint");
  const detail::RwkvNames names = detail::rwkv_names(source);
  detail::expect_boolean(configuration, {"norm_first"}, true,
                         detail::message("there is a norm ", names.first_norm, " before the first layer"));
  const double eps = detail::positive_number(configuration, {"norm_eps", "layer_norm_epsilon"}, 1e-5);
  return detail::read_rwkv_model("RWKV7ForCausalLM", source, configuration, names, eps, eps,
                                 [&](const PrefixedTensors<Scalar>& attention, const PrefixedTensors<Scalar>& mixing, Index layer) {
                                   static_cast<void>(mixing.required("x_k"));  // which tells its version
                                   ChannelMixing<Scalar> channel_mixing = ChannelMixing<Scalar>::from_tensors(mixing);
                                   detail::expect_integer(configuration, {"intermediate_size", "dim_ffn"}, channel_mixing.inner_width(),
                                                          "the channel mixing's key.weight has that many rows");
                                   Rwkv7<Scalar> mixer = detail::read_rwkv7(attention, configuration);
                                   detail::expect_value_width(configuration, layer, mixer.channels());
                                   return std::pair(mixer_part(std::move(mixer)), feed_forward_part(std::move(channel_mixing)));
                                 });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
