#!/bin/bash
# A run, or a study, on a SLURM cluster: sbatch slurm.sh train NAME key=value ... (see clusters.md beside this file).
#SBATCH --job-name=muscle-zoo
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# USR1 reaches this script two minutes before the time is up. It asks the step to stop, which saves its state and ends
# with 75; then the job goes back into the queue, and the same command goes on. With several tasks srun is the launcher:
# torchrun would replace the 75.
set -u

stopping=""
stop() {
    stopping=yes
    scancel --signal=USR1 "$SLURM_JOB_ID" # the steps of the job, not this script; TERM would end what reads pictures
}
trap stop USR1 TERM

command=(python -m muscle_zoo "$@")
if [ "${1:-}" = study ] && [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then # sbatch --array=1-8
    command+=(--shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT")
fi
MASTER_ADDR=$(scontrol show hostnames "${SLURM_JOB_NODELIST:-localhost}" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

srun --kill-on-bad-exit=0 bash -c '
    if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
        export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
        export LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    fi
    exec "$@"' step "${command[@]}" &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended the waiting, not the step
    wait "$step"
    code=$?
done

# 138: it was told to stop before it could listen, and lost what came after the last saved state.
if [ "$code" -eq 75 ] || { [ -n "$stopping" ] && [ "$code" -eq 138 ]; }; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
