// Reverse mode of every layer against finite differences, and against the gradients of the public implementations.
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <implicit_attention/io/safetensors.hpp>
#include <reference/griffin_gradient.hpp>
#include <reference/local_attention_gradient.hpp>
#include <reference/mamba_gradient.hpp>
#include <reference/rwkv4_gradient.hpp>
#include <support/catch.hpp>
#include <support/executors.hpp>
#include <support/finite_differences.hpp>
#include <support/random.hpp>
#include <support/shared_data.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;

using test_support::check_gradient;
using test_support::dot;
using test_support::two_threads;

template <class Scalar>
Mamba<Scalar> random_mamba(Draw& draw, Index width, Index channels, Index state, Index taps, Index rank, bool biases) {
  typename Mamba<Scalar>::Weights w;
  w.in_proj_weight = draw.weight<Scalar>(2 * channels, width);
  w.conv1d_weight = draw.weight<Scalar>(channels, taps);
  w.x_proj_weight = draw.weight<Scalar>(rank + 2 * state, channels);
  w.dt_proj_weight = draw.weight<Scalar>(channels, rank);
  w.A_log = draw.normals<Scalar>(channels, state, 0.7);
  w.D = draw.normals<Scalar>(1, channels);
  w.out_proj_weight = draw.weight<Scalar>(width, channels);
  if (biases) {
    w.in_proj_bias = draw.normals<Scalar>(1, 2 * channels);
    w.conv1d_bias = draw.normals<Scalar>(1, channels);
    w.dt_proj_bias = draw.normals<Scalar>(1, channels, 1, -2);
    w.out_proj_bias = draw.normals<Scalar>(1, width);
  }
  return Mamba<Scalar>(w);
}

template <class Scalar>
Rwkv4<Scalar> random_rwkv4(Draw& draw, Index width, Index channels, double key_scale = 1) {
  typename Rwkv4<Scalar>::Weights w;
  w.time_decay = draw.normals<Scalar>(1, channels, 2);
  w.time_first = draw.normals<Scalar>(1, channels);
  w.time_mix_key = draw.normals<Scalar>(1, width, 0.3, 0.5);
  w.time_mix_value = draw.normals<Scalar>(1, width, 0.3, 0.5);
  w.time_mix_receptance = draw.normals<Scalar>(1, width, 0.3, 0.5);
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
  w.recurrent_param = draw.normals<Scalar>(1, channels, 1, recurrent_param);
  w.input_gate_weight = draw.weight<Scalar>(channels, block);
  w.input_gate_bias = draw.normals<Scalar>(heads, block);
  w.recurrent_gate_weight = draw.weight<Scalar>(channels, block);
  w.recurrent_gate_bias = draw.normals<Scalar>(heads, block);
  w.linear_out_weight = draw.weight<Scalar>(width, channels);
  if (biases) {
    w.linear_x_bias = draw.normals<Scalar>(1, channels);
    w.linear_y_bias = draw.normals<Scalar>(1, channels);
    w.conv_1d_bias = draw.normals<Scalar>(1, channels);
    w.linear_out_bias = draw.normals<Scalar>(1, width);
  }
  return Griffin<Scalar>(w, {within_documents});
}

template <class Scalar>
SoftmaxAttention<Scalar> random_local_attention(Draw& draw, Index width, Index key_heads,
                                                const typename SoftmaxAttention<Scalar>::Options& options, Index head_size, bool biases) {
  typename SoftmaxAttention<Scalar>::Weights w;
  const Index channels = options.heads * head_size, shared = key_heads * head_size;
  w.q_proj_weight = draw.weight<Scalar>(channels, width);
  w.k_proj_weight = draw.weight<Scalar>(shared, width);
  w.v_proj_weight = draw.weight<Scalar>(shared, width);
  w.o_proj_weight = draw.weight<Scalar>(width, channels);
  if (biases) {
    w.q_proj_bias = draw.normals<Scalar>(1, channels);
    w.k_proj_bias = draw.normals<Scalar>(1, shared);
    w.v_proj_bias = draw.normals<Scalar>(1, shared);
    w.o_proj_bias = draw.normals<Scalar>(1, width);
  }
  return SoftmaxAttention<Scalar>(w, options);
}

