// The public converter from Hugging Face's checkpoints to GGUF, written again from its description: which keys it takes out of config.json,
// under which names it writes tensors, and what it does to their numbers.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "archives.hpp"
#include "files.hpp"
#include "plain_tensors.hpp"

namespace io_test {

class GgufConverter {
 public:
  using Weights = std::map<std::string, T>;

  /// How matrices are stored: as floats, in Q8_0's blocks, or as floats that are what those blocks mean.
  enum class Stored { floats, blocks, widened_blocks };

  /// `fuse` is the converter's option --fuse-gate-up-exps.
  GgufConverter(std::string architecture, Weights weights, nlohmann::json config, bool fuse = false, Stored stored = Stored::floats)
      : architecture_(std::move(architecture)), weights_(std::move(weights)), config_(std::move(config)), fuse_(fuse), stored_(stored) {
    if (config_.contains("text_config")) config_.update(nlohmann::json(config_["text_config"]));
    layers_ = config_.contains("hybrid_override_pattern") ? config_["hybrid_override_pattern"].get<std::string>().size()
                                                          : config_["num_hidden_layers"].get<std::uint64_t>();
    set_text("general.architecture", architecture_);
    set_text("general.type", "model");
    set_text("general.name", "made by a test");
    set_text("tokenizer.ggml.model", "none");
    keys_["general.quantization_version"] = {4, u32(2)};
    size("block_count", layers_);
    if (architecture_.starts_with("rwkv"))
      rwkv();
    else if (architecture_ == "mamba" || architecture_ == "mamba2" || architecture_ == "falcon-h1")
      mamba();
    else
      decoder();
  }

  /// A key that is there already is replaced.
  void size(const std::string& key, std::uint64_t value) {
    const std::string name = architecture_ + "." + key;
    keys_[name] = {4, u32(value)};
  }
  void real(const std::string& key, double value) {
    const std::string name = architecture_ + "." + key;
    keys_[name] = {6, bytes_of<float>({static_cast<float>(value)})};
  }
  void truth(const std::string& key, bool value) {
    const std::string name = architecture_ + "." + key;
    keys_[name] = {7, u8(value ? 1 : 0)};
  }
  void sizes(const std::string& key, const std::vector<std::uint32_t>& values) {
    const std::string name = architecture_ + "." + key;
    std::string all = u32(4) + u64(values.size());
    for (const std::uint32_t value : values) all += u32(value);
    keys_[name] = {9, all};
  }
  void text(const std::string& key, const std::string& value) { set_text(architecture_ + "." + key, value); }
  void set_text(const std::string& name, const std::string& value) { keys_[name] = {8, gguf::text(value)}; }
  void set_texts(const std::string& name, const std::vector<std::string>& values) {
    std::string all = u32(8) + u64(values.size());
    for (const std::string& value : values) all += gguf::text(value);
    keys_[name] = {9, all};
  }
  void truths(const std::string& key, const std::vector<bool>& values) {
    std::string all = u32(7) + u64(values.size());
    for (const bool value : values) all += u8(value ? 1 : 0);
    const std::string name = architecture_ + "." + key;
    keys_[name] = {9, all};
  }
  void erase(const std::string& key) { keys_.erase(architecture_ + "." + key); }
  void rename(const std::string& from, const std::string& to) {
    for (gguf::Tensor& tensor : tensors_)
      if (const std::size_t at = tensor.name.find(from); at != std::string::npos) tensor.name.replace(at, from.size(), to);
  }
  /// The same keys and tensors under another architecture.
  void change_architecture(const std::string& to) {
    std::map<std::string, std::pair<unsigned, std::string>> all;
    for (const auto& [name, value] : std::exchange(keys_, {}))
      all[name.starts_with(architecture_ + ".") ? to + name.substr(architecture_.size()) : name] = value;
    keys_ = std::move(all);
    architecture_ = to;
    set_text("general.architecture", to);
  }
  void put(const std::string& name, const T& t) {
    // Vectors, convolutions, routers and norms stay as they are, and rows that are no whole blocks.
    const bool matrix = name.ends_with(".weight") && !name.ends_with("_norm.weight") && name.find("conv") == std::string::npos &&
                        name.find("gate_inp") == std::string::npos && t.shape.size() > 1 && t.shape.back() % 32 == 0;
    if (stored_ == Stored::floats || !matrix) return tensors_.push_back({name, t.shape, 0, number_bytes(t)});
    T widened = t;
    std::string blocks;
    for (std::size_t first = 0; first < t.data.size(); first += 32) {
      float most = 1e-3F;
      for (std::size_t i = first; i < first + 32; ++i) most = std::max(most, std::abs(t.data[i]));
      const int power = std::ilogb(most) - 6;                   // 127 times 2^power is above the largest
      blocks += u16(static_cast<unsigned>(power + 15) << 10U);  // as half precision has it
      for (std::size_t i = first; i < first + 32; ++i) {
        const auto whole = static_cast<std::int8_t>(std::clamp(std::lround(std::ldexp(t.data[i], -power)), -127L, 127L));
        blocks += static_cast<char>(whole);
        widened.data[i] = std::ldexp(static_cast<float>(whole), power);
      }
    }
    ++blocks_;
    if (stored_ == Stored::blocks)
      tensors_.push_back({name, t.shape, 8, blocks});
    else
      tensors_.push_back({name, t.shape, 0, number_bytes(widened)});
  }
  [[nodiscard]] std::vector<gguf::Tensor>& tensors() { return tensors_; }
  /// How many tensors blocks were made of.
  [[nodiscard]] int in_blocks() const { return blocks_; }
  [[nodiscard]] std::uint64_t layers() const { return layers_; }

