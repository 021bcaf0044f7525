// RWKV-5, RWKV-6 and RWKV-7 as layers against the papers' formulas: what the golden cases leave open. Versions without a gate, heads whose
// keys and values differ in size, every set of terms, states carried from piece to piece, both ways back, and decays at their ends.
#include <functional>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <support/reference_rwkv.hpp>

#include <implicit_attention/layers/rwkv5.hpp>
#include <implicit_attention/layers/rwkv6.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/trace/walk_back.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;
using test_support::table;
namespace ref = reference;

template <class S>
Array<S> row(const Matrix<S>& matrix) {
  return matrix;
}

/// A layer, an input, what else it reads, and what the formulas make of them.
template <class Layer>
struct RwkvCase {
  using S = typename Layer::Scalar;
  Layer layer;
  Matrix<S> u, v_first;
  ref::RwkvSequence expected;

  LayerRun<Layer> run(Trace<S>& trace, const Value<S>& input, const Value<S>& first, const typename Layer::State* state = nullptr) const {
    RunContext<S> context;
    if (!first.empty()) context.share("v_first", first);
    static_cast<void>(trace);
    return layer.run(input, context, state);
  }
};

struct Flavour {
  double decay = 0;       ///< what is added to the logarithms of rates
  bool per_head = false;  ///< RWKV-5.1
  Index tokens = 9;
};

template <class S>
RwkvCase<Rwkv5<S>> rwkv5(const Flavour& flavour) {
  Draw draw(51);
  const Index D = 6, H = 2, P = 4, E = H * P;
  typename Rwkv5<S>::Weights w;
  const Index columns = flavour.per_head ? 1 : P;
  w.time_decay = draw.uniforms<S>(H, columns, -5 + flavour.decay, 1 + flavour.decay);
  (flavour.per_head ? w.time_first : w.time_faaaa) = draw.normals<S>(H, columns);
  w.time_mix_key = draw.uniforms<S>(1, D, 0, 1);
  w.time_mix_value = draw.uniforms<S>(1, D, 0, 1);
  w.time_mix_receptance = draw.uniforms<S>(1, D, 0, 1);
  w.key_weight = draw.normals<S>(E, D, 0.5);
  w.value_weight = draw.normals<S>(E, D, 0.5);
  w.receptance_weight = draw.normals<S>(E, D, 0.5);
  if (!flavour.per_head) {
    w.time_mix_gate = draw.uniforms<S>(1, D, 0, 1);
    w.gate_weight = draw.normals<S>(E, D);
  }
  w.output_weight = draw.normals<S>(D, E, 0.5);
  w.ln_x_weight = draw.normals<S>(1, E, 0.3, 1);
  w.ln_x_bias = draw.normals<S>(1, E, 0.3);
  const Matrix<S> u = draw.normals<S>(flavour.tokens, D);

  const ref::Table plain = table<S>(u);
  const auto through = [&](const Array<S>& mix, const Array<S>& weight) {
    return ref::linear(ref::mixed(plain, ref::each(table(mix), [](double m) { return 1 - m; })), table(weight));
  };
  ref::RwkvHeads p;
  p.heads = H;
  p.eps = 1e-4;
  p.r = through(w.time_mix_receptance, w.receptance_weight);
  p.k = through(w.time_mix_key, w.key_weight);
  p.v = through(w.time_mix_value, w.value_weight);
  if (!flavour.per_head) p.gate = ref::each(through(w.time_mix_gate, w.gate_weight), ref::silu);
  p.decay = ref::Table(u.rows(), E);
  p.bonus = ref::Table(1, E);
  for (Index e = 0; e < E; ++e) {
    const Index head = e / P, column = flavour.per_head ? 0 : e % P;
    for (Index t = 0; t < u.rows(); ++t) p.decay(t, e) = std::exp(-std::exp(static_cast<double>(w.time_decay(head, column))));
    p.bonus(0, e) =
        flavour.per_head ? std::exp(static_cast<double>(w.time_first(head, 0))) : static_cast<double>(w.time_faaaa(head, column));
  }
  p.norm_weight = table(w.ln_x_weight);
  p.norm_bias = table(w.ln_x_bias);
  p.output = table(w.output_weight);
  return {Rwkv5<S>(w, {p.eps}), u, {}, ref::rwkv_heads(p)};
}

