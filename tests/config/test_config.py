"""config.py: what is accepted, what is refused and how, and xaitune.toml there and back."""

import dataclasses

import pytest

from xaitune.config.choices import OPTIMIZERS
from xaitune.config.parse import parse_block_rates, parse_blocks, parse_image_size
from xaitune.config.settings import Config, DataConfig, SweepConfig, TrainConfig, replace_fields
from xaitune.config.toml import config_text, load_config
from xaitune.errors import ConfigError, InputError, XaituneError


def text_of(excinfo):
    message = str(excinfo.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("96x128", (96, 128)),
        ("96X128", (96, 128)),
        ("96", (96, 96)),
        (96, (96, 96)),
        ((96, 128), (96, 128)),
        ([32, 4096], (32, 4096)),
        (["64", "96"], (64, 96)),
    ],
)
def test_image_size(value, size):
    assert parse_image_size(value) == size


@pytest.mark.parametrize("value", ["", "96x", "x", "31", "4097x64", "96x96x3", (96,) * 3, None, "big", -64, {}, [None]])
def test_wrong_image_size(value):
    with pytest.raises(ConfigError) as excinfo:
        parse_image_size(value)
    assert text_of(excinfo).endswith(f"such as 224x224). Received: {value!r}.")


@pytest.mark.parametrize(
    ("value", "blocks"),
    [
        (3, (3,)),
        ("3", (3,)),
        ("1-3", (1, 2, 3)),
        ("1,3", (1, 3)),
        ("3, 1-2", (1, 2, 3)),
        ([3, 1, 3], (1, 3)),
        ((5,), (5,)),
        ("all", (1, 2, 3, 4, 5)),
        ("ALL", (1, 2, 3, 4, 5)),
        (["1-2", 5], (1, 2, 5)),
    ],
)
def test_blocks(value, blocks):
    assert parse_blocks(value) == blocks


@pytest.mark.parametrize("value", [0, 6, 7, "0-2", "3-6", "3-1", "", "two", [], "1-", "-1", None, 2.5, "1-2-3"])
def test_wrong_blocks(value):
    with pytest.raises(ConfigError) as excinfo:
        parse_blocks(value)
    assert text_of(excinfo) == (
        "block must be 1..5, a range like 1-3, a list like 1,3, or 'all' (the model has Block 1 to 5). "
        f"Received: {value!r}."
    )


def test_block_zero_where_it_means_something():
    assert parse_blocks("0-2", "freeze_through", low=0) == (0, 1, 2)
    assert parse_blocks("all", low=0) == (1, 2, 3, 4, 5)
    with pytest.raises(ConfigError, match=r"^freeze_through must be 0\.\.5"):
        parse_blocks(6, "freeze_through", low=0)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (
            "freeze_through",
            7,
            "freeze_through must be 0..5 (0 freezes nothing, 5 all of VGG16). Received: freeze_through=7.",
        ),
        ("freeze_through", -1, "Received: freeze_through=-1."),
        ("freeze_through", True, "Received: freeze_through=True."),
        ("freeze_through", 2.0, "Received: freeze_through=2.0."),
        ("weights", "", "weights must be a name or a path. Received: weights=''."),
        ("head", "gop", "head must be one of gap, fc, blocks. Received: head='gop'. Did you mean 'gap'?"),
        ("optimizer", "nagg", "Did you mean 'nag'?"),
        ("optimizer", "SGD", "optimizer must be one of sgd, momentum, nag, adagrad,"),
        ("metric", "f1_macr", "Did you mean 'f1_macro'?"),
        ("loss", "crossentropy", "loss must be one of categorical_crossentropy, sparse_categorical_crossentropy, "),
        ("precision", "float16", "precision must be one of auto, float32, bfloat16. Received: precision='float16'."),
        ("seed", -1, "seed must be a whole number of at least 0. Received: seed=-1."),
        ("seed", 0.5, "seed must be a whole number of at least 0. Received: seed=0.5."),
        ("head_epochs", -1, "head_epochs must be a whole number of at least 0."),
        ("epochs", True, "epochs must be a whole number of at least 0. Received: epochs=True."),
        ("final_epochs", "3", "final_epochs must be a whole number of at least 0. Received: final_epochs='3'."),
        ("patience", 0, "patience must be a whole number of at least 1. Received: patience=0."),
        ("batch_size", 0, "batch_size must be a whole number of at least 1. Received: batch_size=0."),
        ("learning_rate", 0, "learning_rate must be above 0, at most 10, or own (the optimizer's own)"),
        ("learning_rate", 11.0, "Received: learning_rate=11.0."),
        ("learning_rate", "fast", "Received: learning_rate='fast'."),
        ("learning_rate", float("nan"), "Received: learning_rate=nan."),
        (
            "augmentation",
            "flipp",
            "augmentation must be one of flip, rotation, zoom, translation, brightness, contrast.",
        ),
        ("augmentation", 3, "augmentation must be names such as flip,rotation. Received: augmentation=3."),
        ("augment_classes", "crack", "augment_classes must be left out without augmentation."),
        ("augmented_views", 2, "augmented_views must be left out without augmentation. Received: augmented_views=2."),
        ("schedule", "cosin", "schedule must be one of constant, cosine, plateau. Received: schedule='cosin'. Did you"),
        ("warmup_epochs", 20, "warmup_epochs must be fewer than epochs (20). Received: warmup_epochs=20."),
        ("warmup_epochs", -1, "warmup_epochs must be a whole number of at least 0."),
        ("label_smoothing", 1.0, "label_smoothing must be at least 0 and below 1. Received: label_smoothing=1.0."),
        ("label_smoothing", True, "Received: label_smoothing=True."),
        ("block_rates", "6=0.1", "block_rates must be multipliers above 0, at most 100, of blocks 1..5 or the head"),
        ("block_rates", "4", "such as 1-3=0.1,head=10. Received: block_rates='4'."),
        ("block_rates", "4=0", "Received: block_rates='4=0'."),
        ("block_rates", {}, "Received: block_rates={}."),
        ("class_weight", "even", "class_weight must be None, 'balanced', 'share', or weights above 0"),
    ],
)
def test_train_config_refuses(field, value, says):
    with pytest.raises(ConfigError) as excinfo:
        TrainConfig(**{field: value})
    assert says in text_of(excinfo)


