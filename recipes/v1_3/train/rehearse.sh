#!/bin/sh
# Rehearse v1.3: all stages in order on CPU, each from the model of the one before, with the values of rehearsal.yaml and
# small clips of real videos. The model of the last stage then generates a clip.
#   rehearse.sh [FOLDER]      FOLDER takes all files; default: outputs/rehearsal_v1_3
set -eu

recipe=$(cd "$(dirname "$0")" && pwd)
folder=${1:-outputs/rehearsal_v1_3}
. "$recipe/../../rehearse_stages.sh"

stage t2v_1 "data.size=[64,64]"
stage t2v_2 data.frames=17 data.max_pixels=4096  # pictures and clips
stage t2v_3 data.frames=17 "data.size=[64,112]"
for step in 1 2 3 4 5 6 7; do
    stage "i2v_1_$step" data.frames=17 data.max_pixels=4096
done
stage i2v_2 data.frames=17 data.max_pixels=9216

mindsora generate "people ride bicycles" --model outputs/v1_3/i2v_2/model --image data/bikes_0.jpg --steps 2 --output bikes.mp4
