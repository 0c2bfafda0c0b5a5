"""A continued run goes on at the next batch, with the arguments of its config, as if it had never stopped.

Whether a checkpoint fits the run is checked before anything is taken from it: an optimizer's fused kernel, for one,
writes past the end of a state that is smaller than its parameter.
"""

import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, distributed
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.data.loader import BatchLoader
from smallvision.training.callbacks import find_callback
from smallvision.training.callbacks.metrics_csv import MetricsCSV
from smallvision.training.checkpoint import Checkpoint
from smallvision.training.classifier import Classifier

Tree = dict[str, object]  # of numbers, text, tensors, lists and further trees
KERNELS = ("foreach", "fused")  # arguments of optimizers that another device may change


class ExactResume(Callback):
    """Keeps the loader's position and the sums of an epoch's metrics in the checkpoint, and checks a checkpoint before
    anything is taken from it.

    Optimizers keep their state but take their arguments (lr, weight decay, ...) from the config, which may have
    changed; so do schedules of the step's number (LambdaLR). ``checkpoint``: the one to continue from; None for a run
    from the start. Raises UserError where it does not fit the run.
    """

    def __init__(self, checkpoint: Checkpoint | None = None, console: Console | None = None) -> None:
        self.checkpoint, self.console = checkpoint, console
        self._groups: list[list[Tree]] = []
        self._names: set[str] = set()  # of the module's weights and buffers
        self._logged: list[dict[str, list[Tensor]]] = []  # of the epoch that the checkpoint was saved in, not yet added

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        loader = trainer.train_dataloader
        position = loader.state_dict() if isinstance(loader, BatchLoader) else None
        ours = checkpoint.setdefault("smallvision", {})
        ours["position"] = position
        is_own = not isinstance(pl_module, Classifier)  # the other's sums are in its state
        if trainer.world_size > 1 or is_own:  # all processes are here, though only rank 0 writes
            sums = _sums(pl_module) | (_sums_of_logged(trainer) if is_own else {})
            sums = move_data_to_device(sums, torch.device("cpu"))
            ours["sums"] = [sums] * trainer.world_size
            if trainer.world_size > 1:
                distributed.all_gather_object(ours["sums"], sums)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._names = {*pl_module.state_dict()}
        if self.checkpoint is not None and stage == "fit":
            _refuse_misfit(self.checkpoint, _fit_before_optimizers(self.checkpoint.raw, trainer, pl_module))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers have been made from the config and not yet been restored."""
        made = sorted({*pl_module.state_dict()} - self._names)
        if made:
            raise UserError(
                f"{type(pl_module).__name__}: made {made[0]} in setup or configure_model; make it in __init__, where it"
                " gets the run's seed or a checkpoint's weights"
            )
        if self.checkpoint is not None:
            _refuse_misfit(self.checkpoint, _fit_of_optimizers(self.checkpoint.raw, trainer))
        self._groups = [
            [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning itself restores a loader's position only if nothing asked for the loader before, and the number
        of steps, which the schedule needs, asks for it.
        """
        if self.checkpoint is None:
            return
        before = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        # Other schedules change the arguments from step to step, and go on from the saved ones.
        by_step = isinstance(pl_module, Classifier) and all(isinstance(one, LambdaLR) for one in schedulers)
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
            for group, arguments in zip(optimizer.param_groups, groups, strict=True):
                group.update({name: value for name, value in arguments.items() if by_step or name in KERNELS})
        for scheduler in schedulers:
            if by_step and isinstance(scheduler, LambdaLR):
                scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
                scheduler.last_epoch = trainer.global_step
                for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_lr(), strict=True):
                    group["lr"] = rate
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        raised = by_step and float(rates[0]) > 1.01 * float(before[0])
        if raised and self.console is not None and not trainer.should_stop:
            change = f"from {float(before[0]):.2g} to {float(rates[0]):.2g}, as its schedule is longer now"
            self.console.print(f"  note       the learning rate is raised again, {change}", style="yellow")
        loader = trainer.train_dataloader
        if isinstance(loader, BatchLoader) and self.checkpoint.position is not None:
            loader.load_state_dict(self.checkpoint.position)
        within = 0 < (self.checkpoint.position or {}).get("batch", 0) < trainer.num_training_batches
        if isinstance(pl_module, Classifier) or within:
            self._share_sums(trainer, pl_module)
        if not within:
            _step_plateaus(trainer)

    def _share_sums(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each process its part of an epoch's sums; rank 0 all of them, where others have saved them."""
        assert self.checkpoint is not None
        own, rank = _sums(pl_module), trainer.global_rank
        saved = self.checkpoint.raw["smallvision"].get("sums") or [own]  # type: ignore[attr-defined]
        if not isinstance(saved, list) or not all(fits(own, one) for one in saved):
            raise UserError(f"{self.checkpoint.path}: its sums do not fit this run")
        parts = saved[rank : rank + 1] if len(saved) == trainer.world_size else saved if rank == 0 else []
        for name, sums in own.items():
            if isinstance(sums, list):
                sums[:] = [tensor.to(pl_module.device) for part in parts for tensor in part[name]]
            else:
                sums.copy_(sum((part[name].to(sums) for part in parts), torch.zeros_like(sums)))
        pair = [torch.tensor(0.0), torch.tensor(0)]
        self._logged = [{name: saved for name, saved in part.items() if fits(pair, saved)} for part in parts]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Add what was logged in the epoch before the save to what Lightning has added up since."""
        for part in filter(None, self._logged):
            for name, metric in _logged(trainer).items():
                if name in part:
                    value, count = part.pop(name)
                    both = torch.stack([metric.value, value.to(metric.value)])
                    extreme = metric.meta.is_max_reduction or metric.meta.is_min_reduction
                    metric.value = metric.meta.reduce_fx(both) if extreme else both.sum()
                    if metric.meta.is_mean_reduction:
                        metric.cumulated_batch_size = metric.cumulated_batch_size + count.to(metric.value.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was logged before the save and not since counts as it was."""
        trainer.fit_loop._restarting = False  # or Lightning leaves out a ReduceLROnPlateau
        for part in self._logged:
            for name, (value, count) in part.items():
                trainer.callback_metrics[name.partition(".")[2]] = value / count if count else value
        self._logged = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Not called where a run goes on within an epoch."""
        self._logged = []
        loader = trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            loader.start_epoch(trainer.current_epoch)


def _step_plateaus(trainer: Trainer) -> None:
    """Have each ReduceLROnPlateau look at the last epoch, as Lightning does after the epoch's checkpoint was saved."""
    metrics = find_callback(trainer, MetricsCSV)
    if metrics is None or not metrics.history or not trainer.lightning_module.automatic_optimization:
        return
    row = metrics.history[-1]
    for config in trainer.lr_scheduler_configs:
        value = row.get(str(config.monitor))
        due = config.interval == "epoch" and int(row["epoch"] or 0) % config.frequency == 0
        if config.reduce_on_plateau and due and value is not None:
            trainer.lightning_module.lr_scheduler_step(config.scheduler, value)


def _sums(module: LightningModule) -> dict[str, Tensor | list[Tensor]]:
    """What its metrics have added up in this process since the epoch began: those of a Classifier where they keep it in
    checkpoints.
    """
    metrics = {name: one for name, one in module.named_modules() if isinstance(one, Metric)}
    return {
        f"{name}.{key}": getattr(metric, key)
        for name, metric in metrics.items()
        for key, kept in metric._persistent.items()
        if kept or not isinstance(module, Classifier)
    }


def _logged(trainer: Trainer) -> dict[str, _ResultMetric]:
    """What Lightning adds up of the numbers that training steps log for the epoch, by the name of the log call."""
    results = trainer.fit_loop.epoch_loop._results
    return {f"log {name}": one for name, one in results.valid_items() if one.is_tensor and one.meta.on_epoch}


def _sums_of_logged(trainer: Trainer) -> dict[str, list[Tensor]]:
    """The value and the number of images of each."""
    logged = _logged(trainer)
    return {name: [one.value, getattr(one, "cumulated_batch_size", torch.tensor(0))] for name, one in logged.items()}


# Does a checkpoint fit? ----------------------------------------------------------------------------------


def _refuse_misfit(checkpoint: Checkpoint, parts: dict[str, bool]) -> None:
    """Raise UserError at the first part that is not what this run itself would have saved."""
    for name, fit in parts.items():
        if not fit:
            raise UserError(f"{checkpoint.path}: its {name} do not fit this run")


def _fit_before_optimizers(saved: Tree, trainer: Trainer, module: LightningModule) -> dict[str, bool]:
    weights, callbacks, loops = saved["state_dict"], saved.get("callbacks"), saved.get("loops")
    own = module.state_dict()
    return {
        "state_dict": fits(own, weights) and isinstance(weights, dict) and own.keys() == weights.keys(),
        "loops": isinstance(loops, dict) and _counts(trainer.fit_loop.state_dict(), loops.get("fit_loop")),
        "callbacks": isinstance(callbacks, dict)
        and all(
            fits(callback.state_dict(), callbacks.get(callback.state_key, callback.state_dict()))
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        ),
    }


def _fit_of_optimizers(saved: Tree, trainer: Trainer) -> dict[str, bool]:
    """Once the trainer has its optimizers and schedulers."""
    states, rates, optimizers = saved.get("optimizer_states"), saved.get("lr_schedulers"), trainer.optimizers
    own_rates = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    return {
        "optimizer_states": isinstance(states, list)
        and len(states) >= len(optimizers)
        and all(map(_takes, optimizers, states)),
        "lr_schedulers": isinstance(rates, list)
        and fits(own_rates, rates)
        and [one.keys() for one in own_rates] == [one.keys() for one in rates],
    }


def _takes(optimizer: Optimizer, saved: object) -> bool:
    """Whether ``saved`` holds states that fit, of the same parameters in the same groups."""
    own = _after_a_step(optimizer).state_dict()
    groups = [{"params": group["params"]} for group in own["param_groups"]]
    if not isinstance(saved, dict) or not fits({"state": {}, "param_groups": groups}, saved):
        return False
    if groups != [{"params": group["params"]} for group in saved["param_groups"][: len(groups)]]:
        return False
    for index, state in saved["state"].items():
        if not isinstance(state, dict):
            return False
        # Without a momentum, say, that the saved run did without.
        kept = {k: value for k, value in own["state"].get(index, {}).items() if state.get(k, value) is not None}
        if not fits(kept, state):
            return False
    return True


def _after_a_step(optimizer: Optimizer) -> Optimizer:
    """A copy, with what it keeps of each parameter once it has begun."""
    optimizer = copy.deepcopy(optimizer)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step(lambda: 0.0)
    return optimizer


def fits(own: object, saved: object) -> bool:
    """Whether ``saved`` has every key of ``own``, and there the same kind of thing in the same shape.

    A list of ``own`` says how ``saved`` begins.
    """
    if isinstance(own, dict):
        return isinstance(saved, dict) and all(key in saved and fits(own[key], saved[key]) for key in own)
    if isinstance(own, list):
        return isinstance(saved, list) and len(saved) >= len(own) and all(map(fits, own, saved))
    if isinstance(own, Tensor):
        return isinstance(saved, Tensor) and saved.shape == own.shape
    if isinstance(own, (bool, int, float)):
        return isinstance(saved, (bool, int, float))
    return own is None or isinstance(saved, type(own))


def _counts(own: Tree, saved: object) -> bool:
    """Whether it holds counts where this run does; other versions of Lightning have more or fewer of them."""
    if not isinstance(saved, dict):
        return False
    for name in own.keys() & saved.keys():
        part = own[name]
        if not (_counts(part, saved[name]) if isinstance(part, dict) else fits(part, saved[name])):
            return False
    return True
