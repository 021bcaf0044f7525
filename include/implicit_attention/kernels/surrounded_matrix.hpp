// What surrounds a head's matrix, channel by channel: A_e = diag(gate_e) (R_h(e) + diag(skip_e)) diag(act_e) Conv_e. The matrix's rows are
// made once a head and used by all its channels, whatever kind of recurrence it comes from.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/kernels/convolution.hpp>
#include <implicit_attention/kernels/matrix_recurrence.hpp>
#include <implicit_attention/kernels/plain.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A recurrence with one matrix a head, of any kind: what surrounds it is compiled once for all of them.
template <Real Scalar>
struct SharedMatrix {
  using ScalarType = Scalar;
  using Kind = std::variant<HeadRecurrence<Scalar>, SoftmaxRecurrence<Scalar>, ToeplitzRecurrence<Scalar>, ExplicitRecurrence<Scalar>>;
  Kind kind;
  Index tokens = 0, channels = 0, heads = 1;

  SharedMatrix() = default;
  SharedMatrix(Kind recurrence) : kind(std::move(recurrence)) {  // NOLINT(google-explicit-constructor)
    std::visit(
        [&](const auto& form) {
          tokens = form.tokens;
          channels = form.channels;
          heads = form.heads;
        },
        kind);
  }
  [[nodiscard]] Index head_channels() const { return channels / heads; }
  [[nodiscard]] Index head(Index channel) const { return channel / head_channels(); }
  [[nodiscard]] Index first_visible(Index row) const {
    return std::visit([&](const auto& form) { return form.first_visible(row); }, kind);
  }
};

template <Real Scalar>
void matrix_rows(const SharedMatrix<Scalar>& matrix, Index head, Index begin, Index end, View<Scalar> out) {
  std::visit([&](const auto& form) { matrix_rows(form, head, begin, end, out); }, matrix.kind);
}
template <Real Scalar>
void matrix_apply(const SharedMatrix<Scalar>& matrix, const Array<Scalar>& x, const Array<Scalar>& initial_state, View<Scalar> out,
                  const Executor& executor, View<Scalar>* final_state = nullptr) {
  std::visit([&](const auto& form) { matrix_apply(form, x, initial_state, out, executor, final_state); }, matrix.kind);
}
template <Real Scalar>
void matrix_apply_transposed(const SharedMatrix<Scalar>& matrix, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  std::visit([&](const auto& form) { matrix_apply_transposed(form, g, out, executor); }, matrix.kind);
}

namespace detail {

/// Rows that are wanted, in runs of neighbours of at most rows_at_once: `place` is where the first of them stands in the caller's list.
struct RowRun {
  Index begin, end, place;
};
[[nodiscard]] inline std::vector<RowRun> row_runs(const std::vector<Index>& rows) {
  std::vector<RowRun> runs;
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const Index row = rows[place];
    if (!runs.empty() && runs.back().end == row && row - runs.back().begin < rows_at_once)
      ++runs.back().end;
    else
      runs.push_back({row, row + 1, static_cast<Index>(place)});
  }
  return runs;
}

/// The column factors of one channel: taps(d, j) = w[W-1-d] act[j+d] column_weights[j], so that A[i,j] = gate_i sum_d R[i,j+d] taps(d,j).
template <class Recurrence, Real Scalar = typename Recurrence::ScalarType>
class ColumnFactors {
 public:
  ColumnFactors(const Surrounded<Recurrence>& surrounded, Index channel) : width_(surrounded.width()) {
    const Index tokens = surrounded.recurrence.tokens;
    taps_.resize(width_, tokens);
    for (Index token = 0; token < tokens; ++token) {
      const Index last = std::min(surrounded.last_reached(token), tokens - 1);
      const Scalar column = entry(surrounded.column_weights, token, channel);
      for (Index d = 0; d < width_; ++d)
        taps_(d, token) = token + d > last
                              ? Scalar(0)
                              : entry(surrounded.taps, width_ - 1 - d, channel) * entry(surrounded.activation, token + d, channel) * column;
    }
  }

