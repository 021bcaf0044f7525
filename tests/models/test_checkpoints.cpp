// Reading public checkpoints: names and dialects, and configurations and tensors that do not fit.
#include <cmath>
#include <functional>
#include <limits>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/random.hpp>

#include <models/models.hpp>

namespace {

using namespace models_test;
using test_support::Draw;

constexpr Index D = 4, V = 6;

/// Random numbers under names and shapes.
class Builder {
 public:
  explicit Builder(Tensors<double>& tensors) : tensors_(&tensors) {}
  void add(const std::string& name, std::vector<Index> shape, double spread = 0.5, double mean = 0) {
    Index rows = 1;
    for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis) rows *= shape[axis];
    const Index columns = shape.back();
    tensors_->set(name, std::move(shape), draw_.normals<double>(rows, columns, spread, mean));
  }

 private:
  Tensors<double>* tensors_;
  Draw draw_{5};
};

/// Two layers, 8 channels, state 3, dt rank 1, convolution width 4.
Tensors<double> mamba_tensors(bool layer_norm = false) {
  Tensors<double> tensors;
  Builder b(tensors);
  b.add("backbone.embeddings.weight", {V, D});
  const auto norm = [&](const std::string& name) {
    b.add(name + ".weight", {D}, 0.1, 1);
    if (layer_norm) b.add(name + ".bias", {D}, 0.3);
  };
  for (Index n = 0; n < 2; ++n) {
    const std::string layer = detail::message("backbone.layers.", n, ".");
    norm(layer + "norm");
    b.add(layer + "mixer.in_proj.weight", {16, D});
    b.add(layer + "mixer.conv1d.weight", {8, 1, 4});
    b.add(layer + "mixer.conv1d.bias", {8});
    b.add(layer + "mixer.x_proj.weight", {7, 8});
    b.add(layer + "mixer.dt_proj.weight", {8, 1});
    b.add(layer + "mixer.dt_proj.bias", {8});
    b.add(layer + "mixer.A_log", {8, 3});
    b.add(layer + "mixer.D", {8});
    b.add(layer + "mixer.out_proj.weight", {D, 8});
  }
  norm("backbone.norm_f");
  return tensors;
}

/// Two layers, attention width 6, inner width 10.
Tensors<double> rwkv_tensors() {
  Tensors<double> tensors;
  Builder b(tensors);
  b.add("rwkv.embeddings.weight", {V, D});
  const auto norm = [&](const std::string& name) {
    b.add(name + ".weight", {D}, 0.1, 1);
    b.add(name + ".bias", {D}, 0.3);
  };
  norm("rwkv.blocks.0.pre_ln");
  for (Index n = 0; n < 2; ++n) {
    const std::string block = detail::message("rwkv.blocks.", n, ".");
    norm(block + "ln1");
    norm(block + "ln2");
    for (const char* part : {"key", "value", "receptance"}) {
      b.add(block + "attention.time_mix_" + part, {1, 1, D}, 0.2, 0.5);
      b.add(block + "attention." + part + ".weight", {6, D});
    }
    b.add(block + "attention.time_decay", {6});
    b.add(block + "attention.time_first", {6});
    b.add(block + "attention.output.weight", {D, 6});
    for (const char* part : {"key", "receptance"}) b.add(block + "feed_forward.time_mix_" + part, {1, 1, D}, 0.2, 0.5);
    b.add(block + "feed_forward.key.weight", {10, D});
    b.add(block + "feed_forward.receptance.weight", {D, D});
    b.add(block + "feed_forward.value.weight", {D, 10});
  }
  norm("rwkv.ln_out");
  b.add("head.weight", {V, D});
  return tensors;
}

