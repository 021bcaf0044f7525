// The one place where the kernels are compiled.
#define IMPLICIT_ATTENTION_INSTANTIATE
#include <implicit_attention/instantiations.hpp>
