// RWKV-5, RWKV-6 and RWKV-7 as whole models: public trained ones, the digit reverser with its known causes, and the dialects of names.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/random.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/backward.hpp>
#include <models/models.hpp>

namespace {

using namespace models_test;
using test_support::Draw;
namespace fs = std::filesystem;

double largest_difference(const Matrix<double>& a, const Matrix<double>& b) {
  REQUIRE(a.size() == b.size());
  const Eigen::Map<const Matrix<double>> other(b.data(), a.rows(), a.cols());
  const double largest = (a - other).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
  return largest == largest ? largest : 1e300;
}

template <class S>
LanguageModel<S> open_model(const fs::path& path) {
  const Checkpoint<S> checkpoint = open_checkpoint<S>(path);
  return load_language_model<S>(*checkpoint.source, checkpoint.configuration);
}

/// Logits, every y and, in double, every gradient that a file of expected numbers holds, within `tolerance` (absolute).
template <class S>
void check_expected(const LanguageModel<S>& model, const SafetensorsFile& expected, double tolerance) {
  const auto wanted = [&](const std::string& name) { return Matrix<double>(*expected.read<double>(name)); };
  const ForwardPass<S> pass = model.forward(integers(expected, "input_ids"), test_support::every_logit());
  CHECK(largest_difference(pass.logits.template cast<double>(), wanted("logits")) < tolerance);
  Index target = 0;
  pass.logits.bottomRows(1).row(0).maxCoeff(&target);
  CHECK(target == integers(expected, "target_token").front());
  const Index last = pass.tokens() - 1;
  const BackwardPass<S> back = backward(model, pass, logit_gradient(pass, last, target));
  for (Index layer = 0; layer < model.layer_count(); ++layer) {
    const std::string name = detail::message("layer", layer);
    INFO(name);
    const std::size_t index = static_cast<std::size_t>(layer);
    CHECK(largest_difference(pass.layers[index].y().matrix().template cast<double>(), wanted(name + ".y")) < tolerance);
    CHECK(largest_difference(back.layers[index].y.matrix().template cast<double>(), wanted(name + ".grad_y")) < tolerance);
    if (expected.find(name + ".linear_input") != nullptr)
      CHECK(largest_difference(pass.layers[index].mixer().reported_input.matrix().template cast<double>(), wanted(name + ".linear_input")) <
            tolerance);
    if (expected.find(name + ".recurrence") != nullptr)
      CHECK(largest_difference(Matrix<S>(model.implicit_attention(pass, layer).head_maps().stacked()).template cast<double>(),
                               wanted(name + ".recurrence")) < tolerance);
  }
  if (expected.find("grad_embeddings") != nullptr)
    CHECK(largest_difference(back.embeddings.matrix().template cast<double>(), wanted("grad_embeddings")) < tolerance);
  const Attribution<S> attribution = relevance(model, pass, logit_gradient(pass, last, target), last);
  CHECK(attribution.untreated.empty());
  CHECK(static_cast<double>(attribution.scores.sum() + attribution.bias_share) ==
        Approx(static_cast<double>(attribution.explained)).margin(tolerance));
  if (expected.find("published.logits") == nullptr) return;
  ForwardOptions options;
  options.logit_positions = Indices::last();
  const ForwardPass<S> again = model.forward(integers(expected, "published.input_ids"), options);
  CHECK(largest_difference(again.logits.template cast<double>(), wanted("published.logits")) < 1e-4);
}

/// The area under the curve of hits against false alarms for one right token: the share of wrong ones with less, ties half.
double area_under_curve(const std::vector<double>& scores, std::size_t right, const std::vector<std::size_t>& wrong) {
  double area = 0;
  for (const std::size_t token : wrong) area += scores[right] > scores[token] ? 1 : scores[right] == scores[token] ? 0.5 : 0;
  return area / static_cast<double>(wrong.size());
}

}  // namespace

