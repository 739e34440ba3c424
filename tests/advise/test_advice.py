"""The advice: drawn maps with a known answer, hand-made scores, counted network calls, and no use of test images."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaitune import _files
from xaitune.advise import evidence, heatmap
from xaitune.advise.advice import find_advice, load_advice
from xaitune.advise.evidence import Evidence, choose_images
from xaitune.advise.heatmap import choose_block, decide
from xaitune.advise.probe import MIN_IMAGES, STEPS
from xaitune.advise.recommend import advise_freeze
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, DataError, RunError

BASE = TrainConfig(weights="slim", head_epochs=1, epochs=1, precision="float32")
BLOCKS = range(1, 6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Cached frozen features and heads, shared by the tests."""
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
        ([0.1, 0.1, 0.1, 0.1, 0.6], [0.02] * 5, 5),  # only the last block is good
        ([0.3] * 5, [0.0] * 5, 5),  # flat: the cheapest to train
        ([0.6, 0.1, 0.1, 0.1, 0.1], [0.02] * 5, 1),
        ([0.6, 0.1, 0.1, 0.585, 0.57], [0.02] * 5, 4),  # Block 4 is within its error, Block 5 is not
        ([0.6, 0.1, 0.1, 0.585, 0.57], [0.02, 0.02, 0.02, 0.02, 0.03], 5),
    ],
)
def test_choose_block(means, errors, block):
    assert choose_block(np.array(means), np.array(errors)) == block
    many = choose_block(np.array([means, means[::-1]]), np.array(errors))  # rows of means
    assert many.shape == (2,)
    assert many[0] == block


def drawn(sharp, masks, rng, side=16):
    """Raw maps by block: the blocks in `sharp` share one map, the mask with a little noise; the others are only noise."""
    mask_map = np.stack([np.asarray(Image.fromarray(m).resize((side, side))) for m in masks]).astype(np.float32)
    mask_map += 0.1 * rng.random(mask_map.shape).astype(np.float32)
    return {b: mask_map if b in sharp else rng.random(mask_map.shape).astype(np.float32) for b in BLOCKS}


@pytest.fixture
def equal_moves(monkeypatch):
    """Move equal maps to equal random places, so that their scores are exactly equal."""
    real = evidence.evaluate.random_like
    monkeypatch.setattr(evidence.evaluate, "random_like", lambda maps, _: real(maps, np.random.default_rng(1)))


class FakeMapper:
    """Stands in for BlockMapper: `maps_of` gives the raw maps of images, whatever the model."""

    def __init__(self, maps_of, classes):
        self.maps_of, self.classes = maps_of, classes

    def __call__(self, images, classes):
        return self.maps_of(images), np.zeros((len(images), self.classes))


def patch_mapper(monkeypatch, mapper):
    """Replace BlockMapper by `mapper`, wherever the advice uses it."""
    for module in (evidence, heatmap):
        monkeypatch.setattr(module, "BlockMapper", lambda model, blocks: mapper)


@pytest.mark.usefixtures("equal_moves")
@pytest.mark.parametrize(
    ("sharp", "block"), [((1, 2, 3), 3), ((5,), 5), ((1, 2, 3, 4, 5), 5), ((2,), 2), ((1, 2, 3, 4), 4)]
)
def test_drawn_maps_with_masks_have_a_known_answer(demo, tmp_path, cache, monkeypatch, sharp, block):
    chosen, rng = [], np.random.default_rng(0)
    for module in (evidence, heatmap):
        monkeypatch.setattr(module, "choose_images", lambda *a: chosen.append(choose_images(*a)) or chosen[-1])

    def drawn_maps(images):
        return drawn(sharp, [demo.mask(int(i)) for i in chosen[-1]], rng)

    patch_mapper(monkeypatch, FakeMapper(drawn_maps, len(demo.class_names)))
    advice = advise_freeze(demo, BASE, method="heatmap", runs_dir=tmp_path, cache_dir=cache, head_seeds=2)
    assert advice.freeze_through == block
    assert advice.measure == "localisation"
    assert advice.confidence > 0.5
    score = advice.evidence["score"]
    for b in BLOCKS:
        assert (score[b] > 0.3) == (b in sharp), advice.evidence
        if b not in sharp:
            assert abs(score[b]) < 0.15  # no better than the same map in a random place


