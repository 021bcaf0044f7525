// A GGUF model's tensors under the names of the public checkpoints, with the changes that the public converter makes undone.
//
// | change of the converter                                       | undone how                                                          |
// |---------------------------------------------------------------|---------------------------------------------------------------------|
// | ssm_a = -exp(A_log)                                           | `A`, as stored: layers/decay_rate.hpp takes the logarithm           |
// | convolutions squeezed; D, norms with other axes               | `conv1d.weight` (E, 1, W), `D` (H), `norm.weight` (E)               |
// | 1 + w of the norms of Qwen3-Next and Qwen3.5 added            | left: the key `norm_weights_include_one` says so                    |
// | qwen35: value heads tiled (head h reads key head h mod H)     | rows and columns put back, by groups                                |
// | experts' gate and up joined (--fuse-gate-up-exps)             | taken apart, or left where the public files have them joined        |
// | qwen3next: fused rows taken apart or not                      | always as Qwen3.5 names them: `in_proj_qkv`, `_z`, `_b`, `_a`       |
// | q and k rows of Granite, Bamba, Nemotron-H interleaved        | rows put back in halves                                             |
// | Granite's gate and up taken apart; experts stacked            | `input_linear` joined; experts one by one where the files have that |
// | Falcon-H1's multipliers folded in                             | left: its keys are 1, and `multipliers_folded` says so              |
// | Kimi: kv_b taken apart, k_b transposed                        | `kv_b_proj.weight` joined                                           |
// | RWKV: mixes fused, low-rank factors transposed                | taken apart and transposed back, under BlinkDL's names              |
// | RWKV-6: weights divided by 2^(layer / rescale_every)          | multiplied back, which is exact                                     |
//
// A tensor that is not recognised keeps its name in the file, so that the check for unused tensors reports it; layers of an extra prediction
// head are named `mtp.*`, vision parts `visual.*`. Ollama's converter differs in a few names and in one key, which are read too.
// Keys of the architecture that may change the model and are not understood are errors (gguf_keys.hpp).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_configuration.hpp>
#include <implicit_attention/io/gguf_families.hpp>
#include <implicit_attention/io/gguf_renamer.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Takes one model's tensors to their public names.
class GgufNames final : public GgufRenamer {
 public:
  GgufNames(const GgufModel& model, const GgufKeys& keys, const Configuration& configuration) : GgufRenamer(model, keys) {
    // Bamba is converted to Granite's architecture.
    const bool bamba = configuration.text({"model_type"}) == "bamba";
    for (const GgufFamily& family : gguf_families)
      if (family.architecture == (bamba ? std::string_view("bamba") : std::string_view(keys.architecture()))) family_ = family;
    if (family_.architecture.starts_with("qwen")) find_value_order();
  }

 private:
  // (E, W), or with axes of size 1, as (E, 1, W).
  [[nodiscard]] Tensor convolution(Tensor tensor) const {
    std::vector<Index> shape;
    for (const Index size : tensor.shape)
      if (size != 1) shape.push_back(size);
    if (tensor.shape.size() == 2) shape = tensor.shape;
    if (shape.size() != 2) wrong_shape(tensor, "(channels, taps)");
    return shaped(std::move(tensor), {shape[0], 1, shape[1]});
  }
  // Row i of the result is row from(i).
  template <class From>
  [[nodiscard]] Tensor rows_in_order(const Tensor& tensor, From from) const {
    const StoredTensor& stored = tensor.parts.front().stored;
    return whole_tensor(tensor.shape, picked_rows(stored, stored.rows, from));
  }
  template <class From>
  [[nodiscard]] Tensor columns_in_order(Tensor tensor, From from) const {
    std::vector<Index> order;
    const Index columns = tensor.shape.back();
    for (Index i = 0; i < columns; ++i) order.push_back(from(i));
    tensor.column_order = std::make_shared<const std::vector<Index>>(std::move(order));
    return tensor;
  }
  // A matrix by rows, a vector by its numbers.
  template <class From>
  [[nodiscard]] Tensor in_order(const Tensor& tensor, From from) const {
    return tensor.shape.size() == 1 ? columns_in_order(tensor, from) : rows_in_order(tensor, from);
  }

