// What the readers of public checkpoints share: counting layers, tied heads, and configuration keys held against the weights.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/trace/norms.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What tells a family: the names of the tensors and the configuration's model_type.
class CheckpointFacts {
 public:
  CheckpointFacts(std::vector<std::string> names, const Configuration& configuration)
      : names_(std::move(names)), type_(configuration.text({"model_type"})) {}

  /// Whether the configuration names one of these types.
  [[nodiscard]] bool is_type(std::initializer_list<std::string_view> types) const {
    return type_ && std::find(types.begin(), types.end(), *type_) != types.end();
  }
  /// Whether the configuration names no type.
  [[nodiscard]] bool untyped() const { return !type_; }
  /// Whether a tensor's name begins with `prefix` and has `part` in it.
  [[nodiscard]] bool has(std::string_view prefix, std::string_view part) const {
    return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) {
      return name.compare(0, prefix.size(), prefix) == 0 && name.find(part) != std::string::npos;
    });
  }

 private:
  std::vector<std::string> names_;
  std::optional<std::string> type_;
};

/// Fails on tensors that the loader did not read, but for those known to carry nothing.
template <Real Scalar>
void expect_all_used(const WatchedTensors<Scalar>& watched, std::string_view architecture) {
  std::string left;
  Index count = 0;
  for (const std::string& name : watched.unused()) {
    // Tables that follow from the configuration; extra prediction heads and vision towers, which the text model does not use.
    const auto ends = [&](std::string_view end) {
      return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
    };
    const auto holds = [&](std::string_view part) { return name.find(part) != std::string::npos; };
    if (ends("rotary_emb.inv_freq") || ends("rotary_emb.cos_cached") || ends("rotary_emb.sin_cached") || ends("num_batches_tracked"))
      continue;
    if (name.compare(0, 4, "mtp.") == 0 || holds(".mtp.") || holds("model.visual.") || name.compare(0, 7, "visual.") == 0) continue;
    if (++count <= 3) left += message(left.empty() ? "" : ", ", name);
  }
  if (count == 0) return;
  raise(ErrorKind::file, message(watched.where(), ": ", count, count == 1 ? " tensor is" : " tensors are", " not used by ", architecture,
                                 " (", left, count > 3 ? ", ..." : "", "): what they do would be missing from the model"));
}

/// The same for a layer that is read by itself: of the tensors below its prefix.
template <Real Scalar>
void expect_layer_used(const WatchedTensors<Scalar>& watched, const std::string& prefix, std::string_view title) {
  for (const std::string& name : watched.unused())
    if (!prefix.empty() && name.compare(0, prefix.size(), prefix) == 0)
      raise(ErrorKind::file,
            message(watched.where(), ": tensor ", name, " is not used by a ", title, " layer: what it does would be missing"));
}

/// `rope_parameters` of `text_config.rope_parameters.rope_theta`: a key's first part, of a multimodal model's text its second.
[[nodiscard]] inline std::string_view top_key(std::string_view key) {
  if (constexpr std::string_view nested = "text_config."; key.compare(0, nested.size(), nested) == 0) key.remove_prefix(nested.size());
  return key.substr(0, key.find('.'));
}

