"""A phase's part of an iteration: the gradients of its loss, then a step of its optimiser.

On a CUDA device both may be captured in graphs: they read no value on the host, and all that differs from step to step
comes in tensors: the numbers of the samples (which are all that fresh random numbers need), what was observed, and the
learning rate.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rsd_fast.config import Training
from rsd_fast.corruptions import BatchOperator, Draw, DrawnOperator, refuse_opaque
from rsd_fast.cuda_graphs import Graphed
from rsd_fast.methods.base import Batch, Method, Phase

for _kind in (Batch, BatchOperator, Draw, DrawnOperator):
    torch.export.register_dataclass(_kind)  # so that the tensors in one can be told from the rest


class PhaseStep:
    """The optimiser of one phase and the gradients it steps by.

    graph_options: keyword arguments of `Graphed`, for a step in CUDA graphs. With None kernels are launched one by one.
    """

    def __init__(
        self,
        method: Method,
        phase: Phase,
        training: Training,
        device: torch.device,
        graph_options: dict[str, Any] | None = None,
    ) -> None:
        self.method, self.phase, self.training = method, phase, training
        self.graph_options = graph_options
        self.parameters = list(phase.network.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=phase.lr if graph_options is None else torch.tensor(phase.lr, device=device),
            betas=(phase.beta1, training.beta2),
            eps=training.adam_eps,
            fused=device.type in ("cpu", "cuda"),
            capturable=graph_options is not None and device.type == "cuda",
        )
        self.graphs: tuple[Graphed, Graphed] | None = None
        self.eager_calls = 0

    def gradients(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Leave the gradients of the batch's mean loss in the parameters, a micro-batch at a time.

        Returns the loss and the statistics of each image, [n], by name.
        """
        if self.graph_options is None or self.eager_calls < 2:
            return self._gradients(batches)
        leaves, tree = pytree.tree_flatten(batches)
        refuse_opaque(leaves)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if self.graphs is None:
            self.graphs = self.capture(leaves, tree)
        return self.graphs[0](*tensors)

    def capture(self, leaves: list[Any], tree: pytree.TreeSpec) -> tuple[Graphed, Graphed]:
        def gradients(*tensors: Tensor) -> dict[str, Tensor]:
            replacements = iter(tensors)
            replaced = [next(replacements) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return self._gradients(pytree.tree_unflatten(replaced, tree))

        assert self.graph_options is not None
        return Graphed(gradients, **self.graph_options), Graphed(self._update, **self.graph_options)

    def _gradients(self, batches: list[Batch]) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        parts: dict[str, list[Tensor]] = {}
        for batch in batches:
            loss, statistics = self.method.loss(self.phase, batch)
            (loss.sum() * (self.phase.loss_scale / self.training.batch)).backward()
            for name, values in {"loss": loss, **statistics}.items():
                parts.setdefault(name, []).append(values.detach().flatten())
        return {name: torch.cat(values) for name, values in parts.items()}

    def update(self, lr_factor: float) -> Tensor:
        """Step by those gradients. Returns their norm []."""
        for group in self.optimizer.param_groups:
            lr = self.phase.lr * lr_factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.eager_calls += self.graphs is None
        if self.graphs is not None:
            return self.graphs[1]()
        norm = self._update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _update(self) -> Tensor:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.training.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.training.clip, norm)
        self.optimizer.step()
        return norm
