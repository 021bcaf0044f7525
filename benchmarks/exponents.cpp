// How times grow: the slope of log time over log size, by least squares.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "layers.hpp"
#include "measuring.hpp"

namespace benchmarks {

namespace {

/// One operator of a series, and what is timed on it.
struct Member {
  double size;
  RunLayer layer;
  Operator attention;
  Matrix<float> x, out, map;
  LargeMemory<float> matrices;

  Member(double series_size, const LayerSize& layer_size, Index tokens, Index channels, bool maps)
      : size(series_size), layer(layer_size, tokens, channels), attention(layer.attention()) {
    if (maps) {
      matrices = LargeMemory<float>(channels * tokens, tokens);
      std::fill_n(matrices.data(), matrices.rows() * tokens, 1.0f);
      map = Matrix<float>::Zero(tokens, tokens);
    } else {
      x = normal_numbers(tokens, channels, 51);
      out = Matrix<float>::Zero(tokens, channels);
    }
  }
};

struct Timed {
  const char* name;
  void (*run)(Member&);
};
const std::vector<Timed> map_works = {
    {"full attention",
     [](Member& m) { m.attention.materialize_into(View<float>(m.matrices.data(), m.matrices.rows(), m.layer.tokens())); }},
    {"mean", [](Member& m) { m.attention.reduce_into(m.map); }},
    {"mean-abs",
     [](Member& m) {
       Reduction<float> absolute;
       absolute.kind = ReductionKind::mean_abs;
       m.attention.reduce_into(m.map, absolute);
     }},
};
const std::vector<Timed> linear_works = {
    {"one row",
     [](Member& m) {
       Selection last;
       last.rows = Indices::last();
       m.attention.materialize_into(View<float>(m.out.data(), m.layer.channels(), m.layer.tokens()), last);
     }},
    {"apply", [](Member& m) { m.attention.apply_into(m.out, m.x); }},
    {"apply_transpose", [](Member& m) { m.attention.apply_transpose_into(m.out, m.x); }},
};

void series(benchmark::State& state, int place, const std::string& axis, double expected, const std::vector<Timed>& works,
            const std::string& what, std::vector<std::unique_ptr<Member>> members, const std::string& remark = "") {
  Rounds rounds;
  for (const Timed& work : works)
    for (std::size_t i = 0; i < members.size(); ++i)
      rounds.add(work.name + std::to_string(i), [&work, member = members[i].get()] { work.run(*member); });
  rounds.run(5, 3);
  double worst = expected, total = 0;
  std::string each;
  for (const Timed& work : works) {
    std::vector<double> sizes, times;
    for (std::size_t i = 0; i < members.size(); ++i) {
      sizes.push_back(members[i]->size);
      times.push_back(rounds.seconds(work.name + std::to_string(i)));
      total += times.back();
    }
    const double exponent = slope(sizes, times);
    each += std::string(each.empty() ? "" : ", ") + work.name + " " + figures(exponent);
    if (std::abs(exponent - expected) > std::abs(worst - expected)) worst = exponent;
    state.counters[work.name] = exponent;
  }
  state.SetIterationTime(total);
  const bool met = std::abs(worst - expected) <= 0.1;
  report(place, {"fitted exponent in " + axis + " (" + what + ")", each + remark, figures(expected, 2) + " +- 0.1", "", met, met, ""});
}

using Members = std::vector<std::unique_ptr<Member>>;

void tokens_of_maps(benchmark::State& state) {
  Members members;
  for (const Index tokens : settings().quick ? std::vector<Index>{256, 512, 1024} : std::vector<Index>{1024, 2048, 4096})
    members.push_back(std::make_unique<Member>(double(tokens), mamba_130m, tokens, 16, true));
  series(state, 70, "tokens", 2, map_works, "Mamba, 16 channels, 1024 to 4096 tokens", std::move(members));
}
void tokens_of_linear(benchmark::State& state) {
  Members members;
  for (const Index tokens : settings().quick ? std::vector<Index>{512, 1024, 2048} : std::vector<Index>{2048, 8192, 32768, 65536})
    members.push_back(std::make_unique<Member>(double(tokens), remembering(mamba_130m), tokens, 64, false));
  series(state, 71, "tokens", 1, linear_works, "Mamba that forgets nothing, 64 channels, 2048 to 65,536 tokens", std::move(members));
}
void channels_of_maps(benchmark::State& state) {
  Members members;
  for (const Index channels : settings().quick ? std::vector<Index>{64, 128, 256} : std::vector<Index>{128, 256, 512, 1024})
    members.push_back(std::make_unique<Member>(double(channels), mamba_130m, settings().quick ? 256 : 512, channels, true));
  series(state, 72, "channels", 1, map_works, "Mamba, 512 tokens, 128 to 1024 channels", std::move(members));
}
void channels_of_linear(benchmark::State& state) {
  Members members;
  for (const Index channels : settings().quick ? std::vector<Index>{64, 128, 256} : std::vector<Index>{128, 256, 512, 1024})
    members.push_back(std::make_unique<Member>(double(channels), mamba_130m, settings().quick ? 512 : 4096, channels, false));
  series(state, 73, "channels", 1, linear_works, "Mamba, 4096 tokens, 128 to 1024 channels", std::move(members));
}
void state_of_maps(benchmark::State& state) {
  Members members;
  for (const Index states : {16, 32, 64, 128})
    members.push_back(std::make_unique<Member>(double(states), with_state(mamba_130m, states), settings().quick ? 256 : 1024, 32, true));
  // The time of writing the matrices (independent of the state) and of their products alone on this machine.
  std::vector<double> sizes, least;
  for (const auto& member : members) {
    sizes.push_back(member->size);
    least.push_back(member->layer.map_bytes() / machine().fill_bytes + member->layer.map_flops() / machine().product_flops);
  }
  series(state, 74, "state", 1, map_works, "Mamba, 32 channels, 1024 tokens, 16 to 128 states", std::move(members),
         "; the machine's writing and products alone " + figures(slope(sizes, least)));
}
void state_of_linear(benchmark::State& state) {
  Members members;
  for (const Index states : {16, 32, 64, 128})
    members.push_back(
        std::make_unique<Member>(double(states), with_state(remembering(mamba_130m), states), settings().quick ? 256 : 2048, 128, false));
  series(state, 75, "state", 1, linear_works, "Mamba that forgets nothing, 128 channels, 2048 tokens, 16 to 128 states",
         std::move(members));
}

}  // namespace

void add_exponents() {
  add_benchmark("table/exponents/tokens/maps", tokens_of_maps);
  add_benchmark("table/exponents/tokens/linear", tokens_of_linear);
  add_benchmark("table/exponents/channels/maps", channels_of_maps);
  add_benchmark("table/exponents/channels/linear", channels_of_linear);
  add_benchmark("table/exponents/state/maps", state_of_maps);
  add_benchmark("table/exponents/state/linear", state_of_linear);
}

}  // namespace benchmarks
