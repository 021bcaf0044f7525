// Checkpoints that lie in memory.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/tensor_source.hpp>

namespace test_support {

using implicit_attention::Array;
using implicit_attention::Index;
using implicit_attention::Matrix;
using implicit_attention::TensorSource;

/// Tensors in memory, which a test takes away, adds to and bends.
template <class Scalar>
class Tensors final : public TensorSource<Scalar> {
 public:
  struct Tensor {
    std::vector<Index> shape;
    Array<Scalar> numbers;
  };
  Tensors() = default;
  /// Copies another source's tensors whose names begin with `prefix`, without it.
  explicit Tensors(const TensorSource<Scalar>& source, const std::string& prefix = "") {
    for (const std::string& name : source.names())
      if (name.compare(0, prefix.size(), prefix) == 0) tensors[name.substr(prefix.size())] = {*source.shape(name), source.read(name)};
  }
  std::string where() const override { return "memory"; }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, tensor] : tensors) all.push_back(name);
    return all;
  }
  std::optional<std::vector<Index>> shape(std::string_view name) const override {
    const auto found = tensors.find(std::string(name));
    return found == tensors.end() ? std::nullopt : std::optional(found->second.shape);
  }
  Array<Scalar> read(std::string_view name) const override { return tensors.at(std::string(name)).numbers; }

  void rename(const std::string& from, const std::string& to) {
    tensors[to] = tensors.at(from);
    tensors.erase(from);
  }
  void set(const std::string& name, std::vector<Index> shape, Matrix<Scalar> numbers) {
    tensors[name] = {std::move(shape), std::move(numbers)};
  }
  void set_zero(const std::string& name, std::vector<Index> shape) {
    Index rows = 1;
    for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis) rows *= shape[axis];
    const Index columns = shape.back();
    set(name, std::move(shape), Matrix<Scalar>::Zero(rows, columns));
  }

  std::map<std::string, Tensor> tensors;
};

}  // namespace test_support
