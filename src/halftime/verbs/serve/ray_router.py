"""Which of Ray's replicas a picture goes to: the one with the shortest queue of those that have not
refused it. Needs ray, which imports this by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray.serve.request_router import RequestRouter

if TYPE_CHECKING:
    from ray.serve.request_router import PendingRequest, RunningReplica

AVOID = "avoid"  # the keyword under which a call names the replicas that are to be passed over


class AvoidingRouter(RequestRouter):  # type: ignore[misc]  # ray has no types
    """Ray asks it for candidates, and takes the one whose queue is shortest."""

    async def choose_replicas(
        self,
        candidate_replicas: Sequence[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Those that the call does not want to avoid; all where it would avoid each of them."""
        words = pending_request.kwargs if pending_request is not None else {}
        avoided = frozenset(words.get(AVOID, ()))
        chosen = [
            replica for replica in candidate_replicas if replica.replica_id.unique_id not in avoided
        ]
        return [chosen or list(candidate_replicas)]
