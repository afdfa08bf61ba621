#!/bin/sh
# Frames and text to video with the settings in config.yaml. Run it where `mindsora` is installed:
#   run.sh PROMPT|FILE --image FILE[@TIME] ... [option of `mindsora generate` ...]
#   run.sh PROMPT|FILE --video FILE [--keep N] [option of `mindsora generate` ...]
# Set by environment:
#   MODEL    name or folder of the model (default: v1.2_93x480p_i2v)
#   OUTPUT   folder of the videos (default: outputs/v1_2_i2v)
#   WORKERS  1, or 8 for the eight cards of a server; each takes every WORKERS-th prompt
#   DEVICE   Ascend (default) or CPU
set -eu

recipe=$(dirname "$0")
model=v1.2_93x480p_i2v
output=outputs/v1_2_i2v
. "$recipe/../../generate.sh"
