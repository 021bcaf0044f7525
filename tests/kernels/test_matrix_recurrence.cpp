// Recurrences that are matrices by themselves, and what surrounds a head's matrix (gate, skip, activation, convolution with masks, joins),
// against dense products of factors that plain loops make from the equations.
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/kernels/reducers.hpp>
#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

enum class MatrixKind { diagonal, delta, softmax, softmax_both_ways, softmax_window, toeplitz, given, given_both_ways };

/// A recurrence and the matrix of each of its heads.
template <class Scalar>
struct Case {
  SharedMatrix<Scalar> matrix;
  std::vector<Matrix<double>> heads;
  bool causal = true;
};

/// softmax(cap(scale q k)) over what each row sees, (tokens, tokens) and the past before it.
template <class Scalar>
Matrix<double> softmax_by_equation(const SoftmaxRecurrence<Scalar>& r, Index head) {
  const Index size = r.query.cols() / r.heads, key_head = head / (r.heads / r.key_heads), past = r.past_key.rows();
  Matrix<double> weights = Matrix<double>::Zero(r.tokens, past + r.tokens);
  for (Index i = 0; i < r.tokens; ++i) {
    const auto score = [&](const Array<Scalar>& keys, Index j) {
      double sum = 0;
      for (Index n = 0; n < size; ++n)
        sum += static_cast<double>(r.query(i, head * size + n)) * static_cast<double>(keys(j, key_head * size + n));
      sum *= static_cast<double>(r.scale);
      const double cap = static_cast<double>(r.soft_cap);
      return cap > 0 ? cap * std::tanh(sum / cap) : sum;
    };
    double total = 0;
    for (Index j = -past; j < r.tokens; ++j) {
      if (r.causal && j > i) continue;
      if (r.window >= 0 && j < i - r.window) continue;
      total += weights(i, past + j) = std::exp(j < 0 ? score(r.past_key, past + j) : score(r.key, j));
    }
    weights.row(i) /= total;
  }
  return weights;
}

template <class Scalar>
SoftmaxRecurrence<Scalar> make_softmax(MatrixKind kind, Index tokens, std::uint64_t seed) {
  Draw draw(seed);
  SoftmaxRecurrence<Scalar> r;
  r.tokens = tokens;
  r.heads = 4;
  r.key_heads = 2;
  r.channels = 20;
  r.causal = kind != MatrixKind::softmax_both_ways;
  r.window = kind == MatrixKind::softmax_window ? 6 : -1;
  r.scale = Scalar(0.5);
  r.soft_cap = seed % 2 == 0 ? Scalar(2) : Scalar(0);
  r.query = draw.normals<Scalar>(tokens, 4 * 3);
  r.key = draw.normals<Scalar>(tokens, 2 * 3);
  if (kind != MatrixKind::softmax_both_ways) {
    r.past_key = draw.normals<Scalar>(5, 2 * 3);
    r.past_value = draw.normals<Scalar>(5, 2 * 5);
  }
  r.check();
  return r;
}

