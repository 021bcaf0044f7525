// Layers of every family with random weights: the sizes of their tensors, what a configuration must say of them, and what they are drawn
// from.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <support/tensors.hpp>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/models/families.hpp>

namespace test_support {

using namespace implicit_attention;

// What a tensor of a recipe is drawn from.
struct TensorRecipe {
  std::string name;
  std::vector<Index> shape;
  double scale = 0, mean = 0;  // scale 0: 1 / sqrt(last axis that is not 1)
};

// One layer with the sizes of its tensors.
struct Recipe {
  std::string family, title;
  Index width;
  std::vector<TensorRecipe> tensors;
  std::vector<std::pair<std::string, Configuration::Value>> configuration;
  std::vector<std::pair<std::string, Index>> inputs;  // rows of numbers between 0 and 1 in the run context, and their widths
  Index tokens = 7;
};

inline std::vector<Recipe> recipes() {
  const std::vector<TensorRecipe> heads = {
      {"q_proj.weight", {8, 6}},      {"k_proj.weight", {4, 6}},      {"v_proj.weight", {3, 6}},
      {"g_proj.weight", {6, 6}},      {"o_proj.weight", {6, 6}},      {"g_norm_swish_gate.weight", {3}, 0.3, 1},
      {"q_conv1d.weight", {8, 1, 3}}, {"k_conv1d.weight", {4, 1, 3}}, {"v_conv1d.weight", {3, 1, 3}},
      {"q_conv1d.bias", {8}},         {"k_conv1d.bias", {4}},         {"v_conv1d.bias", {3}}};
  const auto with = [](std::vector<TensorRecipe> all, const std::vector<TensorRecipe>& more) {
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::vector<TensorRecipe> decays = {{"gk_proj.0.weight", {2, 6}}, {"gk_proj.1.weight", {4, 2}, 2}, {"gk_proj.1.bias", {4}}};
  const std::vector<std::pair<std::string, Configuration::Value>> shared = {{"num_heads", Index(2)}, {"num_kv_heads", Index(1)}};
  const auto more = [](auto list, const std::string& key, Configuration::Value value) {
    list.emplace_back(key, std::move(value));
    return list;
  };
  const std::vector<TensorRecipe> mamba3 = {{"dt_bias", {2}}, {"B_norm.weight", {4}, 0.3, 1}, {"C_norm.weight", {4}, 0.3, 1},
                                            {"D", {2}},       {"norm.weight", {6}, 0.3, 1},   {"out_proj.weight", {5, 6}}};
  const std::vector<TensorRecipe> vim_one = {{"conv1d.weight", {6, 1, 3}},
                                             {"conv1d.bias", {6}},
                                             {"x_proj.weight", {8, 6}},
                                             {"dt_proj.weight", {6, 2}},
                                             {"dt_proj.bias", {6}},
                                             {"A_log", {6, 3}, 0.5},
                                             {"D", {6}}};
  const decltype(Recipe::configuration) rwkv_sizes = {{"hidden_size", Index(8)},     {"attention_hidden_size", Index(8)},
                                                      {"head_size", Index(4)},       {"head_size_divisor", Index(8)},
                                                      {"layer_norm_epsilon", 1e-05}, {"group_norm_eps_on_s", 0.00064}};
  const std::vector<TensorRecipe> vim_two = {{"conv1d_b.weight", {6, 1, 3}},
                                             {"conv1d_b.bias", {6}},
                                             {"x_proj_b.weight", {8, 6}},
                                             {"dt_proj_b.weight", {6, 2}},
                                             {"dt_proj_b.bias", {6}},
                                             {"A_b_log", {6, 3}, 0.5},
                                             {"D_b", {6}},
                                             {"in_proj.weight", {12, 4}},
                                             {"out_proj.weight", {4, 6}}};
  return {
      {"mamba2",
       "norm before the gate",
       8,
       {{"in_proj.weight", {52, 8}, 0.71},
        {"conv1d.weight", {32, 1, 4}, 0.45},
        {"conv1d.bias", {32}, 0.3, -0.059},
        {"dt_bias", {4}, 1.9, -4.3},
        {"A_log", {4}, 0.91, 1.8},
        {"D", {4}, 0.43, 1.1},
        {"norm.weight", {16}, 0.29, 1},
        {"out_proj.weight", {8, 16}, 0.25}},
       {{"num_heads", Index(4)},
        {"head_dim", Index(4)},
        {"state_size", Index(8)},
        {"n_groups", Index(1)},
        {"norm_groups", Index(1)},
        {"norm_before_gate", true},
        {"rms_norm", true},
        {"conv_kernel", Index(4)},
        {"layer_norm_epsilon", 1e-05},
        {"time_step_limit", std::vector<double>{0, std::numeric_limits<double>::infinity()}}},
       {}},
      {"mamba",
       "biases",
       8,
       {{"A_log", {16, 4}, 0.52, 0.79},
        {"D", {16}, 0.1, 1},
        {"in_proj.weight", {32, 8}, 0.21},
        {"in_proj.bias", {32}, 1, -0.21},
        {"conv1d.weight", {16, 1, 3}, 0.3},
        {"conv1d.bias", {16}, 0.86},
        {"x_proj.weight", {9, 16}, 0.14, -0.018},
        {"dt_proj.weight", {16, 1}, 0.66, 0.11},
        {"dt_proj.bias", {16}, 1.4, -4.9},
        {"out_proj.weight", {8, 16}, 0.14},
        {"out_proj.bias", {8}, 0.79, -0.31}},
       {},
       {}},
      {"rwkv7",
       "first layer",
       16,
       {{"x_r", {1, 1, 16}, 0.23, 0.18},
        {"x_w", {1, 1, 16}, 0.28, 0.44},
        {"x_k", {1, 1, 16}, 0.26, 0.38},
        {"x_v", {1, 1, 16}, 0.26, 0.38},
        {"x_a", {1, 1, 16}, 0.28, 0.44},
        {"x_g", {1, 1, 16}, 0.23, 0.18},
        {"w1", {16, 4}, 0.38, -0.039},
        {"w2", {4, 16}, 0.44},
        {"a1", {16, 4}, 0.43},
        {"a2", {4, 16}, 0.43, -0.092},
        {"g1", {16, 5}, 0.38, -0.041},
        {"g2", {5, 16}, 0.33, 0.04},
        {"w0", {1, 1, 16}, 2.9, -3.3},
        {"a0", {1, 1, 16}, 0.25, -0.19},
        {"k_k", {1, 1, 16}, 0.031, 0.71},
        {"k_a", {1, 1, 16}, 0.1, 1},
        {"r_k", {2, 8}, 0.1, -0.04},
        {"ln_x.weight", {16}, 0.1, 0.46},
        {"ln_x.bias", {16}, 0.1},
        {"receptance.weight", {16, 16}, 0.24},
        {"key.weight", {16, 16}, 0.23, 0.03},
        {"value.weight", {16, 16}, 0.24},
        {"output.weight", {16, 16}, 0.26}},
       {{"heads", Index(2)}, {"group_norm_eps", 0.00064}, {"names", std::string("original")}},
       {}},
      {"rwkv6",
       "",
       8,
       {{"key.weight", {8, 8}, 0.55},
        {"value.weight", {8, 8}, 0.52},
        {"receptance.weight", {8, 8}, 0.53},
        {"gate.weight", {8, 8}, 0.61},
        {"output.weight", {8, 8}, 0.36, -0.036},
        {"time_faaaa", {2, 4}, 0.34, 0.057},
        {"ln_x.weight", {8}, 0.21, 0.72},
        {"ln_x.bias", {8}, 0.25, -0.15},
        {"time_decay", {1, 1, 8}, 2, -2.3},
        {"time_maa_x", {1, 1, 8}, 0.39, 0.43},
        {"time_maa_w", {1, 1, 8}, 0.33, 0.45},
        {"time_maa_k", {1, 1, 8}, 0.36, 0.51},
        {"time_maa_v", {1, 1, 8}, 0.33, 0.32},
        {"time_maa_r", {1, 1, 8}, 0.35, 0.28},
        {"time_maa_g", {1, 1, 8}, 0.27, 0.24},
        {"time_maa_w1", {8, 160}, 0.11},
        {"time_maa_w2", {5, 32, 8}, 0.052},
        {"time_decay_w1", {8, 64}, 0.17},
        {"time_decay_w2", {64, 8}, 0.13}},
       rwkv_sizes,
       {}},
      {"rwkv5",
       "",
       8,
       {{"key.weight", {8, 8}, 0.59, 0.098},
        {"value.weight", {8, 8}, 0.69},
        {"receptance.weight", {8, 8}, 0.53, 0.075},
        {"gate.weight", {8, 8}, 0.53, 0.093},
        {"output.weight", {8, 8}, 0.28, -0.057},
        {"time_faaaa", {2, 4}, 0.35, 0.18},
        {"ln_x.weight", {8}, 0.22, 0.74},
        {"ln_x.bias", {8}, 0.23, -0.097},
        {"time_decay", {2, 4}, 1.6, -1.6},
        {"time_mix_key", {1, 1, 8}, 0.33, 0.52},
        {"time_mix_value", {1, 1, 8}, 0.35, 0.61},
        {"time_mix_receptance", {1, 1, 8}, 0.27, 0.63},
        {"time_mix_gate", {1, 1, 8}, 0.24, 0.69}},
       rwkv_sizes,
       {}},
      {"rwkv4",
       "",
       16,
       {{"time_decay", {16}, 2.5, -1.6},
        {"time_first", {16}, 0.1, 1},
        {"time_mix_key", {1, 1, 16}, 0.28, 0.57},
        {"time_mix_value", {1, 1, 16}, 0.28, 0.72},
        {"time_mix_receptance", {1, 1, 16}, 0.25, 0.71},
        {"key.weight", {16, 16}, 0.14},
        {"value.weight", {16, 16}, 0.15},
        {"receptance.weight", {16, 16}, 0.15},
        {"output.weight", {16, 16}, 0.14}},
       {},
       {}},
      {"griffin",
       "",
       16,
       {{"linear_y.weight", {16, 16}, 0.25},
        {"linear_y.bias", {16}, 0.1},
        {"linear_x.weight", {16, 16}, 0.23},
        {"linear_x.bias", {16}, 0.1},
        {"linear_out.weight", {16, 16}, 0.2},
        {"linear_out.bias", {16}, 0.1},
        {"conv_1d.weight", {16, 1, 4}, 0.051},
        {"conv_1d.bias", {16}, 0.1},
        {"rg_lru.recurrent_param", {16}, 0.95, -3.3},
        {"rg_lru.input_gate_weight", {2, 8, 8}, 0.036},
        {"rg_lru.input_gate_bias", {2, 8}, 0.1},
        {"rg_lru.recurrent_gate_weight", {2, 8, 8}, 0.034},
        {"rg_lru.recurrent_gate_bias", {2, 8}, 0.1}},
       {},
       {}},
      {"gdn",
       "biases",
       16,
       {{"q_proj.weight", {12, 16}, 0.23},
        {"k_proj.weight", {12, 16}, 0.26, 0.035},
        {"v_proj.weight", {15, 16}, 0.24},
        {"b_proj.weight", {3, 16}, 0.22},
        {"a_proj.weight", {3, 16}, 0.22, -0.035},
        {"o_norm.weight", {5}, 0.056, 0.99},
        {"o_proj.weight", {16, 15}, 0.24},
        {"g_proj.weight", {15, 16}, 0.26},
        {"q_conv1d.weight", {12, 1, 4}, 0.27},
        {"k_conv1d.weight", {12, 1, 4}, 0.3},
        {"v_conv1d.weight", {15, 1, 4}, 0.3},
        {"q_conv1d.bias", {12}, 0.3, 0.12},
        {"k_conv1d.bias", {12}, 0.33, -0.061},
        {"v_conv1d.bias", {15}, 0.27, 0.039},
        {"A_log", {3}, 0.47, 2.3},
        {"dt_bias", {3}, 1.1, -4.2}},
       {{"key_heads", Index(3)}, {"value_heads", Index(3)}, {"key_dim", Index(4)}, {"neg", false}, {"eps", 1e-05}},
       {}},
      {"deltanet",
       "",
       16,
       {{"q_proj.weight", {16, 16}, 0.24},
        {"k_proj.weight", {16, 16}, 0.23},
        {"v_proj.weight", {16, 16}, 0.26},
        {"o_proj.weight", {16, 16}, 0.23},
        {"o_norm.weight", {8}, 0.072, 0.98},
        {"b_proj.weight", {2, 16}, 0.23, -0.068},
        {"q_conv1d.weight", {16, 1, 4}, 0.25},
        {"k_conv1d.weight", {16, 1, 4}, 0.29},
        {"v_conv1d.weight", {16, 1, 4}, 0.27, -0.07}},
       {{"heads", Index(2)}, {"neg", false}, {"eps", 1e-05}},
       {}},
      {"kda",
       "lower bound",
       8,
       {{"q_proj.weight", {16, 8}, 0.37},
        {"k_proj.weight", {16, 8}, 0.36},
        {"v_proj.weight", {16, 8}, 0.33},
        {"b_proj.weight", {2, 8}, 0.27},
        {"o_norm.weight", {8}, 0.064, 1},
        {"o_proj.weight", {8, 16}, 0.25},
        {"A_log", {2}, 0.0083, 1.5},
        {"dt_bias", {16}, 1.3, -4.2},
        {"q_conv1d.weight", {16, 1, 4}, 0.29, -0.038},
        {"k_conv1d.weight", {16, 1, 4}, 0.31},
        {"v_conv1d.weight", {16, 1, 4}, 0.27, 0.047},
        {"f_proj.weight", {16, 8}, 0.33},
        {"g_proj.weight", {16, 8}, 0.38}},
       {{"key_heads", Index(2)}, {"value_heads", Index(2)}, {"neg", false}, {"lower_bound", -5.0}, {"eps", 1e-05}},
       {}},
      {"lfm2",
       "biases",
       16,
       {{"in_proj.weight", {48, 16}, 0.24},
        {"conv.weight", {16, 1, 3}, 0.36},
        {"out_proj.weight", {16, 16}, 0.24},
        {"in_proj.bias", {48}, 0.25, 0.035},
        {"conv.bias", {16}, 0.29, -0.031},
        {"out_proj.bias", {16}, 0.26, 0.035}},
       {},
       {}},
      {"retnet", "grouped, convolutions", 6, heads, shared, {}},
      {"retnet",
       "no gate",
       6,
       {{"q_proj.weight", {8, 6}},
        {"k_proj.weight", {8, 6}},
        {"v_proj.weight", {6, 6}},
        {"o_proj.weight", {6, 6}},
        {"g_norm.weight", {3}, 0.3, 1}},
       {{"num_heads", Index(2)}, {"use_output_gate", false}},
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
        {"proj_up.bias", {16}},
        {"q_proj.bias", {8}},
        {"k_proj.bias", {8}},
        {"v_proj.bias", {8}},
        {"proj_down.bias", {5}},
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
        {"k.bias", {8}},
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

// The layers of the recipes in their own types: tests that take all layers find here what `Part` has made of one.
template <class... Layers>
struct LayerTypes {
  // Calls visit(layer) with the layer inside a part; false where its type is not in the list.
  template <class Visit>
  static bool visit(const Part<double>& part, const Visit& visit) {
    return (visit_as<Layers>(part, visit) || ...);
  }

 private:
  template <class Layer, class Visit>
  static bool visit_as(const Part<double>& part, const Visit& visit) {
    const Layer* layer = part.as<Layer>();
    if (layer != nullptr) visit(*layer);
    return layer != nullptr;
  }
};
using AllLayers = LayerTypes<Mamba2<double>, Mamba<double>, Rwkv7<double>, Rwkv6<double>, Rwkv5<double>, Rwkv4<double>, Griffin<double>,
                             GatedDeltaNet<double>, Kda<double>, ShortConvolution<double>, RetNet<double>, Gla<double>, Hgrn<double>,
                             Hgrn2<double>, LinearAttention<double>, Mlstm<double>, MlstmLarge<double>, Mamba3<double>, Mlla<double>,
                             S4d<double>, Hyena<double>, Vim<double>, Lstm<double>, Gru<double>>;

// The tensors of a recipe, drawn.
inline Tensors<double> drawn_tensors(const Recipe& recipe, Draw& draw) {
  Tensors<double> drawn;
  for (const TensorRecipe& tensor : recipe.tensors) {
    Index rows = 1;
    for (std::size_t axis = 0; axis + 1 < tensor.shape.size(); ++axis) rows *= tensor.shape[axis];
    const Index columns = tensor.shape.back();
    const double scale = tensor.scale != 0 || tensor.mean != 0 ? tensor.scale : 1 / std::sqrt(static_cast<double>(columns));
    drawn.tensors[tensor.name] = {tensor.shape, draw.normals<double>(rows, columns, scale, tensor.mean)};
  }
  return drawn;
}

// What a recipe's configuration says.
inline Configuration configuration_of(const Recipe& recipe) {
  Configuration configuration("recipe");
  for (const auto& [key, value] : recipe.configuration) configuration.set(key, value);
  return configuration;
}

// A layer of a recipe, and an input for it.
struct DrawnLayer {
  Recipe recipe;
  Tensors<double> tensors;
  PartPointer<double> part;
  std::vector<std::pair<std::string, Matrix<double>>> inputs;
  Draw draw;

  explicit DrawnLayer(Recipe from, std::uint64_t seed, const std::vector<TensorRecipe>& changed = {})
      : recipe(std::move(from)), draw(seed) {
    for (const TensorRecipe& tensor : changed)
      for (TensorRecipe& own : recipe.tensors)
        if (own.name == tensor.name) own = {own.name, own.shape, tensor.scale, tensor.mean};
    tensors = drawn_tensors(recipe, draw);
    const Configuration configuration = configuration_of(recipe);
    for (const LayerFamily<double>& family : layer_families<double>())
      if (family.name == recipe.family) part = family.read(PrefixedTensors<double>(tensors, ""), configuration);
    REQUIRE(part != nullptr);
    for (const auto& [name, width] : recipe.inputs)
      inputs.emplace_back(name, (draw.normals<double>(1, width).array() * 0.5 + 0.5).cwiseMax(0).cwiseMin(1).matrix());
  }

  struct Run {
    std::shared_ptr<Trace<double>> trace;
    Value<double> u, out;
    MixerRun<double> mixer;
  };
  [[nodiscard]] Run run(const Matrix<double>& u, bool recorded = false) const {
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

}  // namespace test_support
