// Mamba2ForCausalLM: the public checkpoints of Dao & Gu 2024 (arXiv 2405.21060), as Hugging Face and as the authors name them.
#pragma once

#include <string>
#include <utility>

#include <implicit_attention/models/language_model.hpp>
#include <implicit_attention/models/mamba2_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads a Mamba-2 language model. Sizes come from the weights; from the configuration it takes n_groups, norm_groups, time_step_limit
/// and layer_norm_epsilon (1e-5), of the authors' ssm_cfg.ngroups, ssm_cfg.dt_limit, ssm_cfg.norm_before_gate and norm_epsilon; every other
/// key that is there must agree with the weights. `norm_before_gate` of `model_type` mamba2 changes nothing, as in the port. Fails naming
/// the tensor or the key.
///
/// With several groups the authors' code normalises each of them and Hugging Face's port the whole width. The naming tells which applies
/// (`ssm_cfg.layer` is the authors'); the key norm_groups overrides it.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_mamba2_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"mamba2"}, "the tensors are those of a Mamba-2 language model");
  detail::expect_text(configuration, "ssm_cfg.layer", {"Mamba2"}, "no other kind of layer is read here");
  detail::expect_integer(configuration, {"d_intermediate"}, 0, "feed-forward parts between Mamba-2 layers are not read here");
  const PrefixedTensors<Scalar> tensors(source, "backbone.");
  LanguageModelParts<Scalar> parts;
  parts.name = "Mamba2ForCausalLM";
  parts.embedding = tensors.required(tensors.has("embedding.weight") ? "embedding.weight" : "embeddings.weight", 2);
  const Index layers = detail::count_layers(source, "backbone.layers.");
  detail::expect_integer(configuration, {"hidden_size", "d_model"}, parts.embedding.cols(), "the embedding is that wide");
  detail::expect_integer(configuration, {"num_hidden_layers", "n_layer"}, layers, "the weights have that many layers");
  detail::expect_vocabulary(configuration, parts.embedding.rows());
  const double eps = detail::positive_number(configuration, {"layer_norm_epsilon", "norm_epsilon"}, 1e-5);
  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block(source, detail::message("backbone.layers.", layer, "."));
    parts.blocks.push_back(
        {{{detail::read_rms_norm(block, "norm", eps), mixer_part(detail::read_mamba2(block.below("mixer."), configuration))}}});
  }
  parts.final_norm = detail::read_rms_norm(tensors, "norm_f", eps);
  // The authors tie by default, Hugging Face does not. If the configuration names neither, a stored lm_head decides.
  const bool untold = configuration.text({"model_type"}) != "mamba2" && !source.has("lm_head.weight");
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings", "tie_embeddings"},
                                 configuration.has("ssm_cfg.layer") || untold);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
