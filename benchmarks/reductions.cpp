// Maps joined over channels, against the product rate; one worker and two.
#include <algorithm>
#include <string>

#include <implicit_attention/core/thread_executor.hpp>

#include "measuring.hpp"
#include "raw_loops.hpp"

namespace benchmarks {

namespace {

/// Weights as in gradient times attention.
Reduction<float> reduction_of(ReductionKind kind, const Matrix<float>& row_weights, const Matrix<float>& column_weights) {
  Reduction<float> reduction;
  reduction.kind = kind;
  reduction.row_weights = Array<float>::view(row_weights);
  reduction.column_weights = Array<float>::view(column_weights);
  return reduction;
}

void table_lines(benchmark::State& state) {
  const Index tokens = settings().quick ? 256 : 1024;
  const RunLayer layer(mamba_130m, tokens);
  const Operator all = layer.attention(), bare = layer.attention(Terms::recurrence());
  const Matrix<float> g = normal_numbers(tokens, layer.channels(), 21), x = normal_numbers(tokens, layer.channels(), 22);
  const Reduction<float> weighted = reduction_of(ReductionKind::mean, g, x);
  Reduction<float> absolute, positive;
  absolute.kind = ReductionKind::mean_abs;
  positive.kind = ReductionKind::mean_positive;
  ThreadPool pool(2);
  Selection one, two;
  two.executor = pool.executor();
  Matrix<float> map = Matrix<float>::Zero(tokens, tokens);

  // What is compared is measured in the same round: the machine's speed changes within seconds.
  Rounds rounds;
  rounds.add("mean", [&] { all.reduce_into(map, weighted, one); });
  rounds.add("bare mean", [&] { bare.reduce_into(map, weighted, one); });
  rounds.add("product", [] { yardstick_product(); });
  rounds.add("product, 2 workers", [&] { pool.parallel_for(2, [](Index place) { yardstick_product(static_cast<int>(place)); }); });
  rounds.add("mean_abs", [&] { all.reduce_into(map, absolute, one); });
  rounds.add("bare mean_abs", [&] { bare.reduce_into(map, absolute, one); });
  rounds.add("mean, 2 workers", [&] { all.reduce_into(map, weighted, two); });
  rounds.add("mean_abs, 2 workers", [&] { all.reduce_into(map, absolute, two); });
  rounds.add("mean_positive", [&] { all.reduce_into(map, positive, one); });
  rounds.run(5, 0);

  const auto percent = [&](const char* name) {
    return 100 * rounds.median_of([&](auto& times) { return layer.map_flops() / times[name] / (yardstick_flops / times["product"]); });
  };
  const std::string where = ", Mamba-130m, " + std::to_string(tokens) + " tokens";
  const std::string unit = " % of the product rate";
  report_at_least(30, "weighted mean over channels" + where, percent("mean"), 70, 90, unit, time_text(rounds.seconds("mean")));
  report_at_least(31, "mean of absolute values" + where, percent("mean_abs"), 40, 60, unit, time_text(rounds.seconds("mean_abs")));
  report_at_least(32, "mean of positive parts" + where, percent("mean_positive"), 40, 60, unit, time_text(rounds.seconds("mean_positive")));
  report_at_least(50, "two workers against one, weighted mean" + where, rounds.ratio("mean", "mean, 2 workers"), 1.8, 1.95, " x",
                  time_text(rounds.seconds("mean, 2 workers")));
  report_at_least(51, "two workers against one, mean of absolute values" + where, rounds.ratio("mean_abs", "mean_abs, 2 workers"), 1.8,
                  1.95, " x", time_text(rounds.seconds("mean_abs, 2 workers")));
  report_note("Two workers: the machine itself did two independent matrix products on two threads " +
              figures(2 * rounds.ratio("product", "product, 2 workers")) + " times as fast as one after the other.");
  report_terms("weighted mean Mamba-130m", rounds.ratio("mean", "bare mean"));
  report_terms("mean-abs Mamba-130m", rounds.ratio("mean_abs", "bare mean_abs"));
  report_note("For a user: one map (mean of absolute values) for each of the 24 layers of Mamba-130m at " + std::to_string(tokens) +
              " tokens takes " + time_text(24 * rounds.seconds("mean_abs")) + ".");
  state.SetIterationTime(rounds.seconds("mean"));
  state.counters["mean_of_product"] = percent("mean") / 100;
  state.counters["mean_abs_of_product"] = percent("mean_abs") / 100;
}

void against_writing(benchmark::State& state) {
  const Index tokens = settings().quick ? 256 : 1024;
  const RunLayer layer(recurrent_gemma_2b, tokens);
  const Operator all = layer.attention(), bare = layer.attention(Terms::recurrence());
  Reduction<float> absolute;
  absolute.kind = ReductionKind::mean_abs;
  Matrix<float> map = Matrix<float>::Zero(tokens, tokens);
  // Writing all entries, an eighth of them at a time, eight times.
  const Index part = layer.channels() / 8 * tokens * tokens;
  LargeMemory<float> memory(part, 1);
  std::fill_n(memory.data(), part, 1.0f);

  Rounds rounds;
  rounds.add("fill", [&] {
    for (int i = 0; i < 8; ++i) yardstick_fill(memory.data(), part);
  });
  rounds.add("all", [&] { all.reduce_into(map, absolute); });
  rounds.add("bare", [&] { bare.reduce_into(map, absolute); });
  rounds.run(5, 4);
  report_at_most(40, "mean of absolute values, RecurrentGemma-2b, " + std::to_string(tokens) + " tokens, against writing all its entries",
                 rounds.ratio("all", "fill"), 1, 1.0 / 3, " x the fill", time_text(rounds.seconds("all")));
  report_terms("mean-abs RecurrentGemma-2b", rounds.ratio("all", "bare"));
  state.SetIterationTime(rounds.seconds("all"));
  state.counters["of_fill"] = rounds.ratio("all", "fill");
}

void grid_point(benchmark::State& state, const LayerSize& size, ReductionKind kind, Index tokens) {
  const double cost = static_cast<double>(size.state) * static_cast<double>(tokens) * static_cast<double>(tokens);
  const Index channels = std::min(size.channels, std::max<Index>(64, static_cast<Index>(2e10 / cost)));
  const RunLayer layer(size, tokens, channels);
  const Operator attention = layer.attention();
  Reduction<float> reduction;
  reduction.kind = kind;
  Matrix<float> map = Matrix<float>::Zero(tokens, tokens), one(tokens, tokens);
  const Index raw_channels = std::clamp<Index>(static_cast<Index>(3e8 / cost), 1, channels);
  std::vector<RawChannel<float>> raw;
  for (Index e = 0; e < raw_channels; ++e) raw.emplace_back(attention.form(), e);
  LargeMemory<float> memory(Index(1) << 26, 1);
  std::fill_n(memory.data(), memory.rows(), 1.0f);

  Rounds rounds;
  rounds.add("product", [] { yardstick_product(); });
  rounds.add("fill", [&] { yardstick_fill(memory.data(), memory.rows()); });
  rounds.add("work", [&] { attention.reduce_into(map, reduction); });
  rounds.add("raw", [&] {
    for (const RawChannel<float>& channel : raw) {
      channel.matrix(one.data());
      if (kind == ReductionKind::mean)
        map += one;
      else
        map += one.cwiseAbs();
    }
  });
  rounds.run(3, 1);
  state.SetIterationTime(rounds.seconds("work"));
  state.counters["channels"] = static_cast<double>(channels);
  state.counters["of_product"] =
      rounds.median_of([&](auto& times) { return layer.map_flops() / times["work"] / (yardstick_flops / times["product"]); });
  // Time to write all entries over the time taken.
  state.counters["of_fill"] = rounds.ratio("fill", "work") * layer.map_bytes() / (4.0 * static_cast<double>(memory.rows()));
  state.counters["faster_than_raw"] = rounds.ratio("raw", "work") * static_cast<double>(channels) / static_cast<double>(raw_channels);
}

}  // namespace

void add_reductions() {
  add_benchmark("table/reductions/Mamba-130m", table_lines);
  add_benchmark("table/reductions/RecurrentGemma-2b", against_writing);
  for (const LayerSize& size : {mamba_130m, mamba_2_8b, rwkv4_169m, rwkv4_14b, recurrent_gemma_2b})
    for (const Index tokens : {128, 512, 1024, 4096}) {
      const std::string name = "/" + size.name + "/tokens:" + std::to_string(tokens);
      add_benchmark("sizes/mean" + name, [=](auto& state) { grid_point(state, size, ReductionKind::mean, tokens); });
      add_benchmark("sizes/mean_abs" + name, [=](auto& state) { grid_point(state, size, ReductionKind::mean_abs, tokens); });
    }
}

}  // namespace benchmarks
