// RwkvForCausalLM: RWKV-4 (Peng et al. 2023, arXiv 2305.13048), as Hugging Face names its tensors and as BlinkDL does.
#pragma once

#include <string>
#include <utility>

#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/models/checkpoint.hpp>
#include <implicit_attention/models/feed_forward.hpp>
#include <implicit_attention/models/language_model.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads an RWKV-4 language model: `rwkv.embeddings.weight, rwkv.blocks.N.attention.*` or `emb.weight, blocks.N.att.*`. Sizes come from
/// the weights; of the configuration the blocks' `layer_norm_epsilon` (1e-5) is used, and every other key that is there must agree with
/// the weights. The last norm's eps is 1e-5 whatever the key says, as in the public code. `rescale_every` guards half precision against
/// overflow and is not applied. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard]] LanguageModel<Scalar> load_rwkv4_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"rwkv", "rwkv4"}, "the tensors are those of an RWKV-4 language model");
  const bool original = source.has("emb.weight");  // BlinkDL's names
  const PrefixedTensors<Scalar> tensors(source, original ? "" : "rwkv.");
  const std::string blocks = tensors.prefix() + "blocks.", attention = original ? "att." : "attention.",
                    mixing = original ? "ffn." : "feed_forward.";
  for (const char* later : {"ln_x.weight", "time_maa_x", "x_r", "r_k"})
    if (source.has(blocks + "0." + attention + later))
      raise(ErrorKind::value,
            message(source.where(), ": tensor ", blocks, "0.", attention, later, " is there: this is RWKV-5 or later, expected RWKV-4"));

  LanguageModelParts<Scalar> parts;
  parts.name = "RwkvForCausalLM";
  parts.embedding = tensors.required(original ? "emb.weight" : "embeddings.weight", 2);
  const Index layers = detail::count_layers(source, blocks);
  detail::expect_integer(configuration, {"hidden_size", "n_embd"}, parts.embedding.cols(), "the embedding is that wide");
  detail::expect_integer(configuration, {"num_hidden_layers", "n_layer"}, layers, "the weights have that many layers");
  detail::expect_vocabulary(configuration, parts.embedding.rows());
  const double eps = detail::positive_number(configuration, {"layer_norm_epsilon"}, 1e-5);
  parts.embedding_norm = detail::read_layer_norm(PrefixedTensors<Scalar>(source, blocks + "0."), original ? "ln0" : "pre_ln", eps);
  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block(source, message(blocks, layer, "."));
    Rwkv4<Scalar> mixer = Rwkv4<Scalar>::from_tensors(PrefixedTensors<Scalar>(source, block.prefix() + attention));
    ChannelMixing<Scalar> feed_forward = ChannelMixing<Scalar>::from_tensors(PrefixedTensors<Scalar>(source, block.prefix() + mixing));
    detail::expect_integer(configuration, {"attention_hidden_size", "dim_att"}, mixer.channels(), "time_decay has that many numbers");
    detail::expect_integer(configuration, {"intermediate_size", "dim_ffn"}, feed_forward.inner_width(),
                           "the channel mixing's key.weight has that many rows");
    parts.blocks.push_back({{{detail::read_layer_norm(block, "ln1", eps), mixer_part(std::move(mixer))},
                             {detail::read_layer_norm(block, "ln2", eps), feed_forward_part(std::move(feed_forward))}}});
  }
  parts.final_norm = detail::read_layer_norm(tensors, "ln_out", 1e-5);
  parts.head = detail::read_head(source, configuration, "head.weight", parts.embedding, {"tie_word_embeddings"}, false);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
