// A language model: embeddings, layers, a norm and a head. Mamba, RWKV-4 and Griffin differ in the parts alone.
#pragma once

#include <cmath>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/models/forward_pass.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The parts of a language model; models/mamba_lm.hpp and its neighbours read them from checkpoints.
template <Real Scalar>
struct LanguageModelParts {
  std::string name;             ///< the public architecture, e.g. `MambaForCausalLM`
  Array<Scalar> embedding;      ///< (vocabulary, D)
  Scalar embedding_scale = 1;   ///< what embeddings are multiplied by (Griffin)
  Norm<Scalar> embedding_norm;  ///< a norm of the embeddings (RWKV), or empty
  std::vector<Block<Scalar>> blocks;
  Norm<Scalar> final_norm;
  Array<Scalar> head;          ///< (vocabulary, D); the embedding again where they are tied
  Scalar soft_cap = 0;         ///< logits = cap tanh(logits / cap); 0: none
  bool has_positions = false;  ///< whether token positions mean anything (Griffin)
};

/// A public language model, run forwards; models/backward.hpp runs it backwards. Cheap to copy: weights are shared or viewed.
template <Real S>
class LanguageModel {
 public:
  using Scalar = S;

  /// Checks that the parts fit each other; fails (ErrorKind::shape) naming the part.
  explicit LanguageModel(LanguageModelParts<Scalar> parts);

  [[nodiscard]] const std::string& name() const { return parts_.name; }
  [[nodiscard]] const LanguageModelParts<Scalar>& parts() const { return parts_; }
  /// Rows of the embedding, with their padding.
  [[nodiscard]] Index vocabulary() const { return parts_.embedding.rows(); }
  [[nodiscard]] Index width() const { return parts_.embedding.cols(); }
  [[nodiscard]] Index layer_count() const { return static_cast<Index>(parts_.blocks.size()); }
  [[nodiscard]] const Block<Scalar>& block(Index layer) const { return parts_.blocks[checked_layer(layer)]; }
  /// A layer's inner width E: columns of its x and y.
  [[nodiscard]] Index channels(Index layer) const;

  /// The embeddings of tokens (L), (L, D). Fails on an id that the vocabulary has not, and where there is none.
  [[nodiscard]] Matrix<Scalar> embed(const std::vector<Index>& ids) const;

  /// Runs the model on token ids (L).
  [[nodiscard]] ForwardPass<Scalar> forward(const std::vector<Index>& ids, const ForwardOptions& options = {}) const;
  /// Runs the model on embeddings (L, D) in the place of tokens': what `embed` gives, or anything else.
  [[nodiscard]] ForwardPass<Scalar> forward_embeddings(ConstView<Scalar> embeddings, const ForwardOptions& options = {}) const;

  /// Runs one layer on the residual stream before it (L, D). `positions` as for `forward`.
  [[nodiscard]] LayerPass<Scalar> run_layer(Index layer, const Array<Scalar>& residual, const std::vector<Index>& positions = {},
                                            const Executor& executor = serial_executor()) const;

  /// A layer of a pass with its activations: as kept, or recomputed from the residual stream. Fails where the pass kept neither.
  [[nodiscard]] LayerPass<Scalar> layer_pass(const ForwardPass<Scalar>& pass, Index layer,
                                             const Executor& executor = serial_executor()) const;

  /// The implicit attention of one layer of a pass.
  [[nodiscard]] ImplicitAttention<Scalar> implicit_attention(const ForwardPass<Scalar>& pass, Index layer,
                                                             Terms terms = Terms::all()) const;
  /// The same of a layer that has been run by itself.
  [[nodiscard]] ImplicitAttention<Scalar> implicit_attention(const LayerPass<Scalar>& pass, Index layer, Terms terms = Terms::all()) const;

  /// Calls `use(mixer, activations)` with a layer's descriptor and what it kept in `pass`, both in their own types.
  template <class Use>
  [[nodiscard]] auto with_mixer(Index layer, const LayerPass<Scalar>& pass, Use use) const {
    return std::visit(
        [&](const auto& mixer) {
          using Activations = typename std::decay_t<decltype(mixer)>::Activations;
          const Activations* act = std::get_if<Activations>(&pass.mixer);
          if (act == nullptr)
            raise(ErrorKind::value,
                  message(name(), ": the pass of layer ", layer, " holds no activations of its kind of layer; run it with layer_pass"));
          return use(mixer, *act);
        },
        block(layer).mixer);
  }

  /// What enters the first layer, (L, D): embeddings scaled and normalised as the model has it.
  [[nodiscard]] Array<Scalar> first_residual(const Array<Scalar>& embeddings, typename Norm<Scalar>::Statistics& statistics) const;

  /// The logits (rows, vocabulary) of rows (rows, D) of the residual stream after the last layer.
  [[nodiscard]] Matrix<Scalar> logits_of(ConstView<Scalar> final_residual) const;

 private:
  [[nodiscard]] std::size_t checked_layer(Index layer) const;

