// Laws of the linear attentions, convolutional and recurrent layers, with random weights of every option: what the layer gives is what its
// operator gives, every ablation is the dense product of its factors, gradients are finite differences, relevance conserves, a sequence in
// pieces is the whole one; at extreme decays, gates of 0 and a single token, too.
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/families.hpp>

namespace {

using namespace implicit_attention;
using Numbers = Matrix<double>;

// Tensors by name, in memory.
class NamedTensors final : public TensorSource<double> {
 public:
  std::map<std::string, std::pair<std::vector<Index>, Array<double>>> tensors;
  [[nodiscard]] std::string where() const override { return "random weights"; }
  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, tensor] : tensors) all.push_back(name);
    return all;
  }
  [[nodiscard]] std::optional<std::vector<Index>> shape(std::string_view name) const override {
    const auto found = tensors.find(std::string(name));
    if (found == tensors.end()) return std::nullopt;
    return found->second.first;
  }
  [[nodiscard]] Array<double> read(std::string_view name) const override { return tensors.at(std::string(name)).second; }
};

struct Draw {
  std::mt19937_64 engine;
  std::normal_distribution<double> normal;
  Numbers operator()(Index rows, Index columns, double scale = 1, double mean = 0) {
    Numbers out(rows, columns);
    for (Index i = 0; i < out.size(); ++i) out.data()[i] = mean + scale * normal(engine);
    return out;
  }
};

struct Tensor {
  std::string name;
  std::vector<Index> shape;
  double scale = 0, mean = 0;  // scale 0: 1 / sqrt(last axis that is not 1)
};

// One layer with the sizes of its tensors.
struct Recipe {
  std::string family, title;
  Index width;
  std::vector<Tensor> tensors;
  std::vector<std::pair<std::string, Configuration::Value>> configuration;
  std::vector<std::pair<std::string, Index>> inputs;  // rows of numbers between 0 and 1 in the run context, and their widths
  Index tokens = 7;
};

