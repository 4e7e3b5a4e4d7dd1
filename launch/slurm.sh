#!/usr/bin/env bash
# Trains on GPU nodes under Slurm, one task to a GPU.
#
#   launch/slurm.sh --nodes=N --gpus=PER_NODE [--time=24:00:00] [--sbatch=OPTION ...] [--dry-run]
#       --workdir=DIR --config=NAME.py[:ARG] [train arguments ...]
#
#   --sbatch   passed on, e.g. --sbatch=--partition=gpu --sbatch=--account=lab
#
# DIR and this folder lie on a file system that all nodes see. Two minutes before the time is up, and
# where the job is preempted, the run gets SIGTERM: it saves after the present step, and the job is
# queued again and resumes; so it is, up to three times, where its processes lose each other. Logs:
# DIR/logs/. Environment: PYTHON (default .venv/bin/python), in
# which requirements.lock was installed (docs/launch.md).
set -euo pipefail

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; }
fail() { echo "error: $1" >&2; exit 2; }

nodes='' gpus='' time=24:00:00 workdir='' config='' dry=''
options=() arguments=()
for argument in "$@"; do
    value=${argument#*=}
    case $argument in
        --nodes=*) nodes=$value ;;
        --gpus=*) gpus=$value ;;
        --time=*) time=$value ;;
        --sbatch=*) options+=("$value") ;;
        --dry-run) dry=1 ;;
        -h | --help) usage; exit 0 ;;
        --workdir=*) workdir=$value ;;
        --config=*) config=$value; arguments+=("$argument") ;;
        --config.*=*) arguments+=("$argument") ;;
        *) fail "unknown argument $argument (write --NAME=VALUE)" ;;
    esac
done
if ! [[ $nodes =~ ^[1-9][0-9]*$ && $gpus =~ ^[1-9][0-9]*$ ]] || [[ -z $workdir || -z $config ]]; then
    usage >&2
    fail "--nodes=N, --gpus=PER_NODE, --workdir=DIR and --config=NAME.py are needed"
fi
root=$(cd "$(dirname "$0")/.." && pwd)
[[ $workdir == /* ]] || workdir=$root/$workdir
for folder in "$root" "$workdir"; do
    [[ $folder != *[[:space:]\"\'\\%]* ]] ||
        fail "$folder: Slurm takes no path with a space, quote, backslash or %"
done
command=("${PYTHON:-.venv/bin/python}" -m caugym_jax.train "${arguments[@]}" "--workdir=$workdir")

script=$(
    cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=caugym
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$gpus
#SBATCH --gpus-per-node=$gpus
#SBATCH --time=$time
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --chdir=$root
#SBATCH --output=$workdir/logs/slurm-%j.out
trap : TERM  # this script outlives the tasks, which end by themselves
srun --kill-on-bad-exit=0 --open-mode=append --output=$(printf %q "$workdir")/logs/process-%t.log \\
    $(printf '%q ' "${command[@]}")&
until wait \$!; status=\$?; ! kill -0 \$! 2>/dev/null; do :; done
# 143: terminated and saved. 75, 134: processes lost each other; but the status is the highest of all
# tasks', which hides an error of one of them (1): not for ever.
lost=\$((status == 75 || status == 134))
if ((status == 143 || lost && \${SLURM_RESTART_COUNT:-0} < 3)); then
    scontrol requeue "\$SLURM_JOB_ID"
fi
exit \$status
END
)
if [[ -n $dry ]]; then
    printf 'sbatch'
    if ((${#options[@]})); then printf ' %q' "${options[@]}"; fi
    printf " <<'END'\n%s\nEND\n" "$script"
    exit 0
fi
mkdir -p "$workdir/logs"
sbatch "${options[@]}" <<<"$script"
