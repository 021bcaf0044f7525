// Descriptors without projections, for engines whose projections are quantised: what they lower equals what the whole descriptor lowers,
// whichever form of each array the engine has kept, in float, bfloat16 and any layout.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/layer_weights.hpp>
#include <support/random.hpp>

#include <implicit_attention/core/strided_numbers.hpp>
#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/kda.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/layers/rwkv_shared.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;
using test_support::error_of;

/// A few roundings of every factor, of the largest entry.
template <class S>
constexpr double engine_tolerance = std::is_same_v<S, double> ? 1e-13 : 3e-6;

template <class S>
void check_same(const Matrix<S>& found, const Matrix<S>& expected, const std::string& what) {
  INFO(what);
  REQUIRE(found.rows() == expected.rows());
  REQUIRE(found.cols() == expected.cols());
  const double largest = static_cast<double>(expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  REQUIRE(largest > 0);
  CHECK(static_cast<double>((found - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()) <= engine_tolerance<S> * largest);
}

/// Maps, bias and a reduction of two operators of one layer.
template <class S>
void check_operators(const ImplicitAttention<S>& found, const ImplicitAttention<S>& expected, const std::string& what) {
  check_same<S>(found.materialize().stacked(), expected.materialize().stacked(), what + ": maps");
  check_same<S>(found.reduce({}, {}), expected.reduce({}, {}), what + ": the reduced map");
  Matrix<S> bias = expected.bias(), carry = expected.carry();
  if (!bias.isZero(0)) check_same<S>(found.bias(), bias, what + ": bias");
  if (!carry.isZero(0)) check_same<S>(found.carry(), carry, what + ": carry");
  if (expected.has_second())
    check_same<S>(found.second().materialize().stacked(), expected.second().materialize().stacked(), what + ": the second path");
}

/// Rows of an engine's buffer that others stand between.
template <class S>
struct Wide {
  Matrix<S> numbers;
  explicit Wide(ConstView<S> from) : numbers(Matrix<S>::Constant(from.rows(), from.cols() + 5, S(1e30))) {
    numbers.middleCols(2, from.cols()) = from;
  }
  [[nodiscard]] Array<S> array() const {
    StridedNumbers where;
    where.dtype = std::is_same_v<S, double> ? Dtype::F64 : Dtype::F32;
    where.data = numbers.data() + 2;
    where.rows = numbers.rows();
    where.columns = numbers.cols() - 5;
    where.row_stride = numbers.cols();
    return array_of<S>("wide", where);
  }
};

/// Every array of an engine is viewed in a wider buffer.
template <class S>
class Buffers {
 public:
  Array<S> operator()(const Array<S>& from) {
    if (from.empty()) return from;
    held_.push_back(std::make_unique<Wide<S>>(*from));
    return held_.back()->array();
  }

 private:
  std::vector<std::unique_ptr<Wide<S>>> held_;
};

std::uint16_t to_bfloat16(float number) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(number) >> 16U); }

/// Numbers as bfloat16, and the numbers that these are.
struct Narrow {
  std::vector<std::uint16_t> bits;
  Array<float> widened;
  Index rows, columns;
  explicit Narrow(const Array<float>& from) : rows(from.rows()), columns(from.cols()) {
    Matrix<float> numbers(rows, columns);
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < columns; ++j) {
        bits.push_back(to_bfloat16(from(i, j)));
        numbers(i, j) = std::bit_cast<float>(static_cast<std::uint32_t>(bits.back()) << 16U);
      }
    widened = std::move(numbers);
  }
  [[nodiscard]] Array<float> array() const { return array_of<float>("narrow", {Dtype::BF16, bits.data(), rows, columns}); }
};

// Width 4, 6 channels, state 3, convolution 4.
template <class S>
typename Mamba<S>::Weights weights_of_mamba() {
  Draw draw(1);
  typename Mamba<S>::Weights w;
  w.in_proj_weight = draw.normals<S>(12, 4, 0.6);
  w.conv1d_weight = draw.normals<S>(6, 4, 0.5);
  w.conv1d_bias = draw.normals<S>(1, 6, 0.3);
  w.x_proj_weight = draw.normals<S>(8, 6, 0.5);
  w.dt_proj_weight = draw.normals<S>(6, 2, 0.5);
  w.dt_proj_bias = draw.normals<S>(1, 6);
  w.A_log = draw.uniforms<S>(6, 3, -1, 2);
  w.D = draw.normals<S>(1, 6);
  w.out_proj_weight = draw.normals<S>(4, 6, 0.5);
  return w;
}

template <class S>
typename Rwkv7<S>::Weights rwkv7_weights() {
  Draw draw(2);
  return test_support::rwkv7_weights<S>(draw);
}
template <class S>
typename Griffin<S>::Weights weights_of_griffin() {
  Draw draw(3);
  return test_support::griffin_weights<S>(draw, -4, 0);
}
template <class S>
typename GatedDeltaNet<S>::Weights delta_weights() {
  Draw draw(4);
  return test_support::gated_delta_net_weights<S>(draw, -2, 1);
}

template <class S>
Array<S> inverse_sigmoid(const Array<S>& p) {
  return Matrix<S>((p.matrix().array() / (S(1) - p.matrix().array())).log().matrix());
}
/// NaN in the place of one number of a vector.
template <class S>
Array<S> with_nan(const Array<S>& vector, Index place) {
  Matrix<S> numbers = *vector;
  numbers(0, place) = static_cast<S>(std::nan(""));
  return numbers;
}
template <class S>
Array<S> function_of(Function function, const Array<S>& x) {
  return function_values<S>(function, *x);
}

