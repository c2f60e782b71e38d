#!/bin/sh
# small-1 (small), placed by shardbus. Run this on rack-1: node 0 of 2.
#
# stage 0: rack-1/0, layers 0-5, 6.0 GiB
# stage 0: rack-1/1, layers 0-5, 6.0 GiB
# stage 1: rack-2/0, layers 6-9, 4.0 GiB
# stage 1: rack-2/1, layers 6-9, 4.0 GiB
#
set -eu
: "${MODEL:?set it to a folder or repository of small in the Hugging Face format}"
export CUDA_VISIBLE_DEVICES=GPU-7261636b2d312f30,GPU-7261636b2d312f31
export VLLM_PP_LAYER_PARTITION=6,4
export VLLM_HOST_IP=10.0.0.1
exec vllm serve "$MODEL" --tensor-parallel-size 2 --pipeline-parallel-size 2 \
  --distributed-executor-backend mp --max-model-len 8192 --max-num-seqs 2 \
  --gpu-memory-utilization 0.25 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1 --master-port 29501 "$@"
