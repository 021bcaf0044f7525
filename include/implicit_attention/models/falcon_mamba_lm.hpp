// FalconMambaForCausalLM: Mamba with RMS norms of dt, B and C that have no weights, so that no tensor shows them.
#pragma once

#include <implicit_attention/models/mamba_lm.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads a Falcon-Mamba language model: Mamba's names, the norms' eps under mixer_rms_eps (1e-6; the blocks' norms have
/// layer_norm_epsilon). `model_type` must say so: the tensors are those of Mamba. Fails naming the tensor or the key.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_falcon_mamba_lm(const TensorSource<Scalar>& source,
                                                                    const Configuration& configuration) {
  if (configuration.text({"model_type"}) != "falcon_mamba")
    detail::raise(ErrorKind::value, configuration.where(), ": key model_type is not falcon_mamba, which says that dt, B and C have norms");
  return detail::read_mamba_lm(source, configuration, "FalconMambaForCausalLM", true);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
