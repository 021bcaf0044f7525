// GGUF: the public converter's changes, made here to random tensors as its documentation of each family has them, come back exactly.
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/load.hpp>
#include <implicit_attention/models/mamba_lm.hpp>

#include "archives.hpp"
#include "files.hpp"
#include "plain_tensors.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

/// Tensors as a public checkpoint has them, and what they become in a GGUF file.
struct Model {
  std::string architecture;
  std::vector<std::string> keys;
  std::map<std::string, T> expected;
  std::vector<gguf::Tensor> file;
  std::mt19937 random{3};

  T make(const Shape& shape) {
    std::normal_distribution<float> normal;
    T t{shape, {}};
    for (std::uint64_t i = 0; i < product(shape); ++i) t.data.push_back(normal(random));
    return t;
  }
  void put(const std::string& name, const T& t) {
    std::string data(t.data.size() * sizeof(float), '\0');
    std::memcpy(data.data(), t.data.data(), data.size());
    file.push_back({name, t.shape, 0, data});
  }
  // A new tensor that is only renamed.
  void same(const std::string& gguf_name, const std::string& name, const Shape& shape) {
    expected[name] = make(shape);
    put(gguf_name, expected[name]);
  }
  T& fresh(const std::string& name, const Shape& shape) { return expected[name] = make(shape); }
  void size(const std::string& key, std::uint32_t value) { keys.push_back(gguf::integer(architecture + "." + key, value)); }

  [[nodiscard]] Checkpoint<float> open(const TemporaryFolder& folder) const {
    std::vector<std::string> all{gguf::string("general.architecture", architecture)};
    all.insert(all.end(), keys.begin(), keys.end());
    write_bytes(folder / "model.gguf", gguf::file(all, file));
    return open_checkpoint<float>(folder.path());
  }
  void check(const Checkpoint<float>& checkpoint) const {
    std::set<std::string> names, wanted;
    for (const std::string& name : checkpoint.source->names()) names.insert(name);
    for (const auto& [name, t] : expected) wanted.insert(name);
    CHECK(names == wanted);
    for (const auto& [name, t] : expected) {
      INFO(name);
      const auto shape = checkpoint.source->shape(name);
      REQUIRE(shape);
      CHECK(Shape(shape->begin(), shape->end()) == t.shape);
      const Array<float> read = checkpoint.source->read(name);
      REQUIRE(read.size() == static_cast<Index>(t.data.size()));
      bool equal = true;
      for (Index i = 0; i < read.size(); ++i)
        equal = equal && read(i / read.cols(), i % read.cols()) == t.data[static_cast<std::size_t>(i)];
      CHECK(equal);
      // What is stored, widened row by row, is the same.
      if (const auto stored = checkpoint.source->stored(name)) {
        Matrix<float> rows(stored->rows, stored->columns);
        stored->widen_rows(0, stored->rows, rows.data(), stored->columns);
        CHECK(rows == Matrix<float>(read.matrix()));
      }
    }
  }
};

Model model(const std::string& architecture, std::uint32_t layers, std::uint32_t width) {
  Model made;
  made.architecture = architecture;
  made.size("block_count", layers);
  made.size("embedding_length", width);
  return made;
}

// Mamba-2's tensors below `mixer` of one layer: E = H P.
void mamba2_mixer(Model& m, int layer, const std::string& mixer, std::uint64_t width, std::uint64_t heads, std::uint64_t head_width,
                  std::uint64_t groups, std::uint64_t state) {
  const std::string in = "blk." + std::to_string(layer) + ".";
  const std::uint64_t inner = heads * head_width, convolved = inner + 2 * groups * state;
  m.same(in + "ssm_in.weight", mixer + "in_proj.weight", {inner + convolved + heads, width});
  m.put(in + "ssm_conv1d.weight", reshape(m.fresh(mixer + "conv1d.weight", {convolved, 1, 4}), {convolved, 4}));
  m.same(in + "ssm_conv1d.bias", mixer + "conv1d.bias", {convolved});
  m.same(in + "ssm_dt.bias", mixer + "dt_bias", {heads});
  m.expected[mixer + "A"] = rate(m.make({heads}));
  m.put(in + "ssm_a", reshape(m.expected[mixer + "A"], {heads, 1}));
  m.put(in + "ssm_d", reshape(m.fresh(mixer + "D", {heads}), {heads, 1}));
  m.put(in + "ssm_norm.weight", reshape(m.fresh(mixer + "norm.weight", {inner}), {groups, inner / groups}));
  m.same(in + "ssm_out.weight", mixer + "out_proj.weight", {width, inner});
}

void mamba2_sizes(Model& m, std::uint32_t heads, std::uint32_t head_width, std::uint32_t groups, std::uint32_t state) {
  m.size("ssm.conv_kernel", 4);
  m.size("ssm.inner_size", heads * head_width);
  m.size("ssm.state_size", state);
  m.size("ssm.time_step_rank", heads);
  m.size("ssm.group_count", groups);
}

}  // namespace

