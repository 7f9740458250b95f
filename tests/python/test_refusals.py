"""What is refused, by the library or the daemon, and the reason that comes with it."""

import os
import pickle
import time

import autoglm
from support import STORY, DaemonTest


class ArgumentTest(DaemonTest):
    def test_a_wrong_parameter_is_named(self):
        wrong = {
            "max_tokens": [0, -1, 2**32, 1.5, "many"],
            "temperature": [-0.1, 101, float("nan"), "hot"],
            "top_p": [0, 1.5, float("nan")],
            "min_p": [-0.1, 1],
            "top_k": [-1, 2**32],
            "seed": [-1, 2**64],
            "priority": [4, "urgent"],
            "stop": [range(5), [-1], ["x"]],
            "model": [2, -1],
            "timeout": [float("nan"), "soon"],
            "deadline_ns": [-1, 2**64],
            "output_bytes": [True],
            "continues": [-1],
        }
        keywords = {"stop": "stop_ids", "output_bytes": "logits"}
        for word, values in wrong.items():
            for value in values:
                with self.assertRaises(autoglm.InvalidArgument, msg=(word, value)) as caught:
                    self.client.submit([1], **{keywords.get(word, word): value})
                self.assertIsInstance(caught.exception, ValueError)
                self.assert_detail(caught.exception, word)
        with self.assertRaises(autoglm.InvalidArgument):
            self.client.submit([1], timeout=1, deadline_ns=1)
        with self.assertRaises(TypeError):
            self.client.submit([1], max_token=5)

    def test_a_wrong_model_is_answered_with_those_that_are_there(self):
        with self.assertRaises(autoglm.NotFound) as caught:
            self.client.submit([1], model="other")
        self.assertIsInstance(caught.exception, FileNotFoundError)
        self.assert_detail(caught.exception, "other", "echo", "ENOENT")
        self.assertRaises(autoglm.InvalidArgument, self.client.submit, [1], model="a\0b")

    def test_a_wrong_option_is_named(self):
        wrong = {
            "max_requests": [-1, 10**6, "all"],
            "prompt_tokens": [2**31],
            "output_bytes": [2**32, -1],
            "wait_mode": ["nap", 3],
            "timeout": [0, -1],
            "name": ["a\0b"],
        }
        for word, values in wrong.items():
            for value in values:
                with self.assertRaises(autoglm.InvalidArgument, msg=(word, value)) as caught:
                    self.daemon.connect(**{word: value})
                self.assert_detail(caught.exception, word)

    def test_where_no_daemon_is_the_error_names_the_place(self):
        nowhere = os.path.join(self.daemon.folder, "nowhere")
        with self.assertRaises(autoglm.NotFound) as caught:
            autoglm.Client(nowhere)
        self.assert_detail(caught.exception, nowhere)
        with self.assertRaises(autoglm.InvalidArgument):
            autoglm.Client("x" * 200)

    def test_an_error_can_be_sent_to_another_process(self):
        with self.assertRaises(autoglm.NotFound) as caught:
            self.client.submit([1], model="other")
        again = pickle.loads(pickle.dumps(caught.exception))
        self.assertIs(type(again), autoglm.NotFound)
        self.assertEqual(str(again), str(caught.exception))
        self.assertEqual(
            (again.errno, again.detail), (caught.exception.errno, caught.exception.detail)
        )


class RefusalTest(DaemonTest):
    flags = ("--model", f"story-glm={STORY}", "--running-max", "1", "--queue-requests", "1")

    def test_a_refusal_names_the_figures(self):
        cases = [([1] * 5000, "EMSGSIZE", ["5000", "1024"]), ([1, 1910], "EINVAL", ["1910"])]
        for prompt, name, words in cases:
            answer = self.client.generate(prompt, model="story-glm")
            with self.assertRaises(autoglm.Refused) as caught:
                next(answer)
            self.assert_detail(caught.exception, name, "story-glm", *words)
            self.assertIs(caught.exception.request, answer.request)
            self.assertEqual(caught.exception.done.reason, autoglm.DoneReason.REFUSED)
            self.assertIsNone(caught.exception.retry_after)
            again = pickle.loads(pickle.dumps(caught.exception))
            self.assertEqual((type(again), str(again)), (autoglm.Refused, str(caught.exception)))
            self.assertRaises(autoglm.Refused, next, answer)

    def test_a_full_queue_says_when_to_come_again(self):
        slow = {"model": "story-glm", "ignore_eos": True, "max_tokens": 900}
        running = self.client.generate([7], **slow)
        next(running)
        waiting = self.client.generate([7], **slow)
        refused = [self.client.submit([7], **slow) for _ in range(3)]
        for request in refused:
            with self.assertRaises(autoglm.Refused) as caught:
                next(request)
            self.assertGreater(caught.exception.retry_after, 0)
            self.assert_detail(caught.exception, "EAGAIN", "try again in")
        running.close()
        self.assertEqual(len([next(waiting) for _ in range(3)]), 3)

    def test_a_deadline_ends_the_answer_with_what_there_is(self):
        slow = {"model": "story-glm", "ignore_eos": True, "max_tokens": 1000}
        absolute = {"deadline_ns": time.monotonic_ns() + 50_000_000}
        for deadline in ({"timeout": 0.05}, absolute):
            tokens = []
            with self.assertRaises(autoglm.DeadlinePassed) as caught:
                tokens.extend(self.client.generate([7], **slow, **deadline))
            self.assertIsInstance(caught.exception, TimeoutError)
            self.assertLess(caught.exception.done.generated_tokens, 1000)
        blocked = self.client.generate([7], **slow)
        next(blocked)
        with self.assertRaises(autoglm.DeadlinePassed):
            next(self.client.generate([7], first_token_timeout=0.02, **slow))

    def test_a_higher_class_starts_first(self):
        client = self.connect()
        slow = {"model": "story-glm", "ignore_eos": True, "max_tokens": 900}
        running = client.generate([7], **slow)
        next(running)
        waiting = client.submit([7], priority="batch", **slow)
        waiting.set_priority(autoglm.Priority.HIGH)
        waiting.set_priority("realtime")
        self.assertRaises(autoglm.InvalidArgument, waiting.set_priority, "highest")
        running.close()
        next(waiting)
        waiting.cancel()
        waiting.wait(20)
        self.assertRaises(autoglm.NotFound, waiting.set_priority, "high")
