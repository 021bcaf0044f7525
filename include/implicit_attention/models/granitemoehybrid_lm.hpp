// GraniteMoeHybridForCausalLM: Granite 4; Mamba-2 or attention, then an MLP and, in larger models, experts beside it.
#pragma once

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/hybrid_parts.hpp>
#include <implicit_attention/models/mamba2_options.hpp>
#include <implicit_attention/models/mixture_of_experts.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The MLP that every token uses, with experts beside it where there are any: the best logits, then a softmax over them alone.
template <Real S>
[[nodiscard, gnu::cold]] PartPointer<S> read_granite_feed_forward(const PrefixedTensors<S>& block, const Configuration& configuration) {
  GatedFeedForward<S> shared = read_joined_part(block.below("shared_mlp."), "input_linear.weight", "output_linear.weight", Function::silu);
  expect_integer(configuration, {"shared_intermediate_size"}, shared.inner_width(), "half of the rows of shared_mlp.input_linear.weight");
  const PrefixedTensors<S> sparse = block.below("block_sparse_moe.");
  if (!has_experts(sparse)) {
    expect_integer(configuration, {"num_local_experts"}, 0, message("tensor ", sparse.name_in_file("router.layer.weight"), " is missing"));
    return feed_forward_part(std::move(shared));
  }
  typename MixtureOfExperts<S>::Weights w;
  typename MixtureOfExperts<S>::Options options;
  w.router_weight = sparse.required("router.layer.weight", 2);
  w.experts = read_stacked_experts(sparse, "input_linear.weight", "output_linear.weight");
  w.shared = std::move(shared);
  options.scores = RouterScores::chosen_softmax;
  options.choice.chosen = required_integer(configuration, {"num_experts_per_tok"});
  expect_choice(configuration, options.choice, w.router_weight.rows());
  expect_integer(configuration, {"num_local_experts"}, w.router_weight.rows(), "block_sparse_moe.router.layer.weight has that many rows");
  expect_integer(configuration, {"intermediate_size"}, w.experts.front().inner_width(),
                 "half of the rows of block_sparse_moe.input_linear.weight an expert");
  return feed_forward_part(MixtureOfExperts<S>(std::move(w), options));
}

}  // namespace detail

/// Reads a Granite 4 hybrid: r = embedding_multiplier * embedding; both parts of a layer add residual_multiplier times what they give;
/// attention's scores are multiplied by attention_multiplier itself; logits are divided by logits_scaling. Rotary positions only where
/// position_embedding_type is "rope". Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_granitemoehybrid_lm(const TensorSource<Scalar>& source,
                                                                        const Configuration& given = {}) {
  const Configuration configuration = detail::with_model_type(given, "granitemoehybrid");
  Index layers = 0;
  LanguageModelParts<Scalar> parts =
      detail::begin_model(source, configuration, "GraniteMoeHybridForCausalLM", "model.embed_tokens.weight", "model.layers.", layers);
  const PrefixedTensors<Scalar> tensors(source, "model.");
  detail::expect_text(configuration, "hidden_act", {"silu", "swish"}, "Granite's activation");
  detail::expect_text(configuration, "normalization_function", {"rmsnorm"}, "Granite's norms");
  detail::expect_text(configuration, "position_embedding_type", {"nope", "rope"}, "no other positions are read here");
  detail::ignore_keys(configuration, {"init_method"});
  detail::ignore_keys_of_parts(configuration);
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-6);
  parts.embedding_scale = static_cast<Scalar>(detail::read_factor<Scalar>(configuration, "embedding_multiplier"));
  const double divided = detail::positive_number(configuration, {"logits_scaling"}, 1.0);
  if (!(1 / divided <= static_cast<double>(std::numeric_limits<Scalar>::max())))
    detail::raise(ErrorKind::value, configuration.where(), ": key logits_scaling is ", divided,
                  ", expected more: logits are divided by it");
  parts.logit_scale = static_cast<Scalar>(1 / divided);
  const Scalar residual_scale = static_cast<Scalar>(detail::read_factor<Scalar>(configuration, "residual_multiplier"));
  typename SoftmaxAttention<Scalar>::Options attention;
  attention.scale = detail::positive_number(configuration, {"attention_multiplier"}, 1.0);
  detail::expect_fits<Scalar>(configuration, "attention_multiplier", attention.scale);
  attention.rotary_base = detail::rotary_base(configuration, 10000.0);
  parts.has_positions = configuration.text({"position_embedding_type"}) == "rope";
  if (parts.has_positions) attention.rotary_part = 1;
  std::vector<std::string> kinds;
  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block = tensors.below(detail::message("layers.", layer, "."));
    kinds.emplace_back(detail::has_attention(block.below("self_attn.")) ? "attention" : "mamba");
    PartPointer<Scalar> mixer = kinds.back() == "attention"
                                    ? mixer_part(detail::read_attention(block.below("self_attn."), configuration, attention))
                                    : mixer_part(detail::read_mamba2(block.below("mamba."), configuration));
    Sublayer<Scalar> first(detail::read_rms_norm(block, "input_layernorm", eps), std::move(mixer));
    Sublayer<Scalar> second(detail::read_rms_norm(block, "post_attention_layernorm", eps),
                            detail::read_granite_feed_forward(block, configuration));
    first.residual_scale = second.residual_scale = residual_scale;
    parts.blocks.push_back({{std::move(first), std::move(second)}});
  }
  detail::expect_layer_kinds(configuration, {"layer_types", "layers_block_type"}, kinds,
                             {{"linear_attention", "mamba"}, {"full_attention", "attention"}, {"multihead_attention", "attention"}});
  parts.final_norm = detail::read_rms_norm(tensors, "norm", eps);
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings"}, false);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