  [[nodiscard]] std::string file() const {
    std::vector<std::string> all;
    for (const auto& [name, value] : keys_) all.push_back(gguf::key(name, value.first, value.second));
    return gguf::file(all, tensors_);
  }

 private:
  [[nodiscard]] bool has(std::string_view key) const { return config_.contains(key) && !config_[std::string(key)].is_null(); }
  [[nodiscard]] std::uint64_t count(std::string_view key) const { return config_.at(std::string(key)).get<std::uint64_t>(); }
  [[nodiscard]] std::uint64_t count(std::string_view key, std::uint64_t otherwise) const { return has(key) ? count(key) : otherwise; }
  [[nodiscard]] double number(std::string_view key) const { return config_.at(std::string(key)).get<double>(); }
  [[nodiscard]] std::string first_of(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (has(key)) return std::string(key);
    return "";
  }
  void copy(std::initializer_list<std::string_view> from, const std::string& to) {
    const std::string key = first_of(from);
    if (!key.empty()) size(to, count(key));
  }

  // ---- keys ----------------------------------------------------------------------------------------------------------------------------
  void rwkv() {
    const bool seventh = architecture_ == "rwkv7";
    size("context_length", 1048576);
    size("embedding_length", count("hidden_size"));
    real("attention.layer_norm_epsilon", has("layer_norm_epsilon") ? number("layer_norm_epsilon") : 1e-5);
    size("wkv.head_size", count(first_of({"head_size", "head_dim"})));
    size("feed_forward_length", count("intermediate_size", seventh ? 4 * count("hidden_size") : 0));
    size("attention.head_count", 0);
    if (seventh) {
      for (const char* key : {"decay", "iclr", "value_residual_mix", "gate"}) size(std::string("attention.") + key + "_lora_rank", 32);
    } else {
      size("rescale_every_n_layers", count("rescale_every"));
      size("time_mix_extra_dim", 32);
      size("time_decay_extra_dim", 64);
    }
    for (const auto& [name, t] : weights_) rwkv_tensor(name, t);
  }

  void mamba() {
    const bool second = architecture_ != "mamba", falcon = architecture_ == "falcon-h1";
    const std::uint64_t width = count("hidden_size");
    const std::uint64_t inner = count(first_of({"mamba_d_ssm", "intermediate_size"}), 2 * width);
    size("context_length", falcon ? count("max_position_embeddings") : 1U << 20U);
    size("embedding_length", width);
    size("feed_forward_length", falcon ? count("intermediate_size") : 0);
    size("attention.head_count", falcon ? count("num_attention_heads") : 0);
    size("ssm.conv_kernel", count(first_of({"conv_kernel", "mamba_d_conv"}), 4));
    size("ssm.inner_size", inner);
    size("ssm.state_size", count(first_of({"state_size", "mamba_d_state"})));
    const std::string eps = first_of({"layer_norm_epsilon", "rms_norm_eps"});
    real("attention.layer_norm_rms_epsilon", eps.empty() ? 1e-5 : number(eps));
    if (second) {
      inner_ = inner;
      groups_ = count(first_of({"n_groups", "mamba_n_groups"}), 1);
      size("ssm.group_count", groups_);
      size("ssm.time_step_rank", inner / count(first_of({"mamba_d_head", "head_dim"})));
    } else {
      size("ssm.time_step_rank",
           has("time_step_rank") && config_["time_step_rank"].is_number() ? count("time_step_rank") : (width + 15) / 16);
      truth("ssm.dt_b_c_rms", config_.value("model_type", "") == "falcon_mamba");
    }
    if (falcon) {
      size("vocab_size", count("vocab_size"));
      size("attention.head_count_kv", count("num_key_value_heads"));
      size("attention.key_length", count(first_of({"head_dim", "attention_head_dim"})));
      size("attention.value_length", count(first_of({"head_dim", "attention_head_dim"})));
      real("rope.freq_base", number("rope_theta"));
    }
    for (const auto& [name, t] : weights_) decoder_tensor(name, t);
  }

