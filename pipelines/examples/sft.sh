#!/bin/bash
# Fine-tune all weights of Emu3 on the NPUs of one node. Has not run on an NPU yet.
#   bash sft.sh codes/ run/ Emu3-Gen/
# The same command resumes. The number of devices may change if the global batch size stays the same
# (micro-batch-size · gradient-accumulation-steps · devices).

DEVICES=8
exec msrun --worker_num="$DEVICES" --local_worker_num="$DEVICES" --join=True "$(which emu3)" \
    sft "$1" "$2" --model "$3" --zero --recompute --dtype bfloat16 \
    --seq-length 9216 --micro-batch-size 1 --gradient-accumulation-steps 8 --learning-rate 1e-5 --loss visual
