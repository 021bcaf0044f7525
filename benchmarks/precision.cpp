// Float against double: the same activations, lowered in double and multiplied out by the raw loop.
#include <algorithm>
#include <string>

#include "measuring.hpp"
#include "raw_loops.hpp"

namespace benchmarks {

namespace {

void precision(benchmark::State& state, int place, const LayerSize& size) {
  const Index tokens = settings().quick ? 512 : 4096, channels = 3;
  double worst_map = 0, worst_walk = 0, worst_reduction = 0;
  const double seconds = seconds_of([&] {
    const RunLayer layer(size, tokens, channels);
    const Operator attention = layer.attention();
    const UnifiedForm<double> form = layer.form<double>();
    Matrix<double> expected(tokens, tokens), joined = Matrix<double>::Zero(tokens, tokens);
    for (Index e = 0; e < channels; ++e) {
      RawChannel<double>(form, e).matrix(expected.data());
      joined += expected.cwiseAbs() / static_cast<double>(channels);
      Selection one;
      one.channels = std::vector<Index>{e};
      const AttentionMatrix<float> whole = attention.materialize(one);
      worst_map = std::max(worst_map, worst_row(whole.channel(0), expected));
      for (const Index row : {tokens / 7, tokens / 2, tokens - 1}) {
        one.rows = std::vector<Index>{row};
        const AttentionMatrix<float> walked = attention.materialize(one);
        worst_walk = std::max(worst_walk, worst_row(walked.channel(0), Matrix<double>(expected.row(row))));
      }
    }
    Reduction<float> absolute;
    absolute.kind = ReductionKind::mean_abs;
    Matrix<float> reduced(tokens, tokens);
    attention.reduce_into(reduced, absolute);
    worst_reduction = worst_row(reduced, joined);
  });
  state.SetIterationTime(seconds);
  state.counters["matrix"] = worst_map;
  state.counters["row"] = worst_walk;
  state.counters["reduction"] = worst_reduction;
  const double worst = std::max({worst_map, worst_walk, worst_reduction});
  char text[160];
  std::snprintf(text, sizeof text, "%.1e (matrices %.1e, single rows %.1e, mean-abs %.1e)", worst, worst_map, worst_walk, worst_reduction);
  report(place, {"float against double, " + size.name + ", " + std::to_string(tokens) + " tokens, of the row's largest entry", text,
                 "at most 5e-6", "1e-6", worst <= 5e-6, worst <= 1e-6, ""});
}

}  // namespace

void add_precision() {
  add_benchmark("table/precision/Mamba-130m", [](auto& state) { precision(state, 80, mamba_130m); });
  add_benchmark("table/precision/RWKV-4-169m", [](auto& state) { precision(state, 81, rwkv4_169m); });
  add_benchmark("table/precision/RecurrentGemma-2b", [](auto& state) { precision(state, 82, recurrent_gemma_2b); });
}

}  // namespace benchmarks
