// Seeded random numbers that are the same everywhere, and what the tests make of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>

#include <implicit_attention/core/array.hpp>

#include <support/reference.hpp>

namespace test_support {

using implicit_attention::Array;
using implicit_attention::Index;
using implicit_attention::Matrix;

/// Normal and uniform numbers, each rounded to float, so that a float layer and a double one get the same weights.
/// (The distributions of <random> differ between standard libraries; its engines do not.)
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : engine_(seed) {}

  double uniform(double from, double to) { return from + (to - from) * static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double normal() { return std::sqrt(-2 * std::log(uniform(0x1p-60, 1))) * std::cos(6.283185307179586 * uniform(0, 1)); }

  template <class Scalar>
  Matrix<Scalar> normals(Index rows, Index columns, double spread = 1, double mean = 0) {
    return filled<Scalar>(rows, columns, [&] { return mean + spread * normal(); });
  }
  /// Like a trained projection: outputs as large as inputs.
  template <class Scalar>
  Matrix<Scalar> weight(Index rows, Index columns) {
    return normals<Scalar>(rows, columns, 1 / std::sqrt(static_cast<double>(columns)));
  }
  template <class Scalar>
  Matrix<Scalar> uniforms(Index rows, Index columns, double from, double to) {
    return filled<Scalar>(rows, columns, [&] { return uniform(from, to); });
  }

 private:
  template <class Scalar, class Next>
  static Matrix<Scalar> filled(Index rows, Index columns, const Next& next) {
    Matrix<Scalar> numbers(rows, columns);
    for (Index i = 0; i < numbers.size(); ++i) numbers.data()[i] = static_cast<Scalar>(static_cast<float>(next()));
    return numbers;
  }
  std::mt19937_64 engine_;
};

/// Weights and inputs as the reference takes them.
template <class Scalar>
reference::Table table(const Array<Scalar>& array) {
  if (array.empty()) return {};
  reference::Table out(array.rows(), array.cols());
  for (Index i = 0; i < array.rows(); ++i)
    for (Index j = 0; j < array.cols(); ++j) out(i, j) = static_cast<double>(array(i, j));
  return out;
}

}  // namespace test_support
