// A chat with one of the models, streamed.

import { ask, events } from "./api.js";
import { byId, element, keyed, setText } from "./dom.js";

const talk = byId("talk");
const question = byId("question");
let turns = [];
let running = null;

export function draw(snapshot) {
  const names = snapshot.models.filter((model) => model.up).map((model) => model.name);
  keyed(byId("model"), names, (name) => name, (name) => element("option", { value: name }, name), () => {});
}

function say(role, text = "") {
  const turn = element(`div.turn.${role}`, {}, text);
  talk.append(turn);
  talk.scrollTop = talk.scrollHeight;
  return turn;
}

async function answer(text) {
  turns.push({ role: "user", content: text });
  say("user", text);
  const body = {
    model: byId("model").value, messages: turns, stream: true, stream_options: { include_usage: true },
    max_completion_tokens: byId("max-tokens").valueAsNumber || 256,
  };
  running = new AbortController();
  busy(true);
  const begun = performance.now();
  let thought = null;
  let turn = null;
  let said = "";
  let first = null;
  try {
    const response = await ask("v1/chat/completions", { body, signal: running.signal });
    for await (const { data } of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) tellSpeed(chunk.usage.completion_tokens, begun, first);
      const delta = chunk.choices[0]?.delta ?? {};
      const thinking = delta.reasoning ?? delta.reasoning_content;
      if (thinking) (thought ??= say("thought")).append(thinking);
      if (delta.content) {
        (turn ??= say("assistant")).append(delta.content);
        said += delta.content;
      }
      if (thinking || delta.content) first ??= performance.now();
      talk.scrollTop = talk.scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") say("failed", error.message);
    else setText(byId("speed"), "stopped");
  } finally {
    running = null;
    busy(false);
    // Without an answer the question is taken back, so that turns keep alternating.
    if (said) turns.push({ role: "assistant", content: said });
    else turns.pop();
  }
}

function tellSpeed(tokens, begun, first) {
  const now = performance.now();
  // Of what came all at once the rate says nothing.
  const rate = first && now - first > 100 ? ` at ${((tokens * 1000) / (now - first)).toFixed(1)} tokens/s` : "";
  setText(byId("speed"), `${tokens} tokens, first after ${Math.round((first ?? now) - begun)} ms${rate}`);
}

function busy(yes) {
  byId("send").disabled = yes;
  byId("stop").disabled = !yes;
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running) return;
  question.value = "";
  answer(text);
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  running?.abort();
  turns = [];
  talk.replaceChildren();
  setText(byId("speed"), "");
  question.focus();
});