/// Recurrent, recurrent, attention; 8 channels in 2 blocks, 2 heads of 4 and one key/value head, inner width 6.
Tensors<double> griffin_tensors(Index layers = 3) {
  Tensors<double> tensors;
  Builder b(tensors);
  b.add("model.embed_tokens.weight", {V, D});
  for (Index n = 0; n < layers; ++n) {
    const std::string layer = detail::message("model.layers.", n, "."), block = layer + "temporal_block.";
    b.add(layer + "temporal_pre_norm.weight", {D}, 0.1);
    b.add(layer + "channel_pre_norm.weight", {D}, 0.1);
    for (const char* part : {"gate_proj", "up_proj"}) {
      b.add(layer + "mlp_block." + part + ".weight", {6, D});
      b.add(layer + "mlp_block." + part + ".bias", {6});
    }
    b.add(layer + "mlp_block.down_proj.weight", {D, 6});
    b.add(layer + "mlp_block.down_proj.bias", {D});
    if (n == 2) {
      b.add(block + "q_proj.weight", {8, D});
      b.add(block + "k_proj.weight", {4, D});
      b.add(block + "v_proj.weight", {4, D});
      b.add(block + "o_proj.weight", {D, 8});
      b.add(block + "o_proj.bias", {D});
      continue;
    }
    for (const char* part : {"linear_x", "linear_y"}) {
      b.add(block + part + ".weight", {8, D});
      b.add(block + part + ".bias", {8});
    }
    b.add(block + "conv_1d.weight", {8, 1, 4});
    b.add(block + "conv_1d.bias", {8});
    b.add(block + "rg_lru.recurrent_param", {8});
    for (const char* gate : {"input_gate", "recurrent_gate"}) {
      b.add(block + "rg_lru." + gate + "_weight", {2, 4, 4});
      b.add(block + "rg_lru." + gate + "_bias", {2, 4});
    }
    b.add(block + "linear_out.weight", {D, 8});
    b.add(block + "linear_out.bias", {D});
  }
  b.add("model.final_norm.weight", {D}, 0.1);
  return tensors;
}

const std::vector<Index> seven_ids = {1, 5, 0, 3, 3, 2, 4};

Matrix<double> logits(const TensorSource<double>& source, const Configuration& configuration = {}) {
  return load_language_model(source, configuration).forward(seven_ids, test_support::every_logit()).logits;
}

}  // namespace

TEST_CASE("both dialects' configurations that agree with the weights are taken", "[models]") {
  const Matrix<double> mamba = logits(mamba_tensors());
  CHECK((logits(mamba_tensors(), with({{"model_type", "mamba"},
                                       {"hidden_size", D},
                                       {"num_hidden_layers", Index(2)},
                                       {"state_size", Index(3)},
                                       {"conv_kernel", Index(4)},
                                       {"expand", Index(2)},
                                       {"intermediate_size", Index(8)},
                                       {"time_step_rank", Index(1)},
                                       {"use_bias", false},
                                       {"use_conv_bias", true},
                                       {"hidden_act", "silu"},
                                       {"tie_word_embeddings", true},
                                       {"layer_norm_epsilon", 1e-5},
                                       {"vocab_size", V}})) -
         mamba)
            .isZero(0));
  CHECK((logits(mamba_tensors(), with({{"d_model", D},
                                       {"n_layer", Index(2)},
                                       {"ssm_cfg.d_state", Index(3)},
                                       {"ssm_cfg.d_conv", Index(4)},
                                       {"ssm_cfg.expand", Index(2)},
                                       {"ssm_cfg.dt_rank", "auto"},
                                       {"ssm_cfg.layer", "Mamba1"},
                                       {"rms_norm", true},
                                       {"vocab_size", Index(3)},
                                       {"pad_vocab_size_multiple", Index(6)},
                                       {"tie_embeddings", true},
                                       {"norm_epsilon", 1e-5}})) -
         mamba)
            .isZero(0));
  CHECK((logits(rwkv_tensors(), with({{"model_type", "rwkv"},
                                      {"hidden_size", D},
                                      {"attention_hidden_size", Index(6)},
                                      {"intermediate_size", Index(10)},
                                      {"num_hidden_layers", Index(2)},
                                      {"rescale_every", Index(1)},
                                      {"tie_word_embeddings", false},
                                      {"layer_norm_epsilon", 1e-5}})) -
         logits(rwkv_tensors()))
            .isZero(0));
  const Matrix<double> griffin = logits(griffin_tensors());
  CHECK((logits(griffin_tensors(), with({{"model_type", "recurrent_gemma"},
                                         {"hidden_size", D},
                                         {"lru_width", Index(8)},
                                         {"intermediate_size", Index(12)},
                                         {"num_hidden_layers", Index(3)},
                                         {"num_attention_heads", Index(2)},
                                         {"num_key_value_heads", Index(1)},
                                         {"head_dim", Index(4)},
                                         {"conv1d_width", Index(4)},
                                         {"attention_window_size", Index(2048)},
                                         {"rms_norm_eps", 1e-6},
                                         {"logits_soft_cap", 30.0},
                                         {"rope_theta", 10000.0},
                                         {"partial_rotary_factor", 0.5},
                                         {"hidden_activation", "gelu_pytorch_tanh"},
                                         {"attention_bias", false},
                                         {"embeddings_scale_by_sqrt_dim", true},
                                         {"tie_word_embeddings", true},
                                         {"block_types", std::vector<std::string>{"recurrent", "recurrent", "attention"}}})) -
         griffin)
            .isZero(0));
  CHECK((logits(griffin_tensors(),
                with({{"_block_types", std::vector<std::string>{"recurrent", "recurrent", "attention"}}, {"head_dim", Index(4)}})) -
         griffin)
            .isZero(0));
  // Without an attention layer, what concerns attention changes nothing, and is checked all the same.
  CHECK((logits(griffin_tensors(2), with({{"num_attention_heads", Index(2)},
                                          {"num_key_value_heads", Index(1)},
                                          {"head_dim", Index(4)},
                                          {"attention_window_size", Index(16)},
                                          {"rope_theta", 10.0},
                                          {"partial_rotary_factor", 1.0},
                                          {"attention_bias", false},
                                          {"_block_types", std::vector<std::string>{"recurrent", "recurrent"}}})) -
         logits(griffin_tensors(2)))
            .isZero(0));
  CHECK_THROWS_WITH(logits(griffin_tensors(2), with({{"attention_window_size", Index(0)}})), contains_text("attention_window_size is 0"));
}