TEMPLATE_TEST_CASE("rwkv.cpp's RWKV-5.1, 5.2, 6 and 7 give their expected numbers", "[models]", double, float) {
  const auto folder = test_support::shared_data("realdata/rwkv-tiny");
  if (!folder) {
    WARN(test_support::shared_data_missing("realdata/rwkv-tiny"));
    return;
  }
  const std::pair<const char*, const char*> models[] = {{"tiny-rwkv-5v1-730K-FP32.bin", "expected-5v1.safetensors"},
                                                        {"tiny-rwkv-5v2-730K-FP32.bin", "expected-5v2.safetensors"},
                                                        {"tiny-rwkv-6v0-1m-FP32.bin", "expected-6v0.safetensors"},
                                                        {"tiny-rwkv-7v0-834K-FP32.bin", "expected-7v0.safetensors"}};
  for (const auto& [file, expected] : models) {
    INFO(file);
    // What is asked of a float and a double pass. Gradients of float are as near.
    check_expected(open_model<TestType>(*folder / file), SafetensorsFile(*folder / expected),
                   std::is_same_v<TestType, double> ? 1e-5 : 1e-4);
  }
}

TEST_CASE("the digit reverser: expected numbers, and relevance finds the digit that is copied", "[models]") {
  const auto folder = test_support::shared_data("realdata/rwkv7-reverse");
  if (!folder) {
    WARN(test_support::shared_data_missing("realdata/rwkv7-reverse"));
    return;
  }
  const LanguageModel<double> model = open_model<double>(*folder / "260123_reverse_L2_only_rwkv7.pth");
  CHECK(model.name() == "RWKV7Reverse");
  check_expected(model, SafetensorsFile(*folder / "expected.safetensors"), 1e-9);

  const SafetensorsFile causes(*folder / "causes.safetensors");
  const std::vector<Index> ids = integers(causes, "ids"), sources = integers(causes, "source"), lengths = integers(causes, "length");
  const std::size_t longest = ids.size() / lengths.size();
  double all = 0, before = 0, ahead = 0;
  Index outputs = 0, with_ahead = 0;
  for (std::size_t prompt = 0; prompt < lengths.size(); ++prompt) {
    const auto begin = static_cast<std::ptrdiff_t>(prompt * longest);
    const std::vector<Index> text(ids.begin() + begin, ids.begin() + begin + lengths[prompt]);
    const ForwardPass<double> pass = model.forward(text, test_support::every_logit());
    for (std::size_t position = 0; position < text.size(); ++position) {
      const Index source = sources[prompt * longest + position];
      if (source < 0) continue;
      Index predicted = 0;
      pass.logits.row(static_cast<Index>(position)).maxCoeff(&predicted);
      CHECK(predicted == text[static_cast<std::size_t>(source)]);
      const Attribution<double> attribution =
          relevance(model, pass, logit_gradient(pass, static_cast<Index>(position), predicted), static_cast<Index>(position));
      std::vector<double> scores;  // the positive part
      std::vector<std::size_t> others, seen, not_yet_copied;
      for (std::size_t token = 0; token < text.size(); ++token) {
        scores.push_back(std::max(0.0, attribution.scores[static_cast<Index>(token)]));
        if (static_cast<Index>(token) != source) others.push_back(token);
        if (static_cast<Index>(token) != source && token <= position) seen.push_back(token);
      }
      for (std::size_t token = 0; token < static_cast<std::size_t>(source); ++token) not_yet_copied.push_back(token);
      all += area_under_curve(scores, static_cast<std::size_t>(source), others);
      before += area_under_curve(scores, static_cast<std::size_t>(source), seen);
      ++outputs;
      if (not_yet_copied.empty()) continue;
      ahead += area_under_curve(scores, static_cast<std::size_t>(source), not_yet_copied);
      ++with_ahead;
    }
  }
  CHECK(outputs == 624);
  // Against all tokens of the prompt; against those that the output can see: the digits after the source and the emitted ones among them
  // are causes of another kind, which the model looks its match up by; against the digits not yet copied, which provably change nothing.
  CHECK(all / static_cast<double>(outputs) >= 0.96);
  CHECK(before / static_cast<double>(outputs) >= 0.955);
  CHECK(ahead / static_cast<double>(with_ahead) >= 0.999);
}

