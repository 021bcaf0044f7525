// A sequence that comes a token at a time: every row is that of the layer run on all tokens at once.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/layer_weights.hpp>
#include <support/random.hpp>

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/streaming/streaming_attention.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;
using test_support::what_of;

/// The walk multiplies its decays by log2(e) first, and sums convolutions in another order: a few roundings of the largest entry.
template <class S>
constexpr double tolerance = std::is_same_v<S, double> ? 1e-13 : 3e-6;

template <class S>
void check_same(const Matrix<S>& found, const Matrix<S>& expected, const std::string& what) {
  INFO(what);
  REQUIRE(found.rows() == expected.rows());
  REQUIRE(found.cols() == expected.cols());
  const double largest = static_cast<double>(expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  CHECK(static_cast<double>((found - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()) <= tolerance<S> * largest);
}

/// A sequence in pieces, of any layer: what is compared is compiled once for all of them.
template <class S>
struct Pieces {
  Index tokens, channels;
  std::function<UnifiedForm<S>(Index first, Index count)> piece;
  std::function<Array<S>(Index first, Index count)> x;
  [[nodiscard]] ImplicitAttention<S> whole(Index count) const { return ImplicitAttention<S>(piece(0, count)); }
};

/// What a layer makes of tokens first..first+count-1 alone, its activations being those of the whole sequence.
template <class Layer, class S>
struct Sequence {
  Layer layer;
  typename Layer::Activations all;
  std::vector<Array<S> Layer::Activations::*> arrays;
  Terms terms = Terms::all();

  [[nodiscard]] Index tokens() const { return (all.*arrays[0]).rows(); }
  [[nodiscard]] UnifiedForm<S> piece(Index first, Index count) const {
    typename Layer::Activations some;
    for (auto array : arrays)
      if (!(all.*array).empty()) some.*array = (all.*array).middle_rows(first, count);
    if constexpr (requires { some.starts; })
      for (const Index start : all.starts)
        if (start >= first && start < first + count) some.starts.push_back(start - first);
    if (first == 0) some.initial = all.initial;
    return layer.lower(some, terms);
  }
  [[nodiscard]] Array<S> x(Index first, Index count) const { return all.x.middle_rows(first, count); }
  /// Those of this sequence, which must live as long.
  operator Pieces<S>() const {
    return {tokens(), layer.channels(), [this](Index first, Index count) { return piece(first, count); },
            [this](Index first, Index count) { return x(first, count); }};
  }
};

template <class S>
Sequence<Mamba<S>, S> mamba(Index tokens, Index channels = 21, bool carried = false) {
  Draw draw(1);
  const Index D = 5, N = 6, R = 2;
  typename Mamba<S>::Weights w;
  w.in_proj_weight = draw.normals<S>(2 * channels, D, 0.6);
  w.conv1d_weight = draw.normals<S>(channels, 4, 0.5);
  w.conv1d_bias = draw.normals<S>(1, channels, 0.3);
  w.x_proj_weight = draw.normals<S>(R + 2 * N, channels, 0.3);
  w.dt_proj_weight = draw.normals<S>(channels, R, 0.5);
  w.dt_proj_bias = draw.uniforms<S>(1, channels, -5, -1);
  w.A_log = draw.uniforms<S>(channels, N, -1, 3);
  w.D = draw.normals<S>(1, channels);
  w.out_proj_weight = draw.normals<S>(D, channels, 0.5);
  const Mamba<S> layer(w);
  const auto before = layer.activations(draw.normals<S>(9, D));
  using A = typename Mamba<S>::Activations;
  return {layer, layer.activations(draw.normals<S>(tokens, D), carried ? &before.final : nullptr), {&A::dt, &A::z, &A::c, &A::B, &A::C}};
}

template <class S>
Sequence<Rwkv7<S>, S> rwkv7(Index tokens) {
  Draw draw(2);
  const Rwkv7<S> layer(test_support::rwkv7_weights<S>(draw));
  using A = typename Rwkv7<S>::Activations;
  return {layer,
          layer.activations(draw.normals<S>(tokens, layer.width())),
          {&A::value, &A::receptance, &A::key, &A::log_decay, &A::removal, &A::probe, &A::gate, &A::bonus, &A::pre_norm}};
}

template <class S>
Sequence<Griffin<S>, S> griffin(Index tokens, bool within_documents = false) {
  Draw draw(3);
  const Griffin<S> layer(test_support::griffin_weights<S>(draw, -8, -4), {within_documents});
  std::vector<Index> positions;
  for (Index token = 0; token < tokens; ++token) positions.push_back((token + 5) % 30);  // a document begins at 25, 55, ...
  using A = typename Griffin<S>::Activations;
  return {layer, layer.activations(draw.normals<S>(tokens, 4), positions), {&A::log_a, &A::gate_input, &A::input_gate, &A::normalizer}};
}

template <class S>
Sequence<GatedDeltaNet<S>, S> delta(Index tokens) {
  Draw draw(4);
  typename GatedDeltaNet<S>::Options options;
  options.key_heads = 2;
  const GatedDeltaNet<S> layer(test_support::gated_delta_net_weights<S>(draw, -5, 0), options);
  using A = typename GatedDeltaNet<S>::Activations;
  return {layer, layer.activations(draw.normals<S>(tokens, 5)), {&A::query, &A::key, &A::beta, &A::log_decay, &A::o, &A::z, &A::c}};
}

const std::vector<ReductionKind> kinds{ReductionKind::mean, ReductionKind::mean_abs, ReductionKind::mean_positive, ReductionKind::max,
                                       ReductionKind::min};

/// Every row as it is new, every map's newest row, and the whole operator at the end.
template <class S>
void check_stream(const Pieces<S>& sequence, Index prompt, const std::string& what) {
  const Index tokens = sequence.tokens, channels = sequence.channels;
  const Matrix<S> g = Draw(77).normals<S>(1, channels);
  StreamingAttention<S> stream;
  for (Index seen = 0; seen < tokens;) {
    const Index count = seen == 0 ? prompt : 1;
    stream.append(sequence.piece(seen, count), sequence.x(seen, count));
    seen += count;
    REQUIRE(stream.tokens() == seen);
    REQUIRE(stream.first_token() == 0);
    if (seen > 6 && seen < tokens && seen % 31 != 0) continue;
    INFO(seen << " tokens");
    const ImplicitAttention<S> whole = sequence.whole(seen);
    Selection last;
    last.rows = Indices::last();
    check_same<S>(stream.newest_row(), whole.materialize(last).stacked(), what + ": the newest row");
    Reduction<S> reduction;
    reduction.row_weights = Matrix<S>(g.replicate(seen, 1));
    Matrix<S> map(1, seen);
    for (const bool times_input : {false, true}) {
      if (times_input) reduction.column_weights = sequence.x(0, seen);
      for (const ReductionKind kind : kinds) {
        reduction.kind = kind;
        stream.newest_map_row_into(map, kind, g, times_input);
        check_same<S>(map, whole.reduce(reduction, last), detail::message(what, ": the newest row of map ", static_cast<int>(kind)));
      }
    }
    stream.newest_map_row_into(map, ReductionKind::mean_abs);
    Reduction<S> plain;
    plain.kind = ReductionKind::mean_abs;
    check_same<S>(map, whole.reduce(plain, last), what + ": without weights");
    stream.newest_edges_into(map, g);
    check_same<S>(map, edge_map(whole, sequence.x(0, seen), reduction.row_weights, last), what + ": edges");
  }
  const ImplicitAttention<S> whole = sequence.whole(tokens), streamed = stream.attention();
  check_same<S>(streamed.materialize().stacked(), whole.materialize().stacked(), what + ": all rows");
  check_same<S>(streamed.bias(), whole.bias(), what + ": bias");
  check_same<S>(streamed.carry(), whole.carry(), what + ": carry");
  check_same<S>(streamed.apply(*stream.input()), whole.apply(*sequence.x(0, tokens)), what + ": A x");
  if (whole.has_second()) {
    check_same<S>(streamed.second().materialize().stacked(), whole.second().materialize().stacked(), what + ": the second path");
    check_same<S>(streamed.second_input().matrix(), whole.second_input().matrix(), what + ": its input");
  }
  Matrix<S> row(channels, tokens);
  for (const Index token : {Index(0), Index(3), tokens / 2, tokens - 2}) {
    stream.row_into(token, row);
    Selection one;
    one.rows = std::vector<Index>{token};
    check_same<S>(row, whole.materialize(one).stacked(), detail::message(what, ": row ", token));
  }
}

/// Writes something else into an array's numbers before they are written.
template <class S>
Array<S> with(const Array<S>& array, Index row, Index column, S number) {
  Matrix<S> changed = *array;
  changed(row, column) = number;
  return changed;
}

}  // namespace

TEMPLATE_TEST_CASE("a token at a time gives the rows of all at once", "[streaming]", float, double) {
  using S = TestType;
  for (const Index prompt : {Index(1), Index(40)}) {
    const std::string what = detail::message("prompt ", prompt);
    check_stream<S>(mamba<S>(150), prompt, "Mamba, " + what);
    check_stream<S>(mamba<S>(70, 32, true), prompt, "Mamba with a state carried in, " + what);
    check_stream<S>(rwkv7<S>(70), prompt, "RWKV-7, " + what);
    check_stream<S>(griffin<S>(70), prompt, "Griffin, " + what);
    check_stream<S>(griffin<S>(70, true), prompt, "Griffin, convolved within documents, " + what);
    check_stream<S>(delta<S>(70), prompt, "Gated DeltaNet, " + what);
  }
}

TEMPLATE_TEST_CASE("a stream of any terms is the layer of these terms", "[streaming]", float, double) {
  using S = TestType;
  for (const Terms terms : {Terms::published(), Terms::recurrence(), Terms::all().without(Term::gate), Terms::all().without(Term::bias),
                            Terms::all().without(Term::convolution)}) {
    auto one = mamba<S>(70, 17);
    one.terms = terms;
    check_stream<S>(one, 3, "Mamba, " + terms.text());
    auto two = rwkv7<S>(20);
    two.terms = terms;
    check_stream<S>(two, 3, "RWKV-7, " + terms.text());
    auto three = delta<S>(20);
    three.terms = terms;
    check_stream<S>(three, 3, "Gated DeltaNet, " + terms.text());
  }
}

TEMPLATE_TEST_CASE("behind a window, what is kept is what it was", "[streaming]", float, double) {
  using S = TestType;
  const auto check = [](const Pieces<S>& sequence, Index prompt, const std::string& what) {
    const Index window = 13, tokens = sequence.tokens, channels = sequence.channels;
    StreamingOptions options;
    options.window = window;
    StreamingAttention<S> stream(options);
    std::size_t most = 0;
    for (Index seen = 0; seen < tokens;) {
      const Index count = seen == 0 ? prompt : 1;
      stream.append(sequence.piece(seen, count), sequence.x(seen, count));
      seen += count;
      const Index kept = std::min(seen, window), first = seen - kept;
      REQUIRE(stream.tokens() == kept);
      REQUIRE(stream.tokens_seen() == seen);
      REQUIRE(stream.first_token() == first);
      if (seen == prompt + 3 * window) most = stream.bytes();
      if (seen % 9 != 0 && seen != window && seen != window + 1) continue;
      const auto whole = sequence.whole(seen).materialize();
      Matrix<S> row(channels, kept), expected(channels, kept);
      for (const Index token : {seen - 1, first}) {
        stream.row_into(token, row);
        for (Index e = 0; e < channels; ++e) expected.row(e) = whole.channel(e).row(token).segment(first, kept);
        check_same<S>(row, expected, detail::message(what, ": row ", token, " of ", seen));
      }
      if (first > 0) CHECK_THAT(what_of([&] { stream.row_into(first - 1, row); }), contains_text("is not kept, expected"));
    }
    CHECK(stream.bytes() == most);  // memory has stopped growing
    CHECK(stream.attention().carry().isZero(0));
  };
  check(mamba<S>(100, 21, true), 1, "Mamba");
  check(mamba<S>(100), 30, "Mamba, a prompt longer than the window");
  check(griffin<S>(100), 1, "Griffin");
  check(griffin<S>(100, true), 2, "Griffin within documents");
  check(rwkv7<S>(60), 1, "RWKV-7");
  check(delta<S>(60), 1, "Gated DeltaNet");
}

TEST_CASE("a recurrence of one decay for all tokens, and softmax attention, are streamed, too", "[streaming]") {
  Draw draw(9);
  const Index tokens = 20, heads = 2, state = 3, channels = 4;
  HeadRecurrence<double> r;
  r.tokens = tokens, r.channels = channels, r.heads = r.groups = heads, r.state = state;
  r.query = draw.normals<double>(tokens, heads * state);
  r.key = draw.normals<double>(tokens, heads * state);
  r.log_decay = draw.uniforms<double>(1, heads, -1, 0);
  SoftmaxRecurrence<double> s;
  s.tokens = tokens, s.channels = channels, s.heads = s.key_heads = heads;
  s.query = r.query, s.key = r.key;
  const auto check = [&](const auto& recurrence, const std::string& what) {
    UnifiedForm<double> all;
    all.recurrence = recurrence;
    all.norm_bias = Matrix<double>(Matrix<double>::Constant(1, channels, 0.5));
    StreamingAttention<double> stream;
    for (Index token = 0; token < tokens; ++token) {
      auto one = recurrence;
      one.tokens = 1;
      one.query = recurrence.query.middle_rows(token, 1);
      one.key = recurrence.key.middle_rows(token, 1);
      UnifiedForm<double> piece = all;
      piece.recurrence = one;
      stream.append(piece);
    }
    const ImplicitAttention<double> whole(all);
    check_same<double>(stream.attention().materialize().stacked(), whole.materialize().stacked(), what);
    check_same<double>(stream.attention().bias(), whole.bias(), what + ": bias");
    Selection last;
    last.rows = Indices::last();
    check_same<double>(stream.newest_row(), whole.materialize(last).stacked(), what + ": the newest row");
  };
  check(r, "one decay");
  check(s, "softmax");
  StreamingAttention<double> of_softmax;
  const auto one_token = [&](double scale, double soft_cap) {
    SoftmaxRecurrence<double> one = s;
    one.tokens = 1, one.scale = scale, one.soft_cap = soft_cap;
    one.query = s.query.middle_rows(0, 1), one.key = s.key.middle_rows(0, 1);
    UnifiedForm<double> piece;
    piece.recurrence = one;
    return piece;
  };
  of_softmax.append(one_token(0.5, 0));
  CHECK_THAT(what_of([&] { of_softmax.append(one_token(0.25, 0)); }), contains_text("of other sizes or scales"));
  CHECK_THAT(what_of([&] { of_softmax.append(one_token(0.5, 30)); }), contains_text("of other sizes or scales"));
  // Decays that turn out not to be the same for all tokens.
  StreamingAttention<double> stream;
  r.log_decay = draw.uniforms<double>(tokens, heads, -1, 0);
  UnifiedForm<double> all, piece;
  all.recurrence = r;
  for (Index token = 0; token < tokens; ++token) {
    HeadRecurrence<double> one = r;
    one.tokens = 1;
    one.query = r.query.middle_rows(token, 1), one.key = r.key.middle_rows(token, 1), one.log_decay = r.log_decay.middle_rows(token, 1);
    piece.recurrence = one;
    stream.append(piece);
  }
  check_same<double>(stream.attention().materialize().stacked(), ImplicitAttention<double>(all).materialize().stacked(), "decays a token");
}

TEST_CASE("a stream's memory is linear in its tokens, and is not allocated a token at a time", "[streaming]") {
  const auto sequence = mamba<float>(150);
  StreamingAttention<float> stream;
  std::size_t allocations = 0, before = 0;
  for (Index token = 0; token < 150; ++token) {
    stream.append(sequence.piece(token, 1), sequence.x(token, 1));
    if (stream.bytes() != before) ++allocations;
    before = stream.bytes();
  }
  CHECK(allocations <= 6);
  // dt once, gate, activation, x: 21 numbers each; B and C 6 each; at most twice what is in use.
  CHECK(stream.bytes() <= 2 * 151 * (4 * 21 + 2 * 6) * sizeof(float) + 4096);
}

TEST_CASE("behind a window, a prompt of any length leaves no more memory than its tokens one by one", "[streaming]") {
  const Index tokens = 700, window = 13;
  const auto sequence = mamba<float>(tokens + 1);
  for (const Index pieces : {Index(1), Index(7), Index(70), tokens}) {
    StreamingAttention<float> stream(StreamingOptions{window});
    const Index count = tokens / pieces;
    for (Index token = 0; token < tokens; token += count) stream.append(sequence.piece(token, count), sequence.x(token, count));
    INFO(pieces << " pieces");
    // dt once, gate, activation, x: 21 numbers each; B and C 6 each; at most twice the window.
    CHECK(stream.bytes() <= static_cast<std::size_t>(2 * window * (4 * 21 + 2 * 6)) * sizeof(float));
    stream.append(sequence.piece(tokens, 1), sequence.x(tokens, 1));
    CHECK(stream.input().matrix() == sequence.x(tokens + 1 - window, window).matrix());
  }
}

TEST_CASE("a stream moves with all that it has taken, and is empty where it was moved from", "[streaming]") {
  const auto sequence = mamba<float>(20);
  static_assert(!std::is_copy_constructible_v<StreamingAttention<float>> && !std::is_copy_assignable_v<StreamingAttention<float>>);
  StreamingAttention<float> first(StreamingOptions{6});
  first.append(sequence.piece(0, 10), sequence.x(0, 10));
  const Matrix<float> row = first.newest_row();
  StreamingAttention<float> second(std::move(first));
  CHECK(second.newest_row() == row);
  CHECK(first.tokens_seen() == 0);  // NOLINT(bugprone-use-after-move): what is promised
  CHECK(first.bytes() == 0);
  CHECK_THAT(what_of([&] { (void)first.newest_row(); }), contains_text("no token was taken yet"));
  first.append(sequence.piece(0, 10), sequence.x(0, 10));  // from the beginning, behind the same window
  CHECK(first.newest_row() == row);
  second.append(sequence.piece(10, 1), sequence.x(10, 1));
  first = std::move(second);
  CHECK(first.tokens_seen() == 11);
  CHECK(second.tokens_seen() == 0);
  CHECK_THAT(what_of([&] { (void)second.attention(); }), contains_text("no token was taken yet"));
}

TEST_CASE("rows are the same for any order and number of workers", "[streaming]") {
  const auto sequence = mamba<float>(90, 300);
  StreamingAttention<float> stream;
  stream.append(sequence.piece(0, 90), sequence.x(0, 90));
  const Executor backwards = [](Index count, const std::function<void(Index)>& body) {
    for (Index i = count; i-- > 0;) body(i);
  };
  CHECK(stream.newest_row() == stream.newest_row(backwards));
  Matrix<float> one(1, 90), other(1, 90);
  stream.newest_map_row_into(one, ReductionKind::mean, {}, true);
  stream.newest_map_row_into(other, ReductionKind::mean, {}, true, backwards);
  CHECK(one == other);
}

TEST_CASE("steps that are not finite, decays to nothing and decays of nothing go where they go at once", "[streaming]") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float number : {std::nanf(""), infinity, 1e30F, 0.0F, 50.0F}) {
    auto sequence = mamba<float>(100, 18);
    sequence.all.dt = with(sequence.all.dt, 40, 3, number);
    StreamingAttention<float> stream;
    for (Index token = 0; token < 100; ++token) stream.append(sequence.piece(token, 1));
    Selection last;
    last.rows = Indices::last();
    const Matrix<float> found = stream.newest_row(), expected = Pieces<float>(sequence).whole(100).materialize(last).stacked();
    INFO(number);
    for (Index e = 0; e < 18; ++e)
      for (Index j = 0; j < 100; ++j) {
        INFO("channel " << e << ", token " << j);
        const float a = found(e, j), b = expected(e, j);
        if (std::isfinite(b))
          CHECK(std::abs(a - b) <=
                1e-5F * expected.row(e).unaryExpr([](float v) { return std::isfinite(v) ? std::abs(v) : 0; }).maxCoeff());
        else
          CHECK(!std::isfinite(a));
      }
  }
}

