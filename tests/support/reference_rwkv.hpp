// RWKV-5, RWKV-6 and RWKV-7 by the formulas of their papers, token by token, with every transition a full matrix. Shares no code with the
// library. All vectors of a Table are rows of numbers; weights are as the checkpoints have them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <support/reference.hpp>

namespace reference {

/// What one sequence makes of a layer: y = A x + extra * value + bias, A_e = diag(gate_e norm_e) R_h.
struct RwkvSequence {
  Table x, value, pre_norm, norm, gate, bias, extra, y, out;
  std::vector<Table> recurrence;  ///< of each head, (tokens, tokens)
};

/// What is common to all three: r, k, v (tokens, channels), the decay of each token and key channel, the erased vectors (empty: none), the
/// bonus f of the token itself (empty: it is read after the update), gate and norm.
struct RwkvHeads {
  Count heads = 1;
  Table r, k, v, decay, removal, probe, bonus, gate, norm_weight, norm_bias, passed, output, output_bias;
  double eps = 0;
};

inline Table product(const Table& a, const Table& b) {
  Table out(a.rows, b.columns);
  for (Count i = 0; i < a.rows; ++i)
    for (Count j = 0; j < b.columns; ++j)
      for (Count n = 0; n < a.columns; ++n) out(i, j) += a(i, n) * b(n, j);
  return out;
}

inline RwkvSequence rwkv_heads(const RwkvHeads& p) {
  const Count tokens = p.r.rows, keys = p.r.columns / p.heads, values = p.v.columns / p.heads, channels = p.v.columns;
  RwkvSequence s;
  s.value = p.v;
  s.x = s.pre_norm = s.norm = s.bias = s.extra = s.y = Table(tokens, channels);
  s.gate = p.gate.empty() ? Table(tokens, channels, 1) : p.gate;
  for (Count h = 0; h < p.heads; ++h) {
    Table full(tokens, tokens);
    for (Count i = 0; i < tokens; ++i)
      for (Count j = 0; j <= i; ++j) {
        // r_i^T G_i ... G_{j+1} k_j; read before the update the product ends with G_{i-1}, and the token itself weighs r f k.
        Table state(keys, 1);
        for (Count n = 0; n < keys; ++n) state(n, 0) = p.k(j, h * keys + n);
        const Count last = p.bonus.empty() ? i : i - 1;
        for (Count t = j + 1; t <= last; ++t) {
          Table transition(keys, keys);
          for (Count n = 0; n < keys; ++n)
            for (Count m = 0; m < keys; ++m)
              transition(n, m) =
                  (n == m ? p.decay(t, h * keys + n) : 0) + (p.removal.empty() ? 0 : p.removal(t, h * keys + n) * p.probe(t, h * keys + m));
          state = product(transition, state);
        }
        for (Count n = 0; n < keys; ++n)
          full(i, j) += p.r(i, h * keys + n) * state(n, 0) * (i == j && !p.bonus.empty() ? p.bonus[h * keys + n] : 1);
      }
    for (Count i = 0; i < tokens; ++i) {
      double centre = 0, mean = 0, square = 0;
      for (Count e = h * values; e < (h + 1) * values; ++e) {
        centre += p.v(i, e) / static_cast<double>(values);
        for (Count j = 0; j <= i; ++j) s.pre_norm(i, e) += full(i, j) * p.v(j, e);
        mean += s.pre_norm(i, e) / static_cast<double>(values);
      }
      for (Count e = h * values; e < (h + 1) * values; ++e)
        square += (s.pre_norm(i, e) - mean) * (s.pre_norm(i, e) - mean) / static_cast<double>(values);
      for (Count e = h * values; e < (h + 1) * values; ++e) {
        s.x(i, e) = p.v(i, e) - centre;
        s.norm(i, e) = p.norm_weight[e] / std::sqrt(square + p.eps);
        s.bias(i, e) = s.gate(i, e) * p.norm_bias[e];
        s.extra(i, e) = p.passed.empty() ? 0 : s.gate(i, e) * p.passed(i, h);
        s.y(i, e) = s.gate(i, e) * s.norm(i, e) * (s.pre_norm(i, e) - mean) + s.bias(i, e) + s.extra(i, e) * p.v(i, e);
      }
    }
    s.recurrence.push_back(full);
  }
  s.out = linear(s.y, p.output, p.output_bias);
  return s;
}

/// u_{t-1}, zeros before the first.
inline Table shifted(const Table& u) {
  Table before(u.rows, u.columns);
  for (Count t = 1; t < u.rows; ++t)
    for (Count d = 0; d < u.columns; ++d) before(t, d) = u(t - 1, d);
  return before;
}
/// u + m (u_{t-1} - u), m one row or one a token.
inline Table mixed(const Table& u, const Table& m) {
  Table out = shifted(u);
  for (Count t = 0; t < u.rows; ++t)
    for (Count d = 0; d < u.columns; ++d) out(t, d) = u(t, d) + (m.rows == 1 ? m(0, d) : m(t, d)) * (out(t, d) - u(t, d));
  return out;
}
template <class Function>
Table each(Table table, const Function& function) {
  for (double& number : table.numbers) number = function(number);
  return table;
}
inline double squash(double x) { return std::tanh(x); }
inline double silu(double x) { return x * sigmoid(x); }
/// f(x first) second + bias, first (inputs, rank), second (rank, outputs).
template <class Function>
Table low_rank(const Table& x, const Table& first, const Table& second, const Table& bias, const Function& function) {
  Table out = product(each(product(x, first), function), second);
  for (Count t = 0; t < out.rows; ++t)
    for (Count e = 0; e < out.columns; ++e) out(t, e) += bias.empty() ? 0 : bias[e];
  return out;
}

}  // namespace reference
