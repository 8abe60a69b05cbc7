"""Everything in the README runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from scdgd.model import SCDGD

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def test_python_block_runs(monkeypatch):
    original = SCDGD.train
    monkeypatch.setattr(SCDGD, "train", lambda self: original(self, 3, accelerator="cpu", enable_progress_bar=False))
    (block,) = [code for language, code in BLOCKS if language == "python"]
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    adata = namespace["adata"]
    assert adata.obsm["X_scdgd"].shape == (700, 20)
    assert adata.obs["scdgd_cluster"].nunique() > 1
    assert namespace["synthetic"].shape == (500, adata.n_vars)
    assert len(namespace["markers"]) == adata.n_vars
    plt.close("all")


def test_make_targets_of_the_readme_exist():
    (block,) = [code for language, code in BLOCKS if language == "bash"]
    targets = set(re.findall(r"^make (\w+)", block, flags=re.MULTILINE))
    assert targets == {"demo"}
    plan = subprocess.run(
        ["make", "--dry-run", "demo", "DATA=my.h5ad", "LABELS=cell_type", "BATCH=donor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert '--data "my.h5ad" --labels-key "cell_type" --batch-key "donor"' in plan


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_links_into_the_repository_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_presets_named_in_the_readme_exist():
    import scdgd

    for name in re.findall(r"presets\.(\w+)", README):
        assert hasattr(scdgd.presets, name)
