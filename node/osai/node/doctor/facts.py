"""What the doctor observes of a machine. Pure data: verdicts are made of it alone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """The device that the node would compute on.

    Attributes:
        torch: its version; empty if it can't be imported.
        device: in words; empty if there is none of that name.
        free_bytes: memory that the node would take.
        dtype: that was asked for.
        has_bfloat16: it computes in bfloat16 itself.
        has_float16: likewise.
        error: why there is no such device, or not in that dtype.
    """

    torch: str = ""
    device: str = ""
    free_bytes: int = 0
    dtype: str = "auto"
    has_bfloat16: bool = True
    has_float16: bool = True
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFacts:
    """An address that the node would listen on.

    Attributes:
        option: that sets it.
        announced: HOST:PORT that peers are told.
        error: why it can't be bound; empty if it can.
        is_loopback: nobody but this machine reaches what is announced.
    """

    option: str
    listen: str
    announced: str = ""
    error: str = ""
    is_loopback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorFacts:
    """What the coordinator answers.

    Attributes:
        address: HOST:PORT; empty if none was given, or a libp2p address.
        connect_s: until TCP was connected; None if it was not.
        error: why it does not answer as a coordinator does.
        software: as it greets.
        protocols: the oldest and the newest version that it speaks.
        ours: the same of this program.
        ahead_s: this machine's clock against the coordinator's; None where that is not known.
        uncertain_s: by how much `ahead_s` may be off.
    """

    address: str = ""
    connect_s: float | None = None
    error: str = ""
    software: str = ""
    protocols: tuple[int, int] = (0, 0)
    ours: tuple[int, int] = (0, 0)
    ahead_s: float | None = None
    uncertain_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """The folder that keeps weights.

    Attributes:
        folder: empty where nothing is kept.
        free_bytes: of its disk.
        wanted_bytes: that the cache may take; 0 for a share of what is free.
        write_bytes_s: at which a file was written through to the disk.
        error: why nothing can be written there.
    """

    folder: str = ""
    free_bytes: int = 0
    wanted_bytes: int = 0
    write_bytes_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustFacts:
    """Whom the node believes, and who it is.

    Attributes:
        num_files: of --trust.
        error: why they can't be used.
        state: the state folder.
        state_error: why that can't be used.
        certificate_s: of a private swarm: seconds until it ends; None where there is none.
        certificate_error: why it can't be used.
        has_token: a token to join with was given.
    """

    num_files: int = 0
    error: str = ""
    state: str = ""
    state_error: str = ""
    certificate_s: float | None = None
    certificate_error: str = ""
    has_token: bool = False
    allow_unsigned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All of it."""

    device: DeviceFacts
    ports: tuple[PortFacts, ...]
    coordinator: CoordinatorFacts
    disk: DiskFacts
    trust: TrustFacts
