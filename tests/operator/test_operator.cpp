// Terms, selections, limits, and what the operator refuses.
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/random.hpp>
#include <support/reductions.hpp>

#include <implicit_attention/operator/implicit_attention.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;
using test_support::error_of;

using Diagonal = DiagonalRecurrence<double>;

/// The form with its diagonal recurrence changed.
template <class Change>
void changed(UnifiedForm<double>& form, const Change& change) {
  Diagonal recurrence = *form.recurrence.diagonal();
  change(recurrence);
  form.recurrence = recurrence;
}

/// A small form with every part.
UnifiedForm<double> some_form(Index tokens = 5, Index channels = 4, Index state = 2, Index width = 3) {
  Draw draw(3);
  DiagonalRecurrence<double> recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels;
  recurrence.state = state;
  recurrence.step = draw.uniforms<double>(tokens, channels, 0, 1);
  recurrence.rate = draw.uniforms<double>(state, channels, -2, 0);
  recurrence.query = draw.normals<double>(tokens, state);
  recurrence.key = draw.normals<double>(tokens, state);
  UnifiedForm<double> form;
  form.recurrence = recurrence;
  form.gate = draw.normals<double>(tokens, channels);
  form.normalization = draw.normals<double>(tokens, channels);
  form.skip = draw.normals<double>(1, channels);
  form.activation = draw.normals<double>(tokens, channels);
  form.convolution = draw.normals<double>(channels, width);
  form.convolution_bias = draw.normals<double>(1, channels);
  form.convolution_tail = draw.normals<double>(width - 1, channels);
  form.initial_state = draw.normals<double>(state, channels);
  return form;
}

}  // namespace

TEST_CASE("terms are read as they are written", "[operator]") {
  for (unsigned bits = 0; bits < 128; ++bits) {
    Terms terms;
    for (const Terms::Named& named : Terms::names())
      if (bits & static_cast<unsigned>(named.term)) terms = terms | named.term;
    for (const Terms::Named& named : Terms::names()) CHECK(terms.has(named.term) == ((bits & static_cast<unsigned>(named.term)) != 0));
    if (bits != 0) CHECK(Terms::parse(terms.text()) == terms);
  }
  CHECK(Terms::parse("all") == Terms::all());
  CHECK(Terms::parse("published") == Terms::published());
  CHECK(Terms::parse("recurrence") == Terms::recurrence());
  CHECK(Terms::parse("only:recurrence") == Terms(Term::recurrence));
  CHECK(Terms::parse("only:skip,gate") == (Terms(Term::gate) | Term::skip));
  CHECK(Terms::parse("skip,bias,gate") == (Terms(Term::gate) | Term::skip | Term::bias));
  CHECK(Terms::all().text() == "all");
  CHECK(Terms::published().text() == "published");
  CHECK(Terms::all().without(Term::skip).text() == "recurrence,gate,activation,convolution,normalization,bias");
  for (const char* wrong :
       {"", "gates", "gate,", ",gate", "gate, skip", "all,gate", "ALL", "only:", "only:published", "recurrence,published"}) {
    INFO("\"" << wrong << "\"");
    const auto [kind, text] = error_of([&] { (void)Terms::parse(wrong); });
    CHECK(kind == ErrorKind::value);
    CHECK_THAT(text, contains_text("unknown term") && contains_text("published") && contains_text("normalization"));
  }
}

TEST_CASE("named sets of terms are more than lists of their terms", "[operator]") {
  const Terms published = Terms(Term::recurrence) | Term::gate | Term::activation | Term::convolution, own = Term::normalization;
  CHECK_FALSE(Terms::published() == published);
  CHECK_FALSE(Terms::recurrence() == Terms(Term::recurrence));
  // A layer that has nothing to add takes them as the lists; one that has something adds it to named sets alone.
  CHECK(Terms::published().resolved() == published);
  CHECK(Terms::recurrence().resolved() == Terms(Term::recurrence));
  CHECK(Terms::published().resolved(own) == (published | own));
  CHECK(Terms::recurrence().resolved(own) == (Terms(Term::recurrence) | own));
  CHECK(published.resolved(own) == published);
  CHECK(Terms(Term::recurrence).resolved(own) == Terms(Term::recurrence));
  CHECK(Terms::all().resolved(own) == Terms::all());
  // What is made from one stays one, unless the scale itself is taken out.
  CHECK(Terms::published().without(Term::gate).resolved(own) == (published.without(Term::gate) | own));
  CHECK((Terms::recurrence() | Term::gate).resolved(own) == (Terms(Term::recurrence) | Term::gate | own));
  CHECK(Terms::published().without(Term::normalization) == published);
  CHECK_THAT(Terms::published().without(Term::gate).text(), contains_text("recurrence,activation,convolution, and the layer's own scale"));
}