TEST_CASE("GGUF: Mamba's files give the logits that were computed from them", "[io]") {
  // The layer reads A_log; a file has A. The difference is of one rounding in double.
  struct Logarithm final : TensorSource<double> {
    std::shared_ptr<TensorSource<double>> inner;
    static std::string own(std::string_view name) {
      return name.ends_with(".A_log") ? std::string(name.substr(0, name.size() - 4)) : std::string(name);
    }
    std::string where() const override { return inner->where(); }
    std::vector<std::string> names() const override { return inner->names(); }
    std::optional<std::vector<Index>> shape(std::string_view name) const override { return inner->shape(own(name)); }
    Array<double> read(std::string_view name) const override {
      const Array<double> numbers = inner->read(own(name));
      return own(name) == name ? numbers : Array<double>(Matrix<double>((-numbers.matrix().array()).log().matrix()));
    }
  };
  for (const std::string name : {"gguf-f32", "gguf-q8_0"}) {
    const auto folder = test_support::shared_data("cases/" + name);
    if (!folder) {
      WARN(test_support::shared_data_missing("cases/" + name));
      continue;
    }
    const Checkpoint<double> checkpoint = open_checkpoint<double>(*folder / "model.gguf");
    CHECK(checkpoint.format == "GGUF");
    CHECK(checkpoint.configuration.text({"model_type"}) == "mamba");
    CHECK(checkpoint.configuration.number({"layer_norm_epsilon"}) == 1e-5);
    CHECK(checkpoint.tokenizer.filename() == "model.gguf");
    Logarithm source;
    source.inner = checkpoint.source;
    const LanguageModel<double> mamba = load_mamba_lm<double>(source, checkpoint.configuration);
    const SafetensorsFile expected(*folder / "expected.safetensors");
    std::vector<Index> ids;
    for (const std::int64_t id : expected.read_integers("input_ids")) ids.push_back(static_cast<Index>(id));
    const Array<double> wanted = expected.read<double>("logits");
    const Matrix<double> logits = mamba.forward(ids, test_support::every_logit()).logits;
    REQUIRE(logits.rows() == wanted.rows());
    CHECK((logits - wanted.matrix()).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-9);
  }
}

TEST_CASE("GGUF: Falcon-Mamba under GGUF's names gives its logits", "[io]") {
  // What tells it from Mamba is one flag; the norms of dt, B and C have no weights.
  const auto golden = test_support::shared_data("golden/lm_falcon_mamba_seed00_L16.safetensors");
  if (!golden) {
    WARN(test_support::shared_data_missing("golden/lm_falcon_mamba_seed00_L16.safetensors"));
    return;
  }
  const SafetensorsFile file(*golden);
  Model m = model("mamba", 3, 32);
  const auto stored = [&](const std::string& name) {
    const Array<float> numbers = file.read<float>("weight." + name);
    T t;
    for (const Index size : file.info("weight." + name).shape) t.shape.push_back(static_cast<std::uint64_t>(size));
    for (Index i = 0; i < numbers.size(); ++i) t.data.push_back(numbers(i / numbers.cols(), i % numbers.cols()));
    return t;
  };
  m.put("token_embd.weight", stored("backbone.embeddings.weight"));
  m.put("output_norm.weight", stored("backbone.norm_f.weight"));
  m.put("output.weight", stored("lm_head.weight"));
  for (int layer = 0; layer < 3; ++layer) {
    const std::string in = "blk." + std::to_string(layer) + ".", from = "backbone.layers." + std::to_string(layer) + ".";
    m.put(in + "attn_norm.weight", stored(from + "norm.weight"));
    m.put(in + "ssm_in.weight", stored(from + "mixer.in_proj.weight"));
    m.put(in + "ssm_conv1d.weight", reshape(stored(from + "mixer.conv1d.weight"), {64, 4}));
    m.put(in + "ssm_conv1d.bias", stored(from + "mixer.conv1d.bias"));
    m.put(in + "ssm_x.weight", stored(from + "mixer.x_proj.weight"));
    m.put(in + "ssm_dt.weight", stored(from + "mixer.dt_proj.weight"));
    m.put(in + "ssm_dt.bias", stored(from + "mixer.dt_proj.bias"));
    m.put(in + "ssm_a", rate(stored(from + "mixer.A_log")));
    m.put(in + "ssm_d", stored(from + "mixer.D"));
    m.put(in + "ssm_out.weight", stored(from + "mixer.out_proj.weight"));
  }
  m.size("ssm.conv_kernel", 4);
  m.size("ssm.inner_size", 64);
  m.size("ssm.state_size", 16);
  m.size("ssm.time_step_rank", 4);
  m.keys.push_back(gguf::real("mamba.attention.layer_norm_rms_epsilon", 1e-5F));
  const auto logits_of = [&](bool norms) {
    const TemporaryFolder folder;
    Model one = m;
    one.keys.push_back(gguf::boolean("mamba.ssm.dt_b_c_rms", norms));
    (void)one.open(folder);
    const Checkpoint<double> checkpoint = open_checkpoint<double>(folder.path());
    CHECK(checkpoint.configuration.text({"model_type"}) == (norms ? "falcon_mamba" : "mamba"));
    std::vector<Index> ids;
    for (const std::int64_t id : file.read_integers("input.input_ids")) ids.push_back(static_cast<Index>(id));
    const LanguageModel<double> whole = load_language_model<double>(*checkpoint.source, checkpoint.configuration);
    return whole.forward(ids, test_support::every_logit()).logits;
  };
  const Matrix<double> wanted = file.read<double>("expected.logits").matrix();
  const Matrix<double> ours = logits_of(true);
  REQUIRE(ours.rows() == wanted.rows());
  const Matrix<double> without_norms = logits_of(false);
  REQUIRE(without_norms.allFinite());
  CHECK((ours - wanted).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() < 1e-6 * wanted.cwiseAbs().maxCoeff());  // A is rounded to float
  CHECK((without_norms - wanted).cwiseAbs().maxCoeff() > 1e-3 * wanted.cwiseAbs().maxCoeff());
}

