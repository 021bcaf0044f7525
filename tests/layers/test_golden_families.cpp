// Golden cases of every layer family: what `materialize --arch NAME` reads, held to the public implementations in double precision.
#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/models/families.hpp>

namespace {

using namespace implicit_attention;
namespace fs = std::filesystem;

// Of the largest expected entry: see test_golden.cpp. Cases whose numbers make it impossible are named, with the reason.
double family_tolerance(const std::string& name, bool is_double) {
  if (is_double) return name.rfind("gdn_seed12_bursts", 0) == 0 ? 1e-11 : 1e-12;  // decays of e^-200 between decays near 1
  return 2e-5;
}

/// Numbers of the files that the matrices are made of, and are compared in them; for Mamba, RWKV-4 and Griffin the matrices of other sets
/// of terms, which test_golden.cpp compares.
constexpr std::string_view published_on_the_way =
    " a angle beta c cell cell_norm cell_output dt forget_gate input_gate kernel key log_decay normalizer own_value operator output_gate "
    "pre_norm query state trap update_gate value value_mix write without_gate recurrence_and_normalization published_without_activation "
    "published_without_convolution published_without_gate ";

template <class S>
class FamilyCase {
 public:
  FamilyCase(const fs::path& path, const LayerFamily<S>& family) : file_(path), source_(path), name_(path.stem().string()) {
    configuration_ = read_metadata_configuration(file_);
    const PrefixedTensors<S> tensors(source_, "weight.");
    detail::expect_layer_type(family, configuration_);
    part_ = family.read(tensors, configuration_);
    detail::expect_layer_width(configuration_, part_->width());
    detail::expect_layer_understood(configuration_, family.title);
  }

  void check() {
    const bool joined = !file_.find("input.hidden_states");
    const std::vector<Index> shape = file_.info(joined ? "input.q" : "input.hidden_states").shape;
    batch_ = shape.at(0);
    tokens_ = shape.at(1);
    for (Index sequence = 0; sequence < batch_; ++sequence) check_sequence(sequence, joined);
    for (const auto& [what, deviation] : deviations_) {
      INFO(what << " of " << name_ << ": largest difference " << deviation.second << ", largest expected " << deviation.first);
      CHECK(deviation.second <= family_tolerance(name_, std::is_same_v<S, double>) * deviation.first);
    }
    for (const char* always : {"linear_input", "y", "attention"}) CHECK(deviations_.count(always) == 1);
    for (const auto& [name, info] : file_.tensors()) {
      if (name.rfind("expected.", 0) != 0 || deviations_.count(name.substr(9)) == 1) continue;
      INFO(name << " of " << name_ << " was compared with nothing");
      CHECK(published_on_the_way.find(" " + name.substr(9) + " ") != std::string_view::npos);
    }
  }