TEST_CASE("keys that weights cannot tell change what is computed", "[models]") {
  const auto differs = [](const Matrix<double>& a, const Matrix<double>& b) {
    return (a - b).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 1e-6;
  };
  CHECK(differs(logits(mamba_tensors(), with({{"layer_norm_epsilon", 0.5}})), logits(mamba_tensors())));
  CHECK(differs(logits(rwkv_tensors(), with({{"layer_norm_epsilon", 0.5}})), logits(rwkv_tensors())));
  const Matrix<double> griffin = logits(griffin_tensors());
  CHECK(differs(logits(griffin_tensors(), with({{"attention_window_size", Index(2)}})), griffin));
  CHECK_FALSE(differs(logits(griffin_tensors(), with({{"attention_window_size", Index(6)}})), griffin));  // the first token is just seen
  CHECK(differs(logits(griffin_tensors(), with({{"attention_window_size", Index(5)}})), griffin));
  CHECK(differs(logits(griffin_tensors(), with({{"rms_norm_eps", 0.5}})), griffin));
  CHECK(differs(logits(griffin_tensors(), with({{"logits_soft_cap", 1.0}})), griffin));
  CHECK(differs(logits(griffin_tensors(), with({{"rope_theta", 10.0}, {"partial_rotary_factor", 1.0}})), griffin));
  CHECK(differs(logits(griffin_tensors(), with({{"partial_rotary_factor", 1.0}})), griffin));
  CHECK(differs(logits(griffin_tensors(), with({{"embeddings_scale_by_sqrt_dim", false}})), griffin));
  CHECK(logits(griffin_tensors(), with({{"logits_soft_cap", 0.01}})).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= 0.01);
}

TEST_CASE("embedding scale is sqrt(width) in bfloat16", "[models]") {
  Tensors<double> tensors = griffin_tensors();
  CHECK(load_griffin_lm<double>(tensors).parts().embedding_scale == 2.0);
  for (const Index width : {Index(2560), Index(10)}) {
    LanguageModelParts<double> parts;
    Tensors<double> wide;
    for (const auto& [name, tensor] : tensors.tensors) {
      std::vector<Index> shape = tensor.shape;
      for (Index& extent : shape)
        if (extent == D) extent = width;
      // only the sizes that are the model's width
      if (name.find("rg_lru") != std::string::npos || name.find("conv_1d") != std::string::npos) shape = tensor.shape;
      if (name.find("layers.2") != std::string::npos &&
          (name.find("k_proj") != std::string::npos || name.find("v_proj") != std::string::npos))
        shape = {4, width};
      wide.set_zero(name, shape);
    }
    // sqrt(2560) = 50.596 lies between 50.5 and 50.75; sqrt(10) = 3.16228 between 3.15625 and 3.171875
    CHECK(load_griffin_lm<double>(wide, with({{"num_attention_heads", Index(2)}})).parts().embedding_scale ==
          (width == 2560 ? 50.5 : 3.15625));
  }
}

