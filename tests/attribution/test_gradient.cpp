// Gradient-weighted attention in its three forms, and contributions, against plain loops over every channel's matrix.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/attribution/gradient.hpp>
#include <implicit_attention/models/backward.hpp>

#include <attribution/cases.hpp>

namespace {

using namespace attribution_test;

// Sums of a few hundred products, in both ways in double; products of three layers.
constexpr double gradient_tolerance = 1e-11;

// A model that has run forwards and backwards.
struct Explained {
  Explained(const std::string& architecture, Index tokens, std::uint64_t seed)
      : model(random_model(architecture, seed)),
        pass(model.forward(random_ids(tokens, seed + 1))),
        back(backward(model, pass, logit_gradient(pass, tokens - 1, 3, Index(5)))) {}

  LayerWithGradients<double> operator()(Index layer) const {
    const LayerBackward<double>& d = back.layers[static_cast<std::size_t>(layer)];
    return {model.implicit_attention(pass, layer), pass.layers[static_cast<std::size_t>(layer)].x(), d.y, d.residual};
  }

  LanguageModel<double> model;
  ForwardPass<double> pass;
  BackwardPass<double> back;
};

double stretched(double value, double smallest, double largest) { return (value - smallest) / (largest - smallest); }

// The forms as their papers and the released code have them.
Numbers exact_map(const LayerWithGradients<double>& layer) {
  return joined(dense(layer.attention),
                [&](double entry, Index i, Index j, Index e) { return positive(layer.grad_y(i, e) * layer.x(j, e) * entry); });
}
Numbers mean_gradient_map(const LayerWithGradients<double>& layer) {
  const Numbers attention = mean(dense(layer.attention));
  Numbers map = attention;
  for (Index i = 0; i < map.rows(); ++i) {
    double gradient = 0;
    for (Index d = 0; d < layer.grad_y.cols(); ++d) gradient += layer.grad_y(i, d);
    gradient /= static_cast<double>(layer.grad_y.cols());
    for (Index j = 0; j < map.cols(); ++j) map(i, j) = positive(gradient * attention(i, j));
  }
  return map;
}
Numbers token_maximum_map(const LayerWithGradients<double>& layer) {
  Numbers map = joined(dense(layer.attention), [](double entry, Index, Index, Index) { return positive(entry); });
  std::vector<double> weight;
  for (Index j = 0; j < map.rows(); ++j) {
    double largest = 0;
    for (Index d = 0; d < layer.grad_residual.cols(); ++d) largest = larger(largest, layer.grad_residual(j, d));
    weight.push_back(largest);
  }
  const auto [smallest, largest] = std::minmax_element(weight.begin(), weight.end());
  const double low = *smallest, high = *largest;
  for (Index i = 0; i < map.rows(); ++i)
    for (Index j = 0; j < map.cols(); ++j) map(i, j) *= stretched(weight[static_cast<std::size_t>(j)], low, high);
  const double least = map.minCoeff(), most = map.maxCoeff();
  for (Index entry = 0; entry < map.size(); ++entry) map.data()[entry] = stretched(map.data()[entry], least, most);
  return map;
}

}  // namespace

TEST_CASE("gradient-weighted attention is its formula, form by form", "[attribution]") {
  const Index tokens = 9;
  const struct {
    GradientForm form;
    Numbers (*map)(const LayerWithGradients<double>&);
    bool normalized;
  } forms[] = {{GradientForm::exact, exact_map, false},
               {GradientForm::mean_gradient, mean_gradient_map, false},
               {GradientForm::token_maximum, token_maximum_map, true}};
  for (const std::string& architecture : architectures()) {
    const Explained explained(architecture, tokens, 21);
    for (const auto& row : forms) {
      INFO(architecture << ", form " << static_cast<int>(row.form));
      std::vector<Numbers> maps;
      for (Index layer = 0; layer < 3; ++layer) {
        maps.push_back(row.map(explained(layer)));
        CHECK(maps.back().maxCoeff() > 0);
        CHECK(relative_error(gradient_weighted_map(explained(layer), row.form), maps.back()) <= gradient_tolerance);
        // Rows that are not read are not made, unless the form rescales by them.
        Numbers read = maps.back();
        for (Index i = 0; row.form != GradientForm::token_maximum && i < tokens; ++i)
          if (i != 4 && i != tokens - 1) read.row(i).setZero();
        CHECK(relative_error(gradient_weighted_map(explained(layer), row.form, serial_executor(), nullptr, Indices({tokens - 1, 4})),
                             read) <= gradient_tolerance);
      }
      for (const Index start : {0, 1}) {
        const Numbers expected = product_of_layers(maps, start, row.normalized);
        const Attribution<double> whole = gradient_weighted_attention_map<double>(3, tokens, explained, row.form, start);
        CHECK(relative_error(whole.map, expected) <= gradient_tolerance);
        CHECK(whole.constant_layers.empty());
        for (const Index position : {Index(4), tokens - 1})
          CHECK(relative_error(gradient_weighted_attention<double>(3, tokens, explained, row.form, position, start).scores,
                               expected.row(position)) <= gradient_tolerance);
      }
    }
  }
}

