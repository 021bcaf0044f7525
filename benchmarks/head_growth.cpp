// Recurrences with one matrix a head: how times grow, and float against double.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include "head_sizes.hpp"
#include "measuring.hpp"

namespace benchmarks {

namespace {

/// A size of a series.
struct Size {
  double size;
  Index tokens, heads, state;
};
using Works = std::vector<std::pair<std::string, std::function<void()>>>;

/// What one row of every head cannot do without: every head's keys are added up. A yardstick, which has no bar.
constexpr const char* reading = "reading the keys";

/// What is timed on one recurrence; what it needs is kept alive by the works.
Works works_of(const Size& size, bool delta, bool maps) {
  struct Kept {
    HeadRecurrence<float> r;
    SharedMatrix<float> matrix;
    Matrix<float> x, out;
    LargeMemory<float> memory;
    std::vector<Index> rows, heads;
  };
  const auto kept = std::make_shared<Kept>();
  kept->r = delta ? delta_recurrence(size.tokens, DeltaDecay::head, size.heads, size.state, -0.1f)
                  : mamba2_recurrence(size.tokens, size.heads, size.state);
  kept->heads = first_numbers(size.heads);
  kept->matrix = SharedMatrix<float>(kept->r);
  if (maps) {
    kept->memory = LargeMemory<float>(size.heads * size.tokens, size.tokens);
    std::fill_n(kept->memory.data(), size.heads * size.tokens * size.tokens, 1.0f);
    kept->rows = first_numbers(size.tokens);
    return {{"R_h", [kept, size] {
               head_rows(kept->matrix, kept->heads, kept->rows, View<float>(kept->memory.data(), size.heads * size.tokens, size.tokens),
                         serial_executor());
             }}};
  }
  kept->x = normal_numbers(size.tokens, kept->r.channels, 31);
  kept->out = Matrix<float>::Zero(size.tokens, kept->r.channels);
  kept->rows = {size.tokens - 1};
  return {{reading,
           [kept, size] {
             for (const Index head : kept->heads) {
               float sum = kept->r.key.matrix().middleCols(kept->r.group(head) * size.state, size.state).sum();
               benchmark::DoNotOptimize(sum);
             }
           }},
          {"one row",
           [kept, size] {
             head_rows(kept->matrix, kept->heads, kept->rows, View<float>(kept->out.data(), size.heads, size.tokens), serial_executor());
           }},
          {"apply", [kept] { head_scan(kept->r, Array<float>::view(kept->x), Array<float>(), View<float>(kept->out), serial_executor()); }},
          {"transpose", [kept] { head_scan_transposed(kept->r, ConstView<float>(kept->x), View<float>(kept->out), serial_executor()); }}};
}

void series(benchmark::State& state, int place, const std::string& axis, double expected, bool delta, bool maps,
            const std::vector<Size>& sizes) {
  // All begin with their input in memory: else the smallest, which fit the nearer caches, would find there what they left.
  LargeMemory<float> other(Index(1) << 24, 1);
  std::fill_n(other.data(), other.rows(), 1.0f);
  const auto empty_caches = [&other] {
    float sum = Eigen::Map<const Eigen::ArrayXf>(other.data(), other.rows()).sum();
    benchmark::DoNotOptimize(sum);
  };
  Rounds rounds;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < sizes.size(); ++i)
    for (auto& [name, run] : works_of(sizes[i], delta, maps)) {
      if (i == 0) names.push_back(name);
      rounds.add(
          name + std::to_string(i), run, [] {}, empty_caches);
    }
  rounds.run(5, 2);
  std::string each;
  double worst = expected, total = 0;
  for (const std::string& name : names) {
    std::vector<double> axis_sizes, times;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      axis_sizes.push_back(sizes[i].size);
      times.push_back(rounds.seconds(name + std::to_string(i)));
      total += times.back();
    }
    const double exponent = slope(axis_sizes, times);
    each += (each.empty() ? "" : ", ") + name + " " + figures(exponent);
    if (name != reading && exponent - expected > worst - expected) worst = exponent;
    state.counters[name] = exponent;
  }
  state.SetIterationTime(total);
  const std::string what = delta ? "delta rule" : "Mamba-2's heads";
  report(place, {"fitted exponent in " + axis + " (" + what + ", " + std::to_string(static_cast<Index>(sizes.front().size)) + " to " +
                     std::to_string(static_cast<Index>(sizes.back().size)) + ")",
                 each, "at most " + figures(expected + 0.1, 2), figures(expected, 2), worst <= expected + 0.1, worst <= expected, ""});
}

