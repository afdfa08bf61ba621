"""The T5 family's encoders: T5 v1.1, mT5, UMT5."""

from mindsora.models.lazy import lazily

__all__ = ["T5Config", "T5Encoder"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "mindsora.models.t5.model"))
