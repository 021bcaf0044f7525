// All metrics.
#pragma once

#include <implicit_attention/metrics/agreement.hpp>
#include <implicit_attention/metrics/bootstrap.hpp>
#include <implicit_attention/metrics/curve.hpp>
#include <implicit_attention/metrics/infidelity.hpp>
#include <implicit_attention/metrics/perturbation.hpp>
#include <implicit_attention/metrics/random_numbers.hpp>
#include <implicit_attention/metrics/randomization.hpp>
#include <implicit_attention/metrics/cached_model.hpp>
#include <implicit_attention/metrics/scores.hpp>
