"""Each stage of Diorama's training on a few tiny clips that are rendered here: losses fall, work is taken up again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SanaVideoTransformer3DModel

from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.components import load_transformer
from libs.families.diorama.denoising import BOUNDARY
from libs.families.diorama.positions import POSITION_CHANNELS
from training import __main__ as command
from training import autoencoder, batches, camera, reading, render, text, transformer
from training import clips as reader
from training.scenes import FAMILIES, sample_spec
from training.scenes import render as render_scene

SIZE = 64
CHANNELS = transformer.CHANNELS
CLIPS = (1, 2, 20)
"""Indices of the clips rendered; the last one is held out."""


@pytest.fixture(autouse=True)
def seeded(one_thread: None) -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def fitted(one_thread: None) -> AutoencoderDiorama:
    return autoencoder.fit(3, 40, families=("fire", "sea", "clouds"), size=SIZE)


@pytest.fixture(scope="module")
def clips(fitted: AutoencoderDiorama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for index in CLIPS:
        render.render_clip(index, fitted, folder, SIZE)
    return folder


# --- autoencoder -----------------------------------------------------------------------------------------------------


def test_the_fitted_map_keeps_what_it_is_shown(fitted: AutoencoderDiorama) -> None:
    """On a clip of a seed it was not fitted on: most of the variance around the mean picture comes back."""
    spec = sample_spec(np.random.default_rng(77), "sea")
    video = autoencoder.to_tensor(render_scene(spec, 9, size=SIZE).frames)
    latents = fitted.encode(video)
    assert latents.shape == (1, CHANNELS, 3, 4, 4)
    error = (fitted.decode_linear(latents) - video).var()
    assert float(error / video.var()) < 0.2
    gram = fitted.basis @ fitted.basis.T
    torch.testing.assert_close(gram, torch.eye(CHANNELS), atol=1e-4, rtol=0)
    assert (fitted.scale.diff() <= 0).all(), "strongest component first"


def test_fit_and_training_of_the_decoder_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):  # torch's own generator is elsewhere the second time
        fit = autoencoder.fit(2, 20, families=("clouds",), size=SIZE)
        fit.save_pretrained(tmp_path / name / "vae")
        given: dict[str, Any] = {"num_clips": 1, "crop": SIZE, "batch": 2, "size": SIZE}
        folder = tmp_path / name
        losses = autoencoder.train(60.0, most_steps=1, model=folder / "vae", cache=folder, **given)
        found.append((fit.state_dict(), losses))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_the_decoder_learns_and_goes_on(
    fitted: AutoencoderDiorama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "LATENT_NOISE", 0.0)  # each step's noise is of another level, and so is its loss
    model = tmp_path / "vae"
    fitted.save_pretrained(model)
    given: dict[str, Any] = {"num_clips": 1, "crop": SIZE, "batch": 1, "size": SIZE, "model": model, "cache": tmp_path}
    losses = autoencoder.train(60.0, most_steps=24, **given)
    assert len(losses) == 24
    assert losses[-1] < 0.97 * losses[0], "the first is the linear map's alone"
    trained = AutoencoderDiorama.from_pretrained(model, low_cpu_mem_usage=False)
    assert trained.residual.detail_out.weight.abs().max() > 0
    torch.testing.assert_close(trained.basis.float(), fitted.basis, atol=1e-3, rtol=0)
    assert len(autoencoder.train(60.0, most_steps=1, **given)) == 1
    assert torch.load(tmp_path / "decoder.pt", weights_only=True)["step"] == 25


# --- rendering -------------------------------------------------------------------------------------------------------


def test_a_clip_holds_what_training_reads_and_is_rendered_once(clips: Path, fitted: AutoencoderDiorama) -> None:
    path = clips / "00001.npz"
    with np.load(path) as clip:
        assert clip["latents"].shape == clip["still_latents"].shape == (CHANNELS, 16, 4, 4)
        assert clip["frames64"].shape == (61, 64, 64, 3)
        assert clip["frames64"].std() > 5
        assert clip["sound"].shape == (2, 61 * 4000)
        assert json.loads(str(clip["meta"]))["captions"]
        np.testing.assert_allclose(clip["still_latents"][:, 0], clip["latents"][:, 0], atol=0.05)
    before = path.stat().st_mtime_ns
    render.render_clip(1, fitted, clips, SIZE)
    assert path.stat().st_mtime_ns == before
    assert sorted(found.name for found in clips.iterdir()) == ["00001.npz", "00002.npz", "00020.npz"]


# --- camera ----------------------------------------------------------------------------------------------------------


def test_moves_are_learnt_from_captions() -> None:
    """Words as fixed random rows: a caption's words tell the move, and most captions tell of none."""
    rng = np.random.default_rng(0)
    rows: dict[str, np.ndarray] = {}

    def states(captions: set[str]) -> dict[str, np.ndarray]:
        for word in sorted({word for caption in captions for word in caption.lower().split()}):
            rows.setdefault(word, rng.standard_normal(384))
        tokens = {said: np.stack([rows[word] for word in said.lower().split()]) for said in captions}
        return {said: np.concatenate([known.mean(0, keepdims=True), known]) for said, known in tokens.items()}

    said, moves = camera.draw(600, states)
    assert 0.1 < float((moves > 0).float().mean()) < 0.35
    reader = camera.train(said[150:], moves[150:], steps=120)
    told = float((moves[:150] == 0).float().mean())
    assert camera.accuracy(reader, said[:150], moves[:150]) > 0.5 + 0.5 * told


