// The functions that PyTorch's pickles call, as much as reading tensors needs. None is executed: each only becomes a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/pickle_names.hpp>
#include <implicit_attention/io/pickle_stack.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What the functions that PyTorch's pickles call put on the stack. The stack must outlive it.
class PickleFunctions {
 public:
  using Kind = PickleValue::Kind;
  explicit PickleFunctions(PickleStack& stack) : stack_(&stack) {}

  /// `function(*arguments)`, for the functions that are known.
  void call(std::string_view function, std::span<const std::uint32_t> arguments, int depth = 0) {
    const auto expect = [&](bool right) {
      if (!right) stack_->fail(message(printable(function), ": its arguments are not those that are expected"));
    };
    if (function == "collections.OrderedDict") {
      if (arguments.empty()) return stack_->push(Kind::dictionary);
      expect(arguments.size() == 1 && value(arguments[0]).kind == Kind::list);
      copied_ += value(arguments[0]).items.size();
      if (copied_ > PickleStack::most_bytes)
        stack_->fail(message("lists are copied into dictionaries with more than ", PickleStack::most_bytes, " elements in all"));
      std::vector<std::uint32_t> items;
      for (const std::uint32_t pair : value(arguments[0]).items) {
        expect(value(pair).items.size() == 2 && (value(pair).kind == Kind::tuple || value(pair).kind == Kind::list));
        items.insert(items.end(), value(pair).items.begin(), value(pair).items.end());
      }
      return stack_->push_items(Kind::dictionary, std::move(items));
    }
    if (function == "torch.Size") {
      expect(arguments.size() == 1 && value(arguments[0]).kind == Kind::tuple);
      stack_->push_again(arguments[0]);
      return;
    }
    if (function == "torch.device" || pickle_name_is_plain(function)) return stack_->push(Kind::other);
    if (function.starts_with("torch._utils._rebuild_parameter")) {
      expect(arguments.size() >= 2 && value(arguments[0]).kind == Kind::tensor);
      stack_->push_again(arguments[0]);
      return;
    }
    if (function == "torch._tensor._rebuild_from_type_v2") {
      expect(arguments.size() == 4 && value(arguments[2]).kind == Kind::tuple && depth == 0);
      return call(stack_->name(arguments[0]), value(arguments[2]).items, depth + 1);
    }
    if (function.starts_with("torch._utils._rebuild_tensor")) {
      expect(arguments.size() >= 4 && value(arguments[0]).kind == Kind::storage && value(arguments[1]).kind == Kind::integer &&
             value(arguments[2]).kind == Kind::tuple && value(arguments[3]).kind == Kind::tuple);
      std::vector<std::uint32_t> parts(arguments.begin(), arguments.begin() + 4);
      if (function == "torch._utils._rebuild_tensor_v3") {
        expect(arguments.size() >= 7 && value(arguments[6]).kind == Kind::name);
        parts.push_back(arguments[6]);
      }
      return stack_->push_items(Kind::tensor, std::move(parts));
    }
    stack_->fail(message("the pickle calls ", function.empty() ? "something that is not a function" : printable(function),
                         ", which makes no tensor"));
  }

  /// A reference to a storage, BINPERSID.
  void persistent() {
    const PickleValue& id = value(stack_->pop());
    if (id.kind != Kind::tuple || id.items.size() != 5 || value(id.items[0]).text != "storage" || value(id.items[1]).kind != Kind::name ||
        value(id.items[2]).kind != Kind::text || value(id.items[4]).kind != Kind::integer)
      stack_->fail("a reference that is not PyTorch's ('storage', type, key, place, count)");
    stack_->push_items(Kind::storage, {id.items[1], id.items[2], id.items[4]});
  }

 private:
  [[nodiscard]] const PickleValue& value(std::uint32_t position) const { return (*stack_)[position]; }

  PickleStack* stack_;
  std::size_t copied_ = 0;  // items of lists, which a few bytes can copy again and again
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
