#!/bin/bash
# Encode with a Ray cluster, one actor an NPU, as a job of the cluster: emu3-relay must be installed on its nodes.
#   RAY_ADDRESS=http://head:8265 ./encode_on_ray.sh s3://bucket/images s3://bucket/codes /shared/Emu3-VisionTokenizer 64
# Nodes may come and go: Ray places new actors, the commit records say what is left to do.
exec ray job submit -- emu3 encode "$1" "$2" --vision-tokenizer "$3" --round-to 64 --engine ray --workers "$4"