template <class Scalar>
Case<Scalar> make_case(MatrixKind kind, Index tokens, std::uint64_t seed) {
  Draw draw(seed);
  Case<Scalar> made;
  if (kind == MatrixKind::diagonal || kind == MatrixKind::delta) {
    Plan plan;
    plan.transition = kind == MatrixKind::delta ? Transition::delta : Transition::diagonal;
    plan.tokens = tokens;
    plan.heads = 4;
    plan.groups = 2;
    plan.state = 5;
    plan.values = 5;
    plan.starts = seed % 2 == 0;
    plan.diagonal = seed % 3 == 0;
    plan.decay = seed % 5 == 0 ? Decay::state : Decay::head;
    plan.seed = seed;
    const HeadRecurrence<Scalar> r = make<Scalar>(plan);
    for (Index h = 0; h < r.heads; ++h) made.heads.push_back(matrix_by_equation(r, h));
    made.matrix = SharedMatrix<Scalar>(r);
  } else if (kind == MatrixKind::toeplitz) {
    ToeplitzRecurrence<Scalar> r;
    r.tokens = tokens;
    r.channels = r.heads = 7;
    r.kernel = draw.normals<Scalar>(r.channels, seed % 2 == 0 ? tokens + 2 : 5);
    for (Index h = 0; h < r.heads; ++h) {
      Matrix<double> matrix = Matrix<double>::Zero(tokens, tokens);
      for (Index i = 0; i < tokens; ++i)
        for (Index j = 0; j <= i; ++j)
          if (i - j < r.kernel.cols()) matrix(i, j) = static_cast<double>(r.kernel(h, i - j));
      made.heads.push_back(matrix);
    }
    made.matrix = SharedMatrix<Scalar>(r);
  } else if (kind == MatrixKind::given || kind == MatrixKind::given_both_ways) {
    ExplicitRecurrence<Scalar> r;
    r.tokens = tokens;
    r.heads = 2;
    r.channels = 18;
    r.causal = made.causal = kind == MatrixKind::given;
    Matrix<Scalar> weights = draw.normals<Scalar>(2 * tokens, tokens);
    for (Index h = 0; h < 2; ++h) {
      if (r.causal)
        for (Index i = 0; i < tokens; ++i) weights.row(h * tokens + i).tail(tokens - 1 - i).setZero();
      made.heads.push_back(weights.middleRows(h * tokens, tokens).template cast<double>());
    }
    r.weights = weights;
    made.matrix = SharedMatrix<Scalar>(r);
  } else {
    const SoftmaxRecurrence<Scalar> r = make_softmax<Scalar>(kind, tokens, seed);
    made.causal = r.causal;
    for (Index h = 0; h < r.heads; ++h) made.heads.push_back(softmax_by_equation(r, h).rightCols(tokens));
    made.matrix = SharedMatrix<Scalar>(r);
  }
  return made;
}

/// Random surroundings; each bit of `parts` is something that is there.
template <class Scalar>
Surrounded<SharedMatrix<Scalar>> surround(const Case<Scalar>& made, unsigned parts, Index width, Draw& draw) {
  Surrounded<SharedMatrix<Scalar>> s;
  s.recurrence = made.matrix;
  const Index tokens = made.matrix.tokens, channels = made.matrix.channels;
  const auto has = [&](unsigned bit) { return (parts >> bit & 1u) != 0; };
  if (has(0)) s.gate = draw.normals<Scalar>(tokens, channels);
  if (has(1)) s.skip = draw.normals<Scalar>(1, channels);
  if (has(2)) s.activation = draw.normals<Scalar>(tokens, channels);
  if (has(3)) s.taps = draw.normals<Scalar>(width, channels);
  if (has(3) && has(4))
    for (const Index start : {Index(2), Index(5), Index(33), Index(64)})
      if (start < tokens) s.convolution_starts.push_back(start);
  if (has(5)) s.column_weights = draw.normals<Scalar>(tokens, channels);
  if (has(6)) s.row_weights = draw.normals<Scalar>(tokens, channels);
  return s;
}

/// gate (R + skip) act Conv column_weights of one channel, multiplied out.
template <class Scalar>
Matrix<double> dense(const Surrounded<SharedMatrix<Scalar>>& s, const Matrix<double>& recurrence, Index e, bool row_weights) {
  const Index tokens = recurrence.rows();
  const auto at = [](const Array<Scalar>& array, Index i, Index j) { return array.empty() ? 1.0 : static_cast<double>(array(i, j)); };
  Matrix<double> inner = recurrence, conv = Matrix<double>::Zero(tokens, tokens);
  const Index width = s.taps.empty() ? 1 : s.taps.rows();
  for (Index i = 0; i < tokens; ++i) {
    if (!s.skip.empty()) inner(i, i) += static_cast<double>(s.skip(0, e));
    inner.col(i) *= at(s.activation, i, e);
    inner.row(i) *= 1.0;
    for (Index j = std::max(i - width + 1, Index(0)); j <= i; ++j) {
      bool apart = false;
      for (const Index start : s.convolution_starts) apart = apart || (j < start && start <= i);
      if (!apart) conv(i, j) = at(s.taps, width - 1 - (i - j), e) * at(s.column_weights, j, e);
    }
  }
  Matrix<double> whole = Matrix<double>::Zero(tokens, tokens);
  for (Index i = 0; i < tokens; ++i)
    for (Index j = 0; j < tokens; ++j) {
      double sum = 0;
      for (Index t = j; t < std::min(j + width, tokens); ++t) sum += inner(i, t) * conv(t, j);
      whole(i, j) = sum * at(s.gate, i, e) * (row_weights ? at(s.row_weights, i, e) : 1.0);
    }
  return whole;
}

