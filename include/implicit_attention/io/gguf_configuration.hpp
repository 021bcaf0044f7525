// GGUF's metadata as the keys of the public config.json files.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/gguf.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The keys of one model's architecture: `block_count` is read as `mamba.block_count`.
class GgufKeys {
 public:
  explicit GgufKeys(const GgufFile& file) : file_(&file), architecture_(file.architecture()) {}

  [[nodiscard]] const std::string& architecture() const { return architecture_; }
  [[nodiscard]] const std::string& where() const { return file_->where(); }
  [[nodiscard]] const GgufFile::Value* find(std::string_view key) const { return file_->find(message(architecture_, ".", key)); }
  [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }
  [[nodiscard]] std::optional<double> number(std::string_view key) const { return file_->get<double>(message(architecture_, ".", key)); }
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const { return file_->get<bool>(message(architecture_, ".", key)); }
  /// An integer; of a list (one number a layer) the largest.
  [[nodiscard]] std::optional<Index> integer(std::string_view key) const {
    const GgufFile::Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* all = std::get_if<std::vector<std::int64_t>>(value)) {
      if (all->empty()) return std::nullopt;
      return sensible(*std::max_element(all->begin(), all->end()), key);
    }
    return sensible(*file_->get<std::int64_t>(message(architecture_, ".", key)), key);
  }
  /// An integer that must be there and above 0.
  [[nodiscard]] Index size(std::string_view key) const {
    const std::optional<Index> value = integer(key);
    if (!value || *value < 1 || *value > 1'000'000'000)
      raise(ErrorKind::file, message(where(), ": metadata key ", printable(architecture_), ".", key, " is ",
                                     value ? message(*value) : "missing", ", expected a size"));
    return *value;
  }
  /// An integer of a layer: the same for all, or one of a list.
  [[nodiscard]] Index of_layer(std::string_view key, Index layer) const {
    const GgufFile::Value* value = find(key);
    if (value == nullptr) return 0;
    if (const auto* all = std::get_if<std::vector<std::int64_t>>(value))
      return layer < static_cast<Index>(all->size()) ? static_cast<Index>((*all)[static_cast<std::size_t>(layer)]) : 0;
    return *integer(key);
  }
  /// Layers of the model, without those of an extra prediction head that stand behind them.
  [[nodiscard]] Index layers() const {
    const Index all = size("block_count"), extra = integer("nextn_predict_layers").value_or(0);
    if (extra < 0 || extra >= all || all > 100000)
      raise(ErrorKind::file, message(where(), ": metadata has ", all, " layers, ", extra, " of them for an extra prediction head"));
    return all - extra;
  }

 private:
  [[nodiscard]] Index sensible(std::int64_t value, std::string_view key) const {
    constexpr std::int64_t most = std::int64_t{1} << 53U;
    if (value < -most || value > most)
      raise(ErrorKind::file,
            message(where(), ": metadata key ", printable(architecture_), ".", key, " is beyond any integer that makes sense here"));
    return static_cast<Index>(value);
  }
  const GgufFile* file_;
  std::string architecture_;
};

struct KeyPair {
  std::string_view gguf, ours;
};

class GgufConfiguration {
 public:
  using Tensors = std::map<std::string, CheckpointTensor, std::less<>>;
  GgufConfiguration(const GgufKeys& keys, const Tensors& tensors) : keys_(&keys), tensors_(&tensors), made_(keys.where()) {}

  [[nodiscard]] Configuration make() {
    const std::string& family = keys_->architecture();
    set("num_hidden_layers", keys_->layers());
    integers({{"embedding_length", "hidden_size"}});
    if (const auto found = tensors_->find("token_embd.weight"); found != tensors_->end() && !found->second.shape.empty())
      set("vocab_size", found->second.shape.front());
    set("tie_word_embeddings", tensors_->find("output.weight") == tensors_->end());
    if (family == "mamba" || family == "mamba2")
      mamba(family == "mamba2");
    else if (family == "rwkv6" || family == "rwkv7")
      rwkv(family);
    else if (family == "qwen35" || family == "qwen35moe" || family == "qwen3next")
      qwen(family);
    else if (family == "falcon-h1")
      falcon_h1();
    else if (family == "granitehybrid")
      granite();
    else if (family == "nemotron_h" || family == "nemotron_h_moe")
      nemotron();
    else if (family == "lfm2" || family == "lfm2moe")
      lfm2(family);
    else if (family == "jamba")
      jamba();
    else if (family == "kimi-linear")
      kimi();
    return std::move(made_);
  }

