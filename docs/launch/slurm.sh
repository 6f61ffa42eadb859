#!/bin/bash
# sbatch slurm.sh job.json: one task a machine, which starts a process for each of its GPUs.
# job.json and its folders lie on a file system that all machines see; its `launch` section is
#   {"nodes": 4, "rendezvous": "RENDEZVOUS", "restarts": 3}
# where the word RENDEZVOUS is filled in below.
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=B:USR1@150
#SBATCH --requeue
set -euo pipefail

template=$1
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Beside the template, because folders in it are relative to its place; the same file after a
# requeue, so that the run continues.
job="${template%.json}.slurm.json"
sed "s/RENDEZVOUS/$first:29400/" "$template" > "$job"

# Slurm does not requeue a job that ends at its time limit. So 150 s before that it signals this shell,
# which tells every machine to stop: the main process saves and ends, and the job queues up again.
requeue=no
trap 'requeue=yes; kill -TERM "$step"' USR1
srun --kill-on-bad-exit=1 contramask pretrain "$job" &
step=$!
status=0
wait "$step" || status=$?
if [ "$requeue" = yes ]; then
    wait "$step" || true # the first wait ended with the signal
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