TEST_CASE("every spelling of the tensors' names is read", "[models]") {
  Tensors<double> mamba = mamba_tensors();
  mamba.rename("backbone.embeddings.weight", "backbone.embedding.weight");
  CHECK((logits(mamba) - logits(mamba_tensors())).isZero(0));

  Tensors<double> original;
  const auto replaced = [](std::string name, const std::string& from, const std::string& to) {
    const auto at = name.find(from);
    return at == std::string::npos ? name : name.replace(at, from.size(), to);
  };
  for (const auto& [name, tensor] : rwkv_tensors().tensors) {
    std::string other = replaced(replaced(replaced(name, "rwkv.", ""), "attention.", "att."), "feed_forward.", "ffn.");
    other = replaced(replaced(other, "embeddings.", "emb."), "pre_ln.", "ln0.");
    other = replaced(replaced(replaced(other, "mix_key", "mix_k"), "mix_value", "mix_v"), "mix_receptance", "mix_r");
    original.tensors[other] = tensor;
  }
  CHECK((logits(original) - logits(rwkv_tensors())).isZero(0));
  CHECK((logits(original, with({{"n_embd", D}, {"n_layer", Index(2)}, {"dim_att", Index(6)}, {"dim_ffn", Index(10)}})) -
         logits(rwkv_tensors()))
            .isZero(0));
}

TEST_CASE("heads: tied, equal, and of their own", "[models]") {
  Tensors<double> equal = mamba_tensors();
  equal.tensors["lm_head.weight"] = equal.tensors["backbone.embeddings.weight"];
  CHECK((logits(equal) - logits(mamba_tensors())).isZero(0));
  CHECK((logits(equal, with({{"tie_word_embeddings", true}})) - logits(mamba_tensors())).isZero(0));
  Tensors<double> own = mamba_tensors();
  own.set("lm_head.weight", {V, D}, 2 * *own.read("backbone.embeddings.weight"));
  CHECK((logits(own) - 2 * logits(mamba_tensors())).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-14);
  CHECK((logits(own, with({{"tie_embeddings", false}})) - logits(own)).isZero(0));
  CHECK_THAT(error_of([&] {
               return logits(own, with({{"model_type", "mamba"}}));
             }),
             contains_text("config.json: key tie_word_embeddings is missing, expected false: tensor lm_head.weight is another than the"));
  CHECK_THAT(
      error_of([&] {
        return logits(own, with({{"tie_word_embeddings", true}}));
      }),
      contains_text("config.json: key tie_word_embeddings is true, expected false: tensor lm_head.weight is another than the embedding"));
  CHECK_THAT(error_of([&] {
               return logits(mamba_tensors(), with({{"tie_embeddings", false}}));
             }),
             contains_text("key tie_embeddings is false, expected true: there is no tensor lm_head.weight"));
  Tensors<double> griffin = griffin_tensors();
  griffin.set("lm_head.weight", {V, D}, 2 * *griffin.read("model.embed_tokens.weight"));
  CHECK((logits(griffin) - logits(griffin_tensors())).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 1e-3);
  Tensors<double> rwkv = rwkv_tensors();
  rwkv.tensors.erase("head.weight");
  CHECK_THAT(error_of([&] { return logits(rwkv); }), contains_text("tensor head.weight is missing"));
  CHECK(logits(rwkv, with({{"tie_word_embeddings", true}})).allFinite());
}

TEST_CASE("Mamba with LayerNorm", "[models]") {
  const Tensors<double> tensors = mamba_tensors(true);
  const LanguageModel<double> model = load_mamba_lm(tensors, with({{"rms_norm", false}}));
  const ForwardPass<double> pass = model.forward(seven_ids);
  const Matrix<double> r = *pass.layers[1].residual;
  for (Index token = 0; token < r.rows(); ++token) {
    const double mean = r.row(token).mean(), variance = (r.row(token).array() - mean).square().mean();
    for (Index d = 0; d < D; ++d)
      CHECK(pass.layers[1].u(token, d) ==
            Approx((r(token, d) - mean) / std::sqrt(variance + 1e-5) * tensors.read("backbone.layers.1.norm.weight")(0, d) +
                   tensors.read("backbone.layers.1.norm.bias")(0, d)));
  }
  CHECK_THAT(error_of([&] {
               return load_mamba_lm(tensors, with({{"rms_norm", true}}));
             }),
             contains_text("key rms_norm is true, expected false"));
  CHECK_THAT(error_of([&] {
               return load_mamba_lm(mamba_tensors(), with({{"rms_norm", false}}));
             }),
             contains_text("key rms_norm is false, expected true"));
}

