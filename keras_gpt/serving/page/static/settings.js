// The sampling controls: a form made from a table, and its values.

import { tell } from "./words.js";

const GROUPS = {
  choosing: [
    { name: "temperature", min: 0, max: 2, step: 0.05, usual: 0.7, slider: true },
    { name: "top_p", min: 0, max: 1, step: 0.01, usual: 0.95, slider: true },
    { name: "min_p", min: 0, max: 1, step: 0.01, usual: 0, slider: true },
    { name: "top_k", min: 0, max: 1000000, step: 1, usual: 0 },
  ],
  penalties: [
    { name: "repetition_penalty", min: 0.5, max: 2, step: 0.01, usual: 1, slider: true },
    { name: "presence_penalty", min: -2, max: 2, step: 0.1, usual: 0, slider: true },
    { name: "frequency_penalty", min: -2, max: 2, step: 0.1, usual: 0, slider: true },
  ],
  answer: [
    { name: "max_tokens", min: 1, max: 1000000, step: 1, usual: 256 },
    { name: "seed", min: 0, max: 2147483647, step: 1, usual: null },
    { name: "stop", usual: "", rows: 2 },
    { name: "system", usual: "", rows: 3, chat: true },
  ],
};
const FIELDS = Object.values(GROUPS).flat();
const inputs = {};
const usual = Object.fromEntries(FIELDS.map((field) => [field.name, field.usual]));

/** Make the form. `changed` is called after each change. */
export function makeFields(place, changed) {
  for (const [group, fields] of Object.entries(GROUPS)) {
    const box = document.createElement("fieldset");
    const legend = document.createElement("legend");
    tell(legend, `group_${group}`);
    box.append(legend, ...fields.map((field) => makeField(field)));
    place.append(box);
  }
  place.addEventListener("input", changed);
}

function makeField(field) {
  const box = document.createElement("div");
  box.className = field.rows ? "field text" : "field";
  box.dataset.field = field.name;
  const name = document.createElement("label");
  name.htmlFor = `set-${field.name}`;
  tell(name, field.name);
  const input = document.createElement(field.rows ? "textarea" : "input");
  input.id = name.htmlFor;
  inputs[field.name] = input;
  const hint = document.createElement("small");
  hint.id = `${input.id}-hint`;
  tell(hint, `${field.name}_hint`, { most: "" });
  input.setAttribute("aria-describedby", hint.id);
  box.append(name, input);
  if (field.rows) {
    input.rows = field.rows;
    input.spellcheck = false;
    input.dir = "auto";
  } else {
    Object.assign(input, { type: "number", min: field.min, max: field.max, step: "any" });
    input.inputMode = field.step < 1 ? "decimal" : "numeric";
    if (field.step === 1) input.step = 1;
    input.required = field.usual !== null;
  }
  if (field.slider) box.append(makeSlider(field, input));
  box.append(hint);
  return box;
}

function makeSlider(field, input) {
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: field.min, max: field.max, step: field.step });
  slider.tabIndex = -1; // the number beside it says and takes the same
  slider.ariaHidden = "true";
  slider.addEventListener("input", () => (input.value = slider.value));
  input.addEventListener("input", () => (slider.value = input.value));
  input.slider = slider;
  return slider;
}

/** Take what a model's makers suggest, and its limits. */
export function suit(model) {
  for (const name of ["temperature", "top_p", "top_k"]) {
    if (model[name] !== null) usual[name] = model[name];
  }
  usual.max_tokens = Math.min(256, Math.floor(model.max_tokens / 2));
  inputs.max_tokens.max = model.max_tokens;
  tell(document.getElementById("set-max_tokens-hint"), "max_tokens_hint", {
    most: model.max_tokens,
  });
  reset();
}

/** Show the fields that a mode has. */
export function showFields(isChat) {
  for (const field of FIELDS) {
    inputs[field.name].closest(".field").hidden = Boolean(field.chat) && !isChat;
  }
}

function put(name, value) {
  inputs[name].value = value ?? "";
  if (inputs[name].slider) inputs[name].slider.value = inputs[name].value;
}

export function reset() {
  for (const name in usual) put(name, usual[name]);
}

/** Say whether every field can be used, and show the first that cannot. */
export function check() {
  const wrong = FIELDS.map((field) => inputs[field.name]).find((input) => !input.checkValidity());
  if (!wrong) return true;
  const aside = document.getElementById("settings");
  if (!aside.checkVisibility()) aside.showPopover();
  wrong.reportValidity();
  return false;
}

/** Give the values that are not the usual ones, for a link. */
export function changes() {
  const found = {};
  for (const field of FIELDS) {
    const value = valueOf(field);
    if (value !== usual[field.name]) found[field.name] = value;
  }
  return found;
}

function valueOf(field) {
  const text = inputs[field.name].value;
  if (field.rows) return text;
  return text === "" ? null : Number(text);
}

/** Take values of a link; those that do not belong here are left out. */
export function takeChanges(found) {
  reset();
  for (const field of FIELDS) {
    const value = found[field.name];
    const fits = field.rows
      ? typeof value === "string"
      : typeof value === "number" && value >= field.min && value <= inputs[field.name].max;
    if (fits || (value === null && field.usual === null)) put(field.name, value);
  }
}

/** Give the request's fields. Where there is no seed one is drawn, so that it can be told. */
export function request() {
  const values = Object.fromEntries(FIELDS.map((field) => [field.name, valueOf(field)]));
  const stop = values.stop.split("\n").filter((line) => line !== "");
  return {
    temperature: values.temperature,
    top_p: values.top_p,
    min_p: values.min_p,
    top_k: values.top_k || -1,
    repetition_penalty: values.repetition_penalty,
    presence_penalty: values.presence_penalty,
    frequency_penalty: values.frequency_penalty,
    max_tokens: values.max_tokens,
    seed: values.seed ?? Math.floor(Math.random() * 2 ** 31),
    stop: stop.length ? stop.slice(0, 4).map((line) => line.replaceAll("\\n", "\n")) : null,
  };
}

export function systemMessage() {
  return inputs.system.value.trim();
}
