"""Names that diffusers and mindone have and this package has not, and what to write instead. (No MindSpore here.)

Every argument, method and keyword that is refused by name is refused here.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping

from mindsora.errors import InputError, shown

_SCHEDULER = "the scheduler computes them; replace it: pipe.scheduler = type(pipe.scheduler).from_config(...)"
_ATTENTION = "attention has no processors here; leave it out (`mindsora kernels` lists what computes attention)"
_OFFLOAD = "offload is an argument of loading: from_pretrained(..., offload=True)"
_DEVICE = "the device belongs to the program: mindspore.set_device(...) before loading, or `mindsora generate --device`"
_TEXT = "both text encoders read `prompt` and `negative_prompt`"

# Arguments of a call.
CALL = {
    "attention_kwargs": _ATTENTION,
    "callback": "give callback_on_step_end(pipe, step, timestep, kwargs)",
    "callback_steps": "callback_on_step_end is called after every step",
    "clip_skip": "the text encoders' last layer is read, as in training; leave it out",
    "cross_attention_kwargs": _ATTENTION,
    "eta": "the noise of a step follows from the scheduler; leave it out",
    "fps": "the model fixes it (pipe.index.fps); give fps to export_to_video",
    "frame_rate": "the model fixes it (pipe.index.fps); give fps to export_to_video",
    "guidance_scale_2": "the models have one denoiser; give guidance_scale",
    "image": "TextToVideoPipeline takes text alone; use ImageToVideoPipeline with a model such as nano_i2v",
    "image_embeds": "pictures reach the denoiser through the autoencoder; give image",
    "ip_adapter_image": "there is no IP-Adapter; give image to ImageToVideoPipeline",
    "last_image": "TextToVideoPipeline takes text alone; use ImageToVideoPipeline with a model such as nano_i2v",
    "max_sequence_length": "the model fixes it (pipe.index.max_text_lengths); leave it out",
    "negative_prompt_2": _TEXT,
    "num_images_per_prompt": "give num_videos_per_prompt, and num_frames=1 for pictures",
    "num_samples_per_prompt": "give num_videos_per_prompt",
    "prompt_2": _TEXT,
    "sigmas": _SCHEDULER,
    "strength": "give noise_strength to ImageToVideoPipeline, the noise on the given frames",
    "timesteps": _SCHEDULER,
    "use_dynamic_cfg": "guidance is the same at every step; give guidance_scale",
}
# Arguments of from_pretrained.
LOADING = {
    "cache_dir": "`mindsora pull NAME --to DIR` says where the weights go; then give DIR",
    "custom_pipeline": "subclass TextToVideoPipeline or ImageToVideoPipeline",
    "device_map": _DEVICE,
    "local_files_only": "give a folder, which is never fetched",
    "low_cpu_mem_usage": _OFFLOAD,
    "quantization_config": "weights are float32, float16 or bfloat16; give dtype",
    "revision": "`mindsora pull NAME --revision REVISION`, then give its folder",
    "safety_checker": "there is none; leave it out",
    "subfolder": "a pipeline is a whole model folder; AutoModel.from_pretrained(..., subfolder=) loads one component",
    "token": "set HF_TOKEN, or log in with `hf auth login`",
    "torch_dtype": "give mindspore_dtype or dtype",
    "use_safetensors": "leave it out: the format is recognised",
    "variant": "give dtype, such as 'float16'",
}
# Methods and attributes of a pipeline.
METHODS = {
    "device": _DEVICE,
    "disable_vae_slicing": "clips are always decoded one by one",
    "enable_attention_slicing": _ATTENTION,
    "enable_freeu": "there is no FreeU",
    "enable_model_cpu_offload": _OFFLOAD,
    "enable_sequential_cpu_offload": _OFFLOAD,
    "enable_vae_slicing": "leave it out: clips are always decoded one by one",
    "enable_xformers_memory_efficient_attention": _ATTENTION,
    "from_pipe": "share the parts: ImageToVideoPipeline.from_pretrained(DIR, vae=pipe.vae)",
    "from_single_file": "`mindsora convert FILE FOLDER` makes a component of it, `mindsora assemble` a model",
    "load_ip_adapter": "there is no IP-Adapter; give image to ImageToVideoPipeline",
    "load_textual_inversion": "the tokenisers take no new words",
    "push_to_hub": "save_pretrained(folder), then `hf upload`",
    "reset_device_map": _DEVICE,
    "to": f"{_DEVICE}; the dtype is an argument of from_pretrained",
}


def refuse(names: Iterable[str], foreign: Mapping[str, str], function: str, legal: Collection[str]) -> None:
    """Raise InputError for the first of `names`: what to write instead, or the nearest legal argument.

    Args:
        names: arguments that `function` was given and does not have.
        foreign: CALL or LOADING.
        legal: the arguments that it has.
    """
    for name in sorted(names):
        if name in foreign:
            raise InputError(f"{function} has no argument {name}: {foreign[name]}")
        nearest = difflib.get_close_matches(name, legal, n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else f"arguments: {', '.join(sorted(legal))}"
        raise InputError(f"{function} has no argument {shown(name)}: {advice}")


def one_dtype(dtype: object, mindspore_dtype: object) -> object:
    """The dtype of a loading call: `mindspore_dtype` is mindone's name of `dtype`. InputError: both are given."""
    if dtype is not None and mindspore_dtype is not None:
        raise InputError("dtype and mindspore_dtype are both given: they are two names of one argument; give one")
    return mindspore_dtype if dtype is None else dtype