TEST_CASE("indices out of range are named", "[operator]") {
  CHECK(Indices::all().resolve(3, "row") == std::vector<Index>{0, 1, 2});
  CHECK(Indices::last().resolve(3, "row") == std::vector<Index>{2});
  CHECK(Indices(std::vector<Index>{2, 0, 2}).resolve(3, "row") == std::vector<Index>{2, 0, 2});
  CHECK(Indices(std::vector<Index>{}).resolve(3, "row").empty());
  for (const Index wrong : {Index(3), Index(-1)}) {
    const auto [kind, text] = error_of([&] { (void)Indices(std::vector<Index>{0, wrong}).resolve(3, "channel"); });
    CHECK(kind == ErrorKind::value);
    CHECK(text == detail::message("channel ", wrong, " is out of range, expected 0 to 2"));
  }
  const ImplicitAttention<double> attention(some_form());
  Selection selection;
  selection.rows = std::vector<Index>{5};
  CHECK_THAT(error_of([&] { (void)attention.materialize(selection); }).second, contains_text("row 5") && contains_text("0 to 4"));
  CHECK_THAT(error_of([&] { (void)attention.reduce({}, selection); }).second, contains_text("row 5"));
  selection = {};
  selection.channels = std::vector<Index>{-1};
  CHECK_THAT(error_of([&] { (void)attention.materialize(selection); }).second, contains_text("channel -1") && contains_text("0 to 3"));
}

TEST_CASE("more than the caller allows is refused, with the ways out", "[operator]") {
  const ImplicitAttention<double> attention(some_form());
  Selection selection;
  selection.byte_limit = 4 * 5 * 5 * sizeof(double);
  CHECK(attention.materialize(selection).channels() == 4);
  selection.byte_limit -= 1;
  auto [kind, text] = error_of([&] { (void)attention.materialize(selection); });
  CHECK(kind == ErrorKind::limit);
  CHECK_THAT(text, contains_text("4 x 5 x 5") && contains_text("channels") && contains_text("rows") && contains_text("reduction") &&
                       contains_text("byte_limit") && contains_text("takes 800 bytes, more than the limit of 799 bytes"));
  selection.byte_limit = 0;
  std::tie(kind, text) = error_of([&] { (void)attention.reduce({}, selection); });
  CHECK(kind == ErrorKind::limit);
  CHECK_THAT(text, contains_text("5 x 5"));
  // The caller's own memory is the caller's decision.
  Matrix<double> memory(20, 5);
  attention.materialize_into(memory, selection);
  CHECK(memory.allFinite());

  // 6 million channels of a thousand tokens, by default: found before anything is allocated. Sizes beyond 2^64 do not wrap around.
  CHECK_THAT(error_of([] {
               check_byte_limit("attention", {Index(6000000), 1000, 1000}, 4, IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT);
             }).second,
             contains_text("22888184 MiB") && contains_text("4096 MiB"));
  const Index huge = Index(1) << 40;
  CHECK(error_of([&] {
          check_byte_limit("attention", {huge, huge, huge}, 8, std::numeric_limits<std::size_t>::max());
        }).first == ErrorKind::limit);
}

