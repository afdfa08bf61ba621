"""Our operator package as its installer leaves it, as far as MindSpore looks: headers and types, without a kernel.

`skeleton` is what CANN brings to build it with.
"""

import json
import re
import subprocess
from pathlib import Path

from ascendc_host import twin


def operators() -> list[dict]:
    """Name, inputs and outputs ([name, types, one per variant]) of each operator, as its host file declares them."""
    sources = [twin.HOST / "list_operators.cpp", *sorted((twin.KERNELS / "op_host").glob("*.cpp"))]
    program = twin.tool("list_operators", sources, f"-I{twin.HOST / 'cann'}")
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def skeleton(cann: Path, installer: str) -> Path:
    """A CANN with the skeleton of an operator project, and return it. Its build leaves a package that runs `installer`."""
    template = cann / "tools" / "op_project_templates" / "ascendc" / "customize"
    for folder in ("op_host", "op_kernel"):
        (template / folder).mkdir(parents=True)
        (template / folder / "sample.cpp").touch()
        (template / folder / "CMakeLists.txt").touch()
    names = ("ASCEND_COMPUTE_UNIT", "ASCEND_CANN_PACKAGE_PATH", "vendor_name", "ENABLE_BINARY_PACKAGE")
    variables = {name: {"type": "STRING", "value": "?"} for name in names}
    (template / "CMakePresets.json").write_text(json.dumps({"configurePresets": [{"cacheVariables": variables}]}))
    (template / "build.sh").write_text("mkdir -p build_out && cp installer build_out/custom_opp_linux.run\n")
    (template / "installer").write_text(installer + "\n")
    return cann


def install(folder: Path) -> Path:
    """Write the package to a folder for ASCEND_CUSTOM_OPP_PATH, and return it."""
    headers, types = folder / "op_api" / "include", folder / "op_impl/ai_core/tbe/config/ascend910b"
    headers.mkdir(parents=True)
    types.mkdir(parents=True)
    told = {}
    for operator in operators():
        name = operator["name"]
        file = "aclnn" + re.sub("([A-Z])", lambda letter: f"_{letter[1].lower()}", name)
        inputs = [f"const aclTensor *{parameter}" for parameter, _ in operator["inputs"]]
        outputs = [f"const aclTensor *{parameter}Out" for parameter, _ in operator["outputs"]]
        ends = ["uint64_t *workspaceSize", "aclOpExecutor **executor"]
        parameters = ",\n    ".join([*inputs, *outputs, *ends])
        (headers / f"{file}.h").write_text(f"aclnnStatus aclnn{name}GetWorkspaceSize(\n    {parameters});\n")
        told[name] = {
            f"{kind}{i}": {"name": parameter, "dtype": variants, "format": "ND", "paramType": "required"}
            for kind in ("input", "output")
            for i, (parameter, variants) in enumerate(operator[f"{kind}s"])
        }
    for place in (types / "aic-ascend910b-ops-info.json", types.parent / "aic--ops-info.json"):
        place.write_text(json.dumps(told))  # the second: in simulation MindSpore has no name for the chip
    return folder
