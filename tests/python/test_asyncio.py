"""The form for asyncio against the real daemon."""

import asyncio
import contextlib
import errno
import functools
import gc
import os
import signal
import time
import weakref

import autoglm
from support import STORY, CountingClient, DaemonTest, ids

SLOW = {"model": "story-glm", "ignore_eos": True, "max_tokens": 1000}


def in_loop(test):
    """Runs a test that is a coroutine, with an AsyncClient, in a loop of its own."""

    @functools.wraps(test)
    def run(self):
        async def main():
            async with autoglm.AsyncClient(self.daemon.socket, timeout=60) as client:
                await asyncio.wait_for(test(self, client), 120)

        asyncio.run(main())

    return run


async def read(answer) -> list:
    return ids([token async for token in answer])


class AsyncTest(DaemonTest):
    flags = ("--model", f"story-glm={STORY}")

    async def until_nothing_runs(self) -> None:
        until = time.monotonic() + 20
        while not self.nothing_runs():
            self.assertLess(time.monotonic(), until, "something still runs")
            await asyncio.sleep(0.005)

    @in_loop
    async def test_the_tokens_are_those_of_the_synchronous_form(self, client):
        parameters = {"model": "story-glm", "max_tokens": 60}
        expected = list(self.client.generate([1, 403, 407], **parameters))
        answer = client.generate([1, 403, 407], **parameters)
        self.assertEqual([token async for token in answer], expected)
        self.assertEqual(answer.done.generated_tokens, len(expected))

    @in_loop
    async def test_many_are_in_flight_at_once_and_more_wait_for_room(self, client):
        async def one(n):
            return await read(client.generate([n, n + 1], model="echo", max_tokens=30))

        answers = await asyncio.gather(*(one(n) for n in range(300)))
        self.assertEqual(answers, [[n, n + 1] * 15 for n in range(300)])
        self.assertEqual(client._session.requests, {})

    @in_loop
    async def test_requests_advance_side_by_side(self, client):
        ends = []

        async def one(n):
            await read(client.generate([7], **{**SLOW, "max_tokens": n}))
            ends.append(n)

        tasks = [asyncio.create_task(one(n)) for n in (300, 60, 10)]
        await asyncio.gather(*tasks)
        self.assertEqual(ends, [10, 60, 300])

    @in_loop
    async def test_submit_gives_a_request_for_later(self, client):
        requests = [await client.submit([n], max_tokens=20, model="echo") for n in range(10)]
        done = await requests[3].wait()
        self.assertEqual(done.reason, autoglm.DoneReason.LENGTH)
        for n, request in reversed(list(enumerate(requests))):
            self.assertEqual(await read(request), [n] * 20)

    @in_loop
    async def test_cancelling_the_task_cancels_the_request(self, client):
        answer = client.generate([7], **SLOW)
        task = asyncio.create_task(read(answer))
        while answer.request is None or not answer.request.tokens_received:
            await asyncio.sleep(0.005)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertTrue(answer.request.is_cancelled)
        done = await answer.request.wait()
        self.assertEqual(done.reason, autoglm.DoneReason.CANCELLED)
        await self.until_nothing_runs()

    @in_loop
    async def test_cancelling_the_task_between_two_tokens_cancels_the_request(self, client):
        requests = []

        async def dawdle():
            async for _ in client.generate([7], **SLOW):
                requests.extend(client._session.requests.values())
                await asyncio.sleep(60)

        task = asyncio.create_task(dawdle())
        while not requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        self.assertEqual((await requests[0].wait()).reason, autoglm.DoneReason.CANCELLED)

    @in_loop
    async def test_leaving_early_cancels_the_request(self, client):
        answers = []
        async for _ in client.generate([7], **SLOW):
            answers.extend(client._session.requests.values())
            break
        async with client.generate([7], **SLOW) as answer:
            await answer.__anext__()
        answers.append(answer.request)
        async with contextlib.AsyncExitStack() as stack:
            answer = client.generate([7], **SLOW)
            stack.push_async_callback(answer.aclose)
            await answer.__anext__()
        answers.append(answer.request)
        self.assertEqual(await read(answer), [])
        for request in answers:
            self.assertEqual((await request.wait()).reason, autoglm.DoneReason.CANCELLED)
        await self.until_nothing_runs()

    @in_loop
    async def test_cancelling_who_waits_for_room_leaves_the_others_their_turn(self, client):
        slow = [await client.submit([7], **SLOW) for _ in range(16)]
        waiting = [
            asyncio.create_task(client.submit([n], model="echo", max_tokens=2)) for n in range(6)
        ]
        await asyncio.sleep(0.05)
        self.assertFalse(any(task.done() for task in waiting))
        for task in waiting[:3]:
            task.cancel()
        slow[5].cancel()
        for n in (3, 4, 5):
            self.assertEqual(await read(await waiting[n]), [n, n])
        for task in waiting[:3]:
            self.assertTrue(task.cancelled())
        for request in slow:
            request.cancel()
            await request.wait()

    @in_loop
    async def test_a_deadline_ends_the_answer(self, client):
        tokens = []
        with self.assertRaises(autoglm.DeadlinePassed) as caught:
            async for token in client.generate([7], timeout=0.05, **SLOW):
                tokens.append(token)
        self.assertEqual(len(tokens), caught.exception.done.generated_tokens)
        with self.assertRaises(autoglm.DeadlinePassed):
            await read(await client.submit([7], deadline_ns=autoglm.now_ns() + 1000, **SLOW))

    @in_loop
    async def test_a_timeout_of_the_loop_cancels_the_request(self, client):
        answer = client.generate([7], **SLOW)
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(read(answer), 0.2)
        self.assertEqual((await answer.request.wait()).reason, autoglm.DoneReason.CANCELLED)

    @in_loop
    async def test_refusals_and_wrong_arguments_are_raised_where_they_are_read(self, client):
        with self.assertRaises(autoglm.Refused) as caught:
            await read(client.generate([1] * 5000, model="story-glm"))
        self.assert_detail(caught.exception, "5000", "1024", "EMSGSIZE")
        for wrong in ({"max_tokens": 0}, {"priority": "urgent"}, {"top_p": 2}):
            with self.assertRaises(autoglm.InvalidArgument):
                await client.submit([1], **wrong)
        with self.assertRaises(autoglm.NotFound):
            await client.submit([1], model="other")
        with self.assertRaises(TypeError):
            await client.submit("Hello")
        self.assertEqual(await read(client.generate([4], max_tokens=2, model="echo")), [4, 4])

    @in_loop
    async def test_a_conversation_goes_on_behind_an_interrupted_answer(self, client):
        async with client.generate([7, 8, 9], keep=True, **SLOW) as answer:
            await answer.__anext__()
        second = await client.submit([10], continues=answer.request, max_tokens=5, ignore_eos=True)
        self.assertEqual(len(await read(second)), 5)
        history = answer.done.prompt_tokens + answer.done.generated_tokens
        self.assertEqual(second.done.prompt_tokens, history + 1)
        running = await client.submit([7], **SLOW)
        with self.assertRaises(autoglm.InvalidArgument):
            await client.submit([1], continues=running)

    @in_loop
    async def test_where_everything_is_kept_there_is_no_room(self, client):
        kept = [await client.submit([n], max_tokens=1, keep=True, model="echo") for n in range(16)]
        for request in kept:
            await request.wait()
        with self.assertRaises(autoglm.NoRoom):
            await client.submit([3])
        kept[0].forget()
        self.assertEqual(await read(client.generate([3], max_tokens=1, model="echo")), [3])

    @in_loop
    async def test_forgetting_what_is_kept_makes_room_for_who_waits(self, _):
        async with autoglm.AsyncClient(self.daemon.socket, max_requests=2) as client:
            for forget in (client.forget, autoglm.AsyncRequest.forget):
                kept = await client.submit([3], model="echo", max_tokens=1, keep=True)
                await kept.wait()
                self.daemon.process.send_signal(signal.SIGSTOP)  # so that no event wakes anybody
                try:
                    os.waitpid(self.daemon.process.pid, os.WUNTRACED)
                    silent = await client.submit([4], model="echo", max_tokens=1)
                    waiting = asyncio.create_task(client.submit([5], model="echo", max_tokens=1))
                    await asyncio.sleep(0.05)
                    self.assertFalse(waiting.done())
                    forget(kept)
                    request = await asyncio.wait_for(waiting, 20)
                finally:
                    self.daemon.process.send_signal(signal.SIGCONT)
                self.assertEqual([await read(silent), await read(request)], [[4], [5]])

    @in_loop
    async def test_closing_tells_those_who_wait(self, client):
        tasks = [asyncio.create_task(read(client.generate([7], **SLOW))) for _ in range(3)]
        await asyncio.sleep(0.1)
        client.close()
        client.close()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            self.assertIsInstance(outcome, autoglm.Closed)
        self.assertTrue(client.closed)
        with self.assertRaises(autoglm.Closed):
            await client.submit([1])
        await self.until_nothing_runs()

    @in_loop
    async def test_who_waits_turns_no_loop(self, _):
        async with CountingClient(self.daemon.socket) as client:
            client.turns = 0
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(client._news_of(set()), 0.5)
            self.assertEqual(client.turns, 0)
            await read(client.generate([7], **{**SLOW, "max_tokens": 50}))
            self.assertGreater(client.turns, 0)
            self.assertLess(client.turns, 300)

    @in_loop
    async def test_room_is_given_to_those_who_came_first(self, _):
        async with autoglm.AsyncClient(self.daemon.socket, max_requests=2) as client:
            order = []

            async def one(n):
                request = await client.submit([n], model="echo", max_tokens=1)
                order.append(n)
                await request.wait()

            slow = [await client.submit([7], **SLOW) for _ in range(2)]
            tasks = []
            for n in range(20):
                tasks.append(asyncio.create_task(one(n)))
                await asyncio.sleep(0)
            for request in slow:
                request.cancel()
            await asyncio.gather(*tasks)
            self.assertEqual(order, list(range(20)))

    @in_loop
    async def test_logits_come_with_the_tokens(self, client):
        async with autoglm.AsyncClient(self.daemon.socket, output_bytes=1 << 20) as own:
            answer = own.generate([7], model="story-glm", max_tokens=10, logits=True)
            async for token in answer:
                row = token.logits
                self.assertEqual(max(range(len(row)), key=row.__getitem__), token.id)

    @in_loop
    async def test_text_comes_from_an_asynchronous_stream(self, client):
        tokenizer = autoglm.Tokenizer(STORY)
        prompt = tokenizer.chat([("user", "Hello!")])
        parameters = {"model": "story-glm", "max_tokens": 50}
        expected = "".join(tokenizer.stream(self.client.generate(prompt, **parameters)))
        pieces = [text async for text in tokenizer.astream(client.generate(prompt, **parameters))]
        self.assertEqual("".join(pieces), expected)
        self.assertGreater(len(pieces), 5)

    def test_a_client_is_gone_behind_its_end(self):
        async def main():
            client = autoglm.AsyncClient(self.daemon.socket)
            self.assertTrue(client.closed)
            self.assertRaises(autoglm.Closed, client.models)
            async with client:
                await read(client.generate([1], max_tokens=2, model="echo"))
                self.assertEqual(len(client.models()), 2)
                with self.assertRaises(autoglm.InvalidArgument):
                    await client.connect()
            return weakref.ref(client)

        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            client = asyncio.run(main())
            gc.collect()
            self.assertIsNone(client())
        self.assertEqual(len(os.listdir("/proc/self/fd")), descriptors)

    def test_a_client_can_be_closed_behind_its_loop(self):
        loop = asyncio.new_event_loop()
        client = autoglm.AsyncClient(self.daemon.socket)
        loop.run_until_complete(client.connect())

        task = loop.create_task(client._news_of(client._room))
        loop.run_until_complete(asyncio.sleep(0.01))
        task._log_destroy_pending = False
        loop.close()
        client.close()
        self.assertTrue(client.closed)

    @in_loop
    async def test_of_two_that_connect_one_client_the_second_is_refused(self, _):
        client = autoglm.AsyncClient(self.daemon.socket)
        first, second = await asyncio.gather(
            client.connect(), client.connect(), return_exceptions=True
        )
        self.assertIs(first, client)
        self.assertIsInstance(second, autoglm.InvalidArgument)
        self.assertEqual(await read(client.generate([4], max_tokens=2, model="echo")), [4, 4])
        client.close()

    @in_loop
    async def test_closing_while_it_connects_ends_that(self, _):
        descriptors = len(os.listdir("/proc/self/fd"))
        client = autoglm.AsyncClient(self.daemon.socket)
        connecting = asyncio.create_task(client.connect())
        await asyncio.sleep(0)
        client.close()
        with self.assertRaises(autoglm.Closed):
            await connecting
        self.assertTrue(client.closed)
        self.assertEqual(len(os.listdir("/proc/self/fd")), descriptors)
        async with client:
            self.assertEqual(await read(client.generate([4], max_tokens=1, model="echo")), [4])

    @in_loop
    async def test_an_end_that_is_noticed_again_touches_nobody_elses_descriptor(self, _):
        old = await autoglm.AsyncClient(self.daemon.socket).connect()
        old.close()
        async with autoglm.AsyncClient(self.daemon.socket) as client:
            self.assertEqual(client._fd, old._fd)
            old._finish(autoglm.Closed(errno.EBADF))
            answer = client.generate([4], max_tokens=2, model="echo")
            self.assertEqual(await asyncio.wait_for(read(answer), 20), [4, 4])

    @in_loop
    async def test_who_could_not_connect_may_try_again(self, _):
        client = autoglm.AsyncClient(self.daemon.folder + "/later")
        with self.assertRaises(autoglm.NotFound):
            await client.connect()
        os.symlink(self.daemon.socket, self.daemon.folder + "/later")
        async with client:
            self.assertFalse(client.closed)

    def test_where_no_daemon_is_connecting_says_so(self):
        async def main():
            async with autoglm.AsyncClient(self.daemon.folder + "/none"):
                pass

        with self.assertRaises(autoglm.NotFound) as caught:
            asyncio.run(main())
        self.assert_detail(caught.exception, "/none")