std::vector<Recipe> recipes() {
  const std::vector<Tensor> heads = {{"q_proj.weight", {8, 6}},      {"k_proj.weight", {4, 6}},
                                     {"v_proj.weight", {3, 6}},      {"g_proj.weight", {6, 6}},
                                     {"o_proj.weight", {6, 6}},      {"g_norm_swish_gate.weight", {3}, 0.3, 1},
                                     {"q_conv1d.weight", {8, 1, 3}}, {"k_conv1d.weight", {4, 1, 3}},
                                     {"v_conv1d.weight", {3, 1, 3}}, {"v_conv1d.bias", {3}}};
  const auto with = [](std::vector<Tensor> all, const std::vector<Tensor>& more) {
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::vector<Tensor> decays = {{"gk_proj.0.weight", {2, 6}}, {"gk_proj.1.weight", {4, 2}, 2}, {"gk_proj.1.bias", {4}}};
  const std::vector<std::pair<std::string, Configuration::Value>> shared = {{"num_heads", Index(2)}, {"num_kv_heads", Index(1)}};
  const auto more = [](auto list, const std::string& key, Configuration::Value value) {
    list.emplace_back(key, std::move(value));
    return list;
  };
  const std::vector<Tensor> mamba3 = {{"dt_bias", {2}}, {"B_norm.weight", {4}, 0.3, 1}, {"C_norm.weight", {4}, 0.3, 1},
                                      {"D", {2}},       {"norm.weight", {6}, 0.3, 1},   {"out_proj.weight", {5, 6}}};
  const std::vector<Tensor> vim_one = {{"conv1d.weight", {6, 1, 3}},
                                       {"conv1d.bias", {6}},
                                       {"x_proj.weight", {8, 6}},
                                       {"dt_proj.weight", {6, 2}},
                                       {"dt_proj.bias", {6}},
                                       {"A_log", {6, 3}, 0.5},
                                       {"D", {6}}};
  const std::vector<Tensor> vim_two = {{"conv1d_b.weight", {6, 1, 3}},
                                       {"conv1d_b.bias", {6}},
                                       {"x_proj_b.weight", {8, 6}},
                                       {"dt_proj_b.weight", {6, 2}},
                                       {"dt_proj_b.bias", {6}},
                                       {"A_b_log", {6, 3}, 0.5},
                                       {"D_b", {6}},
                                       {"in_proj.weight", {12, 4}},
                                       {"out_proj.weight", {4, 6}}};
  return {
      {"retnet", "grouped, convolutions", 6, heads, shared, {}},
      {"retnet",
       "no gate",
       6,
       {{"q_proj.weight", {8, 6}},
        {"k_proj.weight", {8, 6}},
        {"v_proj.weight", {6, 6}},
        {"o_proj.weight", {6, 6}},
        {"g_norm.weight", {3}, 0.3, 1}},
       {{"num_heads", Index(2)}},
       {}},
      {"retnet_parallel",
       "",
       6,
       {{"q_proj.weight", {8, 6}, 1},
        {"k_proj.weight", {8, 6}, 1},
        {"v_proj.weight", {6, 6}, 0.3},
        {"g_proj.weight", {6, 6}},
        {"out_proj.weight", {6, 6}}},
       {{"num_heads", Index(2)}},
       {}},
      {"gla", "grouped, convolutions", 6, with(heads, decays), shared, {}},
      {"gla", "clamped", 6, with(heads, decays), more(shared, "clamp_min", -0.05), {}},
      {"hgrn",
       "bound, convolutions",
       6,
       {{"i_proj.weight", {6, 6}},
        {"f_proj.weight", {6, 6}},
        {"g_proj.weight", {6, 6}},
        {"g_norm.weight", {6}, 0.3, 1},
        {"o_proj.weight", {6, 6}},
        {"i_conv1d.weight", {6, 1, 3}},
        {"f_conv1d.weight", {6, 1, 3}}},
       {},
       {{"lower_bound", 6}}},
      {"hgrn2",
       "bound",
       6,
       {{"q_proj.weight", {8, 6}},
        {"f_proj.weight", {8, 6}},
        {"i_proj.weight", {6, 6}},
        {"g_norm.weight", {6}, 0.3, 1},
        {"o_proj.weight", {6, 6}}},
       {{"num_heads", Index(2)}},
       {{"lower_bound", 8}}},
      {"linear_attention", "", 22, {}, {{"num_heads", Index(2)}, {"head_k_dim", Index(4)}, {"head_v_dim", Index(3)}}, {}},
      {"mlstm",
       "",
       5,
       {{"proj_up.weight", {16, 5}},
        {"conv1d.conv.weight", {8, 1, 3}},
        {"conv1d.conv.bias", {8}},
        {"q_proj.weight", {2, 4, 4}},
        {"k_proj.weight", {2, 4, 4}},
        {"v_proj.weight", {2, 4, 4}},
        {"q_proj.bias", {8}},
        {"mlstm_cell.igate.weight", {2, 24}},
        {"mlstm_cell.igate.bias", {2}},
        {"mlstm_cell.fgate.weight", {2, 24}},
        {"mlstm_cell.fgate.bias", {2}, 1, 2},
        {"mlstm_cell.outnorm.weight", {8}, 0.3},
        {"learnable_skip", {8}},
        {"proj_down.weight", {5, 8}}},
       {},
       {}},
      {"mlstm_large",
       "biases",
       6,
       {{"q.weight", {8, 6}},
        {"q.bias", {8}},
        {"k.weight", {8, 6}},
        {"v.weight", {6, 6}},
        {"v.bias", {6}},
        {"ogate_preact.weight", {6, 6}},
        {"ogate_preact.bias", {6}},
        {"igate_preact.weight", {2, 6}},
        {"igate_preact.bias", {2}, 1, -2},
        {"fgate_preact.weight", {2, 6}},
        {"fgate_preact.bias", {2}, 1, 2},
        {"multihead_norm.weight", {6}, 0.3, 1},
        {"multihead_norm.bias", {6}},
        {"out_proj.weight", {6, 6}},
        {"out_proj.bias", {6}}},
       {},
       {}},
      {"mamba3",
       "one input",
       5,
       with(mamba3, {{"in_proj.weight", {27, 5}}, {"B_bias", {2, 1, 4}}, {"C_bias", {2, 1, 4}}}),
       {{"rope_fraction", 0.5}},
       {}},
      {"mamba3",
       "two inputs, softplus",
       5,
       with(mamba3, {{"in_proj.weight", {35, 5}},
                     {"B_bias", {2, 2, 4}},
                     {"C_bias", {2, 2, 4}},
                     {"mimo_x", {2, 2, 3}},
                     {"mimo_z", {2, 2, 3}},
                     {"mimo_o", {2, 2, 3}}}),
       {{"rope_fraction", 0.5}, {"activation", std::string("softplus")}},
       {}},
      {"mlla",
       "",
       8,
       {{"in_proj.weight", {8, 8}},
        {"in_proj.bias", {8}},
        {"act_proj.weight", {8, 8}},
        {"act_proj.bias", {8}},
        {"out_proj.weight", {8, 8}},
        {"out_proj.bias", {8}},
        {"dwc.weight", {8, 1, 3, 3}},
        {"dwc.bias", {8}},
        {"attn.qk.weight", {16, 8}},
        {"attn.qk.bias", {16}},
        {"attn.lepe.weight", {8, 1, 3, 3}},
        {"attn.lepe.bias", {8}}},
       {{"num_heads", Index(2)}, {"input_resolution", std::vector<double>{2, 3}}},
       {},
       6},
      {"s4d",
       "",
       4,
       {{"kernel.log_dt", {4}, 0.5, -1},
        {"kernel.C", {4, 2, 2}},
        {"kernel.log_A_real", {4, 2}, 0.3, -0.5},
        {"kernel.A_imag", {4, 2}, 2},
        {"D", {4}},
        {"output_linear.0.weight", {8, 4, 1}, 0.5},
        {"output_linear.0.bias", {8}}},
       {},
       {}},
      {"hyena",
       "",
       4,
       {{"in_proj.weight", {12, 4}},
        {"in_proj.bias", {12}},
        {"short_filter.weight", {12, 1, 3}},
        {"short_filter.bias", {12}},
        {"out_proj.weight", {4, 4}},
        {"out_proj.bias", {4}},
        {"filter", {4, 9}},
        {"filter_bias", {4}}},
       {},
       {}},
      {"vim", "halved", 4, with(vim_one, vim_two), {{"if_divide_out", true}}, {}},
      {"lstm",
       "initial state",
       3,
       {{"weight_ih_l0", {16, 3}}, {"weight_hh_l0", {16, 4}}, {"bias_ih_l0", {16}}, {"bias_hh_l0", {16}}},
       {},
       {{"h0", 4}, {"c0", 4}}},
      {"gru",
       "initial state",
       3,
       {{"weight_ih_l0", {12, 3}}, {"weight_hh_l0", {12, 4}}, {"bias_ih_l0", {12}}, {"bias_hh_l0", {12}}},
       {},
       {{"h0", 4}}},
  };
}

// A layer of a recipe, and an input for it.
struct Layer {
  Recipe recipe;
  NamedTensors tensors;
  PartPointer<double> part;
  std::vector<std::pair<std::string, Numbers>> inputs;
  Draw draw;

  explicit Layer(Recipe from, std::uint64_t seed, const std::vector<Tensor>& changed = {}) : recipe(std::move(from)) {
    draw.engine.seed(seed);
    for (const Tensor& tensor : changed)
      for (Tensor& own : recipe.tensors)
        if (own.name == tensor.name) own = {own.name, own.shape, tensor.scale, tensor.mean};
    for (const Tensor& tensor : recipe.tensors) {
      Index rows = 1;
      for (std::size_t axis = 0; axis + 1 < tensor.shape.size(); ++axis) rows *= tensor.shape[axis];
      const Index columns = tensor.shape.back();
      const double scale = tensor.scale != 0 || tensor.mean != 0 ? tensor.scale : 1 / std::sqrt(static_cast<double>(columns));
      tensors.tensors[tensor.name] = {tensor.shape, draw(rows, columns, scale, tensor.mean)};
    }
    Configuration configuration("recipe");
    for (const auto& [key, value] : recipe.configuration) configuration.set(key, value);
    for (const LayerFamily<double>& family : layer_families<double>())
      if (family.name == recipe.family) part = family.read(PrefixedTensors<double>(tensors, ""), configuration);
    REQUIRE(part != nullptr);
    for (const auto& [name, width] : recipe.inputs)
      inputs.emplace_back(name, (draw(1, width).array() * 0.5 + 0.5).cwiseMax(0).cwiseMin(1).matrix());
  }

  struct Run {
    std::shared_ptr<Trace<double>> trace;
    Value<double> u, out;
    MixerRun<double> mixer;
  };
  [[nodiscard]] Run run(const Numbers& u, bool recorded = false) const {
    Run result;
    result.trace = std::make_shared<Trace<double>>(recorded);
    RunContext<double> context;
    for (const auto& [name, numbers] : inputs) context.share(name, result.trace->constant(numbers));
    result.u = result.trace->input(u);
    result.out = part->run(result.u, context);
    REQUIRE(context.mixers.size() == 1);
    result.mixer = context.mixers.front();
    return result;
  }
};

double largest(const Numbers& numbers) { return numbers.size() == 0 ? 0 : numbers.cwiseAbs().maxCoeff(); }

Numbers reconstructed(const ImplicitAttention<double>& attention, const Numbers& x) {
  Numbers y = attention.apply(x) + attention.bias() + attention.carry();
  if (attention.has_second()) y += attention.second().apply(*attention.second_input());
  return y;
}

// One channel's matrix from the factors of a form, as they stand in the formula, of the terms that are on.
Numbers dense(const UnifiedForm<double>& form, Index channel, Terms terms) {
  const Index tokens = form.tokens();
  Numbers matrix = Numbers::Identity(tokens, tokens);
  if (terms.has(Term::recurrence)) {
    UnifiedForm<double> bare;
    bare.recurrence = form.recurrence;
    Selection one;
    one.channels = std::vector<Index>{channel};
    matrix = ImplicitAttention<double>(bare).materialize(one).channel(0);
  }
  if (terms.has(Term::skip) && !form.skip.empty()) matrix.diagonal().array() += form.skip(0, channel);
  if (terms.has(Term::activation) && !form.activation.empty())
    for (Index token = 0; token < tokens; ++token) matrix.col(token) *= form.activation(token, channel);
  if (terms.has(Term::convolution) && !form.convolution.empty()) {
    Numbers band = Numbers::Zero(tokens, tokens);
    const Index width = form.convolution.cols();
    for (Index token = 0; token < tokens; ++token)
      for (Index tap = 0; tap < width; ++tap)
        if (token - width + 1 + tap >= 0) band(token, token - width + 1 + tap) = form.convolution(channel, tap);
    matrix = (matrix * band).eval();
  }
  for (Index token = 0; token < tokens; ++token) {
    if (terms.has(Term::gate) && !form.gate.empty()) matrix.row(token) *= form.gate(token, channel);
    if (terms.has(Term::normalization) && !form.normalization.empty()) matrix.row(token) *= form.normalization(token, channel);
  }
  if (form.reversed) matrix = matrix.reverse().eval();
  return matrix;
}

std::string title(const Recipe& recipe) { return recipe.family + " " + recipe.title; }

}  // namespace

