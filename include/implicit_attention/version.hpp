// The one place the version stands; CMake reads it from here.
#pragma once

#define IMPLICIT_ATTENTION_VERSION_MAJOR 0
#define IMPLICIT_ATTENTION_VERSION_MINOR 2
#define IMPLICIT_ATTENTION_VERSION_PATCH 0
#define IMPLICIT_ATTENTION_VERSION_STRING "0.2.0"