  [[nodiscard]] std::string layers() const override { return std::string(family_.layers); }
  void outer(const std::string& name, const Tensor& tensor) override {
    const bool lfm2 = family_.architecture.starts_with("lfm2");
    if (name == "token_embd.weight") return keep(std::string(family_.embedding) + ".weight", tensor);
    if (name == "output_norm.weight" || (lfm2 && name == "token_embd_norm.weight"))
      return keep(std::string(family_.final_norm) + ".weight", tensor);
    if (name == "output_norm.bias") return keep(std::string(family_.final_norm) + ".bias", tensor);
    if (name == "output.weight") return keep("lm_head.weight", tensor);
    keep(name, tensor);
  }

  bool layer_tensor(Index layer, std::string_view part, std::string_view suffix, const Tensor& tensor) override {
    const std::string prefix = message(family_.layers, layer, ".");
    const auto as = [&](std::string_view below, std::string_view name, const auto& kept, std::string_view end) {
      keep(message(prefix, below, name, end), kept);
      return true;
    };
    if (part == "attn_norm") return as("", family_.mixer_norm, tensor, suffix);
    const std::string_view own_norm = family_.architecture.starts_with("qwen") ? "post_attention_norm" : "ffn_norm";
    const bool norms = part == own_norm || (!names_alone() && (part == "ffn_norm" || part == "post_attention_norm"));
    if (norms && !family_.feed_forward_norm.empty()) return as("", family_.feed_forward_norm, tensor, suffix);
    return state_space(layer, part, suffix, tensor, as) || attention(layer, part, suffix, tensor, as) ||
           feed_forward(layer, part, suffix, tensor, as);
  }

  template <class As>
  bool state_space(Index layer, std::string_view part, std::string_view suffix, const Tensor& tensor, As as) {
    const std::string_view family = family_.architecture, mixer = family_.mixer;
    const bool first = family == "mamba" || family == "jamba", qwen = family.starts_with("qwen"), kimi = family == "kimi-linear";
    const auto flattened = [&] { return flat(tensor); };
    const auto flat_by_heads = [&] { return ordered(flat(tensor), 1); };
    const auto by_heads = [&] { return ordered(tensor, 1); };
    if (part == "ssm_a") return first ? as(mixer, "A", tensor, "") : as(mixer, "A", flat_by_heads, "");
    if (part == "ssm_d") return as(mixer, "D", flattened, "");
    if (part == "ssm_conv1d") {
      if (suffix != ".weight") return as(mixer, "conv1d", tensor, suffix);
      if (first || family == "mamba2") expect_sibling(layer, "ssm_conv1d.bias");  // without it the layer would be another in silence
      return as(
          mixer, "conv1d", [&] { return qwen ? value_rows_last(convolution(tensor)) : convolution(tensor); }, suffix);
    }
    if (part == "ssm_dt" && !first && suffix != ".weight") return as(mixer, "dt_bias", flat_by_heads, "");
    if (part == "ssm_dt") return as(mixer, "dt_proj", tensor, suffix);
    if (part == "ssm_norm") return as(mixer, kimi ? "o_norm" : "norm", flattened, suffix);
    if (part == "ssm_out")
      return as(
          mixer, "out_proj", [&] { return qwen ? value_columns(tensor) : tensor; }, suffix);
    if (qwen && part == "ssm_in") return fused_rows(tensor, suffix, as);
    if (qwen && part == "attn_qkv")
      return as(
          mixer, "in_proj_qkv", [&] { return value_rows_last(tensor); }, suffix);
    if (qwen && part == "attn_gate")
      return as(
          mixer, "in_proj_z", [&] { return ordered(tensor, value_width()); }, suffix);
    if (qwen && part == "ssm_alpha") return as(mixer, "in_proj_a", by_heads, suffix);
    if (qwen && part == "ssm_beta") return as(mixer, "in_proj_b", by_heads, suffix);
    if (qwen && part == "ssm_ba") {
      // Rows [b r | a r], once a key head.
      const auto half = [&](Index second) {
        const Index heads = keys_->size("ssm.group_count"), each = value_heads() / heads;
        check_rows(tensor, 2 * value_heads());
        Tensor made = whole_tensor(tensor.shape, picked_rows(tensor.parts.front().stored, value_heads(),
                                                             [&](Index i) { return i / each * 2 * each + second * each + i % each; }));
        made.shape.front() = value_heads();
        return made;
      };
      return as(
                 mixer, "in_proj_b", [&] { return half(0); }, suffix) &&
             as(
                 mixer, "in_proj_a", [&] { return half(1); }, suffix);
    }
    for (const char letter : {'q', 'k', 'v'})
      if (kimi && part == message("ssm_conv1d_", letter))
        return as(
            mixer, message(letter, "_conv1d"), [&] { return convolution(tensor); }, suffix);
    struct Rename {
      std::string_view gguf, ours;
    };
    for (const Rename& each :
         {Rename{"ssm_in", "in_proj"}, Rename{"ssm_x", "x_proj"}, Rename{"ssm_dt_norm", "dt_layernorm"},
          Rename{"ssm_b_norm", "b_layernorm"}, Rename{"ssm_c_norm", "c_layernorm"}, Rename{"ssm_f_a", "f_a_proj"},
          Rename{"ssm_f_b", "f_b_proj"}, Rename{"ssm_g_a", "g_a_proj"}, Rename{"ssm_g_b", "g_b_proj"}, Rename{"ssm_beta", "b_proj"},
          Rename{"shortconv.in_proj", "in_proj"}, Rename{"shortconv.out_proj", "out_proj"}})
      if (part == each.gguf && part.starts_with("shortconv.") == family.starts_with("lfm2")) return as(mixer, each.ours, tensor, suffix);
    if (part == "shortconv.conv")
      return as(
          mixer, "conv", [&] { return suffix == ".weight" ? convolution(tensor) : tensor; }, suffix);
    return false;
  }

