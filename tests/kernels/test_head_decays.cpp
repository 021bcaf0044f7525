// The decays of a block of tokens against products of single decays.
#include <cmath>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/head_decays.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

/// S(s..t) of tokens first + s + 1 .. first + t, of one state, in double; an idle token's decay is 1.
struct PlainDecays {
  const HeadRecurrence<double>& r;
  Index head, first, count;
  bool first_is_idle, last_is_idle;

  [[nodiscard]] double operator()(Index s, Index t, Index n) const {
    double product = 1;
    for (Index u = s + 1; u <= t; ++u)
      if (!(first_is_idle && u == 0) && !(last_is_idle && u == count - 1)) product *= r.decay(first + u, head, n);
    return product;
  }
};

}  // namespace

TEST_CASE("decays of a block are products of its tokens' decays, in pairs, from its start and to its end") {
  for (const Decay decay : {Decay::absent, Decay::head, Decay::state, Decay::constant_head, Decay::constant_state})
    for (const Index count : {1, 2, 15, 16, 17, 40})
      for (const bool idle : {false, true}) {
        INFO("decay " << static_cast<int>(decay) << ", " << count << " tokens" << (idle ? ", idle ones at both ends" : ""));
        Plan plan;
        plan.decay = decay;
        plan.tokens = 50;
        plan.state = 3;
        const HeadRecurrence<double> r = make<double>(plan);
        const Index head = 1, first = 5, states = r.state;
        detail::HeadDecays<double> decays(r, head);
        decays.load(first, count, idle, idle);
        const PlainDecays plain{r, head, first, count, idle, idle};
        Draw draw(4);
        const Matrix<double> reader = draw.normals<double>(count, states), writer = draw.normals<double>(count, states);
        double worst = 0;
        for (const Index late : {0, 1}) {
          Matrix<double> products, from_start(count, states), to_end(count, states);
          decays.products(ConstView<double>(reader), ConstView<double>(writer), late, products);
          decays.from_start(ConstView<double>(reader), late, View<double>(from_start));
          decays.to_end(ConstView<double>(writer), View<double>(to_end));
          for (Index t = 0; t < count; ++t) {
            for (Index s = 0; s < count; ++s) {
              double sum = 0;
              for (Index n = 0; n < states && s <= t - late; ++n) sum += reader(t, n) * writer(s, n) * plain(s, t - late, n);
              worst = larger(worst, std::abs(products(t, s) - sum));
            }
            for (Index n = 0; n < states; ++n) {
              worst = larger(worst, std::abs(from_start(t, n) - reader(t, n) * plain(-1, t - late, n)));
              worst = larger(worst, std::abs(to_end(t, n) - writer(t, n) * plain(t, count - 1, n)));
            }
          }
        }
        Matrix<double> state = draw.normals<double>(states, 2);
        const Matrix<double> before = state;
        decays.decay_state(state);
        for (Index n = 0; n < states; ++n)
          for (Index v = 0; v < 2; ++v) worst = larger(worst, std::abs(state(n, v) - before(n, v) * plain(-1, count - 1, n)));
        CHECK(worst < 1e-13);
      }
}
