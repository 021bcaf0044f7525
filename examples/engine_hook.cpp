// How an inference engine hands over what it has computed anyway, while it decodes token by token. The engine below is a small one whose
// graph is made of operations, with its own buffers, its own threads, its own way to fail, and a callback that sees every operation behind
// its evaluation, as large engines have it. The library looks into its memory, starts no thread, and throws nothing at it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/streaming/streaming_attention.hpp>

namespace engine {

using Index = std::ptrdiff_t;
using Numbers = std::vector<float>;
constexpr Index tokens = 192, width = 192, channels = 256, state = 16, heads = 4, key = channels / heads, rank = 8, taps = 4;

/// The engine's threads: they wait for loops as long as it runs.
class Pool {
 public:
  explicit Pool(int helpers) {
    for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { wait_for_loops(); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    begun_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  void parallel_for(Index count, const std::function<void(Index)>& body) {
    {
      const std::lock_guard lock(mutex_);
      body_ = &body, next_ = 0, count_ = left_ = count, ++loops_;
    }
    begun_.notify_all();
    take_part();
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return left_ == 0; });
  }
  [[nodiscard]] long loops() const { return loops_; }

 private:
  void take_part() {
    std::unique_lock lock(mutex_);
    while (next_ < count_) {
      const Index i = next_++;
      const auto* body = body_;
      lock.unlock();
      (*body)(i);
      lock.lock();
      if (--left_ == 0) ended_.notify_all();
    }
  }
  void wait_for_loops() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      begun_.wait(lock, [&] { return stop_ || next_ < count_; });
      lock.unlock();
      take_part();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable begun_, ended_;
  const std::function<void(Index)>* body_ = nullptr;
  Index next_ = 0, count_ = 0, left_ = 0;
  long loops_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

/// One operation of the graph: what it is, what it read, in the order of its kind, and what it gave.
struct Node {
  std::string_view op, name;
  std::vector<const Node*> src;
  Numbers out;
};

/// One token's operations, evaluated as they are added.
class Graph {
 public:
  std::function<void(const Node&)> callback;  ///< sees every operation behind its evaluation
  const Node& add(std::string_view op, std::string_view name, std::vector<const Node*> src, Numbers out) {
    const Node& node = nodes_.emplace_back(Node{op, name, std::move(src), std::move(out)});
    if (callback) callback(node);
    return node;
  }
  void clear() { nodes_.clear(); }

 private:
  std::deque<Node> nodes_;
};

std::mt19937 random_engine(2026);
Numbers filled(Index count, float spread, float mean = 0) {
  std::normal_distribution<float> normal(mean, spread);
  Numbers numbers(static_cast<std::size_t>(count));
  for (float& number : numbers) number = normal(random_engine);
  return numbers;
}
float sigmoid(float v) { return 1 / (1 + std::exp(-v)); }
float silu(float v) { return v * sigmoid(v); }
float softplus(float v) { return std::log1p(std::exp(v)); }
std::size_t at(Index i) { return static_cast<std::size_t>(i); }

Numbers matrix_vector(const Numbers& weight, const Numbers& in) {
  Numbers out(weight.size() / in.size());
  for (std::size_t o = 0; o < out.size(); ++o)
    for (std::size_t i = 0; i < in.size(); ++i) out[o] += weight[o * in.size() + i] * in[i];
  return out;
}
template <class Function>
Numbers each(const Numbers& a, const Function& function) {
  Numbers out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i] = function(a[i], i);
  return out;
}
Numbers part(const Numbers& a, Index first, Index count) { return {a.begin() + first, a.begin() + first + count}; }

/// A depthwise convolution and the inputs it has kept, oldest first.
struct Convolution {
  Numbers weight = filled(channels * taps, 0.4F), past = Numbers(at(channels * (taps - 1)));
  Numbers operator()(const Numbers& x) {
    past.insert(past.end(), x.begin(), x.end());
    Numbers out(x.size());
    for (Index e = 0; e < channels; ++e)
      for (Index k = 0; k < taps; ++k) out[at(e)] += weight[at(e * taps + k)] * past[at(k * channels + e)];
    past.erase(past.begin(), past.begin() + channels);
    return out;
  }
};

// --- Four layers: the projections stay inside, the recurrences are operations ------------------------------------------------
struct MambaLayer {
  Numbers in = filled(2 * channels * width, 0.1F), select = filled((rank + 2 * state) * channels, 0.1F), dt = filled(channels * rank, 0.3F),
          D = filled(channels, 0.3F, 1), ssm_a = each(filled(channels * state, 0.5F, 1), [](float v, std::size_t) { return -std::exp(v); });
  Convolution convolution;
  Numbers h = Numbers(at(channels * state));

