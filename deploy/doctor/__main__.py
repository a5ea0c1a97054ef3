"""`soundstage doctor`, or python -m deploy.doctor. Exit status: 1 a check failed, 2 the command must change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from pydantic import ValidationError

from deploy.doctor.checking import Checking, Finding
from deploy.doctor.cluster import ClusterDoctor
from deploy.doctor.kubeconfig import connect
from deploy.doctor.settings import DoctorSettings
from deploy.doctor.stores import Stores
from deploy.doctor.values import Values, values_checks

__all__ = ["main"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--values", "files", type=FILE, multiple=True, help="Values for the chart; may be repeated, as for helm.")
@click.option("--cluster", "ask_cluster", is_flag=True, help="Ask the cluster too; its secrets then open the stores.")
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="KUBECONFIG",
    default=Path("~/.kube/config"),
    show_default=True,
    help="One file.",
)
@click.option("--context", default="", help="Of the kubeconfig; default: its current one.")
@click.option("--namespace", default="", help="Where to install; default: that of the context.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=5.0, show_default=True, help="Deadline of a check.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def main(
    files: tuple[Path, ...],
    ask_cluster: bool,
    kubeconfig: Path,
    context: str,
    namespace: str,
    seconds: float,
    as_json: bool,
) -> None:
    """Checks what Soundstage needs before it is installed, and says what to do.

    Stores are those of the gateway's settings, SOUNDSTAGE_GATEWAY_…, then those of the values. A probe object is
    written to the bucket and deleted, a table made in the database and rolled back; nothing else is changed.
    """
    try:
        values = Values(files) if files or ask_cluster else None
        settings = DoctorSettings()
        cluster = None
        if ask_cluster and values is not None:
            api = connect(kubeconfig.expanduser(), context=context, namespace=namespace, seconds=seconds)
            cluster = ClusterDoctor(api, values)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise click.UsageError(f"settings that cannot be read: {wrong}") from error
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    findings = []
    for finding in _examine(settings, values, cluster, seconds):
        findings.append(finding)
        if not as_json:
            _say(finding)
    failed = any(finding.level == "fail" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(finding) for finding in findings]}, indent=2))
    raise SystemExit(1 if failed else 0)


def _examine(
    settings: DoctorSettings, values: Values | None, cluster: ClusterDoctor | None, seconds: float
) -> Iterator[Finding]:
    checking = Checking(seconds)
    if values is not None:
        yield from checking.run(values_checks(values))
    if cluster is not None:
        yield from checking.run(cluster.checks())
    # After the cluster: its secrets may hold the keys.
    yield from checking.run(Stores(settings, seconds, values, cluster.secrets if cluster else {}).checks())


def _say(finding: Finding) -> None:
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.level]
    fix = f". {finding.fix[0].upper()}{finding.fix[1:]}" if finding.fix else ""
    click.echo(f"{click.style(f'{finding.level:<4}', fg=colour)}  {finding.check}: {finding.found}{fix}")


if __name__ == "__main__":
    main()