// The record of a layer's forward pass gives what the adjoint written by hand gives, to 1e-12 of the largest number.
void check_recorded(const Matrix<double>& recorded, const Matrix<double>& by_hand) {
  REQUIRE(recorded.rows() == by_hand.rows());
  REQUIRE(recorded.cols() == by_hand.cols());
  CHECK((recorded - by_hand).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
        1e-12 * by_hand.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
}

// Checks backward() and backward_from_y() of a layer at u; `run` runs it (with its carried-in state or positions, as `start` has them).
template <class Layer>
void check_layer(const Layer& layer, const Matrix<double>& u, const std::function<typename Layer::Activations(const Matrix<double>&)>& run,
                 Draw& draw, const LayerStart<typename Layer::State>& start = {}) {
  static_assert(DifferentiableLayer<Layer>);
  const typename Layer::Activations act = run(u);
  const Matrix<double> grad_out = draw.normals<double>(u.rows(), act.out.cols()), grad_y = draw.normals<double>(u.rows(), layer.channels());
  const LayerGradients<double> from_out = backward(layer, act, grad_out), from_y = backward_from_y(layer, act, grad_y);
  check_gradient(
      "u, from out", u, from_out.grad_u, [&](const Matrix<double>& value) { return dot(run(value).out.matrix(), grad_out); }, draw);
  check_gradient(
      "u, from y", u, from_y.grad_u, [&](const Matrix<double>& value) { return dot(run(value).y.matrix(), grad_y); }, draw);
  CHECK(from_y.grad_y == grad_y);
  const LayerGradients<double> out_record = backward(layer, u, grad_out, serial_executor(), start),
                               y_record = backward_from_y(layer, u, grad_y, two_threads(), start);
  check_recorded(out_record.grad_y, from_out.grad_y);
  check_recorded(out_record.grad_x, from_out.grad_x);
  check_recorded(out_record.grad_u, from_out.grad_u);
  check_recorded(y_record.grad_u, from_y.grad_u);
  CHECK((from_out.grad_y - grad_out * output_projection(layer).matrix()).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
        1e-13 * grad_out.norm());

  const LayerGradients<double> again = backward(layer, act, grad_out, two_threads());
  CHECK(again.grad_x == from_out.grad_x);
  CHECK(again.grad_u == from_out.grad_u);
}

struct Size {
  Index tokens, width, channels, state, taps;
};
const std::vector<Size> sizes = {{1, 4, 5, 3, 4},    {2, 7, 5, 1, 4},    {3, 4, 17, 16, 6},  {40, 6, 17, 3, 1},
                                 {40, 3, 66, 16, 2}, {150, 4, 5, 16, 3}, {150, 3, 70, 3, 5}, {65, 4, 5, 1, 4}};

}  // namespace

TEST_CASE("Mamba: gradients are those of finite differences", "[gradient][mamba]") {
  std::uint64_t seed = 100;
  for (const Size& size : sizes)
    for (const bool biases : {false, true}) {
      INFO("seed " << seed << ": tokens " << size.tokens << ", channels " << size.channels << ", state " << size.state << ", taps "
                   << size.taps);
      Draw draw(seed++);
      const Mamba<double> layer = random_mamba<double>(draw, size.width, size.channels, size.state, size.taps, 2, biases);
      const Matrix<double> u = draw.normals<double>(size.tokens, size.width);
      const Mamba<double>::Activations earlier = layer.activations(draw.normals<double>(7, size.width));
      const Mamba<double>::State* initial = biases ? &earlier.final : nullptr;
      check_layer<Mamba<double>>(layer, u, [&](const Matrix<double>& value) { return layer.activations(value, initial); }, draw,
                                 {initial, {}});
    }
}

