// How numbers stand in files: little-endian; the types are those of core/dtype.hpp.
#pragma once

#include <bit>
#include <concepts>

#include <implicit_attention/core/dtype.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

static_assert(std::endian::native == std::endian::little, "implicit_attention/io reads little-endian files as they stand in memory");

/// The C++ types that are written: float, double, and whatever integer of 64 bits the system has.
template <class T>
concept Storable = Real<T> ||(std::signed_integral<T> && sizeof(T) == 8);

/// The type in which numbers of a C++ type are stored.
template <Storable Number>
constexpr Dtype dtype_of = std::same_as<Number, double>  ? Dtype::F64
                           : std::same_as<Number, float> ? Dtype::F32
                                                         : Dtype::I64;

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
