// The layers by the formulas of their papers, token by token and entry by entry, in double precision and in plain loops.
// Shares no code with the library: what the laws hold the library to.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

namespace reference {

using Count = std::ptrdiff_t;

/// Numbers in rows, row after row.
struct Table {
  Count rows = 0, columns = 0;
  std::vector<double> numbers;
  Table() = default;
  Table(Count r, Count c, double value = 0) : rows(r), columns(c), numbers(static_cast<std::size_t>(r * c), value) {}
  double& operator()(Count i, Count j) { return numbers[static_cast<std::size_t>(i * columns + j)]; }
  double operator()(Count i, Count j) const { return numbers[static_cast<std::size_t>(i * columns + j)]; }
  /// The i-th number of a vector, however it lies.
  double operator[](Count i) const { return numbers[static_cast<std::size_t>(i)]; }
  bool empty() const { return numbers.empty(); }
};

inline double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
inline double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
inline double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x))); }

/// u weight^T + bias
inline Table linear(const Table& u, const Table& weight, const Table& bias = {}) {
  Table out(u.rows, weight.rows);
  for (Count i = 0; i < u.rows; ++i)
    for (Count o = 0; o < weight.rows; ++o) {
      double sum = bias.empty() ? 0 : bias[o];
      for (Count d = 0; d < u.columns; ++d) sum += u(i, d) * weight(o, d);
      out(i, o) = sum;
    }
  return out;
}

/// Which terms are on, by name.
struct TermSet {
  bool recurrence = true, gate = true, activation = true, convolution = true, normalization = true, skip = true, bias = true;
};

/// One sequence through one layer: what goes in and comes out, and every factor of A = gate norm (R + skip) act Conv.
struct Sequence {
  Count tokens = 0, channels = 0;
  Table x, y, out;

  /// R of each channel, (tokens, tokens), bare and with the normalization. `logarithms`: the bare one holds log R.
  std::vector<Table> bare, normalized;
  bool logarithms = false;
  Table input;                 ///< (tokens, channels): what enters the recurrence, bias and all
  Table gate;                  ///< (tokens, channels); empty: ones. So below
  Table activation;            ///< (tokens, channels)
  Table output_normalization;  ///< (tokens, channels): a norm's scale at the output token; `normalized` has it not, and it stays without R
  Table key_normalization;     ///< (tokens, channels): a normalization that belongs to the key, and stays without the recurrence
  Table skip;                  ///< (channels)
  Table taps;                  ///< (channels, width)
  Table convolution_bias;      ///< (channels)
  std::vector<Count> convolution_starts;

  Count width() const { return taps.empty() ? 1 : taps.columns; }

  /// (R + diag(skip)) of channel e with these terms; `log_scale` is what a bare R in logarithms is divided by.
  double inner(Count e, Count i, Count j, const TermSet& on, double log_scale) const {
    if (j > i) return 0;
    double entry;
    const auto channel = static_cast<std::size_t>(e);
    if (!on.recurrence)
      entry = i == j ? (on.normalization && !key_normalization.empty() ? key_normalization(j, e) : 1) : 0;
    else if (on.normalization)
      entry = normalized[channel](i, j);
    else
      entry = logarithms ? std::exp(bare[channel](i, j) - log_scale) : bare[channel](i, j);
    if (i == j && on.skip && !skip.empty()) entry += skip[e];
    return entry;
  }
  /// Conv[i, j]
  double convolution(Count e, Count i, Count j, const TermSet& on) const {
    if (taps.empty() || !on.convolution) return i == j ? 1 : 0;
    if (j > i || i - j >= width()) return 0;
    for (const Count start : convolution_starts)
      if (j < start && start <= i) return 0;
    return taps(e, width() - 1 - (i - j));
  }
  double act(Count e, Count i, const TermSet& on) const { return on.activation && !activation.empty() ? activation(i, e) : 1; }
  double outer(Count e, Count i, const TermSet& on) const {
    return (on.gate && !gate.empty() ? gate(i, e) : 1) *
           (on.normalization && !output_normalization.empty() ? output_normalization(i, e) : 1);
  }

  /// A[i, j] of channel e: the product of its factors, multiplied out.
  double attention(Count e, Count i, Count j, const TermSet& on, double log_scale = 0) const {
    double sum = 0;
    for (Count t = j; t <= std::min(i, j + width() - 1); ++t)
      sum += inner(e, i, t, on, log_scale) * act(e, t, on) * convolution(e, t, j, on);
    return outer(e, i, on) * sum;
  }
  /// b[i] of channel e in a piece that begins at token `begin`.
  double bias(Count e, Count i, const TermSet& on, double log_scale = 0, Count begin = 0) const {
    if (!on.bias || convolution_bias.empty()) return 0;
    double sum = 0;
    for (Count t = begin; t <= i; ++t) sum += inner(e, i, t, on, log_scale) * act(e, t, on) * convolution_bias[e];
    return outer(e, i, on) * sum;
  }
  /// What the state before token `begin` gives at token i: the recurrent state as it is, and the convolution's tail.
  double carry(Count e, Count i, const TermSet& on, double log_scale, Count begin) const {
    double sum = 0;
    TermSet state = on;
    state.skip = false;
    if (!key_normalization.empty()) state.normalization = true;  // it is in the state already
    if (on.recurrence)
      for (Count j = 0; j < begin; ++j) sum += inner(e, i, j, state, log_scale) * input(j, e);
    if (on.convolution)
      for (Count t = begin; t <= std::min(i, begin + width() - 2); ++t)
        for (Count j = std::max<Count>(t - width() + 1, 0); j < begin; ++j)
          sum += inner(e, i, t, on, log_scale) * act(e, t, on) * convolution(e, t, j, on) * x(j, e);
    return outer(e, i, on) * sum;
  }
};

