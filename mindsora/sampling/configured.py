"""`config` and `from_config` of the schedulers, as diffusers' schedulers have them."""

from collections.abc import Mapping
from dataclasses import asdict


class Configured:
    """Base class of the schedulers, which are frozen dataclasses.

    pipe.scheduler = FlowMatchScheduler.from_config(pipe.scheduler.config, shift=5.0)
    """

    @property
    def config(self) -> dict:
        """The content of scheduler_config.json."""
        return {"_class_name": type(self).__name__} | asdict(self)

    @classmethod
    def from_config(cls, config: Mapping, **changes):
        """A scheduler with the settings of `config`, some of them changed. Raises InputError as `from_upstream`."""
        return cls.from_upstream({**config, **changes})
