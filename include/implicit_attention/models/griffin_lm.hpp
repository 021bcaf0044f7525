// RecurrentGemmaForCausalLM: Griffin (De et al. 2024, arXiv 2402.19427) with recurrent and local attention layers, as Hugging Face has it.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>
#include <implicit_attention/models/checkpoint.hpp>
#include <implicit_attention/models/feed_forward.hpp>
#include <implicit_attention/models/hybrid_parts.hpp>
#include <implicit_attention/models/language_model.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The configuration's order of blocks, repeated over the layers, must be that of the weights, where it is given.
template <class = void>
[[gnu::cold]] void expect_block_type(const Configuration& configuration, Index layer, std::string_view expected) {
  for (const std::string_view key : {"block_types", "_block_types"}) {
    const auto types = configuration.texts({key});
    if (!types) continue;
    if (types->empty())
      raise(ErrorKind::value, configuration.where(), ": key ", key, " is an empty list, expected recurrent and attention");
    const std::string& type = (*types)[static_cast<std::size_t>(layer) % types->size()];
    if (type != expected)
      raise(ErrorKind::value, configuration.where(), ": key ", key, " has ", type, " for layer ", layer, ", expected ", expected,
            ": that is what the layer's tensors are");
  }
}

/// Query heads of the attention layers. From `num_attention_heads`; without it, from `head_dim`, then from the gates' blocks of a
/// recurrent layer, then from one key/value head.
template <Real Scalar>
[[nodiscard]] Index griffin_heads(const TensorSource<Scalar>& source, const Configuration& configuration, const std::string& prefix,
                                  Index gate_blocks) {
  const auto rows = [&](const std::string& name) { return PrefixedTensors<Scalar>(source, prefix).required(name, 2).rows(); };
  const Index queries = rows("q_proj.weight"), keys = rows("k_proj.weight");
  const auto divided = [&](std::string_view key, Index value) {
    if (value < 1 || queries % value != 0)
      raise(ErrorKind::value, configuration.where(), ": key ", key, " is ", value, ", expected a divisor of ", queries, ": ",
            source.name_in_file(prefix + "q_proj.weight"), " has that many rows");
    return value;
  };
  if (const auto heads = configuration.integer({"num_attention_heads"})) return divided("num_attention_heads", *heads);
  if (const auto size = configuration.integer({"head_dim"})) return queries / divided("head_dim", *size);
  if (gate_blocks > 0 && queries % gate_blocks == 0) return gate_blocks;
  return keys > 0 && queries % keys == 0 ? queries / keys : 1;
}

/// A recurrent layer below a prefix such as `model.layers.0.temporal_block.`.
template <Real Scalar>
[[nodiscard, gnu::cold]] Griffin<Scalar> read_griffin(const PrefixedTensors<Scalar>& tensors, const Configuration& configuration,
                                                      typename Griffin<Scalar>::Options options = {}) {
  expect_text(configuration, "hidden_activation", {"gelu_pytorch_tanh"}, "Griffin's activation");
  Griffin<Scalar> mixer = Griffin<Scalar>::from_tensors(tensors, options);
  expect_integer(configuration, {"lru_width"}, mixer.channels(), "rg_lru.recurrent_param has that many numbers");
  expect_integer(configuration, {"conv1d_width"}, mixer.convolution_width(), "conv_1d.weight is that wide");
  expect_integer(configuration, {"num_attention_heads"}, mixer.heads(), "the gates of the recurrent layers have that many blocks");
  return mixer;
}

}  // namespace detail

