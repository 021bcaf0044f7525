// Whole language models backwards: the public implementations' gradients, finite differences of every block, and bounded memory.
#include <cmath>
#include <functional>
#include <string_view>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/every_logit.hpp>
#include <support/random.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/models/backward.hpp>
#include <implicit_attention/trace/walk_back.hpp>
#include <models/models.hpp>

namespace {

using namespace models_test;
using test_support::Draw;
namespace fs = std::filesystem;

/// Central differences of a function of a matrix, number by number. A step of 1e-5 leaves about 1e-10 of curvature and 1e-11 of rounding
/// in numbers of order one.
Matrix<double> finite_differences(const Matrix<double>& at, const std::function<double(const Matrix<double>&)>& function) {
  constexpr double step = 1e-5;
  Matrix<double> slope(at.rows(), at.cols()), moved = at;
  for (Index i = 0; i < at.size(); ++i) {
    moved.data()[i] = at.data()[i] + step;
    const double above = function(moved);
    moved.data()[i] = at.data()[i] - step;
    slope.data()[i] = (above - function(moved)) / (2 * step);
    moved.data()[i] = at.data()[i];
  }
  return slope;
}
constexpr double slope_tolerance = 1e-7;

/// A feed-forward part by itself: its output, and a walk back from g.
template <class FeedForward>
Matrix<double> run(const FeedForward& part, const Matrix<double>& u) {
  Trace<double> trace;
  RunContext<double> context;
  return *part.run(trace.input(u), context);
}
template <class FeedForward>
Matrix<double> walk(const FeedForward& part, const Matrix<double>& u, const Matrix<double>& g, WayBack way) {
  Trace<double> trace(true);
  RunContext<double> context;
  const Value<double> input = trace.input(u);
  const Value<double> out = part.run(input, context);
  return trace.walk_back(way, {{out, g}}, {input}).gradients.front();
}

/// A named way back that the walk does not list.
struct Unlisted {
  static constexpr std::string_view operation = "of nobody";
};

}  // namespace

TEST_CASE("a way back that is not listed is named", "[models]") {
  Trace<double> trace(true);
  const Matrix<double> ones = Matrix<double>::Ones(2, 3);
  const Value<double> input = trace.input(ones), out = trace.record(ones, Unlisted{});
  CHECK_THAT(test_support::what_of([&] {
               return trace.walk_back(WayBack::gradient, {{out, ones}}, {input}).bias_share;
             }),
             contains_text("no way back is called of nobody"));
}

TEMPLATE_TEST_CASE("gradients of public trained models", "[models]", double, float) {
  for (const char* name : {"protmamba", "rwkv4-tiny", "griffin-shakespeare"}) {
    const auto folder = test_support::shared_data(fs::path("realdata") / name);
    if (!folder) {
      WARN(test_support::shared_data_missing(std::string("realdata/") + name));
      continue;
    }
    INFO(name);
    const SafetensorsFile expected(*folder / "expected.safetensors");
    const LanguageModel<TestType> model = load_language_model(SafetensorsSource<TestType>(*folder), read_configuration(*folder));
    const ForwardPass<TestType> pass = model.forward(integers(expected, "input_ids"));
    const BackwardPass<TestType> gradients =
        backward(model, pass, logit_gradient(pass, pass.tokens() - 1, integers(expected, "target_token").front()));
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      INFO("layer " << layer);
      CHECK(relative_error(*gradients.layers[static_cast<std::size_t>(layer)].y,
                           Matrix<double>(*expected.read<double>(detail::message("layer", layer, ".grad_y")))) <
            (std::is_same_v<TestType, double> ? 1e-11 : 2e-5));
    }
  }
}

