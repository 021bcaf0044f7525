// The laws for the layers with a delta rule: Gated DeltaNet, DeltaNet and Kimi Delta Attention.
#include <laws/laws.hpp>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/kda.hpp>

namespace {

using namespace laws;
using reference::Count;
using reference::Table;

struct DeltaWeights {
  Table q, k, v, b, q_conv, k_conv, v_conv, q_bias, k_bias, v_bias, norm, out;
  Count key_heads = 1;
  bool doubled = false, silu_gate = true;
  double eps = 1e-5;
};

/// arXiv 2412.06464, eq. 10, and arXiv 2510.26692, eq. 1: for each head and token, the state decays, what it holds under the key is erased
/// by the share beta, and the value is written. `log_decay` (tokens, Hv) or (tokens, Hv K) or empty, `z` (tokens, E) or empty.
reference::Sequence delta_rule(const DeltaWeights& w, const Table& u, const Table& log_decay, const Table& z) {
  reference::Sequence s;
  const Count L = u.rows, E = w.v.rows, V = static_cast<Count>(w.norm.numbers.size()), heads = E / V, H = w.key_heads;
  const Count K = w.k.rows / H, shared = heads / H;
  s.tokens = L;
  s.channels = E;
  s.x = reference::linear(u, w.v);
  s.taps = w.v_conv;
  s.convolution_bias = w.v_bias;
  const auto activated = [&](const Table& weight, const Table& taps, const Table& bias) {
    reference::Sequence one;
    one.tokens = L;
    one.channels = weight.rows;
    one.x = reference::linear(u, weight);
    one.taps = taps;
    one.convolution_bias = bias;
    Table c = reference::convolve(one);
    for (double& number : c.numbers) number *= reference::sigmoid(number);
    return c;
  };
  const auto unit = [&](Table numbers, double factor) {
    for (Count t = 0; t < L; ++t)
      for (Count h = 0; h < H; ++h) {
        double squares = 1e-6;
        for (Count n = 0; n < K; ++n) squares += numbers(t, h * K + n) * numbers(t, h * K + n);
        for (Count n = 0; n < K; ++n) numbers(t, h * K + n) *= factor / std::sqrt(squares);
      }
    return numbers;
  };
  const Table q = unit(activated(w.q, w.q_conv, w.q_bias), 1 / std::sqrt(static_cast<double>(K))),
              k = unit(activated(w.k, w.k_conv, w.k_bias), 1);
  const Table c = reference::convolve(s);
  s.activation = s.input = Table(L, E);
  for (Count i = 0; i < L; ++i)
    for (Count e = 0; e < E; ++e) {
      s.activation(i, e) = reference::sigmoid(c(i, e));
      s.input(i, e) = c(i, e) * reference::sigmoid(c(i, e));
    }
  Table beta(L, heads, w.doubled ? 2.0 : 1.0);
  if (!w.b.empty()) {
    beta = reference::linear(u, w.b);
    for (double& number : beta.numbers) number = (w.doubled ? 2 : 1) * reference::sigmoid(number);
  }
  const auto decay = [&](Count t, Count head, Count n) {
    if (log_decay.empty()) return 1.0;
    return std::exp(log_decay.columns == heads ? log_decay(t, head) : log_decay(t, head * K + n));
  };
  if (!z.empty()) {
    s.gate = z;
    for (double& number : s.gate.numbers) number = (w.silu_gate ? number : 1) * reference::sigmoid(number);
  }
  s.y = s.output_normalization = Table(L, E);
  for (Count head = 0; head < heads; ++head) {
    const Count first = head / shared * K;
    // Token by token.
    Table state(K, V), o(L, V);
    for (Count t = 0; t < L; ++t) {
      for (Count n = 0; n < K; ++n)
        for (Count p = 0; p < V; ++p) state(n, p) *= decay(t, head, n);
      for (Count p = 0; p < V; ++p) {
        double held = 0;
        for (Count n = 0; n < K; ++n) held += k(t, first + n) * state(n, p);
        const double change = beta(t, head) * (s.input(t, head * V + p) - held);
        for (Count n = 0; n < K; ++n) state(n, p) += k(t, first + n) * change;
        for (Count n = 0; n < K; ++n) o(t, p) += q(t, first + n) * state(n, p);
      }
    }
    // Entry by entry: what token j wrote, taken through every transition up to token i.
    Table matrix(L, L);
    for (Count j = 0; j < L; ++j) {
      std::vector<double> written(static_cast<std::size_t>(K));
      for (Count n = 0; n < K; ++n) written[static_cast<std::size_t>(n)] = beta(j, head) * k(j, first + n);
      for (Count i = j; i < L; ++i) {
        if (i > j) {
          double along = 0;
          for (Count n = 0; n < K; ++n) along += k(i, first + n) * (written[static_cast<std::size_t>(n)] *= decay(i, head, n));
          for (Count n = 0; n < K; ++n) written[static_cast<std::size_t>(n)] -= beta(i, head) * k(i, first + n) * along;
        }
        for (Count n = 0; n < K; ++n) matrix(i, j) += q(i, first + n) * written[static_cast<std::size_t>(n)];
      }
    }
    std::vector<double> scale(static_cast<std::size_t>(L));
    for (Count i = 0; i < L; ++i) {
      double squares = 0;
      for (Count p = 0; p < V; ++p) squares += o(i, p) * o(i, p) / static_cast<double>(V);
      scale[static_cast<std::size_t>(i)] = 1 / std::sqrt(squares + w.eps);
    }
    for (Count p = 0; p < V; ++p) {
      for (Count i = 0; i < L; ++i) {
        const Count e = head * V + p;
        s.output_normalization(i, e) = scale[static_cast<std::size_t>(i)] * w.norm[p];
        s.y(i, e) = (s.gate.empty() ? 1 : s.gate(i, e)) * s.output_normalization(i, e) * o(i, p);
      }
      s.bare.push_back(matrix);
    }
  }
  s.normalized = s.bare;
  s.out = reference::linear(s.y, w.out);
  return s;
}

struct DeltaSizes {
  Index D, H, heads, K, V, W;
};

/// Weights that all of them have, for four value heads and two key heads.
template <class S, class Weights>
DeltaSizes fill(Weights& w, Draw& draw, const Sizes& size, const std::string& flavour) {
  const auto is = [&](const char* name) { return flavour == name; };
  DeltaSizes n{size.width, 2, 4, size.state, (size.channels + 3) / 4, size.convolution};
  if (is("one key head")) n.H = 1;
  if (is("as many key heads")) n.H = 4;
  const double small = is("denormal weights") ? 1e-42 : 1, keys = is("tiny keys") ? 1e-3 : is("keys 0") ? 0 : 0.8;
  const auto normals = [&](Index rows, Index columns, double spread) { return draw.normals<S>(rows, columns, spread * small); };
  w.q_proj_weight = normals(n.H * n.K, n.D, keys);
  w.k_proj_weight = normals(n.H * n.K, n.D, keys);
  w.v_proj_weight = normals(n.heads * n.V, n.D, is("large numbers") ? 20 : 0.8);
  if (!is("no beta") && !is("beta 2")) w.b_proj_weight = normals(n.heads, n.D, is("beta 0 or 1") ? 300 : 1);
  if (!is("no convolution")) {
    w.q_conv1d_weight = normals(n.H * n.K, n.W, 0.6);
    w.k_conv1d_weight = normals(n.H * n.K, n.W, 0.6);
    w.v_conv1d_weight = normals(n.heads * n.V, n.W, 0.6);
  }
  if (is("convolution biases")) {
    w.q_conv1d_bias = normals(1, n.H * n.K, 0.4);
    w.k_conv1d_bias = normals(1, n.H * n.K, 0.4);
    w.v_conv1d_bias = normals(1, n.heads * n.V, 0.4);
  }
  w.o_norm_weight = draw.normals<S>(1, n.V, 0.3, 1);
  w.o_proj_weight = normals(n.D, n.heads * n.V, 0.5);
  return n;
}
template <class Weights>
DeltaWeights plain(const Weights& w, Index key_heads) {
  DeltaWeights p;
  p.q = table(w.q_proj_weight), p.k = table(w.k_proj_weight), p.v = table(w.v_proj_weight), p.b = table(w.b_proj_weight);
  p.q_conv = table(w.q_conv1d_weight), p.k_conv = table(w.k_conv1d_weight), p.v_conv = table(w.v_conv1d_weight);
  p.q_bias = table(w.q_conv1d_bias), p.k_bias = table(w.k_conv1d_bias), p.v_bias = table(w.v_conv1d_bias);
  p.norm = table(w.o_norm_weight), p.out = table(w.o_proj_weight);
  p.key_heads = key_heads;
  return p;
}
std::string text_of(const char* layer, const std::string& flavour, const Sizes& size, std::uint64_t seed) {
  std::ostringstream text;
  text << layer << ' ' << flavour << ", " << size.tokens << " tokens, width " << size.width << ", about " << size.channels
       << " channels, state " << size.state << ", convolution " << size.convolution << ", seed " << seed;
  return text.str();
}

/// Roundings grow with the taps of the convolutions that q, k and v go through (ordinary widths are 1 to 7, the widest here 40), and once
/// more in the triangular systems of the chunks.
double condition_of(const Sizes& size) { return 2 + static_cast<double>(size.convolution) / 10; }

template <class S>
struct GatedDeltaNetFamily {
  using Layer = GatedDeltaNet<S>;

