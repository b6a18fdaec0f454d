// Batches with how far they are, and the button that cancels one.

import { address, ask, key } from "./api.js";
import { byId, element, keyed, notice, setCells, setText } from "./dom.js";
import { about, count } from "./format.js";

const STATES = { completed: "good", failed: "bad", expired: "bad", cancelled: "dim", cancelling: "dim" };
const OPEN = ["validating", "in_progress"];

export function draw(snapshot) {
  const none = !snapshot.batches.length;
  byId("no-batches").hidden = !none;
  byId("batch-rows").closest(".scroll").hidden = none;
  if (none) setText(byId("first-batch"), example());
  keyed(byId("batch-rows"), snapshot.batches, (batch) => batch.id, make, (row, batch) => renew(row, batch, snapshot.now_ms / 1000));
}

function example() {
  const who = key.get() ? ' -H "Authorization: Bearer $KEY"' : "";
  return `curl ${address("v1/files")}${who} -F purpose=batch -F file=@input.jsonl
curl ${address("v1/batches")}${who} -H "Content-Type: application/json" \\
  -d '{"input_file_id": "file-...", "endpoint": "/v1/chat/completions", "completion_window": "24h"}'`;
}

function make(batch) {
  const bar = element("span.bar.two", { role: "progressbar", "aria-label": `Batch ${batch.id}`, "aria-valuemin": "0" },
    element("i"), element("i.failed"));
  const row = element("tr", {},
    element("td.id", { title: batch.id }, batch.id), element("td.id.wide"), element("td.id.wide", { title: batch.tenant }, batch.tenant),
    element("td.progress", {}, element("span.gauge", {}, bar, element("span")), element("span.bad")),
    element("td.num.wide"), element("td.num.wide"), element("td.num"), element("td"));
  const cancel = element("button.small", { type: "button", "aria-label": `Cancel batch ${batch.id}` }, "Cancel");
  cancel.addEventListener("click", () => stop(batch.id, cancel));
  row.lastElementChild.append(element("span"), " ", cancel);
  return row;
}

function renew(row, batch, now) {
  const rate = batch.items_per_s === null ? "–" : count(batch.items_per_s);
  const ended = batch.completed + batch.failed;
  setCells(row, [null, batch.model ?? "", null, null, String(batch.failed), rate, end(batch, now), null]);
  row.cells[1].title = `${batch.model ?? ""} ${batch.endpoint}`.trim();
  row.cells[6].title = endTitle(batch, now);
  const [gauge, problem] = row.cells[3].children;
  const [bar, done] = gauge.children;
  gauge.hidden = batch.problem !== null;
  setText(done, batch.total ? `${ended}/${batch.total}` : "–");
  setText(problem, batch.problem ?? "");
  problem.title = batch.problem ?? "";
  bar.firstElementChild.style.width = share(batch.completed, batch.total);
  bar.lastElementChild.style.width = share(batch.failed, batch.total);
  bar.setAttribute("aria-valuemax", String(Math.max(batch.total, 1)));
  bar.setAttribute("aria-valuenow", String(ended));
  bar.setAttribute("aria-valuetext", `${batch.completed} completed, ${batch.failed} failed of ${batch.total}`);
  bar.title = bar.getAttribute("aria-valuetext");
  const [state, cancel] = row.lastElementChild.children;
  setText(state, batch.status.replaceAll("_", " "));
  state.className = STATES[batch.status] ?? "";
  cancel.hidden = !OPEN.includes(batch.status);
}

const share = (part, total) => (total ? `${(part / total) * 100}%` : "0%");

function end(batch, now) {
  if (batch.ended_at !== null) return `${about(Math.max(0, now - batch.ended_at))} ago`;
  return batch.left_s === null ? "–" : `in ${about(batch.left_s)}`;
}

function endTitle(batch, now) {
  if (batch.ended_at !== null) return at(batch.ended_at);
  const expires = `expires ${at(batch.expires_at)}`;
  return batch.left_s === null ? expires : `about ${at(now + batch.left_s)}; ${expires}`;
}

const at = (moment) => new Date(moment * 1000).toLocaleString();

async function stop(id, button) {
  button.disabled = true;
  try {
    const response = await ask(`v1/batches/${encodeURIComponent(id)}/cancel`, { body: {} });
    notice(`Batch ${id} is ${(await response.json()).status}.`);
  } catch (error) {
    notice(`Not cancelled: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}
