// A language model of whichever architecture a checkpoint holds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/models/griffin_lm.hpp>
#include <implicit_attention/models/mamba_lm.hpp>
#include <implicit_attention/models/rwkv4_lm.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads a Mamba, RWKV-4 or Griffin language model; which one is told by the names of its tensors, and `model_type`, if it is there, must
/// agree. Fails (ErrorKind::file) where the names are none of theirs.
template <Real Scalar>
[[nodiscard]] LanguageModel<Scalar> load_language_model(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  const std::vector<std::string> names = source.names();
  const auto any = [&](std::string_view prefix, std::string_view part) {
    for (const std::string& name : names)
      if (name.compare(0, prefix.size(), prefix) == 0 && name.find(part) != std::string::npos) return true;
    return false;
  };
  if (any("backbone.layers.", ".mixer.")) return load_mamba_lm(source, configuration);
  if (any("rwkv.blocks.", ".attention.") || any("blocks.", ".att.")) return load_rwkv4_lm(source, configuration);
  if (any("model.layers.", ".temporal_block.")) return load_griffin_lm(source, configuration);
  raise(ErrorKind::file, message(source.where(),
                                 ": the tensors are those of no model known here, expected backbone.layers.N.mixer.* (Mamba), "
                                 "rwkv.blocks.N.attention.* or blocks.N.att.* (RWKV-4), or model.layers.N.temporal_block.* (Griffin)",
                                 names.empty() ? "; there are none" : "; the first is ", names.empty() ? std::string() : names.front()));
}

IMPLICIT_ATTENTION_NAMESPACE_END
