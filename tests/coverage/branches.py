#!/usr/bin/env python3
"""Fails, naming file:line, if a branch of the validating code was never taken.

Usage: branches.py BUILD_FOLDER    after the tests of a build with AGL_COVERAGE

gcov says how often each branch of each line was taken, in every object that was compiled from the line
(ring.h is part of many): taken in one of them counts. Two kinds of branches are left out, and counted:

  - of an assert() that was reached: that it does not fail is what the other tests prove;
  - of a line with a comment that begins with "unreached: " and a reason, in the line or above it: one
    branch that no test can take, or as many as "unreached 3: " names. A line that is never reached has
    as many as it has branches, and at least one. Any other number than the named one is an error.
"""
import glob
import json
import os
import re
import subprocess
import sys

# What is looked at: whole files, or some functions of one.
WHOLE = None
SCOPE = {
    "daemon/intake.c": WHOLE,
    "daemon/handshake.c": WHOLE,
    "daemon/engine_take.c": WHOLE,
    "daemon/publish.c": WHOLE,
    "daemon/session.c": WHOLE,
    "daemon/access.c": WHOLE,
    "daemon/connection.c": WHOLE,
    "daemon/connection_enter.c": WHOLE,
    "daemon/connection_end.c": WHOLE,
    "daemon/board.c": WHOLE,
    "daemon/guard.c": WHOLE,
    "shm/region.c": WHOLE,
    "shm/ring.h": WHOLE,
    "shm/doorbell.h": ["doorbell_sleeper", "doorbell_announce", "doorbell_awake"],
    "shm/layout.h": ["layout_is_power_of_two", "geometry_is_valid"],
    "client/events.c": WHOLE,
    "client/packet.c": WHOLE,
    "client/client.c": ["client_read_sized", "check_limit", "check_granted", "check_welcome", "map_peer",
                        "check_doorbell", "take_welcome", "attach", "shake_hands"],
}
OBJECTS = ["daemon", "shm", "client", "tests"]
UNREACHED = re.compile(r"/\* unreached(?: ([1-9][0-9]*))?: ")


class Line:
    def __init__(self):
        self.count = 0
        self.branches = []

    def add(self, entry):
        self.count += entry["count"]
        counts = [branch["count"] for branch in entry["branches"]]
        self.branches += [0] * (len(counts) - len(self.branches))
        for i, count in enumerate(counts):
            self.branches[i] += count


def gcov(build):
    """One JSON document for each object."""
    notes = []
    for folder in OBJECTS:
        notes += glob.glob(os.path.join(build, folder, "**", "*.gcno"), recursive=True)
    notes = [os.path.abspath(path) for path in notes]
    notes = [path for path in notes if os.path.exists(path[:-len("gcno")] + "gcda")]
    if not notes:
        sys.exit(f"{build}: no counts; build the preset coverage and run its tests first")
    command = ["gcov", "--json-format", "--branch-probabilities", "--stdout"]
    for at in range(0, len(notes), 50):
        out = subprocess.run(command + notes[at:at + 50], check=True, capture_output=True, text=True)
        for line in out.stdout.splitlines():
            yield json.loads(line)


def collect(build, root):
    """{file: {(line number, function): Line}}, files as in SCOPE."""
    files = {name: {} for name in SCOPE}
    for document in gcov(build):
        folder = document["current_working_directory"]
        for file in document["files"]:
            path = os.path.realpath(os.path.join(folder, file["file"]))
            lines = files.get(os.path.relpath(path, root))
            if lines is None:
                continue
            for entry in file["lines"]:
                key = (entry["line_number"], entry.get("function_name", ""))
                lines.setdefault(key, Line()).add(entry)
    return files


class Report:
    def __init__(self):
        self.branches = self.taken = self.asserts = self.reasons = 0
        self.findings = []

    def find(self, name, number, text, source):
        self.findings.append(f"{name}:{number}: {text}: {source.strip()}")


def excused_branches(source, number):
    """How many branches of line `number` are unreached, as it says or the comment above."""
    reason = UNREACHED.search(source[number - 1])
    at = number - 2
    if not reason and at >= 0 and source[at].rstrip().endswith("*/"):
        while at > 0 and "/*" not in source[at]:
            at -= 1
        reason = UNREACHED.match(source[at].lstrip())
    return int(reason.group(1) or 1) if reason else 0


def assert_lines(source):
    """The numbers of all lines that belong to an assert()."""
    numbers = set()
    depth = 0
    for number, text in enumerate(source, 1):
        if depth == 0 and not re.match(r"\s*assert\(", text):
            continue
        numbers.add(number)
        depth += text.count("(") - text.count(")")
    return numbers


def check_file(name, lines, source, report):
    functions = {function for _, function in lines}
    wanted = SCOPE[name]
    for function in wanted or []:
        if function not in functions:
            report.find(name, 1, f"there is no function {function}() any more", "adapt branches.py")
    in_assert = assert_lines(source)
    for (number, function), line in sorted(lines.items()):
        if wanted and function not in wanted:
            continue
        missing = [i for i, count in enumerate(line.branches) if count == 0]
        report.branches += len(line.branches)
        report.taken += len(line.branches) - len(missing)
        excused = excused_branches(source, number)
        text = source[number - 1]
        if number in in_assert and line.count:
            report.asserts += len(missing)
        elif excused and (line.branches or not line.count):
            report.reasons += len(missing)
            unreached = len(missing) if line.count else max(1, len(missing))
            if unreached != excused:
                report.find(name, number, f"{excused} of its branches are said not to be reached, "
                                          f"{unreached} are not", text)
        elif not line.count:
            report.find(name, number, "never reached", text)
        else:
            for i in missing:
                report.find(name, number, f"branch {i} of {len(line.branches)} never taken", text)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
    report = Report()
    files = collect(sys.argv[1], root)
    for name, lines in files.items():
        if not lines:
            sys.exit(f"{name}: nothing was counted")
        with open(os.path.join(root, name), encoding="utf-8") as file:
            check_file(name, lines, file.read().split("\n"), report)
    for finding in report.findings:
        print(finding)
    print(f"{report.taken} of {report.branches} branches in {len(files)} files were taken; "
          f"left out {report.asserts} of assert(), {report.reasons} with a reason in the source; "
          f"{len(report.findings)} findings")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
