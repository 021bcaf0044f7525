// How an inference engine hands over what it has computed anyway. The engine below is a small one in plain loops, with its own buffers,
// its own threads and its own way to fail; the library looks into its memory, copies nothing, starts no thread, and throws nothing at it.
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include <implicit_attention/layers/mamba.hpp>

namespace engine {

constexpr std::ptrdiff_t tokens = 96, width = 32, channels = 64, state = 8, rank = 2, taps = 4, selected = rank + 2 * state;

/// The engine's threads, started for a loop and joined after it.
class Threads {
 public:
  explicit Threads(unsigned count) : count_(count) {}
  void parallel_for(std::ptrdiff_t begin, std::ptrdiff_t end, const std::function<void(std::ptrdiff_t)>& body) {
    std::atomic<std::ptrdiff_t> next{begin};
    const auto work = [&] {
      for (std::ptrdiff_t i = next++; i < end; i = next++) body(i);
    };
    std::vector<std::thread> helpers;
    for (unsigned k = 1; k < count_; ++k) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
    loops_ += 1;
  }
  [[nodiscard]] int loops() const { return loops_; }

 private:
  unsigned count_;
  int loops_ = 0;
};

/// Row-major buffers, as engines have them.
struct Buffers {
  std::vector<float> in_proj, conv, conv_bias, x_proj, dt_proj, dt_bias, A_log, D, out_proj;  // weights
  std::vector<float> xz;     // (tokens, 2 channels): x in the left half of each row, the gate in the right
  std::vector<float> c, a;   // (tokens, channels)
  std::vector<float> d_B_C;  // (tokens, rank + 2 state): three things side by side
  std::vector<float> dt, y;  // (tokens, channels)
};

float silu(float v) { return v / (1 + std::exp(-v)); }

/// out (rows, outputs) = in (rows, inputs; a row every `stride`) times weight^T (outputs, inputs)
void linear(const float* in, std::ptrdiff_t stride, std::ptrdiff_t inputs, const std::vector<float>& weight, std::ptrdiff_t outputs,
            std::vector<float>& out) {
  out.resize(static_cast<std::size_t>(tokens * outputs));
  for (std::ptrdiff_t t = 0; t < tokens; ++t)
    for (std::ptrdiff_t o = 0; o < outputs; ++o) {
      float sum = 0;
      for (std::ptrdiff_t i = 0; i < inputs; ++i) sum += in[t * stride + i] * weight[static_cast<std::size_t>(o * inputs + i)];
      out[static_cast<std::size_t>(t * outputs + o)] = sum;
    }
}

/// A Mamba layer run token by token, as at inference time.
Buffers run() {
  std::mt19937 random(2024);
  const auto fill = [&](std::ptrdiff_t count, double spread, double mean = 0.0) {
    std::normal_distribution<float> normal(static_cast<float>(mean), static_cast<float>(spread));
    std::vector<float> numbers(static_cast<std::size_t>(count));
    for (float& number : numbers) number = normal(random);
    return numbers;
  };
  Buffers b;
  b.in_proj = fill(2 * channels * width, 0.2);
  b.conv = fill(channels * taps, 0.5);
  b.conv_bias = fill(channels, 0.2);
  b.x_proj = fill(selected * channels, 0.2);
  b.dt_proj = fill(channels * rank, 0.5);
  b.dt_bias = fill(channels, 1, -2);
  b.A_log = fill(channels * state, 0.5, 1);
  b.D = fill(channels, 0.3, 1);
  b.out_proj = fill(width * channels, 0.1);
  const std::vector<float> u = fill(tokens * width, 1);

  linear(u.data(), width, width, b.in_proj, 2 * channels, b.xz);
  b.c.resize(static_cast<std::size_t>(tokens * channels));
  b.a = b.y = b.c;
  for (std::ptrdiff_t t = 0; t < tokens; ++t)
    for (std::ptrdiff_t e = 0; e < channels; ++e) {
      float sum = b.conv_bias[static_cast<std::size_t>(e)];
      for (std::ptrdiff_t k = 0; k < taps; ++k)
        if (const std::ptrdiff_t from = t - taps + 1 + k; from >= 0)
          sum += b.conv[static_cast<std::size_t>(e * taps + k)] * b.xz[static_cast<std::size_t>(from * 2 * channels + e)];
      b.c[static_cast<std::size_t>(t * channels + e)] = sum;
      b.a[static_cast<std::size_t>(t * channels + e)] = silu(sum);
    }
  linear(b.a.data(), channels, channels, b.x_proj, selected, b.d_B_C);
  linear(b.d_B_C.data(), selected, rank, b.dt_proj, channels, b.dt);
  for (std::ptrdiff_t t = 0; t < tokens; ++t)
    for (std::ptrdiff_t e = 0; e < channels; ++e) {
      float& dt = b.dt[static_cast<std::size_t>(t * channels + e)];
      dt = std::log1p(std::exp(dt + b.dt_bias[static_cast<std::size_t>(e)]));
    }
  std::vector<float> h(static_cast<std::size_t>(channels * state), 0.0F);
  for (std::ptrdiff_t t = 0; t < tokens; ++t)
    for (std::ptrdiff_t e = 0; e < channels; ++e) {
      const auto at = static_cast<std::size_t>(t * channels + e);
      float sum = b.D[static_cast<std::size_t>(e)] * b.a[at];
      for (std::ptrdiff_t n = 0; n < state; ++n) {
        const auto B = static_cast<std::size_t>(t * selected + rank + n), C = B + static_cast<std::size_t>(state);
        float& hidden = h[static_cast<std::size_t>(e * state + n)];
        const float rate = -std::exp(b.A_log[static_cast<std::size_t>(e * state + n)]);
        hidden = std::exp(rate * b.dt[at]) * hidden + b.dt[at] * b.d_B_C[B] * b.a[at];
        sum += b.d_B_C[C] * hidden;
      }
      b.y[at] = sum * silu(b.xz[static_cast<std::size_t>(t * 2 * channels + channels + e)]);
    }
  return b;
}

/// The engine's way to fail: it has its own log, and is built without exceptions.
[[noreturn]] void fail(implicit_attention::ErrorKind, const char* what) {
  std::fprintf(stderr, "engine: %s\n", what);
  std::exit(2);
}

}  // namespace engine