TEST_CASE("a NaN behind states that are forgotten spoils its entries, as long as it is kept", "[streaming]") {
  const Index window = GENERATE(0, 80);
  auto sequence = mamba<float>(200, 18);
  Matrix<float> dt = *sequence.all.dt;
  dt.row(61).setConstant(400.0F);  // forgets everything before it, in all channels
  sequence.all.dt = dt;
  const std::vector<std::pair<const char*, Array<float>*>> arrays{
      {"B", &sequence.all.B}, {"dt", &sequence.all.dt}, {"c", &sequence.all.c}, {"C", &sequence.all.C}};
  for (const auto& [name, array] : arrays) {
    const Array<float> clean = *array;
    const bool newest = array == &sequence.all.C;  // the newest row's own, which it has before all it sees
    *array = with(clean, newest ? 99 : 40, 2, std::nanf(""));
    INFO(name << ", window " << window);
    StreamingAttention<float> stream({window});
    for (Index token = 0; token < 100; ++token) stream.append(sequence.piece(token, 1), sequence.x(token, 1));
    const Index first = stream.first_token(), kept = stream.tokens();
    CHECK(first == (window == 0 ? 0 : 20));
    Selection last;
    last.rows = Indices::last();
    const ImplicitAttention<float> whole = Pieces<float>(sequence).whole(100);
    const Matrix<float> found = stream.newest_row(), expected = whole.materialize(last).stacked();
    CHECK(std::isnan(found(2, 40 - first)));
    CHECK(std::isnan(found(2, 41 - first)) == newest);
    CHECK(std::isnan(found(3, 40 - first)) == (newest || array == &sequence.all.B));
    for (Index e = 0; e < 18; ++e)
      for (Index j = 0; j < kept; ++j) {
        INFO("channel " << e << ", token " << j);
        CHECK(std::isnan(found(e, j)) == std::isnan(expected(e, first + j)));
      }
    Matrix<float> map(1, kept);
    stream.newest_map_row_into(map, ReductionKind::mean);
    const Matrix<float> whole_map = whole.reduce({}, last);
    for (Index j = 0; j < kept; ++j) CHECK(std::isnan(map(0, j)) == std::isnan(whole_map(0, first + j)));
    for (Index token = 100; token < 140; ++token) stream.append(sequence.piece(token, 1), sequence.x(token, 1));
    CHECK(stream.newest_row().array().isNaN().any() == (window == 0 && !newest));  // token 40 has left a window of 80
    *array = clean;
  }
}