namespace {

/// An RWKV-7 of two layers under BlinkDL's names, heads of 3.
Tensors<double> rwkv7_tensors() {
  constexpr Index D = 6, V = 7, H = 2, M = 8;
  Tensors<double> tensors;
  Draw draw(3);
  const auto add = [&](const std::string& name, std::vector<Index> shape, double spread = 0.5, double mean = 0) {
    const Index columns = shape.back(), rows = shape.size() == 2 ? shape.front() : 1;
    tensors.set(name, std::move(shape), draw.normals<double>(rows, columns, spread, mean));
  };
  const auto norm = [&](const std::string& name) {
    add(name + ".weight", {D}, 0.1, 1);
    add(name + ".bias", {D}, 0.3);
  };
  add("emb.weight", {V, D});
  norm("blocks.0.ln0");
  for (Index layer = 0; layer < 2; ++layer) {
    const std::string block = detail::message("blocks.", layer, "."), att = block + "att.", ffn = block + "ffn.";
    norm(block + "ln1");
    norm(block + "ln2");
    norm(att + "ln_x");
    for (const char* name : {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a"}) add(att + name, {1, 1, D});
    for (const char* name : {"w", "a", "v", "g"}) {
      add(att + name + "1", {D, 2});
      add(att + name + "2", {2, D});
    }
    add(att + "r_k", {H, D / H});
    for (const char* name : {"receptance", "key", "value", "output"}) add(att + name + ".weight", {D, D});
    add(ffn + "x_k", {1, 1, D});
    add(ffn + "key.weight", {M, D});
    add(ffn + "value.weight", {D, M});
  }
  norm("ln_out");
  add("head.weight", {V, D});
  return tensors;
}

Matrix<double> logits(const Tensors<double>& tensors, const Configuration& configuration = {}) {
  return load_language_model<double>(tensors, configuration).forward({1, 4, 2, 6, 2}, test_support::every_logit()).logits;
}
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// The same model as flash-linear-attention names it, its low-rank factors transposed; the first layer has no value residual.
Tensors<double> flash_linear_attention(const Tensors<double>& original) {
  Tensors<double> other;
  for (const auto& [name, tensor] : original.tensors) {
    if (name.find("blocks.0.att.v0") == 0 || name.find("blocks.0.att.v1") == 0 || name.find("blocks.0.att.v2") == 0) continue;
    std::string renamed = replaced(replaced(name, "blocks.", "model.layers."), "att.", "attn.");
    for (const auto& [from, to] :
         {std::pair{"emb.weight", "model.embeddings.weight"}, std::pair{"head.", "lm_head."}, std::pair{"ln_out.", "model.norm."},
          std::pair{".ln0.", ".pre_norm."}, std::pair{".ln1.", ".attn_norm."}, std::pair{".ln2.", ".ffn_norm."},
          std::pair{".ln_x.", ".g_norm."}, std::pair{"attn.receptance.", "attn.r_proj."}, std::pair{"attn.key.", "attn.k_proj."},
          std::pair{"attn.value.", "attn.v_proj."}, std::pair{"attn.output.", "attn.o_proj."}})
      renamed = replaced(renamed, from, to);
    Tensors<double>::Tensor kept = tensor;
    for (const std::string map : {"w", "a", "v", "g"}) {
      const auto lora = [&](const std::string& own, const char* part) {
        if (renamed.size() < own.size() || renamed.compare(renamed.size() - own.size(), own.size(), own) != 0) return false;
        renamed = renamed.substr(0, renamed.size() - own.size()) + ".attn." + map + "_lora.lora." + part;
        return true;
      };
      if (lora(".attn." + map + "1", "0.weight") || lora(".attn." + map + "2", "2.weight")) {
        std::reverse(kept.shape.begin(), kept.shape.end());
        kept.numbers = Matrix<double>(tensor.numbers.matrix().transpose());
      } else if (lora(".attn." + map + "0", "2.bias")) {
        kept.shape = {tensor.shape.back()};
      }
    }
    other.tensors[renamed] = kept;
  }
  return other;
}

}  // namespace

TEST_CASE("RWKV-7 is one model under BlinkDL's, transformers' and flash-linear-attention's names", "[models]") {
  const Tensors<double> original = rwkv7_tensors();
  const Matrix<double> expected = logits(original);
  // transformers writes the same names below rwkv7., but for the head.
  Tensors<double> transformers;
  for (const auto& [name, tensor] : original.tensors) transformers.tensors[name == "head.weight" ? name : "rwkv7." + name] = tensor;
  CHECK((logits(transformers) - expected).isZero(0));
  // The group norm's eps: 64e-5 in the author's code, head size * norm_eps in the two ports, whatever is said outright in all.
  const Tensors<double> linear = flash_linear_attention(original);
  CHECK((logits(linear, with({{"group_norm_eps", 64e-5}})) - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-13);
  CHECK((logits(linear) - logits(original, with({{"group_norm_eps", 3e-5}}))).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-13);
  CHECK((logits(linear) - logits(transformers, with({{"model_type", "rwkv7"}, {"norm_eps", 1e-5}})))
            .cwiseAbs()
            .template maxCoeff<Eigen::PropagateNaN>() < 1e-13);
  CHECK((logits(linear) - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 1e-6);
  // What the first layer's value residual holds, which only files of the author's names have, changes nothing; the second layer's does.
  Tensors<double> bent = original;
  bent.set_zero("blocks.0.att.v1", {6, 2});
  CHECK((logits(bent) - expected).isZero(0));
  bent.set_zero("blocks.1.att.v1", {6, 2});
  CHECK((logits(bent) - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 1e-6);
}

TEST_CASE("RWKV-7: what does not fit is named", "[models]") {
  const Tensors<double> original = rwkv7_tensors();
  CHECK(logits(original, with({{"model_type", "rwkv7"},
                               {"head_dim", Index(3)},
                               {"num_heads", Index(2)},
                               {"decay_low_rank_dim", Index(2)},
                               {"value_dim", std::vector<double>{6, 6}},
                               {"hidden_act", "sqrelu"},
                               {"norm_first", true}}))
            .allFinite());
  const std::pair<std::pair<const char*, Configuration::Value>, const char*> keys[] = {
      {{"head_dim", Index(2)}, "key head_dim is 2, expected 3"},
      {{"num_heads", Index(3)}, "key num_heads is 3, expected 2"},
      {{"gate_low_rank_dim", Index(5)}, "key gate_low_rank_dim is 5, expected 2"},
      {{"intermediate_size", Index(5)}, "key intermediate_size is 5, expected 8"},
      {{"value_dim", std::vector<double>{6, 5}}, "key value_dim does not give 6 for layer 1"},
      {{"hidden_act", "silu"}, "key hidden_act is silu, expected sqrelu"},
      {{"use_deep_embed", true}, "key use_deep_embed is true, expected false"},
      {{"group_norm_eps", 0.0}, "key group_norm_eps is 0, expected a number above 0"},
      {{"attn.layers", std::vector<double>{1}}, "key attn.layers is not understood"}};
  for (const auto& [key, wanted] : keys) CHECK_THAT(error_of([&, &one = key] { logits(original, with({one})); }), contains_text(wanted));
  for (const char* name :
       {"blocks.0.ln0.bias", "blocks.0.att.x_w", "blocks.1.att.v2", "blocks.1.att.r_k", "blocks.1.ffn.x_k", "head.weight"}) {
    Tensors<double> less = original;
    less.tensors.erase(name);
    CHECK_THAT(error_of([&] { logits(less, with({{"model_type", "rwkv7"}})); }), contains_text(name));
  }
  for (const char* name : {"w", "a", "v"}) {  // the biases of low-rank maps
    Tensors<double> longer = original;
    longer.set_zero(detail::message("blocks.1.att.", name, "0"), {7});
    CHECK_THAT(error_of([&] { logits(longer); }), contains_text(detail::message(name, ": the bias is (7), expected (6)")));
  }
  Tensors<double> more = original;
  more.set_zero("blocks.1.att.q1", {6, 2});
  CHECK_THAT(error_of([&] { logits(more); }), contains_text("blocks.1.att.q1"));
  // A later layer by itself needs the first one's values.
  const PrefixedTensors<double> second(original, "blocks.1.att.");
  const Rwkv7<double> layer = Rwkv7<double>::from_tensors(second);
  CHECK_THAT(error_of([&] { (void)layer.activations(Matrix<double>(Matrix<double>::Ones(3, 6))); }), contains_text("v_first"));
}