TEST_CASE("what the layer gives is what its operator gives, and each ablation the product of its factors", "[zoo]") {
  for (const Recipe& recipe : recipes())
    for (const Index tokens : {recipe.tokens, Index(1)}) {
      if (tokens == 1 && recipe.family == "mlla") continue;  // its image has two rows
      INFO(title(recipe) << ", tokens " << tokens);
      Layer layer(recipe, 11);
      const Layer::Run run = layer.run(layer.draw(tokens, recipe.width));
      const ImplicitAttention<double> all = run.mixer.attention(Terms::all());
      const bool sees_all = tokens > 1 && (recipe.family == "vim" || recipe.family == "mlla");
      CHECK(all.causal() == !sees_all);
      if (tokens > 1) CHECK(layer.part->causal() == all.causal());
      CHECK(largest(reconstructed(all, *run.mixer.x) - *run.mixer.y) <= 1e-13 * (1 + largest(*run.mixer.y)));
      const Numbers g = layer.draw(tokens, all.channels());
      CHECK(std::abs(all.apply(*run.mixer.x).cwiseProduct(g).sum() - all.apply_transpose(g).cwiseProduct(*run.mixer.x).sum()) <= 1e-12);
      if (recipe.family == "mlla") continue;  // its terms stand in one explicit matrix: below
      std::vector<UnifiedForm<double>> summands = {all.form()};
      for (const UnifiedForm<double>& form : all.form().more) summands.push_back(form);
      for (const Terms terms :
           {Terms::all(), Terms::recurrence(), Terms::published(), Terms::all().without(Term::recurrence), Terms::all().without(Term::gate),
            Terms::all().without(Term::activation), Terms::all().without(Term::convolution), Terms::all().without(Term::normalization),
            Terms::all().without(Term::skip)}) {
        if (!terms.has(Term::recurrence) && summands.size() > 2) continue;  // several ranks: the identity stands for all of them
        INFO("terms " << terms.text());
        const ImplicitAttention<double> ablated = run.mixer.attention(terms);
        const AttentionMatrix<double> matrices = ablated.materialize();
        for (Index channel = 0; channel < all.channels(); ++channel) {
          Numbers expected = Numbers::Zero(tokens, tokens);
          for (const UnifiedForm<double>& form : summands) expected += dense(form, channel, terms);
          CHECK(largest(matrices.channel(channel) - expected) <= 1e-13 * (1 + largest(expected)));
        }
        if (!terms.has(Term::bias)) CHECK(largest(ablated.bias()) == 0);
        CHECK(ablated.has_second() == (recipe.family == "mlstm" && terms.has(Term::skip)));
      }
    }
}