TEST_CASE("RWKV-4: gradients are those of finite differences", "[gradient][rwkv4]") {
  std::uint64_t seed = 200;
  for (const Size& size : sizes)
    for (const bool carried : {false, true}) {
      INFO("seed " << seed << ": tokens " << size.tokens << ", channels " << size.channels);
      Draw draw(seed++);
      const Rwkv4<double> layer = random_rwkv4<double>(draw, size.width, size.channels);
      const Matrix<double> u = draw.normals<double>(size.tokens, size.width);
      const Rwkv4<double>::Activations earlier = layer.activations(draw.normals<double>(7, size.width));
      const Rwkv4<double>::State* initial = carried ? &earlier.final : nullptr;
      check_layer<Rwkv4<double>>(layer, u, [&](const Matrix<double>& value) { return layer.activations(value, initial); }, draw,
                                 {initial, {}});
    }
}

TEST_CASE("Griffin: gradients are those of finite differences", "[gradient][griffin]") {
  std::uint64_t seed = 300;
  for (const Size& size : sizes)
    for (const bool biases : {false, true})
      for (const bool packed : {false, true}) {
        const Index heads = size.channels % 2 == 0 ? 2 : 1;
        INFO("seed " << seed << ": tokens " << size.tokens << ", channels " << size.channels << ", heads " << heads << ", taps "
                     << size.taps << ", packed " << packed);
        Draw draw(seed++);
        // Within documents or across them: both with packed positions.
        const Griffin<double> layer =
            random_griffin<double>(draw, size.width, heads, size.channels / heads, size.taps, biases, biases && packed);
        const Matrix<double> u = draw.normals<double>(size.tokens, size.width);
        const Griffin<double>::Activations earlier = layer.activations(draw.normals<double>(7, size.width));
        const Griffin<double>::State* initial = biases ? &earlier.final : nullptr;
        std::vector<Index> positions;  // the first document goes on from earlier, two more begin
        for (Index token = 0; token < size.tokens; ++token)
          positions.push_back(token < size.tokens / 3 ? token + 7 : (token - size.tokens / 3) % 20);
        check_layer<Griffin<double>>(layer, u,
                                     [&](const Matrix<double>& value) {
                                       return packed ? layer.activations(value, positions, initial) : layer.activations(value, initial);
                                     },
                                     draw, {initial, packed ? positions : std::vector<Index>()});
      }
}

TEST_CASE("local attention: gradients are those of finite differences", "[gradient][attention]") {
  struct Shape {
    Index tokens, width, heads, key_heads, head_size, window;
    double rotary_part;
  };
  const std::vector<Shape> shapes = {{1, 4, 2, 1, 4, 3, 0.5},  {2, 5, 1, 1, 2, 0, 1.0},    {3, 4, 4, 2, 6, 2048, 0.0},
                                     {40, 6, 4, 1, 4, 5, 0.5}, {40, 6, 6, 3, 4, 100, 0.5}, {150, 3, 2, 1, 8, 64, 0.5}};
  std::uint64_t seed = 400;
  for (const Shape& shape : shapes)
    for (const bool carried : {false, true}) {
      INFO("seed " << seed << ": tokens " << shape.tokens << ", heads " << shape.heads << " over " << shape.key_heads << ", window "
                   << shape.window);
      Draw draw(seed++);
      SoftmaxAttention<double>::Options options;
      options.heads = shape.heads;
      options.window = shape.window;
      options.rotary_part = shape.rotary_part;
      const SoftmaxAttention<double> layer =
          random_local_attention<double>(draw, shape.width, shape.key_heads, options, shape.head_size, carried);
      const Matrix<double> u = draw.normals<double>(shape.tokens, shape.width);
      const SoftmaxAttention<double>::Activations earlier = layer.activations(draw.normals<double>(7, shape.width));
      const SoftmaxAttention<double>::State* initial = carried ? &earlier.final : nullptr;
      check_layer<SoftmaxAttention<double>>(layer, u, [&](const Matrix<double>& value) { return layer.activations(value, initial); }, draw,
                                            {initial, {}});
    }
}

