// What the page shows, as the part of an address behind "#".

const MARK = "#s=";
const ROLES = ["user", "assistant"];

/** Give a state as a fragment. */
export function fragmentOf(state) {
  let text = "";
  for (const byte of new TextEncoder().encode(JSON.stringify(state))) {
    text += String.fromCharCode(byte);
  }
  return MARK + btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Say whether a fragment claims to hold a state. */
export function holdsState(fragment) {
  return fragment.startsWith(MARK);
}

/** Give the state in a fragment; null where it is damaged. Nothing in it is trusted. */
export function stateOf(fragment) {
  let found;
  try {
    const text = atob(fragment.slice(MARK.length).replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(text, (each) => each.charCodeAt(0));
    found = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return null;
  }
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const isTurn = (turn) =>
    isObject(turn) && ROLES.includes(turn.role) && typeof turn.content === "string";
  if (
    !isObject(found) ||
    !["chat", "text"].includes(found.mode) ||
    !isObject(found.settings) ||
    typeof found.draft !== "string" ||
    !Array.isArray(found.turns) ||
    !found.turns.every(isTurn)
  ) {
    return null;
  }
  return {
    mode: found.mode,
    settings: found.settings,
    draft: found.draft,
    turns: found.turns.map(({ role, content }) => ({ role, content })),
  };
}