TEMPLATE_TEST_CASE("a state space whose keys are scaled by something else than its steps is streamed, too", "[streaming]", float, double) {
  using S = TestType;
  Draw draw(13);
  const Index tokens = 40, channels = 18, state = 3, from = GENERATE(0, 7);  // the first tokens' scales are their steps, in one array
  DiagonalRecurrence<S> all;
  all.tokens = tokens, all.channels = channels, all.state = state;
  all.step = draw.uniforms<S>(tokens, channels, 0.05, 0.6);
  all.rate = draw.uniforms<S>(state, channels, -2, -0.2);
  all.query = draw.normals<S>(tokens, state);
  all.key = draw.normals<S>(tokens, state);
  all.query_scale = draw.normals<S>(tokens, channels);
  Matrix<S> scales = draw.normals<S>(tokens, channels);
  scales.topRows(from) = all.step.matrix().topRows(from);
  all.key_scale = scales;
  all.starts = {0, 17};
  StreamingAttention<S> stream;
  for (Index token = 0; token < tokens; ++token) {
    DiagonalRecurrence<S> one = all;
    one.tokens = 1;
    for (Array<S>* array : {&one.step, &one.query, &one.key, &one.query_scale, &one.key_scale}) *array = array->middle_rows(token, 1);
    if (token < from) one.key_scale = one.step;
    one.starts = token == 0 || token == 17 ? std::vector<Index>{0} : std::vector<Index>{};
    UnifiedForm<S> piece;
    piece.recurrence = one;
    stream.append(piece);
  }
  UnifiedForm<S> form;
  form.recurrence = all;
  const ImplicitAttention<S> whole(form);
  Selection last;
  last.rows = Indices::last();
  check_same<S>(stream.newest_row(), whole.materialize(last).stacked(), "the newest row");
  CHECK(stream.newest_row().leftCols(17).isZero(0));
  Matrix<S> map(1, tokens);
  stream.newest_map_row_into(map, ReductionKind::mean);
  check_same<S>(map, whole.reduce({}, last), "the newest row of the mean");
  check_same<S>(stream.attention().materialize().stacked(), whole.materialize().stacked(), "all rows");
}

