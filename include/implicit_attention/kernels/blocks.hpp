// The blocked product form of one channel's matrix (formulation: "Two kinds of transition").
//
// Tokens are cut into blocks. Rows of block I see the columns of an earlier block J through
//
//     exp(rate[n] (steps from the start of I to row i))  x  exp(rate[n] (steps of the blocks between))  x  exp(rate[n] (steps from column j to the end of J))
//
// none of which exceeds 1: a product of query and key factors. Only sums within one block and sums of whole blocks occur, each taken
// in the direction in which it is needed, so that precision does not depend on length. Activation, convolution and column weights are folded
// into the key factors, row weights into the query factors. A convolution reaches from a block into the next: what its
// last `lead = width - 1` columns see there is kept as a key factor of the next block.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/product.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A run of tokens of one document.
struct TokenBlock {
  Index first = 0, tokens = 0;
  Index document = 0;     ///< index of the first block of the same document
  Index first_panel = 0;  ///< index of the first panel of its columns
  [[nodiscard]] Index end() const { return first + tokens; }
};

/// What all channels share: the cut into blocks, and keys with tokens contiguous.
template <Real Scalar>
class BlockPlan {
 public:
  explicit BlockPlan(const DressedDiagonal<Scalar>& dressed) : dressed_(&dressed) {
    const DiagonalRecurrence<Scalar>& recurrence = dressed.recurrence;
    query_ = transposed(recurrence.query);
    key_ = transposed(recurrence.key);
    auto start = recurrence.starts.begin();
    Index document = 0;
    for (Index token = 0; token < recurrence.tokens;) {
      while (start != recurrence.starts.end() && *start <= token) {
        document = static_cast<Index>(blocks_.size());
        ++start;
      }
      Index end = std::min(token + IMPLICIT_ATTENTION_BLOCK_TOKENS, recurrence.tokens);
      if (start != recurrence.starts.end()) end = std::min(end, *start);
      blocks_.push_back({token, end - token, document, static_cast<Index>(panels_.size())});
      for (; token < end; token = panels_.back().first + panels_.back().columns)
        panels_.push_back({token, std::min<Index>(detail::register_lanes<Scalar>, end - token)});
    }
    panel_of_.resize(static_cast<std::size_t>(recurrence.tokens));
    for (std::size_t panel = 0; panel < panels_.size(); ++panel)
      std::fill_n(panel_of_.begin() + panels_[panel].first, panels_[panel].columns, static_cast<Index>(panel));
    if (recurrence.query.empty() || recurrence.key.empty()) ones_ = RowVector<Scalar>::Ones(recurrence.state);
    reach_.resize(static_cast<std::size_t>(recurrence.tokens));
    for (Index token = 0; token < recurrence.tokens; ++token) reach_[static_cast<std::size_t>(token)] = dressed.last_reached(token);
  }

  [[nodiscard]] const DressedDiagonal<Scalar>& dressed() const { return *dressed_; }
  [[nodiscard]] const std::vector<TokenBlock>& blocks() const { return blocks_; }
  [[nodiscard]] const TokenBlock& block(Index index) const { return blocks_[static_cast<std::size_t>(index)]; }
  /// The columns, cut into registers; no panel crosses from one block into the next.
  [[nodiscard]] const std::vector<detail::Panel>& panels() const { return panels_; }
  [[nodiscard]] Index panel_of(Index column) const { return panel_of_[static_cast<std::size_t>(column)]; }
  /// First panel after the columns before a block.
  [[nodiscard]] Index panel_end(Index index) const { return block(index).first_panel; }
  [[nodiscard]] Index lead() const { return dressed_->width() - 1; }
  [[nodiscard]] Index reach(Index token) const { return reach_[static_cast<std::size_t>(token)]; }
  /// The query or key of one token, (state), contiguous.
  [[nodiscard]] const Scalar* token_query(Index token) const {
    return dressed_->recurrence.query.empty() ? ones_.data() : dressed_->recurrence.query.row(token);
  }
  [[nodiscard]] const Scalar* token_key(Index token) const {
    return dressed_->recurrence.key.empty() ? ones_.data() : dressed_->recurrence.key.row(token);
  }
  [[nodiscard]] const Matrix<Scalar>& query() const { return query_; }  ///< (state, tokens and a block)
  [[nodiscard]] const Matrix<Scalar>& key() const { return key_; }      ///< (state, tokens and a block)

