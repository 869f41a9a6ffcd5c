"""The structure of the code, read from its syntax trees: import direction, sizes, names, declared dependencies."""

import ast
import importlib.metadata
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MAX_FILE, MAX_FUNCTION = 450, 90

# What each folder of mmjax may import, besides itself. The files beside the folders (main, cli, …), commands and
# plan meet everything; no folder may import them (but plan is no command, and imports neither commands nor cli).
MODEL_PARTS = {"encoders", "fusion", "decoders", "diffusion"}
BELOW = {
    "core": set(),
    "nn": {"core"},
    **{part: {"core", "nn"} for part in MODEL_PARTS},
    **{folder: {"core"} for folder in ("losses", "data", "weights", "evals", "train")},
    "systems": {"core", "nn", "losses"} | MODEL_PARTS,
}
NEVER = {"torch", "torchvision", "tensorflow", "transformers", "decord", "open3d"}  # at run time
OUTSIDE = {"tests", "experiments", "colab", "configs", "setup"}  # these import mmjax, never the reverse
VAGUE = {"utils", "util", "helpers", "misc"}

Import = tuple[int, str, bool]  # line, dotted name, whether it runs when the module is imported


def imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[Import]:
    """Every module that a module imports: statements, relative ones resolved, and import_module calls."""
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        now = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield from ((node.lineno, f"{module}.{alias.name}", now) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            name = node.args[0] if node.args else None
            if isinstance(name, ast.JoinedStr) and name.values:  # f"mmjax.systems.{system}"
                name = name.values[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value, now


def package_of(path: pathlib.Path, root: pathlib.Path) -> tuple[str, ...]:
    return path.relative_to(root).parent.parts


def import_problems(root: pathlib.Path) -> list[str]:
    """Imports in root/mmjax that go up, sideways, outside of the package, or to a forbidden framework."""
    found = []
    for path in sorted((root / "mmjax").rglob("*.py")):
        package = package_of(path, root)
        folder = package[1] if len(package) > 1 else path.stem
        meets_all = folder in ("commands", "plan") or (len(package) == 1 and path.stem != "__init__")
        where = path.relative_to(root).as_posix()
        for line, name, now in imports(ast.parse(path.read_text(encoding="utf-8")), package):
            top, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if top in NEVER:
                found.append(f"{where}:{line}: imports {name}: {top} is never needed at run time")
            elif top in OUTSIDE:
                found.append(f"{where}:{line}: imports {name}: {top} imports mmjax, never the reverse")
            elif top == "mmjax" and folder == "plan" and target in {"commands", "cli"}:
                found.append(f"{where}:{line}: imports {name}, but plan may import everything but commands and cli")
            elif top != "mmjax" or target in {"", "__version__"} or meets_all:
                continue
            elif folder == "__init__":
                if now:
                    found.append(f"{where}:{line}: imports {name}: `import mmjax` imports nothing else")
            elif folder not in BELOW:
                found.append(f"{where}: the import rules in tests/test_structure.py do not know the folder {folder}")
            elif target != folder and target not in BELOW[folder]:
                may = ", ".join(sorted({folder} | BELOW[folder]))
                found.append(f"{where}:{line}: imports {name}, but {folder} may import only {may}")
    return found


def size_problems(root: pathlib.Path) -> list[str]:
    """Files and functions that are too long, vague module names, and folders that would not be packaged."""
    found = []
    for top in ("mmjax", "tests", "configs", "experiments"):
        for path in sorted((root / top).rglob("*.py")):
            where, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
            lines = text.count("\n")
            if lines > MAX_FILE:
                found.append(f"{where}: {lines} lines, more than {MAX_FILE}")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > MAX_FUNCTION:
                        found.append(f"{where}:{node.lineno}: {node.name} has {length} lines, more than {MAX_FUNCTION}")
            if VAGUE & {path.stem, *path.relative_to(root).parent.parts}:
                found.append(f"{where}: a name that says nothing of what is inside")
            if top == "mmjax" and not (path.parent / "__init__.py").exists():
                found.append(f"{where}: its folder has no __init__.py and would not be packaged")
    return found


def declared(setup: pathlib.Path) -> tuple[set[str], set[str]]:
    """(installed always, installed by an extra): normalised distribution names in setup.py."""
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(setup.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in {"INSTALL", "EXTRAS"}
    }
    return {plain(r) for r in tables["INSTALL"]}, {plain(r) for extra in tables["EXTRAS"].values() for r in extra}


def plain(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def dependency_problems(root: pathlib.Path, providers: dict[str, list[str]]) -> list[str]:
    """Undeclared imports, extras imported by everyone, and requirements that nothing imports.

    `providers`: import name -> distributions, as importlib.metadata.packages_distributions() gives it; a module that
    is not installed is taken to come from the distribution of its own name.
    """
    always, extras = declared(root / "setup.py")
    found, used = [], set()
    for path in sorted((root / "mmjax").rglob("*.py")):
        where = path.relative_to(root).as_posix()
        for line, name, now in imports(ast.parse(path.read_text(encoding="utf-8")), package_of(path, root)):
            top = name.split(".")[0]
            if top == "mmjax" or top in sys.stdlib_module_names:
                continue
            sources = {plain(d) for d in providers.get(top, [top])}
            used |= sources
            if sources & always:
                continue
            if not sources & extras:
                found.append(f"{where}:{line}: imports {name}, which setup.py does not require")
            elif now:
                found.append(f"{where}:{line}: imports {name} at its top, but only an extra installs it")
    return found + [f"setup.py: nothing in mmjax imports {name}" for name in sorted(always - used)]


def test_imports_go_down():
    problems = import_problems(ROOT)
    assert not problems, "\n".join(problems)


def test_sizes_and_names():
    problems = size_problems(ROOT)
    assert not problems, "\n".join(problems)


def test_dependencies_are_declared():
    problems = dependency_problems(ROOT, dict(importlib.metadata.packages_distributions()))
    assert not problems, "\n".join(problems)


def write(root: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("file", "text", "part"),
    [
        ("mmjax/core/a.py", "import mmjax.nn.mlp\n", "core may import only core"),
        ("mmjax/nn/a.py", "from mmjax import systems\n", "nn may import only core, nn"),
        ("mmjax/nn/a.py", "from ..encoders.vit import ViT\n", "nn may import only core, nn"),
        ("mmjax/train/a.py", "def f():\n    from mmjax.systems.clip import CLIP\n", "mmjax/train/a.py:2: imports"),
        ("mmjax/weights/sub/a.py", "from mmjax.systems import clip\n", "weights may import only core, weights"),
        (
            "mmjax/evals/a.py",
            "import importlib\nimportlib.import_module('mmjax.data.x')\n",
            "a.py:2: imports mmjax.data",
        ),
        ("mmjax/losses/a.py", "from importlib import import_module\nimport_module(f'mmjax.nn.{1}')\n", "losses may"),
        ("mmjax/systems/a.py", "from mmjax.train import loop\n", "systems may import only"),
        ("mmjax/systems/a.py", "import torch.nn as nn\n", "torch is never needed"),
        ("mmjax/cli.py", "from transformers import CLIPModel\n", "transformers is never needed"),
        ("mmjax/commands/a.py", "from configs.clip import demo\n", "configs imports mmjax"),
        ("mmjax/__init__.py", "from mmjax.core import types\n", "imports nothing else"),
        (
            "mmjax/data/a.py",
            "from mmjax.cli import main\n",
            "imports mmjax.cli.main, but data may import only core, data",
        ),
        ("mmjax/plan/a.py", "from mmjax.commands import models\n", "everything but commands and cli"),
        ("mmjax/other/a.py", "import mmjax.core\n", "do not know the folder other"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, text, part):
    (problem,) = import_problems(write(tmp_path, {file: text}))
    assert part in problem and problem.startswith(file)


def test_right_imports_pass(tmp_path):
    files = {
        "mmjax/__init__.py": "__version__ = '1'\n\n\ndef load():\n    from mmjax import model\n",
        "mmjax/nn/a.py": "import jax\nfrom mmjax.core import trees\nfrom . import b\nfrom .b import c\n",
        "mmjax/systems/a.py": "from mmjax.losses.contrastive import softmax\nfrom mmjax.encoders.vit import ViT\n",
        "mmjax/commands/a.py": "import importlib as i\nfrom mmjax import nn\ni.import_module('mmjax.systems')\n",
        "mmjax/main.py": "from mmjax import commands, train\n",
        "mmjax/train/a.py": "from mmjax import __version__\nimport mmjax\n",
    }
    assert import_problems(write(tmp_path, files)) == []


@pytest.mark.parametrize(
    ("file", "text", "part"),
    [
        ("mmjax/core/a.py", "x = 1\n" * (MAX_FILE + 1), "451 lines, more than 450"),
        ("tests/core/test_a.py", "def f():\n" + "    x = 1\n" * MAX_FUNCTION, "f has 91 lines"),
        (
            "configs/clip/a.py",
            "class C:\n    async def g(self):\n" + "        1\n" * MAX_FUNCTION,
            "a.py:2: g has 91 lines",
        ),
        ("mmjax/core/utils.py", "", "says nothing"),
        ("mmjax/utils/text.py", "", "says nothing"),
        ("mmjax/core/sub/a.py", "", "no __init__.py"),
    ],
)
def test_a_wrong_size_or_name_is_found(tmp_path, file, text, part):
    write(tmp_path, {"mmjax/core/__init__.py": "", "mmjax/utils/__init__.py": "", file: text})
    problems = [p for p in size_problems(tmp_path) if p.startswith(file)]
    assert len(problems) == 1 and part in problems[0]


def test_sizes_at_the_limit_pass(tmp_path):
    text = "def f():\n" + "    x = 1\n" * (MAX_FUNCTION - 1) + "x = 1\n" * (MAX_FILE - MAX_FUNCTION)
    assert size_problems(write(tmp_path, {"mmjax/__init__.py": text})) == []


def test_wrong_dependencies_are_found(tmp_path):
    write(
        tmp_path,
        {
            "setup.py": "INSTALL = ['Pillow>=11', 'jax[cpu]>=0', 'idle']\nEXTRAS = {'x': ['board_x==1', 'wandb']}\n",
            "mmjax/a.py": "import os\nimport PIL.Image\nimport jax\nimport rogue\nfrom board import Writer\n",
            "mmjax/b.py": "def f():\n    import board\n    import wandb\n",
        },
    )
    assert dependency_problems(tmp_path, {"PIL": ["pillow"], "board": ["Board.X"], "jax": ["jax"]}) == [
        "mmjax/a.py:4: imports rogue, which setup.py does not require",
        "mmjax/a.py:5: imports board.Writer at its top, but only an extra installs it",
        "setup.py: nothing in mmjax imports idle",
    ]
