// Reverse mode of every layer against finite differences, and against the gradients of the public implementations.
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/layers/griffin_gradient.hpp>
#include <implicit_attention/layers/mamba_gradient.hpp>
#include <implicit_attention/layers/rwkv4_gradient.hpp>
#include <support/catch.hpp>
#include <support/shared_data.hpp>

namespace {

using namespace implicit_attention;

// Seeded numbers; a failing case prints its seed through INFO.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : engine_(seed) {}
  template <class Scalar = double>
  Matrix<Scalar> normal(Index rows, Index columns, double scale = 1, double mean = 0) {
    Matrix<Scalar> out(rows, columns);
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < columns; ++j) out(i, j) = static_cast<Scalar>(mean + scale * distribution_(engine_));
    return out;
  }
  // Like a trained projection: outputs as large as inputs.
  template <class Scalar = double>
  Matrix<Scalar> weight(Index rows, Index columns) {
    return normal<Scalar>(rows, columns, 1 / std::sqrt(static_cast<double>(columns)));
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> distribution_;
};

// Fourth-order central difference of f(t) at 0. With steps of 1e-3 its truncation is near 1e-13 of the fifth derivative and its
// rounding near 1e-13 of f, so that gradients right in double agree to 1e-8 of the largest with much to spare, and wrong ones do not.
constexpr double finite_difference_tolerance = 1e-8;
double derivative(const std::function<double(double)>& f, double h = 1e-3) {
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
}

double dot(const Matrix<double>& a, const Matrix<double>& b) { return a.cwiseProduct(b).sum(); }

// The tokens at which gradients are looked at one by one: ends, the middle, and both sides of a checkpoint of states.
std::vector<Index> tokens_to_look_at(Index tokens) {
  std::vector<Index> chosen;
  for (const Index token : {Index(0), Index(1), tokens / 2, Index(63), Index(64), tokens - 1})
    if (token >= 0 && token < tokens) chosen.push_back(token);
  return chosen;
}

// Checks `gradient` of the function `f` at `point`, along random directions that change one row, and one that changes all.
void check_gradient(const std::string& what, const Matrix<double>& point, const Matrix<double>& gradient,
                    const std::function<double(const Matrix<double>&)>& f, Draw& draw) {
  INFO("gradient with respect to " << what);
  REQUIRE(gradient.rows() == point.rows());
  REQUIRE(gradient.cols() == point.cols());
  REQUIRE(gradient.allFinite());
  const double largest = gradient.cwiseAbs().maxCoeff() * std::sqrt(static_cast<double>(point.cols()));
  const auto along = [&](const Matrix<double>& direction) { return derivative([&](double t) { return f(point + t * direction); }); };
  for (const Index token : tokens_to_look_at(point.rows())) {
    Matrix<double> direction = Matrix<double>::Zero(point.rows(), point.cols());
    direction.row(token) = draw.normal(1, point.cols()).row(0);
    INFO("row " << token << " of " << point.rows());
    CHECK(std::abs(along(direction) - dot(gradient, direction)) <= finite_difference_tolerance * largest);
  }
  const Matrix<double> everywhere = draw.normal(point.rows(), point.cols());
  CHECK(std::abs(along(everywhere) - dot(gradient, everywhere)) <=
        finite_difference_tolerance * largest * std::sqrt(static_cast<double>(point.rows())));
}

// --- The recurrence --------------------------------------------------------------------------------------------------

// All inputs of a diagonal recurrence as plain matrices, and its output token by token, from the equation in recurrence.hpp.
struct PlainRecurrence {
  Matrix<double> a, step, rate, query, key, query_scale, key_scale, diagonal, initial;
  std::vector<Index> starts;
  bool exclusive = false;

