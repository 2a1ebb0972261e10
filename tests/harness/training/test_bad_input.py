"""Bad input of train and eval: one clear line, status 2, no traceback, and nothing that was there is lost."""

import contextlib
import io
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_images
import pytest
import torch
from safetensors.torch import save_file

from attnbench import recipes
from attnbench.__main__ import main

TRAIN = {
    "--layout": "swin_pico", "--mechanism": "identity", "--recipe": "quick", "--epochs": "1",
    "--global-batch": "8", "--workers": "0", "--resolution": "16", "--device": "cpu",
}  # fmt: skip


class World:
    """Images, and a run that has been trained on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = made_images.folder(root / "images", train=30, test=10, broken=False)
        self.run = root / "run"
        self.checkpoint = self.run / "best.safetensors"

    def train(self, **changed: str) -> list[str]:
        """Arguments of a training that would do, some of them changed; an empty one is left out."""
        given = TRAIN | {"--data": str(self.images), "--out": str(self.root / "new")}
        given |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
        return ["train", *(part for name, value in given.items() if value for part in (name, value))]

    def evaluate(self, *more: str, checkpoint: str = "", data: str = "") -> list[str]:
        """Arguments of an evaluation that would do."""
        file = checkpoint or str(self.checkpoint)
        return ["eval", "--checkpoint", file, "--data", data or str(self.images), "--device", "cpu", *more]

    def kept(self) -> dict[str, bytes]:
        """What must not change."""
        return {path.name: path.read_bytes() for path in sorted(self.run.glob("*.*"))}


def call(arguments: list[str]) -> tuple[int, str, str]:
    """Status, output and errors of ``attnbench``; an exception that gets out fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    status, _, err = call(made.train(out=str(made.run)))
    assert status == 0, err
    return made


# Options of train, and values that are none.
OPTIONS: dict[str, list[str]] = {
    "layout": ["swin", "swin_pico/", "Swin_T", " ", "0"],
    "mechanism": ["ful", "bra ", "BRA", "full,bra", "-"],
    "recipe": ["swin", "swin_t.json", "none.toml", "/etc/passwd.toml", "swin_t,deit_s"],
    "seed": ["-1", "x", "1.5", "1e3", "9" * 40],
    "epochs": ["0", "-3", "many", "1.5", "nan"],
    "global_batch": ["0", "-8", "x", "31", "1024", "8.0"],
    "device_batch": ["0", "-1", "x", "0.5"],
    "resolution": ["0", "-16", "x", "99999", "16x16"],
    "impl": ["fast", "fused", "EAGER"],
    "set": ["topk", "=1", "nothing=1", "dim=3"],
    "precision": ["fp8", "fp16", "half", "FP32"],
    "device": ["gpu", "cuda:99", "tpu", "cpu:x"],
    "workers": ["-1", "x", "1000"],
    "checkpoint_every": ["0", "x", "-2"],
    "evaluate_every": ["0", "x", "-2"],
    "max_bad_images": ["-1", "x"],
    "token_labels": ["nowhere", "/etc"],
    "data": [
        "nowhere", "./nowhere", "imagenet", "imagenet:/nowhere", "imagenet:{images}", "cifar10:{images}",
        "cifar100", "image_shards:{images}", "image_parquet:{images}", "majority", "digit", "{images}/train",
        "{images}/train/n00000000", "{run}", "{images}:x", "~/nowhere",
    ],
    "recipe_set": [
        "x", "=1", "x=1", "schedule=1", "schedule.epochs=0", "schedule.epochs=1.5", "schedule.per=day",
        "optimizer.lr=0", "optimizer.lr=NaN", "optimizer.lr=-1", "optimizer.betas=[1]", "optimizer.eps=0",
        "augmentation.repeats=0", "augmentation.scale=3", "augmentation.interpolation=best",
        "augmentation.mixup=-1", "augmentation.smoothing=1", "augmentation.hflip=2", "ema_decay=1",
        "ema_decay=2", "drop_path=1", "drop_path=x", "evaluation.crop=all", "evaluation.crop_pct=0",
        "evaluation.weights=best", "name=x", "global_batch=0", "precision=fp8", "token_labels=true",
        "broadcast_buffers=7", "schedule.late=2", "schedule.warmup_epochs=-1", "device_batch=0",
        "image_size=0", "schedule.epochs=2",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in OPTIONS.items() for v in values])
