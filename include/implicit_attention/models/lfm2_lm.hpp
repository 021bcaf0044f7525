// Lfm2ForCausalLM and Lfm2MoeForCausalLM (Liquid AI 2025): gated short convolutions with grouped-query attention in some layers, and
// mixtures of experts in all but the first layers of the second.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/decoder.hpp>
#include <implicit_attention/models/delta_rule_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The inner width that the configuration gives the feed-forward parts: two thirds of the number there, and rounded up, unless that is
/// switched off. Nothing where it has no such number.
template <class = void>
[[nodiscard]] std::optional<Index> lfm2_inner_width(const Configuration& configuration) {
  // The public port takes the first where it is there, whatever the second says.
  const std::optional<Index> block = configuration.integer({"block_ff_dim"}), plain = configuration.integer({"intermediate_size"});
  const std::optional<Index> given = block ? block : plain;
  const double factor = configuration.number({"block_ffn_dim_multiplier"}).value_or(1.0);
  const Index multiple = configuration.integer({"block_multiple_of"}).value_or(256);
  if (!configuration.boolean({"block_auto_adjust_ff_dim"}).value_or(true) || !given) return given;
  if (*given < 1 || *given > 1000000000 || multiple < 1 || multiple > 1000000000 || !(factor > 0 && factor < 1e3))
    raise(ErrorKind::value, configuration.where(), ": keys block_ff_dim ", *given, ", block_multiple_of ", multiple,
          ", block_ffn_dim_multiplier ", factor, ", expected numbers above 0");
  const Index scaled = static_cast<Index>(factor * static_cast<double>(2 * *given / 3));
  return (scaled + multiple - 1) / multiple * multiple;
}

/// The experts of a layer, below a prefix such as `model.layers.2.feed_forward.`: `gate`, `expert_bias` and `experts`, one by one or
/// stacked. Scores are sigmoids and the bias decides the choice alone, as transformers and llama.cpp have it; MLX's port takes a softmax.
template <Real Scalar>
[[nodiscard, gnu::cold]] MixtureOfExperts<Scalar> read_lfm2_experts(const PrefixedTensors<Scalar>& tensors,
                                                                    const Configuration& configuration) {
  typename MixtureOfExperts<Scalar>::Weights w;
  typename MixtureOfExperts<Scalar>::Options options;
  w.router_weight = tensors.required("gate.weight", 2);
  w.experts = read_routed_experts(tensors, configuration, w.router_weight.rows());
  expect_tensors(configuration, {"use_expert_bias"}, tensors, {"expert_bias"});
  if (configuration.boolean({"use_expert_bias"}).value_or(true)) w.correction_bias = tensors.required("expert_bias", 1);
  options.scores = RouterScores::sigmoid;
  options.choice.chosen = configuration.integer({"num_experts_per_tok"}).value_or(4);
  expect_choice(configuration, options.choice, w.router_weight.rows());
  options.normalize = configuration.boolean({"norm_topk_prob"}).value_or(true);
  options.normalize_eps = 1e-6;
  options.scaling = read_factor<Scalar>(configuration, "routed_scaling_factor");
  return MixtureOfExperts<Scalar>(std::move(w), options);
}

}  // namespace detail

