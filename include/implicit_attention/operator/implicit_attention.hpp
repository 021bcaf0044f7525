// The unified form as an operator. It knows no architecture.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/operator/attention_matrix.hpp>
#include <implicit_attention/operator/operator_part.hpp>
#include <implicit_attention/operator/reduction.hpp>
#include <implicit_attention/operator/selection.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The implicit attention of one sequence through one layer: for each channel a matrix `A` over tokens (lower triangular where the layer
/// is causal) with `y = A x + bias + carry` exactly, `x` being the layer's linear input and `y` its output before the output projection.
/// A layer with a second path has `y = A x + A_2 x_2 + bias + carry`: `second()` is A_2, `second_input()` x_2.
/// Cheap to copy: numbers are shared or viewed. What it was made from must stay alive where it was viewed.
template <Real S>
class ImplicitAttention {
 public:
  using Scalar = S;

  /// Fails (ErrorKind::shape) unless the parts of the form fit each other.
  explicit ImplicitAttention(UnifiedForm<Scalar> form);

  [[nodiscard]] Index tokens() const { return form_->tokens(); }
  [[nodiscard]] Index channels() const { return form_->channels(); }
  [[nodiscard]] const UnifiedForm<Scalar>& form() const { return *form_; }
  /// Whether no output looks at a later token.
  [[nodiscard]] bool causal() const;

  /// The chosen channels' matrices, chosen rows, (channels, rows, tokens). Fails (ErrorKind::limit) above the selection's byte limit.
  [[nodiscard]] AttentionMatrix<Scalar> materialize(const Selection& selection = {}) const;

  /// The same into the caller's memory: `out` is (chosen channels * chosen rows, tokens), channel after channel.
  void materialize_into(View<Scalar> out, const Selection& selection = {}) const;

  /// Heads whose channels share one matrix; 0 where every channel has a recurrence of its own, or one that holds other terms as well
  /// (ExplicitRecurrence::mixed).
  [[nodiscard]] Index heads() const;
  /// How many forms are added, each with its own R_h: 1 for most layers, rank * rank for a multi-input Mamba-3.
  [[nodiscard]] Index summands() const { return static_cast<Index>(parts_.size()); }
  /// R_h of the chosen heads, the recurrence alone: (heads, rows, tokens); `selection.channels` chooses heads. Fails where there are none.
  [[nodiscard]] AttentionMatrix<Scalar> head_maps(const Selection& selection = {}, Index summand = 0) const;

  /// One map over tokens, (chosen rows, tokens): the chosen channels joined; see Reduction. Never holds one matrix per channel.
  [[nodiscard]] Matrix<Scalar> reduce(const Reduction<Scalar>& reduction = {}, const Selection& selection = {}) const;

  /// The same into the caller's memory, (chosen rows, tokens).
  void reduce_into(View<Scalar> out, const Reduction<Scalar>& reduction = {}, const Selection& selection = {}) const;

  /// A x for every channel, (tokens, channels), in linear time.
  [[nodiscard]] Matrix<Scalar> apply(ConstView<Scalar> x, const Executor& executor = serial_executor()) const;
  /// The same into the caller's memory.
  void apply_into(View<Scalar> out, ConstView<Scalar> x, const Executor& executor = serial_executor()) const;

  /// A^T g for every channel, (tokens, channels), in linear time.
  [[nodiscard]] Matrix<Scalar> apply_transpose(ConstView<Scalar> g, const Executor& executor = serial_executor()) const;
  /// The same into the caller's memory.
  void apply_transpose_into(View<Scalar> out, ConstView<Scalar> g, const Executor& executor = serial_executor()) const;

  /// The layer's output: A x + bias + carry (and the second path), (tokens, channels), by one scan. The recurrent state after the last
  /// token goes to `final_state` if it is not null; its shape is that of the form's initial_state, and it is empty where the recurrence is
  /// neither a diagonal one nor of heads.
  [[nodiscard]] Matrix<Scalar> run(ConstView<Scalar> x, Matrix<Scalar>* final_state = nullptr,
                                   const Executor& executor = serial_executor()) const;

  /// The affine part `b`, (tokens, channels): what the biases of the convolution and of the norm become at the output.
  [[nodiscard]] Matrix<Scalar> bias(const Executor& executor = serial_executor()) const;

