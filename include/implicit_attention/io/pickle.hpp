// A subset of Python's pickle, as much as PyTorch's checkpoints need. Nothing is executed: the reader builds numbers, strings, lists and
// dictionaries, and recognises a few names that stand for tensors. Any other name or instruction is an error that names it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/bytes.hpp>
#include <implicit_attention/io/pickle_functions.hpp>
#include <implicit_attention/io/pickle_stack.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One pickle, read.
class Pickle {
 public:
  using Kind = PickleValue::Kind;
  static constexpr std::size_t most_bytes = detail::PickleStack::most_bytes;

  /// `bytes` must live as long as this; `where` names it in errors.
  Pickle(std::string_view bytes, std::string where)
      : where_(std::move(where)), reader_(bytes, where_), stack_(reader_), functions_(stack_) {
    read();
  }
  Pickle(const Pickle&) = delete;
  Pickle& operator=(const Pickle&) = delete;

  [[nodiscard]] const PickleValue& operator[](std::uint32_t position) const { return stack_[position]; }
  /// The whole.
  [[nodiscard]] std::uint32_t root() const { return root_; }
  /// The name that a value of that kind stands for.
  [[nodiscard]] std::string_view name(std::uint32_t position) const { return stack_.name(position); }

 private:
  void read();
  [[nodiscard]] bool step(unsigned char instruction);
  // An integer of so many bytes, with its sign.
  [[nodiscard]] std::int64_t little_endian(std::uint64_t length) {
    const std::string_view raw = reader_.take(length);
    if (raw.size() > 8) stack_.fail("an integer of more than 64 bits");
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < raw.size(); ++i) number |= std::uint64_t{static_cast<unsigned char>(raw[i])} << (8 * i);
    if (!raw.empty() && raw.size() < 8 && static_cast<unsigned char>(raw.back()) >= 0x80U) number |= ~std::uint64_t{0} << (8 * raw.size());
    return std::bit_cast<std::int64_t>(number);
  }

  std::string where_;
  ByteReader reader_;
  detail::PickleStack stack_;
  detail::PickleFunctions functions_;
  std::uint32_t root_ = 0;
};

inline void Pickle::read() {
  if (reader_.left() > most_bytes) stack_.fail(detail::message("the pickle has ", reader_.left(), " bytes, expected at most ", most_bytes));
  while (step(reader_.number<unsigned char>())) {
  }
  if (reader_.left() != 0) stack_.fail(detail::message(reader_.left(), " bytes behind the pickle's end"));
}

