"""advice.py: drawn maps with a known answer, hand-made scores, calls that are counted, and no look at a test image."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaitune import _files
from xaitune.advise import advice, decision, probe, recommend
from xaitune.advise.advice import find_advice, load_advice
from xaitune.advise.decision import choose_block
from xaitune.advise.recommend import advise_freeze
from xaitune.config.schema import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, DataError, RunError

BASE = TrainConfig(weights="slim", head_epochs=1, epochs=1, precision="float32")
BLOCKS = range(1, 6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Frozen features and heads."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def unmasked(demo):
    """The demo's images without their masks."""
    return ImageData.from_folder(demo.config.path, groups=demo.config.groups, image_size=(32, 32))


# ---- the choice


@pytest.mark.parametrize(
    ("means", "errors", "block"),
    [
        ([0.6, 0.61, 0.6, 0.1, 0.1], [0.02] * 5, 3),  # sharp in Block 1-3, noise after
        ([0.1, 0.1, 0.1, 0.1, 0.6], [0.02] * 5, 5),  # only the last is good
        ([0.3] * 5, [0.0] * 5, 5),  # flat: the cheapest to train
        ([0.6, 0.1, 0.1, 0.1, 0.1], [0.02] * 5, 1),
        ([0.6, 0.1, 0.1, 0.585, 0.57], [0.02] * 5, 4),  # Block 4 within its error, Block 5 not
        ([0.6, 0.1, 0.1, 0.585, 0.57], [0.02, 0.02, 0.02, 0.02, 0.03], 5),
    ],
)
def test_choose_block(means, errors, block):
    assert choose_block(np.array(means), np.array(errors)) == block
    many = choose_block(np.array([means, means[::-1]]), np.array(errors))  # rows of means
    assert many.shape == (2,)
    assert many[0] == block


def drawn(sharp, masks, rng, side=16):
    """Raw maps by block: one and the same map, the mask with a little noise, in the blocks of `sharp`, noise alone in
    each of the others."""
    small = np.stack([np.asarray(Image.fromarray(m).resize((side, side))) for m in masks]).astype(np.float32)
    small += 0.1 * rng.random(small.shape).astype(np.float32)
    return {b: small if b in sharp else rng.random(small.shape).astype(np.float32) for b in BLOCKS}


@pytest.fixture
def placed_alike(monkeypatch):
    """Equal maps are put elsewhere equally, so that their scores are equal and not near to it by chance."""
    real = probe.mapscores.random_like
    monkeypatch.setattr(probe.mapscores, "random_like", lambda maps, _: real(maps, np.random.default_rng(1)))


@pytest.mark.usefixtures("placed_alike")
@pytest.mark.parametrize(
    ("sharp", "block"), [((1, 2, 3), 3), ((5,), 5), ((1, 2, 3, 4, 5), 5), ((2,), 2), ((1, 2, 3, 4), 4)]
)
def test_drawn_maps_with_masks_have_a_known_answer(demo, tmp_path, cache, monkeypatch, sharp, block):
    chosen, rng, real = [], np.random.default_rng(0), probe.choose_images
    for module in (probe, advice):
        monkeypatch.setattr(module, "choose_images", lambda *a: chosen.append(real(*a)) or chosen[-1])

    def mapper(model, blocks, *rest):
        def maps(images, classes):
            masks = [demo.mask(int(i)) for i in chosen[-1]]
            return drawn(sharp, masks, rng), np.zeros((len(images), len(demo.class_names)))

        return maps

    monkeypatch.setattr(probe, "BlockMapper", mapper)
    monkeypatch.setattr(advice, "BlockMapper", mapper)
    made = advise_freeze(demo, BASE, runs_dir=tmp_path, cache_dir=cache, head_seeds=2)
    assert made.freeze_through == block
    assert made.measure == "localisation"
    assert made.confidence > 0.5
    score = made.evidence["score"]
    for b in BLOCKS:
        assert (score[b] > 0.3) == (b in sharp), made.evidence
        if b not in sharp:
            assert abs(score[b]) < 0.15  # no better than the same map put elsewhere


