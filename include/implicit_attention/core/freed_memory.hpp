// Memory that is used again: a model that is run many times needs arrays of the same sizes each time.
#pragma once

#include <cstddef>
#include <cstdlib>  // defines __GLIBC__ where it is that library

#if defined(__GLIBC__)
#include <malloc.h>
#include <sys/resource.h>
#endif

#include <implicit_attention/core/large_memory.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Lets what is freed stay with the process, without reserving any memory.
inline void keep_freed_pages() noexcept {
#if defined(__GLIBC__)
  constexpr int largest = 32 << 20;  // what the library accepts
  ::mallopt(M_MMAP_THRESHOLD, largest);
  ::mallopt(M_TRIM_THRESHOLD, 1280 << 20);
#endif
}

/// What the heap grows to at once: a model's weights of half a gigabyte, which come first where a host has them in memory of its own, and a
/// long text's activations behind them; less than what stays with the process when it is free.
constexpr std::size_t reserved_heap_bytes = std::size_t{1024} << 20;

/// Lets the heap grow before any of the new memory is touched, and asks for huge pages for it: arrays of a few MiB, which lie anywhere in
/// it, have none of their own. Address space alone is taken (a process that locks all of its memory takes it whole), and none where the
/// process has been given a limit of it: mapped weights may need what is there.
inline void reserve_heap() noexcept {
#if defined(__GLIBC__) && defined(__LP64__) && !defined(__SANITIZE_ADDRESS__)
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return;
  constexpr int as_many_maps_as_before = 65536;  // glibc's default
  ::mallopt(M_MMAP_MAX, 0);                      // so that it comes from the heap
  void* const memory = std::malloc(reserved_heap_bytes);
  ::mallopt(M_MMAP_MAX, as_many_maps_as_before);
  if (memory == nullptr) return;
  advise_huge_pages(memory, reserved_heap_bytes);
  std::free(memory);
#endif
}

}  // namespace detail

/// For a host, in its main thread before others begin: lets freed memory stay with the process, so that the next run's activations need no
/// fresh pages, and gives it huge pages for the first run's. It changes the C library's settings for the whole process: arrays of up to 32
/// MiB come from the heap, whose end stays until 1280 MiB of it are free (then the system has all of it back), M_MMAP_MAX is glibc's
/// default, and huge pages take more memory where little of each is used. What other threads allocate is kept up to 64 MiB each. A second
/// call does nothing. Where the C library is another than glibc, nothing happens; a host with an allocator of its own does not need it.
inline void keep_freed_memory() noexcept {
#if defined(__GLIBC__)
  static const bool kept = [] {
    detail::keep_freed_pages();
    detail::reserve_heap();
    return true;
  }();
  static_cast<void>(kept);
#endif
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
