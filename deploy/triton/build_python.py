"""Model repositories for Triton's `python` backend, which runs the networks with torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.triton.config import Instances, add_lora_inputs, model_config, to_text
from deploy.triton.repository import emptied, read_card, read_config
from libs.catalog import ModelCard
from libs.families.networks import NETWORKS, Network, network_named

__all__ = ["PythonOptions", "build_python"]

MODEL_FILE = Path(__file__).with_name("python_model.py")
SOURCE = Path(__file__).resolve().parent.parent.parent
ONE_ON_CPU = Instances()
PROBE = (64, 64, 1)
"""Far below what models declare, so that a look at readiness costs next to nothing."""


@dataclass(frozen=True)
class PythonOptions:
    """How a network is run."""

    instances: Instances = ONE_ON_CPU
    threads: int = 0
    """CPU threads of torch in each instance; 0: every core. The last bits may depend on it."""
    dtype: str = "float32"
    merge: bool = False
    """Requests that wait together run as one batch. Their last bits may then depend on each other's company."""
    compile: bool = False
    """By `torch.compile`."""
    loras_kept: int = 2
    """Twins with a LoRA in memory at most, in each instance. Each may need nearly as much as the network."""
    source: Path = SOURCE
    """Where the server finds this code."""


DEFAULTS = PythonOptions()


def build_python(
    model_dir: Path, repository: Path, options: PythonOptions = DEFAULTS, networks: Sequence[str] = ()
) -> list[Path]:
    """One folder a network of the model's family, or of ``networks``; those of the same name are replaced."""
    card = read_card(model_dir)
    names = networks or tuple(NETWORKS[card.family])
    return [_build(card, name, network_named(card.family, name), repository, options) for name in names]


def _build(card: ModelCard, name: str, network: Network, repository: Path, options: PythonOptions) -> Path:
    parameters = {
        "source": str(options.source.resolve()),
        "model_dir": str(card.path),
        "family": card.family,
        "network": name,
        "threads": str(options.threads),
        "dtype": options.dtype,
        "merge": "true" if options.merge else "false",
        "compile": "true" if options.compile else "false",
        "loras_kept": str(options.loras_kept),
    }
    config = read_config(card, network)
    written = model_config(card, name, network, config, instances=options.instances, probe=PROBE, parameters=parameters)
    written.backend = "python"
    if network.lora is not None:
        add_lora_inputs(written)
    folder = emptied(repository / written.name)
    (folder / "config.pbtxt").write_text(to_text(written), encoding="utf-8")
    shutil.copy(MODEL_FILE, folder / "1" / "model.py")
    return folder
