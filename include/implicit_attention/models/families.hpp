// Every architecture that is read here, a line each: what it is called, how its tensors and configuration are recognised, and its loader.
// Loading, `--arch`, messages and the README's table follow from these two lists; a test holds them against the headers.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/mamba2.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/layers/rwkv5.hpp>
#include <implicit_attention/layers/rwkv6.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/models/bamba_lm.hpp>
#include <implicit_attention/models/delta_rule_options.hpp>
#include <implicit_attention/models/falcon_h1_lm.hpp>
#include <implicit_attention/models/falcon_mamba_lm.hpp>
#include <implicit_attention/models/granitemoehybrid_lm.hpp>
#include <implicit_attention/models/griffin_lm.hpp>
#include <implicit_attention/models/jamba_lm.hpp>
#include <implicit_attention/models/kimi_linear_lm.hpp>
#include <implicit_attention/models/lfm2_lm.hpp>
#include <implicit_attention/models/literature_layers.hpp>
#include <implicit_attention/models/mamba2_lm.hpp>
#include <implicit_attention/models/mamba_lm.hpp>
#include <implicit_attention/models/nemotron_h_lm.hpp>
#include <implicit_attention/models/olmo_hybrid_lm.hpp>
#include <implicit_attention/models/qwen_lm.hpp>
#include <implicit_attention/models/rwkv4_lm.hpp>
#include <implicit_attention/models/rwkv5_lm.hpp>
#include <implicit_attention/models/rwkv6_lm.hpp>
#include <implicit_attention/models/rwkv7_lm.hpp>
#include <implicit_attention/models/rwkv7_reverse_lm.hpp>
#include <implicit_attention/models/rwkv_lm.hpp>
#include <implicit_attention/models/zamba2_lm.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A kind of token-mixing layer, read by itself: `materialize --arch NAME`.
template <Real S>
struct LayerFamily {
  std::string_view name;                  ///< as on command lines: `mamba`
  std::string_view title;                 ///< as people call it: `Mamba`
  std::string_view header;                ///< of its descriptor, below layers/
  std::vector<std::string_view> telling;  ///< tensors that such a layer has: the first that is found below a prefix names the layer
  std::vector<std::string_view> types;    ///< model_type of configurations whose layers these are; empty: no released models are known
  PartPointer<S> (*read)(const PrefixedTensors<S>& tensors, const Configuration& configuration);
  bool reads_positions = false;  ///< see LayerInterface::activations
};

/// A family of language models: `load_language_model` takes the first that recognises a checkpoint.
template <Real S>
struct ModelFamily {
  std::string_view name;          ///< as in config.json's model_type: `mamba`
  std::string_view title;         ///< as people call it: `Mamba`
  std::string_view architecture;  ///< the public class: `MambaForCausalLM`
  std::string_view header;        ///< of its loader, below models/
  std::string_view tensors;       ///< what its tensors look like, for messages
  bool (*recognises)(const detail::CheckpointFacts& facts);
  LanguageModel<S> (*load)(const TensorSource<S>& source, const Configuration& configuration);
  std::string_view prefix = {};  ///< before `layers.N.`: files that have another one or none are read as if they had it; empty: it may vary
  std::string_view like = {};    ///< the family whose tensors these are, too: only model_type tells them apart,
  std::array<std::string_view, 2> like_keys = {};  ///< and, where there are any, one of these keys that must stand beside it
};

