"""Every released folder of the Open-Sora Plan line, and the parts of it that run here. This module is data only:
`mindsora models --all` prints it, and `python -m mindsora.audit.catalogue` writes it to mindsora/models/README.md.

The folders beside this file hold configurations without weights, of whole models or of autoencoders alone. All data
comes from public code, reports and configurations. Each row states what was verified and how; UNVERIFIED applies to all.
"""

from dataclasses import dataclass, field

UNVERIFIED = "No published weight file has been read here, and nothing has been measured on Ascend."


@dataclass(frozen=True)
class Part:
    """Files of one published repository that become one folder of a model folder.

    Attributes:
        component: that folder.
        repository: OWNER/NAME on Hugging Face.
        source: what the converter reads there: a file, or a folder with weights and config.json ("": the repository).
        files: of a tokeniser, its files, which are copied.
    """

    component: str
    repository: str
    source: str = ""
    files: tuple[str, ...] = ()

    @property
    def copy(self) -> str:
        """Folder that a copy of the repository has."""
        return self.repository.rpartition("/")[2]


_PLAN, _T5, _MT5 = "LanguageBind/Open-Sora-Plan-", "google/t5-v1_1-xl", "google/mt5-xxl"
_CLIP = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
_PARTS_V1_5 = (
    Part("transformer", _PLAN + "v1.5.0", "MindSpeed/model_ema.pt"),
    Part("vae", _PLAN + "v1.5.0", "MindSpeed/wfvae_888_dim32.ckpt"),
    Part("text_encoder", _T5),
    Part("tokenizer", _T5, files=("spiece.model",)),
    Part("text_encoder_2", _CLIP),
    Part("tokenizer_2", _CLIP, files=("vocab.json", "merges.txt", "special_tokens_map.json")),
)
# Repository -> licence of its weights as docs/weights_licences.md records it.
LICENCES = {
    _PLAN + "v1.5.0": "MIT, by the first README of the release",
    _PLAN + "v1.3.0": "MIT, by the model card",
    _PLAN + "v1.2.0": "MIT, by the model card",
}


def _parts(release: str, folder: str) -> tuple[Part, ...]:
    """The parts of a model of v1.3 or v1.2: mT5 reads its text."""
    return (
        Part("transformer", _PLAN + release, folder),
        Part("vae", _PLAN + release, "vae"),
        Part("text_encoder", _MT5),
        Part("tokenizer", _MT5, files=("spiece.model",)),
    )


@dataclass(frozen=True)
class Released:
    """A folder that the Open-Sora Plan project published.

    Attributes:
        name: its name in the commands here.
        published: its place upstream, release and folder.
        what: what it generates.
        cells: component -> the Cell that implements it; empty if no part of it runs.
        configuration: folder beside this file with the configuration of those Cells; a model folder if it has a
            model_index.json.
        parameters: component -> count, from the released shapes.
        missing: the facts that the other parts would need; empty if all parts run.
        trained: sizes that a denoiser was trained at, if it does not run here and so has no other legal sizes.
        caveats: what a user of the weights should know.
        verified: what was compared, and with what.
        recipe: the page of the repository on how to run it, if any.
        parts: the published files that make a model folder; empty if no pipeline runs.
    """

    name: str
    published: str
    what: str
    cells: dict[str, str] = field(default_factory=dict)
    configuration: str = ""
    parameters: dict[str, int] = field(default_factory=dict)
    missing: str = ""
    trained: str = ""
    caveats: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()
    recipe: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def hub_name(self) -> str:
        """Repository on Hugging Face, and the folder in it if the release has several models."""
        return _PLAN + self.published

    @property
    def is_model(self) -> bool:
        """Whether all parts of a pipeline are here, so that one can plan it and, with weights, run it."""
        return "transformer" in self.cells


