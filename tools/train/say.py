"""Talks to a model folder with transformers in float32, to judge it by eye: a few fixed dialogues, or your own lines.

    python say.py ../../models/story-glm
    python say.py ../../models/story-glm --temperature 0 "My name is Tom." "What is my name?"
"""
import argparse
import os

import torch
from tokenizers import Tokenizer
from transformers import GlmForCausalLM

from reference import prompt_ids

DIALOGUES = [
    ["Hello!", "How are you?"], ["Hi, who are you?", "What can you do?"],
    ["Tell me a story about a brave little fox.", "What happened next?", "What was the name of the fox?"],
    ["What colour is the sky?", "What is the opposite of hot?", "How much is two plus three?"],
    ["My name is Tom.", "Where does a bear live?", "What is my name?"],
    ["Can you tell me a story about a girl who finds a key?", "Thank you!", "Goodbye!"],
    ["I have a dog named Rex.", "Tell me a joke.", "What is the name of my dog?"],
    ["What day comes after Monday?", "Name three animals.", "What is a river?"],
    ["Who is the president of Peru?", "How do I make tea?"], ["I am sad today.", "Yes, please."],
    ["Tell me a story about a dragon and a boat."], ["Write a story about a shy girl named Nina who helps an old man. It happens by the lake."],
]


@torch.inference_mode()
def answer(model, tok, ids, temperature, generator, longest=400):
    """The ids of one continuation, and the end id (None if it ran into the limit)."""
    out, past, text = [], None, torch.tensor([ids])
    for _ in range(longest):
        result = model(text, past_key_values=past, use_cache=True)
        past, logits = result.past_key_values, result.logits[0, -1, :tok.get_vocab_size()]
        new = (torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator).item() if temperature
               else logits.argmax().item())
        if new in model.config.eos_token_id:
            return out, new
        out.append(new)
        text = torch.tensor([[new]])
    return out, None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("lines", nargs="*", help="what the user says, turn by turn")
    parser.add_argument("--system")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", help="complete this text instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tok = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    model = GlmForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(args.seed)
    if args.plain is not None:
        out, end = answer(model, tok, prompt_ids(tok, args.plain), args.temperature, generator)
        print(args.plain + tok.decode(out), f"[{tok.id_to_token(end) if end else 'limit'}]")
        return
    for lines in [args.lines] if args.lines else DIALOGUES:
        messages = [("system", args.system)] if args.system else []
        for line in lines:
            messages.append(("user", line))
            out, end = answer(model, tok, prompt_ids(tok, messages), args.temperature, generator)
            text = tok.decode(out)
            print(f"user:  {line}\nmodel: {text.lstrip(chr(10))} [{tok.id_to_token(end) if end else 'limit'}]"
                  + ("" if text.startswith("\n") else "  (no line break first)"))
            messages.append(("assistant", text.lstrip("\n")))
        print()


if __name__ == "__main__":
    main()
