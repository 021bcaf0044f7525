// The rates A of decays exp(dt A), which public checkpoints store as A_log and GGUF files as A = -exp(A_log).
#pragma once

#include <cmath>
#include <string>
#include <string_view>

#include <implicit_attention/core/lanes.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// exp(A_log), of which infinity would make NaN of a step of 0; a decay of exp(-1e30) per unit is 0 already.
template <Real S>
[[nodiscard]] Array<S> decay_rate(const Array<S>& A_log) {
  Matrix<S> rate = A_log.matrix();
  Numbers<S> numbers(rate.data(), rate.size());
  numbers = numbers.exp();
  numbers = numbers.min(S(1e30));
  return rate;
}

/// Rates A <= 0, kept above -1e30 for the same reason.
template <Real S>
[[nodiscard]] Array<S> bounded_rate(const Matrix<S>& rate) {
  return Matrix<S>(rate.cwiseMax(S(-1e30)));
}

/// A rate that an engine holds, bounded. Fails (ErrorKind::value) on a NaN or a number above 0; `what` is what the rate is.
template <Real S>
[[nodiscard]] Array<S> checked_rate(std::string_view who, std::string_view name, const Array<S>& rate, std::string_view what) {
  for (Index row = 0; row < rate.rows(); ++row)
    for (Index column = 0; column < rate.cols(); ++column)
      if (!(rate(row, column) <= 0))
        raise(ErrorKind::value, who, ": ", name, " has ", rate(row, column), " in row ", row, ", column ", column,
              ", expected no number above 0: it is ", what);
  return bounded_rate<S>(rate.matrix());
}

/// The rate A <= 0, out of A = -exp(A_log) as engines hold it, or out of A_log; exactly one of them is given. Fails (ErrorKind::value or
/// ErrorKind::shape) naming it.
template <Real S>
[[nodiscard]] Array<S> engine_rate(std::string_view who, const Array<S>& A, const Array<S>& A_log) {
  if (A.empty() == A_log.empty())
    raise(ErrorKind::shape, who, ": A and A_log are both ", A.empty() ? "empty" : "filled", ", expected one of them");
  if (A.empty()) return Matrix<S>(-decay_rate(A_log).matrix());
  return checked_rate(who, "A", A, "-exp(A_log)");
}

/// Whether the tensors have A_log under either name.
template <Real S>
[[nodiscard]] bool has_decay_rate(const PrefixedTensors<S>& tensors, const std::string& rate = "A") {
  return tensors.has(rate + "_log") || tensors.has(rate);
}

/// `A_log`, or log(-A) of a file that has `A` instead: within a rounding or two of the number that was there before. With as many axes as
/// `axes` (0: any number).
template <Real S>
[[nodiscard, gnu::cold]] Array<S> read_decay_rate(const PrefixedTensors<S>& tensors, std::size_t axes, const std::string& rate = "A") {
  if (tensors.has(rate + "_log") || !tensors.has(rate)) return tensors.required(rate + "_log", axes);
  const Array<S> stored = tensors.required(rate, axes);
  NamesRead::add(tensors.source(), tensors.prefix(), rate, rate + "_log");
  Matrix<S> logarithms(stored.rows(), stored.cols());
  for (Index row = 0; row < stored.rows(); ++row)
    for (Index column = 0; column < stored.cols(); ++column) {
      if (!(stored(row, column) <= 0))
        raise(ErrorKind::value, tensors.source().where(), ": tensor ", tensors.name_in_file(rate), " has ", stored(row, column), " in row ",
              row, ", column ", column, ", expected no number above 0: it is -exp(A_log)");
      logarithms(row, column) = std::log(-stored(row, column));
    }
  return logarithms;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
