// Arrays of any type, shape and name, written as .safetensors and .npy and read again.
#include <cstring>
#include <map>

#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/npy_reader.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

#include "../readers.hpp"

namespace {

/// Takes numbers off the front of bytes; zeros at the end.
class Taker {
 public:
  explicit Taker(std::string_view bytes) : rest_(bytes) {}
  std::string_view take(std::size_t count) {
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  unsigned byte() {
    const std::string_view taken = take(1);
    return taken.empty() ? 0U : static_cast<unsigned char>(taken[0]);
  }
  [[nodiscard]] bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

template <class Number>
fuzz::ArrayToWrite array(Taker& from, std::size_t count, const std::vector<fuzz::Index>& shape) {
  std::vector<Number> numbers(count);
  const std::string_view bytes = from.take(count * sizeof(Number));
  if (!bytes.empty()) std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return fuzz::ArrayToWrite(std::move(numbers), shape);
}

}  // namespace

static std::vector<std::string> seeds_of_writers() {
  using namespace std::string_literals;
  return {"\1a\2\2\3\0"s + fuzz::numbers(6) + "\2bc\1\4\1" + fuzz::numbers(8) + "\1d\0\2"s + fuzz::numbers(2),
          "\1x\3\1\0\2\0\1y\1\2\2"s + fuzz::numbers(4)};
}

FUZZ_TARGET(writers) {
  Taker from(bytes);
  std::vector<fuzz::TensorToWrite> tensors;
  while (!from.empty() && tensors.size() < 8) {
    std::string name(from.take(from.byte() % 9));
    std::vector<fuzz::Index> shape(from.byte() % 4);
    std::size_t count = 1;
    for (fuzz::Index& size : shape) count *= static_cast<std::size_t>(size = from.byte() % 6);
    const unsigned type = from.byte() % 3;
    tensors.push_back({std::move(name), type == 0   ? array<float>(from, count, shape)
                                        : type == 1 ? array<double>(from, count, shape)
                                                    : array<std::int64_t>(from, count, shape)});
  }
  const std::filesystem::path path = fuzz::scratch_folder() / "written";
  std::error_code ignored;
  const bool written = fuzz::accepted([&] { fuzz::write_safetensors(path, tensors, {{"key", "a \"value\"\n"}}); });
  fuzz::require(written == std::filesystem::exists(path, ignored), "a file is there whole or not at all");
  if (written) {
    const fuzz::SafetensorsFile file(path);
    fuzz::require(file.tensors().size() == tensors.size(), "every tensor is there again");
    fuzz::require(file.metadata().at("key") == "a \"value\"\n", "and the metadata");
    for (const fuzz::TensorToWrite& tensor : tensors) {
      const fuzz::TensorInfo* const info = file.find(tensor.name);
      fuzz::require(info != nullptr && info->shape == tensor.numbers.shape() && info->dtype == tensor.numbers.dtype(), "as it was");
    }
  }
  std::filesystem::remove(path, ignored);
  if (tensors.empty()) return;
  const fuzz::ArrayToWrite& first = tensors.front().numbers;
  fuzz::write_npy(path, first);
  const bool integers = first.dtype() == fuzz::Dtype::I64 && first.shape().size() == 1;
  {
    const auto file = fuzz::MappedFile::open(path);
    const bool read = fuzz::accepted([&] {
      fuzz::Index count = 1;
      for (const fuzz::Index size : first.shape()) count *= size;
      fuzz::require(static_cast<fuzz::Index>(fuzz::parse_npy_integers(file->text(), "written").size()) == count, "every id again");
    });
    fuzz::require(read || !integers, "integers that were written are read");
  }
  std::filesystem::remove(path, ignored);
  fuzz::require(std::filesystem::is_empty(fuzz::scratch_folder()), "nothing is left behind");
}
