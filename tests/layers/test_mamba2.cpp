// Mamba-2 in the options that the golden cases do not reach: a plain double loop over tokens, finite differences, relevance, carried state.
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/layers/mamba2.hpp>
#include <implicit_attention/trace/walk_back.hpp>

namespace mamba2_test {
namespace {

using namespace implicit_attention;
using test_support::Draw;
using Layer = Mamba2<double>;

constexpr Index D = 5, H = 4, P = 3, E = H * P, N = 2, W = 3, L = 9;
constexpr double infinity = std::numeric_limits<double>::infinity();

struct Kind {
  const char* name;
  Index groups, norm_groups;
  bool norm, before_gate, by_channel, biases, scales;
  std::array<double, 2> limit;
};
const Kind kinds[] = {{"no norm", 1, 1, false, false, false, true, false, {0, infinity}},
                      {"no norm, said to be before the gate", 2, 1, false, true, false, false, false, {0, infinity}},
                      {"norm of four groups, two groups of B and C", 2, 4, true, false, false, true, false, {0, infinity}},
                      {"norm of two groups before the gate", 4, 2, true, true, false, true, false, {0, infinity}},
                      {"one D a channel", 2, 1, true, false, true, true, false, {0, infinity}},
                      {"scaled rows, biases too", 1, 1, false, false, false, true, true, {0, infinity}},
                      {"scaled rows and norm", 4, 4, true, false, true, true, true, {0.3, 0.9}},
                      {"limit from below", 1, 1, true, false, false, false, false, {0.6, infinity}},
                      {"limit from above", 1, 1, true, true, false, true, false, {0, 0.6}},
                      {"nothing but the limit", 1, 1, true, false, false, true, false, {0.5, 0.5}}};

Layer draw_layer(Draw& draw, const Kind& kind) {
  const Index rows = 2 * E + 2 * kind.groups * N + H, convolved = E + 2 * kind.groups * N;
  Layer::Weights w;
  w.in_proj_weight = draw.normals<double>(rows, D, 0.6);
  w.conv1d_weight = draw.normals<double>(convolved, W, 0.5);
  w.dt_bias = draw.uniforms<double>(1, H, -1.5, 1);
  w.A_log = draw.uniforms<double>(1, H, -1, 1);
  w.D = draw.normals<double>(1, kind.by_channel ? E : H);
  w.out_proj_weight = draw.normals<double>(D, E, 0.5);
  if (kind.norm) w.norm_weight = draw.normals<double>(1, E);
  if (kind.biases) {
    w.in_proj_bias = draw.normals<double>(1, rows, 0.3);
    w.conv1d_bias = draw.normals<double>(1, convolved, 0.3);
    w.out_proj_bias = draw.normals<double>(1, D, 0.3);
  }
  if (kind.scales) w.row_scales = draw.uniforms<double>(1, rows, 0.3, 1.4);
  Layer::Options options;
  options.groups = kind.groups;
  options.norm_groups = kind.norm_groups;
  options.norm_before_gate = kind.before_gate;
  options.norm_eps = 1e-3;
  options.time_step_limit = kind.limit;
  return Layer(w, options);
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double number(const Array<double>& row, Index i, double otherwise) { return row.empty() ? otherwise : row(0, i); }

/// The layer from its equations, with a state of numbers.
void plain_layer(const Layer& layer, const Matrix<double>& u, Matrix<double>& y, Matrix<double>& out) {
  const auto& w = layer.weights();
  const auto& o = layer.options();
  const Index GN = o.groups * N, rows = 2 * E + 2 * GN + H;
  Matrix<double> projected(L, rows);
  for (Index t = 0; t < L; ++t)
    for (Index r = 0; r < rows; ++r) {
      double sum = number(w.in_proj_bias, r, 0);
      for (Index d = 0; d < D; ++d) sum += w.in_proj_weight(r, d) * u(t, d);
      projected(t, r) = sum * number(w.row_scales, r, 1);
    }
  std::vector<double> state(static_cast<std::size_t>(H * P * N), 0.0);
  y.resize(L, E);
  out.resize(L, D);
  for (Index t = 0; t < L; ++t) {
    std::vector<double> convolved(static_cast<std::size_t>(E + 2 * GN)), s(static_cast<std::size_t>(E));
    for (Index c = 0; c < E + 2 * GN; ++c) {
      double sum = number(w.conv1d_bias, c, 0);
      for (Index tap = 0; tap < W; ++tap)
        if (t - W + 1 + tap >= 0) sum += w.conv1d_weight(c, tap) * projected(t - W + 1 + tap, E + c);
      convolved[static_cast<std::size_t>(c)] = silu(sum);
    }
    for (Index h = 0; h < H; ++h) {
      double dt = std::log1p(std::exp(projected(t, rows - H + h) + w.dt_bias(0, h)));
      dt = std::min(std::max(dt, o.time_step_limit[0]), o.time_step_limit[1]);
      const double decay = std::exp(-std::exp(w.A_log(0, h)) * dt);
      const Index group = h / (H / o.groups);
      for (Index p = 0; p < P; ++p) {
        const Index e = h * P + p;
        const double x = convolved[static_cast<std::size_t>(e)];
        double read = w.D(0, w.D.size() == E ? e : h) * x;
        for (Index n = 0; n < N; ++n) {
          double& cell = state[static_cast<std::size_t>(e * N + n)];
          cell = decay * cell + dt * convolved[static_cast<std::size_t>(E + group * N + n)] * x;
          read += convolved[static_cast<std::size_t>(E + GN + group * N + n)] * cell;
        }
        s[static_cast<std::size_t>(e)] = read;
      }
    }
    const Index size = E / o.norm_groups;
    for (Index e = 0; e < E; ++e) {
      const double gate = silu(projected(t, e));
      double squares = 0;
      for (Index k = e / size * size; k < (e / size + 1) * size; ++k) {
        const double seen = s[static_cast<std::size_t>(k)] * (o.norm_before_gate ? 1 : silu(projected(t, k)));
        squares += seen * seen / static_cast<double>(size);
      }
      const double norm = w.norm_weight.empty() ? 1 : w.norm_weight(0, e) / std::sqrt(squares + o.norm_eps);
      y(t, e) = s[static_cast<std::size_t>(e)] * gate * norm;
    }
    for (Index d = 0; d < D; ++d) {
      out(t, d) = number(w.out_proj_bias, d, 0);
      for (Index e = 0; e < E; ++e) out(t, d) += w.out_proj_weight(d, e) * y(t, e);
    }
  }
}

double difference(const Matrix<double>& a, const Matrix<double>& b) { return (a - b).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(); }

}  // namespace

TEST_CASE("Mamba-2: every option, against a plain double loop", "[layers]") {
  Draw draw(21);
  for (const Kind& kind : kinds) {
    INFO(kind.name);
    const Layer layer = draw_layer(draw, kind);
    const Matrix<double> u = draw.normals<double>(L, D);
    const Layer::Activations act = layer.activations(u);
    Matrix<double> y, out;
    plain_layer(layer, u, y, out);
    CHECK(difference(*act.y, y) < 1e-12 * y.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    CHECK(difference(*act.out, out) < 1e-12 * out.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    const ImplicitAttention<double> attention = layer.implicit_attention(act);
    CHECK(difference(attention.apply(*act.x) + attention.bias(), y) < 1e-12 * y.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    // In two pieces.
    const Layer::Activations first = layer.activations(Matrix<double>(u.topRows(4)));
    const Layer::Activations second = layer.activations(Matrix<double>(u.bottomRows(L - 4)), &first.final);
    CHECK(difference(*second.y, y.bottomRows(L - 4)) < 1e-12 * y.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    const ImplicitAttention<double> later = layer.implicit_attention(second);
    CHECK(difference(later.apply(*second.x) + later.bias() + later.carry(), y.bottomRows(L - 4)) <
          1e-12 * y.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    CHECK(difference(second.final.recurrent, act.final.recurrent) < 1e-12);
    CHECK(difference(second.final.convolution_tail, act.final.convolution_tail) < 1e-12);
  }
}

TEST_CASE("Mamba-2: gradients are finite differences, relevance conserves", "[layers]") {
  Draw draw(22);
  for (const Kind& kind : kinds) {
    INFO(kind.name);
    const Layer layer = draw_layer(draw, kind);
    const Matrix<double> u = draw.normals<double>(L, D), g = draw.normals<double>(L, D);
    Trace<double> trace(true);
    RunContext<double> context;
    const Value<double> input = trace.input(u);
    const LayerRun<Layer> run = layer.run(input, context);
    const Matrix<double> gradient = trace.walk_back(WayBack::gradient, {{run.out, g}}, {input}).gradients[0];
    Matrix<double> moved = u;
    constexpr double step = 1e-5;
    const auto value = [&] { return layer.activations(moved).out.matrix().cwiseProduct(g).sum(); };
    double largest = 0;
    for (Index i = 0; i < u.size(); ++i) {
      moved.data()[i] = u.data()[i] + step;
      const double above = value();
      moved.data()[i] = u.data()[i] - step;
      largest = larger(largest, std::abs((above - value()) / (2 * step) - gradient.data()[i]));
      moved.data()[i] = u.data()[i];
    }
    CHECK(largest < 1e-7 * gradient.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    for (const WayBack way : {WayBack::relevance, WayBack::attention}) {
      const WalkResult<double> relevance = trace.walk_back(way, {{run.out, g}}, {input});
      CHECK(relevance.untreated.empty());
      CHECK(relevance.gradients[0].cwiseProduct(u).sum() + relevance.bias_share == Approx((*run.out).cwiseProduct(g).sum()));
    }
    // The attention way is the operator, transposed.
    const WalkResult<double> held = trace.walk_back(WayBack::attention, {{run.y, *run.y}}, {run.x});
    CHECK(difference(held.gradients[0], layer.implicit_attention(run.activations).apply_transpose(*run.y)) <
          1e-12 * held.gradients[0].cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  }
}

TEST_CASE("Mamba-2: what does not fit is named", "[layers]") {
  Draw draw(23);
  const Layer good = draw_layer(draw, kinds[4]);
  const auto says = [&](const std::function<void(Layer::Weights&, Layer::Options&)>& bend, const std::string& what) {
    Layer::Weights w = good.weights();
    Layer::Options o = good.options();
    bend(w, o);
    CHECK_THROWS_WITH(Layer(w, o), contains_text(what));
  };
  const auto zeros = [](Index rows, Index columns) { return Array<double>(Matrix<double>(Matrix<double>::Zero(rows, columns))); };
  says([&](auto& w, auto&) { w.A_log = {}; }, "12 channels (columns of out_proj.weight) do not divide into 0 heads (A_log)");
  says([&](auto& w, auto&) { w.A_log = zeros(1, 5); }, "do not divide into 5 heads (A_log)");
  says([&](auto&, auto& o) { o.groups = 3; }, "4 heads (A_log) do not divide into 3 groups");
  says([&](auto&, auto& o) { o.norm_groups = 5; }, "12 channels do not divide into 5 groups of the norm");
  says([&](auto& w, auto&) { w.conv1d_weight = zeros(E, W); }, "rows of conv1d.weight for B");
  says([&](auto& w, auto&) { w.conv1d_weight = zeros(E + 9, W); }, "conv1d.weight is (21, 3), expected (20, 3)");
  says([&](auto& w, auto&) { w.in_proj_weight = zeros(36, D + 1); }, "out_proj.weight is (5, 12), expected (6, 12)");
  says([&](auto& w, auto&) { w.in_proj_bias = zeros(1, 35); }, "in_proj.bias is (35), expected (36)");
  says([&](auto& w, auto&) { w.dt_bias = zeros(1, 3); }, "dt_bias is (3), expected (4)");
  says([&](auto& w, auto&) { w.D = zeros(1, 5); }, "D is (5), expected (4) = (heads, or channels)");
  says([&](auto& w, auto&) { w.norm_weight = zeros(1, 4); }, "norm.weight is (4), expected (12)");
  says([&](auto&, auto& o) { o.time_step_limit = {0.2, 0.1}; }, "time_step_limit is 0.2 to 0.1");
  Layer::Activations act = good.activations(Matrix<double>(Matrix<double>::Ones(2, D)));
  act.s = {};
  CHECK_THROWS_WITH(good.lower(act), contains_text("activations.s is empty, expected (2, 12)"));
  CHECK_NOTHROW(good.lower(act, Terms::published()));
}

}  // namespace mamba2_test
