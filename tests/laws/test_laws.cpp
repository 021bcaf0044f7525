// The laws, compiled once for all architectures, and a foreign layer that passes them: an exponential moving average with a gate.
#include <laws/laws.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <laws/comparison.hpp>

#include <implicit_attention/core/numerics.hpp>

namespace laws {
namespace {

inline reference::TermSet named(Terms terms) {
  reference::TermSet on;
  on.recurrence = terms.has(Term::recurrence);
  on.gate = terms.has(Term::gate);
  on.activation = terms.has(Term::activation);
  on.convolution = terms.has(Term::convolution);
  on.normalization = terms.has(Term::normalization);
  on.skip = terms.has(Term::skip);
  on.bias = terms.has(Term::bias);
  return on;
}

/// All 128 subsets of the terms.
inline std::vector<Terms> all_term_sets() {
  std::vector<Terms> sets;
  for (unsigned bits = 0; bits < 128; ++bits) {
    Terms terms;
    for (const Terms::Named& one : Terms::names())
      if (bits & static_cast<unsigned>(one.term)) terms = terms | one.term;
    sets.push_back(terms);
  }
  return sets;
}
/// The named sets and what is one term away from all.
inline std::vector<Terms> some_term_sets() {
  std::vector<Terms> sets = {Terms::all(), Terms::published(), Terms::recurrence(), Terms()};
  for (const Terms::Named& one : Terms::names()) sets.push_back(Terms::all().without(one.term));
  return sets;
}

/// Several threads that take the next index each.
inline Executor threads(int workers) {
  return [workers](Index count, const std::function<void(Index)>& body) {
    std::atomic<Index> next{0};
    const auto work = [&] {
      for (Index i = next++; i < count; i = next++) body(i);
    };
    std::vector<std::thread> pool;
    for (int w = 0; w < workers; ++w) pool.emplace_back(work);
    for (std::thread& thread : pool) thread.join();
  };
}

// --- The laws --------------------------------------------------------------------------------------------------------

/// x, y and out are what the paper's recurrence gives, and finite.
template <class Scalar>
void law_layer(const Case<Scalar>& c, const Run<Scalar>& act) {
  compare<Scalar>("linear input", c.condition, *act.x, c.expected.x);
  compare<Scalar>("y", c.condition, *act.y, c.expected.y);
  compare<Scalar>("out", c.condition, *act.out, c.expected.out);
  CHECK(act.out.matrix().allFinite());
}

/// Each set of terms is the product of its factors, and what is applied is what is materialised.
template <class Scalar>
void law_terms(const Case<Scalar>& c, const Run<Scalar>& act, const std::vector<Terms>& sets) {
  const Index tokens = c.u.rows(), channels = c.channels;
  const std::vector<double>& log_scale = act.log_scale;
  for (const Terms terms : sets) {
    INFO("terms " << terms.text());
    const ImplicitAttention<Scalar> attention = act.attention(terms);
    const reference::TermSet on = named(terms.resolved(c.named_sets_have));
    const AttentionMatrix<Scalar> matrices = attention.materialize();
    const Matrix<Scalar> bias = attention.bias(), applied = attention.apply(*act.x);
    CHECK(attention.carry().isZero(0));
    Comparison<Scalar> entries("attention (channel, row * tokens + column)", c.condition), products("A x", c.condition),
        biases("bias", c.condition);
    for (Index e = 0; e < channels; ++e) {
      const double scale = log_scale[static_cast<std::size_t>(e)];
      for (Index i = 0; i < tokens; ++i) {
        double sum = 0, magnitude = 0;
        for (Index j = 0; j < tokens; ++j) {
          const double expected = c.expected.attention(e, i, j, on, scale);
          entries.add(matrices(e, i, j), expected, e, i * tokens + j);
          sum += expected * c.expected.x(j, e);
          magnitude += std::abs(expected * c.expected.x(j, e));
        }
        products.add(applied(i, e), sum, magnitude, i, e);
        biases.add(bias(i, e), c.expected.bias(e, i, on, scale), i, e);
      }
      entries.group();
      products.group();
      biases.group();
    }
    entries.close();
    products.close();
    biases.close();
  }
}

/// A x + bias + carry == y, with the matrices written out.
template <class Scalar>
void law_reconstruction(const Case<Scalar>& c, const Run<Scalar>& act) {
  const ImplicitAttention<Scalar> attention = act.attention(Terms::all());
  const AttentionMatrix<Scalar> matrices = attention.materialize();
  const Matrix<Scalar> bias = attention.bias(), carry = attention.carry();
  const Index tokens = act.x.rows();
  Comparison<Scalar> comparison("A x + bias + carry", c.condition);
  for (Index e = 0; e < c.channels; ++e) {
    for (Index i = 0; i < tokens; ++i) {
      double sum = static_cast<double>(bias(i, e)) + static_cast<double>(carry(i, e));
      double magnitude = std::abs(static_cast<double>(bias(i, e))) + std::abs(static_cast<double>(carry(i, e)));
      for (Index j = 0; j < tokens; ++j) {
        const double part = static_cast<double>(matrices(e, i, j)) * static_cast<double>(act.x(j, e));
        sum += part;
        magnitude += std::abs(part);
      }
      comparison.add(act.y(i, e), sum, magnitude, i, e);
    }
    comparison.group();
  }
  comparison.close();
}

/// Nothing is seen of what comes later: exact zeros right of the diagonal, and other numbers there change nothing before.
template <class Scalar>
void law_causality(const Case<Scalar>& c, const Run<Scalar>& act) {
  const Index tokens = c.u.rows(), changed = tokens / 2;
  const AttentionMatrix<Scalar> matrices = act.attention(Terms::all()).materialize();
  bool zero = true;
  for (Index e = 0; e < matrices.channels(); ++e)
    for (Index i = 0; i < tokens; ++i)
      for (Index j = i + 1; j < tokens; ++j) zero = zero && matrices(e, i, j) == Scalar(0);
  CHECK(zero);
  Matrix<Scalar> other = c.u;
  other.bottomRows(tokens - changed).array() += Scalar(0.5);
  const Run<Scalar> changed_act = c.run(other, tokens);
  compare<Scalar>("y before what was changed", c.condition, ConstView<Scalar>(changed_act.y.matrix().topRows(changed)), changed, c.channels,
                  [&](Index i, Index e) { return static_cast<double>(act.y(i, e)); });
}

/// The first n tokens alone give the same first n rows.
template <class Scalar>
void law_prefix(const Case<Scalar>& c, const Run<Scalar>& act) {
  const AttentionMatrix<Scalar> whole = act.attention(Terms::all()).materialize();
  for (const Index n : {Index(1), c.u.rows() / 2, c.u.rows() - 1}) {
    if (n < 1) continue;
    INFO("the first " << n << " tokens");
    const Run<Scalar> alone = c.run(c.u, n);
    compare<Scalar>("y", c.condition, *alone.y, n, c.channels, [&](Index i, Index e) { return static_cast<double>(act.y(i, e)); });
    const AttentionMatrix<Scalar> matrices = alone.attention(Terms::all()).materialize();
    Comparison<Scalar> comparison("attention", c.condition);
    for (Index e = 0; e < whole.channels(); ++e) {
      for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < n; ++j) comparison.add(matrices(e, i, j), static_cast<double>(whole(e, i, j)), i, j);
      comparison.group();
    }
    comparison.close();
  }
}

/// <A x, g> == <x, A^T g>, number by number.
template <class Scalar>
void law_transposition(const Case<Scalar>& c, const Run<Scalar>& act, const std::vector<Terms>& sets) {
  const Index tokens = c.u.rows();
  const Matrix<Scalar> g = Draw(77).normals<Scalar>(tokens, c.channels);
  for (const Terms terms : sets) {
    INFO("terms " << terms.text());
    const ImplicitAttention<Scalar> attention = act.attention(terms);
    const AttentionMatrix<Scalar> matrices = attention.materialize();
    const Matrix<Scalar> transposed = attention.apply_transpose(g);
    Comparison<Scalar> comparison("A^T g", c.condition);
    for (Index e = 0; e < c.channels; ++e) {
      for (Index j = 0; j < tokens; ++j) {
        double sum = 0, magnitude = 0;
        for (Index i = j; i < tokens; ++i) {
          const double part = static_cast<double>(matrices(e, i, j)) * static_cast<double>(g(i, e));
          sum += part;
          magnitude += std::abs(part);
        }
        comparison.add(transposed(j, e), sum, magnitude, j, e);
      }
      comparison.group();
    }
    comparison.close();
  }
}

/// What is asked for is computed: chosen channels and rows in any order are those of the whole, into strided memory of the caller's too.
template <class Scalar>
void law_selection(const Case<Scalar>& c, const Run<Scalar>& act) {
  const Index tokens = c.u.rows(), channels = c.channels;
  const ImplicitAttention<Scalar> attention = act.attention(Terms::all());
  const AttentionMatrix<Scalar> whole = attention.materialize();
  const std::vector<std::vector<Index>> channel_lists = {{0}, {channels - 1}, {channels - 1, 0, channels / 2, 0}};
  const std::vector<std::vector<Index>> row_lists = {{0}, {tokens - 1}, {tokens - 1, tokens / 2, 0, tokens / 2}};
  const auto check = [&](const AttentionMatrix<Scalar>& part, const std::vector<Index>& channel_list, const std::vector<Index>& row_list) {
    REQUIRE(part.channels() == static_cast<Index>(channel_list.size()));
    REQUIRE(part.rows() == static_cast<Index>(row_list.size()));
    REQUIRE(part.tokens() == tokens);
    CHECK(part.channel_indices() == channel_list);
    CHECK(part.row_indices() == row_list);
    Comparison<Scalar> comparison("chosen row", c.condition);
    for (std::size_t a = 0; a < channel_list.size(); ++a) {
      for (std::size_t r = 0; r < row_list.size(); ++r)
        for (Index j = 0; j < tokens; ++j)
          comparison.add(part(static_cast<Index>(a), static_cast<Index>(r), j), static_cast<double>(whole(channel_list[a], row_list[r], j)),
                         row_list[r], j);
      comparison.group();
    }
    comparison.close();
  };
  for (const auto& channel_list : channel_lists)
    for (const auto& row_list : row_lists) {
      Selection selection;
      selection.channels = channel_list;
      selection.rows = row_list;
      const AttentionMatrix<Scalar> part = attention.materialize(selection);
      check(part, channel_list, row_list);
      const Index rows = static_cast<Index>(channel_list.size() * row_list.size());
      Matrix<Scalar> memory = Matrix<Scalar>::Constant(rows, tokens + 3, Scalar(-7));
      attention.materialize_into(View<Scalar>(memory.data() + 1, rows, tokens, tokens + 3), selection);
      CHECK(same_bits<Scalar>(ConstView<Scalar>(memory.middleCols(1, tokens)), part.stacked()));
      CHECK((memory.col(0).array() == Scalar(-7)).all());
      CHECK((memory.rightCols(2).array() == Scalar(-7)).all());
    }
  // Each row alone, of all channels.
  Comparison<Scalar> alone("a row alone", c.condition);
  for (Index i = 0; i < tokens; ++i) {
    Selection selection;
    selection.rows = std::vector<Index>{i};
    const AttentionMatrix<Scalar> row = attention.materialize(selection);
    for (Index e = 0; e < channels; ++e)
      for (Index j = 0; j < tokens; ++j) alone.add(row(e, 0, j), static_cast<double>(whole(e, i, j)), i, j);
  }
  alone.close();
  Selection last;
  last.rows = Indices::last();
  std::vector<Index> every(static_cast<std::size_t>(channels));
  for (Index e = 0; e < channels; ++e) every[static_cast<std::size_t>(e)] = e;
  check(attention.materialize(last), every, {tokens - 1});

  // Applications read and write rows at any distance.
  Matrix<Scalar> wide = Matrix<Scalar>::Constant(tokens, channels + 5, Scalar(-7)), input = wide;
  input.middleCols(2, channels) = act.x.matrix();
  const ConstView<Scalar> strided(input.middleCols(2, channels));
  attention.apply_into(View<Scalar>(wide.data() + 2, tokens, channels, channels + 5), strided);
  CHECK(same_bits<Scalar>(ConstView<Scalar>(wide.middleCols(2, channels)), attention.apply(*act.x)));
  attention.apply_transpose_into(View<Scalar>(wide.data() + 2, tokens, channels, channels + 5), strided);
  CHECK(same_bits<Scalar>(ConstView<Scalar>(wide.middleCols(2, channels)), attention.apply_transpose(*act.x)));
  CHECK((wide.leftCols(2).array() == Scalar(-7)).all());
  CHECK((wide.rightCols(3).array() == Scalar(-7)).all());
}

/// Reducing is materialising and then reducing, for every kind, with and without weights, on any channels and rows.
template <class Scalar>
void law_reduction(const Case<Scalar>& c, const Run<Scalar>& act) {
  const Index tokens = c.u.rows(), channels = c.channels;
  const ImplicitAttention<Scalar> attention = act.attention(Terms::all());
  const AttentionMatrix<Scalar> whole = attention.materialize();
  Draw draw(5);
  const Matrix<Scalar> row_weights = draw.normals<Scalar>(tokens, channels), column_weights = draw.normals<Scalar>(tokens, channels);
  const auto all_of = [](Index count) { return Indices::all().resolve(count, "index"); };
  const std::vector<Index> some_channels = {channels - 1, 0}, some_rows = {tokens - 1, 0, tokens / 2};
  for (const ReductionKind kind :
       {ReductionKind::mean, ReductionKind::mean_abs, ReductionKind::mean_positive, ReductionKind::max, ReductionKind::min})
    for (int weights = 0; weights < 4; ++weights)
      for (int chosen = 0; chosen < 2; ++chosen) {
        INFO("kind " << static_cast<int>(kind) << ", weights " << weights << ", chosen " << chosen);
        Reduction<Scalar> reduction;
        reduction.kind = kind;
        if (weights & 1) reduction.row_weights = Array<Scalar>::view(row_weights);
        if (weights & 2) reduction.column_weights = Array<Scalar>::view(column_weights);
        Selection selection;
        const std::vector<Index> channel_list = chosen ? some_channels : all_of(channels), row_list = chosen ? some_rows : all_of(tokens);
        if (chosen) {
          selection.channels = channel_list;
          selection.rows = row_list;
        }
        const Matrix<Scalar> map = attention.reduce(reduction, selection);
        REQUIRE(map.rows() == static_cast<Index>(row_list.size()));
        REQUIRE(map.cols() == tokens);
        Comparison<Scalar> comparison("reduced map", c.condition);
        for (Index r = 0; r < map.rows(); ++r)
          for (Index j = 0; j < tokens; ++j) {
            const Index i = row_list[static_cast<std::size_t>(r)];
            double joined = 0, magnitude = 0;
            for (std::size_t a = 0; a < channel_list.size(); ++a) {
              const Index e = channel_list[a];
              double entry = static_cast<double>(whole(e, i, j));
              if (weights & 1) entry *= static_cast<double>(row_weights(i, e));
              if (weights & 2) entry *= static_cast<double>(column_weights(j, e));
              if (kind == ReductionKind::mean_abs) entry = std::abs(entry);
              if (kind == ReductionKind::mean_positive) entry = std::max(entry, 0.0);
              const bool extreme = kind == ReductionKind::max || kind == ReductionKind::min;
              if (extreme)
                joined = a == 0 ? entry : kind == ReductionKind::max ? std::max(joined, entry) : std::min(joined, entry);
              else
                joined += entry / static_cast<double>(channel_list.size());
              magnitude = std::max(magnitude, std::abs(entry));
            }
            comparison.add(map(r, j), joined, magnitude, i, j);
          }
        comparison.close();
        Matrix<Scalar> memory = Matrix<Scalar>::Constant(map.rows(), tokens + 2, Scalar(-7));
        attention.reduce_into(View<Scalar>(memory.data(), map.rows(), tokens, tokens + 2), reduction, selection);
        CHECK(same_bits<Scalar>(ConstView<Scalar>(memory.leftCols(tokens)), map));
        CHECK((memory.rightCols(2).array() == Scalar(-7)).all());
      }
}

/// Any number of workers gives the same bits.
template <class Scalar>
void law_executors(const Case<Scalar>& c, const Run<Scalar>& act) {
  const ImplicitAttention<Scalar> attention = act.attention(Terms::all());
  const AttentionMatrix<Scalar> whole = attention.materialize();
  const Matrix<Scalar> map = attention.reduce(), applied = attention.apply(*act.x), transposed = attention.apply_transpose(*act.x),
                       bias = attention.bias();
  for (const int workers : {2, 5}) {
    INFO(workers << " workers");
    Selection selection;
    selection.executor = threads(workers);
    CHECK(same_bits<Scalar>(attention.materialize(selection).stacked(), whole.stacked()));
    CHECK(same_bits<Scalar>(attention.reduce({}, selection), map));
    CHECK(same_bits<Scalar>(attention.apply(*act.x, selection.executor), applied));
    CHECK(same_bits<Scalar>(attention.apply_transpose(*act.x, selection.executor), transposed));
    CHECK(same_bits<Scalar>(attention.bias(selection.executor), bias));
    CHECK(same_bits<Scalar>(c.piece(c.u, 0, c.u.rows(), nullptr, selection.executor).y.matrix(), act.y.matrix()));
  }
}

/// A sequence in pieces, the state handed on, is the sequence whole; each piece's matrices are blocks on the diagonal of the whole's, and
/// what came in is the carry.
template <class Scalar>
void law_pieces(const Case<Scalar>& c, const Run<Scalar>& act, const std::vector<Index>& cuts, const std::vector<Terms>& sets) {
  const Index channels = c.channels, width = c.u.cols();
  Run<Scalar> before;
  for (std::size_t cut = 0; cut + 1 < cuts.size(); ++cut) {
    const Index begin = cuts[cut], end = cuts[cut + 1], count = end - begin;
    INFO("tokens " << begin << " to " << end - 1);
    const Run<Scalar> now = c.piece(c.u, begin, end, begin > 0 ? &before : nullptr, serial_executor());
    Comparison<Scalar> ys("y", c.condition), outs("out", c.condition);
    for (Index e = 0; e < channels; ++e) {  // of the whole's largest: a short piece of a channel may be small by chance
      for (Index i = 0; i < count; ++i)
        ys.add(now.y(i, e), c.expected.y(begin + i, e), act.y.matrix().col(e).cwiseAbs().template cast<double>().maxCoeff(), i, e);
      ys.group();
    }
    ys.close();
    for (Index d = 0; d < width; ++d)
      for (Index i = 0; i < count; ++i)
        outs.add(now.out(i, d), c.expected.out(begin + i, d), act.out.matrix().col(d).cwiseAbs().template cast<double>().maxCoeff(), i, d);
    outs.close();
    law_reconstruction(c, now);

    const std::vector<double>& log_scale = now.log_scale;
    for (const Terms terms : sets) {
      INFO("terms " << terms.text());
      const reference::TermSet on = named(terms.resolved(c.named_sets_have));
      const ImplicitAttention<Scalar> attention = now.attention(terms);
      const AttentionMatrix<Scalar> matrices = attention.materialize();
      const Matrix<Scalar> bias = attention.bias(), carry = attention.carry();
      Comparison<Scalar> entries("attention", c.condition), biases("bias", c.condition), carries("carry", c.condition);
      for (Index e = 0; e < channels; ++e) {
        const double scale = log_scale[static_cast<std::size_t>(e)];
        for (Index i = 0; i < count; ++i) {
          for (Index j = 0; j < count; ++j) entries.add(matrices(e, i, j), c.expected.attention(e, begin + i, begin + j, on, scale), i, j);
          biases.add(bias(i, e), c.expected.bias(e, begin + i, on, scale, begin), i, e);
          // The state is a sum over the past whose parts may cancel: held to the largest part of it.
          double magnitude = 0;
          for (Index j = 0; j < begin; ++j)
            magnitude = std::max(magnitude, std::abs(c.expected.attention(e, begin + i, j, on, scale) * c.expected.x(j, e)));
          const double expected = c.expected.carry(e, begin + i, on, scale, begin);
          carries.add(carry(i, e), expected, std::max(std::abs(expected), magnitude), i, e);
        }
        entries.group();
        biases.group();
      }
      entries.close();
      biases.close();
      carries.close();
    }
    before = now;
  }
}

/// Cuts of `tokens` tokens into pieces of `size`, the last one shorter.
std::vector<Index> cuts_every(Index tokens, Index size) {
  std::vector<Index> cuts;
  for (Index begin = 0; begin < tokens; begin += size) cuts.push_back(begin);
  cuts.push_back(tokens);
  return cuts;
}

/// A long sequence, where sums and products over all of it would lose what is asked for: single rows, a block, and what takes linear time.
template <class Scalar>
void law_long(const Case<Scalar>& c) {
  INFO(c.text);
  const Index tokens = c.u.rows();
  const Run<Scalar> act = c.run(c.u, tokens);
  law_layer(c, act);
  const ImplicitAttention<Scalar> attention = act.attention(Terms::all());
  const Matrix<Scalar> reconstructed = attention.apply(*act.x) + attention.bias();
  compare<Scalar>("A x + bias", c.condition, reconstructed, c.expected.y);
  std::vector<Index> rows = {0, tokens / 2, tokens - 1};
  for (int block = 0; block < 2; ++block) {
    if (block == 1)
      for (Index i = tokens - 80; i < tokens; ++i) rows.push_back(i);
    Selection selection;
    selection.rows = rows;
    const AttentionMatrix<Scalar> matrices = attention.materialize(selection);
    const Matrix<Scalar> map = attention.reduce({}, selection);
    Comparison<Scalar> entries("attention", c.condition), means("mean", c.condition);
    reference::Table mean(static_cast<Index>(rows.size()), tokens);
    for (Index e = 0; e < c.channels; ++e) {
      for (std::size_t r = 0; r < rows.size(); ++r)
        for (Index j = 0; j < tokens; ++j) {
          const double expected = c.expected.attention(e, rows[r], j, named(Terms::all()));
          entries.add(matrices(e, static_cast<Index>(r), j), expected, rows[r], j);
          mean(static_cast<Index>(r), j) += expected / static_cast<double>(c.channels);
        }
      entries.group();
    }
    entries.close();
    for (Index r = 0; r < mean.rows; ++r)
      for (Index j = 0; j < tokens; ++j) means.add(map(r, j), mean(r, j), rows[static_cast<std::size_t>(r)], j);
    means.close();
  }
}

template <class Scalar>
void every_law_of(const Case<Scalar>& c, bool thorough) {
  INFO(c.text);
  const Index tokens = c.u.rows();
  const Run<Scalar> act = c.run(c.u, tokens);
  const std::vector<Terms> few = {Terms::all(), Terms::published(), Terms::recurrence()};
  law_layer(c, act);
  law_terms(c, act, thorough ? all_term_sets() : few);
  law_reconstruction(c, act);
  law_causality(c, act);
  law_prefix(c, act);
  law_transposition(c, act, thorough ? all_term_sets() : few);
  law_selection(c, act);
  law_reduction(c, act);
  law_executors(c, act);
  if (!c.carries) return;
  const std::vector<Terms> sets = thorough ? some_term_sets() : few;
  if (tokens <= 16) law_pieces(c, act, cuts_every(tokens, 1), sets);
  if (tokens > 2) law_pieces(c, act, cuts_every(tokens, thorough ? 2 : (tokens + 1) / 2), sets);
  if (tokens > 64) law_pieces(c, act, {0, 1, 64, tokens}, {Terms::all()});
}

}  // namespace

