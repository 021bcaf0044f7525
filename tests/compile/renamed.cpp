// The names of version 0.1 that this release keeps: each is the new one, and whoever uses it is told which that is (of templates for types
// by g++ alone: clang++ 14 does not warn). The headers are the former ones, and those of the names.
// refused 1: renamed: CachedModel
// refused 2: renamed: RemovalOrder
// refused 3: renamed: gradient_mean
// refused 4: renamed: gradient_maximum
#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/kernels/joins.hpp>
#include <implicit_attention/kernels/recurrence.hpp>
#include <implicit_attention/layers/local_attention.hpp>
#include <implicit_attention/metrics/random_numbers.hpp>
#include <implicit_attention/metrics/remembered_model.hpp>
#include <implicit_attention/models/norms.hpp>
#include <implicit_attention/models/relevance.hpp>
#include <implicit_attention/trace/recurrences.hpp>

#include <concepts>

namespace ia = implicit_attention;

struct Model {
  double operator()(const ia::KeptTokens& kept) const { return static_cast<double>(kept.size()); }
};

#if REFUSED == 0
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static_assert(std::same_as<ia::LocalAttention<float>, ia::SoftmaxAttention<float>>);
static_assert(std::derived_from<ia::RememberedModel<Model>, ia::CachedModel<Model>>);
static_assert(std::same_as<ia::Relevance, ia::RemovalOrder>);
static_assert(ia::Method::gradient_2403_01590 == ia::Method::gradient_mean);
static_assert(ia::Method::gradient_2405_16504 == ia::Method::gradient_maximum);
static_assert(std::same_as<ia::GateInput<float>, ia::FunctionOf<float>>);
static_assert(std::same_as<ia::Dressed<ia::DiagonalRecurrence<float>>, ia::Surrounded<ia::DiagonalRecurrence<float>>>);
static_assert(std::same_as<ia::DressedDiagonal<float>, ia::SurroundedDiagonal<float>>);
#pragma GCC diagnostic pop
#elif REFUSED == 1
using Old = ia::RememberedModel<Model>;
#elif REFUSED == 2
using Old = ia::Relevance;
#elif REFUSED == 3
constexpr ia::Method old = ia::Method::gradient_2403_01590;
#elif REFUSED == 4
constexpr ia::Method old = ia::Method::gradient_2405_16504;
#endif

// What the former headers are asked for.
static_assert(sizeof(ia::detail::AddAbsolute) == 1);
static_assert(sizeof(ia::Norm<float>) > 0 && sizeof(ia::BackwardPass<float>) > 0);
double drawn(ia::detail::RandomEngine& engine) { return ia::detail::uniform(engine); }