TEST_CASE("each block's gradient is its finite differences", "[models]") {
  Draw draw(3);
  const Index L = 5, D = 6, M = 9;
  const Matrix<double> u = draw.normals<double>(L, D), g = draw.normals<double>(L, D);
  const auto weight = [&](Index rows, Index columns) { return Array<double>(draw.normals<double>(rows, columns, 0.5)); };

  for (const Norm<double>& norm : {Norm<double>::rms(weight(1, D), 1e-2), Norm<double>::rms(weight(1, D), 1e-6, true),
                                   Norm<double>::layer(weight(1, D), weight(1, D), 1e-2)}) {
    const auto slope = finite_differences(u, [&](const Matrix<double>& r) { return norm(r).cwiseProduct(g).sum(); });
    CHECK(relative_error(norm.backward(u, norm.statistics(u), g), slope) < slope_tolerance);
    // With the scale constant it is linear but for the bias: relevance is conserved.
    const Matrix<double> constant = norm.backward_scale_constant(norm.statistics(u), g);
    const Matrix<double> biases = norm.centred() ? Matrix<double>(norm.bias().replicate(L, 1)) : Matrix<double>(Matrix<double>::Zero(L, D));
    CHECK(constant.cwiseProduct(u).sum() == Approx((norm(u) - biases).cwiseProduct(g).sum()));
  }

  const GatedFeedForward<double> gated({weight(M, D), weight(1, M), weight(M, D), weight(1, M), weight(D, M), weight(1, D)});
  CHECK(relative_error(walk(gated, u, g, WayBack::gradient), finite_differences(u, [&](const Matrix<double>& v) {
                         return run(gated, v).cwiseProduct(g).sum();
                       })) < slope_tolerance);
  const ChannelMixing<double> mixing({weight(1, D), weight(1, D), weight(M, D), weight(D, D), weight(D, M)});
  CHECK(relative_error(walk(mixing, u, g, WayBack::gradient), finite_differences(u, [&](const Matrix<double>& v) {
                         return run(mixing, v).cwiseProduct(g).sum();
                       })) < slope_tolerance);
  // Without biases, the relevance of a feed-forward part's input is that of its output.
  const GatedFeedForward<double> unbiased({weight(M, D), {}, weight(M, D), {}, weight(D, M), {}});
  CHECK(walk(unbiased, u, g, WayBack::relevance).cwiseProduct(u).sum() == Approx(run(unbiased, u).cwiseProduct(g).sum()));
  CHECK(walk(mixing, u, g, WayBack::relevance).cwiseProduct(u).sum() == Approx(run(mixing, u).cwiseProduct(g).sum()));
}

TEST_CASE("a whole model's gradient is its finite differences", "[models]") {
  for (const char* name : shipped_models) {
    INFO(name);
    const LanguageModel<double> model = shipped(name);
    ForwardOptions options;
    options.logit_positions = std::vector<Index>{3, 5};
    if (model.parts().has_positions) options.positions = {0, 1, 2, 0, 1, 2};
    const ForwardPass<double> pass = model.forward({7, 100, 2000, 5, 9, 2}, options);
    // Two logits at different tokens, one of them against another.
    Matrix<double> d = logit_gradient(pass, 5, 4, Index(3));
    d += 0.5 * logit_gradient(pass, 3, 17);
    const BackwardPass<double> gradients = backward(model, pass, d);
    ForwardOptions cheap = options;
    cheap.keep = Keep::logits;
    const auto value = [&](const Matrix<double>& embeddings) {
      return model.forward_embeddings(embeddings, cheap).logits.cwiseProduct(d).sum();
    };
    // One direction for each of a few seeds, which any wrong entry changes.
    for (std::uint64_t seed = 1; seed < 5; ++seed) {
      const Matrix<double> at = *pass.embeddings, direction = Draw(seed).normals<double>(at.rows(), at.cols());
      constexpr double step = 1e-5;
      const double slope = (value(at + step * direction) - value(at - step * direction)) / (2 * step);
      const double came = gradients.embeddings.matrix().cwiseProduct(direction).sum();
      CHECK(std::abs(came - slope) < slope_tolerance * std::max(std::abs(slope), gradients.embeddings.matrix().norm()));
    }
    // The residual stream's gradient, from any layer on.
    const Index layer = model.layer_count() - 1;
    const Matrix<double> residual = *pass.layers[static_cast<std::size_t>(layer)].residual,
                         direction = Draw(9).normals<double>(residual.rows(), residual.cols());
    const auto from_layer = [&](const Matrix<double>& r) {
      const Matrix<double> final_residual = *model.run_layer(layer, r, pass.positions).output;
      Matrix<double> rows(2, model.width());
      rows << final_residual.row(3), final_residual.row(5);
      return model.logits_of(rows).cwiseProduct(d).sum();
    };
    const double slope = (from_layer(residual + 1e-5 * direction) - from_layer(residual - 1e-5 * direction)) / 2e-5;
    CHECK(std::abs(gradients.layers.back().residual.matrix().cwiseProduct(direction).sum() - slope) <
          slope_tolerance * gradients.layers.back().residual.matrix().norm());
  }
}