// A layer of someone else's, in a namespace of its own: a gated moving average, out = y = sigmoid(u) * average(u).
namespace foreign {

struct MovingAverage {
  using Scalar = double;
  struct Activations {
    Array<double> x, gate, y, out;
  };
  Index size = 5;
  double decay = 0.8;

  Index width() const { return size; }
  Index channels() const { return size; }
  DiagonalRecurrence<double> recurrence(const Array<double>& gate) const {
    DiagonalRecurrence<double> r;
    r.tokens = gate.rows();
    r.channels = size;
    r.step = Matrix<double>(Matrix<double>::Constant(r.tokens, size, std::log(decay)));
    r.query_scale = gate;
    return r;
  }
  Activations activations(ConstView<double> u) const {
    Activations act;
    act.x = Matrix<double>(u);
    act.gate = sigmoid(u);
    SurroundedDiagonal<double> surrounded;
    surrounded.recurrence = recurrence(act.gate);
    ScanInput<double> input;
    input.x = act.x;
    Matrix<double> y(u.rows(), size);
    scan<double>(surrounded, input, y, serial_executor());
    act.y = y;
    act.out = act.y;
    return act;
  }
  UnifiedForm<double> lower(const Activations& act, Terms) const {
    UnifiedForm<double> form;
    form.recurrence = recurrence(act.gate);
    return form;
  }
};

Array<double> output_projection(const MovingAverage&) { return {}; }
LayerGradients<double> backward_from_y(const MovingAverage& layer, const MovingAverage::Activations& act, ConstView<double> grad_y,
                                       const Executor& executor = serial_executor()) {
  const ScanGradient<double> scan = scan_gradient<double>(layer.recurrence(act.gate), *act.x, {}, grad_y, executor);
  const Matrix<double> gate = act.gate.matrix();
  return {grad_y, scan.input, scan.input + (scan.query_scale.array() * gate.array() * (1 - gate.array())).matrix()};
}

}  // namespace foreign

TEST_CASE("a foreign layer joins by two functions beside it", "[gradient]") {
  static_assert(DifferentiableLayer<foreign::MovingAverage>);
  Draw draw(600);
  const foreign::MovingAverage layer;
  const Matrix<double> u = draw.normals<double>(70, layer.size), grad_out = draw.normals<double>(70, layer.size);
  const LayerGradients<double> gradients = backward(layer, layer.activations(u), grad_out);
  CHECK(gradients.grad_y == grad_out);
  check_gradient(
      "u", u, gradients.grad_u, [&](const Matrix<double>& value) { return dot(layer.activations(value).out.matrix(), grad_out); }, draw);
}

// --- Where finite differences alone do not look ----------------------------------------------------------------------

