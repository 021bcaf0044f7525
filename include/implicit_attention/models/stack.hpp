// A stack of layers on a residual stream, whatever the layers are: how one layer runs, and how a recorded one is walked back; and the parts
// of a language model, which are a stack between an embedding and a head.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/part.hpp>
#include <implicit_attention/trace/walk_back.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One of the parts that stand side by side in a sublayer; all but one in nearly every model.
template <Real S>
struct Branch {
  PartPointer<S> part;
  S input_scale = 1;   ///< what its input is multiplied by
  S output_scale = 1;  ///< what its output is multiplied by
};

/// r' = r + residual_scale * norm_after( sum over branches of part(norm(r)) ).
template <Real S>
struct Sublayer {
  Norm<S> norm;  ///< empty: the parts read the residual stream itself
  std::vector<Branch<S>> branches;
  Norm<S> norm_after;  ///< empty: none
  S residual_scale = 1;

  Sublayer() = default;
  /// The usual one: a norm, a part, the residual connection.
  Sublayer(Norm<S> before, PartPointer<S> part) : norm(std::move(before)) { branches.push_back({std::move(part)}); }
};

/// One layer: its sublayers, one after the other.
template <Real S>
struct Block {
  std::vector<Sublayer<S>> sublayers;

  /// The first token mixer of type `Layer`; null if there is none.
  template <class Layer>
  [[nodiscard]] const Layer* find() const {
    for (const Sublayer<S>& sublayer : sublayers)
      for (const Branch<S>& branch : sublayer.branches)
        if (const Layer* found = branch.part->template as<Layer>()) return found;
    return nullptr;
  }
  /// Whether none of its parts looks at a later token.
  [[nodiscard]] bool causal() const {
    for (const Sublayer<S>& sublayer : sublayers)
      for (const Branch<S>& branch : sublayer.branches)
        if (!branch.part->causal()) return false;
    return true;
  }
  /// A part of it that does not keep documents apart, see Part::separates_documents; null: all do.
  [[nodiscard]] const Part<S>* first_that_joins_documents() const {
    for (const Sublayer<S>& sublayer : sublayers)
      for (const Branch<S>& branch : sublayer.branches)
        if (!branch.part->separates_documents()) return branch.part.get();
    return nullptr;
  }
  /// The inner width of its first token mixer; 0 where it mixes no tokens.
  [[nodiscard]] Index channels() const {
    for (const Sublayer<S>& sublayer : sublayers)
      for (const Branch<S>& branch : sublayer.branches)
        if (branch.part->channels() != 0) return branch.part->channels();
    return 0;
  }
};

/// What is read of a layer that has run. Each includes those before it.
enum class LayerReads {
  walk,  ///< nothing but its record: it is walked back
  maps,  ///< the linear inputs and the attention of its token mixers
  all    ///< every activation
};

/// One sequence through one layer. Cheap to copy: the numbers are shared.
template <Real S>
struct LayerPass {
  Array<S> residual;                ///< (L, D): the residual stream before the layer
  Array<S> u;                       ///< (L, D): the input of its first sublayer's parts
  Array<S> middle;                  ///< (L, D): the residual stream after its first sublayer
  Array<S> output;                  ///< (L, D): the residual stream after the layer
  std::vector<MixerRun<S>> mixers;  ///< its token mixers, in order; none in a layer that is a feed-forward part alone

  std::shared_ptr<Trace<S>> trace;  ///< what ran; recorded if it is to be walked back
  Value<S> residual_value, u_value, output_value;
  std::vector<std::pair<std::string, Array<S>>> shared_before;  ///< what earlier layers made: with `residual`, all that the layer reads
  std::vector<SharedValue<S>> shared_in, shared_out;            ///< values that other layers made, and that this one made for others

  std::weak_ptr<const void> after;        ///< whose numbers `output` is: the next layer's residual stream
  LayerReads kept_for = LayerReads::all;  ///< only what is read so is kept: for walks no token mixers, for maps not what they give

