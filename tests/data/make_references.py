#!/usr/bin/env python3
"""Makes tests/data/models/: tiny random models of every architecture, and their logits in float64.

    python3 make_references.py [folder]      (default: models/ beside this script)

Needs torch and transformers (versions used last: see reference.json of any model). Every parameter is
random, the norms' weights and the biases too, so that leaving one out or swapping two shows. The weights
are written first, rounded to the model's type, and transformers reads them back to compute: each file is
thus one that transformers itself can load. transformers computes parts of its models in float32 whatever
the model's type (norms, softmax, rotary angles); here these are made float64 like the rest.

A folder holds config.json and safetensors, as published models have them, and
    reference.json   {"prompts": [[id, ...], ...], "vocab_rows": n, "made_with": {...}}
    reference.bin    the logits of all positions of all prompts, one after the other: [positions, vocab_rows],
                     little-endian float64
"""
import contextlib
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

FLOAT32 = torch.float32
PROMPT_LENGTHS = (1, 9, 38)
VOCAB = 96

GLM = {
    "hidden_size": 48, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "hidden_act": "silu", "vocab_size": VOCAB, "attention_bias": True,
    "partial_rotary_factor": 0.5, "rope_theta": 50000.0, "rms_norm_eps": 1.5625e-07,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "eos_token_id": [93, 94, 95],
    "pad_token_id": 93,
}
LLAMA = {
    "hidden_size": 48, "intermediate_size": 58, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "hidden_act": "silu", "vocab_size": VOCAB, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-05, "max_position_embeddings": 256, "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "bos_token_id": 94, "eos_token_id": 95,
}

# name: (architecture, model_type, config)
MODELS = {
    "glm": ("GlmForCausalLM", "glm", GLM),
    "glm-edge": ("GlmForCausalLM", "glm", GLM | {
        "hidden_size": 40, "intermediate_size": 54, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 3, "head_dim": 10, "attention_bias": False, "partial_rotary_factor": 1.0,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-05, "tie_word_embeddings": True}),
    "glm4": ("Glm4ForCausalLM", "glm4", GLM | {
        "intermediate_size": 46, "head_dim": 16, "rope_theta": 10000.0, "rms_norm_eps": 1e-05}),
    "glm4-yarn": ("Glm4ForCausalLM", "glm4", GLM | {
        "intermediate_size": 42, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 16,
        "attention_bias": False, "rope_theta": 100.0, "rms_norm_eps": 1e-05, "max_position_embeddings": 128,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
    "llama": ("LlamaForCausalLM", "llama", LLAMA),
    "llama3": ("LlamaForCausalLM", "llama", LLAMA | {
        "num_key_value_heads": 2, "head_dim": 16, "rope_theta": 1000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32}}),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", {k: v for k, v in LLAMA.items() if "bias" not in k} | {
        "num_key_value_heads": 2, "intermediate_size": 62, "rope_theta": 1000000.0, "rms_norm_eps": 1e-06,
        "tie_word_embeddings": True, "use_sliding_window": False}),
}


def random_parameter(name, shape, generator):
    """Of a size that keeps activations near 1 and attention far from both uniform and one-hot."""
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if name.endswith("bias"):
        return values * 0.5
    if "norm" in name:
        return values * 0.3 + 1
    if "embed_tokens" in name:
        return values
    return values * ((2.0 if "q_proj" in name or "k_proj" in name else 1.2) / shape[1] ** 0.5)


def empty_model(architecture, config):
    return getattr(transformers, architecture)(config_class(architecture).from_dict(dict(config)))


def config_class(architecture):
    return getattr(transformers, architecture).config_class


def random_weights(architecture, config, seed):
    generator = torch.Generator().manual_seed(seed)
    model = empty_model(architecture, config)
    names = dict(model.named_parameters())  # a tied head is not among them
    return {name: random_parameter(name, tuple(names[name].shape), generator) for name in sorted(names)}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_model(folder, architecture, model_type, config, weights, dtype):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
    write_json(folder / "config.json", {"architectures": [architecture], "model_type": model_type} | config
               | {"torch_dtype": names[dtype]})
    save_file({name: value.to(dtype) for name, value in weights.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})


@contextlib.contextmanager
def everything_float64():
    saved = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = saved


def logits_of(architecture, config, weights, prompts, exact=True):
    with everything_float64() if exact else contextlib.nullcontext():
        model = empty_model(architecture, config | {"attn_implementation": "eager"})
        model.config._attn_implementation = "eager"
        model = model.double() if exact else model.to(FLOAT32)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected and all(name == "lm_head.weight" for name in missing), (missing, unexpected)
        model.tie_weights()
        model.eval()
        with torch.no_grad():
            outputs = [model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0] for prompt in prompts]
    return torch.cat(outputs)


def make_prompts(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCAB, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]


def write_reference(folder, prompts, logits):
    assert logits.dtype == torch.float64
    (folder / "reference.bin").write_bytes(logits.numpy().astype("<f8").tobytes())
    write_json(folder / "reference.json", {
        "prompts": prompts, "vocab_rows": logits.shape[1],
        "made_with": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}})


