"""A site that is only reckoned: a queue, pods with one device each, and what Kubernetes makes of a number.

It goes by seconds. A pod's device does what the pod has in hand one after the other; in truth it shares,
which comes to the same number of photos. A pod is paid for from the moment it is ordered: its node is made
for it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

SLOTS, DRAIN, LEASE = 5, 300.0, 120.0
"""Of a worker with one device: `SLOTS`, `DRAIN_TIMEOUT` and `LEASE_SECONDS` where nobody sets them."""
START = (240.0, 420.0)
"""Seconds until a new pod is ready: a node, an image of gigabytes, models, a warm-up."""
SYNC, TOLERANCE = 15, 0.1
"""How often Kubernetes looks, and what it takes for no difference."""


@dataclass(slots=True, eq=False)
class Message:
    """One photo to be done."""

    published: float
    seconds: float
    """What it needs of a device."""
    left: float


@dataclass(slots=True, eq=False)
class Pod:
    """One worker."""

    ordered: float
    ready: float
    hand: deque[Message] = field(default_factory=deque)
    until: float = math.inf
    """When its drain is over, once it has begun."""

    @property
    def is_leaving(self) -> bool:
        """Whether it drains."""
        return self.until < math.inf

    @property
    def is_to_be_protected(self) -> bool:
        """Whether what it has computed would be lost, if it were to go now."""
        return not self.is_leaving and bool(self.hand) and self.hand[0].left > DRAIN


@dataclass(frozen=True, slots=True)
class Policy:
    """How fast Kubernetes follows: the greater of both counts."""

    pods: int
    percent: int
    period: int

    def most(self, replicas: int) -> int:
        """Return by how many replicas may change within a period."""
        return max(self.pods, math.ceil(replicas * self.percent / 100))


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`spec.behavior` of a HorizontalPodAutoscaler; upwards it is not stabilised."""

    up: Policy
    down: Policy
    window: int
    """Seconds over which the greatest recommendation holds, downwards."""


PLAIN = Behaviour(up=Policy(4, 100, 15), down=Policy(0, 100, 15), window=300)
"""What Kubernetes does if it is told nothing."""


class Autoscaler:
    """A HorizontalPodAutoscaler on numbers of pods (`AverageValue` of 1)."""

    def __init__(self, behaviour: Behaviour, least: int, most: int) -> None:
        self._behaviour, self._least, self._most = behaviour, least, most
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def replicas(self, now: float, replicas: int, values: Sequence[float]) -> int:
        """Return how many pods there shall be.

        Args:
            now: in seconds.
            replicas: how many there are, or are on their way.
            values: what its metrics say; the greatest proposal counts.
        """
        proposed = max(proposal(value, replicas) for value in values)
        self._recommended.append((now, proposed))
        while self._recommended[0][0] < now - self._behaviour.window:
            self._recommended.popleft()
        if proposed < replicas:
            proposed = min(replicas, max(count for _, count in self._recommended))
        limited = self._limited(now, replicas, proposed)
        wanted = min(self._most, max(self._least, limited))
        if wanted != replicas:
            self._changes.append((now, wanted - replicas))
        return wanted

    def _limited(self, now: float, replicas: int, proposed: int) -> int:
        grows = proposed > replicas
        policy = self._behaviour.up if grows else self._behaviour.down
        recent = [by for at, by in self._changes if at > now - policy.period and (by > 0) == grows]
        began_with = replicas - sum(recent)
        bound = policy.most(began_with)
        return min(proposed, began_with + bound) if grows else max(proposed, began_with - bound)


def proposal(value: float, replicas: int) -> int:
    """Return how many pods a metric is for; as many as there are, if it is near that."""
    if replicas and abs(value / replicas - 1) <= TOLERANCE:
        return replicas
    return math.ceil(value)


