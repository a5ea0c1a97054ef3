"""What Triton's errors mean: whether another pod may do better, and what the caller is told."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tritonclient.utils import InferenceServerException

from libs.errors import FailedPrecondition, Internal, SoundstageError, Unavailable
from libs.errors.carried import MORE_WANTED, from_text

__all__ = ["Failure", "failure_of"]

REGION_LOST = "shared memory region"
STUB_DIED = "is not healthy"
INPUT_UNKNOWN = re.compile(r"unexpected inference input|but got \d+ inputs? for model")
# A server that ends, a full queue, a call that waited too long there; a broken connection is UNKNOWN now and then.
AWAY = ("StatusCode.UNAVAILABLE", "StatusCode.UNKNOWN", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")


@dataclass(frozen=True)
class Failure:
    """Of one attempt on one pod."""

    pod: str
    model: str
    status: str
    message: str

    @property
    def region_lost(self) -> bool:
        """The pod started anew and knows nothing of our memory: the same pod serves once it is told again."""
        return REGION_LOST in self.message

    @property
    def more_wanted(self) -> bool:
        """The model has not what only `Request.more` gives; the same pod serves once it has it."""
        said = from_text(self.message)
        return said is not None and said.reason == MORE_WANTED

    @property
    def another_pod_may_do(self) -> bool:
        """Not for a request that every pod would refuse. INTERNAL: a process of the model has died, or it raised."""
        return self.status in (*AWAY, "StatusCode.INTERNAL", "StatusCode.NOT_FOUND")

    def to_error(self) -> SoundstageError:
        said = from_text(self.message)
        if said is not None:
            return said
        where = {"pod": self.pod, "model": self.model}
        if self.status == "StatusCode.NOT_FOUND":
            return FailedPrecondition(
                f"Triton at {self.pod} has no model {self.model!r} ({self.message}); write it into its "
                "repository with `python -m deploy.triton.build`",
                reason="TRITON_MODEL_MISSING",
                **where,
            )
        if self.status in AWAY or STUB_DIED in self.message:
            return Unavailable(
                f"Triton at {self.pod} does not serve {self.model!r} ({self.message}); see whether it runs and answers "
                "`python -m deploy.triton.ready`",
                reason="TRITON_UNAVAILABLE",
                retry_seconds=None,
                **where,
            )
        if self.status == "StatusCode.INVALID_ARGUMENT":
            return FailedPrecondition(
                f"Triton at {self.pod} refuses the inputs of {self.model!r} ({self.message}); write its "
                "repository anew from the model folder that is used here",
                reason="TRITON_INPUT_UNKNOWN" if INPUT_UNKNOWN.search(self.message) else "TRITON_REFUSED",
                **where,
            )
        return Internal(
            f"{self.model!r} failed on Triton at {self.pod}: {self.message}", reason="TRITON_FAILED", **where
        )


def failure_of(error: InferenceServerException, pod: str, model: str) -> Failure:
    return Failure(pod, model, str(error.status()), str(error.message()))