template <class Scalar>
void every_law(const Family<Scalar>& family) {
  std::uint64_t seed = 1;
  for (const std::string& flavour : family.flavours) {
    every_law_of(family.make({6, 4, 3, 3, 4}, flavour, seed++), true);
    every_law_of(family.make({1, 3, 5, 2, 4}, flavour, seed++), true);
    every_law_of(family.make({70, 5, 6, 5, 3}, flavour, seed++), false);
  }
  const Sizes sizes[] = {{2, 3, 1, 1, 4},    {3, 3, 17, 4, 4},   {31, 3, 4, 3, 4},  {32, 3, 5, 1, 4},  {33, 3, 3, 4, 4},
                         {63, 4, 17, 4, 4},  {64, 5, 5, 3, 4},   {65, 6, 66, 4, 2}, {65, 4, 3, 64, 4}, {64, 3, 2, 128, 1},
                         {129, 4, 3, 16, 4}, {129, 3, 17, 1, 5}, {130, 2, 1, 2, 7}, {100, 3, 3, 3, 40}};
  for (const Sizes& size : sizes) every_law_of(family.make(size, family.flavours.front(), seed++), false);
  law_long(family.make({1500, 3, 2, 4, 4}, family.flavours.front(), seed));
}

template void every_law<float>(const Family<float>&);
template void every_law<double>(const Family<double>&);

