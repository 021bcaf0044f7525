// Layer descriptors: what is a layer, weights viewed, an engine's own activations, weights and inputs that do not fit, denormal weights.
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/layer_weights.hpp>
#include <support/random.hpp>

#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/layers/layer_gradient.hpp>
#include <implicit_attention/layers/linear_attention.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/mamba3.hpp>
#include <implicit_attention/layers/rwkv4.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;
using test_support::error_of;

static_assert(LayerDescriptor<Mamba<float>> && LayerDescriptor<Mamba<double>>);
static_assert(LayerDescriptor<Rwkv4<float>> && LayerDescriptor<Rwkv4<double>>);
static_assert(LayerDescriptor<Griffin<float>> && LayerDescriptor<Griffin<double>>);
static_assert(LayerDescriptor<SoftmaxAttention<float>> && LayerDescriptor<SoftmaxAttention<double>>);
static_assert(!LayerDescriptor<Matrix<float>>);

// Width 4, 6 channels, state 3, dt rank 2, convolution 4.
template <class S>
typename Mamba<S>::Weights mamba_weights(std::uint64_t seed = 1) {
  Draw draw(seed);
  typename Mamba<S>::Weights w;
  w.in_proj_weight = draw.normals<S>(12, 4, 0.6);
  w.in_proj_bias = draw.normals<S>(1, 12, 0.3);
  w.conv1d_weight = draw.normals<S>(6, 4, 0.5);
  w.conv1d_bias = draw.normals<S>(1, 6, 0.3);
  w.x_proj_weight = draw.normals<S>(8, 6, 0.5);
  w.dt_proj_weight = draw.normals<S>(6, 2, 0.5);
  w.dt_proj_bias = draw.normals<S>(1, 6);
  w.A_log = draw.uniforms<S>(6, 3, -1, 2);
  w.D = draw.normals<S>(1, 6);
  w.out_proj_weight = draw.normals<S>(4, 6, 0.5);
  w.out_proj_bias = draw.normals<S>(1, 4, 0.5);
  return w;
}

// Width 4, 6 channels.
template <class S>
typename Rwkv4<S>::Weights rwkv4_weights(std::uint64_t seed = 2) {
  Draw draw(seed);
  typename Rwkv4<S>::Weights w;
  w.time_decay = draw.uniforms<S>(1, 6, -3, 1);
  w.time_first = draw.normals<S>(1, 6);
  w.time_mix_key = draw.uniforms<S>(1, 4, 0, 1);
  w.time_mix_value = draw.uniforms<S>(1, 4, 0, 1);
  w.time_mix_receptance = draw.uniforms<S>(1, 4, 0, 1);
  w.key_weight = draw.normals<S>(6, 4);
  w.value_weight = draw.normals<S>(6, 4);
  w.receptance_weight = draw.normals<S>(6, 4);
  w.output_weight = draw.normals<S>(4, 6);
  return w;
}

template <class S>
typename Griffin<S>::Weights griffin_weights(std::uint64_t seed = 3) {
  Draw draw(seed);
  return test_support::griffin_weights<S>(draw, -8, 0);
}

/// One tensor of a layer's weights that is made wrong, and what the error must say.
template <class Weights>
struct Wrong {
  std::function<void(Weights&)> change;
  std::vector<std::string> texts;
};

template <class Layer>
void check_refusals(const typename Layer::Weights& right, const std::vector<Wrong<typename Layer::Weights>>& cases) {
  for (const auto& one : cases) {
    typename Layer::Weights weights = right;
    one.change(weights);
    INFO(one.texts.front());
    const auto [kind, text] = error_of([&] { Layer{weights}; });
    CHECK(kind == ErrorKind::shape);
    for (const std::string& expected : one.texts) CHECK_THAT(text, contains_text(expected));
  }
}

Matrix<double> ones(Index rows, Index columns) { return Matrix<double>::Ones(rows, columns); }

}  // namespace

