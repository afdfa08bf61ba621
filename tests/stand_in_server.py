"""`mindsora serve` with the stand-in worker: python tests/stand_in_server.py FOLDER [QUEUE]"""

import sys
from pathlib import Path

from mindsora import zoo
from mindsora.cli import run_program
from mindsora.serving.access import token_for
from mindsora.serving.app import Metrics, create_app
from mindsora.serving.lanes import Lanes
from mindsora.serving.program import listening, serve
from mindsora.serving.store import Store

MODEL = "nano_i2v"
STALLED_AFTER = 3.0  # seconds


def main() -> int:
    metrics, store = Metrics(), Store(Path(sys.argv[1]), int(sys.argv[2]))
    settings = {"model": MODEL, "reconstruct": False, "runtime": {}}
    worker = (sys.executable, str(Path(__file__).with_name("stand_in_worker.py")))
    lanes = Lanes(store, settings, [None], STALLED_AFTER, worker, metrics.watch())
    index = zoo.ModelIndex.read(zoo.find(MODEL))
    app = create_app(store, lanes, metrics, MODEL, index, "127.0.0.1", token_for("127.0.0.1"))
    serve(app, listening("127.0.0.1", 0))
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
