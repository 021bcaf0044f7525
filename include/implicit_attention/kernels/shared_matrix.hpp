// A matrix that a head's channels share, whatever kind of recurrence it comes from, and its rows for all that is made of them.
#pragma once

#include <algorithm>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/matrix_recurrence.hpp>

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
  /// The tokens that a row sees: from first_visible to last_seen.
  [[nodiscard]] Index first_visible(Index row) const {
    return std::visit([&](const auto& form) { return form.first_visible(row); }, kind);
  }
  [[nodiscard]] Index last_seen(Index row) const {
    return std::visit([&](const auto& form) { return form.last_seen(row); }, kind);
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

template <Real Scalar>
using SurroundedMatrix = Surrounded<SharedMatrix<Scalar>>;

namespace detail {

/// Rows that are wanted, in runs of neighbours that end at multiples of `most` at the latest: `place` is where the first of them stands in the caller's list.
struct RowRun {
  Index begin, end, place;
  [[nodiscard]] Index count() const { return end - begin; }
};
[[nodiscard]] inline std::vector<RowRun> row_runs(const std::vector<Index>& rows, Index most = map_block_tokens) {
  std::vector<RowRun> runs;
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const Index row = rows[place];
    if (!runs.empty() && runs.back().end == row && row % most != 0)
      ++runs.back().end;
    else
      runs.push_back({row, row + 1, static_cast<Index>(place)});
  }
  return runs;
}

template <Real Scalar>
[[nodiscard]] Scalar* row_of(const View<Scalar>& numbers, Index row) {
  return const_cast<Scalar*>(numbers.data()) + row * numbers.outerStride();
}

/// Columns that kernels may read (and compute in vain) beyond the last token.
template <Real Scalar>
[[nodiscard]] Index padded(Index tokens, Index width) {
  return (tokens + width + 2 * register_lanes<Scalar>) / register_lanes<Scalar> * register_lanes<Scalar>;
}

/// Rows of neighbouring heads, prepared where that pays.
template <Real Scalar>
class MatrixRows {
 public:
  MatrixRows(const SharedMatrix<Scalar>& matrix, Index first_head, Index head_count, const std::vector<Index>& rows,
             const Executor& executor)
      : matrix_(&matrix) {
    if (const auto* recurrence = std::get_if<HeadRecurrence<Scalar>>(&matrix.kind))
      prepared_.emplace_back(*recurrence, first_head, head_count, static_cast<Index>(rows.size()),
                             *std::max_element(rows.begin(), rows.end()) + 1, executor);
  }
  void rows(Index head, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>& scratch) const {
    if (prepared_.empty())
      matrix_rows(*matrix_, head, begin, end, out);
    else
      prepared_.front().rows(head, begin, end, out, scratch);
  }

 private:
  const SharedMatrix<Scalar>* matrix_;
  std::vector<HeadRows<Scalar>> prepared_;  // one, of a HeadRecurrence
};

/// Neighbours in an ascending list of heads that are computed together: of one group, so that they share its products, at most `most`.
template <Real Scalar>
[[nodiscard]] std::vector<std::vector<Index>> head_batches(const SharedMatrix<Scalar>& matrix, const std::vector<Index>& heads,
                                                           Index most) {
  std::vector<std::vector<Index>> batches;
  const auto* recurrence = std::get_if<HeadRecurrence<Scalar>>(&matrix.kind);
  for (const Index head : heads) {
    const bool fits = !batches.empty() && static_cast<Index>(batches.back().size()) < most &&
                      (recurrence == nullptr || recurrence->group(batches.back().back()) == recurrence->group(head));
    if (!fits) batches.emplace_back();
    batches.back().push_back(head);
  }
  return batches;
}

/// Calls worker(head, run, rows) for every head and every run of the wanted rows, with their rows of the head's matrix: (rows, tokens), zeros
/// in further columns up to padded(); the worker may change them. make_worker() makes one for each share of the work. Workers share heads
/// and runs, or, where `by_rows`, the runs alone: heads then come in ascending order.
template <Real Scalar, class MakeWorker>
void each_row_run(const SharedMatrix<Scalar>& matrix, const std::vector<Index>& heads, const std::vector<Index>& rows, Index width,
                  bool by_rows, Index rows_of_a_run, const Executor& executor, const MakeWorker& make_worker) {
  if (rows.empty() || heads.empty()) return;
  const std::vector<RowRun> runs = row_runs(rows, rows_of_a_run);
  const std::vector<std::vector<Index>> batches = head_batches(matrix, heads, by_rows ? 64 : 8);
  const Index columns = padded<Scalar>(matrix.tokens, width), run_count = static_cast<Index>(runs.size());
  const auto of_run = [&](const MatrixRows<Scalar>& maker, const std::vector<Index>& batch, const RowRun& run, Matrix<Scalar>& memory,
                          HeadRowsScratch<Scalar>& scratch, auto& worker) {
    if (memory.rows() < run.count()) memory.setZero(run.count(), columns);
    for (const Index head : batch) {
      maker.rows(head, run.begin, run.end, View<Scalar>(memory.data(), run.count(), matrix.tokens, columns), scratch);
      worker(head, run, View<Scalar>(memory.data(), run.count(), columns));
    }
  };
  const auto maker = [&](const std::vector<Index>& batch, const Executor& preparing) {
    return MatrixRows<Scalar>(matrix, batch.front(), batch.back() - batch.front() + 1, rows, preparing);
  };
  if (!by_rows && static_cast<Index>(batches.size()) >= run_count) {
    executor(static_cast<Index>(batches.size()), [&](Index index) {
      const std::vector<Index>& batch = batches[static_cast<std::size_t>(index)];
      const MatrixRows<Scalar> rows_of = maker(batch, serial_executor());
      Matrix<Scalar> memory;
      HeadRowsScratch<Scalar> scratch;
      auto worker = make_worker();
      for (const RowRun& run : runs) of_run(rows_of, batch, run, memory, scratch, worker);
    });
    return;
  }
  for (const std::vector<Index>& batch : batches) {
    const MatrixRows<Scalar> rows_of = maker(batch, executor);
    executor(run_count, [&](Index index) {
      Matrix<Scalar> memory;
      HeadRowsScratch<Scalar> scratch;
      auto worker = make_worker();
      of_run(rows_of, batch, runs[static_cast<std::size_t>(index)], memory, scratch, worker);
    });
  }
}

}  // namespace detail

/// Chosen rows of chosen heads' matrices into `out`, (heads * rows, tokens).
template <Real Scalar>
void head_rows(const SharedMatrix<Scalar>& matrix, const std::vector<Index>& heads, const std::vector<Index>& rows, View<Scalar> out,
               const Executor& executor);

IMPLICIT_ATTENTION_NAMESPACE_END
