// What every attribution method gives back, and the checks that they share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/shape.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A row of one layer's map, for remarks about it.
struct LayerRow {
  Index layer = 0, token = 0;
  friend bool operator==(LayerRow a, LayerRow b) { return a.layer == b.layer && a.token == b.token; }
};

/// Why a model gave an output at one token: one number for each input token, and remarks about them. Methods fill what applies to
/// them; the comment at each method says what its scores mean and which sign they have.
template <Real Scalar>
struct Attribution {
  RowVector<Scalar> scores;  ///< (tokens): one per input token; zero for those after `position`
  Matrix<Scalar> map;        ///< (tokens, tokens), row = output token, of the matrix forms; empty otherwise
  Index position = 0;        ///< the output token; the last one in the matrix forms, whose `scores` are that row (edge maps: columns' sums)
  /// The number that the scores share out (a logit, a difference of two): relevance, gradient x input, integrated gradients and
  /// leave-one-out set it. NaN for the other methods.
  Scalar explained = std::numeric_limits<Scalar>::quiet_NaN();
  Scalar bias_share = 0;  ///< relevance: the part of `explained` that the model's biases take. sum(scores) + bias_share == explained
  /// Integrated gradients: the number at the baseline; sum(scores) + baseline == explained up to the quadrature's error.
  Scalar baseline = 0;
  bool converged = true;               ///< integrated gradients: whether the gap and the estimated errors are within the tolerance
  Index points = 0;                    ///< integrated gradients: gradients computed
  std::vector<LayerRow> zero_rows;     ///< rollout: rows that sum to zero and were left undivided
  std::vector<Index> constant_layers;  ///< layers whose map or gradient was constant, so that it could not be rescaled to 0..1
  std::vector<std::string> untreated;  ///< relevance: operations that it has no rule for and reached; what reached them is not in the sum
};

/// The matrix form: a row for each of several things explained, and the remarks about all of them.
template <Real Scalar>
struct AttributionMatrix {
  Matrix<Scalar> scores;         ///< (explained, tokens)
  RowVector<Scalar> explained;   ///< (explained): these, and the next two, as in Attribution
  RowVector<Scalar> bias_share;  ///< (explained)
  RowVector<Scalar> baseline;    ///< (explained)
  std::vector<LayerRow> zero_rows;
  std::vector<Index> constant_layers;
  std::vector<std::string> untreated;
};

namespace detail {

/// Appends elements that are not in the list yet.
template <class Element>
void append_new(std::vector<Element>& all, const std::vector<Element>& more) {
  for (const Element& element : more)
    if (std::find(all.begin(), all.end(), element) == all.end()) all.push_back(element);
}

inline void check_position(std::string_view who, Index position, Index tokens) {
  if (tokens == 0) raise(ErrorKind::value, who, ": there are no tokens, expected at least one");
  check_index(position, tokens, who, ": position");
}

inline void check_layers(std::string_view who, Index layers, Index start_layer = 0) {
  if (layers <= 0) raise(ErrorKind::value, who, ": there are no layers, expected at least one");
  check_index(start_layer, layers, who, ": start layer");
}

template <class Derived>
void check_map(std::string_view who, Index layer, const Eigen::MatrixBase<Derived>& map, Index tokens) {
  if (map.rows() != tokens || map.cols() != tokens)
    raise(ErrorKind::shape, who, ": the map of layer ", layer, " is ", shape_text({map.rows(), map.cols()}), ", expected ",
          shape_text({tokens, tokens}), " = (tokens, tokens)");
  check_finite(who, message("the map of layer ", layer), map);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
