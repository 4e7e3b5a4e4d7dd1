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
# queued again and resumes. Logs: DIR/logs/. Environment: PYTHON (default .venv/bin/python), in
# which requirements.lock was installed (docs/launch.md).
set -euo pipefail

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; }

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
        *) arguments+=("$argument") ;;
    esac
done
if ! [[ $nodes =~ ^[1-9][0-9]*$ && $gpus =~ ^[1-9][0-9]*$ ]] || [[ -z $workdir || -z $config ]]; then
    usage >&2
    echo "error: --nodes=N, --gpus=PER_NODE, --workdir=DIR and --config=NAME.py are needed" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
[[ $workdir == /* ]] || workdir=$root/$workdir
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
if ((status == 143)); then  # terminated and saved
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
