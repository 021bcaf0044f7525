// The record of a forward pass. A layer is written once, as operations on values; run plainly they are numbers and nothing else, run
// recorded every operation leaves its way back, and the same record is walked for the exact gradient and for relevance.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/shape.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// How a record is walked from an output back to its inputs.
enum class WayBack {
  gradient,   ///< the exact derivative
  relevance,  ///< MambaLRP (arXiv 2406.07592): data-dependent scales are constants, half to each factor of a product
  attention   ///< as relevance, but the gate of a token mixer is a constant too: the layer's own operator A, transposed
};

template <Real Scalar>
class Trace;

/// Numbers on their way through a forward pass, (rows, columns), usually (tokens, channels). Cheap to copy. The trace it belongs to must
/// outlive it.
template <Real S>
struct Value {
  using Scalar = S;
  Array<Scalar> numbers;
  Trace<Scalar>* trace = nullptr;
  Index slot = -1;  ///< where its gradient is gathered; -1: a constant, or nothing is recorded

  [[nodiscard]] Index rows() const { return numbers.rows(); }
  [[nodiscard]] Index cols() const { return numbers.cols(); }
  [[nodiscard]] bool empty() const { return numbers.empty(); }
  [[nodiscard]] ConstView<Scalar> operator*() const { return *numbers; }
  [[nodiscard]] bool recorded() const { return slot >= 0; }
  /// The place of its gradient alone: what a way back keeps of an input whose numbers it does not read.
  [[nodiscard]] Value link() const { return {Array<Scalar>(), trace, slot}; }
};

/// One walk back: gradients as they accumulate, and what the walk records.
template <Real Scalar>
class Back {
 public:
  Back(WayBack way, const Executor& executor, std::size_t values) : way_(way), executor_(&executor), gradients_(values) {}

  [[nodiscard]] WayBack way() const { return way_; }
  [[nodiscard]] bool exact() const { return way_ == WayBack::gradient; }
  [[nodiscard]] const Executor& executor() const { return *executor_; }

  /// Adds to the gradient of a value; nothing where the value is a constant.
  void add(const Value<Scalar>& value, Matrix<Scalar> gradient) {
    if (!value.recorded()) return;
    Matrix<Scalar>& sum = gradients_[static_cast<std::size_t>(value.slot)];
    if (sum.size() == 0)
      sum = std::move(gradient);
    else
      sum += gradient;
  }
  /// The same for neighbouring columns of a value.
  void add_columns(const Value<Scalar>& value, Index first, const Matrix<Scalar>& gradient) {
    if (!value.recorded()) return;
    Matrix<Scalar>& sum = gradients_[static_cast<std::size_t>(value.slot)];
    if (sum.size() == 0) sum = Matrix<Scalar>::Zero(value.rows(), value.cols());
    sum.middleCols(first, gradient.cols()) += gradient;
  }
  /// What a constant (a bias, a carried-in state) takes of the relevance.
  void add_bias_share(Scalar share) { bias_share_ += share; }
  [[nodiscard]] Scalar bias_share() const { return bias_share_; }

  /// Names an operation that relevance reached and that has no rule for it.
  void cannot_treat(std::string_view operation) {
    if (std::find(untreated_.begin(), untreated_.end(), operation) == untreated_.end()) untreated_.emplace_back(operation);
  }
  [[nodiscard]] const std::vector<std::string>& untreated() const { return untreated_; }

  /// The gradient gathered so far for a value; empty where nothing reached it.
  [[nodiscard]] Matrix<Scalar>& gradient(Index slot) { return gradients_[static_cast<std::size_t>(slot)]; }

 private:
  WayBack way_;
  const Executor* executor_;
  std::vector<Matrix<Scalar>> gradients_;
  Scalar bias_share_ = 0;
  std::vector<std::string> untreated_;
};

/// The result of a walk: the requested gradients, and what relevance could not pass on.
template <Real Scalar>
struct WalkResult {
  std::vector<Matrix<Scalar>> gradients;  ///< in the order of the values asked for, zero where nothing reached them
  Scalar bias_share = 0;                  ///< relevance: what constants take
  std::vector<std::string> untreated;     ///< relevance: operations without a rule that it reached
};

/// A gradient that a walk begins with.
template <Real Scalar>
struct Seed {
  Value<Scalar> value;
  Matrix<Scalar> gradient;
};

/// A place where a walk leaves the record: what arrives at `at` is handed to `through`, whose result is added to `to`. There may be several
/// at one place.
template <Real Scalar>
struct Detour {
  Value<Scalar> at, to;
  std::function<Matrix<Scalar>(const Matrix<Scalar>& gradient)> through;
};

namespace detail {
/// The way back of an operation as a type of its own: its name, `Way::operation`, what it keeps of the forward pass, and
/// `void walk(Back<Scalar>& back, Matrix<Scalar>& gradient) const`. It is compiled where a record is walked (trace/walk_back.hpp lists these
/// types), not where the operation is used: a program that only runs layers does not compile the gradients of their kernels.
template <class Way>
concept NamedWayBack = requires {
  { Way::operation } -> std::convertible_to<std::string_view>;
};
}  // namespace detail

/// One forward pass, recorded or not. Neither copied nor moved: values point to it.
template <Real S>
class Trace {
 public:
  using Scalar = S;
  /// The way back of an operation: gradients with respect to its outputs, empty where nothing reached one. They may be moved from.
  using Operation = std::function<void(Back<Scalar>& back, Matrix<Scalar>* gradients)>;

