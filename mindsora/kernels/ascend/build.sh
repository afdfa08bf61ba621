#!/bin/bash
# Build the operator package on a machine with CANN 8.2 to 9.1, and install it.
#   build.sh [--dry-run] [--install DIR]
# Needs: `source .../set_env.sh` (ASCEND_HOME_PATH), cmake >= 3.19, g++ >= 7.3, python3. No card is needed.
# Set by environment:
#   UNITS    parts to build for (default: ascend910b;ascend910_93)
#   OUTPUT   folder of the build (default: outputs/ascend_kernels)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dry= install=
while [ $# -gt 0 ]; do
    case "$1" in
        --dry-run) dry=1; shift ;;
        --install) install=${2:?--install takes a folder}; shift 2 ;;
        *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
    esac
done
units=${UNITS:-ascend910b;ascend910_93}
output=${OUTPUT:-$PWD/outputs/ascend_kernels}
project=$output/project
cann=${ASCEND_HOME_PATH:-}
[ -n "$cann" ] || [ -n "$dry" ] || {
    echo "build.sh: ASCEND_HOME_PATH is not set: source CANN's set_env.sh first" >&2
    exit 2
}
cann=${cann:-\$ASCEND_HOME_PATH}
template=$cann/tools/op_project_templates/ascendc/customize

step() {
    echo "+ $*"
    [ -n "$dry" ] || "$@"
}

# The project skeleton is CANN's own (its tools come as links into a neighbouring folder, hence cp -L); ours are the
# sources. A CANN without the skeleton has the CMake package instead, which CMakeLists.txt here is written for.
step rm -rf "$project"
step mkdir -p "$project"
if [ -d "$template" ] || [ -n "$dry" ]; then
    step cp -RL "$template/." "$project"
    step find "$project/op_host" "$project/op_kernel" -name "*.cpp" -delete
    step cp "$here"/op_host/*.cpp "$here"/op_host/*.h "$project/op_host"
    step cp "$here"/op_kernel/*.cpp "$here"/op_kernel/*.h "$project/op_kernel"
    step python3 "$here/preset.py" "$project/CMakePresets.json" "ASCEND_COMPUTE_UNIT=$units" \
        "ASCEND_CANN_PACKAGE_PATH=$cann" vendor_name=mindsora ENABLE_BINARY_PACKAGE=True
    step bash -c "cd '$project' && bash build.sh"
    packages=$project/build_out
else
    step cmake -S "$here" -B "$project" "-DASCEND_COMPUTE_UNIT=$units"
    step cmake --build "$project" --target binary package --parallel
    packages=$project
fi
if [ -n "$install" ]; then
    step mkdir -p "$install"
    step bash -c "bash '$packages'/custom_opp_*.run --install-path='$install'"
    echo "+ installed; use it with: source $install/vendors/mindsora/bin/set_env.bash"
fi