template <class S>
RwkvCase<Rwkv6<S>> rwkv6(const Flavour& flavour) {
  Draw draw(6);
  const Index D = 6, H = 2, P = 4, E = H * P, rank = 3;
  typename Rwkv6<S>::Weights w;
  w.time_maa_x = draw.uniforms<S>(1, D, 0, 1);
  for (Array<S>& maa : w.time_maa) maa = draw.uniforms<S>(1, D, 0, 1);
  w.time_maa_w1 = draw.normals<S>(D, 5 * rank, 0.5);
  w.time_maa_w2 = draw.normals<S>(5 * rank, D, 0.5);
  w.time_decay = draw.uniforms<S>(1, E, -5 + flavour.decay, 1 + flavour.decay);
  w.time_decay_w1 = draw.normals<S>(D, 2, 0.5);
  w.time_decay_w2 = draw.normals<S>(2, E, 0.5);
  w.time_faaaa = draw.normals<S>(H, P);
  w.key_weight = draw.normals<S>(E, D, 0.5);
  w.value_weight = draw.normals<S>(E, D, 0.5);
  w.receptance_weight = draw.normals<S>(E, D, 0.5);
  w.gate_weight = draw.normals<S>(E, D);
  w.output_weight = draw.normals<S>(D, E, 0.5);
  w.ln_x_weight = draw.normals<S>(1, E, 0.3, 1);
  w.ln_x_bias = draw.normals<S>(1, E, 0.3);
  const Matrix<S> u = draw.normals<S>(flavour.tokens, D);

  const ref::Table plain = table<S>(u);
  const ref::Table hidden = ref::each(ref::product(ref::mixed(plain, table(w.time_maa_x)), table(w.time_maa_w1)), ref::squash);
  const auto mixed = [&](Index m) {
    ref::Table shift(u.rows(), D);
    for (Index t = 0; t < u.rows(); ++t)
      for (Index d = 0; d < D; ++d) {
        shift(t, d) = static_cast<double>(w.time_maa[static_cast<std::size_t>(m)](0, d));
        for (Index n = 0; n < rank; ++n) shift(t, d) += hidden(t, m * rank + n) * static_cast<double>(w.time_maa_w2(m * rank + n, d));
      }
    return ref::mixed(plain, shift);
  };
  ref::RwkvHeads p;
  p.heads = H;
  p.eps = 64e-5;
  p.decay = ref::each(ref::low_rank(mixed(0), table(w.time_decay_w1), table(w.time_decay_w2), table(w.time_decay), ref::squash),
                      [](double x) { return std::exp(-std::exp(x)); });
  p.k = ref::linear(mixed(1), table(w.key_weight));
  p.v = ref::linear(mixed(2), table(w.value_weight));
  p.r = ref::linear(mixed(3), table(w.receptance_weight));
  p.gate = ref::each(ref::linear(mixed(4), table(w.gate_weight)), ref::silu);
  p.bonus = table(w.time_faaaa);
  p.norm_weight = table(w.ln_x_weight);
  p.norm_bias = table(w.ln_x_bias);
  p.output = table(w.output_weight);
  return {Rwkv6<S>(w), u, {}, ref::rwkv_heads(p)};
}

