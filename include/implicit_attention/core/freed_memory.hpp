// Memory that is used again: a model that is run many times needs arrays of the same sizes each time.
#pragma once

#include <cstddef>
#include <cstdlib>  // defines __GLIBC__ where it is that library

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <implicit_attention/core/large_memory.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What the heap grows to at once: a long text's activations, and less than what stays with the process when it is free.
constexpr std::size_t reserved_heap_bytes = std::size_t{384} << 20;

/// Lets the heap grow before any of the new memory is touched, and asks for huge pages for it: arrays of a few MiB, which lie anywhere in it,
/// have none of their own. Address space alone is taken; without it nothing is lost.
inline void reserve_heap() noexcept {
#if defined(__GLIBC__) && defined(__LP64__) && !defined(__SANITIZE_ADDRESS__)
  constexpr int as_many_maps_as_before = 65536;  // the library's own
  ::mallopt(M_MMAP_MAX, 0);                      // so that it comes from the heap
  void* const memory = std::malloc(reserved_heap_bytes);
  ::mallopt(M_MMAP_MAX, as_many_maps_as_before);
  if (memory == nullptr) return;
  advise_huge_pages(memory, reserved_heap_bytes);
  std::free(memory);
#endif
}

}  // namespace detail

/// For a host, at its beginning: lets freed memory stay with the process, so that the next run's activations need no fresh pages, and gives it
/// huge pages for the first run's. It changes the C library's settings for the whole process (up to 512 MiB of free memory stay, arrays of up to 32 MiB come from the
/// heap); a second call does nothing. Where the C library is another than glibc, nothing happens.
inline void keep_freed_memory() noexcept {
#if defined(__GLIBC__)
  static const bool kept = [] {
    constexpr int largest = 32 << 20;  // what the library accepts
    ::mallopt(M_MMAP_THRESHOLD, largest);
    ::mallopt(M_TRIM_THRESHOLD, 512 << 20);
    detail::reserve_heap();
    return true;
  }();
  static_cast<void>(kept);
#endif
}

IMPLICIT_ATTENTION_NAMESPACE_END
