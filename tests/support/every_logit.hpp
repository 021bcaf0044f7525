// The options of a run with the logits at every token: tests compare whole tables of them.
#pragma once

#include <utility>

#include <implicit_attention/models/forward_pass.hpp>

namespace test_support {

[[nodiscard]] inline implicit_attention::ForwardOptions every_logit(implicit_attention::ForwardOptions options = {}) {
  options.logit_positions = implicit_attention::Indices::all();
  return options;
}

}  // namespace test_support
