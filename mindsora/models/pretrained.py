"""`from_pretrained` of the models: one component of a model folder, by name or by path."""

import os

import mindsora


class Pretrained:
    """A Cell that loads itself. `mindsora.AutoModel`, which may import the readers of checkpoints, does the work."""

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | os.PathLike, subfolder: str | None = None, dtype: object = None, mindspore_dtype=None
    ):
        """The component with its weights, in eval mode; see `mindsora.AutoModel.from_pretrained`.

            vae = WFVAE.from_pretrained("nano", subfolder="vae")

        Raises:
            InputError: as AutoModel, or the folder holds another model than this class.
        """
        return mindsora.AutoModel.from_pretrained(
            name_or_dir, subfolder, dtype=dtype, mindspore_dtype=mindspore_dtype, model=cls
        )
