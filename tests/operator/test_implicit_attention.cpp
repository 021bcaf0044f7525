// What an operator says of itself and gives back, for every kind of recurrence, against its materialised matrices.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/random.hpp>

#include <implicit_attention/operator/implicit_attention.hpp>

namespace implicit_attention_cases {

using namespace implicit_attention;
using test_support::Draw;
using test_support::error_of;
using Form = UnifiedForm<double>;

constexpr Index tokens = 7, channels = 6, heads = 3, state = 2;

DiagonalRecurrence<double> diagonal() {
  Draw draw(1);
  DiagonalRecurrence<double> made;
  made.tokens = tokens, made.channels = channels, made.state = state;
  made.step = draw.uniforms<double>(tokens, channels, 0, 1);
  made.rate = draw.uniforms<double>(state, channels, -2, 0);
  made.query = draw.normals<double>(tokens, state);
  made.key = draw.normals<double>(tokens, state);
  return made;
}
HeadRecurrence<double> of_heads() {
  Draw draw(2);
  HeadRecurrence<double> made;
  made.tokens = tokens, made.channels = channels, made.heads = made.groups = heads, made.state = state;
  made.query = draw.normals<double>(tokens, heads * state);
  made.key = draw.normals<double>(tokens, heads * state);
  made.log_decay = draw.uniforms<double>(tokens, heads, -1, 0);
  return made;
}
SoftmaxRecurrence<double> softmax(bool past) {
  Draw draw(3);
  SoftmaxRecurrence<double> made;
  made.tokens = tokens, made.channels = channels, made.heads = made.key_heads = heads;
  made.query = draw.normals<double>(tokens, heads * state);
  made.key = draw.normals<double>(tokens, heads * state);
  if (!past) return made;
  made.past_key = draw.normals<double>(3, heads * state);
  made.past_value = draw.normals<double>(3, channels);
  return made;
}
ToeplitzRecurrence<double> filter() {
  ToeplitzRecurrence<double> made;
  made.tokens = tokens, made.channels = made.heads = channels;
  made.kernel = Draw(4).normals<double>(channels, 4);
  return made;
}
ExplicitRecurrence<double> given(bool causal) {
  ExplicitRecurrence<double> made;
  made.tokens = tokens, made.channels = channels, made.heads = heads, made.causal = causal;
  Matrix<double> weights = Draw(5).normals<double>(heads * tokens, tokens);
  for (Index row = 0; row < heads * tokens && causal; ++row) weights.row(row).tail(tokens - 1 - row % tokens).setZero();
  made.weights = weights;
  return made;
}

struct Case {
  std::string what;
  Form form;
  RecurrenceKind kind;
  Index heads;
  bool causal = true;
};
/// Each kind with a gate, a skip and a short convolution around it.
std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const std::string& what, const auto& recurrence, RecurrenceKind kind, Index of_heads, bool causal = true) {
    Draw draw(6);
    Form form;
    form.recurrence = recurrence;
    form.gate = draw.normals<double>(tokens, channels);
    form.skip = draw.normals<double>(1, channels);
    form.activation = draw.normals<double>(tokens, channels);
    form.convolution = draw.normals<double>(channels, 3);
    all.push_back({what, form, kind, of_heads, causal});
  };
  add("one a channel", diagonal(), RecurrenceKind::diagonal, 0);
  add("one a head", of_heads(), RecurrenceKind::heads, heads);
  add("softmax", softmax(false), RecurrenceKind::softmax, heads);
  add("a filter", filter(), RecurrenceKind::toeplitz, channels);
  add("given", given(true), RecurrenceKind::given, heads);
  add("given, of all tokens", given(false), RecurrenceKind::given, heads, false);
  return all;
}

