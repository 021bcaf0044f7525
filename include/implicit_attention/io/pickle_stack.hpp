// The values of a pickle and the stack that its instructions work on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/bytes.hpp>
#include <implicit_attention/io/pickle_names.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A value of a pickle. Values are stored in one list and refer to each other by index, so that depth and cycles are harmless.
struct PickleValue {
  enum class Kind { none, boolean, integer, real, text, tuple, list, dictionary, name, storage, tensor, other };
  Kind kind = Kind::none;
  std::int64_t integer = 0;
  double real = 0;
  std::string_view text;             ///< of a text; what a name is, PickleStack::name() has
  std::vector<std::uint32_t> items;  ///< of a list; of a dictionary keys and values in turn; of a storage or a tensor what it was made of
};

namespace detail {

/// The values of a pickle, and what its instructions build them with: a stack with marks, and a memory. The reader must outlive it.
class PickleStack {
 public:
  using Kind = PickleValue::Kind;
  static constexpr std::size_t most_bytes = 100'000'000;

  /// `reader` says where in the pickle an error is.
  explicit PickleStack(const ByteReader& reader) : reader_(&reader) {}

  [[noreturn]] void fail(std::string_view why) const {
    raise(ErrorKind::file, reader_->where(), ": at byte ", reader_->position(), ": ", why);
  }
  [[nodiscard]] const PickleValue& operator[](std::uint32_t position) const { return values_[position]; }
  /// The name that a value of that kind stands for.
  [[nodiscard]] std::string_view name(std::uint32_t position) const {
    const auto found = name_of_.find(position);
    return found == name_of_.end() ? std::string_view() : std::string_view(names_[found->second]);
  }
  /// Takes the last value, which must be the only one on the stack.
  [[nodiscard]] std::uint32_t end() {
    const std::uint32_t root = pop();
    if (!stack_.empty() || !marks_.empty()) fail("the pickle ends with values left over");
    return root;
  }

  void push(PickleValue value) { stack_.push_back(make(std::move(value))); }
  void push(Kind kind) {
    PickleValue value;
    value.kind = kind;
    push(std::move(value));
  }
  void push_integer(std::int64_t number, Kind kind = Kind::integer) {
    PickleValue value;
    value.kind = kind;
    value.integer = number;
    push(std::move(value));
  }
  void push_text(std::string_view text) {
    PickleValue value;
    value.kind = Kind::text;
    value.text = text;
    push(std::move(value));
  }
  /// The value on top, above the last mark.
  std::uint32_t pop() {
    if (stack_.size() <= floor()) fail("the pickle takes more than it has put on its stack");
    const std::uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  void mark() { marks_.push_back(stack_.size()); }
  std::vector<std::uint32_t> pop_to_mark() {
    if (marks_.empty()) fail("the pickle goes back to a mark that was never set");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<std::uint32_t> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }
  void push_items(Kind kind, std::vector<std::uint32_t> items) {
    PickleValue value;
    value.kind = kind;
    value.items = std::move(items);
    push(std::move(value));
  }
  /// A tuple of the topmost values.
  void push_tuple(std::size_t count) {
    std::vector<std::uint32_t> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    push_items(Kind::tuple, std::move(items));
  }
  /// The value on top, which must be of that kind, to be added to.
  PickleValue& top(Kind kind, std::string_view what) {
    if (stack_.size() <= floor()) fail("the pickle takes more than it has put on its stack");
    PickleValue& value = values_[stack_.back()];
    if (value.kind != kind) fail(message("expected ", what, " to add to"));
    return value;
  }
  void append(const std::vector<std::uint32_t>& items) {
    PickleValue& list = top(Kind::list, "a list");
    list.items.insert(list.items.end(), items.begin(), items.end());
  }
  void set_items(const std::vector<std::uint32_t>& items) {
    if (items.size() % 2 != 0) fail("a key without a value");
    PickleValue& dictionary = top(Kind::dictionary, "a dictionary");
    dictionary.items.insert(dictionary.items.end(), items.begin(), items.end());
  }
  /// Puts a value on top that has been made before.
  void push_again(std::uint32_t position) { stack_.push_back(position); }
  void remember(std::uint64_t slot) {
    if (stack_.size() <= floor()) fail("the pickle remembers a value that is not on its stack");
    memory_[slot] = stack_.back();
  }
  [[nodiscard]] std::size_t remembered() const { return memory_.size(); }
  void recall(std::uint64_t slot) {
    const auto found = memory_.find(slot);
    if (found == memory_.end()) fail(message("value ", slot, " is recalled, but was never remembered"));
    stack_.push_back(found->second);
  }
  void push_name(std::string_view module, std::string_view name) {
    names_.push_back(message(module, ".", name));
    if (!pickle_name_is_known(names_.back()))
      fail(message("the pickle asks for ", printable(names_.back()),
                   ", which is not needed to read tensors, and nothing is executed here; in PyTorch, save the weights alone: "
                   "torch.save(model.state_dict(), file)"));
    PickleValue value;
    value.kind = Kind::name;
    name_of_.emplace(static_cast<std::uint32_t>(values_.size()), names_.size() - 1);
    push(std::move(value));
  }

 private:
  std::uint32_t make(PickleValue value) {
    constexpr std::size_t most = std::numeric_limits<std::uint32_t>::max();
    if (values_.size() >= most) fail(message("there are more than ", most, " values"));
    values_.push_back(std::move(value));
    return static_cast<std::uint32_t>(values_.size() - 1);
  }
  // The values below the last mark; without one, none.
  [[nodiscard]] std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  const ByteReader* reader_;
  std::vector<PickleValue> values_;
  std::vector<std::uint32_t> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, std::uint32_t> memory_;
  std::vector<std::string> names_;
  std::unordered_map<std::uint32_t, std::size_t> name_of_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
