"""The declarations of the binding against autoglm.h, through a C compiler."""

import ctypes
import os
import pathlib
import re
import subprocess
import tempfile
import unittest
from ctypes import POINTER

from autoglm import _abi, library_version
from autoglm import __version__ as package_version
from support import ROOT, own_environment

HEADER = ROOT / "client" / "include" / "autoglm.h"
MAP = ROOT / "client" / "libautoglm.map"

PROGRAM = """
#include "autoglm.h"
#include <stdio.h>
#define KIND(x) _Generic((x), char *: "text", const char *: "text", float: "float", int: "int", \\
    uint32_t: "uint", uint64_t: "uint", uint32_t *: "uint array", uint64_t *: "uint array", \\
    const float *: "float pointer", struct agl_token *: "struct array")
#define STRUCT(s) printf("%s %zu\\n", #s, sizeof(struct s))
#define FIELD(s, f) printf("%s.%s %zu %zu %s\\n", #s, #f, offsetof(struct s, f), \\
    sizeof(((struct s *)0)->f), KIND(((struct s *)0)->f))
#define CONSTANT(c) printf("%s %lld\\n", #c, (long long)(c))
int main(void)
{
"""


class Header:
    """What a header declares, found without a compiler's knowledge of C: it is written plainly."""

    def __init__(self, text: str):
        self.text = text
        code = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
        self.versions = re.findall(r"#define (AGL_VERSION_\w+)", code)
        code = re.sub(r"^#(?:.*\\\n)*.*$", "", code, flags=re.M)
        code = re.sub(r"\s+", " ", code)
        self.structs = {
            name: re.findall(r"(\w+)(?:\[\w+\])?;", body)
            for name, body in re.findall(r"struct (\w+) \{(.*?)\};", code)
        }
        self.enums = {
            name: re.findall(r"(AGL_\w+) =", body)
            for name, body in re.findall(r"enum (\w*) ?\{(.*?)\}", code)
            if name
        }
        self.nameless = [
            name
            for body in re.findall(r"enum \{(.*?)\}", code)
            for name in re.findall(r"(AGL_\w+) =", body)
        ]
        self.functions = {
            name: (kind.strip(), [argument.strip() for argument in arguments.split(",")])
            for kind, name, arguments in re.findall(
                r"((?:const )?(?:struct )?\w+ \*?)(agl_\w+)\(([^)]*)\);", code
            )
        }

    def compiled(self) -> dict:
        """Sizes, offsets, kinds and values as the compiler sees them, by name."""
        lines = [f"STRUCT({name});" for name in self.structs]
        lines += [f"FIELD({name}, {f});" for name, fields in self.structs.items() for f in fields]
        names = [name for names in self.enums.values() for name in names]
        lines += [f"CONSTANT({name});" for name in names + self.nameless + self.versions]
        with tempfile.TemporaryDirectory() as folder:
            source, program = pathlib.Path(folder, "layout.c"), pathlib.Path(folder, "layout")
            pathlib.Path(folder, "autoglm.h").write_text(self.text)
            source.write_text(PROGRAM + "\n".join(lines) + "\nreturn 0;\n}\n")
            compiler = os.environ.get("AGL_C_COMPILER", "cc")
            subprocess.run([compiler, source, "-o", program], check=True, env=own_environment())
            out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
        return dict(line.split(" ", 1) for line in out.splitlines())


def kind_of(kind) -> str:
    if kind is ctypes.c_char_p or getattr(kind, "_type_", None) is ctypes.c_char:
        return "text"
    if isinstance(kind, type) and issubclass(kind, ctypes.Array):
        is_struct = issubclass(kind._type_, ctypes.Structure)
        return ("struct" if is_struct else kind_of(kind._type_)) + " array"
    if kind is POINTER(ctypes.c_float):
        return "float pointer"
    names = {ctypes.c_float: "float", ctypes.c_int: "int"}
    return names.get(
        kind, "uint" if kind in (ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t) else "?"
    )