  // What the converter's class for text models writes for all.
  void common() {
    copy({"max_position_embeddings", "model_max_length"}, "context_length");
    copy({"hidden_size"}, "embedding_length");
    copy({"intermediate_size"}, "feed_forward_length");
    copy({"num_attention_heads"}, "attention.head_count");
    copy({"num_key_value_heads"}, "attention.head_count_kv");
    const nlohmann::json rope = config_.value("rope_parameters", nlohmann::json::object());
    if (rope.contains("rope_theta"))
      real("rope.freq_base", rope["rope_theta"].get<double>());
    else if (has("rope_theta"))
      real("rope.freq_base", number("rope_theta"));
    if (rope.contains("mrope_section")) {
      std::vector<std::uint32_t> sections = rope["mrope_section"].get<std::vector<std::uint32_t>>();
      sections.resize(4);
      sizes("rope.dimension_sections", sections);
    }
    if (const std::string eps = first_of({"rms_norm_eps", "norm_eps"}); !eps.empty()) real("attention.layer_norm_rms_epsilon", number(eps));
    if (const std::string eps = first_of({"layer_norm_eps", "layer_norm_epsilon"}); !eps.empty())
      real("attention.layer_norm_epsilon", number(eps));
    copy({"num_local_experts", "num_experts"}, "expert_count");
    copy({"num_experts_per_tok", "num_experts_per_token"}, "expert_used_count");
    copy({"n_group"}, "expert_group_count");
    copy({"topk_group"}, "expert_group_used_count");
    if (has("moe_router_activation_func")) size("expert_gating_func", config_["moe_router_activation_func"] == "sigmoid" ? 2 : 1);
    copy({"head_dim"}, "attention.key_length");
    copy({"head_dim"}, "attention.value_length");
    keys_["general.file_type"] = {4, u32(0)};
  }

  void decoder() {
    if (architecture_ == "granitehybrid") config_.erase("head_dim");
    common();
    if (architecture_.starts_with("qwen")) qwen();
    if (architecture_ == "granitehybrid" || architecture_.starts_with("nemotron")) granite_or_nemotron();
    if (architecture_.starts_with("lfm2")) lfm2();
    if (architecture_ == "jamba") jamba();
    if (architecture_ == "kimi-linear") kimi();
    for (const auto& [name, t] : weights_) decoder_tensor(name, t);
    write_experts();
  }

  void qwen() {
    copy({"moe_intermediate_size"}, "expert_feed_forward_length");
    copy({"shared_expert_intermediate_size"}, "expert_shared_feed_forward_length");
    size("ssm.conv_kernel", count("linear_conv_kernel_dim"));
    size("ssm.state_size", count("linear_key_head_dim"));
    size("ssm.group_count", count("linear_num_key_heads"));
    size("ssm.time_step_rank", count("linear_num_value_heads"));
    size("ssm.inner_size", count("linear_value_head_dim") * count("linear_num_value_heads"));
    size("full_attention_interval", count("full_attention_interval", 4));
    size("rope.dimension_count", static_cast<std::uint64_t>(static_cast<double>(count(first_of({"head_dim", "attention_head_dim"}))) *
                                                            (has("partial_rotary_factor") ? number("partial_rotary_factor") : 0.25)));
    if (architecture_ == "qwen3next") return;
    if (!config_.value("rope_parameters", nlohmann::json::object()).contains("mrope_section"))
      sizes("rope.dimension_sections", {11, 11, 10, 0});
    if (const std::uint64_t extra = count("mtp_num_hidden_layers", 0); extra > 0) {
      size("nextn_predict_layers", extra);
      size("block_count", layers_ + extra);
    }
  }

  void granite_or_nemotron() {
    const bool nemotron = architecture_.starts_with("nemotron");
    size("vocab_size", count("vocab_size"));
    size("rope.dimension_count", count("head_dim", count("hidden_size") / count("num_attention_heads")));
    for (const auto& [from, to] :
         {std::pair("attention_multiplier", "attention.scale"), std::pair("embedding_multiplier", "embedding_scale"),
          std::pair("residual_multiplier", "residual_scale"), std::pair("logits_scaling", "logit_scale")})
      if (has(from)) real(to, number(from));
    copy({"shared_intermediate_size"}, "expert_shared_feed_forward_length");
    groups_ = count(first_of({"n_groups", "mamba_n_groups"}));
    const std::uint64_t heads = count(first_of({"mamba_n_heads", "mamba_num_heads"}));
    inner_ = heads * count(first_of({"mamba_d_head", "mamba_head_dim"}));
    size("ssm.conv_kernel", count(first_of({"conv_kernel", "mamba_d_conv"})));
    size("ssm.state_size", count(first_of({"ssm_state_size", "mamba_d_state"})));
    size("ssm.group_count", groups_);
    size("ssm.inner_size", inner_);
    size("ssm.time_step_rank", heads);
    const std::string pattern = config_.value("hybrid_override_pattern", "");
    std::vector<std::uint32_t> key_heads(layers_), widths(layers_);
    for (std::uint64_t layer = 0; layer < layers_; ++layer) {
      bool attends = !pattern.empty() && pattern[layer] == '*';
      if (has("layer_types")) attends = config_["layer_types"][layer] == "attention";
      if (has("attn_layer_indices"))
        for (const auto& index : config_["attn_layer_indices"]) attends = attends || index.get<std::uint64_t>() == layer;
      attention_.push_back(attends);
      if (attends) key_heads[layer] = static_cast<std::uint32_t>(count("num_key_value_heads"));
      if (!pattern.empty() && pattern[layer] == (has("n_routed_experts") ? 'E' : '-'))
        widths[layer] = static_cast<std::uint32_t>(count(has("n_routed_experts") ? "moe_intermediate_size" : "intermediate_size"));
    }
    sizes("attention.head_count_kv", key_heads);
    copy({"attn_rotary_emb"}, "rope.dimension_count");
    const bool bamba = config_["architectures"][0] == "BambaForCausalLM";
    truth("rope.scaling.finetuned", bamba);
    if (!bamba) size("context_length", 1U << 20U);
    if (!nemotron) return;
    size("attention.key_length", count(first_of({"head_dim", "attention_head_dim"})));
    size("attention.value_length", count(first_of({"head_dim", "attention_head_dim"})));
    sizes("feed_forward_length", widths);
    if (!has("n_routed_experts")) return;
    copy({"moe_intermediate_size"}, "expert_feed_forward_length");
    copy({"moe_shared_expert_intermediate_size"}, "expert_shared_feed_forward_length");
    copy({"n_routed_experts"}, "expert_count");
    copy({"n_shared_experts"}, "expert_shared_count");
    truth("expert_weights_norm", config_["norm_topk_prob"].get<bool>());
    real("expert_weights_scale", number("routed_scaling_factor"));
    copy({"moe_latent_size"}, "moe_latent_size");
  }

