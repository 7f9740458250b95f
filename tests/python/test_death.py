"""The daemon dies, or stops, under its clients: everybody learns it soon, and can come again."""

import asyncio
import errno
import os
import select
import threading
import time
import unittest

import autoglm
from support import STORY, CountingClient, Daemon

SOON = 5  # seconds; on a quiet machine it takes a tenth of one
SLOW = {"model": "story-glm", "ignore_eos": True, "max_tokens": 1000}


class DeathTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon("--model", f"story-glm={STORY}", "--drain-ms", "100")
        self.addCleanup(self.daemon.remove)
        self.addCleanup(self.daemon.kill)

    def kill_later(self, seconds: float = 0.1) -> None:
        def kill():
            self.killed = time.monotonic()
            self.daemon.process.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        self.addCleanup(timer.join)

    def assert_soon(self) -> None:
        self.assertLess(time.monotonic() - self.killed, SOON)

    def assert_nobody_answers(self) -> None:
        """The kernel takes a killed daemon's io_uring apart a little later, and with it the socket:
        until then a connection is accepted and cut off."""
        until = time.monotonic() + 20
        error = None
        while not isinstance(error, autoglm.ConnectionRefused):
            self.assertLess(time.monotonic(), until)
            with self.assertRaises((autoglm.ConnectionRefused, autoglm.DaemonGone)) as caught:
                self.daemon.connect()
            error = caught.exception
        self.assertIn(self.daemon.socket, str(error))

    def test_who_reads_an_answer_learns_it(self):
        with self.daemon.connect() as client:
            answer = client.generate([7], **SLOW)
            next(answer)
            self.kill_later()
            with self.assertRaises(autoglm.DaemonGone) as caught:
                list(answer)
            self.assert_soon()
            self.assertIsInstance(caught.exception, ConnectionError)
            request = answer.request
            self.assertEqual(request.state, autoglm.RequestState.RUNNING)
            self.assertGreaterEqual(request.tokens_received, 1)
            for call in (client.poll, client.wait, lambda: client.submit([1]), request.cancel):
                self.assertRaises(autoglm.DaemonGone, call)
            answer.close()

    def test_who_waits_for_nothing_learns_it_in_every_mode(self):
        for mode in autoglm.WaitMode:
            with self.daemon.connect(wait_mode=mode) as client:
                self.kill_later()
                self.assertRaises(autoglm.DaemonGone, client.wait)
                self.assert_soon()
                self.daemon.process.wait()
                self.daemon.start("--model", f"story-glm={STORY}")

    def test_who_sleeps_on_the_descriptor_learns_it(self):
        with self.daemon.connect() as client:
            self.assertIsNone(client.poll() if client.fileno() else None)
            self.kill_later()
            readable, _, _ = select.select([client], [], [], 60)
            self.assertTrue(readable)
            self.assertRaises(autoglm.DaemonGone, client.poll)
            self.assert_soon()

    def test_every_task_learns_it(self):
        async def read(client, n):
            try:
                async for _ in client.generate([n], **SLOW):
                    pass
            except autoglm.DaemonGone as error:
                return error
            return None

        async def wait_for_room(client):
            await asyncio.sleep(0.05)
            return await read(client, 1)

        async def main():
            async with CountingClient(self.daemon.socket, max_requests=4) as client:
                tasks = [asyncio.create_task(read(client, n)) for n in range(4)]
                tasks += [asyncio.create_task(wait_for_room(client)) for _ in range(3)]
                self.kill_later(0.3)
                errors = await asyncio.wait_for(asyncio.gather(*tasks), 60)
                self.assert_soon()
                self.assertEqual([type(error) for error in errors], [autoglm.DaemonGone] * 7)
                self.assertEqual(len(set(map(id, errors))), 7)
                with self.assertRaises(autoglm.DaemonGone):
                    await client.submit([1])
                client.turns = 0
                await asyncio.sleep(0.3)
                self.assertEqual(client.turns, 0)

        asyncio.run(main())

    def test_a_daemon_that_is_asked_to_stop_says_so(self):
        with self.daemon.connect() as client:
            request = client.submit([7], **SLOW)
            next(request)
            self.daemon.process.terminate()
            with self.assertRaises((autoglm.Failed, autoglm.DaemonGone)) as caught:
                list(request)
            if isinstance(caught.exception, autoglm.Failed):
                self.assertIn("ESHUTDOWN", str(caught.exception))
            with self.assertRaises(autoglm.DaemonGone) as caught:
                while True:
                    event = client.wait(60)
                    if isinstance(event, autoglm.Shutdown):
                        self.assertEqual(os.strerror(event.error), os.strerror(108))
            self.assertEqual(self.daemon.process.wait(60), 0)

    def test_the_stop_is_told_to_who_reads_one_request_and_to_who_polls(self):
        with self.daemon.connect() as client:
            requests = [client.submit([n], **SLOW) for n in (7, 8)]
            next(requests[0])
            self.daemon.process.terminate()
            self.assertEqual(self.daemon.process.wait(60), 0)
            late = client.submit([9], **SLOW)  # nobody has read of the end yet
            with self.assertRaises(autoglm.DaemonGone) as caught:
                list(late)
            self.assertIn("ended the session: The daemon stops", str(caught.exception))
            self.assertEqual(late.state, autoglm.RequestState.SUBMITTED)
            self.assertRaises(autoglm.DaemonGone, late.wait)
            for request in requests:
                with self.assertRaises((autoglm.Failed, autoglm.Refused)) as caught:
                    list(request)
                self.assertEqual(caught.exception.errno, errno.ESHUTDOWN)
            self.assertEqual(client.poll().error, errno.ESHUTDOWN)
            self.assertRaises(autoglm.DaemonGone, client.poll)

    def test_the_stop_is_told_to_every_task(self):
        async def end_of(answer):
            try:
                async for _ in answer:
                    pass
            except autoglm.Error as error:
                return error
            return None

        async def main():
            async with autoglm.AsyncClient(self.daemon.socket, max_requests=2) as client:
                answers = [client.generate([n], **SLOW) for n in range(6)]
                tasks = [asyncio.create_task(end_of(answer)) for answer in answers]
                while answers[1].request is None or not answers[1].request.tokens_received:
                    await asyncio.sleep(0.005)
                tasks.append(asyncio.create_task(answers[0].request.wait()))
                self.daemon.process.terminate()
                ends = await asyncio.wait_for(
                    asyncio.gather(*tasks, return_exceptions=True), timeout=60
                )
                done = ends.pop()  # has its end, whichever it was
                self.assertIsInstance(done, (autoglm.Done, autoglm.DaemonGone))
                for error in ends:
                    self.assertIn(error.errno, (errno.ESHUTDOWN, errno.EPIPE), error)

        asyncio.run(main())

    def test_a_new_daemon_takes_new_clients(self):
        with self.daemon.connect() as old:
            self.daemon.kill()
            self.assertRaises(autoglm.DaemonGone, old.wait)
            self.assert_nobody_answers()
            self.daemon.start()
            self.assertRaises(autoglm.DaemonGone, old.wait)
            with self.daemon.connect() as new:
                self.assertEqual(len(list(new.generate([1], max_tokens=3))), 3)
