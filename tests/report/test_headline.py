"""The verdict in words, for the page and for the terminal."""

from reporting import make_check, make_sweep

from xaitune.advise.check import AdviceCheck
from xaitune.cli.console import Ui
from xaitune.cli.verdict import say_verdict
from xaitune.report.headline import verdict_figures, verdict_texts


def test_the_terminal_says_what_the_page_says_and_draws_nothing(tmp_path, monkeypatch, capsys):
    sweep, check = make_sweep(tmp_path / "s"), make_check()
    assert verdict_figures(check)["picture"].source.startswith("data:image/png")
    monkeypatch.delattr(AdviceCheck, "plot")
    texts = verdict_texts(sweep, sweep, None, check, {})
    assert set(texts) == {"tone", "headline", "paragraphs", "todo"}
    said = say_verdict(Ui(), sweep, check)
    assert said["headline"] == texts["headline"]
    assert texts["headline"] in capsys.readouterr().out