 private:
  [[nodiscard]] Matrix<Scalar> transposed(const Array<Scalar>& array) const {
    const Index state = dressed_->recurrence.state, tokens = dressed_->recurrence.tokens;
    Matrix<Scalar> out = Matrix<Scalar>::Ones(state, tokens + IMPLICIT_ATTENTION_BLOCK_TOKENS);  // readable a block beyond the last token
    if (!array.empty()) out.leftCols(tokens) = array.matrix().transpose();
    return out;
  }

  const DressedDiagonal<Scalar>* dressed_;
  std::vector<TokenBlock> blocks_;
  std::vector<detail::Panel> panels_;
  std::vector<Index> reach_, panel_of_;
  Matrix<Scalar> query_, key_;
  RowVector<Scalar> ones_;
};

/// Memory in which one worker computes the rows of a block, of `channels` channels at once.
template <Real Scalar>
struct BlockScratch {
  static constexpr int group = 16;  ///< columns of a diagonal block that are walked together

  explicit BlockScratch(const BlockPlan<Scalar>& plan, Index channels = 1)
      : inner(channels * plan.dressed().recurrence.state), near_stride(plan.lead() + IMPLICIT_ATTENTION_BLOCK_TOKENS + group) {
    const Index block = IMPLICIT_ATTENTION_BLOCK_TOKENS, state = plan.dressed().recurrence.state, rows = detail::register_rows;
    keys.resize(static_cast<Index>(plan.panels().size()) * inner * detail::register_lanes<Scalar>);
    queries.resize((block + rows - 1) / rows * rows * inner);
    near.resize(block, near_stride);
    edge.resize(block, plan.lead() + detail::register_lanes<Scalar>);
    elapsed.resize((block + rows - 1) / rows * rows);
    scale.resize(elapsed.size());
    between.resize(state);
    gaps.resize(static_cast<Index>(plan.blocks().size()));
    walk.resize(state, group);
    decays.resize(block, state);
    plain.resize(block, 2 * plan.lead() + block + group);
  }

  using Row = Eigen::Array<Scalar, 1, Eigen::Dynamic, Eigen::RowMajor>;
  using Rows = Eigen::Array<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Index inner;            ///< factors of one entry: channels * state
  Row keys, queries;      ///< packed as product_panels reads them
  Index near_stride;
  Rows near;              ///< (block, near_stride): the diagonal part, from column first - lead on
  Rows edge;              ///< (block, lead and a register): columns before a block that its own convolution adds to
  Row elapsed, scale;     ///< (block)
  Row between;            ///< (state)
  Row gaps;               ///< (blocks): steps from the end of a block to the rows in hand
  Rows walk;              ///< (state, group)
  Rows decays;            ///< (block, state)
  Rows plain;             ///< (block, lead + block + lead and a group): the diagonal block before the convolution, zeros on both sides
};

/// One channel's key factors, block by block. Made once, loaded for one channel after the other; what it computes goes into scratch memory.
template <Real Scalar>
class ChannelBlocks {
 public:
  using Row = typename BlockScratch<Scalar>::Row;
  using Rows = typename BlockScratch<Scalar>::Rows;

  explicit ChannelBlocks(const BlockPlan<Scalar>& plan) : plan_(&plan) {
    const DiagonalRecurrence<Scalar>& recurrence = plan.dressed().recurrence;
    const Index tokens = recurrence.tokens, state = recurrence.state, blocks = static_cast<Index>(plan.blocks().size());
    step_.resize(tokens);
    inner_scale_.resize(tokens);
    row_scale_.resize(tokens);
    query_scale_.resize(tokens);
    near_scale_.setZero(tokens + group);
    column_scale_.setOnes(tokens + group);
    rate_.resize(state);
    taps_.resize(plan.dressed().width());
    totals_.resize(blocks);
    keys_.setZero(static_cast<Index>(plan.panels().size()) * state * width);
    leading_keys_.setZero(blocks * plan.lead(), state);
    back_.resize(IMPLICIT_ATTENTION_BLOCK_TOKENS);
    unfolded_.resize(IMPLICIT_ATTENTION_BLOCK_TOKENS);
    folded_.setZero(IMPLICIT_ATTENTION_BLOCK_TOKENS + width);
  }

