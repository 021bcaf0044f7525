// Random diagonal recurrences and what surrounds them, of every kind, also such as no architecture has; and their matrices by definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include <support/random.hpp>

#include <implicit_attention/kernels/recurrence.hpp>

namespace diagonal_cases {

using namespace implicit_attention;
using test_support::Draw;

template <class Scalar>
struct Kind {
  std::string text;
  SurroundedDiagonal<Scalar> surrounded;
};

/// A random recurrence; each bit of `parts` is something that is there.
template <class Scalar>
Kind<Scalar> random_kind(Index tokens, Index channels, Index state, Index width, unsigned parts, std::uint64_t seed) {
  Draw draw(seed);
  const auto has = [&](unsigned bit) { return (parts >> bit & 1u) != 0; };
  Kind<Scalar> kind;
  SurroundedDiagonal<Scalar>& surrounded = kind.surrounded;
  DiagonalRecurrence<Scalar>& recurrence = surrounded.recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels;
  recurrence.state = state;
  recurrence.step = has(0) ? draw.uniforms<Scalar>(tokens, channels, 0, 0.4) : draw.uniforms<Scalar>(tokens, channels, 0, 20);
  if (has(1) || state > 1)
    recurrence.rate = draw.uniforms<Scalar>(state, channels, -2, 0);
  else
    recurrence.step = Matrix<Scalar>(-recurrence.step.matrix());
  if (has(2)) recurrence.query = draw.normals<Scalar>(tokens, state);
  if (has(3)) recurrence.key = draw.normals<Scalar>(tokens, state);
  if (has(4)) recurrence.query_scale = draw.normals<Scalar>(tokens, channels);
  if (has(5)) recurrence.key_scale = draw.normals<Scalar>(tokens, channels);
  recurrence.read_before_update = has(6);
  if (has(6)) recurrence.diagonal = draw.normals<Scalar>(tokens, channels);
  if (has(7))
    for (const Index start : {Index(0), Index(3), Index(4), Index(32), Index(64), Index(70)})
      if (start < tokens && (start > 0 || has(0))) recurrence.starts.push_back(start);
  if (has(8)) surrounded.taps = draw.normals<Scalar>(width, channels);
  if (has(9) && has(8))
    for (const Index start : {Index(2), Index(5), Index(33), Index(64)})
      if (start < tokens) surrounded.convolution_starts.push_back(start);
  if (has(10)) surrounded.gate = draw.normals<Scalar>(tokens, channels);
  if (has(11)) surrounded.skip = draw.normals<Scalar>(1, channels);
  if (has(12)) surrounded.activation = draw.normals<Scalar>(tokens, channels);
  if (has(13)) surrounded.column_weights = draw.normals<Scalar>(tokens, channels);
  if (has(14)) surrounded.row_weights = draw.normals<Scalar>(tokens, channels);
  std::ostringstream text;
  text << (sizeof(Scalar) == 4 ? "float" : "double") << ", " << tokens << " tokens, " << channels << " channels, state " << state
       << ", width " << surrounded.width() << ", parts " << parts << ", seed " << seed;
  kind.text = text.str();
  return kind;
}

/// The matrix of one channel: its recurrence, as its definition has it, run on each unit input. Without the weights of its rows.
template <class Scalar>
Matrix<double> by_definition(const SurroundedDiagonal<Scalar>& surrounded, Index e) {
  const DiagonalRecurrence<Scalar>& r = surrounded.recurrence;
  const auto at = [](const Array<Scalar>& array, Index i, Index j) { return array.empty() ? 1.0 : static_cast<double>(array(i, j)); };
  const auto among = [](const std::vector<Index>& starts, Index token) {
    return std::find(starts.begin(), starts.end(), token) != starts.end();
  };
  Matrix<double> matrix(r.tokens, r.tokens);
  for (Index unit = 0; unit < r.tokens; ++unit) {
    std::vector<double> state(static_cast<std::size_t>(r.state), 0.0);
    for (Index t = 0; t < r.tokens; ++t) {
      double a = 0;  // what the convolution makes of the unit
      bool apart = false;
      for (Index between = unit + 1; between <= t; ++between) apart = apart || among(surrounded.convolution_starts, between);
      if (t >= unit && t - unit < surrounded.width() && !apart)
        a = at(surrounded.column_weights, unit, e) * at(surrounded.taps, surrounded.width() - 1 - (t - unit), e) *
            at(surrounded.activation, t, e);
      if (among(r.starts, t)) std::fill(state.begin(), state.end(), 0.0);
      double y = 0;
      for (Index n = 0; n < r.state; ++n) {
        double& h = state[static_cast<std::size_t>(n)];
        const double before = h;
        h = std::exp(at(r.rate, n, e) * static_cast<double>(r.step(t, e))) * h + at(r.key, t, n) * at(r.key_scale, t, e) * a;
        y += at(r.query, t, n) * (r.read_before_update ? before : h);
      }
      y *= at(r.query_scale, t, e);
      if (r.read_before_update) y += static_cast<double>(r.diagonal(t, e)) * a;
      if (!surrounded.skip.empty()) y += static_cast<double>(surrounded.skip(0, e)) * a;
      matrix(t, unit) = at(surrounded.gate, t, e) * y;
    }
  }
  return matrix;
}

}  // namespace diagonal_cases
