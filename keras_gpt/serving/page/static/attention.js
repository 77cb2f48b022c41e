// Where each token looks: the weights of one layer, head by head, over the text and as maps.

import { ApiError, fetchJson } from "./api.js";
import { nextIndex } from "./tip.js";
import { visible } from "./tokens.js";
import { hush, label, percent, tell } from "./words.js";

const MEAN = -1;
const MOST_SEEN = 5;

const part = (id) => document.getElementById(id);
const dialog = part("attention");
const layer = part("layer");
const text = part("attention-text");
const heads = part("heads");
const map = part("map");
const note = part("attention-note");
const withoutFirst = part("no-first");
const dark = matchMedia("(prefers-color-scheme: dark)");

let asked = null; // {body, explain}: the request without its layer
let found = new Map(); // what there is of each layer
let going = new AbortController();
let shown = null; // {count, numHeads, weights, tokens}
let head = MEAN;
let query = 0;
let waiting = 0;

/** Open the view for the body of a request; `explain` tells an error. */
export function openAttention(body, numLayers, explain) {
  asked = { body, explain };
  found = new Map();
  shown = null;
  head = MEAN;
  query = Infinity; // the last token
  layer.max = numLayers;
  layer.value = Math.min(layer.value, numLayers);
  text.replaceChildren();
  heads.querySelectorAll("label").forEach((each) => each.remove());
  part("attention-body").hidden = true;
  dialog.showModal();
  read();
}

async function read() {
  const number = Number(layer.value);
  tell(part("layer-shown"), "layer_of", { layer: number, layers: layer.max });
  going.abort();
  going = new AbortController();
  if (!found.has(number)) {
    tell(note, "attention_loading");
    try {
      const body = { ...asked.body, layer: number - 1 };
      found.set(number, unpacked(await fetchJson("v1/attention", body, going.signal)));
    } catch (error) {
      if (error instanceof ApiError) asked.explain(note, error);
      return;
    }
  }
  hush(note);
  shown = found.get(number);
  query = Math.min(query, shown.count - 1);
  part("attention-body").hidden = false;
  if (!text.firstChild) {
    writeText();
    writeHeads();
  }
  drawAll();
}

function unpacked(answer) {
  const count = answer.tokens.length;
  const bytes = Uint8Array.from(atob(answer.weights), (each) => each.charCodeAt(0));
  const size = count * count;
  const weights = new Map();
  const mean = new Float32Array(size);
  for (let index = 0; index < answer.num_heads; index++) {
    const own = Float32Array.from(bytes.subarray(index * size, (index + 1) * size), (b) => b / 255);
    weights.set(index, own);
    own.forEach((weight, place) => (mean[place] += weight / answer.num_heads));
  }
  weights.set(MEAN, mean);
  return {
    count,
    numHeads: answer.num_heads,
    numPrompt: answer.num_prompt_tokens,
    weights,
    tokens: answer.tokens.map((each) => Uint8Array.from(each)),
  };
}

function writeText() {
  const decoder = new TextDecoder();
  text.replaceChildren(
    ...shown.tokens.map((bytes, index) => {
      const span = document.createElement("span");
      const piece = decoder.decode(bytes, { stream: true });
      // A token that ends within a character has a place too.
      span.textContent = piece || "·";
      span.className = index < shown.numPrompt ? "of-prompt" : "of-answer";
      return span;
    }),
  );
}

function writeHeads() {
  for (let index = MEAN; index < shown.numHeads; index++) {
    const box = document.createElement("label");
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "head", value: index, checked: index === head });
    if (index === MEAN) label(radio, "mean_of_heads");
    else label(radio, "head_number", { number: index + 1 });
    const canvas = document.createElement("canvas");
    const name = document.createElement("span");
    if (index === MEAN) tell(name, "mean");
    else name.textContent = index + 1;
    box.append(radio, canvas, name);
    heads.append(box);
  }
}

/** Give a row's weights as they are shown. */
function rowOf(index, which) {
  const { count, weights } = shown;
  const row = weights.get(which).slice(index * count, (index + 1) * count);
  if (withoutFirst.checked && index > 0) {
    row[0] = 0;
    const most = Math.max(...row);
    // Shares of what is left would make a lot of nothing: only the strength of tints is raised.
    return { row, scale: most > 0 ? Math.min(8, 1 / most) : 1 };
  }
  return { row, scale: 1 };
}

function drawAll() {
  heads.querySelectorAll("label").forEach((box, index) => {
    draw(box.querySelector("canvas"), index - 1);
  });
  drawChosen();
}

function drawChosen() {
  draw(map, head, query);
  drawRow();
}

function draw(canvas, which, marked = -1) {
  const { count } = shown;
  canvas.width = canvas.height = count;
  const context = canvas.getContext("2d");
  const image = context.createImageData(count, count);
  const style = getComputedStyle(dialog);
  const [r, g, b] = style.getPropertyValue("--map-ink").trim().split(" ").map(Number);
  const [mr, mg, mb] = style.getPropertyValue("--map-mark").trim().split(" ").map(Number);
  for (let y = 0; y < count; y++) {
    const { row, scale } = rowOf(y, which);
    for (let x = 0; x < count; x++) {
      const place = (y * count + x) * 4;
      const weight = Math.sqrt(Math.min(1, row[x] * scale));
      const isMarked = y === marked;
      image.data.set(isMarked ? [mr, mg, mb] : [r, g, b], place);
      image.data[place + 3] = isMarked ? 60 + 195 * weight : 255 * weight;
    }
  }
  context.putImageData(image, 0, 0);
}

function drawRow() {
  const { row, scale } = rowOf(query, head);
  for (let index = 0; index < shown.count; index++) {
    const span = text.children[index];
    span.style.setProperty("--weight", Math.sqrt(Math.min(1, row[index] * scale)).toFixed(3));
    span.classList.toggle("looks", index === query);
  }
  tell(part("sees-title"), "sees", { token: visible(shown.tokens[query]) });
  const order = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, MOST_SEEN);
  part("sees").replaceChildren(
    ...order
      .filter((index) => row[index] > 0)
      .map((index) => {
        const line = document.createElement("li");
        const [name, bar, share] = ["b", "i", "span"].map((kind) => document.createElement(kind));
        name.textContent = visible(shown.tokens[index]);
        bar.style.setProperty("--share", row[index].toFixed(3));
        share.textContent = percent(row[index]);
        line.append(name, bar, share);
        return line;
      }),
  );
}

function choose(index) {
  if (index < 0 || index >= shown.count || index === query) return;
  query = index;
  drawChosen();
}

layer.addEventListener("input", () => {
  tell(part("layer-shown"), "layer_of", { layer: layer.value, layers: layer.max });
  clearTimeout(waiting);
  waiting = setTimeout(read, 120);
});
heads.addEventListener("change", (event) => {
  head = Number(event.target.value);
  drawChosen();
});
withoutFirst.addEventListener("change", drawAll);
text.addEventListener("click", (event) => choose([...text.children].indexOf(event.target)));
text.addEventListener("keydown", (event) => {
  const to = nextIndex(event.key, query, [...text.children]);
  if (to === null) return;
  event.preventDefault();
  choose(to);
  text.children[to].scrollIntoView({ block: "nearest" });
});
map.addEventListener("click", (event) => {
  const box = map.getBoundingClientRect();
  choose(Math.floor(((event.clientY - box.top) / box.height) * shown.count));
});
dark.addEventListener("change", () => shown && dialog.open && drawAll());
part("attention-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => going.abort());
