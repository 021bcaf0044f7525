// A GGUF model's tensors under the names of the public checkpoints, with what the public converter changes undone.
//
// | change of the converter                                       | undone how                                                          |
// |---------------------------------------------------------------|---------------------------------------------------------------------|
// | ssm_a = -exp(A_log)                                           | `A`, as stored: layers/decay_rate.hpp takes the logarithm           |
// | convolutions squeezed; D, norms with other axes               | `conv1d.weight` (E, 1, W), `D` (H), `norm.weight` (E)               |
// | 1 + w of the norms of Qwen3-Next and Qwen3.5 added            | left: the key `norm_weights_include_one` says so                    |
// | qwen35: value heads tiled (head h reads key head h mod H)     | rows and columns put back, by groups                                |
// | experts' gate and up joined (--fuse-gate-up-exps)             | taken apart, or left where the public files have them joined        |
// | qwen3next: fused rows taken apart or not                      | always as Qwen3.5 names them: `in_proj_qkv`, `_z`, `_b`, `_a`       |
// | q and k rows of Granite, Bamba, Nemotron-H interleaved        | rows put back in halves                                             |
// | Granite's gate and up taken apart; experts stacked            | `input_linear` joined; experts one by one where the files have that |
// | Falcon-H1's multipliers folded in                             | left: its keys are 1, and `multipliers_folded` says so              |
// | Kimi: kv_b taken apart, k_b transposed                        | `kv_b_proj.weight` joined                                           |
// | RWKV: mixes fused, low-rank factors transposed                | taken apart and transposed back, under BlinkDL's names              |
// | RWKV-6: weights divided by 2^(layer / rescale_every)          | multiplied back, which is exact                                     |
//
// A tensor that is not recognised keeps its name in the file, so that the check for unused tensors reports it. Layers of an extra
// prediction head are named `mtp.*`, vision parts `visual.*`. The few names and the one key that Ollama's converter writes differently are
// read, too. A key of the architecture that may change the model and is not understood is an error (gguf_keys.hpp).
#pragma once

#include <string>
#include <string_view>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_attention_names.hpp>
#include <implicit_attention/io/gguf_families.hpp>
#include <implicit_attention/io/gguf_feed_forward_names.hpp>
#include <implicit_attention/io/gguf_keys.hpp>
#include <implicit_attention/io/gguf_mixer_names.hpp>
#include <implicit_attention/io/gguf_renamer.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A file's family. The public converter gives Bamba the architecture of Granite.
[[nodiscard]] inline const GgufFamily& gguf_family(const GgufKeys& keys, const Configuration& configuration) {
  const bool bamba = configuration.text({"model_type"}) == "bamba";
  const std::string_view architecture = bamba ? std::string_view("bamba") : std::string_view(keys.architecture());
  for (const GgufFamily& family : gguf_families)
    if (family.architecture == architecture) return family;
  raise(ErrorKind::file, keys.where(), ": general.architecture is ", printable(architecture), ", for which no tensor names are known");
}

/// One model's tensors under their public names. Names outside the layers and of norms are here; each part of a layer has a table of its
/// own. The model and its keys must outlive it.
class GgufNames final : public GgufRenamer {
 public:
  GgufNames(const GgufModel& model, const GgufKeys& keys, const Configuration& configuration)
      : GgufRenamer(model, keys),
        family_(gguf_family(keys, configuration)),
        mixer_(model, keys, family_),
        attention_(keys, family_),
        feed_forward_(keys, family_) {}

 private:
  [[nodiscard]] std::string layers() const override { return std::string(family_.layers); }
  void outer(const std::string& name, const Tensor& tensor) override {
    const bool lfm2 = family_.architecture.starts_with("lfm2");
    if (name == "token_embd.weight") return keep(std::string(family_.embedding) + ".weight", tensor);
    if (name == "output_norm.weight" || (lfm2 && name == "token_embd_norm.weight"))
      return keep(std::string(family_.final_norm) + ".weight", tensor);
    if (name == "output_norm.bias") return keep(std::string(family_.final_norm) + ".bias", tensor);
    if (name == "output.weight") return keep("lm_head.weight", tensor);
    keep(name, tensor);
  }

  bool layer_tensor(Index layer, std::string_view part, std::string_view suffix, const Tensor& tensor) override {
    const GgufLayerTensor given{*this, message(family_.layers, layer, "."), layer, part, suffix, tensor};
    return norm(given) || mixer_(given) || attention_(given) || feed_forward_(given);
  }
  bool norm(const GgufLayerTensor& given) const {
    if (given.part == "attn_norm") return given.as("", family_.mixer_norm);
    const std::string_view own = family_.architecture.starts_with("qwen") ? "post_attention_norm" : "ffn_norm";
    const bool before_feed_forward =
        given.part == own || (!names_alone() && (given.part == "ffn_norm" || given.part == "post_attention_norm"));
    return before_feed_forward && !family_.feed_forward_norm.empty() && given.as("", family_.feed_forward_norm);
  }

  const GgufFamily& family_;
  GgufMixerNames mixer_;
  GgufAttentionNames attention_;
  GgufFeedForwardNames feed_forward_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
