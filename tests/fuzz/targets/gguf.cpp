// GGUF: key-values, tensors, and the translation of names and numbers.
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_model.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <io/archives.hpp>

#include "../readers.hpp"

static std::vector<std::string> seeds_of_gguf() {
  using namespace io_test::gguf;
  const auto keys = [](const std::string& name, const std::vector<std::pair<std::string, unsigned>>& sizes) {
    std::vector<std::string> all{string("general.architecture", name), integer(name + ".block_count", 2),
                                 integer(name + ".embedding_length", 4)};
    for (const auto& [key, value] : sizes) all.push_back(integer(name + "." + key, value));
    return all;
  };
  const auto t = [](const std::string& name, const std::vector<std::uint64_t>& shape) {
    std::uint64_t count = 1;
    for (const std::uint64_t size : shape) count *= size;
    return Tensor{name, shape, 0, fuzz::numbers(count)};
  };
  // Of each family the keys that it knows: another one ends the translation.
  using Sizes = std::vector<std::pair<std::string, unsigned>>;
  const Sizes attention{{"attention.head_count", 2}, {"attention.head_count_kv", 1}}, wkv{{"wkv.head_size", 2}},
      wkv_scaled{{"wkv.head_size", 2}, {"rescale_every_n_layers", 1}};
  Sizes heads{{"ssm.group_count", 2}, {"ssm.time_step_rank", 4}, {"ssm.inner_size", 8}, {"ssm.state_size", 2}};
  heads.insert(heads.end(), attention.begin(), attention.end());
  Sizes scaled = heads;
  scaled.emplace_back("logit_scale", 6);
  const std::string blocks(210, '\x2c');
  return {file(keys("mamba", {}), {t("token_embd.weight", {3, 4}),
                                   t("blk.0.ssm_a", {4, 2}),
                                   t("blk.0.ssm_conv1d.weight", {4, 2}),
                                   {"blk.0.ssm_in.weight", {1, 32}, 8, blocks.substr(0, 34)},
                                   {"blk.1.ssm_out.weight", {1, 256}, 14, blocks}}),
          file(keys("qwen35", heads),
               {t("blk.0.attn_qkv.weight", {16, 4}), t("blk.0.attn_gate.weight", {8, 4}), t("blk.0.ssm_out.weight", {4, 8}),
                t("blk.0.ssm_a", {4}), t("blk.0.ssm_conv1d.weight", {16, 3}), t("blk.1.ssm_alpha.weight", {4, 4})}),
          file(keys("qwen3next", heads), {t("blk.0.ssm_in.weight", {24, 2}), t("blk.0.ssm_ba.weight", {8, 2}),
                                          t("blk.0.ffn_up_exps.weight", {2, 3, 2}), t("blk.1.ffn_gate_up_exps.weight", {2, 4, 2})}),
          file(keys("granitehybrid", scaled),
               {t("blk.0.attn_q.weight", {8, 2}), t("blk.0.attn_k.bias", {4}), t("blk.0.ffn_gate.weight", {2, 4}),
                t("blk.0.ffn_up.weight", {2, 4}), t("blk.1.ssm_norm.weight", {2, 4}), t("blk.1.ssm_d", {4, 1})}),
          file(keys("kimi-linear", attention),
               {t("blk.0.attn_k_b.weight", {2, 2, 3}), t("blk.0.attn_v_b.weight", {2, 2, 2}), t("blk.1.ssm_a", {1, 1, 2, 1})}),
          file(keys("rwkv6", wkv_scaled), {t("blk.1.time_mix_w1.weight", {5, 4}), t("blk.1.time_mix_w2.weight", {5, 4, 1}),
                                           t("blk.1.time_mix_lerp_fused.weight", {5, 1, 1, 4}), t("blk.1.time_mix_output.weight", {4, 4}),
                                           t("blk.1.time_mix_first.weight", {2, 2})}),
          file(keys("rwkv7", wkv), {t("blk.1.time_mix_r_k.weight", {4}), t("blk.1.time_mix_lerp_fused.weight", {6, 1, 1, 4}),
                                    t("blk.1.time_mix_w1.weight", {3, 4})})};
}

FUZZ_TARGET(gguf) {
  fuzz::accepted([&] {
    const fuzz::GgufModel model = fuzz::open_gguf(fuzz::file_of(bytes));
    auto [table, configuration] = fuzz::translate_gguf(model);
    (void)configuration.keys();
    fuzz::read_everything(fuzz::TableSource<float>(std::move(table)));
  });
}
