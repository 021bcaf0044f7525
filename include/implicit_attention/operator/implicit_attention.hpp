// The unified form as an operator. It knows no architecture.
#pragma once

#include <limits>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/kernels/attention_rows.hpp>
#include <implicit_attention/kernels/reduced_rows.hpp>
#include <implicit_attention/kernels/scan.hpp>
#include <implicit_attention/operator/attention_matrix.hpp>
#include <implicit_attention/operator/reduction.hpp>
#include <implicit_attention/operator/selection.hpp>
#include <implicit_attention/operator/unified_form.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The implicit attention of one sequence through one layer: for each channel a lower-triangular matrix `A` over tokens with
/// `y = A x + bias + carry` exactly, `x` being the layer's linear input and `y` its output before the output projection.
/// Cheap to copy: numbers are shared or viewed. What it was made from must stay alive where it was viewed.
template <Real S>
class ImplicitAttention {
 public:
  using Scalar = S;

  /// Fails (ErrorKind::shape) unless the parts of the form fit each other.
  explicit ImplicitAttention(UnifiedForm<Scalar> form);

  [[nodiscard]] Index tokens() const { return form_.tokens(); }
  [[nodiscard]] Index channels() const { return form_.channels(); }
  [[nodiscard]] const UnifiedForm<Scalar>& form() const { return form_; }

  /// The chosen channels' matrices, chosen rows, (channels, rows, tokens). Fails (ErrorKind::limit) above the selection's byte limit.
  [[nodiscard]] AttentionMatrix<Scalar> materialize(const Selection& selection = {}) const;

  /// The same into the caller's memory: `out` is (chosen channels * chosen rows, tokens), channel after channel.
  void materialize_into(View<Scalar> out, const Selection& selection = {}) const;

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

  /// The affine part `b`, (tokens, channels): what the convolution's bias becomes at the output.
  [[nodiscard]] Matrix<Scalar> bias(const Executor& executor = serial_executor()) const;

  /// The part of the output that comes from before the first token, (tokens, channels): zero unless a state was carried in.
  [[nodiscard]] Matrix<Scalar> carry(const Executor& executor = serial_executor()) const;

 private:
  template <class Recurrence>
  [[nodiscard]] Dressed<Recurrence> dress(const Recurrence& recurrence) const {
    Dressed<Recurrence> dressed;
    dressed.recurrence = recurrence;
    dressed.row_scale = product(form_.gate, form_.normalization);
    dressed.skip = form_.skip;
    dressed.inner_scale = form_.activation;
    if (!form_.convolution.empty()) dressed.taps = Matrix<Scalar>(form_.convolution.matrix().transpose());
    dressed.convolution_starts = form_.convolution_starts;
    return dressed;
  }

  [[nodiscard]] static Array<Scalar> product(const Array<Scalar>& a, const Array<Scalar>& b);

  template <class Recurrence>
  [[nodiscard]] static Dressed<Recurrence> weighted(Dressed<Recurrence> dressed, const Reduction<Scalar>& reduction) {
    dressed.row_weights = reduction.row_weights;
    dressed.column_scale = reduction.column_weights;
    return dressed;
  }

  void fill(const std::vector<Index>& channel_list, const std::vector<Index>& row_list, View<Scalar> out, const Executor& executor) const;

  template <class Recurrence>
  static void reduce_rows(const Dressed<Recurrence>& dressed, const std::vector<Index>& channel_list, const std::vector<Index>& row_list,
                          ReductionKind kind, View<Scalar> out, const Executor& executor) {
    const auto reduced = [&](const auto& join, Scalar initial) {
      reduced_rows(dressed, channel_list, row_list, out, executor, join, initial);
    };
    constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
    switch (kind) {
      case ReductionKind::mean:
        reduced(detail::Add{}, Scalar(0));
        break;
      case ReductionKind::mean_abs:
        reduced(detail::AddAbsolute{}, Scalar(0));
        break;
      case ReductionKind::mean_positive:
        reduced(detail::AddPositive{}, Scalar(0));
        break;
      case ReductionKind::max:
        reduced(detail::Largest{}, -infinity);
        return;
      case ReductionKind::min:
        reduced(detail::Smallest{}, infinity);
        return;
    }
    out /= static_cast<Scalar>(channel_list.size());
  }

