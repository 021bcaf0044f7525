// The public names of a GGUF model's softmax attention.
#pragma once

#include <string_view>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/gguf_families.hpp>
#include <implicit_attention/io/gguf_keys.hpp>
#include <implicit_attention/io/gguf_renamer.hpp>
#include <implicit_attention/io/gguf_row_order.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// GGUF's names of attention. The keys and the family must outlive it.
class GgufAttentionNames {
 public:
  GgufAttentionNames(const GgufKeys& keys, const GgufFamily& family) : keys_(&keys), family_(&family) {}

  /// Keeps a layer's tensor under its public name; false if it is not one of an attention layer's.
  bool operator()(const GgufLayerTensor& given) const {
    const std::string_view part = given.part, family = family_->architecture, below = family_->attention;
    const bool lfm2 = family.starts_with("lfm2");
    const bool interleaved = family == "granitehybrid" || family == "bamba" || family.starts_with("nemotron");
    const auto with_halves = [&](std::string_view heads) {
      return [&, heads] { return interleaved ? halves(given, keys_->of_layer(heads, given.layer)) : given.tensor; };
    };
    if (part == "attn_q") return given.as(below, "q_proj", with_halves("attention.head_count"));
    if (part == "attn_k") return given.as(below, "k_proj", with_halves("attention.head_count_kv"));
    if (part == "attn_v") return given.as(below, "v_proj");
    if (part == "attn_output") return given.as(below, lfm2 ? "out_proj" : "o_proj");
    if (part == "attn_q_norm") return given.as(below, lfm2 ? "q_layernorm" : "q_norm");
    if (part == "attn_k_norm") return given.as(below, lfm2 ? "k_layernorm" : "k_norm");
    if (part == "attn_q_a") return given.as(below, "q_a_proj");
    if (part == "attn_q_b") return given.as(below, "q_b_proj");
    if (part == "attn_q_a_norm") return given.as(below, "q_a_layernorm");
    if (part == "attn_kv_a_mqa") return given.as(below, "kv_a_proj_with_mqa");
    if (part == "attn_kv_a_norm") return given.as(below, "kv_a_layernorm");
    if (part == "attn_kv_b") return given.as(below, "kv_b_proj");
    if (part == "attn_k_b") return given.as(below, "kv_b_proj", [&] { return joined_keys_and_values(given); });
    return part == "attn_v_b" && (given.renamer.expect_sibling(given.layer, "attn_k_b.weight"), true);
  }

 private:
  // k_b (heads, latent, n) and v_b (heads, v, latent) become rows [n | v] of each head.
  [[nodiscard]] static CheckpointTensor joined_keys_and_values(const GgufLayerTensor& given) {
    const CheckpointTensor &tensor = given.tensor, &values = given.renamer.sibling(given.layer, "attn_v_b.weight");
    constexpr Index most_heads = 4096;
    if (tensor.shape.size() != 3 || values.shape.size() != 3 || values.shape[0] != tensor.shape[0] || values.shape[2] != tensor.shape[1] ||
        tensor.shape[0] > most_heads)
      given.renamer.wrong_shape(
          tensor, message("(heads, latent, keys) with at most ", most_heads, " heads, as attn_v_b is ", shape_text(values.shape)));
    const Index heads = tensor.shape[0], latent = tensor.shape[1], keys = tensor.shape[2], width = values.shape[1];
    CheckpointTensor joined;
    joined.shape = {heads * (keys + width), latent};
    for (Index head = 0; head < heads; ++head) {
      joined.parts.push_back({some_rows(tensor.parts.front().stored, head * latent, latent), false});
      transpose_part(joined.parts.back());
      joined.parts.push_back({some_rows(values.parts.front().stored, head * width, width), false});
    }
    return joined;
  }

  // Rows of each head from pairs (n, n + 1) back to halves (n, n + d/2).
  [[nodiscard]] static CheckpointTensor halves(const GgufLayerTensor& given, Index heads) {
    const CheckpointTensor& tensor = given.tensor;
    const Index rows = tensor.shape.front();
    if (tensor.shape.size() > 2 || heads < 1 || rows % heads != 0 || rows / heads % 2 != 0)
      given.renamer.wrong_shape(tensor, message("rows for ", heads, " heads of even width"));
    const Index width = rows / heads;
    return in_order(tensor, [width](Index i) {
      const Index n = i % width;
      return i - n + n % (width / 2) * 2 + n / (width / 2);
    });
  }

  const GgufKeys* keys_;
  const GgufFamily* family_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
