// Everything that touches files.
#pragma once

#include <implicit_attention/io/array_to_write.hpp>
#include <implicit_attention/io/bytes.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/dtype.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_configuration.hpp>
#include <implicit_attention/io/gguf_names.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/io/pickle.hpp>
#include <implicit_attention/io/pytorch.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/rwkv_cpp.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_header.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/io/vocabulary.hpp>
#include <implicit_attention/io/zip.hpp>