  static double at(const Matrix<double>& m, Index i, Index j) { return m.size() == 0 ? 1.0 : m(i, j); }
  double functional(const Matrix<double>& g) const {
    const Index states = std::max(rate.rows(), Index(1));
    double sum = 0;
    for (Index e = 0; e < a.cols(); ++e) {
      std::vector<double> h(static_cast<std::size_t>(states), 0.0);
      for (Index n = 0; n < states; ++n)
        if (initial.size() != 0) h[static_cast<std::size_t>(n)] = initial(n, e);
      for (Index t = 0; t < a.rows(); ++t) {
        for (const Index start : starts)
          if (start == t) std::fill(h.begin(), h.end(), 0.0);
        double y = 0;
        for (Index n = 0; n < states; ++n) {
          double& s = h[static_cast<std::size_t>(n)];
          if (exclusive) y += at(query, t, n) * s;
          s = std::exp(at(rate, n, e) * step(t, e)) * s + at(key, t, n) * at(key_scale, t, e) * a(t, e);
          if (!exclusive) y += at(query, t, n) * s;
        }
        y *= at(query_scale, t, e);
        if (exclusive) y += diagonal(t, e) * a(t, e);
        sum += g(t, e) * y;
      }
    }
    return sum;
  }
  DiagonalRecurrence<double> recurrence() const {
    DiagonalRecurrence<double> r;
    r.tokens = a.rows();
    r.channels = a.cols();
    r.state = std::max(rate.rows(), Index(1));
    r.step = step;
    const auto set = [](Array<double>& to, const Matrix<double>& from) {
      if (from.size() != 0) to = from;
    };
    set(r.rate, rate);
    set(r.query, query);
    set(r.key, key);
    set(r.query_scale, query_scale);
    set(r.key_scale, key_scale);
    set(r.diagonal, diagonal);
    r.exclusive = exclusive;
    r.starts = starts;
    return r;
  }
};

// The executor turned around, and one of two threads: neither may change a bit.
Executor backwards_executor() {
  return [](Index count, const std::function<void(Index)>& body) {
    for (Index i = count - 1; i >= 0; --i) body(i);
  };
}
Executor two_threads() {
  return [](Index count, const std::function<void(Index)>& body) {
    std::thread other([&] {
      for (Index i = 1; i < count; i += 2) body(i);
    });
    for (Index i = 0; i < count; i += 2) body(i);
    other.join();
  };
}

}  // namespace

