// An engine with quantised weights hands over what it still has in plain numbers: buffers in float or bfloat16, gates before or after their
// activation, and of the weights the few small arrays. No projection, no copy of a float buffer, no exception (-fno-exceptions -fno-rtti).
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include <implicit_attention/core/strided_numbers.hpp>
#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv7.hpp>

#include "support/no_arguments.hpp"

namespace {
using namespace implicit_attention;
constexpr Index tokens = 12, channels = 8, state = 4, heads = 2, taps = 4;

/// Stands for the engine's memory: numbers between two bounds, stored as the engine stores them.
class Memory {
 public:
  explicit Memory(Dtype dtype) : dtype_(dtype) {}
  Array<float> operator()(Index rows, Index columns, float from, float to) {
    std::vector<std::uint32_t>& words = words_.emplace_back();
    std::vector<std::uint16_t>& halves = halves_.emplace_back();
    for (Index i = 0; i < rows * columns; ++i) {
      seed_ = seed_ * 6364136223846793005U + 1442695040888963407U;
      words.push_back(std::bit_cast<std::uint32_t>(from + (to - from) * static_cast<float>(seed_ >> 40U) * 0x1p-24F));
      halves.push_back(static_cast<std::uint16_t>((words.back() + 0x8000U) >> 16U));
    }
    const void* data = dtype_ == Dtype::F32 ? static_cast<const void*>(words.data()) : halves.data();
    return array_of<float>("a buffer", {dtype_, data, rows, columns});  // float: where it lies; bfloat16: widened
  }

 private:
  Dtype dtype_;
  std::uint64_t seed_ = 1;
  std::deque<std::vector<std::uint32_t>> words_;
  std::deque<std::vector<std::uint16_t>> halves_;
};

/// Who the last token looks at: the mean over channels of the absolute values of its row.
template <class Layer>
Matrix<float> last_row(const Layer& layer, const typename Layer::Activations& activations) {
  Selection last;
  last.rows = Indices::last();
  return layer.implicit_attention(activations).reduce({ReductionKind::mean_abs, {}, {}}, last);
}

Matrix<float> mamba(Memory memory) {
  const auto layer = Mamba<float>::for_engine(
      {memory(channels, state, -4, -0.1F), {}, memory(1, channels, 0, 1), memory(channels, taps, -1, 1), memory(1, channels, -1, 1)});
  Mamba<float>::Activations act;
  act.pre_dt = memory(tokens, channels, -4, 0);  // before softplus, as ggml's SSM_SCAN reads it
  act.B = memory(tokens, state, -1, 1);
  act.C = memory(tokens, state, -1, 1);
  act.z = memory(tokens, channels, -2, 2);  // before SiLU; `gate` after it
  act.c = memory(tokens, channels, -2, 2);  // after the convolution; or `x` before it
  return last_row(layer, act);
}

Matrix<float> rwkv7(Memory memory) {
  const auto layer = Rwkv7<float>::for_engine({memory(heads, state, -1, 1), memory(1, channels, 0.5F, 1), memory(1, channels, -1, 1)});
  Rwkv7<float>::Activations act;
  for (auto array : {&Rwkv7<float>::Activations::receptance, &Rwkv7<float>::Activations::key})
    act.*array = memory(tokens, heads * state, -1, 1);
  act.decay = memory(tokens, heads * state, 0.6F, 0.99F);  // w; or `log_decay`
  act.removal = memory(tokens, heads * state, 0, 0.4F);
  act.probe = memory(tokens, heads * state, -0.5F, 0);
  for (auto array : {&Rwkv7<float>::Activations::value, &Rwkv7<float>::Activations::gate, &Rwkv7<float>::Activations::pre_norm})
    act.*array = memory(tokens, channels, -1, 1);
  return last_row(layer, act);
}

Matrix<float> griffin(Memory memory) {
  const auto layer =
      Griffin<float>::for_engine({memory(channels, taps, -1, 1), memory(1, channels, -1, 1), memory(1, channels, -2, -0.1F), {}});
  Griffin<float>::Activations act;
  act.starts = {0};
  act.recurrent_gate = memory(tokens, channels, 0, 1);  // with the rates; or `log_a`
  act.pre_input_gate = memory(tokens, channels, -2, 2);
  act.gate = memory(tokens, channels, -0.2F, 2);  // after GELU; or `gate_input`
  return last_row(layer, act);
}

Matrix<float> gated_delta_net(Memory memory) {
  GatedDeltaNet<float>::EngineWeights small;
  small.value_heads = heads;
  small.key_size = state;
  small.o_norm_weight = memory(1, channels / heads, 0.5F, 1);
  small.v_conv1d_weight = memory(channels, taps, -1, 1);
  GatedDeltaNet<float>::Activations act;
  act.pre_query = memory(tokens, heads * state, -1, 1);  // before its length is divided by; or `unit_query`, `query`
  act.pre_key = memory(tokens, heads * state, -1, 1);
  act.pre_beta = memory(tokens, heads, -2, 2);
  act.log_decay = memory(tokens, heads, -0.5F, 0);
  for (auto array : {&GatedDeltaNet<float>::Activations::o, &GatedDeltaNet<float>::Activations::z, &GatedDeltaNet<float>::Activations::c})
    act.*array = memory(tokens, channels, -1, 1);
  return last_row(GatedDeltaNet<float>::for_engine(small), act);
}

constexpr const char* help =
    R"(Says which token the last of 12 looks at in a layer each of Mamba, RWKV-7, Griffin and Gated DeltaNet, from what an
engine with quantised weights still holds of it, in float buffers and in bfloat16. There are no arguments.

Example:
  quantised_engine

Exit status: 0; 1 if the rows from bfloat16 differ by more than its digits; 2 for any other error.
)";

[[noreturn]] void fail(ErrorKind, const char* what) {
  std::fprintf(stderr, "engine: %s\n", what);
  std::exit(2);
}
}  // namespace

int main(int argument_count, char** arguments) {
  if (const auto status = examples::status_of_arguments(argument_count, arguments, help)) return *status;
  set_error_handler(fail);
  const struct {
    const char* name;
    Matrix<float> (*run)(Memory);
  } layers[] = {{"Mamba", mamba}, {"RWKV-7", rwkv7}, {"Griffin", griffin}, {"Gated DeltaNet", gated_delta_net}};
  float worst = 0;
  for (const auto& layer : layers) {
    const Matrix<float> row = layer.run(Memory(Dtype::F32)), narrow = layer.run(Memory(Dtype::BF16));
    Index most = 0;
    row.row(0).maxCoeff(&most);
    const float difference = (row - narrow).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() / row.maxCoeff();
    if (!(difference <= worst)) worst = difference;  // a NaN stays
    std::printf("%-14s token %d looks most at token %d; from bfloat16 buffers the row differs by %.1e\n", layer.name,
                static_cast<int>(tokens - 1), static_cast<int>(most), static_cast<double>(difference));
  }
  return worst < 0.05F ? 0 : 1;  // bfloat16 has 8 bits
}
