"""Ends: of answers that are left early, of clients, of waits."""

import gc
import os
import signal
import threading
import time
import weakref

import autoglm
from support import STORY, DaemonTest, ids


class LeavingTest(DaemonTest):
    """An answer that is left early is computed no further."""

    flags = ("--model", f"story-glm={STORY}")

    def start(self) -> autoglm.Answer:
        answer = self.client.generate([7], model="story-glm", ignore_eos=True, max_tokens=1000)
        next(answer)
        self.eventually(lambda: not self.nothing_runs(), "the board tells of it")
        return answer

    def assert_cancelled(self, request: autoglm.Request) -> None:
        self.assertTrue(request.is_cancelled)
        self.assertEqual(request.wait(20).reason, autoglm.DoneReason.CANCELLED)
        self.assertLess(request.done.generated_tokens, 1000)
        self.eventually(self.nothing_runs, "the request is gone")

    def test_a_loop_that_breaks_cancels(self):
        for _ in self.client.generate([7], model="story-glm", ignore_eos=True, max_tokens=1000):
            (request,) = self.client._session.requests.values()
            break
        self.assert_cancelled(request)

    def test_close_cancels_and_may_be_called_again(self):
        answer = self.start()
        answer.close()
        answer.close()
        self.assertEqual(list(answer), [])
        self.assert_cancelled(answer.request)

    def test_with_cancels(self):
        with self.start() as answer:
            pass
        self.assert_cancelled(answer.request)

    def test_an_error_in_the_loop_cancels(self):
        request = None

        def stumble():
            nonlocal request
            for _ in self.start():
                request = next(iter(self.client._session.requests.values()))
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, stumble)
        self.assert_cancelled(request)

    def test_what_is_read_to_its_end_is_not_cancelled(self):
        answer = self.client.generate([7], max_tokens=3)
        request = answer.request
        self.assertEqual(ids(answer), [7, 7, 7])
        del answer
        self.assertFalse(request.is_cancelled)
        self.assertEqual(request.done.reason, autoglm.DoneReason.LENGTH)

    def test_a_request_that_is_cancelled_ends_without_an_error(self):
        request = self.client.submit([7], model="story-glm", ignore_eos=True, max_tokens=1000)
        next(request)
        request.cancel()
        self.assertLess(len(list(request)), 999)
        self.assertEqual(request.done.reason, autoglm.DoneReason.CANCELLED)
        request.cancel()
        self.assertRaises(autoglm.NotFound, self.client.cancel, request)

    def test_a_cycle_of_client_and_answer_is_collected_without_harm(self):
        class Agent:
            pass

        for _ in range(20):
            agent = Agent()
            agent.client = self.daemon.connect()
            agent.answer = agent.client.generate([7], model="story-glm", max_tokens=1000)
            next(agent.answer)
            agent.itself = agent
            gone = weakref.ref(agent)
            del agent
            gc.collect()
            self.assertIsNone(gone())
        self.eventually(self.nothing_runs, "the requests are gone")

    def test_a_client_whose_finalizer_ran_first_is_closed(self):
        """As the collector does it before it calls __del__ of those who use the client."""
        client = self.daemon.connect()
        answer = client.generate([7], model="story-glm", max_tokens=1000)
        next(answer)
        client._session._close()
        self.assertTrue(client.closed)
        self.assertRaises(autoglm.Closed, client.models)
        answer.close()
        self.assertFalse(answer.request.is_cancelled)
        client.close()

    def test_others_read_on_while_one_is_left(self):
        left = self.start()
        other = self.client.submit([1, 2], max_tokens=50)
        next(other)
        left.close()
        self.assertEqual(ids(other), [2] + [1, 2] * 24)


