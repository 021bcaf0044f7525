// Lfm2ForCausalLM (Liquid AI 2025): gated short convolutions with grouped-query attention in some layers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/decoder.hpp>
#include <implicit_attention/models/delta_rule_options.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The inner width that the configuration gives the feed-forward parts: two thirds of the number there, and rounded up, unless that is
/// switched off. Nothing where it has no such number.
[[nodiscard]] inline std::optional<Index> lfm2_inner_width(const Configuration& configuration) {
  // The public port takes the first where it is there, whatever the second says.
  const std::optional<Index> block = configuration.integer({"block_ff_dim"}), plain = configuration.integer({"intermediate_size"});
  const std::optional<Index> given = block ? block : plain;
  const double factor = configuration.number({"block_ffn_dim_multiplier"}).value_or(1.0);
  const Index multiple = configuration.integer({"block_multiple_of"}).value_or(256);
  if (!configuration.boolean({"block_auto_adjust_ff_dim"}).value_or(true) || !given) return given;
  if (*given < 1 || *given > 1000000000 || multiple < 1 || multiple > 1000000000 || !(factor > 0 && factor < 1e3))
    raise(ErrorKind::value, message(configuration.where(), ": keys block_ff_dim ", *given, ", block_multiple_of ", multiple,
                                    ", block_ffn_dim_multiplier ", factor, ", expected numbers above 0"));
  const Index scaled = static_cast<Index>(factor * static_cast<double>(2 * *given / 3));
  return (scaled + multiple - 1) / multiple * multiple;
}

}  // namespace detail

/// Reads an LFM2 language model. Tensors tell the kind of a layer; of the configuration are used: num_attention_heads,
/// norm_eps (1e-5), rope_theta (1e6); every other key must agree with the weights. The final norm is called `embedding_norm`. The head is
/// the embedding unless tie_embedding (or tie_word_embeddings) says otherwise. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard]] LanguageModel<Scalar> load_lfm2_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  if (configuration.text({"model_type"}) == "lfm2_moe")
    raise(ErrorKind::value,
          message(configuration.where(), ": key model_type is lfm2_moe, expected lfm2: experts of LFM2 are not read here"));
  detail::expect_text(configuration, "model_type", {"lfm2"}, "the tensors are those of an LFM2 language model");
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
  const std::optional<Index> inner = detail::lfm2_inner_width(configuration);
  // Layer kinds: `layer_types`, else `full_attn_idxs`; where both are there, the first counts.
  const std::string_view attention_key = "full_attn_idxs";
  const bool explicit_types = configuration.has("layer_types");

  std::vector<std::string> kinds;
  for (Index layer = 0; layer < layers; ++layer) {
    const std::string name = message("model.layers.", layer, ".");
    const PrefixedTensors<Scalar> block(source, name), attention(source, name + "self_attn."), conv(source, name + "conv.");
    const bool is_full = attention.has("q_proj.weight");
    kinds.emplace_back(is_full ? "full_attention" : "conv");
    const std::optional<bool> listed = detail::listed(configuration, attention_key, layer);
    if (!explicit_types) detail::expect_layer_is(configuration, attention_key, listed, is_full, layer, "listed");
    PartPointer<Scalar> mixer;
    if (is_full) {
      detail::expect_present(attention, {"q_layernorm.weight", "k_layernorm.weight"});
      SoftmaxAttention<Scalar> read = detail::read_attention(attention, configuration, full);
      detail::expect_integer(configuration, {"num_heads"}, read.heads(), "num_attention_heads says so");
      mixer = mixer_part(std::move(read));
    } else {
      mixer = mixer_part(detail::read_short_convolution(conv, configuration));
    }
    GatedFeedForward<Scalar> feed_forward =
        GatedFeedForward<Scalar>::from_tensors(PrefixedTensors<Scalar>(source, name + "feed_forward."), Function::silu, "w1", "w3", "w2");
    if (inner && *inner != feed_forward.inner_width())
      detail::contradiction(configuration, "block_ff_dim or intermediate_size, which make the inner width,", *inner,
                            feed_forward.inner_width(), "feed_forward.w1.weight has that many rows");
    parts.blocks.push_back({{{detail::read_rms_norm(block, "operator_norm", eps), std::move(mixer)},
                             {detail::read_rms_norm(block, "ffn_norm", eps), feed_forward_part(std::move(feed_forward))}}});
  }
  detail::expect_layer_kinds(configuration, {"layer_types"}, kinds, {});
  detail::ignore_keys_without(configuration, kinds, "conv", {"conv_L_cache", "conv_bias", "conv_dim", "conv_dim_out"});
  detail::ignore_keys_without(configuration, kinds, "full_attention", {"num_heads"});
  const std::string_view tied = configuration.has("tie_embedding") ? "tie_embedding" : "tie_word_embeddings";
  static_cast<void>(configuration.find("tie_word_embeddings"));  // tie_embedding goes before it
  return detail::end_decoder(source, configuration, std::move(parts),
                             detail::read_rms_norm(PrefixedTensors<Scalar>(source, "model."), "embedding_norm", eps), tied, true);
}

IMPLICIT_ATTENTION_NAMESPACE_END
