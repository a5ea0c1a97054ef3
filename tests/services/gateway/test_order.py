"""The rule of who begins next: for any queue, with hypothesis, and a simulation of hours."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.order import CLASS_SHARE, USUAL_WAIT, Account, Line, Share, Waiting, due_time
from services.gateway.video import Priority

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
AGEING = timedelta(minutes=5)
INTERACTIVE, STANDARD, BATCH = Priority.INTERACTIVE, Priority.STANDARD, Priority.BATCH


def video(name: str, tenant: str = "a", priority: Priority = STANDARD, **fields: Any) -> Waiting:
    """`ago` seconds old, due in `due` seconds."""
    create_time = NOW - timedelta(seconds=fields.pop("ago", 0))
    due = fields.pop("due", None)
    deadline = None if due is None else NOW + timedelta(seconds=due)
    return Waiting(name, tenant, priority, create_time, due_time(create_time, deadline), fields.pop("cost", 1.0))


def line(
    waiting: list[Waiting],
    accounts: Mapping[str, Account] | None = None,
    shares: Mapping[str, Share] | None = None,
    now: datetime = NOW,
) -> Line:
    accounts = accounts or {}
    virtual_time = max((account.start for account in accounts.values()), default=0.0)
    share = (shares or {}).get
    return Line(waiting, accounts, lambda t: share(t, Share()), virtual_time=virtual_time, now=now, ageing=AGEING)


def names(waiting: list[Waiting], **rest: Any) -> list[str]:
    return [video.video_id for video in line(waiting, **rest)]


@st.composite
def queues(draw: st.DrawFn, tenants: str = "abc") -> list[Waiting]:
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(tenants),
                st.sampled_from(list(Priority)),
                st.integers(0, 4000),
                st.one_of(st.none(), st.integers(1, 4000)),
                st.floats(0.1, 10),
            ),
            max_size=40,
        )
    )
    return [video(str(i), t, p, ago=ago, due=due, cost=cost) for i, (t, p, ago, due, cost) in enumerate(rows)]


@given(queues(), st.randoms(use_true_random=False))
def test_everybody_begins_once_whatever_order_the_queue_comes_in(waiting: list[Waiting], rng: random.Random) -> None:
    began = names(waiting)
    assert sorted(began) == sorted(video.video_id for video in waiting)
    assert names(rng.sample(waiting, len(waiting))) == began


@given(queues("abcd"), st.sampled_from(list(Priority)), st.integers(0, 3))
def test_a_tenants_only_video_waits_for_at_most_one_of_each_other(
    waiting: list[Waiting], priority: Priority, served: int
) -> None:
    """Whatever classes, ages, deadlines and costs the others have, and whatever they had before."""
    before = line(waiting)
    accounts = {}
    for _ in range(min(served, len(waiting))):
        taken = before.next()
        assert taken is not None
        accounts[taken[0].tenant] = taken[1]
        waiting = [video for video in waiting if video is not taken[0]]
    began = [video.tenant for video in line([*waiting, video("only", "z", priority)], accounts)]
    assert max(Counter(began[: began.index("z")]).values(), default=0) <= 1


@given(st.lists(st.floats(0.1, 10), min_size=20, max_size=60), st.floats(0.5, 8))
def test_tenants_with_enough_to_do_get_shares_by_weight(costs: list[float], weight: float) -> None:
    shares = {"a": Share(weight), "b": Share(1.0)}
    waiting = [video(f"{t}{i}", t, cost=cost) for t in "ab" for i, cost in enumerate(costs)]
    left, had = Counter(v.tenant for v in waiting), Counter[str]()
    for began in line(waiting, shares=shares):
        if not left["a"] or not left["b"]:
            break
        assert abs(had["a"] / weight - had["b"]) <= max(costs) * (1 + 1 / weight) + 1e-6
        left[began.tenant] -= 1
        had[began.tenant] += began.cost


def test_classes_go_in_order_within_a_tenant() -> None:
    waiting = [video(f"{p.value}{i}", priority=p, ago=i) for p in (BATCH, STANDARD, INTERACTIVE) for i in range(3)]
    assert [name[0] for name in names(waiting)] == list("IIISSSBBB")


def test_of_two_new_tenants_the_more_urgent_begins_first() -> None:
    assert names([video("batch", "a", BATCH, ago=60), video("screen", "b", INTERACTIVE)]) == ["screen", "batch"]


def test_tenants_of_different_classes_share_by_class() -> None:
    waiting = [video(f"i{i}", "a", INTERACTIVE) for i in range(160)] + [video(f"b{i}", "b", BATCH) for i in range(10)]
    began = names(waiting)
    assert Counter(name[0] for name in began[:102])["b"] == 102 // (CLASS_SHARE[INTERACTIVE] + 1)


def test_deadlines_order_a_class_and_none_waits_for_ever_behind_them() -> None:
    waiting = [video("none", ago=USUAL_WAIT.seconds - 30), video("late", due=7200), video("soon", due=20)]
    assert names(waiting) == ["soon", "none", "late"]


def test_a_limit_keeps_a_tenant_from_beginning_more() -> None:
    waiting = [video(f"{t}{i}", t) for t in "ab" for i in range(3)]
    shares = {"a": Share(max_at_work=2)}
    began = names(waiting, shares=shares, accounts={"a": Account(at_work=1)})
    assert Counter(name[0] for name in began) == {"a": 1, "b": 3}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.sampled_from([STANDARD, INTERACTIVE]), st.integers(0, 2**32))
def test_batch_is_never_starved_by_its_own_tenant(batch: int, flood: Priority, seed: int) -> None:
    """One place, a video every 60 s, and a more urgent new one every 40 s, for ever: BATCH still gets its turns."""
    rng = random.Random(seed)
    waiting = [video(f"batch{i}", priority=BATCH) for i in range(batch)]
    accounts: dict[str, Account] = {}
    last_turn, turns = NOW, 0
    for second in range(0, 6 * 3600, 60):
        now = NOW + timedelta(seconds=second)
        waiting += [video(f"{second}-{i}", priority=flood, ago=-second) for i in range(rng.choice((1, 2)))]
        taken = line(waiting, accounts, now=now).next()
        assert taken is not None
        waiting.remove(taken[0])
        accounts["a"] = taken[1]
        if taken[0].priority is BATCH:
            last_turn, turns = now, turns + 1
        elif turns < batch:
            assert now - last_turn <= 3 * AGEING
    assert turns == batch


def test_a_long_queue_does_not_become_urgent_by_its_age() -> None:
    """500 STANDARD videos that waited for hours, served all the time: a new INTERACTIVE one still begins next."""
    waiting = [video(f"s{i}", ago=10_000 - i) for i in range(500)]
    account = Account(last_turns={STANDARD: NOW - timedelta(minutes=1)})
    assert names([*waiting, video("screen", priority=INTERACTIVE)], accounts={"a": account})[0] == "screen"
