"""Keras's torch backend: train, explain and advise in a separate process, compared with TensorFlow on the same model."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
from driving import python

from xaitune.explain.gradcam import gradcam_blocks
from xaitune.training.run import load_run

SCRIPT = """
import json, sys
import numpy as np
import xaitune as xt
from xaitune import DataConfig
from xaitune.models.backend import BACKEND

data, folder = xt.ImageData.from_config(DataConfig(**json.loads(sys.argv[1]))), sys.argv[2]
options = {"weights": "slim", "head_epochs": 1, "epochs": 3, "precision": "float32"}

def die(done, total, what):
    if "fine-tune 2" in what:
        raise KeyboardInterrupt

augmented = {"freeze_through": 3, "augmentation": "flip,zoom", "block_rates": "5=0.5", "schedule": "cosine"}
whole = xt.train_model(data, runs_dir=folder + "/whole", **options, **augmented)
try:
    xt.train_model(data, runs_dir=folder + "/dies", progress=die, **options, **augmented)
except KeyboardInterrupt:
    pass
resumed = xt.train_model(data, runs_dir=folder + "/dies", **options, **augmented)
columns = [c for c in whole.predictions if c.startswith("p(")]
difference = np.abs(whole.predictions[columns].to_numpy() - resumed.predictions[columns].to_numpy()).max()

plain = xt.train_model(data, runs_dir=folder, freeze_through=3, optimizer="momentum", **options)
maps = xt.gradcam_blocks(plain, data.paths(np.arange(4)), blocks="all", precision="float32")
np.savez(folder + "/maps.npz", probabilities=maps.probabilities, **{f"block{b}": raw for b, raw in maps.raw.items()})
lime = xt.lime_superpixels(plain, data.paths([0]), num_samples=64)
advice = xt.advise_freeze(data, runs_dir=folder, **options)
print(json.dumps({
    "backend": BACKEND, "resumed": float(difference),
    "rates": list(whole.history["learning_rate"]), "advice": advice.freeze_through, "lime": len(lime.weights[0]),
    "losses": list(plain.history["train_loss"]), "state": [whole.state, plain.state],
}))
"""


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is missing: pip install 'xaitune[torch]'")
def test_train_explain_and_advise_with_torch(demo, tmp_path):
    config = json.dumps(dataclasses.asdict(demo.config))
    answer = json.loads(python(SCRIPT, config, tmp_path, KERAS_BACKEND="torch").splitlines()[-1])
    assert (answer["backend"], answer["state"]) == ("torch", ["finished", "finished"])
    assert answer["resumed"] < 1e-6
    assert answer["losses"][-1] < answer["losses"][0]
    assert answer["advice"] in range(6)
    assert answer["lime"] >= 4
    run = load_run(next(tmp_path.glob("freeze3-momentum-seed0")))
    maps = gradcam_blocks(run, demo.paths(np.arange(4)), blocks="all", precision="float32")  # TensorFlow, same weights
    with np.load(tmp_path / "maps.npz") as torch_maps:
        np.testing.assert_allclose(torch_maps["probabilities"], maps.probabilities, atol=1e-5)
        for block in maps.blocks:
            difference = np.abs(torch_maps[f"block{block}"] - maps.raw[block]).max()
            assert difference < 1e-4 * np.abs(maps.raw[block]).max()
    predicted = run.predictions[[f"p({name})" for name in run.class_names]].to_numpy()[:4]
    np.testing.assert_allclose(predicted, maps.probabilities, atol=1e-4)


@pytest.mark.parametrize(
    ("backend", "messages"),
    [("jax", "KERAS_BACKEND=jax|backend jax cannot be loaded"), ("torhc", "backend torhc cannot be")],
)
def test_another_backend_is_refused_in_one_line(tmp_path, backend, messages):
    script = "from xaitune import errors\ntry:\n    import xaitune.models.backend\nexcept errors.ConfigError as e:\n    print(e)"
    answer = python(script, folder=tmp_path, KERAS_BACKEND=backend)
    assert any(part in answer for part in messages.split("|"))