TEST_CASE("weights that do not fit are refused by their public names", "[layers]") {
  using M = Mamba<double>::Weights;
  check_refusals<Mamba<double>>(
      mamba_weights<double>(),
      {{[](M& w) { w.A_log = Array<double>(); }, {"A_log is empty"}},
       {[](M& w) { w.in_proj_weight = ones(6, 4); }, {"Mamba: in_proj.weight is (6, 4), expected (12, 4)", "2*channels"}},
       {[](M& w) { w.in_proj_bias = ones(1, 6); }, {"in_proj.bias is (6), expected (12)"}},
       {[](M& w) { w.conv1d_weight = ones(4, 6); }, {"conv1d.weight is (4, 6), expected (6, 6)"}},
       {[](M& w) { w.conv1d_weight = Array<double>(); }, {"conv1d.weight is (0, 0)"}},
       {[](M& w) { w.conv1d_bias = ones(1, 4); }, {"conv1d.bias is (4), expected (6)"}},
       {[](M& w) { w.x_proj_weight = ones(10, 6); },
        {"x_proj.weight is (10, 6), expected (8, 6)", "dt_rank + 2*state", "is dt_rank 2 and state 3?"}},
       {[](M& w) { w.dt_proj_weight = ones(2, 6); }, {"dt_proj.weight is (2, 6), expected (6, 6)"}},
       {[](M& w) { w.dt_proj_bias = ones(6, 1); }, {"dt_proj.bias is (6, 1), expected (6)"}},
       {[](M& w) { w.D = ones(1, 5); }, {"D is (5), expected (6)"}},
       {[](M& w) { w.out_proj_weight = ones(6, 4); }, {"out_proj.weight is (6, 4), expected (4, 6)"}},
       {[](M& w) { w.out_proj_bias = ones(1, 6); }, {"out_proj.bias is (6), expected (4)"}}});
  using R = Rwkv4<double>::Weights;
  check_refusals<Rwkv4<double>>(rwkv4_weights<double>(),
                                {{[](R& w) { w.time_decay = Array<double>(); }, {"time_decay is empty"}},
                                 {[](R& w) { w.time_decay = ones(1, 5); }, {"time_first is (6), expected (5)"}},
                                 {[](R& w) { w.time_first = ones(1, 4); }, {"Rwkv4: time_first is (4), expected (6)"}},
                                 {[](R& w) { w.time_mix_key = ones(1, 6); }, {"time_mix_key is (6), expected (4) = (width)"}},
                                 {[](R& w) { w.time_mix_value = ones(4, 1); }, {"time_mix_value is (4, 1), expected (4)"}},
                                 {[](R& w) { w.time_mix_receptance = Array<double>(); }, {"time_mix_receptance"}},
                                 {[](R& w) { w.key_weight = ones(4, 6); }, {"expected"}},
                                 {[](R& w) { w.value_weight = ones(4, 6); }, {"value.weight is (4, 6), expected (6, 4)"}},
                                 {[](R& w) { w.receptance_weight = ones(6, 6); }, {"receptance.weight is (6, 6), expected (6, 4)"}},
                                 {[](R& w) { w.output_weight = ones(6, 4); }, {"output.weight is (6, 4), expected (4, 6)"}}});
  using G = Griffin<double>::Weights;
  check_refusals<Griffin<double>>(
      griffin_weights<double>(),
      {{[](G& w) { w.recurrent_param = Array<double>(); }, {"rg_lru.recurrent_param is empty"}},
       {[](G& w) { w.linear_x_weight = ones(4, 4); }, {"Griffin: linear_x.weight is (4, 4), expected (6, 4)"}},
       {[](G& w) { w.linear_x_bias = ones(1, 4); }, {"linear_x.bias is (4), expected (6)"}},
       {[](G& w) { w.linear_y_weight = ones(6, 5); }, {"linear_y.weight is (6, 5), expected (6, 4)"}},
       {[](G& w) { w.linear_y_bias = ones(1, 5); }, {"linear_y.bias"}},
       {[](G& w) { w.conv_1d_weight = ones(5, 4); }, {"conv_1d.weight is (5, 4), expected (6, 4)"}},
       {[](G& w) { w.conv_1d_bias = ones(1, 5); }, {"conv_1d.bias is (5), expected (6)"}},
       {[](G& w) { w.input_gate_bias = ones(4, 2); }, {"rg_lru.input_gate_bias is (4, 2)", "6 channels"}},
       {[](G& w) { w.input_gate_weight = ones(6, 6); }, {"rg_lru.input_gate_weight is (6, 6), expected (6, 3)"}},
       {[](G& w) { w.recurrent_gate_weight = ones(3, 3); }, {"rg_lru.recurrent_gate_weight is (3, 3), expected (6, 3)"}},
       {[](G& w) { w.recurrent_gate_bias = ones(3, 2); }, {"rg_lru.recurrent_gate_bias is (3, 2), expected (2, 3)"}},
       {[](G& w) { w.linear_out_weight = ones(6, 4); }, {"linear_out.weight is (6, 4), expected (4, 6)"}},
       {[](G& w) { w.linear_out_bias = ones(1, 6); }, {"linear_out.bias is (6), expected (4)"}}});
}

