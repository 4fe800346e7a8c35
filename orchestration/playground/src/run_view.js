// One run, drawn from its AG-UI events. It knows nothing of where the events come from: a live stream or the stored log.

import { adviceFor, RUN_MAY_GO_ON } from "./advice.js";
import { duration, element, oncePerFrame } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { ToolCard } from "./tool_card.js";

/** A message of the assistant, drawn at most once a frame however fast the text comes. */
class TextBubble {
  constructor() {
    this.text = "";
    this.root = element("div", { class: "bubble assistant streaming" });
    this.draw = oncePerFrame(() => this.drawNow());
  }

  add(delta) {
    this.text += delta;
    this.root.classList.add("streaming"); // also after a broken connection
    this.draw();
  }

  end() {
    this.root.classList.remove("streaming");
    this.draw();
  }

  drawNow() {
    this.root.replaceChildren(renderMarkdown(this.text));
  }
}

/** The model's reasoning: folded away, one line while it goes on. */
class ReasoningBlock {
  constructor() {
    this.body = element("div", { class: "reasoning-body" });
    this.title = element("span", { text: "Thinking…" });
    this.root = element("details", { class: "reasoning" }, element("summary", {}, this.title), this.body);
  }

  add(delta) {
    this.body.append(delta);
  }

  end() {
    this.title.textContent = "Reasoning";
  }
}

/** Draws a run into `root`. `apply(event, at)` takes the events in order; `at` is a time in milliseconds. */
export class RunView {
  constructor({ onDraw = () => {} } = {}) {
    this.onDraw = onDraw;
    this.texts = new Map();
    this.tools = new Map();
    this.reasoning = new Map();
    this.steps = new Map();
    this.ended = false;
    this.startedAt = null;
    this.stepList = element("ol", { class: "steps", "aria-label": "Steps of this run" });
    this.body = element("div", { class: "run-body" });
    this.waiting = element("div", { class: "waiting", role: "status", "aria-label": "Waiting for the agent" }, ...dots());
    this.footer = element("p", { class: "run-footer" });
    this.root = element("section", { class: "run", "data-status": "running" }, this.stepList, this.body, this.waiting, this.footer);
  }

  /** Draw one event. Events of unknown types are passed over: a newer server may send them. */
  apply(event, at) {
    this.startedAt ??= at;
    const draw = HANDLERS[event.type];
    if (draw) draw.call(this, event, at);
    this.waiting.hidden = this.ended || this.isBusy();
    this.onDraw();
  }

  /** Say that the run, or the way to it, failed. `actions` are buttons. */
  fail({ code, message, requestId = "", actions = [] }, at) {
    this.close(at, RUN_MAY_GO_ON.has(code) ? "left" : "failed");
    const advice = adviceFor(code);
    this.body.append(
      element(
        "div",
        { class: "bubble error", role: "alert", "data-code": code },
        element("p", { class: "error-message", text: message }),
        advice ? element("p", { class: "error-advice", text: advice }) : null,
        element("p", { class: "error-code" }, element("code", { text: code }), requestId ? ` · request ${requestId}` : ""),
        actions.length ? element("div", { class: "error-actions" }, ...actions) : null,
      ),
    );
    this.onDraw();
  }

  /** Go on drawing after a broken connection: what was said about it goes away. */
  reopen() {
    this.ended = false;
    this.root.dataset.status = "running";
    this.footer.replaceChildren();
    for (const said of this.body.querySelectorAll(".error, .run-note")) said.remove();
    this.waiting.hidden = false;
  }

  /** A short remark at the run's end that is no error. */
  note(text) {
    this.body.append(element("p", { class: "run-note", text }));
    this.onDraw();
  }

  /** Whether something visible is going on, so that no waiting dots are needed. */
  isBusy() {
    const textIsOpen = [...this.texts.values()].some((bubble) => bubble.text && bubble.root.classList.contains("streaming"));
    const toolIsOpen = [...this.tools.values()].some((card) => ["calling", "running"].includes(card.root.dataset.status));
    return textIsOpen || toolIsOpen;
  }

