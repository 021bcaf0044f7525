// Small layers of random weights, which several rooms test with.
#pragma once

#include <support/random.hpp>

#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/rwkv7.hpp>

namespace test_support {

using implicit_attention::GatedDeltaNet;
using implicit_attention::Griffin;
using implicit_attention::Index;
using implicit_attention::LowRankMap;
using implicit_attention::Rwkv7;

/// Width 6, 2 heads of 4 key and 3 value channels.
template <class S>
typename Rwkv7<S>::Weights rwkv7_weights(Draw& draw) {
  const Index D = 6, H = 2, K = 4, E = 6;
  typename Rwkv7<S>::Weights w;
  for (auto& mix : w.x) mix = draw.uniforms<S>(1, D, 0, 1);
  const auto low_rank = [&](Index outputs, bool biased) {
    LowRankMap<S> map{draw.normals<S>(3, D), draw.normals<S>(outputs, 3), {}};
    if (biased) map.bias = draw.normals<S>(1, outputs);
    return map;
  };
  w.w = low_rank(H * K, true);
  w.a = low_rank(H * K, true);
  w.g = low_rank(E, false);
  w.k_k = draw.normals<S>(1, H * K);
  w.k_a = draw.normals<S>(1, H * K);
  w.r_k = draw.normals<S>(H, K);
  w.receptance_weight = draw.normals<S>(H * K, D);
  w.key_weight = draw.normals<S>(H * K, D);
  w.value_weight = draw.normals<S>(E, D);
  w.output_weight = draw.normals<S>(D, E);
  w.ln_x_weight = draw.normals<S>(1, E);
  w.ln_x_bias = draw.normals<S>(1, E);
  return w;
}

/// Width 4, 6 channels in 2 heads, convolution 4.
template <class S>
typename Griffin<S>::Weights griffin_weights(Draw& draw, double lowest_rate, double highest_rate) {
  typename Griffin<S>::Weights w;
  w.linear_x_weight = draw.normals<S>(6, 4);
  w.linear_x_bias = draw.normals<S>(1, 6);
  w.linear_y_weight = draw.normals<S>(6, 4);
  w.linear_y_bias = draw.normals<S>(1, 6);
  w.conv_1d_weight = draw.normals<S>(6, 4);
  w.conv_1d_bias = draw.normals<S>(1, 6);
  w.recurrent_param = draw.uniforms<S>(1, 6, lowest_rate, highest_rate);
  w.input_gate_weight = draw.normals<S>(6, 3);
  w.input_gate_bias = draw.normals<S>(2, 3);
  w.recurrent_gate_weight = draw.normals<S>(6, 3);
  w.recurrent_gate_bias = draw.normals<S>(2, 3);
  w.linear_out_weight = draw.normals<S>(4, 6);
  w.linear_out_bias = draw.normals<S>(1, 4);
  return w;
}

/// Width 5, 2 key heads of 4, 4 value heads of 3, convolution 4.
template <class S>
typename GatedDeltaNet<S>::Weights gated_delta_net_weights(Draw& draw, double lowest_A_log, double highest_A_log) {
  typename GatedDeltaNet<S>::Weights w;
  w.q_proj_weight = draw.normals<S>(8, 5);
  w.k_proj_weight = draw.normals<S>(8, 5);
  w.v_proj_weight = draw.normals<S>(12, 5);
  w.b_proj_weight = draw.normals<S>(4, 5);
  w.a_proj_weight = draw.normals<S>(4, 5);
  w.g_proj_weight = draw.normals<S>(12, 5);
  w.q_conv1d_weight = draw.normals<S>(8, 4, 0.5);
  w.k_conv1d_weight = draw.normals<S>(8, 4, 0.5);
  w.v_conv1d_weight = draw.normals<S>(12, 4, 0.5);
  w.v_conv1d_bias = draw.normals<S>(1, 12, 0.3);
  w.A_log = draw.uniforms<S>(1, 4, lowest_A_log, highest_A_log);
  w.dt_bias = draw.normals<S>(1, 4);
  w.o_norm_weight = draw.normals<S>(1, 3);
  w.o_proj_weight = draw.normals<S>(5, 12);
  return w;
}

}  // namespace test_support