TEST_CASE("an eps that is not a number above 0 is named, in layers of the literature too", "[models]") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<const char*, std::function<void(const Configuration&)>>> readers = {
      {"norm_eps", [](const Configuration& c) { (void)HeadMixerOptions::from_configuration(c); }},
      {"layernorm_eps", [](const Configuration& c) { (void)HeadMixerOptions::from_configuration(c); }},
      {"norm_eps", [](const Configuration& c) { (void)Mamba3Options::from_configuration(c); }},
      {"norm_eps", [](const Configuration& c) { (void)Mlstm<double>::options(c); }},
      {"cell_eps", [](const Configuration& c) { (void)Mlstm<double>::options(c); }},
      {"norm_eps", [](const Configuration& c) { (void)MlstmLarge<double>::options(c); }},
      {"cell_eps", [](const Configuration& c) { (void)MlstmLarge<double>::options(c); }},
      {"eps", [](const Configuration& c) { (void)MlstmLarge<double>::options(c); }},
      {"eps", [](const Configuration& c) { (void)Mlla<double>::options(c); }},
      {"eps", [](const Configuration& c) { (void)LinearAttention<double>::options(c); }},
  };
  for (const auto& [key, read] : readers) {
    INFO(key);
    CHECK_NOTHROW(read(with({{key, 1e-5}})));
    for (const auto& [value, text] :
         {std::pair(-1.0, "-1, expected a number above 0"), std::pair(0.0, "0, expected a number above 0"),
          std::pair(infinity, "Infinity, expected a finite number"), std::pair(-infinity, "-Infinity, expected a finite number"),
          std::pair(std::nan(""), "NaN, expected a finite number")}) {
      const Configuration wrong = with({{key, value}});
      CHECK_THAT(error_of([&, &read = read] { return read(wrong), 0; }), contains_text(std::string("key ") + key + " is " + text));
    }
  }
}

