// Whether a test is built with the address sanitizer, TEST_ADDRESS_SANITIZER, or that of threads, TEST_THREAD_SANITIZER.
#pragma once

#if defined(__has_feature)  // clang++'s way to say it
#if __has_feature(address_sanitizer)
#define TEST_ADDRESS_SANITIZER
#endif
#if __has_feature(thread_sanitizer)
#define TEST_THREAD_SANITIZER
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(TEST_ADDRESS_SANITIZER)
#define TEST_ADDRESS_SANITIZER
#endif
#if defined(__SANITIZE_THREAD__) && !defined(TEST_THREAD_SANITIZER)
#define TEST_THREAD_SANITIZER
#endif
