"""The config of a run: every key with its type, range and unit. configs/ holds the values.

``Config`` is made once per start, by :mod:`smallvision.config.resolve`. Sections that build something
(``data``, ``model``, ``loss``, ``optimizer``, ``scheduler``, ``logger``) take further keys, the arguments of their
``_target_``, in ``extra``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from smallvision.config.fields import OPTIONAL, OPTIONAL_OR_NULL, Length, Matches, Range, Section

Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
FractionBelowOne = Annotated[float, Range(0, below=1)]
# Part of a folder's name, even where a checkpoint from elsewhere chooses it.
Name = Annotated[str, Matches(r"[\w-]+", "a name of letters, digits, - and _")]
RunName = Annotated[str, Matches(r"(?!last$)[\w-]+", "a name of letters, digits, - and _, other than last")]
Duration = Annotated[str, Matches(r"\d\d(:\d\d){3}", "DD:HH:MM:SS")]
# Not .ckpt, .yaml or .json: nothing else that a run writes can be named by mistake.
WeightsFile = Annotated[str, Matches(r"[^\0\n]*[^/\0\n]\.pth?", "a file that ends in .pt or .pth")]


Batches = Count | Annotated[float, Range(above=0, high=1)]  # of an epoch; 1.0 is all of them, where 1 is one batch
PARAM_KINDS = ("weight", "bias", "norm", "head")
GROUPS = ("data", "model", "loss", "optimizer", "scheduler", "callbacks", "device", "logger")  # folders of configs/
CLASSIFIER = "smallvision.training.classifier.Classifier"
# What a LightningModule of the user's own does not use: it has a network, a loss and optimizers of its own.
NOT_OF_OWN_MODULE = ("model", "loss", "optimizer", "scheduler", "param_groups", "tta", "save_model", "device.compile",
                     "data.normalisation")  # fmt: skip


@dataclass
class Target(Section):
    """A section that builds something: ``_target_``, a class or function of the allow-list, and its arguments."""

    name: Name
    target: str
    extra: dict[str, object] = field(default_factory=dict, kw_only=True)

    def without_own_keys(self) -> dict[str, object]:
        """The target with its name and arguments, as plain data, without the further keys of the section."""
        return {"_target_": self.target, "name": self.name, **self.extra}


@dataclass
class Augmentation(Section):
    """Of training images, whole batches at a time."""

    flip: bool | Literal["alternating"]  # left-right, half of the time, or in every other epoch
    shift: Natural  # pixels, up to that many each way
    cutout: Natural  # pixels, side of a blanked square; 0: none
    rotate: Annotated[float, Range(0, 180)]  # degrees, up to that many either way
    scale: FractionBelowOne  # up to that fraction larger or smaller


@dataclass
class Normalisation(Section):
    """Per channel, as fractions of 255; None: measured on the training images."""

    mean: Annotated[list[Fraction], Length(1)] | None
    std: Annotated[list[Positive], Length(1)] | None
    whiten: Annotated[int, Range(0, 8)]  # pixels, side of the patches of a fixed first layer; 0: no such layer


@dataclass
class ProgressiveResizing(Section):
    """Smaller training images in the first epochs, which take less work; validation and test keep the full size."""

    size: Annotated[int, Range(0, 1023)] = 0  # pixels, their height; 0: that of the images
    epochs: Natural = 0


@dataclass
class Data(Target):
    """Which images, and in what batches."""

    # Images, or their fraction, held out of the training images, class by class; None: a tenth; 0: no validation.
    val_size: Natural | FractionBelowOne | None
    batch_size: Count  # images per optimizer step, over all processes
    eval_batch_size: Count  # images at once in validation and test
    drop_last: bool  # leave out a last batch that is not full
    shuffle: bool  # training images in another order each epoch
    augmentation: Augmentation
    normalisation: Normalisation
    progressive_resizing: ProgressiveResizing = field(default_factory=ProgressiveResizing)  # older checkpoints lack it

    class Known:
        """Arguments of the data sets that come with the project."""

        offline: Literal["stand_in", "error"]  # without data and network: use a stand-in, or refuse
        path: str  # a folder or file
        images: Count
        test_images: Natural
        size: Annotated[int, Range(1, 1024)]  # pixels, height and width
        channels: Annotated[int, Range(1, 4)]
        classes: Annotated[int, Range(2)]
        difficulty: Fraction
        seed: Seed
        test_fraction: FractionBelowOne  # held out as the test set where the folder has none


@dataclass
class Model(Target):
    """Which network; it also gets ``channels``, ``size`` and ``classes``."""

    class Known:
        """Arguments of the networks that come with the project."""

        widths: Annotated[list[Count], Length(1)]  # channels of each stage
        depths: Annotated[list[Natural], Length(1)]  # convolutions of each stage's residual branch
        hidden: list[Count]  # units of each hidden layer
        dropout: FractionBelowOne
        architecture: Annotated[str, Matches(r"\w+", "a name of letters, digits and _")]  # of a library
        weights: str | None  # the name of published ones, or a file
        image_size: Annotated[int, Range(1, 1024)] | None  # pixels, side that images are resized to
        freeze: Literal["backbone"] | None


class OptimizerArguments:
    """Arguments of torch's optimizers that have a range."""

    momentum: FractionBelowOne
    dampening: Fraction
    weight_decay: NonNegative
    betas: Annotated[list[FractionBelowOne], Length(exact=2)]
    eps: NonNegative
    nesterov: bool
    amsgrad: bool
    maximize: bool
    capturable: bool
    differentiable: bool
    decoupled_weight_decay: bool
    foreach: bool | None
    fused: bool | None
    ns_steps: Annotated[int, Range(1, 99)]
    ns_coefficients: Annotated[list[float], Length(exact=3)]
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] | None