TEST_CASE("MLLA's matrices are the products of its parts, found by running the layer's own steps on unit vectors", "[zoo]") {
  for (const Recipe& recipe : recipes()) {
    if (recipe.family != "mlla") continue;
    Layer layer(recipe, 5);
    const Layer::Run run = layer.run(layer.draw(recipe.tokens, recipe.width));
    const Index rows = 2, columns = 3, tokens = 6;
    const auto convolution = [&](const std::string& name, Index channel) {  // a double loop over the image
      Numbers matrix = Numbers::Zero(tokens, tokens);
      const Array<double>& weight = layer.tensors.tensors.at(name).second;
      for (Index to = 0; to < tokens; ++to)
        for (Index from = 0; from < tokens; ++from) {
          const Index dr = from / columns - to / columns + 1, dc = from % columns - to % columns + 1;
          if (dr >= 0 && dr < 3 && dc >= 0 && dc < 3) matrix(to, from) = weight(channel * 3 + dr, dc);
        }
      return matrix;
    };
    static_cast<void>(rows);
    const Layer::Run& r = run;
    const auto& act = *static_cast<const Mlla<double>::Activations*>(r.mixer.activations.get());
    const ImplicitAttention<double> bare = r.mixer.attention(Terms::recurrence());
    REQUIRE(bare.heads() == 2);
    for (const Terms terms :
         {Terms::all(), Terms::published(), Terms::all().without(Term::skip), Terms::all().without(Term::convolution),
          Terms::all().without(Term::activation), Terms::all().without(Term::normalization), Terms::all().without(Term::recurrence)}) {
      INFO("terms " << terms.text());
      const AttentionMatrix<double> matrices = r.mixer.attention(terms).materialize();
      for (Index channel = 0; channel < 8; ++channel) {
        Numbers expected =
            terms.has(Term::recurrence) ? Numbers(bare.materialize().channel(channel)) : Numbers(Numbers::Identity(tokens, tokens));
        if (terms.has(Term::normalization)) expected.array().colwise() *= act.normalizer.matrix().col(channel / 4).array();
        if (terms.has(Term::skip)) expected += convolution("attn.lepe.weight", channel);
        if (terms.has(Term::activation))
          for (Index token = 0; token < tokens; ++token) expected.col(token) *= 1 / (1 + std::exp(-act.c(token, channel)));
        if (terms.has(Term::convolution)) expected = (expected * convolution("dwc.weight", channel)).eval();
        if (terms.has(Term::gate))
          for (Index token = 0; token < tokens; ++token)
            expected.row(token) *= act.gate_input(token, channel) / (1 + std::exp(-act.gate_input(token, channel)));
        CHECK(largest(matrices.channel(channel) - expected) <= 1e-13 * (1 + largest(expected)));
      }
    }
  }
}