/// Keys of public configurations that describe, initialise or train, and change nothing of a forward pass.
[[nodiscard]] inline bool describes_only(std::string_view key) {
  const std::string_view top = top_key(key);
  for (const std::string_view known : {"architectures",
                                       "model_type",
                                       "torch_dtype",
                                       "dtype",
                                       "transformers_version",
                                       "auto_map",
                                       "use_cache",
                                       "chunk_size",
                                       "mamba_chunk_size",
                                       "residual_in_fp32",
                                       "fused_add_norm",
                                       "rms_norm_fused",
                                       "time_step_min",
                                       "time_step_max",
                                       "time_step_floor",
                                       "time_step_init_scheme",
                                       "time_step_scale",
                                       "rescale_prenorm_residual",
                                       "initializer_range",
                                       "initializer_factor",
                                       "vocab_size",
                                       "max_position_embeddings",
                                       "context_length",
                                       "max_sequence_length",
                                       "use_mamba_kernels",
                                       "num_logits_to_keep",
                                       "output_router_logits",
                                       "router_aux_loss_coef",
                                       "pad_vocab_size_multiple",
                                       "id2label",
                                       "label2id",
                                       "task_specific_params",
                                       "return_dict",
                                       "is_encoder_decoder",
                                       "tokenizer_class",
                                       "names",
                                       "form",
                                       "case",
                                       "layer",
                                       "architecture",
                                       "seed",
                                       "mamba_expand",
                                       "keys_to_ignore",
                                       "vision_config",
                                       "image_token_id",
                                       "video_token_id",
                                       "vision_start_token_id",
                                       "vision_end_token_id",
                                       "mtp_num_hidden_layers",
                                       "mamba_dt_min",
                                       "mamba_dt_max",
                                       "mamba_dt_init_floor",
                                       "use_mem_eff_path",
                                       "attn_implementation",
                                       "use_bidirectional_attention",
                                       "rescale_every",
                                       "w_init_variance_scale",
                                       "final_w_init_variance_scale",
                                       "generation_config",
                                       "use_mambapy",
                                       "use_falcon_mambapy",
                                       "use_associative_scan",
                                       "mamba_ssm_cache_dtype",
                                       "mamba_ssm_dtype",
                                       "moe_shared_expert_overlap",
                                       "num_nextn_predict_layers",
                                       "mtp_layers_block_type",
                                       "mtp_hybrid_override_pattern",
                                       "mlp_expansion_factor",
                                       "linear_a_log_min",
                                       "linear_a_log_max",
                                       "linear_dt_min",
                                       "linear_dt_max",
                                       "linear_dt_init_floor"})
    if (top == known) return true;
  const auto ends = [&](std::string_view end) { return top.size() >= end.size() && top.substr(top.size() - end.size()) == end; };
  return top.front() == '_' || ends("_token_id") || ends("_dropout") || ends("dropout") || ends("_dropout_prob") || ends("_init_scale") ||
         ends("_xavier_init") || ends("_loss_coef") || ends("_layer_name");
}

