"""The check whether an explanation depends on the model, by weights randomised from the head down."""

import numpy as np
import pandas as pd
import pytest

from xaitune.errors import ModelError
from xaitune.evaluate import sanity
from xaitune.evaluate.sanity import randomisation_check

STAGES = ["head", *(f"head to Block {b}" for b in (5, 4, 3, 2, 1))]


@pytest.fixture(scope="module")
def images(demo):
    """Four drawn defects, at the model's size."""
    rows = [i for i in demo.indices("test") if demo.mask(int(i)) is not None][:4]
    return demo.load(rows).astype(np.float32)


def edges(model, images, classes):
    """An 'explainer' that ignores the model: the strength of edges."""
    grey = images.mean(-1)
    down, right = np.gradient(grey, axis=(1, 2))
    return {3: np.hypot(down, right), 5: grey.max() - grey}


def test_an_explainer_that_ignores_the_model_is_detected(run, images):
    check = randomisation_check(run, images, explain=edges)
    assert check.table["block"].tolist() == [3] * 6 + [5] * 6
    assert check.table["randomised"].tolist() == STAGES * 2
    np.testing.assert_allclose(check.table[["spearman", "ssim"]], 1)
    assert (check.table["images"] == 4).all()
    assert check.verdicts[3] == check.verdicts[5] == "ignores the model: Spearman 1.00 with all weights random"
    assert "<li>Block 3: ignores the model" in check._repr_html_()


def test_grad_cam_follows_the_model_and_leaves_it_unchanged(run, images):
    before = [w.copy() for w in run.model.get_weights()]
    check = randomisation_check(run, images, blocks="3-5", seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(before, run.model.get_weights(), strict=True))
    assert sorted(check.verdicts) == [3, 4, 5]
    table = check.table.pivot(index="randomised", columns="block", values="spearman").loc[STAGES]
    assert (table < 0.95).all(axis=None)  # every stage changes every map
    assert (table.loc["head to Block 1"] < sanity.CHANGED).all()
    assert all(v.startswith("follows the model: ") for v in check.verdicts.values())
    again = randomisation_check(run, images, blocks="3-5", seed=1)
    np.testing.assert_allclose(again.table["spearman"], check.table["spearman"], atol=1e-4)


def test_each_stage_randomises_one_more_part(run, images):
    seen = []

    def record_weights(model, images, classes):
        names = ["logits", "block5_conv3", "block4_conv1", "block3_conv2", "block2_conv1", "block1_conv1"]
        seen.append([model.get_layer(name).get_weights()[0].copy() for name in names])
        assert classes.shape == (len(images),)
        return {1: images.mean(-1)}

    randomisation_check(run, images, explain=record_weights, class_name="crack")
    assert len(seen) == 7
    for stage in range(1, 7):
        changed = [not np.array_equal(a, b) for a, b in zip(seen[0], seen[stage], strict=True)]
        assert changed == [True] * stage + [False] * (6 - stage)
        trained, random = seen[0][stage - 1], seen[stage][stage - 1]
        assert random.std() == pytest.approx(trained.std(), rel=0.15)
        assert abs(np.corrcoef(random.ravel(), trained.ravel())[0, 1]) < 0.2


def test_maps_that_become_or_are_constant(run, images):
    calls = iter(range(99))

    def vanish(model, images, classes):
        ramp = np.broadcast_to(np.arange(1024.0).reshape(32, 32), (4, 32, 32)).copy()
        first = next(calls) == 0
        ramp[0] = 0  # the map of this image is constant from the start
        return {1: ramp if first else 0 * ramp, 2: 0 * ramp}

    check = randomisation_check(run, images, explain=vanish)
    first, second = (check.table[check.table["block"] == b] for b in (1, 2))
    assert (first["spearman"] == 0).all()
    assert (first["images"] == 3).all()
    assert check.verdicts[1] == "follows the model: Spearman below 0.5 once the weights of the head are random"
    assert second["spearman"].isna().all()
    assert check.verdicts[2].startswith("cannot tell")


def test_verdicts_in_words():
    table = pd.DataFrame({"randomised": STAGES, "spearman": [0.9, 0.7, 0.4, 0.6, 0.3, 0.1]})
    assert sanity._verdict(table).endswith("once the weights of the head to Block 2 are random")
    assert sanity._verdict(table.assign(spearman=0.6)).startswith("follows the model in part: Spearman 0.60")


def test_wrong_models_and_classes_are_named(run, images):
    with pytest.raises(ModelError, match="Unknown class 'crak'"):
        randomisation_check(run, images, class_name="crak")
