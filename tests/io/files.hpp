// What the tests of io/ share: a folder that goes away, files of given bytes, and the error that a call ends in.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <string>
#include <string_view>

#include <implicit_attention/core/error.hpp>

namespace io_test {

namespace fs = std::filesystem;

class TemporaryFolder {
 public:
  TemporaryFolder() : path_(fs::temp_directory_path() / ("implicit_attention_io_" + std::to_string(std::random_device{}()))) {
    fs::create_directories(path_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }
  std::size_t entries() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator())); }

 private:
  fs::path path_;
};

inline void write_bytes(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string read_bytes(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// The bytes of numbers as they stand in memory.
template <class Number>
std::string bytes_of(std::initializer_list<Number> numbers) {
  std::string bytes;
  for (const Number number : numbers) {
    char raw[sizeof(Number)];
    std::memcpy(raw, &number, sizeof(Number));
    bytes.append(raw, sizeof(Number));
  }
  return bytes;
}

/// A safetensors file put together by hand: length, header, data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return bytes_of<std::uint64_t>({header.size()}) + header + data;
}

struct Caught {
  implicit_attention::ErrorKind kind;
  std::string message;
};

/// The library's error that `call` ends in; nothing if it ends well. Any other exception goes through and fails the test.
template <class Call>
std::optional<Caught> error_of(Call call) {
  try {
    call();
  } catch (const implicit_attention::Error& error) {
    return Caught{error.kind(), error.what()};
  }
  return std::nullopt;
}

}  // namespace io_test
