#!/bin/sh
# Teach the nano model a colour it never saw, from 24 clips, and measure what it has learnt and lost.
#   recipes/finetune/run.sh [FOLDER]        default: outputs/finetune
# Run it from the repository root. A training that was stopped goes on. Time: docs/finetune.md.
set -eu

folder=${1:-outputs/finetune}
recipe=$(dirname "$0")
[ -d "$folder/clips" ] || python "$recipe/make_clips.py" "$folder/clips"
mindsora finetune --model nano --data "$folder/clips" --keep "$recipe/keep.txt" --steps 900 \
    --targets add_q_proj,add_k_proj,add_v_proj,to_add_out --output "$folder/orange" --device CPU
mindsora evaluate orange --lora "$folder/orange" --output "$folder/learnt" --device CPU
mindsora evaluate orange --prompts mindsora/evaluate/obedience_prompts.json --lora "$folder/orange" \
    --output "$folder/kept" --device CPU    # the old prompts, with orange among the colours that are measured
