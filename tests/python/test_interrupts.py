"""Handlers of signals and other threads in the middle of a call, and words of a newer library."""

import os
import random
import signal
import sys
import threading
import time
from unittest import mock

import autoglm
from autoglm import _abi, _session
from autoglm._library import lib
from support import DaemonTest, ids

PACKAGE = os.path.dirname(autoglm.__file__)


class HandlerTest(DaemonTest):
    """A handler may close the client at any point of any call: nothing breaks, nothing stays."""

    def run_until(self, point: int, call) -> bool:
        """Calls with a signal at that point of the package's code; whether the call came so far."""
        passed = 0

        def trace(frame, event, _):
            nonlocal passed
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes = True
            passed += event == "opcode"
            if passed == point:
                sys.settrace(None)
                signal.raise_signal(signal.SIGUSR1)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        except autoglm.Closed:
            pass
        finally:
            sys.settrace(before)
        return passed >= point

    def close_everywhere(self, prepare) -> None:
        """prepare(client) gives the call."""
        clients = []
        before = signal.signal(signal.SIGUSR1, lambda *_: clients[-1].close())
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        descriptors = len(os.listdir("/proc/self/fd"))
        point = 1
        while True:
            client = self.daemon.connect(output_bytes=1 << 20)
            clients.append(client)
            came = self.run_until(point, prepare(client))
            self.assertEqual(client.closed, came)
            client.close()
            self.assertEqual(len(os.listdir("/proc/self/fd")), descriptors)
            if not came:
                break
            point += 1
        self.assertGreater(point, 10)

    def test_while_it_submits(self):
        self.close_everywhere(lambda client: lambda: client.submit([1, 2, 3], max_tokens=3))

    def test_while_it_reads(self):
        def prepare(client):
            request = client.submit([5], max_tokens=1, logits=True)
            return lambda: list(request)

        self.close_everywhere(prepare)

    def test_while_it_waits_or_looks(self):
        def prepare(client):
            def call():
                try:
                    client.wait(0)
                except autoglm.TimedOut:
                    client.poll()

            return call

        self.close_everywhere(prepare)

    def test_while_it_leaves_an_answer(self):
        def prepare(client):
            answer = client.generate([5], max_tokens=30_000)
            next(answer)
            return answer.close

        self.close_everywhere(prepare)

    def test_while_it_changes_a_request(self):
        def prepare(client):
            kept = client.submit([4], max_tokens=1, keep=True)
            kept.wait(20)
            request = client.submit([5], max_tokens=30_000)

            def call():
                request.set_priority("high")
                kept.forget()
                request.cancel()

            return call

        self.close_everywhere(prepare)

    def test_while_it_asks(self):
        def prepare(client):
            request = client.submit([5], max_tokens=30_000)

            def call():
                client.models()
                client.status()
                client.fileno()
                self.assertIn(request.state, autoglm.RequestState)

            return call

        self.close_everywhere(prepare)

    def test_a_handler_does_not_submit_into_a_submission(self):
        client, refused = self.connect(), []

        def submit(*_):
            try:
                client.submit([9], max_tokens=3)
            except RuntimeError as error:
                refused.append(error)

        before = signal.signal(signal.SIGUSR1, submit)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        point, came = 1, True
        while came:
            requests = []
            call = lambda: requests.append(client.submit([1, 2], max_tokens=3))  # noqa: E731
            came = self.run_until(point, call)
            self.assertEqual(ids(requests[0]), [1, 2, 1])
            point += 7
        self.assertGreater(len(refused), 2)


