#include "measuring.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>

#include <Eigen/Core>

#ifdef IMPLICIT_ATTENTION_HAVE_OPENBLAS
#include <cblas.h>
#endif

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>

namespace benchmarks {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

double now() {
  if (settings().processor_time) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Settings& settings() {
  static Settings instance;
  return instance;
}

Machine& machine() {
  static Machine instance;
  return instance;
}

namespace {

using Square = implicit_attention::Matrix<float>;

struct ProductMemory {
  Square a = Square::Constant(1024, 1024, 0.5f), b = Square::Constant(1024, 1024, 0.25f), c = Square::Zero(1024, 1024);
};
ProductMemory& product_memory(int place = 0) {
  static ProductMemory memory[2];
  return memory[place];
}

template <class Work>
double median_seconds(int rounds, const Work& work) {
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) times.push_back(seconds_of(work));
  return median(times);
}

}  // namespace

void yardstick_product(int place) {
  ProductMemory& memory = product_memory(place);
  memory.c.noalias() = memory.a * memory.b;
  benchmark::DoNotOptimize(memory.c.data());
  benchmark::ClobberMemory();
}

void yardstick_fill(float* memory, Index count) {
  if (machine().memset_bytes > machine().fill_bytes)
    std::memset(memory, 1, static_cast<std::size_t>(count) * sizeof(float));
  else
    std::fill_n(memory, count, 1.0f);
  benchmark::DoNotOptimize(memory);
  benchmark::ClobberMemory();
}

void measure_machine() {
  Machine& rates = machine();
  const int rounds = settings().quick ? 3 : 9;
  yardstick_product();
  rates.product_flops = yardstick_flops / median_seconds(rounds, [] { yardstick_product(); });
#ifdef IMPLICIT_ATTENTION_HAVE_OPENBLAS
  openblas_set_num_threads(1);
  const auto blas = [] {
    ProductMemory& memory = product_memory();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 1024, 1024, 1024, 1, memory.a.data(), 1024, memory.b.data(), 1024, 0,
                memory.c.data(), 1024);
    benchmark::ClobberMemory();
  };
  blas();
  rates.blas_flops = yardstick_flops / median_seconds(rounds, blas);
#endif

  const Index count = Index(settings().quick ? 32 : 128) << 20;  // 512 MiB: far beyond the caches
  const double bytes = static_cast<double>(count) * sizeof(float);
  const auto touch = [&](float* memory) {
    std::fill_n(memory, count, 1.0f);
    benchmark::DoNotOptimize(memory);
    benchmark::ClobberMemory();
  };
  rates.fresh_huge_bytes = bytes / median_seconds(3, [&] { touch(LargeMemory<float>(count, 1).data()); });
  rates.fresh_bytes = bytes / median_seconds(3, [&] {
                        // Ordinary memory, as std::vector's, but not filled twice.
                        const std::unique_ptr<float[]> memory(new float[static_cast<std::size_t>(count)]);
                        touch(memory.get());
                      });
  LargeMemory<float> memory(count, 1);
  touch(memory.data());
  rates.fill_bytes = bytes / median_seconds(rounds, [&] { touch(memory.data()); });
  rates.memset_bytes = bytes / median_seconds(rounds, [&] {
                         std::memset(memory.data(), 1, static_cast<std::size_t>(count) * sizeof(float));
                         benchmark::ClobberMemory();
                       });
  rates.copy_bytes = bytes / 2 / median_seconds(rounds, [&] {
                       std::memcpy(memory.data(), memory.data() + count / 2, static_cast<std::size_t>(count / 2) * sizeof(float));
                       benchmark::ClobberMemory();
                     });

  using Numbers = Eigen::Array<float, 1, Eigen::Dynamic>;
  const Numbers x = Numbers::LinSpaced(4096, -20, 0);
  Numbers y(4096);
  rates.exponentials = 4096.0 * 1000 / median_seconds(rounds, [&] {
                         for (int i = 0; i < 1000; ++i) {
                           y = x.exp();
                           benchmark::DoNotOptimize(y.data());
                           benchmark::ClobberMemory();
                         }
                       });
}

void Rounds::run(int least, double budget) {
  if (settings().quick) {
    least = 2;
    budget = 0;
  }
  if (settings().rounds > 0) {
    least = settings().rounds;
    budget = 0;
  }
  double spent = 0;
  for (int round = 0; round < least || (spent < budget && round < 100); ++round) {
    Times times;
    // Every other round runs in reverse order, so that no work always follows the same predecessor.
    for (std::size_t i = 0; i < works_.size(); ++i) {
      const Work& work = works_[round % 2 == 0 ? i : works_.size() - 1 - i];
      work.before();
      spent += times[work.name] = seconds_of(work.run);
      work.after();
    }
    rounds_.push_back(std::move(times));
  }
}

double Rounds::median_of(const std::function<double(Times&)>& value) {
  std::vector<double> values;
  for (Times& times : rounds_) values.push_back(value(times));
  return median(std::move(values));
}

