// A tool call as a card that unfolds: name, status, arguments, result or error.

import { duration, element, prettyJson } from "./dom.js";

const LONGEST_SHOWN = 20_000; // characters of a result; the whole of it stands in the raw events

const LABELS = {
  calling: "Preparing", running: "Running", done: "Done", failed: "Failed", stopped: "Stopped", pending: "Waiting for the client",
  asked: "Waiting for a person",
};

/** One card; its methods follow the events of the call. */
export class ToolCard {
  constructor(name, callId) {
    this.arguments = "";
    this.startedAt = null; // when the arguments were complete: what comes before is the model's time
    this.status = element("span", { class: "tool-status" });
    this.time = element("span", { class: "tool-time" });
    this.preview = element("span", { class: "tool-preview" });
    this.argumentsText = element("pre", { class: "code" });
    this.result = element("div", { class: "tool-result" });
    this.root = element(
      "details",
      { class: "tool", "data-tool": name },
      element(
        "summary",
        {},
        element("span", { class: "tool-icon", "aria-hidden": "true" }),
        element("span", { class: "tool-name", text: name }),
        this.preview,
        this.time,
        this.status,
      ),
      element(
        "div",
        { class: "tool-body" },
        element("h3", { text: "Arguments" }),
        this.argumentsText,
        this.result,
        element("p", { class: "tool-id", text: callId }),
      ),
    );
    this.setStatus("calling");
  }

  addArguments(text) {
    this.arguments += text;
    this.argumentsText.textContent = this.arguments;
  }

  endArguments(at) {
    this.startedAt = at;
    this.preview.textContent = shortArguments(this.arguments);
    this.argumentsText.textContent = prettyJson(this.arguments || "{}");
    this.setStatus("running");
  }

  /** `failure` is `{code, retryable}` when the tool failed. */
  setResult(content, failure, at) {
    this.setStatus(failure ? "failed" : "done");
    if (this.startedAt !== null && at !== null) this.time.textContent = duration(at - this.startedAt);
    const heading = failure ? `Error · ${failure.code ?? "failed"}` : "Result";
    this.result.replaceChildren(
      element("h3", { text: heading }),
      element("pre", { class: failure ? "code code-error" : "code", text: bounded(prettyJson(asText(content))) }),
    );
  }

  /** The run ended without a result: the call is the client's to make (`pending`), a person's to decide (`asked`), or was broken off. */
  leaveOpen(status) {
    if (this.root.dataset.status === "calling" || this.root.dataset.status === "running") this.setStatus(status);
  }

  setStatus(status) {
    this.root.dataset.status = status;
    this.status.textContent = LABELS[status];
  }
}

/** The values of the arguments on one line. */
function shortArguments(text) {
  try {
    const values = Object.values(JSON.parse(text)).map((value) => (typeof value === "string" ? value : JSON.stringify(value)));
    return values.join(" · ").slice(0, 120);
  } catch {
    return "";
  }
}

function asText(content) {
  if (typeof content === "string") return content;
  return content.map((part) => part.text ?? `[${part.type}]`).join("\n");
}

function bounded(text) {
  if (text.length <= LONGEST_SHOWN) return text;
  return `${text.slice(0, LONGEST_SHOWN)}\n… ${(text.length - LONGEST_SHOWN).toLocaleString("en")} more characters`;
}
