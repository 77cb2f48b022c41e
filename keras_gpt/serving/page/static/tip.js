// What a token could have been: shown for the one that is pointed at, tapped, or chosen by keyboard.

import { rowsOf, spoken, visible } from "./tokens.js";
import { percent, say } from "./words.js";

const tip = document.getElementById("tip");
const speech = document.getElementById("spoken");
let current = null;
let leaving = 0;

/** Let the spans of a `TokenText` show their tokens. */
export function watch(tokenText) {
  const { place } = tokenText;
  const indexOf = (event) => tokenText.spans.indexOf(event.target.closest?.("span"));
  const show = (index, isSpoken) => {
    if (!tokenText.tokens[index]?.length) return;
    showTip(tokenText.spans[index], tokenText.tokens[index]);
    if (isSpoken) tokenText.spans[index].scrollIntoView({ block: "nearest" });
    if (isSpoken) speech.textContent = spoken(tokenText.tokens[index], percent);
  };
  place.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse") show(indexOf(event), false);
  });
  place.addEventListener("pointerout", leave);
  place.addEventListener("click", (event) => show(indexOf(event), false));
  place.addEventListener("focus", () => {
    if (place.matches(":focus-visible")) show(Math.max(0, tokenText.spans.indexOf(current)), true);
  });
  place.addEventListener("blur", hideTip);
  place.addEventListener("keydown", (event) => {
    const at = tokenText.spans.indexOf(current);
    const to = nextIndex(event.key, at, tokenText.spans);
    if (to === null) return;
    event.preventDefault();
    show(to, true);
  });
}

/** Give the index that an arrow key leads to from `at`; null where it is another key. */
export function nextIndex(key, at, spans) {
  const last = spans.length - 1;
  const steps = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last };
  if (key in steps) return Math.min(last, Math.max(0, steps[key]));
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  // To the nearest one of the line above or below.
  const here = spans[Math.max(0, at)].getBoundingClientRect();
  const isUp = key === "ArrowUp";
  let best = at;
  let least = Infinity;
  spans.forEach((span, index) => {
    const box = span.getBoundingClientRect();
    const rows = isUp ? here.top - box.top : box.top - here.top;
    if (rows < 4) return;
    const far = rows * 1000 + Math.abs(box.left - here.left);
    if (far < least) [least, best] = [far, index];
  });
  return best;
}

function showTip(span, tokens) {
  clearTimeout(leaving);
  current?.classList.remove("current");
  current = span;
  span.classList.add("current");
  tip.replaceChildren(...tokens.map(tableOf));
  tip.hidden = false;
  const note = document.createElement("p");
  note.textContent = say("instead");
  tip.append(note);
  put();
}

function put() {
  const box = [...current.getClientRects()].at(-1); // a word behind a blank begins the next line
  const width = tip.offsetWidth;
  const height = tip.offsetHeight;
  const gap = 6;
  const above = box.top - height - gap;
  const left = Math.min(Math.max(8, box.left), innerWidth - width - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above >= 8 ? above : Math.min(box.bottom + gap, innerHeight - height - 8)}px`;
}

function tableOf(token) {
  const part = document.createElement("div");
  const head = document.createElement("h3");
  const name = document.createElement("b");
  name.textContent = visible(token.bytes);
  const share = document.createElement("span");
  share.textContent = percent(Math.exp(token.logprob));
  head.append(name, share);
  const list = document.createElement("ol");
  for (const row of rowsOf(token)) {
    const line = document.createElement("li");
    line.className = row.isChosen ? "chosen" : "";
    const [text, bar, number] = ["b", "i", "span"].map((kind) => document.createElement(kind));
    text.textContent = visible(row.bytes);
    bar.style.setProperty("--share", Math.exp(row.logprob).toFixed(4));
    number.textContent = percent(Math.exp(row.logprob));
    line.append(text, bar, number);
    list.append(line);
  }
  part.append(head, list);
  return part;
}

function leave() {
  clearTimeout(leaving);
  leaving = setTimeout(hideTip, 180); // the pointer may be on its way into the tip
}

export function hideTip() {
  clearTimeout(leaving);
  tip.hidden = true;
  current?.classList.remove("current");
  current = null;
}

tip.addEventListener("pointerenter", () => clearTimeout(leaving));
tip.addEventListener("pointerleave", leave);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".token, #tip")) hideTip();
});
document.getElementById("log").addEventListener("scroll", () => {
  if (current) put();
});