@dataclass
class RestOptimizer(Section):
    """What updates the parameters that Muon does not."""

    target: str
    lr: Positive
    extra: dict[str, object] = field(default_factory=dict)
    Known = OptimizerArguments


@dataclass
class Optimizer(Target):
    """Which optimizer, under torch's own argument names."""

    lr: Positive  # learning rate
    rest: RestOptimizer | None = field(default=None, metadata=OPTIONAL)  # with Muon: for what is no hidden matrix
    Known = OptimizerArguments


@dataclass
class Scheduler(Target):
    """How the learning rate changes: a schedule of the project's own, or a class of torch.optim.lr_scheduler."""

    interval: Literal["step", "epoch"] | None = field(default=None, metadata=OPTIONAL)  # between steps of such a class

    class Known:
        """Arguments of the schedules that come with the project."""

        warmup: Fraction  # of all steps, in which the rate rises from 0
        final_ratio: Fraction  # of the last step's learning rate to the optimizer's


@dataclass
class Device(Section):
    """Where a run computes, and how."""

    name: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", 32, "32", "32-true", "64-true", "bf16-mixed", "16-mixed"]
    memory_format: Literal["auto", "channels_last", "contiguous"]
    threads: Count | None  # of the processor; None: as many as this process may use
    compile: bool  # torch.compile


@dataclass
class Logger(Section):
    """Who else gets the metrics, beside the run directory."""

    name: Name
    target: str | None  # None: nobody
    extra: dict[str, object] = field(default_factory=dict)

    class Known:
        """Arguments of the loggers that configs/logger names."""

        experiment_name: str
        tracking_uri: str | None
        project: str
        offline: bool
        graph: bool


@dataclass
class Trainer(Section):
    """Lightning's Trainer under its own names; others with ``+trainer.NAME=VALUE``."""

    max_epochs: Count
    min_epochs: Count | None
    max_steps: Literal[-1] | Count
    max_time: Duration | None
    limit_train_batches: Batches | None
    limit_val_batches: Batches | None
    limit_test_batches: Batches | None
    check_val_every_n_epoch: Count
    accumulate_grad_batches: Count
    gradient_clip_val: Positive | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    deterministic: bool | Literal["warn"]
    detect_anomaly: bool
    profiler: Literal["simple", "advanced", "pytorch"] | None
    devices: Count | Annotated[list[Natural], Length(1)] | Literal["auto", -1]
    strategy: Literal["auto", "ddp"]
    num_nodes: Count
    timeout: Positive = 600.0  # seconds that one of several processes waits for the others
    extra: dict[str, object] = field(default_factory=dict)


