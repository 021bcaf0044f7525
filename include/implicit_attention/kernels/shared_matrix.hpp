// A matrix that a head's channels share, whatever kind of recurrence it comes from, and its rows for everything that is computed from them.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/matrix_recurrence.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Rows of neighbouring heads, prepared where that pays.
template <Real Scalar>
struct PreparedRows {
  virtual ~PreparedRows() = default;
  /// Rows begin..end-1 of a head, (end - begin, tokens), zeros where nothing is seen; or one row of `count` heads, (count, tokens), where
  /// MatrixKernels::heads_at_once is more than 1.
  virtual void rows(const Index* heads, Index count, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>& scratch) const = 0;
};

/// What a kind of recurrence does for a SharedMatrix.
template <Real Scalar>
struct MatrixKernels {
  virtual ~MatrixKernels() = default;
  [[nodiscard]] virtual Index first_visible(Index row) const = 0;
  [[nodiscard]] virtual Index last_seen(Index row) const = 0;
  /// Heads of one group share a part of the arrays from which their rows are computed.
  [[nodiscard]] virtual Index group(Index head) const = 0;
  /// How many heads' single rows are worth asking for together, whatever their groups, where so many rows are wanted.
  [[nodiscard]] virtual Index heads_at_once(Index row_count) const = 0;
  virtual void rows(Index head, Index begin, Index end, View<Scalar> out) const = 0;
  [[nodiscard]] virtual std::unique_ptr<const PreparedRows<Scalar>> prepare(Index first_head, Index head_count,
                                                                            const std::vector<Index>& rows,
                                                                            const Executor& executor) const = 0;
  virtual void apply(const Array<Scalar>& x, const Array<Scalar>& initial_state, View<Scalar> out, const Executor& executor,
                     View<Scalar>* final_state) const = 0;
  virtual void apply_transposed(ConstView<Scalar> g, View<Scalar> out, const Executor& executor) const = 0;
};

template <class Recurrence>
struct RowsOf final : PreparedRows<typename Recurrence::ScalarType> {
  using Scalar = typename Recurrence::ScalarType;
  explicit RowsOf(const Recurrence& of) : recurrence(&of) {}
  void rows(const Index* heads, Index, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>&) const override {
    matrix_rows(*recurrence, *heads, begin, end, out);
  }
  const Recurrence* recurrence;
};
template <Real Scalar>
struct RowsOf<HeadRecurrence<Scalar>> final : PreparedRows<Scalar> {
  template <class... Arguments>
  explicit RowsOf(const Arguments&... arguments) : prepared(arguments...) {}
  void rows(const Index* heads, Index count, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>& scratch) const override {
    count > 1 ? prepared.row(heads, count, begin, out) : prepared.rows(*heads, begin, end, out, scratch);
  }
  HeadRows<Scalar> prepared;
};

template <Real Scalar>
struct RowsOf<SoftmaxRecurrence<Scalar>> final : PreparedRows<Scalar> {
  explicit RowsOf(const SoftmaxRecurrence<Scalar>& of) : recurrence(&of) {}
  void rows(const Index* heads, Index count, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>&) const override {
    count > 1 ? softmax_heads(*recurrence, heads, count, begin, out) : matrix_rows(*recurrence, *heads, begin, end, out);
  }
  const SoftmaxRecurrence<Scalar>* recurrence;
};

template <class Recurrence>
struct MatrixKernelsOf final : MatrixKernels<typename Recurrence::ScalarType> {
  using Scalar = typename Recurrence::ScalarType;
  static constexpr bool of_heads = std::is_same_v<Recurrence, HeadRecurrence<Scalar>>;
  explicit MatrixKernelsOf(Recurrence of) : recurrence(std::move(of)) {}

