// Edge maps of whole layers: what each edge, from one token to another, carries to what is explained; of chosen heads as well, and summed
// over an edge's outputs in linear time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/models/backward.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// How many heads each of a layer's token mixers has: those of the recurrence, whose channels share one matrix; 0 where they share none.
template <Real S>
[[nodiscard]] std::vector<Index> head_counts(const LayerPass<S>& pass) {
  std::vector<Index> counts;
  for (const MixerRun<S>& mixer : pass.mixers) counts.push_back(mixer.attention(Terms::recurrence()).heads());
  return counts;
}

/// The channels of heads, a list for each of a layer's token mixers; of no heads all channels. Heads are numbered in sequence over the
/// mixers. Fails (ErrorKind::value) on a head that is not there.
template <Real S>
[[nodiscard]] std::vector<std::vector<Index>> channels_of_heads(std::string_view who, Index layer, const LayerPass<S>& pass,
                                                                const std::vector<Index>& heads) {
  std::vector<std::vector<Index>> channels(pass.mixers.size());
  const std::vector<Index> counts = heads.empty() ? std::vector<Index>(channels.size(), 0) : head_counts(pass);
  const Index all = std::accumulate(counts.begin(), counts.end(), Index(0));
  if (!heads.empty() && all == 0)
    raise(ErrorKind::value, who, ": the channels of layer ", layer, " share no matrices, so it has no heads to choose from");
  for (const Index head : heads) check_index(head, all, who, ": head");
  Index before = 0;  // heads of the mixers before
  for (std::size_t m = 0; m < channels.size(); before += counts[m++]) {
    const Index of_mixer = pass.mixer(static_cast<Index>(m)).x.numbers.cols();
    for (Index channel = 0; channel < of_mixer; ++channel)
      if (heads.empty() || (counts[m] > 0 && std::find(heads.begin(), heads.end(), before + channel * counts[m] / of_mixer) != heads.end()))
        channels[m].push_back(channel);
  }
  return channels;
}

/// Adds <x_j, back_j> over the chosen channels to every token's sum.
template <Real S>
void add_products(RowVector<S>& sums, const Array<S>& x, ConstView<S> back, const std::vector<Index>& channels) {
  if (static_cast<Index>(channels.size()) == x.cols()) {
    sums += x.matrix().cwiseProduct(back).rowwise().sum().transpose();
    return;
  }
  for (Index token = 0; token < x.rows(); ++token) {
    S sum = 0;
    for (const Index channel : channels) sum += x(token, channel) * back(token, channel);
    sums[token] += sum;
  }
}

/// Adds the edge map of a layer that has been run and walked back, (tokens, tokens), to a map that may be empty: those of its token mixers,
/// each with d y of its own.
template <Real S>
void add_edge_map(Matrix<S>& map, const LayerPass<S>& pass, const LayerBackward<S>& gradients, Terms terms,
                  const std::vector<std::vector<Index>>& channels, const Executor& executor) {
  for (std::size_t m = 0; m < channels.size(); ++m) {
    if (channels[m].empty()) continue;
    const MixerRun<S>& mixer = pass.mixer(static_cast<Index>(m));
    Selection selection;
    selection.channels = channels[m];
    selection.executor = executor;
    Matrix<S> one = edge_map(mixer.attention(terms), mixer.x.numbers, gradients.mixers_y[m], selection);
    if (map.size() == 0)
      map = std::move(one);
    else
      map += one;
  }
}

/// Adds the sums of that map's columns, sum_e x_e o A_e^T g_e, without making it.
template <Real S>
void add_edge_columns(RowVector<S>& columns, const LayerPass<S>& pass, const LayerBackward<S>& gradients, Terms terms,
                      const std::vector<std::vector<Index>>& channels, const Executor& executor) {
  for (std::size_t m = 0; m < channels.size(); ++m) {
    if (channels[m].empty()) continue;
    const MixerRun<S>& mixer = pass.mixer(static_cast<Index>(m));
    const ImplicitAttention<S> attention = mixer.attention(terms);
    add_products<S>(columns, mixer.x.numbers, attention.apply_transpose(*gradients.mixers_y[m], executor), channels[m]);
    if (attention.has_second())
      add_products<S>(columns, attention.second_input(), attention.second().apply_transpose(*gradients.mixers_y[m], executor), channels[m]);
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