TEST_CASE("gradients are finite differences, through y and through the linear input", "[zoo]") {
  for (const Recipe& recipe : recipes()) {
    INFO(title(recipe));
    Layer layer(recipe, 23);
    const Numbers u = layer.draw(recipe.tokens, recipe.width);
    const Layer::Run run = layer.run(u, true);
    const Numbers g = layer.draw(recipe.tokens, run.out.cols());
    const WalkResult<double> walked = run.trace->walk_back(WayBack::gradient, {{run.out, g}}, {run.u, run.mixer.y, run.mixer.x});
    CHECK(largest(walked.gradients[1]) > 0);
    CHECK(largest(walked.gradients[2]) > 0);
    // Fourth-order central differences in random directions; the step is small, since maxima and magnitudes have kinks.
    for (int direction = 0; direction < 3; ++direction) {
      const Numbers d = layer.draw(recipe.tokens, recipe.width);
      const auto f = [&](double t) { return (*layer.run(u + t * d).out).cwiseProduct(g).sum(); };
      const double h = 1e-4, numeric = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
      CHECK(walked.gradients[0].cwiseProduct(d).sum() ==
            Approx(numeric).epsilon(1e-7).margin(1e-8 * walked.gradients[0].norm() * d.norm()));
    }
  }
}

TEST_CASE("relevance conserves and treats every operation, and the held operator is the transposed one", "[zoo]") {
  for (const Recipe& recipe : recipes()) {
    INFO(title(recipe));
    Layer layer(recipe, 37);
    const Numbers u = layer.draw(recipe.tokens, recipe.width);
    const Layer::Run run = layer.run(u, true);
    const Numbers g = layer.draw(recipe.tokens, run.out.cols()), gy = layer.draw(recipe.tokens, run.mixer.y.cols());
    for (const WayBack way : {WayBack::relevance, WayBack::attention}) {
      const WalkResult<double> walked = run.trace->walk_back(way, {{run.out, g}}, {run.u});
      for (const std::string& operation : walked.untreated) FAIL_CHECK("relevance has no rule for " << operation);
      const double explained = (*run.out).cwiseProduct(g).sum();
      CHECK(walked.gradients[0].cwiseProduct(u).sum() + walked.bias_share == Approx(explained).epsilon(1e-10).margin(1e-10));
    }
    // The way of the layer's own operator: A^T, by the operator and by the record.
    const ImplicitAttention<double> attention = run.mixer.attention(Terms::all());
    const WalkResult<double> held = run.trace->walk_back(WayBack::attention, {{run.mixer.y, gy}}, {run.mixer.x});
    if (recipe.family == "hyena") continue;  // x1 is a factor that takes half, not a scale
    CHECK(largest(held.gradients[0] - attention.apply_transpose(gy)) <= 1e-12 * (1 + largest(held.gradients[0])));
  }
}