  // Older files of Qwen3-Next: rows [q K | k K | v rV | z rV], once a key head.
  template <class As>
  bool fused_rows(const Tensor& tensor, std::string_view suffix, As as) {
    if (names_alone()) return as(family_.mixer, "in_proj_qkv", tensor, suffix) && as(family_.mixer, "in_proj_z", tensor, suffix);
    const Index heads = keys_->size("ssm.group_count"), keys = keys_->size("ssm.state_size"),
                values = value_heads() / heads * value_width();
    const Index group = 2 * keys + 2 * values, all_keys = heads * keys, all_values = heads * values;
    const auto picked = [&](Index rows, const auto& from) {
      check_rows(tensor, heads * group);
      Tensor made = whole_tensor(tensor.shape, picked_rows(tensor.parts.front().stored, rows, from));
      made.shape.front() = rows;
      return made;
    };
    const auto qkv = [&](Index i) {
      if (i < all_keys) return i / keys * group + i % keys;
      if (i < 2 * all_keys) return (i - all_keys) / keys * group + keys + i % keys;
      const Index v = i - 2 * all_keys;
      return v / values * group + 2 * keys + v % values;
    };
    const auto z = [&](Index i) { return i / values * group + 2 * keys + values + i % values; };
    return as(
               family_.mixer, "in_proj_qkv", [&] { return picked(2 * all_keys + all_values, qkv); }, suffix) &&
           as(
               family_.mixer, "in_proj_z", [&] { return picked(all_values, z); }, suffix);
  }