TEST_CASE("dA is the gradient with respect to the attention", "[attribution]") {
  // Without data-dependent parts in the way, d f / d A_e[i,j] is what changing that entry changes: y[i,e] by x[j,e].
  const Explained explained("mamba", 5, 23);
  const LayerWithGradients<double> last = explained(2);
  const Numbers y = last.attention.apply(*last.x) + last.attention.bias();
  const auto value = [&](const Numbers& changed_y) {
    const Numbers out = changed_y * explained.model.block(2).find<Mamba<double>>()->output_projection().matrix().transpose();
    const Numbers bias = *explained.model.block(2).find<Mamba<double>>()->weights().out_proj_bias;
    const Numbers residual = explained.pass.layers[2].residual.matrix() + out + bias.replicate(5, 1);
    const Numbers logits = explained.model.logits_of(residual);
    return logits(4, 3) - logits(4, 5);
  };
  for (Index e = 0; e < 8; ++e)
    for (Index j = 0; j < 5; ++j) {
      Numbers more = y, less = y;
      more(4, e) += 1e-5 * last.x(j, e);
      less(4, e) -= 1e-5 * last.x(j, e);
      CHECK((value(more) - value(less)) / 2e-5 == Approx(last.grad_y(4, e) * last.x(j, e)).epsilon(1e-7).margin(1e-9));
    }
}

TEST_CASE("gradient-weighted attention at its edges", "[attribution]") {
  for (const std::string& architecture : architectures()) {
    INFO(architecture);
    const Explained one(architecture, 1, 25);
    for (const GradientForm form : {GradientForm::exact, GradientForm::mean_gradient, GradientForm::token_maximum}) {
      const Attribution<double> result = gradient_weighted_attention<double>(3, 1, one, form, 0);
      CHECK(result.scores.size() == 1);
      CHECK(result.scores.allFinite());
      CHECK(result.scores[0] > 0);
      if (form == GradientForm::token_maximum) {
        CHECK(result.constant_layers == std::vector<Index>{0, 1, 2});
        CHECK(result.scores[0] == Approx(1));
      }
    }
  }
  const Explained explained("mamba", 4, 27);
  // A gradient that is the same for all tokens weighs none; one that is positive nowhere leaves no map.
  LayerWithGradients<double> layer = explained(1);
  bool constant = false;
  layer.grad_residual = Numbers(Numbers::Constant(4, 6, 0.5));
  Numbers expected = joined(dense(layer.attention), [](double entry, Index, Index, Index) { return positive(entry); });
  expected /= expected.maxCoeff();
  CHECK(relative_error(gradient_weighted_map(layer, GradientForm::token_maximum, serial_executor(), &constant), expected) <=
        gradient_tolerance);
  CHECK(constant);
  layer.grad_residual = Numbers(Numbers::Constant(4, 6, -0.5));
  CHECK(gradient_weighted_map(layer, GradientForm::token_maximum, serial_executor(), &constant).isZero());
  CHECK(constant);
  // Attention that is positive nowhere: the map is constant, the gradient is not. Then one where neither is.
  UnifiedForm<double> form;
  form.recurrence = identity_recurrence<double>(4, 8);
  form.gate = Numbers(Numbers::Constant(4, 8, -2));
  layer.grad_residual = Draw(28).normals<double>(4, 6);
  LayerWithGradients<double> negative = layer;
  negative.attention = ImplicitAttention<double>(form);
  constant = false;
  CHECK(gradient_weighted_map(negative, GradientForm::token_maximum, serial_executor(), &constant).isZero());
  CHECK(constant);
  // A NaN beside numbers that are the same everywhere does not become one of them.
  Numbers gate = Numbers::Constant(4, 8, -2);
  gate(2, 3) = std::numeric_limits<double>::quiet_NaN();
  form.gate = gate;
  negative.attention = ImplicitAttention<double>(form);
  CHECK_FALSE(gradient_weighted_map(negative, GradientForm::token_maximum).allFinite());
  CHECK(gradient_weighted_map(layer, GradientForm::token_maximum, serial_executor(), &constant).maxCoeff() == 1);
  CHECK(!constant);

  const auto fails = [&](auto call, const std::string& text) { CHECK_THAT(failure(call), contains_text(text)); };
  fails([&] { static_cast<void>(gradient_weighted_attention<double>(3, 4, explained, GradientForm::exact, 4)); },
        "position 4 is out of range");
  fails([&] { static_cast<void>(gradient_weighted_attention<double>(3, 4, explained, GradientForm::exact, 0, 3)); },
        "start layer 3 is out of range");
  fails([&] { static_cast<void>(gradient_weighted_attention<double>(0, 4, explained, GradientForm::exact, 0)); }, "there are no layers");
  layer.grad_y = Array<double>();
  fails([&] { static_cast<void>(gradient_weighted_map(layer, GradientForm::mean_gradient)); }, "grad_y is (0, 0), expected (4, ...)");
  Numbers bad = Numbers::Ones(4, 8);
  bad(2, 3) = std::numeric_limits<double>::quiet_NaN();
  layer.grad_y = bad;
  fails([&] { static_cast<void>(gradient_weighted_map(layer, GradientForm::exact)); }, "NaN in grad_y at (2, 3)");
}

