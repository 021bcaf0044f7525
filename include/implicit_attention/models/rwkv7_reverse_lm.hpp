// The public RWKV-7 that reverses digit strings: two layers, in which the token that causes each output is known.
#pragma once

#include <implicit_attention/models/rwkv_lm.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads BlinkDL's digit reverser (RWKV-LM, `L2_only_rwkv7`): x = e[ids]; for l = 1, 2: x += rwkv_l(ln{l}a(x)) + rosa{l}.o.bias,
/// x += ffn_l(ln{l}b(x)); logits = o(lno(x)). Of its other kind of layer, `rosa`, the training switched all off but the bias of the output:
/// its other tensors and the norms ln{l}c before it carry nothing. The bias is read as that of the mixer's output projection.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_rwkv7_reverse_lm(const TensorSource<Scalar>& source,
                                                                     const Configuration& configuration = {}) {
  const PrefixedTensors<Scalar> tensors(source, "");
  LanguageModelParts<Scalar> parts;
  parts.name = "RWKV7Reverse";
  parts.embedding = tensors.required("e.weight", 2);
  detail::expect_integer(configuration, {"hidden_size", "n_embd"}, parts.embedding.cols(), "the embedding is that wide");
  detail::expect_vocabulary(configuration, parts.embedding.rows());
  const double eps = detail::positive_number(configuration, {"layer_norm_epsilon"}, 1e-5);
  for (Index layer = 1; layer <= 2; ++layer) {
    const std::string rosa = detail::message("rosa", layer, ".");
    const typename Rwkv7<Scalar>::Options options{detail::group_norm_eps(configuration)};
    typename Rwkv7<Scalar>::Weights weights =
        Rwkv7<Scalar>::from_tensors(PrefixedTensors<Scalar>(source, detail::message("rwkv", layer, ".")), options, layer == 1).weights();
    weights.output_bias = tensors.required(rosa + "o.bias", 1);
    parts.blocks.push_back(
        {{{detail::read_layer_norm(tensors, detail::message("ln", layer, "a"), eps),
           mixer_part(Rwkv7<Scalar>(std::move(weights), options))},
          {detail::read_layer_norm(tensors, detail::message("ln", layer, "b"), eps),
           feed_forward_part(ChannelMixing<Scalar>::from_tensors(PrefixedTensors<Scalar>(source, detail::message("ffn", layer, "."))))}}});
    for (const std::string& name : source.names())
      if (name.compare(0, rosa.size(), rosa) == 0 || name.compare(0, 4, detail::message("ln", layer, "c")) == 0)
        static_cast<void>(source.read(name));
  }
  parts.final_norm = detail::read_layer_norm(tensors, "lno", eps);
  parts.head = tensors.required("o.weight", 2);
  parts.head_bias = tensors.required("o.bias", 1);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
