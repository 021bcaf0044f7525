// Full attention, all channels and rows, against the fill of the same bytes and the product rate.
#include <algorithm>
#include <optional>
#include <string>

#include "measuring.hpp"
#include "raw_loops.hpp"

namespace benchmarks {

namespace {

LargeMemory<float> touched(Index rows, Index columns) {
  LargeMemory<float> memory(rows, columns);
  std::fill_n(memory.data(), rows * columns, 1.0f);
  return memory;
}

void table_line(benchmark::State& state, int place, const LayerSize& size, double bar, double aim, bool fresh) {
  const Index tokens = settings().quick ? 128 : 512;
  const RunLayer layer(size, tokens);
  const Operator all = layer.attention(), bare = layer.attention(Terms::recurrence());
  LargeMemory<float> memory = touched(layer.channels() * tokens, tokens);
  const View<float> out(memory.data(), memory.rows(), tokens);
  // With one state a matrix is an outer product: the multiplications are the filling.
  const double flops = size.state == 1 ? 0 : layer.map_flops();

  Rounds rounds;
  rounds.add("product", [] { yardstick_product(); });
  rounds.add("fill", [&] { yardstick_fill(memory.data(), memory.rows() * tokens); });
  rounds.add("all", [&] { all.materialize_into(out); });
  rounds.add("bare", [&] { bare.materialize_into(out); });
  std::optional<AttentionMatrix<float>> ours;
  LargeMemory<float> filled;
  if (fresh) {
    // A virtual machine's host takes seconds to give back memory that it has reclaimed: touch and free it first.
    const auto fill_fresh = [&] {
      filled = LargeMemory<float>(memory.rows(), tokens);
      yardstick_fill(filled.data(), memory.rows() * tokens);
    };
    const auto warm = [&] {
      fill_fresh();
      filled = {};
    };
    rounds.add(
        "fresh", [&] { ours = all.materialize(); }, [&] { ours.reset(); }, warm);
    // The system's own time for the first touch of as much memory.
    rounds.add(
        "fresh fill", fill_fresh, [&] { filled = {}; }, warm);
  }
  rounds.run(7, 4);

  const auto yardstick = [&](Rounds::Times& times) { return times["fill"] + flops * times["product"] / yardstick_flops; };
  const std::string what = "full attention, all terms, " + size.name + ", " + std::to_string(tokens) + " tokens, into ";
  const std::string unit = size.state == 1 ? " x the fill" : " x (fill + flops)";
  report_at_most(place, what + "the caller's memory", rounds.median_of([&](auto& times) { return times["all"] / yardstick(times); }), bar,
                 aim, unit, time_text(rounds.seconds("all")));
  report_terms("full attention " + size.name, rounds.ratio("all", "bare"));
  if (fresh) {
    report_at_most(place + 5, what + "fresh memory of our own",
                   rounds.median_of([&](auto& times) { return times["fresh"] / yardstick(times); }), 3, 2, unit,
                   time_text(rounds.seconds("fresh")));
    report_note("Fresh memory: the first touch of as many bytes, in huge pages and with nothing computed, took " +
                time_text(rounds.seconds("fresh fill")) + ", the fill of touched memory " + time_text(rounds.seconds("fill")) + ".");
    report_note("For a user: every matrix of all 24 layers of " + size.name + " at " + std::to_string(tokens) +
                " tokens, layer after layer, takes " + time_text(24 * rounds.seconds("all")) + ".");
  }
  state.SetIterationTime(rounds.seconds("all"));
  state.counters["of_fill_and_flops"] = rounds.median_of([&](auto& times) { return times["all"] / yardstick(times); });
  state.counters["fill_ms"] = 1e3 * rounds.seconds("fill");
  state.counters["bare_ms"] = 1e3 * rounds.seconds("bare");
}

void grid_point(benchmark::State& state, const LayerSize& size, Index tokens) {
  const Index fitting = std::max<Index>(1, (Index(1) << 28) / (tokens * tokens));  // at most 1 GiB
  const Index channels = std::min(size.channels, fitting);
  const RunLayer layer(size, tokens, channels);
  const Operator attention = layer.attention();
  LargeMemory<float> memory = touched(channels * tokens, tokens);
  const View<float> out(memory.data(), memory.rows(), tokens);
  const Index raw_channels = std::clamp<Index>(static_cast<Index>(3e8 / (layer.map_flops() / static_cast<double>(channels))), 1, channels);
  std::vector<RawChannel<float>> raw;
  for (Index e = 0; e < raw_channels; ++e) raw.emplace_back(attention.form(), e);

  Rounds rounds;
  rounds.add("product", [] { yardstick_product(); });
  rounds.add("fill", [&] { yardstick_fill(memory.data(), memory.rows() * tokens); });
  rounds.add("work", [&] { attention.materialize_into(out); });
  rounds.add("raw", [&] {
    for (Index e = 0; e < raw_channels; ++e) raw[static_cast<std::size_t>(e)].matrix(memory.data() + e * tokens * tokens);
  });
  rounds.run(3, 1);
  state.SetIterationTime(rounds.seconds("work"));
  state.counters["channels"] = static_cast<double>(channels);
  state.counters["of_product"] =
      rounds.median_of([&](auto& times) { return layer.map_flops() / times["work"] / (yardstick_flops / times["product"]); });
  state.counters["of_fill"] = rounds.ratio("fill", "work");
  state.counters["faster_than_raw"] = rounds.ratio("raw", "work") * static_cast<double>(channels) / static_cast<double>(raw_channels);
}

}  // namespace

void add_maps() {
  add_benchmark("table/maps/Mamba-130m", [](auto& state) { table_line(state, 10, mamba_130m, 1.5, 1.15, true); });
  add_benchmark("table/maps/RecurrentGemma-2b", [](auto& state) { table_line(state, 11, recurrent_gemma_2b, 1.5, 1.1, false); });
  add_benchmark("table/maps/RWKV-4-169m", [](auto& state) { table_line(state, 12, rwkv4_169m, 1.5, 1.1, false); });
  for (const LayerSize& size : {mamba_130m, mamba_2_8b, rwkv4_169m, rwkv4_14b, recurrent_gemma_2b})
    for (const Index tokens : {128, 256, 512, 1024, 2048, 4096})
      add_benchmark("sizes/maps/" + size.name + "/tokens:" + std::to_string(tokens), [=](auto& state) { grid_point(state, size, tokens); });
}

}  // namespace benchmarks