class ThreadTest(DaemonTest):
    def setUp(self):
        super().setUp()
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())

    def test_nobody_passes_who_holds_the_lock(self):
        answer, idle = self.client.generate([1], max_tokens=30_000), self.connect()

        def wait():
            with self.assertRaises(autoglm.TimedOut):
                idle.wait(0.01)

        def submit():
            self.client.submit([1], max_tokens=1)

        for client, call in (
            (idle, wait),
            (self.client, answer.close),
            (self.client, submit),
            (self.client, self.client.close),
        ):
            thread = threading.Thread(target=call)
            with client._session._lock:
                thread.start()
                thread.join(0.1)
                self.assertTrue(thread.is_alive(), call)
                self.assertIsNone(client._session._waiter)
                self.assertFalse(client.closed)
                self.assertEqual(answer.request.is_cancelled, call in (submit, client.close))
            thread.join(20)
            self.assertFalse(thread.is_alive())
        self.assertTrue(self.client.closed)

    def test_prompts_of_threads_do_not_mix(self):
        client = self.connect(max_requests=1024)
        requests = {}

        def submit(first):
            for n in range(first, first + 20):
                requests[n] = client.submit(range(n, n + 40), max_tokens=40)

        def write(place, prompt, real=_session.write):
            time.sleep(0.001)  # the others' turn
            real(place, prompt)

        threads = [threading.Thread(target=submit, args=(first,)) for first in range(0, 80, 20)]
        with mock.patch.object(_session, "write", write):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        self.assertEqual(len(requests), 80)
        for n, request in requests.items():
            self.assertEqual(ids(request), list(range(n, n + 40)))

    def test_another_thread_may_close_in_the_middle_of_a_call(self):
        descriptors = len(os.listdir("/proc/self/fd"))
        chance = random.Random(7)
        sys.setswitchinterval(1e-6)
        for _ in range(100):
            client = self.daemon.connect()
            outcome = []

            def use(client=client, outcome=outcome):
                try:
                    while True:
                        client.submit([1, 2], max_tokens=2)
                        client.poll()
                        client.status()
                except autoglm.Error as error:
                    outcome.append(type(error))

            thread = threading.Thread(target=use)
            thread.start()
            time.sleep(chance.random() / 1000)
            client.close()
            thread.join(20)
            self.assertIn(outcome, ([autoglm.Closed], [autoglm.NoRoom]))
        self.assertEqual(len(os.listdir("/proc/self/fd")), descriptors)


class NewerLibraryTest(DaemonTest):
    """Numbers that this version has no names for are passed on, and end nothing by themselves."""

    def says(self, name: str, change) -> None:
        """From now on the library's function has its event changed."""
        real = getattr(lib, name)

        def call(client, event, *more):
            got = real(client, event, *more)
            if got == 1:
                change(event._obj)
            return got

        patch = mock.patch.object(lib, name, call)
        patch.start()
        self.addCleanup(patch.stop)

    def test_a_state_of_a_request(self):
        request = self.client.submit([1], max_tokens=30_000)
        with mock.patch.object(lib, "agl_request_state", lambda *_: 9):
            self.assertEqual(request.state, 9)
            self.assertEqual(self.client.request_state(request)[0], 9)
        self.assertIsInstance(request.state, autoglm.RequestState)

    def test_a_reason_of_an_end(self):
        def change(event):
            if event.kind == _abi.EventKind.DONE:
                event.reason = 42

        for name in ("agl_poll", "agl_wait"):
            self.says(name, change)
        request, tokens = self.client.submit([1, 2], max_tokens=3), []
        with self.assertRaises(autoglm.RequestError) as caught:
            for token in request:
                tokens.append(token.id)
        self.assertEqual(tokens, [1, 2, 1])
        self.assertEqual(request.done.reason, 42)
        self.assert_detail(caught.exception, "42")
        self.assertIn("42", repr(request))

    def test_a_kind_of_an_event(self):
        def change(event):
            if event.kind == _abi.EventKind.ACCEPTED:
                event.kind = 99

        for name in ("agl_poll", "agl_wait"):
            self.says(name, change)
        request = self.client.submit([1, 2], max_tokens=3)
        event = self.client.wait(20)
        self.assertIs(type(event), autoglm.Event)
        self.assertIs(event.request, request)
        self.assertEqual(ids(request), [1, 2, 1])