/// Reads an LFM2 language model, dense or with experts. Tensors tell the kinds of a layer; from the configuration it takes
/// num_attention_heads, norm_eps (1e-5), rope_theta (1e6), num_experts_per_tok (4), norm_topk_prob (true), routed_scaling_factor (1); every
/// other key must agree with the weights. The final norm is called `embedding_norm`. The head is
/// the embedding unless tie_embedding (or tie_word_embeddings) says otherwise. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_lfm2_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  detail::expect_text(configuration, "model_type", {"lfm2", "lfm2_moe"}, "the tensors are those of an LFM2 language model");
  detail::expect_boolean(configuration, {"block_use_swiglu"}, true, "no other feed-forward part is read here");
  detail::expect_boolean(configuration, {"use_pos_enc"}, true, "attention without positions is not read here");
  LanguageModelParts<Scalar> parts;
  parts.name = "Lfm2ForCausalLM";
  parts.has_positions = true;
  const Index layers = detail::begin_decoder(source, configuration, "model.", parts);
  detail::expect_integer(configuration, {"block_dim"}, parts.embedding.cols(), "the embedding is that wide");
  static_cast<void>(configuration.find("block_norm_eps"));  // read by no implementation
  const double eps = detail::positive_number(configuration, {"norm_eps"}, 1e-5);
  typename SoftmaxAttention<Scalar>::Options full;
  full.norm_eps = eps;
  detail::read_rotary(configuration, 1e6, 1, full);
  const bool typed = configuration.has("model_type");
  const bool with_experts = typed ? configuration.text({"model_type"}) == "lfm2_moe"
                                  : source.has(detail::message("model.layers.", layers - 1, ".feed_forward.gate.weight"));
  // With experts the dense layers are as wide as intermediate_size says.
  const std::optional<Index> inner = with_experts ? configuration.integer({"intermediate_size"}) : detail::lfm2_inner_width(configuration);
  if (with_experts)  // which the public port of this model does not read
    detail::ignore_keys(configuration, {"block_ff_dim", "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of"});
  std::optional<Index> dense_layers = with_experts ? configuration.integer({"num_dense_layers"}) : layers;
  if (typed && !dense_layers) dense_layers = 2;
  // Layer kinds: `layer_types`, else `full_attn_idxs`; where both are there, the first counts.
  const std::string_view attention_key = "full_attn_idxs";
  const bool explicit_types = configuration.has("layer_types");

  std::vector<std::string> kinds;
  for (Index layer = 0; layer < layers; ++layer) {
    const std::string name = detail::message("model.layers.", layer, ".");
    const PrefixedTensors<Scalar> block(source, name), attention(source, name + "self_attn."), conv(source, name + "conv.");
    const bool is_full = detail::has_attention(attention);
    kinds.emplace_back(is_full ? "full_attention" : "conv");
    const std::optional<bool> listed = detail::listed(configuration, attention_key, layer);
    if (!explicit_types) detail::expect_layer_is(configuration, attention_key, listed, is_full, layer, "listed");
    PartPointer<Scalar> mixer;
    if (is_full) {
      detail::expect_present(attention, {"q_layernorm.weight", "k_layernorm.weight", "out_proj.weight"});
      SoftmaxAttention<Scalar> read = detail::read_attention(attention, configuration, full);
      detail::expect_integer(configuration, {"num_heads"}, read.heads(), "num_attention_heads says so");
      mixer = mixer_part(std::move(read));
    } else {
      mixer = mixer_part(detail::read_short_convolution(conv, configuration));
    }
    const PrefixedTensors<Scalar> feed(source, name + "feed_forward.");
    const bool is_sparse = detail::has_experts(feed);
    if (dense_layers)
      detail::expect_layer_is(configuration, with_experts ? "num_dense_layers" : "model_type", layer >= *dense_layers, is_sparse, layer,
                              "a mixture of experts");
    PartPointer<Scalar> feed_forward;
    if (is_sparse) {
      feed_forward = feed_forward_part(detail::read_lfm2_experts(feed, configuration));
    } else {
      GatedFeedForward<Scalar> dense = GatedFeedForward<Scalar>::from_tensors(feed, Function::silu, "w1", "w3", "w2");
      if (inner && *inner != dense.inner_width())
        detail::contradiction(configuration, "block_ff_dim or intermediate_size, which make the inner width,", *inner, dense.inner_width(),
                              "feed_forward.w1.weight has that many rows");
      feed_forward = feed_forward_part(std::move(dense));
    }
    parts.blocks.push_back({{{detail::read_rms_norm(block, "operator_norm", eps), std::move(mixer)},
                             {detail::read_rms_norm(block, "ffn_norm", eps), std::move(feed_forward)}}});
  }
  if (dense_layers.value_or(0) >= layers)
    detail::ignore_keys(configuration, {"num_dense_layers", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
                                        "routed_scaling_factor", "use_expert_bias"});
  detail::expect_layer_kinds(configuration, {"layer_types"}, kinds, {});
  detail::ignore_keys_without(configuration, kinds, "conv", {"conv_L_cache", "conv_bias", "conv_dim", "conv_dim_out"});
  detail::ignore_keys_without(configuration, kinds, "full_attention", {"num_heads"});
  const std::string_view tied = configuration.has("tie_embedding") ? "tie_embedding" : "tie_word_embeddings";
  static_cast<void>(configuration.find("tie_word_embeddings"));  // tie_embedding goes before it
  return detail::end_decoder(source, configuration, std::move(parts),
                             detail::read_rms_norm(PrefixedTensors<Scalar>(source, "model."), "embedding_norm", eps), tied, true);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