TEST_CASE("a key that contradicts the weights is an error that names key, value and what was expected", "[models]") {
  struct Row {
    Tensors<double> tensors;
    const char* key;
    Configuration::Value value;
    const char* text;
  };
  const Tensors<double> mamba = mamba_tensors(), rwkv = rwkv_tensors(), griffin = griffin_tensors();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const std::vector<Row> rows = {
      {mamba, "hidden_size", Index(5), "key hidden_size is 5, expected 4"},
      {mamba, "d_model", Index(5), "key d_model is 5, expected 4"},
      {mamba, "num_hidden_layers", Index(3), "key num_hidden_layers is 3, expected 2"},
      {mamba, "n_layer", Index(1), "key n_layer is 1, expected 2"},
      {mamba, "vocab_size", Index(7), "key vocab_size is 7, expected 1 to 6"},
      {mamba, "vocab_size", Index(0), "key vocab_size is 0, expected 1 to 6"},
      {mamba, "state_size", Index(4), "key state_size is 4, expected 3"},
      {mamba, "ssm_cfg.d_state", Index(16), "key ssm_cfg.d_state is 16, expected 3"},
      {mamba, "conv_kernel", Index(3), "key conv_kernel is 3, expected 4"},
      {mamba, "ssm_cfg.d_conv", Index(3), "key ssm_cfg.d_conv is 3, expected 4"},
      {mamba, "expand", Index(3), "key expand is 3, expected 2: the weights have 8 channels and width 4"},
      {mamba, "ssm_cfg.expand", Index(1), "key ssm_cfg.expand is 1, expected 2"},
      {mamba, "intermediate_size", Index(16), "key intermediate_size is 16, expected 8"},
      {mamba, "time_step_rank", Index(2), "key time_step_rank is 2, expected 1"},
      {mamba, "ssm_cfg.dt_rank", "many", "key ssm_cfg.dt_rank is many, expected 1"},
      {mamba, "use_bias", true, "key use_bias is true, expected false"},
      {mamba, "use_conv_bias", false, "key use_conv_bias is false, expected true"},
      {mamba, "ssm_cfg.conv_bias", false, "key ssm_cfg.conv_bias is false, expected true"},
      {mamba, "hidden_act", "gelu", "key hidden_act is gelu, expected silu"},
      {mamba, "model_type", "rwkv", "key model_type is rwkv, expected mamba"},
      {mamba, "ssm_cfg.layer", "Mamba2", "key ssm_cfg.layer is Mamba2, expected Mamba1"},
      {mamba, "d_intermediate", Index(8), "key d_intermediate is 8, expected 0"},
      {mamba, "layer_norm_epsilon", 0.0, "key layer_norm_epsilon is 0, expected a number above 0"},
      {mamba, "layer_norm_epsilon", -1.0, "key layer_norm_epsilon is -1, expected a number above 0"},
      {mamba, "layer_norm_epsilon", infinity, "key layer_norm_epsilon is Infinity, expected a finite number"},
      {mamba, "norm_epsilon", std::nan(""), "key norm_epsilon is NaN, expected a finite number"},
      {rwkv, "layer_norm_epsilon", infinity, "key layer_norm_epsilon is Infinity, expected a finite number"},
      {griffin, "rms_norm_eps", -infinity, "key rms_norm_eps is -Infinity, expected a finite number"},
      {mamba, "hidden_size", "four", "key hidden_size is \"four\", expected an integer"},
      {rwkv, "hidden_size", Index(8), "key hidden_size is 8, expected 4"},
      {rwkv, "attention_hidden_size", Index(4), "key attention_hidden_size is 4, expected 6"},
      {rwkv, "intermediate_size", Index(16), "key intermediate_size is 16, expected 10"},
      {rwkv, "num_hidden_layers", Index(12), "key num_hidden_layers is 12, expected 2"},
      {rwkv, "vocab_size", Index(50277), "key vocab_size is 50277, expected 1 to 6"},
      {rwkv, "model_type", "rwkv5", "key model_type is rwkv5, expected rwkv: the tensors are those of RWKV-4"},
      {griffin, "hidden_size", Index(8), "key hidden_size is 8, expected 4"},
      {griffin, "lru_width", Index(4), "key lru_width is 4, expected 8"},
      {griffin, "intermediate_size", Index(24), "key intermediate_size is 24, expected 12"},
      {griffin, "num_hidden_layers", Index(26), "key num_hidden_layers is 26, expected 3"},
      {griffin, "num_attention_heads", Index(4), "key num_attention_heads is 4, expected 2"},
      {griffin, "num_key_value_heads", Index(2), "key num_key_value_heads is 2, expected 1"},
      {griffin, "head_dim", Index(3), "key head_dim is 3, expected a divisor of 8"},
      {griffin, "conv1d_width", Index(2), "key conv1d_width is 2, expected 4"},
      {griffin, "attention_bias", true, "key attention_bias is true, expected false"},
      {griffin, "attention_window_size", Index(0), "key attention_window_size is 0, expected at least 1"},
      {griffin, "hidden_activation", "silu", "key hidden_activation is silu, expected gelu_pytorch_tanh"},
      {griffin, "model_type", "gemma", "key model_type is gemma, expected recurrent_gemma"},
      {griffin, "logits_soft_cap", -1.0, "key logits_soft_cap is -1, expected at least 0"},
      {griffin, "rope_theta", 0.0, "key rope_theta is 0, expected a number above 0"},
      {griffin, "partial_rotary_factor", 1.5, "key partial_rotary_factor is 1.5, expected 0 to 1"},
      {griffin, "partial_rotary_factor", 0.25, "rotates 1 numbers, expected an even number"},
      {griffin, "block_types", std::vector<std::string>{"recurrent", "attention"},
       "key block_types has attention for layer 1, expected recurrent"},
      {griffin, "_block_types", std::vector<std::string>{"recurrent"}, "key _block_types has recurrent for layer 2, expected attention"},
      {griffin, "block_types", std::vector<std::string>{}, "key block_types is an empty list"},
  };
  for (const Row& row : rows) {
    INFO(row.key << ": " << row.text);
    const std::string error = error_of([&] { return load_language_model(row.tensors, with({{row.key, row.value}})); });
    CHECK_THAT(error, contains_text(row.text));
  }
}

