// What was read of a source of tensors, and what was not. Apart from them: a layer has no use for it, nor for a std::set.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/tensor_source.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A source that records what was read from it. A tensor that was never read would be a part of the model left out in silence.
/// The source that it reads from must outlive it.
template <class Scalar>
class WatchedTensors final : public TensorSource<Scalar> {
 public:
  explicit WatchedTensors(const TensorSource<Scalar>& source) : source_(&source) {}
  [[nodiscard]] std::string where() const override { return source_->where(); }
  [[nodiscard]] std::vector<std::string> names() const override { return source_->names(); }
  [[nodiscard]] std::optional<std::vector<Index>> shape(std::string_view name) const override { return source_->shape(name); }
  [[nodiscard]] Array<Scalar> read(std::string_view name) const override {
    used_.emplace(name);
    return source_->read(name);
  }
  [[nodiscard]] std::string name_in_file(std::string_view name) const override { return source_->name_in_file(name); }
  /// Names that were not read, sorted.
  [[nodiscard]] std::vector<std::string> unused() const {
    std::vector<std::string> left;
    for (std::string& name : source_->names())
      if (used_.find(name) == used_.end()) left.push_back(std::move(name));
    return left;
  }

 private:
  const TensorSource<Scalar>* source_;
  mutable std::set<std::string, std::less<>> used_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