/// Reads a Griffin language model (RecurrentGemma). Tensors tell whether a layer is recurrent or attends. From the configuration
/// it takes num_attention_heads, attention_window_size (2048), partial_rotary_factor (0.5), rope_theta (10000), rms_norm_eps (1e-6),
/// logits_soft_cap (30; 0: none), embeddings_scale_by_sqrt_dim (true); every other key that is there must agree with the weights
/// (`intermediate_size` is twice the inner width in the public files; the inner width itself is taken too). Fails naming the tensor or
/// the key.
///
/// Positions restart at 0 where a packed document begins: that resets the recurrent layers and rotates queries and keys, and, as in the
/// public port, nothing else: neither the convolution (unless `options` say so) nor attention is masked between documents.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_griffin_lm(const TensorSource<Scalar>& source, const Configuration& configuration = {},
                                                               typename Griffin<Scalar>::Options options = {}) {
  detail::expect_text(configuration, "model_type", {"recurrent_gemma"}, "the tensors are those of a RecurrentGemma language model");
  detail::expect_text(configuration, "hidden_activation", {"gelu_pytorch_tanh"}, "Griffin's activation");
  const PrefixedTensors<Scalar> tensors(source, "model.");
  LanguageModelParts<Scalar> parts;
  parts.name = "RecurrentGemmaForCausalLM";
  parts.has_positions = true;
  parts.embedding = tensors.required("embed_tokens.weight", 2);
  const Index width = parts.embedding.cols(), layers = detail::count_layers(source, "model.layers.");
  detail::expect_integer(configuration, {"hidden_size"}, width, "the embedding is that wide");
  detail::expect_integer(configuration, {"num_hidden_layers"}, layers, "the weights have that many layers");
  detail::expect_vocabulary(configuration, parts.embedding.rows());
  if (configuration.boolean({"embeddings_scale_by_sqrt_dim"}).value_or(true))  // the public port keeps the factor in bfloat16
    parts.embedding_scale =
        static_cast<Scalar>(static_cast<float>(Eigen::bfloat16(static_cast<float>(std::sqrt(static_cast<double>(width))))));
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-6);
  const double cap = configuration.number({"logits_soft_cap"}).value_or(30.0);
  if (!(cap >= 0)) detail::raise(ErrorKind::value, configuration.where(), ": key logits_soft_cap is ", cap, ", expected at least 0");
  detail::expect_fits<Scalar>(configuration, "logits_soft_cap", cap);
  parts.soft_cap = static_cast<Scalar>(cap);

  // The keys of attention layers are read and checked in a model without such layers too, where they change nothing.
  const Index window = configuration.integer({"attention_window_size"}).value_or(2048);
  if (window < 1)
    detail::raise(ErrorKind::value, configuration.where(), ": key attention_window_size is ", window, ", expected at least 1");
  const double rotary_part = detail::rotary_share(configuration, 0.5);
  const double rotary_base = detail::rotary_base(configuration, 10000.0);
  for (const char* key : {"head_dim", "num_key_value_heads"}) static_cast<void>(configuration.integer({key}));
  static_cast<void>(configuration.boolean({"attention_bias"}));

  Index gate_blocks = 0;
  for (Index layer = 0; layer < layers && gate_blocks == 0; ++layer)
    if (const auto shape = source.shape(detail::message("model.layers.", layer, ".temporal_block.rg_lru.input_gate_bias"));
        shape && !shape->empty())
      gate_blocks = shape->front();

  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block(source, detail::message("model.layers.", layer, "."));
    const PrefixedTensors<Scalar> temporal(source, block.prefix() + "temporal_block.");
    const auto read_mixer = [&]() -> PartPointer<Scalar> {
      if (!detail::has_attention(temporal)) {
        detail::expect_block_type(configuration, layer, "recurrent");
        return mixer_part(detail::read_griffin(temporal, configuration, options));
      }
      detail::expect_block_type(configuration, layer, "attention");
      typename SoftmaxAttention<Scalar>::Options attention;
      attention.heads = detail::griffin_heads(source, configuration, temporal.prefix(), gate_blocks);
      attention.window = window;
      attention.rotary_part = rotary_part;
      attention.rotary_base = rotary_base;
      static_cast<void>(temporal.required("o_proj.bias", 1));  // the public layer always has it
      detail::expect_together(temporal, {"q_proj.bias", "k_proj.bias", "v_proj.bias"});
      SoftmaxAttention<Scalar> mixer = SoftmaxAttention<Scalar>::from_tensors(temporal, attention);
      detail::expect_integer(configuration, {"head_dim"}, mixer.head_size(), "q_proj.weight has that many rows a head");
      detail::expect_integer(configuration, {"num_key_value_heads"}, mixer.key_heads(), "k_proj.weight has rows for that many heads");
      const bool bias = !mixer.weights().q_proj_bias.empty();
      detail::expect_boolean(configuration, {"attention_bias"}, bias, bias ? "q_proj.bias is there" : "there is no q_proj.bias");
      return mixer_part(std::move(mixer));
    };
    PartPointer<Scalar> mixer = read_mixer();
    for (const char* bias : {"gate_proj.bias", "up_proj.bias", "down_proj.bias"})
      static_cast<void>(PrefixedTensors<Scalar>(source, block.prefix() + "mlp_block.").required(bias, 1));
    GatedFeedForward<Scalar> feed_forward =
        GatedFeedForward<Scalar>::from_tensors(PrefixedTensors<Scalar>(source, block.prefix() + "mlp_block."));
    if (const auto size = configuration.integer({"intermediate_size"}); size && *size != feed_forward.inner_width())
      detail::expect_integer(configuration, {"intermediate_size"}, 2 * feed_forward.inner_width(),
                             "twice the rows of mlp_block.gate_proj.weight");
    parts.blocks.push_back({{{detail::read_rms_norm(block, "temporal_pre_norm", eps, true), std::move(mixer)},
                             {detail::read_rms_norm(block, "channel_pre_norm", eps, true), feed_forward_part(std::move(feed_forward))}}});
  }
  parts.final_norm = detail::read_rms_norm(tensors, "final_norm", eps, true);
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings"}, true);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