TEST_CASE("a scan's gradients are those of finite differences", "[gradient]") {
  struct Case {
    Index tokens, channels, states;
    bool exclusive, scaled, selective, carried, documents;
  };
  const std::vector<Case> cases = {
      {1, 5, 3, false, true, true, false, false},   {2, 17, 1, false, true, false, true, false},  {3, 5, 16, false, true, true, true, false},
      {40, 17, 3, false, true, true, false, true},  {40, 65, 1, false, false, false, false, false}, {150, 70, 16, false, true, true, true, true},
      {150, 5, 1, false, true, false, true, true},  {64, 5, 3, false, true, true, true, false},   {65, 5, 3, false, true, true, true, true},
      {1, 5, 1, true, true, false, true, false},    {40, 17, 1, true, true, false, true, true},   {150, 85, 3, true, true, true, true, true},
      {129, 5, 16, true, false, true, false, false}};
  std::uint64_t seed = 1;
  for (const Case& c : cases) {
    INFO("seed " << seed << ": tokens " << c.tokens << ", channels " << c.channels << ", states " << c.states << ", exclusive " << c.exclusive);
    Draw draw(seed++);
    PlainRecurrence plain;
    plain.a = draw.normal(c.tokens, c.channels);
    plain.step = draw.normal(c.tokens, c.channels).cwiseAbs() * 0.3;
    if (c.states > 1)
      plain.rate = -draw.normal(c.states, c.channels).cwiseAbs();
    else
      plain.step = -plain.step;
    if (c.selective) {
      plain.query = draw.normal(c.tokens, c.states);
      plain.key = draw.normal(c.tokens, c.states);
    }
    if (c.scaled) {
      plain.query_scale = draw.normal(c.tokens, c.channels);
      plain.key_scale = draw.normal(c.tokens, c.channels);
    }
    plain.exclusive = c.exclusive;
    if (c.exclusive) plain.diagonal = draw.normal(c.tokens, c.channels);
    if (c.carried) plain.initial = draw.normal(c.states, c.channels);
    if (c.documents) plain.starts = {c.tokens / 3, c.tokens / 3 + 1, c.tokens - 4};
    const Matrix<double> g = draw.normal(c.tokens, c.channels);

    const DiagonalRecurrence<double> recurrence = plain.recurrence();
    const Array<double> initial = Array<double>::view(plain.initial);
    const ScanGradient<double> gradient = scan_gradient<double>(recurrence, plain.a, initial, g);
    const auto check = [&](const char* name, Matrix<double> PlainRecurrence::*member, const Matrix<double>& found) {
      if ((plain.*member).size() == 0) {
        CHECK(found.size() == 0);
        return;
      }
      check_gradient(name, plain.*member, found, [&](const Matrix<double>& value) {
        PlainRecurrence changed = plain;
        changed.*member = value;
        return changed.functional(g);
      }, draw);
    };
    check("a", &PlainRecurrence::a, gradient.input);
    check("step", &PlainRecurrence::step, gradient.step);
    check("query", &PlainRecurrence::query, gradient.query);
    check("key", &PlainRecurrence::key, gradient.key);
    check("query_scale", &PlainRecurrence::query_scale, gradient.query_scale);
    check("key_scale", &PlainRecurrence::key_scale, gradient.key_scale);
    check("diagonal", &PlainRecurrence::diagonal, gradient.diagonal);

    for (const Executor& executor : {backwards_executor(), two_threads()}) {
      const ScanGradient<double> again = scan_gradient<double>(recurrence, plain.a, initial, g, executor);
      CHECK(again.input == gradient.input);
      CHECK(again.step == gradient.step);
      CHECK(again.query == gradient.query);
      CHECK(again.key == gradient.key);
    }
  }
}

TEST_CASE("the transposed convolution is the transpose", "[gradient]") {
  Draw draw(7);
  for (const Index width : {1, 2, 4, 6})
    for (const Index tokens : {1, 2, 3, 40})
      for (const bool documents : {false, true}) {
        Dressed<DiagonalRecurrence<double>> dressed;
        dressed.recurrence.tokens = tokens;
        dressed.recurrence.channels = 5;
        const Matrix<double> taps = draw.normal(width, 5), x = draw.normal(tokens, 5), g = draw.normal(tokens, 5);
        dressed.taps = taps;
        if (documents) dressed.convolution_starts = {0, tokens / 2, tokens / 2 + 1};
        ScanInput<double> input;
        input.x = x;
        Matrix<double> forwards(tokens, 5), backwards(tokens, 5);
        convolve(dressed, input, View<double>(forwards), serial_executor());
        convolve_transposed<double>(taps, dressed.convolution_starts, g, backwards);
        INFO("width " << width << ", tokens " << tokens << ", documents " << documents);
        CHECK(std::abs(dot(forwards, g) - dot(x, backwards)) <= 1e-13 * forwards.norm() * g.norm() + 1e-300);  // rounding of sums
      }
}

// --- The layers ------------------------------------------------------------------------------------------------------