  [[nodiscard]] Index first_visible(Index row) const override { return recurrence.first_visible(row); }
  [[nodiscard]] Index last_seen(Index row) const override { return recurrence.last_seen(row); }
  [[nodiscard]] Index group([[maybe_unused]] Index head) const override {
    if constexpr (of_heads)
      return recurrence.group(head);
    else
      return 0;
  }
  [[nodiscard]] Index heads_at_once([[maybe_unused]] Index row_count) const override {
    if constexpr (of_heads)
      return HeadRows<Scalar>::heads_at_once(recurrence, row_count);
    else
      return std::is_same_v<Recurrence, SoftmaxRecurrence<Scalar>> && row_count < rows_worth_preparing ? heads_walked_together : 1;
  }
  void rows(Index head, Index begin, Index end, View<Scalar> out) const override { matrix_rows(recurrence, head, begin, end, out); }
  [[nodiscard]] std::unique_ptr<const PreparedRows<Scalar>> prepare(Index first_head, Index head_count, const std::vector<Index>& rows,
                                                                    const Executor& executor) const override {
    if constexpr (of_heads)
      return std::make_unique<RowsOf<Recurrence>>(recurrence, first_head, head_count, static_cast<Index>(rows.size()),
                                                  *std::max_element(rows.begin(), rows.end()) + 1, executor);
    else
      return std::make_unique<RowsOf<Recurrence>>(recurrence);
  }
  void apply(const Array<Scalar>& x, const Array<Scalar>& initial_state, View<Scalar> out, const Executor& executor,
             View<Scalar>* final_state) const override {
    matrix_apply(recurrence, x, initial_state, out, executor, final_state);
  }
  void apply_transposed(ConstView<Scalar> g, View<Scalar> out, const Executor& executor) const override {
    matrix_apply_transposed(recurrence, g, out, executor);
  }

  Recurrence recurrence;
};

}  // namespace detail

/// A recurrence with one matrix a head, of any kind: what surrounds it is compiled once for all of them, and a program compiles the kernels
/// of those kinds alone that it makes one from.
template <Real Scalar>
struct SharedMatrix {
  using ScalarType = Scalar;
  Index tokens = 0, channels = 0, heads = 1;

  SharedMatrix() = default;
  template <MatrixRecurrence Recurrence>
    requires(!std::is_same_v<Recurrence, SharedMatrix>)
  SharedMatrix(const Recurrence& recurrence)  // NOLINT(google-explicit-constructor)
      : tokens(recurrence.tokens),
        channels(recurrence.channels),
        heads(recurrence.heads),
        kernels_(std::make_shared<const detail::MatrixKernelsOf<Recurrence>>(recurrence)) {}

  [[nodiscard]] Index head_channels() const { return channels / heads; }
  [[nodiscard]] Index head(Index channel) const { return channel / head_channels(); }
  /// The tokens that a row sees: from first_visible to last_seen.
  [[nodiscard]] Index first_visible(Index row) const { return kernels_->first_visible(row); }
  [[nodiscard]] Index last_seen(Index row) const { return kernels_->last_seen(row); }
  [[nodiscard]] const detail::MatrixKernels<Scalar>& kernels() const { return *kernels_; }

 private:
  std::shared_ptr<const detail::MatrixKernels<Scalar>> kernels_;
};

template <Real Scalar>
void matrix_rows(const SharedMatrix<Scalar>& matrix, Index head, Index begin, Index end, View<Scalar> out) {
  matrix.kernels().rows(head, begin, end, out);
}
template <Real Scalar>
void matrix_apply(const SharedMatrix<Scalar>& matrix, const Array<Scalar>& x, const Array<Scalar>& initial_state, View<Scalar> out,
                  const Executor& executor, View<Scalar>* final_state = nullptr) {
  matrix.kernels().apply(x, initial_state, out, executor, final_state);
}
template <Real Scalar>
void matrix_apply_transposed(const SharedMatrix<Scalar>& matrix, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  matrix.kernels().apply_transposed(g, out, executor);
}

template <Real Scalar>
using SurroundedMatrix = Surrounded<SharedMatrix<Scalar>>;

