// Measures the machine, then runs the benchmarks, then prints the table of docs/speed.md.
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include <implicit_attention/core/freed_memory.hpp>

#include "measuring.hpp"

namespace {

constexpr const char* usage =
    "Usage: benchmarks [--quick] [--all] [--rounds=N] [--processor-time] [Google Benchmark's options]\n\n"
    "Measures the machine, then the lines of the README's table (table/...), and prints the table.\n\n"
    "  --quick      smaller problems and few rounds, in a few seconds: to see that everything works\n"
    "  --all        the grid of layer sizes and lengths as well (sizes/...)\n"
    "  --rounds=N   rounds of every measurement (medians are taken over them)\n"
    "  --processor-time   processor time instead of wall-clock time, where others use the machine; no lines of two workers of heads\n"
    "  --benchmark_filter=REGEX   these only, e.g. table/maps, sizes/.*Mamba-130m;  --benchmark_list_tests names all\n"
    "  --benchmark_out=FILE       every result and counter as JSON\n";

}  // namespace

int main(int argc, char** argv) {
  implicit_attention::keep_freed_memory();  // as the programs do
  std::vector<char*> rest{argv[0]};
  bool all = false, filtered = false, listing = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--quick") {
      benchmarks::settings().quick = true;
    } else if (argument == "--processor-time") {
      benchmarks::settings().processor_time = true;
    } else if (argument == "--all") {
      all = true;
    } else if (argument.rfind("--rounds=", 0) == 0) {
      benchmarks::settings().rounds = std::atoi(argument.c_str() + 9);
    } else if (argument.rfind("--measure-memory=", 0) == 0) {  // how the program starts itself, see memory.cpp
      return benchmarks::measure_memory(argument.substr(17));
    } else if (argument == "-h" || argument == "--help") {
      std::fputs(usage, stdout);
      return 0;
    } else {
      filtered = filtered || argument.rfind("--benchmark_filter", 0) == 0;
      listing = listing || argument.rfind("--benchmark_list_tests", 0) == 0;
      rest.push_back(argv[i]);
    }
  }
  std::string filter = "--benchmark_filter=^table/";
  if (!filtered && !all && !listing) rest.push_back(filter.data());
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) {
    std::fputs(usage, stderr);
    return 1;
  }

  benchmarks::add_maps();
  benchmarks::add_reductions();
  benchmarks::add_linear();
  benchmarks::add_streaming();
  benchmarks::add_memory();
  benchmarks::add_models();
  benchmarks::add_heads();
  benchmarks::add_exponents();
  benchmarks::add_precision();
  benchmarks::add_tokenizers();
  if (!listing) {
    benchmarks::measure_machine();
    const benchmarks::Machine& rates = benchmarks::machine();
    benchmark::AddCustomContext("product GFLOP/s", benchmarks::figures(rates.product_flops * 1e-9));
    benchmark::AddCustomContext("fill GB/s", benchmarks::figures(rates.fill_bytes * 1e-9));
    benchmark::AddCustomContext("memset GB/s", benchmarks::figures(rates.memset_bytes * 1e-9));
    benchmark::AddCustomContext("copy GB/s", benchmarks::figures(rates.copy_bytes * 1e-9));
    benchmark::AddCustomContext("exp G/s", benchmarks::figures(rates.exponentials * 1e-9));
  }
  // Single benchmarks go to stderr, so that stdout holds the table alone.
  benchmark::ConsoleReporter reporter(benchmark::ConsoleReporter::OO_Tabular);
  reporter.SetOutputStream(listing ? &std::cout : &std::cerr);
  reporter.SetErrorStream(&std::cerr);
  benchmark::RunSpecifiedBenchmarks(&reporter);
  if (!listing) benchmarks::print_report();
  return 0;
}
