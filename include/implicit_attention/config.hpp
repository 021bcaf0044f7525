// Every macro a user can set, in one table.
//
// | macro                                  | default                    | meaning                                                                 |
// |----------------------------------------|----------------------------|-------------------------------------------------------------------------|
// | IMPLICIT_ATTENTION_EXCEPTIONS          | 1 where the compiler has   | 0: errors go to the handler of core/error.hpp, which must not return    |
// |                                        | exceptions, else 0         |                                                                         |
// | IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT  | 4 GiB                      | the largest result a call may allocate unless it says otherwise         |
// | IMPLICIT_ATTENTION_BLOCK_TOKENS        | 64                         | tokens in one block of the blocked kernels: a power of two from 16 on   |
// | IMPLICIT_ATTENTION_TILE_CHANNELS       | 32                         | channels walked together by the row, scan and application kernels       |
// | IMPLICIT_ATTENTION_INSTANTIATE         | not defined                | defined in one file before instantiations.hpp: it compiles for all      |
// | IMPLICIT_ATTENTION_IO_MMAP             | 1 on Unix, else 0          | 0: files are read whole, not mapped; the same in all of a program       |
// | IMPLICIT_ATTENTION_IO_ZLIB             | 0                          | 1: io unpacks compressed PyTorch archives through zlib, which is linked  |
// | IMPLICIT_ATTENTION_IO_SENTENCEPIECE    | 0                          | 1: io reads tokenizer.model through sentencepiece, which is linked      |
// | IMPLICIT_ATTENTION_ABI_TAG             | nothing                    | a word of the host's own in the ABI namespace: nothing of this copy is  |
// |                                        |                            | shared with another library's in the same process                      |
//
// EXCEPTIONS, BLOCK_TOKENS, TILE_CHANNELS, Eigen's alignments and allocation, the vector instructions compiled for and the standard
// library's debug mode and kind of string change code or layout, so they are part of the inline ABI namespace: two translation units that
// disagree do not link, instead of crashing.
// Eigen's index type must be the default one.
#pragma once

#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L
#error "implicit_attention needs C++20: compile with -std=c++20 (or /std:c++20)"
#include "implicit_attention needs C++20"  // not there: the compiler stops here, before it says the same in thousands of lines
#endif
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "implicit_attention needs infinities and NaN as IEEE 754 has them: add -fno-finite-math-only after -ffast-math or -Ofast"
#endif

// Headers of the standard library that come later could not be read.
#if defined(min) || defined(max)
#error "implicit_attention: a macro named min or max is defined: #undef it before including this header (windows.h: define NOMINMAX)"
#endif

#include <implicit_attention/core/host_macros_off.hpp>
#include <Eigen/Core>
#include <implicit_attention/core/host_macros_on.hpp>

#if !EIGEN_VERSION_AT_LEAST(3, 4, 0)
#error "implicit_attention needs Eigen 3.4 or newer"
#endif

#ifndef IMPLICIT_ATTENTION_EXCEPTIONS
#if defined(__cpp_exceptions) && __cpp_exceptions
#define IMPLICIT_ATTENTION_EXCEPTIONS 1
#else
#define IMPLICIT_ATTENTION_EXCEPTIONS 0
#endif
#endif

#ifndef IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT
#define IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT (std::size_t{4} << 30)
#endif

#ifndef IMPLICIT_ATTENTION_BLOCK_TOKENS
#define IMPLICIT_ATTENTION_BLOCK_TOKENS 64
#endif

#ifndef IMPLICIT_ATTENTION_TILE_CHANNELS
#define IMPLICIT_ATTENTION_TILE_CHANNELS 32
#endif

// The vector instructions that Eigen may use, which inline functions of the same name would mix.
#if defined(EIGEN_DONT_VECTORIZE)
#define IMPLICIT_ATTENTION_VECTORS none
#elif defined(__AVX512F__) && defined(__AVX512DQ__)
#define IMPLICIT_ATTENTION_VECTORS avx512dq
#elif defined(__AVX512F__)
#define IMPLICIT_ATTENTION_VECTORS avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define IMPLICIT_ATTENTION_VECTORS avx2fma
#elif defined(__AVX2__)
#define IMPLICIT_ATTENTION_VECTORS avx2
#elif defined(__AVX__) && defined(__FMA__)
#define IMPLICIT_ATTENTION_VECTORS avxfma
#elif defined(__AVX__)
#define IMPLICIT_ATTENTION_VECTORS avx
#elif defined(__SSE4_1__)
#define IMPLICIT_ATTENTION_VECTORS sse4
#elif defined(__SSE3__)
#define IMPLICIT_ATTENTION_VECTORS sse3
#else
#define IMPLICIT_ATTENTION_VECTORS base
#endif

