#!/bin/sh
# small-1 (small), placed by shardbus. Run this on attic; it serves its devices to llama-server until interrupted.
#
# stage 0: desk/gpu, layers 0-4, 5.0 GiB
# stage 1: attic/cuda-0, layers 5-7, 3.0 GiB
# stage 2: attic/cuda-1, layers 8-9, 2.0 GiB
#
# Builds of before 2026 call the program rpc-server: RPC_SERVER=rpc-server sh THIS
set -eu
: "${RPC_SERVER:=ggml-rpc-server}"
SERVERS=
trap 'kill $SERVERS 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# attic/cuda-0
env CUDA_VISIBLE_DEVICES=GPU-61747469632f637564612d30 "$RPC_SERVER" --host 192.168.1.21 --port 50052 \
  --device CUDA0 &
SERVERS="$SERVERS $!"

# attic/cuda-1
env CUDA_VISIBLE_DEVICES=GPU-61747469632f637564612d31 "$RPC_SERVER" --host 192.168.1.21 --port 50053 \
  --device CUDA0 &
SERVERS="$SERVERS $!"

wait