TEST_CASE("the gradient with respect to the linear input is the total one", "[gradient]") {
  // With u itself as the linear input, and gates that don't depend on u, the two gradients are the same.
  Draw draw(500);
  const Index tokens = 70, channels = 9;
  const Matrix<double> u = draw.normals<double>(tokens, channels), grad_out = draw.normals<double>(tokens, channels);
  {
    Mamba<double>::Weights w = random_mamba<double>(draw, channels, channels, 4, 4, 2, true).weights();
    Matrix<double> in_proj = Matrix<double>::Zero(2 * channels, channels);
    in_proj.topRows(channels).setIdentity();
    w.in_proj_weight = in_proj;
    const Mamba<double> layer(w);
    const LayerGradients<double> gradients = backward(layer, layer.activations(u), grad_out);
    CHECK((gradients.grad_x - gradients.grad_u).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() == 0);
    check_layer<Mamba<double>>(
        layer, u, [&](const Matrix<double>& value) { return layer.activations(value); }, draw);
    const Matrix<double> direct = layer.implicit_attention(layer.activations(u)).apply_transpose(gradients.grad_y);
    CHECK((gradients.grad_x - direct).norm() > 0.01 * direct.norm());  // the scales' own dependence on x is in it
  }
  {
    Griffin<double>::Weights w = random_griffin<double>(draw, channels, 3, 3, 4, true, false).weights();
    w.linear_x_weight = Matrix<double>(Matrix<double>::Identity(channels, channels));
    w.linear_y_weight = Matrix<double>(Matrix<double>::Zero(channels, channels));
    const Griffin<double> layer(w);
    const LayerGradients<double> gradients = backward(layer, layer.activations(u), grad_out);
    CHECK((gradients.grad_x - gradients.grad_u).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() == 0);
    check_layer<Griffin<double>>(
        layer, u, [&](const Matrix<double>& value) { return layer.activations(value); }, draw);
  }
  {  // RWKV-4's weights don't depend on its values: the total derivative is the direct one.
    const Rwkv4<double> layer = random_rwkv4<double>(draw, channels, channels);
    const Rwkv4<double>::Activations act = layer.activations(u);
    const LayerGradients<double> gradients = backward(layer, act, grad_out);
    const Matrix<double> direct = layer.implicit_attention(act).apply_transpose(gradients.grad_y);
    CHECK((gradients.grad_x - direct).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
          1e-14 * direct.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());  // one rounding each
  }
  {  // Nor do softmax weights on theirs.
    SoftmaxAttention<double>::Options options;
    options.heads = 3;
    options.rotary_part = 0.5;
    options.window = 20;
    options.rotary_part = 0.7;
    const SoftmaxAttention<double> layer = random_local_attention<double>(draw, channels, 1, options, 3, true);
    const SoftmaxAttention<double>::Activations act = layer.activations(u);
    const LayerGradients<double> gradients = backward(layer, act, grad_out);
    const Matrix<double> direct = layer.implicit_attention(act).apply_transpose(gradients.grad_y);
    CHECK((gradients.grad_x - direct).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
          1e-13 * direct.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());  // sums in another order
  }
}

TEST_CASE("RWKV-4: gradients at keys of +-900", "[gradient][rwkv4]") {
  const Index tokens = 70, width = 6, channels = 20;
  for (const bool carried : {false, true}) {
    Draw draw(510);
    Rwkv4<double>::Weights w = random_rwkv4<double>(draw, width, channels).weights();
    // The first input is 1, the second alternates: keys near 900, near -900, and from one to the other and back.
    Matrix<double> key_weight = w.key_weight.matrix(), mix = w.time_mix_key.matrix();
    for (Index e = 0; e < channels; ++e) {
      key_weight(e, 0) = e % 4 == 0 ? 900 : e % 4 == 1 ? -900 : 0;
      key_weight(e, 1) = e % 4 == 2 ? 900 : 0;
    }
    mix(0, 0) = mix(0, 1) = 1;
    w.key_weight = key_weight;
    w.time_mix_key = mix;
    const Rwkv4<double> layer(w);
    const auto input = [&](Index count) {
      Matrix<double> u = draw.normals<double>(count, width);
      for (Index token = 0; token < count; ++token) {
        u(token, 0) = 1;
        u(token, 1) = token % 2 == 0 ? 1 : -1;
      }
      return u;
    };
    const Rwkv4<double>::Activations earlier = layer.activations(input(5));
    const Rwkv4<double>::State* initial = carried ? &earlier.final : nullptr;
    const Matrix<double> u = input(tokens), grad_out = draw.normals<double>(tokens, width);
    const Rwkv4<double>::Activations act = layer.activations(u, initial);
    CHECK(act.key.matrix().maxCoeff() > 890);
    CHECK(act.key.matrix().minCoeff() < -890);
    // Steps so short that keys move by a thousandth; a key's own rounding of 1e-13 over such a step leaves 1e-9.
    check_gradient(
        "u", u, backward(layer, act, grad_out).grad_u,
        [&](const Matrix<double>& value) { return dot(layer.activations(value, initial).out.matrix(), grad_out); }, draw, 1e-6);

    Rwkv4<float>::Weights narrow;
    const auto copy = [](const Array<double>& array) { return Array<float>(Matrix<float>(array.matrix().cast<float>())); };
    narrow.time_decay = copy(w.time_decay);
    narrow.time_first = copy(w.time_first);
    narrow.time_mix_key = copy(w.time_mix_key);
    narrow.time_mix_value = copy(w.time_mix_value);
    narrow.time_mix_receptance = copy(w.time_mix_receptance);
    narrow.key_weight = copy(w.key_weight);
    narrow.value_weight = copy(w.value_weight);
    narrow.receptance_weight = copy(w.receptance_weight);
    narrow.output_weight = copy(w.output_weight);
    const Rwkv4<float> narrow_layer(narrow);
    const Matrix<float> narrow_u = u.cast<float>(), narrow_grad = grad_out.cast<float>();
    CHECK(backward(narrow_layer, narrow_layer.activations(narrow_u), narrow_grad).grad_u.allFinite());
  }
}