// Value heads wider than key heads, as flash-linear-attention allows; a bias of the output projection, as the digit reverser has.
template <class S>
RwkvCase<Rwkv7<S>> rwkv7(const Flavour& flavour) {
  Draw draw(7);
  const Index D = 6, H = 2, K = 3, V = 4, E = H * V, N = H * K;
  typename Rwkv7<S>::Weights w;
  const auto matrix = [&](Index rows, Index columns) { return draw.normals<S>(rows, columns, 0.6); };
  const auto transposed = [](const Array<S>& array) { return table<S>(Matrix<S>(array.matrix().transpose())); };
  for (Array<S>& x : w.x) x = draw.uniforms<S>(1, D, 0, 1);
  w.w = {matrix(2, D), matrix(N, 2), draw.normals<S>(1, N, 1, flavour.decay)};
  w.a = {matrix(2, D), matrix(N, 2), draw.normals<S>(1, N)};
  w.v = {matrix(3, D), matrix(E, 3), draw.normals<S>(1, E)};
  w.g = {matrix(4, D), matrix(E, 4), {}};
  w.k_k = draw.normals<S>(1, N, 0.3, 1);
  w.k_a = draw.normals<S>(1, N, 0.3, 1);
  w.r_k = draw.normals<S>(H, K);
  w.receptance_weight = matrix(N, D);
  w.key_weight = matrix(N, D);
  w.value_weight = matrix(E, D);
  w.output_weight = matrix(D, E);
  w.output_bias = draw.normals<S>(1, D);
  w.ln_x_weight = draw.normals<S>(1, E, 0.3, 1);
  w.ln_x_bias = draw.normals<S>(1, E, 0.3);
  Matrix<S> u = draw.normals<S>(flavour.tokens, D);
  const Matrix<S> v_first = draw.normals<S>(flavour.tokens, E);

  const ref::Table plain = table<S>(u), first = table<S>(v_first);
  const auto x = [&](std::size_t m) { return ref::mixed(plain, table(w.x[m])); };
  const auto map = [&](std::size_t m, const LowRankMap<S>& of, double (*between)(double)) {
    return ref::low_rank(x(m), transposed(of.down), transposed(of.up), table(of.bias), between);
  };
  const auto same = [](double number) { return number; };
  const auto logistic = [](double number) { return ref::sigmoid(number); };
  ref::RwkvHeads p;
  p.heads = H;
  p.eps = 3e-4;
  p.r = ref::linear(x(0), table(w.receptance_weight));
  p.k = ref::linear(x(2), table(w.key_weight));
  p.v = ref::linear(x(3), table(w.value_weight));
  p.decay = ref::each(map(1, w.w, ref::squash), [](double z) { return std::exp(-std::exp(-0.5) * ref::sigmoid(z)); });
  p.gate = map(5, w.g, +logistic);
  const ref::Table rate = ref::each(map(4, w.a, +same), ref::sigmoid), share = ref::each(map(3, w.v, +same), ref::sigmoid);
  for (std::size_t n = 0; n < p.v.numbers.size(); ++n) p.v.numbers[n] += share.numbers[n] * (first.numbers[n] - p.v.numbers[n]);
  p.removal = p.probe = ref::Table(u.rows(), N);
  p.passed = ref::Table(u.rows(), H);
  for (Index t = 0; t < u.rows(); ++t)
    for (Index h = 0; h < H; ++h) {
      double length = 0;
      for (Index n = h * K; n < (h + 1) * K; ++n) length += std::pow(p.k(t, n) * static_cast<double>(w.k_k(0, n)), 2);
      length = std::max(std::sqrt(length), 1e-12);
      for (Index n = h * K; n < (h + 1) * K; ++n) {
        const double unit = p.k(t, n) * static_cast<double>(w.k_k(0, n)) / length;
        p.probe(t, n) = -unit;
        p.removal(t, n) = unit * rate(t, n);
        p.k(t, n) *= 1 + (rate(t, n) - 1) * static_cast<double>(w.k_a(0, n));
        p.passed(t, h) += p.r(t, n) * p.k(t, n) * static_cast<double>(w.r_k(h, n - h * K));
      }
    }
  p.norm_weight = table(w.ln_x_weight);
  p.norm_bias = table(w.ln_x_bias);
  p.output = table(w.output_weight);
  p.output_bias = table(w.output_bias);
  return {Rwkv7<S>(w, {p.eps}), u, v_first, ref::rwkv_heads(p)};
}

/// Of the largest expected number: sums of a few dozen terms, in double and in float.
template <class S>
constexpr double rwkv_tolerance = std::is_same_v<S, double> ? 1e-13 : 2e-5;

