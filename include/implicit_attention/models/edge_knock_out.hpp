// The exact effect of removing one edge of one layer, or one token's input to one layer, by running the rest of the model again: the
// reference for maps of layers.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/core/random_numbers.hpp>
#include <implicit_attention/models/language_model.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// An edge of one layer: A[to, from] o x_from, what token `from` adds to output `to`.
struct Edge {
  Index to = 0;
  Index from = 0;
};

/// The edges from <= to <= position of a causal layer, row by row; where there are more than `most`, a sample of `most` of them,
/// drawn without replacement by the seed, in the same order. The same seed gives the same edges everywhere.
[[nodiscard]] inline std::vector<Edge> sample_edges(Index position, Index most, std::uint64_t seed) {
  if (position < 0) detail::raise(ErrorKind::value, "sample_edges: position ", position, ", expected at least 0");
  constexpr Index largest = Index(1) << 24;  // a walk over all edges before it takes days, and counts them without overflow
  if (position > largest) detail::raise(ErrorKind::value, "sample_edges: position ", position, ", expected at most ", largest);
  if (most <= 0) detail::raise(ErrorKind::value, "sample_edges: at most ", most, " edges, expected at least one");
  std::vector<Edge> edges;
  Index left = (position + 1) * (position + 2) / 2;
  detail::RandomEngine engine(seed);  // selection sampling: Knuth, The Art of Computer Programming, volume 2, 3.4.2, algorithm S
  for (Index to = 0; to <= position; ++to)
    for (Index from = 0; from <= to; ++from, --left) {
      const double share = detail::uniform(engine);
      if (static_cast<double>(left) * share < static_cast<double>(most - static_cast<Index>(edges.size()))) edges.push_back({to, from});
    }
  return edges;
}

namespace detail {

/// A part whose input has one row set to zero, or whose output has a vector subtracted from one row; otherwise unchanged.
template <Real S>
class AlteredPart final : public Part<S> {
 public:
  static PartPointer<S> without_input(PartPointer<S> part, Index token) {
    return std::make_shared<const AlteredPart>(std::move(part), token, RowVector<S>());
  }
  static PartPointer<S> less(PartPointer<S> part, Index token, RowVector<S> vector) {
    return std::make_shared<const AlteredPart>(std::move(part), token, std::move(vector));
  }
  AlteredPart(PartPointer<S> part, Index token, RowVector<S> vector) : part_(std::move(part)), token_(token), vector_(std::move(vector)) {}

  [[nodiscard]] Value<S> run(const Value<S>& u, RunContext<S>& context) const override {
    if (vector_.size() != 0) return changed(part_->run(u, context), [&](Matrix<S>& out) { out.row(token_) -= vector_; });
    return part_->run(changed(u, [&](Matrix<S>& in) { in.row(token_).setZero(); }), context);
  }
  [[nodiscard]] Index width() const override { return part_->width(); }
  [[nodiscard]] Index channels() const override { return part_->channels(); }
  [[nodiscard]] Index mixers() const override { return part_->mixers(); }
  [[nodiscard]] std::string name() const override { return part_->name(); }
  [[nodiscard]] bool causal() const override { return part_->causal(); }

 private:
  template <class Change>
  static Value<S> changed(const Value<S>& value, const Change& change) {
    Matrix<S> numbers = *value;
    change(numbers);
    return value.trace->constant(std::move(numbers));
  }
  PartPointer<S> part_;
  Index token_;
  RowVector<S> vector_;
};

}  // namespace detail

