// Rows and applications, linear in tokens, against the layer's own scan.
#include <algorithm>
#include <string>

#include "measuring.hpp"
#include "raw_loops.hpp"

namespace benchmarks {

namespace {

void table_lines(benchmark::State& state) {
  const Index tokens = settings().quick ? 2048 : 65536;
  const RunLayer layer(mamba_130m, tokens);
  const Index channels = layer.channels();
  const Operator all = layer.attention(), own = layer.own_scan(), bare = layer.attention(Terms::recurrence());
  const Matrix<float> x = normal_numbers(tokens, channels, 31);
  Matrix<float> out = large_matrix<float>(tokens, channels), row = large_matrix<float>(channels, tokens);
  out.setZero();
  row.setZero();
  Selection last;
  last.rows = Indices::last();

  // What is compared is measured in the same round: the machine's speed changes within seconds.
  Rounds rounds;
  rounds.add("scan", [&] { own.apply_into(out, x); });
  rounds.add("row", [&] { all.materialize_into(row, last); });
  rounds.add("bare row", [&] { bare.materialize_into(row, last); });
  rounds.add("apply", [&] { all.apply_into(out, x); });
  rounds.add("bare apply", [&] { bare.apply_into(out, x); });
  rounds.add("transpose", [&] { all.apply_transpose_into(out, x); });
  rounds.add("bare transpose", [&] { bare.apply_transpose_into(out, x); });
  rounds.run(5, 0);

  const std::string where = ", Mamba-130m, all channels, " + std::to_string(tokens) + " tokens", unit = " x the layer's own scan";
  report_at_most(41, "one row" + where, rounds.ratio("row", "scan"), 1, 0.5, unit, time_text(rounds.seconds("row")));
  report_at_most(42, "apply" + where, rounds.ratio("apply", "scan"), 1.2, 1, unit, time_text(rounds.seconds("apply")));
  report_at_most(43, "apply_transpose" + where, rounds.ratio("transpose", "scan"), 1.2, 1, unit, time_text(rounds.seconds("transpose")));
  report_terms("one row Mamba-130m", rounds.ratio("row", "bare row"));
  report_terms("apply Mamba-130m", rounds.ratio("apply", "bare apply"));
  report_terms("apply_transpose Mamba-130m", rounds.ratio("transpose", "bare transpose"));
  const double million = 1e6 / static_cast<double>(tokens);
  report_note("For a user: a book of a million tokens through one Mamba-130m layer: the layer's own scan " +
              time_text(million * rounds.seconds("scan")) + ", one row of all channels " + time_text(million * rounds.seconds("row")) +
              ", an application " + time_text(million * rounds.seconds("apply")) + " (from " + std::to_string(tokens) +
              " tokens, linear).");
  state.SetIterationTime(rounds.seconds("scan"));
  state.counters["row_of_scan"] = rounds.ratio("row", "scan");
  state.counters["apply_of_scan"] = rounds.ratio("apply", "scan");
  state.counters["transpose_of_scan"] = rounds.ratio("transpose", "scan");
}

enum class Work { row, apply, transpose };

void grid_point(benchmark::State& state, const LayerSize& size, Work work, Index tokens) {
  const Index channels = std::min<Index>(size.channels, std::max<Index>(64, (Index(1) << 25) / tokens));  // at most 128 MiB an array
  const RunLayer layer(size, tokens, channels);
  const Operator attention = layer.attention(), own = layer.own_scan();
  const Matrix<float> x = normal_numbers(tokens, channels, 31);
  Matrix<float> out = large_matrix<float>(tokens, channels);
  out.setZero();
  const View<float> row(out.data(), channels, tokens);
  Selection last;
  last.rows = Indices::last();
  const Index raw_tokens = std::min(tokens, std::max<Index>(64, static_cast<Index>(3e7) / (channels * size.state)));
  const Matrix<float> raw_x = x.topRows(raw_tokens);
  Matrix<float> raw_out(raw_tokens, channels);

  Rounds rounds;
  rounds.add("fill", [&] { yardstick_fill(out.data(), out.size()); });
  rounds.add("scan", [&] { own.apply_into(out, x); });
  rounds.add("work", [&] {
    if (work == Work::row) attention.materialize_into(row, last);
    if (work == Work::apply) attention.apply_into(out, x);
    if (work == Work::transpose) attention.apply_transpose_into(out, x);
  });
  rounds.add("raw", [&] { raw_scan(attention.form(), raw_x, raw_out); });
  rounds.run(3, 1);
  state.SetIterationTime(rounds.seconds("work"));
  state.counters["channels"] = static_cast<double>(channels);
  state.counters["of_scan"] = rounds.ratio("work", "scan");
  state.counters["of_fill"] = rounds.ratio("fill", "work");
  const double steps = static_cast<double>(tokens) * static_cast<double>(channels) * static_cast<double>(size.state);
  state.counters["exp_limit"] = steps / machine().exponentials / rounds.seconds("work");  // one exp for each step of a state, over the time
  state.counters["faster_than_raw"] = rounds.ratio("raw", "work") * static_cast<double>(tokens) / static_cast<double>(raw_tokens);
}

}  // namespace

void add_linear() {
  add_benchmark("table/linear/Mamba-130m", table_lines);
  for (const auto& [work, name] :
       {std::pair(Work::row, "row"), std::pair(Work::apply, "apply"), std::pair(Work::transpose, "apply_transpose")}) {
    for (const LayerSize& size : {mamba_130m, mamba_2_8b, rwkv4_169m, rwkv4_14b, recurrent_gemma_2b})
      for (const Index tokens : {1024, 8192, 65536})
        add_benchmark(std::string("sizes/") + name + "/" + size.name + "/tokens:" + std::to_string(tokens),
                      [=, work = work](auto& state) { grid_point(state, size, work, tokens); });
    LayerSize narrow = mamba_130m;
    narrow.name = "narrow-Mamba";
    narrow.channels = 64;
    add_benchmark(std::string("sizes/") + name + "/" + narrow.name + "/tokens:1000000",
                  [=, work = work](auto& state) { grid_point(state, narrow, work, 1000000); });
  }
}

}  // namespace benchmarks