template <class S>
void near(const char* what, ConstView<S> came, const std::function<double(Index, Index)>& expected) {
  INFO(what);
  double largest = 0, difference = 0;
  for (Index i = 0; i < came.rows(); ++i)
    for (Index j = 0; j < came.cols(); ++j) {
      const double wanted = expected(i, j), now = std::abs(static_cast<double>(came(i, j)) - wanted);
      largest = larger(largest, std::abs(wanted));
      difference = now <= difference ? difference : now;  // a NaN stays
    }
  CHECK(difference <= rwkv_tolerance<S> * std::max(largest, 1e-30));
}
template <class S>
void near(const char* what, ConstView<S> came, const ref::Table& expected) {
  near<S>(what, came, [&](Index i, Index j) { return expected(i, j); });
}

template <class Layer>
void check(const RwkvCase<Layer>& c) {
  using S = typename Layer::Scalar;
  const ref::RwkvSequence& e = c.expected;
  const Index tokens = c.u.rows(), channels = c.layer.channels(), size = channels / c.layer.heads();
  Trace<S> trace;
  const Value<S> first = c.v_first.size() == 0 ? Value<S>() : trace.input(c.v_first);
  const LayerRun<Layer> run = c.run(trace, trace.input(c.u), first);
  near<S>("x", *run.x, e.x);
  near<S>("y", *run.y, e.y);
  near<S>("out", *run.out, e.out);
  // Every set of terms: a factor that is off is the identity, skip and bias are zero.
  for (unsigned bits = 0; bits < 128; ++bits) {
    Terms terms;
    for (const Terms::Named& one : Terms::names())
      if ((bits & static_cast<unsigned>(one.term)) != 0) terms = terms | one.term;
    INFO("terms " << terms.text());
    const ImplicitAttention<S> attention(c.layer.lower(run.activations, terms));
    const auto gate = [&](Index i, Index channel) { return terms.has(Term::gate) ? e.gate(i, channel) : 1; };
    const Matrix<S> maps = attention.materialize().stacked();
    near<S>("attention", maps, [&](Index r, Index j) {
      const Index channel = r / tokens, i = r % tokens;
      const double entry = terms.has(Term::recurrence) ? e.recurrence[static_cast<std::size_t>(channel / size)](i, j) : i == j ? 1 : 0;
      return gate(i, channel) * (terms.has(Term::normalization) ? e.norm(i, channel) : 1) * entry;
    });
    near<S>("bias", attention.bias(), [&](Index i, Index channel) {
      const double ungated = e.gate(i, channel) == 0 ? 0 : e.bias(i, channel) / e.gate(i, channel);
      return terms.has(Term::bias) ? gate(i, channel) * ungated : 0;
    });
    REQUIRE(attention.has_second() == (std::is_same_v<Layer, Rwkv7<S>> && terms.has(Term::skip)));
    if (attention.has_second())
      near<S>("extra", *attention.second().form().gate,
              [&](Index i, Index channel) { return gate(i, channel) * e.extra(i, channel) / e.gate(i, channel); });
  }
  // In pieces: the second takes over what the first leaves, which may be the sums of values that are not centred.
  for (Index cut = 1; cut < tokens; cut += 3) {
    INFO("cut at " << cut);
    const auto piece = [&](Index begin, Index end, const typename Layer::State* state) {
      const Value<S> part = first.empty() ? first : trace.input(Matrix<S>(c.v_first.middleRows(begin, end - begin)));
      return c.run(trace, trace.input(Matrix<S>(c.u.middleRows(begin, end - begin))), part, state);
    };
    typename Layer::State state = piece(0, cut, nullptr).activations.final;
    for (Index n = 0; n < state.state.rows(); ++n) state.state.row(n).array() += static_cast<S>(n) / 8;
    const LayerRun<Layer> second = piece(cut, tokens, &state);
    near<S>("second piece", *second.y, [&](Index i, Index j) { return e.y(cut + i, j); });
    const ImplicitAttention<S> attention(c.layer.lower(second.activations));
    Matrix<S> rebuilt = attention.apply(*second.x) + attention.bias() + attention.carry();
    if (attention.has_second()) rebuilt += attention.second().apply(*attention.second_input());
    near<S>("A x + bias + carry", rebuilt, [&](Index i, Index j) { return e.y(cut + i, j); });
  }
}