template <class S>
Mamba<S> mamba_engine(const typename Mamba<S>::Weights& w, bool rates) {
  typename Mamba<S>::EngineWeights small;
  if (rates)
    small.A = Matrix<S>(-w.A_log.matrix().array().exp().matrix());
  else
    small.A_log = w.A_log;
  small.D = w.D;
  small.conv1d_weight = w.conv1d_weight;
  small.conv1d_bias = w.conv1d_bias;
  return Mamba<S>::for_engine(small);
}

template <class S>
GatedDeltaNet<S> delta_engine(const typename GatedDeltaNet<S>::Weights& w, Index key_heads, bool tiled = false,
                              bool negative_eigenvalues = false) {
  typename GatedDeltaNet<S>::EngineWeights small;
  small.value_heads = 4;
  small.key_size = 4;
  small.o_norm_weight = w.o_norm_weight;
  small.v_conv1d_weight = w.v_conv1d_weight;
  small.v_conv1d_bias = w.v_conv1d_bias;
  small.A = Matrix<S>(-w.A_log.matrix().array().exp().matrix());
  small.tiled_key_heads = tiled;
  typename GatedDeltaNet<S>::Options options;
  options.key_heads = key_heads;
  options.negative_eigenvalues = negative_eigenvalues;
  return GatedDeltaNet<S>::for_engine(small, options);
}

const std::vector<Terms> term_sets{Terms::all(),
                                   Terms::published(),
                                   Terms::recurrence(),
                                   Terms::all().without(Term::normalization),
                                   Terms::all().without(Term::recurrence),
                                   Terms::all().without(Term::gate)};

}  // namespace

TEMPLATE_TEST_CASE("Mamba: an engine's arrays and no projections give the whole descriptor's maps", "[engine]", float, double) {
  using S = TestType;
  const auto weights = weights_of_mamba<S>();
  const Mamba<S> whole(weights);
  const Matrix<S> u = Draw(5).normals<S>(11, 4);
  const auto first = whole.activations(Matrix<S>(u.topRows(5)));
  const auto ran = whole.activations(Matrix<S>(u.bottomRows(6)), &first.final);
  for (const bool rates : {true, false}) {
    const Mamba<S> engine = mamba_engine<S>(weights, rates);
    CHECK(engine.channels() == 6);
    CHECK(engine.state() == 3);
    CHECK(engine.width() == 0);
    for (const Terms terms : term_sets)
      for (unsigned form = 0; form < 8; ++form) {  // each of three arrays before or after
        Buffers<S> buffers;
        typename Mamba<S>::Activations own;
        if (form & 1U)
          own.gate = buffers(function_of<S>(Function::silu, ran.z));
        else
          own.z = buffers(ran.z);
        if (form & 2U)
          own.pre_dt = buffers(Matrix<S>(ran.dt.matrix().array().expm1().log().matrix()));
        else
          own.dt = buffers(ran.dt);
        (form & 4U ? own.x : own.c) = buffers(form & 4U ? ran.x : ran.c);
        own.B = buffers(ran.B);
        own.C = buffers(ran.C);
        own.initial = ran.initial;
        check_operators<S>(engine.implicit_attention(own, terms), whole.implicit_attention(ran, terms),
                           detail::message("form ", form, ", ", terms.text()));
      }
  }
}

TEST_CASE("Mamba: silu(c) alone is a linear input of its own, and nothing else", "[engine]") {
  const Mamba<double> engine = mamba_engine<double>(weights_of_mamba<double>(), true), whole(weights_of_mamba<double>());
  const auto ran = whole.activations(Draw(6).normals<double>(9, 4));
  Mamba<double>::Activations own;
  own.z = ran.z, own.dt = ran.dt, own.B = ran.B, own.C = ran.C, own.a = ran.a;
  const auto [kind, text] = error_of([&] { (void)engine.implicit_attention(own); });
  CHECK(kind == ErrorKind::shape);
  CHECK_THAT(text, contains_text("silu(c)"));
  CHECK_THAT(text, contains_text("activation, convolution and bias"));
  const Terms inner = Terms::all().without(Term::activation).without(Term::convolution).without(Term::bias);
  check_same<double>(engine.implicit_attention(own, inner).apply(*ran.a), ran.y.matrix(), "y of a");
}

TEST_CASE("Mamba: what an engine forgets, doubles or gives in a wrong shape is named", "[engine]") {
  const auto weights = weights_of_mamba<double>();
  const Mamba<double> engine = mamba_engine<double>(weights, true), whole(weights);
  const auto ran = whole.activations(Draw(7).normals<double>(9, 4));
  using A = Mamba<double>::Activations;
  const auto refused = [&](const std::string& expected, const std::function<void(A&)>& change) {
    A own;
    own.z = ran.z, own.dt = ran.dt, own.B = ran.B, own.C = ran.C, own.c = ran.c;
    change(own);
    CHECK_THAT(error_of([&] { (void)engine.implicit_attention(own); }).second, contains_text(expected));
  };
  refused("activations.z is empty, expected (9, 6) = (tokens, channels); fill it or gate", [](A& own) { own.z = {}; });
  refused("activations.dt is empty, expected (9, 6) = (tokens, channels); fill it or pre_dt", [](A& own) { own.dt = {}; });
  refused("activations.z and activations.gate are both filled", [](A& own) { own.gate = own.z; });
  refused("activations.dt and activations.pre_dt are both filled", [](A& own) { own.pre_dt = own.dt; });
  refused("activations.gate is (8, 6), expected (9, 6)", [](A& own) { own.gate = own.z.middle_rows(0, 8), own.z = {}; });
  refused("activations.pre_dt is (9, 5), expected (9, 6)", [](A& own) { own.pre_dt = own.dt.middle_columns(0, 5), own.dt = {}; });
  refused("activations.B is empty", [](A& own) { own.B = {}; });
  refused("activations.C is (9, 2), expected (9, 3)", [](A& own) { own.C = own.C.middle_columns(0, 2); });
  refused("activations.x is empty", [](A& own) { own.c = {}; });

  CHECK_THAT(error_of([&] { (void)engine.activations(Matrix<double>(Matrix<double>::Ones(3, 4))); }).second,
             contains_text("made for an engine, without projections"));
  const auto [kind, text] = error_of([&] {
    Trace<double> trace;
    RunContext<double> context;
    (void)engine.run(trace.constant(Array<double>(Matrix<double>(3, 0))), context);
  });
  CHECK(kind == ErrorKind::value);
  CHECK_THAT(text, contains_text("without projections"));

  using W = Mamba<double>::EngineWeights;
  const auto unfit = [&](const std::string& expected, const std::function<void(W&)>& change) {
    W small{Matrix<double>(-weights.A_log.matrix().array().exp().matrix()), {}, weights.D, weights.conv1d_weight, weights.conv1d_bias};
    change(small);
    CHECK_THAT(error_of([&] { (void)Mamba<double>::for_engine(small); }).second, contains_text(expected));
  };
  unfit("A and A_log are both empty", [](W& w) { w.A = {}; });
  unfit("A and A_log are both filled", [](W& w) { w.A_log = w.A; });
  unfit("expected no number above 0: it is -exp(A_log)", [&](W& w) { w.A = weights.A_log; });
  unfit("D is (5), expected (6)", [](W& w) { w.D = w.D.middle_columns(0, 5); });
  unfit("conv1d.weight is (5, 4), expected (6, 4)", [](W& w) { w.conv1d_weight = w.conv1d_weight.middle_rows(0, 5); });
  unfit("conv1d.bias is (5), expected (6)", [](W& w) { w.conv1d_bias = w.conv1d_bias.middle_columns(0, 5); });
}

