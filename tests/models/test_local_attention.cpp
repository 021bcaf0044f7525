// Local attention against its formula, written out token by token in double; its laws; running in pieces.
#include <cmath>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/layers/softmax_attention.hpp>
#include <models/models.hpp>

namespace {

using namespace models_test;
using test_support::Draw;

struct Shape {
  Index tokens, width, heads, key_heads, size, window;
  double rotary_part;
  bool biases;
};

template <class S>
typename SoftmaxAttention<S>::Weights draw_weights(const Shape& shape, double spread) {
  Draw draw(11);
  const Index E = shape.heads * shape.size, K = shape.key_heads * shape.size;
  typename SoftmaxAttention<S>::Weights w;
  w.q_proj_weight = draw.normals<S>(E, shape.width, spread);
  w.k_proj_weight = draw.normals<S>(K, shape.width, spread);
  w.v_proj_weight = draw.normals<S>(K, shape.width, 0.5);
  w.o_proj_weight = draw.normals<S>(shape.width, E, 0.5);
  w.o_proj_bias = draw.normals<S>(1, shape.width, 0.5);
  if (shape.biases) {
    w.q_proj_bias = draw.normals<S>(1, E, 0.5);
    w.k_proj_bias = draw.normals<S>(1, K, 0.5);
    w.v_proj_bias = draw.normals<S>(1, K, 0.5);
  }
  return w;
}

template <class S>
SoftmaxAttention<S> layer_of(const Shape& shape, double spread = 0.5) {
  return SoftmaxAttention<S>(draw_weights<S>(shape, spread), {shape.heads, shape.window, shape.rotary_part, 10000});
}

/// The weights (heads * tokens, tokens) and y (tokens, E) by the formula.
struct Reference {
  Matrix<double> weights, y;
};
template <class S>
Reference reference_of(const Shape& shape, const typename SoftmaxAttention<S>::Weights& w, const Matrix<S>& u,
                       const std::vector<Index>& positions) {
  const auto projected = [&](const Array<S>& weight, const Array<S>& bias, Index token, Index row) {
    double sum = bias.empty() ? 0 : static_cast<double>(bias(0, row));
    for (Index d = 0; d < shape.width; ++d) sum += static_cast<double>(weight(row, d)) * static_cast<double>(u(token, d));
    return sum;
  };
  const Index rotated = static_cast<Index>(shape.rotary_part * static_cast<double>(shape.size));
  const auto turned = [&](const Array<S>& weight, const Array<S>& bias, Index token, Index head, Index p) {
    const double own = projected(weight, bias, token, head * shape.size + p);
    if (p >= rotated) return own;
    const Index pair = p % (rotated / 2);
    const double angle = static_cast<double>(positions[static_cast<std::size_t>(token)]) *
                         std::pow(10000.0, -2.0 * static_cast<double>(pair) / static_cast<double>(rotated));
    const bool first = p < rotated / 2;
    const double other = projected(weight, bias, token, head * shape.size + (first ? p + rotated / 2 : p - rotated / 2));
    return own * std::cos(angle) + (first ? -other : other) * std::sin(angle);
  };
  Reference result{Matrix<double>::Zero(shape.heads * shape.tokens, shape.tokens),
                   Matrix<double>::Zero(shape.tokens, shape.heads * shape.size)};
  for (Index h = 0; h < shape.heads; ++h) {
    const Index shared = h * shape.key_heads / shape.heads;
    for (Index i = 0; i < shape.tokens; ++i) {
      double total = 0, largest = -1e300;
      std::vector<double> scores(static_cast<std::size_t>(i + 1), -1e300);
      for (Index j = std::max(Index(0), i - shape.window); j <= i; ++j) {
        double score = 0;
        for (Index p = 0; p < shape.size; ++p)
          score += turned(w.q_proj_weight, w.q_proj_bias, i, h, p) * turned(w.k_proj_weight, w.k_proj_bias, j, shared, p);
        scores[static_cast<std::size_t>(j)] = score / std::sqrt(static_cast<double>(shape.size));
        largest = larger(largest, scores[static_cast<std::size_t>(j)]);
      }
      for (double& score : scores) total += score = std::exp(score - largest);
      for (Index j = 0; j <= i; ++j) {
        const double weight = scores[static_cast<std::size_t>(j)] / total;
        result.weights(h * shape.tokens + i, j) = weight;
        for (Index p = 0; p < shape.size; ++p)
          result.y(i, h * shape.size + p) += weight * projected(w.v_proj_weight, w.v_proj_bias, j, shared * shape.size + p);
      }
    }
  }
  return result;
}

const Shape shapes[] = {{7, 5, 4, 1, 4, 3, 0.5, false},
                        {7, 5, 4, 2, 4, 100, 0.5, true},
                        {1, 3, 1, 1, 2, 1, 1.0, true},
                        {9, 6, 3, 3, 6, 0, 0.0, false},
                        {6, 5, 2, 1, 8, 6, 1.0, false}};

// Double: sums of tens of terms. Float: the accuracy asked of every layer.
template <class S>
constexpr double largest_error = std::is_same_v<S, double> ? 1e-13 : 2e-5;

}  // namespace

