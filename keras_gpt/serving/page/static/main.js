// The page: asks the API, shows what comes, and keeps the state that a link holds.

import { ApiError, fetchJson, isReady, keyIsThere, setKey, streamed } from "./api.js";
import { openAttention } from "./attention.js";
import { Turn } from "./conversation.js";
import { fragmentOf, holdsState, stateOf } from "./link.js";
import * as settings from "./settings.js";
import { hideTip } from "./tip.js";
import { readChunk } from "./tokens.js";
import { hush, speak, switchLanguage, tell } from "./words.js";

const NUM_TOP = 5; // as many as /v1/completions gives
const part = (id) => document.getElementById(id);
const prompt = part("prompt");

let model = null; // its card
let mode = "text";
let turns = [];
let work = null; // the AbortController of the answer that is being written

// -- starting -------------------------------------------------------------------------------------

async function start() {
  let ready = await isReady();
  while (!ready) {
    tell(part("status"), ready === null ? "unreachable" : "starting");
    await new Promise((resolve) => setTimeout(resolve, 1500));
    ready = await isReady();
  }
  hush(part("status"));
  await loadModel();
}

async function loadModel() {
  let card;
  try {
    [card] = (await fetchJson("v1/models")).data;
  } catch (error) {
    if (error.status === 401) askForKey(keyIsThere() ? "error_key" : null);
    else explain(part("notice"), error);
    return;
  }
  model = { id: card.id, ...card.keras_gpt };
  part("model-name").textContent = document.title = model.id;
  part("modes").hidden = !model.is_chat;
  settings.suit(model);
  setMode(model.is_chat ? "chat" : "text");
  if (holdsState(location.hash)) takeLink();
  part("send").disabled = part("share").disabled = false;
}

function setMode(wanted) {
  mode = wanted === "chat" && model.is_chat ? "chat" : "text";
  document.body.dataset.mode = mode;
  for (const radio of document.querySelectorAll("[name=mode]")) {
    radio.checked = radio.value === mode;
  }
  settings.showFields(mode === "chat");
  tell(part("prompt-label"), `prompt_${mode}`);
  tell(part("send"), mode === "chat" ? "send" : "write");
  tell(part("welcome-title"), `welcome_${mode}`, { model: model.id });
  tell(part("welcome-hint"), "welcome_hint");
  prompt.dataset.hint = `placeholder_${mode}`;
  writePlaceholder();
}

function writePlaceholder() {
  const hint = document.createElement("span");
  if (prompt.dataset.hint) tell(hint, prompt.dataset.hint);
  prompt.placeholder = hint.textContent;
}

// -- answers --------------------------------------------------------------------------------------

const ACTIONS = {
  attention: (turn) => openAttention(attentionBody(turn), model.num_layers, explainAttention),
  copy: (turn, button) => copy(turn.before.textContent + turn.content, button),
  again: (turn) => {
    if (work) return;
    const before = turns.slice(0, turns.indexOf(turn));
    if (mode === "chat") {
      for (const each of turns.slice(before.length)) each.remove();
      turns = before;
      answer();
    } else {
      goOn(turn.before.textContent);
    }
  },
  go_on: (turn) => {
    if (!work) goOn(turn.before.textContent + turn.content);
  },
};

function send() {
  if (work || !model || !settings.check()) return;
  hush(part("notice"));
  if (mode === "text") {
    goOn(prompt.value);
  } else if (prompt.value.trim()) {
    addTurn("user").say(prompt.value.trim());
    prompt.value = "";
    answer();
  }
}

function goOn(text) {
  clear();
  prompt.value = text;
  answer();
}

function addTurn(role) {
  const { attention, copy, again, go_on } = ACTIONS;
  const actions = { attention, copy, again, ...(role === "text" ? { go_on } : {}) };
  const turn = new Turn(role, actions);
  turns.push(turn);
  part("clear").hidden = false;
  return turn;
}

function messagesBefore(turn) {
  const system = settings.systemMessage();
  const said = turns.slice(0, turns.indexOf(turn));
  return [
    ...(system ? [{ role: "system", content: system }] : []),
    ...said.map(({ role, content }) => ({ role, content })),
  ];
}

function attentionBody(turn) {
  const body = { model: model.id, answer: turn.content };
  return turn.role === "text"
    ? { ...body, prompt: turn.before.textContent }
    : { ...body, messages: messagesBefore(turn) };
}

async function answer() {
  const turn = addTurn(mode === "chat" ? "assistant" : "text");
  if (mode === "text") turn.before.textContent = prompt.value;
  const asked = { model: model.id, stream: true, ...settings.request() };
  const path = mode === "chat" ? "v1/chat/completions" : "v1/completions";
  const body =
    mode === "chat"
      ? { ...asked, messages: messagesBefore(turn), logprobs: true, top_logprobs: NUM_TOP }
      : { ...asked, prompt: turn.before.textContent, logprobs: NUM_TOP };
  work = new AbortController();
  setBusy(true);
  turn.begin();
  let [count, reason, from] = [0, "error", 0];
  try {
    for await (const chunk of withRoom(path, body, work.signal)) {
      const choice = chunk.choices[0];
      const { text, tokens } = readChunk(choice);
      if (tokens.length && !from) from = performance.now();
      count += tokens.length;
      if (text || tokens.length) turn.push(text, tokens);
      reason = choice.finish_reason ?? reason;
    }
  } catch (error) {
    if (error.name === "AbortError") reason = "you";
    else if (error.status === 401) askForKey("error_key");
    else if (error instanceof ApiError) explain(turn.problem, error);
    else throw error;
  } finally {
    work = null;
    setBusy(false);
    const seconds = (performance.now() - from) / 1000;
    turn.end({ count, rate: count > 1 && (count - 1) / seconds, reason, seed: asked.seed });
  }
}