TEST_CASE("tensors that are missing or of another shape are named", "[models]") {
  struct Row {
    Tensors<double> tensors;
    std::function<void(Tensors<double>&)> bend;
    const char* text;
  };
  const Tensors<double> mamba = mamba_tensors(), rwkv = rwkv_tensors(), griffin = griffin_tensors();
  const auto without = [](const char* name) { return [name](Tensors<double>& t) { REQUIRE(t.tensors.erase(name) == 1); }; };
  const auto as = [](const char* name, std::vector<Index> shape) { return [name, shape](Tensors<double>& t) { t.set_zero(name, shape); }; };
  const std::vector<Row> rows = {
      {mamba, without("backbone.embeddings.weight"), "memory: tensor backbone.embeddings.weight is missing"},
      {mamba, without("backbone.norm_f.weight"), "tensor backbone.norm_f.weight is missing"},
      {mamba, without("backbone.layers.1.norm.weight"), "tensor backbone.layers.1.norm.weight is missing"},
      {mamba, without("backbone.layers.1.mixer.A_log"), "tensor backbone.layers.1.mixer.A_log is missing"},
      {mamba, as("backbone.layers.2.mixer.D", {8}), "tensor backbone.layers.2.mixer.in_proj.weight is missing"},
      {mamba, as("backbone.embeddings.weight", {V, 5}), "layer 0's norm is 4 wide, expected 5"},
      {mamba, as("backbone.layers.0.norm.weight", {1, D}), "tensor backbone.layers.0.norm.weight is (1, 4), expected 1 axes"},
      {mamba, as("backbone.layers.1.norm.weight", {D + 1}), "layer 1's norm is 5 wide, expected 4"},
      {mamba, as("backbone.norm_f.weight", {3}), "the final norm is 3 wide, expected 4"},
      {mamba, as("backbone.layers.1.mixer.x_proj.weight", {8, 8}), "x_proj.weight is (8, 8), expected (7, 8)"},
      {mamba, as("lm_head.weight", {V + 1, D}), "head is (7, 4), expected (6, 4) = (vocabulary, width)"},
      {rwkv, without("rwkv.blocks.0.pre_ln.weight"), "tensor rwkv.blocks.0.pre_ln.weight is missing"},
      {rwkv, without("rwkv.blocks.1.ln2.bias"), "tensor rwkv.blocks.1.ln2.bias is missing"},
      {rwkv, without("rwkv.blocks.1.feed_forward.value.weight"), "tensor rwkv.blocks.1.feed_forward.value.weight is missing"},
      {rwkv, without("rwkv.ln_out.bias"), "tensor rwkv.ln_out.bias is missing"},
      {rwkv, as("rwkv.ln_out.bias", {3}), "LayerNorm: rwkv.ln_out.bias is (3), expected (4) = (width)"},
      {rwkv, as("rwkv.blocks.0.feed_forward.value.weight", {D, 9}),
       "ChannelMixing: rwkv.blocks.0.feed_forward.value.weight is (4, 9), expected (4, 10)"},
      {rwkv, as("rwkv.blocks.0.feed_forward.receptance.weight", {3, D}),
       "ChannelMixing: rwkv.blocks.0.feed_forward.receptance.weight is (3, 4), expected (4, 4)"},
      {rwkv, as("rwkv.blocks.0.feed_forward.time_mix_key", {1, 1, 3}),
       "ChannelMixing: rwkv.blocks.0.feed_forward.time_mix_key is (3), expected (4)"},
      {rwkv, as("rwkv.blocks.0.attention.ln_x.weight", {6}), "tensor rwkv.blocks.0.attention.ln_x.bias is missing"},
      {griffin, without("model.final_norm.weight"), "tensor model.final_norm.weight is missing"},
      {griffin, without("model.layers.2.temporal_block.k_proj.weight"), "tensor model.layers.2.temporal_block.k_proj.weight is missing"},
      {griffin, without("model.layers.0.mlp_block.down_proj.weight"), "tensor model.layers.0.mlp_block.down_proj.weight is missing"},
      {griffin, as("model.layers.0.mlp_block.up_proj.weight", {7, D}),
       "GatedFeedForward: model.layers.0.mlp_block.gate_proj.weight is (6, 4), expected (7, 4)"},
      {griffin, as("model.layers.0.mlp_block.down_proj.bias", {3}),
       "GatedFeedForward: model.layers.0.mlp_block.down_proj.bias is (3), expected (4)"},
      {griffin, as("model.layers.2.temporal_block.k_proj.weight", {3, D}),
       "SoftmaxAttention: model.layers.2.temporal_block.k_proj.weight is (3, 4), expected (key heads"},
      {griffin, as("model.layers.2.temporal_block.o_proj.weight", {D, 9}),
       "SoftmaxAttention: model.layers.2.temporal_block.o_proj.weight is (4, 9), expected (4, 8)"},
      {griffin, as("model.layers.2.temporal_block.v_proj.weight", {8, D}),
       "SoftmaxAttention: model.layers.2.temporal_block.v_proj.weight is (8, 4), expected (4, 4)"},
      {griffin, as("model.layers.2.temporal_block.q_proj.bias", {3}),
       "tensor model.layers.2.temporal_block.k_proj.bias is missing, and model.layers.2.temporal_block.q_proj.bias is there"},
  };
  for (const Row& row : rows) {
    INFO(row.text);
    Tensors<double> bent = row.tensors;
    row.bend(bent);
    CHECK_THAT(error_of([&] { return load_language_model(bent); }), contains_text(row.text));
  }
  Tensors<double> foreign;
  CHECK_THAT(error_of([&] { return load_language_model(foreign); }), contains_text("memory: the tensors are those of no model known here"));
  foreign.set_zero("transformer.h.0.attn.c_attn.weight", {2, 2});
  CHECK_THAT(error_of([&] { return load_language_model(foreign); }), contains_text("the first is transformer.h.0.attn.c_attn.weight"));
  CHECK_THAT(error_of([&] { return load_mamba_lm(rwkv); }), contains_text("tensor backbone.embeddings.weight is missing"));

  // The nearest families alone, and how many others there are.
  Configuration configuration;
  configuration.set("model_type", std::string("Mamba-3"));
  const std::string unknown = error_of([&] { return load_language_model(foreign, configuration); });
  CHECK_THAT(unknown,
             contains_text("no model known here, and model_type is Mamba-3; the first is transformer.h.0.attn.c_attn.weight; expected "
                           "(Mamba, model_type mamba: backbone.layers.N.mixer.x_proj.weight; Mamba-2, model_type mamba2: "));
  CHECK_THAT(unknown, contains_text(detail::message("or one of ", model_families<double>().size() - 3, " others, which README.md lists")));
  CHECK(unknown.size() < 500);
  foreign.tensors.clear();
  foreign.set_zero("model.layers.0.shared_mlps.input_linear.weight", {2, 2});  // shared_mlp. would be Granite's
  CHECK_THAT(error_of([&] { return load_language_model(foreign); }), contains_text("expected (Granite 4, model_type granitemoehybrid: "));
}