TEMPLATE_TEST_CASE("local attention is its formula", "[models]", double, float) {
  using S = TestType;
  for (const Shape& shape : shapes)
    for (const double spread : {0.5, 20.0}) {  // ordinary scores, and scores of thousands
      INFO(shape.tokens << " tokens, " << shape.heads << " heads, " << shape.key_heads << " key heads, window " << shape.window
                        << ", spread " << spread);
      const SoftmaxAttention<S> layer = layer_of<S>(shape, spread);
      const Matrix<S> u = Draw(2).normals<S>(shape.tokens, shape.width);
      std::vector<Index> positions;
      for (Index token = 0; token < shape.tokens; ++token) positions.push_back(token < 4 ? token : token - 4);
      const auto act = layer.activations(u, positions);
      const Reference expected = reference_of<S>(shape, layer.weights(), u, positions);
      // Scores of thousands are good to a thousand ulps, and so are their exponentials.
      const double allowed = largest_error<S> * (spread > 1 ? 2000 : 1);
      if (spread > 1 && std::is_same_v<S, float>) {
        CHECK(act.y.matrix().allFinite());
        continue;
      }
      CHECK(relative_error(*act.y, expected.y) < allowed);
      const ImplicitAttention<S> attention = implicit_attention_of(layer, act);
      const AttentionMatrix<S> matrices = attention.materialize();
      for (Index e = 0; e < layer.channels(); ++e)
        CHECK(relative_error(matrices.channel(e),
                             Matrix<double>(expected.weights.middleRows(e / shape.size * shape.tokens, shape.tokens))) < allowed);
      CHECK(relative_error(attention.apply(*act.x), Matrix<double>(act.y.matrix().template cast<double>())) < largest_error<S>);
      CHECK(attention.bias().isZero(0));
      CHECK(attention.carry().isZero(0));
      const Matrix<S> g = Draw(3).normals<S>(shape.tokens, layer.channels());
      CHECK(static_cast<double>(attention.apply(*act.x).cwiseProduct(g).sum()) ==
            Approx(static_cast<double>(attention.apply_transpose(g).cwiseProduct(act.x.matrix()).sum())).epsilon(1e-4));
      const Matrix<S> alone = implicit_attention_of(layer, act, Terms(Term::gate)).apply(*act.x);
      CHECK((alone - act.x.matrix()).isZero(0));
    }
}

TEST_CASE("local attention in pieces is local attention whole, and reports what is carried in", "[models]") {
  for (const Shape& shape : shapes) {
    const SoftmaxAttention<double> layer = layer_of<double>(shape);
    const Matrix<double> u = Draw(4).normals<double>(shape.tokens, shape.width);
    const auto whole = layer.activations(u);
    for (Index piece = 1; piece < shape.tokens; ++piece) {
      INFO("pieces of " << piece << ", window " << shape.window);
      SoftmaxAttention<double>::State state;
      bool first = true;
      for (Index begin = 0; begin < shape.tokens; begin += piece) {
        const Index count = std::min(piece, shape.tokens - begin);
        const auto act = layer.activations(ConstView<double>(u.middleRows(begin, count)), first ? nullptr : &state);
        CHECK(relative_error(*act.y, Matrix<double>(whole.y.matrix().middleRows(begin, count))) < 1e-13);
        CHECK(relative_error(*act.out, Matrix<double>(whole.out.matrix().middleRows(begin, count))) < 1e-13);
        const ImplicitAttention<double> attention = implicit_attention_of(layer, act);
        CHECK(relative_error(attention.apply(*act.x) + attention.bias() + attention.carry(), Matrix<double>(*act.y)) < 1e-13);
        if (!first && shape.window > 0) CHECK_FALSE(attention.carry().isZero(1e-9));
        state = act.final;
        first = false;
        CHECK(state.key.rows() == std::min(begin + count, shape.window));
        CHECK(state.position == begin + count);
      }
    }
  }
}

TEST_CASE("local attention refuses what does not fit", "[models]") {
  const Shape shape = shapes[0];
  const auto says = [](auto call, const std::string& text) {
    try {
      static_cast<void>(call());
      FAIL_CHECK("no error; expected: " << text);
    } catch (const Error& error) {
      CHECK_THAT(error.what(), contains_text(text));
    }
  };
  using Layer = SoftmaxAttention<double>;
  const auto weights = draw_weights<double>(shape, 0.5);
  says([&] { return Layer(weights, {3, 4, 0.5, 10000}); }, "q_proj.weight is (16, 5), expected (heads * head size, width) with 3 heads");
  says([&] { return Layer(weights, {0, 4, 0.5, 10000}); }, "with 0 heads");
  says(
      [&] {
        return Layer(weights, {2, 4, 0.5, 10000});
      },
      "k_proj.weight is (4, 5), expected (key heads * head size, width) with head size 8");
  says([&] { return Layer(weights, {4, -1, 0.5, 10000}); }, "window is -1");
  says([&] { return Layer(weights, {4, 4, 0.75, 10000}); }, "rotates 3 numbers, expected an even number");
  says([&] { return Layer(weights, {4, 4, 0.5, 0}); }, "rotary_base is 0");
  says([&] { return Layer({}, {}); }, "q_proj.weight is empty");
  const Layer layer(weights, {4, 4, 0.5, 10000});
  const Matrix<double> u = Matrix<double>::Zero(3, 5);
  says([&] { return layer.activations(u, std::vector<Index>{0, 1}); }, "positions are (2), expected (3) = (tokens)");
  says([&] { return layer.activations(Matrix<double>(Matrix<double>::Zero(3, 4))); }, "the input is (3, 4), expected (tokens, 5)");
  Layer::State state;
  state.key = Matrix<double>::Zero(2, 5);
  state.value = Matrix<double>::Zero(2, 4);
  says([&] { return layer.activations(u, &state); }, "state.key is (2, 5), expected (2, 4)");
}
