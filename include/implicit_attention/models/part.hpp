// The parts that a model's layers are made of, behind one small interface: token mixers and feed-forward parts, of this library or
// user-defined. Nothing here needs run-time type information.
#pragma once

#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One part of a layer: from its normalised input (L, D) to what is added to the residual stream (L, D).
template <Real S>
class Part {
 public:
  using Scalar = S;
  virtual ~Part() = default;
  Part() = default;
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  /// Runs the part within u's trace. A token mixer also adds itself to `context.mixers`, where these are read.
  [[nodiscard]] virtual Value<S> run(const Value<S>& u, RunContext<S>& context) const = 0;
  /// The model width D.
  [[nodiscard]] virtual Index width() const = 0;
  /// A token mixer's inner width E; 0 for a part that mixes no tokens.
  [[nodiscard]] virtual Index channels() const { return 0; }
  /// How many token mixers run() adds to `context.mixers`.
  [[nodiscard]] virtual Index mixers() const { return channels() != 0 ? 1 : 0; }
  /// What it is, for messages: `Mamba`.
  [[nodiscard]] virtual std::string name() const = 0;

  /// Whether no output looks at a later token: what its ImplicitAttention::causal() says of every input.
  [[nodiscard]] virtual bool causal() const { return true; }

  /// Whether it keeps documents apart that stand one behind the other in one sequence (`Trace::starts`): nothing of one reaches another.
  /// The trace's own operations do; a part whose every look from token to token is one of those may say so with a member
  /// `static constexpr bool separates_documents = true`.
  [[nodiscard]] virtual bool separates_documents() const { return false; }

  /// The layer inside if it is of this type, else null.
  template <class Layer>
  [[nodiscard]] const Layer* as() const {
    return type() == type_tag<Layer>() ? static_cast<const Layer*>(layer()) : nullptr;
  }

 protected:
  [[nodiscard]] virtual const void* type() const { return nullptr; }
  [[nodiscard]] virtual const void* layer() const { return nullptr; }
};

template <Real S>
using PartPointer = std::shared_ptr<const Part<S>>;

namespace detail {

/// Whether a layer leaves a state that a later piece of the sequence can begin with.
template <class Layer>
concept CarriesState = TracedLayer<Layer> && !std::is_empty_v<typename Layer::State> &&
                       requires(const Layer& layer, const Value<typename Layer::Scalar>& u, RunContext<typename Layer::Scalar>& context,
                                const typename Layer::State* initial) {
  { layer.run(u, context, initial).activations.final } -> std::convertible_to<typename Layer::State>;
};

/// What a layer or a feed-forward part says of itself.
template <class Inner>
[[nodiscard]] constexpr bool says_it_separates_documents() {
  if constexpr (requires { Inner::separates_documents; }) return Inner::separates_documents;
  return false;
}

template <TracedLayer Layer>
class MixerPart final : public Part<typename Layer::Scalar> {
 public:
  using Scalar = typename Layer::Scalar;
  MixerPart(Layer layer, std::string kind) : layer_(std::make_shared<const Layer>(std::move(layer))), kind_(std::move(kind)) {}

