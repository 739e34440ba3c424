"""The bar of a notebook: shown there and nowhere else, and never where a caller has a function of its own."""

import sys
import types

import pytest

from xaitune._progress import in_notebook, shown_progress


class ZMQInteractiveShell:
    """What a notebook's kernel calls its shell."""


class TerminalInteractiveShell:
    """What IPython in a terminal calls its shell."""


@pytest.fixture
def shell(monkeypatch):
    """Pretend to run in a shell of a class; returns what is displayed, in order."""

    def enter(kind):
        drawn = []

        class Handle:
            def update(self, shown):
                drawn.append(shown)

        display = types.ModuleType("IPython.display")
        display.HTML = str
        display.display = lambda shown, display_id: (drawn.append(shown), Handle())[1]
        ipython = types.ModuleType("IPython")
        ipython.get_ipython, ipython.display = (lambda: kind() if kind else None), display
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        return drawn

    return enter


def test_a_notebook_shows_a_bar_whose_text_cannot_be_html(shell):
    drawn = shell(ZMQInteractiveShell)
    progress = shown_progress(None, "training")
    assert drawn == []  # nothing before the first step, such as for a run that is finished
    progress(1, 4, "<b>epoch</b>")
    progress(2, 4, "too soon to be drawn")
    progress(4, 4, "done")
    assert len(drawn) == 2
    assert '<progress value="0.250" max="1" aria-label="training">' in drawn[0]
    assert "&lt;b&gt;epoch&lt;/b&gt;" in drawn[0]
    assert '<progress value="1.000"' in drawn[1]


@pytest.mark.parametrize("kind", [TerminalInteractiveShell, None])
def test_elsewhere_nothing_is_shown(shell, kind):
    shell(kind)
    assert not in_notebook()
    assert shown_progress(None, "training") is None


def test_a_callers_function_is_used_as_it_is(shell):
    drawn = shell(ZMQInteractiveShell)
    assert shown_progress(print, "training") is print
    assert drawn == []


def test_lime_in_a_notebook_counts_the_samples_of_all_images(shell):
    from xaitune.explain.lime.explain import sample_bar

    drawn = shell(ZMQInteractiveShell)
    sample_bar(2)(1, 100, 100)
    assert '<progress value="1.000"' in drawn[0]
    assert "image 2 of 2" in drawn[0]
