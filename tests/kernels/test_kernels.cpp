// The kernels on recurrences of every kind, also such as no architecture has: the plain row, the row walk, the blocked product form, the
// reductions and both applications, against the recurrence itself run on one unit input after the other.
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/attention_rows.hpp>
#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/reduced_rows.hpp>
#include <implicit_attention/kernels/scan.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;

template <class Scalar>
struct Kind {
  std::string text;
  SurroundedDiagonal<Scalar> surrounded;
};

/// A random recurrence; each bit of `parts` is something that is there.
template <class Scalar>
Kind<Scalar> random_kind(Index tokens, Index channels, Index state, Index width, unsigned parts, std::uint64_t seed) {
  Draw draw(seed);
  const auto has = [&](unsigned bit) { return (parts >> bit & 1u) != 0; };
  Kind<Scalar> kind;
  SurroundedDiagonal<Scalar>& surrounded = kind.surrounded;
  DiagonalRecurrence<Scalar>& recurrence = surrounded.recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels;
  recurrence.state = state;
  recurrence.step = has(0) ? draw.uniforms<Scalar>(tokens, channels, 0, 0.4) : draw.uniforms<Scalar>(tokens, channels, 0, 20);
  if (has(1) || state > 1)
    recurrence.rate = draw.uniforms<Scalar>(state, channels, -2, 0);
  else
    recurrence.step = Matrix<Scalar>(-recurrence.step.matrix());
  if (has(2)) recurrence.query = draw.normals<Scalar>(tokens, state);
  if (has(3)) recurrence.key = draw.normals<Scalar>(tokens, state);
  if (has(4)) recurrence.query_scale = draw.normals<Scalar>(tokens, channels);
  if (has(5)) recurrence.key_scale = draw.normals<Scalar>(tokens, channels);
  recurrence.read_before_update = has(6);
  if (has(6)) recurrence.diagonal = draw.normals<Scalar>(tokens, channels);
  if (has(7))
    for (const Index start : {Index(0), Index(3), Index(4), Index(32), Index(64), Index(70)})
      if (start < tokens && (start > 0 || has(0))) recurrence.starts.push_back(start);
  if (has(8)) surrounded.taps = draw.normals<Scalar>(width, channels);
  if (has(9) && has(8))
    for (const Index start : {Index(2), Index(5), Index(33), Index(64)})
      if (start < tokens) surrounded.convolution_starts.push_back(start);
  if (has(10)) surrounded.gate = draw.normals<Scalar>(tokens, channels);
  if (has(11)) surrounded.skip = draw.normals<Scalar>(1, channels);
  if (has(12)) surrounded.activation = draw.normals<Scalar>(tokens, channels);
  if (has(13)) surrounded.column_weights = draw.normals<Scalar>(tokens, channels);
  if (has(14)) surrounded.row_weights = draw.normals<Scalar>(tokens, channels);
  std::ostringstream text;
  text << (sizeof(Scalar) == 4 ? "float" : "double") << ", " << tokens << " tokens, " << channels << " channels, state " << state
       << ", width " << surrounded.width() << ", parts " << parts << ", seed " << seed;
  kind.text = text.str();
  return kind;
}

