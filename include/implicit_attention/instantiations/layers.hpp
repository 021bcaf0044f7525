// The layers and their gradients, compiled elsewhere: see instantiations.hpp.
#pragma once

#include <implicit_attention/instantiations/kernels.hpp>
#include <implicit_attention/layers/griffin_gradient.hpp>
#include <implicit_attention/layers/local_attention_gradient.hpp>
#include <implicit_attention/layers/mamba_gradient.hpp>
#include <implicit_attention/layers/rwkv4_gradient.hpp>

#define IMPLICIT_ATTENTION_LAYERS(TEMPLATE, S)                                                                                    \
  TEMPLATE Matrix<S> detail::project(ConstView<S>, ConstView<S>, const Array<S>&);                                                \
  TEMPLATE Matrix<S> detail::project_back(ConstView<S>, ConstView<S>);                                                            \
  TEMPLATE Matrix<S> detail::next_tail(ConstView<S>, const Array<S>&, Index);                                                     \
  TEMPLATE Matrix<S> detail::silu_derivative(ConstView<S>);                                                                       \
  TEMPLATE Matrix<S> detail::convolution_gradient(const Array<S>&, const std::vector<Index>&, const Matrix<S>&, const Executor&); \
  IMPLICIT_ATTENTION_LAYER(TEMPLATE, S, Mamba)                                                                                    \
  IMPLICIT_ATTENTION_LAYER(TEMPLATE, S, Rwkv4)                                                                                    \
  IMPLICIT_ATTENTION_LAYER(TEMPLATE, S, Griffin)                                                                                  \
  IMPLICIT_ATTENTION_LAYER(TEMPLATE, S, LocalAttention)
#define IMPLICIT_ATTENTION_LAYER(TEMPLATE, S, LAYER)                                                                                 \
  TEMPLATE class LAYER<S>;                                                                                                           \
  TEMPLATE ImplicitAttention<S> implicit_attention_of(const LAYER<S>&, const LAYER<S>::Activations&, Terms);                         \
  TEMPLATE MaterializedAttention<S> materialize_attention(const LAYER<S>&, const LAYER<S>::Activations&, const MaterializeOptions&); \
  TEMPLATE LayerGradients<S> backward_from_y(const LAYER<S>&, const LAYER<S>::Activations&, ConstView<S>, const Executor&);          \
  TEMPLATE LayerGradients<S> backward(const LAYER<S>&, const LAYER<S>::Activations&, ConstView<S>, const Executor&);

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_LAYERS(extern template, float)
IMPLICIT_ATTENTION_LAYERS(extern template, double)
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_LAYERS)
IMPLICIT_ATTENTION_LAYERS(template, float)
IMPLICIT_ATTENTION_LAYERS(template, double)
#endif

IMPLICIT_ATTENTION_NAMESPACE_END

#undef IMPLICIT_ATTENTION_LAYERS
#undef IMPLICIT_ATTENTION_LAYER
