"""What programs say of privacy, in one line. docs/privacy.md says the rest."""

_PUBLIC = (
    "This swarm is public: anybody may run its nodes, and those of a pipeline can probably reconstruct the prompts "
    "that cross them."
)
_PRIVATE = (
    "This swarm is private: nobody but its members gets at what crosses it; the nodes of a pipeline can still probably "
    "reconstruct the prompts."
)


def privacy_line(*, is_private: bool) -> str:
    """The honest line about a swarm."""
    return _PRIVATE if is_private else _PUBLIC
