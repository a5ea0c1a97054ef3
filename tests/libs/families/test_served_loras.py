"""LoRAs of networks that run elsewhere, with the elsewhere in this process: the bits, what is kept, what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from libs.errors import FailedPrecondition
from libs.errors.carried import MORE_WANTED
from libs.families import load_denoise, load_remote_transformers
from libs.families.diorama.components import load_transformer
from libs.families.lora_inputs import FILE, LoraName, NamedLora, file_inputs, name_inputs
from libs.families.networks import NETWORKS, network_named, zeros
from libs.families.remote import RemoteTransformer
from libs.families.served import ServedNetwork
from libs.families.table import FAMILIES
from tests.libs.families.test_lora import LAYERS, conditioning_of, family_of, folder_of, latents, loaded
from tests.libs.families.test_remote_families import MANY_TIMESTEPS
from tests.support.loras import factors, fuse_by_hand, lora_file

pytestmark = pytest.mark.usefixtures("one_thread")


class Elsewhere:
    """Transformers in this process, which are told a LoRA's file when they ask for it, as those on Triton are."""

    def __init__(self, folder: Path, family: str) -> None:
        self._networks = {name: ServedNetwork(folder, family, name) for name in FAMILIES[family].transformers}

    def __call__(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],
        _outputs: object,
        more: Callable[[], Mapping[str, NDArray[Any]]] | None = None,
        /,
    ) -> dict[str, NDArray[Any]]:
        network = self._networks[name.partition("_")[2]]
        try:
            made = network(tensors(inputs))
        except FailedPrecondition as error:
            if error.reason != MORE_WANTED or more is None:
                raise
            made = network(tensors({**inputs, **more()}))
        return {key: tensor.numpy() for key, tensor in made.items()}


def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {key: torch.tensor(array) for key, array in arrays.items()}


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("name", LAYERS)
def test_latents_are_those_of_one_process_and_each_network_is_told_once(models: Path, name: str) -> None:
    folder, family = folder_of(models, name), family_of(name)
    given, here = conditioning_of(folder, name), load_denoise(folder, family)
    transformers = loaded(folder, name)
    data = lora_file({part: factors(module, *LAYERS[name]) for part, module in transformers.items()})
    remote = load_denoise(folder, family, load_remote_transformers(folder, family, Elsewhere(folder, family)))
    read: list[int] = []

    def told() -> bytes:
        read.append(1)
        return data

    named = remote.naming_lora(hashlib.sha256(data).hexdigest(), 0.5, len(data), told)
    atol = 1e-5 if family in MANY_TIMESTEPS else 0
    expected = latents(here.with_lora(data, 0.5), given, name)
    plain = latents(here, given, name)
    for denoise, right in ((named, expected), (remote, plain), (named, expected)):
        np.testing.assert_allclose(latents(denoise, given, name), right, rtol=0, atol=atol)
    assert np.abs(expected - plain).max() > 1e-3
    assert len(read) == len(transformers)


@pytest.mark.parametrize("family", NETWORKS)
def test_the_networks_that_take_a_lora_are_the_transformers(family: str) -> None:
    taking = {name for name, network in NETWORKS[family].items() if network.lora is not None}
    assert taking == set(FAMILIES[family].transformers)


