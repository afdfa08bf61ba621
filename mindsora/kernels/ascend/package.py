"""Look for our operator package in the places that MindSpore searches."""

import os
from pathlib import Path


def installed(operator: str) -> bool:
    """Whether a package with the operator (`skiparse_permute`, ...) is installed."""
    roots = [root for root in os.environ.get("ASCEND_CUSTOM_OPP_PATH", "").split(":") if root]
    if opp := os.environ.get("ASCEND_OPP_PATH"):
        roots += map(str, Path(opp, "vendors").glob("*"))
    return any(Path(root, "op_api", "include", f"aclnn_{operator}.h").exists() for root in roots)
