#!/usr/bin/env bash
# Trains with several processes on this machine, as a pod does with one on each host.
#
#   launch/local.sh --processes=N [--dry-run] --config=NAME.py[:ARG] [train arguments ...]
#
# Each process writes to WORKDIR/logs/process-P.log; what process 0 says is shown here, too.
# At SIGTERM or an interrupt all save and end after the present step; a second interrupt kills them.
# When one process fails, the others end by themselves (docs/processes.md) or are killed after GRACE
# seconds. The exit status is 0 if that of all is, else that of the first to fail. The same command
# resumes.
#
# Environment: PYTHON (default python), GRACE (default 20), and all that docs/processes.md names.
set -u

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; }

processes='' dry='' config='' workdir=''
arguments=()
for argument in "$@"; do
    case $argument in
        --processes=*) processes=${argument#*=} ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit 0 ;;
        --config=*) config=${argument#*=}; arguments+=("$argument") ;;
        --workdir=*)
            workdir=${argument#*=}
            workdir=${workdir/#\~\//$HOME/} # as written here the shell leaves it
            [[ -n $workdir ]] || { echo "error: --workdir= must not be empty" >&2; exit 2; }
            ;;
        --config.*=*) arguments+=("$argument") ;;
        *)
            echo "error: unknown argument $argument (write --NAME=VALUE)" >&2
            exit 2
            ;;
    esac
done
if ! [[ $processes =~ ^[1-9][0-9]*$ ]] || [[ -z $config ]]; then
    usage >&2
    echo "error: --processes=N and --config=NAME.py are needed" >&2
    exit 2
fi

python=${PYTHON:-python}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # from any folder, installed or not
grace=${GRACE:-20}
if [[ -z $workdir ]]; then # as caugym_jax.train names it
    name=${config%.py}
    name=${name//.py:/-}
    workdir=runs/${name//\//-}
fi
logs=$workdir/logs
port=PORT
if [[ -z $dry ]]; then
    port=$("$python" -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])') || exit 1
    mkdir -p "$logs" || exit 1
fi

command=("$python" -m caugym_jax.train "${arguments[@]}" "--workdir=$workdir")
places=()
for ((p = 0; p < processes; p++)); do
    places+=("CAUGYM_COORDINATOR=127.0.0.1:$port CAUGYM_PROCESSES=$processes CAUGYM_PROCESS_ID=$p")
done
if [[ -n $dry ]]; then
    for ((p = 0; p < processes; p++)); do
        printf '%s' "${places[p]}"
        printf ' %q' "${command[@]}"
        printf ' > %q 2>&1 &\n' "$logs/process-$p.log"
    done
    exit 0
fi

pids=()
stop() { kill -"$1" "${pids[@]}" 2>/dev/null; }
for ((p = 0; p < processes; p++)); do
    : >"$logs/process-$p.log"
    # shellcheck disable=SC2086 # three settings, none with a space
    env ${places[p]} "${command[@]}" >"$logs/process-$p.log" 2>&1 &
    pids+=($!)
done
interrupts=0
# shellcheck disable=SC2329 # the trap calls it
interrupted() { if ((interrupts++)); then stop KILL; else stop TERM; fi; }
trap 'stop TERM' TERM
trap interrupted INT
(
    trap '' TERM # it shows what is said until the end
    exec tail -n +1 -q -F --pid="${pids[0]}" "$logs/process-0.log" 2>/dev/null
) &
shown=$!

# The first to fail decides the status, and how long the others have. (What bash itself says of a
# killed process is not shown.)
exec 3>&2
status=0 left=$processes deadline=''
declare -A ended=()
while ((left)); do
    for ((p = 0; p < processes; p++)); do
        if [[ -n ${ended[$p]:-} ]] || kill -0 "${pids[p]}" 2>/dev/null; then continue; fi
        wait "${pids[p]}"
        code=$?
        ended[$p]=1
        ((left--))
        if ((code && !status)); then
            status=$code deadline=$((SECONDS + grace))
            if ((code != 143)); then
                echo "launch/local.sh: process $p ended with status $code: $logs/process-$p.log" >&3
            fi
        fi
    done
    if [[ -n $deadline ]] && ((left && SECONDS >= deadline)); then
        echo "launch/local.sh: the others did not end within $grace s and are killed" >&3
        stop KILL
        deadline=''
    fi
    ((left)) && sleep 0.2
done 2>/dev/null
wait "$shown"
exit "$status"