  template <class Layer>
  [[nodiscard]] static typename Layer::Activations mix(const Layer& layer, const Array<Scalar>& u, const std::vector<Index>& positions,
                                                       const Executor& executor) {
    if constexpr (requires { layer.activations(*u, positions); })
      if (!positions.empty()) return layer.activations(*u, positions, nullptr, executor);
    return layer.activations(*u, nullptr, executor);
  }

  [[nodiscard]] ForwardPass<Scalar> run(Array<Scalar> embeddings, const ForwardOptions& options) const;

  [[nodiscard]] std::vector<Index> checked_positions(const std::vector<Index>& positions, Index tokens) const;

  LanguageModelParts<Scalar> parts_;
};

template <Real S>
LanguageModel<S>::LanguageModel(LanguageModelParts<Scalar> parts) : parts_(std::move(parts)) {
  const LanguageModelParts<Scalar>& p = parts_;
  if (p.embedding.empty()) raise(ErrorKind::shape, message(p.name, ": the embedding is empty, expected (vocabulary, width)"));
  if (p.blocks.empty()) raise(ErrorKind::shape, message(p.name, ": there is no layer"));
  const auto check_width = [&](const std::string& what, Index came) {
    if (came != width())
      raise(ErrorKind::shape, message(p.name, ": ", what, " is ", came, " wide, expected ", width(), " as the embedding is"));
  };
  if (!p.embedding_norm.empty()) check_width("the norm of the embeddings", p.embedding_norm.width());
  for (std::size_t n = 0; n < p.blocks.size(); ++n) {
    const Block<Scalar>& block = p.blocks[n];
    const std::string layer = message("layer ", static_cast<Index>(n));
    check_width(message(layer, "'s norm"), block.norm.width());
    check_width(message(layer, "'s mixer"), std::visit([](const auto& mixer) { return mixer.width(); }, block.mixer));
    std::visit(
        [&](const auto& part) {
          if constexpr (!std::is_same_v<std::decay_t<decltype(part)>, std::monostate>) {
            check_width(message(layer, "'s feed-forward norm"), block.feed_forward_norm.width());
            check_width(message(layer, "'s feed-forward part"), part.width());
          }
        },
        block.feed_forward);
  }
  check_width("the final norm", p.final_norm.width());
  check_shape(p.name, "head", p.head, vocabulary(), width(), "(vocabulary, width)");
}

template <Real S>
Index LanguageModel<S>::channels(Index layer) const {
  return std::visit([](const auto& mixer) { return mixer.channels(); }, block(layer).mixer);
}

template <Real S>
Matrix<S> LanguageModel<S>::embed(const std::vector<Index>& ids) const {
  if (ids.empty()) raise(ErrorKind::value, message(name(), ": there are no token ids, expected at least one"));
  for (std::size_t token = 0; token < ids.size(); ++token)
    if (ids[token] < 0 || ids[token] >= vocabulary())
      raise(ErrorKind::value, message(name(), ": token id ", ids[token], " at position ", static_cast<Index>(token),
                                      " is out of range, expected 0 to ", vocabulary() - 1));
  Matrix<Scalar> rows(static_cast<Index>(ids.size()), width());
  for (Index token = 0; token < rows.rows(); ++token) rows.row(token) = parts_.embedding.matrix().row(ids[static_cast<std::size_t>(token)]);
  return rows;
}

template <Real S>
ForwardPass<S> LanguageModel<S>::forward(const std::vector<Index>& ids, const ForwardOptions& options) const {
  ForwardPass<Scalar> pass = run(Array<Scalar>(embed(ids)), options);
  pass.ids = ids;
  return pass;
}

template <Real S>
ForwardPass<S> LanguageModel<S>::forward_embeddings(ConstView<Scalar> embeddings, const ForwardOptions& options) const {
  if (embeddings.rows() == 0) raise(ErrorKind::shape, message(name(), ": there are no embeddings, expected at least one token's"));
  if (embeddings.cols() != width())
    raise(ErrorKind::shape, message(name(), ": the embeddings are ", shape_text({embeddings.rows(), embeddings.cols()}),
                                    ", expected (tokens, ", width(), ")"));
  return run(Array<Scalar>(Matrix<Scalar>(embeddings)), options);
}

template <Real S>
LayerPass<S> LanguageModel<S>::run_layer(Index layer, const Array<Scalar>& residual, const std::vector<Index>& positions,
                                         const Executor& executor) const {
  const Block<Scalar>& block = parts_.blocks[checked_layer(layer)];
  detail::check_input(name(), *residual, width());
  LayerPass<Scalar> pass;
  pass.residual = residual;
  pass.norm = block.norm.statistics(*residual);
  pass.u = block.norm.apply(*residual, pass.norm);
  std::visit([&](const auto& mixer) { pass.mixer = mix(mixer, pass.u, positions, executor); }, block.mixer);
  pass.middle = Matrix<Scalar>(residual.matrix() + pass.out().matrix());
  pass.output = pass.middle;
  std::visit(
      [&](const auto& part) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(part)>, std::monostate>) {
          pass.feed_forward_norm = block.feed_forward_norm.statistics(*pass.middle);
          pass.feed_forward_u = block.feed_forward_norm.apply(*pass.middle, pass.feed_forward_norm);
          auto act = part.activations(*pass.feed_forward_u);
          pass.output = Matrix<Scalar>(pass.middle.matrix() + act.out.matrix());
          pass.feed_forward = std::move(act);
        }
      },
      block.feed_forward);
  return pass;
}

