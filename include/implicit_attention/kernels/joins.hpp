// The name that kernels/reducers.hpp had in 0.1; for one release.
#pragma once

#include <implicit_attention/kernels/reducers.hpp>