namespace {

// The layer on a whole sequence, and in pieces that hand on their state.
template <class Type>
void check_pieces(const Recipe& recipe) {
  INFO(title(recipe));
  const Layer layer(recipe, 41);
  Draw draw;
  draw.engine.seed(43);
  const Type* typed = layer.part->template as<Type>();
  REQUIRE(typed != nullptr);
  const Numbers u = draw(recipe.tokens, recipe.width);
  const bool has_state_inputs = recipe.family == "lstm" || recipe.family == "gru";
  const auto run = [&](const Numbers& piece, const typename Type::State* state) {
    Trace<double> trace;
    RunContext<double> context;
    if (!has_state_inputs || state == nullptr)
      for (const auto& [name, numbers] : layer.inputs) context.share(name, trace.constant(numbers));
    return typed->run(trace.input(piece), context, state).activations;
  };
  const auto whole = run(u, nullptr);
  typename Type::State state;
  Index at = 0;
  for (const Index count : {Index(3), Index(1), recipe.tokens - 4}) {
    const auto piece = run(u.middleRows(at, count), at == 0 ? nullptr : &state);
    INFO("tokens " << at << " to " << at + count - 1);
    CHECK(largest(*piece.y - (*whole.y).middleRows(at, count)) <= 1e-12 * (1 + largest(*whole.y)));
    CHECK(largest(reconstructed(implicit_attention_of(*typed, piece), *piece.x) - *piece.y) <= 1e-12 * (1 + largest(*whole.y)));
    state = piece.final;
    at += count;
  }
}

}  // namespace

