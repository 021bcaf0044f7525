// Recurrences of every kind that have one matrix a head, random surroundings of them (gate, skip, activation, convolution with masks), and
// the dense products of their factors that plain loops make from the equations.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include "head_cases.hpp"

namespace matrix_cases {

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

inline const std::vector<MatrixKind> kinds{
    MatrixKind::diagonal,       MatrixKind::delta,    MatrixKind::softmax, MatrixKind::softmax_both_ways,
    MatrixKind::softmax_window, MatrixKind::toeplitz, MatrixKind::given,   MatrixKind::given_both_ways};

/// A random recurrence of a kind with random surroundings, and the dense matrix of every channel, (tokens, tokens).
template <class Scalar>
struct SurroundedCase {
  Draw draw;
  Case<Scalar> made;
  Surrounded<SharedMatrix<Scalar>> surrounded;
  std::vector<Matrix<double>> maps;

  SurroundedCase(MatrixKind kind, Index tokens, unsigned parts, Index width, std::uint64_t seed)
      : draw(seed), made(make_case<Scalar>(kind, tokens, seed)), surrounded(surround(made, parts, width, draw)) {
    for (Index e = 0; e < made.matrix.channels; ++e) maps.push_back(map_of(e, true));
  }
  [[nodiscard]] Matrix<double> map_of(Index channel, bool row_weights) const {
    return dense(surrounded, made.heads[static_cast<std::size_t>(made.matrix.head(channel))], channel, row_weights);
  }

  /// Calls body(channels, rows, expected) with all channels and rows, with a choice of both, out of order and twice, and with one row;
  /// `expected` is (channels * rows, tokens).
  template <class Body>
  void for_choices(const Body& body) const {
    const Index channels = made.matrix.channels, tokens = made.matrix.tokens;
    std::vector<Index> all_channels, all_rows, some_rows{tokens - 1, 0, tokens / 2, tokens / 2};
    for (Index e = 0; e < channels; ++e) all_channels.push_back(e);
    for (Index i = 0; i < tokens; ++i) all_rows.push_back(i);
    for (Index i = tokens / 3; i < tokens; i += 1 + i % 5 / 4) some_rows.push_back(i);
    const std::vector<Index> some_channels{channels - 1, 0, 1, channels / 2, channels / 2};
    for (const auto& lists : {std::pair(all_channels, all_rows), std::pair(some_channels, some_rows),
                              std::pair(all_channels, std::vector<Index>{tokens - 1})}) {
      Matrix<double> expected(static_cast<Index>(lists.first.size() * lists.second.size()), tokens);
      Index place = 0;
      for (const Index channel : lists.first)
        for (const Index row : lists.second) expected.row(place++) = maps[static_cast<std::size_t>(channel)].row(row);
      body(lists.first, lists.second, expected);
    }
  }
};

/// Calls body(kind, tokens, parts, width, seed, in_float) over all kinds, lengths and surroundings.
template <class Body>
void for_surroundings(const Body& body) {
  std::uint64_t seed = 0;
  for (const MatrixKind kind : kinds)
    for (const Index tokens : {1, 2, 7, 35, 100})
      for (const unsigned parts : {0u, 0b1000u, 0b1111u, 0b1111111u, 0b1100111u, 0b0101010u}) {
        const Index width = ++seed % 3 == 0 ? 2 : seed % 3 == 1 ? 4 : 6;
        INFO("kind " << static_cast<int>(kind) << ", tokens " << tokens << ", parts " << parts << ", width " << width << ", seed " << seed);
        body(kind, tokens, parts, width, seed, seed % 2 == 0);
      }
}

}  // namespace matrix_cases
