#!/usr/bin/env bash
# Train by Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG GPUS [arguments of train.py]
# Environment: GPUS_PER_NODE (8), CPUS_PER_TASK (8), SRUN_ARGS.
set -euo pipefail

[ $# -ge 4 ] || { echo "usage: $0 PARTITION JOB_NAME CONFIG GPUS [arguments of train.py]" >&2; exit 2; }
partition=$1 job=$2 config=$3 gpus=$4
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
((gpus % per_node == 0)) ||
    { echo "$gpus GPUs are no multiple of GPUS_PER_NODE=$per_node: set GPUS_PER_NODE to a divisor" >&2; exit 2; }
tools=$(cd "$(dirname "$0")" && pwd)

python=${PYTHON:-$([ -x "$tools/../.venv/bin/python" ] && echo "$tools/../.venv/bin/python" || echo python)}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
exec srun --partition="$partition" --job-name="$job" \
    --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "$python" -u "$tools/train.py" "$config" --launcher slurm "${@:5}"
