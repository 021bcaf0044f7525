// The names that a pickle of tensors may ask for.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include <implicit_attention/config.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Python's own containers and numbers that training settings are stored in; PyTorch's strict reader takes them too. None holds tensors.
[[nodiscard]] inline bool pickle_name_is_plain(std::string_view name) {
  constexpr std::array<std::string_view, 8> names{"collections.Counter",   "builtins.set",     "__builtin__.set",     "builtins.bytearray",
                                                  "__builtin__.bytearray", "builtins.complex", "__builtin__.complex", "_codecs.encode"};
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Names that stand for data. `torch.float32` and its like are constants.
[[nodiscard]] inline bool pickle_name_is_known(std::string_view name) {
  constexpr std::array<std::string_view, 11> names{"collections.OrderedDict",
                                                   "torch._utils._rebuild_tensor",
                                                   "torch._utils._rebuild_tensor_v2",
                                                   "torch._utils._rebuild_tensor_v3",
                                                   "torch._utils._rebuild_parameter",
                                                   "torch._utils._rebuild_parameter_with_state",
                                                   "torch._tensor._rebuild_from_type_v2",
                                                   "torch.nn.parameter.Parameter",
                                                   "torch.Tensor",
                                                   "torch.Size",
                                                   "torch.device"};
  if (std::find(names.begin(), names.end(), name) != names.end() || pickle_name_is_plain(name)) return true;
  if (name == "torch.storage.UntypedStorage" || name == "torch.storage.TypedStorage") return true;
  if (!name.starts_with("torch.")) return false;
  const std::string_view rest = name.substr(6);
  if (rest.find('.') != std::string_view::npos) return false;
  constexpr std::array<std::string_view, 8> numbers{"float", "bfloat16", "int", "uint", "bool", "half", "double", "complex"};
  return rest.ends_with("Storage") || std::any_of(numbers.begin(), numbers.end(), [&](auto start) { return rest.starts_with(start); });
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