  [[nodiscard]] bool kept() const { return trace != nullptr; }
  /// Bytes of the activations that it holds, in a recorded pass; the residual stream after it is counted where the next layer begins.
  [[nodiscard]] std::size_t held_bytes() const { return trace == nullptr ? 0 : trace->held_bytes(after); }
  /// Whether everything that is read so is there.
  [[nodiscard]] bool serves(LayerReads reads) const { return kept() && reads <= kept_for; }
  /// Releases everything that is not read. The residual stream before the layer is kept, so that it can be run again.
  void keep_for(LayerReads reads) {
    if (reads == LayerReads::all) return;
    kept_for = reads;
    u = middle = output = Array<S>();
    u_value = u_value.link();
    output_value = output_value.link();
    for (SharedValue<S>& one : shared_out) one.value = one.value.link();
    if (reads == LayerReads::walk) mixers.clear();
    for (MixerRun<S>& mixer : mixers) {
      mixer.y = mixer.y.link();
      mixer.out = mixer.out.link();
      mixer.activations.reset();
      mixer.type = nullptr;
    }
  }
  /// The first mixer's linear input x (L, E), its output y (L, E) before the output projection, and out (L, D) after it.
  [[nodiscard]] const Array<S>& x() const { return mixer().x.numbers; }
  [[nodiscard]] const Array<S>& y() const { return whole_mixer().y.numbers; }
  [[nodiscard]] const Array<S>& out() const { return whole_mixer().out.numbers; }
  /// A token mixer; fails where the layer has none, or was not kept.
  [[nodiscard]] const MixerRun<S>& mixer(Index index = 0) const {
    if (!serves(LayerReads::maps)) raise_not_kept();
    if (index < 0 || index >= static_cast<Index>(mixers.size()))
      detail::raise(ErrorKind::value, "LayerPass: token mixer ", index, " was asked for, and this layer has ",
                    static_cast<Index>(mixers.size()));
    return mixers[static_cast<std::size_t>(index)];
  }
  /// What the first mixer kept, if it is of this type; else null.
  template <class Layer>
  [[nodiscard]] const typename Layer::Activations* activations() const {
    for (const MixerRun<S>& one : mixers)
      if (one.type == type_tag<Layer>()) return static_cast<const typename Layer::Activations*>(one.activations.get());
    return nullptr;
  }

 private:
  [[nodiscard]] const MixerRun<S>& whole_mixer() const {
    if (!serves(LayerReads::all)) raise_not_kept();
    return mixer();
  }
  [[noreturn]] static void raise_not_kept() {
    detail::raise(ErrorKind::value, "LayerPass: this layer's activations were not kept; run it again with LanguageModel::layer_pass");
  }
};

namespace detail {

/// Runs one layer; `shared` holds what earlier layers made, and leaves with what this one made. `carried`, if given: the states with which
/// a piece of a sequence begins, and in their place those with which it ends. `starts`: as Trace's. `reads`: the pass is kept for that;
/// without `mixers_read` it has no token mixers.
template <Real S>
[[nodiscard]] LayerPass<S> run_block(const Block<S>& block, Index layer, const Array<S>& residual, const std::vector<Index>& positions,
                                     std::vector<std::pair<std::string, Array<S>>>& shared, bool recorded, const Executor& executor,
                                     CarriedStates* carried = nullptr, const std::vector<Index>& starts = {},
                                     LayerReads reads = LayerReads::all, bool mixers_read = true) {
  LayerPass<S> pass;
  pass.trace = std::make_shared<Trace<S>>(recorded, executor, starts);
  pass.residual = residual;
  pass.residual_value = pass.trace->input(residual);
  RunContext<S> context;
  context.layer = layer;
  context.positions = positions;
  context.carried = carried;
  context.mixers_read = mixers_read;
  for (const auto& [name, numbers] : shared) pass.shared_in.push_back({name, pass.trace->input(numbers)});
  context.shared = pass.shared_in;

  Value<S> r = pass.residual_value;
  for (std::size_t index = 0; index < block.sublayers.size(); ++index) {
    const Sublayer<S>& sublayer = block.sublayers[index];
    context.output_read = reads == LayerReads::all || index + 1 < block.sublayers.size() || !sublayer.norm_after.empty();
    const Value<S> u = sublayer.norm.empty() ? r : normalize(sublayer.norm, r);
    if (index == 0) pass.u_value = u;
    Value<S> sum;
    for (const Branch<S>& branch : sublayer.branches) {
      Value<S> given = times(branch.part->run(times(u, branch.input_scale), context), branch.output_scale);
      if (given.rows() != r.rows() || given.cols() != r.cols())
        check_shape(message("layer ", layer, "'s ", branch.part->name()), "output", *given, r.rows(), r.cols(), "(tokens, width)");
      sum = sum.empty() ? std::move(given) : add(std::move(sum), std::move(given));
    }
    if (!sublayer.norm_after.empty()) sum = normalize(sublayer.norm_after, sum);
    r = add(r, times(std::move(sum), sublayer.residual_scale));
    if (index == 0) pass.middle = r.numbers;
  }
  pass.u = pass.u_value.numbers;
  pass.output = r.numbers;
  pass.output_value = r;
  if (!block.sublayers.empty()) pass.after = r.numbers.owner();
  pass.mixers = std::move(context.mixers);
  for (const SharedValue<S>& one : context.shared) {
    bool known = false;
    for (const SharedValue<S>& before : pass.shared_in)
      known = known ||
              (before.name == one.name && before.value.slot == one.value.slot && before.value.numbers.data() == one.value.numbers.data());
    if (known) continue;
    pass.shared_out.push_back(one);
    shared.emplace_back(one.name, one.value.numbers);
  }
  pass.keep_for(reads);
  return pass;
}

/// Gradients of shared values, passed from the layers that read them to the one that made them.
template <Real S>
class SharedGradients {
 public:
  void add(const std::string& name, Matrix<S> gradient) {
    for (auto& [known, sum] : gradients_)
      if (known == name) {
        sum += gradient;
        return;
      }
    gradients_.emplace_back(name, std::move(gradient));
  }
  /// Takes the gradient of a value out; empty where there is none.
  [[nodiscard]] Matrix<S> take(const std::string& name) {
    for (std::size_t index = 0; index < gradients_.size(); ++index)
      if (gradients_[index].first == name) {
        Matrix<S> gradient = std::move(gradients_[index].second);
        gradients_.erase(gradients_.begin() + static_cast<std::ptrdiff_t>(index));
        return gradient;
      }
    return {};
  }

