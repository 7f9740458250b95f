#!/usr/bin/env python3
"""Writes a model folder of GlmForCausalLM shape with random bf16 weights, to measure speed without a download.

    python3 tools/random_model.py DIR [--layers 10]

The widths are GLM-Edge-1.5B's (hidden 2048, 16 heads, 4 key-value heads, ffn 6144, vocabulary 59264, tied); with its 28
layers the file has 2.9 GB, with 10 layers 1.2 GB. It has no tokenizer: use `autoglm run --ids`. Needs no package.
"""
import argparse
import json
import os
import random
import struct

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 2048, 16, 4, 128, 6144, 59264
CHUNK = 1 << 24  # bytes made at a time
# The high byte of a bf16: the sign at random, the exponent of 0.0078 to 0.031, as trained weights have.
HIGH = bytes(0x3C if i % 2 else 0xBC for i in range(256))


def shapes(layers):
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(layers):
        name = f"model.layers.{layer}."
        yield name + "input_layernorm.weight", (HIDDEN,)
        yield name + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield name + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield name + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield name + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield name + "post_attention_layernorm.weight", (HIDDEN,)
        yield name + "mlp.gate_up_proj.weight", (2 * FFN, HIDDEN)
        yield name + "mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)


def weights(rng, shape):
    """The bytes of one tensor, piece by piece. Norms are 1."""
    if len(shape) == 1:
        yield struct.pack("<H", 0x3F80) * shape[0]
        return
    left = shape[0] * shape[1]
    while left:
        count = min(left, CHUNK // 2)
        piece = bytearray(2 * count)
        piece[0::2] = rng.randbytes(count)
        piece[1::2] = rng.randbytes(count).translate(HIGH)
        yield piece
        left -= count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--layers", type=int, default=10)
    arguments = parser.parse_args()

    header, offset = {}, 0
    for name, shape in shapes(arguments.layers):
        size = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    os.makedirs(arguments.folder, exist_ok=True)
    rng = random.Random(1)
    with open(os.path.join(arguments.folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes(arguments.layers):
            for piece in weights(rng, shape):
                file.write(piece)
    with open(os.path.join(arguments.folder, "config.json"), "w") as file:
        json.dump({
            "architectures": ["GlmForCausalLM"], "model_type": "glm", "vocab_size": VOCAB, "hidden_size": HIDDEN,
            "intermediate_size": FFN, "num_hidden_layers": arguments.layers, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "hidden_act": "silu", "attention_bias": False,
            "partial_rotary_factor": 1.0, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192, "tie_word_embeddings": True, "eos_token_id": [VOCAB - 1],
        }, file, indent=1)
    print(f"{arguments.folder}: {offset / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