TEMPLATE_TEST_CASE("RWKV-7: an engine's arrays and no projections give the whole descriptor's maps", "[engine]", float, double) {
  using S = TestType;
  const auto weights = rwkv7_weights<S>();
  const Rwkv7<S> whole(weights);
  const Rwkv7<S> engine = Rwkv7<S>::for_engine({weights.r_k, weights.ln_x_weight, weights.ln_x_bias});
  CHECK(engine.channels() == 6);
  CHECK(engine.heads() == 2);
  const Matrix<S> u = Draw(8).normals<S>(11, 6);
  const auto first = whole.activations(Matrix<S>(u.topRows(5)));
  const auto ran = whole.activations(Matrix<S>(u.bottomRows(6)), &first.final);
  for (const Terms terms : term_sets)
    for (int form = 0; form < 3; ++form) {
      Buffers<S> buffers;
      typename Rwkv7<S>::Activations own;
      own.value = buffers(ran.value);
      own.receptance = buffers(ran.receptance);
      own.key = buffers(ran.key);
      own.removal = buffers(ran.removal);
      own.probe = buffers(ran.probe);
      own.gate = buffers(ran.gate);
      own.pre_norm = buffers(ran.pre_norm);
      if (form == 0) own.log_decay = buffers(ran.log_decay), own.bonus = buffers(ran.bonus);
      if (form == 1) own.decay = buffers(function_of<S>(Function::exp, ran.log_decay));
      if (form == 2) own.pre_decay = buffers(inverse_sigmoid<S>(Matrix<S>(ran.log_decay.matrix() * S(-1.6487212707001282))));
      own.initial = ran.initial;
      check_same<S>(engine.linear_input(own).matrix(), ran.x.matrix(), "the linear input");
      check_operators<S>(engine.implicit_attention(own, terms), whole.implicit_attention(ran, terms),
                         detail::message("form ", form, ", ", terms.text()));
    }
  auto own = ran;
  own.decay = own.log_decay;
  CHECK_THAT(error_of([&] { (void)engine.implicit_attention(own); }).second, contains_text("log_decay and activations.decay are both"));
  own.decay = own.log_decay = {};
  CHECK_THAT(error_of([&] { (void)engine.implicit_attention(own); }).second, contains_text("fill it or decay or pre_decay"));
  own = ran;
  own.bonus = own.key = {};
  CHECK_THAT(error_of([&] { (void)engine.implicit_attention(own); }).second, contains_text("activations.key is empty"));
  CHECK_THAT(error_of([&] { (void)Rwkv7<S>::for_engine({weights.r_k, weights.ln_x_weight, {}}); }).second, contains_text("ln_x.bias"));
  CHECK_THAT(error_of([&] { (void)Rwkv7<S>::for_engine({{}, weights.ln_x_weight, {}}); }).second, contains_text("r_k is empty"));
}