 private:
  template <class Value>
  void set(std::string_view key, Value value) {
    made_.set(std::string(key), std::move(value));
  }
  void type(std::string_view name) { set("model_type", std::string(name)); }
  void integers(std::initializer_list<KeyPair> pairs) {
    for (const KeyPair& pair : pairs)
      if (const std::optional<Index> value = keys_->integer(pair.gguf)) set(pair.ours, *value);
  }
  // float32 in the file: 1e-5 is meant, not 9.99999974e-06.
  void numbers(std::initializer_list<KeyPair> pairs) {
    for (const KeyPair& pair : pairs)
      if (const std::optional<double> value = keys_->number(pair.gguf)) set(pair.ours, shortest(*value));
  }
  [[nodiscard]] static double shortest(double value) {
    const auto narrow = static_cast<float>(value);
    if (static_cast<double>(narrow) != value) return value;
    const std::string digits = message(narrow);
    double exact = value;
    std::from_chars(digits.data(), digits.data() + digits.size(), exact);
    return exact;
  }
  // One kind a layer, by what `kind` says of its number.
  template <class Kind>
  void layer_kinds(std::string_view key, Kind kind) {
    std::vector<std::string> all;
    for (Index layer = 0; layer < keys_->layers(); ++layer) all.push_back(kind(layer));
    set(key, std::move(all));
  }
  [[nodiscard]] bool has_tensor(std::string_view name) const { return tensors_->find(name) != tensors_->end(); }
  [[nodiscard]] bool attention(Index layer) const { return keys_->of_layer("attention.head_count_kv", layer) > 0; }
  [[nodiscard]] Index ratio(std::string_view of, std::string_view to) const {
    const Index a = keys_->size(of), b = keys_->size(to);
    if (a % b != 0) raise(ErrorKind::file, message(keys_->where(), ": ", of, " is ", a, ", expected a multiple of ", to, ", ", b));
    return a / b;
  }
  void attention_keys() {
    integers({{"attention.head_count", "num_attention_heads"},
              {"attention.head_count_kv", "num_key_value_heads"},
              {"attention.key_length", "head_dim"}});
    numbers({{"rope.freq_base", "rope_theta"}});
  }
  void expert_keys() { integers({{"expert_used_count", "num_experts_per_tok"}, {"expert_feed_forward_length", "moe_intermediate_size"}}); }

