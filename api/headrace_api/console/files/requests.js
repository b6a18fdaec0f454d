// Recent requests as a waterfall of their phases, and the button that cancels one.

import { ask } from "./api.js";
import { byId, element, keyed, notice, setCells, setText } from "./dom.js";
import { ms } from "./format.js";

const PHASES = ["prepare", "enqueue", "queue", "prefill", "decode"];

export function draw(snapshot) {
  byId("no-requests").hidden = snapshot.requests.length > 0;
  byId("no-requests").previousElementSibling.hidden = !snapshot.requests.length;
  const longest = Math.max(...snapshot.requests.map((request) => total(request, snapshot.now_ms)), 1);
  keyed(byId("request-rows"), snapshot.requests, (request) => request.id, make, (row, request) => {
    renew(row, request, snapshot.now_ms, longest);
  });
}

function total(request, now) {
  return request.ended_ms ?? Math.max(0, now - request.arrived_ms);
}

// Each begins where the one before it ended; the one that lasts ends now.
export function phases(request, now) {
  const enqueued = request.enqueued_ms;
  const first = request.first_token_ms;
  let claimed = enqueued !== null && request.queue_ms !== null ? enqueued + request.queue_ms : null;
  if (claimed !== null && first !== null) claimed = Math.min(claimed, first);
  const marks = [0, request.prepared_ms, enqueued, claimed, first];
  const end = total(request, now);
  return PHASES.flatMap((name, index) => {
    const start = marks[index];
    if (start === null) return [];
    const next = marks.slice(index + 1).find((mark) => mark !== null) ?? end;
    return [{ name, start, end: Math.max(start, Math.min(next, Math.max(end, start))) }];
  });
}

function make(request) {
  const row = element("tr", {},
    element("td.id", { title: request.id }, request.id), element("td.wide.id", { title: request.model }, request.model),
    element("td.wide.id", { title: request.tenant }, request.tenant), element("td.num.wide", {}, String(request.priority)),
    element("td.fall", {}, element("span.phases", { role: "img" }, ...PHASES.map((name) => element(`i.${name}`)))),
    element("td.num"), element("td.num.wide"), element("td.num.wide"), element("td"));
  const cancel = element("button.small", { type: "button", "aria-label": `Cancel request ${request.id}` }, "Cancel");
  cancel.addEventListener("click", () => stop(request.id, cancel));
  row.lastElementChild.append(element("span"), cancel);
  return row;
}

function renew(row, request, now, longest) {
  const running = request.outcome === "running";
  const tokens = running ? "" : `${request.prompt_tokens} + ${request.completion_tokens}`;
  setCells(row, [null, null, null, null, null, ms(total(request, now)), ms(request.first_token_ms), tokens, null]);
  const shown = phases(request, now);
  const bars = row.querySelector(".phases");
  for (const bar of bars.children) {
    const phase = shown.find((each) => each.name === bar.className);
    bar.hidden = !phase || phase.end <= phase.start;
    if (!phase) continue;
    bar.style.left = `${(phase.start / longest) * 100}%`;
    bar.style.width = `${((phase.end - phase.start) / longest) * 100}%`;
  }
  const told = shown.map((phase) => `${phase.name} ${ms(phase.end - phase.start)}`).join(", ");
  bars.setAttribute("aria-label", told);
  bars.title = told + (request.attempts > 1 ? `; ${request.attempts} workers` : "");
  const [state, cancel] = row.lastElementChild.children;
  cancel.hidden = !running;
  setText(state, running ? "" : request.outcome.replaceAll("_", " "));
  state.className = { finished: "good", cancelled: "dim", running: "" }[request.outcome] ?? "bad";
}

async function stop(id, button) {
  button.disabled = true;
  try {
    await ask(`v1/requests/${encodeURIComponent(id)}/cancel`, { body: {} });
    notice(`Request ${id} is cancelled.`);
  } catch (error) {
    notice(`Not cancelled: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}
