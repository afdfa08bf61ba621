"""Inside a simulated process: run cases one after another and print what each ended in, one line of JSON each."""

import json
import shutil
import sys
import time
import traceback
from pathlib import Path

from ascend_sim import cases, graphs
from ascend_sim.registration import kernel

# Any branch on a computed value ends so in the simulation once kernels are selected and the schedule is made.
BRANCH = "sub graph which contains ConditionSwitch"


def outcome(name: str) -> dict:
    """error: the exception, empty for none; seconds of CPU time; primitives: how often each is called; kernels:
    how each is computed; compiled: how many graphs; read_back, repeated: see `graphs`; figures: what the case
    returned."""
    import mindspore as ms

    folder = Path(f"dump_{name}").resolve()
    ms.set_context(save_graphs=1, save_graphs_path=str(folder))
    start, error, figures = time.process_time(), "", None
    try:
        figures = cases.CASES[name]()
    except Exception as raised:  # all of them: the next case has to run
        if BRANCH not in str(raised):
            error = "".join(traceback.format_exception(raised)[-6:])
    found = {
        "case": name,
        "error": error,
        "seconds": round(time.process_time() - start, 1),
        "primitives": (called := graphs.primitives(folder)),
        "kernels": {primitive: kernel(primitive) for primitive in called},
        "compiled": graphs.count(folder),
        "read_back": graphs.read_back(folder),
        "repeated": graphs.repeated_parameters(folder),
        "figures": figures,
    }
    shutil.rmtree(folder, ignore_errors=True)
    return found


def main():
    import mindspore as ms

    ms.set_device("Ascend", 0)
    for name in sys.argv[1:]:
        print(json.dumps(outcome(name)), flush=True)


if __name__ == "__main__":
    main()
