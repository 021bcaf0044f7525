// The name that core/random_numbers.hpp had in 0.1; for one release.
#pragma once

#include <implicit_attention/core/random_numbers.hpp>