  void run(const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor) const;
  [[nodiscard]] Matrix<Scalar> affine(const ScanInput<Scalar>& input, const Executor& executor) const;

  UnifiedForm<Scalar> form_;
  std::variant<DressedDiagonal<Scalar>, DressedExplicit<Scalar>> dressed_;
};

template <Real S>
ImplicitAttention<S>::ImplicitAttention(UnifiedForm<Scalar> form) : form_(std::move(form)) {
  form_.check();
  std::visit([&](const auto& recurrence) { dressed_ = dress(recurrence); }, form_.recurrence);
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
Matrix<S> ImplicitAttention<S>::reduce(const Reduction<Scalar>& reduction, const Selection& selection) const {
  const Index rows = static_cast<Index>(selection.rows.resolve(tokens(), "row").size());
  check_byte_limit("reduced map", {rows, tokens()}, sizeof(Scalar), selection.byte_limit);
  Matrix<Scalar> map = large_matrix<Scalar>(rows, tokens(), "reduced map");
  reduce_into(map, reduction, selection);
  return map;
}

template <Real S>
void ImplicitAttention<S>::reduce_into(View<Scalar> out, const Reduction<Scalar>& reduction, const Selection& selection) const {
  const std::vector<Index> channel_list = selection.channels.resolve(channels(), "channel");
  const std::vector<Index> row_list = selection.rows.resolve(tokens(), "row");
  check_shape("reduce_into", "out", out, static_cast<Index>(row_list.size()), tokens(), "(rows, tokens)");
  if (channel_list.empty()) raise(ErrorKind::value, "reduce: no channel chosen");
  const auto check_weights = [&](const char* name, const Array<Scalar>& weights) {
    if (!weights.empty()) check_shape("reduce", name, weights, tokens(), channels(), "(tokens, channels)");
  };
  check_weights("row_weights", reduction.row_weights);
  check_weights("column_weights", reduction.column_weights);
  std::visit(
      [&](const auto& dressed) {
        reduce_rows(weighted(dressed, reduction), channel_list, row_list, reduction.kind, out, selection.executor);
      },
      dressed_);
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
  run(input, out, executor);
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
  std::visit([&](const auto& dressed) { scan_transposed(dressed, g, out, executor); }, dressed_);
}

template <Real S>
Matrix<S> ImplicitAttention<S>::bias(const Executor& executor) const {
  ScanInput<Scalar> input;
  input.convolution_bias = form_.convolution_bias;
  return affine(input, executor);
}

template <Real S>
Matrix<S> ImplicitAttention<S>::carry(const Executor& executor) const {
  ScanInput<Scalar> input;
  input.convolution_tail = form_.convolution_tail;
  input.initial_state = form_.initial_state;
  return affine(input, executor);
}

template <Real S>
Array<S> ImplicitAttention<S>::product(const Array<Scalar>& a, const Array<Scalar>& b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return large_matrix(a.matrix().cwiseProduct(b.matrix()));
}

template <Real S>
void ImplicitAttention<S>::fill(const std::vector<Index>& channel_list, const std::vector<Index>& row_list, View<Scalar> out,
                                const Executor& executor) const {
  std::visit([&](const auto& dressed) { attention_rows(dressed, channel_list, row_list, out, executor); }, dressed_);
}

template <Real S>
void ImplicitAttention<S>::run(const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor) const {
  std::visit([&](const auto& dressed) { scan(dressed, input, out, executor); }, dressed_);
}

template <Real S>
Matrix<S> ImplicitAttention<S>::affine(const ScanInput<Scalar>& input, const Executor& executor) const {
  if (input.convolution_bias.empty() && input.convolution_tail.empty() && input.initial_state.empty())
    return Matrix<Scalar>::Zero(tokens(), channels());
  Matrix<Scalar> out = large_matrix<Scalar>(tokens(), channels(), "output");
  run(input, out, executor);
  return out;
}

IMPLICIT_ATTENTION_NAMESPACE_END
