"""Writes reference.json beside a model: what the weights say, step by step, for other engines to be held against.

transformers computes it in float64 from the saved bfloat16 weights, with plain ("eager") attention. (Inside, transformers
still normalises, takes the softmax and makes the rotary angles in float32; the margins say how little that matters.) The
continuation is greedy over the ids that have a token, 64 ids long, and goes on behind an end id: "ends_at" is the index of the first one, or null.
"margins" is the gap between the two best logits at each step: where it is small, another engine may rightly differ,
and what follows is then no longer comparable.
"""
import argparse
import json
import os

import torch
from tokenizers import Tokenizer
from transformers import GlmForCausalLM

PROMPTS = [
    [("user", "Hello!")],
    [("user", "Tell me a story about a brave little fox.")],
    [("user", "What colour is the sky?")],
    [("user", "My name is Tom."), ("assistant", "Nice to meet you, Tom!"), ("user", "What is my name?")],
    [("system", "Your name is Pip."), ("user", "What is your name?")],
    [("user", "What is three plus four?")],
    [("user", "Can you tell me a story about a frog and a river?")],
    "Once upon a time, there was a",
    "",
]


def prompt_ids(tok, prompt):
    """GLM-4's chat format: the header's line break and the content are tokenized apart. Text is a plain completion."""
    special = {t.content: i for i, t in tok.get_added_tokens_decoder().items()}
    ids = [special["[gMASK]"], special["<sop>"]]
    if isinstance(prompt, str):
        return ids + tok.encode(prompt).ids
    for role, content in prompt:
        ids += [special[f"<|{role}|>"]] + tok.encode("\n").ids + tok.encode(content).ids
    return ids + [special["<|assistant|>"]]


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the model folder")
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tok = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    model = GlmForCausalLM.from_pretrained(args.model, dtype=torch.float64, attn_implementation="eager").eval()
    ends, known = model.config.eos_token_id, tok.get_vocab_size()
    cases = []
    for prompt in PROMPTS:
        ids = prompt_ids(tok, prompt)
        case = {"prompt": prompt if isinstance(prompt, str) else [{"role": r, "content": c} for r, c in prompt],
                "prompt_ids": ids, "ids": [], "margins": []}
        text, past = torch.tensor([ids]), None
        for step in range(args.tokens):
            out = model(text, past_key_values=past, use_cache=True)
            past, logits = out.past_key_values, out.logits[0, -1, :known]
            best = logits.topk(5)
            if step == 0:
                case["first_logits"] = {"ids": best.indices.tolist(), "values": [round(v, 6) for v in best.values.tolist()]}
            case["ids"].append(best.indices[0].item())
            case["margins"].append(round((best.values[0] - best.values[1]).item(), 5))
            text = best.indices[:1][None]
        case["ends_at"] = next((i for i, t in enumerate(case["ids"]) if t in ends), None)
        case["text"] = tok.decode(case["ids"][:case["ends_at"]], skip_special_tokens=False)
        cases.append(case)
    lines = ",\n".join("  " + json.dumps(c) for c in cases)
    with open(os.path.join(args.model, "reference.json"), "w") as f:
        f.write('{\n "about": "greedy continuations in float64; made by tools/train/reference.py",\n'
                f' "cases": [\n{lines}\n ]\n}}\n')
    for c in cases:
        print(f"{c['prompt']}\n   -> {c['text']!r}, smallest margin {min(c['margins'])}")


if __name__ == "__main__":
    main()