template <class Scalar, class Got>
void check_matrix(const Got& got, const Matrix<double>& expected, const char* what) {
  INFO(what);
  REQUIRE(got.rows() == expected.rows());
  const double largest = expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
  double worst = 0;
  for (Index i = 0; i < got.rows(); ++i) {
    const double scale = std::max(expected.row(i).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(), 1e-2 * largest);
    for (Index j = 0; j < got.cols(); ++j) {
      const double error = std::abs(static_cast<double>(got(i, j)) - expected(i, j)) / std::max(scale, 0.1);
      worst = error >= 0 && error <= worst ? worst : error;
    }
  }
  CHECK(worst <= (sizeof(Scalar) == 4 ? 1e-5 : 1e-13));  // some hundred roundings
}

template <class Scalar>
void check_case(MatrixKind kind, Index tokens, unsigned parts, Index width, std::uint64_t seed) {
  INFO("kind " << static_cast<int>(kind) << ", tokens " << tokens << ", parts " << parts << ", width " << width << ", seed " << seed << ", "
               << (sizeof(Scalar) == 4 ? "float" : "double"));
  Draw draw(seed);
  const Case<Scalar> made = make_case<Scalar>(kind, tokens, seed);
  Surrounded<SharedMatrix<Scalar>> s = surround(made, parts, width, draw);
  const Index channels = made.matrix.channels;
  std::vector<Matrix<double>> maps;
  for (Index e = 0; e < channels; ++e) maps.push_back(dense(s, made.heads[static_cast<std::size_t>(made.matrix.head(e))], e, true));
  // All, and a choice of channels and rows, out of order and twice.
  std::vector<Index> all_channels, all_rows, some_rows{tokens - 1, 0, tokens / 2, tokens / 2};
  for (Index e = 0; e < channels; ++e) all_channels.push_back(e);
  for (Index i = 0; i < tokens; ++i) all_rows.push_back(i);
  for (Index i = tokens / 3; i < tokens; i += 1 + i % 5 / 4) some_rows.push_back(i);
  const std::vector<Index> some_channels{channels - 1, 0, 1, channels / 2, channels / 2};
  const auto pool = thread_executor(3);
  for (const auto& lists :
       {std::pair(all_channels, all_rows), std::pair(some_channels, some_rows), std::pair(all_channels, std::vector<Index>{tokens - 1})}) {
    const std::vector<Index>&channel_list = lists.first, &row_list = lists.second;
    const Index count = static_cast<Index>(row_list.size()), chosen = static_cast<Index>(channel_list.size());
    Matrix<double> expected(chosen * count, tokens);
    for (Index c = 0; c < chosen; ++c)
      for (Index i = 0; i < count; ++i)
        expected.row(c * count + i) =
            maps[static_cast<std::size_t>(channel_list[static_cast<std::size_t>(c)])].row(row_list[static_cast<std::size_t>(i)]);
    Matrix<Scalar> rows = Matrix<Scalar>::Constant(chosen * count, tokens, Scalar(7)), again = rows;
    attention_rows(s, channel_list, row_list, View<Scalar>(rows), serial_executor());
    check_matrix<Scalar>(rows, expected, "rows");
    attention_rows(s, channel_list, row_list, View<Scalar>(again), pool);
    CHECK((rows.array() == again.array()).all());
    if (made.causal) {
      bool zeros = true;
      for (Index c = 0; c < chosen; ++c)
        for (Index i = 0; i < count; ++i)
          zeros = zeros && (rows.row(c * count + i).tail(tokens - 1 - row_list[static_cast<std::size_t>(i)]).array() == Scalar(0)).all();
      CHECK(zeros);
    }
    const auto joined = [&](const auto& reducer, Scalar initial, const char* what, const auto& join) {
      Matrix<double> whole = Matrix<double>::Constant(count, tokens, static_cast<double>(initial));
      for (Index c = 0; c < chosen; ++c)
        for (Index i = 0; i < count; ++i)
          for (Index j = 0; j < tokens; ++j) whole(i, j) = join(whole(i, j), expected(c * count + i, j));
      Matrix<Scalar> reduced = Matrix<Scalar>::Constant(count, tokens, Scalar(7)), other = reduced;
      reduced_rows(s, channel_list, row_list, View<Scalar>(reduced), serial_executor(), reducer, initial);
      check_matrix<Scalar>(reduced, whole, what);
      reduced_rows(s, channel_list, row_list, View<Scalar>(other), pool, reducer, initial);
      CHECK((reduced.array() == other.array()).all());
    };
    constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
    joined(detail::Add{}, Scalar(0), "sum", [](double a, double b) { return a + b; });
    joined(detail::AddAbsolute{}, Scalar(0), "sum of absolute values", [](double a, double b) { return a + std::abs(b); });
    joined(detail::AddPositive{}, Scalar(0), "sum of positive parts", [](double a, double b) { return a + std::max(b, 0.0); });
    joined(detail::Largest{}, -infinity, "largest", [](double a, double b) { return std::max(a, b); });
    joined(detail::Smallest{}, infinity, "smallest", [](double a, double b) { return std::min(a, b); });
  }

  s.row_weights = {};
  const Matrix<Scalar> x = draw.normals<Scalar>(tokens, channels), g = draw.normals<Scalar>(tokens, channels);
  Matrix<double> forward(tokens, channels), backward(tokens, channels);
  for (Index e = 0; e < channels; ++e) {
    const Matrix<double> map = dense(s, made.heads[static_cast<std::size_t>(made.matrix.head(e))], e, false);
    forward.col(e) = map * x.col(e).template cast<double>();
    backward.col(e) = map.transpose() * g.col(e).template cast<double>();
  }
  ScanInput<Scalar> input;
  input.x = Array<Scalar>::view(x);
  Matrix<Scalar> out(tokens, channels), many(tokens, channels);
  scan(s, input, View<Scalar>(out), serial_executor());
  check_matrix<Scalar>(out, forward, "application");
  scan(s, input, View<Scalar>(many), pool);
  CHECK((out.array() == many.array()).all());
  scan_transposed(s, ConstView<Scalar>(g), View<Scalar>(out), serial_executor());
  check_matrix<Scalar>(out, backward, "transpose");
  scan_transposed(s, ConstView<Scalar>(g), View<Scalar>(many), pool);
  CHECK((out.array() == many.array()).all());
}

