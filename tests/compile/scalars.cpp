// What everything is computed in: float and double. Half and bfloat16 are storage, integers are a mistake.
// refused 1: Real
// refused 2: Real
// refused 3: Real
#include <implicit_attention/core/numerics.hpp>

namespace ia = implicit_attention;

static_assert(ia::Real<float> && ia::Real<double>);
static_assert(!ia::Real<int> && !ia::Real<long double> && !ia::Real<Eigen::half> && !ia::Real<Eigen::bfloat16> && !ia::Real<const float>);
static_assert(bool(ia::Matrix<float>::IsRowMajor));
static_assert(bool(ia::RowVector<double>::IsRowMajor));

double calls() {
#if REFUSED == 1
  return ia::sigmoid(1);
#elif REFUSED == 2
  return static_cast<double>(ia::softplus(Eigen::half(1.0F)));
#elif REFUSED == 3
  return static_cast<double>(ia::silu(1.0L));
#else
  return ia::sigmoid(1.0) + static_cast<double>(ia::softplus(1.0F));
#endif
}