/// The gradient against central differences, and relevance against what it must add up to.
template <class Layer>
void check_ways_back(const RwkvCase<Layer>& c) {
  Draw draw(17);
  const Matrix<double> g = draw.normals<double>(c.u.rows(), c.u.cols());
  const auto sum = [&](const Matrix<double>& u, const Matrix<double>& first) {
    Trace<double> trace;
    return c.run(trace, trace.input(u), first.size() == 0 ? Value<double>() : trace.input(first))
        .out.numbers.matrix()
        .cwiseProduct(g)
        .sum();
  };
  Trace<double> trace(true);
  const Value<double> u = trace.input(c.u), first = c.v_first.size() == 0 ? Value<double>() : trace.input(c.v_first);
  const Value<double> out = c.run(trace, u, first).out;
  std::vector<Value<double>> wanted{u};
  if (!first.empty()) wanted.push_back(first);
  const WalkResult<double> gradient = trace.walk_back(WayBack::gradient, {{out, g}}, wanted);
  constexpr double step = 1e-5;
  for (std::size_t input = 0; input < wanted.size(); ++input) {
    Matrix<double> at = *wanted[input];
    for (Index n = 0; n < at.size(); ++n) {
      const double centre = at.data()[n];
      const auto value = [&](double moved) {
        at.data()[n] = moved;
        return input == 0 ? sum(at, c.v_first) : sum(c.u, at);
      };
      const double slope = (value(centre + step) - value(centre - step)) / (2 * step);
      at.data()[n] = centre;
      CHECK(gradient.gradients[input].data()[n] == Approx(slope).epsilon(1e-5).margin(1e-6));
    }
  }
  for (const WayBack way : {WayBack::relevance, WayBack::attention}) {
    const WalkResult<double> relevance = trace.walk_back(way, {{out, g}}, wanted);
    CHECK(relevance.untreated.empty());
    double account = relevance.bias_share;
    for (std::size_t input = 0; input < wanted.size(); ++input)
      account += relevance.gradients[input].cwiseProduct(Matrix<double>(*wanted[input])).sum();
    CHECK(account == Approx((*out).cwiseProduct(g).sum()).epsilon(1e-12));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("RWKV-5, 6 and 7 are their papers' formulas, with every set of terms and in pieces", "[layers]", double, float) {
  using S = TestType;
  for (const Index tokens : {1, 9}) {
    // A rate of exp(90) overflows float, one of exp(-300) is 0 in double: decays of 0 and 1, both exact.
    for (const double decay : {0.0, 90.0, -300.0}) {
      INFO(tokens << " tokens, " << decay << " added to logarithmic rates");
      check(rwkv5<S>({decay, false, tokens}));
      check(rwkv5<S>({decay, true, tokens}));
      check(rwkv6<S>({decay, false, tokens}));
      check(rwkv7<S>({decay, false, tokens}));
    }
  }
}

TEST_CASE("RWKV-5, 6 and 7: gradients are slopes and relevance is conserved", "[layers]") {
  for (const double decay : {0.0, 90.0}) {
    check_ways_back(rwkv5<double>({decay, false, 5}));
    check_ways_back(rwkv5<double>({decay, true, 5}));
    check_ways_back(rwkv6<double>({decay, false, 5}));
    check_ways_back(rwkv7<double>({decay, false, 5}));
  }
}

TEST_CASE("RWKV-7: keys of length 0 and tiny keys have directions or none", "[layers]") {
  Trace<float> trace(true);
  Matrix<float> x = Matrix<float>::Zero(1, 6);
  x.row(0).segment(2, 2) << 3e-30f, 4e-30f;  // its square is 0 in float
  x.row(0).segment(4, 2) << 3e-12f, 4e-12f;
  const Value<float> value = trace.input(x), unit = unit_length(value, 3, 1e-12f);
  CHECK((*unit).row(0).head(2).isZero(0));
  CHECK((*unit)(0, 2) == Approx(3e-18f));
  CHECK((*unit)(0, 4) == Approx(0.6f));
  CHECK((*unit)(0, 5) == Approx(0.8f));
  const WalkResult<float> back = trace.walk_back(WayBack::gradient, {{unit, Matrix<float>(Matrix<float>::Ones(1, 6))}}, {value});
  CHECK(back.gradients[0].allFinite());
}
