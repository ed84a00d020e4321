"""The house rules, kept by a machine. CONTRIBUTING.md says them in words."""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "pipeline"

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_JOB_LINES = 400, 60, 40
MAX_START_CPU_S = 0.5
HEAVY = {"torch", "torchaudio", "torchcodec", "transformers", "ctranslate2", "faster_whisper", "onnxruntime", "vllm"}
# The second pass has one module that runs a language model, as an engine runs its model.
HEAVY_FOLDERS = ("engines/", "audio/", "second_pass/generator.py")
# Code that takes tensors imports torch as torch code does; what Quarry imports of it, it imports late.
_MODEL_MODULES = "attention device draft editor encoder features loading model projector routing transfer weights"
MODEL_CODE = {f"engines/granite_nar/{name}.py" for name in re.split(" ", _MODEL_MODULES)}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
SPEAKERS = ("cli.py", "commands.py", "runtime/progress.py")  # may print
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "yaml.load", "os.system", "os.popen"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[str, ast.Module], Iterator[str]]  # (path below pipeline/, tree) -> complaints


def functions_are_short(path: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, Function) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:  # type: ignore[operator]
            yield f"{path}:{node.lineno} {node.name} is longer than {MAX_FUNCTION_LINES} lines"


def names_say_something(path: str, tree: ast.Module) -> Iterator[str]:
    if VAGUE_NAMES & {Path(path).stem, *Path(path).parent.parts}:
        yield f"{path} is a name that says nothing"


def ray_stays_in_runtime(path: str, tree: ast.Module) -> Iterator[str]:
    for line, name, _ in imports(tree):
        if name.partition(".")[0] == "ray" and not path.startswith("runtime/"):
            yield f"{path}:{line} imports ray outside runtime/"


def heavy_imports_are_lazy(path: str, tree: ast.Module) -> Iterator[str]:
    for line, name, at_import in imports(tree):
        package = name.partition(".")[0]
        if package in HEAVY and not path.startswith(HEAVY_FOLDERS):
            yield f"{path}:{line} imports {package} outside {' and '.join(HEAVY_FOLDERS)}"
        elif at_import and path not in MODEL_CODE and (package in HEAVY or is_model_code(name)):
            yield f"{path}:{line} imports {name} at the top of the module"


def model_code_needs_little(path: str, tree: ast.Module) -> Iterator[str]:
    """It is measured on bare machines: torch, numpy, safetensors, tokenizers, and parts of Quarry that need no more."""
    allowed = {"torch", "numpy", "safetensors", "tokenizers", "flash_attn", *sys.stdlib_module_names}
    for line, name, _ in imports(tree):
        light = name in ("pipeline.errors", "pipeline.records") or name.startswith("pipeline.engines.granite_nar.")
        if path in MODEL_CODE and name.partition(".")[0] not in allowed and not light:
            yield f"{path}:{line} imports {name}, which model code must not need"


def is_model_code(name: str) -> bool:
    """Whether a module's full name is that of a file in MODEL_CODE."""
    return f"{name.removeprefix('pipeline.').replace('.', '/')}.py" in MODEL_CODE


def only_some_print(path: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) == "print" and path not in SPEAKERS:
            yield f"{path}:{node.lineno} prints"


