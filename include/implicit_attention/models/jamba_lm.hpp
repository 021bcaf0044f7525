// JambaForCausalLM (Lieber et al. 2024, arXiv 2403.19887): Mamba with norms of dt, B and C, a few attention layers, MLPs or experts.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/hybrid_parts.hpp>
#include <implicit_attention/models/mamba_options.hpp>
#include <implicit_attention/models/mixture_of_experts.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Experts behind a softmax over all of them that is not renormalised over the chosen; or one MLP, which some old files call `experts.0`.
template <Real S>
[[nodiscard, gnu::cold]] PartPointer<S> read_jamba_feed_forward(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  if (!has_experts(tensors))
    return feed_forward_part(
        read_gated_part(has_any(tensors, {"gate_proj.weight", "up_proj.weight"}) ? tensors : tensors.below("experts.0."), configuration));
  typename MixtureOfExperts<S>::Weights w;
  typename MixtureOfExperts<S>::Options options;
  w.router_weight = tensors.required("router.weight", 2);
  expect_integer(configuration, {"num_experts"}, w.router_weight.rows(), "feed_forward.router.weight has that many rows");
  w.experts = tensors.has("experts.gate_up_proj") ? read_stacked_experts(tensors, "experts.gate_up_proj", "experts.down_proj")
                                                  : read_experts(tensors, w.router_weight.rows());
  expect_integer(configuration, {"intermediate_size"}, w.experts.front().inner_width(), "experts.0.up_proj.weight has that many rows");
  options.choice.chosen = required_integer(configuration, {"num_experts_per_tok"});
  expect_choice(configuration, options.choice, w.router_weight.rows());
  return feed_forward_part(MixtureOfExperts<S>(std::move(w), options));
}

/// Layers `offset`, `offset + period`, ... must be those of one kind, where the configuration says so.
template <class = void>
[[gnu::cold]] void expect_period(const Configuration& configuration, std::string_view name, const std::vector<bool>& of_kind) {
  const std::string period_key = message(name, "_layer_period"), offset_key = message(name, "_layer_offset");
  const auto period = configuration.integer({period_key}), offset = configuration.integer({offset_key});
  if (!period || !offset) return;
  if (*period < 1) raise(ErrorKind::value, configuration.where(), ": key ", period_key, " is ", *period, ", expected at least 1");
  for (Index layer = 0; layer < static_cast<Index>(of_kind.size()); ++layer)
    if ((layer % *period == *offset) != of_kind[static_cast<std::size_t>(layer)])
      raise(ErrorKind::value, configuration.where(), ": keys ", period_key, " ", *period, " and ", offset_key, " ", *offset,
            " do not fit layer ", layer, ": its tensors are of another kind");
}

}  // namespace detail

/// Reads a Jamba language model. Attention has no rotary positions. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_jamba_lm(const TensorSource<Scalar>& source, const Configuration& given = {}) {
  const Configuration configuration = detail::with_model_type(given, "jamba");
  Index layers = 0;
  LanguageModelParts<Scalar> parts =
      detail::begin_model(source, configuration, "JambaForCausalLM", "model.embed_tokens.weight", "model.layers.", layers);
  const PrefixedTensors<Scalar> tensors(source, "model.");
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-6);
  detail::expect_text(configuration, "hidden_act", {"silu", "swish"}, "Jamba's activation");
  detail::ignore_rotary_keys(configuration);
  detail::ignore_keys_of_parts(configuration);
  std::vector<std::string> kinds;
  std::vector<bool> attends, has_experts;
  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block = tensors.below(detail::message("layers.", layer, "."));
    attends.push_back(detail::has_attention(block.below("self_attn.")));
    has_experts.push_back(detail::has_experts(block.below("feed_forward.")));
    kinds.emplace_back(attends.back() ? "attention" : "mamba");
    PartPointer<Scalar> mixer = attends.back() ? mixer_part(detail::read_attention(block.below("self_attn."), configuration))
                                               : mixer_part(detail::read_mamba(block.below("mamba."), configuration));
    parts.blocks.push_back({{{detail::read_rms_norm(block, "input_layernorm", eps), std::move(mixer)},
                             {detail::read_rms_norm(block, "pre_ff_layernorm", eps),
                              detail::read_jamba_feed_forward(block.below("feed_forward."), configuration)}}});
  }
  detail::expect_period(configuration, "attn", attends);
  if (configuration.integer({"num_experts"}).value_or(1) > 1) detail::expect_period(configuration, "expert", has_experts);
  detail::ignore_keys(configuration, {"expert_layer_period", "expert_layer_offset"});
  detail::expect_layer_kinds(configuration, {"layers_block_type", "layer_types"}, kinds,
                             {{"linear_attention", "mamba"}, {"full_attention", "attention"}});
  parts.final_norm = detail::read_rms_norm(tensors, "final_layernorm", eps);
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings"}, false);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
