"""Loading of whole models from files: .keras, and the older .h5."""

import zipfile
from pathlib import Path

import h5py

from xaitune.errors import ModelError
from xaitune.models.backend import keras

OWN_CODE = ("Lambda", "lambda", "Could not locate", "Unknown layer")  # in Keras's errors about code that a file lacks


def load_model(path: str | Path) -> keras.Model:
    """The float32 model of a .keras file, of an .h5 that holds a whole model, or of a run's folder, uncompiled.

    Raises ModelError, which names the file, says what it holds instead, and what to do.
    """
    path = Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if path.is_dir() and (path / "saved_model.pb").is_file():
        raise ModelError(
            f"{path} is a TensorFlow SavedModel, whose layers Keras 3 does not see. Save the model as .keras where it was "
            "built: model.save('model.keras')."
        )
    if not file.is_file():
        raise ModelError(f"No model at {file}. Give a finished run's folder, or a .keras or .h5 file of a whole model.")
    if _is_h5(file):
        _require_whole_model(file)
    elif not zipfile.is_zipfile(file):
        raise ModelError(
            f"{file} is not a model file: neither .keras (a zip archive) nor .h5 (HDF5). "
            "Give a finished run's folder, or a .keras or .h5 file of a whole model."
        )
    try:
        return keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # a damaged or foreign file fails in many ways
        reason = reason_of(error)
        raise ModelError(
            f"{file} cannot be loaded as a Keras model: {reason}{_older(file)}{_own_code(reason)}"
        ) from error


def _is_h5(file: Path) -> bool:
    """Whether a file is HDF5. A .keras file holds one, which HDF5 may find: it looks further than the file's beginning."""
    return h5py.is_hdf5(file) and not zipfile.is_zipfile(file)


def _require_whole_model(file: Path) -> None:
    """Raise ModelError for an .h5 without a model's configuration."""
    with h5py.File(file, "r") as content:
        if "model_config" in content.attrs:
            return
        names = list(content.attrs.get("layer_names", content))
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    if "block1_conv1" in names and not any(name in names for name in ("fc1", "predictions")):
        raise ModelError(
            f"{file} holds the weights of a VGG without its head, so it has no classes. "
            f"Train on your images first: xaitune train DATA --weights {file}."
        )
    raise ModelError(
        f"{file} holds the weights of a model alone, not the model ({', '.join(names[:4])}, ...). Build the model where it "
        "was made, model.load_weights(FILE), and save it whole: model.save('model.keras')."
    )


def _older(file: Path) -> str:
    """What to do about a file of Keras 2; '' for any other."""
    if not _is_h5(file):
        return ""
    with h5py.File(file, "r") as content:
        version = content.attrs.get("keras_version", "")
    version = version.decode() if isinstance(version, bytes) else str(version)
    if not version.startswith(("1.", "2.")):
        return " The older .h5 cannot hold all that Keras 3 has: save it as .keras where it was built."
    return (
        f" It was saved by Keras {version}, and Keras {keras.__version__} does not read all of its layers. Load it with the "
        "tf_keras package (Keras 2), and save its weights for a model built anew."
    )


def _own_code(reason: str) -> str:
    """What to do about a model with code of the user's own, which a file does not hold; '' for any other."""
    if not any(word in reason for word in OWN_CODE):
        return ""
    return (
        " Code of your own is not in the file: load it in Python with that code, keras.models.load_model(FILE, "
        "custom_objects={...}, or safe_mode=False for a Lambda), and give the model to xaitune.open_classifier."
    )


def reason_of(error: Exception) -> str:
    """The line of Keras's error that says what is wrong: the first that names a cause, or that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if len(line.split()) > 2]
    causes = [line for line in lines if any(word in line for word in OWN_CODE)]
    chosen = (causes or lines or [str(error).strip() or type(error).__name__])[0]
    return chosen.removeprefix("Exception encountered: ")[:600]
