// Small fixed cases whose instructions are counted (instructions.sh). Deterministic: nothing depends on clocks, threads or addresses.
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "../layers.hpp"

namespace {

using namespace benchmarks;

/// Only what runs in here is counted: valgrind is given this function's name. The work runs twice, so that first-time costs weigh little.
__attribute__((noinline)) void counted_work(const std::function<void()>& work) {
  work();
  work();
}

struct Case {
  const char* name;
  std::function<void(const std::function<void(std::function<void()>)>&)> run;
};

/// An operator and the memory for its results.
struct Prepared {
  RunLayer layer;
  Operator attention;
  Matrix<float> x, out, matrices, map;
  Prepared(const LayerSize& size, Index tokens, Index channels)
      : layer(size, tokens, channels),
        attention(layer.attention()),
        x(normal_numbers(tokens, channels, 5)),
        out(Matrix<float>::Zero(tokens, channels)),
        matrices(Matrix<float>::Zero(channels * tokens, tokens)),
        map(Matrix<float>::Zero(tokens, tokens)) {}
};

using Count = std::function<void(std::function<void()>)>;

std::vector<Case> cases() {
  std::vector<Case> list;
  const auto add = [&](const char* name, const LayerSize& size,
                       std::function<void(const Prepared&, Matrix<float>&, Matrix<float>&, Matrix<float>&)> work) {
    list.push_back({name, [&size, work = std::move(work)](const Count& count) {
                      Prepared prepared(size, 100, 48);  // three whole blocks and a piece of one; channels that fill whole registers
                      count([&] { work(prepared, prepared.matrices, prepared.map, prepared.out); });
                    }});
  };
  const auto reduced = [](ReductionKind kind) {
    return [kind](const Prepared& p, Matrix<float>&, Matrix<float>& map, Matrix<float>&) {
      Reduction<float> reduction;
      reduction.kind = kind;
      p.attention.reduce_into(map, reduction);
    };
  };
  const auto whole = [](const Prepared& p, Matrix<float>& matrices, Matrix<float>&, Matrix<float>&) {
    p.attention.materialize_into(matrices);
  };
  const auto one_row = [](const Prepared& p, Matrix<float>&, Matrix<float>& map, Matrix<float>&) {
    Selection last;
    last.rows = Indices::last();
    p.attention.materialize_into(View<float>(map.data(), p.layer.channels(), p.layer.tokens()), last);
  };
  const auto apply = [](const Prepared& p, Matrix<float>&, Matrix<float>&, Matrix<float>& out) { p.attention.apply_into(out, p.x); };
  const auto transpose = [](const Prepared& p, Matrix<float>&, Matrix<float>&, Matrix<float>& out) {
    p.attention.apply_transpose_into(out, p.x);
  };

  add("mamba_matrices", mamba_130m, whole);
  add("mamba_mean", mamba_130m, reduced(ReductionKind::mean));
  add("mamba_mean_abs", mamba_130m, reduced(ReductionKind::mean_abs));
  add("mamba_max", mamba_130m, reduced(ReductionKind::max));
  add("mamba_row", mamba_130m, one_row);
  add("mamba_apply", mamba_130m, apply);
  add("mamba_apply_transpose", mamba_130m, transpose);
  add("rwkv4_matrices", rwkv4_169m, whole);
  add("rwkv4_mean_abs", rwkv4_169m, reduced(ReductionKind::mean_abs));
  add("rwkv4_row", rwkv4_169m, one_row);
  add("rwkv4_apply", rwkv4_169m, apply);
  add("griffin_matrices", recurrent_gemma_2b, whole);
  add("griffin_mean_abs", recurrent_gemma_2b, reduced(ReductionKind::mean_abs));
  add("griffin_row", recurrent_gemma_2b, one_row);
  add("griffin_apply", recurrent_gemma_2b, apply);
  return list;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<Case> list = cases();
  if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
    for (const Case& each : list) std::puts(each.name);
    return 0;
  }
  if (argc == 2)
    for (const Case& each : list)
      if (std::strcmp(argv[1], each.name) == 0) {
        each.run([](const std::function<void()>& work) { counted_work(work); });
        return 0;
      }
  std::fputs("Usage: instructions --list | CASE     (instructions.sh counts and compares)\n", stderr);
  return 1;
}
