#!/bin/sh
# Rehearse v1.5: all stages in order on CPU, each from the model of the one before, with the values of rehearsal.yaml and
# small clips of real videos. The model of the last stage then generates a clip.
#   rehearse.sh [FOLDER]      FOLDER takes all files; default: outputs/rehearsal_v1_5
set -eu

recipe=$(cd "$(dirname "$0")" && pwd)
folder=${1:-outputs/rehearsal_v1_5}
. "$recipe/../../rehearse_stages.sh"

dense="transformer.sparse_n=[1,1,1]"
stage image_1 "$dense" data.max_pixels=4096
stage image_2 "$dense" data.max_pixels=9216
stage image_3 "$dense" "data.size=[64,112]"
stage image_4 "data.size=[64,112]"
stage video_1 data.frames=17 "data.size=[64,112]"
stage video_2 data.frames=17 "data.size=[64,112]"
stage video_3 data.frames=33 "data.size=[64,112]"
stage video_4 data.frames=33 "data.size=[96,160]" optimizer.accumulate=2
stage video_5 data.frames=33 "data.size=[96,160]" optimizer.accumulate=2

mindsora generate "a white rabbit in a meadow" --model outputs/v1_5/video_5/model --steps 2 --output rabbit.mp4
