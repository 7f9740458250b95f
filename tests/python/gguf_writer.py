"""Makes a GGUF file of a model folder, with the standard library alone, as llama.cpp's converter
names and arranges things: gguf_writer.py FOLDER FILE.gguf [F32|F16|BF16|Q8_0|...]
"""

import json
import math
import pathlib
import struct
import sys
from array import array

ALIGNMENT = 32
TYPES = {"F32": 0, "F16": 1, "BF16": 30}
TYPES.update(Q4_0=2, Q4_1=3, Q5_0=6, Q5_1=7, Q8_0=8, Q4_K=12, Q5_K=13, Q6_K=14)
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def string(text) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(kind: int, content) -> bytes:
    if kind == STRING:
        return string(content)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], content)


def many(kind: int, content) -> bytes:
    return struct.pack("<IQ", kind, len(content)) + b"".join(value(kind, item) for item in content)


class Writer:
    """Values and tensors in the order they are given."""

    def __init__(self):
        self.values = []
        self.tensors = []  # name, sizes with the fastest first, type, bytes

    def put(self, key: str, kind: int, content) -> None:
        packed = struct.pack("<I", ARRAY) + many(kind, content) if isinstance(
            content, list) else struct.pack("<I", kind) + value(kind, content)
        self.values.append(string(key) + packed)

    def add(self, name: str, shape: list, kind: str, data: bytes) -> None:
        self.tensors.append((name, list(reversed(shape)), TYPES[kind], data))

    def write(self, path) -> None:
        table, body = b"", b""
        for name, sizes, kind, data in self.tensors:
            table += string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, len(body))
            body += data + bytes(-len(data) % ALIGNMENT)
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.values))
        head += b"".join(self.values) + table
        pathlib.Path(path).write_bytes(head + bytes(-len(head) % ALIGNMENT) + body)

    def write_split(self, path, parts: int) -> None:
        """PATH-00001-of-0000N.gguf and so on; the values are in the first."""
        for number in range(parts):
            part = Writer()
            part.values = list(self.values) if number == 0 else []
            part.put("split.no", U32, number)
            part.put("split.count", U32, parts)
            part.put("split.tensors.count", I32, len(self.tensors))
            part.tensors = self.tensors[number::parts]
            part.write(f"{path}-{number + 1:05}-of-{parts:05}.gguf")


# ---- numbers -------------------------------------------------------------------------------------


def to_floats(kind: str, data: bytes) -> array:
    if kind == "F16":
        return array("f", struct.unpack(f"<{len(data) // 2}e", data))
    if kind == "BF16":
        wide = bytearray(len(data) * 2)
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        data = bytes(wide)
    return array("f", data)


