// Recurrences with one matrix a head, of real sizes and with realistic statistics.
#pragma once

#include <implicit_attention/kernels/head_recurrence.hpp>

#include "layers.hpp"

namespace benchmarks {

[[nodiscard]] Matrix<float> uniform_numbers(Index rows, Index columns, float from, float to, unsigned seed);

constexpr Index mamba2_heads = 24, mamba2_values = 64, mamba2_state = 128;
/// Mamba-2 130m: B and C of one group, dt log-uniform over heads between 0.001 and 0.1, A between 1 and 16.
[[nodiscard]] HeadRecurrence<float> mamba2_recurrence(Index tokens, Index heads = mamba2_heads, Index state = mamba2_state);

enum class DeltaDecay { head, state };
constexpr Index delta_heads = 16, delta_size = 128;
/// Gated DeltaNet's, or with one decay a state KDA's; log decays are uniform between `fastest` and 0.
[[nodiscard]] HeadRecurrence<float> delta_recurrence(Index tokens, DeltaDecay decay, Index heads = delta_heads, Index size = delta_size,
                                                     float fastest = -0.1f);

[[nodiscard]] std::vector<Index> first_numbers(Index count);

/// How such recurrences' times grow, and how near float is to double (head_growth.cpp).
void add_head_growth();

}  // namespace benchmarks
