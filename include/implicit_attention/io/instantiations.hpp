// The parser and the readers of io, compiled elsewhere, as instantiations.hpp has it for the rest: in one file define
// IMPLICIT_ATTENTION_INSTANTIATE, or IMPLICIT_ATTENTION_INSTANTIATE_IO, before it.
#pragma once

#include <implicit_attention/io/io.hpp>

#define IMPLICIT_ATTENTION_IO(TEMPLATE)                                                                         \
  TEMPLATE JsonDocument detail::parse_json_object<Json>(std::string_view, std::string_view, const JsonLimits&); \
  TEMPLATE std::string detail::json_text<Json>(const Json&);                                                    \
  TEMPLATE void detail::dismantle(Json&) noexcept;                                                              \
  TEMPLATE void detail::flatten(const Json&, const std::string&, std::string_view, Configuration&);             \
  TEMPLATE SafetensorsHeader detail::parse_safetensors_header<Json>(std::string_view, std::string_view);        \
  TEMPLATE Array<float> SafetensorsFile::read(std::string_view) const;                                          \
  TEMPLATE Array<double> SafetensorsFile::read(std::string_view) const;                                         \
  TEMPLATE class TableSource<float>;                                                                            \
  TEMPLATE class TableSource<double>;                                                                           \
  TEMPLATE class SafetensorsSource<float>;                                                                      \
  TEMPLATE class SafetensorsSource<double>;                                                                     \
  TEMPLATE Checkpoint<float> open_checkpoint(const std::filesystem::path&);                                     \
  TEMPLATE Checkpoint<double> open_checkpoint(const std::filesystem::path&);

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_IO(extern template)
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_IO)
IMPLICIT_ATTENTION_IO(template)
#endif

IMPLICIT_ATTENTION_NAMESPACE_END

#undef IMPLICIT_ATTENTION_IO
