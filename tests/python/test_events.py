"""Events one by one: poll(), wait(), an own loop over the descriptor, and beside iteration."""

import select
import time

import autoglm
from support import DaemonTest, ids


class EventsTest(DaemonTest):
    def drain(self, take, count: int = 1) -> list:
        """Events until so many requests are done."""
        events = []
        while count:
            event = take()
            events.append(event)
            count -= isinstance(event, autoglm.Done)
        return events

    def assert_whole(self, events, request, expected) -> None:
        mine = [event for event in events if event.request is request]
        self.assertIsInstance(mine[0], autoglm.Accepted)
        self.assertIsInstance(mine[-1], autoglm.Done)
        told = [event for event in mine[1:-1] if not isinstance(event, autoglm.Overflow)]
        self.assertTrue(all(isinstance(event, autoglm.Tokens) for event in told))
        index = 0
        for event in told:
            self.assertEqual(event.index, index)
            index += len(event.tokens)
        self.assertEqual([token.id for event in told for token in event.tokens], expected)

    def test_wait_gives_every_event_of_every_request(self):
        requests = [self.client.submit([n, n + 1], max_tokens=10) for n in range(8)]
        events = self.drain(lambda: self.client.wait(20), len(requests))
        for n, request in enumerate(requests):
            self.assert_whole(events, request, [n, n + 1] * 5)
        self.assertIsNone(self.client.poll())

    def test_what_came_while_another_request_was_read_is_not_lost(self):
        first = self.client.submit([1], max_tokens=200)
        second = self.client.submit([2, 3], max_tokens=20)
        self.assertEqual(ids(first), [1] * 200)
        self.assertEqual(second.wait(20).generated_tokens, 20)
        self.assert_whole(self.drain(lambda: self.client.wait(20)), second, [2, 3] * 10)
        self.assertIsNone(self.client.poll())

    def test_events_and_iteration_can_take_turns_on_one_request(self):
        request = self.client.submit([4], max_tokens=50)
        event = self.client.wait(20)
        while not isinstance(event, autoglm.Tokens):
            event = self.client.wait(20)
        self.assertEqual(len(event.tokens) + len(list(request)), 50)

    def test_events_of_a_request_that_was_left_are_not_told(self):
        def poll():
            event = self.client.poll()
            while event is None:
                event = self.client.poll()
            return event

        for take in (poll, lambda: self.client.wait(20)):
            left = self.client.generate([5], max_tokens=30_000)
            next(left)
            left.close()
            other = self.client.submit([6], max_tokens=5)
            events = self.drain(take)
            self.assertEqual({event.request for event in events}, {other})
            self.assert_whole(events, other, [6] * 5)
            self.assertEqual(left.request.wait(20).reason, autoglm.DoneReason.CANCELLED)

    def test_an_own_loop_sleeps_on_the_descriptor(self):
        poller = select.epoll()
        self.addCleanup(poller.close)
        poller.register(self.client.fileno(), select.EPOLLIN)
        self.assertIsNone(self.client.poll())
        for n in range(20):
            request = self.client.submit([n], max_tokens=30)
            events = []
            while request.done is None:
                event = self.client.poll()
                if event is None:
                    self.assertTrue(poller.poll(20), "no event in 20 s")
                else:
                    events.append(event)
            self.assert_whole(events, request, [n] * 30)

    def test_a_wait_ends_in_time(self):
        for timeout in (0, 0.05, -1):
            started = time.monotonic()
            with self.assertRaises(autoglm.TimedOut):
                self.client.wait(timeout)
            self.assertGreaterEqual(time.monotonic() - started, max(timeout, 0))
        self.assertRaises(autoglm.InvalidArgument, self.client.wait, float("nan"))
        request = self.client.submit([1], max_tokens=32_000)
        self.assertRaises(autoglm.TimedOut, request.wait, 0.01)
        request.cancel()
        self.assertEqual(request.wait(20).reason, autoglm.DoneReason.CANCELLED)

    def test_ends_that_have_come_make_room_by_themselves(self):
        client = self.connect(max_requests=2)
        for n in range(10):
            ended = self.client.status().requests_done + 2
            requests = [client.submit([n], max_tokens=4) for _ in range(2)]
            self.eventually(lambda: self.client.status().requests_done >= ended, "both have ended")
        self.assertEqual([ids(request) for request in requests], [[9] * 4] * 2)

    def test_no_room_is_an_error_that_passes_when_events_are_read(self):
        client = self.connect(max_requests=2)
        requests = [client.submit([n], max_tokens=30_000) for n in (1, 2)]
        with self.assertRaises(autoglm.NoRoom) as caught:
            client.submit([3])
        self.assertIsInstance(caught.exception, BlockingIOError)
        self.assert_detail(caught.exception, "EAGAIN")
        for request in requests:
            request.cancel()
            request.wait(20)
        self.assertEqual(ids(client.submit([3], max_tokens=2)), [3, 3])


class SlowReaderTest(DaemonTest):
    flags = ("--slow-reader-ms", "200")

    def test_who_never_reads_is_told_so(self):
        request = self.client.submit([1], max_tokens=30_000)
        time.sleep(1)
        with self.assertRaises(autoglm.ReadTooSlowly) as caught:
            list(request)
        self.assertEqual(caught.exception.done.reason, autoglm.DoneReason.OVERFLOW)

    def test_who_reads_late_is_told_so(self):
        request = self.client.submit([1], max_tokens=2_000)
        time.sleep(0.05)
        events = []
        while request.done is None:
            events.append(self.client.wait(20))
        if request.done.reason == autoglm.DoneReason.LENGTH:
            parked = [event for event in events if isinstance(event, autoglm.Overflow)]
            self.assertTrue(parked)
            self.assertGreater(parked[0].parked_ns, 0)
