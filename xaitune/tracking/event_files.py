"""TensorBoard's event files: the scalars of every epoch, the settings, and pictures, by the package tensorboard."""

import importlib
import io
import time
from pathlib import Path
from typing import Any

from PIL import Image

PATTERN = "events.out.tfevents.*"


class EventFiles:
    """Writes the event file of one run into its folder; what is there already is replaced, so that no epoch appears twice."""

    def __init__(self, folder: Path) -> None:
        for file in folder.glob(PATTERN):
            file.unlink()
        self.protos = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self.events = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self.hparams = importlib.import_module("tensorboard.plugins.hparams.metadata")
        self.plugin_data = importlib.import_module("tensorboard.plugins.hparams.plugin_data_pb2")
        writers = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self.writer: Any = writers.EventFileWriter(str(folder))

    def scalars(self, values: dict[str, float], step: int, when: float) -> None:
        """Write figures of one step, `when` in seconds since 1970."""
        found = [self.protos.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(self.protos.Summary(value=found), step, when)

    def settings(self, values: dict[str, str]) -> None:
        """Write the settings, by which the page HPARAMS compares runs."""
        start = self.plugin_data.SessionStartInfo(start_time_secs=time.time())
        for name, text in values.items():
            try:
                start.hparams[name].number_value = float(text)
            except ValueError:
                start.hparams[name].string_value = text
        about = self.hparams.create_summary_metadata(self.plugin_data.HParamsPluginData(session_start_info=start))
        value = self.protos.Summary.Value(
            tag=self.hparams.SESSION_START_INFO_TAG, metadata=about, tensor=self.hparams.NULL_TENSOR
        )
        self._add(self.protos.Summary(value=[value]), 0, time.time())

    def picture(self, name: str, png: bytes, step: int) -> None:
        """Write a PNG."""
        width, height = Image.open(io.BytesIO(png)).size
        image = self.protos.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        value = self.protos.Summary.Value(tag=name, image=image)
        self._add(self.protos.Summary(value=[value]), step, time.time())

    def flush(self) -> None:
        """Put everything on disk, where a viewer reads it."""
        self.writer.flush()

    def close(self) -> None:
        """Put everything on disk and end the writer."""
        self.writer.close()

    def _add(self, summary: Any, step: int, when: float) -> None:
        self.writer.add_event(self.events.Event(step=step, wall_time=when, summary=summary))
