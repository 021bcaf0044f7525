// GGUF's RWKV-6 and RWKV-7 under the names of BlinkDL's checkpoints.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/io/gguf_renamer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

class GgufRwkvNames final : public GgufRenamer {
 public:
  using GgufRenamer::GgufRenamer;

 private:
  [[nodiscard]] std::string layers() const override { return "blocks."; }
  void outer(const std::string& name, const Tensor& tensor) override {
    struct Rename {
      std::string_view gguf, ours;
    };
    for (const Rename& each : {Rename{"token_embd.", "emb."}, Rename{"token_embd_norm.", "blocks.0.ln0."},
                               Rename{"output_norm.", "ln_out."}, Rename{"output.", "head."}})
      if (name.starts_with(each.gguf)) return keep(std::string(each.ours) + name.substr(each.gguf.size()), tensor);
    keep(name, tensor);
  }

  bool layer_tensor(Index layer, std::string_view part, std::string_view suffix, const Tensor& tensor) override {
    const bool seventh = keys_->architecture() == "rwkv7";
    const std::string prefix = message("blocks.", layer, ".");
    const Index width = keys_->size("embedding_length"), head = keys_->size("wkv.head_size");
    const auto as = [&](std::string_view name, const auto& kept, std::string_view end = "") {
      keep(message(prefix, name, end), kept);
      return true;
    };
    const auto row = [&] { return shaped(tensor, {1, 1, *element_count(tensor.shape, 1)}); };
    const auto by_heads = [&] { return shaped(tensor, {*element_count(tensor.shape, 1) / head, head}); };
    const auto back = [&] { return transposed(tensor, who_); };
    const auto unscaled = [&] {
      const Index every = keys_->integer("rescale_every_n_layers").value_or(0);
      Tensor divided = tensor;
      if (!seventh && every > 0) divided.factor = std::ldexp(1.0, static_cast<int>(std::min<Index>(layer / every, 64)));
      return divided;
    };
    if (part == "attn_norm") return as("ln1", tensor, suffix);
    if (part == "attn_norm_2") return as("ln2", tensor, suffix);
    if (part == "channel_mix_lerp_k") return as(seventh ? "ffn.x_k" : "ffn.time_maa_k", row);
    if (part == "channel_mix_lerp_r") return as("ffn.time_maa_r", row);
    if (part == "channel_mix_key") return as("ffn.key", tensor, suffix);
    if (part == "channel_mix_value") return as("ffn.value", unscaled, suffix);
    if (part == "channel_mix_receptance") return as("ffn.receptance", tensor, suffix);
    if (!part.starts_with("time_mix_")) return false;
    const std::string_view what = part.substr(9);
    if (what == "ln") return as("att.ln_x", tensor, suffix);
    if (what == "output") return as("att.output", unscaled, suffix);
    for (const std::string_view plain : {"key", "value", "receptance", "gate"})
      if (what == plain) return as(message("att.", plain), tensor, suffix);
    if (what == "lerp_fused") {
      const std::string_view order = seventh ? "rwkvag" : "wkvrg";
      const Index most = static_cast<Index>(order.size()), numbers = *element_count(tensor.shape, 1);
      const Index count = names_alone() ? most : numbers / width;
      if (!names_alone() && (count * width != numbers || count < 5 || count > most))
        wrong_shape(tensor, message("(", most, ", ", width, ")"));
      for (Index i = 0; i < count; ++i)
        as(message("att.", seventh ? "x_" : "time_maa_", order[static_cast<std::size_t>(i)]), [&] {
          return whole_tensor({1, 1, width}, some_rows(shaped(tensor, {count, width}).parts.front().stored, i, 1));
        });
      return true;
    }
    if (!seventh && what.starts_with("lerp_")) return as(message("att.time_maa_", what.substr(5)), row);
    if (!seventh && what == "first") return as("att.time_faaaa", by_heads);
    if (!seventh && what == "decay") return as("att.time_decay", row);
    if (!seventh && (what == "decay_w1" || what == "decay_w2")) return as(message("att.time_", what), back);
    if (!seventh && (what == "w1" || what == "w2")) return as(message("att.time_maa_", what), back);
    if (!seventh) return false;
    if (layer == 0 && (what == "v0" || what == "v1" || what == "v2")) return true;  // copies of a0, a1, a2 that nothing reads
    if (what == "r_k") return as("att.r_k", by_heads);
    if (what == "k_k" || what == "k_a" || (what.size() == 2 && what[1] == '0')) return as(message("att.", what), row);
    if (what.size() == 2 && (what[1] == '1' || what[1] == '2')) return as(message("att.", what), back);
    return false;
  }
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
