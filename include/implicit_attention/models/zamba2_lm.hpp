// Zamba2ForCausalLM: Mamba-2 layers, some of which also read the output of a transformer block on the residual stream and the embeddings.
// One or two such blocks are shared by all these layers, each visit with adapters of its own.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/hybrid_parts.hpp>
#include <implicit_attention/models/mamba2_options.hpp>
#include <implicit_attention/models/zamba2_hybrid.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The adapter of one visit, `NAME.VISIT.0.weight` and `.1.weight`.
template <Real S>
[[nodiscard, gnu::cold]] LowRank<S> read_adapter(const PrefixedTensors<S>& tensors, const std::string& list, Index visit, bool wanted) {
  if (!wanted) return {};
  const PrefixedTensors<S> adapter = tensors.below(message(list, ".", visit, "."));
  return {adapter.required("0.weight", 2), adapter.required("1.weight", 2)};
}

}  // namespace detail

/// Reads a Zamba2 language model. A shared block's tensors stand in the first layer that uses it, with the adapters of all its visits;
/// visit I uses block I mod num_mem_blocks (one port once counted layers instead: huggingface/transformers#47994). Attention's scores are
/// scaled by (head size / 2)^(-1/2). Rotary positions where use_mem_rope says so. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_zamba2_lm(const TensorSource<Scalar>& source, const Configuration& given = {}) {
  const Configuration configuration = detail::with_model_type(given, "zamba2");
  Index layers = 0;
  LanguageModelParts<Scalar> parts =
      detail::begin_model(source, configuration, "Zamba2ForCausalLM", "model.embed_tokens.weight", "model.layers.", layers);
  const PrefixedTensors<Scalar> tensors(source, "model.");
  const Index width = parts.embedding.cols(), blocks = configuration.integer({"num_mem_blocks"}).value_or(1);
  if (blocks < 1) detail::raise(ErrorKind::value, configuration.where(), ": key num_mem_blocks is ", blocks, ", expected at least 1");
  detail::expect_text(configuration, "hidden_act", {"gelu"}, "the shared blocks' activation");
  detail::expect_boolean(configuration, {"use_long_context"}, false, "stretched rotary positions are not read here");
  detail::expect_integer(configuration, {"attention_hidden_size"}, 2 * width, "attention reads the residual stream and the embeddings");
  detail::ignore_keys(configuration, {"kv_channels", "ffn_hidden_size", "num_query_groups", "adapter_rank"});
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-5);
  parts.shares_embeddings = true;
  parts.has_positions = configuration.boolean({"use_mem_rope"}).value_or(false);
  typename SoftmaxAttention<Scalar>::Options attention;
  attention.rotary_part = parts.has_positions ? 1 : 0;
  attention.rotary_base = detail::rotary_base(configuration, 10000.0);
  std::vector<std::string> kinds, shared_prefixes;
  Index visit = 0;
  for (Index layer = 0; layer < layers; ++layer) {
    const PrefixedTensors<Scalar> block = tensors.below(detail::message("layers.", layer, "."));
    if (!detail::has_any(block, {"linear.weight", "mamba_decoder.input_layernorm.weight"})) {
      kinds.emplace_back("mamba");
      parts.blocks.push_back({{{detail::read_rms_norm(block, "input_layernorm", eps),
                                mixer_part(detail::read_mamba2(block.below("mamba."), configuration))}}});
      continue;
    }
    kinds.emplace_back("hybrid");
    if (visit < blocks) shared_prefixes.push_back(block.prefix() + "shared_transformer.");
    const PrefixedTensors<Scalar> shared(source, shared_prefixes[static_cast<std::size_t>(visit % blocks)]);
    const PrefixedTensors<Scalar> attends = shared.below("self_attn."), feeds = shared.below("feed_forward.");
    const bool adapted = attends.has(detail::message("linear_q_adapter_list.", visit, ".0.weight"));
    detail::expect_boolean(configuration, {"use_shared_attention_adapter"}, adapted,
                           detail::message("tensor ", attends.name_in_file(detail::message("linear_q_adapter_list.", visit, ".0.weight")),
                                           " is ", adapted ? "there" : "missing"));
    const Index heads = detail::required_integer(configuration, {"num_attention_heads"});
    attention.scale = 1 / std::sqrt(static_cast<double>(width) / static_cast<double>(heads));  // half of the head size 2 D / heads
    SoftmaxAttention<Scalar> plain = detail::read_attention(attends, configuration, attention, width);
    typename SoftmaxAttention<Scalar>::Weights weights = plain.weights();
    weights.q_adapter = detail::read_adapter(attends, "linear_q_adapter_list", visit, adapted);
    weights.k_adapter = detail::read_adapter(attends, "linear_k_adapter_list", visit, adapted);
    weights.v_adapter = detail::read_adapter(attends, "linear_v_adapter_list", visit, adapted);
    typename detail::Zamba2Hybrid<Scalar>::Weights w;
    w.input_norm = detail::read_rms_norm(shared, "input_layernorm", eps);
    w.feed_forward_norm = detail::read_rms_norm(shared, "pre_ff_layernorm", eps);
    w.attention = mixer_part(SoftmaxAttention<Scalar>(std::move(weights), plain.options()), "attention");
    w.gate_up_weight = feeds.required("gate_up_proj.weight", 2);
    const bool feed_adapted = configuration.boolean({"use_shared_mlp_adapter"}).value_or(true) ||
                              feeds.has(detail::message("gate_up_proj_adapter_list.", visit, ".0.weight"));
    w.gate_up_adapter = detail::read_adapter(feeds, "gate_up_proj_adapter_list", visit, feed_adapted);
    w.down_weight = feeds.required("down_proj.weight", 2);
    if (configuration.boolean({"add_bias_linear"}).value_or(false)) {
      w.gate_up_bias = feeds.required("gate_up_proj.bias", 1);
      w.down_bias = feeds.required("down_proj.bias", 1);
    }
    detail::expect_integer(configuration, {"intermediate_size"}, w.down_weight.cols(), "down_proj.weight has that many columns");
    if (feed_adapted) detail::expect_integer(configuration, {"adapter_rank"}, w.gate_up_adapter.down.rows(), "the adapters have that rank");
    w.linear_weight = block.required("linear.weight", 2);
    w.mamba_norm = detail::read_rms_norm(block, "mamba_decoder.input_layernorm", eps);
    w.mamba = mixer_part(detail::read_mamba2(block.below("mamba_decoder.mamba."), configuration));
    Sublayer<Scalar> hybrid;
    hybrid.branches.push_back({std::make_shared<const detail::Zamba2Hybrid<Scalar>>(std::move(w))});
    parts.blocks.push_back({{std::move(hybrid)}});
    ++visit;
  }
  detail::expect_listed_layers(configuration, "hybrid_layer_ids", kinds, "hybrid");
  detail::expect_layer_kinds(configuration, {"layers_block_type", "layer_types"}, kinds,
                             {{"linear_attention", "mamba"}, {"m", "mamba"}, {"g", "hybrid"}});
  detail::ignore_keys_without(configuration, kinds, "hybrid",
                              {"num_attention_heads", "num_key_value_heads", "attention_head_dim", "intermediate_size",
                               "use_shared_attention_adapter", "use_shared_mlp_adapter", "add_bias_linear"});
  parts.final_norm = detail::read_rms_norm(tensors, "final_layernorm", eps);
  parts.head = detail::read_head(source, configuration, "lm_head.weight", parts.embedding, {"tie_word_embeddings"}, true);
  return LanguageModel<Scalar>(std::move(parts));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