void float_near_double(const Family<float>& single, const Family<double>& twice) {
  std::uint64_t seed = 1000;
  for (const std::string& flavour : single.flavours) {
    const Case<float> c = single.make({70, 5, 6, 5, 3}, flavour, seed);
    const Case<double> d = twice.make({70, 5, 6, 5, 3}, flavour, seed++);
    INFO(c.text << " beside double");
    const Run<float> single_run = c.run(c.u, c.u.rows());
    const Run<double> double_run = d.run(d.u, d.u.rows());
    compare<float>("y", c.condition, *single_run.y, c.u.rows(), c.channels, [&](Index i, Index e) { return double_run.y(i, e); });
    // A bare recurrence in logarithms may be divided by another constant in another precision: all terms.
    const AttentionMatrix<float> single_matrices = single_run.attention(Terms::all()).materialize();
    const AttentionMatrix<double> double_matrices = double_run.attention(Terms::all()).materialize();
    compare<float>("attention", c.condition, single_matrices.stacked(), double_matrices.stacked().rows(), c.u.rows(),
                   [&](Index i, Index j) { return double_matrices.stacked()(i, j); });
  }
}

}  // namespace laws

namespace {

using namespace laws;

/// h_t = decay h_{t-1} + (1 - decay) x_t with x = u input^T, y = sigmoid(u gate^T) h, out = y output^T. What a foreign layer needs to
/// join: it derives from nothing here, and touches nothing of the library.
template <class S>
struct MovingAverage {
  using Scalar = S;
  struct Activations {
    Array<Scalar> x, gate, y, out;
  };
  Matrix<Scalar> input, gate, output;  // (channels, width) twice, (width, channels)
  RowVector<Scalar> decay;             // of each channel, above 0

