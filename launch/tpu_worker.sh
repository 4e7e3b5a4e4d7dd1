#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on each worker, in the unpacked code; not to be called by hand.
#
#   launch/tpu_worker.sh install BUCKET PATH [lock]
#   launch/tpu_worker.sh train PATH [train arguments ...]
set -euo pipefail
cd "$(dirname "$0")/.."
mount=/mnt/caugym

install() { # the bucket under $mount, and the packages that the run began with
    local bucket=$1 path=$2 lock=$mount/$2/requirements.lock
    command -v gcsfuse >/dev/null || sudo apt-get -qq install -y gcsfuse
    if ! mountpoint -q "$mount"; then
        sudo mkdir -p "$mount"
        sudo chown "$USER" "$mount"
        gcsfuse --implicit-dirs "$bucket" "$mount"
    fi
    mkdir -p "$mount/$path/logs"
    python3 -m venv .venv
    if [[ ${3:-} == lock ]]; then # once in the run's life, by one worker
        [[ -e $lock ]] && return
        .venv/bin/pip install -q -r requirements.txt 'jax[tpu]' gcsfs
        .venv/bin/pip freeze >"$lock.new"
        mv "$lock.new" "$lock"
    fi
    .venv/bin/pip install -q --no-deps -r "$lock"
}

train() {
    local workdir=$mount/$1 status=0
    echo running >~/caugym-status
    CAUGYM_PROCESSES=auto .venv/bin/python -m caugym_jax.train "--workdir=$workdir" "${@:2}" 2>&1 |
        tee -a "$workdir/logs/$(hostname).log" || status=$?
    echo "$status" >~/caugym-status
    exit "$status"
}

"$@"
