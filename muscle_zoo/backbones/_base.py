"""Timm's surface for our backbones: a chain of stages, a norm, a head.

Modules with a ``forward`` do not import ``annotations`` from ``__future__``: a traced copy (torch.fx) keeps the
annotation as it is found, and as a string, ``"Tensor"``, it is no name that TorchScript knows.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import create_classifier
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Backbone(nn.Module):
    """Timm's surface for an image classifier whose stages run one after the other.

    The stages are direct children in the order in which they run, each ends in one feature level, and a stage that
    is an ``nn.Sequential`` is one of blocks. After them come ``norm`` (may be nothing), pooling and the linear layer.

    Attributes:
        num_classes: Size of the logits; 0 means no classifier.
        in_chans: Channels of the input.
        num_features: Channels of ``forward_features``.
        head_hidden_size: Width after pooling, what ``forward_head(pre_logits=True)`` returns.
        feature_info: Per level its channels, its stride with respect to the input, in pixels, and its module's name.
    """

    def __init__(
        self,
        stages: Sequence[tuple[str, nn.Module, int, int]],
        norm: nn.Module | None = None,
        *,
        num_classes: int,
        in_chans: int,
        global_pool: str,
        drop_rate: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Puts stages, norm and head together and draws the weights.

        Args:
            stages: Name, module, channels and total stride of each stage.
            norm: What follows the last stage inside ``forward_features``.
            num_classes: Size of the logits; 0 leaves the classifier out.
            in_chans: Channels of the input.
            global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or ``""`` for none (then without a classifier).
            drop_rate: Dropout before the linear layer.
            device: Where the head's weights are made.
            dtype: The type of the head's weights.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []
        for name, module, channels, reduction in stages:
            self.add_module(name, module)
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": name})
        self.num_features: int = self.feature_info[-1]["num_chs"]
        self.norm = nn.Identity() if norm is None else norm
        self._create_head(global_pool, device, dtype)
        self.init_weights()

    def _create_head(self, global_pool: str, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        self.global_pool, self.fc = create_classifier(
            self.num_features, self.num_classes, pool_type=global_pool, device=device, dtype=dtype
        )
        self.head_hidden_size: int = self.num_features * self.global_pool.feat_mult()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Draws all weights: convolutions normal by fan-out, norms one and zero, linear layers Xavier normal."""
        self.apply(_init_weights)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping what is inside it.

        Outputs and gradients stay the same. As in all of timm, BatchNorm's running statistics see each batch twice.

        Args:
            enable: Whether to recompute.
        """
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Returns the linear layer, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the linear layer by a fresh one, drawn as in a new model.

        Args:
            num_classes: Size of the logits; 0 removes the classifier.
            global_pool: The new pooling; None keeps the present one.
        """
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        like = next(self.parameters())
        self.num_classes = num_classes
        self._create_head(pool_type, like.device, like.dtype)
        self.fc.apply(_init_weights)
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles: the modules in their order, with the same names of the weights.

        It knows no loop over modules by name, which all else here is written as.
        """
        stages = {info["module"]: getattr(self, info["module"]) for info in self.feature_info}
        dropout = nn.Dropout(float(self.drop_rate))
        parts = {**stages, "norm": self.norm, "global_pool": self.global_pool, "drop": dropout, "fc": self.fc}
        return nn.Sequential(OrderedDict(parts)).train(self.training)

    def _level_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        """Which feature levels are meant, counted from the input, as everywhere in timm: the last n, or those named."""
        levels = range(len(self.feature_info))
        if isinstance(indices, int):
            assert 0 < indices <= len(levels), f"last-n ({indices}) is out of range (1 to {len(levels)})"
            return list(levels[-indices:])
        return [levels[i] for i in (levels if indices is None else indices)]

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        if not self.grad_checkpointing:
            return stage(x)
        for block in stage if isinstance(stage, nn.Sequential) else (stage,):
            # Pooling and dropout keep little. Not re-entrant: the image, the first block's input, needs no gradient.
            has_weights = next(block.parameters(), None) is not None
            x = checkpoint(block, x, use_reentrant=False) if has_weights else block(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Runs the network up to its head and returns feature levels on the way.

        Args:
            x: Images, (N, C, H, W).
            indices: The levels: the last n if an int, all if None.
            norm: Apply the final norm to the last level, the only one that it is made for.
            stop_early: Run no stage after the last level asked for.
            output_fmt: ``NCHW``, nothing else.
            intermediates_only: Return the levels alone.

        Returns:
            The levels, each (N, C, H, W); before them, unless ``intermediates_only``, what ``forward_features`` would
            return, or the last level reached if ``stop_early`` stopped before the end.
        """
        assert output_fmt == "NCHW", "Output shape must be NCHW."
        take = self._level_indices(indices)
        last = max(take)
        run = self.feature_info[: last + 1] if stop_early else self.feature_info
        levels = []
        for i, info in enumerate(run):
            x = self._run_stage(getattr(self, info["module"]), x)
            if i in take:
                levels.append(self.norm(x) if norm and i == len(self.feature_info) - 1 else x)
        if intermediates_only:
            return levels
        return (self.norm(x) if len(run) == len(self.feature_info) else x), levels

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the given feature levels do not need.

        Args:
            indices: The levels to keep: the last n if an int.
            prune_norm: Remove the final norm also if the last level stays.
            prune_head: Remove pooling and classifier also if the last level stays.

        Returns:
            The kept levels, counted from the input.
        """
        take = self._level_indices(indices)
        last = max(take)
        ends_early = last < len(self.feature_info) - 1
        for info in self.feature_info[last + 1 :]:
            setattr(self, info["module"], nn.Sequential())
        if prune_norm or ends_early:
            self.norm = nn.Identity()
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or ends_early:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to the last feature maps (N, num_features, h, w), normed and activated."""
        for info in self.feature_info:
            x = self._run_stage(getattr(self, info["module"]), x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps what ``forward_features`` returns to logits (N, num_classes).

        Args:
            x: Feature maps, (N, num_features, h, w).
            pre_logits: Stop before the linear layer.

        Returns:
            Logits, or pooled features (N, head_hidden_size).
        """
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # std = sqrt(2 / (k * k * out))
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        module.reset_running_stats()  # of a model that was made on the meta device they are whatever lay there
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