def test_no_epochs_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"epochs must be above 0 where head_epochs is 0\. Received: epochs=0\."):
        TrainConfig(head_epochs=0, epochs=0)
    assert TrainConfig(head_epochs=0, epochs=1).epochs == 1


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("split", (0.5, 0.5), "split must be three shares above 0"),
        ("split", (0.5, 0.2, 0.2), "that sum to 1, such as (0.6, 0.2, 0.2). Received: split=(0.5, 0.2, 0.2)."),
        ("split", (1.0, 0.0, 0.0), "three shares above 0"),
        ("split", (float("nan"), 0.2, 0.2), "three shares above 0"),
        ("split_seed", -1, "split_seed must be a whole number of at least 0. Received: split_seed=-1."),
        ("resize", "padd", "resize must be one of stretch, pad. Received: resize='padd'. Did you mean 'pad'?"),
        ("image_size", "8x8", "image_size must be HEIGHTxWIDTH"),
    ],
)
def test_data_config_refuses(field, value, says):
    with pytest.raises(ConfigError) as excinfo:
        DataConfig(**{field: value})
    assert says in text_of(excinfo)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("freeze_through", "1-7", "freeze_through must be 0..5"),
        ("optimizers", "sgd,nagg", "optimizers must be one of sgd, momentum,"),
        ("optimizers", [], "optimizers must be at least one optimizer. Received: optimizers=[]."),
        ("seeds", 0, "seeds must be a whole number of at least 1. Received: seeds=0."),
        ("engine", "locale", "engine must be one of local, ray. Received: engine='locale'. Did you mean 'local'?"),
        (
            "learning_rates",
            "",
            "learning_rates must be rates above 0, at most 10, such as 1e-2,1e-3, or own. Received: learn",
        ),
        ("learning_rates", [1e-3, 0], "Received: learning_rates=[0.001, 0]."),
        ("learning_rates", "fast", "Received: learning_rates='fast'."),
        ("learning_rates", [None], "Received: learning_rates=[None]."),
        ("workers", 0, "workers must be a whole number of at least 1. Received: workers=0."),
    ],
)
def test_sweep_config_refuses(field, value, says):
    with pytest.raises(ConfigError) as excinfo:
        SweepConfig(**{field: value})
    assert says in text_of(excinfo)


