#!/usr/bin/env bash
# Train on several processes: tools/dist_train.sh CONFIG GPUS [arguments of train.py]
exec "$(dirname "$0")/dist_run.sh" train.py "$@"
