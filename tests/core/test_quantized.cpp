// Every type of block against a second decoder, which walks over bits as the format's description has them and computes in integers and
// double, then rounds as the format's float arithmetic does.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/quantized.hpp>
#include <implicit_attention/core/stored_tensor.hpp>

using namespace implicit_attention;

namespace {

using Bytes = std::vector<std::uint8_t>;

// binary16 by its definition: sign, exponent, fraction.
double half_value(const Bytes& block, std::size_t at) {
  const unsigned bits = block[at] + 256U * block[at + 1];
  const double sign = bits / 32768 != 0 ? -1.0 : 1.0;
  const unsigned exponent = bits / 1024 % 32, fraction = bits % 1024;
  if (exponent == 31) return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024.0 + fraction, static_cast<int>(exponent) - 25);
}

float rounded(double value) { return static_cast<float>(value); }

// Bit `i` of the bytes from `at` on, lowest bit of the first byte first.
unsigned bit(const Bytes& block, std::size_t at, std::size_t i) { return block[at + i / 8] >> (i % 8) & 1U; }

// A six-bit number packed over 12 bytes: sixteen of them, first eight scales, then eight minima.
unsigned six_bits(const Bytes& block, std::size_t at, std::size_t which, bool minimum) {
  if (which < 4) return block[at + which + (minimum ? 4 : 0)] % 64;
  const unsigned packed = block[at + which + 4], low = minimum ? packed / 16 : packed % 16;
  return low + block[at + which - (minimum ? 0 : 4)] / 64 * 16;
}

float expected(Dtype dtype, const Bytes& block, std::size_t i) {
  const double d = half_value(block, 0);
  switch (dtype) {
    case Dtype::Q4_0: {
      const unsigned both = block[2 + i % 16];
      return rounded(d * (static_cast<int>(i < 16 ? both % 16 : both / 16) - 8));
    }
    case Dtype::Q4_1: {
      const unsigned both = block[4 + i % 16];
      return rounded(static_cast<double>(rounded(d * (i < 16 ? both % 16 : both / 16))) + half_value(block, 2));
    }
    case Dtype::Q5_0: {
      const unsigned both = block[6 + i % 16], low = i < 16 ? both % 16 : both / 16;
      return rounded(d * (static_cast<int>(low + 16 * bit(block, 2, i)) - 16));
    }
    case Dtype::Q5_1: {
      const unsigned both = block[8 + i % 16], low = i < 16 ? both % 16 : both / 16;
      return rounded(static_cast<double>(rounded(d * (low + 16 * bit(block, 4, i)))) + half_value(block, 2));
    }
    case Dtype::Q8_0: {
      const int byte = block[2 + i];
      return rounded(d * (byte < 128 ? byte : byte - 256));
    }
    case Dtype::Q4_K:
    case Dtype::Q5_K: {
      const bool fifth = dtype == Dtype::Q5_K;
      const std::size_t group = i / 32, column = i % 32;
      const unsigned both = block[(fifth ? 48 : 16) + group / 2 * 32 + column];
      unsigned q = group % 2 == 0 ? both % 16 : both / 16;
      if (fifth) q += 16 * (block[16 + column] >> group & 1U);
      const auto scale = static_cast<double>(rounded(d * six_bits(block, 4, group, false)));
      const auto minimum = static_cast<double>(rounded(half_value(block, 2) * six_bits(block, 4, group, true)));
      return rounded(static_cast<double>(rounded(scale * q)) - minimum);
    }
    default: {
      const std::size_t half = i / 128, in_half = i % 128;
      const unsigned low = block[half * 64 + in_half % 64], high = block[128 + half * 32 + in_half % 32];
      const unsigned q = (in_half < 64 ? low % 16 : low / 16) + 16 * (high / (1U << (in_half / 32 * 2)) % 4);
      const int scale = block[192 + i / 16];
      return rounded(static_cast<double>(rounded(half_value(block, 208) * (scale < 128 ? scale : scale - 256))) *
                     (static_cast<int>(q) - 32));
    }
  }
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

}  // namespace

TEST_CASE("quantised blocks are decoded as the format describes them", "[core]") {
  for (const Dtype dtype : {Dtype::Q4_0, Dtype::Q4_1, Dtype::Q5_0, Dtype::Q5_1, Dtype::Q8_0, Dtype::Q4_K, Dtype::Q5_K, Dtype::Q6_K}) {
    INFO(dtype_name(dtype));
    std::mt19937 random(7);
    std::vector<Bytes> blocks;
    for (const unsigned fill : {0x00U, 0xFFU, 0x7FU, 0x80U, 0x55U, 0xAAU, 0x01U, 0x10U})
      blocks.emplace_back(dtype_bytes(dtype), static_cast<std::uint8_t>(fill));
    for (int i = 0; i < 3000; ++i) {
      Bytes block(dtype_bytes(dtype));
      for (std::uint8_t& byte : block) byte = static_cast<std::uint8_t>(random());
      blocks.push_back(block);
    }
    int finite = 0, different = 0;
    for (const Bytes& block : blocks) {
      std::array<float, 256> numbers{};
      detail::widen_block(dtype, reinterpret_cast<const std::byte*>(block.data()), numbers.data());
      for (std::size_t i = 0; i < dtype_numbers(dtype); ++i) {
        different += same(numbers[i], expected(dtype, block, i)) ? 0 : 1;
        finite += std::isfinite(numbers[i]) ? 1 : 0;
      }
    }
    CHECK(different == 0);
    CHECK(finite > 40000);
  }
}

TEST_CASE("rows of blocks are widened one by one, to float and double alike", "[core]") {
  std::mt19937 random(11);
  std::vector<std::byte> bytes(3 * 2 * 34);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (std::size_t block = 0; block < 6; ++block) bytes[block * 34 + 1] = std::byte{0x2C};  // scales of a usual size
  const StoredTensor stored = detail::stored_rows(Dtype::Q8_0, 3, 64, bytes.data(), nullptr);
  Matrix<float> whole(3, 64);
  stored.widen_rows(0, 3, whole.data(), 64);
  for (Index row = 0; row < 3; ++row) {
    RowVector<double> one(64);
    stored.widen_row(row, one.data());
    CHECK(one == whole.row(row).cast<double>());
  }
  const StoredTensor turned = detail::picked_rows(stored, 3, [](Index i) { return 2 - i; });
  RowVector<float> last(64);
  turned.widen_row(0, last.data());
  CHECK(last == whole.row(2));
  detail::some_rows(turned, 1, 2).widen_row(1, last.data());
  CHECK(last == whole.row(0));
  CHECK(stored.view<float>().empty());
}