const std::vector<MatrixKind> kinds{MatrixKind::diagonal,       MatrixKind::delta,    MatrixKind::softmax, MatrixKind::softmax_both_ways,
                                    MatrixKind::softmax_window, MatrixKind::toeplitz, MatrixKind::given,   MatrixKind::given_both_ways};

}  // namespace

TEST_CASE("rows, joins and applications of every matrix with everything around it are the dense product of its factors") {
  std::uint64_t seed = 0;
  for (const MatrixKind kind : kinds)
    for (const Index tokens : {1, 2, 7, 35, 100})
      for (const unsigned parts : {0u, 0b1000u, 0b1111u, 0b1111111u, 0b1100111u, 0b0101010u}) {
        const Index width = ++seed % 3 == 0 ? 2 : seed % 3 == 1 ? 4 : 6;
        check_case<double>(kind, tokens, parts, width, seed);
        if (seed % 2 == 0) check_case<float>(kind, tokens, parts, width, seed);
      }
}

TEMPLATE_TEST_CASE("rows that are written in several stretches, past the caches: a skip's convolution reaches over their ends", "", double,
                   float) {
  using Scalar = TestType;
  const Index tokens = GENERATE(1040, 1043);                // whole lines, and rows that begin anywhere in one
  const unsigned parts = GENERATE(0b1111111u, 0b0001111u);  // with column weights and documents, and without
  for (const Transition transition : {Transition::diagonal, Transition::delta}) {
    Plan plan;
    plan.transition = transition;
    plan.tokens = tokens;
    plan.heads = 4;
    plan.groups = 2;
    plan.state = 5;
    plan.values = 13;  // a result of over 4 MiB
    plan.seed = 3;
    Case<Scalar> made;
    made.matrix = SharedMatrix<Scalar>(make<Scalar>(plan));
    Draw draw(3);
    Surrounded<SharedMatrix<Scalar>> s = surround(made, parts, 4, draw);
    s.row_weights = {};
    const Index channels = made.matrix.channels;
    const Matrix<Scalar> x = draw.normals<Scalar>(plan.tokens, channels);
    ScanInput<Scalar> input;
    input.x = Array<Scalar>::view(x);
    Matrix<Scalar> applied(plan.tokens, channels);
    scan(s, input, View<Scalar>(applied), serial_executor());
    std::vector<Index> every_channel, some_rows;
    for (Index e = 0; e < channels; ++e) every_channel.push_back(e);
    for (const Index end : {256, 512, 1024})
      for (Index row = end - 2; row < end + 5; ++row) some_rows.push_back(row);
    const Index count = static_cast<Index>(some_rows.size());
    Matrix<Scalar> rows(channels * count, plan.tokens);
    attention_rows(s, every_channel, some_rows, View<Scalar>(rows), serial_executor());
    const double largest = static_cast<double>(applied.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    REQUIRE(largest > 0);
    double worst = 0;
    for (Index e = 0; e < channels; ++e)
      for (Index i = 0; i < count; ++i) {
        const double error =
            std::abs(static_cast<double>(rows.row(e * count + i).dot(x.col(e)) - applied(some_rows[static_cast<std::size_t>(i)], e)));
        worst = error >= 0 && error <= worst ? worst : error;
      }
    CHECK(worst < (sizeof(Scalar) == 4 ? 1e-5 : 1e-11) * largest);
  }
}

TEMPLATE_TEST_CASE("rows with an infinite gate are infinite by the sign of what it multiplies, those with a tiny one are its products", "",
                   double, float) {
  using Scalar = TestType;
  const unsigned parts = GENERATE(0b0001111u, 0b0111111u);  // by taps, and by factors
  constexpr Scalar infinite = std::numeric_limits<Scalar>::infinity(), tiny = std::numeric_limits<Scalar>::min() / 1024;
  Plan plan;
  plan.tokens = 67;
  plan.heads = 2;
  plan.state = 3;
  plan.values = 4;
  plan.seed = 5;
  Case<Scalar> made;
  made.matrix = SharedMatrix<Scalar>(make<Scalar>(plan));
  Draw draw(5);
  Surrounded<SharedMatrix<Scalar>> s = surround(made, parts, 4, draw);
  s.activation = Matrix<Scalar>(s.activation.matrix() * Scalar(1e6));
  std::vector<Index> every_channel, every_row;
  for (Index e = 0; e < made.matrix.channels; ++e) every_channel.push_back(e);
  for (Index i = 0; i < plan.tokens; ++i) every_row.push_back(i);
  const auto rows_with = [&](Scalar first, Scalar second) {
    Matrix<Scalar> gate = s.gate.matrix();
    gate.row(40).setConstant(first);
    gate.row(50).setConstant(second);
    s.gate = gate;
    Matrix<Scalar> rows(made.matrix.channels * plan.tokens, plan.tokens);
    attention_rows(s, every_channel, every_row, View<Scalar>(rows), serial_executor());
    return rows;
  };
  const Matrix<Scalar> plain = rows_with(1, 1), scaled = rows_with(infinite, tiny);
  Index seen = 0;
  double worst = 0, largest = 0;
  for (Index e = 0; e < made.matrix.channels; ++e)
    for (Index j = 0; j < plan.tokens; ++j) {
      const Index first = e * plan.tokens + 40, second = e * plan.tokens + 50;
      if (plain(first, j) != Scalar(0)) CHECK(scaled(first, j) == plain(first, j) * infinite);
      // Taps times a gate of that size would have lost digits before anything large was multiplied with them.
      worst = std::max(
          worst, std::abs(static_cast<double>(scaled(second, j)) - static_cast<double>(plain(second, j)) * static_cast<double>(tiny)));
      largest = std::max(largest, std::abs(static_cast<double>(plain(second, j)) * static_cast<double>(tiny)));
      seen += plain(first, j) != Scalar(0);
    }
  CHECK(seen > 100);
  CHECK(worst <= 1e-6 * largest);
}

TEST_CASE("the gradient of a convolution's kernel is the double loop over its lags, the last one too") {
  for (const Index length : {1, 4, 9, 12}) {
    Draw draw(static_cast<std::uint64_t>(length));
    ToeplitzRecurrence<double> r;
    r.tokens = 9;
    r.channels = r.heads = 3;
    r.kernel = draw.normals<double>(3, length);
    const Matrix<double> x = draw.normals<double>(r.tokens, r.channels), g = draw.normals<double>(r.tokens, r.channels);
    const Matrix<double> gradient = toeplitz_kernel_gradient<double>(r, x, g);
    REQUIRE(gradient.rows() == 3);
    REQUIRE(gradient.cols() == length);
    for (Index e = 0; e < 3; ++e)
      for (Index lag = 0; lag < length; ++lag) {
        double sum = 0;  // of y[i] = sum_lag kernel[lag] x[i - lag]
        for (Index i = lag; i < r.tokens; ++i) sum += g(i, e) * x(i - lag, e);
        CHECK(std::abs(gradient(e, lag) - sum) < 1e-13);
      }
  }
}

TEMPLATE_TEST_CASE("single rows of softmax attention are the same bits whatever heads are asked for with them, of every head size", "",
                   double, float) {
  using Scalar = TestType;
  constexpr Index tokens = 41;
  for (const MatrixKind kind : {MatrixKind::softmax, MatrixKind::softmax_window, MatrixKind::softmax_both_ways})
    for (const Index size : {1, 3, 4, 16, 19, 37}) {  // less than a register, some of them, and numbers that are left
      SoftmaxRecurrence<Scalar> r = make_softmax<Scalar>(kind, tokens, 7);
      Draw draw(static_cast<std::uint64_t>(size));
      r.query = draw.normals<Scalar>(tokens, 4 * size);
      r.key = draw.normals<Scalar>(tokens, 2 * size);
      r.past_key = draw.normals<Scalar>(5, 2 * size);
      r.past_value = draw.normals<Scalar>(5, 2 * 5);
      r.check();
      std::vector<Matrix<double>> expected;
      for (Index head = 0; head < 4; ++head) expected.push_back(softmax_by_equation(r, head));
      for (Index row = 0; row < tokens; ++row) {
        INFO("kind " << static_cast<int>(kind) << ", size " << size << ", row " << row);
        Matrix<Scalar> all(4, tokens), some(3, tokens), alone(1, tokens);
        head_rows(SharedMatrix<Scalar>(r), {0, 1, 2, 3}, {row}, View<Scalar>(all), serial_executor());
        head_rows(SharedMatrix<Scalar>(r), {1, 2, 3}, {row}, View<Scalar>(some), thread_executor(2));  // 1 and 2: of two key heads
        Index differ = 0;
        double error = 0;
        for (Index head = 0; head < 4; ++head) {
          head_rows(SharedMatrix<Scalar>(r), {head}, {row}, View<Scalar>(alone), serial_executor());
          differ += alone.row(0) != all.row(head);
          if (head > 0) differ += some.row(head - 1) != all.row(head);
          const Matrix<double> own = expected[static_cast<std::size_t>(head)].row(row).tail(tokens);
          error = std::max(error, (alone.template cast<double>() - own).cwiseAbs().maxCoeff());
        }
        CHECK(differ == 0);
        CHECK(error < (sizeof(Scalar) == 4 ? 2e-5 : 1e-14));
      }
    }
}

TEST_CASE("softmax attention takes in what was carried in, and its gradient is that of finite differences") {
  for (const MatrixKind kind : {MatrixKind::softmax, MatrixKind::softmax_window, MatrixKind::softmax_both_ways})
    for (const std::uint64_t seed : {1u, 2u}) {
      const Index tokens = 9;
      const Case<double> made = make_case<double>(kind, tokens, seed);
      const SoftmaxRecurrence<double> r = make_softmax<double>(kind, tokens, seed);
      Draw draw(seed);
      const Matrix<double> x = draw.normals<double>(tokens, r.channels), g = draw.normals<double>(tokens, r.channels);
      const auto output = [&](const SoftmaxRecurrence<double>& moved) {
        const Index values = moved.channels / moved.heads, past = moved.past_key.rows();
        Matrix<double> out(tokens, moved.channels);
        for (Index h = 0; h < moved.heads; ++h) {
          const Matrix<double> weights = softmax_by_equation(moved, h);
          out.middleCols(h * values, values) = weights.rightCols(tokens) * x.middleCols(h * values, values);
          if (past > 0)
            out.middleCols(h * values, values) +=
                weights.leftCols(past) * moved.past_value.matrix().middleCols(h / (moved.heads / moved.key_heads) * values, values);
        }
        return out;
      };
      Matrix<double> out(tokens, r.channels);
      matrix_apply(made.matrix, Array<double>::view(x), Array<double>(), View<double>(out), serial_executor());
      out += softmax_carry(r, serial_executor());
      CHECK((out - output(r)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-13);
      const SoftmaxGradient<double> gradient = softmax_gradient(r, ConstView<double>(x), ConstView<double>(g), serial_executor());
      const auto difference = [&](Array<double> SoftmaxRecurrence<double>::*member, const Matrix<double>& found) {
        const Matrix<double> numbers = (r.*member).matrix();
        double worst = 0;
        for (Index i = 0; i < numbers.size(); ++i) {
          SoftmaxRecurrence<double> moved = r;
          Matrix<double> up = numbers, down = numbers;
          up.data()[i] += 1e-5;
          down.data()[i] -= 1e-5;
          moved.*member = up;
          const double above = output(moved).cwiseProduct(g).sum();
          moved.*member = down;
          worst = larger(worst, std::abs((above - output(moved).cwiseProduct(g).sum()) / 2e-5 - found.data()[i]));
        }
        return worst;
      };
      CHECK(difference(&SoftmaxRecurrence<double>::query, gradient.query) < 1e-8);
      CHECK(difference(&SoftmaxRecurrence<double>::key, gradient.key) < 1e-8);
    }
}

TEST_CASE("around a matrix, a token that is not a number spoils what depends on it and nothing else") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (const MatrixKind kind : kinds) {
    const Index tokens = 80, bad = 37;
    Case<double> made = make_case<double>(kind, tokens, 3);
    Draw draw(4);
    Surrounded<SharedMatrix<double>> s = surround(made, 0b0001111u, 4, draw);
    INFO("kind " << static_cast<int>(kind));
    const Index channels = made.matrix.channels;
    // The input of one token: rows before it are untouched, and later ones where a path leads to them.
    Matrix<double> x = draw.normals<double>(tokens, channels);
    const Matrix<double> clean = x;
    x.row(bad).setConstant(nan);
    ScanInput<double> input;
    input.x = Array<double>::view(x);
    Matrix<double> out(tokens, channels), without(tokens, channels);
    scan(s, input, View<double>(out), serial_executor());
    input.x = Array<double>::view(clean);
    scan(s, input, View<double>(without), serial_executor());
    bool right = true;
    for (Index e = 0; e < channels; ++e) {
      const Matrix<double>& matrix = made.heads[static_cast<std::size_t>(made.matrix.head(e))];
      for (Index i = 0; i < tokens; ++i) {
        const bool seen =
            (!made.causal || i >= bad) &&
            matrix.row(i).segment(bad, std::min<Index>(4, tokens - bad)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0;
        if (made.causal && i < bad) right = right && std::abs(out(i, e) - without(i, e)) < 1e-12;
        if (seen) right = right && std::isnan(out(i, e));
      }
    }
    CHECK(right);
    // A^T g: tokens behind the bad one take nothing from it.
    if (made.causal) {
      scan_transposed(s, ConstView<double>(x), View<double>(out), serial_executor());
      scan_transposed(s, ConstView<double>(clean), View<double>(without), serial_executor());
      CHECK((out - without).bottomRows(tokens - 1 - bad).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
      CHECK(out.row(bad).array().isNaN().all());
    }
    // An activation: columns that the convolution carries to it, in rows from it on.
    Matrix<double> activation = s.activation.matrix();
    activation.row(bad).setConstant(nan);
    s.activation = activation;
    std::vector<Index> all_channels, all_rows;
    for (Index e = 0; e < channels; ++e) all_channels.push_back(e);
    for (Index i = 0; i < tokens; ++i) all_rows.push_back(i);
    Matrix<double> rows(channels * tokens, tokens);
    attention_rows(s, all_channels, all_rows, View<double>(rows), serial_executor());
    Matrix<double> sum(tokens, tokens), absolute(tokens, tokens);
    reduced_rows(s, all_channels, all_rows, View<double>(sum), serial_executor(), detail::Add{}, 0.0);
    reduced_rows(s, all_channels, all_rows, View<double>(absolute), serial_executor(), detail::AddAbsolute{}, 0.0);
    right = true;
    for (Index i = 0; i < tokens; ++i)
      for (Index j = 0; j < tokens; ++j) {
        const bool reaches = j <= bad && bad < j + 4 && (!made.causal || bad <= i);
        // Where no path leads from the row to the bad token, it does not matter; a window's zeros are such.
        const bool seen = reaches && std::abs(made.heads[0](i, bad)) > 0;
        for (Index e = 0; e < made.matrix.head_channels(); ++e) {
          if (seen) right = right && std::isnan(rows(e * tokens + i, j));
          if (!reaches) right = right && std::isfinite(rows(e * tokens + i, j));
        }
        if (!reaches) right = right && std::isfinite(sum(i, j)) && std::isfinite(absolute(i, j));
        if (seen) right = right && std::isnan(sum(i, j)) && std::isnan(absolute(i, j));
      }
    CHECK(right);
  }
}
