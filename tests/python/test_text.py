"""Text to ids and back against the command line, and what it costs to be wrong."""

import array
import gc
import json
import pathlib
import tempfile
import threading
import unittest
import weakref

import autoglm
from support import ROOT, STORY, command_line, command_line_ids

TEXTS = [
    "Hello",
    "Tell me a story about a little fox.",
    "",
    " \n\t",
    "naïve café — 你好 🦊",
    "<|user|>",
    "a\0b",
]
MESSAGES = [
    ("system", "Be brief."),
    ("user", "Hello <|user|> 🦊"),
    ("assistant", "Hi."),
    ("user", "Bye."),
]


class TokenizerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = autoglm.Tokenizer(STORY)

    def test_text_becomes_the_ids_of_the_command_line_and_text_again(self):
        for text in TEXTS:
            numbers = self.tokenizer.encode(text)
            expected = command_line_ids("tokenize", "--tokenizer", str(STORY), text=text)
            self.assertEqual(numbers.tolist(), expected)
            self.assertEqual(self.tokenizer.decode(numbers), text)
            self.assertEqual(self.tokenizer.decode(numbers.tolist()), text)
            self.assertEqual(self.tokenizer.encode(text.encode()), numbers)
        self.assertIsInstance(numbers, array.array)
        self.assertEqual(numbers.typecode, "I")

    def test_a_long_text_fits(self):
        text = "a fox and 狐 " * 20_000
        self.assertEqual(self.tokenizer.decode(self.tokenizer.encode(text)), text)

    def test_known_vocabularies_give_their_references(self):
        folder = ROOT / "tests" / "data" / "tokenizer"
        for cases in sorted(folder.glob("*.cases.json")):
            tokenizer = autoglm.Tokenizer(
                cases.with_name(cases.name.replace(".cases.", ".tokenizer."))
            )
            held = 0
            for case in json.loads(cases.read_text())["cases"]:
                if "text" in case and "ids" in case:
                    self.assertEqual(tokenizer.encode(case["text"]).tolist(), case["ids"])
                    held += 1
            self.assertGreater(held, 20, cases.name)

    def test_messages_become_the_ids_of_the_command_line(self):
        mappings = [{"role": role, "content": content} for role, content in MESSAGES]
        expected = command_line_ids(
            "tokenize", "--tokenizer", str(STORY), "--chat", text=json.dumps(mappings)
        )
        self.assertEqual(self.tokenizer.chat(MESSAGES).tolist(), expected)
        self.assertEqual(self.tokenizer.chat(mappings).tolist(), expected)
        self.assertLess(len(self.tokenizer.chat(MESSAGES, generate=False)), len(expected))
        turn = self.tokenizer.chat(MESSAGES[-1:], continues=True)
        self.assertNotEqual(turn, self.tokenizer.chat(MESSAGES[-1:]))

    def test_what_is_no_message_is_refused(self):
        wrong = [
            ("user",),
            "Hello",
            ("user", 5),
            {"role": "user"},
            ("user", "a\0b"),
            7,
            ("nobody", "Hello"),
        ]
        for message in wrong:
            with self.assertRaises(autoglm.InvalidArgument, msg=repr(message)):
                self.tokenizer.chat([message])

    def test_the_chat_format_can_be_chosen(self):
        tokenizer = autoglm.Tokenizer(STORY)
        first = tokenizer.chat_format
        self.assertTrue(first)
        with self.assertRaises(autoglm.NotFound):
            tokenizer.chat_format = "nonsense"
        with self.assertRaises(autoglm.Error):
            tokenizer.chat_format = "chatml"  # its vocabulary lacks the tokens
        tokenizer.chat_format = first
        self.assertEqual(tokenizer.chat_format, first)

    def test_special_tokens_are_known_by_name_and_give_no_text_in_a_stream(self):
        user = self.tokenizer.special_id("<|user|>")
        self.assertTrue(self.tokenizer.is_special(user))
        self.assertEqual(self.tokenizer.token_bytes(user), b"<|user|>")
        self.assertEqual(self.tokenizer.decode([user]), "<|user|>")
        hello = self.tokenizer.encode("Hello")
        self.assertFalse(self.tokenizer.is_special(hello[0]))
        self.assertEqual("".join(self.tokenizer.stream([user, *hello, user])), "Hello")
        self.assertRaises(autoglm.NotFound, self.tokenizer.special_id, "<|nobody|>")

    def test_a_stream_never_gives_half_a_character(self):
        text = "狐 🦊 naïve"
        numbers = self.tokenizer.encode(text)
        self.assertGreater(len(numbers), len(text))
        detokenizer = autoglm.Detokenizer(self.tokenizer)
        pieces = [detokenizer.push(number) for number in numbers]
        self.assertIn("", pieces)
        self.assertEqual("".join(pieces) + detokenizer.finish(), text)
        cut = [detokenizer.push(number) for number in self.tokenizer.encode("🦊")[:-1]]
        self.assertEqual("".join(cut) + detokenizer.finish(), "\ufffd")
        cut = self.tokenizer.encode("🦊")[:-1]
        self.assertEqual("".join(self.tokenizer.stream(cut)), "\ufffd")

    def test_tokens_are_taken_where_ids_are(self):
        tokens = [autoglm.Token(number, -1.0) for number in self.tokenizer.encode("A fox.")]
        self.assertEqual(self.tokenizer.decode(tokens), "A fox.")
        self.assertEqual("".join(self.tokenizer.stream(tokens)), "A fox.")
        joined = b"".join(self.tokenizer.token_bytes(token) for token in tokens)
        self.assertEqual(joined, b"A fox.")

    def test_ids_that_no_token_has_are_refused(self):
        for number in (len(self.tokenizer), 2**32 - 1, 2**32, -1):
            for call in (lambda n: self.tokenizer.decode([n]), self.tokenizer.token_bytes,
                         autoglm.Detokenizer(self.tokenizer).push):  # fmt: skip
                self.assertRaises(autoglm.InvalidArgument, call, number)
        self.assertRaises(autoglm.InvalidArgument, self.tokenizer.token_bytes, "Hello")

    def test_a_file_that_is_no_tokenizer_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaises(autoglm.NotFound) as caught:
                autoglm.Tokenizer(folder)
            self.assertIn(folder, str(caught.exception))
            broken = pathlib.Path(folder, "tokenizer.json")
            broken.write_text("{")
            with self.assertRaises(autoglm.InvalidArgument) as caught:
                autoglm.Tokenizer(broken)
            self.assertIn("tokenizer.json", str(caught.exception))

    def test_a_detokenizer_outlives_the_name_of_its_tokenizer(self):
        tokenizer = autoglm.Tokenizer(STORY)
        numbers = tokenizer.encode("A fox.")
        detokenizer = autoglm.Detokenizer(tokenizer)
        alive = weakref.ref(tokenizer)
        del tokenizer
        gc.collect()
        self.assertIsNotNone(alive())
        self.assertEqual("".join(map(detokenizer.push, numbers)), "A fox.")
        del detokenizer
        gc.collect()
        self.assertIsNone(alive())

    def test_many_threads_use_one_at_once(self):
        expected = [self.tokenizer.encode(text) for text in TEXTS]
        wrong = []

        def work():
            for _ in range(200):
                if [self.tokenizer.encode(text) for text in TEXTS] != expected:
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class AnswerTextTest(unittest.TestCase):
    def test_an_answer_is_the_text_of_the_command_line(self):
        from support import Daemon

        daemon = Daemon("--model", f"story-glm={STORY}")
        self.addCleanup(daemon.stop)
        question = "Tell me a story about a cat."
        arguments = ("--socket", daemon.socket, "--model", "story-glm", "-t", "0.8", "--seed", "5")
        expected = command_line("run", *arguments, "-n", "60", question)
        with daemon.connect() as client:
            tokenizer = autoglm.Tokenizer(client.model("story-glm").folder)
            prompt = tokenizer.chat([("user", question)])
            answer = client.generate(
                prompt, model="story-glm", temperature=0.8, seed=5, max_tokens=60
            )
            text = "".join(tokenizer.stream(answer))
        self.assertEqual(text.strip(), expected.strip())
        self.assertGreater(len(text), 40)