int main() {
  using namespace implicit_attention;
  using engine::channels, engine::rank, engine::selected, engine::state, engine::taps, engine::tokens, engine::width;
  set_error_handler(engine::fail);
  engine::Threads threads(2);
  const Executor executor = [&](Index count, const std::function<void(Index)>& body) { threads.parallel_for(0, count, body); };

  const engine::Buffers buffers = engine::run();

  // Views: where the numbers are, how many, and how far apart the rows stand. The engine keeps them alive.
  const auto view = [](const float* data, Index rows, Index columns, Index row_stride) {
    return Array<float>::view(ConstView<float>(data, rows, columns, row_stride));
  };
  Mamba<float>::Weights weights;
  weights.in_proj_weight = view(buffers.in_proj.data(), 2 * channels, width, width);
  weights.conv1d_weight = view(buffers.conv.data(), channels, taps, taps);
  weights.conv1d_bias = view(buffers.conv_bias.data(), 1, channels, channels);
  weights.x_proj_weight = view(buffers.x_proj.data(), selected, channels, channels);
  weights.dt_proj_weight = view(buffers.dt_proj.data(), channels, rank, rank);
  weights.dt_proj_bias = view(buffers.dt_bias.data(), 1, channels, channels);
  weights.A_log = view(buffers.A_log.data(), channels, state, state);
  weights.D = view(buffers.D.data(), 1, channels, channels);
  weights.out_proj_weight = view(buffers.out_proj.data(), width, channels, channels);
  const Mamba<float> layer(weights);

  Mamba<float>::Activations activations;
  activations.z = view(buffers.xz.data() + channels, tokens, channels, 2 * channels);  // the right half of each row
  activations.c = view(buffers.c.data(), tokens, channels, channels);
  activations.dt = view(buffers.dt.data(), tokens, channels, channels);
  activations.B = view(buffers.d_B_C.data() + rank, tokens, state, selected);
  activations.C = view(buffers.d_B_C.data() + rank + state, tokens, state, selected);
  const ImplicitAttention<float> attention = layer.implicit_attention(activations);

  // Into the engine's memory: the last token's row of every channel, one below the other.
  std::vector<float> rows(static_cast<std::size_t>(channels * tokens));
  Selection selection;
  selection.rows = Indices::last();
  selection.executor = executor;
  attention.materialize_into(View<float>(rows.data(), channels, tokens), selection);

  // The engine's own output again, from the attention: in linear time, without the matrices.
  const ConstView<float> x(buffers.xz.data(), tokens, channels, 2 * channels), y(buffers.y.data(), tokens, channels);
  const Matrix<float> again = attention.apply(x, executor) + attention.bias(executor);
  std::printf("%d tokens, %d channels, views of the engine's buffers, %d loops on its threads\n", static_cast<int>(tokens),
              static_cast<int>(channels), threads.loops());
  const Eigen::Map<const Matrix<float>> last(rows.data(), channels, tokens);
  Index most = 0;
  last.cwiseAbs().colwise().mean().maxCoeff(&most);
  std::printf("token %d looks most at token %d\n", static_cast<int>(tokens - 1), static_cast<int>(most));
  const double error = static_cast<double>((again - y).cwiseAbs().maxCoeff() / y.cwiseAbs().maxCoeff());
  std::printf("A x + b differs from the engine's y by %.1e of its largest number\n", error);
  return error < 1e-5 ? 0 : 1;
}
