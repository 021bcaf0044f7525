// What the readers of decoder checkpoints share whose names are `PREFIXembed_tokens.weight`, `PREFIXlayers.N.*` and `lm_head.weight`.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/models/checkpoint.hpp>
#include <implicit_attention/models/hybrid_parts.hpp>
#include <implicit_attention/models/language_model.hpp>
#include <implicit_attention/models/mixture_of_experts.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Reads the embedding and checks the sizes against the configuration. Returns the number of layers; the caller reads a block for each of
/// them.
template <Real Scalar>
[[nodiscard, gnu::cold]] Index begin_decoder(const TensorSource<Scalar>& source, const Configuration& configuration,
                                             const std::string& prefix, LanguageModelParts<Scalar>& parts) {
  const Index layers = read_sizes(source, configuration, prefix + "embed_tokens.weight", prefix + "layers.", parts);
  expect_text(configuration, "hidden_act", {"silu", "swish"}, "no other activation is read here");
  // Checked against the layers that have such a part; there may be none.
  ignore_keys(configuration, {"intermediate_size", "attention_bias", "num_attention_heads", "num_key_value_heads"});
  return layers;
}

/// Positions: the base as `rotary_base` reads it, and `partial_rotary_factor`, on top or under `rope_parameters`.
template <class Options>
void read_rotary(const Configuration& configuration, double base, double part, Options& options) {
  for (const std::string_view key : {"rope_scaling.rope_type", "rope_scaling.type"})
    expect_text(configuration, key, {"default"}, "scaled rotary positions are not read here");
  options.rotary_base = rotary_base(configuration, base);
  options.rotary_part = rotary_share(configuration, part);
}

/// Routed experts in any of three namings: stacked in `experts.gate_up_proj` and `experts.down_proj`, or one by one as
/// `experts.K.w1|w3|w2` or `experts.K.gate_proj|up_proj|down_proj`; as many as the router has rows.
template <Real Scalar>
[[nodiscard, gnu::cold]] std::vector<GatedFeedForward<Scalar>> read_routed_experts(const PrefixedTensors<Scalar>& tensors,
                                                                                   const Configuration& configuration, Index count) {
  expect_integer(configuration, {"num_experts"}, count, "the router has that many rows");
  std::vector<GatedFeedForward<Scalar>> experts;
  if (tensors.has("experts.gate_up_proj"))
    experts = read_stacked_experts(tensors, "experts.gate_up_proj", "experts.down_proj");
  else if (has_any(tensors, {"experts.0.w1.weight", "experts.0.w3.weight"}))
    experts = read_experts(tensors, count, Function::silu, "w1", "w3", "w2");
  else
    experts = read_experts(tensors, count);
  for (const GatedFeedForward<Scalar>& expert : experts)
    expect_integer(configuration, {"moe_intermediate_size"}, expert.inner_width(), "the experts have that inner width");
  return experts;
}

/// The final norm and the head, and the model.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> end_decoder(const TensorSource<Scalar>& source, const Configuration& configuration,
                                                           LanguageModelParts<Scalar> parts, Norm<Scalar> final_norm,
                                                           std::string_view tied_key = "tie_word_embeddings",
                                                           bool tied_by_default = false) {
  parts.final_norm = std::move(final_norm);
  parts.head = read_head(source, configuration, "lm_head.weight", parts.embedding, {tied_key}, tied_by_default);
  return LanguageModel<Scalar>(std::move(parts));
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
