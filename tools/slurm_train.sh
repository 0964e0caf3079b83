#!/usr/bin/env bash
# Train by Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG GPUS [arguments of train.py]
# Also as a batch job, which is queued again when it is preempted or its time ends, and goes on:
# sbatch --partition=... --nodes=... --ntasks-per-node=... --gres=... tools/slurm_train.sh ...
# Environment: GPUS_PER_NODE (8), CPUS_PER_TASK (8), PORT (one by chance), SRUN_ARGS.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
set -euo pipefail

fail() { echo "$1" >&2; exit 2; }

[ $# -ge 4 ] || fail "usage: $0 PARTITION JOB_NAME CONFIG GPUS [arguments of train.py]"
partition=$1 job=$2 config=$3 gpus=$4
# Shell arithmetic would run commands in a text.
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "GPUS must be a positive number, not '$gpus'"
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
[[ $per_node =~ ^[1-9][0-9]*$ ]] || fail "GPUS_PER_NODE must be a positive number, not '$per_node'"
((gpus % per_node == 0)) ||
    fail "$gpus GPUs are no multiple of GPUS_PER_NODE=$per_node: set GPUS_PER_NODE to a divisor"
export MASTER_PORT=${PORT:-$((20000 + RANDOM % 10000))} # two jobs may share a node
[[ $MASTER_PORT =~ ^[1-9][0-9]*$ ]] || fail "PORT must be a number, not '$MASTER_PORT'"
# Slurm runs a copy of a batch script, from the folder where sbatch was called.
tools=$(cd "$(dirname "$0")" && pwd)
[ -f "$tools/train.py" ] || tools=$PWD/tools
[ -f "$tools/train.py" ] || fail "no tools/train.py here: call sbatch in mmsnclr's folder"

python=${PYTHON:-$([ -x "$tools/../.venv/bin/python" ] && echo "$tools/../.venv/bin/python" || echo python)}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
trap : TERM USR1 # the training gets them, too, and is waited for
code=0
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
srun --partition="$partition" --job-name="$job" \
    --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "$python" -u "$tools/train.py" "$config" --launcher slurm "${@:5}" || code=$?
# 75: a checkpoint was saved on a signal. Slurm counts restarts, by which training knows to resume.
if ((code == 75)) && [ -n "${SLURM_JOB_ID:-}" ]; then
    echo "Preempted: job $SLURM_JOB_ID goes back to the queue." >&2
    scontrol requeue "$SLURM_JOB_ID" || true # else the exit code says it
fi
exit "$code"
