"""Sequences that are kept and continued."""

import autoglm
from support import STORY, DaemonTest, ids

FIRST, SECOND = list(range(10, 40)), list(range(50, 60))


class ConversationTest(DaemonTest):
    flags = ("--model", f"story-glm={STORY}", "--cache-type", "f32")

    def ask(self, prompt, **parameters) -> autoglm.Request:
        parameters = {"model": None if "continues" in parameters else "story-glm", **parameters}
        return self.client.submit(prompt, max_tokens=20, ignore_eos=True, **parameters)

    def test_a_continued_answer_is_that_to_the_whole_history(self):
        first = self.ask(FIRST, keep=True)
        history = FIRST + ids(first)
        self.assertEqual(first.state, autoglm.RequestState.KEPT)
        second = self.ask(SECOND, continues=first)
        continued = ids(second)
        self.assertEqual(continued, ids(self.ask(history + SECOND)))
        self.assertEqual(second.done.prompt_tokens, len(history) + len(SECOND))
        self.assertGreaterEqual(second.done.cached_tokens, len(history) - 1)
        self.assertIsNone(first.state)

    def test_without_a_prompt_of_its_own_the_answer_goes_on(self):
        whole = self.ask(FIRST)
        expected = ids(whole)
        half = self.client.submit(
            FIRST, model="story-glm", ignore_eos=True, max_tokens=10, keep=True
        )
        self.assertEqual(ids(half), expected[:10])
        rest = self.client.submit(
            [], continues=half.id, model="story-glm", ignore_eos=True, max_tokens=10
        )
        self.assertEqual(ids(rest), expected[10:])

    def test_an_interrupted_answer_can_be_continued_at_once(self):
        with self.client.generate(
            FIRST, model="story-glm", ignore_eos=True, max_tokens=900, keep=True
        ) as answer:
            next(answer)
        self.assertIsNone(answer.done)
        second = self.ask(SECOND, continues=answer.request)
        self.assertEqual(len(ids(second)), 20)
        self.assertEqual(answer.done.reason, autoglm.DoneReason.CANCELLED)
        sequence = answer.done.prompt_tokens + answer.done.generated_tokens + len(SECOND)
        self.assertEqual(second.done.prompt_tokens, sequence)

    def test_what_runs_or_is_not_kept_cannot_be_continued(self):
        running = self.client.submit([1, 2], max_tokens=30_000, keep=True)
        with self.assertRaises(autoglm.InvalidArgument) as caught:
            self.client.submit([3], continues=running)
        self.assert_detail(caught.exception, "has not ended")
        running.cancel()
        running.wait(20)
        ended = self.client.submit([1, 2], max_tokens=2)
        ended.wait(20)
        with self.assertRaises(autoglm.NotFound) as caught:
            self.client.submit([3], continues=ended)
        self.assert_detail(caught.exception, str(ended.id))
        other = self.connect()
        with self.assertRaises(autoglm.InvalidArgument):
            other.submit([3], continues=running)

    def test_what_is_forgotten_cannot_be_continued(self):
        first = self.ask(FIRST, keep=True)
        first.wait(20)
        first.forget()
        self.assertRaises(autoglm.NotFound, first.forget)
        self.assertRaises(autoglm.NotFound, self.ask, SECOND, continues=first)

    def test_where_everything_is_kept_there_is_no_room_until_something_is_forgotten(self):
        client = self.connect(max_requests=2)
        kept = [client.submit([n], max_tokens=1, keep=True) for n in (1, 2)]
        for request in kept:
            request.wait(20)
        for call in (client.submit, client.generate):
            with self.assertRaises(autoglm.NoRoom) as caught:
                call([3])
            self.assert_detail(caught.exception, "2 requests", "EAGAIN")
        kept[0].forget()
        self.assertEqual(ids(client.generate([3], max_tokens=2)), [3, 3])

    def test_the_state_of_a_request_is_known_on_its_way(self):
        request = self.client.submit([1, 2], max_tokens=4)
        self.assertEqual(request.state, autoglm.RequestState.SUBMITTED)
        next(request)
        self.assertEqual(self.client.request_state(request)[0], autoglm.RequestState.RUNNING)
        self.assertGreaterEqual(request.tokens_received, 1)
        self.assertEqual(len(list(request)), 3)
        self.assertIsNone(request.state)
        self.assertEqual(request.tokens_received, 4)
        self.assertRaises(autoglm.NotFound, self.client.request_state, request)