/// Causal depthwise convolution with its bias.
inline Table convolve(const Sequence& sequence) {
  const TermSet on;
  Table c(sequence.tokens, sequence.channels);
  for (Count i = 0; i < sequence.tokens; ++i)
    for (Count e = 0; e < sequence.channels; ++e) {
      double sum = sequence.convolution_bias.empty() ? 0 : sequence.convolution_bias[e];
      for (Count j = std::max<Count>(i - sequence.width() + 1, 0); j <= i; ++j) sum += sequence.convolution(e, i, j, on) * sequence.x(j, e);
      c(i, e) = sum;
    }
  return c;
}

inline Table columns(const Table& table, Count first, Count count) {
  Table out(table.rows, count);
  for (Count i = 0; i < table.rows; ++i)
    for (Count j = 0; j < count; ++j) out(i, j) = table(i, first + j);
  return out;
}

struct MambaWeights {
  Table in_proj, in_proj_bias, conv, conv_bias, x_proj, dt_proj, dt_bias, A_log, D, out_proj, out_proj_bias;
};

/// Gu & Dao 2023, algorithm 2 with the block of figure 3.
inline Sequence mamba(const MambaWeights& w, const Table& u) {
  Sequence s;
  const Count L = u.rows, E = w.A_log.rows, N = w.A_log.columns, R = w.dt_proj.columns;
  s.tokens = L;
  s.channels = E;
  const Table xz = linear(u, w.in_proj, w.in_proj_bias);
  s.x = columns(xz, 0, E);
  const Table z = columns(xz, E, E);
  s.taps = w.conv;
  s.convolution_bias = w.conv_bias;
  s.skip = w.D;
  const Table c = convolve(s);
  Table a(L, E);
  s.gate = s.activation = Table(L, E);
  for (Count i = 0; i < L; ++i)
    for (Count e = 0; e < E; ++e) {
      s.activation(i, e) = sigmoid(c(i, e));
      a(i, e) = c(i, e) * sigmoid(c(i, e));
      s.gate(i, e) = z(i, e) * sigmoid(z(i, e));
    }
  s.input = a;
  const Table selected = linear(a, w.x_proj);
  const Table B = columns(selected, R, N), C = columns(selected, R + N, N);
  Table dt = linear(columns(selected, 0, R), w.dt_proj, w.dt_bias);
  for (double& number : dt.numbers) number = softplus(number);

  s.y = Table(L, E);
  for (Count e = 0; e < E; ++e) {
    std::vector<double> h(static_cast<std::size_t>(N), 0.0);
    for (Count i = 0; i < L; ++i) {
      double y = 0;
      for (Count n = 0; n < N; ++n) {
        double& state = h[static_cast<std::size_t>(n)];
        state = std::exp(-std::exp(w.A_log(e, n)) * dt(i, e)) * state + dt(i, e) * B(i, n) * a(i, e);
        y += C(i, n) * state;
      }
      s.y(i, e) = s.gate(i, e) * (y + w.D[e] * a(i, e));
    }
    Table matrix(L, L);
    for (Count n = 0; n < N; ++n)
      for (Count j = 0; j < L; ++j) {
        double decayed = dt(j, e) * B(j, n);
        for (Count i = j; i < L; ++i) {
          if (i > j) decayed *= std::exp(-std::exp(w.A_log(e, n)) * dt(i, e));
          matrix(i, j) += C(i, n) * decayed;
        }
      }
    s.bare.push_back(matrix);
  }
  s.normalized = s.bare;
  s.out = linear(s.y, w.out_proj, w.out_proj_bias);
  return s;
}

struct Rwkv4Weights {
  Table decay, first, mix_key, mix_value, mix_receptance, key, value, receptance, output;
};