  Numbers step(Graph& graph, const Numbers& u) {
    const Numbers xz = matrix_vector(in, u);
    const Node& x = graph.add("VIEW", "x", {}, part(xz, 0, channels));
    const Node& z = graph.add("VIEW", "z", {}, part(xz, channels, channels));
    const Node& c = graph.add("SSM_CONV", "conv", {&x}, convolution(x.out));
    const Node& a = graph.add("SILU", "conv_silu", {&c}, each(c.out, [](float v, std::size_t) { return silu(v); }));
    const Numbers dbc = matrix_vector(select, a.out);
    const Node& step =
        graph.add("MUL_MAT", "dt", {}, each(matrix_vector(dt, part(dbc, 0, rank)), [](float v, std::size_t) { return v - 3; }));
    const Node& B = graph.add("VIEW", "B", {}, part(dbc, rank, state));
    const Node& C = graph.add("VIEW", "C", {}, part(dbc, rank + state, state));
    Numbers y(at(channels));
    for (Index e = 0; e < channels; ++e)
      for (Index n = 0; n < state; ++n) {
        float& hidden = h[at(e * state + n)];
        const float d = softplus(step.out[at(e)]);
        hidden = std::exp(ssm_a[at(e * state + n)] * d) * hidden + d * B.out[at(n)] * a.out[at(e)];
        y[at(e)] += C.out[at(n)] * hidden;
      }
    const Node& scan = graph.add("SSM_SCAN", "scan", {nullptr, &a, &step, nullptr, &B, &C}, std::move(y));  // state, x, dt, A, B, C
    return graph
        .add("SWIGLU", "y", {&z, &scan}, each(scan.out, [&](float v, std::size_t e) { return (v + D[e] * a.out[e]) * silu(z.out[e]); }))
        .out;
  }
};

struct Rwkv7Layer {
  Numbers r = filled(channels * width, 0.07F), w = r, k = filled(channels * width, 0.07F), v = filled(channels * width, 0.07F),
          eta = filled(channels * width, 0.07F), gate = filled(channels * width, 0.07F), r_k = filled(channels, 0.3F),
          ln_weight = filled(channels, 0.2F, 1), ln_bias = filled(channels, 0.2F);
  Numbers h = Numbers(at(channels * key));  // (heads, value, key)

  Numbers step(Graph& graph, const Numbers& u) {
    const Node& R = graph.add("MUL_MAT", "r", {}, matrix_vector(r, u));
    const Node& W =
        graph.add("EXP", "w", {}, each(matrix_vector(w, u), [](float p, std::size_t) { return std::exp(-0.6065307F * sigmoid(p - 2)); }));
    const Node& K = graph.add("MUL_MAT", "k", {}, matrix_vector(k, u));
    const Node& V = graph.add("MUL_MAT", "v", {}, matrix_vector(v, u));
    const Node& G = graph.add("MUL_MAT", "g", {}, matrix_vector(gate, u));
    const Numbers e = each(matrix_vector(eta, u), [](float p, std::size_t) { return sigmoid(p); });
    Numbers kk = K.out, o(at(channels));
    for (Index head = 0; head < heads; ++head) {
      float length = 0;
      for (Index n = head * key; n < (head + 1) * key; ++n) length += kk[at(n)] * kk[at(n)];
      for (Index n = head * key; n < (head + 1) * key; ++n) kk[at(n)] /= std::sqrt(length);
    }
    const Node& a = graph.add("NEG", "a", {}, each(kk, [](float p, std::size_t) { return -p; }));
    const Node& b = graph.add("MUL", "b", {}, each(kk, [&](float p, std::size_t n) { return p * e[n]; }));
    for (Index c = 0; c < channels; ++c) {
      float* row = h.data() + c * key;
      const Index first = c / key * key;
      float read = 0;
      for (Index n = 0; n < key; ++n) read += a.out[at(first + n)] * row[n];
      for (Index n = 0; n < key; ++n) {
        row[n] = row[n] * W.out[at(first + n)] + V.out[at(c)] * K.out[at(first + n)] + read * b.out[at(first + n)];
        o[at(c)] += row[n] * R.out[at(first + n)];
      }
    }
    const Node& wkv = graph.add("RWKV_WKV7", "wkv", {&R, &W, &K, &V, &a, &b, nullptr}, std::move(o));  // r, w, k, v, a, b, state
    Numbers y(at(channels));
    for (Index head = 0; head < heads; ++head) {
      float mean = 0, square = 0, bonus = 0;
      for (Index n = head * key; n < (head + 1) * key; ++n) {
        mean += wkv.out[at(n)] / key;
        bonus += R.out[at(n)] * K.out[at(n)] * r_k[at(n)];
      }
      for (Index n = head * key; n < (head + 1) * key; ++n) square += (wkv.out[at(n)] - mean) * (wkv.out[at(n)] - mean) / key;
      for (Index n = head * key; n < (head + 1) * key; ++n)
        y[at(n)] = G.out[at(n)] *
                   ((wkv.out[at(n)] - mean) / std::sqrt(square + 64e-5F) * ln_weight[at(n)] + ln_bias[at(n)] + bonus * V.out[at(n)]);
    }
    return graph.add("MUL", "y", {&G, &wkv}, std::move(y)).out;
  }
};

struct GriffinLayer {
  Numbers x_proj = filled(channels * width, 0.1F), y_proj = filled(channels * width, 0.1F), i_proj = filled(channels * channels, 0.05F),
          r_proj = filled(channels * channels, 0.05F),
          rate = each(filled(channels, 1, -3), [](float v, std::size_t) { return -8 * softplus(v); });
  Convolution convolution;
  Numbers h = Numbers(at(channels));
  bool first = true;

