#!/bin/sh
# small-1 (small), placed by shardbus. Run this on desk, when all RPC servers run.
#
# stage 0: desk/gpu, layers 0-4, 5.0 GiB
# stage 1: attic/cuda-0, layers 5-7, 3.0 GiB
# stage 2: attic/cuda-1, layers 8-9, 2.0 GiB
#
# --tensor-split counts layers, in the order of --device; the last one has one more, for the output layer.
# `llama-server --list-devices` prints what it calls a GPU of a Mac: builds of before 2026 say Metal.
set -eu
: "${LLAMA_SERVER:=llama-server}"
: "${METAL_DEVICE:=MTL0}"
: "${MODEL:?set it to the GGUF file of small, on this host}"
DEVICES="$METAL_DEVICE,RPC0,RPC1"
exec "$LLAMA_SERVER" --model "$MODEL" --rpc 192.168.1.21:50052,192.168.1.21:50053 --device "$DEVICES" \
  --n-gpu-layers all --split-mode layer --tensor-split 5,3,3 --fit off --ctx-size 16384 --parallel 2 \
  "$@"
