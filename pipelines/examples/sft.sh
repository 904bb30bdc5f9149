#!/bin/bash
# Fine-tune all weights of Emu3 on the NPUs of one node. Has not run on an NPU yet.
#   bash sft.sh codes/ run/ Emu3-Gen/
# The same command resumes; another number of devices may go on if a step sees as many rows (rows · accumulate · devices).

DEVICES=8
exec msrun --worker_num="$DEVICES" --local_worker_num="$DEVICES" --join=True "$(which emu3)" \
    sft "$1" "$2" --model "$3" --zero --recompute --dtype bfloat16 \
    --row-tokens 9216 --rows 1 --accumulate 8 --learning-rate 1e-5 --loss visual
