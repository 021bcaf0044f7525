// The recurrence of a stream: of every kind that grows, its arrays are those of all tokens at once, however they came.
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/random.hpp>

#include <implicit_attention/streaming/recurrence_history.hpp>

namespace recurrence_history_cases {

using namespace implicit_attention;
using test_support::Draw;
using test_support::error_of;
using Form = UnifiedForm<double>;

constexpr Index all_tokens = 11, channels = 6, heads = 2, state = 3;

DiagonalRecurrence<double> diagonal() {
  Draw draw(1);
  DiagonalRecurrence<double> all;
  all.tokens = all_tokens, all.channels = channels, all.state = state;
  all.step = draw.uniforms<double>(all_tokens, channels, 0, 1);
  all.rate = draw.uniforms<double>(state, channels, -1, 0);
  all.query = draw.normals<double>(all_tokens, state);
  all.key = draw.normals<double>(all_tokens, state);
  all.query_scale = draw.normals<double>(all_tokens, channels);
  all.key_scale = draw.normals<double>(all_tokens, channels);
  all.diagonal = draw.normals<double>(all_tokens, channels);
  all.read_before_update = true;
  return all;
}

HeadRecurrence<double> of_heads() {
  Draw draw(2);
  HeadRecurrence<double> all;
  all.tokens = all_tokens, all.channels = channels, all.heads = all.groups = heads, all.state = state;
  all.transition = Transition::rank_one;
  for (Array<double>* array : {&all.query, &all.key, &all.removal, &all.probe}) *array = draw.normals<double>(all_tokens, heads * state);
  all.key_scale = draw.normals<double>(all_tokens, heads);
  all.log_decay = draw.uniforms<double>(all_tokens, heads, -1, 0);
  all.diagonal = draw.normals<double>(all_tokens, heads);
  return all;
}

SoftmaxRecurrence<double> softmax() {
  Draw draw(3);
  SoftmaxRecurrence<double> all;
  all.tokens = all_tokens, all.channels = channels, all.heads = heads, all.key_heads = 1;
  all.query = draw.normals<double>(all_tokens, heads * state);
  all.key = draw.normals<double>(all_tokens, state);
  all.scale = 0.5, all.soft_cap = 20, all.window = 4;
  return all;
}

ToeplitzRecurrence<double> band() {
  ToeplitzRecurrence<double> all;
  all.tokens = all_tokens, all.channels = all.heads = channels;
  all.kernel = Draw(4).normals<double>(channels, 3);
  return all;
}

using Members = std::vector<Array<double>*>;
Members arrays(DiagonalRecurrence<double>& r) { return {&r.step, &r.query, &r.key, &r.query_scale, &r.key_scale, &r.diagonal}; }
Members arrays(HeadRecurrence<double>& r) { return {&r.query, &r.key, &r.key_scale, &r.log_decay, &r.removal, &r.probe, &r.diagonal}; }
Members arrays(SoftmaxRecurrence<double>& r) { return {&r.query, &r.key}; }
Members arrays(ToeplitzRecurrence<double>&) { return {}; }

/// Tokens first..first+count-1 alone.
template <class Of>
Form piece(Of all, Index first, Index count) {
  all.tokens = count;
  for (Array<double>* array : arrays(all))
    if (!array->empty()) *array = Matrix<double>(array->matrix().middleRows(first, count));
  Form form;
  form.recurrence = std::move(all);
  form.continuation.has_all_taps = true;
  return form;
}

/// A history that pieces go through as a stream hands them over: checked, then taken.
struct History {
  explicit History(Index kept = 0) : window(kept) {}
  void append(const Form& form) {
    const Index held = tokens();
    detail::NextPiece next{.tokens = form.tokens(), .held = held, .seen = seen, .window = window};
    history.walk(form, next);
    next.takes = true;
    history.walk(form, next);
    seen += form.tokens();
  }
  [[nodiscard]] Index tokens() const { return window > 0 ? std::min(window, seen) : seen; }
  [[nodiscard]] Form form() const {
    Form made;
    history.put_into(made, tokens(), seen - tokens());
    return made;
  }
  detail::RecurrenceHistory<double> history;
  Index window, seen = 0;
};

template <class Of>
const Of* held(const Form& form) {
  if constexpr (std::is_same_v<Of, DiagonalRecurrence<double>>)
    return form.recurrence.diagonal();
  else if constexpr (std::is_same_v<Of, HeadRecurrence<double>>)
    return form.recurrence.heads();
  else if constexpr (std::is_same_v<Of, SoftmaxRecurrence<double>>)
    return form.recurrence.softmax();
  else
    return form.recurrence.toeplitz();
}

/// That the last tokens of `all` are kept, whatever the pieces.
template <class Of>
void check_kept(const std::string& what, Of all, const std::vector<Index>& windows) {
  for (const Index window : windows)
    for (const Index count : {1, 2, 4, 11}) {
      INFO(what << ", pieces of " << count << " behind a window of " << window);
      History history(window);
      for (Index first = 0; first < all_tokens; first += count) history.append(piece(all, first, std::min(count, all_tokens - first)));
      const Form form = history.form();
      const Of* const found = held<Of>(form);
      REQUIRE(found != nullptr);
      found->check();
      CHECK(found->tokens == history.tokens());
      CHECK(found->channels == channels);
      Of kept = *found;
      const Members of_all = arrays(all), of_kept = arrays(kept);
      for (std::size_t k = 0; k < of_all.size(); ++k) {
        INFO("array " << k);
        REQUIRE(of_kept[k]->empty() == of_all[k]->empty());
        if (!of_all[k]->empty()) CHECK(of_kept[k]->matrix() == of_all[k]->matrix().bottomRows(history.tokens()));
      }
      CHECK((history.history.bytes() == 0) == of_all.empty());
    }
}

TEST_CASE("recurrences of every kind that grows are kept as they came", "[streaming]") {
  check_kept("one a channel", diagonal(), {0, 1, 5, 40});
  DiagonalRecurrence<double> bare = diagonal();
  bare.rate = bare.query = bare.key = bare.query_scale = bare.key_scale = bare.diagonal = {};
  bare.state = 1, bare.read_before_update = false;
  check_kept("decays alone", bare, {0, 3});
  check_kept("one a head", of_heads(), {0, 1, 5, 40});
  HeadRecurrence<double> without = of_heads();
  without.transition = Transition::diagonal;
  without.key_scale = without.log_decay = without.removal = without.probe = without.diagonal = {};
  check_kept("queries and keys alone", without, {0, 3});
  check_kept("softmax", softmax(), {0});
  check_kept("a band", band(), {0, 4});
}

TEST_CASE("what is the same at every token is kept, and may not change", "[streaming]") {
  History history;
  history.append(piece(diagonal(), 0, 4));
  CHECK(history.form().recurrence.diagonal()->rate.matrix() == diagonal().rate.matrix());
  CHECK(history.form().recurrence.diagonal()->read_before_update);
  const auto refused = [](History& into, const auto& all, ErrorKind kind, const std::string& expected) {
    const auto [found, text] = error_of([&] { into.append(piece(all, 4, 2)); });
    CHECK(found == kind);
    CHECK_THAT(text, contains_text(expected));
    CHECK(into.seen == 4);
  };
  const std::string other = "of another kind, or of other sizes or scales";
  DiagonalRecurrence<double> changed = diagonal();
  Matrix<double> rate = *changed.rate;
  rate(1, 2) += 1;
  changed.rate = rate;
  refused(history, changed, ErrorKind::value, "rate has different numbers");
  changed.rate = Matrix<double>(rate.topRows(2));
  refused(history, changed, ErrorKind::shape, "rate is (2, 6), expected (3, 6)");
  changed = diagonal();
  changed.read_before_update = false;
  refused(history, changed, ErrorKind::shape, other);
  changed = diagonal();
  changed.state = 2;
  refused(history, changed, ErrorKind::shape, other);
  refused(history, of_heads(), ErrorKind::shape, other);
  refused(history, softmax(), ErrorKind::shape, other);
  refused(history, band(), ErrorKind::shape, other);

  History head_history;
  head_history.append(piece(of_heads(), 0, 4));
  CHECK(head_history.form().recurrence.heads()->transition == Transition::rank_one);
  CHECK(!head_history.history.is_finite_diagonal());
  for (int change = 0; change < 5; ++change) {
    INFO("change " << change);
    HeadRecurrence<double> now = of_heads();
    if (change == 0) now.heads = 1;
    if (change == 1) now.groups = 1;
    if (change == 2) now.state = 6;
    if (change == 3) now.transition = Transition::diagonal;
    if (change == 4) now.read_before_update = true;
    refused(head_history, now, ErrorKind::shape, other);
  }

  History softmax_history;
  softmax_history.append(piece(softmax(), 0, 4));
  CHECK(softmax_history.form().recurrence.softmax()->window == 4);
  CHECK(softmax_history.form().recurrence.softmax()->soft_cap == 20);
  for (int change = 0; change < 5; ++change) {
    INFO("change " << change);
    SoftmaxRecurrence<double> now = softmax();
    if (change == 0) now.heads = 3;
    if (change == 1) now.key_heads = 2;
    if (change == 2) now.window = 5;
    if (change == 3) now.scale = 0.25;
    if (change == 4) now.soft_cap = 0;
    refused(softmax_history, now, ErrorKind::shape, other);
  }

  History band_history;
  band_history.append(piece(band(), 0, 4));
  ToeplitzRecurrence<double> other_band = band();
  other_band.kernel = Matrix<double>(2 * band().kernel.matrix());
  refused(band_history, other_band, ErrorKind::value, "kernel has different numbers");
}

TEST_CASE("recurrences that do not grow by their tokens' rows are refused", "[streaming]") {
  const auto refused = [](const Form& form, const std::string& expected, Index window = 0) {
    History history(window);
    const auto [kind, text] = error_of([&] { history.append(form); });
    CHECK(kind == ErrorKind::value);
    CHECK_THAT(text, contains_text(expected));
    CHECK(history.seen == 0);
    history.append(piece(diagonal(), 0, 2));  // nothing was taken: another kind may come
    CHECK(history.form().recurrence.diagonal() != nullptr);
  };
  refused(piece(softmax(), 0, 2), "so it cannot be kept behind a window; expected a window of 0", 5);
  SoftmaxRecurrence<double> given = softmax();
  given.causal = false;
  refused(piece(given, 0, 2), "append the past tokens first");
  given = softmax();
  given.past_key = given.past_value = Matrix<double>(Matrix<double>::Ones(1, state));
  refused(piece(given, 0, 2), "append the past tokens first");
  Form filter = piece(band(), 0, 2);
  filter.continuation.has_all_taps = false;
  refused(filter, "does not grow by rows of its tokens");
  filter = piece(band(), 0, 2);
  filter.initial_state = Matrix<double>(Matrix<double>::Ones(2, channels));
  refused(filter, "append the past tokens first");
}

TEST_CASE("keys that are scaled by their steps are kept once, until a piece's are not", "[streaming]") {
  DiagonalRecurrence<double> all = diagonal();
  const auto shared_piece = [&](Index first, Index count) {
    DiagonalRecurrence<double> one = *piece(all, first, count).recurrence.diagonal();
    one.key_scale = one.step;
    Form form;
    form.recurrence = one;
    return form;
  };
  for (const Index window : {Index(0), Index(4)}) {
    INFO("a window of " << window);
    History history(window), apart(window);
    for (Index token = 0; token < 6; ++token) {
      history.append(shared_piece(token, 1));
      apart.append(piece(all, token, 1));
    }
    CHECK(history.form().recurrence.diagonal()->key_scale.data() == history.form().recurrence.diagonal()->step.data());
    CHECK(history.history.bytes() < apart.history.bytes());
    history.append(piece(all, 6, 2));
    history.append(shared_piece(8, 2));  // an array of its own again
    Matrix<double> expected = *all.step;
    expected.middleRows(6, 2) = all.key_scale.matrix().middleRows(6, 2);
    const Form form = history.form();
    CHECK(form.recurrence.diagonal()->key_scale.matrix() == expected.topRows(10).bottomRows(history.tokens()));
    CHECK(form.recurrence.diagonal()->step.matrix() == all.step.matrix().topRows(10).bottomRows(history.tokens()));
    DiagonalRecurrence<double> without = all;
    without.key_scale = {};
    History begun(window);
    begun.append(shared_piece(0, 2));
    CHECK_THAT(error_of([&] { begun.append(piece(without, 2, 1)); }).second, contains_text("key_scale is empty, expected it as in"));
  }
}

TEST_CASE("rows come to the scale of the largest exponential so far", "[streaming]") {
  // (1, channels): larger than before in some channels, smaller in others, far away in one.
  Draw draw(9);
  std::vector<Matrix<double>> log_scales;
  for (int part = 0; part < 3; ++part) log_scales.push_back(draw.normals<double>(1, channels, 3));
  log_scales[1](0, 0) = log_scales[0](0, 0) + 900;  // exp of it is no number of double
  const DiagonalRecurrence<double> all = diagonal();
  History history;
  Matrix<double> largest = log_scales[0];
  for (int part = 0; part < 3; ++part) {
    const std::size_t place = static_cast<std::size_t>(part);
    Form form = piece(all, 3 * part, 3);
    form.continuation.log_scale = log_scales[place];
    history.append(form);
    largest = largest.cwiseMax(log_scales[place]);
  }
  const Form form = history.form();
  CHECK(form.continuation.log_scale.matrix() == largest);
  for (Index row = 0; row < 9; ++row)
    for (Index e = 0; e < channels; ++e) {
      // Far away Eigen's exponential is the smallest of numbers rather than 0.
      const double factor = std::exp(log_scales[static_cast<std::size_t>(row / 3)](0, e) - largest(0, e));
      CHECK(form.recurrence.diagonal()->query_scale(row, e) == Approx(all.query_scale(row, e) * factor).epsilon(1e-14).margin(1e-300));
      CHECK(form.recurrence.diagonal()->diagonal(row, e) == Approx(all.diagonal(row, e) * factor).epsilon(1e-14).margin(1e-300));
    }
  CHECK_THAT(error_of([&] { history.append(piece(all, 9, 1)); }).second,
             contains_text("continuation.log_scale is empty, expected it as in the earlier pieces"));
}

TEST_CASE("a token that is written in two halves has its second with the next piece", "[streaming]") {
  const HeadRecurrence<double> all = of_heads();
  const Matrix<double> halves = Draw(12).normals<double>(all_tokens, heads);
  const auto open_piece = [&](Index first, Index count) {
    Form form = piece(all, first, count);
    form.continuation.ends_open = true;
    form.continuation.second_half = Matrix<double>(halves.row(first));
    return form;
  };
  for (const Index window : {Index(0), Index(4)}) {
    History history(window);
    for (const auto& [first, count] : {std::pair<Index, Index>{0, 3}, {3, 1}, {4, 5}}) history.append(open_piece(first, count));
    Matrix<double> expected = all.key_scale.matrix().topRows(9);
    expected.row(2) += halves.row(3);
    expected.row(3) += halves.row(4);
    CHECK(history.form().recurrence.heads()->key_scale.matrix() == expected.bottomRows(history.tokens()));
    Form without = open_piece(9, 1);
    without.continuation.second_half = {};
    CHECK_THAT(error_of([&] { history.append(without); }).second, contains_text("continuation.second_half is empty, expected (1, 2)"));
    Form closed = open_piece(9, 1);
    closed.continuation.ends_open = false;
    CHECK_THAT(error_of([&] { history.append(closed); }).second, contains_text("continuation.ends_open is false, expected true"));
    CHECK(history.form().recurrence.heads()->key_scale.matrix() == expected.bottomRows(history.tokens()));
  }
}

}  // namespace recurrence_history_cases
