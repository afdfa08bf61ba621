#!/bin/bash
# Build our AscendC operators on an Atlas A2 or A3, install them, check them against the definitions, time them against
# CANN's flash attention, and write the receipt benchmarks/results/ascend_kernels.json. Not run on an Atlas yet.
#   recipes/ascend_kernels/run.sh [--dry-run] [option of benchmarks/ascend_kernels.py ...]
# Run it from the repository root, after `source .../set_env.sh` of CANN 8.2 to 9.1.
# --dry-run: print the steps of the build, and run the check and the timing on CPU with the operators for CPU.
# Set by environment:
#   OPP      folder to install the operators in (default: outputs/ascend_kernels/opp)
#   PYTHON   interpreter with mindsora (default: python)
set -euo pipefail

[ -f mindsora/kernels/ascend/build.sh ] || { echo "run.sh: run it from the repository root" >&2; exit 2; }
dry=
if [ "${1:-}" = --dry-run ]; then
    dry=--dry-run
    shift
fi
opp=$(realpath -m "${OPP:-outputs/ascend_kernels/opp}")
python=${PYTHON:-python}

bash mindsora/kernels/ascend/build.sh $dry --install "$opp"

vendor=$opp/vendors/mindsora
export ASCEND_CUSTOM_OPP_PATH=$vendor${ASCEND_CUSTOM_OPP_PATH:+:$ASCEND_CUSTOM_OPP_PATH}
export LD_LIBRARY_PATH=$vendor/op_api/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if [ -n "$dry" ]; then
    "$python" benchmarks/ascend_kernels.py --device CPU --tokens 96 --text 7 --heads 2 --dim 64 --repeats 1 "$@"
    exit
fi
for operator in skiparse_permute qk_norm_rope ada_norm_modulate skiparse_attention skiparse_attention_grad; do
    [ -f "$vendor/op_api/include/aclnn_$operator.h" ] || {
        echo "run.sh: the package in $vendor has no $operator; see the build's output above" >&2
        exit 1
    }
done
"$python" benchmarks/ascend_kernels.py "$@"