  void lfm2() {
    std::vector<std::uint32_t> key_heads(layers_);
    for (std::uint64_t layer = 0; layer < layers_; ++layer) {
      bool attends = has("layer_types") && config_["layer_types"][layer] == "full_attention";
      if (has("full_attn_idxs"))
        for (const auto& index : config_["full_attn_idxs"]) attends = attends || index.get<std::uint64_t>() == layer;
      if (attends) key_heads[layer] = static_cast<std::uint32_t>(count("num_key_value_heads"));
    }
    sizes("attention.head_count_kv", key_heads);
    size("vocab_size", count("vocab_size"));
    size("shortconv.l_cache", count("conv_L_cache"));
    for (const auto& [name, t] : weights_)
      if (name.ends_with(".w1.weight")) size("feed_forward_length", t.shape[0]);
  }

  void jamba() {
    std::vector<std::uint32_t> key_heads(layers_);
    for (std::uint64_t layer = 0; layer < layers_; ++layer)
      if (layer % count("attn_layer_period") == count("attn_layer_offset"))
        key_heads[layer] = static_cast<std::uint32_t>(count("num_key_value_heads"));
    sizes("attention.head_count_kv", key_heads);
    for (const char* key : {"attention.key_length", "attention.value_length", "rope.freq_base"}) erase(key);
    size("ssm.conv_kernel", count("mamba_d_conv"));
    size("ssm.inner_size", count("mamba_expand") * count("hidden_size"));
    size("ssm.state_size", count("mamba_d_state"));
    size("ssm.time_step_rank", count("mamba_dt_rank"));
  }

  void kimi() {
    const nlohmann::json& linear = config_["linear_attn_config"];
    std::vector<std::uint32_t> key_heads(layers_);
    for (const auto& layer : linear["full_attn_layers"]) key_heads[layer.get<std::size_t>() - 1] = 1;
    size("attention.head_count_kv", 1);
    sizes("attention.head_count_kv", key_heads);
    size("vocab_size", count("vocab_size"));
    size("ssm.conv_kernel", linear["short_conv_kernel_size"].get<std::uint64_t>());
    size("kda.head_dim", linear["head_dim"].get<std::uint64_t>());
    copy({"q_lora_rank"}, "attention.q_lora_rank");
    copy({"kv_lora_rank"}, "attention.kv_lora_rank");
    copy({"qk_rope_head_dim"}, "rope.dimension_count");
    size("attention.key_length", count("kv_lora_rank") + count("qk_rope_head_dim"));
    size("attention.key_length_mla", count("qk_nope_head_dim") + count("qk_rope_head_dim"));
    size("attention.value_length_mla", count("v_head_dim"));
    copy({"moe_intermediate_size"}, "expert_feed_forward_length");
    copy({"num_shared_experts"}, "expert_shared_count");
    copy({"first_k_dense_replace"}, "leading_dense_block_count");
    real("expert_weights_scale", number("routed_scaling_factor"));
  }

  // ---- tensors -------------------------------------------------------------------------------------------------------------------------
  // Layer and what follows it in `prefix7.rest`; -1 outside the layers.
  [[nodiscard]] static std::pair<std::int64_t, std::string> split(const std::string& name) {
    for (const std::string_view word : {"layers.", "blocks."}) {
      const std::size_t at = name.find(word);
      if (at == std::string::npos) continue;
      std::int64_t layer = -1;
      const auto read = std::from_chars(name.data() + at + word.size(), name.data() + name.size(), layer);
      return {layer, std::string(read.ptr + 1)};
    }
    return {-1, name};
  }
  void layer_tensor(std::int64_t layer, const std::string& rest, const T& t) { put("blk." + std::to_string(layer) + "." + rest, t); }

