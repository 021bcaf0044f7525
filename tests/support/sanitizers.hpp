// Whether a test is built with the address sanitizer: TEST_ADDRESS_SANITIZER.
#pragma once

#if defined(__has_feature)  // clang++'s way to say it
#if __has_feature(address_sanitizer)
#define TEST_ADDRESS_SANITIZER
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TEST_ADDRESS_SANITIZER
#endif