class LifeTest(DaemonTest):
    """Clients end when they should, and take nothing with them."""

    flags = ("--model", f"story-glm={STORY}")

    def test_close_may_be_called_again_and_later_calls_say_so(self):
        request = self.client.submit([1], max_tokens=2)
        self.assertFalse(self.client.closed)
        self.client.close()
        self.client.close()
        self.assertTrue(self.client.closed)
        calls = [
            self.client.models, self.client.status, self.client.poll, self.client.wait,
            self.client.fileno, lambda: self.client.submit([1]), lambda: self.client.cancel(1),
            lambda: next(request), lambda: request.wait(),
        ]  # fmt: skip
        for call in calls:
            self.assertRaises(autoglm.Closed, call)

    def test_clients_leave_neither_descriptors_nor_memory_nor_sessions(self):
        def descriptors():
            return len(os.listdir("/proc/self/fd"))

        def use(client):
            answer = client.generate([1, 2], max_tokens=1000)
            next(answer)
            return answer

        before = descriptors()
        for n in range(60):
            client = self.daemon.connect()
            session, answer = weakref.ref(client._session), use(client)
            if n % 3 == 0:
                client.close()
            elif n % 3 == 1:
                with client:
                    pass
            del client, answer  # else: forgotten, with a request in flight
            gc.collect()
            self.assertIsNone(session())
        self.assertEqual(descriptors(), before)
        self.eventually(lambda: self.client.status().sessions == 1, "the sessions are gone")

    def test_a_client_that_could_not_connect_leaves_nothing(self):
        before = os.listdir("/proc/self/fd")
        for _ in range(20):
            self.assertRaises(autoglm.NotFound, autoglm.Client, self.daemon.folder + "/none")
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_a_forked_child_has_no_client_and_the_parent_keeps_its_own(self):
        request = self.client.submit([1, 2], max_tokens=2000)
        next(request)
        child = os.fork()
        if child == 0:
            try:
                next(request)
            except autoglm.Closed:
                os._exit(3)
            finally:
                os._exit(4)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 3)
        self.assertEqual(len(list(request)), 1999)

    def test_other_threads_run_while_one_waits_but_may_not_use_its_client(self):
        client = self.connect()
        outcome = []

        def wait():
            try:
                client.wait(3)
            except autoglm.Error as error:
                outcome.append(type(error))

        thread = threading.Thread(target=wait)
        thread.start()
        self.eventually(lambda: client._session._waiter is not None, "the thread waits")
        self.assertEqual(ids(self.client.generate([5], max_tokens=2)), [5, 5])
        turns = 0
        while thread.is_alive() and turns < 30:  # while it holds no lock of ours, a few ms each
            time.sleep(0.001)
            turns += 1
        self.assertEqual(turns, 30)
        self.eventually(lambda: client._session._waiter is not None, "the thread waits on")
        for call in (client.poll, client.close, lambda: client.submit([1])):
            self.assertRaises(RuntimeError, call)
        self.assertFalse(client.closed)
        self.assertTrue(thread.is_alive())
        thread.join(20)
        self.assertEqual(outcome, [autoglm.TimedOut])
        self.assertEqual(ids(client.generate([5], max_tokens=2)), [5, 5])

    def test_an_answer_that_is_forgotten_beside_a_waiting_thread_is_cancelled(self):
        parameters = {"model": "story-glm", "ignore_eos": True}
        left = self.client.generate([7], max_tokens=1000, **parameters)
        next(left)
        request, reading = left.request, self.client.submit([8], max_tokens=150, **parameters)
        tokens = []
        thread = threading.Thread(target=lambda: tokens.extend(reading))
        thread.start()
        self.eventually(lambda: self.client._session._waiter is not None, "the thread waits")
        del left
        thread.join(60)
        self.assertEqual(len(tokens), 150)
        self.assertEqual(request.wait(20).reason, autoglm.DoneReason.CANCELLED)

    def test_an_interrupt_ends_a_wait_in_every_mode_and_loses_no_token(self):
        for mode in autoglm.WaitMode:
            client = self.connect(wait_mode=mode)
            request = client.submit([7], model="story-glm", ignore_eos=True, max_tokens=400)
            tokens = []
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with self.assertRaises(KeyboardInterrupt):
                while True:
                    tokens.extend(request)
                    time.sleep(0.001)
            timer.join()
            tokens.extend(request)
            self.assertEqual(request.done.generated_tokens, 400)
            self.assertEqual(len(tokens), 400)
            idle = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            idle.start()
            started = time.monotonic()
            self.assertRaises(KeyboardInterrupt, client.wait, 60)
            self.assertLess(time.monotonic() - started, 30)
            idle.join()

    def test_a_handler_of_a_signal_that_returns_does_not_end_a_wait(self):
        seen = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append(self.client.poll()))
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)
        started = time.monotonic()
        self.assertRaises(autoglm.TimedOut, self.client.wait, 0.3)
        self.assertGreaterEqual(time.monotonic() - started, 0.3)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.assertGreater(len(seen), 1)

    def test_every_way_of_waiting_gives_the_same_answer(self):
        for mode in ("adaptive", "spin", "sleep"):
            client = self.connect(wait_mode=mode, spin_ns=1000)
            for _ in range(5):
                self.assertEqual(ids(client.generate([1, 2], max_tokens=40)), [1, 2] * 20)