  Numbers step(Graph& graph, const Numbers& u) {
    const Node& x = graph.add("MUL_MAT", "x", {}, matrix_vector(x_proj, u));
    const Node& c = graph.add("SSM_CONV", "conv", {&x}, convolution(x.out));
    const Node& i = graph.add("MUL_MAT", "i", {}, matrix_vector(i_proj, c.out));
    const Node& r = graph.add("MUL_MAT", "r", {}, matrix_vector(r_proj, c.out));
    for (std::size_t e = 0; e < h.size(); ++e) {
      const float log_a = rate[e] * sigmoid(r.out[e]), m = first ? 1 : std::sqrt(-std::expm1(2 * log_a));
      h[e] = (first ? 0 : std::exp(log_a)) * h[e] + m * sigmoid(i.out[e]) * c.out[e];
    }
    first = false;
    const Node& lru = graph.add("RG_LRU", "lru", {nullptr, &c, &i, &r}, h);  // state, input, input gate, recurrent gate
    const auto gelu = [](float v, std::size_t) { return v / (1 + std::exp(-1.5957691F * (v + 0.044715F * v * v * v))); };
    const Node& gate = graph.add("GELU", "gate", {}, each(matrix_vector(y_proj, u), gelu));
    return graph.add("MUL", "y", {&gate, &lru}, each(h, [&](float v, std::size_t e) { return v * gate.out[e]; })).out;
  }
};

struct DeltaLayer {
  Numbers q = filled(channels * width, 0.07F), k = filled(channels * width, 0.07F), v = filled(channels * width, 0.07F),
          z = filled(channels * width, 0.07F), b = filled(heads * width, 0.07F), a = filled(heads * width, 0.07F),
          norm = filled(key, 0.2F, 1);
  Convolution q_conv, k_conv, v_conv;
  Numbers h = Numbers(at(channels * key));  // (heads, value, key)

  Numbers step(Graph& graph, const Numbers& u) {
    const auto activated = [](float p, std::size_t) { return silu(p); };
    const auto unit = [&](Numbers numbers) {
      for (Index head = 0; head < heads; ++head) {
        float length = 0;
        for (Index n = head * key; n < (head + 1) * key; ++n) length += numbers[at(n)] * numbers[at(n)];
        for (Index n = head * key; n < (head + 1) * key; ++n) numbers[at(n)] /= std::sqrt(length);
      }
      return numbers;
    };
    const Node& x = graph.add("MUL_MAT", "v_mixed", {}, matrix_vector(v, u));
    const Node& c = graph.add("SSM_CONV", "conv", {&x}, v_conv(x.out));
    const Node& Q = graph.add("L2_NORM", "q", {}, unit(each(q_conv(matrix_vector(q, u)), activated)));
    const Node& K = graph.add("L2_NORM", "k", {}, unit(each(k_conv(matrix_vector(k, u)), activated)));
    const Node& V = graph.add("SILU", "v", {&c}, each(c.out, activated));
    const Node& g = graph.add("MUL", "g", {}, each(matrix_vector(a, u), [](float p, std::size_t) { return -0.3F * softplus(p); }));
    const Node& beta = graph.add("SIGMOID", "beta", {}, each(matrix_vector(b, u), [](float p, std::size_t) { return sigmoid(p); }));
    Numbers o(at(channels));
    for (Index e = 0; e < channels; ++e) {
      float *row = h.data() + e * key, read = 0;
      const Index head = e / key, first = head * key;
      for (Index n = 0; n < key; ++n) read += K.out[at(first + n)] * (row[n] *= std::exp(g.out[at(head)]));
      for (Index n = 0; n < key; ++n) {
        row[n] += K.out[at(first + n)] * beta.out[at(head)] * (V.out[at(e)] - read);
        o[at(e)] += row[n] * Q.out[at(first + n)] / std::sqrt(static_cast<float>(key));
      }
    }
    const Node& delta = graph.add("GATED_DELTA_NET", "delta", {&Q, &K, &V, &g, &beta, nullptr}, std::move(o));  // q, k, v, g, beta, state
    const Node& Z = graph.add("MUL_MAT", "z", {}, matrix_vector(z, u));
    Numbers y(at(channels));
    for (Index e = 0; e < channels; ++e) {
      float square = 0;
      for (Index n = e / key * key; n < (e / key + 1) * key; ++n) square += delta.out[at(n)] * delta.out[at(n)] / key;
      y[at(e)] = delta.out[at(e)] / std::sqrt(square + 1e-6F) * norm[at(e % key)] * silu(Z.out[at(e)]);
    }
    return graph.add("MUL", "y", {&Z, &delta}, std::move(y)).out;
  }
};

/// The engine's way to fail: it has its own log, and is built without exceptions.
[[noreturn]] void fail(implicit_attention::ErrorKind, const char* what) {
  std::fprintf(stderr, "engine: %s\n", what);
  std::exit(2);
}

}  // namespace engine

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