// Standard containers of another layout, in which results and forms are held.
#if defined(_GLIBCXX_DEBUG) || (defined(_LIBCPP_HARDENING_MODE_DEBUG) && _LIBCPP_HARDENING_MODE == _LIBCPP_HARDENING_MODE_DEBUG)
#define IMPLICIT_ATTENTION_CONTAINERS _debug
#else
#define IMPLICIT_ATTENTION_CONTAINERS
#endif
#if defined(_GLIBCXX_USE_CXX11_ABI) && !_GLIBCXX_USE_CXX11_ABI
#define IMPLICIT_ATTENTION_STRINGS _cow
#else
#define IMPLICIT_ATTENTION_STRINGS
#endif
// Whose function must free what a matrix allocated, where a host says otherwise than Eigen's alignment would.
#if EIGEN_MALLOC_ALREADY_ALIGNED && EIGEN_MAX_ALIGN_BYTES > 16
#define IMPLICIT_ATTENTION_MALLOC _malloc1
#elif !EIGEN_MALLOC_ALREADY_ALIGNED && EIGEN_MAX_ALIGN_BYTES <= 16
#define IMPLICIT_ATTENTION_MALLOC _malloc0
#else
#define IMPLICIT_ATTENTION_MALLOC
#endif
#ifndef IMPLICIT_ATTENTION_ABI_TAG
#define IMPLICIT_ATTENTION_ABI_TAG
#endif

#define IMPLICIT_ATTENTION_JOIN_(a, b, c, d, e, f, g, h, i, j) abi_e##a##_align##b##_##c##_block##d##_tile##e##_##f##_v2##g##h##i##j
#define IMPLICIT_ATTENTION_JOIN(a, b, c, d, e, f, g, h, i, j) IMPLICIT_ATTENTION_JOIN_(a, b, c, d, e, f, g, h, i, j)
#define IMPLICIT_ATTENTION_ABI                                                                                           \
  IMPLICIT_ATTENTION_JOIN(IMPLICIT_ATTENTION_EXCEPTIONS, EIGEN_MAX_ALIGN_BYTES, EIGEN_MAX_STATIC_ALIGN_BYTES,            \
                          IMPLICIT_ATTENTION_BLOCK_TOKENS, IMPLICIT_ATTENTION_TILE_CHANNELS, IMPLICIT_ATTENTION_VECTORS, \
                          IMPLICIT_ATTENTION_CONTAINERS, IMPLICIT_ATTENTION_STRINGS, IMPLICIT_ATTENTION_MALLOC,          \
                          IMPLICIT_ATTENTION_ABI_TAG)

// g++ 12 warns of registers in its own AVX-512 intrinsics that nothing was written to (its bug 105593), wherever they are inlined: hundreds
// of warnings in a host's build that nobody can mend.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13 && defined(__AVX512F__)
#define IMPLICIT_ATTENTION_INTRINSICS_BEGIN                                            \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wuninitialized\"") \
      _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")
#define IMPLICIT_ATTENTION_INTRINSICS_END _Pragma("GCC diagnostic pop")
#else
#define IMPLICIT_ATTENTION_INTRINSICS_BEGIN
#define IMPLICIT_ATTENTION_INTRINSICS_END
#endif

/// Opens and closes the library's namespace; the inline part carries the ABI.
#define IMPLICIT_ATTENTION_NAMESPACE_BEGIN \
  IMPLICIT_ATTENTION_INTRINSICS_BEGIN      \
  namespace implicit_attention {           \
  inline namespace IMPLICIT_ATTENTION_ABI {
#define IMPLICIT_ATTENTION_NAMESPACE_END \
  }                                      \
  }                                      \
  IMPLICIT_ATTENTION_INTRINSICS_END