TEST_CASE("a sequence in pieces is the whole one", "[zoo]") {
  for (const Recipe& recipe : recipes()) {
    if (recipe.family == "retnet") check_pieces<RetNet<double>>(recipe);
    if (recipe.family == "gla") check_pieces<Gla<double>>(recipe);
    if (recipe.family == "hgrn") check_pieces<Hgrn<double>>(recipe);
    if (recipe.family == "hgrn2") check_pieces<Hgrn2<double>>(recipe);
    if (recipe.family == "linear_attention") check_pieces<LinearAttention<double>>(recipe);
    if (recipe.family == "mlstm") check_pieces<Mlstm<double>>(recipe);
    if (recipe.family == "mlstm_large") check_pieces<MlstmLarge<double>>(recipe);
    if (recipe.family == "mamba3") check_pieces<Mamba3<double>>(recipe);
    if (recipe.family == "lstm") check_pieces<Lstm<double>>(recipe);
    if (recipe.family == "gru") check_pieces<Gru<double>>(recipe);
  }
}

TEST_CASE("extreme decays and gates leave finite numbers, and the operator is still the layer", "[zoo]") {
  const std::vector<std::pair<std::string, std::vector<Tensor>>> extremes = {
      {"retnet", {{"g_proj.weight", {}, 0, 1e-300}}},  // gates of 0, or nearly
      {"gla", {{"gk_proj.1.bias", {}, 0, -1e5}}},      // decay 0
      {"gla", {{"gk_proj.1.bias", {}, 0, 1e5}}},       // decay 1
      {"hgrn", {{"f_proj.weight", {}, 1e4, 0}}},       // forget gates of 0 and 1
      {"hgrn2", {{"f_proj.weight", {}, 1e4, 0}}},
      {"mlstm", {{"mlstm_cell.fgate.bias", {}, 0, -1e4}}},  // decay 0
      {"mlstm", {{"mlstm_cell.fgate.bias", {}, 0, 1e4}, {"mlstm_cell.igate.bias", {}, 0, 300}}},
      {"mlstm", {{"mlstm_cell.igate.weight", {}, 300, 0}}},
      {"mlstm_large", {{"fgate_preact.bias", {}, 0, -1e4}, {"igate_preact.bias", {}, 0, 1e4}}},
      {"mamba3", {{"dt_bias", {}, 0, 700}}},     // decay 0
      {"mamba3", {{"dt_bias", {}, 0, -700}}},    // decay 1, steps of 0
      {"s4d", {{"kernel.log_dt", {}, 0, -16}}},  // dt 1e-7
      {"s4d", {{"kernel.log_dt", {}, 0, 5}}},
      {"hyena", {{"in_proj.weight", {}, 0, 1e-300}}},
      {"vim", {{"A_log", {}, 0, 20}, {"A_b_log", {}, 0, -20}}},
      {"lstm", {{"weight_ih_l0", {}, 1e3, 0}}},
      {"gru", {{"weight_ih_l0", {}, 1e3, 0}}},
  };
  for (const auto& [family, changed] : extremes)
    for (const Recipe& recipe : recipes()) {
      if (recipe.family != family) continue;
      INFO(title(recipe) << ", " << changed.front().name << " around " << changed.front().mean);
      Layer layer(recipe, 53, changed);
      const Layer::Run run = layer.run(layer.draw(recipe.tokens, recipe.width), true);
      REQUIRE((*run.mixer.y).allFinite());
      CHECK(largest(reconstructed(run.mixer.attention(Terms::all()), *run.mixer.x) - *run.mixer.y) <= 1e-12 * (1 + largest(*run.mixer.y)));
      for (const WayBack way : {WayBack::gradient, WayBack::relevance})
        CHECK(run.trace->walk_back(way, {{run.out, layer.draw(recipe.tokens, run.out.cols())}}, {run.u}).gradients[0].allFinite());
    }
}

