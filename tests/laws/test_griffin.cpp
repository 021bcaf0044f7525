// The laws for Griffin's recurrent block.
#include <laws/laws.hpp>

#include <sstream>
#include <string>
#include <vector>

#include <implicit_attention/layers/griffin.hpp>

namespace {

using namespace laws;

template <class S>
struct GriffinFamily {
  using Layer = Griffin<S>;

  static std::vector<std::string> flavours() {
    return {"ordinary",
            "no biases",
            "decay 1",
            "decay 0",
            "slow decay",
            "packed documents",
            "packed documents, convolution within",
            "gates 0",
            "denormal weights",
            "unlike widths",
            "positions above 0",
            "one document, convolution within",
            "packed documents, wide convolution",
            "packed documents, wide convolution within"};
  }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const auto is = [&](const char* name) { return flavour == name; };
    const auto begins = [&](const char* name) { return flavour.rfind(name, 0) == 0; };
    if (is("unlike widths")) size.width += 7, size.convolution = 1;
    if (flavour.find("wide") != std::string::npos) size.convolution = 35;  // wider than a kernel's block, and than many documents
    const Index D = size.width, E = size.channels, W = size.convolution;
    Index heads = 1;
    for (const Index count : {6, 5, 3, 2})
      if (E % count == 0 && heads == 1 && E > count) heads = count;
    const Index block = E / heads;
    const double small = is("denormal weights") ? 1e-42 : 1;
    const auto normals = [&](Index rows, Index columns, double spread) { return draw.normals<S>(rows, columns, spread * small); };
    typename Layer::Weights w;
    w.linear_x_weight = normals(E, D, 0.6);
    w.linear_y_weight = normals(E, D, 0.6);
    w.conv_1d_weight = normals(E, W, 0.5);
    w.recurrent_param = draw.uniforms<S>(1, E, -8, 0);
    w.input_gate_weight = normals(E, block, 0.7);
    w.input_gate_bias = normals(heads, block, 0.5);
    w.recurrent_gate_weight = normals(E, block, 0.7);
    w.recurrent_gate_bias = normals(heads, block, 0.5);
    w.linear_out_weight = normals(D, E, 0.5);
    if (!is("no biases")) {
      w.linear_x_bias = normals(1, E, 0.3);
      w.linear_y_bias = normals(1, E, 0.3);
      w.conv_1d_bias = normals(1, E, 0.3);
      w.linear_out_bias = normals(1, D, 0.3);
    }
    if (is("decay 1")) w.recurrent_param = draw.uniforms<S>(1, E, -80, -60);  // 1 - a is 1e-30: lost in both precisions, but not in m
    if (is("decay 0")) w.recurrent_param = draw.uniforms<S>(1, E, 50, 1000);
    if (is("slow decay")) w.recurrent_param = draw.uniforms<S>(1, E, -14, -11);
    if (is("gates 0")) {
      w.linear_y_weight = Matrix<S>(Matrix<S>::Zero(E, D));
      w.linear_y_bias = Array<S>();
    }
    std::vector<Index> positions(static_cast<std::size_t>(size.tokens));
    Index position = is("positions above 0") ? 5 : 0;
    for (std::size_t token = 0; token < positions.size(); ++token, ++position) {
      // Documents begin at tokens 1 (shorter than the convolution), 2, 5, 12, ..., and at 64, where a block of a kernel may.
      if (begins("packed") && (token == 1 || token == 2 || token == 64 || token % 7 == 5)) position = 0;
      positions[token] = position;
    }
    typename Layer::Options options;
    options.convolution_within_documents = flavour.find("within") != std::string::npos;

    const Matrix<S> u = draw.normals<S>(size.tokens, D);
    const reference::GriffinWeights plain = {table(w.linear_x_weight),       table(w.linear_x_bias),       table(w.linear_y_weight),
                                             table(w.linear_y_bias),         table(w.conv_1d_weight),      table(w.conv_1d_bias),
                                             table(w.recurrent_param),       table(w.input_gate_weight),   table(w.input_gate_bias),
                                             table(w.recurrent_gate_weight), table(w.recurrent_gate_bias), table(w.linear_out_weight),
                                             table(w.linear_out_bias)};
    std::ostringstream text;
    text << "Griffin<" << (sizeof(S) == 4 ? "float" : "double") << "> " << flavour << ", " << size.tokens << " tokens, width " << D << ", "
         << E << " channels in " << heads << " heads, convolution " << W << ", seed " << seed;
    const reference::Sequence expected = reference::griffin(
        plain, table<S>(u), std::vector<reference::Count>(positions.begin(), positions.end()), options.convolution_within_documents);
    if (is("ordinary")) positions.clear();  // what the layer takes them to be
    return make_case(text.str(), Layer(w, options), u, positions, expected);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("laws of Griffin", "[laws]", double, float) { every_law<TestType>(family<GriffinFamily, TestType>()); }
TEST_CASE("Griffin in float and double", "[laws]") { float_near_double(family<GriffinFamily, float>(), family<GriffinFamily, double>()); }