 private:
  std::vector<std::pair<std::string, Matrix<S>>> gradients_;
};

/// Walks one recorded layer back from `d_output` (L, D). The first of the results is the gradient with respect to the residual stream
/// before the layer; those of `wanted` follow. Shared values pass through `shared`.
template <Real S>
[[nodiscard]] WalkResult<S> walk_block(const LayerPass<S>& pass, WayBack way, Matrix<S> d_output, std::vector<Value<S>> wanted,
                                       SharedGradients<S>& shared, const std::vector<Detour<S>>& detours = {}) {
  std::vector<Seed<S>> seeds;
  seeds.push_back({pass.output_value, std::move(d_output)});
  for (const SharedValue<S>& made : pass.shared_out)
    if (Matrix<S> gradient = shared.take(made.name); gradient.size() != 0) seeds.push_back({made.value, std::move(gradient)});
  wanted.insert(wanted.begin(), pass.residual_value);
  const std::size_t own = wanted.size();
  for (const SharedValue<S>& read : pass.shared_in) wanted.push_back(read.value);
  WalkResult<S> result = pass.trace->walk_back(way, std::move(seeds), wanted, detours);
  for (std::size_t index = 0; index < pass.shared_in.size(); ++index)
    shared.add(pass.shared_in[index].name, std::move(result.gradients[own + index]));
  result.gradients.resize(own);
  return result;
}

}  // namespace detail

/// The parts of a language model; models/mamba_lm.hpp and its neighbours read them from checkpoints.
template <Real Scalar>
struct LanguageModelParts {
  std::string name;                ///< the public architecture, e.g. `MambaForCausalLM`
  Array<Scalar> embedding;         ///< (vocabulary, D)
  Scalar embedding_scale = 1;      ///< what embeddings are multiplied by (Griffin, Granite, Falcon-H1)
  Norm<Scalar> embedding_norm;     ///< a norm of the embeddings (RWKV), or empty
  bool shares_embeddings = false;  ///< whether layers read the first residual stream, as the shared value `embeddings` (Zamba2)
  std::vector<Block<Scalar>> blocks;
  Norm<Scalar> final_norm;
  Array<Scalar> head;          ///< (vocabulary, D); the embedding again where they are tied
  Array<Scalar> head_bias;     ///< (vocabulary), or empty
  Scalar logit_scale = 1;      ///< what logits are multiplied by
  Scalar soft_cap = 0;         ///< logits = cap tanh(logits / cap); 0: none
  bool has_positions = false;  ///< whether token positions mean anything
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