/** Stream an answer; of a chat that has less room than an answer may have, as much as fits. */
async function* withRoom(path, body, signal) {
  try {
    yield* streamed(path, body, signal);
  } catch (error) {
    if (error.code !== "context_length_exceeded" || !body.messages) throw error;
    yield* streamed(path, { ...body, max_tokens: null }, signal);
  }
}

function setBusy(isBusy) {
  const hadFocus = [part("send"), part("stop")].includes(document.activeElement);
  part("send").hidden = isBusy;
  part("stop").hidden = !isBusy;
  if (hadFocus) part(isBusy ? "stop" : "send").focus();
  if (isBusy) tell(part("status"), "writing");
  else hush(part("status"));
  tell(part("spoken"), isBusy ? "writing" : "done");
}

function clear() {
  work?.abort();
  hideTip();
  for (const turn of turns) turn.remove();
  turns = [];
  part("clear").hidden = true;
  hush(part("notice"));
  hush(part("status"));
}

// -- errors ---------------------------------------------------------------------------------------

const KNOWN = ["queue_full", "not_ready", "shutting_down", "deadline_exceeded"];

function explain(place, error) {
  const { status, code, seconds, message } = error;
  if (status === 0) tell(place, "error_network");
  else if (KNOWN.includes(code)) tell(place, `error_${code}`);
  else if (code === "context_length_exceeded") {
    tell(place, "error_context", { most: model.max_tokens });
  } else if (code === "rate_limit_exceeded") {
    if (seconds) tell(place, "error_rate_limit_exceeded", { seconds });
    else tell(place, "error_rate_limit_size");
  } else tell(place, "error_any", { message });
}

function explainAttention(place, error) {
  if (error.code === "context_length_exceeded") {
    tell(place, "error_attention_context", { most: model.max_attention_tokens });
  } else explain(place, error);
}

function askForKey(problem) {
  if (problem) tell(part("key-problem"), problem);
  else hush(part("key-problem"));
  if (!part("key-dialog").open) part("key-dialog").showModal();
}

// -- the link -------------------------------------------------------------------------------------

async function share() {
  const said = turns.map((turn) => ({ role: turn.role, content: turn.content }));
  const state = {
    mode,
    settings: settings.changes(),
    draft: prompt.value,
    turns:
      mode === "chat"
        ? said
        : turns.flatMap((turn) => [
            { role: "user", content: turn.before.textContent },
            { role: "assistant", content: turn.content },
          ]),
  };
  history.replaceState(null, "", fragmentOf(state));
  try {
    await navigator.clipboard.writeText(location.href);
    tell(part("status"), "link_copied");
  } catch {
    // Only a page from this machine or over https may write there.
    part("share-link").value = location.href;
    part("share-dialog").showModal();
    part("share-link").select();
  }
}

function takeLink() {
  const state = stateOf(location.hash);
  if (state === null) {
    tell(part("notice"), "link_broken");
    return;
  }
  clear();
  setMode(state.mode);
  settings.takeChanges(state.settings);
  prompt.value = state.draft;
  if (mode === "chat" && state.mode === "chat") {
    for (const { role, content } of state.turns) addTurn(role).say(content);
  } else if (state.turns.length) {
    const [before, after] = [state.turns[0], state.turns[1]];
    const turn = addTurn("text");
    turn.before.textContent = before.content;
    turn.say(after?.content ?? "");
  }
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    tell(button, "copied");
    setTimeout(() => tell(button, "copy"), 1500);
  } catch {
    getSelection().selectAllChildren(button.closest(".turn").querySelector(".said"));
  }
}

// -- what people do -------------------------------------------------------------------------------

part("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
prompt.addEventListener("keydown", (event) => {
  // While Chinese is being typed, Enter chooses characters.
  if (event.key !== "Enter" || event.isComposing) return;
  const isPlain = !event.shiftKey && mode === "chat" && !matchMedia("(pointer: coarse)").matches;
  if (isPlain || event.ctrlKey || event.metaKey) {
    event.preventDefault();
    send();
  }
});
part("stop").addEventListener("click", () => work?.abort());
part("clear").addEventListener("click", () => {
  clear();
  prompt.focus();
});
part("modes").addEventListener("change", (event) => {
  clear();
  setMode(event.target.value);
});
part("coloured").addEventListener("change", (event) => {
  document.body.classList.toggle("plain-text", !event.target.checked);
});
part("share").addEventListener("click", share);
part("share-dialog").addEventListener("close", () => part("share").focus());
part("reset").addEventListener("click", settings.reset);
part("sampling").addEventListener("submit", (event) => event.preventDefault());
part("language").addEventListener("click", () => {
  switchLanguage();
  hideTip();
  writePlaceholder();
});
part("open-key").addEventListener("click", () => askForKey(null));
part("key-cancel").addEventListener("click", () => part("key-dialog").close());
part("key-form").addEventListener("submit", () => {
  setKey(part("key").value.trim());
  part("key").value = "";
  if (!model) loadModel();
});
window.addEventListener("hashchange", () => {
  if (model && holdsState(location.hash)) takeLink();
});

settings.makeFields(part("fields"), () => hush(part("notice")));
tell(part("language"), "other_language");
speak();
start();
