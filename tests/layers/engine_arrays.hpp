// The arrays that an engine fills in, whatever the layer, and the sets of terms that are asked for.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <support/random.hpp>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>
#include <implicit_attention/operator/terms.hpp>

namespace engine_test {

using namespace implicit_attention;
using Numbers = Matrix<double>;

/// Calls f(name, array) with every array of a layer's activations that stands for tokens.
template <class Activations, class F>
void for_arrays(Activations& act, F f) {
  const auto visit = [&f](const char* name, auto& member) {
    if constexpr (std::is_same_v<std::decay_t<decltype(member)>, Array<double>>) f(name, member);
    if constexpr (std::is_same_v<std::decay_t<decltype(member)>, std::vector<Array<double>>>)
      for (Array<double>& one : member) f(name, one);
  };
#define IMPLICIT_ATTENTION_TEST_VISIT(member) \
  if constexpr (requires { act.member; }) visit(#member, act.member)
  IMPLICIT_ATTENTION_TEST_VISIT(x);
  IMPLICIT_ATTENTION_TEST_VISIT(x0);
  IMPLICIT_ATTENTION_TEST_VISIT(x1);
  IMPLICIT_ATTENTION_TEST_VISIT(z);
  IMPLICIT_ATTENTION_TEST_VISIT(c);
  IMPLICIT_ATTENTION_TEST_VISIT(a);
  IMPLICIT_ATTENTION_TEST_VISIT(m);
  IMPLICIT_ATTENTION_TEST_VISIT(o);
  IMPLICIT_ATTENTION_TEST_VISIT(s);
  IMPLICIT_ATTENTION_TEST_VISIT(B);
  IMPLICIT_ATTENTION_TEST_VISIT(C);
  IMPLICIT_ATTENTION_TEST_VISIT(dt);
  IMPLICIT_ATTENTION_TEST_VISIT(key);
  IMPLICIT_ATTENTION_TEST_VISIT(query);
  IMPLICIT_ATTENTION_TEST_VISIT(value);
  IMPLICIT_ATTENTION_TEST_VISIT(own_value);
  IMPLICIT_ATTENTION_TEST_VISIT(receptance);
  IMPLICIT_ATTENTION_TEST_VISIT(gate);
  IMPLICIT_ATTENTION_TEST_VISIT(gate_input);
  IMPLICIT_ATTENTION_TEST_VISIT(input_gate);
  IMPLICIT_ATTENTION_TEST_VISIT(recurrent_gate);
  IMPLICIT_ATTENTION_TEST_VISIT(log_a);
  IMPLICIT_ATTENTION_TEST_VISIT(beta);
  IMPLICIT_ATTENTION_TEST_VISIT(bonus);
  IMPLICIT_ATTENTION_TEST_VISIT(probe);
  IMPLICIT_ATTENTION_TEST_VISIT(removal);
  IMPLICIT_ATTENTION_TEST_VISIT(write);
  IMPLICIT_ATTENTION_TEST_VISIT(kernel);
  IMPLICIT_ATTENTION_TEST_VISIT(cell);
  IMPLICIT_ATTENTION_TEST_VISIT(cell_output);
  IMPLICIT_ATTENTION_TEST_VISIT(diagonal);
  IMPLICIT_ATTENTION_TEST_VISIT(key_scale);
  IMPLICIT_ATTENTION_TEST_VISIT(own_scale);
  IMPLICIT_ATTENTION_TEST_VISIT(log_decay);
  IMPLICIT_ATTENTION_TEST_VISIT(normalizer);
  IMPLICIT_ATTENTION_TEST_VISIT(pre_norm);
  IMPLICIT_ATTENTION_TEST_VISIT(weighting.step);
  IMPLICIT_ATTENTION_TEST_VISIT(weighting.exponent);
  IMPLICIT_ATTENTION_TEST_VISIT(weighting.key_scale);
  IMPLICIT_ATTENTION_TEST_VISIT(weighting.query_scale);
  IMPLICIT_ATTENTION_TEST_VISIT(weighting.diagonal);
  if constexpr (requires { act.forward.dt; }) {
    for_arrays(act.forward, f);
    for_arrays(act.backward, f);
  }
}

/// The same for what a state that is carried in is made of.
template <class Activations, class F>
void for_states(Activations& act, F f) {
  const auto visit = [&f](const char* name, auto& member) {
    if constexpr (std::is_same_v<std::decay_t<decltype(member)>, Numbers>) f(name, member);
  };
  IMPLICIT_ATTENTION_TEST_VISIT(initial.convolution_tail);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.value_tail);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.key_tail);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.query_tail);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.recurrent);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.normalizer);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.maximum);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.shifted);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.state);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.numerator);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.denominator);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.exponent);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.key);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.value);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.hidden);
  IMPLICIT_ATTENTION_TEST_VISIT(initial.cell);
  IMPLICIT_ATTENTION_TEST_VISIT(carried);
#undef IMPLICIT_ATTENTION_TEST_VISIT
}

/// Activations of a layer, whose type is known where they are made: what a test does to the arrays of all layers is compiled once.
class EngineActivations {
 public:
  template <class Entry>
  using Named = std::vector<std::pair<std::string, Entry*>>;

  virtual ~EngineActivations() = default;
  [[nodiscard]] virtual std::unique_ptr<EngineActivations> copy() const = 0;
  /// The arrays of for_arrays, and the numbers of for_states.
  virtual Named<Array<double>> arrays() = 0;
  virtual Named<Numbers> states() = 0;
  [[nodiscard]] virtual ImplicitAttention<double> attention(Terms terms) const = 0;
};

/// Those of `layer`, which is not copied.
template <class Layer>
class EngineActivationsOf final : public EngineActivations {
 public:
  EngineActivationsOf(const Layer& layer, typename Layer::Activations act) : layer_(layer), act_(std::move(act)) {}
  [[nodiscard]] std::unique_ptr<EngineActivations> copy() const override { return std::make_unique<EngineActivationsOf>(*this); }
  Named<Array<double>> arrays() override {
    Named<Array<double>> all;
    for_arrays(act_, [&all](const char* name, Array<double>& array) { all.emplace_back(name, &array); });
    return all;
  }
  Named<Numbers> states() override {
    Named<Numbers> all;
    for_states(act_, [&all](const char* name, Numbers& numbers) { all.emplace_back(name, &numbers); });
    return all;
  }
  [[nodiscard]] ImplicitAttention<double> attention(Terms terms) const override { return implicit_attention_of(layer_, act_, terms); }

 private:
  const Layer& layer_;
  typename Layer::Activations act_;
};

/// All, the papers' two, each term alone, and all but one.
inline std::vector<Terms> sets_of_terms() {
  std::vector<Terms> sets = {Terms::all(), Terms::published(), Terms::recurrence()};
  for (const Terms::Named& one : Terms::names()) {
    sets.push_back(Terms::all().without(one.term));
    sets.emplace_back(one.term);
  }
  return sets;
}

/// Softmax attention behind a window, with an output gate and grouped keys.
inline SoftmaxAttention<double> windowed_attention(test_support::Draw& draw) {
  SoftmaxAttention<double>::Weights w;
  w.q_proj_weight = draw.normals<double>(16, 6);
  w.k_proj_weight = draw.normals<double>(4, 6);
  w.v_proj_weight = draw.normals<double>(4, 6);
  w.o_proj_weight = draw.normals<double>(6, 8);
  SoftmaxAttention<double>::Options options;
  options.heads = 4;
  options.window = 3;
  options.output_gate = true;
  return SoftmaxAttention<double>(w, options);
}

}  // namespace engine_test
