// Blocks of tokens and their matrices, against sums over single tokens.
#include <cmath>
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/head_block.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

/// Token t's vectors of one state n, as the equation has them: a probe reads the state before the token's decay.
struct BlockToken {
  double query, write, removal, probe, decay;
};

BlockToken block_token(const HeadRecurrence<double>& r, Index head, Index t, Index n) {
  const Index column = r.group(head) * r.state + n;
  const double write = r.write_scale(t, head) * r.key(t, column), decay = r.decay(t, head, n);
  if (r.transition == Transition::delta) return {r.query(t, column), write, -write, decay * r.key(t, column), decay};
  if (r.transition == Transition::diagonal) return {r.query(t, column), write, 0, 0, decay};
  return {r.query(t, column), write, r.removal(t, head * r.state + n), r.probe(t, head * r.state + n), decay};
}

double decay_between(const HeadRecurrence<double>& r, Index head, Index n, Index after, Index last) {
  double product = 1;
  for (Index t = after + 1; t <= last; ++t) product *= r.decay(t, head, n);
  return product;
}

}  // namespace

TEST_CASE("blocks of tokens end at multiples of their size and where documents start") {
  Plan plan;
  plan.tokens = 75;
  HeadRecurrence<double> r = make<double>(plan);
  r.starts = {0, 3, 4, 32, 70};
  std::vector<Index> ends, starting;
  for (const detail::TokenRange& range : detail::token_ranges(r, 32)) {
    CHECK(range.first == (ends.empty() ? 0 : ends.back()));
    ends.push_back(range.end);
    if (range.starts) starting.push_back(range.first);
  }
  CHECK(ends == std::vector<Index>{3, 4, 32, 64, 70, 75});
  CHECK(starting == r.starts);
}

TEST_CASE("the matrices of a block are sums over states of its tokens' vectors and the decays between them") {
  for (const Transition transition : {Transition::diagonal, Transition::delta, Transition::rank_one})
    for (const Decay decay : {Decay::absent, Decay::head, Decay::state})
      for (const bool read_before_update : {false, true}) {
        Plan plan;
        plan.transition = transition;
        plan.decay = decay;
        plan.tokens = 30;
        plan.state = 4;
        plan.read_before_update = read_before_update;
        INFO(plan.text());
        const HeadRecurrence<double> r = make<double>(plan);
        const Index head = 1, first = 6, n = 20, late = read_before_update ? 1 : 0;
        detail::BlockFactors<double> block(r, head);
        block.load({first, first + n, false});
        double worst = 0;
        Matrix<double> probe_removals = Matrix<double>::Zero(n, n);
        for (Index t = 0; t < n; ++t) {
          for (Index s = 0; s < n; ++s) {
            double within = 0, query_removals = 0, probe_writes = 0;
            for (Index k = 0; k < r.state; ++k) {
              const BlockToken reader = block_token(r, head, first + t, k), writer = block_token(r, head, first + s, k);
              const double to_query = s <= t - late ? decay_between(r, head, k, first + s, first + t - late) : 0,
                           to_probe = s < t ? decay_between(r, head, k, first + s, first + t - 1) : 0;
              within += reader.query * writer.write * to_query;
              query_removals += reader.query * writer.removal * to_query;
              probe_writes += reader.probe * writer.write * to_probe;
              probe_removals(t, s) += reader.probe * writer.removal * to_probe;
            }
            worst = larger(worst, std::abs(block.within(t, s) - within));
            // The delta rule's probe products count a token with itself, too, and what is read of them lies before it.
            if (transition == Transition::rank_one) worst = larger(worst, std::abs(block.query_removals(t, s) - query_removals));
            if (transition != Transition::diagonal && s < t) worst = larger(worst, std::abs(block.probe_writes(t, s) - probe_writes));
          }
          for (Index k = 0; k < r.state; ++k) {
            const BlockToken token = block_token(r, head, first + t, k);
            const double from_start = decay_between(r, head, k, first - 1, first + t - 1),
                         to_end = decay_between(r, head, k, first + t, first + n - 1);
            worst = larger(worst, std::abs(block.readers(t, k) - token.query * from_start * (late == 0 ? token.decay : 1.0)));
            worst = larger(worst, std::abs(block.writes(t, k) - token.write * to_end));
            if (transition != Transition::diagonal) worst = larger(worst, std::abs(block.readers(n + t, k) - token.probe * from_start));
            if (transition == Transition::rank_one) worst = larger(worst, std::abs(block.removals(t, k) - token.removal * to_end));
          }
        }
        CHECK(worst < 1e-13);
        if (transition == Transition::diagonal) continue;
        const Matrix<double> identity = Matrix<double>::Identity(n, n);
        CHECK(((identity - probe_removals) * block.inverse - identity).cwiseAbs().maxCoeff() < 1e-13);
      }
}

TEST_CASE("the inverse of a unit lower triangle reads nothing on the diagonal or above it") {
  Draw draw(8);
  Matrix<double> lower = draw.normals<double>(6, 6), inverse;
  lower.triangularView<Eigen::Upper>().setConstant(std::numeric_limits<double>::quiet_NaN());
  detail::invert_unit_lower(lower, inverse);
  lower.triangularView<Eigen::Upper>().setZero();
  const Matrix<double> identity = Matrix<double>::Identity(6, 6);
  CHECK(((identity - lower) * inverse - identity).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
}
