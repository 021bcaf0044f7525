#!/usr/bin/env bash
# Copies the small golden cases that run on any machine from the optional data folder into this one.
# Each holds a layer's (or a small language model's) weights and input (float32) and its expected matrices and outputs (float64), computed by the public implementations.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
shared="${IMPLICIT_ATTENTION_SHARED:-$here/../../../shared}"
for name in mamba_seed05_L1 mamba_seed06_L2_lt_conv mamba_seed11_zero_gate_L16 \
            rwkv4_seed04_L1 rwkv4_seed07_keys_to_120_L24 \
            griffin_seed03_lruwidth_ne_hidden_conv2_L16 griffin_seed04_L1 griffin_seed06_L3_lt_conv \
            griffin_seed10_packed_documents_L24 \
            lm_mamba_seed04_L3_lt_conv_layers2_hidden32; do
  cp --no-preserve=mode "$shared/golden/$name.safetensors" "$here/"
done