  // Qwen3.5's value heads: the file has them tiled, head t reading key head t mod H; the checkpoints grouped, head h reading h / r.
  // Ollama's converter says which in a key, and writes Qwen3-Next, grouped, under Qwen3.5's name too: its tensors ssm_ba tell.
  void find_value_order() {
    const auto joined = std::find_if(model_->tensors.begin(), model_->tensors.end(),
                                     [](const auto& named) { return std::string_view(named.first).ends_with(".ssm_ba.weight"); });
    const bool grouped = joined != model_->tensors.end();
    const bool tiled = keys_->boolean("ssm.v_head_reordered").value_or(family_.architecture.starts_with("qwen35") && !grouped);
    if (tiled && grouped)
      raise(ErrorKind::file, where_, ": metadata key ", keys_->architecture(),
            ".ssm.v_head_reordered is true, expected false: ", printable(joined->first), " has its rows by key heads");
    tiled_ = tiled && keys_->size("ssm.group_count") != value_heads();
  }
  [[nodiscard]] bool tiled() const { return tiled_; }
  [[nodiscard]] Index value_heads() const {
    const Index keys = keys_->size("ssm.group_count"), values = keys_->size("ssm.time_step_rank");
    if (values % keys != 0 || values > 100000)
      raise(ErrorKind::file, where_, ": ", values, " value heads (ssm.time_step_rank), expected a multiple of ssm.group_count, ", keys);
    return values;
  }
  [[nodiscard]] Index value_width() const {
    const Index inner = keys_->size("ssm.inner_size");
    if (inner % value_heads() != 0)
      raise(ErrorKind::file, where_, ": ssm.inner_size ", inner, " is no multiple of ", value_heads(), " heads");
    return inner / value_heads();
  }
  void check_rows(const Tensor& tensor, Index rows) const {
    if (tensor.shape.empty() || tensor.parts.front().stored.rows != rows || tensor.shape.front() != rows)
      wrong_shape(tensor, message(rows, " rows"));
  }
  [[nodiscard]] Index from_tiled(Index i, Index width) const {
    const Index keys = keys_->size("ssm.group_count"), each = value_heads() / keys, head = i / width;
    return (head % each * keys + head / each) * width + i % width;
  }
  // Numbers of a vector or rows of a matrix, `width` a value head.
  [[nodiscard]] Tensor ordered(Tensor tensor, Index width) const {
    if (!tiled()) return tensor;
    const Index count = tensor.shape.front();
    if (tensor.shape.size() > 2 || count != value_heads() * width) wrong_shape(tensor, message(value_heads() * width, " rows"));
    return in_order(tensor, [&](Index i) { return from_tiled(i, width); });
  }
  // Rows of q and k, then those of the value heads.
  [[nodiscard]] Tensor value_rows_last(const Tensor& tensor) const {
    if (!tiled()) return tensor;
    const Index before = 2 * keys_->size("ssm.group_count") * keys_->size("ssm.state_size"), width = value_width();
    check_rows(tensor, before + value_heads() * width);
    return rows_in_order(tensor, [&](Index i) { return i < before ? i : before + from_tiled(i - before, width); });
  }
  [[nodiscard]] Tensor value_columns(const Tensor& tensor) const {
    if (!tiled()) return tensor;
    if (tensor.shape.size() != 2 || tensor.shape.back() != value_heads() * value_width())
      wrong_shape(tensor, message("(width, ", value_heads() * value_width(), ")"));
    return columns_in_order(tensor, [&](Index i) { return from_tiled(i, value_width()); });
  }

