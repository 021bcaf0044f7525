// A checkpoint whose weights have been shuffled, part by part from the output to the input: for the randomised-model check.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/tensor_source.hpp>

namespace implicit_attention::examples {

/// Another source's tensors, those of the layers from `first_layer` on with their entries in a random order: every tensor keeps its
/// numbers, and so their scale and signs, in another order. A first layer of -1 shuffles all others, too: embeddings, norms, head.
template <Real Scalar>
class RedrawnTensors final : public TensorSource<Scalar> {
 public:
  RedrawnTensors(const TensorSource<Scalar>& source, Index first_layer, std::uint64_t seed)
      : source_(&source), first_layer_(first_layer), seed_(seed) {}

  [[nodiscard]] std::string where() const override { return source_->where(); }
  [[nodiscard]] std::vector<std::string> names() const override { return source_->names(); }
  [[nodiscard]] std::optional<std::vector<Index>> shape(std::string_view name) const override { return source_->shape(name); }
  [[nodiscard]] std::string name_in_file(std::string_view name) const override { return source_->name_in_file(name); }
  [[nodiscard]] Array<Scalar> read(std::string_view name) const override {
    Array<Scalar> original = source_->read(name);
    const std::optional<Index> layer = layer_of(name);
    if (layer ? *layer < first_layer_ : first_layer_ >= 0) return original;
    Matrix<Scalar> shuffled = original.matrix();
    std::uint64_t seed = seed_;
    for (const char letter : name)
      seed = seed * 1099511628211U + static_cast<unsigned char>(letter);  // another seed for each tensor, the same at every stage
    std::mt19937_64 engine(seed);
    for (Index i = shuffled.size(); i > 1; --i)
      std::swap(shuffled.data()[i - 1], shuffled.data()[engine() % static_cast<std::uint64_t>(i)]);
    return shuffled;
  }

 private:
  /// The number after `layers.` or `blocks.`, as all three families name their layers.
  static std::optional<Index> layer_of(std::string_view name) {
    for (const std::string_view part : {"layers.", "blocks."}) {
      const std::size_t at = name.find(part);
      if (at == std::string_view::npos) continue;
      Index layer = 0;
      const char* const begin = name.data() + at + part.size();
      if (std::from_chars(begin, name.data() + name.size(), layer).ec == std::errc()) return layer;
    }
    return std::nullopt;
  }

  const TensorSource<Scalar>* source_;
  Index first_layer_;
  std::uint64_t seed_;
};

}  // namespace implicit_attention::examples