  /// The part of the output that comes from before the first token, (tokens, channels): zero unless a state was carried in.
  [[nodiscard]] Matrix<Scalar> carry(const Executor& executor = serial_executor()) const;

  [[nodiscard]] bool has_second() const { return form_->second != nullptr; }
  /// A_2, the operator of the second path; fails where there is none.
  [[nodiscard]] ImplicitAttention second() const;
  /// x_2, (tokens, channels).
  [[nodiscard]] const Array<Scalar>& second_input() const;

 private:
  [[nodiscard]] bool plain() const { return parts_.size() == 1 && !form_->reversed; }
  void fill(const std::vector<Index>& channel_list, const std::vector<Index>& row_list, View<Scalar> out, const Executor& executor) const;
  void reduce_sum(const Reduction<Scalar>& reduction, const std::vector<Index>& channel_list, const std::vector<Index>& row_list,
                  View<Scalar> out, const Executor& executor) const;
  static void add(const Matrix<Scalar>& more, View<Scalar> out) {
    for (Index row = 0; row < out.rows(); ++row)
      detail::Numbers<Scalar>(out.data() + row * out.outerStride(), out.cols()) +=
          detail::ConstNumbers<Scalar>(more.data() + row * more.cols(), more.cols());
  }
  /// Calls `scan_part(part, out)` for the first part and adds what it gives for the others.
  template <class ScanPart>
  void sum_parts(View<Scalar> out, const ScanPart& scan_part) const {
    scan_part(parts_.front(), out);
    Matrix<Scalar> next;
    for (std::size_t part = 1; part < parts_.size(); ++part) {
      next.resize(out.rows(), out.cols());
      scan_part(parts_[part], View<Scalar>(next));
      add(next, out);
    }
  }

  std::shared_ptr<const UnifiedForm<Scalar>> form_;
  std::vector<detail::OperatorPart<Scalar>> parts_;
};

template <Real S>
ImplicitAttention<S>::ImplicitAttention(UnifiedForm<Scalar> form) : form_(new UnifiedForm<Scalar>(std::move(form))) {
  form_->check();
  parts_ = std::vector<detail::OperatorPart<Scalar>>(1 + form_->more.size());
  parts_.front().set(form_);
  for (std::size_t part = 1; part < parts_.size(); ++part)
    parts_[part].set(std::shared_ptr<const UnifiedForm<Scalar>>(form_, &form_->more[part - 1]));
}

template <Real S>
bool ImplicitAttention<S>::causal() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const auto& part) { return part.causal(); });
}

template <Real S>
AttentionMatrix<S> ImplicitAttention<S>::materialize(const Selection& selection) const {
  std::vector<Index> channel_list = selection.channels.resolve(channels(), "channel");
  std::vector<Index> row_list = selection.rows.resolve(tokens(), "row");
  check_byte_limit("attention", {static_cast<Index>(channel_list.size()), static_cast<Index>(row_list.size()), tokens()}, sizeof(Scalar),
                   selection.byte_limit);
  AttentionMatrix<Scalar> attention(std::move(channel_list), std::move(row_list), tokens());
  fill(attention.channel_indices(), attention.row_indices(), attention.stacked(), selection.executor);
  return attention;
}

template <Real S>
void ImplicitAttention<S>::materialize_into(View<Scalar> out, const Selection& selection) const {
  const std::vector<Index> channel_list = selection.channels.resolve(channels(), "channel");
  const std::vector<Index> row_list = selection.rows.resolve(tokens(), "row");
  check_shape("materialize_into", "out", out, static_cast<Index>(channel_list.size() * row_list.size()), tokens(),
              "(channels * rows, tokens)");
  fill(channel_list, row_list, out, selection.executor);
}

template <Real S>
Index ImplicitAttention<S>::heads() const {
  const SharedMatrix<Scalar>* shared = parts_.front().shared_matrix();
  if (shared == nullptr) return 0;
  const ExplicitRecurrence<Scalar>* given = form_->recurrence.given();
  return given != nullptr && given->mixed ? 0 : shared->heads;
}