def make(folder, name, dtype=torch.float32, suffix=""):
    architecture, model_type, config = MODELS[name]
    seed = 1000 + list(MODELS).index(name)
    target = folder / (name + suffix)
    weights = random_weights(architecture, config, seed)
    write_model(target, architecture, model_type, config, weights, dtype)
    stored = load_file(target / "model.safetensors")
    prompts = make_prompts(seed)
    logits = logits_of(architecture, config, {k: v.to(torch.float64) for k, v in stored.items()}, prompts)
    write_reference(target, prompts, logits)
    # transformers' own arithmetic, in float32, differs by roundings only: a check of everything_float64().
    plain = logits_of(architecture, config, {k: v.to(FLOAT32) for k, v in stored.items()}, prompts, exact=False)
    worst = ((plain.double() - logits).abs().max() / logits.abs().max()).item()
    assert 1e-9 < worst < 1e-5, worst
    print(f"{target.name}: logits up to {logits.abs().max():.1f}, float32 differs by {worst:.1e} of that")


def chatglm_names(weights, layers):
    """GlmForCausalLM's tensors under ChatGLMModel's names: a renaming, with q, k and v stacked."""
    renamed = {
        "transformer.embedding.word_embeddings.weight": weights["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": weights["model.norm.weight"],
        "transformer.output_layer.weight": weights["lm_head.weight"],
    }
    for i in range(layers):
        old, new = f"model.layers.{i}.", f"transformer.encoder.layers.{i}."
        for part in ("weight", "bias"):
            renamed[f"{new}self_attention.query_key_value.{part}"] = torch.cat(
                [weights[f"{old}self_attn.{x}_proj.{part}"] for x in "qkv"])
        for theirs, original in (("self_attn.o_proj", "self_attention.dense"),
                                 ("mlp.gate_up_proj", "mlp.dense_h_to_4h"), ("mlp.down_proj", "mlp.dense_4h_to_h"),
                                 ("input_layernorm", "input_layernorm"),
                                 ("post_attention_layernorm", "post_attention_layernorm")):
            renamed[f"{new}{original}.weight"] = weights[f"{old}{theirs}.weight"]
    head_dim = GLM["head_dim"]
    # The original checkpoints carry this buffer; it is to be ignored.
    renamed["transformer.rotary_pos_emb.inv_freq"] = torch.ones(head_dim // 4, dtype=torch.float32)
    return renamed


def make_chatglm(folder):
    """The model glm once more, as THUDM publishes its own: same numbers, other names and keys."""
    target = folder / "chatglm"
    config = {
        "num_layers": GLM["num_hidden_layers"], "hidden_size": GLM["hidden_size"],
        "ffn_hidden_size": GLM["intermediate_size"], "num_attention_heads": GLM["num_attention_heads"],
        "multi_query_attention": True, "multi_query_group_num": GLM["num_key_value_heads"],
        "kv_channels": GLM["head_dim"], "padded_vocab_size": GLM["vocab_size"], "vocab_size": GLM["vocab_size"],
        "layernorm_epsilon": GLM["rms_norm_eps"], "rope_ratio": GLM["rope_theta"] / 10000,
        "seq_length": GLM["max_position_embeddings"], "add_qkv_bias": True, "add_bias_linear": False,
        "apply_query_key_layer_scaling": True, "apply_residual_connection_post_layernorm": False,
        "attention_softmax_in_fp32": True, "original_rope": True, "post_layer_norm": True, "rmsnorm": True,
        "tie_word_embeddings": False, "eos_token_id": GLM["eos_token_id"], "pad_token_id": GLM["pad_token_id"],
    }
    weights = load_file(folder / "glm" / "model.safetensors")
    write_model(target, "ChatGLMModel", "chatglm", config, chatglm_names(weights, config["num_layers"]), FLOAT32)
    for name in ("reference.json", "reference.bin"):
        shutil.copy(folder / "glm" / name, target / name)


def make_sharded(folder, name):
    """The same model in two files and an index, tensors dealt out in turn."""
    target = folder / (name + "-sharded")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / name, target)
    (target / "model.safetensors").unlink()
    weights = load_file(folder / name / "model.safetensors")
    files = [f"model-{i + 1:05d}-of-00002.safetensors" for i in range(2)]
    where = {tensor: files[i % 2] for i, tensor in enumerate(sorted(weights))}
    for file in files:
        save_file({t: weights[t] for t in weights if where[t] == file}, target / file, metadata={"format": "pt"})
    write_json(target / "model.safetensors.index.json", {
        "metadata": {"total_size": sum(w.numel() * w.element_size() for w in weights.values())},
        "weight_map": where})


def main():
    default = pathlib.Path(__file__).resolve().parent / "models"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for name in MODELS:
        make(folder, name)
    make(folder, "glm", torch.float16, "-f16")
    make(folder, "glm", torch.bfloat16, "-bf16")
    make_chatglm(folder)
    make_sharded(folder, "qwen2")


if __name__ == "__main__":
    main()