@dataclass
class Site:
    """Queue and pods."""

    random: Random
    queue: deque[Message] = field(default_factory=deque)
    pods: list[Pod] = field(default_factory=list)
    is_out: bool = False
    """Whether a peer is away that everybody needs: nothing is pulled, what is finished waits."""
    busy: float = 0.0
    """Seconds that devices computed."""
    lost: float = 0.0
    """Of these, what has to be computed again."""
    paid: float = 0.0
    done: list[tuple[float, float]] = field(default_factory=list)
    """When each message was done, and how long after it was published."""
    _resting: list[tuple[float, int, Message]] = field(default_factory=list)
    """What nobody gets before its lease is over."""
    _number: Iterator[int] = field(default_factory=itertools.count)

    @property
    def replicas(self) -> int:
        """Pods that are to stay."""
        return sum(not pod.is_leaving for pod in self.pods)

    @property
    def waiting(self) -> list[Message]:
        """What is not acked."""
        in_hand = itertools.chain.from_iterable(pod.hand for pod in self.pods)
        return [*self.queue, *in_hand, *(message for _, _, message in self._resting)]

    def publish(self, now: float, seconds: float) -> None:
        """Let a message come in that needs so many seconds of a device."""
        self.queue.append(Message(now, seconds, seconds))

    def scale(self, now: float, replicas: int) -> None:
        """Order pods, or send some away: first what is not ready, then the youngest, as Kubernetes does."""
        for _ in range(replicas - self.replicas):
            self.pods.append(Pod(now, now + self.random.uniform(*START)))
        staying = sorted((pod for pod in self.pods if not pod.is_leaving), key=lambda pod: pod.ready)
        for pod in staying[replicas:]:
            self._drain(now, pod)

    def lose(self, now: float, count: int) -> None:
        """Have pods vanish without a word; as many are ordered in their place."""
        gone = [pod for pod in self.pods if pod.ready <= now and not pod.is_leaving][:count]
        for pod in gone:
            self.pods.remove(pod)
            for message in pod.hand:
                self._forget(message)
                heapq.heappush(self._resting, (now + LEASE, next(self._number), message))
            self.pods.append(Pod(now, now + self.random.uniform(*START)))

    def second(self, now: float) -> None:
        """Let a second pass."""
        while self._resting and self._resting[0][0] <= now:
            self.queue.appendleft(heapq.heappop(self._resting)[2])
        self.paid += len(self.pods)
        ready = [pod for pod in self.pods if pod.ready <= now]
        if not self.is_out:
            self._hand_out([pod for pod in ready if not pod.is_leaving])
        for pod in ready:
            self._work(now, pod)
        self.pods = [pod for pod in self.pods if not pod.is_leaving or (pod.hand and now < pod.until)]

    def _hand_out(self, pods: Sequence[Pod]) -> None:
        """Let everybody who has a free slot take one in turns, who has least first."""
        while self.queue:
            pod = min(pods, key=lambda it: len(it.hand), default=None)
            if pod is None or len(pod.hand) >= SLOTS:
                return
            pod.hand.append(self.queue.popleft())

    def _work(self, now: float, pod: Pod) -> None:
        budget = 1.0
        for message in pod.hand:
            spent = min(budget, message.left)
            message.left -= spent
            budget -= spent
            self.busy += spent
            if budget <= 0:
                break
        while not self.is_out and pod.hand and pod.hand[0].left <= 0:
            message = pod.hand.popleft()
            self.done.append((now, now - message.published))

    def _drain(self, now: float, pod: Pod) -> None:
        """Hand back what will not be done in time; the rest is done."""
        pod.until = now + DRAIN if pod.ready <= now else now
        keep: deque[Message] = deque()
        needed = 0.0
        for message in pod.hand:
            needed += message.left
            if needed <= DRAIN:
                keep.append(message)
            else:
                self._forget(message)
                self.queue.appendleft(message)
        pod.hand = keep

    def _forget(self, message: Message) -> None:
        self.lost += message.seconds - message.left
        message.left = message.seconds