def test_constant_maps_score_nothing_and_are_told(demo, tmp_path, cache, monkeypatch):
    def mapper(model, blocks, *rest):
        def maps(images, classes):
            zeros = {b: np.zeros((len(images), 4, 4), np.float32) for b in blocks}
            return zeros, np.zeros((len(images), len(demo.class_names)))

        return maps

    monkeypatch.setattr(probe, "BlockMapper", mapper)
    monkeypatch.setattr(advice, "BlockMapper", mapper)
    made = advise_freeze(demo, BASE, runs_dir=tmp_path, cache_dir=cache, head_seeds=1)
    np.testing.assert_allclose(made.evidence["score"], 0, atol=1e-9)
    assert list(made.evidence["empty_maps"]) == [1.0] * 5
    assert made.freeze_through == 5  # nothing speaks against the cheapest
    assert "empty maps" in made.reasons


@pytest.mark.usefixtures("placed_alike")
def test_drawn_maps_without_masks_have_a_known_answer():
    """The drawn model sees the bright middle alone: maps of Block 1-3 show it, those of Block 4 and 5 are noise."""
    rng = np.random.default_rng(0)
    count, side = 24, 32
    images = rng.integers(0, 60, (count, side, side, 3)).astype(np.float32)
    images[:, 12:20, 12:20] = 230
    middle = np.zeros((count, side, side), bool)
    middle[:, 12:20, 12:20] = True
    seen = 0

    def predict(batch):
        nonlocal seen
        seen += len(batch)
        p = batch[:, 12:20, 12:20].mean(axis=(1, 2, 3)) / 255
        return np.stack([p, 1 - p], axis=1)

    raw = drawn((1, 2, 3), middle, rng)
    found, calls = probe._faithfulness(predict, images, raw, np.zeros(count, int), np.random.default_rng(1))
    assert calls == seen == count * (2 + 2 * 10 * (probe.STEPS - 1))
    mean = found["faithfulness"].mean(axis=0)
    assert (mean[:3] > 0.1).all()
    assert (np.abs(mean[3:]) < 0.1).all()
    assert found["insertion"][:, :3].mean() > found["deletion"][:, :3].mean()
    assert mean[:3].min() > 2 * mean[3:].max()
    maps = probe.unit_maps(raw, (side, side))
    scores = {"faithfulness": found["faithfulness"], "agreement": probe._agreement(maps)}
    scores["concentration"] = probe.mapscores.map_concentration(maps).gini
    scores["stability"] = np.ones((count, 5))
    scores = {k: v[None] for k, v in scores.items()}  # one head
    scores |= {"score": probe._mean_rank(scores), "zero": np.zeros((1, count, 5))}
    made = decided(scores, np.array([f"g{i // 2}" for i in range(count)]))
    assert made.freeze_through == 3


def decided(scores, groups, measure="mean rank"):
    """What `decide` makes of scores (seeds, images, blocks)."""
    data = SimpleNamespace(fingerprint="f", image_size=(32, 32))
    probe = SimpleNamespace(seeds=tuple(range(scores["score"].shape[0])), weights="w")
    return decision.decide(scores, groups, 99, measure, data, probe, "heatmap")


def scores_of(score):
    """The dict of `measure_blocks` with these deciding scores."""
    rest = ("agreement", "concentration", "stability")
    return {"score": score, "zero": np.zeros_like(score)} | {name: np.full_like(score, 0.5) for name in rest}


def test_decide_means_errors_and_votes():
    """20 groups of 2 images. Block 2 is best; Block 4 is behind by 0.1 in half of the groups and before by 0.08."""
    base = np.array([0.1, 0.5, 0.1, 0.5, 0.1])
    score = np.tile(base, (1, 40, 1))
    score[0, :20, 3] -= 0.10
    score[0, 20:, 3] += 0.08
    groups = np.repeat([f"g{i:02d}" for i in range(20)], 2)
    made = decided(scores_of(score), groups)
    e = made.evidence
    np.testing.assert_allclose(e["score"], [0.1, 0.5, 0.1, 0.49, 0.1])
    np.testing.assert_allclose(e["behind_best"], [0.4, 0, 0.4, 0.01, 0.4], atol=1e-12)
    # The mean of 20 groups that are -0.10 or +0.08: its standard error is 0.09 / sqrt(20) = 0.0201.
    assert e.loc[4, "standard_error"] == pytest.approx(0.09 / np.sqrt(20), rel=0.05)
    assert e.loc[1, "standard_error"] == pytest.approx(0, abs=1e-12)
    assert made.freeze_through == 4  # 0.01 behind, within 0.02
    assert sum(made.votes.values()) == pytest.approx(1)
    assert made.confidence == made.votes[4]
    # A resample of k of 20 groups below: Block 4 is chosen where its mean is at least -0.0201 behind.
    draws = np.random.default_rng(1).binomial(20, 0.5, 100_000)
    gap = 0.08 - 0.18 * draws / 20
    assert made.votes[4] == pytest.approx((gap >= -0.0201).mean(), abs=0.03)
    assert made.votes[2] == pytest.approx(1 - made.votes[4])
    assert made.ranking[:2] == (4, 2)
    assert (made.images, made.groups, made.model_calls) == (40, 20, 99)
    assert "within one standard error" in made.reasons


