"""The notebooks: what is stored is whole and true of the code, and each runs from its first cell to its last."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from nbclient import NotebookClient

import llmforge

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
#: What a test runs instead: seconds, not minutes.
SHORTER = {r"max_steps=\d+": "max_steps=20", r"eval_steps=\d+": "eval_steps=20"}
SHORTER |= {r"n_layer=\d+": "n_layer=1", r"n_embd=\d+": "n_embd=32", r"max_new_tokens=\d+": "max_new_tokens=8"}
SHORTER |= {
    r'"--max_steps", "\d+", "--eval_steps", "\d+"': '"--max_steps", "4", "--eval_steps", "2"',
    r"logging_steps=\d+": "logging_steps=2",
}
SHORTER |= {r'"--n_layer", "\d+", "--n_embd", "\d+"': '"--n_layer", "1", "--n_embd", "32"', r"300, 1024, 4096": "1024,"}
#: What a notebook may import besides llmforge: to show, not to train.
SHOWN_WITH = {"ten_lines": [], "quickstart": [], "training-dynamics": ["from html", "pandas", "from IPython.display"]}


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What a stored notebook must not have: cells not run in order, errors, warnings, paths of the machine it was run on."""
    found = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != number:
            found.append(f"cell {number} was run as number {cell.execution_count}")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number}: {output.ename}")
            if output.get("name") == "stderr":
                found.append(f"cell {number} warns: {output.text[:80]}")
            if any("widget" in kind for kind in output.get("data", {})):
                found.append(f"cell {number} shows a progress bar, which is not stored")
    if not any("image/png" in output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs):
        found.append("no picture")
    # Pictures left out: base64 may hold anything.
    text = re.sub(r'"image/png": "[^"]*"', "", nbformat.writes(notebook))
    found += re.findall(r"/(?:root|tmp|home|Users|work|opt|usr)/\S*", text)
    return found


def public_faults(notebook: nbformat.NotebookNode) -> list[str]:
    """Imports other than llmforge's, and names of llmforge that are not public."""
    found = []
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names if alias.name != "llmforge"]
            elif isinstance(node, ast.ImportFrom):
                found.append(f"from {node.module}")
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "llmforge":
                found += [node.attr] if node.attr not in llmforge.__all__ else []
    return found


def steps(notebook: nbformat.NotebookNode) -> list[str]:
    """The statements that do something; those that only show what is there already are left out."""
    whole = [ast.unparse(node) for cell in code_cells(notebook) for node in ast.parse(cell.source).body]
    return [line for line in whole if re.search(r"llmforge\.|trainer\.|run\.", line)]


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(SHOWN_WITH)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_whole(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert faults(notebook) == []
    assert [name for name in public_faults(notebook) if name not in SHOWN_WITH[path.stem]] == []
    assert path.stat().st_size < 200_000


def test_planted_faults_are_seen():
    notebook = nbformat.read(ROOT / "docs/notebooks/ten_lines.ipynb", as_version=4)
    cells = code_cells(notebook)
    cells[1].execution_count = 7
    cells[1].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])]
    cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text="in /home/me/runs")]
    cells[3].outputs = [nbformat.v4.new_output("stream", name="stderr", text="UserWarning: x")]
    for cell in cells[4:]:
        cell.outputs = []
    widget = {"application/vnd.jupyter.widget-view+json": {}}
    cells[4].outputs = [nbformat.v4.new_output("display_data", data=widget)]
    cells[4].source = "import torch\nllmforge.trainer"
    assert len(faults(notebook)) == 6
    assert public_faults(notebook) == ["torch", "trainer"]


def test_the_ten_lines_are_about_ten():
    assert 8 <= len(steps(nbformat.read(ROOT / "docs/notebooks/ten_lines.ipynb", as_version=4))) <= 12


#: After the cells of a notebook, where its own names are still there. The whole run is last: its log stays on for the rest.
CHECKS = {
    "ten_lines": """
import datasets, pandas, transformers
assert isinstance(data.dataset, datasets.DatasetDict)
assert isinstance(data.tokenizer, transformers.PreTrainedTokenizerBase)
assert type(model) is transformers.GPT2LMHeadModel
assert isinstance(trainer, transformers.Trainer)
assert isinstance(run.metrics, pandas.DataFrame)
assert scores["eval_tokens"] > 0 and "tokens" not in scores  # a column without a name in the table of the notebook
assert (args.output_dir, str(run.path)) == ("runs/run-001", "runs/run-001")
""",
    "training-dynamics": """
assert sorted(curves.columns) == ["0.001", "0.0125", "0.15"] and not curves.isna().any().any()
assert len(table) == 6 and len(set(table.values())) > 1
text = data.tokenizer.decode(ids)
assert text == CODE and len(nats) == len(ids) == len(beliefs)
import torch
whole = data.tokenizer(data.tokenizer.eos_token + CODE, add_special_tokens=False, return_tensors="pt")["input_ids"]
loss = model(whole, labels=whole).loss.item()
assert abs(loss - sum(nats) / len(nats)) < 1e-4  # what is coloured is the model's own loss
""",
    "quickstart": """
assert result.end["loss"] < result.start["loss"]
assert set(run.samples.step) >= {2, 4}
assert (result.folder / "run.log").read_text().count("Validation, best model") == 1  # and not only in the notebook
""",
}


def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Copies, shortened, one after another in one kernel, where the corpus is found by the same relative path."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the kernel is a process of its own, and the model is tiny
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    whole = nbformat.read(ROOT / "docs/notebooks/ten_lines.ipynb", as_version=4)
    whole.cells = []
    for name, check in CHECKS.items():
        cells = nbformat.read(ROOT / f"docs/notebooks/{name}.ipynb", as_version=4).cells
        for cell in cells:
            for long, short in SHORTER.items():
                cell.source = re.sub(long, short, cell.source)
        whole.cells += [*cells, nbformat.v4.new_code_cell(check)]
    for number, cell in enumerate(whole.cells):
        cell["id"] = f"cell-{number}"
    assert "max_steps=20" in nbformat.writes(whole)
    assert '\\"--max_steps\\", \\"4\\"' in nbformat.writes(whole)
    NotebookClient(whole, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    for cell in code_cells(whole):  # a whole run says line by line what it does, as in a terminal
        if "pretrain_model" in cell.source:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    assert faults(whole) == []
    assert {path.name for path in (folder / "runs" / "run-001").iterdir()} >= {"metrics.jsonl", "plots", "checkpoint-20"}
    assert [path.name for path in folder.iterdir()] == ["runs"]
