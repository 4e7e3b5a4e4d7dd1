#!/usr/bin/env bash
# Trains on a TPU VM pod: makes it, installs the same packages on all workers, starts the command on
# all, and, where the pod is preempted, makes it anew and resumes.
#
#   launch/tpu_pod.sh --name=NAME --zone=ZONE --type=v5p-32 --bucket=gs://BUCKET/PATH [--spot]
#       [--queued] [--version=v2-alpha-tpuv5] [--python=3.12] [--project=ID] [--keep] [--dry-run]
#       --config=NAME.py[:ARG] [train arguments ...]
#
#   --bucket   holds the run: its small files through a gcsfuse mount, its checkpoints directly
#   --spot     a pod that may be preempted    --queued  asks by a queued resource, and waits for it
#   --keep     leaves the pod there at the end; it costs until it is deleted
#
# A preempted worker gets SIGTERM and about 30 s: the run saves after the present step if that is
# time enough; else it goes on from its last checkpoint (config.checkpoint.every). The packages are
# those of requirements.txt when the run began: PATH/requirements.lock. Logs: PATH/logs/.
#
# The run does not depend on this script, which may be stopped and started again at any time: it
# then shows and follows the run that is there. To end a run early, stop this script, then
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all \
#       --command='caugym/launch/tpu_worker.sh stop'
# The exit status is that of the command; 1 also where the pod cannot be made or reached.
# Needs gcloud, logged in, and git.
set -euo pipefail

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; }
fail() { echo "error: $1" >&2; exit "${2:-1}"; }

name='' zone='' type='' bucket='' version='' python=3.12 spot='' queued='' keep='' dry='' config=''
project=() arguments=()
for argument in "$@"; do
    value=${argument#*=}
    case $argument in
        --name=*) name=$value ;;
        --zone=*) zone=$value ;;
        --type=*) type=$value ;;
        --bucket=*) bucket=${value%/} ;;
        --version=*) version=$value ;;
        --python=*) python=$value ;;
        --project=*) project=("--project=$value") ;;
        --spot) spot=1 ;;
        --queued) queued=1 ;;
        --keep) keep=1 ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit 0 ;;
        --workdir*) fail "the run lies in --bucket: give no --workdir" 2 ;;
        --config=*) config=$value; arguments+=("$argument") ;;
        --config.*=*) arguments+=("$argument") ;;
        *) fail "unknown argument $argument (write --NAME=VALUE)" 2 ;;
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
worker=caugym/launch/tpu_worker.sh
complaint=$(mktemp)
trap 'rm -f "$complaint"' EXIT

note() { echo "launch/tpu_pod.sh: $1" >&2; }

run() { # a command, or what it would be
    if [[ -n $dry ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

tpu() { run gcloud compute tpus "$1" "$2" "$name" "${where[@]}" "${@:3}"; }

look() { # KIND FIELD: the state of a pod or queued resource; ABSENT; UNKNOWN where gcloud fails
    if tpu "$1" describe "--format=value($2)" 2>"$complaint"; then return; fi
    if grep -q NOT_FOUND "$complaint"; then echo ABSENT; else echo UNKNOWN; fi
}

state() {
    local asked=ACTIVE
    [[ -z $queued ]] || asked=$(look queued-resources state.state)
    if [[ $asked == ACTIVE ]]; then look tpu-vm state; else echo "$asked"; fi
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
        tpu queued-resources delete --quiet --force
    else
        tpu tpu-vm delete --quiet
    fi
}

on() { tpu tpu-vm ssh "--worker=$1" "--command=$(printf '%q ' "${@:2}")"; }

prepare() { # the code, the packages and the bucket, on all workers
    local archive=/tmp/caugym-$name.tgz
    [[ -z $(git status --porcelain) ]] || note "changes that are not committed are not sent"
    run git archive --format=tgz --prefix=caugym/ "--output=$archive" HEAD &&
        run gcloud compute tpus tpu-vm scp "$archive" "$name:caugym.tgz" "${where[@]}" \
            --worker=all &&
        on all tar xzf caugym.tgz &&
        on 0 "$worker" install "$from" "$path" "$python" lock &&
        on all "$worker" install "$from" "$path" "$python"
}

start() {
    on all "$worker" start "$path" "${arguments[@]}" "--config.checkpoint.folder=$bucket/states"
}

follow() { on all "$worker" follow; }

statuses() { # of the command, a word from each worker: see `tpu_worker.sh status`
    tpu tpu-vm ssh --worker=all "--command=$worker status 2>/dev/null || echo none" 2>"$complaint" |
        grep -xE 'running|none|[0-9]+'
}

if [[ -n $dry ]]; then
    create
    prepare
    start
    follow
    [[ -n $keep ]] || delete
    echo "# where the pod is preempted: delete, create and all that follows, again"
    exit 0
fi

declare -A failures=()
again() { # WHAT TIMES [WHY]: waits; gives up at so many failures of WHAT since a command ran
    failures[$1]=$((${failures[$1]:-0} + 1))
    if ((failures[$1] >= $2)); then
        fail "$1, tried $2 times${3:+ ($3)}; what is there is left, and a pod costs"
    fi
    sleep "$pause"
}

lost=0
started=''
while :; do
    now=$(state)
    case $now in
        READY) ;;
        UNKNOWN)
            again "gcloud does not tell the state of $name" 10 "$(tail -n 1 "$complaint")"
            continue
            ;;
        ABSENT)
            create || again "$name cannot be made (see above)" 3
            started='' lost=0
            continue
            ;;
        PREEMPTED | TERMINATED | STOPPED | SUSPENDED)
            note "$name is $now: it is made anew"
            delete || again "$name cannot be deleted (see above)" 3
            continue
            ;;
        CREATING | STARTING | RESTARTING | REPAIRING | REIMAGING | STOPPING | DELETING | \
            ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES | SUSPENDING)
            sleep "$pause"
            continue
            ;;
        *) fail "$name is $now, which waiting does not change: delete it" ;;
    esac

    if ! found=$(statuses); then
        again "the workers of $name cannot be reached" 10 "$(tail -n 1 "$complaint")"
        continue
    fi
    if [[ $found == *running* ]]; then
        [[ -n $started ]] || note "the run is there: it is followed"
        failures=() started=1
        follow || true # it ended, or the connection did
        sleep "$pause" # until all have ended, or a preemption shows
    elif [[ -z $started ]]; then
        prepare || { again "$name cannot be prepared (see above)" 3; continue; }
        started=1
        start || true # some may have
    else # it has ended
        # shellcheck disable=SC2086 # words
        own=$(printf '%s\n' $found | grep -vxE '0|75|134|143|none' | head -n 1) || true
        if [[ -n $own ]]; then
            fail "the command ended with status $own: $bucket/logs; the pod is left as it is" "$own"
        elif ! grep -qvx 0 <<<"$found"; then
            [[ -n $keep ]] || delete || fail "$name cannot be deleted (see above), and costs"
            exit 0
        fi
        # 143: terminated and saved. 75 and 134: others were lost; none: killed. All go on.
        started=''
        if [[ $found != *143* ]] && ((++lost >= 3)); then
            fail "processes were lost $lost times: $bucket/logs; the pod is left as it is"
        fi
    fi
done
