"""The held-out loss of a model folder: nats a token over what the model itself says (answers, and whole plain texts).

    python evaluate.py --model ../../models/story-glm --corpus FOLDER [--corpus FOLDER ...]

takes every document of held_out.jsonl in the folders that make_corpus.py wrote, in float32, from the saved weights.
"""
import argparse
import json
import math
import os

import torch
from tokenizers import Tokenizer
from transformers import GlmForCausalLM

from train import encode_documents, held_out_loss


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--limit", type=int, default=1000, help="documents of each source")
    args = parser.parse_args()
    tok = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    model = GlmForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    records = [json.loads(line) for folder in args.corpus for line in open(os.path.join(folder, "held_out.jsonl"))]
    for source in sorted({r["source"] for r in records}):
        documents = encode_documents(tok, [r for r in records if r["source"] == source][:args.limit], 0.1)
        loss = held_out_loss(model, documents, args.limit)
        print(f"{source}: {len(documents)} documents, {loss:.4f} nats a token, perplexity {math.exp(loss):.3f}")


if __name__ == "__main__":
    main()