  /// Takes a channel's key factors, for the columns that rows before token `end` can see.
  void load(Index channel, Index end) {
    using detail::entry;
    const DressedDiagonal<Scalar>& dressed = plan_->dressed();
    const DiagonalRecurrence<Scalar>& recurrence = dressed.recurrence;
    channel_ = channel;
    for (Index n = 0; n < recurrence.state; ++n) rate_[n] = entry(recurrence.rate, n, channel);
    for (Index tap = 0; tap < dressed.width(); ++tap) taps_[tap] = entry(dressed.taps, tap, channel);
    for (Index token = 0; token < end; ++token) {
      step_[token] = recurrence.step(token, channel);
      inner_scale_[token] = entry(dressed.inner_scale, token, channel);
      near_scale_[token] = entry(recurrence.key_scale, token, channel) * inner_scale_[token];
      row_scale_[token] = entry(dressed.row_scale, token, channel);
      query_scale_[token] = entry(recurrence.query_scale, token, channel) * row_scale_[token];
      if (!dressed.column_scale.empty()) column_scale_[token] = dressed.column_scale(token, channel);
    }
    for (Index index = 0; index < totals_.size() && plan_->block(index).first < end; ++index) load_block(index);
  }

  /// The oldest block that rows of block `index` see: all between are of the same document, and not every decay from it is below the
  /// smallest normal number. `index` itself where none is seen.
  [[nodiscard]] Index oldest_seen(Index index) const {
    const Scalar smallest = std::log(std::numeric_limits<Scalar>::min()), slowest = rate_.maxCoeff();
    Index oldest = index;
    for (Scalar elapsed = 0; oldest > plan_->block(index).document && slowest * elapsed >= smallest; --oldest) elapsed += totals_[oldest - 1];
    return oldest;
  }

  /// The first panel with anything in it for rows that see back to block `oldest`: the convolution reaches `lead` columns further.
  [[nodiscard]] Index first_panel(Index index, Index oldest) const {
    if (oldest == index) return plan_->panel_end(index);
    return plan_->panel_of(std::max(plan_->block(oldest).first - plan_->lead(), Index(0)));
  }

  /// Query factors of the rows of a block, row weights included, packed as the `place`-th of the scratch's channels.
  void queries(Index index, BlockScratch<Scalar>& scratch, Index place = 0) const {
    constexpr int rows = detail::register_rows;
    const DiagonalRecurrence<Scalar>& recurrence = plan_->dressed().recurrence;
    const TokenBlock& block = plan_->block(index);
    scratch.elapsed.setZero();
    scratch.scale.setZero();
    Scalar elapsed = 0;
    for (Index i = 0; i < block.tokens; ++i) {
      const Index token = block.first + i;
      if (!recurrence.exclusive) elapsed += step_[token];
      scratch.elapsed[i] = elapsed;
      scratch.scale[i] = query_scale_[token];
      if (recurrence.exclusive) elapsed += step_[token];
    }
    for (Index i = 0; i < block.tokens; i += rows) {
      Scalar* packed = scratch.queries.data() + i * scratch.inner + place * recurrence.state * rows;
      for (Index n = 0; n < recurrence.state; ++n)
        lanes<rows>(packed + n * rows) = lanes<rows>(&scratch.scale[i]) * lanes<rows>(&plan_->query()(n, block.first + i)) *
                                         (rate_[n] * lanes<rows>(&scratch.elapsed[i])).exp();
    }
  }

  /// Key factors of the columns from `first_panel` up to a block, referred to the block's start, packed as the `place`-th of the scratch's
  /// channels. Blocks before `oldest` count as zero.
  void keys(Index index, Index oldest, Index first_panel, BlockScratch<Scalar>& scratch, Index place = 0) const {
    const Index state = rate_.size(), lead = plan_->lead();
    const auto packed = [&](Index panel) { return scratch.keys.data() + (panel * scratch.inner + place * state) * width; };
    for (Index panel = first_panel; panel < plan_->panel_end(oldest); ++panel) std::fill_n(packed(panel), state * width, Scalar(0));
    Scalar elapsed = 0;
    for (Index older = index - 1; older >= oldest; --older) {
      scratch.gaps[older] = elapsed;
      elapsed += totals_[older];
    }
    for (Index older = oldest; older < index; ++older) {
      scratch.between = (rate_ * scratch.gaps[older]).exp();
      const Scalar* between = scratch.between.data();
      for (Index panel = plan_->panel_end(older); panel < plan_->panel_end(older + 1); ++panel) {
        const Scalar* source = keys_.data() + panel * state * width;
        Scalar* target = packed(panel);
        for (Index n = 0; n < state; ++n) lanes<width>(target + n * width) = between[n] * lanes<width>(source + n * width);
      }
      for (Index s = std::max(lead - plan_->block(older).first, Index(0)); s < lead; ++s) {
        const Index column = plan_->block(older).first - lead + s, panel = plan_->panel_of(column);
        if (panel < first_panel) continue;
        Scalar* target = packed(panel) + column - plan_->panels()[static_cast<std::size_t>(panel)].first;
        for (Index n = 0; n < state; ++n) target[n * width] += between[n] * leading_keys_(older * lead + s, n);
      }
    }
  }

