#!/bin/sh
# small-1 (small), placed by shardbus. Run this on desk; it starts every rank over ssh.
#
# stage 0: desk/gpu, layers 0-4, 5.0 GiB
# stage 1: attic/cuda-0, layers 5-7, 3.0 GiB
# stage 2: attic/cuda-1, layers 8-9, 2.0 GiB
#
# All hosts need this folder at the same path, MLX, and the program (PIPELINE) that runs a rank:
# examples/mlx_pipeline.py of shardbus, or your own that reads ranks.json.
set -eu
cd "$(dirname "$0")"
: "${MLX_LAUNCH:=mlx.launch}"
: "${PYTHON:=python3}"
: "${PIPELINE:=mlx_pipeline.py}"
: "${MODEL:?set it to the folder of small, with config.json and safetensors, at this path on every host}"
exec "$MLX_LAUNCH" --backend ring --hostfile hostfile.json --starting-port 32323 -- "$PYTHON" "$PIPELINE" \
  --ranks ranks.json --model "$MODEL" "$@"
