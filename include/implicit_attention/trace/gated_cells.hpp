// LSTM and GRU cells (Hochreiter & Schmidhuber 1997; Cho et al. 2014) over a whole sequence, as operations. The gates read the output of
// the token before, so that a pass is one loop; it is recorded in two steps, at the linear input and at the output, and what goes back
// through the outputs of earlier tokens is counted in the second.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One sequence through a cell of E channels.
template <Real S>
struct GatedCellPass {
  Value<S> x;          ///< (L, E): tanh of the candidate: the linear input
  Value<S> y;          ///< (L, E): the output
  Array<S> log_decay;  ///< (L, E): log of the forget gate, or of the update gate
  Array<S> write;      ///< (L, E): input gate, or 1 - update gate
  Array<S> gate;       ///< (L, E): LSTM: o tanh(c) / c, 1 for tanh(c) / c at c = 0; GRU: empty
  Array<S> cell;       ///< (L, E): LSTM: c; GRU: empty
};

namespace detail {

/// tanh(t) / t, 1 at 0.
template <Real S>
[[nodiscard]] S tanh_scale(S t) {
  return t == S(0) ? S(1) : std::tanh(t) / t;
}
template <Real S>
[[nodiscard]] RowVector<S> row_or_zero(const Array<S>& row, Index columns) {
  return row.empty() ? RowVector<S>(RowVector<S>::Zero(columns)) : RowVector<S>(row.matrix().row(0));
}
template <Real S>
[[nodiscard]] Matrix<S> map_sigmoid(ConstView<S> x) {
  return x.unaryExpr([](S t) { return sigmoid(t); });
}

}  // namespace detail