  void mamba(bool second) {
    type(second ? "mamba2" : keys_->boolean("ssm.dt_b_c_rms").value_or(false) ? "falcon_mamba" : "mamba");
    integers({{"ssm.inner_size", "intermediate_size"}, {"ssm.state_size", "state_size"}, {"ssm.conv_kernel", "conv_kernel"}});
    if (second) {
      integers({{"ssm.time_step_rank", "num_heads"}, {"ssm.group_count", "n_groups"}});
      set("head_dim", ratio("ssm.inner_size", "ssm.time_step_rank"));
    } else {
      integers({{"ssm.time_step_rank", "time_step_rank"}});
    }
    numbers({{"attention.layer_norm_rms_epsilon", "layer_norm_epsilon"}});
  }
  void rwkv(const std::string& family) {
    type(family);
    set("rwkv_version", family.substr(4));
    integers({{"wkv.head_size", "head_size"}, {"feed_forward_length", "intermediate_size"}});
    numbers({{"attention.layer_norm_epsilon", "layer_norm_epsilon"}});
    set("group_norm_epsilon", 64e-5);
  }
  void qwen(const std::string& family) {
    type(family == "qwen3next" ? "qwen3_next" : family == "qwen35" ? "qwen3_5_text" : "qwen3_5_moe_text");
    attention_keys();
    integers({{"ssm.conv_kernel", "linear_conv_kernel_dim"},
              {"ssm.state_size", "linear_key_head_dim"},
              {"ssm.group_count", "linear_num_key_heads"},
              {"ssm.time_step_rank", "linear_num_value_heads"},
              {"feed_forward_length", "intermediate_size"},
              {"expert_count", "num_experts"},
              {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"}});
    expert_keys();
    set("linear_value_head_dim", ratio("ssm.inner_size", "ssm.time_step_rank"));
    numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}});
    if (const auto rotated = keys_->number("rope.dimension_count"), width = keys_->number("attention.key_length");
        rotated && width && *width > 0)
      set("partial_rotary_factor", *rotated / *width);
    if (family == "qwen3next") set("norm_topk_prob", true);
    set("norm_weights_include_one", true);
    const Index interval = keys_->integer("full_attention_interval").value_or(4);
    if (interval < 1) raise(ErrorKind::file, message(keys_->where(), ": full_attention_interval is ", interval));
    layer_kinds("layer_types",
                [&](Index layer) { return std::string((layer + 1) % interval == 0 ? "full_attention" : "linear_attention"); });
  }
  void falcon_h1() {
    type("falcon_h1");
    attention_keys();
    integers({{"ssm.conv_kernel", "mamba_d_conv"},
              {"ssm.inner_size", "mamba_d_ssm"},
              {"ssm.state_size", "mamba_d_state"},
              {"ssm.time_step_rank", "mamba_n_heads"},
              {"ssm.group_count", "mamba_n_groups"},
              {"feed_forward_length", "intermediate_size"}});
    set("mamba_d_head", ratio("ssm.inner_size", "ssm.time_step_rank"));
    numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}});
    set("mamba_rms_norm", has_tensor("blk.0.ssm_norm.weight"));
    set("mamba_norm_before_gate", false);
    // The converter has multiplied all of them into the tensors. Where the head is tied it has the embedding's multiplier and lacks its own:
    // every logit is off by one constant factor, which the file does not tell.
    for (const std::string_view folded : {"embedding_multiplier", "lm_head_multiplier", "attention_in_multiplier",
                                          "attention_out_multiplier", "key_multiplier", "ssm_in_multiplier", "ssm_out_multiplier"})
      set(folded, 1.0);
    set("multipliers_folded", true);
  }
  void granite() {
    // Bamba is converted to the same architecture; Granite's multipliers tell them apart.
    const bool bamba =
        !keys_->has("attention.scale") && !keys_->has("embedding_scale") && !keys_->has("residual_scale") && !keys_->has("logit_scale");
    type(bamba ? "bamba" : "granitemoehybrid");
    integers({{"attention.head_count", "num_attention_heads"},
              {"attention.head_count_kv", "num_key_value_heads"},
              {"ssm.conv_kernel", "mamba_d_conv"},
              {"ssm.state_size", "mamba_d_state"},
              {"ssm.time_step_rank", "mamba_n_heads"},
              {"ssm.group_count", "mamba_n_groups"}});
    set("mamba_d_head", ratio("ssm.inner_size", "ssm.time_step_rank"));
    numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}, {"rope.freq_base", "rope_theta"}});
    if (bamba) {
      integers({{"rope.dimension_count", "attn_rotary_emb"}, {"feed_forward_length", "intermediate_size"}});
    } else {
      numbers({{"attention.scale", "attention_multiplier"},
               {"embedding_scale", "embedding_multiplier"},
               {"residual_scale", "residual_multiplier"},
               {"logit_scale", "logits_scaling"}});
      set("position_embedding_type", std::string(keys_->boolean("rope.scaling.finetuned").value_or(false) ? "rope" : "nope"));
      const Index experts = keys_->integer("expert_count").value_or(0);
      set("num_local_experts", experts);
      set("num_experts_per_tok", experts == 0 ? Index{0} : keys_->integer("expert_used_count").value_or(0));
      if (experts > 0) integers({{"feed_forward_length", "intermediate_size"}});
      integers({{experts > 0 ? "expert_shared_feed_forward_length" : "feed_forward_length", "shared_intermediate_size"}});
    }
    layer_kinds("layer_types", [&](Index layer) { return std::string(attention(layer) ? "attention" : "mamba"); });
  }
  void nemotron() {
    type("nemotron_h");
    attention_keys();
    integers({{"ssm.conv_kernel", "conv_kernel"},
              {"ssm.state_size", "ssm_state_size"},
              {"ssm.time_step_rank", "mamba_num_heads"},
              {"ssm.group_count", "n_groups"},
              {"feed_forward_length", "intermediate_size"},
              {"expert_count", "n_routed_experts"},
              {"expert_shared_count", "n_shared_experts"},
              {"expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size"},
              {"expert_group_count", "n_group"},
              {"expert_group_used_count", "topk_group"},
              {"moe_latent_size", "moe_latent_size"}});
    expert_keys();
    set("mamba_head_dim", ratio("ssm.inner_size", "ssm.time_step_rank"));
    numbers({{"attention.layer_norm_rms_epsilon", "layer_norm_epsilon"}, {"expert_weights_scale", "routed_scaling_factor"}});
    if (const auto renormalised = keys_->boolean("expert_weights_norm")) set("norm_topk_prob", *renormalised);
    layer_kinds("layers_block_type", [&](Index layer) {
      if (attention(layer)) return std::string("attention");
      if (keys_->of_layer("feed_forward_length", layer) <= 0) return std::string("mamba");
      return std::string(has_tensor(message("blk.", layer, ".ffn_gate_inp.weight")) ? "moe" : "mlp");
    });
  }
  void lfm2(const std::string& family) {
    type(family == "lfm2" ? "lfm2" : "lfm2_moe");
    attention_keys();
    integers({{"shortconv.l_cache", "conv_L_cache"},
              {"feed_forward_length", "intermediate_size"},
              {"expert_count", "num_experts"},
              {"leading_dense_block_count", "num_dense_layers"}});
    expert_keys();
    set("block_auto_adjust_ff_dim", false);  // the width in the file is the adjusted one
    numbers({{"attention.layer_norm_rms_epsilon", "norm_eps"}});
    layer_kinds("layer_types", [&](Index layer) { return std::string(attention(layer) ? "full_attention" : "conv"); });
  }
  void jamba() {
    type("jamba");
    integers({{"attention.head_count", "num_attention_heads"},
              {"attention.head_count_kv", "num_key_value_heads"},
              {"ssm.conv_kernel", "mamba_d_conv"},
              {"ssm.state_size", "mamba_d_state"},
              {"ssm.time_step_rank", "mamba_dt_rank"},
              {"feed_forward_length", "intermediate_size"},
              {"expert_count", "num_experts"},
              {"expert_used_count", "num_experts_per_tok"}});
    set("mamba_expand", ratio("ssm.inner_size", "embedding_length"));
    numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}});
    layer_kinds("layers_block_type", [&](Index layer) { return std::string(attention(layer) ? "attention" : "mamba"); });
  }
  void kimi() {
    type("kimi_linear");
    integers({{"attention.head_count", "num_attention_heads"},
              {"attention.head_count", "linear_attn_config.num_heads"},
              {"kda.head_dim", "linear_attn_config.head_dim"},
              {"ssm.conv_kernel", "linear_attn_config.short_conv_kernel_size"},
              {"attention.q_lora_rank", "q_lora_rank"},
              {"attention.kv_lora_rank", "kv_lora_rank"},
              {"rope.dimension_count", "qk_rope_head_dim"},
              {"attention.value_length_mla", "v_head_dim"},
              {"feed_forward_length", "intermediate_size"},
              {"expert_count", "num_experts"},
              {"expert_used_count", "num_experts_per_token"},
              {"expert_feed_forward_length", "moe_intermediate_size"},
              {"expert_shared_count", "num_shared_experts"},
              {"expert_group_count", "num_expert_group"},
              {"expert_group_used_count", "topk_group"},
              {"leading_dense_block_count", "first_k_dense_replace"}});
    if (const auto whole = keys_->integer("attention.key_length_mla"), rotated = keys_->integer("rope.dimension_count"); whole && rotated)
      set("qk_nope_head_dim", *whole - *rotated);
    numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}, {"expert_weights_scale", "routed_scaling_factor"}});
    if (const auto renormalised = keys_->boolean("expert_weights_norm")) set("moe_renormalize", *renormalised);
    layer_kinds("layer_types", [&](Index layer) { return std::string(attention(layer) ? "full_attention" : "linear_attention"); });
  }

  const GgufKeys* keys_;
  const Tensors* tensors_;
  Configuration made_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
