// An answer's tokens: from the API's form to spans of text, each with what was likely there.

import { say } from "./words.js";

const ESCAPED = /^bytes:(?:\\x[0-9a-f]{2})+$/;

/** Give a chunk's text and its tokens: {bytes, logprob, top: [{bytes, logprob}]}. */
export function readChunk(choice) {
  if (choice.delta) {
    const content = choice.logprobs?.content ?? [];
    return {
      text: choice.delta.content ?? "",
      tokens: content.map((each) => ({ ...named(each), top: each.top_logprobs.map(named) })),
    };
  }
  const found = choice.logprobs;
  const tokens = (found?.tokens ?? []).map((name, index) => ({
    bytes: bytesOf(name),
    logprob: found.token_logprobs[index],
    top: Object.entries(found.top_logprobs[index]).map(([other, logprob]) => ({
      bytes: bytesOf(other),
      logprob,
    })),
  }));
  return { text: choice.text, tokens };
}

function named({ bytes, logprob }) {
  return { bytes: Uint8Array.from(bytes), logprob };
}

function bytesOf(name) {
  if (!ESCAPED.test(name)) return new TextEncoder().encode(name);
  return Uint8Array.from(name.slice(8).split("\\x").slice(1), (each) => parseInt(each, 16));
}

/** Give a token's text as a person can see it, blanks included. */
export function visible(bytes) {
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  if (text.includes("\ufffd")) {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
}

/** Give the most probable tokens, the chosen one among them, the most probable first. */
export function rowsOf(token) {
  const same = (each) => each.bytes.join() === token.bytes.join();
  const rows = token.top.map((each) => ({ ...each, isChosen: same(each) }));
  if (!rows.some((row) => row.isChosen)) rows.push({ ...token, isChosen: true });
  return rows.sort((a, b) => b.logprob - a.logprob);
}

/** From 0, as expected, to 1, where the token had a chance of 1 in 300 or less. */
export function surprise(tokens) {
  const logprob = Math.min(...tokens.map((token) => token.logprob));
  return Math.min(1, Math.max(0, -logprob / Math.log(300)));
}

/**
 * Text that grows together with its tokens: a span holds the tokens that make one or more whole
 * characters. The text is what counts: tokens that have no place in it (special ones, the rest of a
 * stop string) go with the next span, or show nothing.
 */
export class TokenText {
  constructor(place) {
    this.place = place;
    this.text = "";
    this.spans = []; // the elements
    this.tokens = []; // those of each element
    this.shown = 0; // characters
    this.queue = [];
    this.held = []; // tokens whose characters are not whole yet
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  push(text, tokens) {
    this.text += text;
    this.queue.push(...tokens);
    this.#show(false);
  }

  end() {
    this.#show(true);
    if (this.shown < this.text.length) {
      this.#add(this.text.slice(this.shown), this.held);
      this.held = [];
    }
  }

  #show(isEnd) {
    while (this.queue.length) {
      const piece = this.decoder.decode(this.queue[0].bytes, { stream: true });
      const rest = this.text.slice(this.shown);
      if (piece && !rest.startsWith(piece) && piece.startsWith(rest) && !isEnd) {
        // The text behind is not there yet; the decoder must see this token again.
        this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
        for (const token of this.held) this.decoder.decode(token.bytes, { stream: true });
        return;
      }
      this.held.push(this.queue.shift());
      if (piece && rest.startsWith(piece)) {
        this.#add(piece, this.held);
        this.held = [];
      } else if (piece && rest && piece.startsWith(rest)) {
        this.#add(rest, this.held); // a stop string cut it
        this.held = [];
      }
    }
  }

  #add(text, tokens) {
    const span = document.createElement("span");
    span.textContent = text;
    this.shown += text.length;
    if (tokens.length) {
      span.className = "token";
      span.style.setProperty("--surprise", surprise(tokens).toFixed(3));
    }
    this.spans.push(span);
    this.tokens.push(tokens);
    this.place.append(span);
  }
}

/** Say a span's tokens in words, for a screen reader. */
export function spoken(tokens, percent) {
  return tokens
    .map((token) => {
      const others = rowsOf(token)
        .filter((row) => !row.isChosen)
        .map((row) => `${visible(row.bytes)} ${percent(Math.exp(row.logprob))}`);
      return say("spoken_token", {
        token: visible(token.bytes),
        share: percent(Math.exp(token.logprob)),
        others: others.join(", "),
      });
    })
    .join(" ");
}