  void decoder_tensor(std::string name, T t) {
    if (const std::size_t at = name.find("language_model."); at != std::string::npos) name.erase(at, 15);
    if (name.starts_with("mtp.")) {  // behind the model's own layers
      const std::string at = "blk." + std::to_string(layers_) + ".";
      return put(at + (name == "mtp.fc.weight" ? "nextn.eh_proj.weight" : "nextn.shared_head_norm.weight"), t);
    }
    auto [layer, rest] = split(name);
    const bool qwen = architecture_.starts_with("qwen"), falcon = architecture_ == "falcon-h1", kimi = architecture_ == "kimi-linear",
               lfm2 = architecture_.starts_with("lfm2");
    if (qwen && architecture_ != "qwen3next") t = tiled(rest, std::move(t));
    if (qwen && name.ends_with("norm.weight") && !name.ends_with("linear_attn.norm.weight"))
      t = each(std::move(t), [](float x) { return x + 1; });
    if (rest.ends_with("A_log")) t = rate(t);
    if (rest.ends_with("conv1d.weight") || rest == "conv.conv.weight") {
      const std::uint64_t channels = t.shape.front(), taps = t.shape.back();
      t = kimi ? reshape(std::move(t), {1, channels, 1, taps}) : reshape(std::move(t), {channels, taps});
    }
    const bool second = groups_ > 0;
    if (second && (rest.ends_with("A_log") || rest.ends_with(".D"))) t = reshape(t, {t.shape[0], 1});
    if (second && (rest == "mixer.norm.weight" || rest == "mamba.norm.weight")) t = reshape(std::move(t), {groups_, inner_ / groups_});
    if (falcon) t = multiplied(name, std::move(t));
    if ((architecture_ == "granitehybrid" || architecture_.starts_with("nemotron")) && layer >= 0) {
      if (rest.find("q_proj.") != std::string::npos) t = interleaved(t, count("num_attention_heads"));
      if (rest.find("k_proj.") != std::string::npos) t = interleaved(t, count("num_key_value_heads"));
    }
    if (layer < 0) return outer_tensor(name, t);
    if (rest.find("experts.") != std::string::npos && rest.find("shared_experts") == std::string::npos) return expert(layer, rest, t);
    if (rest == "block_sparse_moe.input_linear.weight") return gates_then_ups(layer, t);
    if (rest == "block_sparse_moe.output_linear.weight") return layer_tensor(layer, "ffn_down_exps.weight", t);
    if (rest.starts_with("shared_mlp.")) {
      const std::string end = count("num_local_experts", 0) > 0 ? "_shexp.weight" : ".weight";
      if (rest == "shared_mlp.output_linear.weight") return layer_tensor(layer, "ffn_down" + end, t);
      layer_tensor(layer, "ffn_gate" + end, part(t, 0, t.shape[0] / 2));
      return layer_tensor(layer, "ffn_up" + end, part(t, t.shape[0] / 2, t.shape[0] / 2));
    }
    if (rest == "linear_attn.in_proj_qkvz.weight") return fused_rows(layer, t);
    if (rest == "self_attn.kv_b_proj.weight") {
      const std::uint64_t heads = count("num_attention_heads"), keys = count("qk_nope_head_dim"), values = count("v_head_dim");
      const T split_by_head = permute(reshape(t, {heads, keys + values, t.shape[1]}), {1, 0, 2});
      layer_tensor(layer, "attn_k_b.weight", permute(part(split_by_head, 0, keys), {1, 2, 0}));
      return layer_tensor(layer, "attn_v_b.weight", permute(part(split_by_head, keys, values), {1, 0, 2}));
    }
    if (rest == "mlp.shared_expert_gate.weight") t = reshape(t, {t.data.size()});
    const std::size_t dot = rest.rfind('.');
    const bool ends = rest.ends_with(".weight") || rest.ends_with(".bias");
    const std::string inside = ends ? rest.substr(0, dot) : rest, end = ends ? rest.substr(dot) : "";
    const std::size_t last = inside.rfind('.');
    const std::string room = last == std::string::npos ? "" : inside.substr(0, last + 1), own = inside.substr(last + 1);
    static const std::map<std::string, std::string> norms{{"norm", "attn_norm"},
                                                          {"input_layernorm", "attn_norm"},
                                                          {"operator_norm", "attn_norm"},
                                                          {"ffn_norm", "ffn_norm"},
                                                          {"pre_ff_layernorm", "ffn_norm"}};
    static const std::map<std::string, std::string> inner_names{{"in_proj", "ssm_in"},
                                                                {"x_proj", "ssm_x"},
                                                                {"dt_proj", "ssm_dt"},
                                                                {"conv1d", "ssm_conv1d"},
                                                                {"A_log", "ssm_a"},
                                                                {"D", "ssm_d"},
                                                                {"dt_bias", "ssm_dt.bias"},
                                                                {"norm", "ssm_norm"},
                                                                {"out_proj", "ssm_out"},
                                                                {"dt_layernorm", "ssm_dt_norm"},
                                                                {"b_layernorm", "ssm_b_norm"},
                                                                {"c_layernorm", "ssm_c_norm"},
                                                                {"in_proj_qkv", "attn_qkv"},
                                                                {"in_proj_z", "attn_gate"},
                                                                {"in_proj_a", "ssm_alpha"},
                                                                {"in_proj_b", "ssm_beta"},
                                                                {"in_proj_ba", "ssm_ba"},
                                                                {"q_proj", "attn_q"},
                                                                {"k_proj", "attn_k"},
                                                                {"v_proj", "attn_v"},
                                                                {"o_proj", "attn_output"},
                                                                {"q_norm", "attn_q_norm"},
                                                                {"k_norm", "attn_k_norm"},
                                                                {"q_layernorm", "attn_q_norm"},
                                                                {"k_layernorm", "attn_k_norm"},
                                                                {"q_conv1d", "ssm_conv1d_q"},
                                                                {"k_conv1d", "ssm_conv1d_k"},
                                                                {"v_conv1d", "ssm_conv1d_v"},
                                                                {"f_a_proj", "ssm_f_a"},
                                                                {"f_b_proj", "ssm_f_b"},
                                                                {"g_a_proj", "ssm_g_a"},
                                                                {"g_b_proj", "ssm_g_b"},
                                                                {"b_proj", "ssm_beta"},
                                                                {"o_norm", "ssm_norm"},
                                                                {"q_a_proj", "attn_q_a"},
                                                                {"q_b_proj", "attn_q_b"},
                                                                {"q_a_layernorm", "attn_q_a_norm"},
                                                                {"kv_a_proj_with_mqa", "attn_kv_a_mqa"},
                                                                {"kv_a_layernorm", "attn_kv_a_norm"},
                                                                {"gate_proj", "ffn_gate"},
                                                                {"up_proj", "ffn_up"},
                                                                {"down_proj", "ffn_down"},
                                                                {"w1", "ffn_gate"},
                                                                {"w3", "ffn_up"},
                                                                {"w2", "ffn_down"},
                                                                {"router", "ffn_gate_inp"},
                                                                {"layer", "ffn_gate_inp"},
                                                                {"gate", "ffn_gate_inp"},
                                                                {"shared_expert_gate", "ffn_gate_inp_shexp"},
                                                                {"expert_bias", "exp_probs_b.bias"},
                                                                {"e_score_correction_bias", "exp_probs_b.bias"},
                                                                {"fc1_latent_proj", "ffn_latent_down"},
                                                                {"fc2_latent_proj", "ffn_latent_up"}};
    if (room.empty() && inside == "post_attention_layernorm")
      return layer_tensor(layer, (qwen ? "post_attention_norm" : "ffn_norm") + end, t);
    if (room.empty()) return layer_tensor(layer, norms.at(inside) + end, t);
    if (lfm2 && room == "conv.") return layer_tensor(layer, "shortconv." + own + end, t);
    if (lfm2 && own == "out_proj") return layer_tensor(layer, "attn_output" + end, t);
    const bool shared = room.find("shared_expert") != std::string::npos;
    layer_tensor(layer, inner_names.at(own) + (shared ? "_shexp" : "") + end, t);
  }