  /// The diagonal part into `scratch.near`: rows of a block by columns first - lead .. first + tokens of it, convolved, weighted,
  /// zeros right of the diagonal; columns below 0 are zero.
  void diagonal(Index index, BlockScratch<Scalar>& scratch) const {
    using detail::entry;
    const DressedDiagonal<Scalar>& dressed = plan_->dressed();
    const DiagonalRecurrence<Scalar>& recurrence = dressed.recurrence;
    const TokenBlock& block = plan_->block(index);
    const Index lead = plan_->lead(), count = block.tokens;
    scratch.plain.topRows(count).setZero();
    for (Index i = 0; i < count; ++i) scratch.decays.row(i) = rate_ * step_[block.first + i];
    Eigen::Map<Row> decays(scratch.decays.data(), count * rate_.size());
    decays = decays.exp();
    for (Index base = 0; base < count; base += group) {
      walk_columns(block, base, scratch);
      if (base + group < count) see_columns(block, base, scratch);
    }

    const Scalar skip = entry(dressed.skip, 0, channel_, Scalar(0));
    const Index outside = std::max(lead - block.first, Index(0));
    for (Index i = 0; i < count; ++i) {
      const Index token = block.first + i;
      Scalar* plain = &scratch.plain(i, lead);
      const Scalar scale = query_scale_[token], inner = row_scale_[token] * inner_scale_[token];
      for (Index base = 0; base <= i; base += group) lanes<group>(plain + base) *= scale * lanes<group>(&near_scale_[block.first + base]);
      if (recurrence.exclusive) plain[i] = recurrence.diagonal(token, channel_) * inner;
      plain[i] += skip * inner;

      const Scalar* row = &scratch.plain(i, 0);  // zeros on both sides: what the convolution looks for beyond the block and the row
      Scalar* target = &scratch.near(i, 0);
      for (Index c = 0; c < lead + count; c += group) {
        Lanes<Scalar, group> sum = taps_[lead] * lanes<group>(row + c);
        if (c <= lead + i)
          for (Index distance = 1; distance <= lead; ++distance) sum += taps_[lead - distance] * lanes<group>(row + c + distance);
        lanes<group>(target + c) = sum;
      }
      if (!dressed.convolution_starts.empty()) convolve_masked(block, row, target);
      for (Index c = 0; c < outside; ++c) target[c] = 0;
      if (!dressed.column_scale.empty()) {
        const Index columns = lead + count - outside;
        Eigen::Map<Row>(target + outside, columns) *= column_scale_.segment(block.first - lead + outside, columns);
      }
    }
  }

 private:
  static constexpr int width = detail::register_lanes<Scalar>;
  static constexpr int group = BlockScratch<Scalar>::group;

  /// R before all scales, for the columns base .. base + group of a block and the same rows: each column's key walks down the rows.
  /// Afterwards `scratch.walk` holds the keys as the last of these rows leaves them.
  void walk_columns(const TokenBlock& block, Index base, BlockScratch<Scalar>& scratch) const {
    using Lane = Lanes<Scalar, group>;
    const DiagonalRecurrence<Scalar>& recurrence = plan_->dressed().recurrence;
    const Index states = recurrence.state, lead = plan_->lead(), end = std::min(base + group, block.tokens);
    scratch.walk.setZero();
    for (Index i = base; i < end; ++i) {
      const Index token = block.first + i;
      const Scalar* query = plan_->token_query(token);
      const Scalar* key = plan_->token_key(token);
      const Scalar* decay = &scratch.decays(i, 0);
      Lane entering = Lane::Zero(), sum = Lane::Zero();  // a column enters in its own row
      entering[i - base] = Scalar(1);
      for (Index n = 0; n < states; ++n) {
        Eigen::Map<Lane> walk(&scratch.walk(n, 0));
        const Lane before = walk;
        const Lane after = before * decay[n] + key[n] * entering;
        walk = after;
        sum += query[n] * (recurrence.exclusive ? before : after);
      }
      lanes<group>(&scratch.plain(i, lead + base)) = sum;
    }
  }

