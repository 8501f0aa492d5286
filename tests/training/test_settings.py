"""Settings: the published recipe by default; preset, file, flags in that order; wrong ones are named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from videochat_online.command_line import CommandParser
from videochat_online.data.settings import OURS, DataSettings, SettingError, flag
from videochat_online.data.settings import PUBLISHED as PUBLISHED_DATA
from videochat_online.training.checkpoints import Checkpoint
from videochat_online.training.commands import (
    add_train_flags,
    field_texts,
    main,
    read_settings,
    resolve,
)
from videochat_online.training.configuration import EARLIER, FIELDS, PRESETS, TrainingConfig
from videochat_online.training.run import DATA_FILE, run, write_record


def parse(*flags: str) -> TrainingConfig:
    parser = CommandParser()
    add_train_flags(parser)
    return resolve(parser.parse_args(flags))


PUBLISHED = {
    "learning_rate": 1e-4, "schedule": "cosine", "warmup": 0.03, "weight_decay": 0.05, "epochs": 1.0,
    "global_batch_size": 1024, "num_frames": 64, "fps": 1.0, "max_length": 32768, "vision": "frozen",
    "connector": "full", "llm": "full", "drop_path": 0.1, "gradient_checkpointing": "all",
    "loss_reduction": "batch", "batch_size": 1, "decay_norms": True,
}  # fmt: skip


@pytest.mark.parametrize("preset", ["stage1", "stage2"])
def test_presets_are_the_published_recipe(preset: str):
    config = parse("--preset", preset)
    assert {name: getattr(config, name) for name in PUBLISHED} == PUBLISHED
    assert {name: getattr(config, name) for name in OURS} == {name: getattr(PUBLISHED_DATA, name) for name in OURS}
    assert config.data == (f"anno_data/{ {'stage1': 'stage1_offline', 'stage2': 'stage2_online'}[preset] }.json",)
    assert all(Path(__file__).parents[2].joinpath(path).is_file() for path in config.data)


def test_stage_2_starts_from_stage_1():
    assert parse("--preset", "stage2").model == "runs/online_4b_stage1/model"
    published = parse("--preset", "stage2", "--model", "OpenGVLab/InternVL2-4B")
    assert published == replace(parse("--preset", "stage2"), model=PRESETS["stage1"]["model"])


def test_ours_is_a_flag_for_every_rule():
    flags = [word for name, value in EARLIER.items() if isinstance(value, str) for word in (flag(name), value)]
    ours = parse("--preset", "stage2", "--no-decay-norms", *flags)
    assert ours == replace(parse("--preset", "stage2"), **EARLIER)
    pocket = read_settings(Path(__file__).parents[2] / "shell/pocket/settings.yaml")
    assert {name: pocket[name] for name in EARLIER} == EARLIER


def test_finetune_suits_the_size_of_the_model(tmp_path: Path):
    assert set(PRESETS) == {"stage1", "stage2", "finetune"}
    large = parse("--preset", "finetune")
    assert (large.model, large.llm, large.learning_rate) == ("MCG-NJU/VideoChatOnline-4B", "lora:32", 2e-4)
    small = parse("--preset", "finetune", "--model", "pocket")
    assert (small.llm, small.learning_rate, small.min_steps, small.global_batch_size) == ("full", 1e-3, 200, 4)
    (tmp_path / "mine.yaml").write_text("model: pocket\nllm: lora:8\n")
    mine = parse("--preset", "finetune", "--config", str(tmp_path / "mine.yaml"), "--learning-rate", "0.5")
    assert (mine.llm, mine.learning_rate) == ("lora:8", 0.5)
    assert parse("--preset", "finetune", "--model", "pockt").llm == "lora:32"  # loading it says that there is none


@pytest.mark.parametrize("name", ["settings.json", "settings.yaml"])
def test_preset_then_file_then_flags(tmp_path: Path, name: str):
    values = {"learning_rate": 2e-4, "max_length": 512, "data": ["mine.json"], "max_dynamic_patch": None}
    (tmp_path / name).write_text(json.dumps(values))  # json is yaml too
    config = parse("--preset", "stage2", "--config", str(tmp_path / name), "--max-length", "1024", "--cpu")
    assert (config.learning_rate, config.max_length, config.data) == (2e-4, 1024, ("mine.json",))
    assert config.cpu and config.model == PRESETS["stage2"]["model"]


def test_yaml_numbers_without_a_point_are_numbers(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-3\nfps: 2\n")
    assert read_settings(tmp_path / "a.yaml") == {"learning_rate": 1e-3, "fps": 2.0}


WRONG_FILES = {
    "unknown": ("learning_rat: 1", r"unknown setting 'learning_rat'; did you mean learning_rate\?"),
    "type": ("max_length: long", "max_length must be of type int, got 'long'"),
    "bool": ("seed: true", "seed must be of type int, got True"),
    "text": ("learning_rate: fast", "learning_rate must be of type float, got 'fast'"),
    "list": ("data: a.json", "data must be a list of texts, got 'a.json'"),
    "no mapping": ("- 1", "must hold names and values, got a list"),
    "broken": ("a: [", "is not valid yaml"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files(tmp_path: Path, name: str):
    text, message = WRONG_FILES[name]
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingError, match=message) as error:
        read_settings(path)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(SettingError, match="cannot be read"):
        read_settings(tmp_path / "none.json")


WRONG_FLAGS = {
    "unknown": (["--learning-rat", "1"], "unknown flag --learning-rat; did you mean --learning-rate"),
    "far from all": (["--zzz"], "unknown flag --zzz; `python -m videochat_online.training --help` lists them\n"),
    "abbreviated": (["--learning", "1"], "unknown flag --learning"),
    "not a number": (["--max-length", "long"], "invalid int value: 'long'"),
    "choice": (["--batching", "sorted"], "invalid choice: 'sorted'"),
    "preset": (["--preset", "stage3"], "invalid choice: 'stage3'"),
}


@pytest.mark.parametrize("name", WRONG_FLAGS)
def test_wrong_flags(name: str, capsys: pytest.CaptureFixture[str]):
    flags, message = WRONG_FLAGS[name]
    with pytest.raises(SystemExit) as error:
        main(flags)
    assert error.value.code == 2 and message in capsys.readouterr().err


WRONG_VALUES = {
    "no data": ({"output_dir": "x"}, "--data is missing"),
    "no folder": ({"data": ("a",)}, "--output-dir is missing"),
    "negative": ({"learning_rate": -1.0}, "--learning-rate must be above 0, got -1.0"),
    "endless": ({"epochs": math.inf}, "--epochs must be a finite number, got inf"),
    "ages": ({"timeout": 1e12}, "--timeout must be a year at most (525600), got 1000000000000.0"),
    "seed": ({"seed": -1}, "--seed must be from 0 to 2**32 - 1, got -1"),
    "endless warm-up": ({"warmup": math.inf}, "--warmup must be a finite number, got inf"),
    "endless rate": ({"learning_rate": math.inf}, "--learning-rate must be a finite number, got inf"),
    "endless epsilon": ({"adam_epsilon": math.inf}, "--adam-epsilon must be a finite number, got inf"),
    "no number": ({"adam_epsilon": math.nan}, "--adam-epsilon must be a finite number, got nan"),
    "below zero": ({"adam_epsilon": -1.0}, "--adam-epsilon must be at least 0, got -1.0"),
    "endless fps": ({"fps": math.inf}, "--fps must be a finite number, got inf"),
    "alpha": ({"llm": "lora:8:nan"}, "--llm must be one of frozen, full, lora:RANK[:ALPHA] (numbers above 0), got"),
    "zero": ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
    "share": ({"drop_path": 1.0}, "--drop-path must be from 0 to below 1, got 1.0"),
    "steps": ({"max_steps": 0}, "--max-steps must be -1 or at least 1, got 0"),
    "choice": ({"precision": "fp8"}, "--precision must be one of auto, bf16, fp32, got 'fp8'"),
    "part": ({"vision": "half"}, "--vision must be one of frozen, full, last:N, lora:RANK"),
    "layers": ({"vision": "last:x"}, "got 'last:x'"),
    "rank": ({"llm": "lora:0"}, "got 'lora:0'"),
    "half a rank": ({"llm": "lora:1.5"}, "got 'lora:1.5'"),
    "no last": ({"llm": "last:2"}, "--llm must be one of frozen, full, lora:RANK"),
    "no lora": ({"connector": "lora:8"}, "--connector must be one of frozen, full"),
    "nothing trains": ({"connector": "frozen", "llm": "frozen"}, "all frozen: nothing would train"),
    "strategy": ({"strategy": "zero4"}, "--strategy must be one of ddp, zero1"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_name_flag_and_value(name: str):
    values, message = WRONG_VALUES[name]
    with pytest.raises(SettingError) as error:
        TrainingConfig(**values).check_complete()
    assert message in str(error.value)


def test_every_setting_has_a_text():
    assert {name for name in FIELDS if name not in {**field_texts(TrainingConfig), **field_texts(DataSettings)}} <= {
        "adam_beta1", "adam_beta2", "adam_epsilon"
    }  # fmt: skip


def run_config(folder: Path, **changes: object) -> TrainingConfig:
    """A run on one data set of one row."""
    (folder / "rows.json").write_text("[1]")
    entry = {"annotation": "rows.json", "data_root": ".", "repeat_time": 2}
    (folder / "list.json").write_text(json.dumps({"mine": entry}))
    values = {"output_dir": str(folder / "run"), "data": (str(folder / "list.json"),)}
    return TrainingConfig(**{**values, **changes})  # type: ignore[arg-type]


def checkpoint_of(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "run" / "checkpoint-3", 3)


def test_resolved_settings_are_written(tmp_path: Path):
    config = run_config(tmp_path, max_length=77)
    write_record(config, None)
    written = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert written == config.to_dict() and set(written) == set(FIELDS)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"settings.json", "data.json"}
    again = parse("--config", str(tmp_path / "run" / "settings.json"))
    assert again == config


def test_a_resumed_run_has_the_settings_it_began_with(tmp_path: Path):
    write_record(run_config(tmp_path), None)
    write_record(run_config(tmp_path, resume="auto", log_every=3, num_workers=0), checkpoint_of(tmp_path))
    changed = run_config(tmp_path, resume="auto", learning_rate=0.5, seed=7)
    with pytest.raises(SettingError, match=r"\(--seed 42 -> 7; --learning-rate 0.0001 -> 0.5\); take its settings"):
        write_record(changed, checkpoint_of(tmp_path))
    write_record(changed, None)  # nothing was learned yet


def test_a_setting_that_is_new_had_its_default(tmp_path: Path):
    config = run_config(tmp_path, resume="auto")
    write_record(config, None)
    older = {name: value for name, value in config.to_dict().items() if name != "min_steps"}
    (tmp_path / "run" / "settings.json").write_text(json.dumps(older))
    write_record(config, checkpoint_of(tmp_path))


def test_a_run_of_an_earlier_version_keeps_its_rules(tmp_path: Path):
    config = run_config(tmp_path, resume="auto")
    write_record(config, None)
    older = {name: value for name, value in config.to_dict().items() if name not in EARLIER}
    (tmp_path / "run" / "settings.json").write_text(json.dumps(older))
    with pytest.raises(SettingError, match=r"--pair-order 'listed' -> 'shuffled'; .*--decay-norms False -> True"):
        write_record(config, checkpoint_of(tmp_path))
    write_record(replace(config, **EARLIER), checkpoint_of(tmp_path))


def other_words(folder: Path) -> None:
    (folder / "rows.json").write_text("[2]")


def other_option(folder: Path) -> None:
    (folder / "list.json").write_text(
        (folder / "list.json").read_text().replace('"repeat_time": 2', '"repeat_time": 3')
    )


def other_set(folder: Path) -> None:
    (folder / "list.json").write_text((folder / "list.json").read_text().replace("mine", "yours"))


OTHER_DATA = {
    other_words: r"data set 'mine': the words of .*/rows.json changed\); .*--resume never and another --output-dir",
    other_option: r"data set 'mine': repeat_time 2 -> 3\)",
    other_set: r"data set 'mine' is gone; data set 'yours' is new\)",
}


@pytest.mark.parametrize("change", OTHER_DATA)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_resumed_run_has_the_data_it_began_with(tmp_path: Path, change: Callable[[Path], None], elsewhere: bool):
    """Also where a checkpoint goes on in another folder; nothing is written then."""
    write_record(run_config(tmp_path), None)
    config = run_config(tmp_path, resume=str(checkpoint_of(tmp_path).folder))
    config = replace(config, output_dir=str(tmp_path / "branch")) if elsewhere else config
    before = (tmp_path / "run" / DATA_FILE).read_text()
    change(tmp_path)
    with pytest.raises(SettingError, match=OTHER_DATA[change]):
        write_record(config, checkpoint_of(tmp_path))
    assert (tmp_path / "run" / DATA_FILE).read_text() == before and not (tmp_path / "branch").exists()


def test_the_same_words_elsewhere_are_the_same_data(tmp_path: Path):
    write_record(run_config(tmp_path), None)
    moved = tmp_path / "moved"
    moved.mkdir()
    config = run_config(moved, output_dir=str(tmp_path / "run"), resume="auto")
    list_file = moved / "list.json"
    list_file.write_text(list_file.read_text().replace('"data_root": "."', '"data_root": "/other"'))
    write_record(config, checkpoint_of(tmp_path))


def test_a_run_without_a_record_of_its_data_goes_on_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_record(run_config(tmp_path, resume="auto"), checkpoint_of(tmp_path))
    assert "has no data.json" in capsys.readouterr().out


def test_missing_annotations_are_named(tmp_path: Path):
    config = run_config(tmp_path)
    (tmp_path / "rows.json").unlink()
    with pytest.raises(SettingError, match=r"data set 'mine': .*rows.json cannot be read"):
        write_record(config, None)


def test_a_run_that_is_refused_changes_nothing(tmp_path: Path):
    before = run_config(tmp_path)
    write_record(before, None)
    (tmp_path / "run" / "checkpoint-3").mkdir()
    with pytest.raises(ValueError, match="already holds checkpoint-3"):
        run(run_config(tmp_path, learning_rate=0.5, tracker="none"))
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == before.to_dict()


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ValueError, match="cannot be written to"):
        run(run_config(tmp_path, tracker="none"))
    with pytest.raises(SettingError, match="cannot be written to"):
        write_record(run_config(tmp_path), None)


@pytest.mark.parametrize(("before", "now"), [("true", "all"), ("false", "none"), ("vision", "vision")])
def test_files_of_earlier_runs_say_true_or_false(tmp_path: Path, before: str, now: str):
    (tmp_path / "a.yaml").write_text(f"gradient_checkpointing: {before}\n")
    assert read_settings(tmp_path / "a.yaml") == {"gradient_checkpointing": now}
