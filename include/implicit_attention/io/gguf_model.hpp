// A GGUF model as models are loaded: tensors and configuration under the public names.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_configuration.hpp>
#include <implicit_attention/io/gguf_families.hpp>
#include <implicit_attention/io/gguf_names.hpp>
#include <implicit_attention/io/gguf_rwkv.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Fails unless the file holds a model of a supported family; called before any other check.
inline void expect_known_model(const GgufFile& file) {
  const auto kind = file.get<std::string_view>("general.type");
  if (kind && *kind != "model") raise(ErrorKind::file, file.where(), ": general.type is ", printable(*kind), ", expected model");
  const std::string architecture = file.architecture();
  std::string known = "rwkv6, rwkv7";
  bool found = architecture == "rwkv6" || architecture == "rwkv7";
  for (const GgufFamily& family : gguf_families) {
    if (family.architecture == "bamba") continue;  // a name of ours
    known += message(", ", family.architecture);
    found = found || family.architecture == architecture;
  }
  if (!found) raise(ErrorKind::file, file.where(), ": general.architecture is ", printable(architecture), ", expected one of ", known);
}

}  // namespace detail

/// A GGUF model's tensors and configuration under the public names. Fails (ErrorKind::file or shape), naming what is wrong.
[[nodiscard]] std::pair<TensorTable, Configuration> translate_gguf(const GgufModel& model);

#if IMPLICIT_ATTENTION_IO_BODIES
IMPLICIT_ATTENTION_IO_BODY std::pair<TensorTable, Configuration> translate_gguf(const GgufModel& model) {
  detail::expect_known_model(model.metadata());
  const detail::GgufKeys keys(model.metadata());
  Configuration configuration = detail::gguf_configuration(keys, model.tensors);
  if (keys.architecture() == "rwkv6" || keys.architecture() == "rwkv7")
    return {detail::GgufRwkvNames(model, keys).translate(), std::move(configuration)};
  TensorTable table = detail::GgufNames(model, keys, configuration).translate();
  return {std::move(table), std::move(configuration)};
}
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
