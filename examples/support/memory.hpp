// Memory that is used again: a model that is run many times needs arrays of the same sizes each time.
#pragma once

#include <cstdlib>  // defines __GLIBC__ where it is that library
#include <limits>

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace implicit_attention::examples {

/// Lets freed memory stay with the process, so that the next run's activations need no fresh pages. Where the C library is
/// another, nothing happens.
inline void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int largest = 32 << 20;  // what the library accepts
  ::mallopt(M_MMAP_THRESHOLD, largest);
  ::mallopt(M_TRIM_THRESHOLD, 512 << 20);
#endif
}

/// The machine's memory in bytes; infinite where the system does not say.
[[nodiscard]] inline double physical_memory() {
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
  const long pages = ::sysconf(_SC_PHYS_PAGES), size = ::sysconf(_SC_PAGESIZE);
  if (pages > 0 && size > 0) return static_cast<double>(pages) * static_cast<double>(size);
#endif
  return std::numeric_limits<double>::infinity();
}

}  // namespace implicit_attention::examples
