// Memory that a reduction, or an explanation by a whole model, needs beside its inputs and its result, measured in a separate process by
// the kernel's counters.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>

#if defined(__linux__)
#include <unistd.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "layers.hpp"
#include "measuring.hpp"

namespace benchmarks {

namespace {

/// A line of /proc/self/status, in bytes; -1 where there is none.
double status(const std::string& name) {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word)
    if (word == name + ":") {
      double kibibytes = 0;
      file >> kibibytes;
      return 1024 * kibibytes;
    }
  return -1;
}

/// What the program prints when it is started to measure `which` at `tokens`; negative where it cannot be measured.
double measured_in_child([[maybe_unused]] const std::string& which, [[maybe_unused]] Index tokens) {
  double bytes = -1;
#if defined(__linux__)
  char self[4096];
  const auto length = ::readlink("/proc/self/exe", self, sizeof self - 1);
  if (length <= 0) return -1;
  const std::string command =
      "'" + std::string(self, static_cast<std::size_t>(length)) + "' --measure-memory=" + which + ":" + std::to_string(tokens);
  if (FILE* child = ::popen(command.c_str(), "r")) {
    if (std::fscanf(child, "%lf", &bytes) != 1) bytes = -1;
    ::pclose(child);
  }
#endif
  return bytes;
}

struct Case {
  const char* name;
  const char* text;
  const LayerSize& size;
  ReductionKind kind;
  bool weighted;
};
const Case cases[] = {
    {"mamba-mean", "mean, Mamba-2.8b", mamba_2_8b, ReductionKind::mean, false},
    {"rwkv-abs", "mean of absolute values, RWKV-4-14b", rwkv4_14b, ReductionKind::mean_abs, false},
    {"rwkv-weighted", "mean with row and column weights, RWKV-4-14b", rwkv4_14b, ReductionKind::mean, true},
    {"mamba-abs", "mean of absolute values, Mamba-2.8b", mamba_2_8b, ReductionKind::mean_abs, false},
    {"mamba-weighted", "mean with row and column weights, Mamba-2.8b", mamba_2_8b, ReductionKind::mean, true},
};

void run(benchmark::State& state, const Case& measured, int place) {
  report_memory(state, measured.name, settings().quick ? 512 : 4096, place,
                "extra memory of a reduction, " + std::string(measured.text) + ", 5120 channels", 64, 16);
}

void print_memory(double bytes) { std::printf("%.0f\n", bytes); }

}  // namespace

void report_memory(benchmark::State& state, const std::string& which, Index tokens, int place, const std::string& text, double bar,
                   double aim) {
  double bytes = 0;
  state.SetIterationTime(seconds_of([&] { bytes = measured_in_child(which, tokens); }));
  if (bytes < 0) {
    state.SkipWithError("the kernel does not tell how much memory was used");
    return;
  }
  state.counters["extra_MiB"] = bytes / 1048576;
  report_at_most(place, text + ", " + std::to_string(tokens) + " tokens", bytes / 1048576, bar, aim, " MiB", "");
}

MemoryMark::MemoryMark() {
#if defined(__GLIBC__)
  ::malloc_trim(0);  // free memory kept by malloc would hide what is needed
#endif
  std::ofstream("/proc/self/clear_refs") << "5" << std::flush;  // resets the high-water mark, where the kernel allows it
  before_ = status("VmRSS");
}
double MemoryMark::bytes() const {
  const double after = status("VmHWM");
  return before_ < 0 || after < 0 ? -1.0 : std::max(0.0, after - before_);
}

int measure_memory(const std::string& which) {
  const std::size_t colon = which.find(':');
  const Index tokens = std::stol(which.substr(colon + 1));
  if (const std::optional<double> bytes = model_memory(which.substr(0, colon), tokens)) {
    print_memory(*bytes);
    return 0;
  }
  const auto* const measured =
      std::find_if(std::begin(cases), std::end(cases), [&](const Case& each) { return each.name == which.substr(0, colon); });
  if (measured == std::end(cases)) return 1;
  const RunLayer layer(measured->size, tokens);
  const Operator attention = layer.attention();
  Reduction<float> reduction;
  reduction.kind = measured->kind;
  if (measured->weighted) {
    reduction.row_weights = normal_numbers(tokens, layer.channels(), 41);
    reduction.column_weights = normal_numbers(tokens, layer.channels(), 42);
  }
  Matrix<float> map = Matrix<float>::Zero(tokens, tokens);
  {
    // The first run also loads code into memory.
    const RunLayer small(measured->size, 64, 64);
    Matrix<float> small_map = Matrix<float>::Zero(64, 64);
    Reduction<float> unweighted;
    unweighted.kind = measured->kind;
    small.attention().reduce_into(small_map, unweighted);
  }
  const MemoryMark mark;
  attention.reduce_into(map, reduction);
  const double bytes = mark.bytes();
  benchmark::DoNotOptimize(map.data());
  print_memory(bytes);
  return 0;
}

void add_memory() {
  int place = 60;
  for (const Case& measured : cases) {
    // Long ones only with --all.
    const bool in_table = place < 63;
    add_benchmark((in_table ? "table/memory/" : "sizes/memory/") + std::string(measured.name),
                  [&measured, place](auto& state) { run(state, measured, place); });
    ++place;
  }
}

}  // namespace benchmarks