  template <class As>
  bool attention(Index layer, std::string_view part, std::string_view suffix, const Tensor& tensor, As as) {
    const std::string_view family = family_.architecture, below = family_.attention;
    const bool lfm2 = family.starts_with("lfm2");
    const bool interleaved = family == "granitehybrid" || family == "bamba" || family.starts_with("nemotron");
    const auto with_halves = [&](std::string_view heads) {
      return [&, heads] { return interleaved ? halves(tensor, keys_->of_layer(heads, layer)) : tensor; };
    };
    if (part == "attn_q") return as(below, "q_proj", with_halves("attention.head_count"), suffix);
    if (part == "attn_k") return as(below, "k_proj", with_halves("attention.head_count_kv"), suffix);
    if (part == "attn_v") return as(below, "v_proj", tensor, suffix);
    if (part == "attn_output") return as(below, lfm2 ? "out_proj" : "o_proj", tensor, suffix);
    if (part == "attn_q_norm") return as(below, lfm2 ? "q_layernorm" : "q_norm", tensor, suffix);
    if (part == "attn_k_norm") return as(below, lfm2 ? "k_layernorm" : "k_norm", tensor, suffix);
    if (part == "attn_q_a") return as(below, "q_a_proj", tensor, suffix);
    if (part == "attn_q_b") return as(below, "q_b_proj", tensor, suffix);
    if (part == "attn_q_a_norm") return as(below, "q_a_layernorm", tensor, suffix);
    if (part == "attn_kv_a_mqa") return as(below, "kv_a_proj_with_mqa", tensor, suffix);
    if (part == "attn_kv_a_norm") return as(below, "kv_a_layernorm", tensor, suffix);
    if (part == "attn_kv_b") return as(below, "kv_b_proj", tensor, suffix);
    if (part == "attn_k_b")
      return as(
          below, "kv_b_proj", [&] { return joined_keys_and_values(layer, tensor); }, suffix);
    return part == "attn_v_b" && (expect_sibling(layer, "attn_k_b.weight"), true);
  }
  // k_b (heads, latent, n) and v_b (heads, v, latent) become rows [n | v] of each head.
  [[nodiscard]] Tensor joined_keys_and_values(Index layer, const Tensor& tensor) {
    const Tensor& values = sibling(layer, "attn_v_b.weight");
    constexpr Index most_heads = 4096;
    if (tensor.shape.size() != 3 || values.shape.size() != 3 || values.shape[0] != tensor.shape[0] || values.shape[2] != tensor.shape[1] ||
        tensor.shape[0] > most_heads)
      wrong_shape(tensor, message("(heads, latent, keys) with at most ", most_heads, " heads, as attn_v_b is ", shape_text(values.shape)));
    const Index heads = tensor.shape[0], latent = tensor.shape[1], keys = tensor.shape[2], width = values.shape[1];
    Tensor joined;
    joined.shape = {heads * (keys + width), latent};
    for (Index head = 0; head < heads; ++head) {
      joined.parts.push_back({some_rows(tensor.parts.front().stored, head * latent, latent), false});
      transpose_part(joined.parts.back());
      joined.parts.push_back({some_rows(values.parts.front().stored, head * width, width), false});
    }
    return joined;
  }

  // Rows of each head from pairs (n, n + 1) back to halves (n, n + d/2).
  [[nodiscard]] Tensor halves(const Tensor& tensor, Index heads) const {
    const Index rows = tensor.shape.front();
    if (tensor.shape.size() > 2 || heads < 1 || rows % heads != 0 || rows / heads % 2 != 0)
      wrong_shape(tensor, message("rows for ", heads, " heads of even width"));
    const Index width = rows / heads;
    return in_order(tensor, [width](Index i) {
      const Index n = i % width;
      return i - n + n % (width / 2) * 2 + n / (width / 2);
    });
  }

