"""Models as GGUF files against the same models in their own format: every architecture, every type,
whole and in parts; and models quantised at load."""

import os
import shutil
import tempfile
import unittest

import autoglm
import gguf_writer
from support import ROOT, STORY, Daemon, command_line, ids

MODELS = ROOT / "tests" / "data" / "models"
# llama's rows are in another order, so that its sums round otherwise; the rest is bit for bit.
PERMUTED = ("llama", "llama3")
NAMES = ("glm", "glm-f16", "glm-bf16", "glm-edge", "glm4", "glm4-yarn", "qwen2", "qwen2-sharded", "chatglm")
PROMPT = [3, 17, 80, 5, 5, 61, 2, 44, 9, 30, 77, 12]
HELLO = [1902, 1904, 1907, 198, 514, 0, 1908]


def answer(client, model: str, prompt: list, count: int) -> tuple:
    parameters = {"model": model, "max_tokens": count, "ignore_eos": True, "logits": True}
    tokens = list(client.generate(prompt, **parameters))
    return ids(tokens), [list(token.logits) for token in tokens]


class FolderTest(unittest.TestCase):
    """Tests with a folder of files of their own, and a daemon that reads them."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="autoglm-gguf-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)

    @classmethod
    def path(cls, name: str) -> str:
        return os.path.join(cls.folder, name)

    @classmethod
    def make(cls, folder, name: str, kind="") -> str:
        gguf_writer.convert(folder, kind).write(cls.path(name))
        return cls.path(name)


class ArchitectureTest(FolderTest):
    def answers_of_both(self, name: str) -> list:
        """What the model says from its folder and from a file made of it."""
        file = self.make(MODELS / name, f"{name}.gguf")
        daemon = Daemon("--cache-type", "f32", models=(f"own={MODELS / name}", f"gguf={file}"))
        try:
            with daemon.connect(output_bytes=1 << 20) as client:
                own, other = client.models()
                self.assertEqual(other.context_tokens, own.context_tokens)
                self.assertEqual(other.vocab_size, own.vocab_size)
                self.assertEqual(sorted(other.eos_ids), sorted(own.eos_ids))
                return [answer(client, model, PROMPT, 24) for model in ("own", "gguf")]
        finally:
            daemon.stop()

    def test_every_architecture_computes_the_same_from_either_file(self):
        for name in NAMES:
            with self.subTest(name):
                own, other = self.answers_of_both(name)
                self.assertEqual(other, own)

    def test_llamas_permuted_rows_turn_as_pairs_of_neighbours(self):
        for name in PERMUTED:
            with self.subTest(name):
                (own, own_rows), (other, other_rows) = self.answers_of_both(name)
                self.assertEqual(other, own)
                for own_row, other_row in zip(own_rows, other_rows):
                    worst = max(abs(a - b) for a, b in zip(own_row, other_row))
                    self.assertLess(worst, 1e-5 * max(map(abs, own_row)))


class StoryTest(FolderTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        models = [f"story={STORY}"]
        for kind in ("F32", "F16", "BF16"):
            models.append(f"{kind}={cls.make(STORY, kind + '.gguf', kind)}")
        gguf_writer.convert(STORY).write_split(cls.path("parts"), 3)
        models.append(f"split={cls.path('parts-00001-of-00003.gguf')}")
        cls.daemon = Daemon("--cache-type", "f32", models=models)
        cls.addClassCleanup(cls.daemon.stop)

    def setUp(self):
        self.client = self.daemon.connect(output_bytes=1 << 22)
        self.addCleanup(self.client.close)

    def test_it_answers_the_same_in_every_type(self):
        own, _ = answer(self.client, "story", HELLO, 60)
        for kind in ("F32", "F16", "BF16", "split"):
            self.assertEqual(answer(self.client, kind, HELLO, 60)[0], own, kind)

    def test_padding_is_never_sampled_and_stops_are_the_same(self):
        for model in self.client.models():
            self.assertEqual(model.vocab_size, 1910, model.name)
            self.assertEqual(sorted(model.eos_ids), [1900, 1907, 1909], model.name)

    def test_text_goes_through_the_tokenizer_in_the_file(self):
        said = {}
        for model in ("story", "F16", "split"):
            said[model] = command_line(
                "run", "--socket", self.daemon.socket, "--model", model, "-t", "0", "-n", "40",
                "Tell me a story about a little fox.",
            )  # fmt: skip
        self.assertEqual(set(said.values()), {said["story"]})

    def test_the_tokenizer_in_the_file_is_the_folders(self):
        own, other = autoglm.Tokenizer(STORY), autoglm.Tokenizer(self.path("F16.gguf"))
        for text in ("Hello, world", "  two  blanks\n\n", "déjà vu 你好 1234567", "<|user|> as text"):
            self.assertEqual(other.encode(text), own.encode(text))
        self.assertEqual(len(other), len(own))
        self.assertEqual(other.chat_format, own.chat_format)
        self.assertEqual(other.chat([("user", "Hi")]), own.chat([("user", "Hi")]))
        self.assertTrue(other.is_special(1907))


def distance(rows: list, others: list) -> float:
    """How far logits are from others, as a share of their spread."""
    worst = 0.0
    for row, other in zip(rows, others):
        mean = sum(row) / len(row)
        spread = sum((a - mean) ** 2 for a in row)
        worst = max(worst, (sum((a - b) ** 2 for a, b in zip(row, other)) / spread) ** 0.5)
    return worst


class QuantisedTest(FolderTest):
    """What is said of the story model when its weights are quantised, by the file or at load."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Matrices take the types in turn: every type has some of them.
        kinds = [kind for kind in gguf_writer.TYPES if kind in gguf_writer.BLOCKS]
        cls.models = (
            f"own={STORY}",
            f"q8={cls.make(STORY, 'q8.gguf', 'Q8_0')}",
            f"all={cls.make(STORY, 'all.gguf', lambda number: kinds[number % len(kinds)])}",
        )

    def serve(self, *flags: str):
        daemon = Daemon("--cache-type", "f32", *flags, models=self.models)
        self.addCleanup(daemon.stop)
        client = daemon.connect(output_bytes=1 << 22)
        self.addCleanup(client.close)
        return daemon, client

    def test_a_file_in_q8_0_is_the_model_quantised_at_load(self):
        daemon, client = self.serve("--quant", "q8")
        self.assertEqual(answer(client, "q8", HELLO, 60), answer(client, "own", HELLO, 60))
        self.assertIn("q8 ", daemon.log())
        own, q8, _ = client.models()
        # Norms and biases are F32 in the file, BF16 in the folder.
        self.assertAlmostEqual(own.bytes_per_token, q8.bytes_per_token, delta=0.01 * q8.bytes_per_token)

    def test_every_quantised_type_loads_and_stays_near(self):
        daemon, client = self.serve()
        said, rows = answer(client, "own", HELLO, 1)
        near, near_rows = answer(client, "q8", HELLO, 1)
        other, other_rows = answer(client, "all", HELLO, 1)
        self.assertEqual((near, other), (said, said))
        self.assertLess(distance(rows, near_rows), 0.02)
        self.assertLess(distance(rows, other_rows), 0.15)
        for name in ("q4_super", "q4_min", "q4 ", "q8_halves", "q8_super", "q8_min", "q8 ", "f32"):
            self.assertIn(name, daemon.log())
        self.assertEqual(len(answer(client, "all", HELLO, 60)[0]), 60)

    def test_every_way_of_quantising_stays_near_in_its_measure(self):
        near = {"q8": 0.02, "q8_min": 0.03, "q4": 0.25, "q4_min": 0.25}
        bytes_per_token = {}
        for quant, limit in near.items():
            with self.subTest(quant):
                _, client = self.serve("--quant", quant, "--quant-head", "quant", "--quant-embedding", "quant")
                own, *_ = client.models()
                bytes_per_token[quant] = own.bytes_per_token
                _, quantised = answer(client, "own", HELLO, 1)
                _, whole = self.serve()
                self.assertLess(distance(answer(whole, "own", HELLO, 1)[1], quantised), limit)
        self.assertLess(bytes_per_token["q4"], 0.55 * bytes_per_token["q8"])
