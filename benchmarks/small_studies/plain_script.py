"""The script that people write: Optuna's TPE, trials over the budget pruned, a DataLoader and a plain training loop.

`benchmarks.end_to_end` runs it as the opponent of ``budgetnas search``. It takes nothing from the package.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import optuna
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def make_network(blocks: list[int], widths: list[int], classes: int) -> nn.Module:
    """Return a ResNet with a stem as wide as its first stage."""
    layers = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    channels = widths[0]
    for stage, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
        for index in range(depth):
            layers.append(Block(channels, width, 2 if stage > 0 and index == 0 else 1))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def main(path: str, settings: dict[str, Any]) -> None:
    """Search for `seconds`, then print the best trial as JSON."""
    data: dict[str, NDArray[Any]] = dict(np.load(path))
    mean, std = (data["train"] / 255).mean((0, 1, 2)), (data["train"] / 255).std((0, 1, 2))
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    crop = transforms.RandomCrop(data["train"].shape[1], padding=data["train"].shape[1] // 8)
    augment = transforms.Compose([crop, transforms.RandomHorizontalFlip(), to_tensor])
    train = [(Image.fromarray(image), int(label)) for image, label in zip(data["train"], data["labels"], strict=True)]
    evaluation = torch.stack([to_tensor(Image.fromarray(image)) for image in data["evaluation"]])
    answers = torch.from_numpy(data["answers"])

    def collate(batch: list[tuple[Image.Image, int]]) -> tuple[Tensor, Tensor]:
        return torch.stack([augment(image) for image, _ in batch]), torch.tensor([label for _, label in batch])

    def objective(trial: optuna.Trial) -> float:
        stages = range(1, trial.suggest_int("stages", 3, 4) + 1)
        blocks = [trial.suggest_categorical(f"blocks_{stage}", settings["depths"]) for stage in stages]
        widths = [trial.suggest_categorical(f"width_{stage}", settings["widths"]) for stage in stages]
        network = make_network(blocks, widths, settings["classes"])
        if sum(parameter.numel() for parameter in network.parameters()) > settings["budget"]:
            raise optuna.TrialPruned
        rate = trial.suggest_float("rate", 0.01, 0.5, log=True)
        decay = trial.suggest_categorical("decay", [0.0, 1e-4, 5e-4, 1e-3])
        optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings["epochs"])
        loader: Any = DataLoader(train, batch_size=128, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
        for _ in range(settings["epochs"]):
            network.train()
            for images, labels in loader:
                optimizer.zero_grad()
                functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            found = torch.cat([network(images).argmax(1) for images in torch.split(evaluation, 500)])
        return float((found == answers).float().mean())

    torch.manual_seed(settings["seed"])
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings["seed"]))
    study.optimize(objective, timeout=settings["seconds"])
    states = [trial.state.name for trial in study.trials]
    counts = {state: states.count(state) for state in sorted(set(states))}
    print(json.dumps({"params": study.best_params, "accuracy": study.best_value, "trials": counts}))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
