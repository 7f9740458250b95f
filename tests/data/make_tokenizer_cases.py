#!/usr/bin/env python3
"""Makes tests/data/tokenizer/*.json: for each splitting rule a small byte-level vocabulary of our
own, trained on the text below, and cases whose ids come from the Python package `tokenizers`.

Each NAME.tokenizer.json is a tokenizer.json as Hugging Face writes it; NAME.cases.json holds texts
with their ids (no special tokens are parsed in a text, none are added). Run it anywhere with
`tokenizers` 0.20 or newer installed; the files are the same each time.
"""
import json
import pathlib
import random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FOLDER = pathlib.Path(__file__).parent / "tokenizer"

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's what they've said, isn't it? We'll see, I'm sure he'd go.",
    "IT'S WHAT THEY'VE SAID, WE'LL SEE, I'M SURE HE'D GO AND YOU'RE THERE TOO.",
    "int main(void)\n{\n    for (int i = 0; i < 100; i++)\n        printf(\"%d\\n\", i * 12345);\n    return 0;\n}\n\n",
    "In 2024 there were 1,234,567 of them; 3.14159 is not 22/7. Call 0800 123456 now!!! ...",
    "你好，世界。今天天气很好，我们一起去公园吧。你好你好世界世界",
    "Größe, naïve café, e\u0301te\u0301, Ångström, ñandú, Straße, Füße; Привет, мир! Γειά σου Κόσμε. مرحبا",
    "🙂🙂👍🏽 emoji and\ttabs\t\tand  two   three    blanks   \n\n\n  and lines\r\n\r\n",
] * 4

MODERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
FOLDED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
SPELLED = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|"
GLM_SPECIAL = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
               "<|assistant|>", "<|observation|>"]


def split(regex):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), byte_level])


def plain():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


RULES = {
    # name: pre-tokenizer, NFC, ignore_merges, special tokens
    "glm4": (split(FOLDED + MODERN % r"\p{N}{1,3}"), False, True, GLM_SPECIAL),
    "llama3": (split(SPELLED + MODERN % r"\p{N}{1,3}"), False, False, ["<|begin_of_text|>"]),
    "qwen2": (split(FOLDED + MODERN % r"\p{N}"), True, False, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    "gpt2": (plain(), False, False, ["<|endoftext|>"]),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain()]), False, False,
               ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
}

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\r\n", "\t", "\t\n x", "   \t\n x", "a", " a", "  a", "a ", "a  ",
    "hello world", "Hello  World\n\n\nagain", "I'M we'Re 'LL 's 'T", "'\u017fa x'\u017fb", "it's they'll I'd we've you're",
    "12345 67", " 1", "  12", "1 2  3", "\u00bd\u216b\u0663\u00b2 1\u00bd", "a1b22c333d4444", "!!!", " !?\n\n", "...\r\n\n x", "_-_",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u3000\u4f60", "a\u3000\u3000b", "\u00a0x", "a\u0085b", "\u2028\u2029", "a\u180eb",
    "e\u0301", "\u00e9", "\u0344", "\u212b", "\u1112\u1161\u11ab", "a\u0316\u0301", "a\u0301\u0316", "\uac00\u11a8",
    "\U0001f642\U0001f44d\U0001f3fd", "<|user|>\nhi", "<|im_start|>user", "[gMASK]<sop>", "<|endoftext|>", "\x01\x7f",
    "\u0130\u0131\u1e9e\ufb06", "x" * 70, " " * 33 + "z", "\n" * 20, "ab" * 60, "\u4e16\u754c" * 30, "1" * 20,
]


def random_text(source):
    pieces = ["'s", "'S", "'\u017f", "'ll", "'Re", "'", " ", "  ", "\n", "\r\n", "\t", "\u3000", "\xa0", "\x85", "1", "12",
              "1234", "\u00bd", "the", " The", "world", "\u4f60\u597d", "\U0001f642", "e\u0301", "\u00e9", "!!", "...", "_",
              "\u0130", "\ufeff", "caf\u00e9", "\u041f\u0440\u0438\u0432\u0435\u0442", "<|user|>"]
    return "".join(source.choice(pieces) * source.choice([1, 1, 1, 2, 5]) for _ in range(source.randrange(1, 16)))


def make(name, pre_tokenizer, nfc, ignore_merges, special):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=640, special_tokens=[], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(CORPUS, trainer)

    # The ids of plain text are taken before there are special tokens, which `tokenizers` would parse.
    source = random.Random(name)
    texts = TEXTS + [random_text(source) for _ in range(40)]
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(["<think>"])

    root = json.loads(tokenizer.to_str())
    if name in ("gpt2", "llama3"):  # merges as older files spell them
        root["model"]["merges"] = [" ".join(merge) for merge in root["model"]["merges"]]
    write(FOLDER / f"{name}.tokenizer.json", root)
    write(FOLDER / f"{name}.cases.json", {"cases": cases})


def write(path, root):
    path.write_text(json.dumps(root, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for rule_name, rule in RULES.items():
        make(rule_name, *rule)
