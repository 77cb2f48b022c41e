// The turns of a conversation, or the one of a text and how it goes on.

import { watch } from "./tip.js";
import { TokenText } from "./tokens.js";
import { hush, label, tell } from "./words.js";

const log = document.getElementById("log");
const welcome = document.getElementById("welcome");

/** A turn on the page. `role` is "user", "assistant", or "text" for what an answer goes on with. */
export class Turn {
  /** `actions` are functions by the name of their button, for an answer. */
  constructor(role, actions = {}) {
    this.role = role;
    this.element = document.createElement("article");
    this.element.className = `turn ${role}`;
    if (role === "user") {
      const who = document.createElement("h3");
      who.className = "unseen";
      tell(who, "you");
      this.element.append(who);
    }
    this.body = document.createElement("div");
    this.body.className = "said";
    this.body.dir = "auto";
    this.element.append(this.body);
    if (role !== "user") this.#prepare(actions);
    welcome.hidden = true;
    keepDown(() => log.append(this.element));
  }

  #prepare(actions) {
    this.before = document.createElement("span");
    this.before.className = "before";
    this.answer = document.createElement("span");
    this.answer.className = "answer";
    this.answer.tabIndex = 0;
    this.answer.setAttribute("role", "group");
    label(this.answer, "answer_text");
    this.body.append(this.before, this.answer);
    this.tokenText = new TokenText(this.answer);
    watch(this.tokenText);
    this.foot = document.createElement("footer");
    this.facts = document.createElement("p");
    this.foot.append(this.facts);
    this.buttons = {};
    for (const [name, action] of Object.entries(actions)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "plain";
      button.dataset.action = name;
      tell(button, name);
      button.addEventListener("click", () => action(this, button));
      this.foot.append(button);
      this.buttons[name] = button;
    }
    this.problem = document.createElement("p");
    this.problem.className = "problem";
    this.problem.setAttribute("role", "alert");
    this.element.append(this.problem, this.foot);
  }

  get content() {
    return this.role === "user" ? this.body.textContent : this.tokenText.text;
  }

  /** Take the whole text of a turn that was said before. */
  say(text) {
    if (this.role === "user") {
      this.body.textContent = text;
    } else {
      this.push(text, []);
      this.tokenText.end();
    }
  }

  begin() {
    this.element.classList.add("busy");
    log.setAttribute("aria-busy", "true");
    hush(this.problem);
  }

  push(text, tokens) {
    keepDown(() => this.tokenText.push(text, tokens));
  }

  /** End it, with {count, rate, reason, seed}. */
  end(facts) {
    keepDown(() => {
      this.tokenText.end();
      this.facts.replaceChildren(
        ...[
          ["tokens", { count: facts.count }],
          ...(facts.rate ? [["per_second", { rate: facts.rate.toFixed(1) }]] : []),
          [`reason_${facts.reason}`],
          ["seed_was", { seed: facts.seed }],
        ].map(([name, values]) => {
          const fact = document.createElement("span");
          tell(fact, name, values);
          return fact;
        }),
      );
    });
    this.element.classList.remove("busy");
    log.setAttribute("aria-busy", "false");
  }

  remove() {
    this.element.remove();
    welcome.hidden = log.querySelector(".turn") !== null;
  }
}

/** Change the log, and stay at its end where that was in sight. */
function keepDown(change) {
  const isDown = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (isDown) log.scrollTop = log.scrollHeight;
}
