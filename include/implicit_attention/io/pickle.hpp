// A subset of Python's pickle, as much as PyTorch's checkpoints need. Nothing is executed: the reader builds numbers, strings, lists and
// dictionaries, and recognises a few names that stand for tensors. Any other name or instruction is an error that names it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
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
  std::string_view text;             ///< of a text; of a name, the module and the name with a dot between
  std::vector<std::uint32_t> items;  ///< of a list; of a dictionary keys and values in turn; of a storage or a tensor what made it
};

/// One pickle, read.
class Pickle {
 public:
  using Kind = PickleValue::Kind;
  static constexpr std::size_t most_bytes = 100'000'000;

  /// `bytes` must live as long as this; `where` names it in errors.
  Pickle(std::string_view bytes, std::string where) : where_(std::move(where)), reader_(bytes, where_) { read(); }
  Pickle(const Pickle&) = delete;
  Pickle& operator=(const Pickle&) = delete;

  [[nodiscard]] const PickleValue& operator[](std::uint32_t position) const { return values_[position]; }
  /// The whole.
  [[nodiscard]] std::uint32_t root() const { return root_; }

 private:
  [[noreturn]] void fail(std::string_view why) const {
    detail::raise(ErrorKind::file, where_, ": at byte ", reader_.position(), ": ", why);
  }