/// The matrix of one channel: its recurrence, as its definition has it, run on each unit input. Without the weights of its rows.
template <class Scalar>
Matrix<double> by_definition(const SurroundedDiagonal<Scalar>& surrounded, Index e) {
  const DiagonalRecurrence<Scalar>& r = surrounded.recurrence;
  const auto at = [](const Array<Scalar>& array, Index i, Index j) { return array.empty() ? 1.0 : static_cast<double>(array(i, j)); };
  const auto among = [](const std::vector<Index>& starts, Index token) {
    return std::find(starts.begin(), starts.end(), token) != starts.end();
  };
  Matrix<double> matrix(r.tokens, r.tokens);
  for (Index unit = 0; unit < r.tokens; ++unit) {
    std::vector<double> state(static_cast<std::size_t>(r.state), 0.0);
    for (Index t = 0; t < r.tokens; ++t) {
      double a = 0;  // what the convolution makes of the unit
      bool apart = false;
      for (Index between = unit + 1; between <= t; ++between) apart = apart || among(surrounded.convolution_starts, between);
      if (t >= unit && t - unit < surrounded.width() && !apart)
        a = at(surrounded.column_weights, unit, e) * at(surrounded.taps, surrounded.width() - 1 - (t - unit), e) *
            at(surrounded.activation, t, e);
      if (among(r.starts, t)) std::fill(state.begin(), state.end(), 0.0);
      double y = 0;
      for (Index n = 0; n < r.state; ++n) {
        double& h = state[static_cast<std::size_t>(n)];
        const double before = h;
        h = std::exp(at(r.rate, n, e) * static_cast<double>(r.step(t, e))) * h + at(r.key, t, n) * at(r.key_scale, t, e) * a;
        y += at(r.query, t, n) * (r.read_before_update ? before : h);
      }
      y *= at(r.query_scale, t, e);
      if (r.read_before_update) y += static_cast<double>(r.diagonal(t, e)) * a;
      if (!surrounded.skip.empty()) y += static_cast<double>(surrounded.skip(0, e)) * a;
      matrix(t, unit) = at(surrounded.gate, t, e) * y;
    }
  }
  return matrix;
}

