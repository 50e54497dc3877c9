"""What is simulated: sizes, failures, load. Plain data."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The model that the swarm serves.

    Attributes:
        num_layers: decoder layers.
        layer_bytes: of one layer's weights, KV of one context aside.
        max_context: tokens.
        vocab_size: token ids are below it.
    """

    num_layers: int = 16
    layer_bytes: int = 1_000_000
    max_context: int = 128
    vocab_size: int = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What volunteers' machines are like; each draws its own within these bounds.

    Attributes:
        least_layers, most_layers: that its memory holds.
        fast_layer_s, slow_layer_s: seconds of one layer of a step, log-uniform between.
        load_layer_s: seconds to load one layer, up to.
        kv_contexts: whole contexts for which it has KV.
        liars: share of nodes that announce twice the memory that they have.
    """

    least_layers: int = 3
    most_layers: int = 10
    fast_layer_s: float = 0.002
    slow_layer_s: float = 0.02
    load_layer_s: float = 0.8
    kv_contexts: int = 8
    liars: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """The network.

    Attributes:
        near_s, far_s: one-way delay at no distance, and more across the whole map.
        jitter: of a delay, at most, as a share of it.
        loss: share of messages that TCP has to send again, which costs retransmit_s and a round trip.
        retransmit_s: the least retransmission timeout of common TCP stacks.
    """

    near_s: float = 0.002
    far_s: float = 0.08
    jitter: float = 0.25
    loss: float = 0.0
    retransmit_s: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureConfig:
    """How often something goes wrong; rates are per simulated minute over the whole swarm, 0 for never.

    Attributes:
        session_s: median of a volunteer's stay; heavy-tailed, see osai's failures module. 0: they stay.
        rejoin_s: mean time until a volunteer that has gone comes back or another one takes its place.
        graceful: share of departures that hand their sessions over first.
        power_cuts: share of the other departures after which no connection is closed: peers must notice.
        hangs: nodes that stop for hang_s, as SIGSTOP and SIGCONT do.
        hang_s: for how long at most.
        slowdowns: nodes that become 10 to 20 times slower for slow_s.
        slow_s: for how long.
        partitions: of the network into two sides; half of them block one way alone.
        partition_s: for how long at most.
        flappers: nodes that go and come back every few seconds all the time.
        coordinator_crashes: each is back after coordinator_down_s.
        coordinator_down_s: how long at most.
        clock_skew_s: wall clocks are off by up to this, either way, and nodes' run up to 1% fast or slow where it
            is not 0. Records of the DHT live for 30 s: clocks that differ by more can't use it.
    """

    session_s: float = 0.0
    rejoin_s: float = 8.0
    graceful: float = 0.3
    power_cuts: float = 0.3
    hangs: float = 0.0
    hang_s: float = 20.0
    slowdowns: float = 0.0
    slow_s: float = 30.0
    partitions: float = 0.0
    partition_s: float = 25.0
    flappers: int = 0
    coordinator_crashes: float = 0.0
    coordinator_down_s: float = 12.0
    clock_skew_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One experiment; with a seed, one run.

    Attributes:
        num_nodes: volunteers at the beginning; about as many stay.
        num_coordinators: they know each other through the DHT alone.
        num_clients: each asks for one generation after the other.
        think_s: mean pause of a client between two.
        minutes: for which things go wrong and clients ask.
        settle_s: before, undisturbed: nodes join and load.
        most_end_s: after, undisturbed: what runs has to end by then.
        standby: sessions keep standbys.
        num_kicks: of the planner's search in swarms of few nodes. Its own number takes most of a small run's time, and
            only how good an arrangement is found depends on it.
    """

    name: str = "quiet"
    num_nodes: int = 24
    num_coordinators: int = 2
    num_clients: int = 4
    think_s: float = 1.0
    minutes: float = 2.0
    settle_s: float = 25.0
    most_end_s: float = 150.0
    standby: bool = False
    num_kicks: int = 8
    model: ModelConfig = field(default_factory=ModelConfig)
    nodes: NodeConfig = field(default_factory=NodeConfig)
    links: LinkConfig = field(default_factory=LinkConfig)
    failures: FailureConfig = field(default_factory=FailureConfig)


NAMES = ("quiet", "churn", "partition", "flap", "skew", "slow", "mixed")


def named(name: str, *, num_nodes: int = 24, minutes: float = 2.0, churn: float = 1.0, scale: float = 1.0) -> Scenario:
    """The scenario of that name.

    Args:
        name: one of NAMES.
        num_nodes: volunteers.
        minutes: for which things go wrong.
        churn: how many times in the disturbed time the usual volunteer leaves.
        scale: of the rates of everything else that goes wrong.
    """
    base = Scenario(name=name, num_nodes=num_nodes, minutes=minutes)
    stay_s = 60 * base.minutes / churn if churn else 0.0
    failures = {
        "quiet": FailureConfig(),
        "churn": FailureConfig(session_s=stay_s, coordinator_crashes=0.25 * scale),
        "partition": FailureConfig(session_s=4 * stay_s, partitions=1.5 * scale),
        "flap": FailureConfig(session_s=4 * stay_s, flappers=max(1, round(base.num_nodes / 6 * scale))),
        "skew": FailureConfig(session_s=stay_s, clock_skew_s=20.0 * scale, coordinator_crashes=0.25),
        "slow": FailureConfig(session_s=4 * stay_s, hangs=2.0 * scale, slowdowns=2.0 * scale),
        "mixed": FailureConfig(
            session_s=2 * stay_s,
            hangs=1.0 * scale,
            slowdowns=1.0 * scale,
            partitions=0.7 * scale,
            flappers=1,
            coordinator_crashes=0.4 * scale,
            clock_skew_s=10.0,
        ),
    }[name]
    links = LinkConfig(loss=0.02) if name in ("partition", "mixed") else base.links
    nodes = NodeConfig(liars=0.1) if name in ("churn", "mixed") else base.nodes
    return replace(base, failures=failures, links=links, nodes=nodes)
