// Keeps the page live: parts come by server-sent events, or by asking every few seconds where those don't.
// Without scripts the page reloads itself instead.
"use strict";
const live = document.getElementById("live");
const state = document.getElementById("state");
const POLL_MS = 1000 * Number(live.dataset.refreshS);
const STALE_MS = 9000; // events come every 2 s
const AGAIN_MS = 60000; // until the stream is tried again where it was refused
let source = null, polling = null, retrying = null, heardMs = Date.now(), pagedMs = 0;

function part(name) { return live.querySelector(`[data-part="${CSS.escape(name)}"]`); }

function put(name, html) {
  const old = part(name);
  if (!old) return location.reload(); // another coordinator, or another list of models
  if (!getSelection().isCollapsed && getSelection().containsNode(old, true)) return; // somebody copies
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  old.innerHTML = html;
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function show({ title, parts }) {
  document.title = `${title} · osai swarm`;
  for (const [name, html] of Object.entries(parts)) if (name !== "nodes" || onFirstPage()) put(name, html);
  heardMs = Date.now();
  live.classList.remove("stale");
  if (state.textContent) state.textContent = "";
  if (!onFirstPage() && heardMs - pagedMs > POLL_MS) turnTo(nodesPage());
}

function listen() {
  stop();
  source = new EventSource(`live?since=${encodeURIComponent(live.dataset.frame)}`);
  source.onmessage = (event) => { live.dataset.frame = event.lastEventId; show(JSON.parse(event.data)); };
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return; // it reconnects by itself
    stop();
    polling = setInterval(poll, POLL_MS);
    retrying = setTimeout(listen, AGAIN_MS);
  };
}

function stop() {
  source?.close();
  clearInterval(polling);
  clearTimeout(retrying);
  source = polling = retrying = null;
}

async function poll() {
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const parts = {};
    for (const one of fresh.querySelectorAll("#live [data-part]")) parts[one.dataset.part] = one.innerHTML;
    show({ title: fresh.title.split(" · ")[0], parts });
  } catch { /* the watch tells */ }
}

function watch() {
  if (document.hidden || Date.now() - heardMs < STALE_MS || live.classList.contains("stale")) return;
  live.classList.add("stale");
  state.textContent = "· the coordinator does not answer now, so this may be out of date";
}

// Pages of nodes
function nodesPage() { return Number(part("nodes").dataset.page); }
function onFirstPage() { return nodesPage() === 1; }
async function turnTo(page) {
  pagedMs = Date.now();
  try {
    const answer = await fetch(`nodes?page=${page}`, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) return;
    const html = await answer.text();
    part("nodes").dataset.page = page;
    put("nodes", html);
  } catch { /* the next tick tries again */ }
}
live.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-page]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  await turnTo(Number(link.dataset.page));
  history.replaceState(null, "", nodesPage() > 1 ? `?page=${nodesPage()}` : location.pathname);
  if (!live.contains(document.activeElement)) live.querySelector(".pager a")?.focus({ preventScroll: true });
  document.getElementById("nodes").scrollIntoView();
});

document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
setInterval(watch, 1000);
if (!document.hidden) listen();

// The try-it box
const form = document.getElementById("ask");
if (form) {
  const answer = document.getElementById("answer"), figures = document.getElementById("ask-figures");
  const sendButton = document.getElementById("ask-send"), stopButton = document.getElementById("ask-stop");
  let running = null;
  form.hidden = false;

  function body() {
    const prompt = form.elements.prompt.value, chat = form.elements.kind.value.startsWith("chat");
    const asked = { model: form.elements.model.value, max_tokens: 128, temperature: 0.8, stream: true };
    return chat ? { ...asked, messages: [{ role: "user", content: prompt }] } : { ...asked, prompt };
  }

  async function* events(response) {
    const reader = response.body.getReader(), decoder = new TextDecoder();
    for (let rest = "", got; !(got = await reader.read()).done; ) {
      const lines = (rest + decoder.decode(got.value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }

  async function ask() {
    running = new AbortController();
    const asked = Date.now();
    let first = 0, count = 0;
    const response = await fetch(`v1/${form.elements.kind.value}`, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body()), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error?.message ?? `status ${response.status}`);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0], text = choice?.text ?? choice?.delta?.content ?? "";
      if (!text) continue;
      first ||= Date.now();
      count += 1;
      answer.append(text);
      answer.scrollTop = answer.scrollHeight;
      const pace = count > 1 ? ` · ${((count - 1) / ((Date.now() - first) / 1000 || 1e-3)).toFixed(1)} pieces/s` : "";
      figures.textContent = `first after ${((first - asked) / 1000).toFixed(2)} s${pace}`;
    }
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    answer.textContent = figures.textContent = "";
    answer.className = "";
    answer.hidden = false;
    sendButton.disabled = !(stopButton.disabled = false);
    answer.setAttribute("aria-busy", "true");
    try {
      await ask();
    } catch (error) {
      if (error.name !== "AbortError") {
        answer.className = "failure";
        answer.append(`${answer.textContent ? "\n" : ""}${error.message}`);
      }
    } finally {
      running = null;
      answer.removeAttribute("aria-busy");
      stopButton.disabled = !(sendButton.disabled = false);
    }
  });
  stopButton.addEventListener("click", () => running?.abort());
  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}