TEST_CASE("GGUF: Mamba-2, Falcon-H1", "[io]") {
  const TemporaryFolder folder;
  Model m = model("mamba2", 1, 8);
  mamba2_sizes(m, 4, 4, 2, 3);
  m.same("token_embd.weight", "backbone.embeddings.weight", {6, 8});
  m.same("output_norm.weight", "backbone.norm_f.weight", {8});
  m.same("blk.0.attn_norm.weight", "backbone.layers.0.norm.weight", {8});
  mamba2_mixer(m, 0, "backbone.layers.0.mixer.", 8, 4, 4, 2, 3);
  m.keys.push_back(gguf::real("mamba2.attention.layer_norm_rms_epsilon", 1e-6F));
  const Checkpoint<float> checkpoint = m.open(folder);
  m.check(checkpoint);
  const Configuration& c = checkpoint.configuration;
  CHECK(c.text({"model_type"}) == "mamba2");
  CHECK(c.number({"layer_norm_epsilon"}) == 1e-6);
  CHECK(c.integer({"n_groups"}) == 2);
  CHECK(c.integer({"head_dim"}) == 4);
  CHECK(c.boolean({"tie_word_embeddings"}) == true);
  CHECK(c.integer({"vocab_size"}) == 6);

  const TemporaryFolder second;
  Model f = model("falcon-h1", 1, 8);
  mamba2_sizes(f, 4, 4, 2, 3);
  f.size("attention.head_count", 2);
  f.size("attention.head_count_kv", 1);
  f.size("attention.key_length", 4);
  f.same("token_embd.weight", "model.embed_tokens.weight", {6, 8});
  f.same("output.weight", "lm_head.weight", {6, 8});
  f.same("output_norm.weight", "model.final_layernorm.weight", {8});
  const std::string layer = "model.layers.0.";
  f.same("blk.0.attn_norm.weight", layer + "input_layernorm.weight", {8});
  f.same("blk.0.ffn_norm.weight", layer + "pre_ff_layernorm.weight", {8});
  mamba2_mixer(f, 0, layer + "mamba.", 8, 4, 4, 2, 3);
  f.same("blk.0.attn_q.weight", layer + "self_attn.q_proj.weight", {8, 8});
  f.same("blk.0.attn_k.weight", layer + "self_attn.k_proj.weight", {4, 8});
  f.same("blk.0.attn_v.weight", layer + "self_attn.v_proj.weight", {4, 8});
  f.same("blk.0.attn_output.weight", layer + "self_attn.o_proj.weight", {8, 8});
  f.same("blk.0.ffn_gate.weight", layer + "feed_forward.gate_proj.weight", {12, 8});
  f.same("blk.0.ffn_up.weight", layer + "feed_forward.up_proj.weight", {12, 8});
  f.same("blk.0.ffn_down.weight", layer + "feed_forward.down_proj.weight", {8, 12});
  const Checkpoint<float> falcon = f.open(second);
  f.check(falcon);
  CHECK(falcon.configuration.boolean({"multipliers_folded"}) == true);
  CHECK(falcon.configuration.number({"lm_head_multiplier"}) == 1.0);
  CHECK(falcon.configuration.boolean({"mamba_rms_norm"}) == true);
}