@dataclass
class Loss(Target):
    """What training makes small: from logits N x classes and labels N to a number."""

    name: Name = "cross_entropy"
    target: str = "torch.nn.CrossEntropyLoss"
    class_weights: Literal["balanced"] | None = None  # in training: each class counts alike, however many images it has

    class Known:
        """Arguments of torch's losses."""

        label_smoothing: FractionBelowOne  # of each label, spread over all classes; in training only
        margin: Positive
        p: Literal[1, 2]


def mode_of(metric: str) -> Literal["min", "max"] | None:
    """Which values of a metric are better, as the end of its name says."""
    return "max" if metric.endswith("acc") else "min" if metric.endswith("loss") else None


@dataclass
class Module(Target):
    """Which LightningModule, and the metric whose best value chooses the best epoch; None: it is the last."""

    name: Name = "classifier"
    target: str = CLASSIFIER
    monitor: str | None = "val/acc"
    mode: Literal["min", "max"] | None = None  # which of its values are better; None: as the end of its name says

    def __post_init__(self) -> None:
        if self.mode is None and self.monitor is not None:
            self.mode = mode_of(self.monitor)

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own: ``model``, ``loss``, ``optimizer`` and the like then have no meaning."""
        return self.target != CLASSIFIER


@dataclass
class TestTimeAugmentation(Section):
    """Views whose logits are averaged in validation and test."""

    __test__ = False

    flip: bool  # each view and its mirror image
    shift: Natural  # pixels; 0: none


@dataclass
class ParamGroup(Section):
    """Values of one kind of parameters; None: the optimizer's."""

    lr: NonNegative | None
    weight_decay: NonNegative | None


@dataclass
class ParamGroups(Section):
    weight: ParamGroup  # of convolutions and linear layers
    bias: ParamGroup  # their biases
    norm: ParamGroup  # of normalisation layers
    head: ParamGroup  # of the last linear layer
    layer_decay: Annotated[float, Range(above=0, high=1)] = 1.0  # of the rate, from a layer to the one before


@dataclass
class EarlyStopping(Section):
    patience: Natural | None  # validated epochs without a better val/acc; None: never
    min_delta: Fraction  # what counts as better


@dataclass
class Checkpointing(Section):
    """When last.ckpt is saved within an epoch, and how many are kept."""

    every_n_steps: Count | None
    every_n_minutes: Positive | None  # at most 1/50 of the time
    keep: Annotated[int, Range(1, 100)]


@dataclass
class Predict(Section):
    top_k: Count  # classes that are shown of each image
    polarity: Literal["auto", "keep", "invert"]
    resize: Literal["auto", "stretch", "center_crop", "pad"]
    saliency: bool
    contact_sheet: Annotated[int, Range(0, 1000)]  # images on it


@dataclass
class Serve(Section):
    host: str
    port: Annotated[int, Range(0, 65_535)]
    max_images: Annotated[int, Range(1, 1024)]
    max_megabytes: Annotated[float, Range(above=0, high=1024)]
    max_connections: Annotated[int, Range(1, 10_000)]
    header_timeout: Positive
    body_timeout: Positive
    log: bool


@dataclass
class Bench(Section):
    rounds: Count
    seconds: Positive
    large: bool


Coordinate = Annotated[float, Range(-1000, 1000)]


@dataclass
class Descent(Section):
    function: Literal["parabola", "ravine", "rosenbrock", "himmelblau", "all"]
    start: Coordinate | Annotated[list[Coordinate], Length(1)] | None
    steps: Annotated[int, Range(1, 10_000)] | None
    rates: Positive | list[Positive]
    compare_with: str | list[str]
    animation: bool


