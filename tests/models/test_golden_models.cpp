// Golden cases of every family of language models: logits, gradients and the numbers inside, as the public implementations give them.
#include <cstdlib>
#include <iostream>
#include <type_traits>

#include <support/every_logit.hpp>

#include <models/golden_models.hpp>

using namespace models_test;

namespace {

/// What a deviation may be, of the largest expected number. Forwards in double: a few layers of sums of a few hundred terms, each good to
/// 1e-16; the way back costs one more digit. In float some three hundred roundings of 6e-8, on the way back twice that.
template <class Scalar>
double tolerance(const std::string& kind) {
  const bool back = kind.find("grad") != std::string::npos;
  if (kind == "embeddings" || kind == "expert_index") return 0;
  return std::is_same_v<Scalar, double> ? (back ? 1e-11 : 1e-12) : (back ? 5e-5 : 2e-5);
}

void report(const std::string& name, const std::map<std::string, double>& deviations) {
  if (std::getenv("IMPLICIT_ATTENTION_REPORT") == nullptr) return;
  std::cout << name;
  for (const auto& [kind, deviation] : deviations) std::cout << "  " << kind << " " << deviation;
  std::cout << "\n";
}

}  // namespace

TEST_CASE("golden language models: logits, gradients, and every published number of the layers", "[models][golden]") {
  std::vector<std::string> unread;
  for (const auto& path : golden_models(&unread)) {
    const std::string name = path.filename().string();
    INFO(name);
    const Golden golden(path);
    for (const Keep keep : {Keep::activations, Keep::residuals}) {
      const GoldenRun<double> run(golden, keep);
      if (keep == Keep::activations) report(name, run.deviations());
      for (const auto& [kind, deviation] : run.deviations()) {
        INFO(kind << ": largest deviation " << deviation);
        CHECK(deviation <= tolerance<double>(kind));
      }
      for (const char* kind : {"logits", "embeddings", "grad_embeddings"}) CHECK(run.deviations().count(kind) == 1);
      CHECK(run.deviations().count("y") + run.deviations().count("mixer_out") > 0);
      for (const std::string& left : run.left()) {
        INFO(left << " was compared with nothing");
        // The input of a mixer inside another part is no place in the record that has a name.
        CHECK(left.find("mixer_in") != std::string::npos);
      }
    }
  }
  for (const std::string& name : unread) WARN(name + " is of no family that is read here");
}

TEST_CASE("golden language models: a sequence in pieces gives the logits of the whole", "[models][golden]") {
  for (const auto& path : golden_models()) {
    INFO(path.filename().string());
    const Golden golden(path);
    const LanguageModel<double> model = load_language_model<double>(golden.weights<double>(), golden.configuration);
    const Matrix<double> whole = model.forward(golden.ids, test_support::every_logit()).logits;
    const auto tokens = static_cast<Index>(golden.ids.size());
    for (const Index first : {Index{1}, std::max(Index{1}, tokens / 2)}) {  // a beginning of this many tokens, then one by one
      CarriedStates states;
      for (Index begin = 0, end = first; end <= tokens; begin = end++) {
        INFO("tokens " << begin << " to " << end - 1 << ", beginning with " << first);
        const Matrix<double> logits = model.next_logits({golden.ids.begin() + begin, golden.ids.begin() + end}, states);
        CHECK(states.begun());
        CHECK(states.refusals().empty());
        // Chunked recurrences sum in another order than one step does, and each layer reads what the one before it rounded.
        CHECK((logits - whole.row(end - 1)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
              1e-11 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      }
    }
  }
}

TEST_CASE("golden language models: relevance conserves and leaves nothing untreated", "[models][golden]") {
  for (const auto& path : golden_models()) {
    INFO(path.filename().string());
    const Golden golden(path);
    const LanguageModel<double> model = load_language_model<double>(golden.weights<double>(), golden.configuration);
    const ForwardPass<double> pass = model.forward(golden.ids);
    const Index last = pass.tokens() - 1;
    const Attribution<double> shares =
        relevance(model, pass, logit_gradient(pass, last, golden.integers("expected.target_token").front()), last);
    CHECK(shares.untreated == std::vector<std::string>());
    const double scale = shares.scores.cwiseAbs().sum() + std::abs(shares.bias_share) + std::abs(shares.explained);
    CHECK(std::abs(shares.scores.sum() + shares.bias_share - shares.explained) < 1e-10 * scale);
  }
}

TEST_CASE("golden language models in float", "[models][golden]") {
  for (const auto& path : golden_models()) {
    INFO(path.filename().string());
    const Golden golden(path);
    const GoldenRun<float> run(golden);
    report(path.filename().string() + " (float)", run.deviations());
    for (const auto& [kind, deviation] : run.deviations()) {
      INFO(kind << ": largest deviation " << deviation);
      CHECK(deviation <= tolerance<float>(kind));
    }
  }
}
