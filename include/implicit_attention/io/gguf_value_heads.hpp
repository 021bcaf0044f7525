// The value heads of Qwen's linear attention in a GGUF file, back in the order of the public checkpoints.
#pragma once

#include <algorithm>
#include <string_view>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_keys.hpp>
#include <implicit_attention/io/gguf_renamer.hpp>
#include <implicit_attention/io/gguf_row_order.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Where each of the checkpoint's rows of value heads is in a file that has them tiled.
struct GgufTiledRows {
  Index key_heads, values_of_each, width;  ///< `width` rows for a value head

  [[nodiscard]] Index operator()(Index i) const {
    const Index head = i / width;
    return (head % values_of_each * key_heads + head / values_of_each) * width + i % width;
  }
};

/// Where value heads are tiled in the file, head t reads key head t mod H; in the checkpoints they are grouped, and head h reads key head h
/// / r. Other tensors are returned as they are.
/// `who` names the tensor in errors. The keys must outlive it.
class GgufValueHeads {
 public:
  using Tensor = CheckpointTensor;

  /// Ollama's converter has a key for the order, and also writes Qwen3-Next, whose heads are grouped, under the name of Qwen3.5: the
  /// tensors ssm_ba tell the two apart.
  GgufValueHeads(const GgufModel& model, const GgufKeys& keys) : keys_(&keys) {
    if (!keys.architecture().starts_with("qwen")) return;
    const auto joined = std::find_if(model.tensors.begin(), model.tensors.end(),
                                     [](const auto& named) { return std::string_view(named.first).ends_with(".ssm_ba.weight"); });
    const bool grouped = joined != model.tensors.end();
    const bool tiled = keys.boolean("ssm.v_head_reordered").value_or(keys.architecture().starts_with("qwen35") && !grouped);
    if (tiled && grouped)
      raise(ErrorKind::file, keys.where(), ": metadata key ", keys.architecture(),
            ".ssm.v_head_reordered is true, expected false: ", printable(joined->first), " has its rows by key heads");
    tiled_ = tiled && key_heads() != count();
  }

  [[nodiscard]] Index key_heads() const { return keys_->size("ssm.group_count"); }
  [[nodiscard]] Index key_width() const { return keys_->size("ssm.state_size"); }
  [[nodiscard]] Index count() const {
    const Index keys = key_heads(), values = keys_->size("ssm.time_step_rank");
    if (values % keys != 0 || values > 100000)
      raise(ErrorKind::file, keys_->where(), ": ", values, " value heads (ssm.time_step_rank), expected a multiple of ssm.group_count, ",
            keys);
    return values;
  }
  [[nodiscard]] Index width() const {
    const Index inner = keys_->size("ssm.inner_size");
    if (inner % count() != 0)
      raise(ErrorKind::file, keys_->where(), ": ssm.inner_size is ", inner, ", expected a multiple of ", count(), " heads");
    return inner / count();
  }

  /// Numbers of a vector or rows of a matrix, `width` for each value head.
  [[nodiscard]] Tensor ordered(Tensor tensor, Index width, std::string_view who) const {
    if (!tiled_) return tensor;
    const Index rows = tensor.shape.front();
    if (tensor.shape.size() > 2 || rows != count() * width) wrong_shape(who, tensor, message(count() * width, " rows"));
    return in_order(tensor, from_tiled(width));
  }
  /// Rows of q and k, then those of the value heads.
  [[nodiscard]] Tensor last_rows_ordered(const Tensor& tensor, std::string_view who) const {
    if (!tiled_) return tensor;
    const Index before = 2 * key_heads() * key_width(), each = width();
    expect_rows(tensor, before + count() * each, who);
    const GgufTiledRows row = from_tiled(each);
    return rows_in_order(tensor, [&](Index i) { return i < before ? i : before + row(i - before); });
  }
  [[nodiscard]] Tensor columns_ordered(const Tensor& tensor, std::string_view who) const {
    if (!tiled_) return tensor;
    const Index each = width(), columns = count() * each;
    if (tensor.shape.size() != 2 || tensor.shape.back() != columns) wrong_shape(who, tensor, message("(width, ", columns, ")"));
    return columns_in_order(tensor, from_tiled(each));
  }

  /// Of rows [b r | a r] for each key head: those of b (0) or a (1).
  [[nodiscard]] Tensor beta_or_alpha(const Tensor& tensor, Index which, std::string_view who) const {
    const Index values = count(), each = values / key_heads();
    expect_rows(tensor, 2 * values, who);
    return some_rows_in_order(tensor, values, [&](Index i) { return i / each * 2 * each + which * each + i % each; });
  }
  /// Of rows [q K | k K | v rV | z rV] for each key head, as in older files of Qwen3-Next: those of q, k and v.
  [[nodiscard]] Tensor query_key_value(const Tensor& tensor, std::string_view who) const {
    const Index heads = key_heads(), keys = key_width(), values = count() / heads * width(), group = 2 * keys + 2 * values;
    const Index all_keys = heads * keys;
    expect_rows(tensor, heads * group, who);
    return some_rows_in_order(tensor, 2 * all_keys + heads * values, [&](Index i) {
      if (i < all_keys) return i / keys * group + i % keys;
      if (i < 2 * all_keys) return (i - all_keys) / keys * group + keys + i % keys;
      const Index v = i - 2 * all_keys;
      return v / values * group + 2 * keys + v % values;
    });
  }
  /// And those of z.
  [[nodiscard]] Tensor output_gate(const Tensor& tensor, std::string_view who) const {
    const Index heads = key_heads(), keys = key_width(), values = count() / heads * width(), group = 2 * keys + 2 * values;
    expect_rows(tensor, heads * group, who);
    return some_rows_in_order(tensor, heads * values, [&](Index i) { return i / values * group + 2 * keys + values + i % values; });
  }

 private:
  static void expect_rows(const Tensor& tensor, Index rows, std::string_view who) {
    if (tensor.shape.empty() || tensor.parts.front().stored.rows != rows || tensor.shape.front() != rows)
      wrong_shape(who, tensor, message(rows, " rows"));
  }
  [[nodiscard]] GgufTiledRows from_tiled(Index width) const { return {key_heads(), count() / key_heads(), width}; }

  const GgufKeys* keys_;
  bool tiled_ = false;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