TEMPLATE_TEST_CASE("Griffin: an engine's arrays and no projections give the whole descriptor's maps", "[engine]", float, double) {
  using S = TestType;
  const auto weights = weights_of_griffin<S>();
  const Griffin<S> whole(weights);
  const auto ran = whole.activations(Draw(9).normals<S>(11, 4), std::vector<Index>{3, 4, 0, 1, 2, 3, 0, 0, 1, 2, 3});
  const Array<S> rate = Matrix<S>(S(-8) * softplus(weights.recurrent_param.matrix()));
  for (int form = 0; form < 4; ++form) {
    typename Griffin<S>::EngineWeights small{weights.conv_1d_weight, weights.conv_1d_bias, {}, {}};
    if (form == 1) small.rate = rate;
    if (form >= 2) small.recurrent_param = weights.recurrent_param;
    const Griffin<S> engine = Griffin<S>::for_engine(small);
    CHECK(engine.channels() == 6);
    for (const Terms terms : term_sets) {
      Buffers<S> buffers;
      typename Griffin<S>::Activations own;
      own.starts = ran.starts;
      if (form % 2 == 0)
        own.gate_input = buffers(ran.gate_input);
      else
        own.gate = buffers(function_of<S>(Function::gelu_tanh, ran.gate_input));
      if (form == 0) own.log_a = buffers(ran.log_a), own.normalizer = buffers(ran.normalizer);
      if (form == 1 || form == 2) own.recurrent_gate = buffers(ran.recurrent_gate);
      if (form == 3) own.pre_recurrent_gate = buffers(inverse_sigmoid<S>(ran.recurrent_gate));
      if (form < 2)
        own.input_gate = buffers(ran.input_gate);
      else
        own.pre_input_gate = buffers(inverse_sigmoid<S>(ran.input_gate));
      check_operators<S>(engine.implicit_attention(own, terms), whole.implicit_attention(ran, terms),
                         detail::message("form ", form, ", ", terms.text()));
    }
  }
  const Griffin<S> bare = Griffin<S>::for_engine({weights.conv_1d_weight, weights.conv_1d_bias, {}, {}});
  auto own = ran;
  own.log_a = {};
  CHECK_THAT(error_of([&] { (void)bare.implicit_attention(own); }).second, contains_text("neither rate nor rg_lru.recurrent_param"));
  own.recurrent_gate = {};
  CHECK_THAT(
      error_of([&] { (void)bare.implicit_attention(own); }).second,
      contains_text("activations.log_a is empty, expected (11, 6) = (tokens, channels); fill it or recurrent_gate or pre_recurrent_gate"));
  own = ran;
  own.input_gate = {};
  CHECK_THAT(error_of([&] { (void)bare.implicit_attention(own); }).second, contains_text("fill it or pre_input_gate"));
  own = ran;
  own.gate_input = {};
  CHECK_THAT(error_of([&] { (void)bare.implicit_attention(own); }).second, contains_text("fill it or gate"));
  own = ran;
  own.normalizer = {};
  own.starts = {40};
  CHECK_THAT(error_of([&] { (void)bare.implicit_attention(own); }).second, contains_text("starts"));
  CHECK_THAT(error_of([&] { (void)Griffin<S>::for_engine({}); }).second, contains_text("conv_1d.weight is empty"));
  CHECK_THAT(error_of([&] {
               (void)Griffin<S>::for_engine({weights.conv_1d_weight, {}, Matrix<S>(-rate.matrix()), {}});
             }).second,
             contains_text("rate has 0."));
  for (Index place = 0; place < 6; ++place)
    CHECK_THAT(error_of([&] {
                 (void)Griffin<S>::for_engine({weights.conv_1d_weight, {}, with_nan(rate, place), {}});
               }).second,
               contains_text(detail::message("column ", place, ", expected no number above 0: it is -8 softplus")));
}

TEMPLATE_TEST_CASE("Gated DeltaNet: an engine's arrays and no projections give the whole descriptor's maps", "[engine]", float, double) {
  using S = TestType;
  const auto weights = delta_weights<S>();
  typename GatedDeltaNet<S>::Options options;
  options.key_heads = 2;
  const GatedDeltaNet<S> whole(weights, options), engine = delta_engine<S>(weights, 2);
  CHECK(engine.channels() == 12);
  CHECK(engine.heads() == 4);
  const Matrix<S> u = Draw(10).normals<S>(11, 5);
  const auto first = whole.activations(Matrix<S>(u.topRows(5)));
  const auto ran = whole.activations(Matrix<S>(u.bottomRows(6)), &first.final);
  // A head's query and key times any length: the layer divides by it, but for an eps of 1e-6 beside its square.
  const Array<S> unit_query = Matrix<S>(ran.query.matrix() * S(2));
  for (const Terms terms : term_sets)
    for (unsigned form = 0; form < 16; ++form) {
      Buffers<S> buffers;
      typename GatedDeltaNet<S>::Activations own;
      (form & 1U ? own.unit_query : own.query) = buffers(form & 1U ? unit_query : ran.query);
      own.key = buffers(ran.key);
      (form & 2U ? own.pre_beta : own.beta) = buffers(form & 2U ? inverse_sigmoid<S>(ran.beta) : ran.beta);
      if (form % 3 == 0) own.log_decay = buffers(ran.log_decay);
      if (form % 3 == 1) own.decay = buffers(function_of<S>(Function::exp, ran.log_decay));
      if (form % 3 == 2)
        own.pre_log_decay = buffers(
            Matrix<S>(((ran.log_decay.matrix().array().rowwise() / -weights.A_log.matrix().row(0).array().exp()).expm1().log()).matrix()));
      (form & 4U ? own.gate : own.z) = buffers(form & 4U ? function_of<S>(Function::silu, ran.z) : ran.z);
      (form & 8U ? own.x : own.c) = buffers(form & 8U ? ran.x : ran.c);
      own.o = buffers(ran.o);
      own.initial = ran.initial;
      check_operators<S>(engine.implicit_attention(own, terms), whole.implicit_attention(ran, terms),
                         detail::message("form ", form, ", ", terms.text()));
    }
}