  /** Nothing more comes: `status` is the outcome, `failed`, or `left` when the run may go on unseen. */
  close(at, status, pending = []) {
    this.ended = true;
    this.waiting.hidden = true;
    this.root.dataset.status = status;
    for (const bubble of this.texts.values()) bubble.end();
    for (const block of this.reasoning.values()) block.end();
    if (status !== "left") this.closeItems(status, pending);
    if (this.startedAt !== null) this.tell(duration(at - this.startedAt));
  }

  closeItems(status, pending) {
    const left = status === "cancelled" ? "stopped" : "failed";
    for (const [id, card] of this.tools) card.leaveOpen(pending.includes(id) ? "pending" : left);
    for (const step of this.steps.values()) if (step.dataset.status === "running") step.dataset.status = left;
  }

  tell(text) {
    this.footer.append(element("span", { text }));
  }
}

const HANDLERS = {
  RUN_STARTED(event) {
    // A resumed stream may say again how the run began.
    this.root.dataset.runId = event.runId;
  },
  RUN_FINISHED(event, at) {
    const outcome = event.outcome?.type ?? "success";
    this.close(at, outcome, event.outcome?.pendingToolCallIds ?? []);
    for (const usage of event.usage ?? []) this.tell(usageText(usage));
    if (outcome === "cancelled") this.note("Stopped.");
    if (outcome === "interrupt") this.note("Waiting for a person's decision.");
  },
  RUN_ERROR(event, at) {
    for (const usage of event.usage ?? []) this.tell(usageText(usage));
    this.fail({ code: event.code ?? "internal_error", message: event.message }, at);
  },
  STEP_STARTED(event, at) {
    const step = element("li", { "data-status": "running", title: event.stepName, text: stepTitle(event.stepName) });
    step.startedAt = at;
    this.steps.set(event.stepName, step);
    this.stepList.append(step);
  },
  STEP_FINISHED(event, at) {
    const step = this.steps.get(event.stepName);
    if (!step) return;
    step.dataset.status = "done";
    step.append(element("span", { class: "step-time", text: duration(at - step.startedAt) }));
  },
  TEXT_MESSAGE_START(event) {
    const bubble = new TextBubble();
    this.texts.set(event.messageId, bubble);
    this.body.append(bubble.root);
  },
  TEXT_MESSAGE_CONTENT(event) {
    this.texts.get(event.messageId)?.add(event.delta);
  },
  TEXT_MESSAGE_END(event) {
    this.texts.get(event.messageId)?.end();
  },
  TOOL_CALL_START(event) {
    const card = new ToolCard(event.toolCallName, event.toolCallId);
    this.tools.set(event.toolCallId, card);
    this.body.append(card.root);
  },
  TOOL_CALL_ARGS(event) {
    this.tools.get(event.toolCallId)?.addArguments(event.delta);
  },
  TOOL_CALL_END(event, at) {
    this.tools.get(event.toolCallId)?.endArguments(at);
  },
  TOOL_CALL_RESULT(event, at) {
    this.tools.get(event.toolCallId)?.setResult(event.content, event.metadata?.error, at);
  },
  REASONING_START(event) {
    const block = new ReasoningBlock();
    this.reasoning.set(event.messageId, block);
    this.body.append(block.root);
  },
  REASONING_MESSAGE_CONTENT(event) {
    const block = this.reasoning.get(event.messageId) ?? [...this.reasoning.values()].at(-1);
    block?.add(event.delta);
  },
  REASONING_END(event) {
    this.reasoning.get(event.messageId)?.end();
  },
  CUSTOM(event) {
    if (event.name === "GUARDRAIL_VIOLATION") this.note(`A policy stepped in: ${event.value?.policy ?? "unnamed"}.`);
  },
};

function dots() {
  return [1, 2, 3].map(() => element("span", { class: "dot" }));
}

/** A step's name without the call id that makes it unique. */
function stepTitle(name) {
  const [, tool] = /^tool call (\S+)/.exec(name) ?? [];
  return tool ?? name;
}

function usageText(usage) {
  const parts = [];
  if (usage.inputTokens !== undefined) parts.push(`${usage.inputTokens.toLocaleString("en")} tokens in`);
  if (usage.outputTokens !== undefined) parts.push(`${usage.outputTokens.toLocaleString("en")} out`);
  if (usage.reasoningTokens) parts.push(`${usage.reasoningTokens.toLocaleString("en")} reasoning`);
  return [usage.model, parts.join(" · ")].filter(Boolean).join(" · ");
}
