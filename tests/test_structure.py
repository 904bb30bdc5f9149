"""The test tree: it mirrors the packages, and test files share code only through `tests/support`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
MAX_LINES_OF_FUNCTION, MAX_PARAMETERS, MAX_LINES_OF_FILE = 40, 8, 300
MIRRORED = ("shared", "vq_stage", "lm_stage", "pipelines")

# Test files of no single source file, each with the reason.
INTEGRATION: dict[str, str] = {
    "lm_stage/test_images_only.py": "models of a codec without videos, in the API and in the job",
    "lm_stage/data/test_sequence_lengths.py": "forecasts of `emu3 plan` against the sequences of a run",
    "lm_stage/generate/test_emu35.py": "text-to-image and image editing of Emu3.5, from the prompt file to the codes",
    "lm_stage/generate/test_videos.py": "prompts for videos, from the plan to the decoded frames",
    "lm_stage/model/test_published_names.py": "the names of the full published decoder of Emu3.5",
    "lm_stage/model/kernels/test_ascend_operators.py": "the substitutes of Ascend's operators in tests/support",
    "lm_stage/model/kernels/test_optimizer.py": "the updates of AdamW against the published rule",
    "pipelines/commands/test_plan.py": "`emu3 plan` with the forms of sequences of both families",
    "pipelines/test_flags.py": "all messages and documents against the whole command line",
    "pipelines/test_mindone.py": "the jobs of both stages with the other implementation of their models",
    "pipelines/workflow/test_demo_emu35.py": "a packaged pipeline with its files and its tokenizer",
    "shared/test_code_types.py": "datasets of either code type, through every job that needs no model",
    "shared/dataset/test_answer_records.py": "rows of answers, to Arrow and back, and damage to them",
    "shared/dataset/test_dataset_digest.py": "the digest of a dataset, which rows and settings decide",
    "shared/dataset/test_sequence_records.py": "datasets of generated sequences, through all files of the folder",
    "vq_stage/test_ibq_jobs.py": "the jobs of the vision stage with a tokenizer of images only",
    "vq_stage/sources/test_s3.py": "every kind of source in a bucket",
}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_test_module(module: str) -> bool:
    """Whether a dotted name, perhaps with a name of the module behind it, is a test file or a conftest."""
    parts = module.split(".")
    return parts[0] == "tests" and any(part == "conftest" or part.startswith("test_") for part in parts)


def test_no_file_imports_a_test_file_or_a_conftest() -> None:
    imports = [(path, module) for path in sorted(TESTS.rglob("*.py")) for module in imported_modules(path)]
    assert [f"{path.relative_to(TESTS)}: {module}" for path, module in imports if is_test_module(module)] == []


def is_mirror(test_file: Path) -> bool:
    """Whether a source file or folder has the name of a test file, without `test_`."""
    source = ROOT / test_file.relative_to(TESTS).with_name(test_file.stem.removeprefix("test_"))
    return source.with_suffix(".py").is_file() or source.is_dir()


def test_every_test_file_mirrors_a_source_file_or_folder() -> None:
    """If this fails, rename the test file after its source, or list it with the reason."""
    files = [path for package in MIRRORED for path in sorted((TESTS / package).rglob("test_*.py"))]
    assert {str(path.relative_to(TESTS)) for path in files if not is_mirror(path)} == set(INTEGRATION)


def functions_of(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def is_command(function: ast.FunctionDef) -> bool:
    """Whether a function is a click command, which has a parameter for every option."""
    return any("command" in ast.unparse(decorator) for decorator in function.decorator_list)


def parameters(function: ast.FunctionDef) -> int:
    return len(function.args.posonlyargs) + len(function.args.args) + len(function.args.kwonlyargs)


def test_functions_and_files_are_short() -> None:
    paths = [path for package in MIRRORED for path in sorted((ROOT / package).rglob("*.py"))]
    functions = [named for path in paths for named in functions_of(path)]
    assert len(functions) > 1_000, "hardly any function was found"
    assert [name for name, node in functions if node.end_lineno - node.lineno >= MAX_LINES_OF_FUNCTION] == []
    assert [name for name, node in functions if parameters(node) > MAX_PARAMETERS and not is_command(node)] == []
    assert [str(path) for path in paths if len(path.read_text().splitlines()) > MAX_LINES_OF_FILE] == []
