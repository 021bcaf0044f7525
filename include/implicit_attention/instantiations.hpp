// For hosts with many translation units: the kernels are compiled once instead of in each of them.
//
// Include this header wherever the library is used, and in exactly one source file define IMPLICIT_ATTENTION_INSTANTIATE before it.
// A file that uses a layer then compiles several times faster. Without this header everything works, header-only, as ever.
#pragma once

#include <implicit_attention/kernels/reduced_rows.hpp>
#include <implicit_attention/kernels/scan.hpp>
#include <implicit_attention/kernels/scan_gradient.hpp>

#ifdef IMPLICIT_ATTENTION_INSTANTIATE
#define IMPLICIT_ATTENTION_TEMPLATE template
#else
#define IMPLICIT_ATTENTION_TEMPLATE extern template
#endif

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_TEMPLATE void scan(const DressedDiagonal<float>&, const ScanInput<float>&, View<float>, const Executor&, View<float>*);
IMPLICIT_ATTENTION_TEMPLATE void scan(const DressedExplicit<float>&, const ScanInput<float>&, View<float>, const Executor&, View<float>*);
IMPLICIT_ATTENTION_TEMPLATE void scan_transposed(const DressedDiagonal<float>&, ConstView<float>, View<float>, const Executor&);
IMPLICIT_ATTENTION_TEMPLATE void scan_transposed(const DressedExplicit<float>&, ConstView<float>, View<float>, const Executor&);
IMPLICIT_ATTENTION_TEMPLATE ScanGradient<float> scan_gradient(const DiagonalRecurrence<float>&, ConstView<float>, const Array<float>&, ConstView<float>,
                                                       const Executor&);
IMPLICIT_ATTENTION_TEMPLATE void convolve(const DressedDiagonal<float>&, const ScanInput<float>&, View<float>, const Executor&);
IMPLICIT_ATTENTION_TEMPLATE void attention_rows(const DressedDiagonal<float>&, const std::vector<Index>&, const std::vector<Index>&, View<float>,
                                                const Executor&);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<float>&, const std::vector<Index>&, const std::vector<Index>&, View<float>,
                                              const Executor&, const detail::Add&, float);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<float>&, const std::vector<Index>&, const std::vector<Index>&, View<float>,
                                              const Executor&, const detail::AddAbsolute&, float);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<float>&, const std::vector<Index>&, const std::vector<Index>&, View<float>,
                                              const Executor&, const detail::AddPositive&, float);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<float>&, const std::vector<Index>&, const std::vector<Index>&, View<float>,
                                              const Executor&, const detail::Largest&, float);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<float>&, const std::vector<Index>&, const std::vector<Index>&, View<float>,
                                              const Executor&, const detail::Smallest&, float);

IMPLICIT_ATTENTION_TEMPLATE void scan(const DressedDiagonal<double>&, const ScanInput<double>&, View<double>, const Executor&, View<double>*);
IMPLICIT_ATTENTION_TEMPLATE void scan(const DressedExplicit<double>&, const ScanInput<double>&, View<double>, const Executor&, View<double>*);
IMPLICIT_ATTENTION_TEMPLATE void scan_transposed(const DressedDiagonal<double>&, ConstView<double>, View<double>, const Executor&);
IMPLICIT_ATTENTION_TEMPLATE void scan_transposed(const DressedExplicit<double>&, ConstView<double>, View<double>, const Executor&);
IMPLICIT_ATTENTION_TEMPLATE ScanGradient<double> scan_gradient(const DiagonalRecurrence<double>&, ConstView<double>, const Array<double>&, ConstView<double>,
                                                       const Executor&);
IMPLICIT_ATTENTION_TEMPLATE void convolve(const DressedDiagonal<double>&, const ScanInput<double>&, View<double>, const Executor&);
IMPLICIT_ATTENTION_TEMPLATE void attention_rows(const DressedDiagonal<double>&, const std::vector<Index>&, const std::vector<Index>&, View<double>,
                                                const Executor&);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<double>&, const std::vector<Index>&, const std::vector<Index>&, View<double>,
                                              const Executor&, const detail::Add&, double);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<double>&, const std::vector<Index>&, const std::vector<Index>&, View<double>,
                                              const Executor&, const detail::AddAbsolute&, double);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<double>&, const std::vector<Index>&, const std::vector<Index>&, View<double>,
                                              const Executor&, const detail::AddPositive&, double);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<double>&, const std::vector<Index>&, const std::vector<Index>&, View<double>,
                                              const Executor&, const detail::Largest&, double);
IMPLICIT_ATTENTION_TEMPLATE void reduced_rows(const DressedDiagonal<double>&, const std::vector<Index>&, const std::vector<Index>&, View<double>,
                                              const Executor&, const detail::Smallest&, double);

IMPLICIT_ATTENTION_NAMESPACE_END

#undef IMPLICIT_ATTENTION_TEMPLATE