  /// out = scale * sum_d rows[. + d] taps(d, .), one row (tokens).
  void apply(const Scalar* row, Scalar scale, Scalar skip, Index token, Scalar* out) const {
    const Index tokens = taps_.cols();
    Eigen::Map<RowVector<Scalar>> result(out, tokens);
    const Eigen::Map<const RowVector<Scalar>> r(row, tokens);
    result = scale * r.cwiseProduct(taps_.row(0));
    for (Index d = 1; d < std::min(width_, tokens); ++d)
      result.head(tokens - d) += scale * r.tail(tokens - d).cwiseProduct(taps_.row(d).head(tokens - d));
    if (skip != Scalar(0))
      for (Index d = 0; d < width_ && d <= token; ++d) out[token - d] += scale * skip * taps_(d, token - d);
  }
  [[nodiscard]] const Matrix<Scalar>& taps() const { return taps_; }

 private:
  Index width_;
  Matrix<Scalar> taps_;  // (width, tokens)
};

/// The convolution and what stands before it, for the kernels that know nothing of the recurrence behind them.
template <class Recurrence, Real Scalar = typename Recurrence::ScalarType>
[[nodiscard]] SurroundedDiagonal<Scalar> convolution_part(const Surrounded<Recurrence>& surrounded) {
  SurroundedDiagonal<Scalar> part;
  part.recurrence.tokens = surrounded.recurrence.tokens;
  part.recurrence.channels = surrounded.recurrence.channels;
  part.taps = surrounded.taps;
  part.convolution_starts = surrounded.convolution_starts;
  part.column_weights = surrounded.column_weights;
  return part;
}

/// Chosen channels by the head they belong to: places in the caller's list.
template <class Recurrence>
[[nodiscard]] std::vector<std::vector<Index>> channels_by_head(const Recurrence& recurrence, const std::vector<Index>& channels) {
  std::vector<std::vector<Index>> places(static_cast<std::size_t>(recurrence.heads));
  for (std::size_t place = 0; place < channels.size(); ++place)
    places[static_cast<std::size_t>(recurrence.head(channels[place]))].push_back(static_cast<Index>(place));
  return places;
}

}  // namespace detail

/// Rows of the chosen channels' matrices into `out`, (channels * rows, tokens). One head's rows exist at a time for each worker.
template <MatrixRecurrence Recurrence>
void attention_rows(const Surrounded<Recurrence>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                    View<typename Recurrence::ScalarType> out, const Executor& executor) {
  using Scalar = typename Recurrence::ScalarType;
  const Recurrence& recurrence = surrounded.recurrence;
  const std::vector<std::vector<Index>> places = detail::channels_by_head(recurrence, channels);
  const std::vector<detail::RowRun> runs = detail::row_runs(rows);
  const Index row_count = static_cast<Index>(rows.size());
  executor(recurrence.heads, [&](Index head) {
    const std::vector<Index>& own = places[static_cast<std::size_t>(head)];
    if (own.empty()) return;
    Matrix<Scalar> matrix(std::min(rows_at_once, row_count), recurrence.tokens);
    std::vector<detail::ColumnFactors<Recurrence>> factors;
    for (const Index place : own) factors.emplace_back(surrounded, channels[static_cast<std::size_t>(place)]);
    for (const detail::RowRun& run : runs) {
      matrix_rows(recurrence, head, run.begin, run.end, View<Scalar>(matrix.data(), run.end - run.begin, recurrence.tokens));
      for (std::size_t c = 0; c < own.size(); ++c) {
        const Index channel = channels[static_cast<std::size_t>(own[c])];
        for (Index row = run.begin; row < run.end; ++row) {
          const Scalar scale = detail::entry(surrounded.gate, row, channel) * detail::entry(surrounded.row_weights, row, channel);
          factors[c].apply(&matrix(row - run.begin, 0), scale, detail::entry(surrounded.skip, 0, channel, Scalar(0)), row,
                           &out(own[c] * row_count + run.place + row - run.begin, 0));
        }
      }
    }
  });
}

