// Follows the events, draws each picture, comes back after a break, and asks for the key where one is needed.

import { ask, events, key, Refused } from "./api.js";
import * as batches from "./batches.js";
import * as charts from "./charts.js";
import { byId, setText } from "./dom.js";
import * as letters from "./letters.js";
import * as models from "./models.js";
import * as playground from "./playground.js";
import * as requests from "./requests.js";

const LONGEST_WAIT_MS = 10000;
const SILENCE_MS = 5000;

function status(state, text) {
  byId("status").dataset.state = state;
  setText(byId("status"), text);
}

function draw(snapshot) {
  status(snapshot.redis ? "live" : "away", snapshot.redis ? "live" : "Redis is away");
  setText(byId("node"), `${snapshot.node} · ${snapshot.version}`);
  charts.add(snapshot.point);
  for (const view of [models, requests, batches, letters, playground]) view.draw(snapshot);
}

// Ends with an error, as a stream that falls silent does: a picture comes every second.
async function follow() {
  const connection = new AbortController();
  let alarm = setTimeout(() => connection.abort(), SILENCE_MS);
  try {
    const response = await ask("console/events", { signal: connection.signal });
    byId("key").hidden = !key.get();
    for await (const { event, data } of events(response)) {
      clearTimeout(alarm);
      alarm = setTimeout(() => connection.abort(), SILENCE_MS);
      if (event === "history") charts.restart(JSON.parse(data));
      if (event === "snapshot") draw(JSON.parse(data));
    }
  } finally {
    clearTimeout(alarm);
  }
}

function askForKey(message) {
  const dialog = byId("key-dialog");
  setText(byId("key-error"), message);
  byId("key-input").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      key.set(byId("key-input").value.trim());
      dialog.close();
      resolve();
    }, { once: true });
  });
}

byId("key-dialog").addEventListener("cancel", (event) => event.preventDefault());
byId("key").addEventListener("click", () => {
  key.forget();
  location.reload();
});

if ("guarded" in document.documentElement.dataset && !key.get()) {
  status("waiting", "wants a key");
  await askForKey("");
}
for (let wait = 500; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
  try {
    await follow();
    wait = 500;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      status("waiting", "wants a key");
      await askForKey(key.get() ? error.message : "");
      wait = 500;
      continue;
    }
  }
  status("away", "no connection, trying again");
  await new Promise((resolve) => { setTimeout(resolve, wait); });
}
