// A small inference engine in plain loops, which knows nothing of the library: one layer of Mamba, RWKV-7, Griffin or Gated DeltaNet
// decodes token by token. Its graph is made of operations, whose sources stand in the order that ggml gives them
// (docs/hooking-an-engine.md).
#pragma once

#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

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

inline Numbers filled(Index count, float spread, float mean = 0) {
  static std::mt19937 random(2026);
  std::normal_distribution<float> normal(mean, spread);
  Numbers numbers(static_cast<std::size_t>(count));
  for (float& number : numbers) number = normal(random);
  return numbers;
}
inline float sigmoid(float v) { return 1 / (1 + std::exp(-v)); }
inline float silu(float v) { return v * sigmoid(v); }
inline float softplus(float v) { return std::log1p(std::exp(v)); }
inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

inline Numbers matrix_vector(const Numbers& weight, const Numbers& in) {
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
inline Numbers part(const Numbers& a, Index first, Index count) { return {a.begin() + first, a.begin() + first + count}; }

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

}  // namespace engine
