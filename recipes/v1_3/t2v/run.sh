#!/bin/sh
# Generate a video from text with the settings in config.yaml. Run it where `mindsora` is installed:
#   run.sh PROMPT|FILE [option of `mindsora generate` ...]
# Set by environment:
#   MODEL    name or folder of the model (default: v1.3)
#   OUTPUT   folder of the videos (default: outputs/v1_3)
#   WORKERS  1, or 8 for the eight cards of a server; each takes every WORKERS-th prompt
#   DEVICE   Ascend (default) or CPU
set -eu

recipe=$(dirname "$0")
model=v1.3
output=outputs/v1_3
. "$recipe/../../generate.sh"