/// Keys of a whole model's configuration that a layer read by itself has nothing to do with. What one family says of its other parts may be
/// an option of a layer elsewhere (`norm_eps`, `attention_hidden_size`): such a key is let pass where `model_type` names the family only.
[[nodiscard]] inline bool concerns_other_parts(const Configuration& configuration, std::string_view key) {
  using Names = std::vector<std::string_view>;
  struct Owned {
    Names types, keys;
  };
  static const Names common = {"num_hidden_layers",
                               "n_layer",
                               "tie_word_embeddings",
                               "tie_embeddings",
                               "intermediate_size",
                               "hidden_act",
                               "layer_types",
                               "layers_block_type",
                               "attn_layer_indices",
                               "head_dim_attention",
                               "hidden_size",
                               "d_model",
                               "lm_head_multiplier",
                               "embedding_multiplier",
                               "logits_scaling",
                               "residual_multiplier",
                               "attention_multiplier",
                               "sliding_window",
                               "mlp_bias",
                               "num_experts",
                               "num_local_experts",
                               "num_experts_per_tok",
                               "logits_soft_cap",
                               "embeddings_scale_by_sqrt_dim",
                               "attention_window_size",
                               "norm_epsilon"};
  static const std::vector<Owned> owned = {
      // softmax attention beside the layer, and experts, of all hybrids
      {{"nemotron_h", "granitemoehybrid", "falcon_h1", "zamba2", "jamba", "bamba", "qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe",
        "qwen3_5_moe_text", "olmo_hybrid", "kimi_linear", "lfm2", "recurrent_gemma"},
       {"num_attention_heads", "num_key_value_heads", "head_dim", "attention_bias", "rope_theta", "rope_parameters", "rope_scaling",
        "partial_rotary_factor", "norm_topk_prob", "moe_intermediate_size"}},
      {{"qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"},
       {"attn_output_gate", "full_attention_interval", "shared_expert_intermediate_size", "decoder_sparse_step", "mlp_only_layers"}},
      {{"lfm2"},
       {"full_attn_idxs", "use_pos_enc", "block_ff_dim", "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of",
        "block_use_swiglu", "block_norm_eps", "block_dim", "tie_embedding"}},
      {{"kimi_linear"},
       {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "mla_use_nope", "moe_layer_freq",
        "moe_renormalize", "moe_router_activation_func", "num_experts_per_token", "num_expert_group", "topk_group", "use_grouped_topk",
        "num_shared_experts", "routed_scaling_factor", "first_k_dense_replace", "model_max_length"}},
      // rms_norm_eps here and in Zamba2, and layer_norm_epsilon in Mamba, are those of the blocks' norms; the mixer's own has another
      {{"nemotron_h"},
       {"n_routed_experts", "n_shared_experts", "n_group", "topk_group", "routed_scaling_factor", "moe_shared_expert_intermediate_size",
        "moe_latent_size", "mlp_hidden_act", "hybrid_override_pattern", "attention_head_dim", "norm_eps", "rms_norm_eps",
        "time_step_rank"}},
      {{"zamba2"},
       {"attention_head_dim", "attention_hidden_size", "kv_channels", "num_query_groups", "ffn_hidden_size", "use_mem_rope",
        "use_long_context", "adapter_rank", "num_mem_blocks", "use_shared_attention_adapter", "use_shared_mlp_adapter", "hybrid_layer_ids",
        "rms_norm_eps"}},
      {{"mamba", "falcon_mamba"}, {"layer_norm_epsilon"}},
      {{"granitemoehybrid"}, {"shared_intermediate_size", "position_embedding_type", "init_method", "normalization_function"}},
      {{"falcon_h1"},
       {"mlp_multipliers", "mamba_use_mlp", "key_multiplier", "attention_in_multiplier", "attention_out_multiplier", "ssm_out_multiplier"}},
      {{"jamba"}, {"attn_layer_offset", "attn_layer_period", "expert_layer_offset", "expert_layer_period"}},
      {{"bamba"}, {"attn_rotary_emb"}}};
  const auto in = [](const Names& names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  if (in(common, top_key(key))) return true;
  const std::string type = configuration.text({"model_type", "text_config.model_type"}).value_or("");
  return std::any_of(owned.begin(), owned.end(), [&](const Owned& row) { return in(row.types, type) && in(row.keys, top_key(key)); });
}

/// Fails on a configuration key that the loader did not ask for: it may change the model. Keys that only describe are let pass, and so
/// are values that switch something off (false, 0, an empty list).
inline void expect_all_understood(const Configuration& configuration, std::string_view architecture, bool layer_alone = false) {
  for (const std::string& key : configuration.keys()) {
    if (configuration.asked(key) || describes_only(key) || (layer_alone && concerns_other_parts(configuration, key))) continue;
    const Configuration::Value& value = *configuration.find(key);
    const bool off = std::visit(
        [](const auto& typed) {
          using Type = std::decay_t<decltype(typed)>;
          if constexpr (std::is_arithmetic_v<Type>)
            return typed == Type(0);
          else
            return typed.empty();
        },
        value);
    if (!off)
      raise(ErrorKind::value, message(configuration.where(), ": key ", key, " is not understood by ", architecture,
                                      ", expected no key that may change the model; remove it if it changes nothing"));
  }
}

inline void expect_layer_understood(const Configuration& configuration, std::string_view title) {
  expect_all_understood(configuration, title, true);
}

/// How many layers there are below a prefix such as `backbone.layers.`: one more than the largest number after it. Fails where there are
/// none.
template <Real Scalar>
[[nodiscard]] Index count_layers(const TensorSource<Scalar>& source, std::string_view prefix) {
  Index count = 0;
  for (const std::string& name : source.names()) {
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    Index layer = 0;
    const char* const end = name.data() + name.size();
    const auto read = std::from_chars(name.data() + prefix.size(), end, layer);
    // A number that no file could hold layers for is not a layer's.
    if (read.ec == std::errc() && read.ptr != end && *read.ptr == '.' && layer < 100000) count = std::max(count, layer + 1);
  }
  if (count == 0) raise(ErrorKind::file, message(source.where(), ": there are no tensors ", prefix, "0.*, expected at least one layer"));
  return count;
}

/// A key that is there and says something else than the weights is an error.
template <class Value>
[[noreturn]] void contradiction(const Configuration& configuration, std::string_view key, const Value& value, const Value& expected,
                                std::string_view reason) {
  raise(ErrorKind::value, message(configuration.where(), ": key ", key, " is ", value, ", expected ", expected, ": ", reason));
}

inline void expect_integer(const Configuration& configuration, std::initializer_list<std::string_view> spellings, Index expected,
                           std::string_view reason) {
  for (const std::string_view key : spellings)
    if (const std::optional<Index> value = configuration.integer({key}); value && *value != expected)
      contradiction(configuration, key, *value, expected, reason);
}

inline void expect_boolean(const Configuration& configuration, std::initializer_list<std::string_view> spellings, bool expected,
                           std::string_view reason) {
  const auto text = [](bool value) { return std::string_view(value ? "true" : "false"); };
  for (const std::string_view key : spellings)
    if (const std::optional<bool> value = configuration.boolean({key}); value && *value != expected)
      contradiction(configuration, key, text(*value), text(expected), reason);
}

/// A key that says whether these tensors are there: each of them must agree.
template <Real Scalar>
void expect_tensors(const Configuration& configuration, std::initializer_list<std::string_view> spellings,
                    const PrefixedTensors<Scalar>& tensors, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const bool there = tensors.has(name);
    expect_boolean(configuration, spellings, there, message("tensor ", tensors.prefix(), name, there ? " is there" : " is missing"));
  }
}

