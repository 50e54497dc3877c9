"""What the processes of one simulated swarm share: the network, the DHT, the model, the log."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.simulation.directory import SimulatedDirectory
from scripts.simulation.loop import VirtualLoop
from scripts.simulation.model import SimulatedModel
from scripts.simulation.network import Network
from scripts.simulation.node_record import NodeRecord
from scripts.simulation.trace import Trace

if TYPE_CHECKING:
    from scripts.simulation.node import SimulatedNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """One swarm's.

    Attributes:
        nodes: records of nodes in the DHT.
        coordinators: of coordinators, with their addresses.
        on_change: called when what a node serves may have changed.
        on_withdraw: called before a node gives up its span for another one.
    """

    loop: VirtualLoop
    network: Network
    nodes: SimulatedDirectory[NodeRecord]
    coordinators: SimulatedDirectory[str]
    model: SimulatedModel
    trace: Trace
    on_change: Callable[[], None]
    on_withdraw: "Callable[[SimulatedNode], None]"