TEMPLATE_TEST_CASE("KDA: an engine's arrays and no projections give the whole descriptor's maps", "[engine]", float, double) {
  using S = TestType;
  Draw draw(14);
  const Index heads = 2, K = 4, V = 3, D = 5;
  typename Kda<S>::Weights w;
  w.q_proj_weight = draw.normals<S>(heads * K, D, 0.5);
  w.k_proj_weight = draw.normals<S>(heads * K, D, 0.5);
  w.v_proj_weight = draw.normals<S>(heads * V, D, 0.5);
  w.b_proj_weight = draw.normals<S>(heads, D, 0.5);
  w.v_conv1d_weight = draw.normals<S>(heads * V, 3, 0.5);
  w.q_conv1d_weight = draw.normals<S>(heads * K, 3, 0.5);
  w.k_conv1d_weight = draw.normals<S>(heads * K, 3, 0.5);
  w.A_log = draw.uniforms<S>(1, heads, -1, 1);
  w.dt_bias = draw.normals<S>(1, heads * K);
  w.f_b_proj_weight = draw.normals<S>(heads * K, D, 0.5);
  w.g_b_proj_weight = draw.normals<S>(heads * V, D, 0.5);
  w.o_norm_weight = draw.uniforms<S>(1, V, 0.5, 1.5);
  w.o_proj_weight = draw.normals<S>(D, heads * V, 0.5);
  typename Kda<S>::EngineWeights small;
  small.value_heads = heads;
  small.key_size = K;
  small.o_norm_weight = w.o_norm_weight;
  small.v_conv1d_weight = w.v_conv1d_weight;
  small.A_log = w.A_log;
  const Matrix<S> u = draw.normals<S>(11, D);
  for (const double bound : {0.0, -5.0}) {
    typename Kda<S>::Options options;
    options.lower_bound = bound;
    const Kda<S> whole(w, options), engine = Kda<S>::for_engine(small, options);
    const auto first = whole.activations(Matrix<S>(u.topRows(5)));
    const auto ran = whole.activations(Matrix<S>(u.bottomRows(6)), &first.final);
    for (const Terms terms : term_sets)
      for (int form = 0; form < 3; ++form) {
        Buffers<S> buffers;
        typename Kda<S>::Activations own;
        own.query = buffers(ran.query), own.key = buffers(ran.key), own.beta = buffers(ran.beta), own.o = buffers(ran.o);
        own.c = buffers(ran.c), own.initial = ran.initial;
        if (form == 0) own.log_decay = buffers(ran.log_decay), own.z = buffers(ran.z);
        if (form == 1) own.decay = buffers(function_of<S>(Function::exp, ran.log_decay));
        if (form == 2) {
          if (bound != 0) continue;
          Matrix<S> before = ran.log_decay.matrix();  // of softplus
          for (Index column = 0; column < before.cols(); ++column) before.col(column) /= -std::exp(w.A_log(0, column / K));
          own.pre_log_decay = buffers(Matrix<S>(before.array().expm1().log().matrix()));
        }
        if (form != 0) own.gate = buffers(function_of<S>(Function::sigmoid, ran.z));
        check_operators<S>(engine.implicit_attention(own, terms), whole.implicit_attention(ran, terms),
                           detail::message("lower bound ", bound, ", form ", form, ", ", terms.text()));
      }
    auto own = ran;
    own.pre_log_decay = own.log_decay;
    own.log_decay = {};
    if (bound != 0) CHECK_THAT(error_of([&] { (void)engine.implicit_attention(own); }).second, contains_text("A or A_log is not known"));
  }
  small.has_decay = false;
  CHECK_THAT(error_of([&] { (void)Kda<S>::for_engine(small); }).second, contains_text("has_decay is false, expected true"));
  small.has_decay = true;
  small.value_heads = Index(1) << 61;
  CHECK_THAT(error_of([&] { (void)Kda<S>::for_engine(small); }).second, contains_text("expected at most"));
}

TEST_CASE("RWKV-6 in an engine: the bonus in either layout, and values in place of the linear input", "[engine]") {
  Draw draw(15);
  const Index heads = 3, size = 4, channels = 12, tokens = 5;
  const Array<double> bonus = draw.normals<double>(heads, size), weight = draw.normals<double>(1, channels),
                      bias = draw.normals<double>(1, channels);
  const Array<double> in_a_row = Matrix<double>(Eigen::Map<const Matrix<double>>(bonus.data(), 1, channels));
  BonusRecurrence<double>::Activations act;
  for (auto array : {&BonusRecurrence<double>::Activations::receptance, &BonusRecurrence<double>::Activations::key,
                     &BonusRecurrence<double>::Activations::value, &BonusRecurrence<double>::Activations::gate_input,
                     &BonusRecurrence<double>::Activations::pre_norm})
    act.*array = draw.normals<double>(tokens, channels);
  act.log_decay = draw.uniforms<double>(tokens, channels, -1, 0);
  const BonusRecurrence<double> one("Rwkv6", heads, in_a_row, weight, bias, 1e-5), other("Rwkv6", heads, bonus, weight, bias, 1e-5);
  check_operators<double>(ImplicitAttention<double>(other.lower(act, true, Terms::all())),
                          ImplicitAttention<double>(one.lower(act, true, Terms::all())), "bonus");
  const Matrix<double> x = *one.linear_input(act);
  for (Index token = 0; token < tokens; ++token)
    for (Index channel = 0; channel < channels; ++channel) {
      double mean = 0;
      for (Index c = 0; c < size; ++c) mean += act.value(token, channel / size * size + c) / static_cast<double>(size);
      CHECK(x(token, channel) == Approx(act.value(token, channel) - mean).margin(1e-12));
    }
  for (const Index wrong : {Index(0), Index(-1), Index(5)})
    CHECK_THAT(error_of([&] { (void)BonusRecurrence<double>("Rwkv6", wrong, bonus, weight, bias, 1e-5); }).second,
               contains_text(detail::message("Rwkv6: 12 numbers of the bonus do not divide into ", wrong, " heads")));
  act.value = {};
  CHECK_THAT(error_of([&] { (void)one.linear_input(act); }).second, contains_text("Rwkv6: activations.value is empty"));
}

