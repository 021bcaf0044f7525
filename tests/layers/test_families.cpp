// Laws of every family of layers in models/families.hpp, with random weights: what the layer gives is what its operator gives, every
// ablation is the dense product of its factors, gradients are finite differences, relevance conserves, a sequence in pieces is the whole
// one; at extreme decays, gates of 0 and a single token, too.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/layer_recipes.hpp>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/families.hpp>
#include <implicit_attention/trace/walk_back.hpp>

namespace {

using namespace implicit_attention;
using test_support::configuration_of;
using test_support::Draw;
using test_support::DrawnLayer;
using test_support::Recipe;
using test_support::recipes;
using test_support::TensorRecipe;
using test_support::Tensors;
using Numbers = Matrix<double>;

double largest(const Numbers& numbers) { return numbers.size() == 0 ? 0 : numbers.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(); }

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

TEST_CASE("every family of layers has a layer here", "[families]") {
  const std::vector<Recipe> all = recipes();
  for (const LayerFamily<double>& family : layer_families<double>()) {
    INFO(family.name << " has no recipe in tests/support/layer_recipes.hpp");
    CHECK(std::any_of(all.begin(), all.end(), [&](const Recipe& recipe) { return recipe.family == family.name; }));
  }
}

TEST_CASE("a layer is not read with the configuration of a model that has none of its kind", "[families]") {
  const auto family = [](std::string_view name) -> const LayerFamily<double>& {
    const std::vector<LayerFamily<double>>& all = layer_families<double>();
    return *std::find_if(all.begin(), all.end(), [&](const LayerFamily<double>& one) { return one.name == name; });
  };
  const auto error = [&](std::string_view name, std::vector<std::pair<std::string, Configuration::Value>> keys) {
    Configuration configuration("config.json");
    for (auto& [key, value] : keys) configuration.set(key, std::move(value));
    try {
      detail::expect_layer_type(family(name), configuration);
    } catch (const Error& refused) {
      return std::string(refused.what());
    }
    return std::string("no error");
  };
  using Classes = std::vector<std::string>;
  for (const char* type : {"rwkv7", "mamba", "llama", "nonsense", ""})
    CHECK(error("mamba2", {{"model_type", std::string(type)}}) ==
          detail::message("config.json: key model_type is ", type,
                          ", expected one of mamba2, bamba, falcon_h1, granitemoehybrid, nemotron_h, zamba2: the layer is read as Mamba-2; "
                          "leave the key out if it is one"));
  CHECK_THAT(error("mamba2", {{"architectures", Classes{"MambaForCausalLM"}}}),
             contains_text("key architectures is MambaForCausalLM, expected one of mamba2, "));
  CHECK_THAT(error("gdn", {{"text_config.model_type", std::string("lfm2")}}),
             contains_text("key text_config.model_type is lfm2, expected"));
  // Of layers without models a type that is nobody's only describes.
  CHECK_THAT(error("s4d", {{"model_type", std::string("rwkv7")}}),
             contains_text("key model_type is rwkv7, expected no type of another layer than S4D"));
  CHECK(error("s4d", {{"model_type", std::string("nonsense")}}) == "no error");
  // With a type the class is not looked at, as of whole models; a class that is unknown says nothing.
  CHECK(error("mamba2", {{"model_type", std::string("bamba")}, {"architectures", Classes{"MambaForCausalLM"}}}) == "no error");
  CHECK(error("mamba2", {{"architectures", Classes{"SomethingForCausalLM"}}}) == "no error");
  CHECK(error("gdn", {{"model_type", std::string("a_picture_model")}, {"text_config.model_type", std::string("qwen3_5_text")}}) ==
        "no error");
  // Every model's layers are those of a family.
  for (const ModelFamily<double>& model : model_families<double>()) {
    INFO(model.name);
    CHECK(std::any_of(layer_families<double>().begin(), layer_families<double>().end(), [&](const LayerFamily<double>& one) {
      return error(one.name, {{"model_type", std::string(model.name)}}) == "no error" &&
             error(one.name, {{"architectures", Classes{std::string(model.architecture)}}}) == "no error";
    }));
  }
}

namespace {

// A layer out of these tensors and this configuration, as a program reads it: every tensor used, every key understood.
PartPointer<double> read_layer(const std::string& name, const Tensors<double>& tensors, const Configuration& configuration) {
  for (const LayerFamily<double>& family : layer_families<double>()) {
    if (family.name != name) continue;
    detail::expect_layer_type(family, configuration);
    PartPointer<double> part = family.read(PrefixedTensors<double>(tensors, ""), configuration);
    detail::expect_layer_width(configuration, part->width());
    detail::expect_layer_understood(configuration, family.title);
    return part;
  }
  FAIL("no family " << name);
  return nullptr;
}

// The recipe of a family whose title begins so.
Recipe recipe_of(const std::string& family, const std::string& begin) {
  for (const Recipe& recipe : recipes())
    if (recipe.family == family && recipe.title.rfind(begin, 0) == 0) return recipe;
  FAIL("no recipe " << family << " " << begin);
  return {};
}

using Keys = std::vector<std::pair<std::string, Configuration::Value>>;
Configuration configured(const Keys& keys) {
  Configuration configuration("case");
  for (const auto& [key, value] : keys) configuration.set(key, value);
  return configuration;
}

// What flash-linear-attention's configurations say of every model.
Keys with_models_keys(Keys keys) {
  for (const auto& [key, value] : Keys{{"attn_mode", std::string("chunk")},
                                       {"fuse_norm", true},
                                       {"fuse_swiglu", true},
                                       {"fuse_cross_entropy", true},
                                       {"use_l2warp", true},
                                       {"hidden_ratio", Index(4)},
                                       {"num_hidden_layers", Index(24)},
                                       {"hidden_act", std::string("swish")},
                                       {"max_position_embeddings", Index(2048)},
                                       {"norm_eps", 1e-5}})
    keys.emplace_back(key, value);
  return keys;
}

}  // namespace

TEST_CASE("a layer by itself is not read with another model's width, unless the key means something else there", "[families]") {
  for (const char* family : {"mamba2", "mamba", "rwkv4", "rwkv5", "rwkv6", "rwkv7", "gdn", "kda", "lfm2"}) {
    INFO(family);
    const Recipe recipe = recipe_of(family, "");
    Draw draw(3);
    const Tensors<double> tensors = test_support::drawn_tensors(recipe, draw);
    const PartPointer<double> layer = read_layer(family, tensors, configured(recipe.configuration));
    Keys keys = recipe.configuration;
    keys.emplace_back("hidden_size", layer->width());
    CHECK_NOTHROW(read_layer(family, tensors, configured(keys)));
    keys.back().second = layer->width() + 1;
    CHECK_THROWS_WITH(read_layer(family, tensors, configured(keys)),
                      contains_text(detail::message("key hidden_size is ", layer->width() + 1, ", expected ", layer->width())));
    keys.emplace_back("text_config.hidden_size", layer->width());
    CHECK_NOTHROW(read_layer(family, tensors, configured(keys)));
  }
}

TEST_CASE("configurations of the public layers are taken as they are, and change nothing that the weights tell", "[families]") {
  struct Case {
    std::string family, title;
    Keys public_keys;
  };
  const std::vector<Case> cases = {
      {"gla", "grouped, convolutions",
       with_models_keys({{"model_type", std::string("gla")},
                         {"hidden_size", Index(6)},
                         {"num_heads", Index(2)},
                         {"num_kv_heads", Index(1)},
                         {"use_short_conv", true},
                         {"conv_size", Index(3)},
                         {"use_output_gate", true},
                         {"elementwise_affine", true},
                         {"use_gk", true}})},
      {"retnet", "grouped, convolutions",
       with_models_keys({{"model_type", std::string("retnet")}, {"num_heads", Index(2)}, {"num_kv_heads", Index(1)}})},
      {"hgrn", "bound, convolutions",
       with_models_keys({{"model_type", std::string("hgrn")}, {"expand_ratio", Index(1)}, {"use_lower_bound", true}})},
      // Released HGRN2 configurations have num_heads null.
      {"hgrn2", "bound", with_models_keys({{"model_type", std::string("hgrn2")}, {"expand_ratio", Index(4)}, {"use_lower_bound", true}})},
      {"deltanet", "",
       with_models_keys({{"model_type", std::string("delta_net")},
                         {"num_heads", Index(2)},
                         {"use_beta", true},
                         {"use_output_norm", true},
                         {"qk_norm", std::string("l2")},
                         {"qk_activation", std::string("silu")}})},
      {"gdn", "biases",
       with_models_keys({{"model_type", std::string("gated_deltanet")},
                         {"head_dim", Index(4)},
                         {"expand_v", 1.25},
                         {"num_heads", Index(3)},
                         {"use_gate", true},
                         {"conv_bias", true}})},
      {"kda", "lower bound",
       with_models_keys({{"model_type", std::string("kda")},
                         {"head_dim", Index(8)},
                         {"num_heads", Index(2)},
                         {"safe_gate", true},
                         {"lower_bound", -5.0}})},
      // One layer of a whole model, by the configuration in its folder.
      {"mamba",
       "",
       {{"d_model", Index(8)},
        {"n_layer", Index(24)},
        {"vocab_size", Index(50277)},
        {"ssm_cfg.layer", std::string("Mamba1")},
        {"rms_norm", true},
        {"residual_in_fp32", true},
        {"fused_add_norm", true},
        {"pad_vocab_size_multiple", Index(8)}}},
      {"mamba2",
       "norm before the gate",
       {{"d_model", Index(8)},
        {"n_layer", Index(24)},
        {"d_intermediate", Index(0)},
        {"ssm_cfg.layer", std::string("Mamba2")},
        {"ssm_cfg.norm_before_gate", true},
        {"rms_norm", true},
        {"residual_in_fp32", true},
        {"tie_embeddings", true}}},
      {"rwkv4",
       "",
       {{"model_type", std::string("rwkv")},
        {"hidden_size", Index(16)},
        {"attention_hidden_size", Index(16)},
        {"intermediate_size", Index(64)},
        {"context_length", Index(1024)},
        {"layer_norm_epsilon", 1e-5},
        {"num_hidden_layers", Index(12)},
        {"rescale_every", Index(6)}}},
      {"griffin",
       "",
       {{"model_type", std::string("recurrent_gemma")},
        {"hidden_size", Index(16)},
        {"lru_width", Index(16)},
        {"conv1d_width", Index(4)},
        {"block_types", std::vector<std::string>{"recurrent", "recurrent", "attention"}},
        {"num_attention_heads", Index(2)},
        {"num_key_value_heads", Index(1)},
        {"head_dim", Index(8)},
        {"attention_window_size", Index(2048)},
        {"attention_bias", false},
        {"embeddings_scale_by_sqrt_dim", true},
        {"hidden_activation", std::string("gelu_pytorch_tanh")},
        {"logits_soft_cap", 30.0},
        {"partial_rotary_factor", 0.5},
        {"rope_theta", 10000.0},
        {"rms_norm_eps", 1e-6}}},
      // The authors' names; their rank of several inputs says nothing where there is one.
      {"mamba3",
       "one input",
       {{"d_model", Index(5)},
        {"d_state", Index(4)},
        {"headdim", Index(3)},
        {"ngroups", Index(1)},
        {"rope_fraction", 0.5},
        {"A_floor", 1e-4},
        {"dt_min", 0.001},
        {"dt_max", 0.1},
        {"dt_init_floor", 1e-4},
        {"is_outproj_norm", true},
        {"is_mimo", false},
        {"mimo_rank", Index(4)},
        {"chunk_size", Index(64)}}},
      {"mamba3", "two inputs, softplus",
       with_models_keys({{"model_type", std::string("mamba3")},
                         {"state_size", Index(4)},
                         {"head_dim", Index(3)},
                         {"num_heads", Index(2)},
                         {"n_groups", Index(1)},
                         {"is_outproj_norm", true},
                         {"is_mimo", true},
                         {"mimo_rank", Index(2)}})},
      // Every key of the released 7B model (NX-AI/xLSTM-7b, checked against a public copy of its config.json), and beside them those of its
      // first revision (forward_backend_name, step_backend_name) and of transformers' own class.
      {"mlstm_large",
       "biases",
       {{"model_type", std::string("xlstm")},
        {"architectures", std::vector<std::string>{"xLSTMForCausalLM"}},
        {"add_embedding_dropout", false},
        {"add_forward_backend_padding", false},
        {"add_post_blocks_norm", true},
        {"add_post_norm", false},
        {"bos_token_id", Index(0)},
        {"eos_token_id", Index(2)},
        {"pad_token_id", Index(1)},
        {"chunk_size", Index(64)},
        {"embedding_dim", Index(6)},
        {"hidden_size", Index(6)},
        {"force_bos_token_insert", true},
        {"igate_bias_init_range", -10.0},
        {"num_blocks", Index(32)},
        {"num_hidden_layers", Index(32)},
        {"step_backend_name", std::string("triton")},
        {"tie_word_embeddings", false},
        {"torch_dtype", std::string("float32")},
        {"transformers_version", std::string("4.48.0.dev0")},
        {"use_bias", true},
        {"use_cache", true},
        {"vocab_size", Index(50304)},
        {"num_heads", Index(2)},
        {"v_dim_factor", 1.0},
        {"qk_dim_factor", 1.0},
        {"mlstm_round_up_to_multiple_of", Index(8)},
        {"head_dim", Index(3)},
        {"cell_norm_eps", 1e-6},
        {"add_qk_norm", false},
        {"forward_backend_name", std::string("chunkwise--triton_limit_chunk")},
        {"mode", std::string("inference")},
        {"chunkwise_kernel", std::string("chunkwise--native_autograd")},
        {"sequence_kernel", std::string("native_sequence__native")},
        {"step_kernel", std::string("native")},
        {"weight_mode", std::string("single")},
        {"return_last_states", true},
        {"autocast_kernel_dtype", std::string("bfloat16")},
        {"inference_state_dtype", std::string("float32")},
        {"norm_reduction_force_float32", true},
        {"add_out_norm", true},
        {"ffn_proj_factor", 2.667},
        {"ffn_round_up_to_multiple_of", Index(64)},
        {"output_logit_soft_cap", 30.0},
        {"max_inference_chunksize", Index(16384)},
        {"gate_soft_cap", 15.0},
        {"eps", 1e-6},
        {"norm_eps", 1e-6}}},
  };
  for (const Case& one : cases) {
    DrawnLayer drawn(recipe_of(one.family, one.title), 11);
    INFO(one.family << " " << one.title);
    const Numbers u = drawn.draw.normals<double>(drawn.recipe.tokens, drawn.recipe.width);
    const Numbers expected = *drawn.run(u).out;
    drawn.part = read_layer(one.family, drawn.tensors, configured(one.public_keys));
    CHECK((*drawn.run(u).out - expected).isZero(0));
  }
}

TEST_CASE("heads that no shape tells must be said, and what public layers always have must be there", "[families]") {
  for (const auto& [family, title] : {std::pair("retnet_parallel", ""),
                                      {"retnet", "grouped"},
                                      {"gla", "grouped"},
                                      {"hgrn2", "bound"},
                                      {"linear_attention", ""},
                                      {"mlla", ""}}) {
    const Recipe recipe = recipe_of(family, title);
    Draw draw(3);
    const Tensors<double> tensors = test_support::drawn_tensors(recipe, draw);
    Keys keys = recipe.configuration;
    keys.erase(std::remove_if(keys.begin(), keys.end(), [](const auto& key) { return key.first == "num_heads"; }), keys.end());
    INFO(family);
    CHECK_NOTHROW(read_layer(family, tensors, configured(recipe.configuration)));
    CHECK_THROWS_WITH(read_layer(family, tensors, configured(keys)), contains_text("key num_heads is missing"));
  }
  const Recipe hgrn2 = recipe_of("hgrn2", "bound");
  Draw draw(4);
  const Tensors<double> tensors = test_support::drawn_tensors(hgrn2, draw);
  CHECK_THROWS_WITH(read_layer("hgrn2", tensors, configured({{"expand_ratio", Index(3)}})), contains_text("expand_ratio is 3"));
  // Beside expand_ratio num_heads says nothing: the public code sets it anew.
  for (const auto& [ratio, heads] : {std::pair(Index(8), Index(1)), {Index(4), Index(2)}}) {
    const PartPointer<double> part = read_layer("hgrn2", tensors, configured({{"expand_ratio", ratio}, {"num_heads", Index(2)}}));
    REQUIRE(part->as<Hgrn2<double>>() != nullptr);
    CHECK(part->as<Hgrn2<double>>()->heads() == heads);
  }

  for (const auto& [family, title, lost] : {std::tuple("retnet", "grouped", "g_proj.weight"),
                                            {"retnet_parallel", "", "g_proj.weight"},
                                            {"gla", "grouped", "g_proj.weight"},
                                            {"gla", "grouped", "gk_proj.1.bias"},
                                            {"gla", "grouped", "k_conv1d.bias"},
                                            {"retnet", "grouped", "k_conv1d.weight"},
                                            {"hgrn", "bound", "g_proj.weight"},
                                            {"hgrn", "bound", "f_conv1d.weight"},
                                            {"gdn", "biases", "b_proj.weight"},
                                            {"gdn", "biases", "g_proj.weight"},
                                            {"gdn", "biases", "v_conv1d.weight"},
                                            {"gdn", "biases", "dt_bias"},
                                            {"kda", "lower bound", "v_conv1d.weight"},
                                            {"gdn", "biases", "q_conv1d.bias"},
                                            {"lfm2", "biases", "conv.bias"},
                                            {"lfm2", "biases", "in_proj.bias"},
                                            {"mlstm_large", "biases", "igate_preact.bias"},
                                            {"mlstm_large", "biases", "fgate_preact.bias"},
                                            {"mlla", "", "dwc.bias"},
                                            {"mlla", "", "attn.lepe.bias"},
                                            {"s4d", "", "output_linear.0.bias"},
                                            {"hyena", "", "short_filter.bias"},
                                            {"hyena", "", "out_proj.bias"},
                                            {"vim", "halved", "dt_proj_b.bias"},
                                            {"vim", "halved", "conv1d.bias"},
                                            {"lstm", "initial", "bias_ih_l0"},
                                            {"gru", "initial", "bias_hh_l0"}}) {
    const Recipe recipe = recipe_of(family, title);
    Tensors<double> without = test_support::drawn_tensors(recipe, draw);
    INFO(family << " without " << lost);
    CHECK_NOTHROW(read_layer(family, without, configuration_of(recipe)));
    REQUIRE(without.tensors.erase(lost) == 1);
    CHECK_THROWS_WITH(read_layer(family, without, configuration_of(recipe)), contains_text(std::string(lost) + " is missing"));
  }
  // What a key leaves out names the key: where it is not there as what could, else as what contradicts the tensors.
  struct LostBranch {
    const char *family, *title, *lost, *key;
  };
  const std::vector<LostBranch> branches{
      {"retnet", "grouped", "g_proj.weight", "use_output_gate"}, {"gla", "grouped", "g_proj.weight", "use_output_gate"},
      {"hgrn", "bound", "g_proj.weight", "use_output_gate"},     {"gdn", "biases", "g_proj.weight", "use_gate"},
      {"gdn", "biases", "v_conv1d.weight", "use_short_conv"},    {"kda", "lower bound", "v_conv1d.weight", "use_short_conv"}};
  for (const LostBranch& branch : branches) {
    const Recipe recipe = recipe_of(branch.family, branch.title);
    const Tensors<double> drawn = test_support::drawn_tensors(recipe, draw);
    Tensors<double> without;
    for (const auto& [name, tensor] : drawn.tensors) {
      const bool convolution = std::string_view(branch.key) == "use_short_conv" && name.find("_conv1d") != std::string::npos;
      if (name != branch.lost && !convolution) without.tensors[detail::message("layers.3.attn.", name)] = tensor;
    }
    INFO(branch.family << " without " << branch.lost);
    const auto read = [&](std::optional<bool> value) {
      Configuration configuration;
      for (const auto& [name, known] : recipe.configuration)
        if (name != branch.key) configuration.set(name, known);
      if (value) configuration.set(branch.key, *value);
      for (const LayerFamily<double>& one : layer_families<double>())
        if (one.name == branch.family) static_cast<void>(one.read(PrefixedTensors<double>(without, "layers.3.attn."), configuration));
    };
    CHECK_NOTHROW(read(false));
    CHECK_THROWS_WITH(read(true), contains_text(detail::message("key ", branch.key, " is true, expected false")));
    CHECK_THROWS_WITH(read(std::nullopt),
                      contains_text(detail::message("a layer without it has ", branch.key, " false in its configuration")));
    const std::string tensor = std::string_view(branch.key) == "use_short_conv" ? "q_conv1d.weight" : branch.lost;
    CHECK_THROWS_WITH(read(std::nullopt), contains_text(detail::message("tensor layers.3.attn.", tensor, " is missing")));
    if (tensor == branch.lost)
      CHECK_THROWS_WITH(read(true), contains_text(detail::message("tensor layers.3.attn.", tensor, " is missing")));
  }
  Tensors<double> kimi = test_support::drawn_tensors(recipe_of("kda", "lower bound"), draw);
  for (const char* form : {"g_proj.weight", "g_a_proj.weight", "g_b_proj.weight", "g_proj.0.weight", "g_proj.1.weight", "g_proj.1.bias"})
    kimi.tensors.erase(form);
  CHECK_THROWS_WITH(read_layer("kda", kimi, configuration_of(recipe_of("kda", "lower bound"))),
                    contains_text("tensor g_a_proj.weight is missing, and so are its other forms, g_proj.weight and g_proj.0.weight"));
  // A gate that the configuration leaves out is none lost.
  CHECK_NOTHROW(read_layer("retnet", test_support::drawn_tensors(recipe_of("retnet", "no gate"), draw),
                           configuration_of(recipe_of("retnet", "no gate"))));
  const Recipe kda = recipe_of("kda", "lower bound");
  CHECK_THROWS_WITH(read_layer("kda", test_support::drawn_tensors(kda, draw), configured({{"safe_gate", true}})),
                    contains_text("safe_gate is true without a lower_bound"));
  CHECK_THROWS_WITH(read_layer("mamba", test_support::drawn_tensors(recipe_of("mamba", ""), draw),
                               configured({{"ssm_cfg.layer", std::string("Mamba2")}})),
                    contains_text("key ssm_cfg.layer is Mamba2, expected Mamba1"));
  for (const auto& [family, key] : {std::pair("griffin", "lru_width"), {"griffin", "conv1d_width"}, {"rwkv4", "attention_hidden_size"}})
    CHECK_THROWS_WITH(read_layer(family, test_support::drawn_tensors(recipe_of(family, ""), draw), configured({{key, Index(5)}})),
                      contains_text(std::string("key ") + key + " is 5, expected"));
  const Recipe large = recipe_of("mlstm_large", "biases");
  CHECK_THROWS_WITH(read_layer("mlstm_large", test_support::drawn_tensors(large, draw), configured({{"qk_dim_factor", 2.0}})),
                    contains_text("key qk_dim_factor is 2"));
  CHECK_THROWS_WITH(read_layer("mlstm_large", test_support::drawn_tensors(large, draw), configured({{"add_qk_norm", true}})),
                    contains_text("key add_qk_norm is not understood"));
  CHECK_THROWS_WITH(
      read_layer("mlstm_large", test_support::drawn_tensors(large, draw), configured({{"cell_norm_eps", 1e-5}, {"norm_eps", 1e-6}})),
      contains_text("key norm_eps is 1e-06, expected 1e-05: key cell_norm_eps says so"));
  // 2 * 5 in multiples of 8 is 16 rounded up and 8, what the weights have, rounded down; 5 the other way round.
  const Recipe mlstm = recipe_of("mlstm", "");
  const auto with_factor = [&](double factor, std::optional<bool> up) {
    Keys keys = mlstm.configuration;
    keys.emplace_back("proj_factor", factor);
    keys.emplace_back("round_proj_up_to_multiple_of", Index(8));
    if (up) keys.emplace_back("round_proj_up_dim_up", *up);
    static_cast<void>(read_layer("mlstm", test_support::drawn_tensors(mlstm, draw), configured(keys)));
  };
  CHECK_NOTHROW(with_factor(2.0, false));
  CHECK_NOTHROW(with_factor(1.0, true));
  CHECK_NOTHROW(with_factor(1.0, std::nullopt));
  CHECK_THROWS_WITH(with_factor(2.0, true), contains_text("key proj_factor is 2"));
  CHECK_THROWS_WITH(with_factor(2.0, std::nullopt), contains_text("key proj_factor is 2"));
  CHECK_THROWS_WITH(with_factor(1.0, false), contains_text("key proj_factor is 1"));
  const Recipe mamba3 = recipe_of("mamba3", "one input");
  CHECK_THROWS_WITH(read_layer("mamba3", test_support::drawn_tensors(mamba3, draw), configured({{"num_heads", Index(3)}})),
                    contains_text("key num_heads is 3, expected 2"));
  CHECK_THROWS_WITH(read_layer("mamba3", test_support::drawn_tensors(mamba3, draw), configured({{"A_floor", 1e-3}})),
                    contains_text("key A_floor is 0.001"));
}

TEST_CASE("a NaN in any weight is in the output, and no bound or maximum hides it", "[families]") {
  for (const Recipe& recipe : recipes())
    for (const test_support::TensorRecipe& tensor : recipe.tensors) {
      INFO(title(recipe) << ", " << tensor.name);
      DrawnLayer layer(recipe, 17);
      Tensors<double> spoilt = layer.tensors;
      Matrix<double> numbers = *layer.tensors.tensors.at(tensor.name).numbers;
      const Index column = tensor.name == "filter" ? 0 : numbers.cols() - 1;  // Hyena's is longer than the sequence
      numbers(numbers.rows() - 1, column) = std::numeric_limits<double>::quiet_NaN();
      spoilt.set(tensor.name, tensor.shape, numbers);
      layer.part = read_layer(recipe.family, spoilt, configuration_of(recipe));
      const DrawnLayer::Run run = layer.run(layer.draw.normals<double>(recipe.tokens, recipe.width));
      CHECK_FALSE((*run.out).allFinite());
    }
}

TEST_CASE("what the layer gives is what its operator gives, and each ablation the product of its factors", "[families]") {
  for (const Recipe& recipe : recipes())
    for (const Index tokens : {recipe.tokens, Index(1)}) {
      if (tokens == 1 && recipe.family == "mlla") continue;  // its image has two rows
      INFO(title(recipe) << ", tokens " << tokens);
      DrawnLayer layer(recipe, 11);
      const DrawnLayer::Run run = layer.run(layer.draw.normals<double>(tokens, recipe.width));
      const ImplicitAttention<double> all = run.mixer.attention(Terms::all());
      const bool sees_all = tokens > 1 && (recipe.family == "vim" || recipe.family == "mlla");
      CHECK(all.causal() == !sees_all);
      if (tokens > 1) CHECK(layer.part->causal() == all.causal());
      CHECK(largest(reconstructed(all, *run.mixer.x) - *run.mixer.y) <= 1e-13 * (1 + largest(*run.mixer.y)));
      const Numbers g = layer.draw.normals<double>(tokens, all.channels());
      CHECK(std::abs(all.apply(*run.mixer.x).cwiseProduct(g).sum() - all.apply_transpose(g).cwiseProduct(*run.mixer.x).sum()) <= 1e-12);
      if (recipe.family == "mlla") continue;  // its terms stand in one explicit matrix: below
      // What these lower with fewer terms is not the whole form less its factors: tests/laws and test_rwkv.cpp have their ablations.
      if (recipe.family == "griffin" || recipe.family == "rwkv4" || recipe.family == "rwkv7") continue;
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

TEST_CASE("MLLA's matrices are the products of its parts, found by running the layer's own steps on unit vectors", "[families]") {
  for (const Recipe& recipe : recipes()) {
    if (recipe.family != "mlla") continue;
    DrawnLayer layer(recipe, 5);
    const DrawnLayer::Run run = layer.run(layer.draw.normals<double>(recipe.tokens, recipe.width));
    const Index rows = 2, columns = 3, tokens = 6;
    const auto convolution = [&](const std::string& name, Index channel) {  // a double loop over the image
      Numbers matrix = Numbers::Zero(tokens, tokens);
      const Array<double>& weight = layer.tensors.tensors.at(name).numbers;
      for (Index to = 0; to < tokens; ++to)
        for (Index from = 0; from < tokens; ++from) {
          const Index dr = from / columns - to / columns + 1, dc = from % columns - to % columns + 1;
          if (dr >= 0 && dr < 3 && dc >= 0 && dc < 3) matrix(to, from) = weight(channel * 3 + dr, dc);
        }
      return matrix;
    };
    static_cast<void>(rows);
    const DrawnLayer::Run& r = run;
    const auto& act = *static_cast<const Mlla<double>::Activations*>(r.mixer.activations.get());
    const ImplicitAttention<double> bare = r.mixer.attention(Terms::recurrence());
    REQUIRE(bare.heads() == 2);
    // Its heads share R alone; with the convolutions in it every channel has a matrix of its own, which is no head's.
    const Numbers maps = bare.head_maps().stacked();
    const ImplicitAttention<double> normalized = r.mixer.attention(Terms::recurrence() | Term::normalization);
    REQUIRE(normalized.heads() == 2);
    CHECK(Numbers(normalized.head_maps().stacked()) == maps);
    const ImplicitAttention<double> every_term = r.mixer.attention(Terms::all());
    CHECK(every_term.heads() == 0);
    CHECK_THROWS_AS(every_term.head_maps(), Error);
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

TEST_CASE("gradients are finite differences, through y and through the linear input", "[families]") {
  for (const Recipe& recipe : recipes()) {
    INFO(title(recipe));
    DrawnLayer layer(recipe, 23);
    const Numbers u = layer.draw.normals<double>(recipe.tokens, recipe.width);
    const DrawnLayer::Run run = layer.run(u, true);
    const Numbers g = layer.draw.normals<double>(recipe.tokens, run.out.cols());
    const WalkResult<double> walked = run.trace->walk_back(WayBack::gradient, {{run.out, g}}, {run.u, run.mixer.y, run.mixer.x});
    CHECK(largest(walked.gradients[1]) > 0);
    CHECK(largest(walked.gradients[2]) > 0);
    // Fourth-order central differences in random directions; the step is small, since maxima and magnitudes have kinks.
    for (int direction = 0; direction < 3; ++direction) {
      const Numbers d = layer.draw.normals<double>(recipe.tokens, recipe.width);
      const auto f = [&](double t) { return (*layer.run(u + t * d).out).cwiseProduct(g).sum(); };
      const double h = 1e-4, numeric = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
      CHECK(walked.gradients[0].cwiseProduct(d).sum() ==
            Approx(numeric).epsilon(1e-7).margin(1e-8 * walked.gradients[0].norm() * d.norm()));
    }
  }
}

TEST_CASE("relevance conserves and treats every operation, and the held operator is the transposed one", "[families]") {
  for (const Recipe& recipe : recipes()) {
    INFO(title(recipe));
    DrawnLayer layer(recipe, 37);
    const Numbers u = layer.draw.normals<double>(recipe.tokens, recipe.width);
    const DrawnLayer::Run run = layer.run(u, true);
    const Numbers g = layer.draw.normals<double>(recipe.tokens, run.out.cols()),
                  gy = layer.draw.normals<double>(recipe.tokens, run.mixer.y.cols());
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
    if (recipe.family == "rwkv7") continue;  // its bonus goes from the values to y, past the centred x
    Numbers transposed = attention.apply_transpose(gy);
    if (recipe.family == "rwkv5" || recipe.family == "rwkv6") {  // the group norm's centring is in x, and the record passes it at y, too
      const Index size = transposed.cols() / attention.heads();
      for (Index head = 0; head < attention.heads(); ++head)
        transposed.middleCols(head * size, size).colwise() -= transposed.middleCols(head * size, size).rowwise().mean().eval();
    }
    CHECK(largest(held.gradients[0] - transposed) <= 1e-12 * (1 + largest(held.gradients[0])));
  }
}

namespace {

// A run on a piece of a sequence, which holds what its operator views, and the state behind it.
struct Piece {
  std::shared_ptr<const void> state;
  Numbers x, y;
  ImplicitAttention<double> attention;
};
using RunPiece = std::function<Piece(const Numbers& u, RunContext<double>& context, Trace<double>& trace, const void* state)>;

template <class Layer>
Piece run_piece(const Layer& layer, const Numbers& u, RunContext<double>& context, Trace<double>& trace, const void* state) {
  const auto act = std::make_shared<const typename Layer::Activations>(
      layer.run(trace.input(u), context, static_cast<const typename Layer::State*>(state)).activations);
  const void* behind = nullptr;
  if constexpr (detail::CarriesState<Layer>) behind = &act->final;
  return {std::shared_ptr<const void>(act, behind), *act->x, *act->y, implicit_attention_of(layer, *act)};
}

// The layer on a whole sequence, and in pieces that hand on their state.
void check_pieces(const DrawnLayer& drawn, const RunPiece& run_layer) {
  const Recipe& recipe = drawn.recipe;
  Draw draw(43);
  const Numbers u = draw.normals<double>(recipe.tokens, recipe.width);
  const bool has_state_inputs = recipe.family == "lstm" || recipe.family == "gru";
  const auto run = [&](const Numbers& piece, const void* state) {
    Trace<double> trace;
    RunContext<double> context;
    if (!has_state_inputs || state == nullptr)
      for (const auto& [name, numbers] : drawn.inputs) context.share(name, trace.constant(numbers));
    return run_layer(piece, context, trace, state);
  };
  const Piece whole = run(u, nullptr);
  std::shared_ptr<const void> state;
  Index at = 0;
  for (const Index count : {Index(3), Index(1), recipe.tokens - 4}) {
    const Piece piece = run(u.middleRows(at, count), state.get());
    INFO("tokens " << at << " to " << at + count - 1);
    CHECK(largest(piece.y - whole.y.middleRows(at, count)) <= 1e-12 * (1 + largest(whole.y)));
    CHECK(largest(reconstructed(piece.attention, piece.x) - piece.y) <= 1e-12 * (1 + largest(whole.y)));
    state = piece.state;
    at += count;
  }
}

void check_refuses_state(const DrawnLayer& drawn, const RunPiece& run_layer, const void* state) {
  Trace<double> trace;
  RunContext<double> context;
  CHECK_THROWS_AS(run_layer(Numbers::Zero(drawn.recipe.tokens, drawn.recipe.width), context, trace, state), Error);
}

}  // namespace

TEST_CASE("a sequence in pieces is the whole one, and a layer that carries no state refuses one", "[families]") {
  for (const Recipe& recipe : recipes()) {
    INFO(title(recipe));
    const DrawnLayer drawn(recipe, 41);
    const bool listed = test_support::AllLayers::visit(*drawn.part, [&](const auto& layer) {
      using Layer = std::decay_t<decltype(layer)>;
      const RunPiece run = [&layer](const Numbers& u, RunContext<double>& context, Trace<double>& trace, const void* state) {
        return run_piece(layer, u, context, trace, state);
      };
      const typename Layer::State state{};
      // The authors' parallel RetNet divides rows by sums over all keys, and carries none of them.
      if (detail::CarriesState<Layer> && recipe.family != "retnet_parallel")
        check_pieces(drawn, run);
      else
        check_refuses_state(drawn, run, &state);
    });
    INFO("its type is missing in AllLayers of tests/support/layer_recipes.hpp");
    CHECK(listed);
  }
}

namespace {

// The layer gives finite numbers, its operator the same ones, and so do both ways back.
void check_finite(DrawnLayer& layer, const Numbers& u) {
  const DrawnLayer::Run run = layer.run(u, true);
  REQUIRE((*run.mixer.y).allFinite());
  CHECK(largest(reconstructed(run.mixer.attention(Terms::all()), *run.mixer.x) - *run.mixer.y) <= 1e-12 * (1 + largest(*run.mixer.y)));
  for (const WayBack way : {WayBack::gradient, WayBack::relevance})
    CHECK(run.trace->walk_back(way, {{run.out, layer.draw.normals<double>(u.rows(), run.out.cols())}}, {run.u}).gradients[0].allFinite());
}

}  // namespace

TEST_CASE("inputs of 0, of denormal size, repeated and large leave finite numbers, in every layer", "[families]") {
  for (const Recipe& recipe : recipes())
    for (const double size : {0.0, 1e-310, 1.0, 1e3}) {
      INFO(title(recipe) << ", inputs of size " << size);
      DrawnLayer layer(recipe, 47);
      Numbers u = layer.draw.normals<double>(recipe.tokens, recipe.width);
      if (size == 1.0) u.rowwise() = Numbers(u.topRows(1)).row(0);
      check_finite(layer, u * size);
    }
}

TEST_CASE("extreme decays and gates leave finite numbers, and the operator is still the layer", "[families]") {
  const std::vector<std::pair<std::string, std::vector<TensorRecipe>>> extremes = {
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
      DrawnLayer layer(recipe, 53, changed);
      check_finite(layer, layer.draw.normals<double>(recipe.tokens, recipe.width));
    }
}

TEST_CASE("attribution asks whether a model is causal: one with a layer of two directions is explained by later tokens, too",
          "[families]") {
  for (const Recipe& recipe : recipes()) {
    if (recipe.family != "vim") continue;
    DrawnLayer layer(recipe, 61);
    LanguageModelParts<double> parts;
    parts.name = "two directions";
    parts.embedding = layer.draw.normals<double>(9, 4);
    parts.head = layer.draw.normals<double>(9, 4);
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
    // The edges from later tokens, and to them: A's upper half as well.
    MethodOptions<double> with_map;
    with_map.with_map = true;
    const Attribution<double> edges = explainer.explain(Method::edge_map, target, with_map);
    CHECK(edges.map(2, 5) != 0);
    CHECK(explainer.explain(Method::edge_map, target).scores[5] == Approx(edges.map.col(5).sum()));
    const ImplicitAttention<double> attention = model.implicit_attention(explainer.pass(), 0);
    const auto matrix = attention.materialize();
    const Array<double>& g = explainer.gradients(target).layers[0].y;
    Matrix<double> by_loops = Matrix<double>::Zero(6, 6);
    for (Index i = 0; i < 6; ++i)
      for (Index j = 0; j < 6; ++j)
        for (Index e = 0; e < attention.channels(); ++e) by_loops(i, j) += g(i, e) * matrix(e, i, j) * explainer.pass().layers[0].x()(j, e);
    CHECK((edges.map - by_loops).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= 1e-12 * (1 + by_loops.cwiseAbs().maxCoeff()));
  }
}
