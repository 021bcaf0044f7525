// The program of the README: one layer of a trained model, its attention, and the proof that nothing was left out.
// Run it from the repository's folder.
#include <cstdio>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/layers/mamba.hpp>

int main() try {
  using namespace implicit_attention;
  const SafetensorsSource<double> weights("examples/models/mamba");
  const auto layer = Mamba<double>::from_tensors(PrefixedTensors<double>(weights, "backbone.layers.0.mixer."));
  const Matrix<double> u = Matrix<double>::Random(12, layer.width());  // 12 tokens enter the layer

  const auto result = layer.materialize_attention(u);  // attention (channels, tokens, tokens), bias, x, y
  const Matrix<double> y = result.attention.channel(0) * result.x.matrix().col(0) + result.bias.col(0);
  std::printf("token 11 sees token 9 with weight %.4f in channel 0\n", result.attention(0, 11, 9));
  std::printf("A x + b differs from the layer's output y by %.1e\n", (y - result.y.matrix().col(0)).cwiseAbs().maxCoeff());
} catch (const std::exception& error) {  // the model is not there, or no memory
  std::fprintf(stderr, "minimal: %s\n", error.what());
  return 2;
}
