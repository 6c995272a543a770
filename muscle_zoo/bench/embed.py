"""What embedding pictures costs, next to a loop of timm and torchvision."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch.utils.data import DataLoader

from ..data import DataSet, DataSetInfo
from ..data.images import ImageFiles, begin_worker
from ..engine.backbone import Backbone
from ..engine.embeddings import PLAIN, Pictures, batch_size, embed_pictures, embedding_file
from ..engine.frozen import backbone_of
from ..engine.options import process_state
from ..recipes import Recipe
from .step import resident_bytes
from .timing import median_seconds

PICTURES = 256
QUALITY = 90  # of the JPEGs


def bench_embed(recipe: Recipe, dataset: DataSet, device: torch.device, workers: int = 0) -> dict[str, Any]:
    """Measures the embedding of JPEG files, of the size of the recipe's images, decoding included.

    Args:
        recipe: Its network embeds.
        dataset: Says the size of the images; its pictures are not read.
        device: Where.
        workers: Processes that decode, of both.

    Returns:
        ``pictures_per_s``; ``bare_pictures_per_s``: torchvision's transforms and timm's network in a loop, with as many
        pictures in a batch and as many workers, in turn with ours; ``fraction_of_bare``; ``peak_memory_mb``: of the
        GPU, or of the process.
    """
    process_state(device.type == "cpu")
    backbone = backbone_of(recipe, dataset, device)
    with tempfile.TemporaryDirectory() as folder:
        names = write_pictures(Path(folder), dataset.info)
        ours = embedding_of(Path(folder), names, backbone, dataset.info, workers)
        bare = bare_loop(Path(folder), names, backbone, dataset.info, workers, device)
        seconds = median_seconds({"embed": ours, "bare": bare}, device, seconds=0.0, runs=5)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_bytes()
    return {
        "pictures_per_s": round(PICTURES / seconds["embed"], 1),
        "bare_pictures_per_s": round(PICTURES / seconds["bare"], 1),
        "fraction_of_bare": round(seconds["bare"] / seconds["embed"], 3),
        "peak_memory_mb": round(memory / 2**20, 1),
    }


def write_pictures(folder: Path, info: DataSetInfo) -> tuple[str, ...]:
    """Writes JPEGs of noise of the images' size; their names."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = info.input_size
    names = tuple(f"{i}.jpg" for i in range(PICTURES))
    for name in names:
        values = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8, generator=generator)
        picture = Image.fromarray(values.numpy().squeeze() if channels == 1 else values.numpy())
        picture.save(folder / name, quality=QUALITY)
    return names


def embedding_of(
    folder: Path, names: tuple[str, ...], backbone: Backbone, info: DataSetInfo, workers: int
) -> Callable[[], None]:
    """Embeds all pictures, into a cache that does not have them."""
    images = ImageFiles(folder, names, torch.zeros(len(names), dtype=torch.int64), info.input_size, workers)
    number = count()

    def whole() -> None:
        pictures = Pictures(images, info, f"bench {next(number)} {folder}")
        embed_pictures(backbone, pictures)
        embedding_file(backbone, pictures, PLAIN).path.unlink()

    return whole


def bare_loop(
    folder: Path, names: tuple[str, ...], backbone: Backbone, info: DataSetInfo, workers: int, device: torch.device
) -> Callable[[], None]:
    """What anybody would write: torchvision's transforms, a loader, and the network's pre-logits features."""
    from torchvision import transforms  # slow to import

    channels, height, width = info.input_size
    transform = transforms.Compose(
        [
            transforms.Resize((height, width)),
            transforms.ToTensor(),
            transforms.Normalize(info.mean, info.std),
        ]
    )

    class Files(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(names)

        def __getitem__(self, place: int) -> torch.Tensor:
            with Image.open(folder / names[place]) as picture:
                return cast(torch.Tensor, transform(picture.convert("L" if channels == 1 else "RGB")))

    network = cast(Any, backbone.network)
    loader = DataLoader(Files(), batch_size(info, device), num_workers=workers, worker_init_fn=begin_worker)

    @torch.inference_mode()
    def bare() -> None:
        parts = []
        for images in loader:
            images = images.to(device).contiguous(memory_format=torch.channels_last)
            parts.append(network.forward_head(network.forward_features(images), pre_logits=True).cpu())
        torch.cat(parts)

    return bare
