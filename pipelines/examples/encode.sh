#!/bin/bash
# Encode a bucket with a Slurm array: each task uses the devices of its node and takes over work from slower tasks.
#   sbatch --array=0-31 encode.sh s3://bucket/images s3://bucket/codes Emu3-VisionTokenizer
# Submit it again after a failure, with any number of tasks: committed work is kept.
#SBATCH --job-name=emu3-encode
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --signal=B:TERM@120

DEVICES=8
exec emu3 encode "$1" "$2" --vision-tokenizer "$3" --round-to 64 --workers "$DEVICES"
