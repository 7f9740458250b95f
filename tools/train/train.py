"""Trains story-glm, a GlmForCausalLM of about three and a half million parameters, and writes the model folder.

Reads what make_corpus.py wrote. The transformers class itself is trained, so what is saved is by construction what
transformers (and any engine that agrees with it) will run. Every few minutes the running average of the weights is
written to --out, so that a run that is stopped leaves a usable model behind.
"""
import argparse
import json
import math
import os
import random
import shutil
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import GlmConfig, GlmForCausalLM

LONGEST = 1024  # tokens of one document, and the model's context


def special_ids(tok):
    return {t.content: i for i, t in tok.get_added_tokens_decoder().items()}


def encode_documents(tok, documents, other_weight):
    """Token ids and loss weights. Chat is [gMASK]<sop>, then <|role|> "\\n" content; an answer ends with <|user|>."""
    ids = special_ids(tok)
    newline = tok.encode("\n").ids
    texts = (d["text"] if "text" in d else m["content"] for d in documents for m in d.get("messages", [None]))
    encoded = (tok.encode(t) for t in texts)
    out = []
    for document in documents:
        row, weight = [ids["[gMASK]"], ids["<sop>"]], [0.0, 0.0]
        if "text" in document:
            body = next(encoded).ids
            row += body + [ids["<|endoftext|>"]]
            weight += [1.0] * (len(body) + 1)
        else:
            for i, message in enumerate(document["messages"]):
                body = newline + next(encoded).ids
                # The role token after an answer is what ends that answer, so it counts fully.
                after_answer = i > 0 and document["messages"][i - 1]["role"] == "assistant"
                own = 1.0 if message["role"] == "assistant" else other_weight
                row += [ids[f"<|{message['role']}|>"]] + body
                weight += [1.0 if after_answer else 0.0] + [own] * len(body)
            row.append(ids["<|user|>"])
            weight.append(1.0)
        out.append((row[:LONGEST], weight[:LONGEST]))
    return out


def batches(documents, tokens, rng):
    """Endless batches of about `tokens` tokens; documents of like length go together, so little is padding."""
    while True:
        order = list(range(len(documents)))
        rng.shuffle(order)
        for start in range(0, len(order), 2000):
            part = sorted(order[start:start + 2000], key=lambda i: len(documents[i][0]))
            groups, group = [], []
            for i in part:
                if group and len(documents[i][0]) * (len(group) + 1) > tokens:
                    groups.append(group)
                    group = []
                group.append(i)
            groups.append(group)
            rng.shuffle(groups)
            for group in groups:
                yield collate([documents[i] for i in group])


def collate(rows):
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for r, (row, weight) in enumerate(rows):
        ids[r, :len(row)] = torch.tensor(row)
        weights[r, :len(row)] = torch.tensor(weight)
    return ids, weights


