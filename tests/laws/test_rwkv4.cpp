// The laws for RWKV-4.
#include <laws/laws.hpp>

#include <sstream>
#include <string>
#include <vector>

#include <implicit_attention/layers/rwkv4.hpp>

namespace {

using namespace laws;

template <class S>
struct Rwkv4Family {
  using Layer = Rwkv4<S>;

  static std::vector<std::string> flavours() {
    return {"ordinary",      "keys to 900",    "keys to -900", "decay 1",          "decay 0",
            "time_decay 90", "time_first 200", "gates 0",      "denormal weights", "unlike widths"};
  }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const auto is = [&](const char* name) { return flavour == name; };
    if (is("unlike widths")) size.width += 7;
    const Index D = size.width, E = size.channels;
    const double small = is("denormal weights") ? 1e-42 : 1;
    const auto normals = [&](Index rows, Index columns, double spread) { return draw.normals<S>(rows, columns, spread * small); };
    typename Layer::Weights w;
    w.time_decay = draw.uniforms<S>(1, E, -6, 2);
    w.time_first = normals(1, E, 1);
    w.time_mix_key = draw.uniforms<S>(1, D, 0, 1);
    w.time_mix_value = draw.uniforms<S>(1, D, 0, 1);
    w.time_mix_receptance = draw.uniforms<S>(1, D, 0, 1);
    w.key_weight = normals(E, D, 1);
    w.value_weight = normals(E, D, 0.6);
    w.receptance_weight = normals(E, D, 0.6);
    w.output_weight = normals(D, E, 0.5);
    if (is("decay 1")) w.time_decay = draw.uniforms<S>(1, E, -300, -20);
    if (is("decay 0")) w.time_decay = draw.uniforms<S>(1, E, 5, 60);
    if (is("time_decay 90")) w.time_decay = draw.uniforms<S>(1, E, 85, 95);  // exp overflows float above 88.7
    if (is("time_first 200")) w.time_first = draw.uniforms<S>(1, E, -200, 200);
    Matrix<S> u = draw.normals<S>(size.tokens, D);
    double condition = 1;
    if (is("keys to 900") || is("keys to -900")) {
      // Key of channel e: 900 times the input e mod D, which is 0, 1 or 1/2: exact, so that what is lost is lost by the exponentials.
      Matrix<S> weight = Matrix<S>::Zero(E, D);
      for (Index e = 0; e < E; ++e) weight(e, e % D) = is("keys to 900") ? 900 : -900;
      w.key_weight = weight;
      w.time_mix_key = Matrix<S>(Matrix<S>::Ones(1, D));
      for (Index i = 0; i < u.size(); ++i) u.data()[i] = static_cast<S>(static_cast<int>(draw.uniform(0, 3))) / 2;
      condition = 100;  // an exponent of 900 is kept to 900 / 2 ulps of 1
    }
    if (is("time_first 200")) condition = 20;
    if (is("gates 0")) {
      Matrix<S> first = u;  // sigmoid(-1000)
      first.col(0).setOnes();
      u = first;
      Matrix<S> weight = Matrix<S>::Zero(E, D);
      weight.col(0).setConstant(-1000);
      w.receptance_weight = weight;
      w.time_mix_receptance = Matrix<S>(Matrix<S>::Ones(1, D));
    }
    const reference::Rwkv4Weights plain = {table(w.time_decay),     table(w.time_first),          table(w.time_mix_key),
                                           table(w.time_mix_value), table(w.time_mix_receptance), table(w.key_weight),
                                           table(w.value_weight),   table(w.receptance_weight),   table(w.output_weight)};
    std::ostringstream text;
    text << "Rwkv4<" << (sizeof(S) == 4 ? "float" : "double") << "> " << flavour << ", " << size.tokens << " tokens, width " << D << ", "
         << E << " channels, seed " << seed;
    return make_case(text.str(), Layer(w), u, {}, reference::rwkv4(plain, table<S>(u)), condition);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("laws of RWKV-4", "[laws]", double, float) { every_law<TestType>(family<Rwkv4Family, TestType>()); }
TEST_CASE("RWKV-4 in float and double", "[laws]") { float_near_double(family<Rwkv4Family, float>(), family<Rwkv4Family, double>()); }
