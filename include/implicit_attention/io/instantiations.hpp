// The readers and writers of io, and the tokenizer, compiled elsewhere, as instantiations.hpp has it for the rest: in one file define
// IMPLICIT_ATTENTION_INSTANTIATE, or IMPLICIT_ATTENTION_INSTANTIATE_IO, before the first header of this library. In every file this header
// comes before other headers of io: in all but that one they then only declare what they define at their end (bodies.hpp says how), and
// need none of the libraries that they read files with. It includes the headers that have something compiled; JSON values, GGUF's metadata
// and what else io.hpp has are included where they are used.
#pragma once

#define IMPLICIT_ATTENTION_IO_ELSEWHERE
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_header.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/io/vocabulary.hpp>

#define IMPLICIT_ATTENTION_IO(TEMPLATE)                                           \
  TEMPLATE Array<float> SafetensorsFile::read(std::string_view) const;            \
  TEMPLATE Array<double> SafetensorsFile::read(std::string_view) const;           \
  TEMPLATE class TableSource<float>;                                              \
  TEMPLATE class TableSource<double>;                                             \
  TEMPLATE class SafetensorsSource<float>;                                        \
  TEMPLATE class SafetensorsSource<double>;                                       \
  TEMPLATE Checkpoint<float> open_checkpoint(const std::filesystem::path&, bool); \
  TEMPLATE Checkpoint<double> open_checkpoint(const std::filesystem::path&, bool);

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_IO(extern template)
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_IO)
#if IMPLICIT_ATTENTION_IO_BODIES != 2
#error "implicit_attention: define IMPLICIT_ATTENTION_INSTANTIATE_IO, then include io/instantiations.hpp before any other header of io"
#endif
IMPLICIT_ATTENTION_IO(template)
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#undef IMPLICIT_ATTENTION_IO