template <Real S>
[[nodiscard]] const std::vector<LayerFamily<S>>& layer_families() {
  using T = PrefixedTensors<S>;
  using C = Configuration;
  // clang-format off
  static const std::vector<LayerFamily<S>> families = {
      {"mamba2", "Mamba-2", "mamba2.hpp", {"dt_bias"}, {"mamba2", "bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "zamba2"}, [](const T& t, const C& c) { return mixer_part(detail::read_mamba2_layer(t, c)); }},
      {"mamba", "Mamba", "mamba.hpp", {"A_log", "A"}, {"mamba", "falcon_mamba", "jamba"}, [](const T& t, const C& c) { return mixer_part(detail::read_mamba(t, c)); }},
      {"rwkv7", "RWKV-7", "rwkv7.hpp", {"r_k"}, {"rwkv7", "rwkv7_fla", "rwkv7_reverse"}, [](const T& t, const C& c) { return mixer_part(detail::read_rwkv7<S>(t, c)); }},
      {"rwkv6", "RWKV-6", "rwkv6.hpp", {"time_maa_w1"}, {"rwkv6"}, [](const T& t, const C& c) { return mixer_part(detail::read_rwkv6<S>(t, c)); }},
      {"rwkv5", "RWKV-5", "rwkv5.hpp", {"ln_x.weight"}, {"rwkv5"}, [](const T& t, const C& c) { return mixer_part(detail::read_rwkv5<S>(t, c)); }},
      {"rwkv4", "RWKV-4", "rwkv4.hpp", {"time_decay"}, {"rwkv", "rwkv4"}, [](const T& t, const C& c) { return mixer_part(detail::read_rwkv4(t, c)); }},
      {"griffin", "Griffin", "griffin.hpp", {"rg_lru.recurrent_param"}, {"recurrent_gemma"}, [](const T& t, const C& c) { return mixer_part(detail::read_griffin(t, c)); }, Griffin<S>::reads_positions},
      {"gdn", "Gated DeltaNet", "gated_delta_net.hpp", {"in_proj_qkvz.weight", "in_proj_qkv.weight", "a_proj.weight"}, {"gated_deltanet", "olmo_hybrid", "qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"}, [](const T& t, const C& c) { return mixer_part(detail::read_gated_delta_net(t, c)); }},
      {"deltanet", "DeltaNet", "gated_delta_net.hpp", {"o_norm.weight"}, {"delta_net"}, [](const T& t, const C& c) { return mixer_part(detail::read_gated_delta_net(t, c)); }},
      {"kda", "Kimi Delta Attention", "kda.hpp", {"f_proj.weight", "f_a_proj.weight", "f_proj.0.weight"}, {"kda", "kimi_linear"}, [](const T& t, const C& c) { return mixer_part(detail::read_kda(t, c)); }},
      {"lfm2", "LFM2's short convolution", "short_convolution.hpp", {"conv.weight"}, {"lfm2", "lfm2_moe"}, [](const T& t, const C& c) { return mixer_part(detail::read_short_convolution(t, c)); }},
      {"retnet", "RetNet", "retnet.hpp", {"g_norm_swish_gate.weight", "g_norm.weight"}, {"retnet"}, [](const T& t, const C& c) { return mixer_part(detail::read_retnet(t, c, false)); }},
      {"retnet_parallel", "RetNet, the authors' parallel form", "retnet.hpp", {"out_proj.weight"}, {"retnet"}, [](const T& t, const C& c) { return mixer_part(detail::read_retnet(t, c, true)); }},
      {"gla", "GLA", "gla.hpp", {"gk_proj.0.weight"}, {"gla"}, [](const T& t, const C& c) { return mixer_part(detail::read_gla(t, c)); }},
      {"hgrn", "HGRN", "hgrn.hpp", {"f_proj.weight"}, {"hgrn"}, [](const T& t, const C& c) { return mixer_part(detail::read_hgrn(t, c)); }},
      {"hgrn2", "HGRN2", "hgrn2.hpp", {"f_proj.weight"}, {"hgrn2"}, [](const T& t, const C& c) { return mixer_part(detail::read_hgrn2(t, c)); }},
      {"linear_attention", "Linear attention", "linear_attention.hpp", {}, {}, [](const T&, const C& c) { return mixer_part(detail::read_linear_attention<S>(c)); }},
      {"mlstm", "mLSTM block", "mlstm.hpp", {"mlstm_cell.igate.weight"}, {"xlstm"}, [](const T& t, const C& c) { return mixer_part(detail::read_mlstm(t, c)); }},
      {"mlstm_large", "mLSTM", "mlstm_large.hpp", {"igate_preact.weight"}, {"xlstm"}, [](const T& t, const C& c) { return mixer_part(detail::read_mlstm_large(t, c)); }},
      {"mamba3", "Mamba-3", "mamba3.hpp", {"B_norm.weight"}, {"mamba3"}, [](const T& t, const C& c) { return mixer_part(detail::read_mamba3(t, c)); }},
      {"mlla", "MLLA", "mlla.hpp", {"attn.lepe.weight"}, {}, [](const T& t, const C& c) { return mixer_part(detail::read_mlla(t, c)); }},
      {"s4d", "S4D", "s4d.hpp", {"kernel.log_dt"}, {}, [](const T& t, const C& c) { return mixer_part(detail::read_s4d(t, c)); }},
      {"hyena", "Hyena", "hyena.hpp", {"short_filter.weight"}, {}, [](const T& t, const C& c) { return mixer_part(detail::read_hyena(t, c)); }},
      {"vim", "Vision Mamba", "vim.hpp", {"A_b_log"}, {}, [](const T& t, const C& c) { return mixer_part(detail::read_vim(t, c)); }},
      {"lstm", "LSTM", "lstm.hpp", {"weight_hh_l0"}, {}, [](const T& t, const C& c) { return mixer_part(detail::read_recurrent_cell<Lstm<S>>(t, c)); }},
      {"gru", "GRU", "gru.hpp", {"weight_hh_l0"}, {}, [](const T& t, const C& c) { return mixer_part(detail::read_recurrent_cell<Gru<S>>(t, c)); }},
  };
  // clang-format on
  return families;
}

template <Real S>
[[nodiscard]] const std::vector<ModelFamily<S>>& model_families() {
  using T = TensorSource<S>;
  using C = Configuration;
  using F = detail::CheckpointFacts;
  // clang-format off
  static const std::vector<ModelFamily<S>> families = {
      {"mamba", "Mamba", "MambaForCausalLM", "mamba_lm.hpp", "backbone.layers.N.mixer.x_proj.weight",
       [](const F& f) { return f.is_type({"mamba"}) || (f.untyped() && f.has("backbone.layers.", ".mixer.x_proj.weight")); },
       [](const T& t, const C& c) { return load_mamba_lm<S>(t, c); }, "backbone."},
      {"falcon_mamba", "Falcon-Mamba", "FalconMambaForCausalLM", "falcon_mamba_lm.hpp", "those of Mamba, with model_type falcon_mamba",
       [](const F& f) { return f.is_type({"falcon_mamba"}); },
       [](const T& t, const C& c) { return load_falcon_mamba_lm<S>(t, c); }, "backbone.", "mamba"},
      {"nemotron_h", "Nemotron-H", "NemotronHForCausalLM", "nemotron_h_lm.hpp", "backbone.layers.N.mixer.dt_bias and mixer.q_proj.weight",
       [](const F& f) { return f.is_type({"nemotron_h"}) || (f.untyped() && f.has("backbone.layers.", ".mixer.dt_bias") && (f.has("backbone.layers.", ".mixer.q_proj.") || f.has("backbone.layers.", ".mixer.up_proj.") || f.has("backbone.layers.", ".mixer.gate."))); },
       [](const T& t, const C& c) { return load_nemotron_h_lm<S>(t, c); }, "backbone.", "mamba2", {{"hybrid_override_pattern", "layers_block_type"}}},
      {"mamba2", "Mamba-2", "Mamba2ForCausalLM", "mamba2_lm.hpp", "backbone.layers.N.mixer.dt_bias",
       [](const F& f) { return f.is_type({"mamba2"}) || (f.untyped() && f.has("backbone.layers.", ".mixer.dt_bias")); },
       [](const T& t, const C& c) { return load_mamba2_lm<S>(t, c); }, "backbone."},
      {"granitemoehybrid", "Granite 4", "GraniteMoeHybridForCausalLM", "granitemoehybrid_lm.hpp", "model.layers.N.shared_mlp.input_linear.weight",
       [](const F& f) { return f.is_type({"granitemoehybrid"}) || (f.untyped() && f.has("model.layers.", ".shared_mlp.")); },
       [](const T& t, const C& c) { return load_granitemoehybrid_lm<S>(t, c); }, "model."},
      {"falcon_h1", "Falcon-H1", "FalconH1ForCausalLM", "falcon_h1_lm.hpp", "model.layers.N.mamba.dt_bias and self_attn.q_proj.weight in every layer",
       [](const F& f) { return f.is_type({"falcon_h1"}) || (f.untyped() && f.has("model.layers.0.", ".mamba.") && f.has("model.layers.0.", ".self_attn.")); },
       [](const T& t, const C& c) { return load_falcon_h1_lm<S>(t, c); }, "model."},
      {"zamba2", "Zamba2", "Zamba2ForCausalLM", "zamba2_lm.hpp", "model.layers.N.shared_transformer.*",
       [](const F& f) { return f.is_type({"zamba2"}) || (f.untyped() && f.has("model.layers.", ".shared_transformer.")); },
       [](const T& t, const C& c) { return load_zamba2_lm<S>(t, c); }, "model."},
      {"jamba", "Jamba", "JambaForCausalLM", "jamba_lm.hpp", "model.layers.N.mamba.dt_layernorm.weight",
       [](const F& f) { return f.is_type({"jamba"}) || (f.untyped() && f.has("model.layers.", ".mamba.dt_layernorm.")); },
       [](const T& t, const C& c) { return load_jamba_lm<S>(t, c); }, "model."},
      {"bamba", "Bamba", "BambaForCausalLM", "bamba_lm.hpp", "model.layers.N.mamba.dt_bias and feed_forward.*",
       [](const F& f) { return f.is_type({"bamba"}) || (f.untyped() && f.has("model.layers.", ".mamba.dt_bias") && f.has("model.layers.", ".feed_forward.")); },
       [](const T& t, const C& c) { return load_bamba_lm<S>(t, c); }, "model."},
      {"rwkv7", "RWKV-7", "RWKV7ForCausalLM", "rwkv7_lm.hpp", "blocks.N.att.r_k, rwkv7.blocks.N.att.r_k or model.layers.N.attn.r_k",
       [](const F& f) { return f.is_type({"rwkv7", "rwkv7_fla"}) || (f.untyped() && (f.has("blocks.", ".att.r_k") || f.has("rwkv7.blocks.", ".att.r_k") || f.has("model.layers.", ".attn.r_k"))); },
       [](const T& t, const C& c) { return load_rwkv7_lm<S>(t, c); }},
      {"rwkv7_reverse", "RWKV-7 digit reverser", "RWKV7Reverse", "rwkv7_reverse_lm.hpp", "rwkvN.r_k, rosaN.o.bias",
       [](const F& f) { return f.is_type({"rwkv7_reverse"}) || (f.untyped() && f.has("rwkv1.", "r_k") && f.has("rosa1.", "o.bias")); },
       [](const T& t, const C& c) { return load_rwkv7_reverse_lm<S>(t, c); }},
      {"rwkv6", "RWKV-6", "Rwkv6ForCausalLM", "rwkv6_lm.hpp", "rwkv.blocks.N.attention.time_maa_w1 or blocks.N.att.time_maa_w1",
       [](const F& f) { return f.is_type({"rwkv6"}) || (f.untyped() && (f.has("rwkv.blocks.", ".time_maa_w1") || f.has("blocks.", ".time_maa_w1"))); },
       [](const T& t, const C& c) { return load_rwkv6_lm<S>(t, c); }},
      {"rwkv5", "RWKV-5", "Rwkv5ForCausalLM", "rwkv5_lm.hpp", "rwkv.blocks.N.attention.ln_x.weight or blocks.N.att.ln_x.weight",
       [](const F& f) { return f.is_type({"rwkv5"}) || (f.untyped() && (f.has("rwkv.blocks.", ".ln_x.weight") || f.has("blocks.", ".ln_x.weight"))); },
       [](const T& t, const C& c) { return load_rwkv5_lm<S>(t, c); }},
      {"rwkv", "RWKV-4", "RwkvForCausalLM", "rwkv4_lm.hpp", "rwkv.blocks.N.attention.*, blocks.N.attention.* or blocks.N.att.*",
       [](const F& f) { return f.is_type({"rwkv", "rwkv4"}) || (f.untyped() && (f.has("rwkv.blocks.", ".attention.") || f.has("blocks.", ".attention.") || f.has("blocks.", ".att."))); },
       [](const T& t, const C& c) { return load_rwkv4_lm<S>(t, c); }},
      {"recurrent_gemma", "Griffin", "RecurrentGemmaForCausalLM", "griffin_lm.hpp", "model.layers.N.temporal_block.*",
       [](const F& f) { return f.is_type({"recurrent_gemma"}) || (f.untyped() && f.has("model.layers.", ".temporal_block.")); },
       [](const T& t, const C& c) { return load_griffin_lm<S>(t, c); }, "model."},
      {"qwen3_5", "Qwen3-Next and Qwen3.5", "Qwen3_5ForCausalLM", "qwen_lm.hpp", "model.layers.N.linear_attn.in_proj_qkv.weight or in_proj_qkvz.weight",
       [](const F& f) { return f.is_type({"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next"}) || (f.untyped() && f.has("model.", ".linear_attn.in_proj_")); },
       [](const T& t, const C& c) { return load_qwen_lm<S>(t, c); }, "model."},
      {"olmo_hybrid", "OLMo Hybrid", "OlmoHybridForCausalLM", "olmo_hybrid_lm.hpp", "model.layers.N.linear_attn.a_proj.weight",
       [](const F& f) { return f.is_type({"olmo_hybrid"}) || (f.untyped() && f.has("model.layers.", ".linear_attn.a_proj.")); },
       [](const T& t, const C& c) { return load_olmo_hybrid_lm<S>(t, c); }, "model."},
      {"kimi_linear", "Kimi Linear", "KimiLinearForCausalLM", "kimi_linear_lm.hpp", "model.layers.N.self_attn.f_b_proj.weight",
       [](const F& f) { return f.is_type({"kimi_linear"}) || (f.untyped() && f.has("model.layers.", ".self_attn.f_b_proj.")); },
       [](const T& t, const C& c) { return load_kimi_linear_lm<S>(t, c); }, "model."},
      {"lfm2", "LFM2", "Lfm2ForCausalLM", "lfm2_lm.hpp", "model.layers.N.conv.in_proj.weight",
       [](const F& f) { return f.is_type({"lfm2", "lfm2_moe"}) || (f.untyped() && f.has("model.layers.", ".conv.in_proj.")); },
       [](const T& t, const C& c) { return load_lfm2_lm<S>(t, c); }, "model."},
  };
  // clang-format on
  return families;
}

namespace detail {

/// Fails (value) where a configuration's `model_type`, or without it the public class in `architectures`, is that of another layer than the
/// family's: what is absent from a configuration follows from it. Where no released models of a family are known, any type that is of no
/// other family only describes.
template <Real S>
[[gnu::cold]] void expect_layer_type(const LayerFamily<S>& family, const Configuration& configuration) {
  const auto holds = [](const LayerFamily<S>& of, std::string_view type) {
    return std::find(of.types.begin(), of.types.end(), type) != of.types.end();
  };
  const auto refuse = [&](std::string_view key, std::string_view came) {
    std::string expected = family.types.empty() ? message("no type of another layer than ", family.title) : std::string("one of ");
    for (const std::string_view type : family.types) expected += message(type == family.types.front() ? "" : ", ", type);
    raise(ErrorKind::value, configuration.where(), ": key ", key, " is ", printable(came), ", expected ", expected,
          ": the layer is read as ", family.title, "; leave the key out if it is one");
  };
  bool typed = false;
  for (const std::string_view key : {"text_config.model_type", "model_type"}) {
    const std::optional<std::string> type = configuration.text({key});
    if (!type) continue;
    if (holds(family, *type)) return;
    typed = true;
  }
  if (typed) {
    const std::string_view key = configuration.has("model_type") ? "model_type" : "text_config.model_type";
    const std::string type = configuration.text({key}).value();
    const std::vector<LayerFamily<S>>& all = layer_families<S>();
    if (!family.types.empty() || std::any_of(all.begin(), all.end(), [&](const LayerFamily<S>& other) { return holds(other, type); }))
      refuse(key, type);
    return;
  }
  if (!configuration.has("architectures")) return;
  const auto* const classes = std::get_if<std::vector<std::string>>(configuration.find("architectures"));
  for (const ModelFamily<S>& model : model_families<S>())
    if (classes && std::find(classes->begin(), classes->end(), model.architecture) != classes->end() && !holds(family, model.name))
      refuse("architectures", model.architecture);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
