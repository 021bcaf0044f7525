// Everything that touches files.
#pragma once

#include <implicit_attention/io/array_to_write.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/dtype.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/npy_reader.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_header.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/io/vocabulary.hpp>
