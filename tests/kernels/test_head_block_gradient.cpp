// The transpose of a block's factors against finite differences.
#include <cmath>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/head_block_gradient.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

/// Weights of every factor's numbers, whose sum is the loss.
struct FactorSlopes {
  Matrix<double> pairs, from_start, to_end, state, decayed;  // the last: (K, values), of the decayed `state`
};

/// The sum of all factors of a block times their slopes: queries read, keys times their scale write.
double factor_loss(const HeadRecurrence<double>& r, Index head, const detail::TokenRange& range, const FactorSlopes& slopes) {
  detail::BlockFactors<double> block(r, head);
  block.load(range);
  Matrix<double> state = slopes.state;
  block.block.decays().decay_state(state);
  return block.within.cwiseProduct(slopes.pairs).sum() + block.readers.topRows(range.count()).cwiseProduct(slopes.from_start).sum() +
         block.writes.cwiseProduct(slopes.to_end).sum() + state.cwiseProduct(slopes.decayed).sum();
}

double differences_from(const HeadRecurrence<double>& r, Array<double> HeadRecurrence<double>::*member, Index head,
                        const detail::TokenRange& range, const FactorSlopes& slopes, Index column, const Matrix<double>& gradient) {
  double worst = 0;
  for (Index t = 0; t < gradient.rows(); ++t)
    for (Index n = 0; n < gradient.cols(); ++n) {
      const auto loss_at = [&](double change) {
        HeadRecurrence<double> moved = r;
        Matrix<double> numbers = (r.*member).matrix();
        numbers(range.first + t, column + n) += change;
        moved.*member = numbers;
        return factor_loss(moved, head, range, slopes);
      };
      worst = larger(worst, std::abs((loss_at(1e-5) - loss_at(-1e-5)) / 2e-5 - gradient(t, n)));
    }
  return worst;
}

}  // namespace

TEST_CASE("what vectors and decays take from the slopes of a block's factors is that of finite differences") {
  for (const Decay decay : {Decay::absent, Decay::head, Decay::state})
    for (const bool read_before_update : {false, true})
      for (const bool scaled : {false, true}) {
        Plan plan;
        plan.decay = decay;
        plan.tokens = 16;
        plan.heads = plan.groups = 2;
        plan.key_scale = scaled;
        plan.read_before_update = read_before_update;
        INFO(plan.text());
        const HeadRecurrence<double> r = make<double>(plan);
        const Index head = 1, n = 9, states = r.state, late = read_before_update ? 1 : 0;
        const detail::TokenRange range{4, 4 + n, false};
        Draw draw(2);
        const FactorSlopes slopes{draw.normals<double>(n, n), draw.normals<double>(n, states), draw.normals<double>(n, states),
                                  draw.normals<double>(states, 2), draw.normals<double>(states, 2)};
        detail::BlockFactors<double> factors(r, head);
        factors.load(range);
        detail::HeadBlockGradient<double> gradient(r);
        gradient.start(factors.block);
        Matrix<double> query = Matrix<double>::Zero(n, states), writer = query, pairs = slopes.pairs;
        gradient.add_decay_state(slopes.decayed, slopes.state);
        gradient.add_from_start(ConstView<double>(slopes.from_start), factors.readers.topRows(n), late, View<double>(query));
        gradient.add_to_end(ConstView<double>(slopes.to_end), factors.writes, View<double>(writer));
        gradient.add_products(factors.block.query(), factors.block.key(), late, late, scaled, pairs, factors.within, View<double>(query),
                              View<double>(writer));
        for (Index t = 0; t < n; ++t) writer.row(t) *= r.write_scale(range.first + t, head);  // from scaled keys to keys
        CHECK(differences_from(r, &HeadRecurrence<double>::query, head, range, slopes, head * states, query) < 1e-8);
        CHECK(differences_from(r, &HeadRecurrence<double>::key, head, range, slopes, head * states, writer) < 1e-8);
        if (decay == Decay::absent) continue;
        const Matrix<double>& decays = gradient.log_decay();
        CHECK(decays.cols() == (decay == Decay::state ? states : 1));
        CHECK(differences_from(r, &HeadRecurrence<double>::log_decay, head, range, slopes, head * decays.cols(), decays) < 1e-8);
      }
}