double slope(const std::vector<double>& sizes, const std::vector<double>& times) {
  const double count = static_cast<double>(sizes.size());
  double x = 0, y = 0, xx = 0, xy = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const double lx = std::log(sizes[i]), ly = std::log(times[i]);
    x += lx;
    y += ly;
    xx += lx * lx;
    xy += lx * ly;
  }
  return (count * xy - x * y) / (count * xx - x * x);
}

std::string figures(double x, int count) {
  char text[64];
  const int before = x == 0 ? 1 : static_cast<int>(std::floor(std::log10(std::abs(x)))) + 1;
  std::snprintf(text, sizeof text, "%.*f", std::max(0, count - std::max(before, 1)), x);
  return text;
}

std::string time_text(double seconds) {
  if (seconds >= 1) return figures(seconds) + " s";
  if (seconds >= 1e-3) return figures(seconds * 1e3) + " ms";
  return figures(seconds * 1e6) + " us";
}

namespace {
std::map<int, Line>& lines() {
  static std::map<int, Line> instance;
  return instance;
}
std::vector<std::pair<std::string, double>>& terms_ratios() {
  static std::vector<std::pair<std::string, double>> instance;
  return instance;
}
std::vector<std::string>& notes() {
  static std::vector<std::string> instance;
  return instance;
}
}  // namespace

void report(int place, Line line) {
  using implicit_attention::ErrorKind, implicit_attention::detail::message, implicit_attention::detail::raise;
  Line& own = lines()[place];
  // The same work may be measured again, with --benchmark_repetitions.
  if (!own.work.empty() && own.work != line.work)
    raise(ErrorKind::value, "place ", place, " of the table is taken by \"", own.work, "\", and \"", line.work, "\" wants it");
  own = std::move(line);
}

void report_at_most(int place, const std::string& work, double value, double bar, double aim, const std::string& unit,
                    const std::string& seconds) {
  report(place,
         {work, figures(value) + unit, "at most " + figures(bar, 4) + unit, figures(aim, 4) + unit, value <= bar, value <= aim, seconds});
}
void report_at_least(int place, const std::string& work, double value, double bar, double aim, const std::string& unit,
                     const std::string& seconds) {
  report(place,
         {work, figures(value) + unit, "at least " + figures(bar, 4) + unit, figures(aim, 4) + unit, value >= bar, value >= aim, seconds});
}
void report_terms(const std::string& work, double ratio) { terms_ratios().emplace_back(work, ratio); }
void report_note(const std::string& note) { notes().push_back(note); }

void print_report() {
  const Machine& rates = machine();
  const auto giga = [](double rate) { return figures(rate * 1e-9); };
  std::printf("\nThe machine, one thread: float32 matrix product %s GFLOP/s (Eigen)", giga(rates.product_flops).c_str());
  if (rates.blas_flops > 0) std::printf(", %s (OpenBLAS)", giga(rates.blas_flops).c_str());
  std::printf("; memory: fill %s GB/s (std::fill), %s (memset), copy %s, first touch %s, with huge pages %s; exp %s G/s.\n\n",
              giga(rates.fill_bytes).c_str(), giga(rates.memset_bytes).c_str(), giga(rates.copy_bytes).c_str(),
              giga(rates.fresh_bytes).c_str(), giga(rates.fresh_huge_bytes).c_str(), giga(rates.exponentials).c_str());
  if (!terms_ratios().empty()) {
    const auto worst =
        std::max_element(terms_ratios().begin(), terms_ratios().end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    report_at_most(
        1000, "all terms against the recurrence alone, the worst of " + std::to_string(terms_ratios().size()) + " (" + worst->first + ")",
        worst->second, 1.15, 1.02, " x the time", "");
  }
  if (!lines().empty()) {
    std::printf("| work (one core, float32%s) | measured | bar | aim | | time |\n|---|---|---|---|---|---|\n",
                settings().quick ? "; QUICK: smaller" : "");
    for (const auto& [place, line] : lines())
      std::printf("| %s | %s | %s | %s | %s | %s |\n", line.work.c_str(), line.measured.c_str(), line.bar.c_str(), line.aim.c_str(),
                  line.aim_met   ? "aim"
                  : line.bar_met ? "bar"
                                 : "missed",
                  line.seconds.c_str());
  }
  if (!terms_ratios().empty()) {
    std::printf("\nAll terms against the recurrence alone:");
    const char* separator = " ";
    for (const auto& [work, ratio] : terms_ratios()) {
      std::printf("%s%s %s", separator, work.c_str(), figures(ratio).c_str());
      separator = "; ";
    }
    std::printf(".\n");
  }
  for (const std::string& note : notes()) std::printf("\n%s\n", note.c_str());
}

void add_benchmark(const std::string& name, std::function<void(benchmark::State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [run = std::move(run)](benchmark::State& state) {
                                 for ([[maybe_unused]] auto _ : state) run(state);
                               })
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

}  // namespace benchmarks