def test_constant_maps_score_zero_and_are_reported(demo, tmp_path, cache, monkeypatch):
    def empty_maps(images):
        return {b: np.zeros((len(images), 4, 4), np.float32) for b in BLOCKS}

    patch_mapper(monkeypatch, FakeMapper(empty_maps, len(demo.class_names)))
    advice = advise_freeze(demo, BASE, method="heatmap", runs_dir=tmp_path, cache_dir=cache, head_seeds=1)
    np.testing.assert_allclose(advice.evidence["score"], 0, atol=1e-9)
    assert list(advice.evidence["empty_maps"]) == [1.0] * 5
    assert advice.freeze_through == 5  # nothing speaks against the cheapest depth
    assert "gave empty maps for 100% of the images" in advice.reasons


@pytest.mark.usefixtures("equal_moves")
def test_drawn_maps_without_masks_have_a_known_answer():
    """The drawn model sees only the bright centre: the maps of Block 1 to 3 show it, those of Block 4 and 5 are noise."""
    rng = np.random.default_rng(0)
    count, side = 24, 32
    images = rng.integers(0, 60, (count, side, side, 3)).astype(np.float32)
    images[:, 12:20, 12:20] = 230
    centre = np.zeros((count, side, side), bool)
    centre[:, 12:20, 12:20] = True
    predicted = 0

    def predict(batch):
        nonlocal predicted
        predicted += len(batch)
        p = batch[:, 12:20, 12:20].mean(axis=(1, 2, 3)) / 255
        return np.stack([p, 1 - p], axis=1)

    raw = drawn((1, 2, 3), centre, rng)
    scores, calls = evidence._faithfulness(predict, images, raw, np.zeros(count, int), np.random.default_rng(1))
    assert calls == predicted == count * (2 + 2 * 10 * (STEPS - 1))
    mean = scores["faithfulness"].mean(axis=0)
    assert (mean[:3] > 0.1).all()
    assert (np.abs(mean[3:]) < 0.1).all()
    assert scores["insertion"][:, :3].mean() > scores["deletion"][:, :3].mean()
    assert mean[:3].min() > 2 * mean[3:].max()
    maps = evidence.unit_maps(raw, (side, side))
    measures = {"faithfulness": scores["faithfulness"], "agreement": evidence._agreement(maps)}
    measures["concentration"] = evidence.evaluate.map_concentration(maps).gini
    measures["stability"] = np.ones((count, 5))
    measures = {name: values[None] for name, values in measures.items()}  # one head
    measures |= {"score": evidence._mean_rank(measures), "zero": np.zeros((1, count, 5))}
    advice = decided(measures, np.array([f"g{i // 2}" for i in range(count)]))
    assert advice.freeze_through == 3


def decided(scores, groups, measure="mean rank"):
    """The advice that `decide` bases on scores (seeds, images, blocks)."""
    data = SimpleNamespace(fingerprint="f", image_size=(32, 32))
    probe = SimpleNamespace(seeds=tuple(range(scores["score"].shape[0])), weights="w", task="classify")
    return decide(Evidence(scores, groups, 99, measure), data, probe)


def scores_of(score):
    """`Evidence.scores` with these deciding scores."""
    others = ("agreement", "concentration", "stability")
    return {"score": score, "zero": np.zeros_like(score)} | {name: np.full_like(score, 0.5) for name in others}


