#!/usr/bin/env python3
"""check_pages.py HEADER PAGE_FOLDER LINK_FOLDER

The manual pages of section 3 and autoglm.h say the same: every function has one page that names it,
with its prototype and its errors; every field and constant is described; every name can be opened.
LINK_FOLDER has the one-line pages of the other names."""
import pathlib
import re
import sys

header = pathlib.Path(sys.argv[1]).read_text()
pages = {path.stem: path.read_text() for path in sorted(pathlib.Path(sys.argv[2]).glob("*.3"))}
links = {path.stem: path.read_text() for path in sorted(pathlib.Path(sys.argv[3]).glob("*.3"))}
complaints = []


def complain(*words):
    complaints.append(" ".join(words))


def plain(text):
    """C without comments, in one form of spaces."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r" ?([*(),]) ?", r"\1", text)


def errors(text):
    return set(re.findall(r"-E[A-Z0-9]+", text))


# ---- the header ----------------------------------------------------------------------------------

code = re.sub(r"^#.*(\\\n.*)*", "", header, flags=re.M)
functions = {}  # name: (prototype, the errors that its comment lists)
for match in re.finditer(r"^([a-z][\w ]*?\**)(agl_\w+)(\([^;{]*\));", code, flags=re.M):
    before = code[:match.start()].rstrip()
    comment = before[before.rindex("/*"):] if before.endswith("*/") else ""
    functions[match[2]] = (plain(match[0]).rstrip(";"), errors(comment))
if len(functions) < 30:
    sys.exit(f"check_pages: {len(functions)} functions found: this check shows nothing")

bare = re.sub(r"/\*.*?\*/", " ", code, flags=re.S)
structs = {}
for name, body in re.findall(r"struct (agl_\w+) \{(.*?)\}", bare, flags=re.S):
    structs[name] = set(re.findall(r"(\w+)(?:\[\w+\])?;", body)) - {"reserved"}
constants = set(re.findall(r"\bAGL_\w+(?= =)", bare)) | set(re.findall(r"define (AGL_[A-Z]+_INIT)", header))
events_end = header.rindex("/*", 0, header.index("int agl_poll("))
event_errors = errors(header[header.index("enum agl_done_reason"):events_end])

# ---- the pages -----------------------------------------------------------------------------------


def section(page, name):
    match = re.search(rf"^\.Sh {name}\n(.*?)(?=^\.Sh |\Z)", page, flags=re.S | re.M)
    return match[1] if match else ""


def arguments(line):
    return [quoted or word for quoted, word in re.findall(r'"([^"]*)"|(\S+)', line)]


def prototypes(synopsis):
    """The functions of a SYNOPSIS as C."""
    found, kind, name, fields = {}, None, None, []
    for line in synopsis.splitlines():
        macro, *words = arguments(line) or [""]
        if macro == ".Ft":
            kind = " ".join(words)
        elif macro == ".Fo":
            name, fields = words[0], []
        elif macro == ".Fa":
            fields += words
        elif macro == ".Fn":
            name, *fields = words
        if macro in (".Fn", ".Fc"):
            found[name] = plain(f"{kind} {name}({','.join(fields)})")
    return found


named = {}  # name: the page whose NAME has it
for title, page in pages.items():
    names = [line.split()[1] for line in section(page, "NAME").splitlines() if line.startswith(".Nm")]
    if not names or names[0] != title or f".Dt {title.upper()} 3\n" not in page:
        complain(f"{title}.3: file, title and first name differ")
    for wanted in ("NAME", "LIBRARY", "SYNOPSIS", "DESCRIPTION", "RETURN VALUES", "SEE ALSO"):
        if not section(page, wanted):
            complain(f"{title}.3: no section {wanted}")
    shown = prototypes(section(page, "SYNOPSIS"))
    if set(shown) != {name for name in names if name in functions}:
        complain(f"{title}.3: NAME and SYNOPSIS have different functions")
    listed = set()
    for name in names:
        if name in named:
            complain(f"{name}: named in {named[name]}.3 and {title}.3")
        named[name] = title
        if name == title and name in links or name != title and links.get(name) != f".so man3/{title}.3\n":
            complain(f"{name}.3: does not lead to {title}.3")
        prototype, meant = functions.get(name, (None, event_errors if name == "agl_event" else set()))
        listed |= meant
        if shown.get(name) != prototype:
            complain(f"{title}.3: {shown.get(name)}\n    the header: {prototype}")
        for error in sorted(meant - errors(page)):
            complain(f"{title}.3: {name} may say {error}, and the page does not")
    for error in sorted(errors(section(page, "ERRORS")) - listed):
        complain(f"{title}.3: {error} is not among the errors that the header lists")

for name in functions:
    if name not in named:
        complain(f"{name}: no page names it")
for name in set(named) - set(functions) - {"agl_event"}:
    complain(f"{named[name]}.3: {name} is no function")
for name in set(links) - set(named):
    complain(f"{name}.3: leads to nothing")

everything = "\n".join(pages.values())
described = set(re.findall(r"\bAGL_\w+", everything))
for constant in sorted(constants - described):
    complain(f"{constant}: no page tells what it is")
for name, fields in structs.items():
    texts = [page for page in pages.values() if re.search(rf'^\.Vt "?struct {name}\b', page, flags=re.M)]
    told = set()
    for line in "\n".join(texts).splitlines():
        macro, *words = arguments(line) or [""]
        if macro == ".Fa" or macro == ".It" and words[:1] == ["Fa"]:
            told |= set(words)
    for field in sorted(fields - told):
        complain(f"struct {name}: no page tells what {field} is")
for title, page in pages.items():
    for name in re.findall(r"^\.?Xr (agl_\w+) 3|\bXr (agl_\w+) 3", page, flags=re.M):
        if max(name) not in named:
            complain(f"{title}.3: refers to {max(name)}(3), which is not there")

for complaint in complaints:
    print(f"check_pages: {complaint}", file=sys.stderr)
if complaints:
    sys.exit(1)
print(f"{len(functions)} functions in {len(pages)} pages, {len(constants)} constants, "
      f"{sum(map(len, structs.values()))} fields: all described")
