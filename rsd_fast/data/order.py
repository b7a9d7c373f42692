"""The order of training images: each epoch another permutation, a pure function of (seed, position)."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from rsd_fast.corruptions import Observation

from . import storage
from .augment import augment
from .dataset import ObservedDataset, Rows

T = TypeVar("T")


class ShuffledObservations:
    """Callable for the engine: what is at some positions of an endless sequence of shuffled epochs.

    Position p is image permutation(p // N)[p % N], moved by some of the symmetries (`augment`); nothing is kept that
    a resumed run would lack.

    device:   where observations are made, of rows that the host reads; a GPU is never waited for
    prefetch: read ahead in another thread; None: where that takes time that can be saved, which copying from memory to
              a CPU's own memory does not
    """

    def __init__(
        self,
        dataset: ObservedDataset,
        *,
        seed: int,
        symmetries: tuple[str, ...] = (),
        channels_last: bool = True,
        device: torch.device | str = "cpu",
        prefetch: bool | None = None,
    ):
        self.dataset, self.seed, self.symmetries = dataset, seed, symmetries
        self.channels_last = channels_last
        self.device = torch.device(device)
        self.pinned = self.device.type == "cuda"
        slow = self.pinned or any(storage.is_mapped(table) for table in dataset.tables.values())
        self.prefetch = slow if prefetch is None else prefetch
        self.ahead: tuple[np.ndarray, _InBackground[Rows]] | None = None  # positions, their rows
        self.permutations: dict[int, Tensor] = {}  # for the epochs in use: a batch may straddle two
        self.next_permutation: tuple[int, _InBackground[Tensor]] | None = None

    def __call__(self, positions: range, then: range | None = None) -> tuple[Observation, Tensor]:
        """(observation and labels [B] int64), where `positions` are, on the device; `then` are likely to come next."""
        place = np.asarray(positions)
        rows = self._read(place)
        if self.prefetch and then is not None:
            following = np.asarray(then)
            self.ahead = following, _InBackground(self._reading(following))
        observation, labels = self.dataset.observe_rows(rows, self.device, channels_last=self.channels_last)
        if self.symmetries:
            sample = torch.from_numpy(place)
            sample = (sample.pin_memory() if self.pinned else sample).to(self.device, non_blocking=True)
            observation = augment(observation, self.symmetries, seed=self.seed, sample=sample)
        return observation, labels

    def permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(len(self.dataset), generator=generator)

    def _read(self, place: np.ndarray) -> Rows:
        ahead, self.ahead = self.ahead, None
        if ahead is not None and np.array_equal(ahead[0], place):
            return ahead[1].result()
        return self._reading(place)()

    def _reading(self, place: np.ndarray) -> Callable[[], Rows]:
        # Memory is pinned in this thread: another must not call CUDA while this one captures a graph.
        rows, indices = self.dataset.room(len(place), pinned=self.pinned), self._indices(place)

        def read() -> Rows:
            self.dataset.read(indices, rows)
            return rows

        return read

    def _indices(self, place: np.ndarray) -> np.ndarray:
        epochs, offsets = np.divmod(place, len(self.dataset))
        used_epochs = np.unique(epochs).tolist()
        self.permutations = {epoch: self._permutation(epoch) for epoch in used_epochs}
        if self.prefetch and (self.next_permutation is None or self.next_permutation[0] <= used_epochs[-1]):
            self.next_permutation = used_epochs[-1] + 1, _InBackground(partial(self.permutation, used_epochs[-1] + 1))
        indices = np.empty_like(place)
        for epoch in used_epochs:
            here = epochs == epoch
            indices[here] = self.permutations[epoch].numpy()[offsets[here]]
        return indices

    def _permutation(self, epoch: int) -> Tensor:
        if epoch in self.permutations:
            return self.permutations[epoch]
        if self.next_permutation is not None and self.next_permutation[0] == epoch:
            return self.next_permutation[1].result()
        return self.permutation(epoch)


class _InBackground(Generic[T]):
    """function() in a thread that ends with it: for 50 us, there is none left that somebody would have to end."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,))
        self._thread.start()

    def _run(self, function: Callable[[], T]) -> None:
        try:
            self._value = function()
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What it returned; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value
