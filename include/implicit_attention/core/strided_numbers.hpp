// Numbers in a host's memory, of any plain type and in any layout, as the row-major arrays that the library reads.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/dtype.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Where a matrix lies in a host's memory. All strides count numbers, not bytes. Number (i, j) of block b stands at
///
///     data + b * block_stride + i * row_stride + j * column_stride
///
/// and is number (b * rows + i, j) of the matrix, which is (blocks * rows, columns). So either layout of a weight or a state can be given:
/// taps by channel or channels by tap, and heads whose states are stored (value, key) or (key, value).
struct StridedNumbers {
  Dtype dtype = Dtype::F32;  ///< F64, F32, F16, BF16, or an integer type up to U8
  const void* data = nullptr;
  Index rows = 0, columns = 0;
  Index row_stride = 0;  ///< 0: rows follow each other
  Index column_stride = 1;
  Index blocks = 1;
  Index block_stride = 0;  ///< 0: blocks follow each other
};

namespace detail {

/// What the strides of 0 stand for.
[[nodiscard]] inline Index row_stride_of(const StridedNumbers& from) {
  return from.row_stride == 0 ? from.columns * from.column_stride : from.row_stride;
}
[[nodiscard]] inline Index block_stride_of(const StridedNumbers& from) {
  return from.block_stride == 0 ? std::max(from.rows * row_stride_of(from), from.columns * from.column_stride) : from.block_stride;
}

/// Fails unless the description is one of numbers that can be read; `name` is what the host calls them.
inline void check_strided(std::string_view name, const StridedNumbers& from) {
  if (!readable(from.dtype))
    raise(ErrorKind::value, name, ": numbers of type ", dtype_name(from.dtype),
          ", expected F64, F32, F16, BF16 or an integer type; widen them into a buffer first");
  if (from.rows < 0 || from.columns < 0 || from.blocks < 0)
    raise(ErrorKind::shape, name, ": the sizes are ", shape_text({from.blocks, from.rows, from.columns}),
          " = (blocks, rows, columns), expected none below 0");
  if (from.row_stride < 0 || from.column_stride < 1 || from.block_stride < 0)
    raise(ErrorKind::shape, name, ": the strides are ", shape_text({from.block_stride, from.row_stride, from.column_stride}),
          " = (block, row, column), expected none below 0, and that of columns at least 1");
  const std::size_t bytes = dtype_bytes(from.dtype);
  const auto countable = [&](Index size, Index stride) { return element_count({size, stride == 0 ? 1 : stride}, bytes).has_value(); };
  // Each product before the next one is made of it.
  if (!element_count({from.blocks, from.rows, from.columns}, sizeof(double)) || !countable(from.columns, from.column_stride) ||
      !countable(from.rows, row_stride_of(from)) || !countable(from.blocks, block_stride_of(from)))
    raise(ErrorKind::shape, name, ": ", shape_text({from.blocks, from.rows, from.columns}),
          " = (blocks, rows, columns) numbers at these strides are more than ", std::numeric_limits<Index>::max(), " bytes");
  if (from.data == nullptr && from.blocks * from.rows * from.columns > 0)
    raise(ErrorKind::value, name, ": no data, expected ", shape_text({from.blocks, from.rows, from.columns}),
          " = (blocks, rows, columns) numbers");
}

}  // namespace detail

/// The numbers in memory of the library's own, (blocks * rows, columns): narrower types are widened exactly, F64 and integers are rounded
/// to a narrower `Scalar`. Fails (ErrorKind::value or ErrorKind::shape) naming `name`.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> copied_numbers(std::string_view name, const StridedNumbers& from) {
  detail::check_strided(name, from);
  const std::size_t bytes = dtype_bytes(from.dtype);
  const Index row_stride = detail::row_stride_of(from), block_stride = detail::block_stride_of(from);
  Matrix<Scalar> to(from.blocks * from.rows, from.columns);
  for (Index block = 0; block < from.blocks; ++block)
    for (Index row = 0; row < from.rows; ++row) {
      if (from.columns == 0) break;
      const Index first = block * block_stride + row * row_stride;
      const std::byte* begin = static_cast<const std::byte*>(from.data) + static_cast<std::size_t>(first) * bytes;
      detail::widen(from.dtype, begin, from.columns, &to(block * from.rows + row, 0), from.column_stride);
    }
  return to;
}

/// The same as an array: a view, without a copy, where the numbers are `Scalar`s in rows of neighbours, else a widened or reordered copy.
/// A viewed buffer must live as long as the array.
template <Real Scalar>
[[nodiscard]] Array<Scalar> array_of(std::string_view name, const StridedNumbers& from) {
  constexpr Dtype own = sizeof(Scalar) == sizeof(double) ? Dtype::F64 : Dtype::F32;
  const bool aligned = std::bit_cast<std::uintptr_t>(from.data) % alignof(Scalar) == 0;
  if (from.dtype != own || !aligned || from.column_stride != 1 || from.blocks != 1) return copied_numbers<Scalar>(name, from);
  detail::check_strided(name, from);
  const Index row_stride = detail::row_stride_of(from);
  return Array<Scalar>::view(ConstView<Scalar>(static_cast<const Scalar*>(from.data), from.rows, from.columns, row_stride));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
