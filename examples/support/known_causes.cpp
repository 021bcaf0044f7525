#include "known_causes.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/text.hpp>

namespace implicit_attention::examples {
namespace {

constexpr std::array<std::string_view, 8> array_names = {"input_ids", "length", "prompt",  "position",
                                                         "target",    "source", "address", "negatives"};

/// The arrays of a file, one number at a time, with what is wrong with them.
class Arrays {
 public:
  explicit Arrays(const std::string& path) : file_(path) {
    for (const std::string_view name : array_names)
      if (file_.find(name) == nullptr)
        detail::raise(ErrorKind::file, path, ": array ", name,
                      " is missing, expected input_ids, length, prompt, position, target, source, address and negatives");
    const std::vector<Index>& ids = file_.info("input_ids").shape;
    if (ids.size() != 2 || ids[0] < 1 || ids[1] < 1)
      detail::raise(ErrorKind::file, path, ": array input_ids is ", shape_text(ids), ", expected (prompts, tokens), at least one of each");
    const std::vector<Index>& rows = file_.info("prompt").shape;
    if (rows.size() != 1 || rows[0] < 1)
      detail::raise(ErrorKind::file, path, ": array prompt is ", shape_text(rows), ", expected (explained outputs), at least one");
    prompts_ = ids[0];
    tokens_ = ids[1];
    rows_ = rows[0];
  }

  [[nodiscard]] Index prompts() const { return prompts_; }
  [[nodiscard]] Index tokens() const { return tokens_; }
  [[nodiscard]] Index rows() const { return rows_; }

  [[nodiscard]] std::vector<std::int64_t> integers(std::string_view name, const std::vector<Index>& shape, std::string_view meaning) const {
    check_shape(name, shape, meaning);
    const TensorInfo& info = file_.info(name);
    if (info.dtype != Dtype::I64 && info.dtype != Dtype::I32)
      detail::raise(ErrorKind::file, file_.where(), ": array ", name, " is ", printable(info.dtype_text),
                    ", expected integers, I64 or I32");
    return file_.read_integers(name);
  }
  [[nodiscard]] Matrix<float> flags(std::string_view name, const std::vector<Index>& shape, std::string_view meaning) const {
    check_shape(name, shape, meaning);
    const TensorInfo& info = file_.info(name);
    if (info.dtype != Dtype::U8 && info.dtype != Dtype::BOOL)
      detail::raise(ErrorKind::file, file_.where(), ": array ", name, " is ", printable(info.dtype_text), ", expected U8 or BOOL");
    Matrix<float> flags(shape[0], shape[1]);
    const StoredTensor stored = file_.stored(name);
    for (Index row = 0; row < flags.rows(); ++row)
      for (Index column = 0; column < flags.cols(); ++column) {
        const int flag = std::to_integer<int>(stored.row(row)[column]);
        if (flag > 1)
          detail::raise(ErrorKind::file, file_.where(), ": array ", name, " at (", row, ", ", column, ") is ", flag, ", expected 0 or 1");
        flags(row, column) = static_cast<float>(flag);
      }
    return flags;
  }
  /// The element at `place`, in low ... high; `why` says what bounds it.
  [[nodiscard]] Index in_range(std::string_view name, Index place, std::int64_t number, Index low, Index high, std::string_view why) const {
    if (number < low || number > high)
      detail::raise(ErrorKind::file, file_.where(), ": array ", name, " at ", place, " is ", number, ", expected ", low, " to ", high, ", ",
                    why);
    return static_cast<Index>(number);
  }
  [[nodiscard]] std::vector<std::string> unread() const {
    std::vector<std::string> names;
    for (const auto& [name, info] : file_.tensors())
      if (std::find(array_names.begin(), array_names.end(), name) == array_names.end()) names.push_back(name);
    return names;
  }

