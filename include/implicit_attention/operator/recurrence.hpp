// The recurrence of a unified form, of any kind, with the kernels of its kind.
#pragma once

#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/attention_rows.hpp>
#include <implicit_attention/kernels/scan.hpp>
#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A recurrence between the terms that surround it, as the kernels take it: one a channel, or one matrix a head. One of the two is set, the
/// other is empty. Neither a std::variant nor two std::optional: every layer that is included would pay for their machinery.
template <Real Scalar>
struct AnySurrounded {
  /// The one of that type, which is set from now on.
  template <class Form>
  [[nodiscard]] Form& set() {
    by_heads = std::is_same_v<Form, SurroundedMatrix<Scalar>>;
    if constexpr (std::is_same_v<Form, SurroundedDiagonal<Scalar>>)
      return diagonal;
    else
      return matrix;
  }
  template <class Form>
  [[nodiscard]] const Form& as() const {
    if constexpr (std::is_same_v<Form, SurroundedDiagonal<Scalar>>)
      return diagonal;
    else
      return matrix;
  }

  bool by_heads = false;
  SurroundedDiagonal<Scalar> diagonal;
  SurroundedMatrix<Scalar> matrix;
};

/// What a kind of recurrence does for the operator. `surrounded` is one that the same object made. Only what materialising and running
/// need: a virtual function is compiled with every recurrence that is made. A use of A^T g compiles it for both forms of AnySurrounded.
template <Real Scalar>
struct RecurrenceKernels {
  virtual ~RecurrenceKernels() = default;
  virtual void check() const = 0;
  /// Sets the recurrence with nothing around it.
  virtual void set_bare(AnySurrounded<Scalar>& surrounded) const = 0;
  virtual void rows(const AnySurrounded<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                    View<Scalar> out, const Executor& executor) const = 0;
  virtual void scan(const AnySurrounded<Scalar>& surrounded, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor,
                    View<Scalar>* final_state) const = 0;
};

template <class Of>
struct RecurrenceKernelsOf final : RecurrenceKernels<typename Of::ScalarType> {
  using Scalar = typename Of::ScalarType;
  using Form = std::conditional_t<std::is_same_v<Of, DiagonalRecurrence<Scalar>>, SurroundedDiagonal<Scalar>, SurroundedMatrix<Scalar>>;
  explicit RecurrenceKernelsOf(Of&& of) : recurrence(std::move(of)) {}

  void check() const override { recurrence.check(); }
  void set_bare(AnySurrounded<Scalar>& surrounded) const override { surrounded.template set<Form>().recurrence = recurrence; }
  void rows(const AnySurrounded<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows, View<Scalar> out,
            const Executor& executor) const override {
    attention_rows(surrounded.template as<Form>(), channels, rows, out, executor);
  }
  void scan(const AnySurrounded<Scalar>& surrounded, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor,
            View<Scalar>* final_state) const override {
    implicit_attention::scan(surrounded.template as<Form>(), input, out, executor, final_state);
  }

  Of recurrence;
};

}  // namespace detail

/// The kinds of recurrence that there are.
enum class RecurrenceKind {
  diagonal,  ///< DiagonalRecurrence: a matrix of its own for every channel
  heads,     ///< HeadRecurrence
  softmax,   ///< SoftmaxRecurrence
  toeplitz,  ///< ToeplitzRecurrence
  given      ///< ExplicitRecurrence
};

/// One recurrence of any kind. It carries the kernels of its kind, so a program compiles only those of kinds that it uses. Cheap to copy.
template <Real Scalar>
class Recurrence {
 public:
  /// None: check() refuses it.
  Recurrence() = default;
  Recurrence(DiagonalRecurrence<Scalar> recurrence)  // NOLINT(google-explicit-constructor)
      : Recurrence(RecurrenceKind::diagonal, std::move(recurrence)) {}
  Recurrence(HeadRecurrence<Scalar> recurrence)  // NOLINT(google-explicit-constructor)
      : Recurrence(RecurrenceKind::heads, std::move(recurrence)) {}
  Recurrence(SoftmaxRecurrence<Scalar> recurrence)  // NOLINT(google-explicit-constructor)
      : Recurrence(RecurrenceKind::softmax, std::move(recurrence)) {}
  Recurrence(ToeplitzRecurrence<Scalar> recurrence)  // NOLINT(google-explicit-constructor)
      : Recurrence(RecurrenceKind::toeplitz, std::move(recurrence)) {}
  Recurrence(ExplicitRecurrence<Scalar> recurrence)  // NOLINT(google-explicit-constructor)
      : Recurrence(RecurrenceKind::given, std::move(recurrence)) {}

  [[nodiscard]] RecurrenceKind kind() const { return kind_; }
  [[nodiscard]] Index tokens() const { return tokens_; }
  [[nodiscard]] Index channels() const { return channels_; }
  /// Whether no token sees a later one.
  [[nodiscard]] bool causal() const { return causal_; }
  /// Fails (ErrorKind::shape) unless the parts of the recurrence fit each other, and (ErrorKind::value) where there is none.
  void check() const {
    if (kernels_ == nullptr) detail::raise(ErrorKind::value, "UnifiedForm: recurrence is missing");
    kernels_->check();
  }

  /// The recurrence, if it is of that kind, else null: DiagonalRecurrence and so on.
  [[nodiscard]] const DiagonalRecurrence<Scalar>* diagonal() const { return as<DiagonalRecurrence<Scalar>>(RecurrenceKind::diagonal); }
  [[nodiscard]] const HeadRecurrence<Scalar>* heads() const { return as<HeadRecurrence<Scalar>>(RecurrenceKind::heads); }
  [[nodiscard]] const SoftmaxRecurrence<Scalar>* softmax() const { return as<SoftmaxRecurrence<Scalar>>(RecurrenceKind::softmax); }
  [[nodiscard]] const ToeplitzRecurrence<Scalar>* toeplitz() const { return as<ToeplitzRecurrence<Scalar>>(RecurrenceKind::toeplitz); }
  [[nodiscard]] const ExplicitRecurrence<Scalar>* given() const { return as<ExplicitRecurrence<Scalar>>(RecurrenceKind::given); }

  /// Requires a recurrence, which check() ensures.
  [[nodiscard]] const detail::RecurrenceKernels<Scalar>& kernels() const { return *kernels_; }

 private:
  template <class Of>
  Recurrence(RecurrenceKind kind, Of&& recurrence) : kind_(kind), tokens_(recurrence.tokens), channels_(recurrence.channels) {
    if constexpr (requires { recurrence.causal; }) causal_ = recurrence.causal;
    const auto* const kernels = new detail::RecurrenceKernelsOf<Of>(std::forward<Of>(recurrence));
    kernels_.reset(kernels);
    recurrence_ = &kernels->recurrence;
  }
  template <class Of>
  [[nodiscard]] const Of* as(RecurrenceKind kind) const {
    return kernels_ != nullptr && kind_ == kind ? static_cast<const Of*>(recurrence_) : nullptr;
  }

  RecurrenceKind kind_ = RecurrenceKind::diagonal;
  Index tokens_ = 0, channels_ = 0;
  bool causal_ = true;
  const void* recurrence_ = nullptr;  // what kernels_ holds, of kind_
  std::shared_ptr<const detail::RecurrenceKernels<Scalar>> kernels_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
