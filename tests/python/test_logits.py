"""Logits: with the tokens, as events, and the memory they lie in."""

import gc
import math
import weakref

import autoglm
from support import STORY, DaemonTest, ids


class LogitsTest(DaemonTest):
    flags = ("--model", f"story-glm={STORY}")
    options = {"output_bytes": 1 << 20}

    def rows(self, count: int) -> list:
        request = self.client.submit([7], model="story-glm", max_tokens=count, logits=True)
        events = []
        while len(events) < count:
            event = self.client.wait(20)
            if isinstance(event, autoglm.Logits):
                self.assertEqual(event.index, len(events))
                self.assertIs(event.request, request)
                events.append(event)
        return events

    def test_each_token_brings_what_it_was_chosen_from(self):
        parameters = {"model": "story-glm", "max_tokens": 30, "ignore_eos": True}
        plain = list(self.client.generate([7], **parameters))
        tokens = list(self.client.generate([7], logits=True, **parameters))
        self.assertEqual(ids(tokens), ids(plain))
        for token in tokens:
            row = token.logits
            self.assertEqual((len(row), row.format, row.readonly), (1910, "f", True))
            self.assertEqual(max(range(len(row)), key=row.__getitem__), token.id)
            total = math.log(math.fsum(math.exp(x - row[token.id]) for x in row))
            self.assertAlmostEqual(-total, token.logprob, places=3)

    def test_requests_that_are_read_later_have_their_own_logits(self):
        requests = [
            self.client.submit([n], max_tokens=4, model="echo", logits=True) for n in (5, 6)
        ]
        for n, request in reversed(list(zip((5, 6), requests))):
            for token in request:
                self.assertEqual(token.logits[n], max(token.logits))
                self.assertEqual(token.logits[11 - n], -math.inf)

    def test_a_row_of_an_event_is_released_by_the_next_one(self):
        first, second = self.rows(2)
        self.assertRaises(ValueError, lambda: first.logits[0])
        if self.client._session._given is second.logits:
            self.assertEqual(len(second.logits.tolist()), 1910)
        self.client.close()
        self.assertRaises(ValueError, lambda: second.logits[0])

    def test_a_row_cannot_be_written_to(self):
        (event,) = self.rows(1)
        with self.assertRaises(TypeError):
            event.logits[0] = 1.0

    def test_what_was_made_from_a_row_stays_readable_behind_the_end(self):
        (event,) = self.rows(1)
        part, other = event.logits[10:20], memoryview(event.logits)
        del event
        self.client.close()
        self.assertEqual(len(part.tolist()), 10)
        del part
        gc.collect()
        self.assertTrue(self.client._session._close.alive)
        self.assertEqual(len(other.tolist()), 1910)
        del other
        gc.collect()
        self.assertFalse(self.client._session._close.alive)

    def test_a_forgotten_client_lives_as_long_as_a_part_of_its_memory(self):
        self.client = self.daemon.connect(**self.options)
        (event,) = self.rows(1)
        part, session = event.logits[:5], weakref.ref(self.client._session)
        self.client = event = None
        gc.collect()
        self.assertIsNotNone(session())
        self.assertEqual(len(part.tolist()), 5)
        del part
        gc.collect()
        self.assertIsNone(session())

    def test_without_room_for_them_the_error_names_the_option(self):
        client = self.connect()
        with self.assertRaises(autoglm.InvalidArgument) as caught:
            client.submit([1], logits=True)
        self.assert_detail(caught.exception, "output_bytes")
