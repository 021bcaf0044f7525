// The header that LocalAttention had when it was Griffin's alone; for one release. Use layers/softmax_attention.hpp.
#pragma once

#include <implicit_attention/layers/softmax_attention.hpp>
