// The laws that every architecture passes. A new one joins with a family of cases, as `Mamba`'s in test_mamba.cpp:
//
//     template <class S> struct MambaFamily {
//       using Layer = ...;                                    // a LayerDescriptor
//       static std::vector<std::string> flavours();           // kinds of weights and inputs; the first is an ordinary one
//       static Case<S> make(Sizes, const std::string& flavour, std::uint64_t seed);   // make_case(..., what the papers make of it)
//     };
//     TEMPLATE_TEST_CASE("laws of Mamba", "[laws]", double, float) { every_law<TestType>(family<MambaFamily, TestType>()); }
//
// The laws themselves are compiled once, in test_laws.cpp: they see a layer through functions only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <support/reference.hpp>

#include <implicit_attention/layers/layer_descriptor.hpp>

namespace laws {

using namespace implicit_attention;
using test_support::Draw;
using test_support::table;

struct Sizes {
  Index tokens = 6, width = 4, channels = 3, state = 3, convolution = 4;
};

/// A layer that has run on a piece of a sequence.
template <class Scalar>
struct Run {
  Array<Scalar> x, y, out;
  std::function<ImplicitAttention<Scalar>(Terms)> attention;
  std::vector<double> log_scale;            ///< of each channel: what a bare recurrence is divided by, as a logarithm
  std::shared_ptr<const void> activations;  ///< the layer's own
};

/// A layer, an input, and what the papers make of them.
template <class Scalar>
struct Case {
  std::string text;  ///< printed when a law fails
  Matrix<Scalar> u;
  Index channels = 0;
  Terms named_sets_have;  ///< what the layer puts into the named sets
  bool carries = false;   ///< has a state that one piece hands to the next
  reference::Sequence expected;
  /// By how much rounding is worse than in ordinary numbers: exp(k) is good to |k| ulps only.
  double condition = 1;
  /// Runs the layer on tokens begin..end-1 of some input like u, after the run before (null: from the start).
  std::function<Run<Scalar>(const Matrix<Scalar>& u, Index begin, Index end, const Run<Scalar>* before, const Executor& executor)> piece;

  [[nodiscard]] Run<Scalar> run(const Matrix<Scalar>& input, Index end) const { return piece(input, 0, end, nullptr, serial_executor()); }
};

/// `positions` may be empty: the layer is not told any.
template <LayerDescriptor Layer, class Scalar = typename Layer::Scalar>
Case<Scalar> make_case(std::string text, const Layer& layer, Matrix<Scalar> u, std::vector<Index> positions, reference::Sequence expected,
                       double condition = 1) {
  using Activations = typename Layer::Activations;
  Case<Scalar> c;
  c.text = std::move(text);
  c.u = std::move(u);
  c.channels = layer.channels();
  if constexpr (requires { Layer::named_sets_have; }) c.named_sets_have = Layer::named_sets_have;
  c.expected = std::move(expected);
  c.condition = condition;
  c.carries = requires { typename Layer::State; };
  c.piece = [layer, positions](const Matrix<Scalar>& input, Index begin, Index end, [[maybe_unused]] const Run<Scalar>* before,
                               [[maybe_unused]] const Executor& executor) {
    const ConstView<Scalar> part(input.middleRows(begin, end - begin));
    std::shared_ptr<const Activations> act;
    if constexpr (requires { typename Layer::State; }) {
      const typename Layer::State* state = before ? &static_cast<const Activations*>(before->activations.get())->final : nullptr;
      if constexpr (requires { layer.activations(part, positions, state, executor); }) {
        if (!positions.empty())
          act = std::make_shared<const Activations>(
              layer.activations(part, std::vector<Index>(positions.begin() + begin, positions.begin() + end), state, executor));
      }
      if (!act) act = std::make_shared<const Activations>(layer.activations(part, state, executor));
    } else {
      act = std::make_shared<const Activations>(layer.activations(part));
    }
    Run<Scalar> run;
    run.x = act->x;
    run.y = act->y;
    run.out = act->out;
    run.activations = act;
    run.attention = [layer, act](Terms terms) { return implicit_attention_of(layer, *act, terms); };
    run.log_scale.assign(static_cast<std::size_t>(layer.channels()), 0.0);
    if constexpr (requires { layer.unnormalised_log_scale(*act); }) {
      const RowVector<Scalar> scale = layer.unnormalised_log_scale(*act);
      for (Index e = 0; e < scale.size(); ++e) run.log_scale[static_cast<std::size_t>(e)] = static_cast<double>(scale(e));
    }
    return run;
  };
  return c;
}

/// Cases of every kind of one architecture.
template <class Scalar>
struct Family {
  std::vector<std::string> flavours;
  std::function<Case<Scalar>(Sizes, const std::string& flavour, std::uint64_t seed)> make;
};
template <template <class> class Fixture, class Scalar>
Family<Scalar> family() {
  return {Fixture<Scalar>::flavours(), &Fixture<Scalar>::make};
}

/// Every flavour at small sizes with every set of terms, and ordinary weights at sizes around the kernels' blocks and tiles.
template <class Scalar>
void every_law(const Family<Scalar>& family);

/// Float gives what double gives, to float's rounding.
void float_near_double(const Family<float>& single, const Family<double>& twice);

extern template void every_law<float>(const Family<float>&);
extern template void every_law<double>(const Family<double>&);

}  // namespace laws
