"""Set values of a CMakePresets.json: preset.py FILE NAME=VALUE ..."""

import json
import sys
from pathlib import Path


def main(file: str, *settings: str) -> None:
    path = Path(file)
    presets = json.loads(path.read_text())
    for preset in presets["configurePresets"]:
        for name, value in (setting.split("=", 1) for setting in settings):
            if name not in preset["cacheVariables"]:
                sys.exit(f"preset.py: {file} has no {name}: this CANN's project skeleton is not the one build.sh knows")
            preset["cacheVariables"][name]["value"] = value
    path.write_text(json.dumps(presets, indent=4) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