  [[nodiscard]] Index width() const { return input.cols(); }
  [[nodiscard]] Index channels() const { return input.rows(); }
  [[nodiscard]] Activations activations(ConstView<Scalar> u) const {
    Activations act;
    act.x = Matrix<Scalar>(u * input.transpose());
    act.gate = implicit_attention::sigmoid(Matrix<Scalar>(u * gate.transpose()));
    Matrix<Scalar> y(u.rows(), channels());
    RowVector<Scalar> h = RowVector<Scalar>::Zero(channels());
    for (Index t = 0; t < u.rows(); ++t) {
      h = decay.cwiseProduct(h) + (Scalar(1) - decay.array()).matrix().cwiseProduct(act.x.matrix().row(t));
      y.row(t) = act.gate.matrix().row(t).cwiseProduct(h);
    }
    act.out = Matrix<Scalar>(y * output.transpose());
    act.y = std::move(y);
    return act;
  }
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms) const {
    UnifiedForm<Scalar> form;
    const Index tokens = act.x.rows();
    if (terms.has(Term::recurrence)) {
      DiagonalRecurrence<Scalar> recurrence;
      recurrence.tokens = tokens;
      recurrence.channels = channels();
      recurrence.step = Matrix<Scalar>(decay.array().log().matrix().replicate(tokens, 1));
      recurrence.key_scale = Matrix<Scalar>((Scalar(1) - decay.array()).matrix().replicate(tokens, 1));
      form.recurrence = std::move(recurrence);
    } else {
      form.recurrence = identity_recurrence<Scalar>(tokens, channels());
    }
    form.gate = if_on(terms, Term::gate, act.gate);
    return form;
  }
};