/// Peng et al. 2023, eq. 11-16.
inline Sequence rwkv4(const Rwkv4Weights& w, const Table& u) {
  Sequence s;
  const Count L = u.rows, E = w.key.rows;
  s.tokens = L;
  s.channels = E;
  s.logarithms = true;
  const auto mixed = [&](const Table& m) {
    Table out(L, u.columns);
    for (Count t = 0; t < L; ++t)
      for (Count d = 0; d < u.columns; ++d) out(t, d) = m[d] * u(t, d) + (1 - m[d]) * (t > 0 ? u(t - 1, d) : 0);
    return out;
  };
  const Table k = linear(mixed(w.mix_key), w.key), r = linear(mixed(w.mix_receptance), w.receptance);
  s.x = linear(mixed(w.mix_value), w.value);
  s.input = s.x;
  s.gate = s.y = Table(L, E);
  for (Count e = 0; e < E; ++e) {
    const double decay = std::exp(w.decay[e]), first = w.first[e];
    // The state: the sums of exp(key) and exp(key) value over the past, both times exp(-largest).
    double numerator = 0, denominator = 0, largest = -std::numeric_limits<double>::infinity();
    for (Count t = 0; t < L; ++t) {
      s.gate(t, e) = sigmoid(r(t, e));
      const double now = std::max(largest, k(t, e) + first);
      const double past = std::exp(largest - now), own = std::exp(k(t, e) + first - now);
      s.y(t, e) = s.gate(t, e) * (past * numerator + own * s.x(t, e)) / (past * denominator + own);
      const double next = std::max(largest - decay, k(t, e));
      const double kept = std::exp(largest - decay - next), added = std::exp(k(t, e) - next);
      numerator = kept * numerator + added * s.x(t, e);
      denominator = kept * denominator + added;
      largest = next;
    }
    Table logs(L, L, -std::numeric_limits<double>::infinity()), weights(L, L);
    for (Count i = 0; i < L; ++i) {
      double row_largest = -std::numeric_limits<double>::infinity(), sum = 0;
      for (Count j = 0; j <= i; ++j) {
        logs(i, j) = j < i ? k(j, e) - static_cast<double>(i - 1 - j) * decay : k(i, e) + first;
        row_largest = std::max(row_largest, logs(i, j));
      }
      for (Count j = 0; j <= i; ++j) sum += weights(i, j) = std::exp(logs(i, j) - row_largest);
      for (Count j = 0; j <= i; ++j) weights(i, j) /= sum;
    }
    s.bare.push_back(logs);
    s.normalized.push_back(weights);
  }
  s.out = linear(s.y, w.output);
  return s;
}

struct GriffinWeights {
  Table linear_x, linear_x_bias, linear_y, linear_y_bias, conv, conv_bias, param, input_gate, input_gate_bias, recurrent_gate,
      recurrent_gate_bias, linear_out, linear_out_bias;
};

/// De et al. 2024, eq. 1-4 and figure 2. A document begins where its position is 0.
inline Sequence griffin(const GriffinWeights& w, const Table& u, const std::vector<Count>& positions, bool convolution_within_documents) {
  Sequence s;
  const Count L = u.rows, E = w.linear_x.rows, heads = w.input_gate_bias.rows, block = E / heads;
  s.tokens = L;
  s.channels = E;
  s.x = linear(u, w.linear_x, w.linear_x_bias);
  const Table branch = linear(u, w.linear_y, w.linear_y_bias);
  s.taps = w.conv;
  s.convolution_bias = w.conv_bias;
  const auto begins = [&](Count t) { return positions[static_cast<std::size_t>(t)] == 0; };
  if (convolution_within_documents)
    for (Count t = 0; t < L; ++t)
      if (begins(t)) s.convolution_starts.push_back(t);
  const Table c = convolve(s);
  s.input = c;
  const auto gated = [&](const Table& weight, const Table& bias) {
    Table out(L, E);
    for (Count t = 0; t < L; ++t)
      for (Count h = 0; h < heads; ++h)
        for (Count q = 0; q < block; ++q) {
          double sum = bias(h, q);
          for (Count p = 0; p < block; ++p) sum += c(t, h * block + p) * weight(h * block + p, q);
          out(t, h * block + q) = sigmoid(sum);
        }
    return out;
  };
  const Table in = gated(w.input_gate, w.input_gate_bias), recur = gated(w.recurrent_gate, w.recurrent_gate_bias);
  Table decay(L, E);
  s.gate = s.key_normalization = s.y = Table(L, E);
  for (Count t = 0; t < L; ++t)
    for (Count e = 0; e < E; ++e) {
      const double log_a = -8 * recur(t, e) * softplus(w.param[e]);
      decay(t, e) = begins(t) ? 0 : std::exp(log_a);
      s.key_normalization(t, e) = begins(t) ? 1 : std::sqrt(-std::expm1(2 * log_a));
      s.gate(t, e) = gelu(branch(t, e));
    }
  for (Count e = 0; e < E; ++e) {
    double h = 0;
    for (Count t = 0; t < L; ++t) {
      h = decay(t, e) * h + s.key_normalization(t, e) * in(t, e) * c(t, e);
      s.y(t, e) = s.gate(t, e) * h;
    }
    Table bare(L, L), normalized(L, L);
    for (Count j = 0; j < L; ++j) {
      double product = in(j, e);
      for (Count i = j; i < L; ++i) {
        if (i > j) product *= decay(i, e);
        bare(i, j) = product;
        normalized(i, j) = product * s.key_normalization(j, e);
      }
    }
    s.bare.push_back(bare);
    s.normalized.push_back(normalized);
  }
  s.out = linear(s.y, w.linear_out, w.linear_out_bias);
  return s;
}

}  // namespace reference