  /// `starts`: the first tokens of documents that stand one behind the other in this sequence, ascending from 0; empty: it is one text.
  /// Operations that look from token to token begin anew at each; the final states of such a pass have no meaning.
  explicit Trace(bool recording = false, Executor executor = serial_executor(), std::vector<Index> starts = {})
      : recording_(recording), executor_(std::move(executor)), starts_(std::move(starts)) {}
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  [[nodiscard]] bool recording() const { return recording_; }
  [[nodiscard]] const Executor& executor() const { return executor_; }
  [[nodiscard]] const std::vector<Index>& starts() const { return starts_; }
  /// Where an operation with starts of its own begins anew, ascending: at these and at those of the pass.
  [[nodiscard]] std::vector<Index> starts_with(const std::vector<Index>& own) const {
    if (own.empty()) return starts_;
    std::vector<Index> all;
    std::set_union(own.begin(), own.end(), starts_.begin(), starts_.end(), std::back_inserter(all));
    return all;
  }

  /// What enters the pass: its gradient can be asked for.
  [[nodiscard]] Value<Scalar> input(Array<Scalar> numbers) {
    watch(numbers);
    return {std::move(numbers), this, recording_ ? slots_++ : -1};
  }
  /// A constant: no gradient is computed for it.
  [[nodiscard]] Value<Scalar> constant(Array<Scalar> numbers) {
    watch(numbers);
    return {std::move(numbers), this, -1};
  }
  /// Bytes of the numbers that passed through a recorded pass and are still held by anybody, the record among them. What an operation keeps
  /// beside values (norm statistics, an operator's tables) is not counted, nor are the numbers that `others` own.
  [[nodiscard]] std::size_t held_bytes(const std::weak_ptr<const void>& others = {}) const {
    std::size_t bytes = 0;
    for (const Watched& one : watched_)
      if (!one.owner.expired() && !same_owner(one.owner, others)) bytes += one.bytes;
    return bytes;
  }

  /// Whether the way back of an operation with these inputs is needed.
  [[nodiscard]] bool records(std::initializer_list<const Value<Scalar>*> inputs) const {
    return recording_ && std::any_of(inputs.begin(), inputs.end(), [](const Value<Scalar>* value) { return value->recorded(); });
  }

  /// The result of an operation whose way back is `back(Back&, Matrix& gradient)`, of records(inputs).
  template <class BackOfOne>
  [[nodiscard]] Value<Scalar> record(Array<Scalar> numbers, BackOfOne back) {
    watch(numbers);
    steps_.push_back({slots_, 1, [back = std::move(back)](Back<Scalar>& walk, Matrix<Scalar>* gradients) { back(walk, *gradients); }});
    return {std::move(numbers), this, slots_++};
  }
  /// The same for a way back that is compiled where it is walked.
  template <detail::NamedWayBack Way>
  [[nodiscard]] Value<Scalar> record(Array<Scalar> numbers, Way back) {
    const auto end = [](const void* way) { delete static_cast<const Way*>(way); };
    return record_way(std::move(numbers), Way::operation, OwnedWay(new Way(std::move(back)), end));
  }
  /// The results of an operation with several, in order.
  [[nodiscard]] std::vector<Value<Scalar>> record_all(const std::vector<Array<Scalar>>& numbers, Operation back) {
    steps_.push_back({slots_, static_cast<Index>(numbers.size()), std::move(back)});
    std::vector<Value<Scalar>> values;
    for (const Array<Scalar>& one : numbers) {
      watch(one);
      values.push_back({one, this, slots_++});
    }
    return values;
  }

  /// Walks back from `seeds`; the gradients of `wanted` are kept. Defined in trace/walk_back.hpp.
  [[nodiscard]] WalkResult<Scalar> walk_back(WayBack way, std::vector<Seed<Scalar>> seeds, const std::vector<Value<Scalar>>& wanted,
                                             const std::vector<Detour<Scalar>>& detours = {}) const;

 private:
  using OwnedWay = std::unique_ptr<const void, void (*)(const void*)>;  // one type for all: compilers have no functions to make for each
  struct Step {
    Index first, count;  // of its outputs' values
    Operation back = nullptr;
    std::string_view named = {};        // or the name of its way back,
    OwnedWay way = {nullptr, nullptr};  // and the detail::NamedWayBack of that name
  };
  [[nodiscard]] Value<Scalar> record_way(Array<Scalar> numbers, std::string_view operation, OwnedWay way) {
    watch(numbers);
    steps_.push_back({slots_, 1, nullptr, operation, std::move(way)});
    return {std::move(numbers), this, slots_++};
  }
  struct Watched {
    std::weak_ptr<const void> owner;
    std::size_t bytes;
  };
  [[nodiscard]] static bool same_owner(const std::weak_ptr<const void>& a, const std::weak_ptr<const void>& b) {
    return !a.owner_before(b) && !b.owner_before(a);
  }
  /// Records the owner of these numbers, once: neighbouring columns of one array come one after the other.
  void watch(const Array<Scalar>& numbers) {
    if (!recording_ || numbers.owner() == nullptr) return;
    if (std::none_of(watched_.begin(), watched_.end(), [&](const Watched& one) { return same_owner(one.owner, numbers.owner()); }))
      watched_.push_back({numbers.owner(), static_cast<std::size_t>(numbers.size()) * sizeof(Scalar)});
  }

  bool recording_;
  Executor executor_;
  std::vector<Index> starts_;
  Index slots_ = 0;
  std::vector<Watched> watched_;
  std::vector<Step> steps_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
