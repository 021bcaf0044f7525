// The newest row while an engine decodes: a stream against all tokens lowered again.
#include <cmath>
#include <random>
#include <string>

#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/streaming/streaming_attention.hpp>

#include "measuring.hpp"

namespace benchmarks {

namespace {

using namespace implicit_attention;

/// A Mamba layer of Mamba-130m's size that an engine has run, with steps as the official initialisation has them.
struct RunMamba {
  static constexpr Index channels = 1536, state = 16, width = 4;
  std::mt19937 random{7};
  Mamba<float> layer;
  Mamba<float>::Activations activations;
  Array<float> g;

  explicit RunMamba(Index tokens) : layer(made()) {
    activations.dt = Matrix<float>((numbers(tokens, channels, 1.1F).array() - 4.6F).exp().matrix());
    activations.z = numbers(tokens, channels);
    activations.c = numbers(tokens, channels);
    activations.x = numbers(tokens, channels);
    activations.B = numbers(tokens, state);
    activations.C = numbers(tokens, state);
    g = numbers(1, channels);
  }
  [[nodiscard]] Mamba<float>::Activations token(Index t) const {
    Mamba<float>::Activations one;
    using A = Mamba<float>::Activations;
    for (auto array : {&A::dt, &A::z, &A::c, &A::x, &A::B, &A::C}) one.*array = (activations.*array).middle_rows(t, 1);
    return one;
  }

 private:
  [[nodiscard]] Matrix<float> numbers(Index rows, Index columns, float spread = 1) {
    std::normal_distribution<float> normal(0, spread);
    Matrix<float> made(rows, columns);
    for (Index i = 0; i < made.size(); ++i) made.data()[i] = normal(random);
    return made;
  }
  [[nodiscard]] Mamba<float> made() {
    Matrix<float> rates = numbers(channels, state, 0.3F).array().exp().matrix();
    for (Index n = 0; n < state; ++n) rates.col(n) *= -static_cast<float>(n + 1);
    return Mamba<float>::for_engine({rates, {}, numbers(1, channels), numbers(channels, width, 0.3F), numbers(1, channels, 0.1F)});
  }
};

void newest_row(benchmark::State& state, Index tokens) {
  const RunMamba run(tokens);
  StreamingAttention<float> stream;
  const double taking = seconds_of([&] {
    for (Index t = 0; t < tokens; ++t) {
      const auto one = run.token(t);
      stream.append(run.layer.lower(one), one.x);
    }
  });
  Matrix<float> row = Matrix<float>::Zero(RunMamba::channels, tokens), map = Matrix<float>::Zero(1, tokens);
  Matrix<float> weights = Matrix<float>::Zero(tokens, RunMamba::channels);
  weights.bottomRows(1) = run.g.matrix();
  Reduction<float> edges;
  edges.row_weights = weights;
  edges.column_weights = run.activations.x;
  Selection last;
  last.rows = Indices::last();
  Rounds rounds;
  rounds.add("all at once", [&] { run.layer.implicit_attention(run.activations).materialize_into(row, last); });
  rounds.add("stream", [&] { stream.newest_row_into(row); });
  rounds.add("all at once, edges", [&] { run.layer.implicit_attention(run.activations).reduce_into(map, edges, last); });
  rounds.add("stream, edges", [&] { stream.newest_edges_into(map, run.g); });
  rounds.run(5, 2);
  const std::string where = ", Mamba-130m, " + std::to_string(tokens) + " tokens", unit = " x all tokens lowered again";
  const int place = tokens == 64 ? 46 : tokens == 256 ? 47 : 48;
  report_at_most(place, "newest row of a stream" + where, rounds.ratio("stream", "all at once"), 0.5, 0.33, unit,
                 time_text(rounds.seconds("stream")));
  state.SetIterationTime(rounds.seconds("stream"));
  state.counters["row_of_all"] = rounds.ratio("stream", "all at once");
  state.counters["edges_of_all"] = rounds.ratio("stream, edges", "all at once, edges");
  state.counters["append_us"] = 1e6 * taking / static_cast<double>(tokens);
  state.counters["bytes_a_token"] = static_cast<double>(stream.bytes()) / static_cast<double>(tokens);
}

}  // namespace

void add_streaming() {
  for (const Index tokens : {Index(64), Index(256), Index(1024)})
    add_benchmark("table/streaming/" + std::to_string(tokens), [tokens](benchmark::State& state) { newest_row(state, tokens); });
}

}  // namespace benchmarks
