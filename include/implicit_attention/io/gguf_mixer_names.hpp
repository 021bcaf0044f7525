// The public names of a GGUF model's recurrent layers: state space, linear attention, short convolution.
#pragma once

#include <string_view>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_families.hpp>
#include <implicit_attention/io/gguf_keys.hpp>
#include <implicit_attention/io/gguf_renamer.hpp>
#include <implicit_attention/io/gguf_value_heads.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// (E, W), or with axes of size 1, as (E, 1, W).
[[nodiscard]] inline CheckpointTensor gguf_convolution(const GgufRenamer& renamer, const CheckpointTensor& tensor) {
  std::vector<Index> shape;
  for (const Index size : tensor.shape)
    if (size != 1) shape.push_back(size);
  if (tensor.shape.size() == 2) shape = tensor.shape;
  if (shape.size() != 2) renamer.wrong_shape(tensor, "(channels, taps)");
  return renamer.shaped(tensor, {shape[0], 1, shape[1]});
}

/// GGUF's names of recurrent mixers. The keys and the family must outlive it.
class GgufMixerNames {
 public:
  GgufMixerNames(const GgufModel& model, const GgufKeys& keys, const GgufFamily& family) : family_(&family), heads_(model, keys) {}

  /// Keeps a layer's tensor under its public name; false if it is not one of a mixer's.
  bool operator()(const GgufLayerTensor& given) const { return qwen(given) || recurrence(given) || plain(given); }

 private:
  [[nodiscard]] bool is_qwen() const { return family_->architecture.starts_with("qwen"); }
  [[nodiscard]] bool is_kimi() const { return family_->architecture == "kimi-linear"; }

  // Projections with rows or columns of Qwen's value heads.
  bool qwen(const GgufLayerTensor& given) const {
    if (!is_qwen()) return false;
    const std::string_view part = given.part, mixer = family_->mixer;
    const CheckpointTensor& tensor = given.tensor;
    const std::string_view who = given.renamer.who();
    const auto by_heads = [&] { return heads_.ordered(tensor, 1, who); };
    if (part == "ssm_out") return given.as(mixer, "out_proj", [&] { return heads_.columns_ordered(tensor, who); });
    if (part == "attn_qkv") return given.as(mixer, "in_proj_qkv", [&] { return heads_.last_rows_ordered(tensor, who); });
    if (part == "attn_gate") return given.as(mixer, "in_proj_z", [&] { return heads_.ordered(tensor, heads_.width(), who); });
    if (part == "ssm_alpha") return given.as(mixer, "in_proj_a", by_heads);
    if (part == "ssm_beta") return given.as(mixer, "in_proj_b", by_heads);
    if (part == "ssm_ba")
      return given.as(mixer, "in_proj_b", [&] { return heads_.beta_or_alpha(tensor, 0, who); }) &&
             given.as(mixer, "in_proj_a", [&] { return heads_.beta_or_alpha(tensor, 1, who); });
    if (part == "ssm_in")
      return given.as(mixer, "in_proj_qkv", [&] { return heads_.query_key_value(tensor, who); }) &&
             given.as(mixer, "in_proj_z", [&] { return heads_.output_gate(tensor, who); });
    return false;
  }

  // Tensors that change shape, or whose name depends on the family.
  bool recurrence(const GgufLayerTensor& given) const {
    const std::string_view part = given.part, suffix = given.suffix, family = family_->architecture, mixer = family_->mixer;
    GgufRenamer& renamer = given.renamer;
    const CheckpointTensor& tensor = given.tensor;
    const bool first = family == "mamba" || family == "jamba";
    const auto flattened = [&] { return renamer.flat(tensor); };
    const auto flat_by_heads = [&] { return heads_.ordered(renamer.flat(tensor), 1, renamer.who()); };
    if (part == "ssm_a") return first ? given.as(mixer, "A", tensor, "") : given.as(mixer, "A", flat_by_heads, "");
    if (part == "ssm_d") return given.as(mixer, "D", flattened, "");
    if (part == "ssm_conv1d") {
      if (suffix != ".weight") return given.as(mixer, "conv1d");
      if (first || family == "mamba2")
        renamer.expect_sibling(given.layer, "ssm_conv1d.bias");  // without its bias it would silently be another layer
      return given.as(mixer, "conv1d", [&] { return heads_.last_rows_ordered(gguf_convolution(renamer, tensor), renamer.who()); });
    }
    if (part == "ssm_dt" && !first && suffix != ".weight") return given.as(mixer, "dt_bias", flat_by_heads, "");
    if (part == "ssm_dt") return given.as(mixer, "dt_proj");
    if (part == "ssm_out") return given.as(mixer, "out_proj");
    if (part == "ssm_norm") return given.as(mixer, is_kimi() ? "o_norm" : "norm", flattened);
    for (const char letter : {'q', 'k', 'v'})
      if (is_kimi() && part == message("ssm_conv1d_", letter))
        return given.as(mixer, message(letter, "_conv1d"), [&] { return gguf_convolution(renamer, tensor); });
    if (part == "shortconv.conv")
      return given.as(mixer, "conv", [&] { return suffix == ".weight" ? gguf_convolution(renamer, tensor) : tensor; });
    return false;
  }

  // Tensors that only have another name.
  bool plain(const GgufLayerTensor& given) const {
    struct Rename {
      std::string_view gguf, ours;
    };
    const bool short_convolution = family_->architecture.starts_with("lfm2");
    for (const Rename& each :
         {Rename{"ssm_in", "in_proj"}, Rename{"ssm_x", "x_proj"}, Rename{"ssm_dt_norm", "dt_layernorm"},
          Rename{"ssm_b_norm", "b_layernorm"}, Rename{"ssm_c_norm", "c_layernorm"}, Rename{"ssm_f_a", "f_a_proj"},
          Rename{"ssm_f_b", "f_b_proj"}, Rename{"ssm_g_a", "g_a_proj"}, Rename{"ssm_g_b", "g_b_proj"}, Rename{"ssm_beta", "b_proj"},
          Rename{"shortconv.in_proj", "in_proj"}, Rename{"shortconv.out_proj", "out_proj"}})
      if (given.part == each.gguf && given.part.starts_with("shortconv.") == short_convolution) return given.as(family_->mixer, each.ours);
    return false;
  }

  const GgufFamily* family_;
  GgufValueHeads heads_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
