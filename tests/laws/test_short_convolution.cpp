// The laws for LFM2's gated short convolution, whose matrix is the convolution itself, and for latent attention.
#include <laws/laws.hpp>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include <implicit_attention/layers/latent_attention.hpp>
#include <implicit_attention/layers/short_convolution.hpp>

namespace {

using namespace laws;
using reference::Count;
using reference::Table;

template <class S>
struct ShortConvolutionFamily {
  using Layer = ShortConvolution<S>;
  static std::vector<std::string> flavours() { return {"ordinary", "projection biases", "gates 0", "denormal weights"}; }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const auto is = [&](const char* name) { return flavour == name; };
    const Index L = size.tokens, E = size.channels, W = size.convolution;
    const double small = is("denormal weights") ? 1e-20 : 1;
    typename Layer::Weights w;
    Matrix<S> in = draw.normals<S>(3 * E, size.width, 0.8 * small);
    if (is("gates 0")) in.middleRows(E, E).setZero();
    w.in_proj_weight = in;
    w.conv_weight = draw.normals<S>(E, W, 0.6);
    w.out_proj_weight = draw.normals<S>(size.width, E, 0.5);
    if (is("projection biases")) {
      w.in_proj_bias = draw.normals<S>(1, 3 * E, 0.4);
      w.out_proj_bias = draw.normals<S>(1, size.width, 0.4);
    }
    const Matrix<S> u = draw.normals<S>(L, size.width);
    // y = C * Conv(B * x), the newest token under the last weight.
    reference::Sequence s;
    s.tokens = L;
    s.channels = E;
    const Table all = reference::linear(table<S>(u), table(w.in_proj_weight), table(w.in_proj_bias)), taps = table(w.conv_weight);
    s.activation = reference::columns(all, 0, E);
    s.gate = reference::columns(all, E, E);
    s.x = reference::columns(all, 2 * E, E);
    s.input = s.y = Table(L, E);
    for (Count e = 0; e < E; ++e) {
      Table band(L, L);
      for (Count i = 0; i < L; ++i) {
        s.input(i, e) = s.activation(i, e) * s.x(i, e);
        for (Count d = 0; d < std::min<Count>(W, i + 1); ++d) {
          band(i, i - d) = taps(e, W - 1 - d);
          s.y(i, e) += s.gate(i, e) * taps(e, W - 1 - d) * s.input(i - d, e);
        }
      }
      s.bare.push_back(band);
    }
    s.normalized = s.bare;
    s.out = reference::linear(s.y, table(w.out_proj_weight), table(w.out_proj_bias));
    std::ostringstream text;
    text << "ShortConvolution " << flavour << ", " << L << " tokens, " << E << " channels, convolution " << W << ", seed " << seed;
    return make_case(text.str(), Layer(w), u, {}, s);
  }
};