TEST_CASE("recomputing activations and visiting layers give the same gradients", "[models]") {
  for (const char* name : shipped_models) {
    INFO(name);
    const LanguageModel<double> model = shipped(name);
    const std::vector<Index> ids = {1, 2, 3, 4, 5, 6, 7};
    ForwardOptions options;
    options.logit_positions = Indices::last();
    const ForwardPass<double> kept = model.forward(ids, options);
    options.keep = Keep::residuals;
    const ForwardPass<double> bare = model.forward(ids, options);
    const BackwardPass<double> whole = backward(model, kept, logit_gradient(kept, 6, 3));
    std::vector<Index> order;
    BackwardOptions<double> visiting;
    visiting.keep_layers = false;
    visiting.visit = [&](Index layer, const LayerPass<double>& pass, const LayerBackward<double>& d) {
      order.push_back(layer);
      CHECK(pass.kept());
      const LayerBackward<double>& same = whole.layers[static_cast<std::size_t>(layer)];
      CHECK((d.y.matrix() - same.y.matrix()).isZero(0));
      CHECK((d.x.matrix() - same.x.matrix()).isZero(0));
      CHECK((d.u.matrix() - same.u.matrix()).isZero(0));
      CHECK((d.residual.matrix() - same.residual.matrix()).isZero(0));
    };
    const BackwardPass<double> recomputed = backward(model, bare, logit_gradient(bare, 6, 3), visiting);
    CHECK(recomputed.layers.empty());
    CHECK((recomputed.embeddings.matrix() - whole.embeddings.matrix()).isZero(0));
    std::vector<Index> expected;
    for (Index layer = model.layer_count() - 1; layer >= 0; --layer) expected.push_back(layer);
    CHECK(order == expected);
    // Gradients flow to earlier tokens alone.
    const ForwardPass<double> all = model.forward(ids, test_support::every_logit());
    const BackwardPass<double> early = backward(model, all, logit_gradient(all, 2, 3));
    CHECK(early.embeddings.matrix().bottomRows(4).isZero(0));
    CHECK_FALSE(early.embeddings.matrix().topRows(3).isZero(1e-12));
  }
}

TEST_CASE("bad calls backwards are told before work starts", "[models]") {
  const LanguageModel<double> model = shipped("mamba");
  ForwardOptions options;
  options.logit_positions = Indices::last();
  const ForwardPass<double> pass = model.forward({1, 2, 3}, options);
  options.keep = Keep::logits;
  const ForwardPass<double> bare = model.forward({1, 2, 3}, options);
  const auto says = [](auto call, const std::string& text) {
    try {
      static_cast<void>(call());
      FAIL_CHECK("no error; expected: " << text);
    } catch (const Error& error) {
      CHECK_THAT(error.what(), contains_text(text));
    }
  };
  says([&] { return logit_gradient(pass, 1, 3); }, "no logits were computed at token 1 of 3");
  says([&] { return logit_gradient(pass, 2, model.vocabulary()); }, "target token 7145 is out of range, expected 0 to 7144");
  says([&] { return logit_gradient(pass, 2, 3, Index(-1)); }, "contrast token -1 is out of range");
  says([&] { return backward(model, bare, logit_gradient(bare, 2, 3)); },
       "the pass kept 0 layers, expected 2; run MambaForCausalLM with Keep::residuals");
  says([&] { return backward(model, pass, Matrix<double>(Matrix<double>::Zero(3, model.vocabulary()))); },
       "backward: d_logits is (3, 7145), expected (1, 7145) = (logit positions, vocabulary)");
  ForwardPass<double> changed = pass;
  changed.logit_positions = {99};
  says([&] { return backward(model, changed, logit_gradient(pass, 2, 3)); }, "backward: position 99 is out of range, expected 0 to 2");
}
