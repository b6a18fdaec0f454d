// Dead letters, for administrators, and the button that tries one again.

import { ask } from "./api.js";
import { byId, element, keyed, notice, setCells, setText } from "./dom.js";
import { seconds } from "./format.js";

export function draw(snapshot) {
  const letters = snapshot.dead_letters;
  const known = snapshot.models.reduce((sum, model) => sum + model.dead_letters, 0);
  byId("letter-rows").closest(".scroll").hidden = !letters.length;
  byId("no-letters").hidden = letters.length > 0;
  const hidden = known ? `There are ${known}; an administrator's key shows them.` : "There are none.";
  setText(byId("no-letters"), snapshot.admin ? "There are none." : hidden);
  keyed(byId("letter-rows"), letters, (letter) => `${letter.queue} ${letter.id}`, make, (row, letter) => {
    setCells(row, [null, null, null, null, null, seconds(Math.max(0, (snapshot.now_ms - letter.died_ms) / 1000)), null]);
  });
}

function make(letter) {
  const retry = element("button.small", { type: "button", "aria-label": `Retry request ${letter.request_id}` }, "Retry");
  retry.addEventListener("click", () => again(letter, retry));
  return element("tr", {},
    element("td.id", { title: letter.request_id }, letter.request_id), element("td.id.wide", { title: letter.queue }, letter.queue),
    element("td", {}, letter.tenant), element("td.num", {}, String(letter.lost)), element("td.id.wide", { title: letter.worker }, letter.worker),
    element("td.num"), element("td.num", {}, retry));
}

async function again(letter, button) {
  button.disabled = true;
  try {
    const response = await ask("console/dead-letters/retry", { body: { queue: letter.queue, id: letter.id } });
    notice(`Tried again as request ${(await response.json()).request_id}.`);
  } catch (error) {
    notice(`Not retried: ${error.message}`);
    button.disabled = false;
  }
}