TEST_CASE("parts that do not fit each other are refused by name", "[operator]") {
  using Form = UnifiedForm<double>;
  struct Wrong {
    const char* name;
    void (*change)(Form&);
    const char* expected;
  };
#define IMPLICIT_ATTENTION_WRONG_ROWS(part, expected)                                      \
  {                                                                                        \
#part, [](Form & f) { f.part = Matrix<double>(Matrix<double>::Ones(7, 9)); }, expected \
  }
#define IMPLICIT_ATTENTION_WRONG_RECURRENCE(part, expected)                                                                 \
  {                                                                                                                         \
#part, [](Form & f) { changed(f, [](Diagonal& r) { r.part = Matrix<double>(Matrix<double>::Ones(7, 9)); }); }, expected \
  }
  const Wrong cases[] = {IMPLICIT_ATTENTION_WRONG_ROWS(gate, "(5, 4)"),
                         IMPLICIT_ATTENTION_WRONG_ROWS(normalization, "(5, 4)"),
                         IMPLICIT_ATTENTION_WRONG_ROWS(skip, "(4)"),
                         IMPLICIT_ATTENTION_WRONG_ROWS(activation, "(5, 4)"),
                         IMPLICIT_ATTENTION_WRONG_ROWS(convolution, "(4, 9)"),
                         IMPLICIT_ATTENTION_WRONG_ROWS(convolution_bias, "(4)"),
                         IMPLICIT_ATTENTION_WRONG_ROWS(convolution_tail, "(2, 4)"),
                         IMPLICIT_ATTENTION_WRONG_ROWS(initial_state, "(2, 4)"),
                         IMPLICIT_ATTENTION_WRONG_RECURRENCE(step, "(5, 4)"),
                         IMPLICIT_ATTENTION_WRONG_RECURRENCE(rate, "(2, 4)"),
                         IMPLICIT_ATTENTION_WRONG_RECURRENCE(query, "(5, 2)"),
                         IMPLICIT_ATTENTION_WRONG_RECURRENCE(key, "(5, 2)"),
                         IMPLICIT_ATTENTION_WRONG_RECURRENCE(query_scale, "(5, 4)"),
                         IMPLICIT_ATTENTION_WRONG_RECURRENCE(key_scale, "(5, 4)")};
#undef IMPLICIT_ATTENTION_WRONG_ROWS
#undef IMPLICIT_ATTENTION_WRONG_RECURRENCE
  for (const Wrong& one : cases) {
    Form form = some_form();
    one.change(form);
    INFO(one.name);
    const auto [kind, text] = error_of([&] { ImplicitAttention<double>{form}; });
    CHECK(kind == ErrorKind::shape);
    CHECK_THAT(text, contains_text(one.name) && contains_text("(7, 9)") && contains_text(one.expected));
  }
  // Rows without a number in them are refused as any others are.
  const Array<double> hollow = Matrix<double>(3, 0);
  for (Array<double> Form::*part :
       {&Form::gate, &Form::normalization, &Form::skip, &Form::activation, &Form::convolution, &Form::input_scale, &Form::convolution_bias,
        &Form::norm_bias, &Form::convolution_tail, &Form::initial_state}) {
    Form form = some_form();
    form.*part = hollow;
    const auto [kind, text] = error_of([&] { ImplicitAttention<double>{form}; });
    CHECK(kind == ErrorKind::shape);
    CHECK_THAT(text, contains_text("(3, 0), expected ("));
  }
  for (Array<double> Diagonal::*part :
       {&Diagonal::step, &Diagonal::rate, &Diagonal::query, &Diagonal::key, &Diagonal::query_scale, &Diagonal::key_scale}) {
    Form form;
    form.recurrence = identity_recurrence<double>(5, 4);
    changed(form, [&](Diagonal& r) { r.*part = hollow; });
    CHECK_THAT(error_of([&] { ImplicitAttention<double>{form}; }).second, contains_text("(3, 0), expected ("));
  }
  for (const std::vector<Index>& starts : {std::vector<Index>{2, 1}, {1, 1}, {-1}, {5}}) {
    Form form = some_form();
    changed(form, [&](Diagonal& r) { r.starts = starts; });
    CHECK_THAT(error_of([&] { ImplicitAttention<double>{form}; }).second,
               contains_text("starts has ") && contains_text("ascending order, below 5"));
    form = some_form();
    form.convolution_starts = starts;
    CHECK(error_of([&] { ImplicitAttention<double>{form}; }).first == ErrorKind::value);
  }
  ExplicitRecurrence<double> given;
  given.tokens = 3;
  given.channels = 4;
  given.heads = 3;
  given.weights = Matrix<double>(Matrix<double>::Zero(9, 3));
  Form form;
  form.recurrence = given;
  CHECK_THAT(error_of([&] { ImplicitAttention<double>{form}; }).second, contains_text("4 channels do not divide into 3 heads"));
  given.heads = 2;
  form.recurrence = given;
  CHECK_THAT(error_of([&] { ImplicitAttention<double>{form}; }).second, contains_text("weights") && contains_text("(6, 3)"));
}