TEST_CASE("activations that are columns of the input view it, and hold one that was a temporary", "[layers]") {
  LinearAttention<double>::Options options;
  options.heads = 2;
  options.key_size = 3;
  options.value_size = 2;
  const LinearAttention<double> layer(options);
  Draw draw(3);
  const Matrix<double> u = draw.normals<double>(5, layer.width());
  const Index first = 2 * options.heads * options.key_size;
  const auto viewed = layer.activations(u);
  CHECK(viewed.x.owner() == nullptr);
  CHECK(viewed.x.data() == u.data() + first);
  CHECK(layer.activations(ConstView<double>(u)).x.data() == u.data() + first);

  const auto held = layer.activations(Matrix<double>(u));
  REQUIRE(held.x.owner() != nullptr);
  CHECK(*held.x == *viewed.x);
  const Eigen::Matrix<double, 5, 16, Eigen::RowMajor> fixed = u;
  CHECK(layer.activations(Eigen::Matrix<double, 5, 16, Eigen::RowMajor>(fixed)).x.owner() != nullptr);
  const MaterializedAttention<double> materialized = layer.materialize_attention(Matrix<double>(u));
  REQUIRE(materialized.x.owner() != nullptr);
  CHECK(*materialized.x == *viewed.x);
}

TEST_CASE("inputs and states that do not fit are refused before anything is computed", "[layers]") {
  const Mamba<double> mamba(mamba_weights<double>());
  const Rwkv4<double> rwkv4(rwkv4_weights<double>());
  const Griffin<double> griffin(griffin_weights<double>());
  const Matrix<double> none(0, 4), wide = ones(5, 6), u = ones(5, 4);
  const auto refused = [](const char* text, const auto& call) {
    INFO(text);
    CHECK_THAT(error_of(call).second, contains_text(text));
  };
  refused("Mamba: the input has no tokens", [&] { (void)mamba.activations(none); });
  refused("Mamba: the input is (5, 6), expected (tokens, 4)", [&] { (void)mamba.activations(wide); });
  refused("Rwkv4: the input has no tokens", [&] { (void)rwkv4.activations(none); });
  refused("Rwkv4: the input is (5, 6), expected (tokens, 4)", [&] { (void)rwkv4.activations(wide); });
  refused("Griffin: the input has no tokens", [&] { (void)griffin.activations(none); });
  refused("Griffin: the input is (5, 6), expected (tokens, 4)", [&] { (void)griffin.activations(wide); });
  refused("Griffin: positions are (4), expected (5)", [&] { (void)griffin.activations(u, std::vector<Index>{0, 1, 2, 3}); });
  refused("Griffin: positions are (4), expected (5)", [&] {  // on the way back, too
    (void)backward(griffin, u, u, serial_executor(), {nullptr, {0, 1, 2, 3}});
  });
  const Index far = std::numeric_limits<Index>::max();
  refused("Griffin: position 9223372036854775807 is out of range", [&] { (void)griffin.activations(u, std::vector<Index>(5, far)); });
  Mamba<double>::State mamba_state = mamba.activations(u).final;
  mamba_state.recurrent = ones(2, 6);
  refused("Mamba: state.recurrent is (2, 6), expected (3, 6)", [&] { (void)mamba.activations(u, &mamba_state); });
  mamba_state.convolution_tail = ones(4, 6);
  refused("Mamba: state.convolution_tail is (4, 6), expected (3, 6)", [&] { (void)mamba.activations(u, &mamba_state); });
  Rwkv4<double>::State rwkv4_state = rwkv4.activations(u).final;
  rwkv4_state.shifted = ones(1, 6);
  refused("Rwkv4: state.shifted is (6), expected (4)", [&] { (void)rwkv4.activations(u, &rwkv4_state); });
  Griffin<double>::State griffin_state = griffin.activations(u).final;
  griffin_state.recurrent = ones(2, 6);
  refused("Griffin: state.recurrent is (2, 6), expected (1, 6)", [&] { (void)griffin.activations(u, &griffin_state); });
  Draw draw(4);
  SoftmaxAttention<double>::Weights of_attention;
  for (Array<double>* const weight :
       {&of_attention.q_proj_weight, &of_attention.k_proj_weight, &of_attention.v_proj_weight, &of_attention.o_proj_weight})
    *weight = draw.normals<double>(4, 4);
  const SoftmaxAttention<double> attention(of_attention, {});
  refused("positions are (2), expected (5)", [&] { (void)backward(attention, u, u, serial_executor(), {nullptr, {0, 1}}); });
  SoftmaxAttention<double>::State attention_state = attention.activations(u).final;
  attention_state.position = far;
  refused("position 9223372036854775807 is out of range", [&] { (void)attention.activations(u, &attention_state); });
  MaterializeOptions options;
  options.byte_limit = 6 * 5 * 5 * 8 - 1;
  refused("reduction", [&] { (void)mamba.materialize_attention(u, options); });
}

