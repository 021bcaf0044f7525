// JSON that is made to be written.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "command_line.hpp"

namespace implicit_attention::examples {

using OrderedJson = nlohmann::ordered_json;

/// The object that fill(json) makes, as text that ends in a newline: one key or element a line, `indent` spaces deeper a level, or all on
/// one line with -1. Bytes that are not UTF-8 become U+FFFD. Where memory runs out the program ends, see EndWithoutMemory.
template <class Fill>
[[nodiscard]] std::string written_json(int indent, const Fill& fill) {
  const EndWithoutMemory ends;
  OrderedJson json;
  fill(json);
  return json.dump(indent, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace implicit_attention::examples