def loss_of(model, ids, weights):
    """Sum of weighted losses, and the sum of weights. Padding follows the text, so causality alone hides it."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    wanted = weights[:, 1:].flatten() > 0
    logits = model.lm_head(hidden.flatten(0, 1)[wanted]).float()
    loss = F.cross_entropy(logits, ids[:, 1:].flatten()[wanted], reduction="none")
    weight = weights[:, 1:].flatten()[wanted]
    return (loss * weight).sum(), weight.sum()


@torch.no_grad()
def held_out_loss(model, documents, limit=400):
    """Nats a token over the answers (and whole plain texts), in float32."""
    model.eval()
    total = count = 0.0
    documents = sorted(documents[:limit], key=lambda d: len(d[0]))
    for start in range(0, len(documents), 16):
        ids, weights = collate(documents[start:start + 16])
        loss, weight = loss_of(model, ids, (weights == 1.0).float())
        total, count = total + loss.item(), count + weight.item()
    model.train()
    return total / max(count, 1)


def save(model, tok, corpus, out):
    """The model folder: weights in bfloat16, written under another name first."""
    os.makedirs(out, exist_ok=True)
    tensors = {k: v.detach().bfloat16().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(tensors, os.path.join(out, "model.safetensors.new"), metadata={"format": "pt"})
    os.replace(os.path.join(out, "model.safetensors.new"), os.path.join(out, "model.safetensors"))
    c, ids = model.config, special_ids(tok)
    config = {"architectures": ["GlmForCausalLM"], "model_type": "glm", "attention_bias": True, "attention_dropout": 0.0,
              "eos_token_id": c.eos_token_id, "head_dim": c.head_dim, "hidden_act": "silu", "hidden_size": c.hidden_size,
              "initializer_range": c.initializer_range, "intermediate_size": c.intermediate_size,
              "max_position_embeddings": LONGEST, "num_attention_heads": c.num_attention_heads,
              "num_hidden_layers": c.num_hidden_layers, "num_key_value_heads": c.num_key_value_heads,
              "pad_token_id": c.pad_token_id, "partial_rotary_factor": 0.5, "rms_norm_eps": c.rms_norm_eps,
              "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
              "vocab_size": c.vocab_size}
    added = {str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                      "special": True} for t, i in ids.items()}
    template = ("[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
                "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    tokenizer_config = {"added_tokens_decoder": added, "additional_special_tokens": list(ids)[1:],
                        "chat_template": template, "clean_up_tokenization_spaces": False, "do_lower_case": False,
                        "eos_token": "<|endoftext|>", "model_max_length": LONGEST, "pad_token": "<|endoftext|>",
                        "padding_side": "left", "remove_space": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    for name, content in (("config", config), ("tokenizer_config", tokenizer_config)):
        with open(os.path.join(out, name + ".json"), "w") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
    shutil.copyfile(os.path.join(corpus, "tokenizer.json"), os.path.join(out, "tokenizer.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="the folder that make_corpus.py wrote")
    parser.add_argument("--out", required=True, help="the model folder")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=1e9, help="end earlier, with the schedule shortened to fit")
    parser.add_argument("--tokens", type=int, default=1536, help="in a batch")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--ffn", type=int, default=512)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--other-weight", type=float, default=0.1, help="loss weight of what the model does not say")
    parser.add_argument("--smollm2-repeats", type=int, default=3)
    parser.add_argument("--init", help="start from the weights in this model folder")
    parser.add_argument("--spread", type=float, default=0.04, help="noise added to the first embeddings")
    parser.add_argument("--short", type=int, default=110, help="at first, mostly documents up to this many tokens")
    parser.add_argument("--short-part", type=float, default=0.45, help="how much of the run that is")
    parser.add_argument("--fall", type=float, default=0.45, help="the part of the run in which the learning rate falls")
    parser.add_argument("--fp32", action="store_true", help="no bfloat16 in the matrix products")
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    tok = Tokenizer.from_file(os.path.join(args.corpus, "tokenizer.json"))
    ids = special_ids(tok)
    read = lambda name: [json.loads(line) for line in open(os.path.join(args.corpus, name + ".jsonl"))]
    records = read("train")
    records += [r for r in records if r["source"] == "smollm2"] * (args.smollm2_repeats - 1)
    train = encode_documents(tok, records, args.other_weight)
    held = {s: encode_documents(tok, [r for r in read("held_out") if r["source"] == s], args.other_weight)
            for s in ("grammar", "smollm2")}
    print(f"{len(train)} documents, {sum(len(d[0]) for d in train) / 1e6:.2f} M tokens", flush=True)

    end = ids["<|endoftext|>"]
    config = GlmConfig(vocab_size=-(-(tok.get_vocab_size() + 1) // 64) * 64, hidden_size=args.hidden,
                       intermediate_size=args.ffn, num_hidden_layers=args.layers, num_attention_heads=args.heads,
                       num_key_value_heads=args.kv_heads, head_dim=args.hidden // args.heads, attention_bias=True,
                       attention_dropout=0.0, max_position_embeddings=LONGEST, rms_norm_eps=1e-5, initializer_range=0.02,
                       tie_word_embeddings=True, pad_token_id=end, bos_token_id=None,
                       eos_token_id=[end, ids["<|user|>"], ids["<|observation|>"]], attn_implementation="sdpa")
    assert config.rope_parameters["rope_theta"] == 10000.0 and config.rope_parameters["partial_rotary_factor"] == 0.5
    model = GlmForCausalLM(config).float().train()
    if args.init:
        model.load_state_dict(GlmForCausalLM.from_pretrained(args.init, dtype=torch.float32).state_dict())
    with torch.no_grad():  # words that are used alike start out far enough apart to be told apart
        model.model.embed_tokens.weight.add_(torch.randn_like(model.model.embed_tokens.weight) * args.spread)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f} M parameters, vocabulary {config.vocab_size}", flush=True)

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    embedding = [p for n, p in model.named_parameters() if "embed" in n]
    small = [p for p in model.parameters() if p.ndim < 2]
    # Muon for the matrices: a model this small learns to copy names out of the prompt much sooner with it.
    optimizers = [torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW(embedding + small, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)]

    average = GlmForCausalLM(config).float()
    average.load_state_dict(model.state_dict())
    drills = batches([d for d, r in zip(train, records) if r["source"] == "drill"], args.tokens, rng)
    short = batches([d for d in train if len(d[0]) <= args.short], args.tokens, rng)
    whole, began, saved = batches(train, args.tokens, rng), time.time(), time.time()
    seen, recent = 0, 0.0
    step = 0
    while True:
        done = max(step / args.steps, (time.time() - began) / 60 / args.minutes)
        if done >= 1:
            break
        # Warm up, stay, and fall linearly to the end.
        lr = args.lr * min(1, (step + 1) / 60, max(0.02, (1 - done) / args.fall))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        # At first, two batches of three are drills and short documents: copying is learned there, and it takes longest.
        batch, weights = next([whole, short, drills][step % 3] if done < args.short_part else whole)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not args.fp32):
            loss, weight = loss_of(model, batch, weights)
        (loss / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        seen += int((weights.sum(1) > 0).sum()) * batch.shape[1]
        keep = min(0.99, step / (step + 20))  # a running average over about the last hundred steps
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.lerp_(p, 1 - keep)
        recent = 0.98 * recent + 0.02 * (loss / weight).item() if step > 1 else (loss / weight).item()
        if step % 50 == 0 or step == 10:
            print(f"step {step}: loss {recent:.3f}, lr {lr:.5f}, {seen / 1e6:.2f} M tokens, "
                  f"{seen / (time.time() - began):.0f} tokens/s, {(time.time() - began) / 60:.1f} min", flush=True)
        if time.time() - saved > 60 * args.save_minutes:
            saved = time.time()
            save(average, tok, args.corpus, args.out)
            print("held out: " + ", ".join(f"{s} {held_out_loss(average, d, 100):.4f}" for s, d in held.items()), flush=True)

    save(average, tok, args.corpus, args.out)
    average.load_state_dict({k: v.bfloat16().float() for k, v in average.state_dict().items()})
    for name, documents in held.items():
        loss = held_out_loss(average, documents)
        print(f"final held out, {name}: {loss:.4f} nats a token, perplexity {math.exp(loss):.3f}", flush=True)
    print(f"{step} steps, {seen / 1e6:.2f} M tokens, {(time.time() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
