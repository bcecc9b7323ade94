#!/usr/bin/env bash
# Test on a Slurm cluster, one task per GPU.
#
#   [GPUS=8] tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
#
# Environment variables, with their defaults: GPUS, the total number (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5),
# SRUN_ARGS, other options of srun, and PYTHON (python).
set -euo pipefail

if [ $# -lt 4 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]" >&2
  exit 2
fi
partition=$1 job_name=$2 config=$3 checkpoint=$4
shift 4
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
if [ "$gpus" -lt "$gpus_per_node" ]; then gpus_per_node=$gpus; fi
read -r -a srun_args <<< "${SRUN_ARGS:-}"

exec srun --partition="$partition" --job-name="$job_name" --kill-on-bad-exit=1 \
  --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --gres="gpu:$gpus_per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" ${srun_args[@]+"${srun_args[@]}"} \
  "${PYTHON:-python}" -u "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher slurm "$@"
