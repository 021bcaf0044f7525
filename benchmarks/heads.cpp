// Layers whose channels share one matrix a head: matrices, maps, joins, rows and applications, against the machine's limit.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include "head_sizes.hpp"
#include "layers.hpp"
#include "measuring.hpp"

namespace benchmarks {

namespace {

/// The layer around it: gate and norm, skip, activation, a convolution of four.
UnifiedForm<float> mamba2_form(Index tokens, bool own_scan) {
  const Index channels = mamba2_heads * mamba2_values;
  UnifiedForm<float> form;
  form.recurrence = mamba2_recurrence(tokens);
  form.gate = normal_numbers(tokens, channels, 5);
  form.normalization = normal_numbers(tokens, channels, 6);
  form.skip = Matrix<float>(Matrix<float>::Ones(1, channels));
  if (own_scan) return form;
  form.activation = uniform_numbers(tokens, channels, 0, 1, 7);
  form.convolution = uniform_numbers(channels, 4, -0.5f, 0.5f, 8);
  form.convolution_bias = uniform_numbers(1, channels, -0.5f, 0.5f, 9);
  return form;
}

/// Both cores' products at once: what a second worker can give on this machine.
void add_products(Rounds& rounds, ThreadPool& pool) {
  rounds.add("product", [] { yardstick_product(); });
  rounds.add("two products", [&pool] { pool.parallel_for(2, [](Index place) { yardstick_product(static_cast<int>(place)); }); });
}
/// What two workers gain over what the machine's products gain.
void report_two(Rounds& rounds, int place, const std::string& what, const std::string& one, const std::string& two) {
  if (settings().processor_time) return;
  const double gained =
      rounds.median_of([&](Rounds::Times& times) { return times[one] / times[two] / (2 * times["product"] / times["two products"]); });
  report_at_least(place, "two workers, " + what, gained, 0.85, 0.95, " of what the machine's two products gain",
                  figures(rounds.ratio(one, two)) + " x one");
}

double seconds_of_flops(Rounds::Times& times, double flops) { return flops * times["product"] / yardstick_flops; }

std::string tokens_text(Index tokens) { return ", " + std::to_string(tokens) + " tokens"; }

/// Lines of two workers stand below the others.
constexpr int two_workers = 40;

/// R_h of every head against filling as many bytes and `flops` at the product rate.
void head_maps(benchmark::State& state, int place, const std::string& what, const SharedMatrix<float>& matrix, double flops, double bar,
               double aim, const std::string& unit, double exponentials = 0) {
  const Index tokens = matrix.tokens, heads = matrix.heads;
  // Heads that are in memory at once: at most 256 MiB of results, which are written over and over.
  const Index at_once = std::max<Index>(1, std::min(heads, (Index(1) << 26) / (tokens * tokens)));
  LargeMemory<float> memory(at_once * tokens, tokens);
  std::fill_n(memory.data(), at_once * tokens * tokens, 1.0f);
  const std::vector<Index> rows = first_numbers(tokens);
  ThreadPool pool(2);
  const auto run = [&](const Executor& executor) {
    for (Index head = 0; head < heads; head += at_once) {
      std::vector<Index> some;
      for (Index h = head; h < std::min(head + at_once, heads); ++h) some.push_back(h);
      head_rows(matrix, some, rows, View<float>(memory.data(), static_cast<Index>(some.size()) * tokens, tokens), executor);
    }
  };
  Rounds rounds;
  add_products(rounds, pool);
  rounds.add("fill", [&] {
    for (Index head = 0; head < heads; head += at_once)
      yardstick_fill(memory.data(), (std::min(head + at_once, heads) - head) * tokens * tokens);
  });
  rounds.add("all", [&] { run(serial_executor()); });
  rounds.add("two", [&] { run(pool.executor()); });
  rounds.run(5, 2);
  const double ratio = rounds.median_of([&](Rounds::Times& times) {
    return times["all"] / (times["fill"] + seconds_of_flops(times, flops) + exponentials / machine().exponentials);
  });
  report_at_most(place, what + tokens_text(tokens), ratio, bar, aim, unit, time_text(rounds.seconds("all")));
  report_two(rounds, place + two_workers, what + tokens_text(tokens), "all", "two");
  state.SetIterationTime(rounds.seconds("all"));
  state.counters["of_yardstick"] = ratio;
  state.counters["fill_ms"] = 1e3 * rounds.seconds("fill");
}

double squared(Index tokens) { return static_cast<double>(tokens) * static_cast<double>(tokens); }

void mamba2_maps(benchmark::State& state) {
  const Index tokens = settings().quick ? 256 : 1024;
  head_maps(state, 160, "R_h of every head, Mamba-2 (24 heads x 64, state 128)", SharedMatrix<float>(mamba2_recurrence(tokens)),
            mamba2_state * squared(tokens) * mamba2_heads, 1.5, 1.1, " x (fill + flops)");
}

void mamba2_channels(benchmark::State& state) {
  const Index tokens = settings().quick ? 128 : 512, channels = mamba2_heads * mamba2_values;
  const Operator all(mamba2_form(tokens, false));
  LargeMemory<float> memory(channels * tokens, tokens);
  std::fill_n(memory.data(), channels * tokens * tokens, 1.0f);
  ThreadPool pool(2);
  Selection two;
  two.executor = pool.executor();
  Rounds rounds;
  add_products(rounds, pool);
  rounds.add("fill", [&] { yardstick_fill(memory.data(), memory.rows() * tokens); });
  rounds.add("all", [&] { all.materialize_into(View<float>(memory.data(), memory.rows(), tokens)); });
  rounds.add("two", [&] { all.materialize_into(View<float>(memory.data(), memory.rows(), tokens), two); });
  rounds.run(5, 3);
  report_at_most(161, "full attention, all terms, Mamba-2" + tokens_text(tokens), rounds.ratio("all", "fill"), 1.3, 0.9, " x the fill",
                 time_text(rounds.seconds("all")));
  report_two(rounds, 161 + two_workers, "full attention, all terms, Mamba-2" + tokens_text(tokens), "all", "two");
  state.SetIterationTime(rounds.seconds("all"));
  state.counters["of_fill"] = rounds.ratio("all", "fill");
}

/// The joins that are measured: a mean weighted by gradients and inputs, and a mean of absolute values.
struct MeasuredReductions {
  MeasuredReductions(Index tokens, Index channels) : g(normal_numbers(tokens, channels, 21)), x(normal_numbers(tokens, channels, 22)) {
    weighted.row_weights = Array<float>::view(g);
    weighted.column_weights = Array<float>::view(x);
    absolute.kind = ReductionKind::mean_abs;
  }
  MeasuredReductions(const MeasuredReductions&) = delete;  // the weights are views
  MeasuredReductions& operator=(const MeasuredReductions&) = delete;

