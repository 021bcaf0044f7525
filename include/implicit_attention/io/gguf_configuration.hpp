// GGUF's metadata as the keys of the public config.json files.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
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
#include <implicit_attention/io/gguf_keys.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

struct KeyPair {
  std::string_view gguf, ours;
};

class GgufConfiguration {
 public:
  using Tensors = std::map<std::string, CheckpointTensor, std::less<>>;
  GgufConfiguration(const GgufKeys& keys, const Tensors& tensors) : keys_(&keys), tensors_(&tensors), made_(keys.where()) {}

  [[nodiscard]] Configuration make() {
    const std::string& family = keys_->architecture();
    expect_layers_that_are_there();
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
    if (keys_->boolean("attention.causal") == false)
      wrong("attention.causal", "false", "true: a token that reads those after it is not read here");
    keys_->expect_all_understood(rotary_ || family.starts_with("qwen") || family.starts_with("lfm2") || family == "falcon-h1");
    return std::move(made_);
  }

 private:
  template <class Value>
  void set(std::string_view key, Value value) {
    made_.set(std::string(key), std::move(value));
  }
  // Kinds are listed layer by layer: no list is made of layers that the file merely claims. Files of a few tensors, such as those of
  // multi-token prediction alone, have their own error later.
  void expect_layers_that_are_there() const {
    constexpr Index most_of_models = 1000;
    const Index layers = keys_->layers(), tensors = static_cast<Index>(tensors_->size()), most = std::max(tensors, most_of_models);
    if (layers > most)
      raise(ErrorKind::file, keys_->where(), ": metadata key ", keys_->architecture(), ".block_count makes ", layers,
            " layers, expected at most ", most, ": the file has ", tensors, " tensors");
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
    for (Index layer = 0, layers = keys_->layers(); layer < layers; ++layer) all.push_back(kind(layer));
    set(key, std::move(all));
  }
  [[nodiscard]] bool has_tensor(std::string_view name) const { return tensors_->find(name) != tensors_->end(); }
  [[nodiscard]] bool attention(Index layer) const { return keys_->of_layer("attention.head_count_kv", layer) > 0; }
  [[nodiscard]] Index ratio(std::string_view of, std::string_view to) const {
    const Index a = keys_->size(of), b = keys_->size(to);
    if (a % b != 0) raise(ErrorKind::file, keys_->where(), ": ", of, " is ", a, ", expected a multiple of ", to, ", ", b);
    return a / b;
  }
  [[noreturn]] void wrong(std::string_view key, std::string_view is, std::string_view expected) const {
    raise(ErrorKind::file, keys_->where(), ": metadata key ", keys_->architecture(), ".", key, " is ", is, ", expected ", expected);
  }
  void attention_keys() {
    integers({{"attention.head_count", "num_attention_heads"},
              {"attention.head_count_kv", "num_key_value_heads"},
              {"attention.key_length", "head_dim"}});
    numbers({{"rope.freq_base", "rope_theta"}});
    const auto keys = keys_->integer("attention.key_length"), values = keys_->integer("attention.value_length");
    if (keys && values && *keys != *values)
      wrong("attention.value_length", message(*values), message(*keys, ", as attention.key_length is: values are as wide as keys"));
  }
  /// The numbers of a head that are rotated, of all that it has; nothing where the file does not say.
  [[nodiscard]] std::optional<double> rotated_part() {
    const auto rotated = keys_->number("rope.dimension_count");
    if (!rotated) return std::nullopt;
    const Index width = head_width();
    if (!(*rotated >= 0 && *rotated <= static_cast<double>(width)))
      wrong("rope.dimension_count", message(*rotated), message("0 to ", width, ", the width of a head"));
    return *rotated / static_cast<double>(width);
  }
  [[nodiscard]] Index head_width() {
    const auto width = keys_->integer("attention.key_length");
    return width && *width > 0 ? *width : ratio("embedding_length", "attention.head_count");
  }
  void expect_whole_rotation() {
    if (const auto part = rotated_part(); part && *part != 1)
      wrong("rope.dimension_count", message(*keys_->number("rope.dimension_count")), "the width of a head, all of which is rotated");
  }
  /// How experts are chosen and weighed, where a family knows one way: 1 is a softmax, 2 a sigmoid.
  void expect_scores(Index scores) {
    if (const auto given = keys_->integer("expert_gating_func"); given && *given != 0 && *given != scores)
      wrong("expert_gating_func", message(*given), message(scores, scores == 1 ? " (softmax)" : " (sigmoid)"));
  }
  void expect_experts(Index scores, bool normalised) {
    expect_scores(scores);
    if (const auto given = keys_->boolean("expert_weights_norm"); given && *given != normalised)
      wrong("expert_weights_norm", *given ? "true" : "false", normalised ? "true" : "false");
  }
  void expert_keys() {
    if (keys_->integer("expert_count").value_or(0) > 0)
      integers({{"expert_used_count", "num_experts_per_tok"}, {"expert_feed_forward_length", "moe_intermediate_size"}});
  }

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
    static_cast<void>(keys_->integer("rescale_every_n_layers"));  // of the tensors' numbers, which GgufRwkvNames puts back
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
    if (const auto part = rotated_part()) set("partial_rotary_factor", *part);
    // Of a text's tokens the three positions are the same; the order of value heads concerns the tensors. The last four are Ollama's.
    for (const std::string_view key :
         {"rope.dimension_sections", "mrope_sections", "rope.mrope_section", "rope.mrope_interleaved", "ssm.v_head_reordered"})
      static_cast<void>(keys_->find(key));
    expect_experts(1, true);
    if (keys_->boolean("norm_top_k_prob") == false)
      wrong("norm_top_k_prob", "false", "true: the weights of experts are divided by their sum");
    if (family == "qwen3next" && keys_->integer("expert_count").value_or(0) > 0) set("norm_topk_prob", true);
    set("norm_weights_include_one", true);
    const Index interval = keys_->integer("full_attention_interval").value_or(4);
    if (interval < 1) raise(ErrorKind::file, keys_->where(), ": full_attention_interval is ", interval);
    // Where the layers are listed, the list counts.
    const bool listed = keys_->has("attention.recurrent_layers");
    layer_kinds("layer_types", [&](Index layer) {
      const bool full = listed ? !keys_->flag_of_layer("attention.recurrent_layers", layer) : (layer + 1) % interval == 0;
      return std::string(full ? "full_attention" : "linear_attention");
    });
  }
  void falcon_h1() {
    type("falcon_h1");
    attention_keys();
    expect_whole_rotation();
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
    const std::array<std::string_view, 4> scales{"attention.scale", "embedding_scale", "residual_scale", "logit_scale"};
    rotary_ = keys_->boolean("rope.scaling.finetuned").value_or(true);  // the switch of positions, on where it is missing
    bamba_ = std::none_of(scales.begin(), scales.end(), [&](std::string_view key) { return keys_->has(key); });
    if (bamba_ && !rotary_) wrong("rope.scaling.finetuned", "false", "true, as Bamba's files have it: there are none of Granite's scales");
    type(bamba_ ? "bamba" : "granitemoehybrid");
    expect_experts(1, true);
    integers({{"attention.head_count", "num_attention_heads"},
              {"attention.head_count_kv", "num_key_value_heads"},
              {"ssm.conv_kernel", "mamba_d_conv"},
              {"ssm.state_size", "mamba_d_state"},
              {"ssm.time_step_rank", "mamba_n_heads"},
              {"ssm.group_count", "mamba_n_groups"}});
    set("mamba_d_head", ratio("ssm.inner_size", "ssm.time_step_rank"));
    numbers({{"attention.layer_norm_rms_epsilon", "rms_norm_eps"}, {"rope.freq_base", "rope_theta"}});
    if (bamba_) {
      integers({{"rope.dimension_count", "attn_rotary_emb"}, {"feed_forward_length", "intermediate_size"}});
    } else {
      // A scale of 0 is none, and attention's is the usual one then.
      const auto scale = [&](std::string_view key, std::string_view ours) {
        const bool there = keys_->number(key).value_or(0) != 0;
        if (there) set(ours, shortest(*keys_->number(key)));
        return there;
      };
      if (!scale("attention.scale", "attention_multiplier")) set("attention_multiplier", 1 / std::sqrt(static_cast<double>(head_width())));
      for (const auto& [key, ours] : {std::pair("embedding_scale", "embedding_multiplier"),
                                      std::pair("residual_scale", "residual_multiplier"), std::pair("logit_scale", "logits_scaling")})
        static_cast<void>(scale(key, ours));
      if (rotary_) expect_whole_rotation();
      set("position_embedding_type", std::string(rotary_ ? "rope" : "nope"));
      const Index experts = keys_->integer("expert_count").value_or(0);
      set("num_local_experts", experts);
      set("num_experts_per_tok", experts == 0 ? Index{0} : keys_->integer("expert_used_count").value_or(0));
      if (experts > 0) integers({{"feed_forward_length", "intermediate_size"}});
      const bool shared = experts > 0 || keys_->integer("expert_shared_feed_forward_length").value_or(0) > 0;
      integers({{shared ? "expert_shared_feed_forward_length" : "feed_forward_length", "shared_intermediate_size"}});
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
    const auto renormalised = keys_->boolean("expert_weights_norm");
    if (renormalised) set("norm_topk_prob", *renormalised);
    expect_scores(2);
    layer_kinds("layers_block_type", [&](Index layer) {
      if (attention(layer)) return std::string("attention");
      if (keys_->of_layer("feed_forward_length", layer) <= 0) return std::string("mamba");
      return std::string(has_tensor(message("blk.", layer, ".ffn_gate_inp.weight")) ? "moe" : "mlp");
    });
  }
  void lfm2(const std::string& family) {
    type(family == "lfm2" ? "lfm2" : "lfm2_moe");
    attention_keys();
    integers({{"shortconv.l_cache", "conv_L_cache"}, {"expert_count", "num_experts"}, {"leading_dense_block_count", "num_dense_layers"}});
    expert_keys();
    expect_experts(2, true);
    if (family == "lfm2moe") set("use_expert_bias", has_tensor(message("blk.", keys_->layers() - 1, ".exp_probs_b.bias")));
    expect_whole_rotation();
    set("block_auto_adjust_ff_dim", false);  // the tensors tell the width; the key has the adjusted one, but not from every converter
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
    expect_experts(1, false);
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
    const auto renormalised = keys_->boolean("expert_weights_norm");
    if (renormalised) set("moe_renormalize", *renormalised);
    expect_scores(2);
    layer_kinds("layer_types", [&](Index layer) { return std::string(attention(layer) ? "full_attention" : "linear_attention"); });
  }

  const GgufKeys* keys_;
  const Tensors* tensors_;
  Configuration made_;
  bool bamba_ = false, rotary_ = false;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
