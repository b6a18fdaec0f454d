// Models, their workers and the lanes of their queues.

import { byId, element, keyed, setCells, setText } from "./dom.js";
import { count, ms, percent, seconds } from "./format.js";

const STATES = { ready: "good", draining: "warn", starting: "warn" };
const MOST_LANES = 24;

export function draw(snapshot) {
  byId("no-models").hidden = snapshot.models.length > 0;
  keyed(byId("model-list"), snapshot.models, (model) => model.queue, makeModel, (box, model) => {
    setText(box.querySelector("h3"), model.name);
    box.querySelector(".down").hidden = model.up;
    box.querySelector(".workers").closest("table").hidden = !model.workers.length;
    drawFacts(box.querySelector(".facts"), model);
    keyed(box.querySelector(".workers"), model.workers, (worker) => worker.id, makeWorker, drawWorker);
    const lanes = model.lanes.slice(0, MOST_LANES);
    keyed(box.querySelector(".lanes"), lanes, (lane) => String(lane.priority), makeLane, (row, lane) => drawLane(row, lane, model));
    box.querySelector(".lanes").closest("table").hidden = !lanes.length;
    setText(box.querySelector(".no-lanes"), lanesNote(model));
  });
}

function lanesNote(model) {
  const more = model.lanes.length - MOST_LANES;
  if (more > 0) return `and ${more} lanes that are less urgent`;
  return model.lanes.length ? "" : "Nothing waits.";
}

function headings(names) {
  return element("thead", {}, element("tr", {}, ...names.map((name) => {
    const [text, ...classes] = name.split(".");
    return element(["th", ...classes].join("."), { scope: "col" }, text);
  })));
}

function makeModel() {
  const workers = element("table", {}, element("caption.hidden", {}, "Workers"),
    headings(["Worker", "State", "KV cache", "Batch.num", "Waiting.num.wide", "Step.num", "Tokens/s.num", "Prefix hits.num.wide", "Lease.num.wide", "Up.num.wide"]),
    element("tbody.workers"));
  const lanes = element("table", {}, element("caption.hidden", {}, "Lanes by priority"),
    headings(["Priority", "Depth", "Tokens.num", "Oldest.num"]), element("tbody.lanes"));
  return element("article.model", {}, element("h3"), element("p.down.bad", { hidden: "" }, "down: no worker of it is ready"), element("p.facts"),
    element("div.parts", {}, element("div.scroll", {}, workers), element("div.scroll", {}, lanes, element("p.no-lanes.empty"))));
}

function drawFacts(list, model) {
  const facts = [
    ["workers", `${model.workers.length}`, model.desired_workers > model.workers.length ? ` of ${model.desired_workers} wanted` : ""],
    ["running", `${model.running}`, model.slots ? ` of ${model.slots} places` : ""],
    ["waiting", `${model.queued_requests}`, model.queued_tokens ? ` (${count(model.queued_tokens)} tokens)` : ""],
    ["oldest", model.queued_requests ? ms(model.oldest_ms) : "–", ""],
    ["drains", model.drain_tokens_per_s ? `${count(model.drain_tokens_per_s)} tokens/s` : "–", ""],
    ["dead letters", `${model.dead_letters}`, ""],
  ];
  keyed(list, facts, (fact) => fact[0], (fact) => element("span", {}, `${fact[0]} `, element("b"), element("span")), (item, fact) => {
    setText(item.querySelector("b"), fact[1]);
    setText(item.querySelector("span"), fact[2]);
  });
}

function makeWorker(worker) {
  const row = element("tr", {}, element("td.id", { title: worker.host ? `${worker.id} on ${worker.host}` : worker.id }, worker.id));
  for (const name of ["td", "td", "td.num", "td.num.wide", "td.num", "td.num", "td.num.wide", "td.num.wide", "td.num.wide"]) row.append(element(name));
  row.cells[2].append(element("span.meter", {}, element("span.bar", { "aria-hidden": "true" }, element("i")), element("span")));
  return row;
}

function drawWorker(row, worker) {
  const used = worker.kv_blocks_total ? 1 - worker.kv_blocks_free / worker.kv_blocks_total : 0;
  setCells(row, [
    null, worker.state, null, `${worker.running}/${worker.max_num_seqs}`, String(worker.waiting), ms(worker.step_ms),
    count(worker.tokens_per_s), percent(worker.prefix_hit_rate), worker.lease_ms === null ? "–" : ms(Math.max(worker.lease_ms, 0)),
    worker.started_ms ? seconds(Math.max(0, (Date.now() - worker.started_ms) / 1000)) : "–",
  ]);
  row.cells[1].className = STATES[worker.state] ?? "";
  setMeter(row.cells[2], used, percent(used));
  row.cells[2].title = `${worker.kv_blocks_total - worker.kv_blocks_free} of ${worker.kv_blocks_total} blocks`;
}

function makeLane() {
  const row = element("tr", {}, element("td"), element("td"), element("td.num"), element("td.num"));
  row.cells[1].append(element("span.meter", {}, element("span.bar", { "aria-hidden": "true" }, element("i")), element("span")));
  return row;
}

function drawLane(row, lane, model) {
  const deepest = Math.max(...model.lanes.map((each) => each.requests));
  setCells(row, [String(lane.priority), null, count(lane.tokens), ms(lane.oldest_ms)]);
  setMeter(row.cells[1], lane.requests / deepest, String(lane.requests), false);
}

function setMeter(cell, share, text, warns = true) {
  const bar = cell.querySelector("i");
  bar.style.width = `${Math.min(100, share * 100)}%`;
  bar.classList.toggle("high", warns && share > 0.9);
  setText(cell.querySelector(".meter").lastElementChild, text);
}
