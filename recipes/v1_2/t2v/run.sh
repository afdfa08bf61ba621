#!/bin/sh
# Text to video with the settings in config.yaml. Run it where `mindsora` is installed:
#   run.sh PROMPT|FILE [option of `mindsora generate` ...]
# Set by environment:
#   MODEL    name or folder of the model (default: v1.2_93x720p)
#   OUTPUT   folder of the videos (default: outputs/v1_2)
#   WORKERS  1, or 8 for the eight cards of a server; each takes every WORKERS-th prompt
#   DEVICE   Ascend (default) or CPU
set -eu

recipe=$(dirname "$0")
model=v1.2_93x720p
output=outputs/v1_2
. "$recipe/../../generate.sh"
