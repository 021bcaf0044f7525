// How an inference engine hands over what it has computed anyway, while it decodes token by token. The engine (support/small_engine.hpp)
// has a graph of operations, its own buffers, its own threads, its own way to fail, and a callback that sees every operation after its
// evaluation, as large engines have it. The library looks into its memory, starts no thread, and throws nothing at it.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <functional>
#include <vector>

#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/streaming/streaming_attention.hpp>

#include <support/no_arguments.hpp>
#include <support/small_engine.hpp>

namespace hook {

using namespace implicit_attention;
using engine::channels, engine::heads, engine::key, engine::Node, engine::state, engine::taps, engine::tokens, engine::width;

/// One token's numbers, where they lie.
Array<float> view(const engine::Numbers& numbers) {
  return Array<float>::view(ConstView<float>(numbers.data(), 1, static_cast<Index>(numbers.size())));
}
Array<float> weight(const engine::Numbers& numbers, Index rows) {
  return Array<float>::view(ConstView<float>(numbers.data(), rows, static_cast<Index>(numbers.size()) / rows));
}

// What each operation says about a layer, and what its neighbours say.
void collect(const Node& node, Mamba<float>::Activations& act) {
  if (node.name == "z") act.z = view(node.out);
  if (node.op != "SSM_SCAN") return;
  const Node& c = *node.src[1]->src[0];  // what SiLU was taken of, and what was convolved
  act.c = view(c.out), act.x = view(c.src[0]->out);
  act.pre_dt = view(node.src[2]->out), act.B = view(node.src[4]->out), act.C = view(node.src[5]->out);
}
void collect(const Node& node, Rwkv7<float>::Activations& act) {
  if (node.name == "g") act.gate = view(node.out);
  if (node.op != "RWKV_WKV7") return;
  act.receptance = view(node.src[0]->out), act.decay = view(node.src[1]->out), act.key = view(node.src[2]->out);
  act.value = view(node.src[3]->out), act.probe = view(node.src[4]->out), act.removal = view(node.src[5]->out);
  act.pre_norm = view(node.out);
}
void collect(const Node& node, Griffin<float>::Activations& act) {
  if (node.name == "gate") act.gate = view(node.out);
  if (node.op != "RG_LRU") return;
  act.x = view(node.src[1]->src[0]->out);
  act.pre_input_gate = view(node.src[2]->out), act.pre_recurrent_gate = view(node.src[3]->out);
}
void collect(const Node& node, GatedDeltaNet<float>::Activations& act) {
  if (node.name == "z") act.z = view(node.out);
  if (node.op != "GATED_DELTA_NET") return;
  const Node& c = *node.src[2]->src[0];
  act.c = view(c.out), act.x = view(c.src[0]->out), act.o = view(node.out);
  act.unit_query = view(node.src[0]->out), act.key = view(node.src[1]->out);
  act.log_decay = view(node.src[3]->out), act.beta = view(node.src[4]->out);
}

// Descriptors from the few small arrays: the projections stay with the engine.
Mamba<float> descriptor(const engine::MambaLayer& layer) {
  return Mamba<float>::for_engine({weight(layer.ssm_a, channels), {}, weight(layer.D, 1), weight(layer.convolution.weight, channels), {}});
}
Rwkv7<float> descriptor(const engine::Rwkv7Layer& layer) {
  return Rwkv7<float>::for_engine({weight(layer.r_k, heads), weight(layer.ln_weight, 1), weight(layer.ln_bias, 1)});
}
Griffin<float> descriptor(const engine::GriffinLayer& layer) {
  return Griffin<float>::for_engine({weight(layer.convolution.weight, channels), {}, weight(layer.rate, 1), {}});
}
GatedDeltaNet<float> descriptor(const engine::DeltaLayer& layer) {
  GatedDeltaNet<float>::EngineWeights small;
  small.value_heads = heads, small.key_size = key;
  small.o_norm_weight = weight(layer.norm, 1), small.v_conv1d_weight = weight(layer.v_conv.weight, channels);
  GatedDeltaNet<float>::Options options;
  options.norm_eps = 1e-6;
  return GatedDeltaNet<float>::for_engine(small, options);
}

/// Processor time of all threads of the process, in milliseconds: other programs do not count.
double used() { return 1000.0 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

/// Decodes with one layer three times: without a callback, with one that is asked for nothing, and with the newest row of every channel and
/// the newest row of the map over tokens after each token. Returns how far A x + b is from the engine's y.
template <class EngineLayer>
double decode(const char* name, engine::Pool& pool) {
  const EngineLayer fresh;
  std::vector<engine::Numbers> inputs;
  for (Index t = 0; t < tokens; ++t) inputs.push_back(engine::filled(width, 1));
  const auto run = [&](engine::Graph& graph, EngineLayer layer, const auto& behind_token) {
    const double begin = used();
    for (Index t = 0; t < tokens; ++t) {
      const engine::Numbers y = layer.step(graph, inputs[static_cast<std::size_t>(t)]);
      behind_token(t, y);
      graph.clear();
    }
    return used() - begin;
  };
  engine::Graph graph;
  bool wanted = false;
  double alone = 1e300, unasked = 1e300;
  for (int repeat = 0; repeat < 5; ++repeat) {
    graph.callback = nullptr;
    alone = std::min(alone, run(graph, fresh, [](Index, const engine::Numbers&) {}));
    graph.callback = [&](const Node&) {
      if (!wanted) return;
    };
    unasked = std::min(unasked, run(graph, fresh, [](Index, const engine::Numbers&) {}));
  }

  const auto layer = descriptor(fresh);
  const Executor executor = [&](Index count, const std::function<void(Index)>& body) { pool.parallel_for(count, body); };
  StreamingAttention<float> stream;
  typename decltype(descriptor(fresh))::Activations act;
  engine::Numbers rows(static_cast<std::size_t>(channels * tokens)), map(static_cast<std::size_t>(tokens));  // the engine's memory
  Matrix<float> y(tokens, channels);
  graph.callback = [&](const Node& node) { collect(node, act); };
  const double whole = run(graph, fresh, [&](Index t, const engine::Numbers& out) {
    if constexpr (requires { act.starts; }) act.starts = t == 0 ? std::vector<Index>{0} : std::vector<Index>{};
    Array<float> x = act.x;
    if constexpr (requires { layer.linear_input(act); }) x = layer.linear_input(act);
    stream.append(layer.lower(act), x);
    act = {};
    stream.newest_row_into(View<float>(rows.data(), channels, stream.tokens()), executor);
    stream.newest_map_row_into(View<float>(map.data(), 1, stream.tokens()), ReductionKind::mean_abs, {}, true, executor);
    y.row(t) = view(out).matrix();
  });

  const ImplicitAttention<float> attention = stream.attention();
  Matrix<float> again = attention.apply(*stream.input(), executor) + attention.bias(executor);
  if (attention.has_second()) again += attention.second().apply(*attention.second_input(), executor);
  const double error = static_cast<double>((again - y).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() / y.cwiseAbs().maxCoeff());
  Index most = 0;
  Eigen::Map<const RowVector<float>>(map.data(), tokens).maxCoeff(&most);
  std::printf(
      "%-14s %6.1f ms; asked for nothing %+.1f %%; with rows and map %6.1f ms, %2.0f %% of it for the library; token %d looks most at %d\n",
      name, alone, 100 * (unasked / alone - 1), whole, 100 * (1 - alone / whole), static_cast<int>(tokens - 1), static_cast<int>(most));
  return error;
}

}  // namespace hook

constexpr const char* help = R"(Decodes 192 tokens with one layer each of Mamba, RWKV-7, Griffin and Gated DeltaNet in a small engine, and
takes the newest row of every channel and of the map over tokens after each token. Says what share of the processor's time that takes, and
how far A x + b is from the engine's y. There are no arguments.

Example:
  engine_hook

Exit status: 0; 1 if A x + b differs from y; 2 for any other error.
)";

