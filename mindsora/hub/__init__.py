"""Released weights by name: which files make a model folder, where they are published, and how they get here.

`mindsora pull v1.5` downloads, `mindsora assemble v1.5 --from DIR` takes files that were copied by hand; both end in the
same model folder. (No MindSpore here until weights are converted.)
"""

from mindsora.hub.assembling import assemble
from mindsora.hub.pulling import Pull, named_on_hub, pull

__all__ = ["Pull", "assemble", "named_on_hub", "pull"]