def test_decide_means_errors_and_votes():
    """20 groups of 2 images. Block 2 is best; Block 4 is 0.1 below it in half of the groups and 0.08 above in the rest."""
    base = np.array([0.1, 0.5, 0.1, 0.5, 0.1])
    score = np.tile(base, (1, 40, 1))
    score[0, :20, 3] -= 0.10
    score[0, 20:, 3] += 0.08
    groups = np.repeat([f"g{i:02d}" for i in range(20)], 2)
    advice = decided(scores_of(score), groups)
    table = advice.evidence
    np.testing.assert_allclose(table["score"], [0.1, 0.5, 0.1, 0.49, 0.1])
    np.testing.assert_allclose(table["behind_best"], [0.4, 0, 0.4, 0.01, 0.4], atol=1e-12)
    # The mean of 20 groups at -0.10 or +0.08 has the standard error 0.09 / sqrt(20) = 0.0201.
    assert table.loc[4, "standard_error"] == pytest.approx(0.09 / np.sqrt(20), rel=0.05)
    assert table.loc[1, "standard_error"] == pytest.approx(0, abs=1e-12)
    assert advice.freeze_through == 4  # 0.01 behind, within 0.02
    assert sum(advice.votes.values()) == pytest.approx(1)
    assert advice.confidence == advice.votes[4]
    # A resample draws Block 4 below the best in k of 20 groups, and chooses it if its mean is at most 0.0201 behind.
    draws = np.random.default_rng(1).binomial(20, 0.5, 100_000)
    gap = 0.08 - 0.18 * draws / 20
    assert advice.votes[4] == pytest.approx((gap >= -0.0201).mean(), abs=0.03)
    assert advice.votes[2] == pytest.approx(1 - advice.votes[4])
    assert advice.ranking[:2] == (4, 2)
    assert (advice.images, advice.groups, advice.model_calls) == (40, 20, 99)
    assert "Block 4 (0.490) is within one standard error of it" in advice.reasons


def test_confidence_is_full_if_the_heads_agree_and_shared_if_they_differ():
    groups = np.array([f"g{i}" for i in range(12)])
    agreeing = np.tile([0.9, 0.9, 0.9, 0.1, 0.1], (2, 12, 1))
    advice = decided(scores_of(agreeing), groups)
    assert (advice.freeze_through, advice.confidence) == (3, 1.0)
    differing = agreeing.copy()
    differing[1] = [0.1, 0.1, 0.1, 0.1, 0.9]  # the second head votes for Block 5
    advice = decided(scores_of(differing), groups)
    assert advice.votes[3] == pytest.approx(0.5)
    assert advice.votes[5] == pytest.approx(0.5)
    assert advice.confidence == 0.5


def test_the_reasons_in_full():
    """The whole paragraph, for a confident recommendation and for a weak one."""
    groups = np.array([f"g{i}" for i in range(12)])
    scores = scores_of(np.tile([0.5, 0.9, 0.9, 0.4, 0.1], (2, 12, 1)))
    advice = decided(scores | {"faithfulness": scores["score"]}, groups)
    assert advice.reasons == (
        "The score is each block's mean rank in faithfulness (which counts most), agreement, concentration and "
        "stability, measured on 12 validation images from 12 groups with 2 probe heads. Block 2 scores best (0.900 "
        "[0.900, 0.900]). Block 3 (0.900) is within one standard error of it, and freezing deeper makes training "
        "cheaper. Beyond Block 3 the heatmaps may lose what the classification needs (Block 4: 0.400), so the blocks after "
        "it should be trained on your images. Other measures at Block 3: agreement 0.50, concentration 0.50, stability "
        "0.50. 100% of the resamples (over groups and head seeds) choose the same block."
    )
    score = np.stack([np.tile(row, (12, 1)) for row in ([0.1, 0.1, 0.1, 0.1, 1.0], [0.1, 0.1, 0.5, 0.1, 0.1])])
    score = np.concatenate([score, score[1:]])  # two of three heads vote for Block 3, but Block 5 has the best mean
    empty = np.zeros_like(score)
    empty[:, :3, 0] = 1
    advice = decided(scores_of(score) | {"zero": empty, "localisation": score}, groups, "localisation")
    assert advice.reasons == (
        "The score is how much better each block's heatmap finds the marked defects than the same heatmap moved to a "
        "random place, measured on 12 validation images from 12 groups with 3 probe heads. Block 5 scores best (0.400 "
        "[0.400, 0.400]). Even the heatmaps of the last block hold up, so training the head alone is worth trying "
        "first. Other measures at Block 5: agreement 0.50, concentration 0.50, stability 0.50. Block 1 gave empty maps "
        "for 25% of the images. 33% of the resamples (over groups and head seeds) choose the same block, so this is a "
        "weak recommendation; the next candidate is Block 3 (67%)."
    )


