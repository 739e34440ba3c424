"""The decision: a Gaussian model with a known answer, learnt from tasks that were drawn from it."""

import numpy as np
import pandas as pd
import pytest

from xaitune.advise.decision import DecisionModel, decide, fit_model, relative

NAMES = ("0", "1", "2", "3")


def model_of(prior, weights=None, spread=0.01, **expected):
    zeros = {signal: [0.0] * 4 for signal in weights or {}}
    return DecisionModel(
        candidates=NAMES,
        prior={"": [0.0] * 4, "imagenet": prior},
        expected=dict.fromkeys(("", "imagenet"), zeros | expected),
        weights=weights or {},
        covariance=(spread**2 * np.eye(4)).tolist(),
        tasks=9,
    )


def evidence_of(**columns):
    return pd.DataFrame({"cost": [1.0, 0.5, 0.2, 0.0], **columns}, index=pd.Index(NAMES, name="candidate"))


def test_the_best_is_advised_with_its_chance():
    """Two candidates 2 points apart, each with a standard deviation of 1: the better one wins in Phi(2 / sqrt 2) of cases."""
    decision = decide(model_of([-0.5, -0.5, 0.02, 0.0]), evidence_of(), "imagenet", cost_weight=0)
    assert decision.advised == "2"
    assert decision.table.loc["2", "best"] == pytest.approx(0.921, abs=0.01)
    assert decision.confidence == pytest.approx(0.983, abs=0.01)  # Phi(3 / sqrt 2)
    # E[max(d, 0)] of the other one's lead d ~ N(-2, 2): 0.0200 standard deviations of 1.414 points beyond -1.414 sd
    assert decision.table.loc["2", "regret"] == pytest.approx(0.00051, abs=0.0001)
    assert decision.table["near"].between(0, 1).all()


def test_cost_decides_between_equals():
    flat = model_of([0.0] * 4)
    assert decide(flat, evidence_of(), "imagenet").advised == "3"
    assert decide(flat, evidence_of(), "unknown weights").advised == "3"
    half_a_point = model_of([0.012, 0.0, 0.0, 0.0], spread=1e-4)
    assert decide(half_a_point, evidence_of(), "imagenet", cost_weight=0.005).advised == "0"
    assert decide(half_a_point, evidence_of(), "imagenet", cost_weight=0.02).advised == "3"


def test_signals_move_the_decision_by_their_weight():
    model = model_of([0.0, 0.01, 0.0, 0.0], {"probe": 0.5}, spread=1e-4)
    quiet = decide(model, evidence_of(probe=[0.7, 0.7, 0.7, 0.7]), "imagenet", cost_weight=0)
    assert quiet.advised == "1"
    loud = decide(model, evidence_of(probe=[0.7, 0.7, 0.8, 0.7]), "imagenet", cost_weight=0)
    assert loud.advised == "2"
    assert loud.table.loc["2", "probe"] == pytest.approx(0.5 * 0.075)
    parts = loud.table[["prior", "probe"]].sum(axis=1)
    np.testing.assert_allclose(parts, loud.table["expected"])
    biased = model_of([0.0, 0.01, 0.0, 0.0], {"probe": 0.5}, spread=1e-4, probe=[-0.1, 0.1, 0.0, 0.0])
    missing = decide(biased, evidence_of(probe=[np.nan, 0.8, 0.7, 0.7]), "imagenet", cost_weight=0)
    assert missing.table.loc["0", "probe"] == 0  # what is not known moves nothing
    assert missing.table.loc["1", "probe"] == pytest.approx(0.5 * (0.8 - 2.2 / 3 - 0.1))


def test_choosing_among_some_candidates():
    model = model_of([0.3, 0.0, 0.1, 0.0], spread=1e-4)
    decision = decide(model, evidence_of(), "imagenet", among=("1", "2", "3"))
    assert decision.advised == "2"
    assert list(decision.table.index) == ["1", "2", "3"]
    assert decision.confidence == 1


def test_a_model_is_learnt_from_the_tasks_it_made():
    rng = np.random.default_rng(0)
    prior, tasks = relative(np.array([0.0, 0.02, 0.05, -0.03])), []
    for number in range(300):
        probe = rng.normal(0.7, 0.05, 4)
        noise = rng.normal(0, 0.5, 4)  # says nothing
        scores = prior * (1 if number % 2 else -1) + 0.6 * (probe - probe.mean()) + rng.normal(0, 0.01, 4)
        evidence = evidence_of(probe=probe, noise=noise)
        source = "imagenet" if number % 2 else "random"
        tasks.append({"source": source, "scores": dict(zip(NAMES, scores, strict=True)), "evidence": evidence})
    model = fit_model(tasks, NAMES, ("probe", "noise"))
    assert model.weights["probe"] == pytest.approx(0.6, abs=0.06)  # ridge shrinks it a little
    assert abs(model.weights["noise"]) < 0.01
    np.testing.assert_allclose(model.prior["imagenet"], prior, atol=0.01)
    np.testing.assert_allclose(model.prior["random"], -prior, atol=0.01)
    np.testing.assert_allclose(model.prior[""], 0, atol=0.01)
    assert np.sqrt(np.diag(model.covariance)).mean() == pytest.approx(0.01 * np.sqrt(3 / 4), abs=0.003)
    assert model.tasks == 300


def test_noise_alone_ranks_nothing():
    """Learnt from scores and signals without any order, the model falls back to the cheapest."""
    rng = np.random.default_rng(1)
    tasks = [
        {
            "source": "imagenet",
            "scores": dict(zip(NAMES, rng.normal(0.7, 0.01, 4), strict=True)),
            "evidence": evidence_of(probe=rng.normal(0.7, 0.05, 4)),
        }
        for _ in range(60)
    ]
    model = fit_model(tasks, NAMES, ("probe",))
    advised = [decide(model, task["evidence"], "imagenet").advised for task in tasks]
    assert advised.count("3") > 40