def nothing_runs_foreign_code(path: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if dotted(node.func) in FORBIDDEN_CALLS:
            yield f"{path}:{node.lineno} calls {dotted(node.func)}"
        for keyword in node.keywords:
            safe = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in ("shell", "trust_remote_code") and not safe:
                yield f"{path}:{node.lineno} passes {keyword.arg}"


def public_things_have_docstrings(path: str, tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield f"{path} has no docstring"
    public: list[tuple[str, ast.AST]] = [("", tree)]
    while public:
        _, parent = public.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    yield f"{path}:{node.lineno} {node.name} has no docstring"
                if isinstance(node, ast.ClassDef):
                    public.append((node.name, node))


RULES: list[Rule] = [
    functions_are_short,
    names_say_something,
    ray_stays_in_runtime,
    heavy_imports_are_lazy,
    model_code_needs_little,
    only_some_print,
    nothing_runs_foreign_code,
    public_things_have_docstrings,
]


def imports(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """(line, module, whether it is imported when the module is) for every import statement."""
    later: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, Function) or (isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING")):
            later |= {inner for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, node not in later
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module, node not in later


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of names, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (front := dotted(node.value)):
        return f"{front}.{node.attr}"
    return ""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text("utf-8"), str(path))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps_the_rule(rule: Rule) -> None:
    assert [complaint for path, tree in trees() for complaint in rule(path, tree)] == []


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (functions_are_short, "plan.py", "def f():\n" + "    x = 1\n" * 60),
        (names_say_something, "text/utils.py", ""),
        (names_say_something, "common/text.py", ""),
        (ray_stays_in_runtime, "plan.py", "def f():\n    import ray.data"),
        (ray_stays_in_runtime, "plan.py", "from ray.data import Dataset"),
        (heavy_imports_are_lazy, "plan.py", "def f():\n    import torch"),
        (heavy_imports_are_lazy, "engines/whisper.py", "import ctranslate2"),
        (heavy_imports_are_lazy, "engines/whisper.py", "if fast:\n    from torch.nn import Linear"),
        (
            heavy_imports_are_lazy,
            "engines/granite_nar/engine.py",
            "from pipeline.engines.granite_nar.model import Model",
        ),
        (model_code_needs_little, "engines/granite_nar/model.py", "def f():\n    import ray"),
        (model_code_needs_little, "engines/granite_nar/model.py", "from pipeline.config import EngineConfig"),
        (only_some_print, "plan.py", "print('here')"),
        (nothing_runs_foreign_code, "config.py", "import yaml\nyaml.load('a: b')"),
        (nothing_runs_foreign_code, "config.py", "eval('1')"),
        (nothing_runs_foreign_code, "audio/decode.py", "subprocess.run('ls', shell=on)"),
        (nothing_runs_foreign_code, "engines/granite.py", "AutoModel.from_pretrained(m, trust_remote_code=True)"),
        (public_things_have_docstrings, "plan.py", '"""Plans."""\nclass Plan:\n    """P."""\n    def of(self): ...'),
    ],
)
def test_rule_catches_a_breach(rule: Rule, path: str, source: str) -> None:
    assert len(list(rule(path, ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (functions_are_short, "plan.py", "def f():\n" + "    x = 1\n" * 59),
        (ray_stays_in_runtime, "runtime/ray_flow.py", "import ray"),
        (heavy_imports_are_lazy, "audio/vad.py", "def f():\n    import onnxruntime"),
        (heavy_imports_are_lazy, "engines/nar.py", "if TYPE_CHECKING:\n    import torch"),
        (heavy_imports_are_lazy, "engines/granite_nar/model.py", "import torch"),
        (
            model_code_needs_little,
            "engines/granite_nar/model.py",
            "import torch\nfrom pipeline.errors import EngineDead",
        ),
        (
            nothing_runs_foreign_code,
            "engines/nar.py",
            "model.eval()\nAutoModel.from_pretrained(m, trust_remote_code=False)",
        ),
        (public_things_have_docstrings, "plan.py", '"""Plans."""\ndef _cut(): ...'),
    ],
)
def test_rule_lets_the_rest_pass(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, ast.parse(source))) == []


def test_files_are_short() -> None:
    folders = ("pipeline", "jobs", "tests", "demos", "benchmarks")
    lines = {path: len(path.read_text("utf-8").splitlines()) for top in folders for path in (REPO / top).rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > MAX_FILE_LINES} == {}
    assert {path: count for path, count in lines.items() if path.parent.name == "jobs" and count > MAX_JOB_LINES} == {}


@pytest.mark.parametrize("start", ["import pipeline", "from pipeline.cli import main; main(['--help'])"])
def test_starts_at_once_and_loads_nothing_heavy(start: str) -> None:
    script = f"""
import sys
try:
    {start}
except SystemExit as stop:
    assert stop.code in (0, None)
print(",".join(sorted({{name.partition(".")[0] for name in sys.modules}})), file=sys.stderr)
"""
    loaded: set[str] = set()
    cpu_s = []
    for _ in range(5):  # CPU seconds, and the best of five: a busy machine must not fail this
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPO)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        loaded |= set(done.stderr.strip().splitlines()[-1].split(","))
    assert loaded & (HEAVY | {"ray"}) == set()
    assert min(cpu_s) < MAX_START_CPU_S
