// The rule for numbers that are not finite: what depends on one is not finite either, and nothing else is touched; the same for full maps,
// single rows, reductions and both applications of a diagonal recurrence.
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <kernels/head_cases.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/attention_rows.hpp>
#include <implicit_attention/kernels/matrix_recurrence.hpp>
#include <implicit_attention/kernels/reduced_rows.hpp>
#include <implicit_attention/kernels/scan.hpp>
#include <implicit_attention/kernels/surrounded_matrix.hpp>

namespace not_finite_test {
namespace {

using namespace implicit_attention;
using test_support::Draw;

constexpr Index tokens = 133, channels = 41, state = 3, width = 4;  // two blocks of tokens and an edge, a tile of channels and an edge

/// Numbers of one token that spoil what depends on them. Whether entry (i, j) does, by way of token m, which the convolution carries j to.
template <class Scalar>
struct Bad {
  std::string name;
  std::function<Array<Scalar>&(SurroundedDiagonal<Scalar>&)> array;
  std::function<bool(Index i, Index j, Index m, Index t)> depends;
  bool of_channel = true;  ///< the array has a column a channel
};

/// With decays that leave something of every token, in two documents; or with decays that leave nothing after some tokens, in one.
template <class Scalar>
SurroundedDiagonal<Scalar> make(bool read_before_update, bool strong) {
  Draw draw(read_before_update ? 3 : 4);
  SurroundedDiagonal<Scalar> s;
  DiagonalRecurrence<Scalar>& r = s.recurrence;
  r.tokens = tokens;
  r.channels = channels;
  r.state = state;
  r.step = draw.uniforms<Scalar>(tokens, channels, 0, strong ? 2000 : 0.4);
  r.rate = draw.uniforms<Scalar>(state, channels, -2, 0);
  r.query = draw.normals<Scalar>(tokens, state);
  r.key = draw.normals<Scalar>(tokens, state);
  r.query_scale = draw.normals<Scalar>(tokens, channels);
  r.key_scale = draw.normals<Scalar>(tokens, channels);
  r.read_before_update = read_before_update;
  if (read_before_update) r.diagonal = draw.normals<Scalar>(tokens, channels);
  if (!strong) r.starts = s.convolution_starts = {70};
  s.taps = draw.normals<Scalar>(width, channels);
  s.gate = draw.normals<Scalar>(tokens, channels);
  s.skip = draw.normals<Scalar>(1, channels);
  s.activation = draw.normals<Scalar>(tokens, channels);
  s.column_weights = draw.normals<Scalar>(tokens, channels);
  s.row_weights = draw.normals<Scalar>(tokens, channels);
  return s;
}

template <class Scalar>
using Reduced = std::function<Matrix<Scalar>(const SurroundedDiagonal<Scalar>& s, const std::vector<Index>& rows)>;

template <class Scalar, class Reducer>
Matrix<Scalar> reduced(const SurroundedDiagonal<Scalar>& s, const std::vector<Index>& every, const std::vector<Index>& rows, Reducer join,
                       Scalar initial) {
  Matrix<Scalar> out(static_cast<Index>(rows.size()), tokens);
  reduced_rows(s, every, rows, View<Scalar>(out), serial_executor(), join, initial);
  return out;
}

}  // namespace

TEMPLATE_TEST_CASE("what depends on a number that is not finite is not finite, and nothing else, however much decays", "", double, float) {
  using Scalar = TestType;
  const bool read_before_update = GENERATE(false, true), strong = GENERATE(false, true);
  if (!strong && sizeof(Scalar) == 4) return;  // as doubles
  const Scalar wrong = GENERATE(std::numeric_limits<Scalar>::quiet_NaN(), std::numeric_limits<Scalar>::infinity());
  const bool nan = std::isnan(wrong);
  constexpr Scalar infinite = std::numeric_limits<Scalar>::infinity();
  const SurroundedDiagonal<Scalar> clean = make<Scalar>(read_before_update, strong);
  std::vector<Index> every_channel, every_row;
  for (Index e = 0; e < channels; ++e) every_channel.push_back(e);
  for (Index i = 0; i < tokens; ++i) every_row.push_back(i);
  const auto before = [&](Index i, Index m) { return !read_before_update || m < i; };  // whether token m comes to row i by the state
  using Surrounding = SurroundedDiagonal<Scalar>;
  std::vector<Bad<Scalar>> all{
      {"query_scale", [](Surrounding& s) -> Array<Scalar>& { return s.recurrence.query_scale; },
       [&](Index i, Index, Index m, Index t) { return i == t && before(i, m); }},
      {"query", [](Surrounding& s) -> Array<Scalar>& { return s.recurrence.query; },
       [&](Index i, Index, Index m, Index t) { return i == t && before(i, m); }, false},
      {"key_scale", [](Surrounding& s) -> Array<Scalar>& { return s.recurrence.key_scale; },
       [&](Index i, Index, Index m, Index t) { return m == t && before(i, m); }},
      {"key", [](Surrounding& s) -> Array<Scalar>& { return s.recurrence.key; },
       [&](Index i, Index, Index m, Index t) { return m == t && before(i, m); }, false},
      {"activation", [](Surrounding& s) -> Array<Scalar>& { return s.activation; }, [](Index, Index, Index m, Index t) { return m == t; }},
      {"gate", [](Surrounding& s) -> Array<Scalar>& { return s.gate; }, [](Index i, Index, Index, Index t) { return i == t; }},
      {"row_weights", [](Surrounding& s) -> Array<Scalar>& { return s.row_weights; },
       [](Index i, Index, Index, Index t) { return i == t; }},
      {"column_weights", [](Surrounding& s) -> Array<Scalar>& { return s.column_weights; },
       [](Index, Index j, Index, Index t) { return j == t; }}};
  if (nan)  // an infinite step is a decay of zero, and welcome
    all.push_back({"step", [](Surrounding& s) -> Array<Scalar>& { return s.recurrence.step; },
                   [&](Index i, Index, Index m, Index t) { return m < t && (read_before_update ? t < i : t <= i); }});
  if (read_before_update)
    all.push_back({"diagonal", [](Surrounding& s) -> Array<Scalar>& { return s.recurrence.diagonal; },
                   [](Index i, Index, Index m, Index t) { return i == t && m == t; }});

  Matrix<Scalar> clean_map(channels * tokens, tokens);
  attention_rows(clean, every_channel, every_row, View<Scalar>(clean_map), serial_executor());
  const Scalar largest = clean_map.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
  const std::vector<std::pair<const char*, Reduced<Scalar>>> reductions{
      {"sum",
       [&](const Surrounding& s, const std::vector<Index>& rows) { return reduced(s, every_channel, rows, detail::Add{}, Scalar(0)); }},
      {"sum of absolute values",
       [&](const Surrounding& s, const std::vector<Index>& rows) {
         return reduced(s, every_channel, rows, detail::AddAbsolute{}, Scalar(0));
       }},
      {"sum of positive parts",
       [&](const Surrounding& s, const std::vector<Index>& rows) {
         return reduced(s, every_channel, rows, detail::AddPositive{}, Scalar(0));
       }},
      {"largest",
       [&](const Surrounding& s, const std::vector<Index>& rows) { return reduced(s, every_channel, rows, detail::Largest{}, -infinite); }},
      {"smallest", [&](const Surrounding& s, const std::vector<Index>& rows) {
         return reduced(s, every_channel, rows, detail::Smallest{}, infinite);
       }}};
  std::vector<Matrix<Scalar>> clean_reductions;
  for (const auto& [name, reduce] : reductions) clean_reductions.push_back(reduce(clean, every_row));
  const auto document = [&](Index t) { return strong || t < 70 ? Index(0) : Index(70); };
  const Scalar rounding = sizeof(Scalar) == 4 ? Scalar(1e-5) : Scalar(1e-12);

  // Edges of documents, blocks and runs of tokens, for a NaN; an infinity goes the same ways, and is not a number where a zero meets it.
  const std::vector<Index> places = strong ? std::vector<Index>{5, 64, 130}
                                    : nan  ? std::vector<Index>{0, 5, 8, 63, 64, 69, 70, 100, tokens - 1}
                                           : std::vector<Index>{0, 64, 70, tokens - 1};
  for (const Bad<Scalar>& bad : all)
    for (const Index t : places) {
      INFO((read_before_update ? "read before update, " : "")
           << (strong ? "strong decays, " : "") << bad.name << " at token " << t << " is " << wrong);
      SurroundedDiagonal<Scalar> spoilt = clean;
      const Index only = t % 2 == 0 ? 3 : 36;  // one channel alone, where the array has channels
      Matrix<Scalar> numbers = bad.array(spoilt).matrix();
      if (bad.of_channel)
        numbers(t, only) = wrong;
      else
        numbers(t, 1) = wrong;
      bad.array(spoilt) = numbers;
      // What must be: by the definition of what an entry is made of.
      std::vector<std::vector<bool>> depends(static_cast<std::size_t>(tokens), std::vector<bool>(static_cast<std::size_t>(tokens)));
      const auto entry_depends = [&](Index i, Index j, Index e) {
        return (!bad.of_channel || e == only) && depends[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
      };
      for (Index i = 0; i < tokens; ++i)
        for (Index j = 0; j <= i; ++j)
          for (Index m = j; m <= std::min(j + width - 1, i) && document(m) == document(j); ++m)
            if (document(m) == document(i) && bad.depends(i, j, m, t))
              depends[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] = true;

      Matrix<Scalar> map(channels * tokens, tokens), one(channels, tokens);
      attention_rows(spoilt, every_channel, every_row, View<Scalar>(map), serial_executor());
      Index wrong_entries = 0, wrong_rows = 0;
      const auto right = [&](Scalar found, Scalar expected, bool dependent) {
        return dependent ? !std::isfinite(found) : std::abs(found - expected) <= rounding * largest;
      };
      for (Index e = 0; e < channels; ++e)
        for (Index i = 0; i < tokens; ++i)
          for (Index j = 0; j < tokens; ++j)
            wrong_entries += i < t ? map(e * tokens + i, j) != clean_map(e * tokens + i, j)  // the same bits
                                   : !right(map(e * tokens + i, j), clean_map(e * tokens + i, j), entry_depends(i, j, e));
      CHECK(wrong_entries == 0);
      for (const Index i : {Index(0), t, std::min(t + 3, tokens - 1), Index(66), tokens - 1}) {
        attention_rows(spoilt, every_channel, {i}, View<Scalar>(one), serial_executor());
        for (Index e = 0; e < channels; ++e)
          for (Index j = 0; j < tokens; ++j) wrong_rows += !right(one(e, j), clean_map(e * tokens + i, j), entry_depends(i, j, e));
      }
      Matrix<Scalar> two(2, tokens);
      attention_rows(spoilt, {only}, {tokens - 1, Index(120)}, View<Scalar>(two), serial_executor());
      for (const Index place : {Index(0), Index(1)})
        for (Index i = place == 0 ? tokens - 1 : 120, j = 0; j < tokens; ++j)
          wrong_rows += !right(two(place, j), clean_map(only * tokens + i, j), entry_depends(i, j, only));
      CHECK(wrong_rows == 0);

      // Applications leave out the weights of rows, which are a reduction's.
      if (bad.name != "row_weights") {
        Draw draw(7);
        const Matrix<Scalar> x = draw.normals<Scalar>(tokens, channels);
        Matrix<Scalar> y(tokens, channels), back(tokens, channels);
        ScanInput<Scalar> input;
        input.x = Array<Scalar>::view(x);
        scan<Scalar>(spoilt, input, y, serial_executor());
        scan_transposed<Scalar>(spoilt, ConstView<Scalar>(x), View<Scalar>(back), serial_executor());
        Index wrong_outputs = 0;
        for (Index e = 0; e < channels; ++e)
          for (Index i = 0; i < tokens; ++i) {
            bool out = false, gradient = false;
            for (Index j = 0; j <= i; ++j) out = out || entry_depends(i, j, e);
            for (Index row = i; row < tokens; ++row) gradient = gradient || entry_depends(row, i, e);
            wrong_outputs += std::isfinite(y(i, e)) == out;
            wrong_outputs += std::isfinite(back(i, e)) == gradient;
          }
        CHECK(wrong_outputs == 0);
      }

      for (std::size_t kind = 0; kind < reductions.size(); ++kind) {
        const auto& [name, reduce] = reductions[kind];
        const Matrix<Scalar> joined = reduce(spoilt, every_row), row = reduce(spoilt, {t, tokens - 1});
        const Matrix<Scalar>& expected = clean_reductions[kind];
        Index wrong_sums = 0;
        for (Index i = 0; i < tokens; ++i)
          for (Index j = 0; j < tokens; ++j) {
            const bool dependent = depends[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
            const auto fits = [&](Scalar found) {
              return dependent ? !std::isfinite(found) : std::abs(found - expected(i, j)) <= rounding * largest * channels;
            };
            wrong_sums += i < t ? joined(i, j) != expected(i, j) : !fits(joined(i, j));
            if (i == t) wrong_sums += !fits(row(0, j));
            if (i == tokens - 1) wrong_sums += !fits(row(1, j));
          }
        INFO(name);
        CHECK(wrong_sums == 0);
      }
    }
}

TEST_CASE("rows of a matrix a head, by blocks, carry what is not finite as far as its definition does, and no farther") {
  using head_cases::Decay;
  for (const Transition transition : {Transition::diagonal, Transition::delta, Transition::rank_one})
    for (const bool read_before_update : {false, true}) {
      head_cases::Plan plan;
      plan.transition = transition;
      plan.decay = transition == Transition::rank_one ? Decay::state : Decay::head;
      plan.tokens = tokens;
      plan.read_before_update = read_before_update;
      const HeadRecurrence<double> clean = head_cases::make<double>(plan);
      Matrix<double> right(tokens, tokens), rows(tokens, tokens), plain(tokens, tokens);
      matrix_rows(clean, 1, 0, tokens, View<double>(right));
      using Member = Array<double> HeadRecurrence<double>::*;
      for (const auto& [name, member] : {std::pair<const char*, Member>{"query", &HeadRecurrence<double>::query},
                                         {"key", &HeadRecurrence<double>::key},
                                         {"key_scale", &HeadRecurrence<double>::key_scale},
                                         {"log_decay", &HeadRecurrence<double>::log_decay},
                                         {"removal", &HeadRecurrence<double>::removal},
                                         {"probe", &HeadRecurrence<double>::probe}})
        for (const Index t : {Index(0), Index(5), Index(63), Index(64), Index(100), tokens - 1}) {
          if ((clean.*member).empty()) continue;
          INFO("transition " << static_cast<int>(transition) << (read_before_update ? ", read before update, " : ", ") << name
                             << " of token " << t);
          HeadRecurrence<double> spoilt = clean;
          Matrix<double> numbers = *(clean.*member);
          numbers(t, numbers.cols() - 1) = std::numeric_limits<double>::quiet_NaN();  // the last head's own, or that of all
          spoilt.*member = numbers;
          matrix_rows(spoilt, 1, 0, tokens, View<double>(rows));
          plain.setZero();
          for (Index i = 0; i < tokens; ++i) plain_head_row(spoilt, 1, i, &plain(i, 0));
          const auto differs = [](double a, double b) {
            return std::isfinite(a) != std::isfinite(b) || (std::isfinite(a) && std::abs(a - b) > 1e-11);
          };
          Index touched = 0, wrong_entries = 0, spoilt_entries = 0;
          for (Index i = 0; i < tokens; ++i)
            for (Index j = 0; j < tokens; ++j) {
              touched += i < t ? rows(i, j) != right(i, j)
                               : j > t && differs(rows(i, j), right(i, j)) && !(i == t && (clean.*member).data() == clean.query.data());
              wrong_entries += differs(rows(i, j), plain(i, j));
              spoilt_entries += !std::isfinite(rows(i, j));
            }
          CHECK(touched == 0);
          CHECK(wrong_entries == 0);
          if (t > 0 && t + 1 < tokens) CHECK(spoilt_entries > 0);
        }
    }
}

TEMPLATE_TEST_CASE("rows before a number that is not finite, and transposed columns behind it, are the same bits", "", double, float) {
  using Scalar = TestType;
  using head_cases::Decay;
  using Member = Array<Scalar> HeadRecurrence<Scalar>::*;
  for (const Transition transition : {Transition::diagonal, Transition::delta, Transition::rank_one})
    for (const Decay decay : {Decay::head, Decay::state, Decay::constant_state})
      for (const bool read_before_update : {false, true}) {
        head_cases::Plan plan;
        plan.transition = transition;
        plan.decay = decay;
        plan.tokens = 3 * detail::map_block_tokens / 2;
        plan.state = 19;
        plan.values = 5;
        plan.read_before_update = read_before_update;
        const HeadRecurrence<Scalar> clean = head_cases::make<Scalar>(plan);
        const Index T = plan.tokens, E = clean.channels;
        Draw draw(8);
        const Matrix<Scalar> x = draw.normals<Scalar>(T, E);
        Matrix<Scalar> right_map(2 * T, T), map(2 * T, T), right_y(T, E), y(T, E), right_g(T, E), g(T, E);
        const auto make_all = [&](const HeadRecurrence<Scalar>& of, const Matrix<Scalar>& input, Matrix<Scalar>& rows, Matrix<Scalar>& out,
                                  Matrix<Scalar>& back) {
          for (Index head = 0; head < 2; ++head) matrix_rows(of, head, 0, T, View<Scalar>(rows.data() + head * T * T, T, T));
          head_scan(of, Array<Scalar>::view(input), Array<Scalar>(), View<Scalar>(out), serial_executor());
          head_scan_transposed(of, ConstView<Scalar>(input), View<Scalar>(back), serial_executor());
        };
        make_all(clean, x, right_map, right_y, right_g);
        for (const Member member : {&HeadRecurrence<Scalar>::query, &HeadRecurrence<Scalar>::key, &HeadRecurrence<Scalar>::key_scale,
                                    &HeadRecurrence<Scalar>::log_decay, &HeadRecurrence<Scalar>::removal, &HeadRecurrence<Scalar>::probe,
                                    &HeadRecurrence<Scalar>::diagonal, Member()})  // none: in what it is applied to
          for (const Scalar wrong : {std::numeric_limits<Scalar>::quiet_NaN(), std::numeric_limits<Scalar>::infinity()})
            for (const Index t : {Index(7), Index(50), Index(64), Index(77)}) {
              HeadRecurrence<Scalar> spoilt = clean;
              Matrix<Scalar> input = x;
              if (member == nullptr) {
                input(t, 1) = wrong;
              } else {
                if ((clean.*member).rows() != T) continue;
                Matrix<Scalar> numbers = *(clean.*member);
                numbers(t, numbers.cols() / 2) = wrong;
                spoilt.*member = numbers;
              }
              make_all(spoilt, input, map, y, g);
              INFO("transition " << static_cast<int>(transition) << ", decay " << static_cast<int>(decay)
                                 << (read_before_update ? ", read before update" : "") << ", token " << t << " is " << wrong);
              Index changed = 0;
              for (Index row = 0; row < t; ++row)
                for (const Index from : {Index(0), T})
                  changed += (map.row(from + row).array() != right_map.row(from + row).array()).count();
              CHECK(changed == 0);
              CHECK((y.topRows(t).array() != right_y.topRows(t).array()).count() == 0);
              CHECK((g.bottomRows(T - 1 - t).array() != right_g.bottomRows(T - 1 - t).array()).count() == 0);
            }
      }
}

TEMPLATE_TEST_CASE("rows of channels that share a matrix are the same bits before what is not finite around it", "", double, float) {
  using Scalar = TestType;
  using Member = Array<Scalar> SurroundedMatrix<Scalar>::*;
  for (const Index taps : {4, 3, 1})
    for (const bool weighted : {false, true}) {
      head_cases::Plan plan;
      plan.tokens = 90;
      plan.values = 4;
      SurroundedMatrix<Scalar> clean;
      const HeadRecurrence<Scalar> recurrence = head_cases::make<Scalar>(plan);
      clean.recurrence = SharedMatrix<Scalar>(recurrence);
      const Index T = plan.tokens, E = recurrence.channels;
      Draw draw(9);
      clean.gate = draw.normals<Scalar>(T, E);
      clean.activation = draw.normals<Scalar>(T, E);
      if (taps > 1) clean.taps = draw.normals<Scalar>(taps, E);
      if (weighted) {
        clean.skip = draw.normals<Scalar>(1, E);
        clean.column_weights = draw.normals<Scalar>(T, E);
      }
      std::vector<Index> channels_chosen(static_cast<std::size_t>(E)), rows(static_cast<std::size_t>(T));
      std::iota(channels_chosen.begin(), channels_chosen.end(), Index(0));
      std::iota(rows.begin(), rows.end(), Index(0));
      const auto make_all = [&](const SurroundedMatrix<Scalar>& of) {  // the map, and three reductions of it
        Matrix<Scalar> all((E + 3) * T, T);
        attention_rows(of, channels_chosen, rows, View<Scalar>(all.data(), E * T, T, T), serial_executor());
        const auto part = [&](Index k) { return View<Scalar>(all.data() + (E + k) * T * T, T, T, T); };
        reduced_rows(of, channels_chosen, rows, part(0), serial_executor(), detail::Add(), Scalar(0));
        reduced_rows(of, channels_chosen, rows, part(1), serial_executor(), detail::AddAbsolute(), Scalar(0));
        reduced_rows(of, channels_chosen, rows, part(2), serial_executor(), detail::Largest(), -std::numeric_limits<Scalar>::infinity());
        return all;
      };
      const Matrix<Scalar> right = make_all(clean);
      for (const Member member :
           {&SurroundedMatrix<Scalar>::activation, &SurroundedMatrix<Scalar>::column_weights, &SurroundedMatrix<Scalar>::gate})
        for (const Index t : {Index(2), Index(41), Index(64), Index(89)}) {
          if ((clean.*member).empty()) continue;
          SurroundedMatrix<Scalar> spoilt = clean;
          Matrix<Scalar> numbers = *(clean.*member);
          numbers(t, 3) = std::numeric_limits<Scalar>::quiet_NaN();
          spoilt.*member = numbers;
          const Matrix<Scalar> made = make_all(spoilt);
          INFO(taps << " taps" << (weighted ? ", skip and column weights" : "") << ", NaN at token " << t << " of "
                    << (member == &SurroundedMatrix<Scalar>::gate ? "the gate" : "a column factor"));
          Index changed = 0, spoilt_entries = 0;
          for (Index block = 0; block < E + 3; ++block)
            for (Index i = 0; i < T; ++i)
              for (Index j = 0; j <= i; ++j) {
                changed += i < t && made(block * T + i, j) != right(block * T + i, j);
                spoilt_entries += std::isnan(made(block * T + i, j));
              }
          CHECK(changed == 0);
          CHECK(spoilt_entries > 0);
        }
    }
}

TEMPLATE_TEST_CASE("single rows of several heads together carry a NaN as far as their definition does, and no farther", "", double, float) {
  using Scalar = TestType;
  using head_cases::Decay;
  using Member = Array<Scalar> HeadRecurrence<Scalar>::*;
  constexpr Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();
  for (const Transition transition : {Transition::delta, Transition::rank_one, Transition::diagonal})
    for (const Decay decay : {Decay::head, Decay::state})
      for (const Index size : {Index(3), Index(19)}) {  // below a register, and beyond one
        head_cases::Plan plan;
        plan.transition = transition;
        plan.decay = decay;
        plan.tokens = 24;
        plan.state = size;
        const HeadRecurrence<Scalar> clean = head_cases::make<Scalar>(plan);
        for (const auto& [name, member] : {std::pair<const char*, Member>{"query", &HeadRecurrence<Scalar>::query},
                                           {"key", &HeadRecurrence<Scalar>::key},
                                           {"key_scale", &HeadRecurrence<Scalar>::key_scale},
                                           {"log_decay", &HeadRecurrence<Scalar>::log_decay},
                                           {"removal", &HeadRecurrence<Scalar>::removal},
                                           {"probe", &HeadRecurrence<Scalar>::probe}})
          for (const Scalar sign : {Scalar(1), Scalar(-1)})
            for (const Index t : {Index(0), Index(11), Index(12), Index(22), Index(23)}) {
              if ((clean.*member).empty()) continue;
              INFO("transition " << static_cast<int>(transition) << ", decay " << static_cast<int>(decay) << ", state " << size << ", "
                                 << name << " of token " << t);
              HeadRecurrence<Scalar> spoilt = clean;
              Matrix<Scalar> numbers = *(clean.*member);
              numbers(t, numbers.cols() - 1) = std::copysign(nan, sign);
              spoilt.*member = numbers;
              for (const Index row : {Index(22), Index(23)}) {
                Matrix<Scalar> rows(2, plan.tokens);
                head_rows(SharedMatrix<Scalar>(spoilt), {0, 1}, {row}, View<Scalar>(rows), serial_executor());
                Index wrong = 0;
                for (Index head = 0; head < 2; ++head) {
                  Matrix<Scalar> plain = Matrix<Scalar>::Zero(1, plan.tokens);
                  plain_head_row(spoilt, head, row, &plain(0, 0));
                  for (Index j = 0; j < plan.tokens; ++j) {
                    const Scalar got = rows(head, j), expected = plain(0, j);
                    const bool near =
                        std::abs(got - expected) <= (sizeof(Scalar) == 4 ? Scalar(1e-4) : Scalar(1e-12)) * (1 + std::abs(expected));
                    wrong += std::isfinite(expected) ? !near : std::isfinite(got);
                  }
                }
                CHECK(wrong == 0);
              }
            }
      }
}

}  // namespace not_finite_test
