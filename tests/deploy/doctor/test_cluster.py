"""The doctor on values and on a cluster. The API is `tests.support.kubernetes`: a real HTTP server, no Kubernetes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from client.cli import main
from deploy.doctor.cluster import OLDEST_VERSION
from deploy.doctor.values import Values
from tests.deploy.doctor.doctoring import Report, examine
from tests.deploy.rendering import CHART
from tests.support.kubernetes import TOKEN, FakeCluster, serving_cluster
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.s3 import S3Server

__all__ = ["postgres_server"]

SECRET = "nobody-should-read-this"


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with serving_cluster() as cluster:
        cluster.add_node(1, "570.86.15")
        cluster.claims = {"soundstage-models", "soundstage-triton"}
        cluster.secrets = {
            "soundstage-s3": {"access-key": SECRET, "secret-key": SECRET},
            "soundstage-postgresql": {"url": f"postgresql://u:{SECRET}@postgresql:5432/d", "password": SECRET},
            "soundstage-queue-reader": {"url": SECRET},
        }
        yield cluster


def on(cluster: FakeCluster, folder: Path, values: str = "values-gpu.yaml", *more: str | Path) -> Report:
    return examine("--cluster", "--kubeconfig", cluster.kubeconfig(folder), "--values", CHART / values, *more)


def test_a_cluster_that_has_everything(cluster: FakeCluster, tmp_path: Path) -> None:
    report = on(cluster, tmp_path)
    of_cluster = [one for one in report.checks if one["check"].startswith(("cluster ", "secret "))]
    assert [one for one in of_cluster if one["level"] != "ok"] == []
    assert [one["check"] for one in of_cluster] == [
        "cluster version",
        "cluster namespace",
        "cluster permissions",
        "cluster keda",
        "cluster prometheus operator",
        "cluster cert-manager",
        "cluster metrics server",
        "cluster gpus",
        "cluster gpu driver",
        "cluster claim soundstage-models",
        "cluster claim soundstage-triton",
        "secret s3.existingSecret",
        "secret postgresql.existingSecret",
        "secret autoscaling.keda.existingSecret",
    ]
    assert "570.86.15" in report["cluster gpu driver"]["found"]
    assert {"namespace": "video", "verb": "create", "group": "keda.sh", "resource": "scaledobjects"} in cluster.reviews
    assert report["postgresql dns"]["level"] == "warn"  # a name inside the cluster
    assert SECRET not in report.output
    assert TOKEN not in report.output


def test_each_lack_is_told_with_what_to_do(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.version = ("1", "33")
    assert "1.34 or newer" in on(cluster, tmp_path)["cluster version"]["fix"]

    cluster.version = ("1", "36")
    cluster.operators = {"monitoring.coreos.com/v1": ["servicemonitors"]}
    cluster.nodes = []
    cluster.refused = {("create", "deployments"), ("delete", "scaledobjects")}
    cluster.secrets = {"soundstage-s3": {"access-key": SECRET}}
    report = on(cluster, tmp_path)
    assert report.exit_code == 1
    failed = [check for check in report.levels("fail") if check.startswith(("cluster ", "secret "))]
    assert failed == [
        "cluster permissions",
        "cluster keda",
        "cluster prometheus operator",
        "cluster cert-manager",
        "cluster metrics server",
        "cluster gpus",
        "secret s3.existingSecret",
        "secret postgresql.existingSecret",
        "secret autoscaling.keda.existingSecret",
    ]
    assert report["cluster permissions"]["found"] == ("in video you may not create deployments, delete scaledobjects")
    assert report["cluster prometheus operator"]["found"] == "monitoring.coreos.com/v1 lacks prometheusrules"
    assert report["secret s3.existingSecret"]["found"] == "soundstage-s3 lacks secret-key"
    assert (
        "kubectl -n video create secret generic soundstage-queue-reader"
        in (report["secret autoscaling.keda.existingSecret"]["fix"])
    )


def test_what_may_not_be_looked_at_is_no_failure(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.hidden = {"/api/v1/nodes", "/api/v1/namespaces/video/secrets/soundstage-s3", "/api/v1/namespaces/video"}
    report = on(cluster, tmp_path)
    assert report["cluster namespace"]["level"] == "ok"
    assert report["cluster gpus"]["level"] == "warn"
    assert report["secret s3.existingSecret"]["level"] == "warn"


def test_too_few_gpus_and_drivers_that_do_not_say(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.nodes = []
    cluster.add_node(0)
    cluster.add_node(2)
    cluster.add_node(2, "550.1")
    large = on(cluster, tmp_path, "values-gpu.yaml", "--values", CHART / "values-large.yaml")
    assert large["cluster gpus"]["found"].startswith("4 on 2 nodes")
    assert on(cluster, tmp_path)["cluster gpu driver"]["found"] == "1 nodes do not say; 550.1 on 1"


def test_priority_classes_that_the_values_name_must_be_there(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.priority_classes = {"soundstage-serving", "soundstage-gpu"}
    cluster.hidden = {"/apis/scheduling.k8s.io/v1/priorityclasses/soundstage-gpu"}
    report = on(cluster, tmp_path, "values-gpu.yaml", "--values", CHART / "values-large.yaml")
    found = {one["check"]: one["level"] for one in report.checks if "priority class" in one["check"]}
    assert found == {
        "cluster priority class soundstage-gpu": "warn",
        "cluster priority class soundstage-serving": "ok",
        "cluster priority class soundstage-stages": "fail",
    }


def test_only_what_the_values_ask_for_is_checked(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.operators, cluster.nodes = {}, []
    report = on(cluster, tmp_path, "values-dev.yaml")
    assert report.exit_code == 0, report.output
    assert "cluster keda" not in [one["check"] for one in report.checks]
    assert "cluster gpus" not in [one["check"] for one in report.checks]
    assert {one["resource"] for one in cluster.reviews} >= {"statefulsets", "deployments"}
    assert "jobs" not in {one["resource"] for one in cluster.reviews}
    assert report["temporal"]["level"] == "ok"


def test_engines_ask_for_jobs(cluster: FakeCluster, tmp_path: Path) -> None:
    (tmp_path / "engines.yaml").write_text("triton: {engines: {enabled: true}}")
    cluster.refused = {("create", "jobs")}
    report = on(cluster, tmp_path, "values-gpu.yaml", "--values", tmp_path / "engines.yaml")
    assert report["cluster permissions"]["found"] == "in video you may not create jobs"


def test_whoever_tells_deletion_costs_needs_a_role(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.refused = {("create", "roles"), ("create", "rolebindings")}
    found = on(cluster, tmp_path)["cluster permissions"]["found"]
    assert found == "in video you may not create roles, create rolebindings"
    assert on(cluster, tmp_path, "values-dev.yaml")["cluster permissions"]["level"] == "ok"


def test_claims_that_pods_mount_must_be_there(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.claims = {"soundstage-triton"}
    large = on(cluster, tmp_path, "values-gpu.yaml", "--values", CHART / "values-large.yaml")
    claims = {one["check"].rpartition(" ")[2]: one["level"] for one in large.checks if " claim " in one["check"]}
    assert claims == {"soundstage-models": "fail", "soundstage-triton": "ok", "soundstage-triton-large": "fail"}


def test_keys_of_the_model_store_are_looked_for_where_they_are_used(cluster: FakeCluster, tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    store = {"fetching": {"existingSecret": "reader", "cacheClaim": "cache"}, "existingClaim": ""}
    engines = {"enabled": True, "existingSecret": "writer", "priorityClassName": "engines-first"}
    given.write_text(yaml.safe_dump({"models": store, "triton": {"engines": engines}}))
    unused = [one["check"] for one in on(cluster, tmp_path, "values-dev.yaml", "--values", given).checks]
    assert not [check for check in unused if "models" in check or "engines" in check or "claim" in check]

    given.write_text(
        yaml.safe_dump({"models": {**store, "fetch": ["s3://bucket/models/diorama/0"]}, "triton": {"engines": engines}})
    )
    cluster.secrets |= {"reader": {"access-key": SECRET, "secret-key": SECRET}}
    cluster.claims = {"cache"}
    report = on(cluster, tmp_path, "values-gpu.yaml", "--values", given)
    assert report["secret models.fetching.existingSecret"]["level"] == "ok"
    assert report["secret triton.engines.existingSecret"]["found"] == "writer is not there"
    assert report["cluster priority class engines-first"]["level"] == "fail"
    assert [one["check"] for one in report.checks if " claim " in one["check"]] == ["cluster claim cache"]


def test_a_missing_namespace_and_a_server_that_is_away(cluster: FakeCluster, tmp_path: Path) -> None:
    assert on(cluster, tmp_path, "values-dev.yaml", "--namespace", "other")["cluster namespace"]["level"] == "fail"
    cluster.url = "http://127.0.0.1:9"
    report = on(cluster, tmp_path)
    assert "Connection refused" in report["cluster version"]["found"]
    assert report["cluster permissions"]["found"] == "not checked"


def test_the_secrets_of_the_cluster_open_the_stores(
    cluster: FakeCluster, s3_server: S3Server, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    cluster.secrets = {
        "soundstage-s3": {"access-key": s3_server.access_key, "secret-key": s3_server.secret_key},
        "soundstage-postgresql": {"url": postgres_server.url("postgres")},
    }
    values = tmp_path / "values.yaml"
    values.write_text(
        yaml.safe_dump(
            {
                "s3": {"endpoint": s3_server.endpoint, "secure": False, "bucket": "not-there"},
                "temporal": {"address": "temporal-frontend:7233"},
            }
        )
    )
    report = examine("--cluster", "--kubeconfig", cluster.kubeconfig(tmp_path), "--values", values)
    assert report["s3 credentials"]["level"] == "ok"
    assert report["postgresql tables"]["level"] == "ok"
    assert report["temporal dns"]["level"] == "warn"
    assert report.levels("fail") == ["s3 bucket"]


def test_a_credential_plugin_is_asked(cluster: FakeCluster, tmp_path: Path) -> None:
    file = cluster.kubeconfig(tmp_path)
    config = yaml.safe_load(file.read_text())
    script = "import json, sys; print(json.dumps({'status': {'token': sys.argv[1]}}))"
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", script, TOKEN]}
    config["users"] = [{"name": "u", "user": {"exec": plugin}}]
    file.write_text(yaml.safe_dump(config))
    assert examine("--cluster", "--kubeconfig", file)["cluster version"]["level"] == "ok"

    plugin["args"] = ["-c", "raise SystemExit(1)"]
    file.write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(main, ["doctor", "--cluster", "--kubeconfig", str(file)])
    assert result.exit_code == 2
    assert "credential plugin" in result.output


def test_values_that_lack_something(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        yaml.safe_dump(
            {
                "s3": {"bucket": "change-me-x"},
                "auth": {"apiKeys": False},
                "postgresql": {"existingSecret": {"name": ""}},
                "tls": {"internal": {"enabled": True, "certManager": {"enabled": False}}},
            }
        )
    )
    report = examine("--values", values)
    assert report.levels("fail") == [
        "values s3.endpoint",
        "values s3.bucket",
        "values temporal.address",
        "values auth",
        "values secrets",
    ]
    assert "postgresql.existingSecret, tls.internal.existingSecrets.gateway-api" in report["values secrets"]["found"]


def test_what_is_no_values_file(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]")
    assert CliRunner().invoke(main, ["doctor", "--values", str(tmp_path / "list.yaml")]).exit_code == 2


def test_values_merge_as_helm_merges(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("s3: {bucket: mine}\ntriton: {pools: []}\nauth: {oidc: null}")
    values = Values([CHART / "values-gpu.yaml", tmp_path / "a.yaml"])
    assert values.at("s3.bucket") == "mine"
    assert values.at("s3.region") == "eu-central-1"
    assert values.at("triton.pools") == []
    assert values.at("auth.oidc") is None
    assert not values.asks_for_gpus


def test_the_oldest_version_is_the_charts() -> None:
    wanted = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert wanted == f">={'.'.join(map(str, OLDEST_VERSION))}.0-0"


def test_values_that_helm_would_refuse_stop_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("s3: null\ngatewayApi: null\npostgresql: {existingSecret: null}")
    report = examine("--cluster", "--kubeconfig", cluster.kubeconfig(tmp_path), "--values", tmp_path / "v.yaml")
    assert "values secrets" in report.levels("fail")
    assert report["cluster permissions"]["level"] == "ok"