TEST_CASE("weights are viewed where they lie", "[layers]") {
  const Mamba<float>::Weights owned = mamba_weights<float>();
  Mamba<float>::Weights viewed = owned;
  const Matrix<float> memory = *owned.in_proj_weight;
  Matrix<float> wide = Matrix<float>::Constant(4, 9, 1e30f);  // rows at a distance
  wide.leftCols(6) = owned.out_proj_weight.matrix();
  viewed.in_proj_weight = Array<float>::view(memory);
  viewed.out_proj_weight = Array<float>::view(wide.leftCols(6));
  const Mamba<float> layer(viewed);
  CHECK(layer.weights().in_proj_weight.data() == memory.data());
  CHECK(layer.weights().out_proj_weight.data() == wide.data());
  const Matrix<float> u = Draw(4).normals<float>(9, 4);
  CHECK((layer.activations(u).out.matrix() - Mamba<float>(owned).activations(u).out.matrix()).isZero(1e-6f));  // sums in another order
}

TEST_CASE("an engine hands in what it has, and gets the same matrices", "[layers]") {
  const Matrix<double> u = Draw(5).normals<double>(11, 4);
  const auto same = [](const ImplicitAttention<double>& a, const ImplicitAttention<double>& b) {
    const AttentionMatrix<double> first = a.materialize(), second = b.materialize();
    // c may be recomputed from x, and weightings from keys: the same sums, in the same order.
    CHECK((first.stacked() - second.stacked()).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
          1e-14 * first.stacked().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    CHECK((a.bias() - b.bias()).isZero(0));
  };
  for (const Terms terms :
       {Terms::all(), Terms::published(), Terms::all().without(Term::normalization), Terms::all().without(Term::recurrence)}) {
    INFO(terms.text());
    const Mamba<double> mamba(mamba_weights<double>());
    const Mamba<double>::Activations ran = mamba.activations(u);
    Mamba<double>::Activations own;
    own.z = Array<double>::view(*ran.z);
    own.dt = Array<double>::view(*ran.dt);
    own.B = Array<double>::view(*ran.B);
    own.C = Array<double>::view(*ran.C);
    own.x = Array<double>::view(*ran.x);
    same(mamba.implicit_attention(own, terms), mamba.implicit_attention(ran, terms));
    own.x = Array<double>();
    own.c = Array<double>::view(*ran.c);
    same(mamba.implicit_attention(own, terms), mamba.implicit_attention(ran, terms));

    const Rwkv4<double> rwkv4(rwkv4_weights<double>());
    const Rwkv4<double>::Activations rwkv4_ran = rwkv4.activations(u);
    Rwkv4<double>::Activations rwkv4_own;
    rwkv4_own.receptance = Array<double>::view(*rwkv4_ran.receptance);
    rwkv4_own.key = Array<double>::view(*rwkv4_ran.key);
    same(rwkv4.implicit_attention(rwkv4_own, terms), rwkv4.implicit_attention(rwkv4_ran, terms));

    const Griffin<double> griffin(griffin_weights<double>());
    const Griffin<double>::Activations griffin_ran = griffin.activations(u, std::vector<Index>{3, 4, 0, 1, 2, 3, 0, 0, 1, 2, 3});
    Griffin<double>::Activations griffin_own;
    griffin_own.gate_input = Array<double>::view(*griffin_ran.gate_input);
    griffin_own.log_a = Array<double>::view(*griffin_ran.log_a);
    griffin_own.input_gate = Array<double>::view(*griffin_ran.input_gate);
    griffin_own.normalizer = Array<double>::view(*griffin_ran.normalizer);
    griffin_own.starts = griffin_ran.starts;
    CHECK(griffin_own.starts == std::vector<Index>{2, 6, 7});
    same(griffin.implicit_attention(griffin_own, terms), griffin.implicit_attention(griffin_ran, terms));
  }
}

TEST_CASE("RWKV-4: where documents begin is kept where an engine leaves the weighting out, and checked", "[layers]") {
  const Rwkv4<double> layer(rwkv4_weights<double>());
  Trace<double> trace(false, serial_executor(), {0, 4, 9});
  RunContext<double> context;
  const Rwkv4<double>::Activations ran = layer.run(trace.constant(Array<double>(Draw(5).normals<double>(11, 4))), context).activations;
  Rwkv4<double>::Activations own;
  own.receptance = ran.receptance;
  own.key = ran.key;
  own.weighting.starts = {0, 4, 9};
  CHECK(layer.implicit_attention(own).materialize().stacked() == layer.implicit_attention(ran).materialize().stacked());
  for (const bool whole : {false, true})
    for (const std::vector<Index>& starts : {std::vector<Index>{-1}, {0, 4, 11}}) {
      Rwkv4<double>::Activations wrong = whole ? ran : own;
      wrong.weighting.starts = starts;
      CHECK_THROWS_WITH(layer.implicit_attention(wrong), contains_text("Rwkv4: activations.weighting.starts has "));
    }
}

TEST_CASE("the short way gives everything of y = A x + bias + carry", "[layers]") {
  const Mamba<double> layer(mamba_weights<double>());
  const Matrix<double> u = Draw(6).normals<double>(7, 4);
  const auto whole = layer.materialize_attention(u);
  for (Index e = 0; e < 6; ++e) {
    const Eigen::VectorXd y = whole.attention.channel(e) * whole.x.matrix().col(e) + whole.bias.col(e) + whole.carry.col(e);
    CHECK((y - whole.y.matrix().col(e)).norm() <= 1e-14 * (1 + y.norm()));  // a few roundings of sums of ordinary numbers
  }
  MaterializeOptions options;
  options.terms = Terms::published();
  options.rows = Indices::last();
  options.channels = std::vector<Index>{5, 1};
  const auto part = layer.materialize_attention(u, options);
  CHECK(part.attention.channels() == 2);
  CHECK(part.attention.rows() == 1);
  CHECK(part.bias.isZero(0));
  CHECK(part.out.rows() == 7);
}

TEMPLATE_TEST_CASE("weights decayed to denormals give finite numbers, about zero", "[layers]", float, double) {
  // As a published Mamba checkpoint has them: every weight, A_log included, between 1e-45 and 2e-41.
  using Scalar = TestType;
  Draw draw(7);
  const Index width = 14, channels = 28, state = 64, tokens = 40;
  const auto tiny = [&](Index rows, Index columns) { return draw.uniforms<Scalar>(rows, columns, -2e-41, 2e-41); };
  typename Mamba<Scalar>::Weights w;
  w.in_proj_weight = tiny(2 * channels, width);
  w.conv1d_weight = tiny(channels, 4);
  w.conv1d_bias = tiny(1, channels);
  w.x_proj_weight = tiny(1 + 2 * state, channels);
  w.dt_proj_weight = tiny(channels, 1);
  w.dt_proj_bias = tiny(1, channels);
  w.A_log = tiny(channels, state);
  w.D = tiny(1, channels);
  w.out_proj_weight = tiny(width, channels);
  const Mamba<Scalar> layer(w);
  const Matrix<Scalar> u = draw.normals<Scalar>(tokens, width);
  const auto whole = layer.materialize_attention(u);
  CHECK(whole.attention.stacked().allFinite());
  CHECK(whole.attention.stacked().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < Scalar(1e-37));
  CHECK(whole.bias.allFinite());
  CHECK(whole.out.matrix().allFinite());
  CHECK(whole.out.matrix().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < Scalar(1e-37));
  const Matrix<Scalar> map = layer.implicit_attention(layer.activations(u)).reduce();
  CHECK(map.allFinite());
  CHECK(map.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < Scalar(1e-37));
  // The one thing that is not tiny, dt = softplus(0), is what it should be.
  CHECK((layer.activations(u).dt.matrix().array() - std::log(Scalar(2))).abs().template maxCoeff<Eigen::PropagateNaN>() < Scalar(1e-6));
}

TEST_CASE("what an array was made from is asked about with the sources that were noted", "[layers]") {
  Draw draw(3);
  const Array<double> query = draw.normals<double>(3, 2), key = draw.normals<double>(3, 2), bonus = draw.normals<double>(3, 2),
                      other = draw.normals<double>(3, 2);
  const MadeFrom<double> from(bonus, {{"query", &query}, {"key", &key}});
  CHECK(from.newer(bonus, {{"query", &query}, {"key", &key}}).empty());
  CHECK(from.newer(bonus, {{"query", &query}, {"key", &other}}) == "key");
  CHECK(from.newer(other, {{"query", &query}, {"key", &other}}).empty());  // a host's own array is taken as it is
  CHECK(error_of([&] {
          static_cast<void>(from.newer(bonus, {{"query", &query}}));
        }).second == "MadeFrom: lower() names 1 sources, run() noted 2: the layer is at fault");
}

TEST_CASE("Mamba-3 of one input has no weights of several", "[layers]") {
  Draw draw(4);
  Mamba3Weights<double> w;
  w.in_proj_weight = draw.normals<double>(27, 5);
  w.dt_bias = draw.normals<double>(1, 2);
  w.B_norm_weight = w.C_norm_weight = draw.normals<double>(1, 4);
  w.B_bias = w.C_bias = draw.normals<double>(2, 4);
  w.D = draw.normals<double>(1, 2);
  w.out_proj_weight = draw.normals<double>(5, 6);
  CHECK_NOTHROW(Mamba3<double>(w));
  for (const auto& [name, member] :
       {std::pair("mimo_x", &Mamba3Weights<double>::mimo_x), std::pair("mimo_z", &Mamba3Weights<double>::mimo_z),
        std::pair("mimo_o", &Mamba3Weights<double>::mimo_o)}) {
    Mamba3Weights<double> more = w;
    more.*member = draw.normals<double>(2, 3);
    CHECK_THAT(error_of([&] { static_cast<void>(Mamba3<double>(more)); }).second,
               contains_text(std::string("there is a tensor ") + name + ", and B_bias is of rank 1"));
  }
}