TEST_CASE("attribution asks whether a model is causal: one with a layer of two directions is explained by later tokens, too", "[zoo]") {
  for (const Recipe& recipe : recipes()) {
    if (recipe.family != "vim") continue;
    Layer layer(recipe, 61);
    LanguageModelParts<double> parts;
    parts.name = "two directions";
    parts.embedding = layer.draw(9, 4);
    parts.head = layer.draw(9, 4);
    // An eps that is large beside the embeddings: the path from a baseline of zero is smooth.
    parts.final_norm = Norm<double>::rms(4, 0.1);
    parts.blocks.push_back({{{Norm<double>::rms(4, 0.1), layer.part}}});
    const LanguageModel<double> model(parts);
    CHECK_FALSE(model.causal());
    const std::vector<Index> ids = {3, 1, 4, 1, 5, 8};
    const Target target{2, 7, {}};
    Explainer<double> explainer(model, ids);
    MethodOptions<double> options;
    const Attribution<double> path = explainer.explain(Method::integrated_gradients, target, options);
    CHECK(path.scores.size() == 6);
    CHECK(std::abs(path.scores[5]) > 1e-6);
    CHECK(path.scores.sum() == Approx(path.explained - path.baseline).epsilon(options.integration_tolerance));
    options.removal = Removal::drop;
    const Attribution<double> dropped = explainer.explain(Method::leave_one_out, target, options);
    const AttributionMatrix<double> each = explainer.explain_each(Method::leave_one_out, {target, {5, 7, {}}}, options);
    for (const Index token : {Index(1), Index(4)}) {
      std::vector<Index> rest = ids;
      rest.erase(rest.begin() + token);
      const double without = model.forward(rest, test_support::every_logit()).logits_at(token <= 2 ? 1 : 2)(0, 7);
      CHECK(dropped.scores[token] == Approx(explainer.value(target) - without));
      CHECK(each.scores(0, token) == Approx(dropped.scores[token]));
    }
    CHECK(explainer.explain(Method::random, target).scores.minCoeff() > 0);
    CHECK(explainer.explain(Method::raw, target).scores[5] != 0);
  }
}
