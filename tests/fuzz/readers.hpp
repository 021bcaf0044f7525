// What the targets of checkpoints share: reading every number of every tensor.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <implicit_attention/core/tensor_source.hpp>

#include "harness.hpp"

namespace fuzz {

/// Numbers, as bytes of float.
inline std::string numbers(std::size_t count) {
  std::string all;
  for (std::size_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(i) - 2.5F;
    all.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return all;
}

/// Reads every tensor whole and, where it is there as stored, row by row.
template <class Scalar>
void read_everything(const TensorSource<Scalar>& source) {
  for (const std::string& name : source.names()) {
    accepted([&] {
      const std::optional<std::vector<Index>> shape = source.shape(name);
      require(shape.has_value(), "a tensor that is named has a shape");
      const Array<Scalar> read = source.read(name);
      volatile Scalar last = 0;
      for (Index row = 0; row < read.rows() && read.cols() > 0; ++row) last = read(row, read.cols() - 1);
      static_cast<void>(last);
    });
    accepted([&] {
      const std::optional<StoredTensor> stored = source.stored(name);
      if (!stored || stored->columns <= 0 || stored->columns > 4096) return;
      std::vector<Scalar> row(static_cast<std::size_t>(stored->columns));
      for (Index i = 0; i < stored->rows; ++i) stored->widen_row(i, row.data());
    });
  }
}

}  // namespace fuzz