TEST_CASE("sizes that no array can have are refused by name", "[operator]") {
  constexpr Index largest = std::numeric_limits<Index>::max(), least = std::numeric_limits<Index>::min();
  const auto refused = [](const auto& recurrence, const std::string& expected) {
    UnifiedForm<double> form;
    form.recurrence = recurrence;
    const auto [kind, text] = error_of([&] { ImplicitAttention<double>{form}; });
    CHECK(kind == ErrorKind::shape);
    CHECK_THAT(text, contains_text(expected));
  };
  const auto ones = [](Index rows, Index columns) { return Array<double>(Matrix<double>(Matrix<double>::Ones(rows, columns))); };
  for (const Index tokens : {Index(-1), least}) {
    const std::string negative = "tokens is " + std::to_string(tokens) + ", expected at least 0";
    DiagonalRecurrence<double> diagonal = identity_recurrence<double>(5, 4);
    diagonal.tokens = tokens;
    refused(diagonal, negative);
    HeadRecurrence<double> heads;
    heads.tokens = tokens;
    heads.channels = heads.heads = heads.groups = 2;
    refused(heads, negative);
    SoftmaxRecurrence<double> softmax;
    softmax.tokens = tokens;
    softmax.channels = 2;
    softmax.query = softmax.key = ones(1, 2);
    refused(softmax, negative);
    ToeplitzRecurrence<double> toeplitz;
    toeplitz.tokens = tokens;
    toeplitz.channels = toeplitz.heads = 3;
    toeplitz.kernel = ones(3, 4);
    refused(toeplitz, negative);
    ExplicitRecurrence<double> given;
    given.tokens = tokens;
    given.channels = given.heads = 2;
    refused(given, negative);
  }
  DiagonalRecurrence<double> diagonal = identity_recurrence<double>(5, 4);
  diagonal.state = 0;
  diagonal.rate = Matrix<double>(0, 4);
  refused(diagonal, "state is 0, expected at least 1");
  diagonal.channels = -1;
  refused(diagonal, "channels is -1, expected at least 0");
  HeadRecurrence<double> heads;
  heads.tokens = 5;
  heads.channels = heads.heads = heads.groups = 4;
  heads.state = Index(1) << 62U;
  heads.query = heads.key = ones(5, 4);
  refused(heads, "heads * state is 4 * 4611686018427387904, more than an array can have");
  ToeplitzRecurrence<double> toeplitz;
  toeplitz.tokens = largest;
  toeplitz.channels = toeplitz.heads = 3;
  toeplitz.kernel = ones(3, 4);
  refused(toeplitz, "tokens * channels is ");
  toeplitz.tokens = Index(1) << 40U;
  refused(toeplitz, "tokens * tokens is 1099511627776 * 1099511627776, more than an array can have");
  toeplitz.tokens = Index(1) << 31U;  // a list of so many rows is not made to find that the map is too large
  UnifiedForm<double> long_form;
  long_form.recurrence = toeplitz;
  const ImplicitAttention<double> attention(long_form);
  const std::string all = "all of 2147483648 rows were asked for, expected at most 268435456";
  for (const auto& [kind, text] : {error_of([&] { (void)attention.materialize(); }), error_of([&] { (void)attention.reduce({}); }),
                                   error_of([&] { (void)attention.head_maps(); })}) {
    CHECK(kind == ErrorKind::limit);
    CHECK_THAT(text, contains_text(all));
  }
  ExplicitRecurrence<double> given;
  given.tokens = largest;
  given.channels = given.heads = 2;
  refused(given, "heads * tokens is 2 * ");
}

TEST_CASE("what does not fit leaves the caller's memory as it was", "[operator]") {
  const ImplicitAttention<double> attention(some_form());
  Matrix<double> memory = Matrix<double>::Constant(6, 5, 42);
  const Matrix<double> before = memory, x = Matrix<double>::Ones(5, 4);
  const auto refused = [&](const char* text, const auto& call) {
    const auto [kind, what] = error_of(call);
    CHECK(kind == ErrorKind::shape);
    CHECK_THAT(what, contains_text(text));
    CHECK((memory - before).isZero(0));
  };
  refused("materialize_into: out is (6, 5), expected (20, 5)", [&] { attention.materialize_into(memory); });
  refused("reduce_into: out is (6, 5), expected (5, 5)", [&] { attention.reduce_into(memory); });
  refused("apply: out is (6, 5), expected (5, 4)", [&] { attention.apply_into(memory, x); });
  refused("apply: x is (6, 5), expected (5, 4)", [&] { (void)attention.apply(memory); });
  refused("apply_transpose: g is (6, 5), expected (5, 4)", [&] { (void)attention.apply_transpose(memory); });
  Reduction<double> reduction;
  reduction.row_weights = memory;
  refused("row_weights is (6, 5), expected (5, 4)", [&] { (void)attention.reduce(reduction); });
  reduction = {};
  reduction.column_weights = memory;
  refused("column_weights is (6, 5), expected (5, 4)", [&] { (void)attention.reduce(reduction); });
  Selection none;
  none.channels = std::vector<Index>{};
  CHECK_THAT(error_of([&] { (void)attention.reduce({}, none); }).second, contains_text("no channel"));
  none.rows = std::vector<Index>{};
  CHECK(attention.materialize(none).stacked().rows() == 0);
}

