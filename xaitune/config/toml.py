"""xaitune.toml, read and written."""

import dataclasses
import json
import tomllib
from pathlib import Path
from types import MappingProxyType

from xaitune.config.choices import NAMED_WEIGHTS
from xaitune.config.settings import Config, DataConfig, SweepConfig, TrackingConfig, TrainConfig, replace_fields
from xaitune.errors import ConfigError, nearest

TABLES = MappingProxyType({"data": DataConfig, "train": TrainConfig, "sweep": SweepConfig, "tracking": TrackingConfig})
CONFIG_FILE = "xaitune.toml"


def load_config(path: str | Path = CONFIG_FILE) -> Config:
    """The configuration in a TOML file with tables [data], [train], [sweep], [tracking].

    Paths in the file are relative to it. Raises ConfigError for a missing or unreadable file, an unknown table or
    key (with the nearest name), or a bad value.

    Examples:
        >>> config = load_config("xaitune.toml")  # doctest: +SKIP
        >>> config.train.freeze_through  # doctest: +SKIP
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"No configuration at {path}. Make one with 'xaitune init DATA'.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    made = {}
    for table, values in raw.items():
        if table not in TABLES or not isinstance(values, dict):
            raise ConfigError(
                f"{path}: unknown table or key {table!r}.{nearest(table, TABLES)} Tables: {', '.join(TABLES)}."
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            made[table] = replace_fields(TABLES[table](), values)
        except ConfigError as error:
            raise ConfigError(f"{path} [{table}]: {error}") from None
    return _paths_from(Config(**made), path.resolve().parent)


def _paths_from(config: Config, folder: Path) -> Config:
    """The configuration with the file's paths made absolute; regular expressions and named weights stay as they are."""

    def absolute(value: str | None) -> str | None:
        if not value or not (folder / value).exists():
            return value
        return str(folder / value)

    data = dataclasses.replace(
        config.data,
        path=absolute(config.data.path) or "",
        masks=absolute(config.data.masks),
        groups=absolute(config.data.groups),
        label_fixes=absolute(config.data.label_fixes),
    )
    weights = config.train.weights
    train = dataclasses.replace(
        config.train, weights=weights if weights in NAMED_WEIGHTS else absolute(weights) or weights
    )
    return dataclasses.replace(config, data=data, train=train)


def config_text(config: Config, comments: dict[str, str] | None = None) -> str:
    """The text of a xaitune.toml that `load_config` reads back to an equal configuration.

    `comments` maps 'table.key' to a comment after the value. Fields that are None are left out.
    """
    lines = []
    for table in TABLES:
        lines.append(f"[{table}]")
        for f in dataclasses.fields(getattr(config, table)):
            value = getattr(getattr(config, table), f.name)
            if value is None:
                continue
            comment = (comments or {}).get(f"{table}.{f.name}")
            # JSON's strings, numbers and lists are TOML's too; a path has no control characters.
            text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
            lines.append(f"{f.name} = {text}" + (f"  # {comment}" if comment else ""))
        lines.append("")
    return "\n".join(lines)
