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
//
// EXCEPTIONS, BLOCK_TOKENS, TILE_CHANNELS and Eigen's alignment change code or layout, so they are part of the inline ABI
// namespace: two translation units that disagree do not link, instead of crashing.
#pragma once

#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L
#error "implicit_attention needs C++20: compile with -std=c++20 (or /std:c++20)"
#endif
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "implicit_attention needs infinities and NaN as IEEE 754 has them: add -fno-finite-math-only after -ffast-math or -Ofast"
#endif

#include <Eigen/Core>

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

#define IMPLICIT_ATTENTION_JOIN_(a, b, c, d, e) abi_e##a##_align##b##_block##c##_tile##d##_v##e
#define IMPLICIT_ATTENTION_JOIN(a, b, c, d, e) IMPLICIT_ATTENTION_JOIN_(a, b, c, d, e)
#define IMPLICIT_ATTENTION_ABI                                                                                   \
  IMPLICIT_ATTENTION_JOIN(IMPLICIT_ATTENTION_EXCEPTIONS, EIGEN_MAX_ALIGN_BYTES, IMPLICIT_ATTENTION_BLOCK_TOKENS, \
                          IMPLICIT_ATTENTION_TILE_CHANNELS, 0)

/// Opens and closes the library's namespace; the inline part carries the ABI.
#define IMPLICIT_ATTENTION_NAMESPACE_BEGIN \
  namespace implicit_attention {           \
  inline namespace IMPLICIT_ATTENTION_ABI {
#define IMPLICIT_ATTENTION_NAMESPACE_END \
  }                                      \
  }