template <class S>
struct MovingAverageFamily {
  static std::vector<std::string> flavours() { return {"ordinary", "slow"}; }

  static Case<S> make(Sizes size, const std::string& flavour, std::uint64_t seed) {
    Draw draw(seed);
    const Index D = size.width, E = size.channels, L = size.tokens;
    MovingAverage<S> layer;
    layer.input = draw.normals<S>(E, D, 0.6);
    layer.gate = draw.normals<S>(E, D, 0.6);
    layer.output = draw.normals<S>(D, E, 0.6);
    layer.decay = flavour == "slow" ? draw.uniforms<S>(1, E, 0.99, 0.999) : draw.uniforms<S>(1, E, 0.1, 0.95);
    const Matrix<S> u = draw.normals<S>(L, D);

    const reference::Table plain = table<S>(u);
    reference::Sequence s;
    s.tokens = L;
    s.channels = E;
    s.x = s.input = reference::linear(plain, table<S>(layer.input));
    s.gate = reference::linear(plain, table<S>(layer.gate));
    for (double& number : s.gate.numbers) number = reference::sigmoid(number);
    s.y = reference::Table(L, E);
    for (Index e = 0; e < E; ++e) {
      const double decay = static_cast<double>(layer.decay(e));
      reference::Table matrix(L, L);
      for (Index i = 0; i < L; ++i)
        for (Index j = 0; j <= i; ++j) {
          matrix(i, j) = std::pow(decay, static_cast<double>(i - j)) * (1 - decay);
          s.y(i, e) += s.gate(i, e) * matrix(i, j) * s.x(j, e);
        }
      s.bare.push_back(matrix);
    }
    s.normalized = s.bare;
    s.out = reference::linear(s.y, table<S>(layer.output));
    std::ostringstream text;
    text << "MovingAverage<" << (sizeof(S) == 4 ? "float" : "double") << "> " << flavour << ", " << L << " tokens, width " << D << ", " << E
         << " channels, seed " << seed;
    return make_case(text.str(), layer, u, {}, std::move(s));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("laws of a foreign layer", "[laws]", double, float) { every_law<TestType>(family<MovingAverageFamily, TestType>()); }
TEST_CASE("a foreign layer in float and double", "[laws]") {
  float_near_double(family<MovingAverageFamily, float>(), family<MovingAverageFamily, double>());
}
