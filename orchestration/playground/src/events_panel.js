// The raw events beside the chat: every SSE frame as it came, at most the last 2,000 of them.

import { copyText, duration, element, oncePerFrame, prettyJson } from "./dom.js";

const MOST_KEPT = 2000;
const MOST_DRAWN = 500; // rows in the document; an older one is found with the filter

/** A list of frames with a filter. `add(frame)` takes `{id, data, comment, at}`. */
export class EventsPanel {
  constructor({ list, filter, count, copy, clear }) {
    this.frames = [];
    this.dropped = 0;
    this.list = list;
    this.filter = filter;
    this.count = count;
    this.draw = oncePerFrame(() => this.drawNow());
    this.drawnTo = 0;
    filter.addEventListener("input", () => this.redraw());
    copy.addEventListener("click", () => copyText(this.asText(), copy));
    clear.addEventListener("click", () => this.clear());
    this.redraw();
  }

  add(frame) {
    this.frames.push(described(frame));
    if (this.frames.length > MOST_KEPT) {
      this.frames.shift();
      this.dropped += 1;
      this.drawnTo = Math.max(0, this.drawnTo - 1);
    }
    this.draw();
  }

  clear() {
    this.frames = [];
    this.dropped = 0;
    this.redraw();
  }

  redraw() {
    this.list.replaceChildren();
    this.drawnTo = 0;
    this.drawNow();
  }

  /** Append what is new; stay at the end when the reader is there. */
  drawNow() {
    const isAtEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    const fresh = this.frames.slice(this.drawnTo).filter((frame) => this.isShown(frame));
    this.drawnTo = this.frames.length;
    this.list.append(...fresh.slice(-MOST_DRAWN).map(row));
    while (this.list.childElementCount > MOST_DRAWN) this.list.firstElementChild.remove();
    if (isAtEnd) this.list.scrollTop = this.list.scrollHeight;
    const total = this.frames.length + this.dropped;
    this.count.textContent = this.dropped ? `last ${this.frames.length} of ${total}` : String(total);
  }

  isShown(frame) {
    const wanted = this.filter.value.trim().toLowerCase();
    return !wanted || frame.search.includes(wanted);
  }

  /** What is shown at the moment, as the lines of an event stream. */
  asText() {
    const shown = this.frames.filter((frame) => this.isShown(frame));
    return shown.map((frame) => (frame.id ? `id: ${frame.id}\n` : "") + `data: ${frame.data}\n`).join("\n");
  }
}

function described(frame) {
  const type = frame.data === null ? "heartbeat" : typeOf(frame.data);
  return { ...frame, data: frame.data ?? "", type, search: `${type} ${frame.id} ${frame.data}`.toLowerCase() };
}

function typeOf(data) {
  try {
    return JSON.parse(data).type ?? "unknown";
  } catch {
    return "not JSON";
  }
}

/** A frame as a row; its JSON is indented when somebody unfolds it. */
function row(frame) {
  const number = frame.id.slice(frame.id.lastIndexOf(".") + 1);
  const body = element("pre", { class: "code" });
  const made = element(
    "details",
    { class: "event", "data-family": family(frame.type) },
    element(
      "summary",
      {},
      element("span", { class: "event-number", text: number || "–" }),
      element("span", { class: "event-type", text: frame.type }),
      element("span", { class: "event-preview", text: preview(frame.data) }),
      element("span", { class: "event-time", text: `+${duration(frame.at)}` }),
    ),
    body,
  );
  made.addEventListener("toggle", () => {
    if (made.open) body.textContent = prettyJson(frame.data || ": heartbeat");
  });
  return element("li", {}, made);
}

function preview(data) {
  try {
    const event = JSON.parse(data);
    return event.delta ?? event.toolCallName ?? event.stepName ?? event.code ?? "";
  } catch {
    return "";
  }
}

function family(type) {
  if (type === "RUN_ERROR") return "error";
  return type.split("_", 1)[0].toLowerCase();
}
