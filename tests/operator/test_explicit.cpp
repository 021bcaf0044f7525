// A recurrence that is given as a matrix: what is refused, and that its parts are optional.
#include <limits>
#include <string>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/operator/implicit_attention.hpp>

using namespace implicit_attention;
using test_support::Draw;

namespace {

std::string error_of(const UnifiedForm<double>& form) {
  try {
    (void)ImplicitAttention<double>(form);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

UnifiedForm<double> some_form(Index tokens, Index channels, Index heads, bool causal = true) {
  Draw draw(11);
  ExplicitRecurrence<double> recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels;
  recurrence.heads = heads;
  recurrence.causal = causal;
  Matrix<double> weights = draw.normals<double>(heads * tokens, tokens);
  if (causal)
    for (Index head = 0; head < heads; ++head)
      for (Index i = 0; i < tokens; ++i) weights.row(head * tokens + i).tail(tokens - 1 - i).setZero();
  recurrence.weights = weights;
  UnifiedForm<double> form;
  form.recurrence = recurrence;
  return form;
}

}  // namespace

TEST_CASE("an explicit recurrence with any entry right of the diagonal is refused, unless it says that it is not causal") {
  for (const Index row : {Index{0}, Index{2}})
    for (const double entry : {1e-300, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
      UnifiedForm<double> form = some_form(4, 6, 2);
      CHECK(error_of(form) == "");
      ExplicitRecurrence<double> recurrence = *form.recurrence.given();
      Matrix<double> weights = recurrence.weights.matrix();
      weights(4 + row, 3) = entry;
      recurrence.weights = weights;
      form.recurrence = recurrence;
      CHECK_THAT(error_of(form),
                 contains_text("weights of head 1 are not zero at (" + std::to_string(row) + ", 3), right of the diagonal"));
      recurrence.causal = false;
      form.recurrence = recurrence;
      CHECK(error_of(form) == "");
    }
}

TEST_CASE("an explicit recurrence with and without each part around it, applied and materialised") {
  const Index tokens = 6, channels = 4;
  Draw draw(5);
  const Matrix<double> x = draw.normals<double>(tokens, channels), skip = draw.normals<double>(1, channels),
                       gate = draw.normals<double>(tokens, channels), activation = draw.normals<double>(tokens, channels);
  for (const bool causal : {true, false})
    for (int parts = 0; parts < 8; ++parts) {
      UnifiedForm<double> form = some_form(tokens, channels, 2, causal);
      if (parts & 1) form.skip = skip;
      if (parts & 2) form.gate = gate;
      if (parts & 4) form.activation = activation;
      INFO("parts " << parts << ", causal " << causal);
      const ImplicitAttention<double> attention(form);
      const Matrix<double> weights = form.recurrence.given()->weights.matrix();
      const AttentionMatrix<double> all = attention.materialize();
      const Matrix<double> y = attention.apply(x), back = attention.apply_transpose(x);
      for (Index e = 0; e < channels; ++e) {
        Matrix<double> expected = weights.middleRows(e / 2 * tokens, tokens);
        if (parts & 1) expected.diagonal().array() += skip(0, e);
        if (parts & 2) expected = gate.col(e).asDiagonal() * expected;
        if (parts & 4) expected = expected * activation.col(e).asDiagonal();
        for (Index i = 0; i < tokens; ++i)
          for (Index j = 0; j < tokens; ++j) CHECK(all(e, i, j) == Approx(expected(i, j)).margin(1e-13));
        CHECK((y.col(e) - expected * x.col(e)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
        CHECK((back.col(e) - expected.transpose() * x.col(e)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
      }
    }
}

TEST_CASE("an explicit recurrence has its heads' maps, unless its matrices hold other terms as well") {
  for (const Index heads : {Index(1), Index(3), Index(6)}) {
    UnifiedForm<double> form = some_form(4, 6, heads);
    const ImplicitAttention<double> attention(form);
    CHECK(attention.heads() == heads);
    CHECK(attention.head_maps().stacked() == form.recurrence.given()->weights.matrix());
    ExplicitRecurrence<double> mixed = *form.recurrence.given();
    mixed.mixed = true;
    form.recurrence = mixed;
    CHECK(ImplicitAttention<double>(form).heads() == 0);
  }
}
