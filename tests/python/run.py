"""run.py MODULE...: runs these modules of unittest; 77 if all that is in them was skipped.

AGL_PRELOAD names the runtime of a sanitizer, which a sanitized library wants to come first. Only
the interpreter of the tests gets it: programs that the tests start have their own.
"""

import os
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def preload() -> None:
    runtime = os.environ.get("AGL_PRELOAD")
    if not runtime or os.environ.get("LD_PRELOAD") == runtime:
        return
    if not os.path.isabs(runtime):
        print(f"*** SKIPPED: the compiler has no {runtime} to load before a sanitized library")
        sys.exit(77)
    environment = dict(os.environ, LD_PRELOAD=runtime)
    # Python itself leaves memory at its end.
    environment["ASAN_OPTIONS"] = environment.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
    environment["AGL_ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "")
    os.execve(sys.executable, [sys.executable, "-B", *sys.argv], environment)


def main() -> int:
    preload()
    sys.path[:0] = [str(HERE), str(HERE.parent.parent / "client" / "python")]
    suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if not result.wasSuccessful() or result.testsRun == 0:
        return 1
    return 77 if len(result.skipped) == result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
