// Every architecture that is read here, a line each: what it is called, how its tensors and configuration are recognised, and its loader.
// Loading, `--arch`, messages and the README's table follow from these two lists; a test holds them against the headers.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/layers/rwkv5.hpp>
#include <implicit_attention/layers/rwkv6.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/models/griffin_lm.hpp>
#include <implicit_attention/models/mamba_lm.hpp>
#include <implicit_attention/models/rwkv4_lm.hpp>
#include <implicit_attention/models/rwkv5_lm.hpp>
#include <implicit_attention/models/rwkv6_lm.hpp>
#include <implicit_attention/models/rwkv7_lm.hpp>
#include <implicit_attention/models/rwkv7_reverse_lm.hpp>
#include <implicit_attention/models/rwkv_lm.hpp>

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
      {"rwkv7", "RWKV-7", "rwkv7.hpp", {"r_k"}, [](const T& t, const C& c) { return mixer_part(detail::read_rwkv7<S>(t, c)); }},
      {"rwkv6", "RWKV-6", "rwkv6.hpp", {"time_maa_w1"}, [](const T& t, const C& c) { return mixer_part(detail::read_rwkv6<S>(t, c)); }},
      {"rwkv5", "RWKV-5", "rwkv5.hpp", {"ln_x.weight"}, [](const T& t, const C& c) { return mixer_part(detail::read_rwkv5<S>(t, c)); }},
      {"rwkv4", "RWKV-4", "rwkv4.hpp", {"time_decay"}, [](const T& t, const C&) { return mixer_part(Rwkv4<S>::from_tensors(t)); }},
      {"griffin", "Griffin", "griffin.hpp", {"rg_lru.recurrent_param"}, [](const T& t, const C&) { return mixer_part(Griffin<S>::from_tensors(t)); }},
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
