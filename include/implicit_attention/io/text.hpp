// UTF-8, and text from untrusted files made safe for a message: core/text.hpp, under the name that it had before.
#pragma once

#include <implicit_attention/core/text.hpp>
