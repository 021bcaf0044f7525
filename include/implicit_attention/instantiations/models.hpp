// The language models, forwards and backwards, and their attribution, compiled elsewhere: see instantiations.hpp.
#pragma once

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/instantiations/layers.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/load.hpp>
#include <implicit_attention/models/mixture_of_experts.hpp>

#define IMPLICIT_ATTENTION_MODELS(TEMPLATE, S)                                                                                   \
  TEMPLATE class GatedFeedForward<S>;                                                                                            \
  TEMPLATE class ChannelMixing<S>;                                                                                               \
  TEMPLATE class MixtureOfExperts<S>;                                                                                            \
  TEMPLATE struct LayerPass<S>;                                                                                                  \
  TEMPLATE struct ForwardPass<S>;                                                                                                \
  TEMPLATE class LanguageModel<S>;                                                                                               \
  TEMPLATE LayerPass<S> detail::run_block(const Block<S>&, Index, const Array<S>&, const std::vector<Index>&,                    \
                                          std::vector<std::pair<std::string, Array<S>>>&, bool, const Executor&, CarriedStates*, \
                                          const std::vector<Index>&, LayerReads, bool);                                          \
  TEMPLATE Matrix<S> logit_gradient(const ForwardPass<S>&, Index, Index, std::optional<Index>);                                  \
  TEMPLATE BackwardPass<S> backward(const LanguageModel<S>&, const ForwardPass<S>&, ConstView<S>, const BackwardOptions<S>&);    \
  TEMPLATE Attribution<S> relevance(const LanguageModel<S>&, const ForwardPass<S>&, ConstView<S>, Index, const Executor&);
#define IMPLICIT_ATTENTION_FAMILIES(TEMPLATE, S)                                                                \
  TEMPLATE LanguageModel<S> load_mamba_lm(const TensorSource<S>&, const Configuration&);                        \
  TEMPLATE LanguageModel<S> load_falcon_mamba_lm(const TensorSource<S>&, const Configuration&);                 \
  TEMPLATE LanguageModel<S> load_nemotron_h_lm(const TensorSource<S>&, const Configuration&);                   \
  TEMPLATE LanguageModel<S> load_granitemoehybrid_lm(const TensorSource<S>&, const Configuration&);             \
  TEMPLATE LanguageModel<S> load_falcon_h1_lm(const TensorSource<S>&, const Configuration&);                    \
  TEMPLATE LanguageModel<S> load_bamba_lm(const TensorSource<S>&, const Configuration&);                        \
  TEMPLATE LanguageModel<S> load_jamba_lm(const TensorSource<S>&, const Configuration&);                        \
  TEMPLATE LanguageModel<S> load_zamba2_lm(const TensorSource<S>&, const Configuration&);                       \
  TEMPLATE LanguageModel<S> load_mamba2_lm(const TensorSource<S>&, const Configuration&);                       \
  TEMPLATE LanguageModel<S> load_rwkv4_lm(const TensorSource<S>&, const Configuration&);                        \
  TEMPLATE LanguageModel<S> load_rwkv5_lm(const TensorSource<S>&, const Configuration&);                        \
  TEMPLATE LanguageModel<S> load_rwkv6_lm(const TensorSource<S>&, const Configuration&);                        \
  TEMPLATE LanguageModel<S> load_rwkv7_lm(const TensorSource<S>&, const Configuration&);                        \
  TEMPLATE LanguageModel<S> load_rwkv7_reverse_lm(const TensorSource<S>&, const Configuration&);                \
  TEMPLATE LanguageModel<S> load_griffin_lm(const TensorSource<S>&, const Configuration&, Griffin<S>::Options); \
  TEMPLATE LanguageModel<S> load_qwen_lm(const TensorSource<S>&, const Configuration&);                         \
  TEMPLATE LanguageModel<S> load_olmo_hybrid_lm(const TensorSource<S>&, const Configuration&);                  \
  TEMPLATE LanguageModel<S> load_kimi_linear_lm(const TensorSource<S>&, const Configuration&);                  \
  TEMPLATE LanguageModel<S> load_lfm2_lm(const TensorSource<S>&, const Configuration&);                         \
  TEMPLATE const std::vector<LayerFamily<S>>& layer_families();                                                 \
  TEMPLATE const std::vector<ModelFamily<S>>& model_families();                                                 \
  TEMPLATE LanguageModel<S> load_language_model(const TensorSource<S>&, const Configuration&);
#define IMPLICIT_ATTENTION_ATTRIBUTION(TEMPLATE, S)                                                                                    \
  TEMPLATE Attribution<S> raw_attention(const ImplicitAttention<S>&, Index, const Reduction<S>&, const Executor&);                     \
  TEMPLATE Attribution<S> raw_attention_map(const ImplicitAttention<S>&, const Reduction<S>&, const Selection&);                       \
  TEMPLATE void detail::discard_smallest(Matrix<S>&, S);                                                                               \
  TEMPLATE RowVector<S> detail::rollout_step(const RowVector<S>&, Matrix<S>, const RolloutOptions<S>&, Index, std::vector<LayerRow>&); \
  TEMPLATE Attribution<S> rollout(const std::vector<Matrix<S>>&, Index, const RolloutOptions<S>&);                                     \
  TEMPLATE Attribution<S> rollout_map(const std::vector<Matrix<S>>&, const RolloutOptions<S>&);                                        \
  TEMPLATE Matrix<S> gradient_weighted_map(const LayerWithGradients<S>&, GradientForm, const Executor&, bool*, const Indices&);        \
  TEMPLATE Attribution<S> gradient_x_input(ConstView<S>, ConstView<S>, Index);                                                         \
  TEMPLATE Attribution<S> random_attribution(Index, Index, std::uint64_t, Index);                                                      \
  TEMPLATE Matrix<S> contributions_to(const ImplicitAttention<S>&, const Array<S>&, const Array<S>&, Index);                           \
  TEMPLATE Matrix<S> affine_output(const ImplicitAttention<S>&, const Array<S>&, const Array<S>&, const Executor&);                    \
  TEMPLATE Matrix<S> contribution_norms(const ImplicitAttention<S>&, const Array<S>&, const Array<S>&, VectorNorm, const Selection&);  \
  TEMPLATE class detail::ExplainedRun<S>;                                                                                              \
  TEMPLATE class detail::MapMethods<S>;                                                                                                \
  TEMPLATE class detail::WalkMethods<S>;                                                                                               \
  TEMPLATE class detail::TokenRemovals<S>;                                                                                             \
  TEMPLATE class Explainer<S>;

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_MODELS(extern template, float)
IMPLICIT_ATTENTION_MODELS(extern template, double)
IMPLICIT_ATTENTION_FAMILIES(extern template, float)
IMPLICIT_ATTENTION_FAMILIES(extern template, double)
IMPLICIT_ATTENTION_ATTRIBUTION(extern template, float)
IMPLICIT_ATTENTION_ATTRIBUTION(extern template, double)
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_MODELS)
IMPLICIT_ATTENTION_MODELS(template, float)
IMPLICIT_ATTENTION_MODELS(template, double)
#endif
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_FAMILIES)
IMPLICIT_ATTENTION_FAMILIES(template, float)
IMPLICIT_ATTENTION_FAMILIES(template, double)
#endif
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_ATTRIBUTION)
IMPLICIT_ATTENTION_ATTRIBUTION(template, float)
IMPLICIT_ATTENTION_ATTRIBUTION(template, double)
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#undef IMPLICIT_ATTENTION_MODELS
#undef IMPLICIT_ATTENTION_FAMILIES
#undef IMPLICIT_ATTENTION_ATTRIBUTION
