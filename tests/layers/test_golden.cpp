// Golden cases: the layers as the public implementations compute them, in double precision.
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv4.hpp>

namespace {

using namespace implicit_attention;
namespace fs = std::filesystem;

// Of the largest expected entry. Double: the sums of these layers are a few hundred terms long, each good to 1e-16, behind exponentials of
// arguments up to 1e2 that cost two digits. Float: the same with 6e-8, and no long cumulative sums that would lose more.
template <class Scalar>
constexpr double golden_tolerance = std::is_same_v<Scalar, double> ? 1e-12 : 2e-5;

// What a matrix in the files is called, and which terms it has.
const std::map<std::string, Terms>& terms_of_matrices() {
  static const std::map<std::string, Terms> terms = {
      {"attention", Terms::all()},
      {"recurrence", Terms::recurrence()},
      {"published", Terms::published()},
      {"published_without_convolution", Terms::published().without(Term::convolution)},
      {"published_without_gate", Terms::published().without(Term::gate)},
      {"published_without_activation", Terms::published().without(Term::activation)},
      {"recurrence_and_normalization", Terms(Term::recurrence) | Term::normalization},
      {"without_gate", Terms::all().without(Term::gate)},
  };
  return terms;
}

// The named sets of a layer whose published formula has a scale besides the four terms, by the files' own names: RWKV-4's denominator (the
// public code divides with its gate on and off), Griffin's input scale. Neither has a skip, so the published form is the whole matrix.
template <class Layer>
std::map<std::string, Terms> named_sets() {
  using Scalar = typename Layer::Scalar;
  if constexpr (std::is_same_v<Layer, Rwkv4<Scalar>>)
    return {{"without_gate", Terms::recurrence()}, {"attention", Terms::published()}};
  else if constexpr (std::is_same_v<Layer, Griffin<Scalar>>)
    return {{"recurrence_and_normalization", Terms::recurrence()}, {"attention", Terms::published()}};
  else
    return {{"recurrence", Terms(Term::recurrence)}};
}

struct Deviation {
  double largest_expected = 0, largest_difference = 0;
  template <class Computed>
  void add(const Computed& computed, const Matrix<double>& expected) {
    compare(computed.template cast<double>(), expected);
  }

