#!/bin/bash
# Encode on a Ray cluster with one actor per NPU, as a job of the cluster; emu3-relay must be installed on its nodes.
#   RAY_ADDRESS=http://head:8265 ./encode_on_ray.sh s3://bucket/images s3://bucket/codes /shared/Emu3-VisionTokenizer 64
# Nodes may come and go: Ray starts new actors, and the commit records show what is left to do.
exec ray job submit -- emu3 encode "$1" "$2" --vision-tokenizer "$3" --round-to 64 --engine ray --workers "$4"
