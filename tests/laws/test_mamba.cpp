// The laws for Mamba.
#include <laws/laws.hpp>

#include <sstream>
#include <string>
#include <vector>

#include <implicit_attention/layers/mamba.hpp>

namespace {

using namespace laws;

template <class S>
struct MambaFamily {
  using Layer = Mamba<S>;

  static std::vector<std::string> flavours() {
    return {"ordinary", "no biases", "projection biases", "decay 1",       "decay 0",      "dt huge",
            "dt tiny",  "gates 0",   "denormal weights",  "unlike widths", "large numbers"};
  }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const auto is = [&](const char* name) { return flavour == name; };
    if (is("unlike widths")) size.width += 7, size.convolution = 1;
    const Index D = size.width, E = size.channels, N = size.state, W = size.convolution, R = 1 + D / 4;
    const double small = is("denormal weights") ? 1e-42 : 1;
    const auto normals = [&](Index rows, Index columns, double spread) { return draw.normals<S>(rows, columns, spread * small); };
    typename Layer::Weights w;
    w.in_proj_weight = normals(2 * E, D, is("large numbers") ? 20 : 0.6);
    w.conv1d_weight = normals(E, W, 0.5);
    w.x_proj_weight = normals(R + 2 * N, E, 0.5);
    w.dt_proj_weight = normals(E, R, 0.5);
    w.A_log = draw.uniforms<S>(E, N, -1, 2);
    w.D = normals(1, E, 1);
    w.out_proj_weight = normals(D, E, 0.5);
    w.conv1d_bias = normals(1, E, 0.3);
    w.dt_proj_bias = normals(1, E, 1);
    if (is("no biases")) w.conv1d_bias = w.dt_proj_bias = Array<S>();
    if (is("projection biases")) {
      w.in_proj_bias = normals(1, 2 * E, 0.5);
      w.out_proj_bias = normals(1, D, 0.5);
    }
    if (is("decay 1")) w.A_log = draw.uniforms<S>(E, N, -300, -150);
    if (is("decay 0")) w.A_log = draw.uniforms<S>(E, N, 60, 110);  // exp overflows float above 88.7
    if (is("dt huge")) w.dt_proj_bias = draw.uniforms<S>(1, E, 500, 2000);
    if (is("dt tiny")) w.dt_proj_bias = draw.uniforms<S>(1, E, -150, -20);
    if (is("gates 0")) {
      Matrix<S> weight = *w.in_proj_weight;
      weight.bottomRows(E).setZero();
      w.in_proj_weight = weight;
    }

    const Matrix<S> u = draw.normals<S>(size.tokens, D);
    const reference::MambaWeights plain = {table(w.in_proj_weight),  table(w.in_proj_bias),  table(w.conv1d_weight),
                                           table(w.conv1d_bias),     table(w.x_proj_weight), table(w.dt_proj_weight),
                                           table(w.dt_proj_bias),    table(w.A_log),         table(w.D),
                                           table(w.out_proj_weight), table(w.out_proj_bias)};
    std::ostringstream text;
    text << "Mamba<" << (sizeof(S) == 4 ? "float" : "double") << "> " << flavour << ", " << size.tokens << " tokens, width " << D << ", "
         << E << " channels, state " << N << ", convolution " << W << ", seed " << seed;
    return make_case(text.str(), Layer(w), u, {}, reference::mamba(plain, table<S>(u)));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("laws of Mamba", "[laws]", double, float) { every_law<TestType>(family<MambaFamily, TestType>()); }
TEST_CASE("Mamba in float and double", "[laws]") { float_near_double(family<MambaFamily, float>(), family<MambaFamily, double>()); }
