"""The notebook for newcomers runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

from muscle_zoo.checkpoints import registry
from muscle_zoo.publishing.notebook import render_notebook

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
CARDS = Path(__file__).resolve().parent.parent / "hub_cards"
NOTEBOOK = CARDS / "studies" / "first_steps.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # figures are not published unchecked
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    printed = ["".join(out.get("text", "") for out in cell.get("outputs", [])) for cell in notebook.cells]
    assert any(text.startswith("supervised: ") and "\nmuscle: " in text for text in printed)
    here, published = next(text for text in printed if "as published" in text).split(" % here, ")
    assert published.startswith(here)
    assert sum(name in printed[-2] for name in ("zero", "one", "four")) == 3


def test_the_notebook_of_a_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(CARDS.parent)}.items():
        monkeypatch.setenv(name, value)
    card = CARDS / "cnn4.muscle_digits_10"
    content = render_notebook(card, "org/name").decode()
    assert "%pip install -q muscle_zoo" in content and content.count("hf-hub:org/name") == 2
    notebook = nbformat.reads(content.replace("hf-hub:org/name", f"local-dir:{card}"), as_version=4)
    nbformat.validate(notebook)
    notebook.cells = [cell for cell in notebook.cells if "%pip" not in cell.source]
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    printed = ["".join(out.get("text", "") for out in cell.get("outputs", [])) for cell in notebook.cells]
    assert sum(text.count("%") for text in printed) == 3 and printed[-1].startswith("loss ")


def test_every_card_has_a_small_notebook_of_its_own_words() -> None:
    for card in registry.cards_in(CARDS):
        content = render_notebook(card, f"org/{card.name}")
        assert len(content) < 4096
        for cell in nbformat.reads(content.decode(), as_version=4).cells:
            if cell.cell_type == "code" and not cell.source.startswith("%"):
                compile(cell.source, card.name, "exec")
        own = card.name.startswith(("cnn", "wrn"))
        assert (b"import muscle_zoo" in content) == own  # timm's own architectures need no package of ours
