// The other half of caller.cpp.
#include <implicit_attention/core/types.hpp>

float sum_of(const implicit_attention::ConstView<float>& numbers) { return numbers.sum(); }
