// What every executor must do, and what the library's results on it must be.
#pragma once

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>

namespace executor_checks {

using namespace implicit_attention;

/// Every index once, for any count; none for 0.
inline void calls_each_once(const Executor& executor) {
  for (const Index count : {0, 1, 2, 3, 17, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count) + 1);
    executor(count, [&](Index i) { calls[static_cast<std::size_t>(i)].fetch_add(1); });
    Index once = 0;
    for (Index i = 0; i < count; ++i) once += calls[static_cast<std::size_t>(i)].load() == 1;
    CHECK(once == count);
    CHECK(calls.back().load() == 0);
  }
}

/// A body's exception arrives as what it was, and the executor works afterwards.
inline void carries_exceptions(const Executor& executor) {
  for (int round = 0; round < 5; ++round) {
    const auto fail = [&](Index i) {
      if (i == 5) detail::raise(ErrorKind::value, "the sixth body fails");
    };
    CHECK_THROWS_WITH(executor(50, fail), "the sixth body fails");
    CHECK_THROWS_AS(executor(6, fail), Error);
    CHECK_THROWS_AS(executor(40, [](Index) { throw std::length_error("all fail"); }), std::length_error);
    CHECK_THROWS_AS(executor(1, [](Index) { throw std::length_error("one fails"); }), std::length_error);
    std::atomic<Index> sum{0};
    executor(100, [&](Index i) { sum.fetch_add(i); });
    CHECK(sum.load() == 4950);
  }
}

/// A loop within a loop runs whole.
inline void nests(const Executor& executor) {
  std::atomic<Index> sum{0};
  executor(10, [&](Index i) { executor(10, [&](Index j) { sum.fetch_add(10 * i + j); }); });
  CHECK(sum.load() == 4950);
}

/// A form with every term; more channels than a tile of the walks, and a count that fills no vector.
inline ImplicitAttention<float> operator_with_all_terms() {
  const Index tokens = 150, channels = 85, state = 3, width = 4;
  test_support::Draw draw(20240611);
  UnifiedForm<float> form;
  DiagonalRecurrence<float> recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels;
  recurrence.state = state;
  recurrence.step = draw.uniforms<float>(tokens, channels, 0.001, 0.1);
  recurrence.rate = draw.uniforms<float>(state, channels, -4, -1);
  recurrence.query = draw.normals<float>(tokens, state);
  recurrence.key = draw.normals<float>(tokens, state);
  recurrence.key_scale = recurrence.step;
  form.recurrence = recurrence;
  form.gate = draw.normals<float>(tokens, channels);
  form.activation = draw.uniforms<float>(tokens, channels, 0, 1);
  form.skip = draw.normals<float>(1, channels);
  form.convolution = draw.normals<float>(channels, width, 0.5);
  return ImplicitAttention<float>(form);
}

inline bool same_bits(const float* a, const float* b, Index count) {
  return std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(float)) == 0;
}

/// All that the operator computes is the same to the last bit as on the serial executor.
inline void same_bits_as_serial(const Executor& executor) {
  const ImplicitAttention<float> attention = operator_with_all_terms();
  const Index tokens = attention.tokens(), channels = attention.channels();
  test_support::Draw draw(7);
  const Matrix<float> x = draw.normals<float>(tokens, channels);
  const auto materialized = [&](const Selection& chosen) {
    Selection serial = chosen, parallel = chosen;
    parallel.executor = executor;
    const AttentionMatrix<float> expected = attention.materialize(serial), got = attention.materialize(parallel);
    CHECK(same_bits(expected.data(), got.data(), expected.channels() * expected.rows() * tokens));
  };
  materialized({});
  Selection selection;
  selection.rows = Indices::last();
  materialized(selection);
  selection.rows = std::vector<Index>{149, 3, 40, 3};
  selection.channels = std::vector<Index>{84, 2, 0};
  materialized(selection);

  Reduction<float> reduction;
  reduction.row_weights = draw.normals<float>(tokens, channels);
  reduction.column_weights = x;
  for (const ReductionKind kind :
       {ReductionKind::mean, ReductionKind::mean_abs, ReductionKind::mean_positive, ReductionKind::max, ReductionKind::min}) {
    reduction.kind = kind;
    for (const Indices& rows : {Indices::all(), Indices::last(), Indices({5, 148, 5})}) {
      Selection serial, parallel;
      serial.rows = parallel.rows = rows;
      parallel.executor = executor;
      const Matrix<float> expected = attention.reduce(reduction, serial), got = attention.reduce(reduction, parallel);
      CHECK(same_bits(expected.data(), got.data(), expected.size()));
    }
  }
  const Matrix<float> forward = attention.apply(x), got_forward = attention.apply(x, executor);
  CHECK(same_bits(forward.data(), got_forward.data(), forward.size()));
  const Matrix<float> transposed = attention.apply_transpose(x), got_transposed = attention.apply_transpose(x, executor);
  CHECK(same_bits(transposed.data(), got_transposed.data(), transposed.size()));
}

}  // namespace executor_checks
