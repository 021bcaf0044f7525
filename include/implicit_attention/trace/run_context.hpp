// What the parts of a model share while it runs: positions, values that later layers read, and the token mixers that have run.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/operator/implicit_attention.hpp>
#include <implicit_attention/trace/trace.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A token mixer that has run, whatever its type: what attribution needs of it. Cheap to copy.
template <Real S>
struct MixerRun {
  std::string kind;    ///< empty for a layer's first mixer; what a parallel one is called ("attention")
  Value<S> x, y, out;  ///< its linear input (L, E), its output before (L, E) and after (L, D) the output projection
  std::function<ImplicitAttention<S>(Terms terms)> attention;  ///< its implicit attention
  std::shared_ptr<const void> activations;                     ///< what it kept, in its own type
  const void* type = nullptr;                                  ///< tells that type: type_tag of the layer
  Array<S> reported_input;  ///< the content before a norm's centring, where that is what papers call the input (RWKV-7); else empty
  Array<S> projection, projection_bias;  ///< of `out = y projection^T + bias`, (D, E) and (1, D); empty where unknown
};

namespace detail {
/// An address that stands for a type, without run-time type information.
template <class Type>
struct TypeTag {
  static constexpr char tag = 0;
};
}  // namespace detail
template <class Type>
[[nodiscard]] const void* type_tag() {
  return &detail::TypeTag<Type>::tag;
}

/// A value that one layer makes and later ones read: RWKV-7's first values, Zamba-2's embeddings.
template <Real S>
struct SharedValue {
  std::string name;
  Value<S> value;
};

template <Real S>
class RunContext {
 public:
  Index layer = 0;
  std::vector<Index> positions;     ///< (tokens); empty: 0, 1, 2, ...
  std::vector<MixerRun<S>> mixers;  ///< those that have run in this layer, in order
  std::vector<SharedValue<S>> shared;

  [[nodiscard]] std::vector<Index> positions_of(Index tokens, Index first = 0) const {
    if (!positions.empty()) return positions;
    std::vector<Index> counted(static_cast<std::size_t>(tokens));
    for (Index token = 0; token < tokens; ++token) counted[static_cast<std::size_t>(token)] = first + token;
    return counted;
  }

  [[nodiscard]] const Value<S>* find(std::string_view name) const {
    for (const SharedValue<S>& one : shared)
      if (one.name == name) return &one.value;
    return nullptr;
  }
  void share(std::string name, Value<S> value) {
    for (SharedValue<S>& one : shared)
      if (one.name == name) {
        one.value = std::move(value);
        return;
      }
    shared.push_back({std::move(name), std::move(value)});
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
