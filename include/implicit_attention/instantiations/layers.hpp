// The layers, compiled elsewhere: see instantiations.hpp. Those of the models that people run are one part, the others another.
#pragma once

#include <implicit_attention/instantiations/trace.hpp>
#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/gla.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/gru.hpp>
#include <implicit_attention/layers/hgrn.hpp>
#include <implicit_attention/layers/hgrn2.hpp>
#include <implicit_attention/layers/hyena.hpp>
#include <implicit_attention/layers/kda.hpp>
#include <implicit_attention/layers/latent_attention.hpp>
#include <implicit_attention/layers/linear_attention.hpp>
#include <implicit_attention/layers/lstm.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/mamba2.hpp>
#include <implicit_attention/layers/mamba3.hpp>
#include <implicit_attention/layers/mlla.hpp>
#include <implicit_attention/layers/mlstm.hpp>
#include <implicit_attention/layers/mlstm_large.hpp>
#include <implicit_attention/layers/retnet.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/layers/rwkv5.hpp>
#include <implicit_attention/layers/rwkv6.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/layers/s4d.hpp>
#include <implicit_attention/layers/short_convolution.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>
#include <implicit_attention/layers/vim.hpp>

#define IMPLICIT_ATTENTION_LAYERS(TEMPLATE, S) \
  TEMPLATE class Mamba<S>;                     \
  TEMPLATE class Mamba2<S>;                    \
  TEMPLATE class Rwkv4<S>;                     \
  TEMPLATE class BonusRecurrence<S>;           \
  TEMPLATE class Rwkv5<S>;                     \
  TEMPLATE class Rwkv6<S>;                     \
  TEMPLATE class Rwkv7<S>;                     \
  TEMPLATE class Griffin<S>;                   \
  TEMPLATE class SoftmaxAttention<S>;          \
  TEMPLATE class DeltaRule<S>;                 \
  TEMPLATE class GatedDeltaNet<S>;             \
  TEMPLATE class Kda<S>;                       \
  TEMPLATE class ShortConvolution<S>;          \
  TEMPLATE class LatentAttention<S>;

#define IMPLICIT_ATTENTION_MORE_LAYERS(TEMPLATE, S) \
  TEMPLATE class HeadMixer<RetNet<S>, S>;           \
  TEMPLATE class RetNet<S>;                         \
  TEMPLATE class HeadMixer<Gla<S>, S>;              \
  TEMPLATE class Gla<S>;                            \
  TEMPLATE class HeadMixer<Hgrn<S>, S>;             \
  TEMPLATE class Hgrn<S>;                           \
  TEMPLATE class HeadMixer<Hgrn2<S>, S>;            \
  TEMPLATE class Hgrn2<S>;                          \
  TEMPLATE class LinearAttention<S>;                \
  TEMPLATE class Mlstm<S>;                          \
  TEMPLATE class MlstmLarge<S>;                     \
  TEMPLATE class Mamba3<S>;                         \
  TEMPLATE class Mlla<S>;                           \
  TEMPLATE class S4d<S>;                            \
  TEMPLATE class Hyena<S>;                          \
  TEMPLATE class Vim<S>;                            \
  TEMPLATE class RecurrentCell<Lstm<S>, S>;         \
  TEMPLATE class Lstm<S>;                           \
  TEMPLATE class RecurrentCell<Gru<S>, S>;          \
  TEMPLATE class Gru<S>;

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_LAYERS(extern template, float)
IMPLICIT_ATTENTION_LAYERS(extern template, double)
IMPLICIT_ATTENTION_MORE_LAYERS(extern template, float)
IMPLICIT_ATTENTION_MORE_LAYERS(extern template, double)
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_LAYERS)
IMPLICIT_ATTENTION_LAYERS(template, float)
IMPLICIT_ATTENTION_LAYERS(template, double)
#endif
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_MORE_LAYERS)
IMPLICIT_ATTENTION_MORE_LAYERS(template, float)
IMPLICIT_ATTENTION_MORE_LAYERS(template, double)
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#undef IMPLICIT_ATTENTION_LAYERS
#undef IMPLICIT_ATTENTION_MORE_LAYERS