using Clock = std::chrono::steady_clock;
double milliseconds(Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

/// Decodes with one layer three times: without a callback, with one that is asked for nothing, and with the newest row of every channel and
/// the newest row of the map over tokens after each token. Returns how far A x + b is from the engine's y.
template <class EngineLayer>
double decode(const char* name, engine::Pool& pool) {
  const EngineLayer fresh;
  std::vector<engine::Numbers> inputs;
  for (Index t = 0; t < tokens; ++t) inputs.push_back(engine::filled(width, 1));
  const auto run = [&](engine::Graph& graph, EngineLayer layer, const auto& behind_token) {
    const Clock::time_point begin = Clock::now();
    for (Index t = 0; t < tokens; ++t) {
      const engine::Numbers y = layer.step(graph, inputs[static_cast<std::size_t>(t)]);
      behind_token(t, y);
      graph.clear();
    }
    return milliseconds(Clock::now() - begin);
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
  Clock::duration spent{};
  graph.callback = [&](const Node& node) {
    const Clock::time_point begin = Clock::now();
    collect(node, act);
    spent += Clock::now() - begin;
  };
  const double whole = run(graph, fresh, [&](Index t, const engine::Numbers& out) {
    const Clock::time_point begin = Clock::now();
    if constexpr (requires { act.starts; }) act.starts = t == 0 ? std::vector<Index>{0} : std::vector<Index>{};
    Array<float> x = act.x;
    if constexpr (requires { layer.linear_input(act); }) x = layer.linear_input(act);
    stream.append(layer.lower(act), x);
    act = {};
    stream.newest_row_into(View<float>(rows.data(), channels, stream.tokens()), executor);
    stream.newest_map_row_into(View<float>(map.data(), 1, stream.tokens()), ReductionKind::mean_abs, {}, true, executor);
    spent += Clock::now() - begin;
    y.row(t) = view(out).matrix();
  });

  const ImplicitAttention<float> attention = stream.attention();
  Matrix<float> again = attention.apply(*stream.input(), executor) + attention.bias(executor);
  if (attention.has_second()) again += attention.second().apply(*attention.second_input(), executor);
  const double error = static_cast<double>((again - y).cwiseAbs().maxCoeff() / y.cwiseAbs().maxCoeff());
  Index most = 0;
  Eigen::Map<const RowVector<float>>(map.data(), tokens).maxCoeff(&most);
  std::printf(
      "%-14s %6.1f ms; asked for nothing %+.1f %%; with rows and map %6.1f ms, %2.0f %% of it in the library; token %d looks most at %d\n",
      name, alone, 100 * (unasked / alone - 1), whole, 100 * milliseconds(spent) / whole, static_cast<int>(tokens - 1),
      static_cast<int>(most));
  return error;
}

}  // namespace hook

int main() {
  implicit_attention::set_error_handler(engine::fail);
  engine::Pool pool(1);
  std::printf("%d tokens of one layer, %d channels\n", static_cast<int>(engine::tokens), static_cast<int>(engine::channels));
  double worst = hook::decode<engine::MambaLayer>("Mamba", pool);
  worst = std::max(worst, hook::decode<engine::Rwkv7Layer>("RWKV-7", pool));
  worst = std::max(worst, hook::decode<engine::GriffinLayer>("Griffin", pool));
  worst = std::max(worst, hook::decode<engine::DeltaLayer>("Gated DeltaNet", pool));
  std::printf("%ld loops on the engine's threads\n", pool.loops());
  std::printf("A x + b differs from the engine's y by %.1e of its largest number\n", worst);
  return worst < 1e-5 ? 0 : 1;
}
