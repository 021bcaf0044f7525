// Calls across two translation units with one of the library's types in the signature.
#include <implicit_attention/core/types.hpp>

float sum_of(const implicit_attention::ConstView<float>& numbers);

int main() {
  const implicit_attention::Matrix<float> numbers = implicit_attention::Matrix<float>::Ones(2, 3);
  return sum_of(numbers) > 5.0F ? 0 : 1;
}