template <Real S>
AttentionMatrix<S> ImplicitAttention<S>::head_maps(const Selection& selection, Index summand) const {
  if (heads() == 0)
    detail::raise(
        ErrorKind::value,
        "head_maps: every channel has a matrix of its own, no head shares one; materialize channels, or, where other terms make them "
        "differ, ask with Terms::recurrence()");
  check_index(summand, summands(), "head_maps: summand");
  const auto& part = parts_[static_cast<std::size_t>(summand)];
  std::vector<Index> head_list = selection.channels.resolve(heads(), "head");
  std::vector<Index> row_list = selection.rows.resolve(tokens(), "row");
  check_byte_limit("an array of head maps", {static_cast<Index>(head_list.size()), static_cast<Index>(row_list.size()), tokens()},
                   sizeof(Scalar), selection.byte_limit, detail::fewer_heads);
  AttentionMatrix<Scalar> maps(std::move(head_list), std::move(row_list), tokens());
  detail::with_subnormals_as_zero(selection.executor, [&](const Executor& as_zero) {
    head_rows(*part.shared_matrix(), maps.channel_indices(), maps.row_indices(), maps.stacked(), as_zero);
  });
  return maps;
}

template <Real S>
Matrix<S> ImplicitAttention<S>::reduce(const Reduction<Scalar>& reduction, const Selection& selection) const {
  const Index rows = static_cast<Index>(selection.rows.resolve(tokens(), "row").size());
  check_byte_limit("reduced map", {rows, tokens()}, sizeof(Scalar), selection.byte_limit, detail::fewer_rows);
  Matrix<Scalar> map = large_matrix<Scalar>(rows, tokens(), "reduced map");
  reduce_into(map, reduction, selection);
  return map;
}

template <Real S>
void ImplicitAttention<S>::reduce_into(View<Scalar> out, const Reduction<Scalar>& reduction, const Selection& selection) const {
  const std::vector<Index> channel_list = selection.channels.resolve(channels(), "channel");
  const std::vector<Index> row_list = selection.rows.resolve(tokens(), "row");
  check_shape("reduce_into", "out", out, static_cast<Index>(row_list.size()), tokens(), "(rows, tokens)");
  if (channel_list.empty()) detail::raise(ErrorKind::value, "reduce: no channel chosen");
  const auto check_weights = [&](const char* name, const Array<Scalar>& weights) {
    if (!weights.empty()) check_shape("reduce", name, weights, tokens(), channels(), "(tokens, channels)");
  };
  check_weights("row_weights", reduction.row_weights);
  check_weights("column_weights", reduction.column_weights);
  if (plain())
    parts_.front().reduce(reduction, channel_list, row_list, out, selection.executor);
  else
    reduce_sum(reduction, channel_list, row_list, out, selection.executor);
}

/// The sum is reduced, not its summands: mean |A_f + A_b| is not mean |A_f| + mean |A_b|. One channel's rows exist at a time.
template <Real S>
void ImplicitAttention<S>::reduce_sum(const Reduction<Scalar>& reduction, const std::vector<Index>& channel_list,
                                      const std::vector<Index>& row_list, View<Scalar> out, const Executor& executor) const {
  Matrix<Scalar> values(static_cast<Index>(row_list.size()), tokens());
  detail::with_reducer<Scalar>(reduction.kind, [&](const auto& join, Scalar initial) {
    out.setConstant(initial);
    for (const Index channel : channel_list) {
      fill({channel}, row_list, values, executor);
      if (!reduction.row_weights.empty())
        for (std::size_t r = 0; r < row_list.size(); ++r) values.row(static_cast<Index>(r)) *= reduction.row_weights(row_list[r], channel);
      if (!reduction.column_weights.empty()) values.array().rowwise() *= reduction.column_weights.matrix().col(channel).transpose().array();
      for (Index r = 0; r < values.rows(); ++r) detail::join_rows(join, values.row(r).data(), 0, 1, tokens(), out.row(r).data());
    }
  });
  if (detail::is_mean(reduction.kind)) out /= static_cast<Scalar>(channel_list.size());
}

template <Real S>
Matrix<S> ImplicitAttention<S>::apply(ConstView<Scalar> x, const Executor& executor) const {
  Matrix<Scalar> out = large_matrix<Scalar>(tokens(), channels(), "output");
  apply_into(out, x, executor);
  return out;
}

template <Real S>
void ImplicitAttention<S>::apply_into(View<Scalar> out, ConstView<Scalar> x, const Executor& executor) const {
  check_shape("apply", "x", x, tokens(), channels(), "(tokens, channels)");
  check_shape("apply", "out", out, tokens(), channels(), "(tokens, channels)");
  ScanInput<Scalar> input;
  input.x = Array<Scalar>::view(x);
  sum_parts(out, [&](const auto& part, View<Scalar> to) { part.scan(input, to, executor); });
}

