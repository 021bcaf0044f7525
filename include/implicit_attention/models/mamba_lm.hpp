// MambaForCausalLM: the public checkpoints of Gu & Dao 2023 (arXiv 2312.00752), as state-spaces/mamba and as Hugging Face name them.
#pragma once

#include <string>
#include <utility>

#include <implicit_attention/models/language_model.hpp>
#include <implicit_attention/models/mamba_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A stack of Mamba layers between an embedding and a head, in the names of both dialects.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> read_mamba_lm(const TensorSource<Scalar>& source, const Configuration& configuration,
                                                             std::string architecture, bool tied_by_default) {
  expect_text(configuration, "ssm_cfg.layer", {"Mamba1"}, "no other kind of layer is read here");
  expect_text(configuration, "hidden_act", {"silu", "swish"}, "Mamba's activation");
  expect_integer(configuration, {"d_intermediate"}, 0, "feed-forward parts between Mamba layers are not read here");

  const PrefixedTensors<Scalar> tensors(source, "backbone.");
  LanguageModelParts<Scalar> parts;
  parts.name = std::move(architecture);
  parts.embedding = tensors.required(tensors.has("embedding.weight") ? "embedding.weight" : "embeddings.weight", 2);
  const Index layers = count_layers(source, "backbone.layers.");
  expect_integer(configuration, {"hidden_size", "d_model"}, parts.embedding.cols(), "the embedding is that wide");
  expect_integer(configuration, {"num_hidden_layers", "n_layer"}, layers, "the weights have that many layers");
  expect_vocabulary(configuration, parts.embedding.rows());

  const bool layer_norm = tensors.has("norm_f.bias");
  expect_boolean(
      configuration, {"rms_norm"}, !layer_norm,
      layer_norm ? "backbone.norm_f.bias is there, as a LayerNorm has it" : "there is no backbone.norm_f.bias, as a LayerNorm has it");
  const double eps = positive_number(configuration, {"layer_norm_epsilon", "norm_epsilon"}, 1e-5);
  const auto read_norm = [&](const PrefixedTensors<Scalar>& from, const std::string& name) {
    return layer_norm ? read_layer_norm(from, name, eps) : read_rms_norm(from, name, eps);
  };
  for (Index layer = 0; layer < layers; ++layer) {
    const std::string prefix = message("backbone.layers.", layer, ".");
    Mamba<Scalar> mixer = read_mamba(PrefixedTensors<Scalar>(source, prefix + "mixer."), configuration);
    parts.blocks.push_back({{{read_norm(PrefixedTensors<Scalar>(source, prefix), "norm"), mixer_part(std::move(mixer))}}});
  }
  parts.final_norm = read_norm(tensors, "norm_f");
  parts.head =
      read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings", "tie_embeddings"}, tied_by_default);
  return LanguageModel<Scalar>(std::move(parts));
}

}  // namespace detail

/// Reads a Mamba language model. Sizes come from the weights; from the configuration (`d_model, n_layer, ssm_cfg.*` or `hidden_size,
/// num_hidden_layers, state_size, ...`) it takes the norms' eps (1e-5) and kind (`rms_norm: false`: LayerNorm), and every other key
/// that is there must agree with the weights. The head is `lm_head.weight`, or the embedding where that is absent.
/// Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_mamba_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"mamba"}, "the tensors are those of a Mamba language model");
  return detail::read_mamba_lm(source, configuration, "MambaForCausalLM", true);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
