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

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Reads the embedding and holds the sizes against the configuration; the blocks are left to the caller, one for each of the layers that
/// it returns the number of.
template <Real Scalar>
[[nodiscard]] Index begin_decoder(const TensorSource<Scalar>& source, const Configuration& configuration, const std::string& prefix,
                                  LanguageModelParts<Scalar>& parts) {
  parts.embedding = PrefixedTensors<Scalar>(source, prefix).required("embed_tokens.weight", 2);
  const Index layers = count_layers(source, prefix + "layers.");
  expect_integer(configuration, {"hidden_size"}, parts.embedding.cols(), "the embedding is that wide");
  expect_integer(configuration, {"num_hidden_layers"}, layers, "the weights have that many layers");
  expect_vocabulary(configuration, parts.embedding.rows());
  expect_text(configuration, "hidden_act", {"silu", "swish"}, "no other activation is read here");
  for (const std::string_view key : {"intermediate_size", "attention_bias", "num_attention_heads", "num_key_value_heads"})
    static_cast<void>(configuration.find(key));  // held against the layers that have such a part, of which there may be none
  return layers;
}

/// Holds the kind of a layer, told by its tensors, against the list `layer_types`, where there is one.
inline void expect_layer_type(const Configuration& configuration, Index layer, Index layers, std::string_view kind) {
  const auto types = configuration.texts({"layer_types"});
  if (!types) return;
  if (static_cast<Index>(types->size()) != layers)
    raise(ErrorKind::value, message(configuration.where(), ": key layer_types has ", static_cast<Index>(types->size()),
                                    " entries, expected one for each of ", layers, " layers"));
  if (const std::string& type = (*types)[static_cast<std::size_t>(layer)]; type != kind)
    raise(ErrorKind::value, message(configuration.where(), ": key layer_types has ", type, " for layer ", layer, ", expected ", kind,
                                    ": that is what the layer's tensors are"));
}

/// Whether a list of layer numbers, counted from `first`, names this one; nothing where the key is absent.
[[nodiscard]] inline std::optional<bool> listed(const Configuration& configuration, std::string_view key, Index layer, Index first = 0) {
  const auto numbers = configuration.numbers({key});
  if (!numbers) return std::nullopt;
  return std::find(numbers->begin(), numbers->end(), static_cast<double>(layer + first)) != numbers->end();
}

/// Fails where the configuration says that a layer is what its tensors are not.
inline void expect_layer_is(const Configuration& configuration, std::string_view key, std::optional<bool> configured, bool is, Index layer,
                            std::string_view what) {
  if (configured && *configured != is)
    raise(ErrorKind::value, message(configuration.where(), ": by key ", key, ", layer ", layer, *configured ? " is " : " is not ", what,
                                    ", expected otherwise: that is what the layer's tensors are"));
}

/// Positions: `rope_theta` and `partial_rotary_factor`, on top or under `rope_parameters`. No other kind of scaling is read.
template <class Options>
void read_rotary(const Configuration& configuration, double base, double part, Options& options) {
  for (const std::string_view key : {"rope_parameters.rope_type", "rope_parameters.type", "rope_scaling.rope_type", "rope_scaling.type"})
    expect_text(configuration, key, {"default"}, "no other kind of rotary positions is read here");
  options.rotary_base = positive_number(configuration, {"rope_parameters.rope_theta", "rope_theta", "theta"}, base);
  options.rotary_part = configuration.number({"rope_parameters.partial_rotary_factor", "partial_rotary_factor"}).value_or(part);
}

/// down(silu(gate u) * up u), whose inner width the configuration has under `width_key`.
template <Real Scalar>
[[nodiscard]] GatedFeedForward<Scalar> read_silu_feed_forward(const PrefixedTensors<Scalar>& tensors, const Configuration& configuration,
                                                              std::string_view width_key = "intermediate_size") {
  GatedFeedForward<Scalar> part = GatedFeedForward<Scalar>::from_tensors(tensors, Function::silu);
  expect_integer(configuration, {width_key}, part.inner_width(), message(tensors.prefix(), "up_proj.weight has that many rows"));
  return part;
}

/// Routed experts in any of three namings: stacked in `experts.gate_up_proj` and `experts.down_proj`, or one by one as
/// `experts.K.w1|w3|w2` or `experts.K.gate_proj|up_proj|down_proj`; as many as the router has rows.
template <Real Scalar>
[[nodiscard]] std::vector<GatedFeedForward<Scalar>> read_routed_experts(const PrefixedTensors<Scalar>& tensors,
                                                                        const Configuration& configuration, Index count) {
  expect_integer(configuration, {"num_experts"}, count, "the router has that many rows");
  std::vector<GatedFeedForward<Scalar>> experts;
  if (tensors.has("experts.gate_up_proj"))
    experts = read_stacked_experts(tensors, "experts.gate_up_proj", "experts.down_proj");
  else if (tensors.has("experts.0.w1.weight"))
    experts = read_experts(tensors, count, Function::silu, "w1", "w3", "w2");
  else
    experts = read_experts(tensors, count);
  for (const GatedFeedForward<Scalar>& expert : experts)
    expect_integer(configuration, {"moe_intermediate_size"}, expert.inner_width(), "the experts have that inner width");
  return experts;
}

/// The final norm and the head, and the model.
template <Real Scalar>
[[nodiscard]] LanguageModel<Scalar> end_decoder(const TensorSource<Scalar>& source, const Configuration& configuration,
                                                LanguageModelParts<Scalar> parts, Norm<Scalar> final_norm,
                                                std::string_view tied_key = "tie_word_embeddings", bool tied_by_default = false) {
  parts.final_norm = std::move(final_norm);
  parts.head = read_head(source, configuration, "lm_head.weight", parts.embedding, {tied_key}, tied_by_default);
  return LanguageModel<Scalar>(std::move(parts));
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
