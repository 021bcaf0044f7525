// How measurements are made: wall-clock time, work and yardsticks in turn, medians.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include <implicit_attention/core/large_memory.hpp>

namespace benchmarks {

using implicit_attention::Index;
using implicit_attention::LargeMemory;

[[nodiscard]] double median(std::vector<double> values);

/// Seconds since some moment: wall-clock time, or with Settings::processor_time what this process has had of the processor.
[[nodiscard]] double now();
template <class Work>
[[nodiscard]] double seconds_of(const Work& work) {
  const double begin = now();
  work();
  return now() - begin;
}

/// What a run of the program shares.
struct Settings {
  bool quick = false;           ///< smaller problems, few rounds: to see that everything works
  int rounds = 0;               ///< rounds of every measurement; 0: as its cost allows
  bool processor_time = false;  ///< where others use the machine; says nothing of two workers, whose lines are left out
};
Settings& settings();

/// The machine, measured at the start of the run: rates per second.
struct Machine {
  double product_flops = 0;  ///< Eigen, float, 1024^3
  double blas_flops = 0;     ///< OpenBLAS, one thread; 0 where it is not linked
  double fill_bytes = 0;     ///< std::fill of touched memory
  double memset_bytes = 0;
  double copy_bytes = 0;        ///< bytes written by memcpy
  double fresh_bytes = 0;       ///< first touch, ordinary pages
  double fresh_huge_bytes = 0;  ///< first touch, huge pages
  double exponentials = 0;      ///< Eigen's float exp, in cache
};
Machine& machine();
void measure_machine();

/// Yardsticks, measured again between the rounds of the work, since the machine's speed changes within seconds.
/// Eigen's product of two 1024 x 1024 float matrices.
void yardstick_product(int place = 0);
constexpr double yardstick_flops = 2.0 * 1024 * 1024 * 1024;
/// Fills memory with the faster of std::fill and memset.
void yardstick_fill(float* memory, Index count);

/// Works that are timed by turns, round after round.
class Rounds {
 public:
  /// Times of one round, by name.
  using Times = std::map<std::string, double>;

  /// `after` and `before` are not timed: freeing memory, say.
  void add(
      std::string name, std::function<void()> work, std::function<void()> after = [] {}, std::function<void()> before = [] {}) {
    works_.push_back({std::move(name), std::move(work), std::move(after), std::move(before)});
  }
  /// At least `least` rounds, and more as long as all take less than `budget` seconds.
  void run(int least = 5, double budget = 3);

  /// Median over rounds of something made of one round's times.
  [[nodiscard]] double median_of(const std::function<double(Times&)>& value);
  [[nodiscard]] double seconds(const std::string& name) {
    return median_of([&](Times& times) { return times.at(name); });
  }
  [[nodiscard]] double ratio(const std::string& name, const std::string& yardstick) {
    return median_of([&](Times& times) { return times.at(name) / times.at(yardstick); });
  }

 private:
  struct Work {
    std::string name;
    std::function<void()> run, after, before;
  };
  std::vector<Work> works_;
  std::vector<Times> rounds_;
};

/// A line of the table.
struct Line {
  std::string work, measured, bar, aim;
  bool bar_met = false, aim_met = false;
  std::string seconds;
};
/// Adds a line; `place` orders them.
void report(int place, Line line);
/// A ratio that must not exceed, or must reach, a bar.
void report_at_most(int place, const std::string& work, double value, double bar, double aim, const std::string& unit,
                    const std::string& seconds);
void report_at_least(int place, const std::string& work, double value, double bar, double aim, const std::string& unit,
                     const std::string& seconds);
/// A figure beside the table: all terms against recurrence alone.
void report_terms(const std::string& work, double ratio);
/// A line below the table.
void report_note(const std::string& note);
void print_report();

/// The slope of log time over log size, by least squares.
[[nodiscard]] double slope(const std::vector<double>& sizes, const std::vector<double>& times);

/// `x` with three figures.
[[nodiscard]] std::string figures(double x, int count = 3);
/// `12.3 ms`
[[nodiscard]] std::string time_text(double seconds);

/// Registers a measurement that does its own rounds and calls SetIterationTime once.
void add_benchmark(const std::string& name, std::function<void(benchmark::State&)> run);

void add_maps();
void add_reductions();
void add_linear();
void add_streaming();
void add_memory();
void add_models();
void add_heads();
void add_exponents();
void add_precision();
void add_tokenizers();
/// Measures the memory of this process and prints it in bytes (the program starts itself for this).
int measure_memory(const std::string& which);
/// What a whole model needs beside its weights; nothing where `which` is no measurement of a model.
std::optional<double> model_memory(const std::string& which, Index tokens);
/// How far this process grows from here on, at its highest.
class MemoryMark {
 public:
  MemoryMark();
  /// Negative where the kernel does not tell.
  [[nodiscard]] double bytes() const;

 private:
  double before_ = 0;
};
/// Measures in a process of its own what `measure_memory` knows as `which`, and reports it in MiB.
void report_memory(benchmark::State& state, const std::string& which, Index tokens, int place, const std::string& text, double bar,
                   double aim);

}  // namespace benchmarks
