"""Renders the health page: the parts that are live, once for all readers, and the page around them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

from osai.coordinator.api import SwarmView
from osai.coordinator.health.cards import hosts_of, model_card
from osai.coordinator.health.energy import CPU_CORE_W, OTHER_GPU_W
from osai.coordinator.health.figures import Figures
from osai.coordinator.health.rows import node_row, rank
from osai.coordinator.health.view import contributors, page_frame, summary

REFRESH_S = 5  # between refreshes of an open page without scripts: it sees a departure about when the swarm does
MODELS_BYTES = 36_000  # about 20 models of 80 layers
NODES_BYTES = 24_000  # of a page of nodes
CHOICES_BYTES = 1_500  # of the try-it box: more models than anybody looks through
NODES_A_PAGE = 25
PACKAGE = "osai.coordinator.health"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is live on the page, as HTML by the part's name; the names of models' parts in order."""

    html: Mapping[str, str]
    models: tuple[str, ...]
    title: str


class HealthPage:
    """The page's templates, ready to be filled with a swarm's view."""

    def __init__(self) -> None:
        environment = Environment(
            loader=PackageLoader(PACKAGE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        names = ("page", "summary", "model", "nodes", "node", "contributors")
        self._templates = {name: environment.get_template(f"{name}.html.j2") for name in names}

    def parts(self, view: SwarmView, figures: Figures, *, now_s: float) -> Parts:
        """What is live, the first page of nodes among it. `now_s`: the time to show, seconds since 1970.

        It stays under 80 KB: models that do not fit are counted and linked, and nodes have pages.
        """
        hosts = hosts_of(view)
        cards = (
            self._filled("model", model=model_card(model, figures, hosts.get(model.model_id, [])))
            for model in view.models
        )
        models = {f"m{i}": html for i, html in enumerate(fitting(cards, MODELS_BYTES))}
        head = summary(view, figures)
        now = datetime.fromtimestamp(now_s, UTC)
        html = {
            "asof": f'As of <time datetime="{now.isoformat(timespec="seconds")}">{now.strftime("%H:%M:%S")} UTC</time>',
            "summary": self._filled("summary", s=head),
            **models,
            "nodes": self.nodes(view, figures, page=1),
            "contributors": self._filled("contributors", c=contributors(figures)),
        }
        title = f"{head.num_servable}/{head.num_models} models servable"
        return Parts(html=html, models=tuple(models), title=title)

    def nodes(self, view: SwarmView, figures: Figures, *, page: int) -> str:
        """One page of nodes, counted from 1; the last one where there are fewer."""
        num_pages = max(1, -(-len(view.nodes) // NODES_A_PAGE))
        page = min(max(page, 1), num_pages)
        start = (page - 1) * NODES_A_PAGE
        shown = sorted(view.nodes, key=rank)[start : start + NODES_A_PAGE]
        rows = fitting((self._filled("node", node=node_row(node, figures)) for node in shown), NODES_BYTES)
        left_out = len(shown) - len(rows)
        return self._filled(
            "nodes", rows=rows, page=page, num_pages=num_pages, num_nodes=len(view.nodes), num_left_out=left_out
        )

    def around(
        self, parts: Parts, view: SwarmView, *, own_url: str, frame_id: str, keyed: bool, nodes_page: int
    ) -> str:
        """The whole page for one reader, who found it at `own_url`; `keyed`: the API asks for keys."""
        frame = page_frame(view, own_url=own_url)
        return self._filled(
            "page",
            page=frame,
            choices=fitting(frame.models, CHOICES_BYTES),
            title=parts.title,
            parts=parts.html,
            models=parts.models,
            num_models=len(view.models),
            nodes_page=nodes_page,
            frame_id=frame_id,
            keyed=keyed,
            refresh_s=REFRESH_S,
            other_gpu_w=OTHER_GPU_W,
            cpu_core_w=CPU_CORE_W,
        )

    def html(self, view: SwarmView, *, own_url: str, now_s: float, figures: Figures | None = None) -> str:
        """The page of a moment."""
        parts = self.parts(view, figures or Figures(), now_s=now_s)
        return self.around(parts, view, own_url=own_url, frame_id="", keyed=False, nodes_page=1)

    def _filled(self, template: str, **values: object) -> str:
        return self._templates[template].render(**values)


def fitting(parts: Iterable[str], max_bytes: int) -> list[str]:
    """As many of the parts, from the first on, as have room."""
    taken: list[str] = []
    for part in parts:
        max_bytes -= len(part.encode())
        if max_bytes < 0:
            break
        taken.append(part)
    return taken