TEST_CASE("constants that hold a NaN are the same as themselves, wherever they are kept", "[streaming]") {
  const auto sequence = mamba<double>(20);
  const auto with_number = [](const Array<double>& array, double number) {
    Matrix<double> numbers = *array;
    numbers(0, 1) = number;
    return Array<double>(std::move(numbers));
  };
  const auto rate_in = [&](UnifiedForm<double>& form, double number) {
    DiagonalRecurrence<double> recurrence = *form.recurrence.diagonal();
    recurrence.rate = with_number(recurrence.rate, number);
    form.recurrence = recurrence;
  };
  using Form = UnifiedForm<double>;
  const std::vector<std::pair<std::string, std::function<void(Form&, double)>>> constants{
      {"skip", [&](Form& form, double number) { form.skip = with_number(form.skip, number); }},
      {"convolution", [&](Form& form, double number) { form.convolution = with_number(form.convolution, number); }},
      {"convolution_bias", [&](Form& form, double number) { form.convolution_bias = with_number(form.convolution_bias, number); }},
      {"rate", rate_in}};
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& [name, put] : constants) {
    INFO(name);
    Form first = sequence.piece(0, 5), next = sequence.piece(5, 1), other = sequence.piece(6, 1);
    put(first, nan);
    put(next, nan);
    put(other, 0.5);
    StreamingAttention<double> stream;
    stream.append(first, sequence.x(0, 5));
    stream.append(next, sequence.x(5, 1));
    CHECK(stream.tokens() == 6);
    CHECK_THAT(what_of([&] { stream.append(other, sequence.x(6, 1)); }),
               contains_text(name + " has different numbers than in the earlier pieces"));
    CHECK(stream.tokens() == 6);
  }
}

