// The laws for local softmax attention, whose matrices are given entry by entry.
#include <laws/laws.hpp>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include <implicit_attention/layers/softmax_attention.hpp>

namespace {

using namespace laws;

template <class S>
struct LocalAttentionFamily {
  using Layer = SoftmaxAttention<S>;

  static std::vector<std::string> flavours() {
    return {"ordinary",      "biases",           "window 0",    "wide window",      "one head", "a key head for each",
            "scores to 900", "denormal weights", "no rotation", "positions above 0"};
  }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const auto is = [&](const char* name) { return flavour == name; };
    const Index D = size.width, P = 4 * ((size.state + 3) / 4), H = is("one head") ? 1 : 2 * ((size.channels + 1) / 2);
    const Index K = is("a key head for each") ? H : 1, E = H * P;
    const double small = is("denormal weights") ? 1e-42 : 1;
    const auto normals = [&](Index rows, Index columns, double spread) { return draw.normals<S>(rows, columns, spread * small); };
    typename Layer::Weights w;
    const double spread = is("scores to 900") ? 8 : 0.6;
    w.q_proj_weight = normals(E, D, spread);
    w.k_proj_weight = normals(K * P, D, spread);
    w.v_proj_weight = normals(K * P, D, 0.6);
    w.o_proj_weight = normals(D, E, 0.5);
    if (is("biases")) {
      w.q_proj_bias = normals(1, E, 0.5);
      w.k_proj_bias = normals(1, K * P, 0.5);
      w.v_proj_bias = normals(1, K * P, 0.5);
      w.o_proj_bias = normals(1, D, 0.5);
    }
    typename Layer::Options options;
    options.heads = H;
    options.window = is("window 0") ? 0 : is("wide window") ? 1000 : size.convolution;
    options.rotary_part = is("no rotation") ? 0 : 0.5;
    std::vector<Index> positions(static_cast<std::size_t>(size.tokens));
    for (std::size_t token = 0; token < positions.size(); ++token)
      positions[token] = static_cast<Index>(token) + (is("positions above 0") ? 37 : 0);
    const Matrix<S> u = draw.normals<S>(size.tokens, D);

    // The published equations, entry by entry.
    const Index L = size.tokens, rotated = is("no rotation") ? 0 : P / 2, half = rotated / 2;
    const auto rotate = [&](reference::Table numbers) {
      for (Index t = 0; t < L; ++t)
        for (Index head = 0; head < numbers.columns / P; ++head)
          for (Index n = 0; n < half; ++n) {
            const double angle = static_cast<double>(positions[static_cast<std::size_t>(t)]) *
                                 std::pow(10000.0, -2.0 * static_cast<double>(n) / static_cast<double>(rotated));
            double& a = numbers(t, head * P + n);
            double& b = numbers(t, head * P + n + half);
            const double first = a, second = b;
            a = first * std::cos(angle) - second * std::sin(angle);
            b = second * std::cos(angle) + first * std::sin(angle);
          }
      return numbers;
    };
    const reference::Table plain = table<S>(u);
    const reference::Table q = rotate(reference::linear(plain, table(w.q_proj_weight), table(w.q_proj_bias)));
    const reference::Table k = rotate(reference::linear(plain, table(w.k_proj_weight), table(w.k_proj_bias)));
    const reference::Table v = reference::linear(plain, table(w.v_proj_weight), table(w.v_proj_bias));
    reference::Sequence s;
    s.tokens = L;
    s.channels = E;
    s.x = s.y = reference::Table(L, E);
    double largest_score = 0;
    for (Index head = 0; head < H; ++head) {
      const Index shared = head * K / H;
      reference::Table weights(L, L);
      for (Index i = 0; i < L; ++i) {
        const Index first = std::max(i - options.window, Index(0));
        std::vector<double> scores;
        for (Index j = first; j <= i; ++j) {
          double score = 0;
          for (Index p = 0; p < P; ++p) score += q(i, head * P + p) * k(j, shared * P + p);
          scores.push_back(score / std::sqrt(static_cast<double>(P)));
          largest_score = std::max(largest_score, std::abs(scores.back()));
        }
        const double largest = *std::max_element(scores.begin(), scores.end());
        double sum = 0;
        for (const double score : scores) sum += std::exp(score - largest);
        for (Index j = first; j <= i; ++j) weights(i, j) = std::exp(scores[static_cast<std::size_t>(j - first)] - largest) / sum;
      }
      for (Index p = 0; p < P; ++p) {
        const Index e = head * P + p;
        for (Index i = 0; i < L; ++i) s.x(i, e) = v(i, shared * P + p);
        for (Index i = 0; i < L; ++i)
          for (Index j = 0; j <= i; ++j) s.y(i, e) += weights(i, j) * v(j, shared * P + p);
        s.bare.push_back(weights);
      }
    }
    s.normalized = s.bare;
    s.input = s.x;
    s.out = reference::linear(s.y, table(w.o_proj_weight), table(w.o_proj_bias));
    std::ostringstream text;
    text << "SoftmaxAttention<" << (sizeof(S) == 4 ? "float" : "double") << "> " << flavour << ", " << L << " tokens, width " << D << ", "
         << H << " heads of " << P << ", window " << options.window << ", seed " << seed;
    // Rounding of a score is relative to the score, and the exponential makes it relative to the weight.
    return make_case(text.str(), Layer(w, options), u, is("positions above 0") ? positions : std::vector<Index>(), std::move(s),
                     1 + largest_score / 10);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("laws of local attention", "[laws]", double, float) { every_law<TestType>(family<LocalAttentionFamily, TestType>()); }
TEST_CASE("local attention in float and double", "[laws]") {
  float_near_double(family<LocalAttentionFamily, float>(), family<LocalAttentionFamily, double>());
}
