"""What the network gets to see: normalised, whitened, and in the test from several sides."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from smallvision.config.schema import Loss
from smallvision.core.errors import UserError
from smallvision.data.module import ImageDataModule
from smallvision.data.shapes import shapes
from smallvision.training.classifier import Classifier
from smallvision.training.factory import init_whiten, make_losses
from smallvision.training.model_spec import ModelSpec
from smallvision.training.predictor import SMALLEST_VARIANCE, Normalise, Predictor, TestTimeAugmentation, Whiten


def smooth_images(seed: int, channels: int = 3, height: int = 9, width: int = 11, count: int = 64) -> Tensor:
    """Neighbouring pixels are alike, and so are channels, as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, height + 2, width + 2, generator=generator)
    return F.avg_pool2d(noise + noise.mean(1, keepdim=True), 3, stride=1) * 3


def linear_part(whiten: Whiten, images: Tensor) -> Tensor:
    """Before GELU, and without the negatives: patches x directions, in float64."""
    kernel = whiten.kernel[: len(whiten.kernel) // 2].double()
    return F.conv2d(images.double(), kernel).transpose(0, 1).flatten(1).T


def fitted(images: Tensor, side: int) -> Whiten:
    whiten = Whiten(images.shape[1], side)
    whiten.init_whiten(images)
    return whiten


# Normalisation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalised_images_have_mean_0_and_deviation_1_in_the_wanted_layout(channels_last: bool) -> None:
    images = torch.randint(0, 256, (50, 3, 6, 4), generator=torch.Generator().manual_seed(0)).byte()
    deviation, mean = torch.std_mean(images / 255.0, (0, 2, 3), correction=0)
    found = Normalise(mean.tolist(), deviation.tolist(), channels_last)(images)
    assert found.mean((0, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(found.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last) == channels_last


# Whitening -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), channels=st.integers(1, 4), side=st.integers(1, 3))
def test_whitened_patches_are_uncorrelated_and_of_variance_1(seed: int, channels: int, side: int) -> None:
    """But where an image varies so little that it is mostly noise: there the variance stays below."""
    images = smooth_images(seed, channels)
    found = linear_part(fitted(images, side), images)
    products = found.T @ found / len(found)
    size = channels * side**2
    variances = products.diagonal()
    patches = F.unfold(images.double(), side).transpose(1, 2).reshape(-1, size)
    before = torch.linalg.eigvalsh(patches.T @ patches / len(patches))
    assert (products - variances.diag()).abs().max() < 1e-3
    assert torch.allclose(variances, before / (before + SMALLEST_VARIANCE), atol=1e-3)
    assert ((variances - 1).abs() < 0.01)[before > 0.06].all()


def test_directions_without_variance_are_not_blown_up() -> None:
    images = smooth_images(0, channels=1).expand(-1, 3, -1, -1)  # grey: two of three directions are empty
    whiten = fitted(images, 1)
    lengths = whiten.kernel.flatten(1).norm(dim=1)
    assert lengths.max() <= 1 / math.sqrt(SMALLEST_VARIANCE) * 1.0001
    assert linear_part(whiten, images).var(0).sort().values.tolist() == pytest.approx([0, 0, 1], abs=0.01)


def test_identical_pixels_everywhere_are_whitened_to_finite_numbers() -> None:
    flat = torch.full((4, 1, 5, 5), 0.5)
    assert fitted(flat, 2)(flat).isfinite().all()


@settings(deadline=None, max_examples=30)
@given(channels=st.integers(1, 4), height=st.integers(3, 9), width=st.integers(3, 9), side=st.integers(1, 3))
def test_whitened_images_have_the_shape_of_their_spec(channels: int, height: int, width: int, side: int) -> None:
    spec = ModelSpec({}, (channels, height, width), [], [0.5] * channels, [0.25] * channels, whiten=side)
    found = Whiten(channels, side)(torch.rand(2, channels, height, width))
    assert found.shape == (2, *spec.network_shape)
    assert spec.network_shape[0] == 2 * channels * side**2


def test_each_direction_and_its_negative_go_through_gelu() -> None:
    """GELU(x) - GELU(-x) is x: together the two lose nothing."""
    images = smooth_images(1)
    whiten = fitted(images, 2)
    positive, negative = whiten(images).chunk(2, 1)
    x = F.conv2d(images, whiten.kernel[: len(whiten.kernel) // 2])
    assert torch.allclose(positive, F.gelu(x), atol=1e-5)
    assert torch.allclose(positive - negative, x, atol=1e-4)


def test_a_whitening_layer_learns_nothing_and_its_state_carries_it() -> None:
    images = smooth_images(2)
    whiten, other = fitted(images, 2), Whiten(3, 2)
    assert list(whiten.parameters()) == []
    assert not whiten(images).requires_grad
    other.load_state_dict(whiten.state_dict())
    assert torch.equal(other(images), whiten(images))
    assert not torch.equal(Whiten(3, 2)(images), whiten(images))


def test_the_same_images_give_the_same_directions() -> None:
    assert torch.equal(fitted(smooth_images(3), 2).kernel, fitted(smooth_images(3), 2).kernel)


def test_the_layer_of_a_run_is_fitted_to_its_normalised_training_images() -> None:
    record = shapes(images=300, test_images=10, size=12, channels=3, classes=3, difficulty=0.5, seed=0)
    data = ImageDataModule(record, val_size=60, batch_size=8, eval_batch_size=8, seed=0)
    predictor = Predictor(ModelSpec({}, record.shape, [], data.mean, data.std, whiten=2), nn.Identity())
    init_whiten(predictor, data)
    whiten: Any = predictor.whiten
    seen = Normalise(data.mean, data.std)(record.train_images[data.indices["train"]])
    assert torch.equal(whiten.kernel, fitted(seen, 2).kernel)
    assert not torch.equal(whiten.kernel, fitted(Normalise([0.0], [1.0])(record.train_images), 2).kernel)


def test_patches_larger_than_the_images_are_refused_and_of_0_pixels_are_none() -> None:
    def network_shape(side: int) -> tuple[int, int, int]:
        return ModelSpec({}, (1, 5, 4), [], [0.5], [0.25], whiten=side).network_shape

    with pytest.raises(UserError, match=r"data\.normalisation\.whiten=5: larger than the images.*1x5x4"):
        network_shape(5)
    assert network_shape(0) == (1, 5, 4)
    assert network_shape(4) == (32, 2, 1)


# Views for the test --------------------------------------------------------------------------------------


CHOICES = [(flip, shift) for flip in (False, True) for shift in (0, 1, 3)]


def lopsided(seed: int = 0) -> nn.Module:
    """A network that tells each pixel from each other."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 9 * 11, 4), nn.Tanh(), nn.Linear(4, 4))


@pytest.mark.parametrize(("flip", "shift", "count"), [(0, 0, 1), (1, 0, 2), (0, 2, 3), (1, 2, 6)])
def test_views_say_how_many_they_are_and_are_as_many(flip: int, shift: int, count: int) -> None:
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return images.flatten(1)

    views = TestTimeAugmentation(bool(flip), shift)
    views(smooth_images(0), network)
    assert len(views) == len(seen) == count
    assert len({view.numpy().tobytes() for view in seen}) == count


def test_without_a_choice_the_only_view_is_the_image() -> None:
    images, network = smooth_images(0), lopsided()
    assert torch.equal(TestTimeAugmentation()(images, network), network(images))


@pytest.mark.parametrize(("flip", "shift"), CHOICES)
def test_a_network_that_says_the_same_of_all_is_believed(flip: bool, shift: int) -> None:
    said = torch.tensor([1.5, -2.0, 0.25])
    found = TestTimeAugmentation(flip, shift)(smooth_images(0), lambda images: said.expand(len(images), 3))
    assert torch.equal(found, said.expand(64, 3))


def test_a_network_blind_to_mirror_images_says_with_the_mirror_what_it_says_without() -> None:
    def blind(images: Tensor) -> Tensor:
        return (images + images.flip(3)).sum(1).flatten(1)

    for shift in (0, 2):
        images = smooth_images(0)
        expected = TestTimeAugmentation(False, shift)(images, blind)
        assert torch.equal(TestTimeAugmentation(True, shift)(images, blind), expected)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_with_the_mirror_an_image_and_its_mirror_image_are_the_same(seed: int) -> None:
    images, network = smooth_images(seed), lopsided(seed)
    views = TestTimeAugmentation(flip=True)
    assert torch.allclose(views(images, network), views(images.flip(3), network), atol=1e-6)
    assert not torch.allclose(network(images), network(images.flip(3)), atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), shift=st.integers(1, 8), flip=st.booleans())
def test_shifted_views_are_cut_from_the_reflected_image_and_weigh_a_quarter_each(
    seed: int, shift: int, flip: bool
) -> None:
    images, network = smooth_images(seed, count=3), lopsided(seed)
    room = ((0, 0), (0, 0), (shift, shift), (shift, shift))
    padded = torch.from_numpy(np.pad(images.numpy(), room, mode="reflect"))

    def logits(views: Tensor) -> Tensor:
        return (network(views) + network(views.flip(3))) / 2 if flip else network(views)

    down_right, up_left = padded[:, :, :9, :11], padded[:, :, 2 * shift :, 2 * shift :]
    expected = logits(images) / 2 + logits(down_right) / 4 + logits(up_left) / 4
    assert torch.allclose(TestTimeAugmentation(flip, shift)(images, network), expected, atol=1e-6)


def test_views_are_averaged_in_full_precision() -> None:
    """Logits of a half-precision network: their mean may lie between what that can say."""

    def network(images: Tensor) -> Tensor:
        return torch.where(images[:, 0, 0, :1] > 0, 256.0, 258.0).bfloat16()

    images = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
    found = TestTimeAugmentation(flip=True)(images, network)
    assert (found.dtype, found.item()) == (torch.float32, 257.0)


# In the classifier ---------------------------------------------------------------------------------------


IMAGES = torch.randint(0, 256, (20, 3, 9, 11), generator=torch.Generator().manual_seed(5)).byte()
LABELS = torch.arange(20) % 4


def classifier(tta: dict[str, Any] | None = None, **choices: Any) -> Classifier:
    spec = ModelSpec({}, (3, 9, 11), [*"abcd"], [0.4, 0.5, 0.6], [0.2, 0.25, 0.3], tta=tta or {})
    return Classifier(Predictor(spec, lopsided()), **choices)


def smoothed_classifier(share: float) -> Classifier:
    loss, eval_loss = make_losses(Loss(extra={"label_smoothing": share}))
    return classifier(loss=loss, eval_loss=eval_loss)


def loss_in_validation(model: Classifier) -> float:
    model.eval_metrics.reset()
    model.validation_step((IMAGES, LABELS), 0)
    return model.eval_metrics.compute()["loss"].item()


def test_validation_takes_the_mean_over_the_views_and_training_the_image_alone() -> None:
    plain, viewed = classifier(), classifier({"flip": True, "shift": 2})
    normalised = plain.predictor.normalise(IMAGES)
    logits = TestTimeAugmentation(flip=True, shift=2)(normalised, plain.predictor.network)
    assert loss_in_validation(viewed) == pytest.approx(F.cross_entropy(logits, LABELS).item(), rel=1e-5)
    assert loss_in_validation(viewed) != pytest.approx(loss_in_validation(plain), rel=1e-4)
    assert torch.equal(viewed.training_step((IMAGES, LABELS), 0), plain.training_step((IMAGES, LABELS), 0))


@settings(deadline=None, max_examples=20)
@given(share=st.floats(0.001, 0.999))
def test_smoothed_labels_spread_their_share_over_all_classes_in_training_only(share: float) -> None:
    plain, smoothed = classifier(), smoothed_classifier(share)
    spread = (1 - share) * F.one_hot(LABELS, 4) + share / 4
    expected = -(spread * plain(IMAGES).log_softmax(1)).sum(1).mean()
    assert torch.allclose(smoothed.training_step((IMAGES, LABELS), 0), expected, rtol=1e-5)
    assert loss_in_validation(smoothed) == loss_in_validation(plain)


def test_every_view_is_whitened_after_it_was_shifted() -> None:
    whiten = fitted(classifier().predictor.normalise(IMAGES), 2)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(24 * 8 * 10, 4))
    spec = ModelSpec({}, (3, 9, 11), [*"abcd"], [0.5] * 3, [0.25] * 3, 2, {"flip": True, "shift": 1})
    model = Classifier(Predictor(spec, network))
    model.predictor.whiten.load_state_dict(whiten.state_dict())
    normalised = Normalise([0.5] * 3, [0.25] * 3)(IMAGES)
    logits = TestTimeAugmentation(True, 1)(normalised, nn.Sequential(whiten, network))
    assert loss_in_validation(model) == pytest.approx(F.cross_entropy(logits, LABELS).item(), rel=1e-5)
    assert torch.equal(model(IMAGES), network(whiten(normalised)))


def test_a_checkpoint_of_a_model_carries_its_whitening() -> None:
    whiten = fitted(classifier().predictor.normalise(IMAGES), 2)
    spec = ModelSpec({}, (3, 9, 11), [], [0.5], [0.25], whiten=2)
    predictor = Predictor(spec, nn.Identity())
    predictor.whiten.load_state_dict(whiten.state_dict())
    assert torch.equal(Classifier(predictor).state_dict()["predictor.whiten.kernel"], whiten.kernel)
    assert not any("whiten" in name or "normalise" in name for name in classifier().state_dict())