template <class Scalar>
void check_kind(const Kind<Scalar>& kind) {
  INFO(kind.text);
  const SurroundedDiagonal<Scalar>& surrounded = kind.surrounded;
  surrounded.recurrence.check();
  const Index tokens = surrounded.recurrence.tokens, channels = surrounded.recurrence.channels;
  // Some hundred roundings of ordinary numbers and of exponentials of arguments up to about 10 that are still seen.
  const double relative = sizeof(Scalar) == 4 ? 2e-5 : 1e-13;
  std::vector<Index> every_channel, every_row;
  for (Index e = 0; e < channels; ++e) every_channel.push_back(e);
  for (Index i = 0; i < tokens; ++i) every_row.push_back(i);

  Matrix<Scalar> all(channels * tokens, tokens), alone(channels, tokens), plain(1, tokens);
  attention_rows(surrounded, every_channel, every_row, View<Scalar>(all), serial_executor());
  Draw draw(9);
  const Matrix<Scalar> x = draw.normals<Scalar>(tokens, channels);
  Matrix<Scalar> applied(tokens, channels), transposed(tokens, channels), mean(tokens, tokens), mean_alone(1, tokens);
  ScanInput<Scalar> input;
  input.x = Array<Scalar>::view(x);
  scan<Scalar>(surrounded, input, applied, serial_executor());
  scan_transposed<Scalar>(surrounded, ConstView<Scalar>(x), View<Scalar>(transposed), serial_executor());
  reduced_rows(surrounded, every_channel, every_row, View<Scalar>(mean), serial_executor(), detail::Add{}, Scalar(0));

  std::vector<Matrix<double>> unweighted, expected;
  double largest = 0;
  for (Index e = 0; e < channels; ++e) {
    unweighted.push_back(by_definition(surrounded, e));
    expected.push_back(unweighted.back());
    if (!surrounded.row_weights.empty())
      expected.back().array().colwise() *= surrounded.row_weights.matrix().col(e).template cast<double>().array();
    largest = larger(largest, expected.back().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  }
  const double allowed = relative * largest;
  Matrix<double> sum = Matrix<double>::Zero(tokens, tokens);
  double worst_block = 0, worst_plain = 0, worst_apply = 0, worst_transposed = 0, size = 0;
  const auto worse = [](double& worst, double difference) {
    if (!(difference <= worst)) worst = difference;
  };
  for (Index e = 0; e < channels; ++e) {
    const Matrix<double>& matrix = unweighted[static_cast<std::size_t>(e)];
    const Matrix<double>& weighted = expected[static_cast<std::size_t>(e)];
    sum += weighted;
    worse(worst_block,
          (all.middleRows(e * tokens, tokens).template cast<double>() - weighted).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    for (Index i = 0; i < tokens; ++i) {
      plain_row(surrounded, e, i, plain.data());
      worse(worst_plain, (plain.template cast<double>() - weighted.row(i)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    }
    const Eigen::VectorXd column = x.col(e).template cast<double>();
    worse(worst_apply, (applied.col(e).template cast<double>() - matrix * column).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    worse(worst_transposed,
          (transposed.col(e).template cast<double>() - matrix.transpose() * column).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    size = std::max(
        {size, (matrix.cwiseAbs() * column.cwiseAbs()).maxCoeff(), (matrix.transpose().cwiseAbs() * column.cwiseAbs()).maxCoeff()});
  }
  CHECK(worst_block <= allowed);
  CHECK(worst_plain <= allowed);
  CHECK(worst_apply <= relative * size);
  CHECK(worst_transposed <= relative * size);
  CHECK((mean.template cast<double>() - sum).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
        relative * largest * static_cast<double>(channels));
  double worst_walk = 0, worst_mean = 0;
  for (const Index row : {Index(0), Index(1), tokens / 2, tokens - 1}) {
    if (row >= tokens) continue;
    attention_rows(surrounded, every_channel, {row}, View<Scalar>(alone), serial_executor());
    for (Index e = 0; e < channels; ++e)
      worse(worst_walk, (alone.row(e).template cast<double>() - expected[static_cast<std::size_t>(e)].row(row))
                            .cwiseAbs()
                            .template maxCoeff<Eigen::PropagateNaN>());
    reduced_rows(surrounded, every_channel, {row}, View<Scalar>(mean_alone), serial_executor(), detail::Add{}, Scalar(0));
    worse(worst_mean, (mean_alone.template cast<double>() - sum.row(row)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  }
  CHECK(worst_walk <= allowed);
  CHECK(worst_mean <= relative * largest * static_cast<double>(channels));
}

}  // namespace

TEMPLATE_TEST_CASE("every kernel is the recurrence it is made of", "[kernels]", double, float) {
  Draw draw(2024);
  std::uint64_t seed = 1;
  for (int repetition = 0; repetition < 60; ++repetition) {
    const auto pick = [&](Index most) { return static_cast<Index>(draw.uniform(0, static_cast<double>(most))); };
    const Index tokens = 1 + pick(repetition % 3 == 0 ? 100 : 40), channels = 1 + pick(7), state = 1 + pick(4),
                width = 1 + pick(repetition % 5 == 0 ? 40 : 5);
    check_kind(random_kind<TestType>(tokens, channels, state, width, static_cast<unsigned>(pick(1 << 15)), seed++));
  }
  constexpr Index block = IMPLICIT_ATTENTION_BLOCK_TOKENS;
  for (const Index tokens :
       {Index(7), Index(8), Index(9), Index(31), block - 1, block, block + 1, 2 * block - 1, 2 * block, 2 * block + 1, 3 * block + 5})
    for (const unsigned parts : {0x7fffu, 0x3d7fu})  // everything at once; one document
      check_kind(random_kind<TestType>(tokens, 3, 2, 4, parts, seed++));
  for (const Index state : {1, 3, 4, 16, 64, 128})
    for (const unsigned parts : {0x3d7fu, 0x3d3eu}) check_kind(random_kind<TestType>(block + 9, 5, state, 4, parts, seed++));
  for (const Index channels : {16, 17, 63, 64, 65, 84}) check_kind(random_kind<TestType>(35, channels, 2, 4, 0x3f3f, seed++));
}

TEMPLATE_TEST_CASE("large results, written past the caches in pieces, are the plain rows", "[kernels]", double, float) {
  // More columns than a piece has, more numbers than the caches take; rows that begin anywhere, and numbers of the caller's between them.
  const Index tokens = 700, channels = 3;
  Kind<TestType> kind = random_kind<TestType>(tokens, channels, 2, 4, 0x3c7e, 77);
  kind.surrounded.recurrence.step =
      Matrix<TestType>(kind.surrounded.recurrence.step.matrix() / TestType(2000));  // so that far columns are seen
  std::vector<Index> rows;
  for (Index i = 0; i < tokens; ++i) rows.push_back(i);
  for (const Index stride : {Index(0), Index(1), Index(5)}) {
    const TestType mark = TestType(12345);
    Matrix<TestType> memory = Matrix<TestType>::Constant(channels * tokens, tokens + stride, mark);
    attention_rows(kind.surrounded, {0, 1, 2}, rows, View<TestType>(memory.data() + stride, channels * tokens, tokens, tokens + stride),
                   serial_executor());
    Matrix<TestType> plain(1, tokens);
    double worst = 0, largest = 0;
    for (Index e = 0; e < channels; ++e)
      for (Index i = 0; i < tokens; ++i) {
        plain_row(kind.surrounded, e, i, plain.data());
        const TestType* made = &memory(e * tokens + i, stride);
        for (Index j = 0; j < tokens; ++j) {
          worst = larger(worst, static_cast<double>(std::abs(made[j] - plain(0, j))));
          if (j > i && made[j] != 0) worst = 1e300;
        }
        largest = larger(largest, static_cast<double>(plain.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
      }
    INFO(kind.text << ", rows " << tokens + stride << " numbers apart");
    CHECK(worst <= (sizeof(TestType) == 4 ? 5e-6 : 1e-14) * largest);
    if (stride != 0) CHECK((memory.leftCols(stride).array() == mark).all());
  }
}

TEMPLATE_TEST_CASE("large single rows, written past the caches, are the plain rows", "[kernels]", double, float) {
  // Channels that forget soon beside ones that do not; tokens before, in and after the row; rows that begin anywhere.
  const Index tokens = 30001, channels = 41;
  // With every scale and without some: pieces are then finished in registers. With documents that the convolution does not look beyond, too.
  for (const unsigned parts : {0x7d3eu, 0x5d3eu, 0x4f3eu}) {
    Kind<TestType> kind = random_kind<TestType>(tokens, channels, 2, 4, parts, 78);
    if (!kind.surrounded.convolution_starts.empty())
      kind.surrounded.convolution_starts.insert(kind.surrounded.convolution_starts.end(), {20100, 29990});
    Matrix<TestType> step = kind.surrounded.recurrence.step.matrix();
    for (Index e = 0; e < channels; ++e) step.col(e) /= TestType(e < 32 ? 1000 : 100000);
    kind.surrounded.recurrence.step = step;
    kind.surrounded.recurrence.starts = {100};
    std::vector<Index> every;
    for (Index e = 0; e < channels; ++e) every.push_back(e);
    for (const Index row : {tokens - 1, Index(20000), Index(101)})
      for (const Index stride : {Index(0), Index(5)}) {
        const TestType mark = TestType(12345);
        Matrix<TestType> memory = Matrix<TestType>::Constant(channels, tokens + stride, mark), plain(1, tokens);
        attention_rows(kind.surrounded, every, {row}, View<TestType>(memory.data() + stride, channels, tokens, tokens + stride),
                       serial_executor());
        double worst = 0, largest = 0;
        Matrix<TestType> highest = Matrix<TestType>::Constant(1, tokens, std::numeric_limits<TestType>::lowest()), joined(1, tokens);
        for (Index e = 0; e < channels; ++e) {
          plain_row(kind.surrounded, e, row, plain.data());
          highest = highest.cwiseMax(plain);
          worst =
              larger(worst, static_cast<double>((memory.row(e).tail(tokens) - plain).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
          largest = larger(largest, static_cast<double>(plain.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
          CHECK((memory.row(e).tail(tokens - 1 - row).array() == TestType(0)).all());
        }
        INFO(kind.text << ", row " << row << ", rows " << tokens + stride << " numbers apart");
        CHECK(worst <= (sizeof(TestType) == 4 ? 5e-6 : 1e-14) * largest);
        // What is forgotten counts as zero among what is not.
        reduced_rows(kind.surrounded, every, {row}, View<TestType>(joined), serial_executor(), detail::Largest{},
                     std::numeric_limits<TestType>::lowest());
        CHECK(static_cast<double>((joined - highest).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()) <=
              (sizeof(TestType) == 4 ? 5e-6 : 1e-14) * largest);
        if (stride != 0) CHECK((memory.leftCols(stride).array() == mark).all());
      }
  }
}

TEST_CASE("single rows of any list of channels are those of the whole layer", "[kernels]") {
  const Index tokens = 50, channels = 80;
  const Kind<double> kind = random_kind<double>(tokens, channels, 2, 4, 0x3d7f, 31);
  std::vector<Index> every;
  for (Index e = 0; e < channels; ++e) every.push_back(e);
  Matrix<double> whole(channels, tokens);
  attention_rows(kind.surrounded, every, {tokens - 1}, View<double>(whole), serial_executor());
  std::vector<Index> mixed = {79, 3, 3};  // alone, twice; then neighbours of every width, and backwards
  for (Index e = 10; e < 60; ++e) mixed.push_back(e);
  for (Index e = 9; e > 4; --e) mixed.push_back(e);
  Matrix<double> rows(static_cast<Index>(mixed.size()), tokens), mean(1, tokens);
  attention_rows(kind.surrounded, mixed, {tokens - 1}, View<double>(rows), serial_executor());
  reduced_rows(kind.surrounded, mixed, {tokens - 1}, View<double>(mean), serial_executor(), detail::Add{}, 0.0);
  RowVector<double> sum = RowVector<double>::Zero(tokens);
  for (std::size_t i = 0; i < mixed.size(); ++i) {
    INFO("channel " << mixed[i] << " at place " << i);
    CHECK((rows.row(static_cast<Index>(i)) - whole.row(mixed[i])).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
          1e-14 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    sum += whole.row(mixed[i]);
  }
  CHECK((mean - sum).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
        1e-13 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());  // some sixty numbers, in another order
}

TEST_CASE("rows that are asked for twice are there twice", "[kernels]") {
  const Index tokens = 70, channels = 3;
  const Kind<double> kind = random_kind<double>(tokens, channels, 2, 4, 0x3d7f, 32);
  std::vector<Index> rows = {69, 5, 5};
  for (Index i = 0; i < tokens; ++i) rows.push_back(i);
  const Index count = static_cast<Index>(rows.size());
  Matrix<double> made(channels * count, tokens), plain(1, tokens);
  attention_rows(kind.surrounded, {0, 1, 2}, rows, View<double>(made), serial_executor());
  for (Index e = 0; e < channels; ++e)
    for (Index place = 0; place < count; ++place) {
      plain_row(kind.surrounded, e, rows[static_cast<std::size_t>(place)], plain.data());
      CHECK((made.row(e * count + place) - plain).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-12 * std::max(1.0, plain.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
    }
}

TEMPLATE_TEST_CASE("reductions of whole blocks go into any memory, and touch nothing beside it", "[kernels]", double, float) {
  // Rows are joined in the caller's memory before they are moved to their place: whatever they begin at and whatever stands between them.
  const Index tokens = 150;
  std::vector<Index> rows = {149, 5, 148, 5};
  for (Index i = 0; i < tokens; ++i)
    if (i != 20) rows.push_back(i);
  const Index count = static_cast<Index>(rows.size());
  const TestType infinite = std::numeric_limits<TestType>::infinity();
  for (const auto& [channels, state, parts] : {std::tuple(Index(150), Index(1), 0x3d7fu), std::tuple(Index(37), Index(3), 0x3c3fu)}) {
    const Kind<TestType> kind = random_kind<TestType>(tokens, channels, state, 4, parts, 41);
    std::vector<Index> every;
    for (Index e = 0; e < channels; ++e) every.push_back(e);
    const auto check = [&](const char* name, const auto& join, TestType initial) {
      Matrix<TestType> expected = Matrix<TestType>::Zero(tokens, tokens), plain(1, tokens);
      for (Index i = 0; i < tokens; ++i) {
        expected.row(i).head(i + 1).setConstant(initial);
        for (const Index e : every) {
          plain_row(kind.surrounded, e, i, plain.data());
          for (Index j = 0; j <= i; ++j) expected(i, j) = join(expected(i, j), plain(0, j));
        }
      }
      for (const Index stride : {tokens, tokens + 7, tokens + 10})
        for (const Index offset : {0, 1, 13}) {
          std::vector<TestType> memory(static_cast<std::size_t>(count * stride + 64), TestType(-77));
          const View<TestType> out(memory.data() + offset, count, tokens, stride);
          reduced_rows(kind.surrounded, every, rows, out, serial_executor(), join, initial);
          INFO(kind.text << ", " << name << ", stride " << stride << ", offset " << offset);
          double worst = 0;
          for (Index place = 0; place < count; ++place) {
            const auto difference = (out.row(place) - expected.row(rows[static_cast<std::size_t>(place)])).cwiseAbs();
            worst = larger(worst, static_cast<double>(difference.template maxCoeff<Eigen::PropagateNaN>()));
          }
          // Sums of up to 150 numbers in another order.
          CHECK(worst <=
                (sizeof(TestType) == 4 ? 2e-5 : 1e-13) * static_cast<double>(expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
          Index written = 0;
          for (const TestType number : memory) written += number != TestType(-77) ? 1 : 0;
          CHECK(written == count * tokens);
        }
    };
    check("sum", detail::Add{}, TestType(0));
    check("sum of absolute values", detail::AddAbsolute{}, TestType(0));
    check("sum of positive parts", detail::AddPositive{}, TestType(0));
    check("largest", detail::Largest{}, -infinite);
    check("smallest", detail::Smallest{}, infinite);
  }
}

TEST_CASE("a scan that is carried on is the whole scan", "[kernels]") {
  // The convolution's tail reaches over several of the runs a scan goes by, and ends before the next one begins.
  for (const Index width : {Index(1), Index(4), Index(11)})
    for (const Index cut : {Index(11), Index(16), Index(29)}) {
      const Index tokens = 45, channels = 41, lead = width - 1;
      Kind<double> kind = random_kind<double>(tokens, channels, 2, width, 0x3d3f, 33);
      Draw draw(34);
      const Matrix<double> x = draw.normals<double>(tokens, channels);
      const auto part = [&](const Array<double>& array, Index first, Index count) {
        return array.empty() ? Array<double>() : Array<double>(Matrix<double>(array.matrix().middleRows(first, count)));
      };
      const auto run = [&](Index first, Index count, const Array<double>& tail, const Array<double>& before, View<double> out,
                           View<double>* after) {
        SurroundedDiagonal<double> some = kind.surrounded;
        some.recurrence.tokens = count;
        for (Array<double>* array : {&some.recurrence.step, &some.recurrence.query, &some.recurrence.key, &some.recurrence.query_scale,
                                     &some.recurrence.key_scale, &some.gate, &some.activation, &some.column_weights})
          *array = part(*array, first, count);
        ScanInput<double> input;
        input.x = Matrix<double>(x.middleRows(first, count));
        input.convolution_tail = tail;
        input.initial_state = before;
        scan<double>(some, input, out, serial_executor(), after);
      };
      Matrix<double> whole(tokens, channels), early(cut, channels), late(tokens - cut, channels), state(2, channels);
      View<double> carried(state);
      run(0, tokens, {}, {}, View<double>(whole), nullptr);
      run(0, cut, {}, {}, View<double>(early), &carried);
      Array<double> tail;
      if (lead != 0) {
        Matrix<double> entered = x.middleRows(cut - lead, lead);
        if (!kind.surrounded.column_weights.empty())
          entered.array() *= kind.surrounded.column_weights.matrix().middleRows(cut - lead, lead).array();
        tail = entered;
      }
      run(cut, tokens - cut, tail, Array<double>(state), View<double>(late), nullptr);
      INFO("width " << width << ", cut before token " << cut);
      CHECK((early - whole.topRows(cut)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-13 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      CHECK((late - whole.bottomRows(tokens - cut)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-13 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    }
}

TEST_CASE("tiles cover every channel once", "[kernels]") {
  for (Index channels = 1; channels <= 200; ++channels) {
    std::vector<int> covered(static_cast<std::size_t>(channels), 0);
    for_channel_tiles(channels, serial_executor(), [&]<int Width>(Index first, Index) {
      for (Index e = first; e < first + Width; ++e) ++covered.at(static_cast<std::size_t>(e));
    });
    INFO(channels << " channels");
    CHECK(std::all_of(covered.begin(), covered.end(), [](int times) { return times == 1; }));
  }
}

TEST_CASE("what stands in the first step of a document is not read", "[kernels]") {
  for (const bool read_before_update : {false, true}) {
    Kind<double> kind = random_kind<double>(150, 19, 2, 4, read_before_update ? 0x3dffu : 0x3dbfu, 5);
    SurroundedDiagonal<double>& surrounded = kind.surrounded;
    surrounded.recurrence.starts = {0, 3, 70};
    SurroundedDiagonal<double> odd = surrounded;
    Matrix<double> step = surrounded.recurrence.step.matrix();
    for (const Index start : surrounded.recurrence.starts) step.row(start).setConstant(std::numeric_limits<double>::quiet_NaN());
    odd.recurrence.step = step;
    std::vector<Index> channels, rows;
    for (Index e = 0; e < 19; ++e) channels.push_back(e);
    for (Index i = 0; i < 150; ++i) rows.push_back(i);
    Draw draw(6);
    const Matrix<double> x = draw.normals<double>(150, 19);
    ScanInput<double> input;
    input.x = Array<double>::view(x);
    const auto all = [&](const SurroundedDiagonal<double>& which) {
      Matrix<double> maps(19 * 150, 150), single(19 * 2, 150), mean(150, 150), applied(150, 19), transposed(150, 19);
      attention_rows(which, channels, rows, View<double>(maps), serial_executor());
      attention_rows(which, channels, {2, 149}, View<double>(single), serial_executor());
      reduced_rows(which, channels, rows, View<double>(mean), serial_executor(), detail::AddAbsolute{}, 0.0);
      scan<double>(which, input, applied, serial_executor());
      scan_transposed<double>(which, ConstView<double>(x), View<double>(transposed), serial_executor());
      return std::vector<Matrix<double>>{maps, single, mean, applied, transposed};
    };
    const std::vector<Matrix<double>> expected = all(surrounded), found = all(odd);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      INFO("result " << i << (read_before_update ? ", read_before_update" : ""));
      CHECK(found[i].allFinite());
      CHECK((found[i] - expected[i]).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-13 * expected[i].cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());  // exp(step) * 0 or 1 * 0
    }
  }
}

TEST_CASE("decays that are all or nothing stay numbers", "[kernels]") {
  // Infinite steps and rates of zero are what layers with overflowing parameters come to; neither may meet as 0 * inf.
  for (const double step : {0.0, 1e-300, 1.0, 1e30, 1e300}) {
    SurroundedDiagonal<double> surrounded;
    surrounded.recurrence.tokens = 40;
    surrounded.recurrence.channels = 3;
    surrounded.recurrence.step = Matrix<double>(Matrix<double>::Constant(40, 3, step));
    RowVector<double> rate(3);
    rate << 0, -1e-300, -1e30;
    surrounded.recurrence.rate = rate;
    std::vector<Index> rows;
    for (Index i = 0; i < 40; ++i) rows.push_back(i);
    Matrix<double> all(120, 40), one(3, 40), applied(40, 3), transposed(40, 3);
    const Matrix<double> x = Matrix<double>::Ones(40, 3);
    ScanInput<double> input;
    input.x = x;
    attention_rows(surrounded, {0, 1, 2}, rows, View<double>(all), serial_executor());
    attention_rows(surrounded, {0, 1, 2}, {39}, View<double>(one), serial_executor());
    scan<double>(surrounded, input, applied, serial_executor());
    scan_transposed<double>(surrounded, ConstView<double>(x), View<double>(transposed), serial_executor());
    INFO("step " << step);
    CHECK(all.allFinite());
    CHECK(one.allFinite());
    CHECK((applied - transposed.colwise().reverse()).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <
          1e-12);                               // a sum of 40 numbers up to 1, either way round
    CHECK(one(0, 0) == 1);                      // a rate of 0 forgets nothing
    if (step >= 1) CHECK(one(2, 38) < 1e-300);  // a rate of 1e30 forgets all
  }
}
