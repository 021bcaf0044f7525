// The layers, compiled elsewhere: see instantiations.hpp.
#pragma once

#include <implicit_attention/instantiations/trace.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/mamba2.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/layers/rwkv5.hpp>
#include <implicit_attention/layers/rwkv6.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>

#define IMPLICIT_ATTENTION_LAYERS(TEMPLATE, S) \
  TEMPLATE class Mamba<S>;                     \
  TEMPLATE class Mamba2<S>;                    \
  TEMPLATE class Rwkv4<S>;                     \
  TEMPLATE class BonusRecurrence<S>;           \
  TEMPLATE class Rwkv5<S>;                     \
  TEMPLATE class Rwkv6<S>;                     \
  TEMPLATE class Rwkv7<S>;                     \
  TEMPLATE class Griffin<S>;                   \
  TEMPLATE class SoftmaxAttention<S>;

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_LAYERS(extern template, float)
IMPLICIT_ATTENTION_LAYERS(extern template, double)
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_LAYERS)
IMPLICIT_ATTENTION_LAYERS(template, float)
IMPLICIT_ATTENTION_LAYERS(template, double)
#endif

IMPLICIT_ATTENTION_NAMESPACE_END

#undef IMPLICIT_ATTENTION_LAYERS