/// `input` (L, 4E) = u W_ih^T + b_ih, gates in the order i, f, g, o; `weight` (4E, E) and `bias` (4E) or empty of the output before;
/// h0, c0 (1, E) or empty, constants. c_t = f c_{t-1} + i g, y_t = o tanh(c_t).
template <Real S>
[[nodiscard]] GatedCellPass<S> lstm(const Value<S>& input, const Array<S>& weight, const Array<S>& bias, const Array<S>& h0,
                                    const Array<S>& c0) {
  const Index L = input.rows(), E = weight.cols();
  check_shape("lstm", "the input", *input, L, 4 * E, "(tokens, 4 * channels)");
  Matrix<S> sums(L, 4 * E), cell(L, E), y(L, E), gates(L, E);  // sums: what the gates are functions of
  RowVector<S> h = detail::row_or_zero(h0, E), c = detail::row_or_zero(c0, E);
  for (Index t = 0; t < L; ++t) {
    sums.row(t).noalias() = h * weight.matrix().transpose();
    sums.row(t) += (*input).row(t);
    if (!bias.empty()) sums.row(t) += bias.matrix().row(0);
    for (Index e = 0; e < E; ++e) {
      c[e] = sigmoid(sums(t, E + e)) * c[e] + sigmoid(sums(t, e)) * std::tanh(sums(t, 2 * E + e));
      gates(t, e) = sigmoid(sums(t, 3 * E + e)) * detail::tanh_scale(c[e]);
      h[e] = sigmoid(sums(t, 3 * E + e)) * std::tanh(c[e]);
    }
    cell.row(t) = c;
    y.row(t) = h;
  }
  GatedCellPass<S> pass;
  pass.log_decay = Matrix<S>(-softplus(-sums.middleCols(E, E)));
  pass.write = detail::map_sigmoid<S>(sums.leftCols(E));
  pass.gate = std::move(gates);
  pass.cell = std::move(cell);
  const Array<S> all = std::move(sums), g = Matrix<S>(all.matrix().middleCols(2 * E, E).array().tanh().matrix()), h_all = std::move(y);
  Trace<S>& trace = *input.trace;
  if (!trace.records({&input})) {
    pass.x = trace.constant(g);
    pass.y = trace.constant(h_all);
    return pass;
  }
  const auto before = [h_all, h0, E](Index t) { return t > 0 ? RowVector<S>(h_all.matrix().row(t - 1)) : detail::row_or_zero(h0, E); };
  const std::vector<Value<S>> first =
      trace.record_all({g, all}, [input, all, g, weight, bias, before, L, E](Back<S>& back, Matrix<S>* gradients) {
        Matrix<S> to_input = Matrix<S>::Zero(L, 4 * E);
        if (gradients[1].size() != 0) to_input = gradients[1];
        if (gradients[0].size() != 0) {
          Matrix<S> to_sum = gradients[0];
          for (Index t = 0; t < L; ++t)
            for (Index e = 0; e < E; ++e) to_sum(t, e) *= back.exact() ? S(1) - g(t, e) * g(t, e) : detail::tanh_scale(all(t, 2 * E + e));
          if (!back.exact()) {  // the candidate's constants, and what the walk does not follow: outputs of earlier tokens, where held
            if (!bias.empty()) back.add_bias_share(to_sum.colwise().sum().dot(bias.matrix().row(0).segment(2 * E, E)));
            for (Index t = 0; t < (back.way() == WayBack::attention ? L : Index(1)); ++t)
              back.add_bias_share(to_sum.row(t).dot(before(t) * weight.matrix().middleRows(2 * E, E).transpose()));
          }
          to_input.middleCols(2 * E, E) += to_sum;
        }
        back.add(input, std::move(to_input));
      });
  const GatedCellPass<S> kept = pass;
  pass.x = first[0];
  pass.y = trace.record(h_all, [x = first[0], sums_value = first[1], kept, all, g, weight, c0, L, E](Back<S>& back, const Matrix<S>& d) {
    const RowVector<S> c_first = detail::row_or_zero(c0, E);
    const bool follows = back.way() != WayBack::attention;
    Matrix<S> to_x(L, E), to_sums = Matrix<S>::Zero(L, 4 * E);
    RowVector<S> dc = RowVector<S>::Zero(E), dh = RowVector<S>::Zero(E), to_gates = RowVector<S>::Zero(4 * E);
    for (Index t = L - 1; t >= 0; --t) {
      dh += d.row(t);
      for (Index e = 0; e < E; ++e) {
        const S i = kept.write(t, e), f = sigmoid(all(t, E + e)), o = sigmoid(all(t, 3 * E + e)), tanh_c = std::tanh(kept.cell(t, e));
        const S c_before = t > 0 ? kept.cell(t - 1, e) : c_first[e];
        if (back.exact()) {
          to_gates[3 * E + e] = dh[e] * tanh_c * o * (S(1) - o);
          dc[e] += dh[e] * o * (S(1) - tanh_c * tanh_c);
          to_gates[e] = dc[e] * g(t, e) * i * (S(1) - i);
          to_gates[E + e] = dc[e] * c_before * f * (S(1) - f);
          to_gates[2 * E + e] = dc[e] * i * (S(1) - g(t, e) * g(t, e));
        } else {
          dc[e] += dh[e] * kept.gate(t, e);
          to_gates[2 * E + e] = dc[e] * i * detail::tanh_scale(all(t, 2 * E + e));
        }
        to_x(t, e) = dc[e] * i;
        dc[e] *= f;
      }
      if (back.exact()) {
        to_sums.row(t) = to_gates;
        to_sums.row(t).segment(2 * E, E).setZero();  // that one goes through x
      }
      if (follows)
        dh.noalias() = to_gates * weight.matrix();
      else
        dh.setZero();
    }
    if (!back.exact()) back.add_bias_share(dc.dot(c_first));
    back.add(x, std::move(to_x));
    if (back.exact()) back.add(sums_value, std::move(to_sums));
  });
  return pass;
}

