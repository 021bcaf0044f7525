#include "head_sizes.hpp"

#include <cmath>
#include <random>

namespace benchmarks {

Matrix<float> uniform_numbers(Index rows, Index columns, float from, float to, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> between(from, to);
  Matrix<float> numbers = large_matrix<float>(rows, columns);
  for (Index i = 0; i < numbers.size(); ++i) numbers.data()[i] = between(engine);
  return numbers;
}

HeadRecurrence<float> mamba2_recurrence(Index tokens, Index heads, Index state) {
  HeadRecurrence<float> r;
  r.tokens = tokens;
  r.heads = heads;
  r.channels = heads * mamba2_values;
  r.state = state;
  r.query = normal_numbers(tokens, state, 1);
  r.key = normal_numbers(tokens, state, 2);
  Matrix<float> step = normal_numbers(tokens, heads, 3), decay = step;
  const Matrix<float> place = uniform_numbers(2, heads, 0, 1, 4);
  for (Index h = 0; h < heads; ++h) {
    step.col(h).array() = 0.001f * std::pow(100.0f, place(0, h)) * (0.5f * step.col(h).array()).exp();
    decay.col(h) = -(1 + 15 * place(1, h)) * step.col(h);
  }
  r.key_scale = step;
  r.log_decay = decay;
  return r;
}

namespace {

/// Keys of length 1 a head.
Matrix<float> unit_keys(Index tokens, Index heads, Index size, unsigned seed) {
  Matrix<float> keys = normal_numbers(tokens, heads * size, seed);
  for (Index t = 0; t < tokens; ++t)
    for (Index h = 0; h < heads; ++h) keys.row(t).segment(h * size, size).normalize();
  return keys;
}

}  // namespace

HeadRecurrence<float> delta_recurrence(Index tokens, DeltaDecay decay, Index heads, Index size, float fastest) {
  HeadRecurrence<float> r;
  r.tokens = tokens;
  r.heads = r.groups = heads;
  r.channels = heads * size;
  r.state = size;
  r.transition = Transition::delta;
  r.query = unit_keys(tokens, heads, size, 11);
  r.key = unit_keys(tokens, heads, size, 12);
  r.key_scale = uniform_numbers(tokens, heads, 0, 1, 13);
  r.log_decay = uniform_numbers(tokens, decay == DeltaDecay::head ? heads : heads * size, fastest, 0, 14);
  return r;
}

std::vector<Index> first_numbers(Index count) {
  std::vector<Index> numbers;
  for (Index i = 0; i < count; ++i) numbers.push_back(i);
  return numbers;
}

}  // namespace benchmarks