_PARITY = "outputs of every Cell at small random weights: the PyTorch originals', PyNative and graph mode, on CPU"
_SHAPES = "keys, shapes and configuration at the released size: those of upstream's classes, nothing allocated"
_VAE_V1_3 = (
    "the autoencoder's flow is 64 wide in the encoder and 128 in the decoder, with two blocks beside each wavelet, as "
    "upstream's branch for Ascend configures it; the converter compares this with the weights"
)
_SIZES_V1_3 = "the published denoiser is two files of 9.98 and 1.11 GB: these parameters in float32"
_LICENCE = "licence of the weights: MIT, by the model card"
_GROUP_NORMS = "group norms see the whole clip: chunks are exact, but memory grows with the clip"
_BY_NAME = "its config.json was not seen: size and scales of positions follow from its name and its siblings"
_WARNED = (
    "published with a warning: trained on Panda70M without the final fine-tuning on high-quality clips, so that "
    "what it makes may carry watermarks"
)
_V1_3_CELLS = {"vae": "WFVAE", "text_encoder": "T5Encoder"}
_V1_3_PARAMETERS = {"vae": 147_347_788, "text_encoder": 5_655_173_120}  # the autoencoder's with its Haar kernels
_V1_3_CAVEATS = (
    "24 heads and sparse_n 4 stand in the published config.json; the weights alone decide neither, so both are assumed "
    "where a checkpoint has no config.json",
    "half precision rounds the angles of the rotary embedding, as upstream does and the weights are used to",
    "trained at heights and widths that are multiples of 32; legal are those of 16",
    _LICENCE,
    _VAE_V1_3,
)


def _dense(folder: str, *caveats: str, i2v: bool = False, what: str = "text to video") -> Released:
    """A denoiser of v1.2 with its autoencoder and text encoder."""
    return Released(
        f"v1.2_{folder}",
        f"v1.2.0/{folder}",
        what,
        cells={
            "transformer": "OpenSoraInpaintV1_2" if i2v else "OpenSoraT2V",
            "vae": "CausalVAE",
            "text_encoder": "T5Encoder",
        },
        configuration=f"v1_2/{folder}",
        parameters={
            "transformer": 2_782_603_024 if i2v else 2_771_907_856,
            "vae": 239_189_991,
            "text_encoder": 5_655_173_120,
        },
        caveats=(
            *caveats,
            "half precision rounds the angles of the rotary embedding, as upstream does and the weights are used to",
            "where two axes have equal numbers of tokens upstream divides both by the first one's scale; here each axis "
            "has its own",
            _GROUP_NORMS,
            _LICENCE,
        ),
        verified=(_PARITY, _SHAPES, "steps of the sampler: diffusers' numbers"),
        recipe=f"recipes/v1_2/{'i2v' if i2v else 't2v'}/README.md",
        parts=_parts("v1.2.0", folder),
    )


