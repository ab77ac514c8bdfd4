#!/usr/bin/env bash
# Train on GPUs of a slurm cluster:
#     [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#         tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
set -euo pipefail

if [ $# -lt 4 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]" >&2
  exit 2
fi
partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4

gpus_per_node=${GPUS_PER_NODE:-8}
# SRUN_ARGS holds several arguments, to be split at its spaces.
# shellcheck disable=SC2086
exec srun \
  --partition="$partition" \
  --job-name="$job_name" \
  --gres="gpu:$gpus_per_node" \
  --ntasks="${GPUS:-8}" \
  --ntasks-per-node="$gpus_per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" \
  --kill-on-bad-exit=1 \
  ${SRUN_ARGS:-} \
  python -u "$(dirname "$0")/train.py" "$config" \
  --work-dir "$work_dir" --launcher slurm "$@"