TEST_CASE("a constant that is 0 in one piece and -0 in another is the same", "[streaming]") {
  const auto sequence = mamba<double>(20);
  UnifiedForm<double> first = sequence.piece(0, 5), next = sequence.piece(5, 1);
  Matrix<double> skip = *first.skip;
  skip(0, 1) = 0.0;
  first.skip = skip;
  skip(0, 1) = -0.0;
  next.skip = skip;
  StreamingAttention<double> stream;
  stream.append(first, sequence.x(0, 5));
  stream.append(next, sequence.x(5, 1));
  CHECK(stream.tokens() == 6);
}

TEST_CASE("what does not fit a stream is named, and nothing of it is taken", "[streaming]") {
  const auto sequence = mamba<double>(20);
  StreamingAttention<double> stream;
  Matrix<double> out(21, 5);
  CHECK_THAT(what_of([&] { (void)stream.attention(); }), contains_text("no token was taken yet"));
  CHECK_THAT(what_of([&] { stream.newest_row_into(out); }), contains_text("no token was taken yet"));
  stream.append(sequence.piece(0, 5), sequence.x(0, 5));
  const Matrix<double> before = stream.newest_row();
  const auto refused = [&](const std::string& expected, const UnifiedForm<double>& piece, const Array<double>& x) {
    CHECK_THAT(what_of([&] { stream.append(piece, x); }), contains_text(expected));
    CHECK(stream.tokens() == 5);
    CHECK(stream.newest_row() == before);
    CHECK(stream.input().rows() == 5);
  };
  refused("x is empty, expected it as in the earlier pieces", sequence.piece(5, 1), {});
  refused("x is (2, 21), expected (1, 21)", sequence.piece(5, 1), sequence.x(5, 2));
  auto other = sequence;
  other.terms = Terms::all().without(Term::gate);
  refused("gate is empty, expected it as in the earlier pieces", other.piece(5, 1), sequence.x(5, 1));
  other.terms = Terms::all().without(Term::activation);
  refused("activation is empty", other.piece(5, 1), sequence.x(5, 1));
  other.terms = Terms::all().without(Term::skip);
  refused("skip is (0, 0), expected (1, 21)", other.piece(5, 1), sequence.x(5, 1));
  other = sequence;
  using W = Mamba<double>::Weights;
  for (const auto& [name, weight] : {std::pair{"rate", &W::A_log}, std::pair{"skip", &W::D}, std::pair{"convolution", &W::conv1d_weight},
                                     std::pair{"convolution_bias", &W::conv1d_bias}}) {
    W weights = sequence.layer.weights();
    weights.*weight = with(weights.*weight, 0, 0, 0.5);
    other.layer = Mamba<double>(weights);
    refused(std::string(name) + " has different numbers than in the earlier pieces", other.piece(5, 1), sequence.x(5, 1));
  }
  other.terms = Terms::all().without(Term::recurrence);
  refused("another kind, or of other sizes or scales", other.piece(5, 1), sequence.x(5, 1));
  refused("a piece has 6 channels, expected 21", griffin<double>(3).piece(0, 1), Matrix<double>(1, 6));
  UnifiedForm<double> reversed = sequence.piece(5, 1);
  reversed.reversed = true;
  refused("from the last token to the first", reversed, sequence.x(5, 1));
  CHECK_THAT(what_of([&] { StreamingAttention<double>().append(reversed); }), contains_text("from the last token to the first"));
  UnifiedForm<double> given;
  ExplicitRecurrence<double> matrices;
  matrices.tokens = 1, matrices.channels = 2;
  matrices.weights = Matrix<double>(Matrix<double>::Ones(1, 1));
  given.recurrence = matrices;
  CHECK_THAT(what_of([&] { StreamingAttention<double>().append(given); }), contains_text("does not grow by rows"));
  stream.append(sequence.piece(5, 1), sequence.x(5, 1));  // and goes on
  CHECK(stream.tokens() == 6);

  CHECK_THAT(what_of([&] { stream.newest_row_into(out); }), contains_text("out is (21, 5), expected (21, 6) = (channels, tokens)"));
  CHECK_THAT(what_of([&] { stream.row_into(6, out); }), contains_text("token 6 is not kept, expected 0 to 5"));
  CHECK_THAT(what_of([&] { stream.row_into(-1, out); }), contains_text("token -1 is not kept"));
  Matrix<double> map(1, 6);
  CHECK_THAT(what_of([&] { stream.newest_edges_into(map, Matrix<double>(1, 20)); }), contains_text("weights is (1, 20), expected (1, 21)"));
  StreamingAttention<double> without_x;
  without_x.append(sequence.piece(0, 6));
  CHECK_THAT(what_of([&] { without_x.newest_edges_into(map, {}); }), contains_text("append was given none"));
  StreamingOptions negative;
  negative.window = -1;
  CHECK_THAT(what_of([&] { StreamingAttention<double>{negative}; }), contains_text("window is -1"));
}
