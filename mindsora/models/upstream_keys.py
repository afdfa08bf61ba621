"""What upstream's `config.json` files contain beside the fields of our configurations.

The lists are the keys of every public configuration of the line: the folders of v1.0 to v1.5, the JSON sections that
the trainings of MindSpeed-MM and mindone read, and the keys that diffusers and transformers add.
`tests/test_upstream_keys.py` has the files.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import Any

from mindsora.config import from_dict
from mindsora.errors import InputError, shown

_LIBRARY = """
    _name_or_path architectures chunk_size_feed_forward dtype finetuning_task gradient_checkpointing id2label label2id
    model_type problem_type pruned_heads return_dict tokenizer_class torch_dtype torchscript transformers_version
    use_bfloat16 use_cache output_attentions output_hidden_states output_past tf_legacy_loss tie_encoder_decoder
    tie_word_embeddings is_decoder is_encoder_decoder add_cross_attention cross_attention_hidden_size
    decoder_start_token_id bos_token_id eos_token_id pad_token_id sep_token_id prefix task_specific_params
""".split()

_GENERATION = """
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values
    repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
""".split()

_TRAINING = "attention_dropout classifier_dropout dropout dropout_rate initializer_factor initializer_range".split()

# Keys of a transformers configuration that do not describe the architecture of an encoder at inference.
NOT_ARCHITECTURE = frozenset(_LIBRARY + _GENERATION + _TRAINING)

# The state of diffusers' EMAModel, which it saves among the keys of the model that it averages.
EMA = frozenset("decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup".split())

# Keys beside a model's own in the sections of MindSpeed-MM: the class, the file, the precision.
SECTION = frozenset(
    "model_id from_pretrained dtype output_dtype hub_backend local_files_only low_cpu_mem_usage".split()
)

# An autoencoder's settings for tiles in its section, and its strides, which its layers determine.
AUTOENCODER = frozenset(
    """
    use_tiling tile_overlap_factor tile_sample_min_size tile_latent_min_size tile_sample_min_size_t
    tile_latent_min_size_t vae_cp_size vae_scale_factor
    """.split()
)

# Quantised weights differ from ours: bitsandbytes, GPTQ and similar tools name themselves in these keys.
_QUANTISED = {"quantization_config": None, "quant_method": None, "load_in_4bit": False, "load_in_8bit": False}

_STATE = re.compile(
    r"(.*_)?(ema|lr|learning_rate|optimi[sz]er|optim|epochs?|global|steps?|iterations?|seed|gradient|grad|warmup|loss|"
    r"batch_size|train|training|checkpoint|resume|mixed_precision|snr_gamma|betas|weight_decay)(_.*)?"
)


def read_config(
    cls: type, config: Mapping[str, Any], model: str, fixed: Mapping = {}, ignored: Collection[str] = ()
) -> Any:
    """An instance of `cls` from the configuration that a library or a training wrote beside the weights.

    Args:
        config: its keys. A warning names any unknown key that looks like the state of a training.
        model: the model's name in messages.
        fixed: keys with one value in every released model.
        ignored: further keys without effect.

    Raises:
        InputError: an unknown key, a key that asks for another network, or whatever `from_dict` refuses.
    """
    config = without_fixed(config, _QUANTISED, f"{model} from unquantised weights")
    config = without_fixed(config, fixed, model)
    known = {f.name for f in fields(cls)} | EMA | SECTION | set(ignored)
    state = [key for key in config if key not in known and not key.startswith("_") and _STATE.fullmatch(key)]
    if state:
        names = ", ".join(shown(key, 80) for key in state)
        warnings.warn(f"{model}: {names} of its configuration look like a training's and are not read", stacklevel=3)
    own = {f.name for f in fields(cls)}
    return from_dict(cls, config, ignored=(EMA | SECTION | set(ignored) | set(state)) - own)


def write_config(config: Any) -> dict:
    """The keys that `read_config` reads: the fields of a configuration, `interpolation_scale` under a key per axis."""
    keys = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    scales = keys.pop("interpolation_scale", ())
    return keys | {f"interpolation_scale_{axis}": scale for axis, scale in zip("thw", scales)}


def without_fixed(config: Mapping, fixed: Mapping, model: str) -> dict:
    """A configuration without the keys that have one value in every released model.

    Raises:
        InputError: such a key with another value: a variant that does not exist here.
    """
    for key, only in fixed.items():
        if (value := config.get(key, only)) != only:
            raise InputError(
                f"{key} = {shown(repr(value), quote=False)} is not supported; {model} is only built with {key} = {only!r}"
            )
    return {key: value for key, value in config.items() if key not in fixed}