/// joined[k] = reducer(joined[k], value of each chosen channel), (rows, tokens); see reduced_rows of a diagonal recurrence. Workers share
/// the rows, so that channels are joined in one order.
template <MatrixRecurrence Recurrence, class Reducer>
void reduced_rows(const Surrounded<Recurrence>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                  View<typename Recurrence::ScalarType> out, const Executor& executor, const Reducer& reducer,
                  typename Recurrence::ScalarType initial) {
  using Scalar = typename Recurrence::ScalarType;
  const Recurrence& recurrence = surrounded.recurrence;
  const Index tokens = recurrence.tokens;
  const std::vector<std::vector<Index>> places = detail::channels_by_head(recurrence, channels);
  const std::vector<detail::RowRun> runs = detail::row_runs(rows);
  out.setConstant(initial);
  for (Index head = 0; head < recurrence.heads; ++head) {
    const std::vector<Index>& own = places[static_cast<std::size_t>(head)];
    if (own.empty()) continue;
    std::vector<detail::ColumnFactors<Recurrence>> factors;
    for (const Index place : own) factors.emplace_back(surrounded, channels[static_cast<std::size_t>(place)]);
    executor(static_cast<Index>(runs.size()), [&](Index index) {
      const detail::RowRun& run = runs[static_cast<std::size_t>(index)];
      Matrix<Scalar> matrix(run.end - run.begin, tokens);
      RowVector<Scalar> values(tokens);
      matrix_rows(recurrence, head, run.begin, run.end, View<Scalar>(matrix));
      for (std::size_t c = 0; c < own.size(); ++c) {
        const Index channel = channels[static_cast<std::size_t>(own[c])];
        for (Index row = run.begin; row < run.end; ++row) {
          const Scalar scale = detail::entry(surrounded.gate, row, channel) * detail::entry(surrounded.row_weights, row, channel);
          factors[c].apply(&matrix(row - run.begin, 0), scale, detail::entry(surrounded.skip, 0, channel, Scalar(0)), row, values.data());
          Scalar* joined = &out(run.place + row - run.begin, 0);
          for (Index token = 0; token < tokens; ++token) joined[token] = reducer(joined[token], values[token]);
        }
      }
    });
  }
}

/// out = A x + (what the bias, the tail and the initial state give), (tokens, channels).
template <MatrixRecurrence Recurrence>
void scan(const Surrounded<Recurrence>& surrounded, const ScanInput<typename Recurrence::ScalarType>& input,
          View<typename Recurrence::ScalarType> out, const Executor& executor,
          View<typename Recurrence::ScalarType>* final_state = nullptr) {
  using Scalar = typename Recurrence::ScalarType;
  const Recurrence& recurrence = surrounded.recurrence;
  Matrix<Scalar> inner(recurrence.tokens, recurrence.channels);
  convolve(detail::convolution_part(surrounded), input, View<Scalar>(inner), executor);
  if (!surrounded.activation.empty()) inner.array() *= surrounded.activation.matrix().array();
  matrix_apply(recurrence, Array<Scalar>::view(inner), input.initial_state, out, executor, final_state);
  if (!surrounded.skip.empty()) out.array() += inner.array().rowwise() * surrounded.skip.matrix().row(0).array();
  if (!surrounded.gate.empty()) out.array() *= surrounded.gate.matrix().array();
}

/// out = A^T g, (tokens, channels).
template <MatrixRecurrence Recurrence>
void scan_transposed(const Surrounded<Recurrence>& surrounded, ConstView<typename Recurrence::ScalarType> g,
                     View<typename Recurrence::ScalarType> out, const Executor& executor) {
  using Scalar = typename Recurrence::ScalarType;
  const Recurrence& recurrence = surrounded.recurrence;
  Matrix<Scalar> weighted = g;
  if (!surrounded.gate.empty()) weighted.array() *= surrounded.gate.matrix().array();
  Matrix<Scalar> inner(recurrence.tokens, recurrence.channels);
  matrix_apply_transposed(recurrence, ConstView<Scalar>(weighted), View<Scalar>(inner), executor);
  if (!surrounded.skip.empty()) inner.array() += weighted.array().rowwise() * surrounded.skip.matrix().row(0).array();
  if (!surrounded.activation.empty()) inner.array() *= surrounded.activation.matrix().array();
  if (surrounded.taps.empty())
    out = inner;
  else
    convolve_transposed<Scalar>(surrounded.taps.matrix(), surrounded.convolution_starts, inner, out, executor);
  if (!surrounded.column_weights.empty()) out.array() *= surrounded.column_weights.matrix().array();
}

IMPLICIT_ATTENTION_NAMESPACE_END
