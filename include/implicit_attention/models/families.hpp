// Every architecture that is read here, a line each: what it is called, how its tensors and configuration are recognised, and its loader.
// Loading, `--arch`, messages and the README's table follow from these two lists; a test holds them against the headers.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/layers/gla.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/gru.hpp>
#include <implicit_attention/layers/hgrn.hpp>
#include <implicit_attention/layers/hgrn2.hpp>
#include <implicit_attention/layers/hyena.hpp>
#include <implicit_attention/layers/linear_attention.hpp>
#include <implicit_attention/layers/lstm.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/mamba3.hpp>
#include <implicit_attention/layers/mlla.hpp>
#include <implicit_attention/layers/mlstm.hpp>
#include <implicit_attention/layers/mlstm_large.hpp>
#include <implicit_attention/layers/retnet.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/layers/s4d.hpp>
#include <implicit_attention/layers/vim.hpp>
#include <implicit_attention/models/griffin_lm.hpp>
#include <implicit_attention/models/mamba_lm.hpp>
#include <implicit_attention/models/rwkv4_lm.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A kind of token-mixing layer, read by itself: `materialize --arch NAME`.
template <Real S>
struct LayerFamily {
  std::string_view name;                  ///< as on command lines: `mamba`
  std::string_view title;                 ///< as people call it: `Mamba`
  std::string_view header;                ///< of its descriptor, below layers/
  std::vector<std::string_view> telling;  ///< tensors that such a layer has: the first that is found below a prefix names the layer
  PartPointer<S> (*read)(const PrefixedTensors<S>& tensors, const Configuration& configuration);
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
};

template <Real S>
[[nodiscard]] const std::vector<LayerFamily<S>>& layer_families() {
  using T = PrefixedTensors<S>;
  using C = Configuration;
  // clang-format off
  static const std::vector<LayerFamily<S>> families = {
      {"mamba", "Mamba", "mamba.hpp", {"A_log"}, [](const T& t, const C&) { return mixer_part(Mamba<S>::from_tensors(t)); }},
      {"rwkv4", "RWKV-4", "rwkv4.hpp", {"time_decay"}, [](const T& t, const C&) { return mixer_part(Rwkv4<S>::from_tensors(t)); }},
      {"griffin", "Griffin", "griffin.hpp", {"rg_lru.recurrent_param"}, [](const T& t, const C&) { return mixer_part(Griffin<S>::from_tensors(t)); }},
      {"retnet", "RetNet", "retnet.hpp", {"g_norm_swish_gate.weight"}, [](const T& t, const C& c) { return mixer_part(RetNet<S>::from_tensors(t, RetNet<S>::options(c))); }},
      {"retnet_parallel", "RetNet, the authors' parallel form", "retnet.hpp", {}, [](const T& t, const C& c) { return mixer_part(RetNet<S>::from_tensors(t, RetNet<S>::options(c, true))); }},
      {"gla", "GLA", "gla.hpp", {"gk_proj.0.weight"}, [](const T& t, const C& c) { return mixer_part(Gla<S>::from_tensors(t, Gla<S>::options(c))); }},
      {"hgrn", "HGRN", "hgrn.hpp", {}, [](const T& t, const C& c) { return mixer_part(Hgrn<S>::from_tensors(t, Hgrn<S>::options(c))); }},
      {"hgrn2", "HGRN2", "hgrn2.hpp", {}, [](const T& t, const C& c) { return mixer_part(Hgrn2<S>::from_tensors(t, Hgrn2<S>::options(c))); }},
      {"linear_attention", "Linear attention", "linear_attention.hpp", {}, [](const T&, const C& c) { return mixer_part(LinearAttention<S>(LinearAttention<S>::options(c))); }},
      {"mlstm", "mLSTM block", "mlstm.hpp", {"mlstm_cell.igate.weight"}, [](const T& t, const C& c) { return mixer_part(Mlstm<S>::from_tensors(t, Mlstm<S>::options(c))); }},
      {"mlstm_large", "mLSTM", "mlstm_large.hpp", {"igate_preact.weight"}, [](const T& t, const C& c) { return mixer_part(MlstmLarge<S>::from_tensors(t, MlstmLarge<S>::options(c))); }},
      {"mamba3", "Mamba-3", "mamba3.hpp", {"B_norm.weight"}, [](const T& t, const C& c) { return mixer_part(Mamba3<S>::from_tensors(t, Mamba3<S>::options(c))); }},
      {"mlla", "MLLA", "mlla.hpp", {"attn.lepe.weight"}, [](const T& t, const C& c) { return mixer_part(Mlla<S>::from_tensors(t, Mlla<S>::options(c))); }},
      {"s4d", "S4D", "s4d.hpp", {"kernel.log_dt"}, [](const T& t, const C& c) { return mixer_part(S4d<S>::from_tensors(t, S4d<S>::options(c))); }},
      {"hyena", "Hyena", "hyena.hpp", {"short_filter.weight"}, [](const T& t, const C& c) { return mixer_part(Hyena<S>::from_tensors(t, Hyena<S>::options(c))); }},
      {"vim", "Vision Mamba", "vim.hpp", {"A_b_log"}, [](const T& t, const C& c) { return mixer_part(Vim<S>::from_tensors(t, Vim<S>::options(c))); }},
      {"lstm", "LSTM", "lstm.hpp", {}, [](const T& t, const C&) { return mixer_part(Lstm<S>::from_tensors(t)); }},
      {"gru", "GRU", "gru.hpp", {}, [](const T& t, const C&) { return mixer_part(Gru<S>::from_tensors(t)); }},
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
       [](const T& t, const C& c) { return load_mamba_lm<S>(t, c); }},
      {"rwkv", "RWKV-4", "RwkvForCausalLM", "rwkv4_lm.hpp", "rwkv.blocks.N.attention.time_mix_key or blocks.N.att.time_mix_k",
       [](const F& f) { return f.is_type({"rwkv", "rwkv4"}) || (f.untyped() && (f.has("rwkv.blocks.", ".attention.") || f.has("blocks.", ".att."))); },
       [](const T& t, const C& c) { return load_rwkv4_lm<S>(t, c); }},
      {"recurrent_gemma", "Griffin", "RecurrentGemmaForCausalLM", "griffin_lm.hpp", "model.layers.N.temporal_block.*",
       [](const F& f) { return f.is_type({"recurrent_gemma"}) || (f.untyped() && f.has("model.layers.", ".temporal_block.")); },
       [](const T& t, const C& c) { return load_griffin_lm<S>(t, c); }},
  };
  // clang-format on
  return families;
}

IMPLICIT_ATTENTION_NAMESPACE_END