def test_values_are_made_uniform():
    sweep = SweepConfig(freeze_through="3,1-2", optimizers="nag, sgd,nag")
    assert sweep.freeze_through == (1, 2, 3)
    assert sweep.optimizers == ("nag", "sgd")
    assert SweepConfig(learning_rates="1e-2, 1e-3,0.01").learning_rates == (1e-2, 1e-3)
    assert SweepConfig(learning_rates=[0.1]).learning_rates == SweepConfig(learning_rates=0.1).learning_rates == (0.1,)
    assert SweepConfig().learning_rates is None
    data = DataConfig(image_size="64x96", split=[0.5, 0.25, 0.25])
    assert data.image_size == (64, 96)
    assert data.split == (0.5, 0.25, 0.25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.path = "x"


def test_block_rates_are_text_however_they_are_given():
    for given in ("4=0.1,5=0.3", " 5 = .3, 4=1e-1", {4: 0.1, "5": 0.3}, ["4=0.1", "5=0.3"]):
        assert TrainConfig(block_rates=given).block_rates == "4=0.1,5=0.3"
    assert TrainConfig(block_rates="head=10,1-2=0.5").block_rates == "1=0.5,2=0.5,head=10"
    assert parse_block_rates("1-2=0.5,head=10") == {1: 0.5, 2: 0.5, "head": 10}
    assert TrainConfig().block_rates is None
    assert TrainConfig(block_rates=TrainConfig(block_rates="3=0.25").block_rates).block_rates == "3=0.25"


def test_names_of_changes_are_text_however_they_are_given():
    given = TrainConfig(augmentation=["flip", "zoom"], augment_classes=("crack", "dent"), augmented_views=3)
    assert given == TrainConfig(augmentation="flip, zoom,flip", augment_classes="crack,dent", augmented_views=3)
    assert (given.augmentation, given.augment_classes) == ("flip,zoom", "crack,dent")
    assert TrainConfig(augmentation="").augmentation is None


def test_label_smoothing_needs_a_loss_that_has_it():
    with pytest.raises(ConfigError, match="label_smoothing needs another loss, such as categorical_crossentropy"):
        TrainConfig(label_smoothing=0.1, loss="sparse_categorical_crossentropy")


def test_learning_rate_is_the_optimizers_where_none_is_given():
    for name, (_, _, rate, default) in OPTIMIZERS.items():
        assert TrainConfig(optimizer=name).rate == rate
        assert TrainConfig(optimizer=name, learning_rate="keras").rate == default
    assert TrainConfig(optimizer="sgd", learning_rate=0.5).rate == 0.5
    assert OPTIMIZERS["nag"][1] == {"momentum": 0.9, "nesterov": True}
    assert OPTIMIZERS["momentum"][1] == {"momentum": 0.9}


def test_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError) as excinfo:
        replace_fields(TrainConfig(), {"freeze_trough": 3})
    message = text_of(excinfo)
    assert message.startswith("Unknown option 'freeze_trough' for TrainConfig. Did you mean 'freeze_through'? Known: ")
    assert issubclass(ConfigError, InputError)
    assert issubclass(InputError, XaituneError)
    assert (ConfigError.exit_status, XaituneError.exit_status) == (2, 1)