template <Real S>
Matrix<S> ImplicitAttention<S>::apply_transpose(ConstView<Scalar> g, const Executor& executor) const {
  Matrix<Scalar> out = large_matrix<Scalar>(tokens(), channels(), "output");
  apply_transpose_into(out, g, executor);
  return out;
}

template <Real S>
void ImplicitAttention<S>::apply_transpose_into(View<Scalar> out, ConstView<Scalar> g, const Executor& executor) const {
  check_shape("apply_transpose", "g", g, tokens(), channels(), "(tokens, channels)");
  check_shape("apply_transpose", "out", out, tokens(), channels(), "(tokens, channels)");
  sum_parts(out, [&](const auto& part, View<Scalar> to) { part.scan_transposed(g, to, executor); });
}

template <Real S>
Matrix<S> ImplicitAttention<S>::run(ConstView<Scalar> x, Matrix<Scalar>* final_state, const Executor& executor) const {
  check_shape("run", "x", x, tokens(), channels(), "(tokens, channels)");
  Matrix<Scalar> out = large_matrix<Scalar>(tokens(), channels(), "output");
  bool first = true;
  sum_parts(out, [&](const auto& part, View<Scalar> to) {
    const UnifiedForm<Scalar>& form = part.form();
    ScanInput<Scalar> input;
    input.x = Array<Scalar>::view(x);
    input.convolution_bias = form.convolution_bias;
    input.convolution_tail = form.convolution_tail;
    input.initial_state = form.initial_state;
    if (first && final_state != nullptr) {
      if (const DiagonalRecurrence<Scalar>* diagonal = form.recurrence.diagonal())
        final_state->resize(diagonal->state, channels());
      else if (const HeadRecurrence<Scalar>* heads = form.recurrence.heads())
        final_state->resize(heads->heads * heads->state, heads->head_channels());
      else
        final_state->resize(0, 0);
      View<Scalar> state(*final_state);
      part.scan(input, to, executor, &state);
    } else {
      part.scan(input, to, executor);
    }
    part.add_norm_bias(to);
    first = false;
  });
  if (has_second()) add(second().run(*second_input(), nullptr, executor), out);
  return out;
}

template <Real S>
Matrix<S> ImplicitAttention<S>::bias(const Executor& executor) const {
  Matrix<Scalar> out = large_matrix<Scalar>(tokens(), channels(), "bias");
  sum_parts(out, [&](const auto& part, View<Scalar> to) {
    ScanInput<Scalar> input;
    input.convolution_bias = part.form().convolution_bias;
    if (input.convolution_bias.empty())
      to.setZero();
    else
      part.scan(input, to, executor);
    part.add_norm_bias(to);
  });
  if (has_second()) add(second().bias(executor), out);
  return out;
}

template <Real S>
Matrix<S> ImplicitAttention<S>::carry(const Executor& executor) const {
  Matrix<Scalar> out = large_matrix<Scalar>(tokens(), channels(), "carry");
  sum_parts(out, [&](const auto& part, View<Scalar> to) {
    ScanInput<Scalar> input;
    input.convolution_tail = part.form().convolution_tail;
    input.initial_state = part.form().initial_state;
    if (input.convolution_tail.empty() && input.initial_state.empty())
      to.setZero();
    else
      part.scan(input, to, executor);
  });
  if (has_second()) add(second().carry(executor), out);
  return out;
}

template <Real S>
ImplicitAttention<S> ImplicitAttention<S>::second() const {
  if (!has_second()) detail::raise(ErrorKind::value, "ImplicitAttention: this layer has no second path");
  return ImplicitAttention(form_->second->form);
}

template <Real S>
const Array<S>& ImplicitAttention<S>::second_input() const {
  if (!has_second()) detail::raise(ErrorKind::value, "ImplicitAttention: this layer has no second path");
  return form_->second->input;
}

template <Real S>
void ImplicitAttention<S>::fill(const std::vector<Index>& channel_list, const std::vector<Index>& row_list, View<Scalar> out,
                                const Executor& executor) const {
  sum_parts(out, [&](const auto& part, View<Scalar> to) { part.rows(channel_list, row_list, to, executor); });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
