// Layers of real sizes that have run on random input with realistic statistics.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/operator/attention_matrix.hpp>
#include <implicit_attention/operator/reduction.hpp>
#include <implicit_attention/operator/selection.hpp>
#include <implicit_attention/operator/unified_form.hpp>

namespace implicit_attention {
inline namespace IMPLICIT_ATTENTION_ABI {
template <Real S>
class ImplicitAttention;
}
}  // namespace implicit_attention

namespace benchmarks {

using namespace implicit_attention;

/// ImplicitAttention<float>, compiled once for all benchmarks (operators.cpp).
class Operator {
 public:
  explicit Operator(UnifiedForm<float> form);
  [[nodiscard]] const UnifiedForm<float>& form() const;
  [[nodiscard]] AttentionMatrix<float> materialize(const Selection& selection = {}) const;
  void materialize_into(View<float> out, const Selection& selection = {}) const;
  void reduce_into(View<float> out, const Reduction<float>& reduction = {}, const Selection& selection = {}) const;
  void apply_into(View<float> out, ConstView<float> x) const;
  void apply_transpose_into(View<float> out, ConstView<float> g) const;

 private:
  std::shared_ptr<const ImplicitAttention<float>> attention_;
};

enum class Kind { mamba, rwkv4, griffin };

struct LayerSize {
  Kind kind;
  std::string name;
  Index channels, state;
  float forgetting = 1;  ///< the logarithms of the official initialisation's decays are multiplied by this (Mamba)
};

inline const LayerSize mamba_130m{Kind::mamba, "Mamba-130m", 1536, 16}, mamba_2_8b{Kind::mamba, "Mamba-2.8b", 5120, 16},
    rwkv4_169m{Kind::rwkv4, "RWKV-4-169m", 768, 1}, rwkv4_14b{Kind::rwkv4, "RWKV-4-14b", 5120, 1},
    recurrent_gemma_2b{Kind::griffin, "RecurrentGemma-2b", 2560, 1};

/// The same layer with another state or convolution only (tables of exponents).
[[nodiscard]] inline LayerSize with_state(LayerSize size, Index state) {
  size.state = state;
  return size;
}

/// The same layer with decays so slow that the first token is still seen by the last of 65,536. Rows leave out states that are not seen
/// any more, which makes a row of an ordinary layer cheaper than linear. Here no state is left out.
[[nodiscard]] inline LayerSize remembering(LayerSize size) {
  size.forgetting = 1e-4f;
  return size;
}

/// What a layer keeps of a run: `tokens` random tokens, `channels` of its channels, taken evenly. The statistics are those of the official
/// initialisations: dt log-uniform over channels between 0.001 and 0.1 and A = -(1..N); RWKV-4's decays and bonuses over channels;
/// RG-LRU's decays between 0.9 and 0.999 at an open gate.
class RunLayer {
 public:
  RunLayer(const LayerSize& size, Index tokens, Index channels = -1);

  [[nodiscard]] const LayerSize& size() const { return size_; }
  [[nodiscard]] Index tokens() const { return tokens_; }
  [[nodiscard]] Index channels() const { return channels_; }

  /// The unified form in float, or from the same activations in double.
  template <Real Scalar>
  [[nodiscard]] UnifiedForm<Scalar> form(Terms terms = Terms::all()) const;
  [[nodiscard]] Operator attention(Terms terms = Terms::all()) const { return Operator(form<float>(terms)); }
  /// The layer's own scan, as its forward pass runs it: gate, norm and skip, but neither convolution nor activation.
  [[nodiscard]] Operator own_scan() const {
    return attention(Terms::all().without(Term::convolution).without(Term::activation).without(Term::bias));
  }

  /// E N L^2: the useful flops of all channels' whole matrices (a multiplication and an addition for half of the entries).
  [[nodiscard]] double map_flops() const {
    return static_cast<double>(channels_) * static_cast<double>(size_.state) * static_cast<double>(tokens_) * static_cast<double>(tokens_);
  }
  [[nodiscard]] double map_bytes() const {
    return 4.0 * static_cast<double>(channels_) * static_cast<double>(tokens_) * static_cast<double>(tokens_);
  }

 private:
  LayerSize size_;
  Index tokens_, channels_;
  // Mamba: step, gate input, convolved input, B, C. RWKV-4: key, receptance. Griffin: gate input, log a, input gate, normalizer.
  std::vector<Matrix<float>> numbers_;
  // Mamba: A_log, D, taps, bias. RWKV-4: time_decay, time_first. Griffin: taps, bias.
  std::vector<Matrix<float>> weights_;
};

/// Random numbers (rows, columns) of mean 0 and deviation 1, cheap enough for the largest layers.
[[nodiscard]] Matrix<float> normal_numbers(Index rows, Index columns, unsigned seed);

/// Largest difference in a row over the row's largest entry, the worst of all rows.
inline double worst_row(ConstView<float> got, const Matrix<double>& expected) {
  double worst = 0;
  for (Index i = 0; i < expected.rows(); ++i) {
    const double largest = expected.row(i).cwiseAbs().maxCoeff();
    const double difference = (got.row(i).cast<double>() - expected.row(i)).cwiseAbs().maxCoeff();
    if (largest > 0) worst = std::max(worst, difference / largest);
  }
  return worst;
}

}  // namespace benchmarks