RELEASED = (
    Released(
        "v1.5",
        "v1.5.0",
        "text to video",
        cells={"transformer": "SUV", "vae": "WFVAE", "text_encoder": "T5Encoder", "text_encoder_2": "CLIPTextModel"},
        configuration="v1_5",
        parameters={
            "transformer": 8_589_604_992,  # with the six tensors of tensor-parallel training
            "vae": 227_035_816,
            "text_encoder": 1_223_527_424,
            "text_encoder_2": 694_659_840,
        },
        caveats=(
            "the weights hold six tensors of tensor-parallel training that nothing reads; they are kept",
            "no image-to-video weights were released",
            "trained at frames of up to 589,824 pixels (576 x 1024), and no larger ones are made",
            "licence of the weights: MIT, by the first README of the release",
        ),
        verified=(_PARITY, _SHAPES, "two tensor-parallel shards merged: upstream's merged weights and their output"),
        recipe="recipes/v1_5/t2v_121x576x1024/README.md",
        parts=_PARTS_V1_5,
    ),
    Released(
        "v1.3",
        "v1.3.0/any93x640x640",
        "text to video",
        cells={"transformer": "OpenSoraT2V"} | _V1_3_CELLS,
        configuration="v1_3/any93x640x640",
        parameters={"transformer": 2_771_981_600} | _V1_3_PARAMETERS,
        caveats=("trained last at 93 x 352 x 640 and 16 fps; upstream saves what it makes at 18 fps", *_V1_3_CAVEATS),
        verified=(_PARITY, _SHAPES, _SIZES_V1_3),
        recipe="recipes/v1_3/t2v/README.md",
        parts=_parts("v1.3.0", "any93x640x640"),
    ),
    Released(
        "v1.3_i2v",
        "v1.3.0/any93x640x640_i2v",
        "frames to video: first frame, transition, continuation",
        cells={"transformer": "OpenSoraInpaint"} | _V1_3_CELLS,
        configuration="v1_3/any93x640x640_i2v",
        parameters={"transformer": 2_782_713_632} | _V1_3_PARAMETERS,
        caveats=(
            "trained at up to 93 frames of 236,544 pixels, such as 352 x 672",
            "given frames are encoded as the posterior's mode, where upstream samples it; equal frames so give equal "
            "clips",
            *_V1_3_CAVEATS,
        ),
        verified=(_PARITY, _SHAPES),
        recipe="recipes/v1_3/i2v/README.md",
        parts=_parts("v1.3.0", "any93x640x640_i2v"),
    ),
    Released(
        "v1.3_vae",
        "v1.3.0/vae",
        "autoencoder, WF-VAE 4x8x8 with 8 channels",
        cells={"vae": "WFVAE"},
        configuration="v1_3/any93x640x640/vae",
        parameters={"vae": 147_347_788},
        caveats=(
            "upstream's chunks decode an even number of latent frames wrongly (93 frames are 24); here they are exact",
            _VAE_V1_3,
        ),
        verified=(_PARITY, _SHAPES, "clips of 1 to 33 and of 93 frames in chunks: equal to the whole"),
    ),
    _dense("93x720p", "from 29x720p, 3,000 steps at this size on high-quality clips"),
    _dense("29x720p", _WARNED, "from 29x480p, 21,000 steps at this size"),
    _dense("93x480p", _WARNED, "from 93x720p, 3,500 steps at this size", _BY_NAME),
    _dense(
        "29x480p",
        "from 1x480p, 30,000 steps at this size; on clips of Panda70M too, though the warning of watermarks names 29x720p "
        "and 93x480p alone",
        _BY_NAME,
    ),
    _dense("1x480p", "200,000 steps at this size, on pictures", _BY_NAME, what="text to image"),
    _dense(
        "93x480p_i2v",
        "given frames are encoded as the posterior's mode, where upstream samples it; equal frames so give equal clips",
        "whether the released weights saw the folded mask or the older one of three colours is not known; the folded one "
        "is upstream's default",
        i2v=True,
        what="frames to video",
    ),
    Released(
        "v1.2_vae",
        "v1.2.0/vae",
        "autoencoder, CausalVAE (OD-VAE) 4x8x8 with 4 channels",
        cells={"vae": "CausalVAE"},
        configuration="v1_2/vae",
        parameters={"vae": 239_189_991},
        caveats=("the configuration is from third-party copies, confirmed by the number of parameters", _GROUP_NORMS),
        verified=(_PARITY, _SHAPES),
    ),
    Released(
        "v1.1",
        "v1.1.0",
        "text to video",
        cells={"vae": "CausalVAE"},
        configuration="v1_1/vae",
        parameters={"vae": 246_859_499},
        missing="the denoiser, LatteT2V: blocks over a frame and over time in turn, no rotary embedding, a learned "
        "sigma; its text encoder, T5 v1.1 XXL, could be held",
        trained="denoisers trained at 65 x 512 x 512 and 221 x 512 x 512",
        caveats=(_GROUP_NORMS,),
        verified=(
            "outputs of the autoencoder's layers, which are v1.2's but for time: the PyTorch originals', on CPU",
            "the autoencoder's " + _SHAPES,
        ),
    ),
    Released(
        "v1.0",
        "v1.0.0",
        "text to video",
        missing="the denoiser, LatteT2V as in v1.1, and the configuration of the autoencoder; with a "
        "config.json the converter reads a CausalVAE with v1.0's attention, which mixes time and channels",
        trained="denoisers trained at 17 x 256 x 256, 65 x 256 x 256 and 65 x 512 x 512",
    ),
)


def released(name: str) -> Released | None:
    """Find a row by its name, such as v1.3_i2v, V1.3_i2v or v1_3_i2v; None for an unknown name."""
    return next((row for row in RELEASED if _plain(row.name) == _plain(name.lower())), None)


def _plain(name: str) -> str:
    return name.replace(".", "_")
