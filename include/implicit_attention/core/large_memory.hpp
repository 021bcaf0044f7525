// Memory of large results: huge pages where the system has them. A first touch of ordinary pages runs at a fraction of the memory's speed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>  // defines __GLIBC__ where it is that library
#include <limits>
#include <memory>
#include <new>
#include <string_view>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;
/// Results of at least this size use huge pages: less than half of the last page is wasted.
constexpr std::size_t huge_page_threshold = 2 * huge_page_bytes;

/// Asks for huge pages where whole ones fit into the memory. It is advice to the system; nothing depends on the answer.
inline void advise_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < huge_page_threshold) return;
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(memory), end = begin + bytes;
  const std::uintptr_t first = (begin + huge_page_bytes - 1) / huge_page_bytes * huge_page_bytes,
                       last = end / huge_page_bytes * huge_page_bytes;
  if (first < last) static_cast<void>(::madvise(static_cast<char*>(memory) + (first - begin), last - first, MADV_HUGEPAGE));
#endif
}

/// More than a short text's largest activation takes.
constexpr std::size_t activations_block_bytes = std::size_t{8} << 20;

/// For a model's run: allocates such a block once and frees it untouched. From then on glibc takes arrays of up to that size from the heap,
/// and keeps up to twice that size of free heap; this is its rule for every program that frees such a block. Without it a layer's
/// activations of a few hundred KiB go back to the system when the layer ends, and the system has to clear new pages for the next layer.
/// Nothing happens where the host has set M_MMAP_THRESHOLD or M_TRIM_THRESHOLD.
inline void expect_activations() noexcept {
#if defined(__GLIBC__)
  static const bool expected = [] {
    void* volatile const block = std::malloc(activations_block_bytes);  // volatile: a compiler may leave out a pair that does nothing
    std::free(block);
    return true;
  }();
  static_cast<void>(expected);
#endif
}

/// What takes less memory than a result that was asked for.
constexpr std::string_view smaller_result = "ask for fewer channels, fewer rows, or a reduction over channels";
constexpr std::string_view fewer_heads = "ask for fewer heads or fewer rows", fewer_rows = "ask for fewer rows";

template <class = void>
[[noreturn]] void raise_out_of_memory(std::string_view what, Index rows, Index columns, std::size_t bytes_each,
                                      std::string_view advice = smaller_result) {
  const double bytes = static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(bytes_each);
  raise(ErrorKind::limit, what, " of ", rows, " x ", columns, " numbers takes ", bytes_text(bytes),
        ", which the system could not allocate; ", advice);
}

[[nodiscard]] inline bool too_many_numbers(Index rows, Index columns, std::size_t bytes_each) {
  const Index most = std::numeric_limits<Index>::max() / static_cast<Index>(bytes_each) - static_cast<Index>(huge_page_bytes);
  return columns != 0 && rows > most / columns;
}

}  // namespace detail

/// Numbers of a large result, (rows, columns), contiguous, not initialised. Aligned to a huge page where it is large enough for some,
/// else to a cache line. Fails (ErrorKind::limit) if the system has no memory for it; the message has what `what` calls the result, and
/// `advice`.
template <Real Scalar>
class LargeMemory {
 public:
  LargeMemory() = default;
  LargeMemory(Index rows, Index columns, std::string_view what = "a result", std::string_view advice = detail::smaller_result)
      : rows_(rows), columns_(columns) {
    if (rows == 0 || columns == 0) return;
    if (detail::too_many_numbers(rows, columns, sizeof(Scalar))) detail::raise_out_of_memory(what, rows, columns, sizeof(Scalar), advice);
    std::size_t bytes = static_cast<std::size_t>(rows * columns) * sizeof(Scalar), alignment = 64;
    if (bytes >= detail::huge_page_threshold) {
      alignment = detail::huge_page_bytes;
      bytes = (bytes + alignment - 1) / alignment * alignment;
    }
    void* memory = ::operator new(bytes, std::align_val_t(alignment), std::nothrow);
    if (memory == nullptr) detail::raise_out_of_memory(what, rows, columns, sizeof(Scalar), advice);
    detail::advise_huge_pages(memory, bytes);
    numbers_ = std::unique_ptr<Scalar[], Release>(static_cast<Scalar*>(memory), Release{alignment});
  }
  LargeMemory(const LargeMemory& other) : LargeMemory(other.rows_, other.columns_, "a copy") {
    std::copy_n(other.data(), rows_ * columns_, data());
  }
  LargeMemory(LargeMemory&& other) noexcept
      : rows_(std::exchange(other.rows_, 0)), columns_(std::exchange(other.columns_, 0)), numbers_(std::move(other.numbers_)) {}
  LargeMemory& operator=(LargeMemory other) noexcept {
    std::swap(rows_, other.rows_);
    std::swap(columns_, other.columns_);
    std::swap(numbers_, other.numbers_);
    return *this;
  }
  ~LargeMemory() = default;

  [[nodiscard]] Index rows() const { return rows_; }
  [[nodiscard]] Index cols() const { return columns_; }
  [[nodiscard]] Scalar* data() { return numbers_.get(); }
  [[nodiscard]] const Scalar* data() const { return numbers_.get(); }

 private:
  struct Release {
    std::size_t alignment = 64;
    void operator()(Scalar* numbers) const { ::operator delete(numbers, std::align_val_t(alignment)); }
  };
  Index rows_ = 0, columns_ = 0;
  std::unique_ptr<Scalar[], Release> numbers_;
};

/// The same as a Matrix, for results that are ordinary matrices: huge pages where they fit into Eigen's memory.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> large_matrix(Index rows, Index columns, std::string_view what = "a result") {
  if (detail::too_many_numbers(rows, columns, sizeof(Scalar))) detail::raise_out_of_memory(what, rows, columns, sizeof(Scalar));
  Matrix<Scalar> matrix;
#if IMPLICIT_ATTENTION_EXCEPTIONS
  try {
    matrix.resize(rows, columns);
  } catch (const std::bad_alloc&) {
    detail::raise_out_of_memory(what, rows, columns, sizeof(Scalar));
  }
#else
  matrix.resize(rows, columns);
#endif
  detail::advise_huge_pages(matrix.data(), static_cast<std::size_t>(matrix.size()) * sizeof(Scalar));
  return matrix;
}

/// An expression's values in such memory: an activation of (tokens, channels) is as large as a result.
template <class Derived>
[[nodiscard]] Matrix<typename Derived::Scalar> large_matrix(const Eigen::MatrixBase<Derived>& expression) {
  Matrix<typename Derived::Scalar> matrix = large_matrix<typename Derived::Scalar>(expression.rows(), expression.cols(), "an activation");
  matrix = expression;
  return matrix;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