/// One sequence through one model, run again from one layer on with one thing changed there. The effect is exact, however large: a
/// map of edges (`edge_map`) is a derivative, this is the difference itself. For causal models.
template <Real S>
class KnockOut {
 public:
  /// For a pass with Keep::activations or Keep::residuals. Fails (ErrorKind::value) where the model looks at later tokens, and on a pass
  /// that kept neither.
  KnockOut(LanguageModel<S> model, ForwardPass<S> pass, Executor executor = serial_executor())
      : model_(std::move(model)), pass_(std::move(pass)), executor_(std::move(executor)) {
    if (!model_.causal()) detail::raise(ErrorKind::value, "knock-out: ", model_.name(), " looks at later tokens, expected a causal model");
    if (static_cast<Index>(pass_.layers.size()) != model_.layer_count())
      detail::raise(ErrorKind::value, "knock-out: the pass kept ", static_cast<Index>(pass_.layers.size()), " layers, expected ",
                    model_.layer_count(), "; run ", model_.name(), " with Keep::residuals or Keep::activations");
  }

  /// The target's value less its value with y_i <- y_i - A[i,j] o x_j in a token mixer of `layer`, (edges), A with all of its terms and its
  /// second path: what the layer does without what token j = from adds to output i = to, everything else there held. Positive: the edge
  /// speaks for the target. One run of the layer and of those after it for each edge. Fails (ErrorKind::value) where the mixer's output
  /// projection is not known or a part holds several mixers, and on an edge, layer, mixer, position or token that is not there.
  [[nodiscard]] RowVector<S> edge_effects(Index layer, const std::vector<Edge>& edges, const Target& target, Index mixer = 0) const {
    check(target);
    const Place place = place_of(layer, mixer);
    const LayerPass<S> layer_pass = model_.layer_pass(pass_, layer, executor_, false, LayerReads::maps);
    if (const Index came = static_cast<Index>(layer_pass.mixers.size()), said = mixers_of(layer).count; came != said)
      detail::raise(ErrorKind::value, "knock-out: the parts of layer ", layer, " of ", model_.name(), " have ", said,
                    " token mixers by Part::mixers(), and ran ", came);
    const MixerRun<S>& run = layer_pass.mixer(mixer);
    if (run.projection.empty())
      detail::raise(ErrorKind::value, "knock-out: layer ", layer, " of ", model_.name(),
                    " has a token mixer whose output projection is not known, expected a layer with a member output_projection()");
    const ImplicitAttention<S> attention = run.attention(Terms::all());
    std::vector<RowVector<S>> lost;  // the vectors of the edges
    Matrix<S> row;                   // those of the row of the last edge; edges usually come row by row
    Index row_of = -1;
    for (const Edge& edge : edges) {
      if (edge.from < 0 || edge.to < edge.from || edge.to >= pass_.tokens())
        detail::raise(ErrorKind::value, "knock-out: edge (", edge.to, ", ", edge.from, ") is out of range, expected 0 <= from <= to < ",
                      pass_.tokens());
      if (row_of != edge.to) {
        row = detail::contributions_row(attention, run.x.numbers, run.projection, edge.to);
        row_of = edge.to;
      }
      lost.push_back(row.row(edge.from));
    }
    const S whole = value(pass_.logits_at(target.position), target);
    RowVector<S> effects(static_cast<Index>(edges.size()));
    executor_(effects.size(), [&](Index e) {
      const Edge& edge = edges[static_cast<std::size_t>(e)];
      effects[e] = whole - value_with(layer, place, target, [&](PartPointer<S> part) {
                     return detail::AlteredPart<S>::less(std::move(part), edge.to, lost[static_cast<std::size_t>(e)]);
                   });
    });
    return checked(std::move(effects));
  }

  /// The target's value less its value with u_j <- 0 in a token mixer of `layer`, (tokens): its input behind the norm, with convolutions,
  /// gates and decays computed again. It makes no use of the implicit attention, so that it can contradict it: compare with the sums of a
  /// map's columns. One run of the layer and of those after it for each token.
  [[nodiscard]] RowVector<S> input_effects(Index layer, const std::vector<Index>& tokens, const Target& target, Index mixer = 0) const {
    check(target);
    const Place place = place_of(layer, mixer);
    for (const Index token : tokens) detail::check_position("knock-out", token, pass_.tokens());
    const S whole = value(pass_.logits_at(target.position), target);
    RowVector<S> effects(static_cast<Index>(tokens.size()));
    executor_(effects.size(), [&](Index e) {
      effects[e] = whole - value_with(layer, place, target, [&](PartPointer<S> part) {
                     return detail::AlteredPart<S>::without_input(std::move(part), tokens[static_cast<std::size_t>(e)]);
                   });
    });
    return checked(std::move(effects));
  }

