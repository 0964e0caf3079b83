#!/usr/bin/env bash
# Run a tool by torchrun: tools/dist_run.sh TOOL CONFIG GPUS [arguments of the tool]
# GPUS is the total over all nodes. Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT, and
# MAX_RESTARTS (0): how often processes are started again when one dies; training then goes on
# from the newest complete checkpoint.
set -euo pipefail

fail() { echo "$1" >&2; exit 2; }

[ $# -ge 3 ] || fail "usage: $0 TOOL CONFIG GPUS [arguments]"
tool=$1 config=$2 gpus=$3
tools=$(cd "$(dirname "$0")" && pwd)
nnodes=${NNODES:-1}
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "GPUS must be a positive number, not '$gpus'"
[[ $nnodes =~ ^[1-9][0-9]*$ ]] || fail "NNODES must be a positive number, not '$nnodes'"
[ -f "$config" ] || fail "no config at '$config'"
((gpus % nnodes == 0)) ||
    fail "$gpus GPUs do not divide among NNODES=$nnodes nodes: GPUS is the total over all nodes; change GPUS or set NNODES to a divisor of it"
per_node=$((gpus / nnodes))
python=${PYTHON:-$([ -x "$tools/../.venv/bin/python" ] && echo "$tools/../.venv/bin/python" || echo python)}
present=$("$python" -c 'import torch; print(torch.cuda.device_count())')
if ((present > 0 && per_node > present)); then
    fail "$per_node GPUs per node, but this node has $present: set NNODES so that GPUS / NNODES is at most $present (on every node, with its NODE_RANK), or lower GPUS"
fi
if ((present == 0)); then
    echo "No CUDA device: $per_node processes on the CPU, joined by gloo." >&2
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi

restarts=${MAX_RESTARTS:-0} rank=${NODE_RANK:-0} address=${MASTER_ADDR:-127.0.0.1} port=${PORT:-29500}
# Shell arithmetic would run commands in a text, and take 08 for an octal number.
[[ $restarts =~ ^(0|[1-9][0-9]*)$ ]] || fail "MAX_RESTARTS must be a number, not '$restarts'"
[[ $rank =~ ^(0|[1-9][0-9]*)$ ]] || fail "NODE_RANK must be a number, not '$rank'"
[[ $port =~ ^[1-9][0-9]*$ ]] || fail "PORT must be a number, not '$port'"
listen='import socket, sys; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("", int(sys.argv[1])))'
((rank > 0)) || "$python" -c "$listen" "$port" > /dev/null 2>&1 ||
    fail "port $port cannot be used, another run may have it: set PORT to a free one, on all nodes the same"
rendezvous=(--node-rank="$rank" --master-addr="$address" --master-port="$port")
if ((restarts > 0)); then
    # Else processes that start again find the addresses of the dead ones in torchrun's store.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    host=$( ((rank == 0)) && echo true || echo false)
    rendezvous=(--max-restarts="$restarts" --rdzv-backend=c10d --rdzv-endpoint="$address:$port"
        --rdzv-id=mmsnclr --rdzv-conf="is_host=$host")
    [ "$host" = false ] || rendezvous+=(--local-addr="$address")
fi

# A signal to the whole job is the ranks', which save a checkpoint; torchrun would die of it.
trap '' USR1
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m torch.distributed.run \
    --nnodes="$nnodes" --nproc-per-node="$per_node" "${rendezvous[@]}" \
    "$tools/$tool" "$config" --launcher pytorch "${@:4}"