 private:
  void compare(const Matrix<double>& computed, const Matrix<double>& expected) {
    REQUIRE(computed.rows() == expected.rows());
    REQUIRE(computed.cols() == expected.cols());
    largest_expected = std::max(largest_expected, expected.cwiseAbs().maxCoeff<Eigen::PropagateNaN>());
    const double difference = (computed - expected).cwiseAbs().maxCoeff<Eigen::PropagateNaN>();
    largest_difference = difference <= largest_difference ? largest_difference : difference;  // a NaN stays
  }
};

template <class Layer>
typename Layer::Activations run(const Layer& layer, const SafetensorsFile&, Index, ConstView<typename Layer::Scalar> u) {
  return layer.activations(u);
}
template <class Scalar>
typename Griffin<Scalar>::Activations run(const Griffin<Scalar>& layer, const SafetensorsFile& file, Index sequence, ConstView<Scalar> u) {
  const auto all = file.read_integers("input.position_ids");
  std::vector<Index> positions(static_cast<std::size_t>(u.rows()));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = all.at(static_cast<std::size_t>(sequence * u.rows()) + i);
  return layer.activations(u, positions);
}

void check_deviations(const SafetensorsFile& file, const std::map<std::string, Deviation>& deviations, const Deviation& reconstruction,
                      double tolerance) {
  const std::string title = file.where();
  // Nothing in the file goes unread.
  for (const auto& [name, info] : file.tensors())
    if (name.rfind("expected.", 0) == 0) {
      INFO(name);
      CHECK(deviations.count(name.substr(9)) == 1);
    }
  for (const auto& [name, deviation] : deviations) {
    INFO(name << " of " << title << ": largest difference " << deviation.largest_difference << ", largest expected "
              << deviation.largest_expected);
    CHECK(deviation.largest_difference <= tolerance * deviation.largest_expected);
  }
  INFO("A x + bias of " << title << ": largest difference " << reconstruction.largest_difference);
  CHECK(reconstruction.largest_difference <= tolerance * reconstruction.largest_expected);
}

template <class Layer>
void check_case(const fs::path& path) {
  using Scalar = typename Layer::Scalar;
  const SafetensorsFile file(path);
  const SafetensorsSource<Scalar> source(path);
  const Layer layer = Layer::from_tensors(PrefixedTensors<Scalar>(source, "weight."));
  const Array<Scalar> input = file.read<Scalar>("input.hidden_states");
  const Index batch = file.info("input.hidden_states").shape.at(0), tokens = file.info("input.hidden_states").shape.at(1);

  std::map<std::string, Deviation> deviations;
  Deviation reconstruction;
  for (Index sequence = 0; sequence < batch; ++sequence) {
    const auto part = [&](const std::string& name) {
      const Array<double> all = file.read<double>("expected." + name);
      const Index rows = all.rows() / batch;
      return Matrix<double>(all.matrix().middleRows(sequence * rows, rows));
    };
    const typename Layer::Activations act =
        run(layer, file, sequence, ConstView<Scalar>(input.matrix().middleRows(sequence * tokens, tokens)));
    deviations["linear_input"].add(*act.x, part("linear_input"));
    deviations["y"].add(*act.y, part("y"));
    deviations["out"].add(*act.out, part("out"));
    for (const auto& [name, terms] : terms_of_matrices()) {
      if (!file.find("expected." + name)) continue;
      deviations[name].add(layer.implicit_attention(act, terms).materialize().stacked(), part(name));
    }
    for (const auto& [name, terms] : named_sets<Layer>()) {
      REQUIRE(file.find("expected." + name));
      const Matrix<Scalar> matrices = layer.implicit_attention(act, terms).materialize().stacked();
      deviations[detail::message(name, " as ", terms.text())].add(matrices, part(name));
      // The same terms as a list lack the scale. (With one token, or at documents' first tokens alone, Griffin's is 1.)
      if (!std::is_same_v<Layer, Mamba<Scalar>> && tokens > 1) {
        const ImplicitAttention<Scalar> bare = layer.implicit_attention(act, terms.without(Term::normalization));
        CHECK((bare.materialize().stacked() - matrices).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0);
      }
    }
    const ImplicitAttention<Scalar> attention = layer.implicit_attention(act);
    const Matrix<Scalar> reconstructed = attention.apply(*act.x) + attention.bias() + attention.carry();
    reconstruction.add(reconstructed, part("y"));
  }
  check_deviations(file, deviations, reconstruction, golden_tolerance<Scalar>);
}

template <class Scalar>
void check_folder(const fs::path& folder, std::size_t expected_at_least) {
  std::vector<fs::path> cases;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") cases.push_back(entry.path());
  std::sort(cases.begin(), cases.end());
  std::size_t seen = 0;
  for (const fs::path& path : cases) {
    const std::string name = path.filename().string();
    const auto begins = [&](const char* prefix) { return name.rfind(prefix, 0) == 0; };
    ++seen;
    if (begins("mamba_"))
      check_case<Mamba<Scalar>>(path);
    else if (begins("rwkv4_"))
      check_case<Rwkv4<Scalar>>(path);
    else if (begins("griffin_"))
      check_case<Griffin<Scalar>>(path);
    else
      --seen;
  }
  CHECK(seen >= expected_at_least);
}

}  // namespace

TEMPLATE_TEST_CASE("golden cases that stand here", "[golden]", double, float) {
  check_folder<TestType>(fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data", 9);
}

TEMPLATE_TEST_CASE("all golden cases", "[golden]", double, float) {
  const auto folder = test_support::shared_data("golden");
  if (!folder) {
    WARN(test_support::shared_data_missing("golden"));
    return;
  }
  check_folder<TestType>(*folder, 20);
}
