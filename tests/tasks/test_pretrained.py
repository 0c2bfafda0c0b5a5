"""`model=torchvision` and `model=timm`: other people's networks, their weights, and fine-tuning."""

import dataclasses
import hashlib
import importlib.util
import json
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import fmean
from threading import Thread

import numpy as np
import pytest
import torch
from helpers.command import TINY, refusal, results, succeeds
from helpers.forks import train, train_without_torch
from PIL import Image
from torchvision import models as torchvision_models

from smallvision import models
from smallvision.data.shapes import shapes
from smallvision.models import TorchvisionNetwork
from smallvision.training.checkpoint import read_checkpoint
from smallvision.training.optimizers import decayed, split_params

ARCHITECTURE = "shufflenet_v2_x0_5"
NETWORK = ("model=torchvision", f"model.architecture={ARCHITECTURE}")
SHORT = (*TINY, "data.images=120", "data.test_images=20", "data.val_size=20", "trainer.max_epochs=1", "data.size=32")


def make(weights: str | None = None, channels: int = 1, **options: object) -> TorchvisionNetwork:
    torch.manual_seed(0)
    return TorchvisionNetwork(
        channels, (32, 32), 10, [0.5] * channels, [0.2] * channels, ARCHITECTURE, weights, **options  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file of weights in torchvision's own form, of a network of 1,000 classes, in torch's older format."""
    torch.manual_seed(1)
    network = torchvision_models.get_model(ARCHITECTURE, weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    return tmp_path / "weights.pth"


def test_a_file_of_weights_trains_and_every_verb_goes_on_when_the_file_is_gone(tmp_path: Path, published: Path) -> None:
    typed = ("model.weights=weights.pth", "model.image_size=32", "model.freeze=backbone")
    out = succeeds(train(tmp_path, *SHORT, *NETWORK, *typed, "hydra.run.dir=run"))
    assert "weights    the file weights.pth" in out
    assert results(tmp_path / "run")["model"]["name"] == ARCHITECTURE
    given = torch.load(published, weights_only=True)
    published.unlink()
    learnt = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt").state_dict
    for name, value in given.items():  # those of batch norm's statistics, too
        if not name.startswith("fc."):
            assert torch.equal(learnt[f"network.network.{name}"], value), name
    assert torch.allclose(learnt["network.mean"].flatten(), torch.tensor([0.485, 0.456, 0.406]))
    tested = succeeds(train(tmp_path, "task=test", "checkpoint=run", "hydra.run.dir=test", "report=false"))
    assert f"acc {results(tmp_path / 'run')['metrics']['test/acc']:.4f}" in tested
    Image.fromarray(np.full((32, 32), 99, np.uint8)).save(tmp_path / "one.png")
    succeeds(train(tmp_path, "task=predict", "checkpoint=run", "images=one.png"))
    succeeds(train(tmp_path, "task=export", "checkpoint=run", "format=safetensors"))
    card = (tmp_path / "run/model_card.md").read_text()
    assert "the file weights.pth" in card
    assert "torchvision \\(BSD-3-Clause\\)" in card
    succeeds(train(tmp_path, "resume=run", "trainer.max_epochs=2"))
    assert results(tmp_path / "run")["epochs"] == 2
    assert "weights.pth: no such file" in refusal(train_without_torch(tmp_path, "rerun=run"))


def test_a_checkpoint_has_nothing_read_or_downloaded(tmp_path: Path) -> None:
    succeeds(train(tmp_path, *SHORT, *NETWORK, "hydra.run.dir=run"))
    content = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    named = ("nowhere.pth", "/dev/zero", "DEFAULT", "http://127.0.0.1:9/weights.pth", "file:///etc/passwd")
    for number, weights in enumerate(named):
        content["smallvision"]["config"]["model"]["weights"] = weights
        torch.save(content, tmp_path / "theirs.ckpt")
        test = ("task=test", "checkpoint=theirs.ckpt", "report=false", f"hydra.run.dir={number}")
        succeeds(train(tmp_path, *test))
        found = results(tmp_path / f"{number}")
        assert found["metrics"]["test/acc"] == results(tmp_path / "run")["metrics"]["test/acc"]


def test_a_run_of_ones_own_gives_its_weights_with_the_normalisation_they_were_trained_with(tmp_path: Path) -> None:
    succeeds(train(tmp_path, *SHORT, *NETWORK, "hydra.run.dir=first", "save_model=model.pt"))
    typed = (*SHORT, *NETWORK, "data.classes=4", "data.channels=3", "model.freeze=backbone")
    for file, side in (("first/checkpoints/best.ckpt", "32"), ("first/model.pt", "SIDE")):
        line = refusal(train(tmp_path, *typed, f"model.weights={file}"))
        assert f"type the side of its images, model.image_size={side}" in line
    succeeds(train(
        tmp_path, *typed, "model.weights=first/checkpoints/best.ckpt", "model.image_size=32", "hydra.run.dir=second"
    ))  # fmt: skip
    first = read_checkpoint(tmp_path / "first/checkpoints/best.ckpt")
    second = read_checkpoint(tmp_path / "second/checkpoints/best.ckpt")
    assert torch.equal(first.state_dict["network.mean"], second.state_dict["network.mean"])
    assert first.spec.mean == pytest.approx(first.state_dict["network.mean"].flatten()[:1].tolist())
    name = "network.network.conv1.0.weight"
    assert torch.equal(first.state_dict[name], second.state_dict[name])


def test_published_weights_are_downloaded_with_their_checksum_or_refused_in_one_line(
    tmp_path: Path, published: Path
) -> None:
    digest = hashlib.sha256(published.read_bytes()).hexdigest()[:8]
    weights = torchvision_models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    for name in (f"right-{digest}.pth", "wrong-00000000.pth"):
        (tmp_path / name).write_bytes(published.read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    typed = (*SHORT, *NETWORK, "model.weights=DEFAULT", "model.image_size=32")
    outcomes = {}
    for name in (f"right-{digest}.pth", "wrong-00000000.pth"):
        patch = dataclasses.replace(weights.value, url=f"http://127.0.0.1:{server.server_port}/{name}")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("TORCH_HOME", str(tmp_path / "cache"))
            patched.setattr(urllib.request, "_opener", None)  # which another test's proxies may have made
            patched.setattr(weights, "_value_", patch)
            network = make("DEFAULT", image_size=32)
            try:
                network.load(network.published())
                outcomes[name] = "loaded"
            except ValueError as error:
                outcomes[name] = str(error)
    server.shutdown()
    assert outcomes.pop(f"right-{digest}.pth") == "loaded"
    assert "invalid hash value" in outcomes["wrong-00000000.pth"]
    line = refusal(train(tmp_path, *typed, env={"TORCH_HOME": str(tmp_path / "empty")}))
    assert "model.weights=DEFAULT: cannot be downloaded" in line
    assert "model.weights=FILE" in line


def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, published: Path) -> None:
    torch.save({"network": "none"}, tmp_path / "plain.pt")
    (tmp_path / "damaged.pth").write_bytes(published.read_bytes()[:1000])
    for typed, expected in (
        (("model.architecture=fasterrcnn_resnet50_fpn",), "no architecture fasterrcnn_resnet50_fpn"),
        (("model.weights=NONE",), "has no weights NONE of shufflenet_v2_x0_5; it has IMAGENET1K_V1"),
        (("data.channels=4",), "takes images of 1 or 3 channels, not 4"),
        (("model.architecture=alexnet",), "another size: model.image_size=224"),
        (
            ("model.architecture=resnet18", "model.weights=weights.pth"),
            "another network's: its conv1.weight is missing",
        ),
        (("model.weights=plain.pt",), "plain.pt: not a checkpoint of smallvision"),
        (("model.weights=damaged.pth",), "damaged.pth: damaged or no weights"),
    ):
        assert expected in refusal(train(tmp_path, *SHORT, *NETWORK, *typed)), typed
    for typed, expected in (
        (("model.weights=nowhere.pth",), "model.weights=nowhere.pth: no such file"),
        (("model.architecture=hf-hub:a/b",), "hf-hub:a/b: must be a name of letters"),
        (("model.freeze=head",), "model.freeze=head: must be"),
        (("model.architecture=???",), "model.architecture: needs a value"),
    ):
        assert expected in refusal(train_without_torch(tmp_path, *SHORT, *NETWORK, *typed)), typed


def test_timm_is_hinted_at_where_it_is_not_installed(tmp_path: Path) -> None:
    if importlib.util.find_spec("timm"):
        pytest.skip("timm is installed")
    line = refusal(train_without_torch(tmp_path, *SHORT, "model=timm", "model.architecture=resnet26"))
    assert "model=timm: needs a package: pip install timm" in line


def test_a_network_of_timm_trains_and_neither_downloads_nor_opens_what_its_name_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    network = models.TimmNetwork(1, (32, 32), 7, [0.5], [0.2], "resnet18", "DEFAULT")
    assert network.size == (224, 224)
    assert "licence: " in network.origin
    with pytest.raises(ValueError, match="no architecture"):
        models.TimmNetwork(1, (32, 32), 7, [0.5], [0.2], "nothing")
    with pytest.raises(ValueError, match="cannot be downloaded"):
        models.TimmNetwork(1, (32, 32), 7, [0.5], [0.2], "resnet18", "DEFAULT").published()
    succeeds(train(tmp_path, *SHORT, "model=timm", "model.architecture=resnet18", "hydra.run.dir=run"))
    succeeds(train(tmp_path, "task=test", "checkpoint=run", "report=false"))
    assert json.loads((tmp_path / "run/results.json").read_text())["model"]["name"] == "resnet18"


def test_a_frozen_backbone_stays_in_evaluation_and_only_the_head_learns() -> None:
    network = make(freeze="backbone").train()
    assert network.training
    assert not any(module.training for module in network.network.modules())
    assert {name for name, one in network.named_parameters() if one.requires_grad} == {
        "network.fc.weight", "network.fc.bias",
    }  # fmt: skip
    assert {*split_params(network)} == {"head"}


def test_inputs_have_the_size_channels_and_normalisation_that_the_weights_expect() -> None:
    network = make("DEFAULT").eval()
    seen: list[torch.Tensor] = []
    network.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    fractions = torch.full((1, 1, 32, 32), 0.7)
    network((fractions - 0.5) / 0.2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert seen[0].shape == (1, 3, 224, 224)
    assert torch.allclose(seen[0][0, :, 5, 5], (0.7 - mean) / std, atol=1e-5)


def test_each_layer_learns_at_a_fraction_of_the_rate_of_the_next() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 2, 3), torch.nn.Linear(2, 2)
    )
    kinds = {kind: {"params": found} for kind, found in split_params(network).items()}
    kinds["head"]["lr"] = 0.5  # type: ignore[assignment]
    rates = {parameter: group["lr"] for group in decayed(kinds, network, 0.1, 0.5) for parameter in group["params"]}  # type: ignore[attr-defined]
    found = [rates[parameter] for parameter in network.parameters()]
    assert found == pytest.approx([0.025, 0.025, 0.025, 0.025, 0.05, 0.05, 0.5, 0.5])


def shapes_on_backgrounds(outlines: range, fills: range, each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``each`` images of each class, one of the ``outlines`` in one of the ``fills``, on smooth random backgrounds."""
    drawn = shapes(images=12_000, test_images=1, size=32, channels=3, classes=100, difficulty=0.2, seed=seed)
    kinds = [10 * fill + outline for fill in fills for outline in outlines]
    images = torch.cat([drawn.train_images[drawn.train_labels == kind][:each] for kind in kinds]).float()
    coarse = 90 * torch.rand(len(images), 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    images = images * 0.65 + torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")
    return images.clamp(0, 255).byte().permute(0, 2, 3, 1), torch.arange(len(kinds)).repeat_interleave(each)


def test_fine_tuning_on_twenty_pictures_a_class_beats_training_from_nothing(tmp_path: Path) -> None:
    """At 3 epochs, n = 3: a network that was trained on other outlines, and one that begins."""
    images, labels = shapes_on_backgrounds(range(5), range(10), 60, seed=1)
    np.savez(tmp_path / "first.npz", x_train=images.numpy(), y_train=labels.numpy())
    for part, each, seed in (("train", 20, 2), ("test", 30, 3)):
        images, labels = shapes_on_backgrounds(range(5, 10), range(2), each, seed)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / f"photos/{part}/class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.numpy()).save(folder / f"{number}.png")
    typed = ("model=torchvision", "model.architecture=resnet18", "trainer.max_epochs=3", "report=false")
    succeeds(train(tmp_path, *typed, "data=arrays", "data.path=first.npz", "hydra.run.dir=first"))
    photos = ("data=folder", "data.path=photos", "data.batch_size=16", "data.val_size=0.2")
    weights = ("model.weights=first/checkpoints/best.ckpt", "model.image_size=32")
    means = []
    for start, more in (("nothing", ()), ("tuned", weights)):
        for seed in range(3):
            succeeds(train(tmp_path, *typed, *photos, *more, f"seed={seed}", f"hydra.run.dir={start}{seed}"))
        means.append(fmean(results(tmp_path / f"{start}{seed}")["metrics"]["test/acc"] for seed in range(3)))
    assert means[1] > means[0], means