TEST_CASE("Griffin: gradients where decays are slow, or nothing decays", "[gradient][griffin]") {
  for (const double recurrent_param : {-12.0, -30.0, -60.0, -800.0}) {
    INFO("recurrent_param near " << recurrent_param);
    Draw draw(520);
    const Griffin<double> layer = random_griffin<double>(draw, 4, 2, 3, 3, true, false, recurrent_param);
    const Matrix<double> u = draw.normals<double>(70, 4);
    // At -800 every decay is exactly 1 and nothing is ever written, m being 0.
    check_layer<Griffin<double>>(
        layer, u, [&](const Matrix<double>& value) { return layer.activations(value); }, draw);
    const Griffin<float> narrow = random_griffin<float>(draw, 4, 2, 3, 3, true, false, recurrent_param);
    const Matrix<float> narrow_u = u.cast<float>(), narrow_grad = draw.normals<float>(70, 4);
    CHECK(backward(narrow, narrow.activations(narrow_u), narrow_grad).grad_u.allFinite());
  }
}

TEST_CASE("gates that are shut, and decays to nothing, keep gradients finite and right", "[gradient]") {
  Draw draw(530);
  Mamba<double>::Weights w = random_mamba<double>(draw, 4, 6, 3, 4, 2, true).weights();
  Matrix<double> bias = w.in_proj_bias.matrix(), dt_bias = w.dt_proj_bias.matrix();
  bias.row(0).tail(6) << -1000, -40, 0, 40, 1000, 0;  // silu(z): 0 with slope 0, tiny, around 0, z
  dt_bias.row(0) << -800, -40, 0, 40, 300, 0;         // steps: none, tiny, and so long that every state is forgotten
  w.in_proj_bias = bias;
  w.dt_proj_bias = dt_bias;
  const Mamba<double> layer(w);
  check_layer<Mamba<double>>(
      layer, draw.normals<double>(40, 4), [&](const Matrix<double>& value) { return layer.activations(value); }, draw);
}

