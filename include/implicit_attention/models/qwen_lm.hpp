// Qwen3-Next, Qwen3.5 and their kin: Gated DeltaNet with gated full attention in every few layers, dense or with experts.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/decoder.hpp>
#include <implicit_attention/models/delta_rule_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// p = softmax(gate u); w = the best k of p / their sum; out = sum w expert(u) + sigmoid(shared_expert_gate u) shared_expert(u).
template <Real Scalar>
[[nodiscard, gnu::cold]] MixtureOfExperts<Scalar> read_qwen_experts(const PrefixedTensors<Scalar>& tensors,
                                                                    const Configuration& configuration, bool next) {
  typename MixtureOfExperts<Scalar>::Weights w;
  typename MixtureOfExperts<Scalar>::Options options;
  w.router_weight = tensors.required("gate.weight", 2);
  w.experts = read_routed_experts(tensors, configuration, w.router_weight.rows());
  if (has_any(tensors, {"shared_expert.up_proj.weight", "shared_expert_gate.weight"})) {
    const PrefixedTensors<Scalar> shared(tensors.source(), tensors.prefix() + "shared_expert.");
    w.shared = read_gated_part(shared, configuration, Scalar(1), "shared_expert_intermediate_size");
    w.shared_gate_weight = tensors.required("shared_expert_gate.weight", 2);
  }
  options.scores = RouterScores::softmax;
  options.choice.chosen = required_integer(configuration, {"num_experts_per_tok"});
  expect_choice(configuration, options.choice, w.router_weight.rows());
  // Qwen3-Next reads the key; Qwen3.5 has none and always divides by the sum.
  options.normalize = configuration.boolean({"norm_topk_prob"}).value_or(true);
  if (!next) expect_boolean(configuration, {"norm_topk_prob"}, true, "this model always divides the weights of experts by their sum");
  return MixtureOfExperts<Scalar>(std::move(w), options);
}

/// Whether `mlp_only_layers` and `decoder_sparse_step` let a layer have experts; nothing where neither is there.
template <class = void>
[[nodiscard]] std::optional<bool> qwen_layer_is_sparse(const Configuration& configuration, Index layer) {
  const std::optional<bool> dense = listed(configuration, "mlp_only_layers", layer);
  const std::optional<Index> step = configuration.integer({"decoder_sparse_step"});
  if (!dense && !step) return std::nullopt;
  // A model without experts lists no layer and has no number of them: its tensors tell.
  if (!step && !dense.value_or(false) && !configuration.integer({"num_experts"})) return std::nullopt;
  if (step && *step < 1) raise(ErrorKind::value, configuration.where(), ": key decoder_sparse_step is ", *step, ", expected at least 1");
  return !dense.value_or(false) && (layer + 1) % step.value_or(1) == 0 && configuration.integer({"num_experts"}).value_or(1) > 0;
}

}  // namespace detail

