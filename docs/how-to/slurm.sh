#!/bin/bash
# sbatch docs/how-to/slurm.sh recipes/pretrain_go.py --config 124m --corpus DIR --output_dir runs/many
# One launcher a node; it starts a process a GPU. --output_dir must be a folder that all nodes see. What is to be adapted
# stands in the #SBATCH lines; not tried on a cluster: tests run it with stand-ins for srun and scontrol.
#SBATCH --job-name=llmforge
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300

set -u
folder=""
for word in "$@"; do
  case "${before:-}" in --output_dir | --output-dir) folder=$word ;; esac
  case "$word" in --output_dir=* | --output-dir=*) folder=${word#*=} ;; esac
  before=$word
done
if [ -z "$folder" ]; then
  echo "error: give --output_dir, a folder that all nodes see" >&2
  exit 2
fi

processes=$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-1}))
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# From the job's number, so that two jobs on a node do not meet.
port=$((20000 + SLURM_JOB_ID % 40000))
config=${ACCELERATE_CONFIG:-accelerate_configs/multi_node.yaml}

# Of an earlier start: a run that does not come as far as its own would be put into the queue for ever.
rm -f "$folder/exit.json"

# What srun starts knows its own node's number. --resume begins at step 0 where nothing was saved yet.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$0" --num_machines "$SLURM_NNODES" \
  --num_processes "$1" --machine_rank "$SLURM_NODEID" --main_process_ip "$2" --main_process_port "$3" "${@:4}" --resume' \
  "$config" "$processes" "$first" "$port" "$@"
code=$?

# A launcher turns every code into 1; what the run says itself is in exit.json. 75: stopped by Slurm's signal, and saved.
if [ $code -ne 0 ] && grep -q '"exit_code": 75' "$folder/exit.json" 2> /dev/null; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit $code