  [[nodiscard]] Value<Scalar> run(const Value<Scalar>& u, RunContext<Scalar>& context) const override {
    LayerRun<Layer> run = run_layer(u, context);
    if (!context.mixers_read) return std::move(run.out);
    const auto activations = std::make_shared<const typename Layer::Activations>(std::move(run.activations));
    auto lowered = activations;  // in a record without what no map reads: see LayerPass::keep_for
    if constexpr (requires(typename Layer::Activations & act) { Layer::keep_for_maps(act); })
      if (u.trace->recording()) {
        const auto without = std::make_shared<typename Layer::Activations>(*activations);
        Layer::keep_for_maps(*without);
        lowered = without;
      }
    MixerRun<Scalar>& mixer = context.mixers.emplace_back();
    mixer.kind = kind_;
    mixer.x = std::move(run.x);
    mixer.y = std::move(run.y);
    mixer.out = run.out;
    mixer.second_x = std::move(run.second_x);
    if (u.trace->starts().empty())
      mixer.attention = [layer = layer_, lowered](Terms terms) { return implicit_attention_of(*layer, *lowered, terms); };
    else
      mixer.attention = [who = name()](Terms) -> ImplicitAttention<Scalar> {
        raise(ErrorKind::value, who,
              ": several documents ran in one sequence (ForwardOptions::starts), whose attention is not that "
              "of one text; run each by itself");
      };
    mixer.activations = activations;
    if constexpr (requires { activations->reported_input(); }) mixer.reported_input = activations->reported_input();
    mixer.type = type_tag<Layer>();
    if constexpr (requires { layer_->output_projection(); }) mixer.projection = layer_->output_projection();
    if constexpr (requires { layer_->output_bias(); }) mixer.projection_bias = layer_->output_bias();
    return std::move(run.out);
  }
  [[nodiscard]] Index width() const override { return layer_->width(); }
  [[nodiscard]] Index channels() const override { return layer_->channels(); }
  [[nodiscard]] bool causal() const override {
    if constexpr (requires { layer_->causal(); }) return layer_->causal();
    return true;
  }
  [[nodiscard]] bool separates_documents() const override { return says_it_separates_documents<Layer>(); }
  [[nodiscard]] std::string name() const override {
    if constexpr (requires { Layer::layer_name; }) return std::string(Layer::layer_name);
    return "a mixer";
  }

 protected:
  [[nodiscard]] const void* type() const override { return type_tag<Layer>(); }
  [[nodiscard]] const void* layer() const override { return layer_.get(); }

 private:
  [[nodiscard]] LayerRun<Layer> run_layer(const Value<Scalar>& u, RunContext<Scalar>& context) const {
    if (context.carried == nullptr) return layer_->run(u, context);
    if constexpr (CarriesState<Layer>) {
      using State = typename Layer::State;
      LayerRun<Layer> run = layer_->run(u, context, context.carried->template before<State>());
      context.carried->leave(State(run.activations.final));
      return run;
    } else {
      context.carried->refuse(name());
      return layer_->run(u, context);
    }
  }

  std::shared_ptr<const Layer> layer_;
  std::string kind_;
};

template <class FeedForward>
class FeedForwardPart final : public Part<typename FeedForward::Scalar> {
 public:
  using Scalar = typename FeedForward::Scalar;
  explicit FeedForwardPart(FeedForward part) : part_(std::move(part)) {}
  [[nodiscard]] Value<Scalar> run(const Value<Scalar>& u, RunContext<Scalar>& context) const override { return part_.run(u, context); }
  [[nodiscard]] Index width() const override { return part_.width(); }
  [[nodiscard]] std::string name() const override { return std::string(FeedForward::part_name); }
  [[nodiscard]] bool separates_documents() const override { return says_it_separates_documents<FeedForward>(); }

 protected:
  [[nodiscard]] const void* type() const override { return type_tag<FeedForward>(); }
  [[nodiscard]] const void* layer() const override { return &part_; }

 private:
  FeedForward part_;
};

}  // namespace detail

/// A token-mixing layer as a part. `kind` is empty for a layer's first mixer; a second one beside it says what it is (`attention`).
template <TracedLayer Layer>
[[nodiscard]] PartPointer<typename Layer::Scalar> mixer_part(Layer layer, std::string kind = {}) {
  return std::make_shared<const detail::MixerPart<Layer>>(std::move(layer), std::move(kind));
}

/// A feed-forward part: anything with `run(u, context)`, `width()` and a `part_name`.
template <class FeedForward>
[[nodiscard]] PartPointer<typename FeedForward::Scalar> feed_forward_part(FeedForward part) {
  return std::make_shared<const detail::FeedForwardPart<FeedForward>>(std::move(part));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