TEST_CASE("Gated DeltaNet: queries and keys before their length is divided by, tiled heads, and what is missing", "[engine]") {
  const auto weights = delta_weights<double>();
  GatedDeltaNet<double>::Options options;
  options.key_heads = 2;
  const GatedDeltaNet<double> whole(weights, options), engine = delta_engine<double>(weights, 2);
  const Matrix<double> u = Draw(11).normals<double>(9, 5);
  const auto ran = whole.activations(u);
  // silu(Conv q) by hand.
  const auto before = [&](const Array<double>& projection, const Array<double>& taps) {
    const Matrix<double> q = u * projection.matrix().transpose();
    Matrix<double> out = Matrix<double>::Zero(q.rows(), q.cols());
    for (Index t = 0; t < q.rows(); ++t)
      for (Index e = 0; e < q.cols(); ++e) {
        for (Index k = 0; k < 4; ++k)
          if (t - 3 + k >= 0) out(t, e) += taps(e, k) * q(t - 3 + k, e);
        out(t, e) = out(t, e) / (1 + std::exp(-out(t, e)));
      }
    return Array<double>(std::move(out));
  };
  auto own = ran;
  own.query = own.key = {};
  own.pre_query = before(weights.q_proj_weight, weights.q_conv1d_weight);
  own.pre_key = before(weights.k_proj_weight, weights.k_conv1d_weight);
  check_operators<double>(engine.implicit_attention(own), whole.implicit_attention(ran), "before the length");

  // Heads 0, 1, 2, 3 read keys 0, 1, 0, 1 where they are tiled: as if the keys were repeated.
  auto tiled = ran, repeated = ran;
  repeated.query = Matrix<double>(ran.query.matrix().replicate(1, 2));
  repeated.key = Matrix<double>(ran.key.matrix().replicate(1, 2));
  const auto tiled_maps = delta_engine<double>(weights, 2, true).implicit_attention(tiled);
  check_operators<double>(tiled_maps, delta_engine<double>(weights, 4).implicit_attention(repeated), "tiled");
  CHECK((tiled_maps.materialize().stacked() - engine.implicit_attention(ran).materialize().stacked())
            .cwiseAbs()
            .template maxCoeff<Eigen::PropagateNaN>() > 1e-3);

  // With negative eigenvalues beta is twice the sigmoid.
  GatedDeltaNet<double>::Options doubled = options;
  doubled.negative_eigenvalues = true;
  const auto negative = GatedDeltaNet<double>(weights, doubled).activations(u);
  auto from_sigmoid = negative;
  from_sigmoid.pre_beta = inverse_sigmoid<double>(Matrix<double>(negative.beta.matrix() / 2));
  from_sigmoid.beta = {};
  check_operators<double>(delta_engine<double>(weights, 2, false, true).implicit_attention(from_sigmoid),
                          GatedDeltaNet<double>(weights, doubled).implicit_attention(negative), "beta up to two");

  using A = GatedDeltaNet<double>::Activations;
  const auto refused = [&](const std::string& expected, const std::function<void(A&)>& change) {
    A mine = ran;
    change(mine);
    CHECK_THAT(error_of([&] { (void)engine.implicit_attention(mine); }).second, contains_text(expected));
  };
  refused("activations.query is empty, expected (9, 8) = (tokens, key heads * key size); fill it or unit_query or pre_query",
          [](A& mine) { mine.query = {}; });
  refused("fill it or pre_key", [](A& mine) { mine.key = {}; });
  refused("fill it or pre_beta", [](A& mine) { mine.beta = {}; });
  refused("fill it or decay or pre_log_decay", [](A& mine) { mine.log_decay = {}; });
  refused("fill it or gate", [](A& mine) { mine.z = {}; });
  refused("activations.o is empty", [](A& mine) { mine.o = {}; });
  refused("query and activations.unit_query are both", [](A& mine) { mine.unit_query = mine.query; });
  refused("silu(c)", [](A& mine) { mine.a = mine.c, mine.c = mine.x = {}; });
  GatedDeltaNet<double>::EngineWeights small;
  CHECK_THAT(error_of([&] { (void)GatedDeltaNet<double>::for_engine(small); }).second, contains_text("value_heads is 0"));
  small.value_heads = 4, small.key_size = Index(1) << 62;
  CHECK_THAT(error_of([&] { (void)GatedDeltaNet<double>::for_engine(small); }).second, contains_text("expected at most 16777216 keys"));
  small.key_size = 4;
  CHECK_THAT(error_of([&] { (void)GatedDeltaNet<double>::for_engine(small); }).second, contains_text("o_norm.weight is empty"));
  small.o_norm_weight = weights.o_norm_weight;
  auto mine = ran;
  mine.log_decay = {};
  mine.pre_log_decay = ran.log_decay;
  mine.query = Matrix<double>(ran.query.matrix().replicate(1, 2)), mine.key = Matrix<double>(ran.key.matrix().replicate(1, 2));
  CHECK_THAT(error_of([&] { (void)GatedDeltaNet<double>::for_engine(small).implicit_attention(mine); }).second,
             contains_text("A or A_log is not known"));
}

TEMPLATE_TEST_CASE("a rate that an engine holds as minus infinity is a decay of zero, over no time of one", "[engine]", float, double) {
  using S = TestType;
  auto weights = weights_of_mamba<S>();
  const S infinity = std::numeric_limits<S>::infinity();
  Matrix<S> logarithms = *weights.A_log, rates = -logarithms.array().exp().matrix();
  logarithms(1, 1) = infinity, rates(1, 1) = -infinity;
  weights.A_log = logarithms;
  const Mamba<S> whole(weights);
  auto ran = whole.activations(Draw(5).normals<S>(9, 4));
  Matrix<S> steps = *ran.dt;
  steps(3, 1) = 0;
  ran.dt = steps;
  typename Mamba<S>::EngineWeights small{rates, {}, weights.D, weights.conv1d_weight, weights.conv1d_bias};
  const Matrix<S> found = Mamba<S>::for_engine(small).implicit_attention(ran).materialize().stacked();
  CHECK(found.array().isFinite().all());
  check_same<S>(found, whole.implicit_attention(ran).materialize().stacked(), "maps");
}

