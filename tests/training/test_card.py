"""The model card of a run says what its figures say."""

from xaitune.training.card import CARD


def test_the_card_of_a_classification(run, demo):
    text = (run.path / CARD).read_text(encoding="utf-8")
    assert f"macro F1: {run.score():.3f} [" in text
    assert demo.fingerprint in text
    for name in demo.class_names:
        assert f"\n| {name} | " in text
    weak = [name for name, row in run.per_class().iterrows() if row["f1"] < 0.5]
    assert f"below 0.5: {', '.join(weak)}." in text
    assert "classifies whole images" in text


def test_the_card_of_a_segmentation(segmented):
    text = (segmented.path / CARD).read_text(encoding="utf-8")
    assert f"mean IoU: {segmented.score():.3f} [" in text
    assert "gives the class of every pixel: background, bar, square" in text
    assert "| class | precision | recall | IoU |" in text