  void outer_tensor(const std::string& name, const T& t) {
    static const std::map<std::string, std::string> names{{"model.embed_tokens.weight", "token_embd.weight"},
                                                          {"backbone.embeddings.weight", "token_embd.weight"},
                                                          {"lm_head.weight", "output.weight"},
                                                          {"model.norm.weight", "output_norm.weight"},
                                                          {"model.final_layernorm.weight", "output_norm.weight"},
                                                          {"backbone.norm_f.weight", "output_norm.weight"},
                                                          {"model.embedding_norm.weight", "token_embd_norm.weight"}};
    put(names.at(name), t);
  }

  // Value heads from groups of a key head to tiles, where there are more of them than key heads.
  [[nodiscard]] T tiled(const std::string& rest, T t) const {
    const std::uint64_t keys = count("linear_num_key_heads"), values = count("linear_num_value_heads"), each_key = values / keys;
    const std::uint64_t width = count("linear_value_head_dim"), before = 2 * keys * count("linear_key_head_dim");
    if (keys == values || !rest.starts_with("linear_attn.")) return t;
    const auto along = [&](const T& of, std::size_t axis, std::uint64_t each_head) {
      Shape whole(of.shape.begin(), of.shape.begin() + static_cast<std::ptrdiff_t>(axis));
      whole.insert(whole.end(), {keys, each_key, each_head});
      whole.insert(whole.end(), of.shape.begin() + static_cast<std::ptrdiff_t>(axis) + 1, of.shape.end());
      std::vector<std::size_t> order(whole.size());
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::swap(order[axis], order[axis + 1]);
      return reshape(permute(reshape(of, whole), order), of.shape);
    };
    if (rest == "linear_attn.in_proj_qkv.weight" || rest == "linear_attn.conv1d.weight")
      return joined({part(t, 0, before), along(part(t, before, values * width), 0, width)});
    if (rest == "linear_attn.in_proj_z.weight") return along(t, 0, width);
    if (rest == "linear_attn.out_proj.weight") return along(t, 1, width);
    if (rest == "linear_attn.norm.weight") return t;
    return along(t, 0, 1);
  }

  void fused_rows(std::int64_t layer, const T& t) {
    const std::uint64_t heads = count("linear_num_key_heads"), keys = count("linear_key_head_dim"),
                        values = count("linear_num_value_heads") / heads * count("linear_value_head_dim");
    std::vector<T> q, k, v, z;
    for (std::uint64_t head = 0; head < heads; ++head) {
      const std::uint64_t first = head * 2 * (keys + values);
      q.push_back(part(t, first, keys));
      k.push_back(part(t, first + keys, keys));
      v.push_back(part(t, first + 2 * keys, values));
      z.push_back(part(t, first + 2 * keys + values, values));
    }
    layer_tensor(layer, "attn_qkv.weight", joined({joined(q), joined(k), joined(v)}));
    layer_tensor(layer, "attn_gate.weight", joined(z));
  }

