#!/bin/sh
# small-1 (small), placed by shardbus. Run this where exo's API answers; it creates the instance.
#
# stage 0: desk/gpu, layers 0-4, 5.0 GiB
# stage 1: studio/gpu, layers 5-7, 3.0 GiB
# stage 2: mini/gpu, layers 8-9, 2.0 GiB
#
set -eu
cd "$(dirname "$0")"
: "${EXO_INSTANCES:=http://localhost:52415/instance}"
exec curl --fail-with-body --header 'Content-Type: application/json' --data @instance.json \
  "$EXO_INSTANCES"