TEMPLATE_TEST_CASE("Griffin: a rate of minus infinity is a decay of zero, behind a gate of zero one of one", "[engine]", float, double) {
  using S = TestType;
  auto weights = weights_of_griffin<S>();
  const S infinity = std::numeric_limits<S>::infinity();
  Matrix<S> parameters = *weights.recurrent_param, rates = S(-8) * softplus(weights.recurrent_param.matrix());
  parameters(0, 1) = infinity, rates(0, 1) = -infinity;
  auto ran = Griffin<S>(weights).activations(Draw(9).normals<S>(11, 4), std::vector<Index>{3, 4, 0, 1, 2, 3, 0, 0, 1, 2, 3});
  Matrix<S> gates = *ran.recurrent_gate;
  gates(4, 1) = gates(9, 1) = gates(9, 2) = 0;
  ran.recurrent_gate = gates;
  ran.log_a = ran.normalizer = {};

  // Equation 4 of arXiv 2402.19427, a token at a time: h <- a h + sqrt(1 - a^2) i x, and h <- i x where a document begins.
  std::vector<Matrix<double>> expected(6, Matrix<double>::Zero(11, 11));
  for (Index e = 0; e < 6; ++e)
    for (Index j = 0; j < 11; ++j)
      for (Index t = j; t < 11; ++t) {
        const bool starts = std::find(ran.starts.begin(), ran.starts.end(), t) != ran.starts.end();
        const double gate = static_cast<double>(gates(t, e)), rate = static_cast<double>(rates(0, e));
        const double decay = gate == 0 ? 1 : std::exp(gate * rate), input = static_cast<double>(ran.input_gate(t, e));
        Matrix<double>& matrix = expected[static_cast<std::size_t>(e)];
        matrix(t, j) = t == j ? input * (starts ? 1 : std::sqrt(1 - decay * decay)) : starts ? 0 : decay * matrix(t - 1, j);
      }
  CHECK(expected[1](4, 4) == 0);
  CHECK(expected[1](4, 3) != 0);
  CHECK(expected[1](5, 3) == 0);

  weights.recurrent_param = parameters;
  const Griffin<S> engines[] = {Griffin<S>::for_engine({weights.conv_1d_weight, weights.conv_1d_bias, rates, {}}),
                                Griffin<S>::for_engine({weights.conv_1d_weight, weights.conv_1d_bias, {}, parameters}),
                                Griffin<S>(weights)};
  for (const Griffin<S>& layer : engines) {
    const AttentionMatrix<S> found = layer.implicit_attention(ran, Terms::recurrence()).materialize();
    REQUIRE(found.channels() == 6);
    for (Index e = 0; e < 6; ++e) {
      INFO("channel " << e);
      const Matrix<double> difference = found.channel(e).template cast<double>() - expected[static_cast<std::size_t>(e)];
      CHECK(difference.cwiseAbs().maxCoeff<Eigen::PropagateNaN>() <=
            40 * static_cast<double>(std::numeric_limits<S>::epsilon()));  // roundings of numbers up to 1
    }
  }
  parameters(0, 1) = std::numeric_limits<S>::quiet_NaN();
  weights.recurrent_param = parameters;
  CHECK(std::isnan(Griffin<S>(weights).activations(Draw(9).normals<S>(1, 4)).log_a(0, 1)));
}

TEST_CASE("gated linear attention as an operation of a graph: keys, values, queries, decays, state", "[engine]") {
  const Index tokens = 9, heads = 2, size = 3, channels = heads * size;
  Draw draw(31);
  const Matrix<double> q = draw.normals<double>(tokens, channels), k = draw.normals<double>(tokens, channels),
                       v = draw.normals<double>(tokens, channels), g = draw.uniforms<double>(tokens, channels, 0.2, 1),
                       gate = draw.normals<double>(tokens, channels), state = draw.normals<double>(channels, size);
  const double scale = 0.5773;
  // The operation itself, a head (key, value), updated and then read.
  Matrix<double> kept = state, out = Matrix<double>::Zero(tokens, channels);
  for (Index t = 0; t < tokens; ++t)
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < size; ++i)
        for (Index j = 0; j < size; ++j) {
          double& number = kept(h * size + i, j);
          number = number * g(t, h * size + i) + k(t, h * size + i) * v(t, h * size + j);
          out(t, h * size + j) += number * q(t, h * size + i) * scale;
        }
  HeadRecurrence<double> recurrence;
  recurrence.tokens = tokens, recurrence.channels = channels, recurrence.heads = recurrence.groups = heads, recurrence.state = size;
  recurrence.query = Matrix<double>(q * scale);
  recurrence.key = k;
  recurrence.log_decay = Matrix<double>(g.array().log().matrix());
  UnifiedForm<double> form;
  form.recurrence = recurrence;
  form.gate = gate;
  form.initial_state = state;
  const ImplicitAttention<double> attention(form);
  check_same<double>(Matrix<double>(attention.apply(v) + attention.carry()), out.cwiseProduct(gate), "outputs");
}

TEST_CASE("a descriptor that was made for an engine says so when it is to run", "[engine]") {
  const auto refused = [](const auto& engine) {
    for (const Index width : {Index(0), Index(4), engine.channels()})
      CHECK_THAT(error_of([&] { (void)engine.activations(Matrix<double>(Matrix<double>::Ones(3, width))); }).second,
                 contains_text("made for an engine, without projections"));
  };
  const auto rwkv7 = rwkv7_weights<double>();
  refused(mamba_engine<double>(weights_of_mamba<double>(), true));
  refused(Rwkv7<double>::for_engine({rwkv7.r_k, rwkv7.ln_x_weight, rwkv7.ln_x_bias}));
  refused(Griffin<double>::for_engine({weights_of_griffin<double>().conv_1d_weight, {}, {}, {}}));
  refused(delta_engine<double>(delta_weights<double>(), 2));
}

