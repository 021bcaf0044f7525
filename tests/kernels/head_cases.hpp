// Random recurrences with one matrix a head, and what their equations make of them, token by token in plain loops. Shares no code with the
// kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/head_recurrence.hpp>

namespace head_cases {

using namespace implicit_attention;
using test_support::Draw;

enum class Decay { absent, head, state, constant_head, constant_state };

/// What a random HeadRecurrence is like.
struct Plan {
  Transition transition = Transition::diagonal;
  Decay decay = Decay::head;
  Index tokens = 7, heads = 2, groups = 1, state = 3, values = 2;
  bool key_scale = true, read_before_update = false, diagonal = false, starts = false;
  bool extreme = false;     ///< decays of 0 and 1, key scales 0, 1 and 2, repeated keys and keys of length 0
  double forgetting = 0.5;  ///< the largest -log decay of ordinary ones
  std::uint64_t seed = 1;

  [[nodiscard]] std::string text() const {
    std::ostringstream out;
    out << "transition " << static_cast<int>(transition) << ", decay " << static_cast<int>(decay) << ", tokens " << tokens << ", heads "
        << heads << ", groups " << groups << ", state " << state << ", values " << values << (key_scale ? ", key_scale" : "")
        << (read_before_update ? ", read before update" : "") << (diagonal ? ", diagonal" : "") << (starts ? ", starts" : "")
        << (extreme ? ", extreme" : "") << ", forgetting " << forgetting << ", seed " << seed;
    return out.str();
  }
};

template <class Scalar>
HeadRecurrence<Scalar> make(const Plan& plan) {
  Draw draw(plan.seed);
  HeadRecurrence<Scalar> r;
  r.tokens = plan.tokens;
  r.heads = plan.heads;
  r.groups = plan.groups;
  r.state = plan.state;
  r.channels = plan.heads * plan.values;
  r.transition = plan.transition;
  const Index columns = plan.groups * plan.state;
  r.query = draw.normals<Scalar>(plan.tokens, columns);
  // Keys of length 1, so that the delta rule forgets and does not grow.
  Matrix<Scalar> key = draw.normals<Scalar>(plan.tokens, columns);
  for (Index t = 0; t < plan.tokens; ++t)
    for (Index g = 0; g < plan.groups; ++g) {
      if (plan.extreme && t > 0 && draw.uniform(0, 1) < 0.3)
        key.row(t).segment(g * plan.state, plan.state) = key.row(t - 1).segment(g * plan.state, plan.state).eval();
      if (key.row(t).segment(g * plan.state, plan.state).norm() > Scalar(0)) key.row(t).segment(g * plan.state, plan.state).normalize();
      if (plan.extreme && draw.uniform(0, 1) < 0.1) key.row(t).segment(g * plan.state, plan.state).setZero();
    }
  r.key = key;
  if (plan.key_scale) {
    Matrix<Scalar> scale = draw.uniforms<Scalar>(plan.tokens, plan.heads, 0, 1);
    if (plan.extreme)
      for (Index i = 0; i < scale.size(); ++i) scale.data()[i] = static_cast<Scalar>(std::floor(draw.uniform(0, 3)));
    r.key_scale = scale;
  }
  if (plan.decay != Decay::absent) {
    const bool constant = plan.decay == Decay::constant_head || plan.decay == Decay::constant_state,
               by_state = plan.decay == Decay::state || plan.decay == Decay::constant_state;
    Matrix<Scalar> decay =
        draw.uniforms<Scalar>(constant ? 1 : plan.tokens, by_state ? plan.heads * plan.state : plan.heads, -plan.forgetting, 0);
    if (plan.extreme)
      for (Index i = 0; i < decay.size(); ++i) {
        const double choice = draw.uniform(0, 1);
        if (choice < 0.1) decay.data()[i] = -std::numeric_limits<Scalar>::infinity();
        if (choice > 0.7) decay.data()[i] = 0;
      }
    r.log_decay = decay;
  }
  if (plan.transition == Transition::rank_one) {
    const double spread = 0.5 / std::sqrt(static_cast<double>(plan.state));
    r.removal = draw.normals<Scalar>(plan.tokens, plan.heads * plan.state, spread);
    r.probe = draw.normals<Scalar>(plan.tokens, plan.heads * plan.state, spread);
  }
  r.read_before_update = plan.read_before_update;
  if (plan.diagonal || plan.read_before_update) r.diagonal = draw.normals<Scalar>(plan.tokens, plan.heads);
  if (plan.starts)
    for (const Index start : {Index(0), Index(3), Index(4), Index(33), Index(64), Index(70)})
      if (start < plan.tokens && (start > 0 || plan.seed % 2 == 0)) r.starts.push_back(start);
  return r;
}

/// The equation of one head and one value column, in double: S_t = G_t S_{t-1} + write_t x_t, o_t = S_t . query_t. Of tokens from `first`
/// on: before it there are only zeros.
template <class Scalar>
std::vector<double> by_equation(const HeadRecurrence<Scalar>& r, Index head, const std::vector<double>& x, std::vector<double>& state,
                                Index first = 0) {
  const auto size = static_cast<std::size_t>(r.tokens);
  const Index K = r.state, group = head / (r.heads / r.groups);
  std::vector<double> out(size), w(static_cast<std::size_t>(K));
  for (Index t = first; t < r.tokens; ++t) {
    for (const Index start : r.starts)
      if (start == t) std::fill(state.begin(), state.end(), 0.0);
    const double beta = r.key_scale.empty() ? 1.0 : static_cast<double>(r.key_scale(t, head)), input = x[static_cast<std::size_t>(t)];
    double before = 0, removed = 0, without_write = 0, after = 0;
    std::fill(w.begin(), w.end(), 1.0);
    for (Index n = 0; n < K; ++n) {
      const auto i = static_cast<std::size_t>(n);
      const Index row = r.log_decay.rows() == 1 ? 0 : t;
      if (!r.log_decay.empty())
        w[i] = std::exp(static_cast<double>(r.log_decay.cols() == r.heads ? r.log_decay(row, head) : r.log_decay(row, head * K + n)));
      const double key = static_cast<double>(r.key(t, group * K + n));
      before += static_cast<double>(r.query(t, group * K + n)) * state[i];
      if (r.transition == Transition::delta) removed += key * w[i] * state[i];
      if (r.transition == Transition::rank_one) removed += static_cast<double>(r.probe(t, head * K + n)) * state[i];
    }
    for (Index n = 0; n < K; ++n) {
      const auto i = static_cast<std::size_t>(n);
      const double key = static_cast<double>(r.key(t, group * K + n)), query = static_cast<double>(r.query(t, group * K + n));
      state[i] *= w[i];
      if (r.transition == Transition::delta) state[i] -= beta * key * removed;
      if (r.transition == Transition::rank_one) state[i] += static_cast<double>(r.removal(t, head * K + n)) * removed;
      without_write += query * state[i];
      state[i] += beta * key * input;
      after += query * state[i];
    }
    double o = after;
    if (r.read_before_update)
      o = before + static_cast<double>(r.diagonal(t, head)) * input;
    else if (!r.diagonal.empty())
      o = without_write + static_cast<double>(r.diagonal(t, head)) * input;
    out[static_cast<std::size_t>(t)] = o;
  }
  return out;
}

/// R of one head: the equation on one unit input after the other. Entries that no path reaches are exactly zero.
template <class Scalar>
Matrix<double> matrix_by_equation(const HeadRecurrence<Scalar>& r, Index head) {
  Matrix<double> matrix(r.tokens, r.tokens);
  for (Index j = 0; j < r.tokens; ++j) {
    std::vector<double> unit(static_cast<std::size_t>(r.tokens), 0.0), state(static_cast<std::size_t>(r.state), 0.0);
    unit[static_cast<std::size_t>(j)] = 1;
    const std::vector<double> column = by_equation(r, head, unit, state, j);
    for (Index i = 0; i < r.tokens; ++i) matrix(i, j) = column[static_cast<std::size_t>(i)];
  }
  return matrix;
}

/// A whole application: x (tokens, channels), state (heads * state, values), both as the library has them.
template <class Scalar>
Matrix<double> application_by_equation(const HeadRecurrence<Scalar>& r, const Matrix<Scalar>& x, const Matrix<Scalar>& initial,
                                       Matrix<double>* final_state = nullptr) {
  const Index values = r.channels / r.heads;
  Matrix<double> out(r.tokens, r.channels);
  if (final_state != nullptr) final_state->resize(r.heads * r.state, values);
  for (Index e = 0; e < r.channels; ++e) {
    const Index head = e / values;
    std::vector<double> input, state(static_cast<std::size_t>(r.state), 0.0);
    for (Index t = 0; t < r.tokens; ++t) input.push_back(x.size() == 0 ? 0.0 : static_cast<double>(x(t, e)));
    if (initial.size() > 0)
      for (Index n = 0; n < r.state; ++n) state[static_cast<std::size_t>(n)] = static_cast<double>(initial(head * r.state + n, e % values));
    const std::vector<double> o = by_equation(r, head, input, state);
    for (Index t = 0; t < r.tokens; ++t) out(t, e) = o[static_cast<std::size_t>(t)];
    if (final_state != nullptr)
      for (Index n = 0; n < r.state; ++n) (*final_state)(head * r.state + n, e % values) = state[static_cast<std::size_t>(n)];
  }
  return out;
}

/// The recurrence with NaN in every decay, removal and probe that nothing passes through: of the first tokens of documents and, where the
/// state is read before its update, of the last ones. That of the last token of all only where `no_later`: its state may be read.
template <class Scalar>
HeadRecurrence<Scalar> with_unused_nan(const HeadRecurrence<Scalar>& r, bool no_later) {
  HeadRecurrence<Scalar> spoilt = r;
  const auto starts = [&](Index t) { return t == 0 || std::find(r.starts.begin(), r.starts.end(), t) != r.starts.end(); };
  const auto spoil = [&](Array<Scalar>& array) {
    if (array.rows() != r.tokens || array.empty()) return;
    Matrix<Scalar> numbers = array.matrix();
    for (Index t = 0; t < r.tokens; ++t)
      if (starts(t) || (r.read_before_update && (t + 1 < r.tokens ? starts(t + 1) : no_later)))
        numbers.row(t).setConstant(std::numeric_limits<Scalar>::quiet_NaN());
    array = numbers;
  };
  spoil(spoilt.log_decay);
  spoil(spoilt.removal);
  spoil(spoilt.probe);
  return spoilt;
}

/// Every transition with every decay and reading, at one length and state.
inline std::vector<Plan> plans(Index tokens, Index state, Index values, std::uint64_t seed) {
  std::vector<Plan> all;
  for (const Transition transition : {Transition::diagonal, Transition::delta, Transition::rank_one})
    for (const Decay decay : {Decay::absent, Decay::head, Decay::state, Decay::constant_head, Decay::constant_state})
      for (const int reading : {0, 1, 2}) {
        Plan plan;
        plan.transition = transition;
        plan.decay = decay;
        plan.tokens = tokens;
        plan.state = state;
        plan.values = values;
        plan.read_before_update = reading == 1;
        plan.diagonal = reading == 2;
        plan.seed = ++seed;
        plan.heads = seed % 3 == 0 ? 1 : 4;
        plan.groups = seed % 3 == 1 ? 2 : 1;
        plan.key_scale = seed % 4 != 0;
        plan.starts = seed % 5 == 0;
        plan.extreme = seed % 3 == 2;
        plan.forgetting = seed % 7 == 0 ? 30 : seed % 7 == 3 ? 0.01 : 0.5;
        all.push_back(plan);
      }
  return all;
}

/// Calls body(plan, scalar) for every plan of several lengths and sizes, in double and in float: states and values of one number, of less
/// than a register, and of more than one.
template <class Body>
void for_plans_in_both_scalars(const std::vector<Index>& lengths, std::uint64_t seed, const Body& body) {
  for (const Index tokens : lengths)
    for (const auto& [state, values] : {std::pair<Index, Index>(1, 1), std::pair<Index, Index>(5, 3), std::pair<Index, Index>(17, 8)})
      for (const Plan& plan : plans(tokens, state, values, seed += 50)) {
        body(plan, double());
        body(plan, float());
      }
}

/// Makes token `bad` of the query, the key, the decay or the probe (part 0 to 3) NaN. Returns false where the recurrence has no such part.
inline bool spoil_part(HeadRecurrence<double>& r, int part, Index bad) {
  if (part == 2 && r.log_decay.rows() != r.tokens) return false;
  if (part == 3 && r.transition != Transition::rank_one) return false;
  Array<double>& array = part == 0 ? r.query : part == 1 ? r.key : part == 2 ? r.log_decay : r.probe;
  Matrix<double> numbers = array.matrix();
  numbers.row(bad).setConstant(std::numeric_limits<double>::quiet_NaN());
  array = numbers;
  return true;
}

/// Calls body(recurrence) with every transition that with_unused_nan spoils, at several lengths; with documents of one token among them,
/// one at the end of 5 and 71 tokens, and without.
template <class Body>
void for_unused_transitions(const Body& body) {
  std::uint64_t seed = 60;
  for (const Index tokens : {1, 2, 5, 33, 71})
    for (Plan plan : plans(tokens, 4, 3, seed += 50))
      for (const bool starts : {false, true}) {
        plan.extreme = false;
        plan.starts = starts;
        const HeadRecurrence<double> clean = make<double>(plan);
        if (clean.log_decay.rows() != tokens && clean.removal.empty()) continue;
        INFO(plan.text());
        body(clean);
      }
}

/// Of a row's error, against its largest entry or, where that cancels, the size of what is summed (inputs are of size 1): sums of up to
/// some hundred products of ordinary numbers, and products of as many decays. With keys that are removed twice over (beta 2, repeated)
/// rounding errors do not fade.
template <class Scalar>
constexpr double row_tolerance = sizeof(Scalar) == 4 ? 2e-5 : 2e-13;

template <class Scalar>
void check_rows(const Matrix<Scalar>& got, const Matrix<double>& expected, const char* what, double floor = 1) {
  INFO(what);
  REQUIRE(got.rows() == expected.rows());
  REQUIRE(got.cols() == expected.cols());
  double worst = 0;
  for (Index i = 0; i < got.rows(); ++i) {
    const double scale = std::max(expected.row(i).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(), floor);
    for (Index j = 0; j < got.cols(); ++j) {
      const double error = std::abs(static_cast<double>(got(i, j)) - expected(i, j)) / scale;
      worst = error >= 0 && error <= worst ? worst : error;  // NaN is kept
    }
  }
  CHECK(worst <= row_tolerance<Scalar>);
}

}  // namespace head_cases