@dataclass
class Config(Section):
    """A whole run. ``checkpoint`` says how a fit saves checkpoints; for other tasks it is the file to start from."""

    task: Literal["fit", "test", "predict", "export", "serve", "report", "bench", "descent", "clean"]
    seed: Seed  # names every random stream
    data_dir: str
    trainer: Trainer
    loss: Loss
    param_groups: ParamGroups
    tta: TestTimeAugmentation
    early_stopping: EarlyStopping
    data: Data
    model: Model
    optimizer: Optimizer
    scheduler: Scheduler
    callbacks: dict[str, dict[str, object] | None]  # by name, each with its _target_, in order; None: left out
    device: Device
    logger: Logger
    report: bool  # draw report.html at the end
    save_model: WeightsFile | None  # file for the best epoch's plain state dict
    log_every_n_batches: Count | None
    module: Module = field(default_factory=Module)
    use: list[str] | None = None  # packages and modules of the user's own, which `_target_` may name
    resume: str | None = None  # a run directory to continue in place
    rerun: str | None = None  # a run directory whose config a new run starts from
    continued: list[str] | None = field(default=None, metadata=OPTIONAL)  # from which step on with which other values
    test: bool = True  # test the best epoch at the end
    name: RunName | None = None  # ends the name of the run directory
    checkpoint: Checkpointing | str | None = field(default=None, metadata=OPTIONAL)
    # Keys of one task each.
    images: str | Annotated[list[str], Length(1)] | None = field(default=None, metadata=OPTIONAL)
    format: Literal["onnx", "torch_export", "safetensors"] | None = field(default=None, metadata=OPTIONAL)
    runs: str | Annotated[list[str], Length(1)] | None = field(default=None, metadata=OPTIONAL)
    storage: str | None = field(default=None, metadata=OPTIONAL_OR_NULL)
    predict: Predict | None = field(default=None, metadata=OPTIONAL)
    serve: Serve | None = field(default=None, metadata=OPTIONAL)
    bench: Bench | None = field(default=None, metadata=OPTIONAL)
    descent: Descent | None = field(default=None, metadata=OPTIONAL)

    @property
    def trained(self) -> str:
        """The name of what is trained."""
        return self.module.name if self.module.is_own else self.model.name

    @property
    def trained_by(self) -> str:
        """The name of the optimizer."""
        return "own" if self.module.is_own else self.optimizer.name

    @property
    def checkpointing(self) -> Checkpointing:
        """How a fit saves checkpoints."""
        assert isinstance(self.checkpoint, Checkpointing)
        return self.checkpoint

    @property
    def checkpoint_file(self) -> Path:
        """The checkpoint that test, predict, export or serve starts from."""
        assert isinstance(self.checkpoint, str)
        return Path(self.checkpoint)

    def without(self, *keys: str) -> dict[str, object]:
        """As plain data, without those keys."""
        return {key: value for key, value in self.to_dict().items() if key not in keys}


@dataclass
class Sweep(Section):
    """``-m``: many runs."""

    name: Name | None
    method: Literal["grid", "random", "tpe"]
    metric: str
    direction: Literal["auto", "maximize", "minimize"]
    seeds: Count | None
    sampler_seed: Seed
    space: dict[str, str]
    workers: Annotated[int, Range(1, 1024)] | None
    per_device: Annotated[int, Range(1, 64)]
    pruner: Literal["none", "median", "percentile", "successive_halving", "hyperband", "threshold", "wilcoxon"]
    pruner_options: dict[str, object]
    storage: str | None
    adopt_minutes: Annotated[float, Range(above=0.0)]
    retry_failed: bool
    test_best: bool
    launcher: Literal["local", "slurm", "ray"]
    launcher_options: dict[str, object]
    address: str | None
    resources: dict[str, object]
    trials: Count | None = field(default=None, metadata=OPTIONAL)