  // Falcon-H1's multipliers, into the tensors.
  [[nodiscard]] T multiplied(const std::string& name, T t) const {
    const auto holds = [&](std::string_view part_of_name) { return name.find(part_of_name) != std::string::npos; };
    const auto times = [](T of, double factor) {
      return each(std::move(of), [&](float x) { return static_cast<float>(static_cast<double>(x) * factor); });
    };
    const double in = number("attention_in_multiplier");
    if (holds("down_proj")) return times(std::move(t), config_["mlp_multipliers"][1].get<double>());
    if (holds("gate_proj")) return times(std::move(t), config_["mlp_multipliers"][0].get<double>());
    if (holds("k_proj")) return times(std::move(t), number("key_multiplier") * in);
    if (holds("q_proj") || holds("v_proj")) return times(std::move(t), in);
    if (holds("o_proj")) return times(std::move(t), number("attention_out_multiplier"));
    if (holds("out_proj")) return times(std::move(t), number("ssm_out_multiplier"));
    if (holds("lm_head")) return times(std::move(t), number("lm_head_multiplier"));
    if (holds("embed_tokens")) return times(std::move(t), number("embedding_multiplier"));
    if (!holds("in_proj")) return t;
    const std::uint64_t inner = count("mamba_d_ssm"), shared = count("mamba_n_groups") * count("mamba_d_state");
    std::vector<T> pieces;
    std::uint64_t first = 0, place = 0;
    for (const std::uint64_t rows : {inner, inner, shared, shared, t.shape[0] - 2 * inner - 2 * shared}) {
      pieces.push_back(times(part(t, first, rows), number("ssm_in_multiplier") * config_["ssm_multipliers"][place++].get<double>()));
      first += rows;
    }
    return joined(pieces);
  }

  // Experts are stacked; those of Qwen3.5 are, and have gate and up in one tensor.
  void expert(std::int64_t layer, const std::string& rest, const T& t) {
    if (rest == "mlp.experts.down_proj") return layer_tensor(layer, "ffn_down_exps.weight", t);
    if (rest == "mlp.experts.gate_up_proj") return gates_then_ups(layer, t);
    const std::size_t at = rest.find("experts.") + 8, dot = rest.find('.', at), end = rest.rfind(".weight");
    const std::string own = rest.substr(dot + 1, end - dot - 1);
    const std::string role = own == "w1" || own == "gate_proj" ? "gate" : own == "w3" || own == "up_proj" ? "up" : "down";
    experts_[layer][role][std::stoul(rest.substr(at, dot - at))] = t;
  }
  // Of each expert the gate's rows, then the up projection's.
  void gates_then_ups(std::int64_t layer, const T& t) {
    const std::uint64_t inner = t.shape[1] / 2;
    std::vector<T> gate, up;
    for (std::uint64_t i = 0; i < t.shape[0]; ++i) {
      const T one = reshape(part(t, i, 1), {2 * inner, t.shape[2]});
      gate.push_back(part(one, 0, inner));
      up.push_back(part(one, inner, inner));
    }
    gate_and_up(layer, stack(gate), stack(up));
  }
  void gate_and_up(std::int64_t layer, const T& gate, const T& up) {
    if (!fuse_) {
      layer_tensor(layer, "ffn_gate_exps.weight", gate);
      return layer_tensor(layer, "ffn_up_exps.weight", up);
    }
    std::vector<T> both;
    for (std::uint64_t i = 0; i < gate.shape[0]; ++i) {
      const Shape one{gate.shape[1], gate.shape[2]};
      both.push_back(joined({reshape(part(gate, i, 1), one), reshape(part(up, i, 1), one)}));
    }
    layer_tensor(layer, "ffn_gate_up_exps.weight", stack(both));
  }
  void write_experts() {
    for (const auto& [layer, roles] : experts_) {
      std::map<std::string, T> stacks;
      for (const auto& [role, all] : roles) {
        std::vector<T> one_after_the_other;
        for (const auto& numbered : all) one_after_the_other.push_back(numbered.second);
        stacks[role] = stack(one_after_the_other);
      }
      layer_tensor(layer, "ffn_down_exps.weight", stacks.at("down"));
      if (stacks.count("gate") != 0)
        gate_and_up(layer, stacks.at("gate"), stacks.at("up"));
      else
        layer_tensor(layer, "ffn_up_exps.weight", stacks.at("up"));
    }
  }

