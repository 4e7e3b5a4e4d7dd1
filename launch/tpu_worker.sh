#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on each worker, in the unpacked code. By hand only `stop`.
#
#   launch/tpu_worker.sh install BUCKET PATH PYTHON [lock]
#   launch/tpu_worker.sh start PATH [train arguments ...]   starts the run, which outlives the session
#   launch/tpu_worker.sh follow    shows what it says until it ends
#   launch/tpu_worker.sh status    running, its exit status, or none: not started, or killed
#   launch/tpu_worker.sh stop      lets it save and end
set -euo pipefail
cd "$(dirname "$0")/.."
mount=${MOUNT:-/mnt/caugym}
pid=~/caugym-pid log=~/caugym-log ended=~/caugym-status

install() { # the bucket under $mount, and the packages that the run began with
    local bucket=$1 path=$2 python=$3 lock=$mount/$2/requirements.lock
    local google=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
    if ! command -v gcsfuse >/dev/null; then
        curl -fsSL $google/doc/apt-key.gpg | sudo tee $key >/dev/null
        echo "deb [signed-by=$key] $google gcsfuse-$(lsb_release -cs) main" |
            sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        # a fresh machine may be updating itself
        sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
        sudo apt-get -qq -o DPkg::Lock::Timeout=600 install -y gcsfuse
    fi
    if ! mountpoint -q "$mount"; then
        sudo mkdir -p "$mount"
        sudo chown "$USER" "$mount"
        gcsfuse --implicit-dirs "$bucket" "$mount"
    fi
    mkdir -p "$mount/$path/logs"
    export PATH=~/.local/bin:$PATH VIRTUAL_ENV=$PWD/.venv # for uv: the machine's Python may be old
    command -v uv >/dev/null || curl -fsSL https://astral.sh/uv/install.sh | sh
    [[ -x .venv/bin/python ]] || uv venv -q --python "$python" .venv
    if [[ ${4:-} == lock ]]; then # once in the run's life, by one worker
        [[ -e $lock ]] && return
        uv pip install -q -r requirements.txt 'jax[tpu]' gcsfs
        uv pip freeze >"$lock.new"
        mv "$lock.new" "$lock"
    fi
    uv pip install -q --no-deps -r "$lock"
}

alive() { # and no other process that got its number after a restart
    [[ -e $pid ]] && grep -qs tpu_worker "/proc/$(<"$pid")/cmdline"
}

start() {
    if alive; then return; fi
    rm -f "$ended"
    setsid nohup launch/tpu_worker.sh train "$@" </dev/null >"$log" 2>&1 &
    echo $! >"$pid"
}

train() {
    local workdir=$mount/$1 kept run copying code
    kept=$workdir/logs/$(hostname)-$(date -u +%Y%m%d-%H%M%S).log
    trap : TERM # this script outlives the run, which ends by itself
    CAUGYM_PROCESSES=auto .venv/bin/python -m caugym_jax.train "--workdir=$workdir" "${@:2}" &
    run=$!
    while sleep 60; do cp "$log" "$kept" || :; done & # gcsfuse stores what is whole
    copying=$!
    until code=0; wait "$run" || code=$?; ! kill -0 "$run" 2>/dev/null; do :; done
    echo "$code" >"$ended"
    kill "$copying" 2>/dev/null || :
    cp "$log" "$kept"
}

follow() { tail -n 100 -F "--pid=$(<"$pid")" "$log"; }

status() { if alive; then echo running; else cat "$ended" 2>/dev/null || echo none; fi; }

stop() { if alive; then kill -TERM -- "-$(<"$pid")"; fi; }

"$@"