/// Tokens, heads or state from small to large.
std::vector<Size> sizes_of(const std::string& axis, bool maps) {
  std::vector<Size> sizes;
  const bool quick = settings().quick;
  const Index tokens = quick ? 256 : maps ? 1024 : 2048;
  for (const Index factor : {1, 2, 4}) {
    if (axis == "tokens")
      sizes.push_back({double(tokens * factor), tokens * factor, 2, 128});
    else if (axis == "heads")
      sizes.push_back({double(4 * factor), tokens / 2, 4 * factor, 128});
    else
      sizes.push_back({double(64 * factor), tokens, 2, 64 * factor});
  }
  return sizes;
}

HeadRecurrence<double> in_double(const HeadRecurrence<float>& r) {
  const auto numbers = [](const Array<float>& array) {
    return array.empty() ? Array<double>() : Array<double>(Matrix<double>(array.matrix().cast<double>()));
  };
  HeadRecurrence<double> d;
  d.tokens = r.tokens;
  d.channels = r.channels;
  d.heads = r.heads;
  d.groups = r.groups;
  d.state = r.state;
  d.transition = r.transition;
  d.query = numbers(r.query);
  d.key = numbers(r.key);
  d.key_scale = numbers(r.key_scale);
  d.log_decay = numbers(r.log_decay);
  return d;
}

/// Every 61st row of each head's matrix, of the whole matrix and by itself, against the walk in double.
void precision(benchmark::State& state, int place, const std::string& what, const HeadRecurrence<float>& r, double bar, double aim) {
  double worst_map = 0, worst_walk = 0;
  const double seconds = seconds_of([&] {
    const HeadRecurrence<double> exact = in_double(r);
    const SharedMatrix<float> matrix(r);
    const std::vector<Index> rows = first_numbers(r.tokens);
    Matrix<float> map(r.tokens, r.tokens), walked(1, r.tokens);
    Matrix<double> expected(1, r.tokens);
    for (Index head = 0; head < r.heads; ++head) {
      head_rows(matrix, {head}, rows, View<float>(map), serial_executor());
      for (Index row = r.tokens - 1; row >= 0; row -= 61) {
        expected.setZero();
        plain_head_row(exact, head, row, expected.data());
        matrix_rows(r, head, row, row + 1, View<float>(walked));
        worst_map = std::max(worst_map, worst_row(map.row(row), expected));
        worst_walk = std::max(worst_walk, worst_row(walked, expected));
      }
    }
  });
  state.SetIterationTime(seconds);
  state.counters["matrix"] = worst_map;
  state.counters["row"] = worst_walk;
  const double worst = std::max(worst_map, worst_walk);
  char text[120], limit[40], least[40];
  std::snprintf(text, sizeof text, "%.1e (matrices %.1e, single rows %.1e)", worst, worst_map, worst_walk);
  std::snprintf(limit, sizeof limit, "at most %.0e", bar);
  std::snprintf(least, sizeof least, "%.0e", aim);
  report(place, {"float against double, " + what + ", " + std::to_string(r.tokens) + " tokens, of the row's largest entry", text, limit,
                 least, worst <= bar, worst <= aim, ""});
}

}  // namespace

void add_head_growth() {
  int place = 240;
  for (const std::string axis : {"tokens", "heads", "state"})
    for (const bool delta : {false, true})
      for (const bool maps : {true, false}) {
        // The delta rule's heads are as wide as their state, and an application is as much as both.
        const bool both = delta && !maps && axis == "state";
        const double expected = both || (maps && axis == "tokens") ? 2 : 1;
        add_benchmark("table/heads/exponents/" + axis + (delta ? "/delta" : "/Mamba-2") + (maps ? "/maps" : "/linear"), [=](auto& state) {
          series(state, place, both ? "state and values" : axis, expected, delta, maps, sizes_of(axis, maps));
        });
        ++place;
      }
  const auto tokens = [] { return settings().quick ? Index(512) : Index(4096); };
  add_benchmark("table/heads/precision/Mamba-2",
                [=](auto& state) { precision(state, 260, "Mamba-2's heads", mamba2_recurrence(tokens(), 4), 5e-6, 1e-6); });
  add_benchmark("table/heads/precision/delta",
                [=](auto& state) { precision(state, 261, "delta rule", delta_recurrence(tokens(), DeltaDecay::head, 2), 5e-6, 1e-6); });
  add_benchmark("table/heads/precision/delta-by-state", [=](auto& state) {
    precision(state, 262, "delta rule with a decay a channel", delta_recurrence(tokens(), DeltaDecay::state, 2), 5e-6, 1e-6);
  });
  add_benchmark("table/heads/precision/delta-slow", [=](auto& state) {
    precision(state, 263, "delta rule with slow decay", delta_recurrence(tokens(), DeltaDecay::head, 2, 128, -1e-4f), 2e-5, 5e-6);
  });
}

}  // namespace benchmarks
