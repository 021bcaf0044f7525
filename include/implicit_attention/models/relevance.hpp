// The name that models/backward.hpp had in 0.1; for one release.
#pragma once

#include <implicit_attention/models/backward.hpp>
