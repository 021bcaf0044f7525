// Small random language models of all three architectures, and what the attribution tests make of their layers in plain loops.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>
#include <implicit_attention/models/feed_forward.hpp>
#include <implicit_attention/models/language_model.hpp>

namespace attribution_test {

using namespace implicit_attention;
using test_support::Draw;
using Numbers = Matrix<double>;

/// A weight that keeps outputs as large as inputs.
inline Array<double> weight(Draw& draw, Index rows, Index columns) {
  return draw.normals<double>(rows, columns, 1 / std::sqrt(static_cast<double>(columns)));
}

inline Mamba<double> random_mamba(Draw& draw, Index width, Index channels, bool biases) {
  const Index state = 3, rank = 2;
  Mamba<double>::Weights w;
  w.in_proj_weight = weight(draw, 2 * channels, width);
  w.conv1d_weight = draw.normals<double>(channels, 4, 0.5);
  w.x_proj_weight = weight(draw, rank + 2 * state, channels);
  w.dt_proj_weight = weight(draw, channels, rank);
  w.dt_proj_bias = draw.normals<double>(1, channels);
  w.A_log = draw.uniforms<double>(channels, state, -1, 2);
  w.D = draw.normals<double>(1, channels);
  w.out_proj_weight = weight(draw, width, channels);
  if (biases) {
    w.conv1d_bias = draw.normals<double>(1, channels, 0.3);
    w.in_proj_bias = draw.normals<double>(1, 2 * channels, 0.3);
    w.out_proj_bias = draw.normals<double>(1, width, 0.3);
  }
  return Mamba<double>(w);
}

inline Rwkv4<double> random_rwkv4(Draw& draw, Index width, Index channels) {
  Rwkv4<double>::Weights w;
  w.time_decay = draw.uniforms<double>(1, channels, -4, 1);
  w.time_first = draw.normals<double>(1, channels);
  w.time_mix_key = draw.uniforms<double>(1, width, 0, 1);
  w.time_mix_value = draw.uniforms<double>(1, width, 0, 1);
  w.time_mix_receptance = draw.uniforms<double>(1, width, 0, 1);
  w.key_weight = weight(draw, channels, width);
  w.value_weight = weight(draw, channels, width);
  w.receptance_weight = weight(draw, channels, width);
  w.output_weight = weight(draw, width, channels);
  return Rwkv4<double>(w);
}

inline Griffin<double> random_griffin(Draw& draw, Index width, Index channels, bool biases) {
  const Index heads = 2, block = channels / heads;
  Griffin<double>::Weights w;
  w.linear_x_weight = weight(draw, channels, width);
  w.linear_y_weight = weight(draw, channels, width);
  w.conv_1d_weight = draw.normals<double>(channels, 4, 0.5);
  w.recurrent_param = draw.uniforms<double>(1, channels, -4, 1);
  w.input_gate_weight = weight(draw, channels, block);
  w.input_gate_bias = draw.normals<double>(heads, block, 0.5);
  w.recurrent_gate_weight = weight(draw, channels, block);
  w.recurrent_gate_bias = draw.normals<double>(heads, block, 0.5);
  w.linear_out_weight = weight(draw, width, channels);
  if (biases) {
    w.linear_x_bias = draw.normals<double>(1, channels, 0.3);
    w.linear_y_bias = draw.normals<double>(1, channels, 0.3);
    w.conv_1d_bias = draw.normals<double>(1, channels, 0.3);
    w.linear_out_bias = draw.normals<double>(1, width, 0.3);
  }
  return Griffin<double>(w);
}

inline SoftmaxAttention<double> random_local_attention(Draw& draw, Index width, Index head_size, bool biases) {
  SoftmaxAttention<double>::Options options;
  options.heads = 2;
  options.window = 4;
  options.rotary_part = 0.5;
  SoftmaxAttention<double>::Weights w;
  w.q_proj_weight = weight(draw, 2 * head_size, width);
  w.k_proj_weight = weight(draw, head_size, width);
  w.v_proj_weight = weight(draw, head_size, width);
  w.o_proj_weight = weight(draw, width, 2 * head_size);
  if (biases) {
    w.q_proj_bias = draw.normals<double>(1, 2 * head_size, 0.3);
    w.k_proj_bias = draw.normals<double>(1, head_size, 0.3);
    w.v_proj_bias = draw.normals<double>(1, head_size, 0.3);
    w.o_proj_bias = draw.normals<double>(1, width, 0.3);
  }
  return SoftmaxAttention<double>(w, options);
}

inline GatedFeedForward<double> random_gated_feed_forward(Draw& draw, Index width, bool biases) {
  const Index inner = width + 3;
  GatedFeedForward<double>::Weights w;
  w.gate_proj_weight = weight(draw, inner, width);
  w.up_proj_weight = weight(draw, inner, width);
  w.down_proj_weight = weight(draw, width, inner);
  if (biases) {
    w.gate_proj_bias = draw.normals<double>(1, inner, 0.3);
    w.up_proj_bias = draw.normals<double>(1, inner, 0.3);
    w.down_proj_bias = draw.normals<double>(1, width, 0.3);
  }
  return GatedFeedForward<double>(w);
}

inline ChannelMixing<double> random_channel_mixing(Draw& draw, Index width) {
  ChannelMixing<double>::Weights w;
  w.time_mix_key = draw.uniforms<double>(1, width, 0, 1);
  w.time_mix_receptance = draw.uniforms<double>(1, width, 0, 1);
  w.key_weight = weight(draw, width + 3, width);
  w.receptance_weight = weight(draw, width, width);
  w.value_weight = weight(draw, width, width + 3);
  return ChannelMixing<double>(w);
}

inline const std::vector<std::string>& architectures() {
  static const std::vector<std::string> all = {"mamba", "rwkv4", "griffin"};
  return all;
}

/// Three layers, 6 wide, 8 channels, a vocabulary of 11. With `biases`, every bias that the architecture knows.
inline LanguageModel<double> random_model(const std::string& architecture, std::uint64_t seed, bool biases = true) {
  Draw draw(seed);
  const Index width = 6, channels = 8, vocabulary = 11;
  LanguageModelParts<double> parts;
  parts.name = architecture;
  parts.embedding = draw.normals<double>(vocabulary, width);
  const bool centred = architecture == "rwkv4";
  const auto norm = [&] {
    const Array<double> scale = draw.normals<double>(1, width, 0.3, 1);
    return centred ? Norm<double>::layer(scale, draw.normals<double>(1, width, 0.3), 1e-5) : Norm<double>::rms(scale, 1e-5);
  };
  if (centred) parts.embedding_norm = norm();
  for (int layer = 0; layer < 3; ++layer) {
    const auto mixer = [&]() -> PartPointer<double> {
      if (architecture == "mamba") return mixer_part(random_mamba(draw, width, channels, biases));
      if (centred) return mixer_part(random_rwkv4(draw, width, channels));
      if (layer < 2) return mixer_part(random_griffin(draw, width, channels, biases));
      return mixer_part(random_local_attention(draw, width, channels / 2, biases));
    };
    const Norm<double> mixer_norm = norm();  // drawn before the mixer, whatever order arguments are evaluated in
    Block<double> block;
    block.sublayers.emplace_back(mixer_norm, mixer());
    if (architecture != "mamba") {
      const Norm<double> feed_forward_norm = norm();
      block.sublayers.emplace_back(feed_forward_norm, centred ? feed_forward_part(random_channel_mixing(draw, width))
                                                              : feed_forward_part(random_gated_feed_forward(draw, width, biases)));
    }
    parts.blocks.push_back(std::move(block));
  }
  parts.final_norm = norm();
  parts.head = draw.normals<double>(vocabulary, width);
  if (architecture == "griffin") {
    parts.embedding_scale = 2.5;
    parts.soft_cap = 3;
    parts.has_positions = true;
  }
  return LanguageModel<double>(std::move(parts));
}

inline std::vector<Index> random_ids(Index tokens, std::uint64_t seed, Index vocabulary = 11) {
  Draw draw(seed);
  std::vector<Index> ids;
  for (Index token = 0; token < tokens; ++token) ids.push_back(static_cast<Index>(draw.uniform(0, static_cast<double>(vocabulary))));
  return ids;
}

/// Every channel's matrix.
inline std::vector<Numbers> dense(const ImplicitAttention<double>& attention) {
  const AttentionMatrix<double> all = attention.materialize();
  std::vector<Numbers> matrices;
  for (Index channel = 0; channel < all.channels(); ++channel) matrices.push_back(all.channel(channel));
  return matrices;
}

/// mean over channels of f(entry).
template <class Function>
Numbers joined(const std::vector<Numbers>& matrices, const Function& f) {
  Numbers sum = Numbers::Zero(matrices.front().rows(), matrices.front().cols());
  for (std::size_t channel = 0; channel < matrices.size(); ++channel)
    for (Index i = 0; i < sum.rows(); ++i)
      for (Index j = 0; j < sum.cols(); ++j) sum(i, j) += f(matrices[channel](i, j), i, j, static_cast<Index>(channel));
  return sum / static_cast<double>(matrices.size());
}
inline Numbers mean(const std::vector<Numbers>& matrices) {
  return joined(matrices, [](double entry, Index, Index, Index) { return entry; });
}
inline double positive(double x) { return x > 0 ? x : 0; }

/// The product of I + map from layer `start` to the last, rows divided by their sums or not.
inline Numbers product_of_layers(const std::vector<Numbers>& maps, Index start, bool normalized, double residual_weight = 1) {
  Numbers product;
  for (std::size_t layer = static_cast<std::size_t>(start); layer < maps.size(); ++layer) {
    Numbers factor = maps[layer];
    for (Index i = 0; i < factor.rows(); ++i) factor(i, i) += residual_weight;
    if (normalized)
      for (Index i = 0; i < factor.rows(); ++i) {
        double sum = 0;
        for (Index j = 0; j < factor.cols(); ++j) sum += factor(i, j);
        for (Index j = 0; j < factor.cols(); ++j) factor(i, j) /= sum;
      }
    product = product.size() == 0 ? factor : Numbers(factor * product);
  }
  return product;
}

/// Largest difference, relative to the largest expected number.
template <class Came, class Expected>
double relative_error(const Came& came, const Expected& expected) {
  if (came.rows() != expected.rows() || came.cols() != expected.cols()) return 1e300;
  const double difference = (came - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(),
               largest = expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
  return difference == difference ? difference / (largest > 0 ? largest : 1) : 1e300;
}

/// What an expression fails with; nothing if it does not.
template <class Call>
std::string failure(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace attribution_test
