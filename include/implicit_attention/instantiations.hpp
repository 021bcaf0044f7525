// For hosts with many translation units: what takes long to compile is compiled once instead of in each of them, in float and double.
//
// Include this header wherever the library is used (a precompiled header is a good place), and in exactly one source file define
// IMPLICIT_ATTENTION_INSTANTIATE before it. So that cores share that work, define in one file each instead:
// IMPLICIT_ATTENTION_INSTANTIATE_KERNELS, ..._HEAD_KERNELS, ..._TRACE, ..._LAYERS, ..._MORE_LAYERS, ..._MODELS, ..._FAMILIES and
// ..._ATTRIBUTION (each takes 1 to 2 GiB of memory in g++). Who uses no language model includes instantiations/layers.hpp alone, with the
// first five, or instantiations/kernels.hpp, with the first two: there is less to parse then.
// Reading files has io/instantiations.hpp, which such a file of its own compiles (..._IO), as it needs nlohmann-json.
// A file that uses a layer or a model compiles several times faster. Without this header everything works, header-only, as ever.
#pragma once

#include <implicit_attention/instantiations/kernels.hpp>
#include <implicit_attention/instantiations/layers.hpp>
#include <implicit_attention/instantiations/models.hpp>