def test_the_interval_depends_on_groups_not_on_images():
    """A group of 30 equal images is one thing seen 30 times: it widens the interval."""
    rng = np.random.default_rng(3)
    score = rng.random((1, 40, 5))
    score[0, 10:] = score[0, 10]
    separate = decided(scores_of(score), np.array([f"g{i}" for i in range(40)]))
    grouped = decided(scores_of(score), np.array([f"g{min(i, 10)}" for i in range(40)]))
    np.testing.assert_allclose(separate.evidence["score"], grouped.evidence["score"])
    widths = [(table["high"] - table["low"]).mean() for table in (separate.evidence, grouped.evidence)]
    assert widths[1] > 1.5 * widths[0]


# ---- real trainings


class CallCounter:
    """Counts every image that passes through the network, forward or backward, until the advice is written."""

    def __init__(self, monkeypatch):
        self.calls = self.when_written = 0
        self.mapper, self.probabilities = evidence.BlockMapper, evidence.Probabilities
        self.draw = heatmap.HeatmapEvaluation.draw
        monkeypatch.setattr(evidence, "BlockMapper", self.counting_mapper)
        monkeypatch.setattr(evidence, "Probabilities", self.counting_probabilities)
        monkeypatch.setattr(heatmap.HeatmapEvaluation, "draw", lambda *args: self.noting_draw(*args))

    def counting_mapper(self, *args):
        mapper = self.mapper(*args)

        def counted(images, classes):
            self.calls += 2 * len(images)
            return mapper(images, classes)

        return counted

    def counting_probabilities(self, *args):
        probabilities = self.probabilities(*args)

        def counted(images):
            self.calls += len(images)
            return probabilities(images)

        return counted

    def noting_draw(self, *args):
        self.when_written = self.calls
        return self.draw(*args)


@pytest.mark.parametrize(("kind", "max_calls"), [("demo", None), ("demo", 1500), ("unmasked", 1500)])
def test_network_calls_are_reported_and_limited(request, tmp_path, cache, monkeypatch, kind, max_calls):
    data, counter = request.getfixturevalue(kind), CallCounter(monkeypatch)
    advice = advise_freeze(data, BASE, method="heatmap", runs_dir=tmp_path, cache_dir=cache, max_calls=max_calls)
    assert advice.model_calls == counter.when_written > 0
    if max_calls:
        assert advice.model_calls <= max_calls
    assert advice.measure == ("localisation" if kind == "demo" else "mean rank")
    assert advice.images >= MIN_IMAGES
    assert 1 <= advice.freeze_through <= 5
    for name in ("agreement", "concentration", "stability", "score"):
        assert np.isfinite(advice.evidence[name]).all()
    assert {p.name for p in advice.path.iterdir()} >= {"advice.json", "evidence.csv", "evidence.png", "heatmaps.png"}


def test_too_few_calls_are_refused_before_anything_is_written(demo, tmp_path, cache):
    with pytest.raises(ConfigError, match="max_calls must be at least"):
        advise_freeze(demo, BASE, method="heatmap", runs_dir=tmp_path, cache_dir=cache, max_calls=100)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("masked", [True, False])
def test_no_test_image_is_used(demo, tmp_path, masked):
    """Noise in place of every test image and its mask changes no figure."""
    root, advice = Path(demo.config.path).parent, []
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
        # One head seed is enough to show that nothing changes.
        advice.append(
            advise_freeze(data, BASE, method="heatmap", runs_dir=tmp_path / f"runs-{name}", head_seeds=1, max_calls=700)
        )
    clean, poisoned = advice
    assert clean.fingerprint != poisoned.fingerprint
    pd.testing.assert_frame_equal(clean.evidence, poisoned.evidence, check_exact=True)
    assert clean.votes == poisoned.votes
    assert clean.freeze_through == poisoned.freeze_through