 private:
  Array<S> input(const std::string& name, Index sequence) const {
    const Array<S> all = file_.read<S>(name);
    if (all.rows() % batch_ != 0 || all.rows() < batch_) return all;
    const Index rows = all.rows() / batch_;
    return all.middle_rows(sequence * rows, rows);
  }
  std::optional<Matrix<double>> expected(const std::string& name, Index sequence) const {
    if (!file_.find("expected." + name)) return std::nullopt;
    const Array<double> all = file_.read<double>("expected." + name);
    const Index rows = all.rows() / batch_;
    return Matrix<double>(all.matrix().middleRows(sequence * rows, rows));
  }
  void compare(const std::string& name, const Matrix<S>& computed, Index sequence) {
    const std::optional<Matrix<double>> wanted = expected(name, sequence);
    if (!wanted) return;
    INFO(name << " of " << name_);
    REQUIRE(computed.size() == wanted->size());
    const Eigen::Map<const Matrix<double>> numbers(wanted->data(), computed.rows(), computed.cols());
    auto& [largest, difference] = deviations_[name];
    largest = larger(largest, numbers.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    const double now = (computed.template cast<double>() - numbers).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
    difference = now <= difference ? difference : now;  // a NaN stays
  }

  // One of the forms that are added, by itself.
  static Matrix<S> summand(const ImplicitAttention<S>& attention, Index index) {
    UnifiedForm<S> form = attention.form();
    if (index > 0) form = form.more[static_cast<std::size_t>(index - 1)];
    form.more.clear();
    return ImplicitAttention<S>(form).materialize().stacked();
  }
  // The maximum state that mLSTM's rows are scaled by.
  template <class Layer>
  void check_maximum(const MixerRun<S>& mixer, Index sequence) {
    if (mixer.type != type_tag<Layer>()) return;
    const auto& activations = *static_cast<const typename Layer::Activations*>(mixer.activations.get());
    compare("m", activations.maximum.matrix().transpose(), sequence);
    compare("value", *activations.value, sequence);
  }

  void check_sequence(Index sequence, bool joined) {
    Trace<S> trace;
    RunContext<S> context;
    Matrix<S> u;
    if (joined) {
      std::vector<Matrix<S>> pieces;
      Index width = 0;
      for (const char* name : {"input.q", "input.k", "input.v"}) {
        const Array<S> piece = input(name, sequence);
        pieces.emplace_back(Eigen::Map<const Matrix<S>>(piece.data(), tokens_, piece.size() / tokens_));
        width += pieces.back().cols();
      }
      u.resize(tokens_, width);
      u << pieces[0], pieces[1], pieces[2];
    } else {
      u = *input("input.hidden_states", sequence);
    }
    for (const auto& [name, info] : file_.tensors()) {
      if (name.rfind("input.", 0) != 0 || name == "input.hidden_states" || name == "input.position_ids") continue;
      context.share(name.substr(6), trace.constant(input(name, sequence)));
    }
    if (file_.find("input.position_ids")) {
      const auto all = file_.read_integers("input.position_ids");
      for (Index token = 0; token < tokens_; ++token)
        context.positions.push_back(all.at(static_cast<std::size_t>(sequence * tokens_ + token)));
    }
    static_cast<void>(part_->run(trace.input(u), context));
    REQUIRE(context.mixers.size() == 1);
    const MixerRun<S>& mixer = context.mixers.front();
    const ImplicitAttention<S> attention = mixer.attention(Terms::all());
    compare("linear_input", mixer.reported_input.empty() ? Matrix<S>(*mixer.x) : Matrix<S>(*mixer.reported_input), sequence);
    compare("y", *mixer.y, sequence);
    compare("out", *mixer.out, sequence);
    compare("attention", Matrix<S>(attention.materialize().stacked()), sequence);
    // What a state among the inputs gives (LSTM, GRU) is the public files' bias; in the operator it is the carry.
    compare("bias", attention.bias() + attention.carry(), sequence);
    const ImplicitAttention<S> bare = mixer.attention(Terms::recurrence());
    if (const auto wanted = expected("recurrence", sequence)) {
      if (bare.heads() != 0 && wanted->rows() == bare.heads() * bare.summands() * tokens_) {
        Matrix<S> maps(bare.heads() * bare.summands() * tokens_, tokens_);
        for (Index summand = 0; summand < bare.summands(); ++summand) {
          const AttentionMatrix<S> all = bare.head_maps({}, summand);
          for (Index head = 0; head < bare.heads(); ++head)
            maps.middleRows((head * bare.summands() + summand) * tokens_, tokens_) = all.channel(head);
        }
        compare("recurrence", maps, sequence);
      } else {
        compare("recurrence", Matrix<S>(bare.materialize().stacked()), sequence);
      }
    }
    if (bare.summands() == 2) {
      compare("recurrence_forward", summand(bare, 0), sequence);
      compare("recurrence_backward", summand(bare, 1), sequence);
      const ImplicitAttention<S> published = mixer.attention(Terms::published());
      compare("published_forward", summand(published, 0), sequence);
      compare("published_backward", summand(published, 1), sequence);
    }
    if (const auto position = configuration_.integer({"class_token_position"})) {
      Selection row;
      row.rows = std::vector<Index>{*position};
      compare("class_row", Matrix<S>(attention.materialize(row).stacked()), sequence);
    }
    const UnifiedForm<S>& form = attention.form();
    // Where there is none, the files have ones.
    compare("norm", form.normalization.empty() ? Matrix<S>(Matrix<S>::Ones(tokens_, attention.channels())) : Matrix<S>(*form.normalization),
            sequence);
    if (!form.gate.empty()) compare("gate", *form.gate, sequence);
    check_maximum<Mlstm<S>>(mixer, sequence);
    check_maximum<MlstmLarge<S>>(mixer, sequence);
    compare("published", Matrix<S>(mixer.attention(Terms::published()).materialize().stacked()), sequence);
    Matrix<S> reconstructed = attention.apply(*mixer.x) + attention.bias() + attention.carry();
    if (attention.has_second()) {
      const ImplicitAttention<S> second = attention.second();
      reconstructed += second.apply(*attention.second_input());
      if (file_.find("expected.extra")) compare("extra", *second.form().gate, sequence);
      if (file_.find("expected.skip_attention")) {
        compare("skip_attention", Matrix<S>(second.materialize().stacked()), sequence);
        compare("skip_input", *attention.second_input(), sequence);
      }
    }
    compare("y", reconstructed, sequence);
  }

  SafetensorsFile file_;
  SafetensorsSource<S> source_;
  std::string name_;
  Configuration configuration_;
  PartPointer<S> part_;
  Index batch_ = 1, tokens_ = 0;
  std::map<std::string, std::pair<double, double>> deviations_;  // largest expected, largest difference
};

template <class S>
void check_all(const fs::path& folder, std::size_t at_least) {
  std::vector<fs::path> cases;
  for (const auto& entry : fs::directory_iterator(folder)) cases.push_back(entry.path());
  std::sort(cases.begin(), cases.end());
  for (const LayerFamily<S>& family : layer_families<S>()) {
    std::size_t seen = 0;
    for (const fs::path& path : cases) {
      if (path.extension() != ".safetensors" || path.filename().string().rfind(std::string(family.name) + "_seed", 0) != 0) continue;
      INFO(path.filename().string());
      FamilyCase<S>(path, family).check();
      ++seen;
    }
    INFO(family.name);
    CHECK(seen >= at_least);  // of each family
  }
}

}  // namespace

TEMPLATE_TEST_CASE("golden cases of every layer family", "[golden]", double, float) {
  const auto folder = test_support::shared_data("golden");
  if (!folder) {
    WARN(test_support::shared_data_missing("golden"));
    return;
  }
  check_all<TestType>(*folder, 2);
}