TEST_CASE("checkpoints: complaints name a tensor as the file has it", "[models]") {
  Tensors<double> lost = mamba_tensors(), shorter = mamba_tensors();
  lost.tensors.erase("backbone.layers.1.mixer.D");
  shorter.set_zero("backbone.layers.1.mixer.D", {7});
  const auto below = [](const Tensors<double>& tensors, const std::string& prefix) {
    Tensors<double> renamed;
    for (const auto& [name, tensor] : tensors.tensors) renamed.tensors[prefix + name] = tensor;
    return renamed;
  };
  CHECK_THAT(error_of([&] { return load_language_model(lost); }), contains_text("tensor backbone.layers.1.mixer.D is missing"));
  CHECK_THAT(error_of([&] { return load_language_model(shorter); }),
             contains_text("Mamba: backbone.layers.1.mixer.D is (7), expected (8)"));
  // Behind a wrapper's prefix, and where a base model's names lack the family's own.
  CHECK_THAT(error_of([&] { return load_language_model(below(lost, "module.")); }),
             contains_text("memory: tensor module.backbone.layers.1.mixer.D is missing"));
  CHECK_THAT(error_of([&] { return load_language_model(below(shorter, "module.")); }),
             contains_text("Mamba: module.backbone.layers.1.mixer.D is (7), expected (8)"));
  Tensors<double> base;
  for (const auto& [name, tensor] : lost.tensors) base.tensors[name.substr(std::string("backbone.").size())] = tensor;
  CHECK_THAT(error_of([&] { return load_language_model(base); }), contains_text("memory: tensor layers.1.mixer.D is missing"));
  // What is made of arrays has no file's names, even after files were read.
  CHECK_THAT(error_of([] { check_vector("Mamba", "D", Array<double>(Matrix<double>(Matrix<double>::Zero(1, 2))), 3, "channels"); }),
             contains_text("Mamba: D is (2), expected (3)"));
}