template <class S>
struct LatentAttentionFamily {
  using Layer = LatentAttention<S>;
  static std::vector<std::string> flavours() { return {"ordinary", "low-rank queries", "no shared key", "no own key", "one head"}; }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const auto is = [&](const char* name) { return flavour == name; };
    const Index L = size.tokens, D = size.width, H = is("one head") ? 1 : 2, V = (size.channels + 1) / 2, latent = 5;
    const Index n = is("no own key") ? 0 : size.state, p = is("no shared key") ? 0 : 3;
    typename Layer::Weights w;
    if (is("low-rank queries")) {
      w.q_a_proj_weight = draw.normals<S>(4, D, 0.8);
      w.q_a_layernorm_weight = draw.normals<S>(1, 4, 0.3, 1);
      w.q_b_proj_weight = draw.normals<S>(H * (n + p), 4, 0.8);
    } else {
      w.q_proj_weight = draw.normals<S>(H * (n + p), D, 0.8);
    }
    w.kv_a_proj_with_mqa_weight = draw.normals<S>(latent + p, D, 0.8);
    w.kv_a_layernorm_weight = draw.normals<S>(1, latent, 0.3, 1);
    w.kv_b_proj_weight = draw.normals<S>(H * (n + V), latent, 0.8);
    w.o_proj_weight = draw.normals<S>(D, H * V, 0.5);
    const Matrix<S> u = draw.normals<S>(L, D);
    const Table input = table<S>(u);
    const auto rms = [](Table numbers, const Table& weight) {
      for (Count t = 0; t < numbers.rows; ++t) {
        double squares = 0;
        for (Count m = 0; m < numbers.columns; ++m) squares += numbers(t, m) * numbers(t, m) / static_cast<double>(numbers.columns);
        for (Count m = 0; m < numbers.columns; ++m) numbers(t, m) *= weight[m] / std::sqrt(squares + 1e-6);
      }
      return numbers;
    };
    const Table query = is("low-rank queries")
                            ? reference::linear(rms(reference::linear(input, table(w.q_a_proj_weight)), table(w.q_a_layernorm_weight)),
                                                table(w.q_b_proj_weight))
                            : reference::linear(input, table(w.q_proj_weight));
    const Table compressed = reference::linear(input, table(w.kv_a_proj_with_mqa_weight));
    const Table expanded =
        reference::linear(rms(reference::columns(compressed, 0, latent), table(w.kv_a_layernorm_weight)), table(w.kv_b_proj_weight));
    reference::Sequence s;
    s.tokens = L;
    s.channels = H * V;
    s.x = Table(L, H * V);
    s.y = Table(L, H * V);
    for (Count h = 0; h < H; ++h) {
      Table weights(L, L);
      for (Count i = 0; i < L; ++i) {
        std::vector<double> scores;
        double largest = -1e300, sum = 0;
        for (Count j = 0; j <= i; ++j) {
          double score = 0;
          for (Count m = 0; m < n; ++m) score += query(i, h * (n + p) + m) * expanded(j, h * (n + V) + m);
          for (Count m = 0; m < p; ++m) score += query(i, h * (n + p) + n + m) * compressed(j, latent + m);
          scores.push_back(score / std::sqrt(static_cast<double>(n + p)));
          largest = larger(largest, scores.back());
        }
        for (double& score : scores) sum += score = std::exp(score - largest);
        for (Count j = 0; j <= i; ++j) weights(i, j) = scores[static_cast<std::size_t>(j)] / sum;
      }
      for (Count m = 0; m < V; ++m) {
        for (Count i = 0; i < L; ++i) {
          s.x(i, h * V + m) = expanded(i, h * (n + V) + n + m);
          for (Count j = 0; j <= i; ++j) s.y(i, h * V + m) += weights(i, j) * expanded(j, h * (n + V) + n + m);
        }
        s.bare.push_back(weights);
      }
    }
    s.normalized = s.bare;
    s.input = s.x;
    s.out = reference::linear(s.y, table(w.o_proj_weight));
    typename Layer::Options options;
    options.heads = H;
    std::ostringstream text;
    text << "LatentAttention " << flavour << ", " << L << " tokens, " << H << " heads of " << n << " + " << p << ", values " << V
         << ", seed " << seed;
    return make_case(text.str(), Layer(w, options), u, {}, s);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("laws of the gated short convolution", "[laws]", double, float) {
  every_law<TestType>(family<ShortConvolutionFamily, TestType>());
}
TEST_CASE("the gated short convolution in float and double", "[laws]") {
  float_near_double(family<ShortConvolutionFamily, float>(), family<ShortConvolutionFamily, double>());
}
TEMPLATE_TEST_CASE("laws of latent attention", "[laws]", double, float) { every_law<TestType>(family<LatentAttentionFamily, TestType>()); }
TEST_CASE("latent attention in float and double", "[laws]") {
  float_near_double(family<LatentAttentionFamily, float>(), family<LatentAttentionFamily, double>());
}