TEST_CASE("bias and carry are the affine part of the same operator", "[operator]") {
  // Both enter before the activation: what a constant input and what earlier inputs would give.
  const UnifiedForm<double> form = some_form();
  UnifiedForm<double> bare = form;
  bare.convolution = bare.convolution_tail = Array<double>();
  const ImplicitAttention<double> attention(form), inner(bare);
  const Matrix<double> constant = form.convolution_bias.matrix().replicate(5, 1);
  CHECK((attention.bias() - inner.apply(constant)).norm() < 1e-13 * attention.bias().norm());  // the same sums in the same precision
  UnifiedForm<double> no_state = form;
  no_state.initial_state = Array<double>();
  const Matrix<double> tail = *form.convolution_tail;
  Matrix<double> reached = Matrix<double>::Zero(5, 4);
  for (Index e = 0; e < 4; ++e) {
    reached(0, e) = form.convolution(e, 0) * tail(0, e) + form.convolution(e, 1) * tail(1, e);
    reached(1, e) = form.convolution(e, 0) * tail(1, e);
  }
  const ImplicitAttention<double> only_tail(no_state);
  CHECK((only_tail.carry() - inner.apply(reached)).norm() < 1e-13 * only_tail.carry().norm());
}

namespace {

/// Forms on one input that are added, one of them from the last token to the first, and a path beside them with its own input.
UnifiedForm<double> sum_of_forms(bool reversed, bool second) {
  Draw draw(17);
  UnifiedForm<double> form = some_form(), other = some_form();
  other.gate = draw.normals<double>(5, 4);
  other.skip = draw.normals<double>(1, 4);
  other.reversed = reversed;
  form.more = {other};
  if (second) {
    UnifiedForm<double> beside = some_form();
    beside.gate = draw.normals<double>(5, 4);
    form.second = std::make_shared<const SecondPath<double>>(SecondPath<double>{beside, draw.normals<double>(5, 4)});
  }
  return form;
}

constexpr ReductionKind reduction_kinds[] = {ReductionKind::mean, ReductionKind::mean_abs, ReductionKind::mean_positive, ReductionKind::max,
                                             ReductionKind::min};

/// The definition, entry by entry.
double reduced_entry(const Reduction<double>& reduction, const AttentionMatrix<double>& all, const std::vector<Index>& channels, Index row,
                     Index column) {
  std::vector<double> entries;
  for (const Index channel : channels) {
    double entry = all(channel, row, column);
    if (!reduction.row_weights.empty()) entry *= reduction.row_weights(row, channel);
    if (!reduction.column_weights.empty()) entry *= reduction.column_weights(column, channel);
    entries.push_back(entry);
  }
  return test_support::reduced_by_definition(reduction.kind, entries);
}

}  // namespace

TEST_CASE("a sum of forms is reduced as a sum, one form by itself", "[operator]") {
  Draw draw(23);
  for (const bool summed : {false, true})
    for (const bool spoilt : {false, true}) {
      UnifiedForm<double> form = summed ? sum_of_forms(true, false) : some_form();
      if (spoilt) {  // in the last channel that is chosen, where a largest number alone would pass it by
        Matrix<double> gate = *form.gate;
        gate(3, 2) = std::numeric_limits<double>::quiet_NaN();
        form.gate = gate;
      }
      const ImplicitAttention<double> attention(form);
      const AttentionMatrix<double> all = attention.materialize();
      Selection selection;
      selection.channels = Indices({0, 1, 2});
      selection.rows = Indices({1, 3, 4});
      for (const ReductionKind kind : reduction_kinds)
        for (const bool weighted : {false, true}) {
          CAPTURE(summed, spoilt, weighted, static_cast<int>(kind));
          Reduction<double> reduction;
          reduction.kind = kind;
          if (weighted) {
            reduction.row_weights = draw.normals<double>(5, 4);
            reduction.column_weights = draw.normals<double>(5, 4);
          }
          const Matrix<double> map = attention.reduce(reduction, selection);
          for (Index r = 0; r < 3; ++r)
            for (Index j = 0; j < 5; ++j) {
              const Index row = Index(r == 0 ? 1 : r + 2);
              const double expected = reduced_entry(reduction, all, {0, 1, 2}, row, j);
              CAPTURE(row, j, map(r, j), expected);
              if (std::isnan(expected))
                CHECK(std::isnan(map(r, j)));
              else
                CHECK(std::abs(map(r, j) - expected) < 1e-13);
            }
        }
    }
}