def test_decide_is_sure_where_all_agree_and_not_where_heads_differ():
    groups = np.array([f"g{i}" for i in range(12)])
    one = np.tile([0.9, 0.9, 0.9, 0.1, 0.1], (2, 12, 1))
    sure = decided(scores_of(one), groups)
    assert (sure.freeze_through, sure.confidence) == (3, 1.0)
    two = one.copy()
    two[1] = [0.1, 0.1, 0.1, 0.1, 0.9]  # the other head says Block 5
    unsure = decided(scores_of(two), groups)
    assert unsure.votes[3] == pytest.approx(0.5)
    assert unsure.votes[5] == pytest.approx(0.5)
    assert unsure.confidence == 0.5


def test_groups_count_and_not_images():
    """A group of 30 equal images is one thing seen 30 times: it widens the interval."""
    rng = np.random.default_rng(3)
    score = rng.random((1, 40, 5))
    score[0, 10:] = score[0, 10]
    alone = decided(scores_of(score), np.array([f"g{i}" for i in range(40)]))
    together = decided(scores_of(score), np.array([f"g{min(i, 10)}" for i in range(40)]))
    np.testing.assert_allclose(alone.evidence["score"], together.evidence["score"])
    widths = [(e["high"] - e["low"]).mean() for e in (alone.evidence, together.evidence)]
    assert widths[1] > 1.5 * widths[0]


# ---- real trainings


def counted(monkeypatch):
    """Counts every image that goes through the network, forward or backward, before the pictures are drawn."""
    count = {"calls": 0, "stated": None}
    real_mapper, real_predict, real_save = probe.BlockMapper, probe.Probabilities, recommend.write_advice

    def mapper(*args):
        inner = real_mapper(*args)

        def maps(images, classes):
            count["calls"] += 2 * len(images)
            return inner(images, classes)

        return maps

    def predict(*args):
        inner = real_predict(*args)

        def probabilities(images):
            count["calls"] += len(images)
            return inner(images)

        return probabilities

    def save(*args):
        count["stated"] = count["calls"]
        return real_save(*args)

    monkeypatch.setattr(probe, "BlockMapper", mapper)
    monkeypatch.setattr(advice, "BlockMapper", mapper)
    monkeypatch.setattr(probe, "Probabilities", predict)
    monkeypatch.setattr(advice, "write_advice", save)
    return count


@pytest.mark.parametrize(("kind", "max_calls"), [("demo", None), ("demo", 1500), ("unmasked", 1500)])
def test_calls_are_stated_and_bounded(request, tmp_path, cache, monkeypatch, kind, max_calls):
    data, count = request.getfixturevalue(kind), counted(monkeypatch)
    made = advise_freeze(data, BASE, runs_dir=tmp_path, cache_dir=cache, max_calls=max_calls)
    assert made.model_calls == count["stated"] > 0
    if max_calls:
        assert made.model_calls <= max_calls
    assert made.measure == ("localisation" if kind == "demo" else "mean rank")
    assert made.images >= probe.MIN_IMAGES
    assert 1 <= made.freeze_through <= 5
    for name in ("agreement", "concentration", "stability", "score"):
        assert np.isfinite(made.evidence[name]).all()
    assert {p.name for p in made.path.iterdir()} >= {"advice.json", "evidence.csv", "evidence.png", "heatmaps.png"}


def test_too_few_calls_are_refused_before_anything_is_written(demo, tmp_path, cache):
    with pytest.raises(ConfigError, match="max_calls must be at least"):
        advise_freeze(demo, BASE, runs_dir=tmp_path, cache_dir=cache, max_calls=100)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("masked", [True, False])