/// `input` (L, 3E) = u W_ih^T + b_ih, in the order r, z, n; `weight` (3E, E) and `bias` (3E) or empty of the output before; h0 (1, E) or
/// empty, a constant. n = tanh(input_n + r (W_hn h + b_hn)), y_t = z y_{t-1} + (1 - z) n.
template <Real S>
[[nodiscard]] GatedCellPass<S> gru(const Value<S>& input, const Array<S>& weight, const Array<S>& bias, const Array<S>& h0) {
  const Index L = input.rows(), E = weight.cols();
  check_shape("gru", "the input", *input, L, 3 * E, "(tokens, 3 * channels)");
  Matrix<S> sums(L, 3 * E), recurrent(L, E), y(L, E);  // sums: what r, z and n are functions of; recurrent: W_hn h + b_hn
  RowVector<S> h = detail::row_or_zero(h0, E), from_before(3 * E);
  for (Index t = 0; t < L; ++t) {
    from_before.noalias() = h * weight.matrix().transpose();
    if (!bias.empty()) from_before += bias.matrix().row(0);
    sums.row(t) = (*input).row(t);
    sums.row(t).head(2 * E) += from_before.head(2 * E);
    recurrent.row(t) = from_before.tail(E);
    for (Index e = 0; e < E; ++e) {
      sums(t, 2 * E + e) += sigmoid(sums(t, e)) * recurrent(t, e);
      h[e] = sigmoid(sums(t, E + e)) * h[e] + sigmoid(-sums(t, E + e)) * std::tanh(sums(t, 2 * E + e));
    }
    y.row(t) = h;
  }
  GatedCellPass<S> pass;
  pass.log_decay = Matrix<S>(-softplus(-sums.middleCols(E, E)));
  pass.write = detail::map_sigmoid<S>(Matrix<S>(-sums.middleCols(E, E)));
  const Array<S> all = std::move(sums), n = Matrix<S>(all.matrix().rightCols(E).array().tanh().matrix()), h_all = std::move(y);
  const Array<S> of_before = std::move(recurrent);
  Trace<S>& trace = *input.trace;
  if (!trace.records({&input})) {
    pass.x = trace.constant(n);
    pass.y = trace.constant(h_all);
    return pass;
  }
  const auto before = [h_all, h0, E](Index t) { return t > 0 ? RowVector<S>(h_all.matrix().row(t - 1)) : detail::row_or_zero(h0, E); };
  const std::vector<Value<S>> first =
      trace.record_all({n, all}, [input, all, n, of_before, bias, before, weight, L, E](Back<S>& back, Matrix<S>* gradients) {
        Matrix<S> to_input = Matrix<S>::Zero(L, 3 * E);
        if (gradients[1].size() != 0) to_input = gradients[1];
        if (gradients[0].size() != 0)
          for (Index t = 0; t < L; ++t) {
            const bool held = !back.exact() && (t == 0 || back.way() == WayBack::attention);
            const RowVector<S> constant = held ? RowVector<S>(before(t) * weight.matrix().bottomRows(E).transpose()) : RowVector<S>();
            for (Index e = 0; e < E; ++e) {
              const S r = sigmoid(all(t, e)), gradient = gradients[0](t, e);
              if (back.exact()) {
                const S to_sum = gradient * (S(1) - n(t, e) * n(t, e));
                to_input(t, 2 * E + e) += to_sum;
                to_input(t, e) += to_sum * of_before(t, e) * r * (S(1) - r);
                continue;
              }
              const S to_sum = gradient * detail::tanh_scale(all(t, 2 * E + e));
              to_input(t, 2 * E + e) += to_sum;
              if (!bias.empty()) back.add_bias_share(to_sum * r * bias(0, 2 * E + e));
              if (held) back.add_bias_share(to_sum * r * constant[e]);
            }
          }
        back.add(input, std::move(to_input));
      });
  pass.x = first[0];
  pass.y = trace.record(
      h_all, [x = first[0], sums_value = first[1], all, n, of_before, before, h0, weight, L, E](Back<S>& back, const Matrix<S>& d) {
        const bool follows = back.way() != WayBack::attention;
        Matrix<S> to_x(L, E), to_sums = Matrix<S>::Zero(L, 3 * E);
        RowVector<S> dh = RowVector<S>::Zero(E), kept(E), to_gates = RowVector<S>::Zero(3 * E);
        for (Index t = L - 1; t >= 0; --t) {
          dh += d.row(t);
          const RowVector<S> h_before = before(t);
          for (Index e = 0; e < E; ++e) {
            const S r = sigmoid(all(t, e)), z = sigmoid(all(t, E + e)), other = sigmoid(-all(t, E + e));
            to_x(t, e) = dh[e] * other;
            const S to_sum = to_x(t, e) * (back.exact() ? S(1) - n(t, e) * n(t, e) : detail::tanh_scale(all(t, 2 * E + e)));
            to_gates[2 * E + e] = to_sum * r;  // of W_hn h
            if (back.exact()) {
              to_gates[e] = to_sum * of_before(t, e) * r * (S(1) - r);
              to_gates[E + e] = dh[e] * (h_before[e] - n(t, e)) * z * other;
              to_sums(t, E + e) = to_gates[E + e];  // r and n go through x
            }
            kept[e] = dh[e] * z;
          }
          if (t == 0 && !back.exact()) back.add_bias_share(kept.dot(h_before));
          dh = kept;
          if (follows) dh.noalias() += to_gates * weight.matrix();
        }
        back.add(x, std::move(to_x));
        if (back.exact()) back.add(sums_value, std::move(to_sums));
      });
  return pass;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
