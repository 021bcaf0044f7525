// Plain loops, channel by channel, as written without a library. A yardstick for time and, in double, for precision.
#pragma once

#include <cmath>
#include <vector>

#include "layers.hpp"

namespace benchmarks {

/// One channel's factors, contiguous.
template <Real Scalar>
struct RawChannel {
  Index tokens, state, width;
  bool read_before_update;
  std::vector<Scalar> decay, query, key;  // (tokens, state)
  std::vector<Scalar> query_scale, diagonal, inner, outer, taps;
  Scalar skip = 0;

  RawChannel(const UnifiedForm<Scalar>& form, Index e) {
    const auto& recurrence = *form.recurrence.diagonal();
    tokens = recurrence.tokens;
    state = recurrence.state;
    width = form.convolution.empty() ? 1 : form.convolution.cols();
    read_before_update = recurrence.read_before_update;
    const auto or_one = [](const Array<Scalar>& array, Index i, Index j) { return array.empty() ? Scalar(1) : array(i, j); };
    for (Index t = 0; t < tokens; ++t) {
      for (Index n = 0; n < state; ++n) {
        decay.push_back(std::exp(or_one(recurrence.rate, n, e) * recurrence.step(t, e)));
        query.push_back(or_one(recurrence.query, t, n));
        key.push_back(or_one(recurrence.key, t, n) * or_one(recurrence.key_scale, t, e));
      }
      query_scale.push_back(or_one(recurrence.query_scale, t, e));
      diagonal.push_back(read_before_update ? recurrence.diagonal(t, e) : Scalar(0));
      inner.push_back(or_one(form.activation, t, e));
      outer.push_back(or_one(form.gate, t, e) * or_one(form.normalization, t, e));
    }
    if (!form.skip.empty()) skip = form.skip(0, e);
    for (Index tap = 0; tap < width; ++tap) taps.push_back(form.convolution.empty() ? Scalar(1) : form.convolution(e, tap));
  }

  /// Row i of the channel's matrix, (tokens). `State` is the number of states, or 0 where it is not known when this is compiled.
  template <int State>
  void row(Index i, Scalar* out, std::vector<Scalar>& walk, std::vector<Scalar>& before) const {
    const Index N = State == 0 ? state : State;
    walk.assign(query.begin() + i * N, query.begin() + (i + 1) * N);
    before.resize(static_cast<std::size_t>(tokens));
    Scalar* r = walk.data();
    for (Index j = i; j >= 0; --j) {
      const Scalar* k = key.data() + j * N;
      const Scalar* a = decay.data() + j * N;
      Scalar sum = 0;
      if (read_before_update && j == i) {
        sum = diagonal[static_cast<std::size_t>(i)];
      } else {
        for (Index n = 0; n < N; ++n) sum += r[n] * k[n];
        for (Index n = 0; n < N; ++n) r[n] *= a[n];
        sum *= query_scale[static_cast<std::size_t>(i)];
      }
      if (j == i) sum += skip;
      before[static_cast<std::size_t>(j)] = sum * inner[static_cast<std::size_t>(j)];
    }
    const Scalar scale = outer[static_cast<std::size_t>(i)];
    for (Index j = 0; j <= i; ++j) {
      Scalar sum = 0;
      for (Index distance = 0; distance < width && j + distance <= i; ++distance)
        sum += taps[static_cast<std::size_t>(width - 1 - distance)] * before[static_cast<std::size_t>(j + distance)];
      out[j] = scale * sum;
    }
    for (Index j = i + 1; j < tokens; ++j) out[j] = 0;
  }

  /// The whole matrix, (tokens, tokens).
  void matrix(Scalar* out) const {
    std::vector<Scalar> walk, before;
    for (Index i = 0; i < tokens; ++i) {
      if (state == 1)
        row<1>(i, out + i * tokens, walk, before);
      else if (state == 16)
        row<16>(i, out + i * tokens, walk, before);
      else
        row<0>(i, out + i * tokens, walk, before);
    }
  }
};

/// The layer's forward pass as in the papers: token by token, channel by channel, state by state. x and out are (tokens, channels).
inline void raw_scan(const UnifiedForm<float>& form, const Matrix<float>& x, Matrix<float>& out) {
  const auto& recurrence = *form.recurrence.diagonal();
  const Index E = recurrence.channels, N = recurrence.state, width = form.convolution.empty() ? 1 : form.convolution.cols();
  const auto or_one = [](const Array<float>& array, Index i, Index j) { return array.empty() ? 1.0f : array(i, j); };
  std::vector<float> state(static_cast<std::size_t>(E * N), 0.0f);
  for (Index t = 0; t < x.rows(); ++t)
    for (Index e = 0; e < E; ++e) {
      float a = 0;
      for (Index tap = std::max<Index>(0, width - 1 - t); tap < width; ++tap)
        a += (form.convolution.empty() ? 1.0f : form.convolution(e, tap)) * x(t - width + 1 + tap, e);
      a *= or_one(form.activation, t, e);
      const float written = a * or_one(recurrence.key_scale, t, e);
      float y = 0;
      for (Index n = 0; n < N; ++n) {
        float& h = state[static_cast<std::size_t>(e * N + n)];
        if (recurrence.read_before_update) y += or_one(recurrence.query, t, n) * h;
        h = std::exp(or_one(recurrence.rate, n, e) * recurrence.step(t, e)) * h + or_one(recurrence.key, t, n) * written;
        if (!recurrence.read_before_update) y += or_one(recurrence.query, t, n) * h;
      }
      y *= or_one(recurrence.query_scale, t, e);
      if (recurrence.read_before_update) y += recurrence.diagonal(t, e) * a;
      if (!form.skip.empty()) y += form.skip(0, e) * a;
      out(t, e) = y * or_one(form.gate, t, e) * or_one(form.normalization, t, e);
    }
}

}  // namespace benchmarks
