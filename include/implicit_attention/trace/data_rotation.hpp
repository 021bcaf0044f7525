// Rotations by angles that are computed from the input and add up from token to token (Mamba-3), as operations.
#pragma once

#include <cmath>
#include <utility>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// theta_t = before + sum_{s<=t} pi tanh(rate_s) dt_s, modulo 2 pi: (tokens, heads * angles). `rate` (tokens, angles) is shared by the
/// heads, `dt` is (tokens, heads), `before` (1, heads * angles) what was carried in, or empty. The sum is kept in double.
template <Real S>
[[nodiscard]] Value<S> running_angles(const Value<S>& rate, const Value<S>& dt, const Array<S>& before = {}) {
  constexpr double pi = 3.14159265358979323846;
  const Index tokens = rate.rows(), angles = rate.cols(), heads = dt.cols();
  Matrix<S> out(tokens, heads * angles);
  for (Index head = 0; head < heads; ++head)
    for (Index n = 0; n < angles; ++n) {
      const Index column = head * angles + n;
      double sum = before.empty() ? 0.0 : static_cast<double>(before(0, column));
      for (Index t = 0; t < tokens; ++t) {
        sum += pi * std::tanh(static_cast<double>(rate.numbers(t, n))) * static_cast<double>(dt.numbers(t, head));
        sum = std::remainder(sum, 2 * pi);
        out(t, column) = static_cast<S>(sum);
      }
    }
  if (!rate.trace->records({&rate, &dt})) return rate.trace->constant(std::move(out));
  return rate.trace->record(std::move(out), [rate, dt, tokens, angles, heads](Back<S>& back, const Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("running angles");
    const Matrix<S> bounded = (*rate).array().tanh().matrix();
    Matrix<S> to_rate = Matrix<S>::Zero(tokens, angles), to_dt = Matrix<S>::Zero(tokens, heads);
    RowVector<S> later = RowVector<S>::Zero(heads * angles);  // the gradient from this and later tokens
    for (Index t = tokens - 1; t >= 0; --t) {
      later += g.row(t);
      for (Index head = 0; head < heads; ++head) {
        to_dt(t, head) = static_cast<S>(pi) * later.segment(head * angles, angles).dot(bounded.row(t));
        to_rate.row(t) += static_cast<S>(pi) * dt.numbers(t, head) * later.segment(head * angles, angles);
      }
    }
    to_rate.array() *= S(1) - bounded.array().square();
    back.add(rate, std::move(to_rate));
    back.add(dt, std::move(to_dt));
  });
}

namespace detail {
/// Turns the first pairs of every head by their angles, forwards (direction 1) or back (-1), in place.
template <Real S>
void rotate_by(Matrix<S>& numbers, ConstView<S> theta, Index heads, bool neighbours, int direction) {
  const Index size = numbers.cols() / heads, angles = theta.cols() / heads, apart = neighbours ? 1 : size / 2, step = neighbours ? 2 : 1;
  for (Index t = 0; t < numbers.rows(); ++t)
    for (Index head = 0; head < heads; ++head)
      for (Index n = 0; n < angles; ++n) {
        const S angle = theta(t, head * angles + n), cosine = std::cos(angle), sine = static_cast<S>(direction) * std::sin(angle);
        S &one = numbers(t, head * size + n * step), &other = numbers(t, head * size + n * step + apart);
        const S first = one, second = other;
        one = first * cosine - second * sine;
        other = second * cosine + first * sine;
      }
}
}  // namespace detail

/// Every head of x (tokens, heads * size) rotated by theta (tokens, heads * angles): its pairs (2n, 2n + 1), or (n, n + size / 2) without
/// `neighbours`, for n below the number of angles.
template <Real S>
[[nodiscard]] Value<S> rotate_by_angles(const Value<S>& x, const Value<S>& theta, Index heads, bool neighbours) {
  check_shape("rotate_by_angles", "theta", *theta, x.rows(), theta.cols(), "(tokens, heads * angles)");
  Matrix<S> rotated = *x;
  detail::rotate_by<S>(rotated, *theta, heads, neighbours, 1);
  const Array<S> out = std::move(rotated);
  if (!x.trace->records({&x, &theta})) return x.trace->constant(out);
  return x.trace->record(out, [x = x.link(), theta, out, heads, neighbours](Back<S>& back, Matrix<S>& g) {
    if (back.exact() && theta.recorded()) {  // a rotated pair (a, b) moves along (-b, a)
      const Index size = out.cols() / heads, angles = theta.cols() / heads, apart = neighbours ? 1 : size / 2, step = neighbours ? 2 : 1;
      Matrix<S> to_theta(theta.rows(), theta.cols());
      for (Index t = 0; t < g.rows(); ++t)
        for (Index head = 0; head < heads; ++head)
          for (Index n = 0; n < angles; ++n) {
            const Index one = head * size + n * step, other = one + apart;
            to_theta(t, head * angles + n) = g(t, other) * out(t, one) - g(t, one) * out(t, other);
          }
      back.add(theta, std::move(to_theta));
    }
    detail::rotate_by<S>(g, *theta, heads, neighbours, -1);
    back.add(x, std::move(g));
  });
}

/// phi(t) = 1 + t from 0 on, 1 / (1 - t) below: positive, with tails that fall like 1/t.
template <Real S>
[[nodiscard]] Value<S> heavy_tail(const Value<S>& x) {
  Matrix<S> out = (*x).unaryExpr([](S t) { return t >= S(0) ? S(1) + t : S(1) / (S(1) - t); });
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x](Back<S>& back, Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("heavy tail");
    g.array() *= (*x).unaryExpr([](S t) { return t >= S(0) ? S(1) : S(1) / ((S(1) - t) * (S(1) - t)); }).array();
    back.add(x, std::move(g));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