/// Tensors that every public layer of a family has, though the kind of layer as such can be without them: a lost one would be taken for a
/// part that is not there.
template <Real Scalar>
void expect_present(const PrefixedTensors<Scalar>& tensors, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names)
    if (!tensors.has(name)) raise(ErrorKind::file, message(tensors.source().where(), ": tensor ", tensors.prefix(), name, " is missing"));
}

/// A key whose text must be one of a few; the first of them is named as the one expected.
inline void expect_text(const Configuration& configuration, std::string_view key, std::initializer_list<std::string_view> allowed,
                        std::string_view reason) {
  const std::optional<std::string> value = configuration.text({key});
  if (!value) return;
  for (const std::string_view text : allowed)
    if (*value == text) return;
  contradiction(configuration, key, std::string_view(*value), *allowed.begin(), reason);
}

/// The vocabulary may be smaller than the embedding, which is padded, but not larger.
inline void expect_vocabulary(const Configuration& configuration, Index rows) {
  if (const std::optional<Index> value = configuration.integer({"vocab_size"}); value && (*value > rows || *value < 1))
    raise(ErrorKind::value,
          message(configuration.where(), ": key vocab_size is ", *value, ", expected 1 to ", rows, ": the embedding has that many rows"));
}

/// A norm's eps, or another number that must be above zero.
[[nodiscard]] inline double positive_number(const Configuration& configuration, std::initializer_list<std::string_view> spellings,
                                            double otherwise) {
  return configuration.positive_number(spellings).value_or(otherwise);
}

/// The same under spellings of which several may stand in a file: they must agree.
[[nodiscard]] inline double agreeing_number(const Configuration& configuration, std::initializer_list<std::string_view> spellings,
                                            double otherwise) {
  const double number = positive_number(configuration, spellings, otherwise);
  for (const std::string_view key : spellings)
    if (const double again = positive_number(configuration, {key}, number); again != number)
      contradiction(configuration, key, again, number, "another key of the file says so, and both are about the same norm");
  return number;
}

template <Real Scalar>
[[nodiscard]] Norm<Scalar> read_rms_norm(const PrefixedTensors<Scalar>& tensors, const std::string& name, double eps,
                                         bool one_plus = false) {
  return Norm<Scalar>::rms(tensors.required(name + ".weight", 1), eps, one_plus);
}
template <Real Scalar>
[[nodiscard]] Norm<Scalar> read_layer_norm(const PrefixedTensors<Scalar>& tensors, const std::string& name, double eps) {
  return Norm<Scalar>::layer(tensors.required(name + ".weight", 1), tensors.required(name + ".bias", 1), eps);
}

template <Real Scalar>
[[nodiscard]] bool same_numbers(const Array<Scalar>& a, const Array<Scalar>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  Matrix<Scalar> of_a, of_b;
  for (Index row = 0; row < a.rows(); ++row) {
    const ConstView<Scalar> left = numbers_of(a, row, 1, 0, a.cols(), of_a), right = numbers_of(b, row, 1, 0, b.cols(), of_b);
    for (Index column = 0; column < a.cols(); ++column)
      if (left(0, column) != right(0, column) && !(std::isnan(left(0, column)) && std::isnan(right(0, column)))) return false;
  }
  return true;
}

/// The head's weights: its own where the checkpoint has them, else the embedding's. Fails where the configuration says otherwise, and where
/// it says nothing, the public port would tie, and the stored head is another than the embedding: the port would drop it in silence.
template <Real Scalar>
[[nodiscard]] Array<Scalar> read_head(const TensorSource<Scalar>& source, const Configuration& configuration, std::string_view name,
                                      const Array<Scalar>& embedding, std::initializer_list<std::string_view> tied_spellings,
                                      bool tied_by_default) {
  bool told = configuration.keys().empty();  // without any configuration it is not known which port a file is for
  for (const std::string_view key : tied_spellings) {
    const std::optional<bool> tied = configuration.boolean({key});
    if (!tied) continue;
    told = true;
    if (!*tied && !source.has(name))
      contradiction<std::string_view>(configuration, key, "false", "true", message("there is no tensor ", name));
    if (*tied && source.has(name) && !same_numbers(source.read(name), embedding))
      contradiction<std::string_view>(configuration, key, "true", "false", message("tensor ", name, " is another than the embedding"));
    tied_by_default = *tied;
  }
  if (!source.has(name) && tied_by_default) return embedding;
  if (!told && tied_by_default && !same_numbers(source.read(name), embedding))
    contradiction<std::string_view>(configuration, *tied_spellings.begin(), "missing", "false",
                                    message("tensor ", name, " is another than the embedding, and this model ties the two by default"));
  return PrefixedTensors<Scalar>(source, "").required(name, 2);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