  template <class As>
  bool feed_forward(Index layer, std::string_view part, std::string_view suffix, const Tensor& tensor, As as) {
    const std::string_view family = family_.architecture;
    const bool granite = family == "granitehybrid";
    if (part == "ffn_gate_inp" && !family_.router.empty()) return as("", family_.router, tensor, suffix);
    const auto row = [&] { return shaped(tensor, {1, *element_count(tensor.shape, 1)}); };
    if (part == "ffn_gate_inp_shexp") return as("mlp.", "shared_expert_gate", row, suffix);
    if (part == "exp_probs_b" && !family_.correction.empty()) return as("", family_.correction, tensor, "");
    // Ollama's names are the second.
    if (part == "ffn_latent_down" || part == "ffn_latent_in") return as("mixer.", "fc1_latent_proj", tensor, suffix);
    if (part == "ffn_latent_up" || part == "ffn_latent_out") return as("mixer.", "fc2_latent_proj", tensor, suffix);
    if (part == "ffn_gate_up_exps" && !family_.experts.empty()) {  // of each expert the gate's rows, then the up projection's
      if (granite) return as(family_.experts, "input_linear", tensor, suffix);
      if (family == "qwen35moe") return as(family_.experts, "gate_up_proj", tensor, "");
      if (!names_alone() && (tensor.shape.size() != 3 || tensor.shape[1] % 2 != 0)) wrong_shape(tensor, "(experts, 2 rows, columns)");
      return one_by_one(tensor, family_.expert_gate_up_down[0], suffix, as, 0, 2) &&
             one_by_one(tensor, family_.expert_gate_up_down[1], suffix, as, 1, 2);
    }
    constexpr std::array<std::string_view, 3> roles{"ffn_gate", "ffn_up", "ffn_down"};
    for (std::size_t role = 0; role < roles.size(); ++role) {
      if (!part.starts_with(roles[role])) continue;
      const std::string_view kind = part.substr(roles[role].size());
      if (granite && role < 2 && (kind.empty() || kind == "_shexp" || kind == "_exps")) {
        const std::string_view below = kind == "_exps" ? family_.experts : family_.feed_forward;
        if (role == 1) return expect_sibling(layer, message("ffn_gate", kind, suffix)), true;
        return as(
            below, "input_linear", [&] { return stacked(tensor, sibling(layer, message("ffn_up", kind, suffix))); }, suffix);
      }
      if (kind.empty() && !family_.feed_forward.empty()) return as(family_.feed_forward, family_.gate_up_down[role], tensor, suffix);
      if (kind == "_shexp" && !family_.shared.empty())
        return as(family_.shared, granite ? "output_linear" : family_.gate_up_down[role], tensor, suffix);
      if (kind != "_exps" || family_.experts.empty()) return false;
      if (granite) return as(family_.experts, "output_linear", tensor, suffix);
      if (family == "qwen35moe") {
        const auto both = [&] { return stacked(tensor, sibling(layer, message("ffn_up_exps", suffix))); };
        if (role == 0) return as(family_.experts, "gate_up_proj", both, "");
        if (role == 1) return expect_sibling(layer, message("ffn_gate_exps", suffix)), true;
        return as(family_.experts, "down_proj", tensor, "");
      }
      return one_by_one(tensor, family_.expert_gate_up_down[role], suffix, as);
    }
    return false;
  }

  // A tensor of all experts, split by them: as many as the metadata has, and no number that only a header claims.
  void expect_experts(const Tensor& tensor) const {
    constexpr Index most = 4096;
    if (tensor.shape.size() != 3) wrong_shape(tensor, "(experts, rows, columns)");
    const Index count = tensor.shape[0], experts = keys_->integer("expert_count").value_or(count);
    if (count != experts) wrong_shape(tensor, message("(", experts, ", rows, columns), as expert_count is ", experts));
    if (count > most) wrong_shape(tensor, message("at most ", most, " experts"));
  }
  // (n, F, D) as n matrices; of each the share `which` of `shares` equal ones.
  template <class As>
  bool one_by_one(const Tensor& tensor, std::string_view name, std::string_view suffix, As as, Index which = 0, Index shares = 1) {
    if (names_alone()) return as(family_.experts, message("0.", name), tensor, suffix);  // who misses them asks for the first of all
    expect_experts(tensor);
    const Index rows = tensor.shape[1] / shares;
    for (Index expert = 0; expert < tensor.shape[0]; ++expert)
      as(family_.experts, message(expert, ".", name),
         whole_tensor({rows, tensor.shape[2]}, some_rows(tensor.parts.front().stored, (expert * shares + which) * rows, rows)), suffix);
    return true;
  }
  // Rows of one, then rows of the other; of stacks, matrix by matrix.
  [[nodiscard]] Tensor stacked(const Tensor& a, const Tensor& b) const {
    if (a.shape != b.shape || a.shape.size() < 2) wrong_shape(a, message("the shape of its partner, ", shape_text(b.shape)));
    if (a.shape.size() > 2) expect_experts(a);
    Tensor both;
    both.shape = a.shape;
    const std::size_t axis = a.shape.size() - 2;
    const Index rows = a.shape[axis], all = a.parts.front().stored.rows;
    both.shape[axis] = 2 * rows;
    for (Index first = 0; first < all; first += rows)
      for (const Tensor* each : {&a, &b}) both.parts.push_back({some_rows(each->parts.front().stored, first, rows), false});
    return both;
  }

  GgufFamily family_;
  bool tiled_ = false;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
