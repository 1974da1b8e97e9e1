"""The training loop: steps, epochs, tests, checkpoints, and stopping well.

A run that is killed at any moment and resumed ends with the same weights, bit for bit, as one that was not: a
checkpoint holds the model, the optimiser, the scale of a float16 loss, the schedule, the moving average, the loader's
place in the epoch, the random state, and the running sums of the metrics.  (On a CPU, with the same number of threads.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import minidl
from minidl.amp import GradScaler
from minidl.backend import get_backend
from minidl.cuda.memory import likely_batch
from minidl.errors import CheckpointError, ConfigError, NumericsError, OutOfMemoryError
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.nn.utils import clip_grad_norm_
from minidl.tensor import Tensor
from minidl.train import numerics
from minidl.train.config import PRECISIONS, check_choice
from minidl.train.evaluate import Evaluation, evaluate
from minidl.train.metrics import Accuracy, Average
from minidl.train.progress import Quiet
from minidl.train.record import BEST, MODEL, RunFolder
from minidl.train.views import Views
from minidl.train.weights import ModelCard, save_model

SMALLEST_SCALE = 2.0**-10  # of a float16 loss; gradients that overflow even so are infinite for another reason
LOG_EVERY = 10  # steps between two records of the training loss


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How :meth:`Trainer.fit` ended: ``signal`` is the number of the one that stopped it, None if it finished.

    ``averaged_test`` is over the views of each test image, ``train_test`` on the training images, where they were asked for.
    """

    step: int
    epoch: int
    signal: int | None
    test: Evaluation | None
    seconds: float
    checkpoint: Path | None = None
    averaged_test: Evaluation | None = None
    train_test: Evaluation | None = None


