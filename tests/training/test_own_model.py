"""The page on a network of one's own, followed to the letter."""

import re
from pathlib import Path

from support.program import relo

PAGE = Path(__file__).parents[2] / "docs" / "own_model.md"


def test_the_page_works(tmp_path, monkeypatch, dataset_dir):
    monkeypatch.chdir(tmp_path)
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", PAGE.read_text(), re.S))
    (tmp_path / "my_net.py").write_text(blocks["python"])
    (tmp_path / "my_recipe.yaml").write_text(blocks["yaml"])
    short = ("--set", "steps=2", "--set", "milestones=[1]", "--set", "crop=16", "--set", "workers=0")
    assert relo("train", "my_recipe.yaml", dataset_dir, "-o", "run", *short).code == 0
    named = ("--model", "my_net.py:Residual")
    assert relo("evaluate", "run", dataset_dir).code == 2
    answer = relo("evaluate", "run", dataset_dir, *named)
    assert answer.code == 0, answer
    assert "my_net.py:Residual on split" in answer.out