TEST_CASE("a reduction keeps its digits where row weights are so small that products with them underflow", "[operator]") {
  Draw draw(31);
  const ImplicitAttention<double> attention(some_form());
  for (const ReductionKind kind : reduction_kinds) {
    Reduction<double> ordinary, faded;
    ordinary.kind = faded.kind = kind;
    Matrix<double> weights = draw.normals<double>(5, 4), columns = draw.normals<double>(5, 4) * 0x1p-50;
    weights.row(2).setZero();
    ordinary.row_weights = weights;
    ordinary.column_weights = faded.column_weights = columns;
    weights.bottomRows(4) *= 0x1p-990;
    faded.row_weights = weights;
    Selection selection;
    selection.rows = Indices({0, 4, 2, 3});
    const Matrix<double> expected = attention.reduce(ordinary, selection), map = attention.reduce(faded, selection);
    for (Index r = 0; r < 4; ++r)
      for (Index j = 0; j < 5; ++j) {
        CAPTURE(static_cast<int>(kind), r, j);
        // Powers of two: every digit that a number of that size has.
        CHECK(std::abs(map(r, j) - std::ldexp(expected(r, j), r == 0 ? 0 : -990)) <= 2 * std::numeric_limits<double>::denorm_min());
      }
    CHECK(map.row(1).cwiseAbs().maxCoeff() > 0);
    CHECK(map.row(0) == expected.row(0));
  }
}

TEST_CASE("what a sum of forms gives is its matrix, its biases and what it carries in", "[operator]") {
  Draw draw(29);
  const Matrix<double> x = draw.normals<double>(5, 4);
  for (const bool second : {false, true}) {
    const UnifiedForm<double> form = sum_of_forms(false, second);
    const ImplicitAttention<double> attention(form);
    Matrix<double> expected = attention.bias() + attention.carry();
    const AttentionMatrix<double> all = attention.materialize();
    for (Index e = 0; e < 4; ++e) expected.col(e) += all.channel(e) * x.col(e);
    if (second) {
      const AttentionMatrix<double> beside = attention.second().materialize();
      for (Index e = 0; e < 4; ++e) expected.col(e) += beside.channel(e) * attention.second_input().matrix().col(e);
      CHECK((attention.bias() - ImplicitAttention<double>(sum_of_forms(false, false)).bias() - attention.second().bias()).norm() < 1e-13);
    }
    CHECK((attention.run(x) - expected).norm() < 1e-12 * expected.norm());
    // No part is so small that the sum would not show it.
    UnifiedForm<double> without_tail = form;
    without_tail.convolution_tail = Array<double>();
    CHECK((ImplicitAttention<double>(without_tail).run(x) - expected).norm() > 1e-3 * expected.norm());
  }
}

TEST_CASE("a reversed form is the same form on reversed tokens, its biases too", "[operator]") {
  Draw draw(37);
  const Matrix<double> x = draw.normals<double>(5, 4), backward = x.colwise().reverse();
  for (const Index bias_rows : {1, 5})
    for (const bool gated : {false, true}) {
      CAPTURE(bias_rows, gated);
      UnifiedForm<double> form = some_form();
      form.norm_bias = draw.normals<double>(bias_rows, 4);
      if (!gated) form.gate = Array<double>();
      const ImplicitAttention<double> in_order(form);
      form.reversed = true;
      const ImplicitAttention<double> reversed(form);
      CHECK(reversed.run(x) == in_order.run(backward).colwise().reverse());
      CHECK(reversed.bias() == in_order.bias().colwise().reverse());
      CHECK(reversed.carry() == in_order.carry().colwise().reverse());
    }
}