class Trainer:
    """Train ``model`` on ``train_loader``.

    Args:
        model: images (n, C, H, W) -> scores (n, classes).
        optimizer: over the model's parameters.
        train_loader: a :class:`minidl.data.DataLoader`: batches of (float32 images, int64 labels) as NumPy arrays.
        test_loader: likewise, for the test after an epoch; None: no tests.
        loss: scores, labels -> scalar Tensor.
        epochs: passes over the training images.
        max_steps: stop after so many updates, if that comes first.
        schedule: a learning-rate schedule, stepped after every update; ``plateau``: one that is stepped with the test
            loss after every test.
        lookahead: a :class:`minidl.optim.Lookahead` of the model, updated after every update of the weights.
        ema: a :class:`minidl.optim.EMA` of the model; its weights are then the ones tested and saved.
        clip_norm: largest norm of the whole gradient.
        precision: "float32"; or "bfloat16" or "float16", in which the products of an update are then computed
            (:class:`minidl.autocast`), the latter with a scaled loss.  Weights stay float32, and tests are in float32.
        val_every: test after every so many epochs, and after the last.
        tta_loader: batches of (images (n, views, C, H, W), labels) for one more test at the end, in which the probabilities of
            the views ``tta`` of each image are averaged.
        train_error_loader: the training images without augmentation, for a test on them at the end.
        folder: the :class:`RunFolder` for the record and the checkpoints; None: nothing is written.
        card: what the saved weights say about their model.
        checkpoint_seconds, checkpoint_steps: how often the state is saved within an epoch.
        reporter: what is printed; see :mod:`minidl.train.progress`.
        device: where the model's parameters are.  Batches are copied to a GPU, and augmented there, while the one before is used.

    Raises:
        ConfigError: a number of epochs, steps or seconds that makes no sense.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Any,
        train_loader: Any,
        test_loader: Any = None,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        epochs: int = 1,
        max_steps: int | None = None,
        schedule: Any = None,
        plateau: Any = None,
        lookahead: Any = None,
        ema: Any = None,
        clip_norm: float | None = None,
        precision: str = "float32",
        val_every: int = 1,
        tta: Views | str | int = "none",
        tta_loader: Any = None,
        train_error_loader: Any = None,
        folder: RunFolder | None = None,
        card: ModelCard | None = None,
        checkpoint_seconds: float = 60.0,
        checkpoint_steps: int | None = None,
        reporter: Quiet | None = None,
        device: str = "cpu",
    ) -> None:
        counts = {"epochs": epochs, "max_steps": max_steps, "val_every": val_every, "checkpoint_steps": checkpoint_steps}
        for name, count in counts.items():
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ConfigError(f"Trainer: {name} must be a whole number of at least 1, got {count!r}")
        for name, amount in {"clip_norm": clip_norm, "checkpoint_seconds": checkpoint_seconds}.items():
            if amount is not None and not amount > 0:
                raise ConfigError(f"Trainer: {name} must be above 0, got {amount!r}")
        check_choice("Trainer: precision", precision, PRECISIONS)
        self.precision = precision
        self.scaler = GradScaler() if precision == "float16" else None
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.train_loader, self.test_loader = train_loader, test_loader
        self.epochs, self.max_steps, self.val_every = epochs, max_steps, val_every
        self.schedule, self.plateau, self.clip_norm = schedule, plateau, clip_norm
        self.lookahead, self.ema = lookahead, ema
        self.tta, self.tta_loader, self.train_error_loader = Views.parse(tta), tta_loader, train_error_loader
        self.folder, self.card, self.device = folder, card, device
        self.checkpoint_seconds, self.checkpoint_steps = checkpoint_seconds, checkpoint_steps
        self.reporter = reporter or Quiet()

        self.step = 0  # updates made
        self.epoch = 0  # epochs finished
        self.trained = False  # this epoch's updates are all made; its test is not
        self.best = -math.inf  # highest test accuracy
        self.running_loss, self.running_accuracy = Average(), Accuracy()
        self.epoch_seconds = 0.0
        self.last_lr = self.lr  # of the last update
        self.test: Evaluation | None = None
        self.averaged_test: Evaluation | None = None  # over the views of each image
        self.train_test: Evaluation | None = None  # on the training images
        self._signal: int | None = None
        self._closed = False  # the tests after the last update are done
        self._saved_at = time.monotonic()

    # ---- the loop

    def fit(self) -> Outcome:
        """Train to the end, or until SIGINT, SIGTERM or SIGHUP, which finish the current step and save a checkpoint.

        Raises:
            NumericsError: the loss or a weight is NaN or infinite; the last good checkpoint is kept.
            CheckpointError: the record cannot be written; what was saved before is kept.
        OutOfMemoryError: the GPU has too little memory; the message says which batch should fit.
        """
        start = time.monotonic()
        saved: Path | None = None
        self._signal = None
        if self.folder is not None and self.folder.log is None:
            self.folder.open_log()
        with self._signals(), self.reporter.running(), warnings.catch_warnings():
            # Overflow in the arithmetic is found by looking at the results; NumPy need not warn of it as well.
            warnings.simplefilter("ignore", RuntimeWarning)
            if not self.finished:
                self.reporter.start_table()
            self._saved_at = time.monotonic()
            while not self.finished and self._signal is None:
                self._one_epoch()
            if self._signal is not None and not self.finished:
                saved = self.save_checkpoint()
            if self.finished:
                self._check_weights()
                if self.folder is not None:
                    with self._averaged():
                        save_model(self.folder.path / MODEL, self.model, self.card)
                self._last_tests()
        stopped = None if self._closed else self._signal
        seconds = time.monotonic() - start
        return Outcome(self.step, self.epoch, stopped, self.test, seconds, saved, self.averaged_test, self.train_test)

    @property
    def finished(self) -> bool:
        """Whether all epochs, or ``max_steps``, are done and tested."""
        return not self.trained and (self.epoch >= self.epochs or self._steps_done)

    @property
    def _steps_done(self) -> bool:
        return self.max_steps is not None and self.step >= self.max_steps

    def _one_epoch(self) -> None:
        with self._memory_advice():
            if not self.trained and not self._train():
                return
        self.trained = True
        test = self._test()
        if test is None and self._signal is not None:
            return
        self._end_epoch(test)

    def _train(self) -> bool:
        """The rest of the epoch's updates; False if a signal came before they were all made."""
        self.model.train()
        total = len(self.train_loader.dataset)
        after = total * (self.epochs - self.epoch - 1)
        if self.max_steps is not None:
            after = min(after, (self.max_steps - self.step) * self.train_loader.batch_size - total)
        self.reporter.expect(max(after, 0))
        self.reporter.start_phase(
            f"{self.epoch + 1}/{self.epochs}", total, self.running_loss.count
        )
        before, begin = self.epoch_seconds, time.monotonic()
        complete = True
        try:
            for images, labels in minidl.cuda.Prefetcher(self.train_loader, self.device):
                self._update(images, labels)
                self.epoch_seconds = before + time.monotonic() - begin
                if self._steps_done:
                    break
                if self._signal is not None:
                    complete = False
                    # Otherwise the loader would begin the epoch anew if fit() were called again.
                    self.train_loader.load_state_dict(self.train_loader.state_dict())
                    break
                if self._checkpoint_is_due():
                    self.save_checkpoint()
        finally:
            self.reporter.end_phase()
        return complete

    @contextlib.contextmanager
    def _memory_advice(self) -> Iterator[None]:
        """Within it, an error for too little memory also says which batch should fit."""
        at_rest = get_backend(self.device).memory_allocated()
        try:
            yield
        except OutOfMemoryError as error:
            batch = self.train_loader.batch_size
            fits = likely_batch(error, batch, at_rest)
            advice = f"a batch of {fits} should (--batch-size {fits})" if fits else "nor would one image: take a smaller net"
            text = f"step {self.step + 1}: a batch of {batch} does not fit, {advice}; {error}"
            raise OutOfMemoryError(text, error.asked, error.used, error.available) from None

    def _update(self, x: Tensor, target: Tensor) -> None:
        random_state = minidl.get_rng_state()
        with self._casting():
            scores = self.model(x)
            loss = self.loss(scores, target)
        value = loss.item()
        if not math.isfinite(value):
            minidl.set_rng_state(random_state)
            self._stop_for_numerics(value, x, target)
        self.optimizer.zero_grad()
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if self.clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.last_lr = self.lr
        if self.scaler is None:
            self.optimizer.step()
        else:
            self._scaled_step(self.scaler)
        if self.schedule is not None:
            self.schedule.step()
        if self.lookahead is not None:
            self.lookahead.update()
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        self.running_loss.update(value, len(target))
        self.running_accuracy.update_scores(scores.detach().float().cpu().numpy(), target.cpu().numpy())
        self.reporter.advance(len(target), self.running_loss.value, self.running_accuracy.value)
        if self.step % LOG_EVERY == 0:
            self._log(kind="step", step=self.step, epoch=self.epoch + 1, loss=value, lr=self.last_lr)

    def _casting(self) -> contextlib.AbstractContextManager[Any]:
        """A block whose products are computed in the run's precision."""
        return contextlib.nullcontext() if self.precision == "float32" else minidl.autocast(self.precision)

    def _scaled_step(self, scaler: GradScaler) -> None:
        """An update from gradients of a scaled loss; none, and a smaller scale, where one overflowed."""
        scaler.step(self.optimizer)
        scaler.update()
        if scaler.get_scale() < SMALLEST_SCALE:
            raise NumericsError(
                f"step {self.step + 1}: a gradient is infinite or NaN at every scale of the loss down to "
                f"{scaler.get_scale():.0e}: lower the learning rate (now {self.lr:.3g}), or train in bfloat16 or float32"
                f"{self._last_good()}"
            )

    @property
    def lr(self) -> float:
        """The learning rate of the next update (of the first parameter group)."""
        return float(self.optimizer.param_groups[0]["lr"])

    # ---- tests

    def _test(self) -> Evaluation | None:
        last = self.epoch + 1 >= self.epochs or self._steps_done
        if self.test_loader is None or not (last or (self.epoch + 1) % self.val_every == 0):
            return None
        self._check_weights()
        return self._evaluate(self.test_loader, "test")

    def _evaluate(self, loader: Any, name: str, views: Views | str = "none") -> Evaluation | None:
        """Test the weights that are saved on the images of ``loader``; None if a signal came."""
        with self._averaged():
            found = evaluate(
                self.model,
                loader,
                num_classes=len(loader.dataset.class_names),
                views=views,
                device=self.device,
                reporter=self.reporter,
                name=name,
                total=len(loader.dataset),
                stop=lambda: self._signal is not None,
            )
        if found is not None and not math.isfinite(found.loss):
            where = f"every weight is finite: check the {name} images"
            raise NumericsError(f"step {self.step}: the {name} loss is {found.loss}; {where}{self._last_good()}")
        return found

    def _last_tests(self) -> None:
        """After everything: the test over several views of each image, and the one on the training images."""
        if self._closed:
            return
        record: dict[str, Any] = {}
        if self.tta_loader is not None and self._signal is None:
            self.averaged_test = found = self._evaluate(self.tta_loader, "test", self.tta)
            if found is not None:
                record |= {"tta": str(self.tta), "tta_loss": found.loss, "tta_accuracy": found.top1, "tta_seconds": found.seconds}
        if self.train_error_loader is not None and self._signal is None:
            self.train_test = found = self._evaluate(self.train_error_loader, "train")
            if found is not None:
                record |= {"train_loss": found.loss, "train_accuracy": found.top1}
        wanted = [loader for loader in (self.tta_loader, self.train_error_loader) if loader is not None]
        self._closed = not wanted or self._signal is None
        if wanted and self._closed:
            self._log(kind="final", epoch=self.epoch, step=self.step, **record)

    def _end_epoch(self, test: Evaluation | None) -> None:
        self.epoch += 1
        self.trained = False
        if test is not None:
            self.test = test
            if self.plateau is not None:
                self.plateau.step(test.loss)
            if test.top1 > self.best:
                self.best = test.top1
                if self.folder is not None:
                    with self._averaged():
                        save_model(self.folder.path / BEST, self.model, self.card)
        speed = self.running_loss.count / max(self.epoch_seconds, 1e-9)
        tested = (test.loss, test.top1) if test else (None, None)
        values = (
            self.running_loss.value,
            self.running_accuracy.value,
            *tested,
            self.last_lr,
            self.epoch_seconds,
            speed,
        )
        self.reporter.epoch((f"{self.epoch}/{self.epochs}", *values))
        names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr", "seconds", "images_per_second")
        # How busy the machine is: a time that was taken beside other work is no measurement.
        load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
        self._log(kind="epoch", epoch=self.epoch, step=self.step, **dict(zip(names, values, strict=True)), load=load)
        self.running_loss, self.running_accuracy, self.epoch_seconds = Average(), Accuracy(), 0.0
        self.train_loader.set_epoch(self.epoch)
        self.save_checkpoint()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within it the model has the weights that are tested and saved: the moving average's, if there is one."""
        with self.ema.average_parameters() if self.ema is not None else contextlib.nullcontext():
            yield

    # ---- the record

    def _log(self, **record: Any) -> None:
        if self.folder is not None and self.folder.log is not None:
            self.folder.log.append(record)

    def _checkpoint_is_due(self) -> bool:
        if self.folder is None:
            return False
        by_steps = self.checkpoint_steps is not None and self.step % self.checkpoint_steps == 0
        return by_steps or time.monotonic() - self._saved_at >= self.checkpoint_seconds

    def save_checkpoint(self) -> Path | None:
        """Save the whole state now; the path, or None without a run folder."""
        if self.folder is None:
            return None
        self._check_weights()
        path = self.folder.save_checkpoint(self.step, self.state_dict())
        self._saved_at = time.monotonic()
        return path

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on: a tree for :mod:`minidl.io.checkpoint`."""
        parts = {name: getattr(self, name) for name in ("optimizer", "scaler", "schedule", "plateau", "lookahead", "ema")}
        return {
            "step": self.step,
            "epoch": self.epoch,
            "trained": self.trained,
            "best": self.best,
            "last_lr": self.last_lr,
            "records": self.folder.log.count if self.folder is not None and self.folder.log is not None else 0,
            "model": _arrays(self.model.state_dict()),
            "parts": {name: _arrays(part.state_dict()) for name, part in parts.items() if part is not None},
            "loader": _arrays(self.train_loader.state_dict()),
            "rng": _arrays(minidl.get_rng_state()),
            "running": [self.running_loss.state_dict(), self.running_accuracy.state_dict(), self.epoch_seconds],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`; a CheckpointError if it is of another kind of run."""
        try:
            self.model.load_state_dict(state["model"])
            for name, part in state["parts"].items():
                if getattr(self, name) is None:
                    raise CheckpointError(f"the checkpoint has a state for {name!r}, this run has none")
                getattr(self, name).load_state_dict(part)
            self.train_loader.load_state_dict(state["loader"])
            minidl.set_rng_state(state["rng"])
            loss, accuracy, seconds = state["running"]
            self.running_loss.load_state_dict(loss)
            self.running_accuracy.load_state_dict(accuracy)
            self.epoch_seconds = float(seconds)
            self.step, self.epoch, self.trained = int(state["step"]), int(state["epoch"]), bool(state["trained"])
            self.best, self.last_lr = float(state["best"]), float(state["last_lr"])
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint does not fit this run: {error!r}") from error

    def resume(self) -> Path | None:
        """Load the newest valid checkpoint of the run folder and cut the record back to it; its path, None if none.

        Raises:
            ConfigError: there is no run folder.
            CheckpointError: the checkpoint is of another kind of run, or the system refuses to read it.
        """
        if self.folder is None:
            raise ConfigError("Trainer.resume needs a run folder; pass folder=RunFolder.open(path)")
        found = self.folder.load_checkpoint()
        for path in self.folder.damaged:
            self.reporter.warn(f"a damaged checkpoint was passed over, and is kept as {path}")
        if found is None:
            self.folder.open_log(keep=0)
            return None
        path, state = found
        try:
            self.load_state_dict(state)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        self.folder.open_log(keep=int(state["records"]))
        return path

    # ---- stopping

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP ask the loop to stop after this step; a second SIGINT stops at once.

        SIGHUP says that the terminal is gone, unless it is ignored, as nohup makes it; it often comes twice.
        """
        hang_up = getattr(signal, "SIGHUP", None)  # None on Windows

        def ask(number: int, frame: FrameType | None) -> None:
            if self._signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            if number == hang_up:
                self.reporter.hang_up()
            self._signal = self._signal or number

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
            numbers.append(hang_up)
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _check_weights(self) -> None:
        bad = numerics.first_bad(self.model.state_dict().items())
        if bad is not None:
            raise NumericsError(
                f"step {self.step}: {bad} has become NaN or infinite; lower the learning rate "
                f"(now {self.lr:.3g}) or clip the gradients{self._last_good()}"
            )

    def _stop_for_numerics(self, value: float, images: Tensor, labels: Tensor) -> None:
        with self._casting():
            reason = numerics.explain(self.model, self.loss, images, labels, self.lr)
        raise NumericsError(f"step {self.step + 1}: the loss is {value}: {reason}{self._last_good()}")

    def _last_good(self) -> str:
        from minidl.io import checkpoint

        kept = checkpoint.find(self.folder.path) if self.folder is not None else []
        return f". The last good checkpoint is {kept[0]}" if kept else ""


def _arrays(tree: Any) -> Any:
    """The same tree with NumPy arrays in place of Tensors."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu").numpy()
    if isinstance(tree, dict):
        return {key: _arrays(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_arrays(value) for value in tree)
    return tree
