"""The golden file of Llama: numbers of transformers' LlamaForCausalLM at small random weights, and of peft's merge.

    python tests/llama_golden.py

The rotary rule is llama3, stretched from 16 positions so that the 24 tokens lie on both sides of it.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "llama.safetensors"
CONFIG = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}  # fmt: skip
ROPE = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LORA = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]}


def main():
    import peft
    import torch
    import transformers
    from safetensors.numpy import save_file
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG, rope_parameters=ROPE)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # wider than the library's 0.02, so that every layer counts
            weight.copy_(1 + torch.randn_like(weight) / 5 if "norm" in name else torch.randn_like(weight) / 4)
    ids = torch.randint(0, CONFIG["vocab_size"], (1, 24))
    arrays = {f"weights/{name}": weight.detach().numpy().copy() for name, weight in model.named_parameters()}
    with torch.no_grad():
        arrays["outputs/logits"] = model(ids).logits[0].numpy()
        whole = torch.ones_like(ids)  # without it the library takes the pad token for padding
        answer = model.generate(
            ids, attention_mask=whole, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    arrays |= {"inputs/ids": ids[0].numpy().astype(np.int32), "outputs/answer": answer[0, 24:].numpy().astype(np.int32)}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**LORA, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) / 4)
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        lora = load_file(Path(folder) / "adapter_model.safetensors")
    arrays |= {f"lora/{name}": weight.numpy() for name, weight in lora.items()}
    with torch.no_grad():
        arrays["outputs/merged_logits"] = adapted.merge_and_unload()(ids).logits[0].numpy()
    metadata = {
        "source": f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}",
        "config": json.dumps({"model_type": "llama"} | CONFIG | {"rope_parameters": ROPE}),
        "lora": json.dumps(LORA),
    }
    save_file(arrays, GOLDEN, metadata)


if __name__ == "__main__":
    main()
