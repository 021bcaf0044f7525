// Where weights come from: named tensors. io/ reads them from files; a host can pass its own.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/core/stored_tensor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Named tensors of a checkpoint, widened or narrowed to `Scalar`.
template <class Scalar>
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// The file or folder that holds the tensors, for messages.
  [[nodiscard]] virtual std::string where() const = 0;
  /// All names, sorted.
  [[nodiscard]] virtual std::vector<std::string> names() const = 0;
  /// The shape of a tensor as stored; nothing if there is none of that name.
  [[nodiscard]] virtual std::optional<std::vector<Index>> shape(std::string_view name) const = 0;
  /// The numbers as a matrix: all axes but the last merged into rows; one row for a vector, 1 x 1 for a scalar. Fails if absent.
  [[nodiscard]] virtual Array<Scalar> read(std::string_view name) const = 0;
  /// The same matrix as it is stored, for callers that widen a few rows at a time. Nothing if there is none of that name, or where the
  /// numbers of `read` are not simply those in storage: then `read` is the way.
  [[nodiscard]] virtual std::optional<StoredTensor> stored(std::string_view name) const {
    static_cast<void>(name);
    return std::nullopt;
  }

  /// What messages call a tensor, or all of a layer, `layers.0.*`: its name in the file, there or not. Where that is another than the
  /// public checkpoints', as in GGUF, those follow: `blk.0.ssm_a (backbone.layers.0.mixer.A)`.
  [[nodiscard]] virtual std::string name_in_file(std::string_view name) const { return std::string(name); }

  [[nodiscard]] bool has(std::string_view name) const { return shape(name).has_value(); }
};

/// Reads the tensors below one prefix, e.g. `backbone.layers.0.mixer.`. The source must outlive it.
template <class Scalar>
class PrefixedTensors {
 public:
  PrefixedTensors(const TensorSource<Scalar>& source, std::string prefix) : source_(&source), prefix_(std::move(prefix)) {}

  [[nodiscard]] bool has(std::string_view name) const { return source_->has(prefix_ + std::string(name)); }
  /// A tensor that must be there and hold numbers, with as many axes as `axes` (0: any number).
  [[nodiscard]] Array<Scalar> required(std::string_view name, std::size_t axes = 0) const {
    const std::string full = prefix_ + std::string(name);
    const auto shape = source_->shape(full);
    if (!shape) detail::raise(ErrorKind::file, source_->where(), ": tensor ", source_->name_in_file(full), " is missing");
    if (axes != 0 && shape->size() != axes)
      detail::raise(ErrorKind::shape, source_->where(), ": tensor ", source_->name_in_file(full), " is ", shape_text(*shape), ", expected ",
                    axes, " axes");
    // An array without numbers would count as one that is absent.
    if (std::find(shape->begin(), shape->end(), Index(0)) != shape->end())
      detail::raise(ErrorKind::shape, source_->where(), ": tensor ", source_->name_in_file(full), " is ", shape_text(*shape),
                    " and holds no numbers");
    detail::NamesRead::add(*source_, prefix_, name);
    return source_->read(full);
  }
  /// A tensor that may be absent: an empty array then.
  [[nodiscard]] Array<Scalar> optional(std::string_view name, std::size_t axes = 0) const {
    return has(name) ? required(name, axes) : Array<Scalar>();
  }
  /// The weights of a convolution of each channel by itself, (channels, width): stored as (channels, 1, width) or (channels, width).
  [[nodiscard]] Array<Scalar> required_convolution(std::string_view name) const {
    const std::string full = prefix_ + std::string(name);
    const auto shape = source_->shape(full);
    if (shape && shape->size() != 2 && (shape->size() != 3 || (*shape)[1] != 1))
      detail::raise(ErrorKind::shape, source_->where(), ": tensor ", source_->name_in_file(full), " is ", shape_text(*shape),
                    ", expected (channels, 1, width) or (channels, width)");
    return required(name);
  }
  /// The tensors below a longer prefix: `block.below("mixer.")`.
  [[nodiscard]] PrefixedTensors below(std::string_view name) const { return {*source_, prefix_ + std::string(name)}; }
  [[nodiscard]] const TensorSource<Scalar>& source() const { return *source_; }
  [[nodiscard]] const std::string& prefix() const { return prefix_; }
  /// What messages call a tensor below the prefix.
  [[nodiscard]] std::string name_in_file(std::string_view name) const { return source_->name_in_file(prefix_ + std::string(name)); }

 private:
  const TensorSource<Scalar>* source_;
  std::string prefix_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