/// Reads a language model of `model_type` qwen3_next, qwen3_5, qwen3_5_text, qwen3_5_moe or qwen3_5_moe_text; of a multimodal checkpoint
/// the text model, whose configuration stands under `text_config` and whose tensors begin with `model.language_model.`. Tensors tell the
/// kind of a layer; `linear_num_key_heads` (16), `num_attention_heads`, `num_experts_per_tok`, `norm_topk_prob` (true),
/// `rms_norm_eps` (1e-6), `rope_theta` (10000; 1e7 in released files) and `partial_rotary_factor` (0.25) are used. Every other key must
/// agree with the weights. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_qwen_lm(const TensorSource<Scalar>& source, const Configuration& whole = {}) {
  const Configuration configuration = whole.below("text_config");
  detail::expect_text(configuration, "model_type", {"qwen3_5_text", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next"},
                      "the tensors are those of a Qwen language model with linear attention");
  detail::expect_text(configuration, "output_gate_type", {"swish", "silu"}, "the delta rule's gate is a SiLU");
  const bool nested = source.has("model.language_model.embed_tokens.weight");
  const std::string prefix = nested ? "model.language_model." : "model.";
  LanguageModelParts<Scalar> parts;
  const Index layers = detail::begin_decoder(source, configuration, prefix, parts);
  const double eps = detail::positive_number(configuration, {"rms_norm_eps"}, 1e-6);
  // Every norm but the delta rule's own is stored less 1; GGUF files have the 1 added.
  const bool less_one = !configuration.boolean({"norm_weights_include_one"}).value_or(false);

  typename GatedDeltaNet<Scalar>::Options linear;
  linear.key_heads = configuration.integer({"linear_num_key_heads"}).value_or(16);
  linear.norm_eps = eps;
  typename SoftmaxAttention<Scalar>::Options full;
  full.norm_eps = eps;
  full.norm_one_plus = less_one;
  detail::read_rotary(configuration, 10000.0, 0.25, full);  // the base where no key says: the public port's
  // The three positions of a text token are the same.
  detail::ignore_keys(configuration, {"rope_parameters.mrope_section", "rope_parameters.mrope_interleaved"});
  const std::optional<Index> interval = configuration.integer({"full_attention_interval"});
  if (interval && *interval < 1)
    detail::raise(ErrorKind::value, configuration.where(), ": key full_attention_interval is ", *interval, ", expected at least 1");
  const bool explicit_types = configuration.has("layer_types");

  bool next = false;
  std::vector<std::string> kinds;
  for (Index layer = 0; layer < layers; ++layer) {
    const std::string name = detail::message(prefix, "layers.", layer, ".");
    const PrefixedTensors<Scalar> block(source, name), attention(source, name + "self_attn."), mlp(source, name + "mlp.");
    const PrefixedTensors<Scalar> delta(source, name + "linear_attn.");
    const bool is_full = detail::has_attention(attention);
    kinds.emplace_back(is_full ? "full_attention" : "linear_attention");
    if (interval && !explicit_types)
      detail::expect_layer_is(configuration, "full_attention_interval", (layer + 1) % *interval == 0, is_full, layer, "full attention");
    PartPointer<Scalar> mixer;
    if (is_full) {
      detail::expect_present(attention, {"q_norm.weight", "k_norm.weight"});
      // q_proj has, for each head, its query and then its gate.
      full.output_gate = attention.required("q_proj.weight", 2).rows() != attention.required("o_proj.weight", 2).cols();
      detail::expect_boolean(configuration, {"attn_output_gate"}, full.output_gate, "q_proj.weight has that many rows");
      mixer = mixer_part(detail::read_attention(attention, configuration, full));
    } else {
      next = next || delta.has("in_proj_qkvz.weight");
      detail::expect_delta_rule_tensors(delta, true);
      GatedDeltaNet<Scalar> read = GatedDeltaNet<Scalar>::from_tensors(delta, linear);
      detail::expect_delta_rule(configuration, read);
      mixer = mixer_part(std::move(read));
    }
    const bool sparse = detail::has_experts(mlp);
    detail::expect_layer_is(configuration, "decoder_sparse_step or mlp_only_layers", detail::qwen_layer_is_sparse(configuration, layer),
                            sparse, layer, "a mixture of experts");
    PartPointer<Scalar> feed_forward =
        sparse ? feed_forward_part(detail::read_qwen_experts(mlp, configuration, configuration.text({"model_type"}) == "qwen3_next"))
               : feed_forward_part(detail::read_gated_part(mlp, configuration));
    parts.blocks.push_back({{{detail::read_rms_norm(block, "input_layernorm", eps, less_one), std::move(mixer)},
                             {detail::read_rms_norm(block, "post_attention_layernorm", eps, less_one), std::move(feed_forward)}}});
  }
  detail::expect_layer_kinds(configuration, {"layer_types"}, kinds, {});
  detail::ignore_delta_rule_keys_without_layers(configuration, kinds);
  detail::ignore_keys_without(configuration, kinds, "full_attention", {"head_dim", "attn_output_gate"});
  parts.name = next ? "Qwen3NextForCausalLM" : nested ? "Qwen3_5ForConditionalGeneration" : "Qwen3_5ForCausalLM";
  parts.has_positions = true;
  return detail::end_decoder(source, configuration, std::move(parts),
                             detail::read_rms_norm(PrefixedTensors<Scalar>(source, prefix), "norm", eps, less_one));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
