// Prompts of a model whose causes are known: which token every output copies, which one addresses it, and which ones change nothing.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <implicit_attention/metrics/agreement.hpp>

namespace implicit_attention::examples {

/// One explained output.
struct KnownCause {
  Index prompt = 0;              ///< which of the prompts
  Index position = 0;            ///< the token behind which the output stands
  Index target = 0;              ///< the output
  Index source = 0;              ///< the position whose token the output copies
  std::optional<Index> address;  ///< the position of the token that says where the source is
  MarkedTokens negatives;        ///< (position + 1): tokens that were shown to change nothing
};

/// All of a file, checked.
struct KnownCauses {
  std::string path;
  std::vector<std::vector<Index>> prompts;  ///< token ids, without the padding
  std::vector<KnownCause> rows;
  std::vector<std::string> unread;  ///< arrays of the file that say nothing about which token is a cause
};

/// Reads a `.safetensors` of N prompts, padded to L tokens, and R explained outputs:
///
///     input_ids (N, L), length (N): token ids; what stands behind a prompt's length is padding
///     prompt, position, target (R): the row of input_ids, the position there, the output token
///     source, address (R): positions up to `position`; an address of -1: there is none
///     negatives (R, L): 1 for tokens up to `position` that are neither source nor address and were shown to change nothing, else 0
///
/// Integers are I64 or I32, negatives U8 or BOOL. Fails (file) on a missing array, another type or shape, and a number out of its range,
/// naming the array, what came and what was expected.
[[nodiscard]] KnownCauses read_known_causes(const std::string& path);
/// Fails (file) on a token or target that a vocabulary of this size does not have.
void check_vocabulary(const KnownCauses& causes, Index vocabulary);

}  // namespace implicit_attention::examples
