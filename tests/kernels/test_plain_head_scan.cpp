// Applications of head recurrences token by token, cut anywhere: what is carried on is the whole.
#include <limits>

#include <support/catch.hpp>

#include <implicit_attention/kernels/plain_head_scan.hpp>

#include "head_cases.hpp"

TEST_CASE("a plain walk over a head's tokens that is carried on is the whole walk, forwards and transposed, to the last bit", "[kernels]") {
  using namespace implicit_attention;
  for (const head_cases::Plan& plan : head_cases::plans(12, 3, 2, 91)) {
    INFO(plan.text());
    const HeadRecurrence<double> r = head_cases::make<double>(plan);
    head_cases::Draw draw(92);
    const Matrix<double> x = draw.normals<double>(r.tokens, r.channels);
    const Matrix<double> initial = draw.normals<double>(r.state, r.head_channels());
    for (const Index cut : {0, 1, 4, 11, 12}) {
      Matrix<double> whole = Matrix<double>::Constant(r.tokens, r.channels, 7), parts = whole;
      View<double> to_whole(whole), to_parts(parts);
      for (Index head = 0; head < r.heads; ++head) {
        detail::PlainHeadScan<double> walk(r, head), again(r, head);
        Matrix<double> state = initial, carried = initial;
        walk.run(0, r.tokens, Array<double>::view(x), state, to_whole);
        again.run(0, cut, Array<double>::view(x), carried, to_parts);
        again.run(cut, r.tokens, Array<double>::view(x), carried, to_parts);
        CHECK(state == carried);
      }
      CHECK(whole == parts);
      for (Index head = 0; head < r.heads; ++head) {
        detail::PlainHeadScan<double> walk(r, head), again(r, head);
        Matrix<double> adjoint = Matrix<double>::Zero(r.state, r.head_channels()), carried = adjoint;
        walk.run_transposed(0, r.tokens, ConstView<double>(x), adjoint, to_whole);
        again.run_transposed(cut, r.tokens, ConstView<double>(x), carried, to_parts);
        again.run_transposed(0, cut, ConstView<double>(x), carried, to_parts);
        CHECK(adjoint == carried);
      }
      CHECK(whole == parts);
    }
  }
}

TEST_CASE("a token's transition has a past and a future in its document alone", "[kernels]") {
  using namespace implicit_attention;
  head_cases::Plan plan;
  HeadRecurrence<double> r = head_cases::make<double>(plan);  // of 7 tokens
  r.starts = {3, 4};
  const detail::PlainHeadScan<double> walk(r, 0);
  const Matrix<double> zeros = Matrix<double>::Zero(3, 2), ones = Matrix<double>::Ones(3, 2),
                       spoilt = Matrix<double>::Constant(3, 2, std::numeric_limits<double>::quiet_NaN());
  for (Index token = 0; token < r.tokens; ++token) {
    INFO("token " << token);
    const bool starts = token == 3 || token == 4;
    CHECK(walk.has_past(token, zeros) == (token > 0 && !starts));
    CHECK(walk.has_past(token, ones) == !starts);
    CHECK(walk.has_past(token, spoilt) == !starts);
    CHECK(walk.has_future(token) == (token != 2 && token != 3 && token != 6));
  }
}