def declared_layout() -> dict:
    """The same lines for the structs of the binding."""
    lines = {}
    for name, struct in _abi.STRUCTS.items():
        lines[name] = str(ctypes.sizeof(struct))
        for field, kind in struct._fields_:
            place = getattr(struct, field)
            lines[f"{name}.{field}"] = f"{place.offset} {place.size} {kind_of(kind)}"
    return lines


def declared_constants() -> dict:
    lines = {
        prefix + member.name: str(member.value)
        for prefix, members in _abi.ENUMS.values()
        for member in members
    }
    for name in vars(_abi):
        if re.fullmatch(r"AGL_\w+", name):
            lines[name] = str(getattr(_abi, name))
    return lines


#: What stands in the header for each argument; `ret_` and names are left out.
C_TYPES = {
    "void": None,
    "int": ctypes.c_int,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "char *": POINTER(ctypes.c_char),
    "const char *": ctypes.c_char_p,
    "const char **": POINTER(POINTER(ctypes.c_char)),
    "uint32_t *": POINTER(ctypes.c_uint32),
    "uint32_t **": POINTER(POINTER(ctypes.c_uint32)),
    "size_t *": POINTER(ctypes.c_size_t),
}
for _name in (
    "client",
    "tokenizer",
    "detokenizer",
    "options",
    "model",
    "status",
    "request",
    "event",
    "message",
):
    _pointer = POINTER(getattr(_abi, "agl_" + _name))
    C_TYPES[f"struct agl_{_name} *"] = _pointer
    C_TYPES[f"struct agl_{_name} **"] = POINTER(_pointer)


def c_type(text: str):
    """The ctypes of "const uint32_t *ids"; const tells only pointers to text apart."""
    base, stars = re.fullmatch(r"(.*?) ?(\**)(?: ?\w+)?", text.strip()).groups()
    if "*" not in text:
        base, stars = re.sub(r" \w+$", "", text) if " " in text else text, ""
    if "char" not in base:
        base = base.replace("const ", "")
    return C_TYPES[f"{base} {stars}".strip()]


class AbiTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.header = Header(HEADER.read_text())
        cls.compiled = cls.header.compiled()

    def layout(self, compiled: dict) -> dict:
        return {name: line for name, line in compiled.items() if not name.startswith("AGL_")}

    def test_every_struct_lies_as_the_compiler_lays_it(self):
        self.assertGreaterEqual(len(self.header.structs), 7)
        self.assertEqual(self.layout(self.compiled), declared_layout())

    def test_every_constant_has_its_value(self):
        self.assertEqual(set(self.header.enums), set(_abi.ENUMS))
        constants = {n: v for n, v in self.compiled.items() if n.startswith("AGL_")}
        versions = [constants.pop(name) for name in self.header.versions]
        self.assertGreaterEqual(len(constants), 30)
        self.assertEqual(constants, declared_constants())
        self.assertEqual(".".join(versions), package_version)
        self.assertEqual(library_version(), package_version)

    def test_every_exported_function_is_declared_as_in_the_header(self):
        exported = re.findall(r"^\s+(agl_\w+);", MAP.read_text(), flags=re.M)
        self.assertGreaterEqual(len(exported), 30)
        self.assertEqual(set(_abi.FUNCTIONS), set(exported))
        self.assertEqual(set(_abi.FUNCTIONS), set(self.header.functions))
        for name, (returns, arguments) in self.header.functions.items():
            expected = [] if arguments == ["void"] else [c_type(text) for text in arguments]
            self.assertEqual(_abi.FUNCTIONS[name], (c_type(returns), expected), name)

    def test_a_header_that_has_grown_is_noticed(self):
        changes = [  # also where a new field takes the place of a reserved one
            ("uint64_t reserved[8]; /* 0 */", "uint64_t more; uint64_t reserved[7];"),
            ("uint64_t published_ns;", "uint64_t published_ns; uint32_t more;"),
            ("uint32_t token_count;", "int token_count;"),
            ("uint32_t vocab_size;", "uint32_t vocabulary_size;"),
        ]
        for old, new in changes:
            self.assertIn(old, self.header.text)
            grown = Header(self.header.text.replace(old, new)).compiled()
            self.assertNotEqual(self.layout(grown), declared_layout(), new)