  static std::vector<std::string> flavours() {
    return {"ordinary",     "DeltaNet",          "no gate",       "no beta", "no convolution", "convolution biases", "negative eigenvalues",
            "one key head", "as many key heads", "decay 1",       "decay 0", "beta 0 or 1",    "tiny keys",          "keys 0",
            "gates 0",      "denormal weights",  "large numbers", "beta 2"};
  }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const auto is = [&](const char* name) { return flavour == name; };
    typename Layer::Weights w;
    const DeltaSizes n = fill<S>(w, draw, size, flavour);
    if (!is("DeltaNet") && !is("no beta") && !is("beta 2")) {
      w.a_proj_weight = draw.normals<S>(n.heads, n.D, 0.8);
      w.A_log = draw.uniforms<S>(1, n.heads, -2, 1);
      w.dt_bias = draw.uniforms<S>(1, n.heads, -3, 0);
      if (is("decay 1")) w.A_log = draw.uniforms<S>(1, n.heads, -300, -150);
      if (is("decay 0")) w.A_log = draw.uniforms<S>(1, n.heads, 60, 110);  // exp overflows float above 88.7
    }
    if (!is("no gate")) w.g_proj_weight = draw.normals<S>(n.heads * n.V, n.D, is("gates 0") ? 0 : 0.8);
    typename Layer::Options options;
    options.key_heads = n.H;
    options.negative_eigenvalues = is("negative eigenvalues") || is("beta 2");
    options.norm_eps = is("one key head") ? 1e-6 : 1e-5;
    const Matrix<S> u = draw.normals<S>(size.tokens, n.D);
    DeltaWeights p = plain(w, n.H);
    p.doubled = options.negative_eigenvalues;
    p.eps = options.norm_eps;
    const Table input = table<S>(u);
    Table log_decay, z;
    if (!w.A_log.empty()) {
      log_decay = reference::linear(input, table(w.a_proj_weight), table(w.dt_bias));
      for (Count t = 0; t < log_decay.rows; ++t)
        for (Count h = 0; h < n.heads; ++h)
          log_decay(t, h) = -std::exp(static_cast<double>(w.A_log(0, h))) * reference::softplus(log_decay(t, h));
    }
    if (!w.g_proj_weight.empty()) z = reference::linear(input, table(w.g_proj_weight));
    return make_case(text_of("GatedDeltaNet", flavour, size, seed), Layer(w, options), u, {}, delta_rule(p, input, log_decay, z),
                     condition_of(size));
  }
};

