"""A `mindsora` for tests of recipes/cards.sh: each process trains the toy network as one rank.

Arguments: folder, steps, and seconds that a batch takes.
"""

import os
import sys
import time
from pathlib import Path


def main(out: str, steps: str, pause: str) -> None:
    import mindspore as ms

    ms.set_device("CPU")
    from test_data_parallel import small_batch, trained

    from mindsora import runtime
    from mindsora.parallel import launch
    from mindsora.parallel.layout import Layout, mesh_of

    if runtime.is_msrun_scheduler():
        return launch.serve()
    mesh = mesh_of(Layout(dp=runtime.world()))
    Path(out).mkdir(exist_ok=True)
    (Path(out) / f"rank_{runtime.rank()}.pid").write_text(str(os.getpid()))

    def batch(number):
        time.sleep(float(pause))
        return small_batch(number)

    trained(out, mesh, steps=int(steps), batch=batch, reshuffle=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
