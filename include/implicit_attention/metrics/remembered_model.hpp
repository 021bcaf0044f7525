// The name that metrics/cached_model.hpp had in 0.1; for one release.
#pragma once

#include <implicit_attention/metrics/cached_model.hpp>
