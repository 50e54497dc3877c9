"""What was said, and how the next answer is asked for. Pure."""

import json

from osai.client.request import GenerationOptions
from osai.core.chat_turns import ChatMessage


class Conversation:
    """The turns so far.

    Args:
        options: of the next answer; changed by whoever holds it.
        system: what the model is told before the first question; empty for nothing.

    Attributes:
        options: see above.
        system: see above; it may be set at any time, and holds for all turns then.
    """

    def __init__(self, options: GenerationOptions, system: str = "") -> None:
        self.options = options
        self.system = system
        self._turns: list[ChatMessage] = []

    @property
    def messages(self) -> list[ChatMessage]:
        """All turns, the system's first."""
        opening = [ChatMessage(role="system", content=self.system)] if self.system else []
        return [*opening, *self._turns]

    @property
    def num_questions(self) -> int:
        """Questions that were answered."""
        return len(self._turns) // 2

    def asking(self, question: str) -> list[ChatMessage]:
        """What the model is to be asked; nothing is kept before it has answered."""
        return [*self.messages, ChatMessage(role="user", content=question)]

    def keep(self, question: str, answer: str) -> None:
        """A question was answered."""
        self._turns += [ChatMessage(role="user", content=question), ChatMessage(role="assistant", content=answer)]

    def clear(self) -> None:
        """Forget every turn but the system's."""
        self._turns = []

    def as_json(self) -> str:
        """All turns as a list of messages, as chat interfaces take them."""
        turns = [{"role": turn.role, "content": turn.content} for turn in self.messages]
        return json.dumps(turns, ensure_ascii=False, indent=2) + "\n"

    def as_markdown(self) -> str:
        """All turns under headings, for people."""
        return "\n".join(f"## {turn.role}\n\n{turn.content}\n" for turn in self.messages)