def test_text_reads_back_to_the_same(tmp_path):
    data = DataConfig(r'C:\scans "new"', None, r"^(tile\d+)_", (64, 96), (0.5, 0.25, 0.25), 4, "pad")
    train = TrainConfig(weights="slim", learning_rate=0.125, epochs=3, class_weight="balanced", precision="float32")
    train = replace_fields(train, {"schedule": "cosine", "warmup_epochs": 1, "block_rates": "4=0.5", "loss": "focal"})
    config = Config(data, train, SweepConfig((0, 2), ("sgd",), 2, "local", 3, (0.1, 1e-5)))
    text = config_text(config, {"train.epochs": "at most"})
    assert "epochs = 3  # at most\n" in text
    assert "masks" not in text
    (tmp_path / "xaitune.toml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "xaitune.toml") == config


def test_defaults_read_back_and_a_part_is_enough(tmp_path):
    file = tmp_path / "xaitune.toml"
    file.write_text(config_text(Config()), encoding="utf-8")
    assert load_config(file) == Config()
    file.write_text('[sweep]\nfreeze_through = "1-3"\n', encoding="utf-8")
    assert load_config(file) == Config(sweep=SweepConfig(freeze_through=(1, 2, 3)))
    file.write_text("", encoding="utf-8")
    assert load_config(file) == Config()


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    project = tmp_path / "프로젝트"
    for name in ("images", "masks"):
        (project / name).mkdir(parents=True)
    (project / "groups.csv").write_text("file,group\n")
    (project / "base.h5").write_bytes(b"x")
    (project / "xaitune.toml").write_text(
        '[data]\npath = "images"\nmasks = "masks"\ngroups = "groups.csv"\n[train]\nweights = "base.h5"\n'
    )
    monkeypatch.chdir(tmp_path)
    config = load_config("프로젝트/xaitune.toml")
    assert config.data.path == str(project / "images")
    assert config.data.masks == str(project / "masks")
    assert config.data.groups == str(project / "groups.csv")
    assert config.train.weights == str(project / "base.h5")


def test_named_weights_and_rules_are_no_paths(tmp_path):
    (tmp_path / "xaitune.toml").write_text("[data]\ngroups = '^(\\d+)'\n[train]\nweights = \"imagenet\"\n")
    config = load_config(tmp_path / "xaitune.toml")
    assert (config.data.groups, config.train.weights, config.data.path) == (r"^(\d+)", "imagenet", "")


@pytest.mark.parametrize("word", ["slim", "random", "imagenet"])
def test_a_folder_with_the_name_of_weights_does_not_take_their_place(tmp_path, word):
    (tmp_path / word).mkdir()
    (tmp_path / "xaitune.toml").write_text(f'[train]\nweights = "{word}"\n')
    assert load_config(tmp_path / "xaitune.toml").train.weights == word


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[train]\nepoch = 3\n", "[train]: Unknown option 'epoch' for TrainConfig. Did you mean 'epochs'?"),
        (
            "[trian]\nepochs = 3\n",
            "unknown table or key 'trian'. Did you mean 'train'? Tables: data, train, sweep, tracking.",
        ),
        ("epochs = 3\n", "unknown table or key 'epochs'."),
        ("train = 3\n", "unknown table or key 'train'."),
        ("[train]\nepochs = -3\n", "[train]: epochs must be a whole number of at least 0. Received: epochs=-3."),
        ("[train\n", "is not valid TOML"),
        ("[data]\nsplit = 0.5\n", "[data]: split must be three shares above 0"),
        ('[data]\nsplit = ["a", "b", "c"]\n', "[data]: split must be three shares above 0"),
        ("[data]\npath = 3\n", "[data]: path must be"),
        ("[data]\nmasks = [1]\n", "[data]: masks must be"),
        ("[data]\ngroups = 3\n", "[data]: groups must be"),
        ("[sweep]\noptimizers = 3\n", "[sweep]: optimizers must be"),
        ("[sweep]\noptimizers = [3]\n", "[sweep]: optimizers must be"),
        ("[train]\nhead = [1]\n", "[train]: head must be one of gap, fc, blocks."),
        ("[train]\nhead = {a = 1}\n", "[train]: head must be one of gap, fc, blocks."),
    ],
)
def test_wrong_file(tmp_path, content, says):
    file = tmp_path / "xaitune.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as excinfo:
        load_config(file)
    message = text_of(excinfo)
    assert message.startswith(str(file))
    assert says in message


def test_missing_unreadable_and_foreign_files(tmp_path):
    with pytest.raises(ConfigError, match=r"No configuration at .*xaitune\.toml\. Make one with 'xaitune init DATA'\."):
        load_config(tmp_path / "xaitune.toml")
    with pytest.raises(ConfigError, match="Cannot read"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"Cannot read .*latin\.toml"):
        load_config(tmp_path / "latin.toml")


def test_a_path_may_be_a_path(tmp_path):
    assert TrainConfig(weights=tmp_path).weights == str(tmp_path)
    assert DataConfig(path=tmp_path, groups=tmp_path / "g.csv").groups == str(tmp_path / "g.csv")
    with pytest.raises(ConfigError, match=r"weights must be a name or a path\. Received: weights=3\."):
        TrainConfig(weights=3)
    with pytest.raises(ConfigError, match=r"weights must be a name or a path\. Received: weights=None\."):
        TrainConfig(weights=None)
    with pytest.raises(ConfigError, match=r"optimizer must be one of .* Received: optimizer=\{'a': 1\}\."):
        TrainConfig(optimizer={"a": 1})