TEST_CASE("gradients in float are those in double", "[gradient]") {
  const auto compare = [](const Matrix<float>& found, const Matrix<double>& expected) {
    // Sums of a hundred terms that may cancel, each good to 6e-8.
    CHECK((found.cast<double>() - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
          2e-5 * expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  };
  const auto run = [&]<class Wide, class Narrow>(const Wide& wide, const Narrow& narrow, Draw& draw) {
    const Matrix<float> u = draw.normals<float>(150, wide.width()), grad_out = draw.normals<float>(150, wide.width());
    const Matrix<double> wide_u = u.cast<double>(), wide_grad_out = grad_out.cast<double>();
    const LayerGradients<double> expected = backward(wide, wide.activations(wide_u), wide_grad_out);
    const LayerGradients<float> found = backward(narrow, narrow.activations(u), grad_out);
    compare(found.grad_y, expected.grad_y);
    compare(found.grad_x, expected.grad_x);
    compare(found.grad_u, expected.grad_u);
  };
  Draw wide(540), narrow(540), draw(541);
  run(random_mamba<double>(wide, 8, 21, 4, 4, 2, true), random_mamba<float>(narrow, 8, 21, 4, 4, 2, true), draw);
  run(random_rwkv4<double>(wide, 8, 21), random_rwkv4<float>(narrow, 8, 21), draw);
  run(random_griffin<double>(wide, 8, 3, 7, 4, true, false), random_griffin<float>(narrow, 8, 3, 7, 4, true, false), draw);
}

TEST_CASE("a host's own activations are enough, and what is missing is named", "[gradient]") {
  Draw draw(550);
  const Matrix<double> u = draw.normals<double>(20, 4), grad_y = draw.normals<double>(20, 6), grad_out = draw.normals<double>(20, 4);
  const auto text_of = [](const auto& call) {
    try {
      call();
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::shape);
      return std::string(error.what());
    }
    return std::string("no error");
  };
  {
    const Mamba<double> layer = random_mamba<double>(draw, 4, 6, 3, 4, 2, true);
    const Mamba<double>::Activations all = layer.activations(u);
    Mamba<double>::Activations some;
    some.x = all.x, some.z = all.z, some.dt = all.dt, some.B = all.B, some.C = all.C;
    CHECK(backward_from_y(layer, some, grad_y).grad_u == backward_from_y(layer, all, grad_y).grad_u);
    some.z = {};
    CHECK_THAT(text_of([&] { (void)backward_from_y(layer, some, grad_y); }),
               contains_text("Mamba gradient: activations.z is empty, expected (20, 6) = (tokens, channels)"));
    CHECK_THAT(text_of([&] { (void)backward_from_y(layer, all, grad_out); }),
               contains_text("Mamba gradient: grad_y is (20, 4), expected (20, 6) = (tokens, channels)"));
    CHECK_THAT(text_of([&] { (void)backward(layer, all, grad_y); }), contains_text("backward: grad_out is (20, 6), expected (tokens, 4)"));
    const Matrix<double> short_grad = draw.normals<double>(19, 4);
    CHECK_THAT(text_of([&] { (void)backward(layer, all, short_grad); }), contains_text("grad_y is (19, 6), expected (20, 6)"));
  }
  {
    const Rwkv4<double> layer = random_rwkv4<double>(draw, 4, 6);
    const Rwkv4<double>::Activations all = layer.activations(u);
    Rwkv4<double>::Activations some;
    some.x = all.x, some.key = all.key, some.receptance = all.receptance;
    CHECK(backward_from_y(layer, some, grad_y).grad_u == backward_from_y(layer, all, grad_y).grad_u);
    some.receptance = {};
    CHECK_THAT(text_of([&] { (void)backward_from_y(layer, some, grad_y); }),
               contains_text("Rwkv4 gradient: activations.receptance is empty"));
  }
  {
    const Griffin<double> layer = random_griffin<double>(draw, 4, 2, 3, 4, true, true);
    const Griffin<double>::Activations all = layer.activations(u);
    Griffin<double>::Activations some;
    some.x = all.x, some.gate_input = all.gate_input, some.input_gate = all.input_gate, some.recurrent_gate = all.recurrent_gate;
    some.log_a = all.log_a, some.normalizer = all.normalizer, some.starts = all.starts;
    Matrix<double> log_a = all.log_a.matrix();
    log_a.row(0).setConstant(std::nan(""));  // the first token of a document has no use for it
    some.log_a = log_a;
    CHECK(backward_from_y(layer, some, grad_y).grad_u == backward_from_y(layer, all, grad_y).grad_u);
    some.recurrent_gate = {};
    CHECK_THAT(text_of([&] { (void)backward_from_y(layer, some, grad_y); }),
               contains_text("Griffin gradient: activations.recurrent_gate is empty"));
  }
}

// --- The public implementations --------------------------------------------------------------------------------------

namespace {

// One layer of a golden language model, alone: from the gradient that enters it to the gradient that leaves it, as the public
// implementation has them.
template <class Load>
void check_golden_layer(const std::filesystem::path& path, Index number, const std::string& prefix, const Load& load) {
  const SafetensorsFile file(path);
  const std::string at = detail::message("expected.layer", number, "_");
  const Matrix<double> u = file.read<double>(at + "mixer_in").matrix(), grad_out = file.read<double>(at + "grad_mixer_out").matrix();
  const Matrix<double> expected = file.read<double>(at + "grad_mixer_in").matrix();
  INFO(path.filename().string() << ", " << prefix);
  const double largest = expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
  REQUIRE(largest > 0);

  // Double: sums of a few hundred terms, each good to 1e-16; 1e-15 was seen.
  const SafetensorsSource<double> source(path);
  const auto layer = load(PrefixedTensors<double>(source, prefix));
  const Matrix<double> found = backward(layer, layer.activations(u), grad_out).grad_u;
  CHECK((found - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= 1e-12 * largest);

  // Float: the same, each good to 6e-8; 6e-7 was seen.
  const SafetensorsSource<float> narrow_source(path);
  const auto narrow = load(PrefixedTensors<float>(narrow_source, prefix));
  const Matrix<float> narrow_u = u.cast<float>(), narrow_grad_out = grad_out.cast<float>();
  const Matrix<float> narrow_found = backward(narrow, narrow.activations(narrow_u), narrow_grad_out).grad_u;
  CHECK((narrow_found.cast<double>() - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= 5e-6 * largest);
}

}  // namespace

TEST_CASE("golden gradients: each layer alone, as the public implementations have them", "[gradient][golden]") {
  const auto folder = test_support::shared_data("golden");
  if (!folder) {
    WARN(test_support::shared_data_missing("golden"));
    return;
  }
  const auto path = [&](const char* name) { return *folder / (std::string(name) + ".safetensors"); };
  for (const char* name :
       {"lm_mamba_seed00_layers2_hidden32_L16", "lm_mamba_seed03_layers2_hidden64_L12", "lm_mamba_seed04_L3_lt_conv_layers2_hidden32"})
    for (const Index number : {0, 1})
      check_golden_layer(path(name), number, detail::message("weight.backbone.layers.", number, ".mixer."),
                         []<class S>(const PrefixedTensors<S>& tensors) { return Mamba<S>::from_tensors(tensors); });
  for (const char* name : {"lm_rwkv4_seed00_layers2_hidden32_L16", "lm_rwkv4_seed03_layers2_hidden64_L12"})
    for (const Index number : {0, 1})
      check_golden_layer(path(name), number, detail::message("weight.rwkv.blocks.", number, ".attention."),
                         []<class S>(const PrefixedTensors<S>& tensors) { return Rwkv4<S>::from_tensors(tensors); });
  for (const char* name : {"lm_griffin_seed00_layers3_hidden32_L16", "lm_griffin_seed03_layers3_hidden64_L12"}) {
    for (const Index number : {0, 1})
      check_golden_layer(path(name), number, detail::message("weight.model.layers.", number, ".temporal_block."),
                         []<class S>(const PrefixedTensors<S>& tensors) { return Griffin<S>::from_tensors(tensors); });
    check_golden_layer(path(name), 2, "weight.model.layers.2.temporal_block.", []<class S>(const PrefixedTensors<S>& tensors) {
      typename SoftmaxAttention<S>::Options options;
      options.heads = 4;
      options.rotary_part = 0.5;
      return SoftmaxAttention<S>::from_tensors(tensors, options);
    });
  }
}
