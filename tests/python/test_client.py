"""The synchronous client against the real daemon: prompts and answers."""

import array
import ctypes

import autoglm
from autoglm import _abi, _prompt, _values
from support import STORY, DaemonTest, command_line, ids

PROMPT = [1, 403, 407]


class AnswerTest(DaemonTest):
    flags = ("--model", f"story-glm={STORY}")

    def test_the_tokens_are_those_of_the_command_line(self):
        for prompt in (PROMPT, [7], list(range(3, 90))):
            text = ",".join(map(str, prompt))
            expected = command_line(
                "run", "--socket", self.daemon.socket, "--model", "story-glm", "--ids", text,
                "-n", "60", "-t", "0", "--output", "ids",
            )  # fmt: skip
            tokens = list(self.client.generate(prompt, model="story-glm", max_tokens=60))
            self.assertEqual(ids(tokens), [int(word) for word in expected.split(",")])
            self.assertTrue(all(-50 < token.logprob <= 0 for token in tokens))

    def test_a_seed_gives_the_same_answer_again_and_another_one_does_not(self):
        def answer(seed):
            parameters = {"model": "story-glm", "temperature": 1.2, "max_tokens": 40}
            return ids(self.client.generate(PROMPT, seed=seed, **parameters))

        self.assertEqual(answer(5), answer(5))
        self.assertNotEqual(answer(5), answer(6))

    def test_every_parameter_of_sampling_arrives(self):
        def answer(**parameters):
            parameters = {"temperature": 3.0, "max_tokens": 30, "ignore_eos": True, **parameters}
            return ids(self.client.generate(PROMPT, model="story-glm", **parameters))

        greedy = answer(temperature=0)
        self.assertNotEqual(answer(), greedy)
        self.assertEqual(answer(top_k=1), greedy)
        self.assertEqual(answer(top_p=1e-6), greedy)
        self.assertEqual(answer(min_p=0.9999), greedy)
        stop = greedy[10]
        stopped = self.client.submit(
            PROMPT, model="story-glm", stop_ids=[stop], max_tokens=30, ignore_eos=True
        )
        self.assertEqual(ids(stopped), greedy[: greedy.index(stop)])
        self.assertEqual(stopped.done.reason, autoglm.DoneReason.STOP)

    def test_a_token_is_a_pair(self):
        for token in self.client.generate([9], model="echo", max_tokens=2):
            number, logprob = token
            self.assertEqual((number, logprob), (9, 0.0))
            self.assertEqual((token.id, token.logprob, token.logits), (9, 0.0, None))

    def test_the_end_tells_reason_and_figures(self):
        answer = self.client.generate([1, 2, 3], model="echo", max_tokens=5)
        self.assertIsNone(answer.done)
        self.assertEqual(ids(answer), [1, 2, 3, 1, 2])
        done = answer.done
        self.assertEqual(done.reason, autoglm.DoneReason.LENGTH)
        self.assertEqual((done.prompt_tokens, done.generated_tokens, done.error), (3, 5, 0))
        self.assertLess(abs(done.taken_ns - autoglm.now_ns()), 60e9)
        self.assertRaises(StopIteration, next, answer)

    def test_many_in_flight_are_read_in_any_order(self):
        client = self.connect(max_requests=64)
        requests = [client.submit([n, n + 1], model="echo", max_tokens=20) for n in range(64)]
        for n, request in reversed(list(enumerate(requests))):
            self.assertEqual(ids(request), [n, n + 1] * 10)
        turns = [client.submit([n], model="echo", max_tokens=9) for n in range(30)]
        for _ in range(9):
            self.assertEqual([next(request).id for request in turns], list(range(30)))

    def test_an_answer_to_a_full_ring_of_earlier_ones_is_waited_for(self):
        client = self.connect(max_requests=2)
        for n in range(40):
            client.submit([n], model="echo", max_tokens=4)
            self.assertEqual(ids(client.generate([n + 1], model="echo", max_tokens=4)), [n + 1] * 4)

    def test_models_and_status_are_those_of_the_daemon(self):
        echo, story = self.client.models()
        self.assertEqual((echo.name, echo.index, echo.eos_ids), ("echo", 0, ()))
        self.assertEqual((story.name, story.folder), ("story-glm", str(STORY)))
        self.assertEqual(story.vocab_size, 1910)
        self.assertTrue(story.eos_ids)
        self.assertEqual(self.client.model("story-glm").index, 1)
        self.assertEqual(self.client.model(1).name, "story-glm")
        self.assertEqual(self.client.model().name, "echo")
        status = self.client.status()
        self.assertEqual(status.state, autoglm.State.SERVING)
        self.assertEqual(status.daemon_pid, self.daemon.process.pid)
        self.assertEqual(status.instance, self.daemon.instance)
        status, models = autoglm.status_of(self.daemon.instance)
        self.assertEqual(status.daemon_pid, self.daemon.process.pid)
        self.assertEqual([model.name for model in models], ["echo", "story-glm"])
        with self.assertRaises(autoglm.NotFound):
            autoglm.status_of("nobody-of-that-name")
        with self.assertRaises(autoglm.InvalidArgument):
            autoglm.status_of(self.daemon.instance + "\0x")

    def test_every_field_of_the_header_is_there(self):
        def names(struct):
            return {name for name, _ in struct._fields_} - {"reserved"}

        self.assertEqual(
            names(_abi.agl_model) - {"eos_count"}, set(vars(self.client.model())) - {"index"}
        )
        self.assertEqual(names(_abi.agl_status), set(vars(self.client.status())))
        kinds = (_values.Accepted, _values.Tokens, _values.Logits, _values.Done, _values.Overflow)
        shown = {name for kind in kinds for name in kind.__dataclass_fields__}
        self.assertEqual(names(_abi.agl_event) - {"kind", "token_count", "logit_count"}, shown)

    def test_exact_times_come_on_request(self):
        for times in (False, True):
            request = self.client.submit([1], model="echo", max_tokens=1, times=times)
            event = self.client.wait(20)
            self.assertIsInstance(event, autoglm.Accepted)
            self.assertIs(event.request, request)
            self.assertEqual(event.published_ns > 0, times)
            self.assertEqual(len(list(request)), 1)