TEST_CASE("GGUF: Qwen3.5's value heads, Qwen3-Next's rows", "[io]") {
  const std::uint64_t keys = 2, each_key = 3, K = 3, V = 2, D = 8, values = keys * each_key;
  const auto start = [&](const std::string& architecture) {
    Model m = model(architecture, 2, D);
    m.size("ssm.conv_kernel", 4);
    m.size("ssm.state_size", K);
    m.size("ssm.group_count", keys);
    m.size("ssm.time_step_rank", values);
    m.size("ssm.inner_size", values * V);
    m.size("attention.key_length", 8);
    m.size("attention.head_count", 2);
    m.size("attention.head_count_kv", 1);
    m.size("rope.dimension_count", 2);
    m.size("full_attention_interval", 2);
    m.same("token_embd.weight", "model.embed_tokens.weight", {6, D});
    m.same("output_norm.weight", "model.norm.weight", {D});
    m.same("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", {D});
    m.same("blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight", {D});
    m.same("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", {32, D});
    m.same("blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight", {8});
    return m;
  };
  // Value heads from groups of a key head to tiles, along one axis of several.
  const auto tiled = [&](const T& t, std::size_t axis, std::uint64_t width) {
    Shape split(t.shape.begin(), t.shape.begin() + static_cast<std::ptrdiff_t>(axis));
    split.insert(split.end(), {keys, each_key, width});
    split.insert(split.end(), t.shape.begin() + static_cast<std::ptrdiff_t>(axis) + 1, t.shape.end());
    std::vector<std::size_t> order(split.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::swap(order[axis], order[axis + 1]);
    return reshape(permute(reshape(t, split), order), t.shape);
  };
  const std::string in = "model.layers.0.linear_attn.";
  const std::uint64_t before = 2 * keys * K;
  {
    const TemporaryFolder folder;
    Model m = start("qwen35");
    const auto last_rows = [&](const T& t) { return joined({part(t, 0, before), tiled(part(t, before, values * V), 0, V)}); };
    m.put("blk.0.attn_qkv.weight", last_rows(m.fresh(in + "in_proj_qkv.weight", {before + values * V, D})));
    m.put("blk.0.attn_gate.weight", tiled(m.fresh(in + "in_proj_z.weight", {values * V, D}), 0, V));
    m.put("blk.0.ssm_alpha.weight", tiled(m.fresh(in + "in_proj_a.weight", {values, D}), 0, 1));
    m.put("blk.0.ssm_beta.weight", tiled(m.fresh(in + "in_proj_b.weight", {values, D}), 0, 1));
    m.expected[in + "A"] = rate(m.make({values}));
    m.put("blk.0.ssm_a", tiled(m.expected[in + "A"], 0, 1));
    m.put("blk.0.ssm_dt.bias", tiled(m.fresh(in + "dt_bias", {values}), 0, 1));
    m.put("blk.0.ssm_conv1d.weight",
          last_rows(reshape(m.fresh(in + "conv1d.weight", {before + values * V, 1, 4}), {before + values * V, 4})));
    m.same("blk.0.ssm_norm.weight", in + "norm.weight", {V});
    m.put("blk.0.ssm_out.weight", tiled(m.fresh(in + "out_proj.weight", {D, values * V}), 1, V));
    m.size("nextn_predict_layers", 1);
    m.keys[0] = gguf::integer("qwen35.block_count", 3);
    m.same("blk.2.nextn.eh_proj.weight", "mtp.layers.0.nextn.eh_proj.weight", {D, D});
    const Checkpoint<float> checkpoint = m.open(folder);
    m.check(checkpoint);
    const Configuration& c = checkpoint.configuration;
    CHECK(c.text({"model_type"}) == "qwen3_5_text");
    CHECK(c.integer({"num_hidden_layers"}) == 2);
    CHECK(c.boolean({"norm_weights_include_one"}) == true);
    CHECK(c.number({"partial_rotary_factor"}) == 0.25);
    CHECK(c.texts({"layer_types"}) == std::vector<std::string>{"linear_attention", "full_attention"});
    CHECK(c.integer({"linear_value_head_dim"}) == 2);
  }
  {
    // Qwen3-Next: [q | k | v | z] and [b | a] once a key head; the converter takes the first apart, older ones did not.
    const TemporaryFolder folder;
    const std::uint64_t group = 2 * K + 2 * each_key * V;
    for (const bool old : {false, true}) {
      Model m = start("qwen3next");
      const T fused = m.make({keys * group, D}), ba = m.make({2 * values, D});
      std::vector<T> q, k, v, z, a, b;
      for (std::uint64_t head = 0; head < keys; ++head) {
        q.push_back(part(fused, head * group, K));
        k.push_back(part(fused, head * group + K, K));
        v.push_back(part(fused, head * group + 2 * K, each_key * V));
        z.push_back(part(fused, head * group + 2 * K + each_key * V, each_key * V));
        b.push_back(part(ba, head * 2 * each_key, each_key));
        a.push_back(part(ba, head * 2 * each_key + each_key, each_key));
      }
      m.expected[in + "in_proj_qkv.weight"] = joined({joined(q), joined(k), joined(v)});
      m.expected[in + "in_proj_z.weight"] = joined(z);
      m.expected[in + "in_proj_b.weight"] = joined(b);
      m.expected[in + "in_proj_a.weight"] = joined(a);
      m.put("blk.0.ssm_ba.weight", ba);
      if (old) {
        m.put("blk.0.ssm_in.weight", fused);
      } else {
        m.put("blk.0.attn_qkv.weight", m.expected[in + "in_proj_qkv.weight"]);
        m.put("blk.0.attn_gate.weight", m.expected[in + "in_proj_z.weight"]);
      }
      // Experts: one by one in the public files.
      std::vector<T> up;
      for (int expert = 0; expert < 3; ++expert)
        up.push_back(m.fresh("model.layers.0.mlp.experts." + std::to_string(expert) + ".up_proj.weight", {5, D}));
      m.put("blk.0.ffn_up_exps.weight", stack(up));
      m.put("blk.0.ffn_gate_inp_shexp.weight", reshape(m.fresh("model.layers.0.mlp.shared_expert_gate.weight", {1, D}), {D}));
      m.same("blk.0.ffn_down_shexp.weight", "model.layers.0.mlp.shared_expert.down_proj.weight", {D, 5});
      m.same("blk.0.ffn_gate_inp.weight", "model.layers.0.mlp.gate.weight", {3, D});
      m.check(m.open(folder));
    }
  }
  {
    const TemporaryFolder folder;
    Model m = start("qwen35moe");
    const T both = m.fresh("model.layers.0.mlp.experts.gate_up_proj", {3, 10, D});
    std::vector<T> gate, up;
    for (std::uint64_t expert = 0; expert < 3; ++expert) {
      const T one = reshape(part(both, expert, 1), {10, D});
      gate.push_back(part(one, 0, 5));
      up.push_back(part(one, 5, 5));
    }
    m.put("blk.0.ffn_gate_exps.weight", stack(gate));
    m.put("blk.0.ffn_up_exps.weight", stack(up));
    m.same("blk.0.ffn_down_exps.weight", "model.layers.0.mlp.experts.down_proj", {3, D, 5});
    m.check(m.open(folder));
  }
}

TEST_CASE("GGUF: Granite, Bamba, Nemotron-H", "[io]") {
  {
    const TemporaryFolder folder;
    Model m = model("granitehybrid", 2, 8);
    mamba2_sizes(m, 4, 4, 1, 3);
    m.size("attention.head_count", 2);
    m.keys.push_back(gguf::integers("granitehybrid.attention.head_count_kv", {0, 1}));
    m.keys.push_back(gguf::real("granitehybrid.attention.scale", 0.015625F));
    m.keys.push_back(gguf::real("granitehybrid.residual_scale", 0.22F));
    m.keys.push_back(gguf::boolean("granitehybrid.rope.scaling.finetuned", false));
    m.size("expert_count", 2);
    m.same("token_embd.weight", "model.embed_tokens.weight", {6, 8});
    m.same("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", {8});
    mamba2_mixer(m, 0, "model.layers.0.mamba.", 8, 4, 4, 1, 3);
    const std::string in = "model.layers.1.";
    m.put("blk.1.attn_q.weight", interleaved(m.fresh(in + "self_attn.q_proj.weight", {16, 8}), 2));
    m.put("blk.1.attn_k.weight", interleaved(m.fresh(in + "self_attn.k_proj.weight", {8, 8}), 1));
    m.same("blk.1.attn_v.weight", in + "self_attn.v_proj.weight", {8, 8});
    const T shared = m.fresh(in + "shared_mlp.input_linear.weight", {10, 8});
    m.put("blk.1.ffn_gate_shexp.weight", part(shared, 0, 5));
    m.put("blk.1.ffn_up_shexp.weight", part(shared, 5, 5));
    m.same("blk.1.ffn_down_shexp.weight", in + "shared_mlp.output_linear.weight", {8, 5});
    const T experts = m.fresh(in + "block_sparse_moe.input_linear.weight", {2, 6, 8});
    m.put("blk.1.ffn_gate_exps.weight",
          stack({part(reshape(part(experts, 0, 1), {6, 8}), 0, 3), part(reshape(part(experts, 1, 1), {6, 8}), 0, 3)}));
    m.put("blk.1.ffn_up_exps.weight",
          stack({part(reshape(part(experts, 0, 1), {6, 8}), 3, 3), part(reshape(part(experts, 1, 1), {6, 8}), 3, 3)}));
    m.same("blk.1.ffn_down_exps.weight", in + "block_sparse_moe.output_linear.weight", {2, 8, 3});
    m.same("blk.1.ffn_gate_inp.weight", in + "block_sparse_moe.router.layer.weight", {2, 8});
    const Checkpoint<float> checkpoint = m.open(folder);
    m.check(checkpoint);
    const Configuration& c = checkpoint.configuration;
    CHECK(c.text({"model_type"}) == "granitemoehybrid");
    CHECK(c.texts({"layer_types"}) == std::vector<std::string>{"mamba", "attention"});
    CHECK(c.number({"residual_multiplier"}) == 0.22);
    CHECK(c.number({"attention_multiplier"}) == 0.015625);
    CHECK(c.text({"position_embedding_type"}) == "nope");
  }
  {
    const TemporaryFolder folder;
    Model m = model("granitehybrid", 1, 8);
    mamba2_sizes(m, 4, 4, 1, 3);
    m.size("attention.head_count", 2);
    m.size("attention.head_count_kv", 2);
    m.keys.push_back(gguf::boolean("granitehybrid.rope.scaling.finetuned", true));
    m.put("blk.0.attn_q.weight", interleaved(m.fresh("model.layers.0.self_attn.q_proj.weight", {8, 8}), 2));
    m.put("blk.0.attn_q.bias", interleaved(m.fresh("model.layers.0.self_attn.q_proj.bias", {8}), 2));
    m.same("blk.0.ffn_gate.weight", "model.layers.0.feed_forward.gate_proj.weight", {5, 8});
    m.same("blk.0.ffn_norm.weight", "model.layers.0.pre_ff_layernorm.weight", {8});
    m.same("output_norm.weight", "model.final_layernorm.weight", {8});
    const Checkpoint<float> checkpoint = m.open(folder);
    m.check(checkpoint);
    CHECK(checkpoint.configuration.text({"model_type"}) == "bamba");
  }
  {
    const TemporaryFolder folder;
    Model m = model("nemotron_h_moe", 4, 8);
    mamba2_sizes(m, 4, 4, 2, 3);
    m.size("attention.head_count", 2);
    m.keys.push_back(gguf::integers("nemotron_h_moe.attention.head_count_kv", {0, 1, 0, 0}));
    m.keys.push_back(gguf::integers("nemotron_h_moe.feed_forward_length", {0, 0, 5, 7}));
    m.same("blk.0.attn_norm.weight", "backbone.layers.0.norm.weight", {8});
    mamba2_mixer(m, 0, "backbone.layers.0.mixer.", 8, 4, 4, 2, 3);
    m.put("blk.1.attn_k.weight", interleaved(m.fresh("backbone.layers.1.mixer.k_proj.weight", {4, 8}), 1));
    m.same("blk.1.attn_output.weight", "backbone.layers.1.mixer.o_proj.weight", {8, 8});
    m.same("blk.2.ffn_up.weight", "backbone.layers.2.mixer.up_proj.weight", {5, 8});
    m.same("blk.2.ffn_down.weight", "backbone.layers.2.mixer.down_proj.weight", {8, 5});
    m.same("blk.3.ffn_gate_inp.weight", "backbone.layers.3.mixer.gate.weight", {2, 8});
    m.same("blk.3.exp_probs_b.bias", "backbone.layers.3.mixer.gate.e_score_correction_bias", {2});
    m.put("blk.3.ffn_down_exps.weight", stack({m.fresh("backbone.layers.3.mixer.experts.0.down_proj.weight", {8, 7}),
                                               m.fresh("backbone.layers.3.mixer.experts.1.down_proj.weight", {8, 7})}));
    m.same("blk.3.ffn_up_shexp.weight", "backbone.layers.3.mixer.shared_experts.up_proj.weight", {9, 8});
    m.same("blk.3.ffn_latent_down.weight", "backbone.layers.3.mixer.fc1_latent_proj.weight", {4, 8});
    const Checkpoint<float> checkpoint = m.open(folder);
    m.check(checkpoint);
    CHECK(checkpoint.configuration.texts({"layers_block_type"}) == std::vector<std::string>{"mamba", "attention", "mlp", "moe"});
    CHECK(checkpoint.configuration.integer({"mamba_head_dim"}) == 4);
  }
}

TEST_CASE("GGUF: LFM2, Jamba, Kimi Linear", "[io]") {
  {
    const TemporaryFolder folder;
    Model m = model("lfm2", 2, 8);
    m.size("attention.head_count", 2);
    m.size("shortconv.l_cache", 3);
    m.keys.push_back(gguf::integers("lfm2.attention.head_count_kv", {0, 1}));
    m.same("token_embd_norm.weight", "model.embedding_norm.weight", {8});
    m.same("blk.0.attn_norm.weight", "model.layers.0.operator_norm.weight", {8});
    m.same("blk.0.ffn_norm.weight", "model.layers.0.ffn_norm.weight", {8});
    m.same("blk.0.shortconv.in_proj.weight", "model.layers.0.conv.in_proj.weight", {24, 8});
    m.put("blk.0.shortconv.conv.weight", reshape(m.fresh("model.layers.0.conv.conv.weight", {8, 1, 3}), {8, 3}));
    m.same("blk.0.shortconv.out_proj.weight", "model.layers.0.conv.out_proj.weight", {8, 8});
    m.same("blk.0.ffn_gate.weight", "model.layers.0.feed_forward.w1.weight", {12, 8});
    m.same("blk.0.ffn_up.weight", "model.layers.0.feed_forward.w3.weight", {12, 8});
    m.same("blk.0.ffn_down.weight", "model.layers.0.feed_forward.w2.weight", {8, 12});
    m.same("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", {8, 8});
    m.same("blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_layernorm.weight", {4});
    m.same("blk.1.attn_output.weight", "model.layers.1.self_attn.out_proj.weight", {8, 8});
    const Checkpoint<float> checkpoint = m.open(folder);
    m.check(checkpoint);
    CHECK(checkpoint.configuration.texts({"layer_types"}) == std::vector<std::string>{"conv", "full_attention"});
    CHECK(checkpoint.configuration.boolean({"block_auto_adjust_ff_dim"}) == false);
  }
  {
    const TemporaryFolder folder;
    Model m = model("jamba", 1, 8);
    m.size("ssm.inner_size", 16);
    m.size("attention.head_count", 2);
    m.size("attention.head_count_kv", 1);
    const std::string in = "model.layers.0.mamba.";
    m.expected[in + "A"] = rate(m.make({16, 3}));
    m.put("blk.0.ssm_a", m.expected[in + "A"]);
    m.same("blk.0.ssm_d", in + "D", {16});
    m.same("blk.0.ssm_x.weight", in + "x_proj.weight", {8, 16});
    m.same("blk.0.ssm_dt.weight", in + "dt_proj.weight", {16, 2});
    m.same("blk.0.ssm_dt.bias", in + "dt_proj.bias", {16});
    m.same("blk.0.ssm_dt_norm.weight", in + "dt_layernorm.weight", {2});
    m.same("blk.0.ssm_b_norm.weight", in + "b_layernorm.weight", {3});
    m.same("blk.0.ssm_c_norm.weight", in + "c_layernorm.weight", {3});
    m.same("blk.0.ffn_gate_inp.weight", "model.layers.0.feed_forward.router.weight", {2, 8});
    m.put("blk.0.ffn_gate_exps.weight", stack({m.fresh("model.layers.0.feed_forward.experts.0.gate_proj.weight", {5, 8}),
                                               m.fresh("model.layers.0.feed_forward.experts.1.gate_proj.weight", {5, 8})}));
    const Checkpoint<float> checkpoint = m.open(folder);
    m.check(checkpoint);
    CHECK(checkpoint.configuration.integer({"mamba_expand"}) == 2);
  }
  {
    const TemporaryFolder folder;
    Model m = model("kimi-linear", 2, 8);
    m.size("attention.head_count", 2);
    m.keys.push_back(gguf::integers("kimi-linear.attention.head_count_kv", {0, 1}));
    m.size("attention.key_length_mla", 5);
    m.size("rope.dimension_count", 2);
    const std::string in = "model.layers.0.self_attn.";
    m.put("blk.0.ssm_conv1d_q.weight", reshape(m.fresh(in + "q_conv1d.weight", {6, 1, 4}), {1, 6, 1, 4}));
    m.same("blk.0.ssm_f_a.weight", in + "f_a_proj.weight", {3, 8});
    m.same("blk.0.ssm_g_b.weight", in + "g_b_proj.weight", {6, 3});
    m.same("blk.0.ssm_beta.weight", in + "b_proj.weight", {2, 8});
    m.expected[in + "A"] = rate(m.make({2}));
    m.put("blk.0.ssm_a", reshape(m.expected[in + "A"], {1, 1, 2, 1}));
    m.same("blk.0.ssm_dt.bias", in + "dt_bias", {6});
    m.same("blk.0.ssm_norm.weight", in + "o_norm.weight", {3});
    m.same("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", {9, 8});
    m.same("blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight", {8});
    const std::string mla = "model.layers.1.self_attn.";
    m.same("blk.1.attn_kv_a_mqa.weight", mla + "kv_a_proj_with_mqa.weight", {6, 8});
    m.same("blk.1.attn_kv_a_norm.weight", mla + "kv_a_layernorm.weight", {4});
    const T kv = reshape(m.fresh(mla + "kv_b_proj.weight", {2 * (3 + 2), 4}), {2, 5, 4});  // two heads, n = 3, v = 2, latent 4
    const T by_axis = permute(kv, {1, 0, 2});
    m.put("blk.1.attn_k_b.weight", permute(part(by_axis, 0, 3), {1, 2, 0}));
    m.put("blk.1.attn_v_b.weight", permute(part(by_axis, 3, 2), {1, 0, 2}));
    m.put("blk.1.ffn_down_exps.weight", stack({m.fresh("model.layers.1.block_sparse_moe.experts.0.w2.weight", {8, 5}),
                                               m.fresh("model.layers.1.block_sparse_moe.experts.1.w2.weight", {8, 5})}));
    m.same("blk.1.exp_probs_b.bias", "model.layers.1.block_sparse_moe.gate.e_score_correction_bias", {2});
    m.same("blk.1.ffn_gate_shexp.weight", "model.layers.1.block_sparse_moe.shared_experts.gate_proj.weight", {5, 8});
    const Checkpoint<float> checkpoint = m.open(folder);
    m.check(checkpoint);
    CHECK(checkpoint.configuration.integer({"qk_nope_head_dim"}) == 3);
    CHECK(checkpoint.configuration.texts({"layer_types"}) == std::vector<std::string>{"linear_attention", "full_attention"});
  }
}

TEST_CASE("GGUF: RWKV-6 and RWKV-7 come back under BlinkDL's names", "[io]") {
  const auto turned = [](const T& t) { return permute(t, {1, 0}); };
  {
    const TemporaryFolder folder;
    Model m = model("rwkv6", 3, 8);
    m.size("wkv.head_size", 4);
    m.size("rescale_every_n_layers", 1);
    m.same("token_embd.weight", "emb.weight", {6, 8});
    m.same("token_embd_norm.bias", "blocks.0.ln0.bias", {8});
    m.same("output_norm.weight", "ln_out.weight", {8});
    m.same("output.weight", "head.weight", {6, 8});
    const std::string in = "blocks.2.att.";
    m.same("blk.2.attn_norm.weight", "blocks.2.ln1.weight", {8});
    m.same("blk.2.attn_norm_2.weight", "blocks.2.ln2.weight", {8});
    m.put("blk.2.time_mix_lerp_x.weight", reshape(m.fresh(in + "time_maa_x", {1, 1, 8}), {8}));
    std::vector<T> mixes;
    for (const std::string letter : {"w", "k", "v", "r", "g"}) mixes.push_back(reshape(m.fresh(in + "time_maa_" + letter, {1, 1, 8}), {8}));
    m.put("blk.2.time_mix_lerp_fused.weight", reshape(stack(mixes), {5, 1, 1, 8}));
    m.put("blk.2.time_mix_w1.weight", turned(m.fresh(in + "time_maa_w1", {8, 15})));
    m.put("blk.2.time_mix_w2.weight", permute(m.fresh(in + "time_maa_w2", {5, 3, 8}), {0, 2, 1}));
    m.put("blk.2.time_mix_decay_w1.weight", turned(m.fresh(in + "time_decay_w1", {8, 6})));
    m.put("blk.2.time_mix_decay_w2.weight", turned(m.fresh(in + "time_decay_w2", {6, 8})));
    m.put("blk.2.time_mix_decay.weight", reshape(m.fresh(in + "time_decay", {1, 1, 8}), {8}));
    m.same("blk.2.time_mix_first.weight", in + "time_faaaa", {2, 4});
    m.same("blk.2.time_mix_key.weight", in + "key.weight", {8, 8});
    m.same("blk.2.time_mix_gate.weight", in + "gate.weight", {8, 8});
    m.same("blk.2.time_mix_ln.weight", in + "ln_x.weight", {8});
    m.put("blk.2.time_mix_output.weight", each(m.fresh(in + "output.weight", {8, 8}), [](float x) { return x / 4; }));
    m.put("blk.2.channel_mix_value.weight", each(m.fresh("blocks.2.ffn.value.weight", {8, 28}), [](float x) { return x / 4; }));
    m.put("blk.2.channel_mix_lerp_k.weight", reshape(m.fresh("blocks.2.ffn.time_maa_k", {1, 1, 8}), {8}));
    const Checkpoint<float> checkpoint = m.open(folder);
    m.check(checkpoint);
    CHECK(checkpoint.configuration.text({"model_type"}) == "rwkv6");
    CHECK(checkpoint.configuration.integer({"head_size"}) == 4);
    CHECK(checkpoint.configuration.number({"group_norm_epsilon"}) == 64e-5);
  }
  {
    const TemporaryFolder folder;
    Model m = model("rwkv7", 2, 8);
    m.size("wkv.head_size", 4);
    const std::string in = "blocks.1.att.";
    std::vector<T> mixes;
    for (const std::string letter : {"r", "w", "k", "v", "a", "g"}) mixes.push_back(reshape(m.fresh(in + "x_" + letter, {1, 1, 8}), {8}));
    m.put("blk.1.time_mix_lerp_fused.weight", reshape(stack(mixes), {6, 1, 1, 8}));
    for (const std::string what : {"w", "a", "v"}) {
      m.put("blk.1.time_mix_" + what + "0.weight", reshape(m.fresh(in + what + "0", {1, 1, 8}), {8}));
      m.put("blk.1.time_mix_" + what + "1.weight", turned(m.fresh(in + what + "1", {8, 3})));
      m.put("blk.1.time_mix_" + what + "2.weight", turned(m.fresh(in + what + "2", {3, 8})));
    }
    m.put("blk.0.time_mix_v1.weight", m.make({3, 8}));  // a copy in the first layer that nothing reads
    m.put("blk.1.time_mix_k_k.weight", reshape(m.fresh(in + "k_k", {1, 1, 8}), {8}));
    m.put("blk.1.time_mix_r_k.weight", reshape(m.fresh(in + "r_k", {2, 4}), {8}));
    m.same("blk.1.time_mix_receptance.weight", in + "receptance.weight", {8, 8});
    m.put("blk.1.channel_mix_lerp_k.weight", reshape(m.fresh("blocks.1.ffn.x_k", {1, 1, 8}), {8}));
    m.same("blk.1.channel_mix_key.weight", "blocks.1.ffn.key.weight", {32, 8});
    m.check(m.open(folder));
  }
}

TEST_CASE("GGUF: what is known to nothing keeps its name; types that are not read are named when they are", "[io]") {
  const TemporaryFolder folder;
  Model m = model("mamba", 1, 32);
  m.same("blk.0.something.weight", "blk.0.something.weight", {2, 3});
  m.file.push_back({"blk.0.ssm_in.weight", {4, 32}, 16, std::string(4 * 66, '\1')});  // IQ2_XXS
  m.file.push_back({"blk.0.ssm_out.weight", {4, 32}, 8, std::string(4 * 34, '\1')});  // Q8_0
  const Checkpoint<float> checkpoint = m.open(folder);
  CHECK(checkpoint.source->read("blk.0.something.weight").size() == 6);
  CHECK(checkpoint.source->read("backbone.layers.0.mixer.out_proj.weight").rows() == 4);
  CHECK(checkpoint.source->stored("backbone.layers.0.mixer.out_proj.weight")->dtype == Dtype::Q8_0);
  const auto error = error_of([&] { (void)checkpoint.source->read("backbone.layers.0.mixer.in_proj.weight"); });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("tensor blk.0.ssm_in.weight (backbone.layers.0.mixer.in_proj.weight) is IQ2_XXS"));
  CHECK_FALSE(checkpoint.source->stored("backbone.layers.0.mixer.in_proj.weight"));
}

