#!/usr/bin/env bash
# Trains on a TPU VM pod: makes it, installs the same packages on all workers, starts the command on
# all, and, where the pod is preempted, makes it anew and resumes.
#
#   launch/tpu_pod.sh --name=NAME --zone=ZONE --type=v5p-32 --bucket=gs://BUCKET/PATH [--spot]
#       [--queued] [--version=v2-alpha-tpuv5] [--project=ID] [--keep] [--dry-run]
#       --config=NAME.py[:ARG] [train arguments ...]
#
#   --bucket   holds the run: its small files through a gcsfuse mount, its checkpoints directly
#   --spot     a pod that may be preempted    --queued  asks by a queued resource, and waits for it
#   --keep     leaves the pod there at the end; it costs until it is deleted
#
# A preempted worker gets SIGTERM and about 30 s: the run saves after the present step if that is
# time enough; else it goes on from its last checkpoint (config.checkpoint.every). The packages are
# those of requirements.txt when the run began: PATH/requirements.lock. Logs: PATH/logs/.
# This script may be stopped and started again at any time. Needs gcloud, logged in, and git.
set -euo pipefail

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; }
fail() { echo "error: $1" >&2; exit "${2:-1}"; }

name='' zone='' type='' bucket='' version='' spot='' queued='' keep='' dry='' config=''
project=() arguments=()
for argument in "$@"; do
    value=${argument#*=}
    case $argument in
        --name=*) name=$value ;;
        --zone=*) zone=$value ;;
        --type=*) type=$value ;;
        --bucket=*) bucket=${value%/} ;;
        --version=*) version=$value ;;
        --project=*) project=("--project=$value") ;;
        --spot) spot=1 ;;
        --queued) queued=1 ;;
        --keep) keep=1 ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit 0 ;;
        --workdir=*) usage >&2; fail "the run lies in --bucket: give no --workdir" 2 ;;
        --config=*) config=$value; arguments+=("$argument") ;;
        *) arguments+=("$argument") ;;
    esac
done
if [[ -z $name || -z $zone || -z $type || -z $config || ! $bucket =~ ^gs://[^/]+/.+ ]]; then
    usage >&2
    fail "--name, --zone, --type, --bucket=gs://BUCKET/PATH and --config are needed" 2
fi
if [[ -z $version ]]; then
    case $type in
        v4-*) version=tpu-ubuntu2204-base ;;
        v5litepod-*) version=v2-alpha-tpuv5-lite ;;
        v5p-*) version=v2-alpha-tpuv5 ;;
        v6e-*) version=v2-alpha-tpuv6e ;;
        *) fail "give the runtime --version=... of a $type" 2 ;;
    esac
fi
cd "$(dirname "$0")/.."

where=("--zone=$zone" "${project[@]}")
pause=${PAUSE:-20} # seconds between looks at the pod
from=${bucket#gs://}
path=${from#*/}
from=${from%%/*}

run() { # a command, or what it would be
    if [[ -n $dry ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

tpu() { run gcloud compute tpus "$1" "$2" "$name" "${where[@]}" "${@:3}"; }

state() {
    gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format='value(state)' 2>/dev/null ||
        echo ABSENT
}

create() {
    if [[ -n $queued ]]; then
        tpu queued-resources create "--node-id=$name" "--accelerator-type=$type" \
            "--runtime-version=$version" ${spot:+--spot}
    else
        tpu tpu-vm create "--accelerator-type=$type" "--version=$version" ${spot:+--spot}
    fi
}

delete() { # what is left of a pod, and of its queued resource
    if [[ -n $queued ]]; then
        tpu queued-resources delete --quiet --force || true
    else
        tpu tpu-vm delete --quiet || true
    fi
}

on() { tpu tpu-vm ssh "--worker=$1" "--command=$(printf '%q ' "${@:2}")"; }

prepare() { # the code, the packages and the bucket, on all workers
    local archive=/tmp/caugym-$name.tgz worker=caugym/launch/tpu_worker.sh
    run git archive --format=tgz --prefix=caugym/ "--output=$archive" HEAD &&
        run gcloud compute tpus tpu-vm scp "$archive" "$name:caugym.tgz" "${where[@]}" \
            --worker=all &&
        on all tar xzf caugym.tgz &&
        on 0 "$worker" install "$from" "$path" lock &&
        on all "$worker" install "$from" "$path"
}

train() {
    on all caugym/launch/tpu_worker.sh train "$path" "${arguments[@]}" \
        "--config.checkpoint.folder=$bucket/states"
}

status_there() { # of the command on worker 0; empty where it cannot be asked
    gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 \
        '--command=cat ~/caugym-status' 2>/dev/null || true
}

if [[ -n $dry ]]; then
    create
    prepare
    train
    [[ -n $keep ]] || delete
    echo "# where the pod is preempted: delete, create and all that follows, again"
    exit 0
fi

while :; do
    now=$(state)
    case $now in
        READY) ;;
        ABSENT)
            create || fail "the pod could not be made (see above)"
            ;;
        PREEMPTED | TERMINATED | STOPPED)
            echo "launch/tpu_pod.sh: $name is $now: it is made anew" >&2
            delete
            continue
            ;;
        *) ;; # CREATING, STARTING, RESTARTING, ...
    esac
    until [[ $(state) == READY ]]; do
        [[ $(state) == PREEMPTED ]] && continue 2
        sleep "$pause"
    done
    prepare || { sleep "$pause"; continue; }
    if train; then
        [[ -n $keep ]] || delete
        exit 0
    fi
    sleep "$pause" # until a preemption shows
    if [[ $(state) == READY ]]; then
        status=$(status_there)
        # 143: terminated and saved; none: the connection broke. Both go on.
        if [[ -n $status && $status != 143 ]]; then
            fail "the command ended with status $status: $bucket/logs; the pod is left as it is"
        fi
    fi
done