TEST_CASE("an operator of any recurrence says what it is, and applies its matrices both ways", "[operator]") {
  Draw draw(7);
  const Matrix<double> x = draw.normals<double>(tokens, channels), g = draw.normals<double>(tokens, channels);
  for (Case& one : cases())
    for (const bool reversed : {false, true}) {
      INFO(one.what << (reversed ? ", reversed" : ""));
      one.form.reversed = reversed;
      const ImplicitAttention<double> attention(one.form);
      CHECK(attention.form().recurrence.kind() == one.kind);
      CHECK(attention.form().recurrence.causal() == one.causal);
      CHECK(attention.tokens() == tokens);
      CHECK(attention.channels() == channels);
      CHECK(attention.causal() == (one.causal && !reversed));
      const AttentionMatrix<double> all = attention.materialize();
      CHECK(all.tokens() == tokens);
      const Matrix<double> applied = attention.apply(x), back = attention.apply_transpose(g);
      for (Index e = 0; e < channels; ++e) {
        CHECK((applied.col(e) - all.channel(e) * x.col(e)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
        CHECK((back.col(e) - all.channel(e).transpose() * g.col(e)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
      }
      CHECK((attention.run(x) - applied).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
    }
}

TEST_CASE("a single token sees itself alone, from either end", "[operator]") {
  Form form;
  DiagonalRecurrence<double> recurrence = diagonal();
  recurrence.tokens = 1;
  for (Array<double>* array : {&recurrence.step, &recurrence.query, &recurrence.key}) *array = array->middle_rows(0, 1);
  form.recurrence = recurrence;
  form.reversed = true;
  CHECK(ImplicitAttention<double>(form).causal());
  recurrence = diagonal();
  form.recurrence = recurrence;
  CHECK_FALSE(ImplicitAttention<double>(form).causal());
  // One part that sees later tokens is enough.
  Form sum = form;
  sum.reversed = false;
  CHECK(ImplicitAttention<double>(sum).causal());
  sum.more.push_back(form);
  CHECK_FALSE(ImplicitAttention<double>(sum).causal());
}

TEST_CASE("maps of heads are those of the recurrence, and there are none where every channel has its own", "[operator]") {
  for (const Case& one : cases()) {
    INFO(one.what);
    const ImplicitAttention<double> attention(one.form);
    CHECK(attention.heads() == one.heads);
    if (one.heads == 0) {
      const auto [kind, text] = error_of([&] { (void)attention.head_maps(); });
      CHECK(kind == ErrorKind::value);
      CHECK_THAT(text, contains_text("every channel has a matrix of its own, no head shares one"));
      continue;
    }
    Form bare;
    bare.recurrence = one.form.recurrence;
    const AttentionMatrix<double> maps = attention.head_maps(), expected = ImplicitAttention<double>(bare).materialize();
    for (Index head = 0; head < one.heads; ++head)
      CHECK((maps.channel(head) - expected.channel(head * (channels / one.heads))).cwiseAbs().maxCoeff() < 1e-13);
    CHECK_THAT(error_of([&] { (void)attention.head_maps({}, 1); }).second, contains_text("head_maps: summand"));
  }
}

TEST_CASE("the state after the last token carries a sequence on", "[operator]") {
  const Matrix<double> x = Draw(8).normals<double>(tokens, channels);
  const Index first = 4, rest = tokens - first;
  const auto check = [&](auto whole, const auto& arrays, Index rows, Index columns) {
    const auto form = [&](Index from, Index count) {
      auto part = whole;
      part.tokens = count;
      for (auto array : arrays) part.*array = (whole.*array).middle_rows(from, count);
      Form made;
      made.recurrence = part;
      return made;
    };
    const Matrix<double> expected = ImplicitAttention<double>(form(0, tokens)).run(x);
    Matrix<double> last;
    CHECK((ImplicitAttention<double>(form(0, first)).run(x.topRows(first), &last) - expected.topRows(first)).norm() < 1e-12);
    REQUIRE(last.rows() == rows);
    REQUIRE(last.cols() == columns);
    Form next = form(first, rest);
    next.initial_state = last;
    const ImplicitAttention<double> carried(next);
    CHECK((carried.run(x.bottomRows(rest)) - expected.bottomRows(rest)).norm() < 1e-12);
    CHECK((carried.carry() + carried.apply(x.bottomRows(rest)) - expected.bottomRows(rest)).norm() < 1e-12);
    CHECK(carried.carry().norm() > 1e-3);
  };
  using Diagonal = DiagonalRecurrence<double>;
  check(diagonal(), std::vector<Array<double> Diagonal::*>{&Diagonal::step, &Diagonal::query, &Diagonal::key}, state, channels);
  using Heads = HeadRecurrence<double>;
  check(of_heads(), std::vector<Array<double> Heads::*>{&Heads::query, &Heads::key, &Heads::log_decay}, heads * state, channels / heads);
}

TEST_CASE("a recurrence that leaves no state says so", "[operator]") {
  for (const Recurrence<double>& recurrence :
       {Recurrence<double>(softmax(false)), Recurrence<double>(filter()), Recurrence<double>(given(true))}) {
    Form form;
    form.recurrence = recurrence;
    Matrix<double> after = Matrix<double>::Ones(2, 3);
    static_cast<void>(ImplicitAttention<double>(form).run(Draw(5).normals<double>(tokens, channels), &after));
    CHECK(after.size() == 0);
  }
}

TEST_CASE("what carried-in keys and values give is added to softmax attention", "[operator]") {
  Form form;
  set_softmax(form, softmax(false));
  CHECK(form.initial_state.empty());
  set_softmax(form, softmax(true));
  const SoftmaxRecurrence<double> past = softmax(true);
  const Index values = channels / heads;
  Matrix<double> expected = Matrix<double>::Zero(tokens, channels);
  for (Index h = 0; h < heads; ++h)
    for (Index i = 0; i < tokens; ++i) {
      const auto score = [&](const Array<double>& keys, Index j) {
        return std::exp(past.query.matrix().row(i).segment(h * state, state).dot(keys.matrix().row(j).segment(h * state, state)));
      };
      double sum = 0;
      for (Index j = 0; j <= i; ++j) sum += score(past.key, j);
      for (Index j = 0; j < 3; ++j) sum += score(past.past_key, j);
      for (Index j = 0; j < 3; ++j)
        expected.row(i).segment(h * values, values) +=
            score(past.past_key, j) / sum * past.past_value.matrix().row(j).segment(h * values, values);
    }
  CHECK((ImplicitAttention<double>(form).carry() - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-14);
}

TEST_CASE("a second path that there is not is named, and one of another size is refused", "[operator]") {
  const ImplicitAttention<double> attention(cases()[0].form);
  CHECK_FALSE(attention.has_second());
  CHECK_THAT(error_of([&] { (void)attention.second(); }).second, contains_text("this layer has no second path"));
  CHECK_THAT(error_of([&] { (void)attention.second_input(); }).second, contains_text("this layer has no second path"));
  Form form = cases()[0].form, other;
  DiagonalRecurrence<double> shorter = diagonal();
  shorter.tokens = 3;
  for (Array<double>* array : {&shorter.step, &shorter.query, &shorter.key}) *array = array->middle_rows(0, 3);
  other.recurrence = shorter;
  form.second = std::make_shared<const SecondPath<double>>(SecondPath<double>{other, Matrix<double>(Matrix<double>::Ones(3, channels))});
  CHECK_THAT(error_of([&] { ImplicitAttention<double>{form}; }).second,
             contains_text("the second path is of (3, 6), expected (7, 6) = (tokens, channels)"));
  form.second.reset();
  form.more.push_back(other);
  CHECK_THAT(error_of([&] { ImplicitAttention<double>{form}; }).second,
             contains_text("a form that is added is of (3, 6), expected (7, 6)"));
  form.more.clear();
  form.second = std::make_shared<const SecondPath<double>>(
      SecondPath<double>{cases()[0].form, Matrix<double>(Matrix<double>::Ones(tokens, channels - 1))});
  CHECK_THAT(error_of([&] { ImplicitAttention<double>{form}; }).second,
             contains_text("the second path's input is (7, 5), expected (7, 6)"));
}

}  // namespace implicit_attention_cases