 private:
  void check_shape(std::string_view name, const std::vector<Index>& shape, std::string_view meaning) const {
    if (file_.info(name).shape != shape)
      detail::raise(ErrorKind::file, file_.where(), ": array ", name, " is ", shape_text(file_.info(name).shape), ", expected ",
                    shape_text(shape), " = ", meaning);
  }
  SafetensorsFile file_;
  Index prompts_ = 0, tokens_ = 0, rows_ = 0;
};

}  // namespace

KnownCauses read_known_causes(const std::string& path) {
  const Arrays arrays(path);
  KnownCauses causes;
  causes.path = path;
  causes.unread = arrays.unread();
  const Index prompts = arrays.prompts(), tokens = arrays.tokens(), rows = arrays.rows();
  const std::vector<std::int64_t> ids = arrays.integers("input_ids", {prompts, tokens}, "(prompts, tokens)");
  const std::vector<std::int64_t> lengths = arrays.integers("length", {prompts}, "(prompts), one per row of input_ids");
  for (Index prompt = 0; prompt < prompts; ++prompt) {
    const Index length =
        arrays.in_range("length", prompt, lengths[static_cast<std::size_t>(prompt)], 1, tokens, "the columns of input_ids");
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(prompt * tokens);
    causes.prompts.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(length));
  }
  const auto column = [&](std::string_view name) {
    return arrays.integers(name, {rows}, "(explained outputs), one per element of prompt");
  };
  const std::vector<std::int64_t> prompt = column("prompt"), position = column("position"), target = column("target"),
                                  source = column("source"), address = column("address");
  const Matrix<float> negatives =
      arrays.flags("negatives", {rows, tokens}, "(explained outputs, tokens), one row per element of prompt, padded as input_ids");
  for (Index row = 0; row < rows; ++row) {
    const auto at = static_cast<std::size_t>(row);
    KnownCause cause;
    cause.prompt = arrays.in_range("prompt", row, prompt[at], 0, prompts - 1, "the rows of input_ids");
    const auto length = static_cast<Index>(causes.prompts[static_cast<std::size_t>(cause.prompt)].size());
    cause.position = arrays.in_range("position", row, position[at], 0, length - 1, detail::message("tokens of prompt ", cause.prompt));
    cause.source = arrays.in_range("source", row, source[at], 0, cause.position, "tokens up to the explained position");
    cause.target = static_cast<Index>(target[at]);
    const Index addressed =
        arrays.in_range("address", row, address[at], -1, cause.position, "tokens up to the explained position, or -1 for none");
    if (addressed >= 0) cause.address = addressed;
    if (addressed == cause.source)
      detail::raise(ErrorKind::file, path, ": array address at ", row, " is ", addressed,
                    ", the source itself, expected another token, or -1");
    cause.negatives.resize(static_cast<std::size_t>(cause.position) + 1);
    for (Index token = 0; token < tokens; ++token) {
      if (negatives(row, token) == 0) continue;
      const char* what = token > cause.position  ? "after the explained position"
                         : token == cause.source ? "the source"
                         : token == addressed    ? "the address"
                                                 : nullptr;
      if (what != nullptr)
        detail::raise(ErrorKind::file, path, ": array negatives at (", row, ", ", token, ") is 1, but that token is ", what,
                      ", expected 0");
      cause.negatives[static_cast<std::size_t>(token)] = true;
    }
    causes.rows.push_back(std::move(cause));
  }
  return causes;
}

void check_vocabulary(const KnownCauses& causes, Index vocabulary) {
  const auto check = [&](std::string_view name, const std::string& place, Index id) {
    if (id < 0 || id >= vocabulary)
      detail::raise(ErrorKind::file, causes.path, ": array ", name, " at ", place, " is ", id, ", expected a token of the model, 0 to ",
                    vocabulary - 1);
  };
  for (std::size_t prompt = 0; prompt < causes.prompts.size(); ++prompt)
    for (std::size_t token = 0; token < causes.prompts[prompt].size(); ++token)
      check("input_ids", detail::message('(', prompt, ", ", token, ')'), causes.prompts[prompt][token]);
  for (std::size_t row = 0; row < causes.rows.size(); ++row) check("target", detail::message(row), causes.rows[row].target);
}

}  // namespace implicit_attention::examples