/// One instruction; false after the last. Letters and numbers are those of Python's pickletools.
inline bool Pickle::step(unsigned char instruction) {
  switch (instruction) {
    case 0x80:  // PROTO
      if (const auto version = reader_.number<unsigned char>(); version > 5)
        stack_.fail(detail::message("pickle protocol ", static_cast<int>(version)));
      return true;
    case 0x95:  // FRAME
      (void)reader_.number<std::uint64_t>();
      return true;
    case '.':  // STOP
      root_ = stack_.end();
      return false;
    case '(':  // MARK
      stack_.mark();
      return true;
    case '0':  // POP
      (void)stack_.pop();
      return true;
    case 'N':
      stack_.push(Kind::none);
      return true;
    case 0x88:  // NEWTRUE
      stack_.push_integer(1, Kind::boolean);
      return true;
    case 0x89:  // NEWFALSE
      stack_.push_integer(0, Kind::boolean);
      return true;
    case 'J':  // BININT
      stack_.push_integer(reader_.number<std::int32_t>());
      return true;
    case 'K':  // BININT1
      stack_.push_integer(reader_.number<std::uint8_t>());
      return true;
    case 'M':  // BININT2
      stack_.push_integer(reader_.number<std::uint16_t>());
      return true;
    case 0x8A:  // LONG1
      stack_.push_integer(little_endian(reader_.number<std::uint8_t>()));
      return true;
    case 'G': {  // BINFLOAT, big-endian
      std::uint64_t bits = 0;
      for (const char letter : reader_.take(8)) bits = bits << 8U | static_cast<unsigned char>(letter);
      PickleValue value;
      value.kind = Kind::real;
      value.real = std::bit_cast<double>(bits);
      stack_.push(std::move(value));
      return true;
    }
    case 'X':  // BINUNICODE
    case 'T':  // BINSTRING, from Python 2
    case 'B':  // BINBYTES
      stack_.push_text(reader_.take(reader_.number<std::uint32_t>()));
      return true;
    case 0x8C:  // SHORT_BINUNICODE
    case 'U':   // SHORT_BINSTRING
    case 'C':   // SHORT_BINBYTES
      stack_.push_text(reader_.take(reader_.number<std::uint8_t>()));
      return true;
    case 0x8D:  // BINUNICODE8
    case 0x8E:  // BINBYTES8
    case 0x96:  // BYTEARRAY8
      stack_.push_text(reader_.take(reader_.number<std::uint64_t>()));
      return true;
    case ')':
      stack_.push(Kind::tuple);
      return true;
    case ']':
      stack_.push(Kind::list);
      return true;
    case '}':
      stack_.push(Kind::dictionary);
      return true;
    case 0x8F:  // EMPTY_SET
      stack_.push(Kind::other);
      return true;
    case 0x90:  // ADDITEMS
      (void)stack_.pop_to_mark();
      (void)stack_.top(Kind::other, "a set");
      return true;
    case 0x91:  // FROZENSET
      (void)stack_.pop_to_mark();
      stack_.push(Kind::other);
      return true;
    case 't':  // TUPLE
      stack_.push_items(Kind::tuple, stack_.pop_to_mark());
      return true;
    case 'l':  // LIST
      stack_.push_items(Kind::list, stack_.pop_to_mark());
      return true;
    case 'd':  // DICT
      stack_.push_items(Kind::dictionary, stack_.pop_to_mark());
      if (stack_.top(Kind::dictionary, "a dictionary").items.size() % 2 != 0) stack_.fail("a key without a value");
      return true;
    case 0x85:  // TUPLE1
    case 0x86:
    case 0x87:
      stack_.push_tuple(instruction - 0x84U);
      return true;
    case 'a':  // APPEND
      stack_.append({stack_.pop()});
      return true;
    case 'e':  // APPENDS
      stack_.append(stack_.pop_to_mark());
      return true;
    case 's': {  // SETITEM
      const std::uint32_t value = stack_.pop(), key = stack_.pop();
      stack_.set_items({key, value});
      return true;
    }
    case 'u':  // SETITEMS
      stack_.set_items(stack_.pop_to_mark());
      return true;
    case 'q':  // BINPUT
      stack_.remember(reader_.number<std::uint8_t>());
      return true;
    case 'r':  // LONG_BINPUT
      stack_.remember(reader_.number<std::uint32_t>());
      return true;
    case 0x94:  // MEMOIZE
      stack_.remember(stack_.remembered());
      return true;
    case 'h':  // BINGET
      stack_.recall(reader_.number<std::uint8_t>());
      return true;
    case 'j':  // LONG_BINGET
      stack_.recall(reader_.number<std::uint32_t>());
      return true;
    case 'c': {  // GLOBAL
      const std::string_view module = reader_.line(), name = reader_.line();
      stack_.push_name(module, name);
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      const PickleValue &name = stack_[stack_.pop()], &module = stack_[stack_.pop()];
      if (name.kind != Kind::text || module.kind != Kind::text) stack_.fail("a name that is not a text");
      stack_.push_name(module.text, name.text);
      return true;
    }
    case 'Q':  // BINPERSID
      functions_.persistent();
      return true;
    case 'R': {  // REDUCE
      const std::uint32_t arguments = stack_.pop(), function = stack_.pop();
      if (stack_[arguments].kind != Kind::tuple) stack_.fail("a call without a tuple of arguments");
      functions_.call(stack_.name(function), stack_[arguments].items);  // tuples never change, so their items stay where they are
      return true;
    }
    case 'b':  // BUILD: the attributes of an ordered dictionary, such as module versions, hold no tensors
      (void)stack_.pop();
      (void)stack_.top(Kind::dictionary, "a dictionary");
      return true;
    default:
      stack_.fail(detail::message("instruction ", byte_label(instruction),
                                  " of a pickle is not among those that tensors need, and nothing is executed here"));
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
