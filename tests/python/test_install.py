"""pip installs the package from the tree without a network, and it then talks to a daemon."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from autoglm import __version__ as package_version
from support import ROOT, STORY, Daemon, own_environment

PROGRAM = """
import autoglm, sys
assert autoglm.__file__.startswith(sys.prefix), autoglm.__file__
with autoglm.Client() as client:
    print([token.id for token in client.generate([1, 2], max_tokens=4, model="echo")])
"""

NEEDED = """
import importlib.util
modules = ("venv", "pip", "setuptools", "wheel")
raise SystemExit(not all(map(importlib.util.find_spec, modules)))
"""


def find_python() -> str:
    """One that has what pip needs to install without a network; the tests' own, or the system's."""
    for python in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run([python, "-c", NEEDED], env=own_environment())
        if done.returncode == 0:
            return python
    raise unittest.SkipTest("no Python here has venv, pip, setuptools and wheel")


class InstallTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            cls.build(find_python())
        except unittest.SkipTest as skip:
            print(f"\n*** SKIPPED: {skip}", file=sys.stderr)
            raise

    @classmethod
    def build(cls, python: str) -> None:
        cls.folder = tempfile.mkdtemp(prefix="autoglm-pip-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        source = os.path.join(cls.folder, "source")  # pip builds in the source's folder
        ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / "client" / "python", source, ignore=ignored)
        cls.home = os.path.join(cls.folder, "venv")
        # pip, too, comes from outside: that saves unpacking another one.
        cls.run_program(python, "-m", "venv", "--system-site-packages", "--without-pip", cls.home)
        cls.python = os.path.join(cls.home, "bin", "python")
        options = ("--no-build-isolation", "--no-index", "--no-deps", "--quiet")
        cls.run_program(cls.python, "-m", "pip", "install", *options, source)
        cls.daemon = Daemon(models=(f"story-glm={STORY}", "echo=echo:"))
        cls.addClassCleanup(cls.daemon.stop)

    @classmethod
    def run_program(cls, *command: str, is_good=True, **environment: str) -> str:
        """In an empty folder and without the paths of these tests."""
        whole = own_environment(PIP_DISABLE_PIP_VERSION_CHECK="1", **environment)
        whole.pop("PYTHONPATH", None)
        done = subprocess.run(command, capture_output=True, text=True, env=whole, cwd=cls.folder)
        if (done.returncode == 0) != is_good:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout if is_good else done.stderr

    def run_python(self, *arguments: str, **environment: str) -> str:
        """The installed package with the library that is tested; its sanitizer first, if any."""
        environment.setdefault("AUTOGLM_SOCKET", self.daemon.socket)
        if os.environ.get("LD_PRELOAD"):
            environment["LD_PRELOAD"] = os.environ["LD_PRELOAD"]
            environment["ASAN_OPTIONS"] = os.environ["ASAN_OPTIONS"]
        return self.run_program(self.python, *arguments, **environment)

    def test_the_installed_package_talks_to_the_daemon(self):
        self.assertEqual(self.run_python("-c", PROGRAM), "[1, 2, 1, 2]\n")

    def test_it_is_whole_and_has_its_version(self):
        out = self.run_python("-c", "import autoglm, os; print(os.path.dirname(autoglm.__file__))")
        installed = {path.name for path in pathlib.Path(out.strip()).iterdir()} - {"__pycache__"}
        source = {path.name for path in (ROOT / "client" / "python" / "autoglm").iterdir()}
        self.assertEqual(installed, source - {"__pycache__"})
        version = "import importlib.metadata as m; print(m.version('autoglm'))"
        self.assertEqual(self.run_python("-c", version).strip(), package_version)

    def test_the_programs_in_the_readmes_are_one_and_tell_a_story(self):
        programs = set()
        for page in (ROOT / "README.md", ROOT / "client" / "python" / "README.md"):
            programs.update(
                re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
            )
        (program,) = programs
        self.assertGreater(len(self.run_python("-c", program)), 40)

    def test_its_program_asks_and_describes(self):
        described = self.run_python("-m", "autoglm")
        self.assertIn(self.daemon.instance, described)
        self.assertIn("story-glm (GlmForCausalLM)", described)
        answer = self.run_python("-m", "autoglm", "Tell me a story.")
        self.assertGreater(len(answer), 40)
        nowhere = os.path.join(self.folder, "nowhere")
        error = self.fails("-m", "autoglm", "--socket", nowhere)
        self.assertIn(nowhere, error)
        self.assertNotIn("Traceback", error)

    def fails(self, *arguments: str, **environment: str) -> str:
        with self.assertRaises(AssertionError) as caught:
            self.run_python(*arguments, **environment)
        return str(caught.exception)

    def test_its_reference_is_complete(self):
        text = self.run_python("-c", "import autoglm; help(autoglm)")
        for word in (
            "class AsyncClient",
            "generate(self, prompt",
            "first_token_timeout",
            "DaemonGone",
        ):
            self.assertIn(word, text)

    def test_without_the_library_the_error_says_where_it_was_looked_for(self):
        nowhere = os.path.join(self.folder, "libautoglm.so.0")
        error = self.fails("-c", "import autoglm", AUTOGLM_LIBRARY=nowhere)
        self.assertIn("ImportError: autoglm: cannot load libautoglm", error)
        self.assertIn(nowhere, error)
        other = self.fails("-c", "import autoglm", AUTOGLM_LIBRARY="libc.so.6")
        self.assertIn("libc.so.6 lacks agl_", other)

    def test_an_installed_library_is_found_by_its_name(self):
        folder = os.path.join(self.folder, "lib")
        os.mkdir(folder)
        os.symlink(os.environ["AUTOGLM_LIBRARY"], os.path.join(folder, "libautoglm.so.0"))
        out = self.run_python("-c", PROGRAM, AUTOGLM_LIBRARY="", LD_LIBRARY_PATH=folder)
        self.assertEqual(out, "[1, 2, 1, 2]\n")
