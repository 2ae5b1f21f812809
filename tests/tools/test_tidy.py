"""The house kept tidy: lengths, banned functions, the direction of includes, headers that compile alone, dead files."""
import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROOMS = {  # room: the rooms it may include
    "base": {"base"},
    "engine": {"base", "engine"},
    "router": {"base", "router"},
    "proto": {"base", "proto"},
    "node": {"base", "engine", "router", "proto", "node"},
    "edge": {"base", "node", "edge"},
    "region": {"base", "node", "region"},
    "core": {"base", "node", "core"},
}
FILE_LINES_MAX = 700       # kernels may be longer
FUNCTION_LINES_MAX = 90
GENERATED = {"engine/unicode_table.h"}
BANNED = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atof|strtok|tmpnam|mktemp|system)\s*\(")
MARKS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def sources(*extensions):
    out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [f for f in out if f.endswith(extensions) and f not in GENERATED and os.path.exists(os.path.join(ROOT, f))]


def text_of(file):
    with open(os.path.join(ROOT, file), encoding="utf-8") as f:
        return f.read()


def code_of(file):
    """Without comments and strings, lines kept."""
    keep = lambda m: re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', keep, text_of(file), flags=re.S)


def is_kernel(file):
    return file.startswith(("engine/cpu/", "engine/cuda/"))


def test_no_file_is_too_long():
    long = [f"{f}: {n} lines" for f in sources(".c", ".h") if not is_kernel(f) and not f.startswith("tests/")
            if (n := text_of(f).count("\n")) > FILE_LINES_MAX]
    assert not long


def test_no_function_is_too_long():
    long = []
    for file in sources(".c"):
        if is_kernel(file) or file.startswith("tests/"):
            continue
        begin = name = None
        for number, line in enumerate(code_of(file).split("\n"), 1):
            if line.startswith("{") and name:
                begin = number
            elif line.startswith("}") and begin:
                if number - begin > FUNCTION_LINES_MAX:
                    long.append(f"{file}:{begin}: {number - begin} lines")
                begin = name = None
            elif re.match(r"[a-z_].*\(", line) and not line.rstrip().endswith(";"):
                name = line
    assert not long


def test_no_banned_function_is_called():
    found = [f"{f}:{n}: {line.strip()}" for f in sources(".c", ".h") for n, line in enumerate(code_of(f).split("\n"), 1)
             if BANNED.search(line) and not f.startswith("tests/")]
    assert not found


def test_includes_point_one_way():
    wrong = []
    for file in sources(".c", ".h"):
        room = file.split("/")[0]
        for target in re.findall(r'^#include "([a-z]+)/', text_of(file), flags=re.M):
            if room in ROOMS and target in ROOMS and target not in ROOMS[room]:
                wrong.append(f"{file} includes {target}/")
    assert not wrong


def test_every_header_compiles_alone():
    broken = []
    for file in sources(".h"):
        room = file.split("/")[0]
        if room not in ROOMS and room != "cli" or is_kernel(file):
            continue
        run = subprocess.run(["gcc", "-std=c17", "-D_GNU_SOURCE", "-I.", "-fsyntax-only", "-x", "c", "-"], cwd=ROOT,
                             input=f'#include "{file}"\n', capture_output=True, text=True)
        if run.returncode:
            broken.append(f"{file}: {run.stderr[:300]}")
    assert not broken


def test_nothing_is_left_unfinished_by_its_own_words():
    found = [f"{f}:{n}" for f in sources(".c", ".h", ".py", ".sh", ".md", ".yaml") if f != "tests/tools/test_tidy.py"
             for n, line in enumerate(text_of(f).split("\n"), 1) if MARKS.search(line)]
    assert not found


def test_every_header_is_included_somewhere():
    included = set()
    for file in sources(".c", ".h", ".cu", ".cuh"):
        for target in re.findall(r'^#\s*(?:include|define \w+_HEADER) "([^"]+)"', text_of(file), flags=re.M):
            included.add(target)
            included.add(os.path.normpath(os.path.join(os.path.dirname(file), target)))
    dead = [f for f in sources(".h") if f not in included and not f.startswith("tests/cross/")] # stands in for <cmocka.h>
    assert not dead


def test_the_readme_names_the_commands_and_files_that_exist():
    readme = text_of("README.md")
    assert "sh tools/demo.sh" in readme and "sh tools/test.sh" in readme
    missing = [p for p in re.findall(r"\]\((docs/[a-z]+\.md)\)", readme) if not os.path.exists(os.path.join(ROOT, p))]
    assert not missing
