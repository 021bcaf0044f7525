// RWKV-5, RWKV-6 and RWKV-7 as whole models: public trained ones, the digit reverser with its known causes, and the dialects of names.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/backward.hpp>
#include <models/models.hpp>

namespace {

using namespace models_test;
using test_support::Draw;
namespace fs = std::filesystem;

std::vector<Index> integers(const SafetensorsFile& file, const std::string& name) {
  const auto numbers = file.read_integers(name);
  return {numbers.begin(), numbers.end()};
}

double largest_difference(const Matrix<double>& a, const Matrix<double>& b) {
  REQUIRE(a.size() == b.size());
  const Eigen::Map<const Matrix<double>> other(b.data(), a.rows(), a.cols());
  const double largest = (a - other).cwiseAbs().maxCoeff();
  return largest == largest ? largest : 1e300;
}

template <class S>
LanguageModel<S> load(const fs::path& path) {
  const Checkpoint<S> checkpoint = open_checkpoint<S>(path);
  return load_language_model<S>(*checkpoint.source, checkpoint.configuration);
}

/// Logits, every y and, in double, every gradient that a file of expected numbers holds, within `tolerance` (absolute).
template <class S>
void check_expected(const LanguageModel<S>& model, const SafetensorsFile& expected, double tolerance) {
  const auto wanted = [&](const std::string& name) { return Matrix<double>(*expected.read<double>(name)); };
  const ForwardPass<S> pass = model.forward(integers(expected, "input_ids"));
  CHECK(largest_difference(pass.logits.template cast<double>(), wanted("logits")) < tolerance);
  Index target = 0;
  pass.logits.bottomRows(1).row(0).maxCoeff(&target);
  CHECK(target == integers(expected, "target_token").front());
  const Index last = pass.tokens() - 1;
  const BackwardPass<S> back = backward(model, pass, logit_gradient(pass, last, target));
  for (Index layer = 0; layer < model.layer_count(); ++layer) {
    const std::string name = message("layer", layer);
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
    check_expected(load<TestType>(*folder / file), SafetensorsFile(*folder / expected), std::is_same_v<TestType, double> ? 1e-5 : 1e-4);
  }
}

TEST_CASE("the digit reverser: expected numbers, and relevance finds the digit that is copied", "[models]") {
  const auto folder = test_support::shared_data("realdata/rwkv7-reverse");
  if (!folder) {
    WARN(test_support::shared_data_missing("realdata/rwkv7-reverse"));
    return;
  }
  const LanguageModel<double> model = load<double>(*folder / "260123_reverse_L2_only_rwkv7.pth");
  CHECK(model.name() == "RWKV7Reverse");
  check_expected(model, SafetensorsFile(*folder / "expected.safetensors"), 1e-9);

  const SafetensorsFile causes(*folder / "causes.safetensors");
  const std::vector<Index> ids = integers(causes, "ids"), sources = integers(causes, "source"), lengths = integers(causes, "length");
  const std::size_t longest = ids.size() / lengths.size();
  double all = 0, ahead = 0;
  Index outputs = 0, with_ahead = 0;
  for (std::size_t prompt = 0; prompt < lengths.size(); ++prompt) {
    const auto begin = static_cast<std::ptrdiff_t>(prompt * longest);
    const std::vector<Index> text(ids.begin() + begin, ids.begin() + begin + lengths[prompt]);
    const ForwardPass<double> pass = model.forward(text);
    for (std::size_t position = 0; position < text.size(); ++position) {
      const Index source = sources[prompt * longest + position];
      if (source < 0) continue;
      Index predicted = 0;
      pass.logits.row(static_cast<Index>(position)).maxCoeff(&predicted);
      CHECK(predicted == text[static_cast<std::size_t>(source)]);
      const Attribution<double> attribution =
          relevance(model, pass, logit_gradient(pass, static_cast<Index>(position), predicted), static_cast<Index>(position));
      std::vector<double> scores;  // the positive part
      for (std::size_t token = 0; token <= position; ++token) scores.push_back(std::max(0.0, attribution.scores[static_cast<Index>(token)]));
      std::vector<std::size_t> others, not_yet_copied;
      for (std::size_t token = 0; token <= position; ++token)
        if (static_cast<Index>(token) != source) others.push_back(token);
      for (std::size_t token = 0; token < static_cast<std::size_t>(source); ++token) not_yet_copied.push_back(token);
      all += area_under_curve(scores, static_cast<std::size_t>(source), others);
      ++outputs;
      if (not_yet_copied.empty()) continue;
      ahead += area_under_curve(scores, static_cast<std::size_t>(source), not_yet_copied);
      ++with_ahead;
    }
  }
  CHECK(outputs > 900);
  CHECK(all / static_cast<double>(outputs) >= 0.96);        // against all other tokens
  CHECK(ahead / static_cast<double>(with_ahead) >= 0.999);  // against the digits not yet copied, which provably change nothing
}