class Calls:
    """To Diorama's transformer, on inputs that differ from call to call."""

    def __init__(self, model_dir: Path) -> None:
        self._network = network_named("diorama", "transformer")
        self._config = load_transformer(model_dir).config
        self._layer = LAYERS["diorama"]
        self.model_dir = model_dir

    def factors(self, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        return factors(load_transformer(self.model_dir), *self._layer, seed=seed)

    def lora(self, seed: int, scale: float = 1.0, **changes: Any) -> NamedLora:
        data = lora_file({"transformer": self.factors(seed)})
        fields = {"sha256": hashlib.sha256(data).hexdigest(), "scale": scale, "size_bytes": len(data)}
        return NamedLora(LoraName(**{**fields, **changes}), lambda: data)

    def plain(self, seed: int, rows: int = 2) -> dict[str, Tensor]:
        sizes = {**self._network.sizes(32, 32, 5), "tokens": 3}
        given = zeros(self._network, self._config, sizes, rows)
        generator = torch.Generator().manual_seed(seed)
        return given | {
            name: torch.randn(given[name].shape, generator=generator)
            for name in ("hidden_states", "encoder_hidden_states")
        }

    def named(self, seed: int, lora: NamedLora, *, file: bool = True, rows: int = 2) -> dict[str, Tensor]:
        further = name_inputs(lora, rows) | (file_inputs(lora, rows) if file else {})
        return self.plain(seed, rows) | tensors(further)

    def by_hand(self, lora_seed: int, scale: float, inputs: Mapping[str, Tensor]) -> Tensor:
        module = fuse_by_hand(load_transformer(self.model_dir), self.factors(lora_seed), scale)
        with torch.inference_mode():
            (output,) = self._network.forward(module, inputs)
        return output


@pytest.fixture(scope="module")
def calls(model_dir: Path) -> Calls:
    return Calls(model_dir)


def served(model_dir: Path, **options: Any) -> ServedNetwork:
    return ServedNetwork(model_dir, "diorama", "transformer", **options)


def sample(answer: object) -> Tensor:
    assert isinstance(answer, dict), answer
    tensor: Tensor = answer["sample"]
    return tensor


@pytest.mark.parametrize("merge", [True, False])
def test_calls_that_come_together_are_computed_each_with_its_own_lora(
    model_dir: Path, calls: Calls, merge: bool
) -> None:
    """Merged, three rows of one LoRA and two calls without one are a batch each, whose last bits may differ."""
    network, one, other = served(model_dir), calls.lora(1), calls.lora(2)
    given = [
        calls.named(0, one, rows=3),
        calls.plain(1),
        calls.named(2, other),
        calls.named(3, one, file=merge is False),
        calls.plain(4),
        calls.named(5, calls.lora(1, 0.5), rows=1),
        calls.named(6, calls.lora(3), file=False),
    ]
    batches: list[int] = []
    network.module.register_forward_pre_hook(lambda _, __: batches.append(1))
    *answers, unknown = network.answers(given, merge=merge)
    expected = [
        calls.by_hand(seed, scale, inputs)
        for (seed, scale), inputs in zip([(1, 1), (0, 0), (2, 1), (1, 1), (0, 0), (1, 0.5)], given, strict=False)
    ]
    for answer, right in zip(answers, expected, strict=True):
        torch.testing.assert_close(sample(answer), right, rtol=0, atol=1e-5 if merge else 0)
    assert isinstance(unknown, FailedPrecondition)
    assert unknown.reason == MORE_WANTED
    assert len(batches) == (4 if merge else 6), "hooks go along with the twins"


def test_no_more_are_kept_than_may_be_and_the_last_used_ones_stay(model_dir: Path, calls: Calls) -> None:
    network = served(model_dir, loras_kept=2)
    one, two, three = (calls.lora(seed) for seed in (1, 2, 3))

    def known(lora: NamedLora) -> bool:
        (answer,) = network.answers([calls.named(0, lora, file=False)], merge=False)
        assert isinstance(answer, dict) or answer.reason == MORE_WANTED
        return isinstance(answer, dict)

    for lora in (one, two):
        network(calls.named(0, lora))
    assert known(one)
    network(calls.named(0, three))
    assert [known(lora) for lora in (one, two, three)] == [True, False, True]
    assert not known(calls.lora(1, 0.5)), "another scale has other weights"


SMALL = {"proj_in": (torch.ones(2, 3), torch.ones(3, 2))}
ELSE = lora_file({"transformer": SMALL})
WRONG = {
    "altered": (b"x" * 100, {"sha256": "0" * 64}, "ARTIFACT_ALTERED"),
    "cut": (ELSE, {"size_bytes": len(ELSE) - 1}, "ARTIFACT_ALTERED"),
    "pickle": (b"\x80\x04N.", {}, "LORA_UNUSABLE"),
    "empty": (b"", {}, "LORA_UNUSABLE"),
    "another model's": (ELSE, {}, "LORA_UNFITTING"),
    "of a text encoder": (lora_file({"text_encoder": SMALL}), {}, "LORA_UNFITTING"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_lora_of_the_network_is_refused_for_its_own_call_alone(
    model_dir: Path, calls: Calls, case: str
) -> None:
    data, changes, reason = WRONG[case]
    fields = {"sha256": hashlib.sha256(data).hexdigest(), "scale": 1.0, "size_bytes": len(data)}
    wrong = NamedLora(LoraName(**{**fields, **changes}), lambda: data)
    network, beside = served(model_dir), calls.plain(1)
    for _ in range(2):
        refused, answer = network.answers([calls.named(0, wrong), beside], merge=True)
        assert isinstance(refused, FailedPrecondition)
        assert refused.reason == reason
        torch.testing.assert_close(sample(answer), network(beside)["sample"], rtol=0, atol=0)


def test_a_lora_of_the_other_expert_alone_changes_nothing_here(model_dir: Path, calls: Calls) -> None:
    data = lora_file({"transformer_2": calls.factors(1)})
    lora = NamedLora(LoraName(hashlib.sha256(data).hexdigest(), 1.0, len(data)), lambda: data)
    network, inputs = served(model_dir), calls.named(0, lora)
    torch.testing.assert_close(network(inputs)["sample"], network(calls.plain(0))["sample"], rtol=0, atol=0)
    assert isinstance(network.answers([{k: v for k, v in inputs.items() if k != FILE}], merge=False)[0], dict)


def test_a_network_that_has_no_such_input_says_what_to_do(model_dir: Path, calls: Calls) -> None:
    def infer(*_: object) -> dict[str, NDArray[Any]]:
        raise FailedPrecondition("Triton knows no such input", reason="TRITON_INPUT_UNKNOWN")

    plain = RemoteTransformer(model_dir, "diorama", "transformer", infer)
    with pytest.raises(FailedPrecondition, match="--backend python") as raised:
        plain.with_lora(calls.lora(1)).remote.probe(32, 32, 3)
    assert raised.value.reason == "LORA_ON_TRITON"
    with pytest.raises(FailedPrecondition, match="no such input"):
        plain.remote.probe(32, 32, 3)