  /// The rows of the block after these columns: queries, referred to the end of the columns, times the keys that walk_columns left there.
  void see_columns(const TokenBlock& block, Index base, BlockScratch<Scalar>& scratch) const {
    using Lane = Lanes<Scalar, group>;
    const DiagonalRecurrence<Scalar>& recurrence = plan_->dressed().recurrence;
    const Index states = recurrence.state, lead = plan_->lead();
    Row& elapsed = scratch.between;
    elapsed.setOnes();
    for (Index i = base + group; i < block.tokens; ++i) {
      const Eigen::Map<const Row> decay(&scratch.decays(i, 0), states);
      const Scalar* query = plan_->token_query(block.first + i);
      if (!recurrence.exclusive) elapsed *= decay;
      Lane sum = Lane::Zero();
      for (Index n = 0; n < states; ++n) sum += (query[n] * elapsed[n]) * lanes<group>(&scratch.walk(n, 0));
      lanes<group>(&scratch.plain(i, lead + base)) = sum;
      if (recurrence.exclusive) elapsed *= decay;
    }
  }

  /// The convolution of one row of a diagonal block where it does not look across documents.
  void convolve_masked(const TokenBlock& block, const Scalar* row, Scalar* target) const {
    const Index lead = plan_->lead();
    for (Index c = 0; c < lead + block.tokens; ++c) {
      const Index column = block.first - lead + c;
      target[c] = 0;
      if (column < 0) continue;
      const Index farthest = std::min(plan_->reach(column) - column, lead);
      for (Index distance = 0; distance <= farthest; ++distance) target[c] += taps_[lead - distance] * row[c + distance];
    }
  }

  void load_block(Index index) {
    const TokenBlock& block = plan_->block(index);
    const Index lead = plan_->lead(), count = block.tokens, state = rate_.size();
    Scalar elapsed = 0;
    for (Index i = count - 1; i >= 0; --i) {
      back_[i] = elapsed;
      elapsed += step_[block.first + i];
    }
    totals_[index] = elapsed;
    const bool masked = !plan_->dressed().convolution_starts.empty();
    for (Index n = 0; n < state; ++n) {
      unfolded_.head(count) = plan_->key().row(n).segment(block.first, count).array() * near_scale_.segment(block.first, count) *
                              (rate_[n] * back_.head(count)).exp();
      if (!masked) {
        folded_.head(count) = taps_[lead] * unfolded_.head(count);
        for (Index distance = 1; distance <= std::min(lead, count - 1); ++distance)
          folded_.head(count - distance) += taps_[lead - distance] * unfolded_.segment(distance, count - distance);
      } else {
        for (Index i = 0; i < count; ++i) folded_[i] = fold(block.first + i, block);
      }
      if (!plan_->dressed().column_scale.empty()) folded_.head(count) *= column_scale_.segment(block.first, count);
      for (Index c = 0, panel = block.first_panel; c < count; c += width, ++panel)
        lanes<width>(keys_.data() + (panel * state + n) * width) = lanes<width>(folded_.data() + c);
      for (Index s = std::max(lead - block.first, Index(0)); s < lead; ++s) {
        const Index column = block.first - lead + s;
        leading_keys_(index * lead + s, n) = fold(column, block) * column_scale_[column];
      }
    }
  }

  /// What the convolution gathers for `column` from the tokens of a block.
  [[nodiscard]] Scalar fold(Index column, const TokenBlock& block) const {
    Scalar sum = 0;
    const Index last = std::min(block.end() - 1, plan_->reach(column));
    for (Index reached = std::max(column, block.first); reached <= last; ++reached)
      sum += taps_[plan_->lead() - (reached - column)] * unfolded_[reached - block.first];
    return sum;
  }

  const BlockPlan<Scalar>* plan_;
  Index channel_ = 0;
  Row step_, inner_scale_;           // (tokens)
  Row row_scale_, query_scale_;      // (tokens): what multiplies a row, and what multiplies its query
  Row near_scale_, column_scale_;    // (tokens and a group): what multiplies a key, and a column
  Row rate_, taps_;                  // (state), (width)
  Row totals_;                       // (blocks): the steps of a whole block
  Row keys_;                         // [panel][state][column]: referred to the end of the own block
  Rows leading_keys_;                // (blocks * lead, state): for the columns before a block, referred to the block's end
  Row back_, unfolded_, folded_;     // (block)
};

IMPLICIT_ATTENTION_NAMESPACE_END
