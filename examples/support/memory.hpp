// Memory that is used again: a model that is run many times needs arrays of the same sizes each time.
#pragma once

#include <cstdlib>  // defines __GLIBC__ where it is that library

#if defined(__GLIBC__)
#include <malloc.h>
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

}  // namespace implicit_attention::examples