def from_floats(kind: str, floats: array) -> bytes:
    if kind == "F16":
        return struct.pack(f"<{len(floats)}e", *floats)
    if kind in BLOCKS:
        elements, block = BLOCKS[kind]
        return b"".join(block(floats[i : i + elements]) for i in range(0, len(floats), elements))
    data = floats.tobytes()
    if kind == "F32":
        return data
    narrow = bytearray(len(data) // 2)  # cut, not rounded: only what came from BF16 comes here
    narrow[0::2], narrow[1::2] = data[2::4], data[3::4]
    return bytes(narrow)


def half(number: float) -> float:
    return struct.unpack("<e", struct.pack("<e", number))[0]


def single(number: float) -> float:
    return struct.unpack("<f", struct.pack("<f", number))[0]


def near(values, most: int) -> list:
    return [min(max(round(value), 0), most) for value in values]


def nibbles(numbers: list) -> bytes:
    return bytes(low & 15 | (high & 15) << 4 for low, high in zip(numbers[:16], numbers[16:]))


def fifth_bits(numbers: list) -> bytes:
    return struct.pack("<I", sum((number >> 4) << i for i, number in enumerate(numbers)))


def block_q8_0(x: array) -> bytes:
    """With the numbers that the daemon's own q8 has: each step in single precision."""
    scale = half(single(max(map(abs, x)) / 127))
    inverse = single(1 / scale) if scale else 0.0
    scaled = array("f", [value * inverse for value in x])
    moved = array("f", [value + 128 for value in scaled])
    return struct.pack("<e32b", scale, *(number - 128 for number in near(moved, 255)))


def block_symmetric(x: array, bits: int) -> tuple:
    scale = half(max(x, key=abs) / -(1 << (bits - 1)))
    inverse = 1 / scale if scale else 0
    most = (1 << bits) - 1
    return struct.pack("<e", scale), near([v * inverse + (1 << (bits - 1)) for v in x], most)


def block_range(x: array, bits: int) -> tuple:
    most = (1 << bits) - 1
    low = half(min(x))
    scale = half((max(x) - low) / most)
    inverse = 1 / scale if scale else 0
    return struct.pack("<ee", scale, low), near([(v - low) * inverse for v in x], most)


def block_q4_0(x: array) -> bytes:
    head, numbers = block_symmetric(x, 4)
    return head + nibbles(numbers)


def block_q4_1(x: array) -> bytes:
    head, numbers = block_range(x, 4)
    return head + nibbles(numbers)


def block_q5_0(x: array) -> bytes:
    head, numbers = block_symmetric(x, 5)
    return head + fifth_bits(numbers) + nibbles(numbers)


def block_q5_1(x: array) -> bytes:
    head, numbers = block_range(x, 5)
    return head + fifth_bits(numbers) + nibbles(numbers)


def block_k(x: array, bits: int) -> bytes:
    """Q4_K and Q5_K: of each group of 32 the scale and what is taken off have six bits."""
    most, groups = (1 << bits) - 1, [x[i : i + 32] for i in range(0, 256, 32)]
    lows = [max(0.0, -min(group)) for group in groups]
    steps = [(max(group) + low) / most for group, low in zip(groups, lows)]
    d, m = half(max(steps) / 63), half(max(lows) / 63)
    scales = near([step / d if d else 0 for step in steps], 63)
    mins = near([low / m if m else 0 for low in lows], 63)
    numbers = []
    for group, scale, low in zip(groups, scales, mins):
        inverse = 1 / (d * scale) if d * scale else 0
        numbers.append(near([(value + m * low) * inverse for value in group], most))
    packed = [scales[i] | scales[i + 4] >> 4 << 6 for i in range(4)]
    packed += [mins[i] | mins[i + 4] >> 4 << 6 for i in range(4)]
    packed += [scales[i] & 15 | (mins[i] & 15) << 4 for i in range(4, 8)]
    high = b""
    if bits == 5:
        high = bytes(sum((numbers[g][j] >> 4) << g for g in range(8)) for j in range(32))
    low = b"".join(
        bytes(a & 15 | (b & 15) << 4 for a, b in zip(numbers[g], numbers[g + 1])) for g in range(0, 8, 2)
    )
    return struct.pack("<ee", d, m) + bytes(packed) + high + low


def block_q6_k(x: array) -> bytes:
    steps = [max(x[i : i + 16], key=abs) / -32 for i in range(0, 256, 16)]
    d = half(max(map(abs, steps)) / 127)
    scales = [round(step / d) if d else 0 for step in steps]
    q = []
    for i, scale in enumerate(scales):
        inverse = 1 / (d * scale) if d * scale else 0
        q += near([value * inverse + 32 for value in x[16 * i : 16 * i + 16]], 63)
    low, high = b"", b""
    for a in (0, 128):
        low += bytes(q[a + j] & 15 | (q[a + j + 64] & 15) << 4 for j in range(64))
        high += bytes(sum(q[a + 32 * b + j] >> 4 << 2 * b for b in range(4)) for j in range(32))
    return low + high + struct.pack("<16be", *scales, d)


BLOCKS = {
    "Q8_0": (32, block_q8_0),
    "Q4_0": (32, block_q4_0),
    "Q4_1": (32, block_q4_1),
    "Q5_0": (32, block_q5_0),
    "Q5_1": (32, block_q5_1),
    "Q4_K": (256, lambda x: block_k(x, 4)),
    "Q5_K": (256, lambda x: block_k(x, 5)),
    "Q6_K": (256, block_q6_k),
}


# ---- the model folder ----------------------------------------------------------------------------


def read_safetensors(path: pathlib.Path) -> dict:
    data = path.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    begin = 8 + length
    return {
        name: (entry["shape"], entry["dtype"], data[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]])
        for name, entry in header.items()
    }


def read_tensors(folder: pathlib.Path) -> dict:
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.exists():
        files = set(json.loads(index.read_text())["weight_map"].values())
    tensors = {}
    for name in sorted(files):
        tensors.update(read_safetensors(folder / name))
    return tensors


OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.embedding.word_embeddings": "token_embd",
    "transformer.encoder.final_layernorm": "output_norm",
    "transformer.output_layer": "output",
}
INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def new_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    parts = stem.split(".")
    at = parts.index("layers")
    return f"blk.{parts[at + 1]}.{INSIDE['.'.join(parts[at + 2:])]}.{kind}"