class PromptTest(DaemonTest):
    def echo(self, prompt) -> list:
        return ids(self.client.generate(prompt, max_tokens=3))

    def test_every_kind_of_integers_is_a_prompt(self):
        numbers = [7, 70_00, 65_535 - 1]
        kinds = [
            numbers,
            tuple(numbers),
            iter(numbers),
            (n for n in numbers),
            array.array("I", numbers),
            array.array("i", numbers),
            array.array("q", numbers),
            array.array("H", numbers),
            memoryview(array.array("I", numbers)),
            memoryview(array.array("I", numbers).tobytes()).cast("I"),
            (_abi.c_uint64 * 3)(*numbers),
            memoryview(array.array("I", [7, 0, 7000, 0, 65534, 0]))[::2],
            (_abi.c_uint32 * 3)(*numbers),
        ]
        for prompt in kinds:
            self.assertEqual(self.echo(prompt), numbers, repr(prompt))
        self.assertEqual(self.echo(range(5, 8)), [5, 6, 7])

    def test_integers_of_8_bits_are_ids_each(self):
        numbers = [7, 200, 3, 4, 9, 1, 2, 250]
        kinds = [
            array.array("B", numbers),
            memoryview(array.array("B", numbers)),
            (ctypes.c_uint8 * 8)(*numbers),
            list(bytes(numbers)),
        ]
        for prompt in kinds:
            self.assertEqual(ids(self.client.generate(prompt, max_tokens=8)), numbers, repr(prompt))
        self.assertRaises(autoglm.InvalidArgument, self.client.submit, array.array("b", [1, -1]))

    def test_arrays_of_numpy_are_ids_of_any_size(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("no numpy")
        for kind in ("u1", "i1", "u2", ">u2", "i4", "u4", ">u4", "i8", "u8"):
            for step in (1, 2):
                prompt = numpy.array([7, 100, 9, 10, 11, 12], dtype=kind)[::step]
                self.assertEqual(self.echo(prompt), [int(n) for n in prompt[:3]], repr(prompt))
        for kind in ("f4", "f8"):
            self.assertRaises(TypeError, self.client.submit, numpy.array([7, 8], dtype=kind))

    def test_a_buffer_of_ids_is_copied_in_one_piece(self):
        numbers = array.array("I", [1, 2, 3])
        for buffer in (numbers, memoryview(numbers), array.array("i", numbers)):
            base = buffer.obj if isinstance(buffer, memoryview) else buffer
            self.assertIs(_prompt.as_bytes(buffer).obj, base)
            self.assertEqual(self.echo(buffer), [1, 2, 3])
        many = array.array("I", range(30_000))
        answer = self.client.generate(many, max_tokens=2000)
        self.assertEqual(ids(answer), list(range(2000)))

    def test_a_place_that_is_used_again_holds_the_new_prompt(self):
        client = self.connect(prompt_tokens=64)
        for n in range(200):
            prompt = [n + i for i in range(1 + n % 60)]
            self.assertEqual(ids(client.generate(prompt, max_tokens=len(prompt))), prompt)

    def test_what_is_no_prompt_is_refused_with_a_reason(self):
        with self.assertRaisesRegex(TypeError, "Tokenizer"):
            self.client.submit("Hello")
        raw = array.array("I", [1, 2]).tobytes()
        for prompt in (raw, bytearray(raw), memoryview(raw), b"Hello", b""):
            with self.assertRaisesRegex(TypeError, "not bytes", msg=repr(prompt)):
                self.client.submit(prompt)
        for prompt in (array.array("f", [1]), (ctypes.c_char * 4)(b"1")):
            self.assertRaises(TypeError, self.client.submit, prompt)
        for prompt in ([1.5], ["a"], [None], 7, None):
            with self.assertRaises(TypeError, msg=repr(prompt)):
                self.client.submit(prompt)
        refused = [
            ([-1], "token id"),
            ([2**32], "token id"),
            ([], "prompt_tokens"),
        ]
        square = memoryview(array.array("I", range(4))).cast("B").cast("I", (2, 2))
        for prompt, word in [*refused, (square, "2 dimensions")]:
            with self.assertRaises(autoglm.InvalidArgument, msg=repr(prompt)) as caught:
                self.client.submit(prompt)
            self.assert_detail(caught.exception, word)
        with self.assertRaises(autoglm.Error) as caught:
            self.client.submit(range(32_769))
        self.assert_detail(caught.exception, "32769", "32768", "EMSGSIZE")
        self.assertEqual(self.echo([4]), [4, 4, 4])
