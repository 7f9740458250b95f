"""Makes the training text and the tokenizer: filters what SmolLM2 wrote, adds the grammar's stories and dialogues.

Writes to --out: train.jsonl and held_out.jsonl (a document a line: {"source", "messages"} or {"source", "text"}) and
tokenizer.json, a byte-level BPE learned from the training text.
"""
import argparse
import collections
import json
import os
import random
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dialogues import dialogue, drill
from stories import Story

# GLM-4's rule for splitting text before BPE.
GLM4_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
              r"\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
            "<|observation|>"]  # GLM-4's order


def clean(record):
    """The story as it is used, or None. SmolLM2 is small, too: much of what it writes is dropped."""
    text = record["text"].replace("\n\n", "\n").strip()
    text = re.sub(r"[ \n]+", " ", text)
    if record["kind"] != "story" or not text.isascii():
        return None
    ends = [m.end() for m in re.finditer(r'[.!?]"?(?= |$)', text)]
    if not ends:
        return None
    if not record["ended"]:  # it was cut off: keep whole sentences
        text = text[:ends[-1]]
    if text[-1] not in '.!?"' or text.count('"') % 2 or "'" in re.sub(r"\w'\w", "", text):
        return None
    if re.search(r'[a-z]"[a-zA-Z]|" ,|\." [a-z]+ed\.|\bAI\b|SmolLM|,"? "? *,|\? *\?|- ', text):
        return None
    words = re.findall(r"[a-z']+", text.lower())
    if not 45 <= len(words) <= 140:
        return None
    pairs = list(zip(words, words[1:]))
    sentences = [s.strip() for s in re.split(r'(?<=[.!?])"? ', text)]
    if len(set(pairs)) < 0.78 * len(pairs) or len(set(sentences)) < len(sentences):
        return None
    starts = collections.Counter(" ".join(s.split()[:2]) for s in sentences)
    if starts.most_common(1)[0][1] > max(3, len(sentences) // 2):  # "She had ... She had ... She had ..."
        return None
    if text.count(record["words"]["name"]) < 2 or text.count(" you ") > 6:  # lost its hero
        return None
    return text


def smollm2_documents(paths):
    kept, seen = [], 0
    for path in paths:
        for line in open(path):
            record = json.loads(line)
            seen += record["kind"] == "story"
            text = clean(record)
            if text:
                kept.append((record, text))
    spread = collections.Counter()
    for _, text in kept:
        spread.update(set(re.findall(r"[a-z']+", text.lower())))
    documents, held_out = [], []
    for record, text in kept:
        user = record["user"].replace("Write a short story", "Write a story")
        # A story with a word that no other story has is not learned from; such stories measure the model instead.
        rare = any(spread[w] < 2 for w in re.findall(r"[a-z']+", text.lower()))
        (held_out if rare else documents).append(
            ({"source": "smollm2", "text": text}, {"source": "smollm2", "messages": [
                {"role": "user", "content": user}, {"role": "assistant", "content": text}]}))
    print(f"SmolLM2: {seen} stories, {len(kept)} pass the filter, {len(held_out)} of them held out")
    return documents, held_out


def make_tokenizer(texts, size):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GLM4_SPLIT), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False,
                                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    return tok


def texts_of(document):
    return [document["text"]] if "text" in document else [m["content"] for m in document["messages"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", nargs="+", required=True, help="what sample_smollm2.py wrote")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dialogues", type=int, default=30000)
    parser.add_argument("--stories", type=int, default=4000)
    parser.add_argument("--drills", type=int, default=8000)
    parser.add_argument("--bpe", type=int, default=1900, help="entries before the ten special tokens")
    parser.add_argument("--tokenizer", help="take this tokenizer.json instead of learning one")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    rng = random.Random(args.seed)

    groups, smollm2_held_out = smollm2_documents(args.smollm2)
    train, held_out = [d for g in groups for d in g], [d for g in smollm2_held_out for d in g]
    grammar = [{"source": "grammar", "messages": dialogue(rng, longest=rng.choice([None] * 30 + [12]))}
               for _ in range(args.dialogues)]
    grammar += [{"source": "grammar", "text": Story(rng).text} for _ in range(args.stories)]
    rng.shuffle(grammar)
    for i, document in enumerate(grammar):
        (train if i % 50 else held_out).append(document)
    train += [{"source": "drill", "messages": drill(rng)} for _ in range(args.drills)]
    for name, documents in (("train", train), ("held_out", held_out)):
        with open(os.path.join(args.out, name + ".jsonl"), "w") as f:
            f.writelines(json.dumps(d) + "\n" for d in documents)

    # The vocabulary is learned from all of SmolLM2's words, but only a part of the grammar's, which repeat themselves.
    sample = [t for d in train if d["source"] == "smollm2" for t in texts_of(d)]
    sample += [t for d in [d for d in train if d["source"] == "grammar"][:12000] for t in texts_of(d)]
    tok = Tokenizer.from_file(args.tokenizer) if args.tokenizer else make_tokenizer(sample, args.bpe)
    tok.save(os.path.join(args.out, "tokenizer.json"))
    for source in ("smollm2", "grammar"):
        texts = [t for d in train if d["source"] == source for t in texts_of(d)]
        some = texts[:5000]
        tokens = sum(len(e.ids) for e in tok.encode_batch(some)) * len(texts) / max(1, len(some))
        print(f"{source}: {len(texts)} texts, {sum(map(len, texts))} characters, about {tokens / 1e6:.2f} M tokens")


if __name__ == "__main__":
    main()
