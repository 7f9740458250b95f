"""What the tests of the binding share: a real daemon, the command line, and patience."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import autoglm

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
STORY = ROOT / "models" / "story-glm"

_numbers = itertools.count()


def own_environment(**more) -> dict:
    """For programs that the tests start: without what the tests' interpreter was given."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    if "AGL_ASAN_OPTIONS" in environment:
        environment["ASAN_OPTIONS"] = environment["AGL_ASAN_OPTIONS"]
    return dict(environment, **more)


class Daemon:
    """autoglmd with an echo model, or others, in a private folder."""

    def __init__(self, *flags: str, models: tuple = ("echo=echo:",)):
        self.models = models
        self.folder = tempfile.mkdtemp(prefix="autoglm-python-")
        self.socket = os.path.join(self.folder, "socket")
        self.instance = f"python-{os.getpid()}-{next(_numbers)}"
        self.start(*flags)

    def start(self, *flags: str) -> None:
        program = os.environ["AGL_DAEMON_PROGRAM"]
        command = [program, "--socket", self.socket, "--instance", self.instance]
        if shutil.which("setpriv"):  # so that it ends with tests that crash
            command[:0] = ["setpriv", "--pdeathsig", "KILL"]
        for model in self.models:
            command += ["--model", model]
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(
                [*command, *flags], stdout=log, stderr=log, env=own_environment()
            )
        self._wait_until_it_serves()

    def _wait_until_it_serves(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                return self.connect().close()
            except autoglm.Error:
                if self.process.poll() is not None:
                    break
                time.sleep(0.01)
        self.process.kill()
        self.process.wait()
        raise AssertionError("autoglmd does not serve:\n" + self.log())

    def log(self) -> str:
        return pathlib.Path(self.folder, "log").read_text()

    def connect(self, **options) -> autoglm.Client:
        return autoglm.Client(self.socket, **{"timeout": 60, **options})

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends it as systemd does, and looks whether it liked that."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=60)
        log = self.log()
        self.remove()
        if status != 0:
            raise AssertionError(f"autoglmd ended with status {status}:\n{log}")

    def remove(self) -> None:
        """Also what only the next daemon of a killed one's instance would replace."""
        shutil.rmtree(self.folder, ignore_errors=True)
        pathlib.Path("/dev/shm", f"autoglm.{self.instance}").unlink(missing_ok=True)


class CountingClient(autoglm.AsyncClient):
    """Knows how often the loop has called it."""

    turns = 0

    def _read_events(self):
        self.turns += 1
        super()._read_events()


class DaemonTest(unittest.TestCase):
    """Tests that share one daemon; each gets a client of its own."""

    flags: tuple = ()
    options: dict = {}

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(*cls.flags)
        cls.addClassCleanup(cls.daemon.stop)

    def setUp(self):
        self.client = self.connect(**self.options)

    def connect(self, **options) -> autoglm.Client:
        client = self.daemon.connect(**options)
        self.addCleanup(client.close)
        return client

    def eventually(self, is_so, what: str, seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > until:
                self.fail(f"not within {seconds} s: {what}")
            time.sleep(0.005)

    def nothing_runs(self) -> bool:
        status = self.client.status()
        return status.requests_running == 0 and status.requests_queued == 0

    def assert_detail(self, error: autoglm.Error, *words: str) -> None:
        """That the text for people names what was wrong."""
        for word in words:
            self.assertIn(word, str(error))


def ids(tokens) -> list:
    return [token.id for token in tokens]


def command_line(*arguments: str, text: str = "") -> str:
    return subprocess.run(
        [os.environ["AGL_CLI_PROGRAM"], *arguments],
        input=text,
        check=True,
        capture_output=True,
        text=True,
        env=own_environment(),
    ).stdout


def command_line_ids(*arguments: str, text: str = "") -> list:
    return json.loads(command_line(*arguments, text=text))