TEST_CASE("contributions and bias sum to the layer's output", "[attribution]") {
  for (const std::string& architecture : architectures())
    for (const Index tokens : {1, 7}) {
      INFO(architecture << ", " << tokens << " tokens");
      const LanguageModel<double> model = random_model(architecture, 31);
      const ForwardPass<double> pass = model.forward(random_ids(tokens, 32));
      for (Index layer = 0; layer < 3; ++layer) {
        const LayerPass<double>& of_layer = pass.layers[static_cast<std::size_t>(layer)];
        const ImplicitAttention<double> attention = model.implicit_attention(pass, layer);
        const Array<double> projection = of_layer.mixer().projection, bias = of_layer.mixer().projection_bias;
        const std::vector<Numbers> matrices = dense(attention);
        const Numbers affine = affine_output(attention, projection, bias);
        const Numbers norms = contribution_norms(attention, of_layer.x(), projection);
        Numbers sums = affine;
        for (Index i = 0; i < tokens; ++i) {
          const Numbers vectors = contributions_to(attention, of_layer.x(), projection, i);
          sums.row(i) += vectors.colwise().sum();
          for (Index j = 0; j < tokens; ++j) {
            RowVector<double> expected = RowVector<double>::Zero(6);
            for (Index d = 0; d < 6; ++d)
              for (Index e = 0; e < 8; ++e)
                expected[d] += projection(d, e) * matrices[static_cast<std::size_t>(e)](i, j) * of_layer.x()(j, e);
            CHECK((vectors.row(j) - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
                  1e-13 * (1 + vectors.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
            CHECK(norms(i, j) == Approx(expected.norm()).margin(1e-13));
          }
        }
        CHECK(relative_error(sums, *of_layer.out()) <= 1e-12);
        Selection last;
        last.rows = Indices::last();
        const Numbers vectors = contributions_to(attention, of_layer.x(), projection, tokens - 1);
        CHECK(relative_error(contribution_norms(attention, of_layer.x(), projection, VectorNorm::one, last),
                             Numbers(vectors.rowwise().lpNorm<1>().transpose())) <= 1e-13);
        CHECK(relative_error(contribution_norms(attention, of_layer.x(), projection, VectorNorm::infinity, last),
                             Numbers(vectors.rowwise().lpNorm<Eigen::Infinity>().transpose())) <= 1e-13);
        // Without a projection the vectors are those of y.
        Numbers y = affine_output(attention, Array<double>());
        for (Index i = 0; i < tokens; ++i) y.row(i) += contributions_to(attention, of_layer.x(), Array<double>(), i).colwise().sum();
        CHECK(relative_error(y, *of_layer.y()) <= 1e-12);
      }
    }
}

TEST_CASE("contributions hold with a state carried in", "[attribution]") {
  Draw draw(33);
  const Mamba<double> layer = random_mamba(draw, 6, 8, true);
  const Numbers u = draw.normals<double>(9, 6);
  const auto first = layer.activations(ConstView<double>(u.topRows(4)));
  const auto second = layer.activations(ConstView<double>(u.bottomRows(5)), &first.final);
  const ImplicitAttention<double> attention = layer.implicit_attention(second);
  const Array<double>& projection = layer.weights().out_proj_weight;
  CHECK(attention.carry().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0);
  Numbers sums = affine_output(attention, projection, layer.weights().out_proj_bias);
  for (Index i = 0; i < 5; ++i) sums.row(i) += contributions_to(attention, second.x, projection, i).colwise().sum();
  CHECK(relative_error(sums, *second.out) <= 1e-12);

  const auto fails = [&](auto call, const std::string& text) { CHECK_THAT(failure(call), contains_text(text)); };
  fails([&] { static_cast<void>(contributions_to(attention, second.x, projection, 5)); }, "position 5 is out of range, expected 0 to 4");
  fails([&] { static_cast<void>(contributions_to(attention, first.x, projection, 0)); },
        "x is (4, 8), expected (5, 8) = (tokens, channels)");
  fails([&] { static_cast<void>(contribution_norms(attention, second.x, layer.weights().in_proj_weight)); },
        "output projection is (16, 6), expected (width, 8)");
  fails([&] { static_cast<void>(affine_output(attention, projection, layer.weights().D)); }, "output_bias is (8), expected (6) = (width)");
  for (Index row = 0; row < 6; ++row)  // of each vector one number is NaN
    for (const VectorNorm norm : {VectorNorm::one, VectorNorm::two, VectorNorm::infinity}) {
      Numbers broken = *projection;
      broken(row, 2) = std::numeric_limits<double>::quiet_NaN();
      fails([&] { static_cast<void>(contribution_norms(attention, second.x, Array<double>(broken), norm)); },
            "NaN in the map of norms at (0, 0)");
    }
  Selection small;
  small.byte_limit = 10;
  fails([&] { static_cast<void>(contribution_norms(attention, second.x, projection, VectorNorm::two, small)); }, "more than the limit");
}
