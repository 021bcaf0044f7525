// The name that layers/softmax_attention.hpp had in 0.1; for one release.
#pragma once

#include <implicit_attention/layers/softmax_attention.hpp>