/// The engine's way to fail: it has its own log, and is built without exceptions.
[[noreturn]] void fail(implicit_attention::ErrorKind, const char* what) {
  std::fprintf(stderr, "engine: %s\n", what);
  std::exit(2);
}

int main(int argument_count, char** arguments) try {
  if (const auto status = implicit_attention::examples::status_of_arguments(argument_count, arguments, help)) return *status;
  implicit_attention::set_error_handler(fail);
  engine::Pool pool(1);
  std::printf("%d tokens of one layer, %d channels; processor time of all threads\n", static_cast<int>(engine::tokens),
              static_cast<int>(engine::channels));
  double worst = 0;
  for (const double error : {hook::decode<engine::MambaLayer>("Mamba", pool), hook::decode<engine::Rwkv7Layer>("RWKV-7", pool),
                             hook::decode<engine::GriffinLayer>("Griffin", pool), hook::decode<engine::DeltaLayer>("Gated DeltaNet", pool)})
    if (!(error <= worst)) worst = error;  // a NaN stays
  std::printf("%ld loops on the engine's threads\n", pool.loops());
  std::printf("A x + b differs from the engine's y by %.1e of its largest number\n", worst);
  return worst < 1e-5 ? 0 : 1;
} catch (const std::exception& error) {  // the library's go to `fail`
  std::fprintf(stderr, "engine: no memory or no thread: %s\n", error.what());
  return 2;
}