def test_values_that_options_cannot_have(world: World, option: str, value: str) -> None:
    value = value.format(images=world.images, run=world.run)
    assert_refused(world, world.train(**{option: value}))


@pytest.mark.parametrize("key", sorted(recipes.get("lv_vit_s").flat()))
def test_files_of_recipes_with_one_wrong_setting(world: World, tmp_path: Path, key: str) -> None:
    """Every setting of a recipe, given as a table of tables, which none is."""
    parent, _, last = key.rpartition(".")
    text = 'title = "x"\n'
    sections = {"schedule": ["epochs = 1", "warmup_epochs = 0"], "optimizer": ["lr = 1e-3"]}
    wrong = f"{last} = {{ wrong = {{ wrong = 1 }} }}"
    if not parent:
        text += wrong + "\n"
    for section in dict.fromkeys([*sections, *([parent] if parent else [])]):
        lines = [line for line in sections.get(section, []) if line.partition(" ")[0] != last]
        text += "\n".join([f"[{section}]", *lines, *([wrong] if section == parent else []), ""])
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    line = assert_refused(world, world.train(recipe=str(path), epochs="", global_batch=""))
    assert last in line


def _write(name: str, content: bytes) -> Callable[[World, Path], Path]:
    def make(world: World, folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


class _Evil:
    def __reduce__(self) -> Any:
        return (print, ("code of a checkpoint ran",))


def _spoiled(change: Callable[[bytes], bytes]) -> Callable[[World, Path], Path]:
    def make(world: World, folder: Path) -> Path:
        path = folder / "spoiled.safetensors"
        path.write_bytes(change(world.checkpoint.read_bytes()))
        return path

    return make


def _foreign(world: World, folder: Path) -> Path:
    save_file({"weight": torch.zeros(2)}, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


def _torch_file(world: World, folder: Path) -> Path:
    torch.save({"weight": torch.zeros(2)}, folder / "foreign.pth")
    return folder / "foreign.pth"


def _flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


FILES: dict[str, Callable[[World, Path], Path]] = {
    "absent": lambda world, folder: folder / "absent.safetensors",
    "a folder": lambda world, folder: folder,
    "empty": _write("empty.safetensors", b""),
    "text": _write("text.safetensors", b"these are no weights, but they are long enough to be read" * 9),
    "a pickle in place of safetensors": _write("evil.safetensors", pickle.dumps(_Evil())),
    "a pickle": _write("evil.pth", pickle.dumps(_Evil())),
    "a picture": _write("picture.safetensors", made_images.png()),
    "cut": _spoiled(lambda content: content[:-100]),
    "cut in its header": _spoiled(lambda content: content[:40]),
    "one bit flipped": _spoiled(_flip),
    "longer": _spoiled(lambda content: content + b"more"),
    "foreign safetensors": _foreign,
    "foreign weights": _torch_file,
}


@pytest.mark.parametrize("model", ["", "swin_pico_identity"])
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoint(world: World, tmp_path: Path, name: str, model: str) -> None:
    path = FILES[name](world, tmp_path)
    arguments = world.evaluate(*(["--model", model] if model else []), checkpoint=str(path))
    assert "code of a checkpoint ran" not in assert_refused(world, arguments)


@pytest.mark.parametrize(
    "more",
    [
        ["--model", "swin"], ["--model", "swin_pico_"], ["--crops", "all"], ["--crops", ""], ["--part", "x"],
        ["--recipe", "x"], ["--resolution", "0"], ["--batch-size", "0"], ["--batch-size", "x"],
        ["--workers", "-1"], ["--device", "cuda:99"], ["--max-bad-images", "-1"], ["--set", "x"],
        ["--key-map", "x", "--model", "swin_pico_identity"], ["--data", "nowhere"], ["--data", "digits"],
        ["--data", "imagenet:/nowhere"], ["--checkpoint", ""], ["--unknown"], ["extra"],
    ],
)  # fmt: skip
def test_options_of_eval_that_are_none(world: World, more: list[str]) -> None:
    assert_refused(world, world.evaluate(*more))


def _many_classes(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "another").mkdir()
        (root / split / "another" / "a.png").write_bytes(made_images.png())


DATA: dict[str, Callable[[Path], object]] = {
    "no classes in train": lambda root: [shutil.rmtree(p) for p in (root / "train").iterdir()],
    "no val": lambda root: shutil.rmtree(root / "val"),
    "no train": lambda root: shutil.rmtree(root / "train"),
    "classes differ": lambda root: shutil.rmtree(root / "val" / "n00000000"),
    "no image at all": lambda root: [p.unlink() for p in root.rglob("*.JPEG")],
    "too few images": lambda root: [p.unlink() for p in made_images.paths(root, "train")[5:]],
    "none can be decoded": lambda root: [p.write_bytes(b"x") for p in root.rglob("*.JPEG")],
    "half cannot": lambda root: [p.write_bytes(b"") for p in made_images.paths(root, "train")[::2]],
    "no test image can": lambda root: [p.write_bytes(b"") for p in made_images.paths(root, "val")],
    "a tar that is none": lambda root: (root / "train" / "a.tar").write_bytes(b"x" * 600),
    "parquet that is none": lambda root: (root / "train" / "a.parquet").write_bytes(b"x" * 600),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_trained_on(world: World, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(world.images, tmp_path / "data")
    DATA[name](root)
    assert_refused(world, world.train(data=str(root), out=str(tmp_path / "out")))


def test_other_classes_than_the_weights_tell(world: World, tmp_path: Path) -> None:
    root = shutil.copytree(world.images, tmp_path / "data")
    _many_classes(root)
    line = assert_refused(world, world.evaluate(data=str(root)))
    assert "the weights tell 5 classes, the data have 6" in line


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": "1"}, {"mechanism": "pooling"}, {"epochs": "2"}, {"recipe": "swin_t"}, {"resolution": "20"},
        {"global_batch": "4"}, {"device_batch": "4"}, {"layout": "swin_t"}, {"recipe_set": "ema_decay=0.5"},
        {"precision": "bf16"}, {"impl": "eager"},
    ],
)  # fmt: skip
def test_another_run_in_the_same_folder_is_refused(world: World, changed: dict[str, str]) -> None:
    line = assert_refused(world, world.train(out=str(world.run), **changed))
    assert "give another --out" in line


@pytest.mark.parametrize("place", ["file", "below a file", "/proc/none"])
def test_folders_that_cannot_be_written(world: World, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("kept")
    path = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "run"}.get(place, Path(place))
    assert_refused(world, world.train(out=str(path)))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_disk_that_fills_in_the_middle_of_a_checkpoint(world: World, tmp_path: Path) -> None:
    """The kernel refuses to write more than so many bytes; then there is room again, and the run goes on."""
    arguments = world.train(out=str(tmp_path / "run"), epochs="2", checkpoint_every="1")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        line = assert_refused(world, arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free some space and give the same command again" in line
    assert not list((tmp_path / "run").glob("*.safetensors")) + list((tmp_path / "run").glob(".*.part"))
    assert call(arguments)[0] == 0


def assert_refused(world: World, arguments: list[str]) -> str:
    """Status 2 and one line of error, nothing lost; the line."""
    before = world.kept()
    status, out, err = call(arguments)
    lines = [line for line in err.splitlines() if line.startswith("attnbench: error: ")]
    assert status == 2, f"{arguments}: status {status}: {out}{err}"
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert len(lines[0]) < 1200
    assert world.kept() == before
    return lines[0]
