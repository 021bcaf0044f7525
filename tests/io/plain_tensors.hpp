// Tensors as plain lists of numbers, and what the public converters do with them: what the tests of GGUF make files from.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>

namespace io_test {

using Shape = std::vector<std::uint64_t>;

inline std::uint64_t product(const Shape& shape) {
  std::uint64_t count = 1;
  for (const std::uint64_t size : shape) count *= size;
  return count;
}

struct T {
  Shape shape;
  std::vector<float> data;
};

inline T reshape(T t, Shape shape) {
  REQUIRE(product(shape) == t.data.size());
  t.shape = std::move(shape);
  return t;
}
// Axis i of the result is axis axes[i].
inline T permute(const T& t, const std::vector<std::size_t>& axes) {
  T out{{}, std::vector<float>(t.data.size())};
  for (const std::size_t axis : axes) out.shape.push_back(t.shape[axis]);
  for (std::uint64_t flat = 0; flat < t.data.size(); ++flat) {
    std::vector<std::uint64_t> at(axes.size());
    std::uint64_t rest = flat;
    for (std::size_t axis = axes.size(); axis-- > 0;) {
      at[axis] = rest % out.shape[axis];
      rest /= out.shape[axis];
    }
    std::uint64_t from = 0;
    std::vector<std::uint64_t> original(axes.size());
    for (std::size_t axis = 0; axis < axes.size(); ++axis) original[axes[axis]] = at[axis];
    for (std::size_t axis = 0; axis < axes.size(); ++axis) from = from * t.shape[axis] + original[axis];
    out.data[flat] = t.data[from];
  }
  return out;
}
inline T part(const T& t, std::uint64_t first, std::uint64_t rows) {  // of the outermost axis
  const std::uint64_t each = t.data.size() / t.shape[0];
  T out{t.shape,
        {t.data.begin() + static_cast<std::ptrdiff_t>(first * each), t.data.begin() + static_cast<std::ptrdiff_t>((first + rows) * each)}};
  out.shape[0] = rows;
  return out;
}
inline T joined(const std::vector<T>& all) {
  T out{all[0].shape, {}};
  out.shape[0] = 0;
  for (const T& t : all) {
    out.shape[0] += t.shape[0];
    out.data.insert(out.data.end(), t.data.begin(), t.data.end());
  }
  return out;
}
inline T stack(const std::vector<T>& all) {
  T out = joined(all);
  out.shape = all[0].shape;
  out.shape.insert(out.shape.begin(), all.size());
  return out;
}
inline T each(T t, const std::function<float(float)>& change) {
  for (float& number : t.data) number = change(number);
  return t;
}
inline T rate(const T& t) {
  return each(t, [](float x) { return -std::exp(x); });
}

// Rows of each head from halves to pairs.
inline T interleaved(const T& t, std::uint64_t heads) {
  const std::uint64_t rows = t.shape[0];
  return reshape(permute(reshape(t, {heads, 2, rows / heads / 2, t.data.size() / rows}), {0, 2, 1, 3}), t.shape);
}
inline std::string number_bytes(const T& t) {
  std::string data(t.data.size() * sizeof(float), '\0');
  std::memcpy(data.data(), t.data.data(), data.size());
  return data;
}

}  // namespace io_test
