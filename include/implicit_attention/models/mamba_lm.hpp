// MambaForCausalLM: the public checkpoints of Gu & Dao 2023 (arXiv 2312.00752), as state-spaces/mamba and as Hugging Face name them.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/models/checkpoint.hpp>
#include <implicit_attention/models/language_model.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Holds the keys of both dialects against one layer's weights.
template <Real Scalar>
void expect_mamba_layer(const Configuration& configuration, const Mamba<Scalar>& mixer) {
  expect_integer(configuration, {"intermediate_size"}, mixer.channels(), "mixer.A_log has that many rows");
  for (const std::string_view key : {"expand", "ssm_cfg.expand"})
    if (const std::optional<double> expand = configuration.number({key});
        expand && std::floor(*expand * static_cast<double>(mixer.width())) != static_cast<double>(mixer.channels()))
      contradiction(configuration, key, *expand, static_cast<double>(mixer.channels()) / static_cast<double>(mixer.width()),
                    message("the weights have ", mixer.channels(), " channels and width ", mixer.width()));
  expect_integer(configuration, {"state_size", "d_state", "ssm_cfg.d_state"}, mixer.state(), "mixer.A_log has that many columns");
  expect_integer(configuration, {"conv_kernel", "d_conv", "ssm_cfg.d_conv"}, mixer.convolution_width(), "mixer.conv1d.weight is that wide");
  const Index rank = mixer.weights().dt_proj_weight.cols();
  for (const std::string_view key : {"time_step_rank", "dt_rank", "ssm_cfg.dt_rank"}) {
    const Configuration::Value* value = configuration.find(key);
    if (value == nullptr) continue;
    if (const std::string* text = std::get_if<std::string>(value)) {
      const Index automatic = (mixer.width() + 15) / 16;  // the public code's "auto"
      if (*text != "auto" || automatic != rank)
        contradiction<std::string_view>(configuration, key, *text, message(rank), "mixer.dt_proj.weight has that many columns");
    } else {
      expect_integer(configuration, {key}, rank, "mixer.dt_proj.weight has that many columns");
    }
  }
  const bool bias = !mixer.weights().in_proj_bias.empty() || !mixer.weights().out_proj_bias.empty();
  expect_boolean(configuration, {"use_bias", "ssm_cfg.bias"}, bias,
                 bias ? "the projections have biases" : "the projections have no biases");
  const bool convolution_bias = !mixer.weights().conv1d_bias.empty();
  expect_boolean(configuration, {"use_conv_bias", "ssm_cfg.conv_bias"}, convolution_bias,
                 convolution_bias ? "mixer.conv1d.bias is there" : "there is no mixer.conv1d.bias");
}

}  // namespace detail

/// Reads a Mamba language model. Sizes come from the weights; of the configuration (`d_model, n_layer, ssm_cfg.*` or `hidden_size,
/// num_hidden_layers, state_size, ...`) the norms' eps (1e-5) and kind (`rms_norm: false`: LayerNorm) are used, and every other key
/// that is there must agree with the weights. The head is `lm_head.weight`, or the embedding where that is absent.
/// Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard]] LanguageModel<Scalar> load_mamba_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"mamba"}, "the tensors are those of a Mamba language model");
  detail::expect_text(configuration, "ssm_cfg.layer", {"Mamba1"}, "no other kind of layer is read here");
  detail::expect_text(configuration, "hidden_act", {"silu", "swish"}, "Mamba's activation");
  detail::expect_integer(configuration, {"d_intermediate"}, 0, "feed-forward parts between Mamba layers are not read here");

  const PrefixedTensors<Scalar> tensors(source, "backbone.");
  LanguageModelParts<Scalar> parts;
  parts.name = "MambaForCausalLM";
  parts.embedding = tensors.required(tensors.has("embedding.weight") ? "embedding.weight" : "embeddings.weight", 2);
  const Index layers = detail::count_layers(source, "backbone.layers.");
  detail::expect_integer(configuration, {"hidden_size", "d_model"}, parts.embedding.cols(), "the embedding is that wide");
  detail::expect_integer(configuration, {"num_hidden_layers", "n_layer"}, layers, "the weights have that many layers");
  detail::expect_vocabulary(configuration, parts.embedding.rows());

  const bool layer_norm = tensors.has("norm_f.bias");
  detail::expect_boolean(
      configuration, {"rms_norm"}, !layer_norm,
      layer_norm ? "backbone.norm_f.bias is there, as a LayerNorm has it" : "there is no backbone.norm_f.bias, as a LayerNorm has it");
  const double eps = detail::positive_number(configuration, {"layer_norm_epsilon", "norm_epsilon"}, 1e-5);
  const auto read_norm = [&](const PrefixedTensors<Scalar>& from, const std::string& name) {
    return layer_norm ? detail::read_layer_norm(from, name, eps) : detail::read_rms_norm(from, name, eps);
  };
  for (Index layer = 0; layer < layers; ++layer) {
    const std::string prefix = message("backbone.layers.", layer, ".");
    Mamba<Scalar> mixer = Mamba<Scalar>::from_tensors(PrefixedTensors<Scalar>(source, prefix + "mixer."));
    detail::expect_mamba_layer(configuration, mixer);
    parts.blocks.push_back({{{read_norm(PrefixedTensors<Scalar>(source, prefix), "norm"), mixer_part(std::move(mixer))}}});
  }
  parts.final_norm = read_norm(tensors, "norm_f");
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings", "tie_embeddings"}, true);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