TEST_CASE("bfloat16 buffers are the numbers that they hold", "[engine]") {
  const auto check = [](const auto& whole, const auto& engine, auto ran, const auto& each) {
    auto widened = ran, own = ran;
    std::vector<Narrow> narrow;  // the buffers
    narrow.reserve(16);
    each([&](auto member) {
      narrow.emplace_back(ran.*member);
      widened.*member = narrow.back().widened;
      own.*member = narrow.back().array();
      CHECK((own.*member).data() != (widened.*member).data());
    });
    const auto found = engine.implicit_attention(own).materialize(), expected = whole.implicit_attention(widened).materialize();
    CHECK(found.stacked() == expected.stacked());
  };
  {
    auto weights = weights_of_mamba<float>();
    const Mamba<float> whole(weights);
    using A = Mamba<float>::Activations;
    check(whole, mamba_engine<float>(weights, false), whole.activations(Draw(12).normals<float>(9, 4)), [](const auto& take) {
      for (auto member : {&A::z, &A::dt, &A::B, &A::C, &A::c}) take(member);
    });
  }
  {
    auto weights = rwkv7_weights<float>();
    const Rwkv7<float> whole(weights);
    using A = Rwkv7<float>::Activations;
    check(
        whole, Rwkv7<float>::for_engine({weights.r_k, weights.ln_x_weight, weights.ln_x_bias}),
        whole.activations(Draw(13).normals<float>(9, 6)), [](const auto& take) {
          for (auto member : {&A::value, &A::receptance, &A::key, &A::log_decay, &A::removal, &A::probe, &A::gate, &A::bonus, &A::pre_norm})
            take(member);
        });
  }
  {
    auto weights = weights_of_griffin<float>();
    const Griffin<float> whole(weights);
    using A = Griffin<float>::Activations;
    check(whole, Griffin<float>::for_engine({weights.conv_1d_weight, weights.conv_1d_bias, {}, {}}),
          whole.activations(Draw(14).normals<float>(9, 4)), [](const auto& take) {
            for (auto member : {&A::gate_input, &A::log_a, &A::input_gate, &A::normalizer}) take(member);
          });
  }
  {
    auto weights = delta_weights<float>();
    GatedDeltaNet<float>::Options options;
    options.key_heads = 2;
    const GatedDeltaNet<float> whole(weights, options);
    using A = GatedDeltaNet<float>::Activations;
    check(whole, delta_engine<float>(weights, 2), whole.activations(Draw(15).normals<float>(9, 5)), [](const auto& take) {
      for (auto member : {&A::query, &A::key, &A::beta, &A::log_decay, &A::o, &A::z, &A::c}) take(member);
    });
  }
}

TEST_CASE("numbers in a host's memory, in any type and layout", "[engine]") {
  const std::vector<float> numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  // As they lie: a view.
  const Array<float> view = array_of<float>("n", {Dtype::F32, numbers.data(), 3, 2, 4});
  CHECK(view.data() == numbers.data());
  CHECK(view(2, 1) == 9);
  CHECK(array_of<float>("n", {Dtype::F32, numbers.data(), 3, 4})(1, 0) == 4);
  // Taps by channel, given channels by tap.
  const Array<float> turned = array_of<float>("n", {Dtype::F32, numbers.data(), 4, 3, 1, 4});
  for (Index i = 0; i < 4; ++i)
    for (Index j = 0; j < 3; ++j) CHECK(turned(i, j) == numbers[static_cast<std::size_t>(j * 4 + i)]);
  // Two heads' states, stored (value, key).
  const Matrix<double> heads = copied_numbers<double>("n", {Dtype::F32, numbers.data(), 2, 3, 1, 2, 2, 6});
  REQUIRE(heads.rows() == 4);
  CHECK(heads(0, 2) == 4);
  CHECK(heads(1, 0) == 1);
  CHECK(heads(2, 0) == 6);
  CHECK(heads(3, 2) == 11);
  CHECK(copied_numbers<double>("n", {Dtype::F32, numbers.data(), 2, 3, 0, 1, 2})(2, 1) == 7);  // blocks follow each other
  const std::vector<std::uint16_t> halves{0x3C00, 0xC000, 0x3555};
  const Array<double> half = array_of<double>("h", {Dtype::F16, halves.data(), 1, 3});
  CHECK(half(0, 0) == 1);
  CHECK(half(0, 1) == -2);
  CHECK(array_of<float>("n", {Dtype::F32, nullptr, 0, 4}).empty());
  CHECK(array_of<float>("n", {Dtype::BF16, nullptr, 4, 0}).empty());

  const auto refused = [](const std::string& expected, const StridedNumbers& from) {
    CHECK_THAT(error_of([&] { (void)array_of<float>("the gate", from); }).second, contains_text("the gate: " + expected));
    CHECK_THAT(error_of([&] { (void)copied_numbers<double>("the gate", from); }).second, contains_text("the gate: " + expected));
  };
  refused("no data, expected (1, 2, 2)", {Dtype::F32, nullptr, 2, 2});
  refused("numbers of type Q4_0", {Dtype::Q4_0, numbers.data(), 2, 2});
  refused("the sizes are (1, -2, 2)", {Dtype::F32, numbers.data(), -2, 2});
  refused("the strides are (0, -1, 1)", {Dtype::F32, numbers.data(), 2, 2, -1});
  refused("the strides are (0, 2, 0)", {Dtype::F32, numbers.data(), 2, 2, 2, 0});
  refused("(1, 4611686018427387904, 4611686018427387904)", {Dtype::F32, numbers.data(), Index(1) << 62, Index(1) << 62});
  refused("(1, 2, 2) = (blocks, rows, columns) numbers at these strides are more than 9223372036854775807 bytes",
          {Dtype::F32, numbers.data(), 2, 2, Index(1) << 62});
}
