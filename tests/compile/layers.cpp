// What a layer descriptor is, and what its calls take and refuse.
// refused 1: LayerDescriptor
// refused 2: Real
// refused 3: the matrix has another scalar type than the layer (no silent conversion
// refused 4: pass a row-major matrix in memory, (tokens, channels); a column-major matrix or an expression is not copied in silence
#include <implicit_attention/instantiations/layers.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv4.hpp>

namespace ia = implicit_attention;

static_assert(ia::LayerDescriptor<ia::Mamba<float>> && ia::LayerDescriptor<ia::Mamba<double>>);
static_assert(ia::LayerDescriptor<ia::Rwkv4<float>> && ia::LayerDescriptor<ia::Rwkv4<double>>);
static_assert(ia::LayerDescriptor<ia::Griffin<float>> && ia::LayerDescriptor<ia::Griffin<double>>);
static_assert(!ia::LayerDescriptor<int> && !ia::LayerDescriptor<ia::Matrix<float>>);

// Everything that a descriptor has, but for lower().
struct NotYetALayer {
  using Scalar = float;
  struct Activations {
    ia::Array<float> x, y, out;
  };
  ia::Index width() const { return 1; }
  ia::Index channels() const { return 1; }
  Activations activations(ia::ConstView<float>) const { return {}; }
};
static_assert(!ia::LayerDescriptor<NotYetALayer>);

#if REFUSED == 1
auto refused(const NotYetALayer& layer, const NotYetALayer::Activations& activations) {
  return ia::implicit_attention_of(layer, activations);
}
#elif REFUSED == 2
using Refused = ia::Mamba<Eigen::half>;
#elif REFUSED == 3
auto refused(const ia::Mamba<float>& layer, const ia::Matrix<double>& wide) { return layer.activations(wide); }
#elif REFUSED == 4
auto refused(const ia::Rwkv4<float>& layer, const Eigen::MatrixXf& columns) { return layer.activations(columns); }
#endif
