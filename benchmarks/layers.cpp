#include "layers.hpp"

#include <algorithm>
#include <cmath>
#include <random>
#include <type_traits>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv4.hpp>

namespace benchmarks {

namespace {

/// A weight that the implicit attention does not need: the right shape, with one row in memory that is repeated.
template <class Scalar>
class Unneeded {
 public:
  Unneeded() : zeros_(Matrix<Scalar>::Zero(1, 65536)) {}
  [[nodiscard]] Array<Scalar> operator()(Index rows, Index columns) const {
    return Array<Scalar>::view(ConstView<Scalar>(zeros_.data(), rows, columns, 0));
  }

 private:
  Matrix<Scalar> zeros_;
};

template <class Scalar>
[[nodiscard]] Array<Scalar> cast(const Matrix<float>& numbers) {
  if constexpr (std::is_same_v<Scalar, float>)
    return Array<float>::view(numbers);
  else
    return Matrix<Scalar>(numbers.template cast<Scalar>());
}

}  // namespace

Matrix<float> normal_numbers(Index rows, Index columns, unsigned seed) {
  const std::size_t pool_size = std::clamp(static_cast<std::size_t>(rows * columns), std::size_t(1) << 13, std::size_t(1) << 20);
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> pool(pool_size);
  for (float& number : pool) number = normal(engine);
  Matrix<float> numbers = large_matrix<float>(rows, columns);
  std::uniform_int_distribution<std::size_t> place(0, pool_size - static_cast<std::size_t>(columns));
  for (Index row = 0; row < rows; ++row) std::copy_n(pool.data() + place(engine), columns, numbers.row(row).data());
  return numbers;
}

RunLayer::RunLayer(const LayerSize& size, Index tokens, Index channels)
    : size_(size), tokens_(tokens), channels_(channels < 0 ? size.channels : channels) {
  const Index E = channels_, L = tokens_, N = size_.state, width = 4;
  std::mt19937 engine(17);
  std::uniform_real_distribution<float> unit;
  const auto place = [&](Index e) { return (static_cast<float>(e) + 0.5f) / static_cast<float>(E); };  // position of the channel, 0..1
  const auto convolution = [&] {
    Matrix<float> taps(E, width), bias(1, E);
    for (Index i = 0; i < taps.size(); ++i) taps.data()[i] = unit(engine) - 0.5f;  // uniform within 1/sqrt(width)
    for (Index e = 0; e < E; ++e) bias(0, e) = unit(engine) - 0.5f;
    weights_.push_back(std::move(taps));
    weights_.push_back(std::move(bias));
  };
  switch (size_.kind) {
    case Kind::mamba: {
      Matrix<float> step = normal_numbers(L, E, 1);
      RowVector<float> base(E);
      for (Index e = 0; e < E; ++e) base[e] = size_.forgetting * 0.001f * std::pow(100.0f, unit(engine));
      for (Index t = 0; t < L; ++t) step.row(t).array() = base.array() * (0.5f * step.row(t).array()).exp();
      Matrix<float> A_log(E, N);
      for (Index n = 0; n < N; ++n) A_log.col(n).setConstant(std::log(static_cast<float>(n + 1)));
      numbers_.push_back(std::move(step));
      numbers_.push_back(normal_numbers(L, E, 2));
      numbers_.push_back(normal_numbers(L, E, 3));
      numbers_.push_back(normal_numbers(L, N, 4));
      numbers_.push_back(normal_numbers(L, N, 5));
      weights_.push_back(std::move(A_log));
      weights_.push_back(Matrix<float>::Ones(1, E));
      convolution();
      break;
    }
    case Kind::rwkv4: {
      Matrix<float> decay(1, E), first(1, E);  // a layer in the middle of the model
      for (Index e = 0; e < E; ++e) {
        decay(0, e) = -5 + 8 * std::pow(place(e), 0.7f + 1.3f * 0.5f);
        first(0, e) = std::log(0.3f) + 0.5f * static_cast<float>((e + 1) % 3 - 1);
      }
      numbers_.push_back(normal_numbers(L, E, 1));
      numbers_.push_back(normal_numbers(L, E, 2));
      weights_.push_back(std::move(decay));
      weights_.push_back(std::move(first));
      break;
    }
    case Kind::griffin: {
      const Matrix<float> open = sigmoid(normal_numbers(L, E, 1));
      RowVector<float> slowest(E);
      for (Index e = 0; e < E; ++e) slowest[e] = std::log(0.9f + 0.099f * unit(engine));
      Matrix<float> log_a = (open.array().rowwise() * slowest.array()).matrix();
      Matrix<float> normalizer = sqrt_one_minus_square(log_a);
      normalizer.row(0).setOnes();
      numbers_.push_back(normal_numbers(L, E, 2));
      numbers_.push_back(std::move(log_a));
      numbers_.push_back(sigmoid(normal_numbers(L, E, 3)));
      numbers_.push_back(std::move(normalizer));
      convolution();
      break;
    }
  }
}

template <Real Scalar>
UnifiedForm<Scalar> RunLayer::form(Terms terms) const {
  const Unneeded<Scalar> unneeded;
  const Index E = channels_, D = 1;
  const auto numbers = [&](std::size_t i) { return cast<Scalar>(numbers_[i]); };
  const auto weights = [&](std::size_t i) { return cast<Scalar>(weights_[i]); };
  switch (size_.kind) {
    case Kind::mamba: {
      typename Mamba<Scalar>::Weights w;
      w.in_proj_weight = unneeded(2 * E, D);
      w.conv1d_weight = weights(2);
      w.conv1d_bias = weights(3);
      w.x_proj_weight = unneeded(1 + 2 * size_.state, E);
      w.dt_proj_weight = unneeded(E, 1);
      w.A_log = weights(0);
      w.D = weights(1);
      w.out_proj_weight = unneeded(D, E);
      typename Mamba<Scalar>::Activations act;
      act.dt = numbers(0);
      act.z = numbers(1);
      act.c = numbers(2);
      act.B = numbers(3);
      act.C = numbers(4);
      return Mamba<Scalar>(w).lower(act, terms);
    }
    case Kind::rwkv4: {
      typename Rwkv4<Scalar>::Weights w;
      w.time_decay = weights(0);
      w.time_first = weights(1);
      w.time_mix_key = w.time_mix_value = w.time_mix_receptance = unneeded(1, D);
      w.key_weight = w.value_weight = w.receptance_weight = unneeded(E, D);
      w.output_weight = unneeded(D, E);
      typename Rwkv4<Scalar>::Activations act;
      act.key = numbers(0);
      act.receptance = numbers(1);
      return Rwkv4<Scalar>(w).lower(act, terms);
    }
    case Kind::griffin: {
      typename Griffin<Scalar>::Weights w;
      w.linear_x_weight = w.linear_y_weight = unneeded(E, D);
      w.conv_1d_weight = weights(0);
      w.conv_1d_bias = weights(1);
      w.recurrent_param = unneeded(1, E);
      w.input_gate_weight = w.recurrent_gate_weight = unneeded(E, 1);
      w.input_gate_bias = w.recurrent_gate_bias = unneeded(E, 1);
      w.linear_out_weight = unneeded(D, E);
      typename Griffin<Scalar>::Activations act;
      act.gate_input = numbers(0);
      act.log_a = numbers(1);
      act.input_gate = numbers(2);
      act.normalizer = numbers(3);
      act.starts = {0};
      return Griffin<Scalar>(w).lower(act, terms);
    }
  }
  return {};
}

template UnifiedForm<float> RunLayer::form<float>(Terms) const;
template UnifiedForm<double> RunLayer::form<double>(Terms) const;

}  // namespace benchmarks
