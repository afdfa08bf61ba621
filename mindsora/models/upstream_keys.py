"""What upstream's `config.json` files hold beside the fields of our configurations."""

from collections.abc import Mapping

from mindsora.errors import InputError

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


def without_fixed(config: Mapping, fixed: Mapping, model: str) -> dict:
    """A configuration without the keys that have one value in every released model.

    Raises:
        InputError: such a key with another value: a variant that does not exist here.
    """
    for key, only in fixed.items():
        if (value := config.get(key, only)) != only:
            raise InputError(f"{key} = {value!r} is not supported; {model} is only built with {key} = {only!r}")
    return {key: value for key, value in config.items() if key not in fixed}