def test_no_test_image_is_looked_at(demo, tmp_path, masked):
    """Noise in place of every test image and its mask changes no figure."""
    root, made = Path(demo.config.path).parent, []
    for name in ("clean", "poisoned"):
        shutil.copytree(root, tmp_path / name)
        if name == "poisoned":
            rng = np.random.default_rng(0)
            for i in demo.indices("test"):
                for kind in ("images", "masks"):
                    noise = rng.integers(0, 256, (32, 32), dtype=np.uint8)
                    Image.fromarray(noise).save(tmp_path / name / kind / demo.files[i])
        masks = tmp_path / name / "masks" if masked else None
        data = ImageData.from_folder(
            tmp_path / name / "images", masks=masks, groups=tmp_path / name / "groups.csv", image_size=(32, 32)
        )
        assert list(data.split) == list(demo.split)
        # One head seed: what is compared is that nothing changes.
        made.append(advise_freeze(data, BASE, runs_dir=tmp_path / f"runs-{name}", head_seeds=1, max_calls=700))
    clean, poisoned = made
    assert clean.fingerprint != poisoned.fingerprint
    pd.testing.assert_frame_equal(clean.evidence, poisoned.evidence, check_exact=True)
    assert clean.votes == poisoned.votes
    assert clean.freeze_through == poisoned.freeze_through


def test_round_trip_and_finding_it_again(demo, tmp_path, cache, monkeypatch):
    made = advise_freeze(demo, BASE, runs_dir=tmp_path, cache_dir=cache, head_seeds=1)
    loaded = load_advice(tmp_path / "advice")
    pd.testing.assert_frame_equal(made.evidence, loaded.evidence)
    for field in dataclasses.fields(made):
        if field.name != "evidence":
            assert getattr(made, field.name) == getattr(loaded, field.name), field.name
    assert find_advice(tmp_path) == tmp_path / "advice"
    assert find_advice(tmp_path, demo.fingerprint, made.weights) == tmp_path / "advice"
    assert find_advice(tmp_path, "0" * 16) is None
    assert find_advice(tmp_path, demo.fingerprint, "other") is None

    def never(*_):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(advice, "measure_blocks", never)
        again = advise_freeze(demo, BASE, runs_dir=tmp_path, cache_dir=cache, head_seeds=1)
    assert again.created == made.created
    notes = []
    other = advise_freeze(demo, BASE, runs_dir=tmp_path, cache_dir=cache, head_seeds=2, notes=notes.append)
    assert other.path.name == "advice-2"
    assert "head_seeds 1 -> 2" in notes[0]
    assert find_advice(tmp_path) in (other.path, made.path)


def test_the_same_call_gives_the_same_figures(demo, tmp_path):
    a, b = (advise_freeze(demo, BASE, runs_dir=tmp_path / n, head_seeds=1) for n in ("a", "b"))
    pd.testing.assert_frame_equal(a.evidence, b.evidence, check_exact=True)


def test_a_given_model_is_explained_as_it_is(demo, run, tmp_path, cache):
    """Its advice belongs to the weights that the run began with, so that a sweep of those can check it."""
    weights = [w.copy() for w in run.model.get_weights()]
    made = advise_freeze(demo, BASE, model=run, runs_dir=tmp_path, cache_dir=cache)
    assert made.weights == run.metadata["weights_digest"]
    for before, after in zip(weights, run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    other = ImageData.from_folder(demo.config.path, groups=demo.config.groups, image_size=(48, 48))
    with pytest.raises(DataError, match="Advise on the data it was trained on"):
        advise_freeze(other, BASE, model=run, runs_dir=tmp_path / "other")


def test_wrong_calls(demo, tmp_path):
    with pytest.raises(ConfigError, match="method must be one of heatmap"):
        advise_freeze(demo, BASE, method="guess", runs_dir=tmp_path)
    with pytest.raises(ConfigError, match="head_seeds must be at least 1"):
        advise_freeze(demo, BASE, head_seeds=0, runs_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"Unknown option 'epoch'.*'epochs'"):
        advise_freeze(demo, BASE, epoch=3, runs_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match=r"advice\.json is missing"):
        load_advice(tmp_path)
    _files.write_json(tmp_path / "advice.json", {"votes": {}})
    with pytest.raises(RunError, match="damaged"):
        load_advice(tmp_path)


def test_choose_takes_classes_in_turn_and_new_groups_first(demo):
    rows = probe.choose_images(demo, demo.indices("validation"), len(demo.class_names))
    assert set(demo.labels[rows]) == set(range(len(demo.class_names)))
    assert set(rows) <= set(demo.indices("validation"))
    assert len(probe.choose_images(demo, demo.indices("validation"), 10_000)) == len(demo.indices("validation"))