# --- transformer -----------------------------------------------------------------------------------------------------


def tiny() -> SanaVideoTransformer3DModel:
    torch.manual_seed(1)
    return SanaVideoTransformer3DModel(
        in_channels=2 * CHANNELS + 1 + POSITION_CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=384,
        mlp_ratio=2.0,
        patch_size=(1, 2, 2),
        rope_max_seq_len=64,
    )


@pytest.fixture
def workplace(fitted: AutoencoderDiorama, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The transformer's training, in a folder of its own, with a tiny transformer and captions of noise."""
    monkeypatch.setattr(transformer, "CLIPS", clips)
    monkeypatch.setattr(transformer, "CACHE", tmp_path)
    monkeypatch.setattr(transformer, "MODEL", tmp_path / "model")
    monkeypatch.setattr(transformer, "build", lambda _: tiny())
    monkeypatch.setattr(transformer, "teach", lambda model, *_: reading.teach(model, lessons, steps=6))
    monkeypatch.setattr(transformer, "draw_lessons", lambda _: lessons)
    monkeypatch.setattr(reader, "embed_captions", noise_for)
    fitted.save_pretrained(tmp_path / "model" / "vae")
    lessons = reading.draw_lessons(80, noise_for)
    return tmp_path


def load(workplace: Path) -> reader.Clips:
    return reader.load_clips(transformer.CLIPS, workplace / "model" / "vae")


def noise_for(captions: set[str]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {said: rng.standard_normal((4, 384)).astype(np.float16) for said in ["", *sorted(captions)]}


def test_held_out_clips_are_not_trained_on(workplace: Path) -> None:
    held_out = reader.load_clips(transformer.CLIPS, workplace / "model" / "vae", held_out=True)
    assert (len(load(workplace).described), len(held_out.described)) == (2, 1)


def test_clips_whose_camera_moves_can_be_left_out(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = tmp_path / "moving"
    shutil.copytree(transformer.CLIPS, moving)
    for number, path in enumerate(sorted(moving.glob("*.npz"))):
        with np.load(path) as clip:
            kept = dict(clip)
        meta = json.loads(str(kept["meta"]))
        meta["spec"]["camera"] = "pan left" if number else "still"
        np.savez(path, **kept | {"meta": np.array(json.dumps(meta))})
    monkeypatch.setattr(transformer, "CLIPS", moving)
    assert {one.spec.camera for one in load(workplace).described} == {"still", "pan left"}
    still = reader.load_clips(moving, workplace / "model" / "vae", moving=False)
    assert [one.spec.camera for one in still.described] == ["still"]
    assert len(still.latents) == len(still.stills) == len(still.twins) == 1


def test_windows_begin_with_a_still_frame(workplace: Path) -> None:
    clips = load(workplace)
    window = clips.window(0, 5, 3)
    torch.testing.assert_close(window[:, 0], clips.stills[0, :, 5].float())
    torch.testing.assert_close(window[:, 1:], clips.latents[0, :, 6:8].float())


@pytest.mark.parametrize("expert", transformer.EXPERTS.values(), ids=transformer.EXPERTS)
def test_the_flow_loss_falls(workplace: Path, expert: transformer.Expert) -> None:
    """On one batch with the same noise each time, so that it falls for what was learnt and not by chance."""
    clips, model = load(workplace), tiny()
    batch = batches.draw_batch(clips, np.random.default_rng(0), 4, 16)
    assert (batch.latents.shape, batch.embeds.shape[0], batch.mask.shape[0]) == ((4, CHANNELS, 4, 4, 4), 4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        loss = transformer.flow_loss(expert, model, batch, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_windows_grow_longer_while_training_goes_on() -> None:
    means = []
    for spent in (0.0, 0.5, 1.0):
        rng = np.random.default_rng(0)
        means.append(np.mean([batches.draw_length(rng, spent) for _ in range(400)]))
    assert means == sorted(means)
    assert means[2] > 1.5 * means[0]


def test_training_keeps_its_state_and_exports_the_average(workplace: Path) -> None:
    averages = {}
    for expert in transformer.EXPERTS:
        transformer.train(expert, 60.0, 1e-3, limit=0.002)
        first = torch.load(workplace / f"{expert}.pt", weights_only=True)
        assert first["step"] >= 1
        transformer.train(expert, 60.0, 1e-3, limit=0.002)
        again = torch.load(workplace / f"{expert}.pt", weights_only=True)
        assert again["step"] > first["step"]
        assert again["seconds"] > first["seconds"]
        averages[expert] = again["average"]
    transformer.export()
    for expert, average in averages.items():
        for name, weight in load_transformer(workplace / "model", expert).state_dict().items():
            torch.testing.assert_close(weight, average[name].bfloat16().float(), atol=0, rtol=0)
    assert (workplace / "model" / "scheduler" / "scheduler_config.json").exists()
    for expert, average in averages.items():
        (workplace / f"{expert}.pt").unlink()
        transformer.train(expert, 60.0, 1e-3, limit=0.0, further=True)
        begun = torch.load(workplace / f"{expert}.pt", weights_only=True)
        for name, weight in begun["model"].items():
            taught = name.startswith("caption_projection.")
            assert torch.equal(weight, average[name].bfloat16().float()) is not taught, name


@pytest.mark.parametrize("expert", transformer.EXPERTS.values(), ids=transformer.EXPERTS)
def test_an_expert_sees_the_sigmas_that_it_serves(expert: transformer.Expert) -> None:
    sigma = transformer.draw_sigma(expert, 4000, torch.Generator().manual_seed(0))
    assert expert.least <= sigma.min() < expert.least + 0.05
    assert expert.most - 0.05 < sigma.max() <= expert.most
    served = sigma >= BOUNDARY if expert.most == 1.0 else sigma < BOUNDARY
    assert served.float().mean() > 0.8


def test_captions_are_embedded_as_the_encoder_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CACHE", tmp_path / "captions.npz")
    known = text.embed_captions({"a fire at night", "fire " * 300})
    assert known[""].shape == (3, 384)
    assert known["fire " * 300].shape == (128, 384)
    again = text.embed_captions({"a fire at night"})
    assert set(again) == set(known)
    np.testing.assert_array_equal(again["a fire at night"], known["a fire at night"])


# --- make train ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Commands that would have been run, without Python; one that trains the sound fails as often as it is told to."""
    commands: list[tuple[str, ...]] = []

    def call(arguments: tuple[str, ...]) -> int:
        commands.append(arguments[3:])
        failed = arguments[3] == "training.sound" and [c[0] for c in commands].count("training.sound") == 1
        return 3 if failed else 0

    monkeypatch.setattr(command, "call", call)
    return commands


def plan(**minutes: float) -> command.Plan:
    return command.Plan(40, 2, {"transformer": 5.0, "transformer_2": 3.0, "decoder": 2.0, "sound": 1.0} | minutes)


def test_make_train_goes_on_where_it_failed(ran: list[tuple[str, ...]], tmp_path: Path) -> None:
    assert command.run(plan(), command.Done(tmp_path)) == 3
    first = [part[:2] for part in ran]
    assert first == [
        ("training.autoencoder", "fit"),
        ("training.render", "--clips"),
        ("training.camera",),
        ("training.transformer", "train"),
        ("training.transformer", "train"),
        ("training.autoencoder", "train"),
        ("training.sound", "--minutes"),
    ]
    ran[:] = [("training.sound",)]
    assert command.run(plan(), command.Done(tmp_path)) == 0
    assert [part[:2] for part in ran[1:]] == [("training.sound", "--minutes"), ("training.transformer", "export")]
    ran.clear()
    assert command.run(plan(), command.Done(tmp_path)) == 0
    assert ran == []
    assert command.run(plan(transformer=6.0), command.Done(tmp_path)) == 0
    assert [part[:2] for part in ran] == [("training.transformer", "train"), ("training.transformer", "export")]


def test_a_fit_is_not_repeated_beside_clips_that_were_encoded_with_another(
    ran: list[tuple[str, ...]], tmp_path: Path
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "00000.npz").touch()
    command.run(plan(), command.Done(tmp_path))
    assert ran[0][0] == "training.render"


def test_hours_are_shared_out_and_a_stage_can_have_its_own(
    ran: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "CACHE", tmp_path)
    assert command.main(["--hours", "1", "--sound-minutes", "9", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "transformer train --minutes 18.0" in said
    assert "autoencoder train --minutes 6.0" in said
    assert "sound --minutes 9.0" in said
    assert ran == []
    assert list(tmp_path.iterdir()) == []
    for refused in (["--hours", "0"], ["--clips", str(len(FAMILIES))]):
        with pytest.raises(SystemExit):
            command.main(refused)


def test_few_clips_make_every_stage_small(ran: list[tuple[str, ...]], tmp_path: Path) -> None:
    command.run(replace(plan(), clips=63), command.Done(tmp_path))
    amounts = [part[part.index("--clips") + 1] for part in ran if "--clips" in part]
    assert amounts == ["3", "63", "63", "63"], "of each family to fit, to render, for the decoder, for the sound"
    full = [part for stage in command.stages(replace(plan(), clips=2400)) for part in stage.command]
    assert [full[k + 1] for k, part in enumerate(full) if part == "--clips"] == ["10", "2400", "280", "2400"]


def test_a_training_that_is_stopped_takes_its_stage_along_and_lets_no_second_one_begin(tmp_path: Path) -> None:
    """The real command, in an empty folder; its first stage takes longer than this test."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    given: dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True, "stderr": subprocess.STDOUT}
    arguments = (sys.executable, "-m", "training", "--clips", "2400")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, **given) as training:
        assert training.stdout is not None
        try:
            assert "autoencoder fit" in training.stdout.readline()
            second = subprocess.run(arguments, stdout=subprocess.PIPE, check=False, **given)
            assert second.returncode == 1
            assert "another training is at work" in second.stdout
        finally:
            training.terminate()
        assert training.wait(60) == 130
    with command.alone(tmp_path / "training/cache"):
        """Free again: the stage held this lock too, and has ended."""


def test_what_stands_before_its_rows_counts_more() -> None:
    latents = torch.zeros(2, CHANNELS, 1, 16, 16)
    latents[:, :, :, 8:] = 1.0  # land below sky
    latents[0, :, :, 4:8, 3:6] = 2.0
    weight = transformer.standing_out(latents)
    assert weight.shape == (2, 1, 1, 16, 16)
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3, 4)), torch.ones(2))
    thing, rest = weight[0, 0, 0, 4:8, 3:6], weight[0, 0, 0, 8:]
    torch.testing.assert_close(thing, transformer.OBJECT_WEIGHT * torch.ones_like(thing) * rest[0, 0])
    torch.testing.assert_close(weight[1], torch.ones_like(weight[1]))