template <class S>
struct KdaFamily {
  using Layer = Kda<S>;

  static std::vector<std::string> flavours() {
    return {"ordinary",     "lower bound",       "full rank", "gate bias", "no gate",   "convolution biases",
            "one key head", "as many key heads", "decay 1",   "decay 0",   "tiny keys", "gates 0"};
  }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const auto is = [&](const char* name) { return flavour == name; };
    typename Layer::Weights w;
    const DeltaSizes n = fill<S>(w, draw, size, flavour);
    const Index rank = is("full rank") ? n.D : 2, decays = n.heads * n.K;
    if (!is("full rank")) {
      w.f_a_proj_weight = draw.normals<S>(rank, n.D, 0.8);
      w.g_a_proj_weight = draw.normals<S>(rank, n.D, 0.8);
    }
    w.f_b_proj_weight = draw.normals<S>(decays, rank, 0.8);
    w.A_log = draw.uniforms<S>(1, n.heads, -2, 1);
    w.dt_bias = draw.uniforms<S>(1, decays, -3, 0);
    if (is("decay 1")) w.A_log = draw.uniforms<S>(1, n.heads, -300, -150);
    if (is("decay 0")) w.A_log = draw.uniforms<S>(1, n.heads, 60, 110);
    if (!is("no gate")) w.g_b_proj_weight = draw.normals<S>(n.heads * n.V, rank, is("gates 0") ? 0 : 0.8);
    if (is("no gate")) w.g_a_proj_weight = Array<S>();
    if (is("gate bias")) w.g_b_proj_bias = draw.normals<S>(1, n.heads * n.V, 0.5);
    typename Layer::Options options;
    options.key_heads = n.H;
    options.lower_bound = is("lower bound") ? -5 : 0;
    const Matrix<S> u = draw.normals<S>(size.tokens, n.D);
    DeltaWeights p = plain(w, n.H);
    p.silu_gate = false;
    const Table input = table<S>(u);
    const auto low = [&](const Array<S>& down) { return down.empty() ? input : reference::linear(input, table(down)); };
    Table log_decay = reference::linear(low(w.f_a_proj_weight), table(w.f_b_proj_weight), table(w.dt_bias)), z;
    for (Count t = 0; t < log_decay.rows; ++t)
      for (Count column = 0; column < decays; ++column) {
        const double rate = std::exp(static_cast<double>(w.A_log(0, column / n.K))), f = log_decay(t, column);
        log_decay(t, column) = is("lower bound") ? -5 * reference::sigmoid(rate * f) : -rate * reference::softplus(f);
      }
    if (!w.g_b_proj_weight.empty()) z = reference::linear(low(w.g_a_proj_weight), table(w.g_b_proj_weight), table(w.g_b_proj_bias));
    return make_case(text_of("Kda", flavour, size, seed), Layer(w, options), u, {}, delta_rule(p, input, log_decay, z), condition_of(size));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("laws of Gated DeltaNet", "[laws]", double, float) { every_law<TestType>(family<GatedDeltaNetFamily, TestType>()); }
TEST_CASE("Gated DeltaNet in float and double", "[laws]") {
  float_near_double(family<GatedDeltaNetFamily, float>(), family<GatedDeltaNetFamily, double>());
}
TEMPLATE_TEST_CASE("laws of Kimi Delta Attention", "[laws]", double, float) { every_law<TestType>(family<KdaFamily, TestType>()); }
TEST_CASE("Kimi Delta Attention in float and double", "[laws]") {
  float_near_double(family<KdaFamily, float>(), family<KdaFamily, double>());
}