def interleave(data: bytes, rows: int, heads: int) -> bytes:
    """Of each head, rows i and i + half become neighbours, as the pairs of llama's GGUF are."""
    row, dims = len(data) // rows, rows // heads
    order = [head * dims + i + half * dims // 2 for head in range(heads) for i in range(dims // 2) for half in (0, 1)]
    return b"".join(data[i * row : (i + 1) * row] for i in order)


def llama3_factors(config: dict) -> array:
    scaling, dims, factors = config["rope_scaling"], config["head_dim"], array("f")
    for i in range(dims // 2):
        wave = 2 * math.pi * config["rope_theta"] ** (2 * i / dims)
        turns = scaling["original_max_position_embeddings"] / wave
        low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
        smooth = min(max((turns - low) / (high - low), 0), 1)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def put_config(writer: Writer, arch: str, config: dict) -> None:
    def get(*keys, default=None):
        return next((config[key] for key in keys if config.get(key) is not None), default)

    heads = config["num_attention_heads"]
    dims = get("kv_channels", "head_dim", default=config["hidden_size"] // heads)
    fraction = get("partial_rotary_factor", default=0.5 if arch in ("chatglm", "glm4") else 1)
    numbers = {
        "block_count": get("num_layers", "num_hidden_layers"),
        "context_length": get("seq_length", "max_position_embeddings"),
        "embedding_length": config["hidden_size"],
        "feed_forward_length": get("ffn_hidden_size", "intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": get("multi_query_group_num", "num_key_value_heads", default=heads),
        "attention.key_length": dims,
        "attention.value_length": dims,
        "rope.dimension_count": int(dims * fraction),
        "vocab_size": get("padded_vocab_size", "vocab_size"),
    }
    writer.put("general.architecture", STRING, arch)
    for name, number in numbers.items():
        writer.put(f"{arch}.{name}", U32, number)
    writer.put(f"{arch}.attention.layer_norm_rms_epsilon", F32, get("layernorm_epsilon", "rms_norm_eps"))
    base = get("rope_theta", default=10000 * config.get("rope_ratio", 1))
    writer.put(f"{arch}.rope.freq_base", F32, base)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "yarn":
        writer.put(f"{arch}.rope.scaling.type", STRING, "yarn")
        writer.put(f"{arch}.rope.scaling.factor", F32, scaling["factor"])
        writer.put(f"{arch}.rope.scaling.original_context_length", U32, scaling["original_max_position_embeddings"])
    stops = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    for key, stop in zip(("eos", "eot", "eom"), stops):
        writer.put(f"tokenizer.ggml.{key}_token_id", U32, stop)


def put_tokenizer(writer: Writer, folder: pathlib.Path, rows: int) -> None:
    path = folder / "tokenizer.json"
    if not path.exists():
        return
    source = json.loads(path.read_text())
    tokens, types = [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows
    for text, number in source["model"]["vocab"].items():
        tokens[number], types[number] = text, NORMAL
    for token in source["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in source["model"]["merges"]]
    writer.put("tokenizer.ggml.model", STRING, "gpt2")
    writer.put("tokenizer.ggml.pre", STRING, "glm4")
    writer.put("tokenizer.ggml.tokens", STRING, tokens)
    writer.put("tokenizer.ggml.token_type", I32, types)
    writer.put("tokenizer.ggml.merges", STRING, merges)
    template = folder / "chat_template.jinja"
    config = folder / "tokenizer_config.json"
    text = json.loads(config.read_text()).get("chat_template") if config.exists() else None
    if template.exists():
        text = template.read_text()
    if text:
        writer.put("tokenizer.chat_template", STRING, text)


def convert(folder, kind="") -> Writer:
    """kind: of the matrices, or a function of a matrix's number; "": as they are. Vectors become F32,
    as the converter has them."""
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    arch = {
        "GlmForCausalLM": "chatglm",
        "ChatGLMModel": "chatglm",
        "Glm4ForCausalLM": "glm4",
        "LlamaForCausalLM": "llama",
        "Qwen2ForCausalLM": "qwen2",
    }[config["architectures"][0]]
    writer = Writer()
    put_config(writer, arch, config)
    put_tokenizer(writer, folder, config.get("padded_vocab_size", config["vocab_size"]))
    if (config.get("rope_scaling") or {}).get("rope_type") == "llama3":
        factors = llama3_factors(config)
        writer.add("rope_freqs.weight", [len(factors)], "F32", factors.tobytes())
    matrices = 0
    for name, (shape, dtype, data) in read_tensors(folder).items():
        if name.endswith("inv_freq"):
            continue
        name = new_name(name)
        if arch == "llama" and name.split(".")[-2] in ("attn_q", "attn_k"):
            key = "num_attention_heads" if ".attn_q." in name else "num_key_value_heads"
            data = interleave(data, shape[0], config[key])
        if len(shape) == 1:
            wanted = "F32"
        else:
            wanted = (kind(matrices) if callable(kind) else kind) or dtype
            matrices += 1
        if wanted != dtype:
            data = from_floats(wanted, to_floats(dtype, data))
        writer.add(name, shape, wanted, data)
    return writer


if __name__ == "__main__":
    convert(sys.argv[1], "".join(sys.argv[3:])).write(sys.argv[2])