namespace {

template <class Scalar>
Mamba<Scalar> random_mamba(Draw& draw, Index width, Index channels, Index state, Index taps, Index rank, bool biases) {
  typename Mamba<Scalar>::Weights w;
  w.in_proj_weight = draw.weight<Scalar>(2 * channels, width);
  w.conv1d_weight = draw.weight<Scalar>(channels, taps);
  w.x_proj_weight = draw.weight<Scalar>(rank + 2 * state, channels);
  w.dt_proj_weight = draw.weight<Scalar>(channels, rank);
  w.A_log = draw.normal<Scalar>(channels, state, 0.7);
  w.D = draw.normal<Scalar>(1, channels);
  w.out_proj_weight = draw.weight<Scalar>(width, channels);
  if (biases) {
    w.in_proj_bias = draw.normal<Scalar>(1, 2 * channels);
    w.conv1d_bias = draw.normal<Scalar>(1, channels);
    w.dt_proj_bias = draw.normal<Scalar>(1, channels, 1, -2);
    w.out_proj_bias = draw.normal<Scalar>(1, width);
  }
  return Mamba<Scalar>(w);
}

template <class Scalar>
Rwkv4<Scalar> random_rwkv4(Draw& draw, Index width, Index channels, double key_scale = 1) {
  typename Rwkv4<Scalar>::Weights w;
  w.time_decay = draw.normal<Scalar>(1, channels, 2);
  w.time_first = draw.normal<Scalar>(1, channels);
  w.time_mix_key = draw.normal<Scalar>(1, width, 0.3, 0.5);
  w.time_mix_value = draw.normal<Scalar>(1, width, 0.3, 0.5);
  w.time_mix_receptance = draw.normal<Scalar>(1, width, 0.3, 0.5);
  w.key_weight = Matrix<Scalar>(draw.weight<Scalar>(channels, width) * static_cast<Scalar>(key_scale));
  w.value_weight = draw.weight<Scalar>(channels, width);
  w.receptance_weight = draw.weight<Scalar>(channels, width);
  w.output_weight = draw.weight<Scalar>(width, channels);
  return Rwkv4<Scalar>(w);
}

template <class Scalar>
Griffin<Scalar> random_griffin(Draw& draw, Index width, Index heads, Index block, Index taps, bool biases, bool within_documents,
                               double recurrent_param = -4) {
  typename Griffin<Scalar>::Weights w;
  const Index channels = heads * block;
  w.linear_x_weight = draw.weight<Scalar>(channels, width);
  w.linear_y_weight = draw.weight<Scalar>(channels, width);
  w.conv_1d_weight = draw.weight<Scalar>(channels, taps);
  w.recurrent_param = draw.normal<Scalar>(1, channels, 1, recurrent_param);
  w.input_gate_weight = draw.weight<Scalar>(channels, block);
  w.input_gate_bias = draw.normal<Scalar>(heads, block);
  w.recurrent_gate_weight = draw.weight<Scalar>(channels, block);
  w.recurrent_gate_bias = draw.normal<Scalar>(heads, block);
  w.linear_out_weight = draw.weight<Scalar>(width, channels);
  if (biases) {
    w.linear_x_bias = draw.normal<Scalar>(1, channels);
    w.linear_y_bias = draw.normal<Scalar>(1, channels);
    w.conv_1d_bias = draw.normal<Scalar>(1, channels);
    w.linear_out_bias = draw.normal<Scalar>(1, width);
  }
  return Griffin<Scalar>(w, {within_documents});
}

// Checks backward() and backward_from_y() of a layer at u; `run` runs it (with its carried-in state or positions).
template <class Layer>
void check_layer(const Layer& layer, const Matrix<double>& u, const std::function<typename Layer::Activations(const Matrix<double>&)>& run,
                 Draw& draw) {
  static_assert(DifferentiableLayer<Layer>);
  const typename Layer::Activations act = run(u);
  const Matrix<double> grad_out = draw.normal(u.rows(), act.out.cols()), grad_y = draw.normal(u.rows(), layer.channels());
  const LayerGradients<double> from_out = backward(layer, act, grad_out), from_y = backward_from_y(layer, act, grad_y);
  check_gradient("u, from out", u, from_out.grad_u, [&](const Matrix<double>& value) { return dot(run(value).out.matrix(), grad_out); }, draw);
  check_gradient("u, from y", u, from_y.grad_u, [&](const Matrix<double>& value) { return dot(run(value).y.matrix(), grad_y); }, draw);
  CHECK(from_y.grad_y == grad_y);
  CHECK((from_out.grad_y - grad_out * output_projection(layer).matrix()).cwiseAbs().maxCoeff() <= 1e-13 * grad_out.norm());

  const LayerGradients<double> again = backward(layer, act, grad_out, two_threads());
  CHECK(again.grad_x == from_out.grad_x);
  CHECK(again.grad_u == from_out.grad_u);
}

struct Size {
  Index tokens, width, channels, state, taps;
};
const std::vector<Size> sizes = {{1, 4, 5, 3, 4},  {2, 7, 5, 1, 4},   {3, 4, 17, 16, 6},  {40, 6, 17, 3, 1},
                                 {40, 3, 66, 16, 2}, {150, 4, 5, 16, 3}, {150, 3, 70, 3, 5}, {65, 4, 5, 1, 4}};

}  // namespace

