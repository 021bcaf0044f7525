// NemotronHForCausalLM: Nemotron-H, Nano 2 and Nemotron 3; a block is a norm and one part: Mamba-2, attention, an MLP or experts.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/hybrid_parts.hpp>
#include <implicit_attention/models/mamba2_options.hpp>
#include <implicit_attention/models/mixture_of_experts.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Sigmoid scores, chosen with a correction bias and weighed without; relu^2 experts, in a latent space where there is one, and a shared
/// expert that sees the input itself.
template <Real S>
[[nodiscard, gnu::cold]] MixtureOfExperts<S> read_nemotron_experts(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  typename MixtureOfExperts<S>::Weights w;
  typename MixtureOfExperts<S>::Options options;
  w.router_weight = tensors.required("gate.weight", 2);
  w.correction_bias = tensors.required("gate.e_score_correction_bias", 1);
  w.experts = tensors.has("experts.up_proj")
                  ? read_stacked_experts(tensors, "experts.up_proj", "experts.down_proj", Function::relu_squared, false)
                  : read_experts(tensors, w.router_weight.rows(), Function::relu_squared, "");
  if (has_shared_experts(tensors))
    w.shared = GatedFeedForward<S>::from_tensors(tensors.below("shared_experts."), Function::relu_squared, "");
  w.fc1_latent_weight = tensors.optional("fc1_latent_proj.weight", 2);
  w.fc1_latent_bias = tensors.optional("fc1_latent_proj.bias", 1);
  w.fc2_latent_weight = tensors.optional("fc2_latent_proj.weight", 2);
  w.fc2_latent_bias = tensors.optional("fc2_latent_proj.bias", 1);
  options.scores = RouterScores::sigmoid;
  options.choice = {required_integer(configuration, {"num_experts_per_tok"}), configuration.integer({"n_group"}).value_or(1),
                    configuration.integer({"topk_group"}).value_or(1)};
  expect_choice(configuration, options.choice, w.router_weight.rows());
  options.normalize = configuration.boolean({"norm_topk_prob"}).value_or(true);
  options.normalize_eps = 1e-20;
  options.scaling = read_factor<S>(configuration, "routed_scaling_factor");
  expect_integer(configuration, {"n_routed_experts"}, w.router_weight.rows(), "mixer.gate.weight has that many rows");
  expect_integer(configuration, {"moe_intermediate_size"}, w.experts.front().inner_width(), "experts.0.up_proj.weight has that many rows");
  expect_integer(configuration, {"moe_latent_size"}, w.fc1_latent_weight.rows(), "fc1_latent_proj.weight has that many rows");
  // Several shared experts are one of their joint width.
  const Index shared = configuration.integer({"n_shared_experts"}).value_or(w.shared ? 1 : 0);
  if ((shared > 0) != w.shared.has_value())
    contradiction(configuration, "n_shared_experts", shared, Index(w.shared ? 1 : 0),
                  message("tensor ", tensors.name_in_file("shared_experts.up_proj.weight"), " is ", w.shared ? "there" : "missing"));
  if (const auto size = configuration.integer({"moe_shared_expert_intermediate_size"});
      size && w.shared && w.shared->inner_width() != *size)
    expect_integer(configuration, {"moe_shared_expert_intermediate_size"}, w.shared->inner_width() / shared,
                   "shared_experts.up_proj.weight has that many rows a shared expert");
  return MixtureOfExperts<S>(std::move(w), options);
}

}  // namespace detail

/// Reads a Nemotron-H language model. A block's tensors tell what it is; `hybrid_override_pattern` (a letter a block: M, *, -, E) or
/// `layers_block_type` must agree, and counts, rather than num_hidden_layers. Attention has no rotary positions, whatever rope keys
/// stand in the file. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_nemotron_h_lm(const TensorSource<Scalar>& source, const Configuration& given = {}) {
  const Configuration configuration = detail::with_model_type(given, "nemotron_h");
  const PrefixedTensors<Scalar> tensors(source, "backbone.");
  LanguageModelParts<Scalar> parts;
  parts.name = "NemotronHForCausalLM";
  parts.embedding = tensors.required(tensors.has("embedding.weight") ? "embedding.weight" : "embeddings.weight", 2);
  const Index layers = detail::count_layers(source, "backbone.layers.");
  detail::expect_integer(configuration, {"hidden_size"}, parts.embedding.cols(), "the embedding is that wide");
  detail::expect_vocabulary(configuration, parts.embedding.rows());
  detail::expect_text(configuration, "mlp_hidden_act", {"relu2"}, "the MLPs' activation");
  // The second of two eps, a rank that is Mamba-1's, a number of layers that may be wrong, and a width that there may be no MLP for.
  detail::ignore_keys(configuration, {"num_hidden_layers", "rms_norm_eps", "time_step_rank", "intermediate_size"});
  detail::ignore_rotary_keys(configuration);
  detail::ignore_keys_of_parts(configuration);
  const double eps = detail::positive_number(configuration, {"layer_norm_epsilon"}, 1e-5);
  if (const auto second = configuration.number({"norm_eps"}); second && *second != eps)  // Nemotron 3 names the same number twice
    detail::contradiction(configuration, "norm_eps", *second, eps, "the norms take layer_norm_epsilon, 1e-5 where it is absent");
  std::vector<std::string> kinds;
  std::string pattern;
  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block = tensors.below(detail::message("layers.", layer, "."));
    const PrefixedTensors<Scalar> mixer = block.below("mixer.");
    const auto read = [&]() -> PartPointer<Scalar> {
      if (detail::has_decay_rate(mixer) || mixer.has("dt_bias")) {
        kinds.emplace_back("mamba");
        return mixer_part(detail::read_mamba2(mixer, configuration));
      }
      if (detail::has_attention(mixer)) {
        kinds.emplace_back("attention");
        return mixer_part(detail::read_attention(mixer, configuration));
      }
      if (detail::has_experts(mixer)) {
        kinds.emplace_back("moe");
        return feed_forward_part(detail::read_nemotron_experts(mixer, configuration));
      }
      kinds.emplace_back("mlp");
      auto part = GatedFeedForward<Scalar>::from_tensors(mixer, Function::relu_squared, "");
      detail::expect_integer(configuration, {"intermediate_size"}, part.inner_width(), "mixer.up_proj.weight has that many rows");
      detail::expect_together(mixer, {"up_proj.bias", "down_proj.bias"});
      detail::expect_tensors(configuration, {"mlp_bias"}, mixer, {"up_proj.bias", "down_proj.bias"});
      return feed_forward_part(std::move(part));
    };
    PartPointer<Scalar> part = read();
    pattern += kinds.back() == "mamba" ? 'M' : kinds.back() == "attention" ? '*' : kinds.back() == "moe" ? 'E' : '-';
    parts.blocks.push_back({{{detail::read_rms_norm(block, "norm", eps), std::move(part)}}});
  }
  detail::expect_text(configuration, "hybrid_override_pattern", {pattern}, "that is what the blocks' tensors are");
  detail::expect_layer_kinds(configuration, {"layers_block_type", "layer_types"}, kinds,
                             {{"linear_attention", "mamba"}, {"full_attention", "attention"}});
  parts.final_norm = detail::read_rms_norm(tensors, "norm_f", eps);
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings"}, false);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