  /// Whether anything can be taken out of a layer: it has token mixers, and each of them is a part by itself, which Zamba2's hybrid layers'
  /// are not.
  [[nodiscard]] bool reaches(Index layer) const {
    const Mixers mixers = mixers_of(layer);
    return mixers.count > 0 && mixers.count <= mixers.parts;
  }

 private:
  /// How many token mixers a layer has, and in how many parts.
  struct Mixers {
    Index count = 0, parts = 0;
  };
  [[nodiscard]] Mixers mixers_of(Index layer) const {
    Mixers mixers;
    for (const auto& sublayer : model_.block(layer).sublayers)
      for (const auto& branch : sublayer.branches) {
        mixers.parts += branch.part->channels() != 0 ? 1 : 0;
        mixers.count += branch.part->mixers();
      }
    return mixers;
  }
  /// Where a token mixer stands in its layer.
  struct Place {
    std::size_t sublayer, branch;
  };
  [[nodiscard]] Place place_of(Index layer, Index mixer) const {
    const Block<S>& block = model_.block(layer);
    if (const Mixers mixers = mixers_of(layer); mixers.count > mixers.parts)
      detail::raise(ErrorKind::value, "knock-out: layer ", layer, " of ", model_.name(), " has ", mixers.count,
                    " token mixers in fewer parts, and one part cannot be run without another's input");
    Index next = 0;
    for (std::size_t sublayer = 0; sublayer < block.sublayers.size(); ++sublayer)
      for (std::size_t branch = 0; branch < block.sublayers[sublayer].branches.size(); ++branch)
        if (block.sublayers[sublayer].branches[branch].part->channels() != 0 && next++ == mixer) return {sublayer, branch};
    detail::raise(ErrorKind::value, "knock-out: token mixer ", mixer, " of layer ", layer, " of ", model_.name(),
                  " is out of range, the layer has ", next);
  }

  void check(const Target& target) const {
    detail::check_position("knock-out", target.position, pass_.tokens());
    check_index(target.token, model_.vocabulary(), "knock-out: target token");
    if (target.contrast) check_index(*target.contrast, model_.vocabulary(), "knock-out: contrast token");
  }

  [[nodiscard]] static S value(ConstView<S> logits, const Target& target) {
    return logits(0, target.token) - (target.contrast ? logits(0, *target.contrast) : S(0));
  }

  /// The target's value with another part in place of one.
  template <class Alter>
  [[nodiscard]] S value_with(Index layer, const Place& place, const Target& target, const Alter& alter) const {
    Block<S> block = model_.block(layer);
    PartPointer<S>& part = block.sublayers[place.sublayer].branches[place.branch].part;
    part = alter(part);
    const LayerPass<S>& before = pass_.layers[static_cast<std::size_t>(layer)];
    std::vector<std::pair<std::string, Array<S>>> shared = before.shared_before;
    if (before.kept()) {
      shared.clear();
      for (const SharedValue<S>& one : before.shared_in) shared.emplace_back(one.name, one.value.numbers);
    }
    Array<S> residual = before.residual;
    for (Index next = layer; next < model_.layer_count(); ++next)
      residual = detail::run_block(next == layer ? block : model_.block(next), next, residual, pass_.positions, shared, false,
                                   serial_executor(), nullptr, pass_.starts, LayerReads::all, false)
                     .output;
    const ConstView<S> last(residual.row(target.position), 1, model_.width());
    return value(model_.logits_of(last), target);
  }

  [[nodiscard]] static RowVector<S> checked(RowVector<S> effects) {
    detail::check_finite("knock-out", "an effect", effects);
    return effects;
  }

  LanguageModel<S> model_;
  ForwardPass<S> pass_;
  Executor executor_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
