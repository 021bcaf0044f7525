// One summand of an implicit attention: a recurrence and what surrounds it, in the tokens' order or reversed.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/lanes.hpp>
#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/kernels/reduced_rows.hpp>
#include <implicit_attention/operator/reduction.hpp>
#include <implicit_attention/operator/unified_form.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A form's own recurrence and terms; the forms that it adds (`more`, `second`) are parts of their own.
template <Real Scalar>
class OperatorPart {
 public:
  /// Of no form yet.
  OperatorPart() = default;
  void set(std::shared_ptr<const UnifiedForm<Scalar>> form) {
    form_ = std::move(form);
    form_->recurrence.kernels().set_bare(surrounded_);
    surrounded_.by_heads ? surround(surrounded_.matrix) : surround(surrounded_.diagonal);
  }

  [[nodiscard]] const UnifiedForm<Scalar>& form() const { return *form_; }
  [[nodiscard]] Index tokens() const { return form_->tokens(); }

  [[nodiscard]] bool causal() const { return form_->reversed ? tokens() == 1 : form_->recurrence.causal(); }

  /// The matrix that a head's channels share; null where every channel has one of its own.
  [[nodiscard]] const SharedMatrix<Scalar>* shared_matrix() const {
    return surrounded_.by_heads ? &surrounded_.matrix.recurrence : nullptr;
  }

  /// Rows of the chosen channels' matrices, (channels * rows, tokens).
  void rows(const std::vector<Index>& channels, const std::vector<Index>& row_list, View<Scalar> out, const Executor& executor) const {
    if (!form_->reversed) return rows_in_order(channels, row_list, out, executor);
    std::vector<Index> reversed(row_list);
    for (Index& row : reversed) row = tokens() - 1 - row;
    rows_in_order(channels, reversed, out, executor);
    for (Index row = 0; row < out.rows(); ++row)
      std::reverse(out.data() + row * out.outerStride(), out.data() + row * out.outerStride() + out.cols());
  }

  /// The channels joined, in the tokens' order only.
  void reduce(const Reduction<Scalar>& reduction, const std::vector<Index>& channels, const std::vector<Index>& row_list, View<Scalar> out,
              const Executor& executor) const {
    const RowWeights<Scalar> row_weights(reduction.row_weights, row_list);
    const auto reduce_rows = [&](auto surrounded) {
      surrounded.row_weights = row_weights.numbers();
      surrounded.column_weights = product(surrounded.column_weights, reduction.column_weights);
      with_reducer<Scalar>(reduction.kind, [&](const auto& reducer, Scalar initial) {
        with_subnormals_as_zero(
            executor, [&](const Executor& as_zero) { reduced_rows(surrounded, channels, row_list, out, as_zero, reducer, initial); });
      });
    };
    surrounded_.by_heads ? reduce_rows(surrounded_.matrix) : reduce_rows(surrounded_.diagonal);
    if (is_mean(reduction.kind)) out /= static_cast<Scalar>(channels.size());
    row_weights.restore(out);  // last: what becomes subnormal is rounded once
  }

  /// out = A x + (what the input's bias, tail and state give); the state after the last token into `final_state` if it is not null.
  void scan(const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor, View<Scalar>* final_state = nullptr) const {
    if (!form_->reversed) return scan_in_order(input, out, executor, final_state);
    ScanInput<Scalar> reversed = input;
    if (!input.x.empty()) reversed.x = in_reverse(*input.x);
    scan_in_order(reversed, out, executor, final_state);
    reverse_tokens(out);
  }

  /// out = A^T g.
  void scan_transposed(ConstView<Scalar> g, View<Scalar> out, const Executor& executor) const {
    if (!form_->reversed) return transposed_in_order(g, out, executor);
    transposed_in_order(in_reverse(g), out, executor);
    reverse_tokens(out);
  }

  /// What is added behind the recurrence: a norm's bias times the gate, (tokens, channels), added to `out`.
  void add_norm_bias(View<Scalar> out) const {
    if (form_->norm_bias.empty()) return;
    const bool one = form_->norm_bias.rows() == 1;
    for (Index row = 0; row < out.rows(); ++row) {
      const Index token = form_->reversed ? out.rows() - 1 - row : row;
      const ConstNumbers<Scalar> bias(form_->norm_bias.row(one ? 0 : token), out.cols());
      Numbers<Scalar> to(out.data() + row * out.outerStride(), out.cols());
      if (form_->gate.empty())
        to += bias;
      else
        to += bias * ConstNumbers<Scalar>(form_->gate.row(token), out.cols());
    }
  }

 private:
  template <class Surrounded>
  void surround(Surrounded& surrounded) const {
    surrounded.gate = product(form_->gate, form_->normalization);
    surrounded.skip = form_->skip;
    surrounded.activation = form_->activation;
    if (!form_->convolution.empty()) surrounded.taps = transposed(form_->convolution);
    surrounded.convolution_starts = form_->convolution_starts;
    surrounded.column_weights = form_->input_scale;
  }

  static void reverse_tokens(View<Scalar> numbers) {
    for (Index row = 0; row < numbers.rows() / 2; ++row) {
      Scalar *const first = numbers.data() + row * numbers.outerStride(), *const last = numbers.data() +
                                                                                        (numbers.rows() - 1 - row) * numbers.outerStride();
      std::swap_ranges(first, first + numbers.cols(), last);
    }
  }
  [[nodiscard]] static Matrix<Scalar> in_reverse(ConstView<Scalar> numbers) {
    Matrix<Scalar> reversed = numbers;
    reverse_tokens(reversed);
    return reversed;
  }

  [[nodiscard]] static Array<Scalar> product(const Array<Scalar>& a, const Array<Scalar>& b) {
    if (a.empty()) return b;
    if (b.empty()) return a;
    Matrix<Scalar> both = large_matrix<Scalar>(a.rows(), a.cols(), "an activation");
    for (Index row = 0; row < a.rows(); ++row)
      Numbers<Scalar>(both.data() + row * a.cols(), a.cols()) =
          ConstNumbers<Scalar>(a.row(row), a.cols()) * ConstNumbers<Scalar>(b.row(row), a.cols());
    return both;
  }

  void rows_in_order(const std::vector<Index>& channels, const std::vector<Index>& row_list, View<Scalar> out,
                     const Executor& executor) const {
    with_subnormals_as_zero(
        executor, [&](const Executor& as_zero) { form_->recurrence.kernels().rows(surrounded_, channels, row_list, out, as_zero); });
  }
  void scan_in_order(const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor, View<Scalar>* final_state) const {
    form_->recurrence.kernels().scan(surrounded_, input, out, executor, final_state);
  }
  void transposed_in_order(ConstView<Scalar> g, View<Scalar> out, const Executor& executor) const {
    surrounded_.by_heads ? implicit_attention::scan_transposed(surrounded_.matrix, g, out, executor)
                         : implicit_attention::scan_transposed(surrounded_.diagonal, g, out, executor);
  }

  std::shared_ptr<const UnifiedForm<Scalar>> form_;
  AnySurrounded<Scalar> surrounded_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
