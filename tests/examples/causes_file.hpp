// Files of prompts and their causes as `evaluate --causes` reads them, and arrays that are wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <examples/programs.hpp>

#include <implicit_attention/core/types.hpp>

namespace example_test {

using implicit_attention::Index;

/// An array of a file: any type, any shape, any bytes.
struct RawArray {
  std::string dtype;
  std::vector<Index> shape;
  std::string bytes;
};
using RawArrays = std::map<std::string, RawArray>;

template <class Number>
RawArray raw(const std::string& dtype, std::vector<Index> shape, const std::vector<Number>& numbers) {
  std::string bytes(numbers.size() * sizeof(Number), '\0');
  if (!numbers.empty()) std::memcpy(bytes.data(), numbers.data(), bytes.size());
  return {dtype, std::move(shape), std::move(bytes)};
}

inline std::string written(const TemporaryFolder& folder, const std::string& name, const RawArrays& arrays) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [array, raw_array] : arrays) {
    header[array] = {
        {"dtype", raw_array.dtype}, {"shape", raw_array.shape}, {"data_offsets", {data.size(), data.size() + raw_array.bytes.size()}}};
    data += raw_array.bytes;
  }
  io_test::write_bytes(folder / name, io_test::safetensors_bytes(header.dump(), data));
  return (folder / name).string();
}

/// One explained output; an address of -1: none.
struct Row {
  std::int64_t prompt, position, target, source, address;
  std::vector<Index> negatives;
};

inline RawArrays arrays_of(const std::vector<std::vector<std::int64_t>>& prompts, const std::vector<Row>& rows, Index tokens) {
  std::vector<std::int64_t> ids, lengths, prompt, position, target, source, address;
  for (const std::vector<std::int64_t>& one : prompts) {
    lengths.push_back(static_cast<std::int64_t>(one.size()));
    ids.insert(ids.end(), one.begin(), one.end());
    ids.resize(lengths.size() * static_cast<std::size_t>(tokens), -7);  // padding is not read
  }
  std::vector<std::uint8_t> negatives;
  for (const Row& row : rows) {
    prompt.push_back(row.prompt);
    position.push_back(row.position);
    target.push_back(row.target);
    source.push_back(row.source);
    address.push_back(row.address);
    negatives.resize(negatives.size() + static_cast<std::size_t>(tokens), 0);
    for (const Index token : row.negatives) negatives[negatives.size() - static_cast<std::size_t>(tokens - token)] = 1;
  }
  const auto n = static_cast<Index>(prompts.size()), r = static_cast<Index>(rows.size());
  return {{"input_ids", raw("I64", {n, tokens}, ids)}, {"length", raw("I64", {n}, lengths)},
          {"prompt", raw("I64", {r}, prompt)},         {"position", raw("I64", {r}, position)},
          {"target", raw("I64", {r}, target)},         {"source", raw("I64", {r}, source)},
          {"address", raw("I64", {r}, address)},       {"negatives", raw("U8", {r, tokens}, negatives)}};
}

}  // namespace example_test