TEST_CASE("GGUF: a model in several files", "[io]") {
  const TemporaryFolder folder;
  const auto keys = [](std::uint32_t number) {
    std::vector<std::string> all{gguf::key("split.no", 2, u16(number)), gguf::key("split.count", 2, u16(2)),
                                 gguf::key("split.tensors.count", 5, u32(2))};
    if (number == 0) {
      all.push_back(gguf::string("general.architecture", "mamba"));
      all.push_back(gguf::integer("mamba.block_count", 1));
    }
    return all;
  };
  const std::string row = bytes_of<float>({1, 2});
  write_bytes(folder / "m-00001-of-00002.gguf", gguf::file(keys(0), {{"token_embd.weight", {1, 2}, 0, row}}));
  write_bytes(folder / "m-00002-of-00002.gguf", gguf::file(keys(1), {{"output.weight", {1, 2}, 0, row}}));
  for (const fs::path& path : {folder.path(), folder / "m-00001-of-00002.gguf", folder / "m-00002-of-00002.gguf"}) {
    const Checkpoint<float> checkpoint = open_checkpoint<float>(path);
    CHECK(checkpoint.source->names() == std::vector<std::string>{"backbone.embeddings.weight", "lm_head.weight"});
    CHECK(checkpoint.source->read("lm_head.weight")(0, 1) == 2);
  }
  write_bytes(folder / "m-00002-of-00002.gguf", gguf::file(keys(0), {{"output.weight", {1, 2}, 0, row}}));
  const auto first_twice = error_of([&] { (void)open_checkpoint<float>(folder / "m-00001-of-00002.gguf"); });
  REQUIRE(first_twice);
  CHECK_THAT(first_twice->message, contains_text("are not those of file 2 of 2"));
  fs::remove(folder / "m-00002-of-00002.gguf");
  const auto missing = error_of([&] { (void)open_checkpoint<float>(folder.path()); });
  REQUIRE(missing);
  CHECK_THAT(missing->message, contains_text("m-00002-of-00002.gguf"));
  // Nor may one tensor be in two of them.
  write_bytes(folder / "m-00002-of-00002.gguf", gguf::file(keys(1), {{"token_embd.weight", {1, 2}, 0, row}}));
  const auto tensor_twice = error_of([&] { (void)open_checkpoint<float>(folder.path()); });
  REQUIRE(tensor_twice);
  CHECK_THAT(tensor_twice->message, contains_text("m-00002-of-00002.gguf: tensor token_embd.weight is in another file of the model too"));
  write_bytes(folder / "m-00002-of-00002.gguf",
              gguf::file(keys(1), {{"output.weight", {1, 2}, 0, row}, {"output_norm.weight", {2}, 0, row}}));
  const auto one_more = error_of([&] { (void)open_checkpoint<float>(folder.path()); });
  REQUIRE(one_more);
  CHECK_THAT(one_more->message, contains_text("m-00001-of-00002.gguf: the 2 files have 3 tensors, expected 2"));
  // What files must be called, whatever their number.
  write_bytes(folder / "alone.gguf", gguf::file({gguf::key("split.count", 2, u16(12))}, {{"output.weight", {1, 2}, 0, row}}));
  const auto alone = error_of([&] { (void)open_checkpoint<float>(folder / "alone.gguf"); });
  REQUIRE(alone);
  CHECK_THAT(alone->message, contains_text("alone.gguf: is one of 12 files of a model, expected a name that ends in -00001-of-00012.gguf"));
}