TEST_CASE("Mamba: gradients are those of finite differences", "[gradient][mamba]") {
  std::uint64_t seed = 100;
  for (const Size& size : sizes)
    for (const bool biases : {false, true}) {
      INFO("seed " << seed << ": tokens " << size.tokens << ", channels " << size.channels << ", state " << size.state << ", taps " << size.taps);
      Draw draw(seed++);
      const Mamba<double> layer = random_mamba<double>(draw, size.width, size.channels, size.state, size.taps, 2, biases);
      const Matrix<double> u = draw.normal(size.tokens, size.width);
      const Mamba<double>::Activations earlier = layer.activations(draw.normal(7, size.width));
      const Mamba<double>::State* initial = biases ? &earlier.final : nullptr;
      check_layer<Mamba<double>>(layer, u, [&](const Matrix<double>& value) { return layer.activations(value, initial); }, draw);
    }
}

TEST_CASE("RWKV-4: gradients are those of finite differences", "[gradient][rwkv4]") {
  std::uint64_t seed = 200;
  for (const Size& size : sizes)
    for (const bool carried : {false, true}) {
      INFO("seed " << seed << ": tokens " << size.tokens << ", channels " << size.channels);
      Draw draw(seed++);
      const Rwkv4<double> layer = random_rwkv4<double>(draw, size.width, size.channels);
      const Matrix<double> u = draw.normal(size.tokens, size.width);
      const Rwkv4<double>::Activations earlier = layer.activations(draw.normal(7, size.width));
      const Rwkv4<double>::State* initial = carried ? &earlier.final : nullptr;
      check_layer<Rwkv4<double>>(layer, u, [&](const Matrix<double>& value) { return layer.activations(value, initial); }, draw);
    }
}

TEST_CASE("Griffin: gradients are those of finite differences", "[gradient][griffin]") {
  std::uint64_t seed = 300;
  for (const Size& size : sizes)
    for (const bool biases : {false, true})
      for (const bool packed : {false, true}) {
        const Index heads = size.channels % 2 == 0 ? 2 : 1;
        INFO("seed " << seed << ": tokens " << size.tokens << ", channels " << size.channels << ", heads " << heads << ", taps " << size.taps
                     << ", packed " << packed);
        Draw draw(seed++);
        // Within documents or across them: both with packed positions.
        const Griffin<double> layer = random_griffin<double>(draw, size.width, heads, size.channels / heads, size.taps, biases, biases && packed);
        const Matrix<double> u = draw.normal(size.tokens, size.width);
        const Griffin<double>::Activations earlier = layer.activations(draw.normal(7, size.width));
        const Griffin<double>::State* initial = biases ? &earlier.final : nullptr;
        std::vector<Index> positions;  // the first document goes on from earlier, two more begin
        for (Index token = 0; token < size.tokens; ++token) positions.push_back(token < size.tokens / 3 ? token + 7 : (token - size.tokens / 3) % 20);
        check_layer<Griffin<double>>(layer, u, [&](const Matrix<double>& value) {
          return packed ? layer.activations(value, positions, initial) : layer.activations(value, initial);
        }, draw);
      }
}
