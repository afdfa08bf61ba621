"""What the commands do, as functions: for notebooks, recipes, servers and pages.

from mindsora.jobs import plan, run

for written in run(plan("nano", ["a red circle moving right"], "circle.mp4", seeds=range(4))):
    print(written.path)
"""

from mindsora.jobs.planning import Job, Plan, plan
from mindsora.jobs.running import Written, frames_of, run

__all__ = ["Job", "Plan", "Written", "frames_of", "plan", "run"]
