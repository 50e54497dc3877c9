// Replaces the live part of the page every few seconds; without scripts, the page reloads itself instead.
"use strict";
const live = document.getElementById("live");

async function refresh() {
  if (document.hidden || !getSelection().isCollapsed) return; // nobody looks, or somebody copies
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    live.replaceChildren(...fresh.getElementById("live").childNodes);
    live.classList.remove("stale");
  } catch {
    live.classList.add("stale");
    const note = document.getElementById("asof");
    if (!note.dataset.stale) {
      note.dataset.stale = "yes";
      note.append(" · the coordinator does not answer now, so this may be out of date");
    }
  }
}

setInterval(refresh, 1000 * Number(live.dataset.refreshS));