def test_advice_is_saved_loaded_and_found_again(demo, tmp_path, cache, monkeypatch):
    advice = advise_freeze(demo, BASE, method="heatmap", runs_dir=tmp_path, cache_dir=cache, head_seeds=1)
    loaded = load_advice(tmp_path / "advice")
    pd.testing.assert_frame_equal(advice.evidence, loaded.evidence)
    for field in dataclasses.fields(advice):
        if field.name != "evidence":
            assert getattr(advice, field.name) == getattr(loaded, field.name), field.name
    assert find_advice(tmp_path) == tmp_path / "advice"
    assert find_advice(tmp_path, demo.fingerprint, advice.weights) == tmp_path / "advice"
    assert find_advice(tmp_path, "0" * 16) is None
    assert find_advice(tmp_path, demo.fingerprint, "other") is None

    def never(*_):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(heatmap, "measure_blocks", never)
        again = advise_freeze(demo, BASE, method="heatmap", runs_dir=tmp_path, cache_dir=cache, head_seeds=1)
    assert again.created == advice.created
    notes = []
    other = advise_freeze(
        demo, BASE, method="heatmap", runs_dir=tmp_path, cache_dir=cache, head_seeds=2, notes=notes.append
    )
    assert other.path.name == "advice-2"
    assert "head_seeds 1 -> 2" in notes[0]
    assert find_advice(tmp_path) in (other.path, advice.path)


def test_the_same_call_gives_the_same_figures(demo, tmp_path):
    a, b = (advise_freeze(demo, BASE, method="heatmap", runs_dir=tmp_path / n, head_seeds=1) for n in ("a", "b"))
    pd.testing.assert_frame_equal(a.evidence, b.evidence, check_exact=True)


def test_a_given_model_is_explained_as_it_is(demo, run, tmp_path, cache):
    """Its advice belongs to the weights that the run started from, so that a sweep with those can check it."""
    weights = [w.copy() for w in run.model.get_weights()]
    advice = advise_freeze(demo, BASE, model=run, runs_dir=tmp_path, cache_dir=cache)
    assert advice.weights == run.metadata["weights_digest"]
    for before, after in zip(weights, run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    other = ImageData.from_folder(demo.config.path, groups=demo.config.groups, image_size=(48, 48))
    with pytest.raises(DataError, match=r"do not match the data .* Use the data that the model was trained on\."):
        advise_freeze(other, BASE, model=run, method="heatmap", runs_dir=tmp_path / "other")


def test_invalid_arguments_and_damaged_files(demo, tmp_path):
    with pytest.raises(ConfigError, match="method must be one of features, race, heatmap"):
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


def test_choose_images_takes_the_classes_in_turn(demo):
    rows = choose_images(demo, demo.indices("validation"), len(demo.class_names))
    assert set(demo.labels[rows]) == set(range(len(demo.class_names)))
    assert set(rows) <= set(demo.indices("validation"))
    assert len(choose_images(demo, demo.indices("validation"), 10_000)) == len(demo.indices("validation"))


def test_moved_maps_lose_nothing_in_the_padding(tmp_path):
    """A map that is the same all over the image finds nothing, also where a wide image is padded above and below."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        for folder in ("images", "masks"):
            (tmp_path / folder / label).mkdir(parents=True)
        for number in range(6):
            mask = np.zeros((20, 80), np.uint8)
            mask[5:15, 10 * number : 10 * number + 20] = 255
            Image.fromarray(mask).save(tmp_path / f"masks/{label}/{number}.png")
            Image.fromarray(rng.integers(0, 255, mask.shape, dtype=np.uint8)).save(
                tmp_path / f"images/{label}/{number}.png"
            )
    data = ImageData.from_folder(tmp_path / "images", masks=tmp_path / "masks", image_size=(64, 64), resize="pad")
    rows = np.arange(len(data))
    inside = np.zeros((len(rows), 8, 8))
    inside[:, 2:6] = 1  # the rows of the map that the image fills, and one more on each side for the interpolation
    scores = evidence.localisation_scores(dict.fromkeys(range(1, 6), inside), data, rows, np.random.default_rng(1))
    assert scores["average_precision"].max() < 0.5
    np.testing.assert_allclose(scores["localisation"], 0, atol=1e-6)