template <Real S>
LayerPass<S> LanguageModel<S>::layer_pass(const ForwardPass<Scalar>& pass, Index layer, const Executor& executor) const {
  const std::size_t index = checked_layer(layer);
  if (pass.layers.size() != parts_.blocks.size())
    raise(ErrorKind::value, message(name(), ": the pass kept ", static_cast<Index>(pass.layers.size()), " layers of ", layer_count(),
                                    "; run it with Keep::residuals or Keep::activations"));
  if (pass.layers[index].kept()) return pass.layers[index];
  return run_layer(layer, pass.layers[index].residual, pass.positions, executor);
}

template <Real S>
ImplicitAttention<S> LanguageModel<S>::implicit_attention(const ForwardPass<Scalar>& pass, Index layer, Terms terms) const {
  return implicit_attention(layer_pass(pass, layer), layer, terms);
}

template <Real S>
ImplicitAttention<S> LanguageModel<S>::implicit_attention(const LayerPass<Scalar>& pass, Index layer, Terms terms) const {
  return with_mixer(layer, pass, [&](const auto& mixer, const auto& act) { return implicit_attention_of(mixer, act, terms); });
}

template <Real S>
Array<S> LanguageModel<S>::first_residual(const Array<Scalar>& embeddings, typename Norm<Scalar>::Statistics& statistics) const {
  if (!parts_.embedding_norm.empty()) {
    statistics = parts_.embedding_norm.statistics(*embeddings);
    return parts_.embedding_norm.apply(*embeddings, statistics);
  }
  if (parts_.embedding_scale == Scalar(1)) return embeddings;
  return Matrix<Scalar>(embeddings.matrix() * parts_.embedding_scale);
}

template <Real S>
Matrix<S> LanguageModel<S>::logits_of(ConstView<Scalar> final_residual) const {
  const Matrix<Scalar> normed = parts_.final_norm(final_residual);
  Matrix<Scalar> logits = detail::project<Scalar>(normed, *parts_.head);
  if (parts_.soft_cap > Scalar(0)) logits = (parts_.soft_cap * (logits.array() / parts_.soft_cap).tanh()).matrix();
  return logits;
}

template <Real S>
std::size_t LanguageModel<S>::checked_layer(Index layer) const {
  if (layer < 0 || layer >= layer_count())
    raise(ErrorKind::value, message(name(), ": layer ", layer, " is out of range, expected 0 to ", layer_count() - 1));
  return static_cast<std::size_t>(layer);
}

template <Real S>
ForwardPass<S> LanguageModel<S>::run(Array<Scalar> embeddings, const ForwardOptions& options) const {
  ForwardPass<Scalar> pass;
  pass.logit_positions = options.logit_positions.resolve(embeddings.rows(), "logit position");
  pass.positions = checked_positions(options.positions, embeddings.rows());
  pass.embeddings = std::move(embeddings);
  Array<Scalar> residual = first_residual(pass.embeddings, pass.embedding_norm);
  for (Index layer = 0; layer < layer_count(); ++layer) {
    LayerPass<Scalar> run = run_layer(layer, residual, pass.positions, options.executor);
    residual = run.output;
    if (options.keep == Keep::activations) {
      pass.layers.push_back(std::move(run));
    } else if (options.keep == Keep::residuals) {
      LayerPass<Scalar> before;
      before.residual = run.residual;
      pass.layers.push_back(std::move(before));
    }
  }
  Matrix<Scalar> chosen(static_cast<Index>(pass.logit_positions.size()), width());
  for (Index row = 0; row < chosen.rows(); ++row)
    chosen.row(row) = residual.matrix().row(pass.logit_positions[static_cast<std::size_t>(row)]);
  pass.final_residual = std::move(residual);
  pass.logits = logits_of(chosen);
  return pass;
}

template <Real S>
std::vector<Index> LanguageModel<S>::checked_positions(const std::vector<Index>& positions, Index tokens) const {
  if (positions.empty()) return {};
  if (!parts_.has_positions) raise(ErrorKind::value, message(name(), ": positions were given, but this model has none"));
  if (static_cast<Index>(positions.size()) != tokens)
    raise(ErrorKind::shape,
          message(name(), ": positions are (", static_cast<Index>(positions.size()), "), expected (", tokens, ") = (tokens)"));
  for (std::size_t token = 0; token < positions.size(); ++token)
    if (positions[token] < 0)
      raise(ErrorKind::value, message(name(), ": position ", positions[token], " of token ", static_cast<Index>(token), " is negative"));
  return positions;
}

IMPLICIT_ATTENTION_NAMESPACE_END