  void rwkv_tensor(const std::string& name, T t) {
    const bool seventh = architecture_ == "rwkv7";
    const auto turned = [](const T& of) { return permute(of, {1, 0}); };
    const auto parts = split(name);
    const auto layer = parts.first;
    const std::string& rest = parts.second;
    static const std::map<std::string, std::string> outside{{"rwkv.embeddings.weight", "token_embd.weight"},
                                                            {"model.embeddings.weight", "token_embd.weight"},
                                                            {"rwkv.ln_out.weight", "output_norm.weight"},
                                                            {"model.norm.weight", "output_norm.weight"},
                                                            {"rwkv.ln_out.bias", "output_norm.bias"},
                                                            {"model.norm.bias", "output_norm.bias"},
                                                            {"head.weight", "output.weight"},
                                                            {"lm_head.weight", "output.weight"}};
    if (layer < 0) return put(outside.at(name), t);
    const auto starts = [&](std::string_view word) { return rest.starts_with(word); };
    if (starts("pre_ln.") || starts("pre_norm.")) return put("token_embd_norm." + rest.substr(rest.find('.') + 1), t);
    if (starts("ln1.") || starts("attn_norm.")) return layer_tensor(layer, "attn_norm." + rest.substr(rest.find('.') + 1), t);
    if (starts("ln2.") || starts("ffn_norm.")) return layer_tensor(layer, "attn_norm_2." + rest.substr(rest.find('.') + 1), t);
    const bool channel = starts("feed_forward.") || starts("ffn.");
    std::string own = rest.substr(rest.find('.') + 1);
    const auto flat = [&] { return reshape(t, {t.data.size()}); };
    if (channel) {
      if (own == "time_maa_k" || own == "x_k") return layer_tensor(layer, "channel_mix_lerp_k.weight", flat());
      if (own == "time_maa_r") return layer_tensor(layer, "channel_mix_lerp_r.weight", flat());
      return layer_tensor(layer, "channel_mix_" + own, own == "value.weight" ? rescaled(layer, t) : t);
    }
    if (seventh) return rwkv7_tensor(layer, own, t);
    if (own == "time_maa_x") return layer_tensor(layer, "time_mix_lerp_x.weight", flat());
    if (own == "time_maa_w1") return layer_tensor(layer, "time_mix_w1.weight", turned(t));
    if (own == "time_maa_w2") return layer_tensor(layer, "time_mix_w2.weight", permute(t, {0, 2, 1}));
    if (own == "time_decay") return layer_tensor(layer, "time_mix_decay.weight", flat());
    if (own == "time_decay_w1" || own == "time_decay_w2") return layer_tensor(layer, "time_mix_" + own.substr(5) + ".weight", turned(t));
    if (own == "time_faaaa") return layer_tensor(layer, "time_mix_first.weight", t);
    if (own.starts_with("time_maa_")) return mix(layer, own.back(), flat(), "wkvrg");
    if (own.starts_with("ln_x.")) return layer_tensor(layer, "time_mix_ln." + own.substr(5), t);
    layer_tensor(layer, "time_mix_" + own, own == "output.weight" ? rescaled(layer, t) : t);
  }

  void rwkv7_tensor(std::int64_t layer, const std::string& own, const T& t) {
    static const std::map<std::string, std::string> projections{
        {"r_proj", "receptance"}, {"k_proj", "key"}, {"v_proj", "value"}, {"o_proj", "output"}, {"g_norm", "ln"}};
    const std::size_t dot = own.rfind('.');
    if (dot != std::string::npos)
      if (const auto found = projections.find(own.substr(0, dot)); found != projections.end())
        return layer_tensor(layer, "time_mix_" + found->second + own.substr(dot), t);
    const auto flat = [&] { return reshape(t, {t.data.size()}); };
    if (own.starts_with("x_")) return mix(layer, own.back(), flat(), "rwkvag");
    if (own == "k_k" || own == "k_a" || own == "r_k") return layer_tensor(layer, "time_mix_" + own + ".weight", flat());
    // w_lora.lora.0.weight and .2.weight are linear layers' matrices, .2.bias the offset.
    const char letter = own[0];
    const std::string which = own.ends_with("0.weight") ? "1" : own.ends_with("2.weight") ? "2" : "0";
    if (layer == 0 && letter == 'v') return;
    if (layer == 0 && letter == 'a') layer_tensor(0, "time_mix_v" + which + ".weight", t);  // a copy that nothing reads
    layer_tensor(layer, std::string("time_mix_") + letter + which + ".weight", t);
  }

  void mix(std::int64_t layer, char letter, const T& t, const std::string& order) {
    std::map<char, T>& all = mixes_[layer];
    all[letter] = t;
    if (all.size() < order.size()) return;
    std::vector<T> rows;
    for (const char each_letter : order) rows.push_back(all.at(each_letter));
    layer_tensor(layer, "time_mix_lerp_fused.weight", reshape(stack(rows), {order.size(), 1, 1, t.data.size()}));
  }

  [[nodiscard]] T rescaled(std::int64_t layer, const T& t) const {
    const std::uint64_t every = count("rescale_every", 0);
    if (architecture_ != "rwkv6" || every == 0) return t;
    const auto power = static_cast<float>(1U << (static_cast<std::uint64_t>(layer) / every));
    return each(t, [&](float x) { return x / power; });
  }

  std::string architecture_;
  Weights weights_;
  nlohmann::json config_;
  bool fuse_;
  Stored stored_;
  int blocks_ = 0;
  std::uint64_t layers_ = 0, groups_ = 0, inner_ = 0;
  std::vector<bool> attention_;
  std::map<std::string, std::pair<unsigned, std::string>> keys_;  // a type and the value's bytes
  std::vector<gguf::Tensor> tensors_;
  std::map<std::int64_t, std::map<std::string, std::map<std::size_t, T>>> experts_;
  std::map<std::int64_t, std::map<char, T>> mixes_;
};

}  // namespace io_test