namespace detail {

/// Rows that are wanted, in runs of neighbours none of which crosses a multiple of `most`: `place` is where the first of them stands in
/// the caller's list.
struct RowRun {
  Index begin, end, place;
  [[nodiscard]] Index count() const { return end - begin; }
};
template <class = void>
[[nodiscard]] std::vector<RowRun> row_runs(const std::vector<Index>& rows, Index most = map_block_tokens) {
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

/// Columns beyond the last token that kernels may read; what they compute of them is discarded.
template <Real Scalar>
[[nodiscard]] Index padded(Index tokens, Index width) {
  return (tokens + width + 3 * register_lanes<Scalar>) / register_lanes<Scalar> * register_lanes<Scalar>;
}

/// Neighbours in an ascending list of heads that are computed together, at most `most`: of one group, so that they share its products, or
/// those whose rows are asked for together.
template <Real Scalar>
[[nodiscard]] std::vector<std::vector<Index>> head_batches(const SharedMatrix<Scalar>& matrix, const std::vector<Index>& heads, Index most,
                                                           Index at_once) {
  std::vector<std::vector<Index>> batches;
  const MatrixKernels<Scalar>& kernels = matrix.kernels();
  for (const Index head : heads) {
    const Index count = batches.empty() ? 0 : static_cast<Index>(batches.back().size());
    const bool fits =
        count > 0 && (at_once > 1 ? count < at_once : count < most && kernels.group(batches.back().back()) == kernels.group(head));
    if (!fits) batches.emplace_back();
    batches.back().push_back(head);
  }
  return batches;
}

/// Calls worker(head, run, rows) for every head and every run of the wanted rows, with their rows of the head's matrix: (rows, tokens),
/// zeros in further columns up to padded(); the worker may change them. worker.finish(run), where there is such a function, follows each
/// batch of a run's heads. make_worker() makes one worker for each share of the work. Workers share heads and runs, or, where `by_rows`,
/// the runs alone: heads then come in ascending order.
template <Real Scalar, class MakeWorker>
void each_row_run(const SharedMatrix<Scalar>& matrix, const std::vector<Index>& heads, const std::vector<Index>& rows, Index width,
                  bool by_rows, Index rows_of_a_run, const Executor& executor, const MakeWorker& make_worker) {
  if (rows.empty() || heads.empty()) return;
  const std::vector<RowRun> runs = row_runs(rows, rows_of_a_run);
  // At least two batches, where there are as many heads: two workers then have one each.
  const Index at_once = std::min(matrix.kernels().heads_at_once(static_cast<Index>(rows.size())),
                                 std::max<Index>(1, (static_cast<Index>(heads.size()) + 1) / 2));
  const std::vector<std::vector<Index>> batches = head_batches(matrix, heads, by_rows ? 64 : 8, at_once);
  const Index columns = padded<Scalar>(matrix.tokens, width), run_count = static_cast<Index>(runs.size());
  const auto of_run = [&](const PreparedRows<Scalar>& maker, const std::vector<Index>& batch, const RowRun& run, Matrix<Scalar>& memory,
                          HeadRowsScratch<Scalar>& scratch, auto& worker) {
    const Index together = run.count() == 1 && at_once > 1 ? static_cast<Index>(batch.size()) : 1;
    const Index rows_at_once = run.count() * together;
    if (memory.rows() < rows_at_once) memory.setZero(rows_at_once, columns);
    for (const Index *head = batch.data(), *const end = head + batch.size(); head != end; head += together) {
      maker.rows(head, together, run.begin, run.end, View<Scalar>(memory.data(), rows_at_once, matrix.tokens, columns), scratch);
      for (Index i = 0; i < together; ++i) worker(head[i], run, View<Scalar>(memory.data() + i * columns, run.count(), columns));
    }
    if constexpr (requires { worker.finish(run); }) worker.finish(run);
  };
  const auto maker = [&](const std::vector<Index>& batch, const Executor& preparing) {
    return matrix.kernels().prepare(batch.front(), batch.back() - batch.front() + 1, rows, preparing);
  };
  if (!by_rows && static_cast<Index>(batches.size()) >= run_count) {
    executor(static_cast<Index>(batches.size()), [&](Index index) {
      const std::vector<Index>& batch = batches[static_cast<std::size_t>(index)];
      const auto rows_of = maker(batch, serial_executor());
      Matrix<Scalar> memory;
      HeadRowsScratch<Scalar> scratch;
      auto worker = make_worker();
      for (const RowRun& run : runs) of_run(*rows_of, batch, run, memory, scratch, worker);
    });
    return;
  }
  for (const std::vector<Index>& batch : batches) {
    const auto rows_of = maker(batch, executor);
    executor(run_count, [&](Index index) {
      Matrix<Scalar> memory;
      HeadRowsScratch<Scalar> scratch;
      auto worker = make_worker();
      of_run(*rows_of, batch, runs[static_cast<std::size_t>(index)], memory, scratch, worker);
    });
  }
}

}  // namespace detail

/// Chosen rows of chosen heads' matrices into `out`, (heads * rows, tokens).
template <Real Scalar>
void head_rows(const SharedMatrix<Scalar>& matrix, const std::vector<Index>& heads, const std::vector<Index>& rows, View<Scalar> out,
               const Executor& executor);

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
