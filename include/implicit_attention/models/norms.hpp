// The name that trace/norms.hpp had in 0.1; for one release.
#pragma once

#include <implicit_attention/trace/norms.hpp>