  Matrix<float> g, x;
  Reduction<float> weighted, absolute;
};

void mamba2_reductions(benchmark::State& state) {
  const Index tokens = settings().quick ? 256 : 1024, channels = mamba2_heads * mamba2_values;
  const Operator all(mamba2_form(tokens, false));
  const MeasuredReductions of(tokens, channels);
  Matrix<float> map = Matrix<float>::Zero(tokens, tokens);
  ThreadPool pool(2);
  Selection two;
  two.executor = pool.executor();
  Rounds rounds;
  add_products(rounds, pool);
  rounds.add("mean", [&] { all.reduce_into(map, of.weighted); });
  rounds.add("mean_abs", [&] { all.reduce_into(map, of.absolute); });
  rounds.add("mean, two", [&] { all.reduce_into(map, of.weighted, two); });
  rounds.add("mean_abs, two", [&] { all.reduce_into(map, of.absolute, two); });
  rounds.run(5, 3);
  const double flops = 4.0 * static_cast<double>(channels) * squared(tokens);
  const auto percent = [&](const char* name) {
    return 100 * rounds.median_of([&](Rounds::Times& times) { return seconds_of_flops(times, flops) / times[name]; });
  };
  report_at_least(162, "weighted mean, Mamba-2" + tokens_text(tokens), percent("mean"), 60, 85, " % of the product rate",
                  time_text(rounds.seconds("mean")));
  report_at_least(163, "mean of absolute values, Mamba-2" + tokens_text(tokens), percent("mean_abs"), 45, 60, " % of the product rate",
                  time_text(rounds.seconds("mean_abs")));
  report_two(rounds, 162 + two_workers, "weighted mean, Mamba-2" + tokens_text(tokens), "mean", "mean, two");
  report_two(rounds, 163 + two_workers, "mean of absolute values, Mamba-2" + tokens_text(tokens), "mean_abs", "mean_abs, two");
  state.SetIterationTime(rounds.seconds("mean"));
  state.counters["mean_percent"] = percent("mean");
  state.counters["mean_abs_percent"] = percent("mean_abs");
}

/// Every channel's matrix of a longer text, six heads at a time in the same memory, beside one map for all of them.
void mamba2_channels_beside_reductions(benchmark::State& state) {
  const Index tokens = settings().quick ? 256 : 1024, channels = mamba2_heads * mamba2_values, at_once = 6 * mamba2_values;
  const Operator all(mamba2_form(tokens, false));
  LargeMemory<float> memory(at_once * tokens, tokens);
  std::fill_n(memory.data(), at_once * tokens * tokens, 1.0f);
  std::vector<Selection> parts;
  for (Index first = 0; first < channels; first += at_once) {
    std::vector<Index> some = first_numbers(at_once);
    for (Index& channel : some) channel += first;
    Selection part;
    part.channels = std::move(some);
    parts.push_back(part);
  }
  const MeasuredReductions of(tokens, channels);
  Matrix<float> map = Matrix<float>::Zero(tokens, tokens);
  Rounds rounds;
  rounds.add("fill", [&] {
    for (std::size_t part = 0; part < parts.size(); ++part) yardstick_fill(memory.data(), at_once * tokens * tokens);
  });
  rounds.add("all", [&] {
    for (const Selection& part : parts) all.materialize_into(View<float>(memory.data(), at_once * tokens, tokens), part);
  });
  rounds.add("mean", [&] { all.reduce_into(map, of.weighted); });
  rounds.add("mean_abs", [&] { all.reduce_into(map, of.absolute); });
  rounds.run(5, 3);
  report_at_most(157, "full attention, all terms, Mamba-2" + tokens_text(tokens), rounds.ratio("all", "fill"), 1.5, 1.3, " x the fill",
                 time_text(rounds.seconds("all")));
  report_at_most(158, "weighted mean, Mamba-2" + tokens_text(tokens), rounds.ratio("mean", "all"), 1, 0.5, " x the full attention",
                 time_text(rounds.seconds("mean")));
  report_at_most(159, "mean of absolute values, Mamba-2" + tokens_text(tokens), rounds.ratio("mean_abs", "all"), 1, 0.5,
                 " x the full attention", time_text(rounds.seconds("mean_abs")));
  state.SetIterationTime(rounds.seconds("all"));
  state.counters["of_fill"] = rounds.ratio("all", "fill");
}

void mamba2_linear(benchmark::State& state) {
  const Index tokens = settings().quick ? 2048 : 65536, channels = mamba2_heads * mamba2_values;
  const Operator all(mamba2_form(tokens, false)), own(mamba2_form(tokens, true));
  const Matrix<float> x = normal_numbers(tokens, channels, 31);
  Matrix<float> out = large_matrix<float>(tokens, channels), row = large_matrix<float>(channels, tokens);
  out.setZero();
  row.setZero();
  Selection last;
  last.rows = Indices::last();
  Rounds rounds;
  rounds.add("scan", [&] { own.apply_into(out, x); });
  rounds.add("row", [&] { all.materialize_into(row, last); });
  rounds.add("apply", [&] { all.apply_into(out, x); });
  rounds.add("transpose", [&] { all.apply_transpose_into(out, x); });
  rounds.run(3, 0);
  const std::string where = ", Mamba-2, all channels" + tokens_text(tokens), unit = " x the layer's own scan";
  report_at_most(164, "one row" + where, rounds.ratio("row", "scan"), 1, 0.5, unit, time_text(rounds.seconds("row")));
  report_at_most(165, "apply" + where, rounds.ratio("apply", "scan"), 1.2, 1, unit, time_text(rounds.seconds("apply")));
  report_at_most(166, "apply_transpose" + where, rounds.ratio("transpose", "scan"), 1.2, 1, unit, time_text(rounds.seconds("transpose")));
  report_note("Mamba-2's own scan takes " + time_text(rounds.seconds("scan")) + ".");
  state.SetIterationTime(rounds.seconds("scan"));
  state.counters["row"] = rounds.ratio("row", "scan");
  state.counters["apply"] = rounds.ratio("apply", "scan");
  state.counters["transpose"] = rounds.ratio("transpose", "scan");
}

/// The gradients of every factor, beside one application.
void gradients(benchmark::State& state, const std::string& what, const HeadRecurrence<float>& r) {
  const Matrix<float> x = normal_numbers(r.tokens, r.channels, 31), g = normal_numbers(r.tokens, r.channels, 32);
  Matrix<float> out = large_matrix<float>(r.tokens, r.channels);
  out.setZero();
  Rounds rounds;
  rounds.add("apply", [&] { head_scan(r, Array<float>::view(x), Array<float>(), View<float>(out), serial_executor()); });
  rounds.add("gradient", [&] {
    const HeadScanGradient<float> gradient =
        head_scan_gradient(r, ConstView<float>(x), Array<float>(), ConstView<float>(g), serial_executor());
    benchmark::DoNotOptimize(gradient.key.data());
  });
  rounds.run(5, 2);
  report_note("The gradients of all factors, " + what + tokens_text(r.tokens) + ": " + time_text(rounds.seconds("gradient")) + ", " +
              figures(rounds.ratio("gradient", "apply")) + " x an application.");
  state.SetIterationTime(rounds.seconds("gradient"));
  state.counters["of_apply"] = rounds.ratio("gradient", "apply");
}

void delta_maps(benchmark::State& state, int place, DeltaDecay decay, Index tokens, double bar, double aim) {
  if (settings().quick) tokens = 256;
  const double flops = 3.0 * delta_size * squared(tokens) * delta_heads;
  head_maps(state, place, decay == DeltaDecay::head ? "R_h, delta rule, 16 heads of 128" : "R_h, delta rule with a decay a channel",
            SharedMatrix<float>(delta_recurrence(tokens, decay)), flops, bar, aim, " x (3 K L^2 H flops + fill)");
}

void delta_linear(benchmark::State& state, int place, DeltaDecay decay, double slower) {
  const Index tokens = settings().quick ? 256 : 2048, channels = delta_heads * delta_size;
  const HeadRecurrence<float> r = delta_recurrence(tokens, decay);
  const Matrix<float> x = normal_numbers(tokens, channels, 31);
  Matrix<float> out = large_matrix<float>(tokens, channels), row = large_matrix<float>(delta_heads, tokens);
  out.setZero();
  row.setZero();
  ThreadPool pool(2);
  Rounds rounds;
  add_products(rounds, pool);
  rounds.add("read", [&] {
    float sum = r.key.matrix().sum();
    benchmark::DoNotOptimize(sum);
  });
  rounds.add("apply", [&] { head_scan(r, Array<float>::view(x), Array<float>(), View<float>(out), serial_executor()); });
  rounds.add("apply, two", [&] { head_scan(r, Array<float>::view(x), Array<float>(), View<float>(out), pool.executor()); });
  rounds.add("transpose", [&] { head_scan_transposed(r, ConstView<float>(x), View<float>(out), serial_executor()); });
  rounds.add("transpose, two", [&] { head_scan_transposed(r, ConstView<float>(x), View<float>(out), pool.executor()); });
  const SharedMatrix<float> matrix(r);
  const std::vector<Index> heads = first_numbers(delta_heads), last{tokens - 1};
  rounds.add("row", [&] { head_rows(matrix, heads, last, View<float>(row), serial_executor()); });
  rounds.run(5, 2);
  constexpr double chunk = 32, flops_a_token = (2 * chunk * delta_size * 2 + 4.0 * delta_size * delta_size) * 2 * delta_heads;
  const double flops = flops_a_token * static_cast<double>(tokens);
  const auto percent = [&](const char* name) {
    return 100 * rounds.median_of([&](Rounds::Times& times) { return seconds_of_flops(times, flops) / times[name]; });
  };
  const std::string what = decay == DeltaDecay::head ? ", delta rule" : ", delta rule with a decay a channel";
  report_at_least(place, "apply" + what + tokens_text(tokens), percent("apply"), 80 / slower, 92 / slower, " % of the product rate",
                  time_text(rounds.seconds("apply")));
  report_at_least(place + 1, "transpose" + what + tokens_text(tokens), percent("transpose"), 70 / slower, 85 / slower,
                  " % of the product rate", time_text(rounds.seconds("transpose")));
  report_at_most(place + 2, "one row" + what + tokens_text(tokens), rounds.ratio("row", "read"), 2.5 * slower, 1.5 * slower,
                 " x reading k once", time_text(rounds.seconds("row")));
  report_two(rounds, place + two_workers, "apply" + what + tokens_text(tokens), "apply", "apply, two");
  report_two(rounds, place + 1 + two_workers, "transpose" + what + tokens_text(tokens), "transpose", "transpose, two");
  state.SetIterationTime(rounds.seconds("apply"));
  state.counters["apply_percent"] = percent("apply");
  state.counters["transpose_percent"] = percent("transpose");
  state.counters["row_of_reading"] = rounds.ratio("row", "read");
}

void softmax_maps(benchmark::State& state) {
  const Index tokens = settings().quick ? 256 : 1024, heads = 16, size = 64;
  SoftmaxRecurrence<float> r;
  r.tokens = tokens;
  r.heads = r.key_heads = heads;
  r.channels = heads * size;
  r.scale = 0.125f;
  r.query = normal_numbers(tokens, heads * size, 41);
  r.key = normal_numbers(tokens, heads * size, 42);
  const double entries = squared(tokens) * heads;
  head_maps(state, 190, "softmax attention, 16 heads of 64", SharedMatrix<float>(r), static_cast<double>(size) * entries, 1.4, 1.1,
            " x (fill + flops + exp)", entries / 2);
  Matrix<float> row = large_matrix<float>(heads, tokens);
  Rounds rounds;
  rounds.add("read", [&] {
    float sum = r.key.matrix().sum();
    benchmark::DoNotOptimize(sum);
  });
  const SharedMatrix<float> matrix(r);
  const std::vector<Index> all = first_numbers(heads), last{tokens - 1};
  rounds.add("row", [&] { head_rows(matrix, all, last, View<float>(row), serial_executor()); });
  rounds.run(9, 1);
  report_at_most(191, "one row, softmax attention" + tokens_text(tokens), rounds.ratio("row", "read"), 1.5, 1, " x reading the keys",
                 time_text(rounds.seconds("row")));
  state.counters["row_of_reading"] = rounds.ratio("row", "read");
}

}  // namespace

void add_heads() {
  add_benchmark("table/heads/Mamba-2/matrices", mamba2_maps);
  add_benchmark("table/heads/Mamba-2/channels", mamba2_channels);
  add_benchmark("table/heads/Mamba-2/beside-reductions", mamba2_channels_beside_reductions);
  add_benchmark("table/heads/Mamba-2/reductions", mamba2_reductions);
  add_benchmark("table/heads/Mamba-2/linear", mamba2_linear);
  const auto of_gradients = [] { return settings().quick ? Index(128) : Index(512); };
  add_benchmark("table/heads/Mamba-2/gradient",
                [=](auto& state) { gradients(state, "Mamba-2 (24 heads x 64, state 128)", mamba2_recurrence(of_gradients())); });
  add_benchmark("table/heads/delta/gradient",
                [=](auto& state) { gradients(state, "delta rule, 16 heads of 128", delta_recurrence(of_gradients(), DeltaDecay::head)); });
  add_benchmark("table/heads/delta-by-state/gradient", [=](auto& state) {
    gradients(state, "delta rule with a decay a channel", delta_recurrence(of_gradients(), DeltaDecay::state));
  });
  const struct {
    Index tokens;
    double bar, aim;
  } lengths[] = {{512, 1.2, 1.0}, {1024, 1.05, 0.85}, {4096, 0.9, 0.6}};
  int place = 170;
  for (const DeltaDecay decay : {DeltaDecay::head, DeltaDecay::state}) {
    const std::string name = decay == DeltaDecay::head ? "delta" : "delta-by-state";
    const double slower = decay == DeltaDecay::head ? 1 : 1.5, slower_aim = decay == DeltaDecay::head ? 1 : 1.2;
    for (const auto& length : lengths)
      add_benchmark("table/heads/" + name + "/matrices/tokens:" + std::to_string(length.tokens),
                    [=](auto& state) { delta_maps(state, place, decay, length.tokens, length.bar * slower, length.aim * slower_aim); }),
          ++place;
    add_benchmark("table/heads/" + name + "/linear", [=](auto& state) { delta_linear(state, place, decay, slower); });
    place += 3;
  }
  add_benchmark("table/heads/softmax", softmax_maps);
  add_head_growth();
}

}  // namespace benchmarks