  std::uint32_t make(PickleValue value) {
    if (values_.size() >= std::numeric_limits<std::uint32_t>::max()) fail("too many values");
    values_.push_back(std::move(value));
    return static_cast<std::uint32_t>(values_.size() - 1);
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
  // What is above the last mark, or above the stack's bottom.
  [[nodiscard]] std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::uint32_t pop() {
    if (stack_.size() <= floor()) fail("the pickle takes more than it has put down");
    const std::uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
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
  void push_tuple(std::size_t count) {
    std::vector<std::uint32_t> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    push_items(Kind::tuple, std::move(items));
  }
  // The value on top, which must be of that kind, to be added to.
  PickleValue& top(Kind kind, std::string_view what) {
    if (stack_.size() <= floor()) fail("the pickle takes more than it has put down");
    PickleValue& value = values_[stack_.back()];
    if (value.kind != kind) fail(detail::message("expected ", what, " to add to"));
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
  void remember(std::uint64_t slot) {
    if (stack_.size() <= floor()) fail("the pickle remembers a value that is not on its stack");
    memory_[slot] = stack_.back();
  }
  void recall(std::uint64_t slot) {
    const auto found = memory_.find(slot);
    if (found == memory_.end()) fail(detail::message("value ", slot, " is recalled, but was never remembered"));
    stack_.push_back(found->second);
  }

  void push_name(std::string_view module, std::string_view name) {
    names_.push_back(detail::message(module, ".", name));
    if (!detail::pickle_name_is_known(names_.back()))
      fail(detail::message("the pickle asks for ", printable(names_.back()),
                           ", which is not needed to read tensors, and nothing is executed here; in PyTorch, save the weights alone: "
                           "torch.save(model.state_dict(), file)"));
    PickleValue value;
    value.kind = Kind::name;
    name_of_.emplace(static_cast<std::uint32_t>(values_.size()), names_.size() - 1);
    push(std::move(value));
  }

 public:
  /// The name that a value of that kind stands for.
  [[nodiscard]] std::string_view name(std::uint32_t position) const {
    const auto found = name_of_.find(position);
    return found == name_of_.end() ? std::string_view() : std::string_view(names_[found->second]);
  }

 private:
  // `function(*arguments)`, for the functions that are known.
  void call(std::string_view function, std::span<const std::uint32_t> arguments, int depth = 0) {
    const auto expect = [&](bool right) {
      if (!right) fail(detail::message(printable(function), ": other arguments than expected"));
    };
    if (function == "collections.OrderedDict") {
      if (arguments.empty()) return push(Kind::dictionary);
      expect(arguments.size() == 1 && values_[arguments[0]].kind == Kind::list);
      copied_ += values_[arguments[0]].items.size();
      if (copied_ > most_bytes) fail("the same list makes one dictionary after the other");
      std::vector<std::uint32_t> items;
      for (const std::uint32_t pair : values_[arguments[0]].items) {
        expect(values_[pair].items.size() == 2 && (values_[pair].kind == Kind::tuple || values_[pair].kind == Kind::list));
        items.insert(items.end(), values_[pair].items.begin(), values_[pair].items.end());
      }
      return push_items(Kind::dictionary, std::move(items));
    }
    if (function == "torch.Size") {
      expect(arguments.size() == 1 && values_[arguments[0]].kind == Kind::tuple);
      stack_.push_back(arguments[0]);
      return;
    }
    if (function == "torch.device" || detail::pickle_name_is_plain(function)) return push(Kind::other);
    if (function.starts_with("torch._utils._rebuild_parameter")) {
      expect(arguments.size() >= 2 && values_[arguments[0]].kind == Kind::tensor);
      stack_.push_back(arguments[0]);
      return;
    }
    if (function == "torch._tensor._rebuild_from_type_v2") {
      expect(arguments.size() == 4 && values_[arguments[2]].kind == Kind::tuple && depth == 0);
      return call(name(arguments[0]), values_[arguments[2]].items, depth + 1);
    }
    if (function.starts_with("torch._utils._rebuild_tensor")) {
      expect(arguments.size() >= 4 && values_[arguments[0]].kind == Kind::storage && values_[arguments[1]].kind == Kind::integer &&
             values_[arguments[2]].kind == Kind::tuple && values_[arguments[3]].kind == Kind::tuple);
      std::vector<std::uint32_t> parts(arguments.begin(), arguments.begin() + 4);
      if (function == "torch._utils._rebuild_tensor_v3") {
        expect(arguments.size() >= 7 && values_[arguments[6]].kind == Kind::name);
        parts.push_back(arguments[6]);
      }
      return push_items(Kind::tensor, std::move(parts));
    }
    fail(detail::message("the pickle calls ", function.empty() ? "something that is no function" : printable(function),
                         ", which makes no tensor"));
  }

  void persistent() {
    const PickleValue& id = values_[pop()];
    if (id.kind != Kind::tuple || id.items.size() != 5 || values_[id.items[0]].text != "storage" ||
        values_[id.items[1]].kind != Kind::name || values_[id.items[2]].kind != Kind::text || values_[id.items[4]].kind != Kind::integer)
      fail("a reference that is not PyTorch's ('storage', type, key, place, count)");
    push_items(Kind::storage, {id.items[1], id.items[2], id.items[4]});
  }

  [[nodiscard]] std::int64_t long_integer(std::uint64_t length) {
    const std::string_view raw = reader_.take(length);
    if (raw.size() > 8) fail("an integer of more than 64 bits");
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < raw.size(); ++i) number |= std::uint64_t{static_cast<unsigned char>(raw[i])} << (8 * i);
    if (!raw.empty() && raw.size() < 8 && static_cast<unsigned char>(raw.back()) >= 0x80U) number |= ~std::uint64_t{0} << (8 * raw.size());
    return std::bit_cast<std::int64_t>(number);
  }

  void read();
  [[nodiscard]] bool step(unsigned char instruction);

  std::string where_;
  ByteReader reader_;
  std::vector<PickleValue> values_;
  std::vector<std::uint32_t> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, std::uint32_t> memory_;
  std::vector<std::string> names_;
  std::unordered_map<std::uint32_t, std::size_t> name_of_;
  std::uint32_t root_ = 0;
  std::size_t copied_ = 0;
};

inline void Pickle::read() {
  if (reader_.left() > most_bytes) fail(detail::message("the pickle has ", reader_.left(), " bytes, expected at most ", most_bytes));
  while (step(reader_.number<unsigned char>())) {
  }
  if (reader_.left() != 0) fail(detail::message(reader_.left(), " bytes after the pickle's end"));
}

/// One instruction; false after the last. Letters and numbers are those of Python's pickletools.
inline bool Pickle::step(unsigned char instruction) {
  switch (instruction) {
    case 0x80:  // PROTO
      if (const auto version = reader_.number<unsigned char>(); version > 5)
        fail(detail::message("pickle protocol ", static_cast<int>(version)));
      return true;
    case 0x95:  // FRAME
      (void)reader_.number<std::uint64_t>();
      return true;
    case '.':  // STOP
      root_ = pop();
      if (!stack_.empty() || !marks_.empty()) fail("the pickle ends with values left over");
      return false;
    case '(':  // MARK
      marks_.push_back(stack_.size());
      return true;
    case '0':  // POP
      (void)pop();
      return true;
    case 'N':
      push(Kind::none);
      return true;
    case 0x88:  // NEWTRUE
      push_integer(1, Kind::boolean);
      return true;
    case 0x89:  // NEWFALSE
      push_integer(0, Kind::boolean);
      return true;
    case 'J':  // BININT
      push_integer(reader_.number<std::int32_t>());
      return true;
    case 'K':  // BININT1
      push_integer(reader_.number<std::uint8_t>());
      return true;
    case 'M':  // BININT2
      push_integer(reader_.number<std::uint16_t>());
      return true;
    case 0x8A:  // LONG1
      push_integer(long_integer(reader_.number<std::uint8_t>()));
      return true;
    case 'G': {  // BINFLOAT, big-endian
      std::uint64_t bits = 0;
      for (const char letter : reader_.take(8)) bits = bits << 8U | static_cast<unsigned char>(letter);
      PickleValue value;
      value.kind = Kind::real;
      value.real = std::bit_cast<double>(bits);
      push(std::move(value));
      return true;
    }
    case 'X':  // BINUNICODE
    case 'T':  // BINSTRING, from Python 2
    case 'B':  // BINBYTES
      push_text(reader_.take(reader_.number<std::uint32_t>()));
      return true;
    case 0x8C:  // SHORT_BINUNICODE
    case 'U':   // SHORT_BINSTRING
    case 'C':   // SHORT_BINBYTES
      push_text(reader_.take(reader_.number<std::uint8_t>()));
      return true;
    case 0x8D:  // BINUNICODE8
    case 0x8E:  // BINBYTES8
    case 0x96:  // BYTEARRAY8
      push_text(reader_.take(reader_.number<std::uint64_t>()));
      return true;
    case ')':
      push(Kind::tuple);
      return true;
    case ']':
      push(Kind::list);
      return true;
    case '}':
      push(Kind::dictionary);
      return true;
    case 0x8F:  // EMPTY_SET
      push(Kind::other);
      return true;
    case 0x90:  // ADDITEMS
      (void)pop_to_mark();
      (void)top(Kind::other, "a set");
      return true;
    case 0x91:  // FROZENSET
      (void)pop_to_mark();
      push(Kind::other);
      return true;
    case 't':  // TUPLE
      push_items(Kind::tuple, pop_to_mark());
      return true;
    case 'l':  // LIST
      push_items(Kind::list, pop_to_mark());
      return true;
    case 'd':  // DICT
      push_items(Kind::dictionary, pop_to_mark());
      if (values_[stack_.back()].items.size() % 2 != 0) fail("a key without a value");
      return true;
    case 0x85:  // TUPLE1
    case 0x86:
    case 0x87:
      push_tuple(instruction - 0x84U);
      return true;
    case 'a':  // APPEND
      append({pop()});
      return true;
    case 'e':  // APPENDS
      append(pop_to_mark());
      return true;
    case 's': {  // SETITEM
      const std::uint32_t value = pop(), key = pop();
      set_items({key, value});
      return true;
    }
    case 'u':  // SETITEMS
      set_items(pop_to_mark());
      return true;
    case 'q':  // BINPUT
      remember(reader_.number<std::uint8_t>());
      return true;
    case 'r':  // LONG_BINPUT
      remember(reader_.number<std::uint32_t>());
      return true;
    case 0x94:  // MEMOIZE
      remember(memory_.size());
      return true;
    case 'h':  // BINGET
      recall(reader_.number<std::uint8_t>());
      return true;
    case 'j':  // LONG_BINGET
      recall(reader_.number<std::uint32_t>());
      return true;
    case 'c': {  // GLOBAL
      const std::string_view module = reader_.line(), name = reader_.line();
      push_name(module, name);
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      const PickleValue &name = values_[pop()], &module = values_[pop()];
      if (name.kind != Kind::text || module.kind != Kind::text) fail("a name that is no text");
      push_name(module.text, name.text);
      return true;
    }
    case 'Q':  // BINPERSID
      persistent();
      return true;
    case 'R': {  // REDUCE
      const std::uint32_t arguments = pop(), function = pop();
      if (values_[arguments].kind != Kind::tuple) fail("a call without a tuple of arguments");
      call(name(function), values_[arguments].items);  // tuples never change, so their items stay where they are
      return true;
    }
    case 'b':  // BUILD: the attributes of an ordered dictionary, module versions say, are no tensors
      (void)pop();
      (void)top(Kind::dictionary, "a dictionary");
      return true;
    default:
      fail(detail::message("instruction ", byte_label(instruction),
                           " of a pickle is not among those that tensors need, and nothing is executed here"));
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
