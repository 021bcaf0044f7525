// Notes of what an array of a layer's activations was made from, so that one that a host left beside newer sources is found.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/error.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Remembers an array that `run()` computed, and the arrays it was computed from, without keeping any of them alive. An array that a host
/// fills in itself is not noted, and is taken as it is.
template <Real Scalar>
class MadeFrom {
 public:
  /// A source, by its name in messages.
  using Source = std::pair<std::string_view, const Array<Scalar>*>;

  MadeFrom() = default;
  /// `carried` is the part of the carried-in state that was read, which is copied.
  MadeFrom(const Array<Scalar>& made, std::initializer_list<Source> sources, Matrix<Scalar> carried = {})
      : made_(made), sources_(sources.size()), carried_(std::move(carried)) {
    auto mark = sources_.begin();
    for (const auto& [name, source] : sources) *mark++ = Mark(*source);
  }

  /// The name of a source that is filled and is another array than `made` was made from, in the order of the constructor, or `carried_name`
  /// where the state carried in is another; empty where there is none, or where `made` is not the array noted.
  [[nodiscard]] std::string_view newer(const Array<Scalar>& made, std::initializer_list<Source> sources, const Matrix<Scalar>& carried = {},
                                       std::string_view carried_name = "initial") const {
    if (!noted(made)) return {};
    // A layer lists the sources in run() and again in lower(): two lists of another length cannot be compared.
    if (sources_.size() != sources.size())
      detail::raise(ErrorKind::value, "MadeFrom: lower() names ", sources.size(), " sources, run() noted ", sources_.size(),
                    ": the layer is at fault");
    auto noted = sources_.begin();
    for (const auto& [name, source] : sources)
      if (!(noted++)->is(*source) && !source->empty()) return name;
    if (!same_numbers(carried_, carried)) return carried_name;
    return {};
  }
  /// Whether `made` is the array noted.
  [[nodiscard]] bool noted(const Array<Scalar>& made) const { return !made.empty() && made_.is(made); }
  [[nodiscard]] bool stale(const Array<Scalar>& made, std::initializer_list<Source> sources, const Matrix<Scalar>& carried = {}) const {
    return !newer(made, sources, carried).empty();
  }

  /// Fails where `made` is stale, for what cannot be made again.
  void check(std::string_view who, const char* name, const Array<Scalar>& made, std::initializer_list<Source> sources,
             const Matrix<Scalar>& carried = {}, std::string_view carried_name = "initial") const {
    if (const std::string_view source = newer(made, sources, carried, carried_name); !source.empty())
      detail::raise(ErrorKind::value, who, ": activations.", name, " was made from another activations.", source,
                    " than the one that is there now; fill in that of these, or use what activations(u) returns");
  }

 private:
  /// The same in every place; NaN is NaN.
  [[nodiscard]] static bool same_numbers(ConstView<Scalar> a, ConstView<Scalar> b) {
    if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
    const auto same = [](Scalar p, Scalar q) { return p == q || (p != p && q != q); };
    for (Index i = 0; i < a.rows(); ++i) {
      const Scalar *const row = a.data() + i * a.outerStride(), *const other = b.data() + i * b.outerStride();
      if (!std::equal(row, row + a.cols(), other, same)) return false;
    }
    return true;
  }

  /// One array. A copy of its numbers is as good, while the array is there to be compared with; a view of a host's memory is compared by
  /// address only.
  class Mark {
   public:
    explicit Mark(const Array<Scalar>& array)
        : data_(array.data()),
          rows_(array.rows()),
          columns_(array.cols()),
          stride_(array.row_stride()),
          owned_(array.owner() != nullptr),
          owner_(array.owner()) {}
    Mark() = default;
    [[nodiscard]] bool is(const Array<Scalar>& other) const {
      if (rows_ != other.rows() || columns_ != other.cols()) return false;
      if (rows_ == 0 || columns_ == 0) return true;
      const std::shared_ptr<const void> alive = owner_.lock();
      if (owned_ && alive == nullptr) return false;
      if (data_ == other.data() && stride_ == other.row_stride()) return true;
      return owned_ && same_numbers(ConstView<Scalar>(data_, rows_, columns_, stride_), *other);
    }

   private:
    const Scalar* data_ = nullptr;
    Index rows_ = 0, columns_ = 0, stride_ = 0;
    bool owned_ = false;
    std::weak_ptr<const void> owner_;
  };

  Mark made_;
  std::vector<Mark> sources_;
  Matrix<Scalar> carried_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
