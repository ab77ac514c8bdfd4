#!/usr/bin/env bash
# Train in several processes of this machine, on GPUs or, where there are none, on CPUs:
#     tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]
# Over several machines, on each: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG PROCESSES [arguments of tools/train.py]" >&2
  exit 2
fi
config=$1
processes=$2
shift 2

exec torchrun \
  --nnodes="${NNODES:-1}" \
  --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" \
  --nproc_per_node="$processes" \
  "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
