// One run, drawn from its AG-UI events. It knows nothing of where the events come from: a live stream or the stored log.

import { adviceFor, RUN_MAY_GO_ON } from "./advice.js";
import { duration, element, oncePerFrame } from "./dom.js";
import { plainText } from "./history.js";
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
  constructor({ onDraw = () => {}, isJoined = false } = {}) {
    this.onDraw = onDraw;
    this.isJoined = isJoined; // its beginning was not seen, so nothing is said of how long it took
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
    this.connection = element("p", { class: "reconnecting", role: "status", hidden: true });
    this.root = element(
      "section", { class: "run", "data-status": "running" }, this.stepList, this.body, this.waiting, this.connection, this.footer,
    );
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

  /** Draw a message of the thread's history. */
  restore(message) {
    if (message.role === "tool") {
      this.tools.get(message.toolCallId)?.setResult(message.content, message.metadata?.error ?? message.error, null);
      return;
    }
    if (message.role === "reasoning") {
      this.reasoningOf(message.id).add(plainText(message.content));
      this.reasoningOf(message.id).end();
      return;
    }
    const text = plainText(message.content);
    if (text) {
      const bubble = this.bubbleOf(message.id);
      bubble.text = text;
      bubble.end();
    }
    for (const call of message.toolCalls ?? []) {
      const card = this.cardOf(call.id, call.function.name);
      card.addArguments(call.function.arguments);
      card.endArguments(null);
    }
  }

  /** The connection was cut and is being made anew: say so quietly. Null when it is there again. */
  showReconnecting(attempt) {
    this.connection.hidden = attempt === null;
    this.connection.textContent = attempt > 1 ? `Reconnecting… attempt ${attempt}` : "Reconnecting…";
    this.waiting.hidden = attempt !== null || this.ended || this.isBusy();
    this.onDraw();
  }

  /** Take away what a process that ended had begun: its successor does it again, under other ids. */
  discard(ids) {
    for (const id of ids) {
      for (const items of [this.texts, this.tools, this.reasoning]) {
        items.get(id)?.root.remove();
        items.delete(id);
      }
    }
  }

  /** Show a question that the run ended with. */
  ask(question) {
    this.body.append(question.root);
    this.onDraw();
  }

  bubbleOf(id) {
    return this.itemOf(this.texts, id, () => new TextBubble());
  }

  cardOf(id, name) {
    return this.itemOf(this.tools, id, () => new ToolCard(name, id));
  }

  reasoningOf(id) {
    return this.itemOf(this.reasoning, id, () => new ReasoningBlock());
  }

  /** What is drawn under this id; a stream that is joined in the middle opens things again that are there already. */
  itemOf(items, id, make) {
    const known = items.get(id);
    if (known) return known;
    const made = make();
    items.set(id, made);
    this.body.append(made.root);
    return made;
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
    this.connection.hidden = true;
    this.root.dataset.status = status;
    for (const bubble of this.texts.values()) bubble.end();
    for (const block of this.reasoning.values()) block.end();
    if (status !== "left") this.closeItems(status, pending);
    if (this.startedAt !== null && !this.isJoined) this.tell(duration(at - this.startedAt));
  }

  closeItems(status, pending) {
    const left = status === "cancelled" || status === "restored" ? "stopped" : "failed";
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
    const asked = (event.outcome?.interrupts ?? []).map((interrupt) => interrupt.toolCallId);
    for (const id of asked) this.tools.get(id)?.leaveOpen("asked");
    this.close(at, outcome, event.outcome?.pendingToolCallIds ?? []);
    for (const usage of event.usage ?? []) this.tell(usageText(usage));
    if (outcome === "cancelled") this.note("Stopped.");
  },
  RUN_ERROR(event, at) {
    for (const usage of event.usage ?? []) this.tell(usageText(usage));
    this.fail({ code: event.code ?? "internal_error", message: event.message }, at);
  },
  STEP_STARTED(event, at) {
    const step = this.steps.get(event.stepName) ?? element("li", { title: event.stepName }); // known: it was cut off and is done again
    step.replaceChildren(stepTitle(event.stepName));
    step.dataset.status = "running";
    step.startedAt = at;
    this.steps.set(event.stepName, step);
    this.stepList.append(step);
  },
  STEP_FINISHED(event, at) {
    const step = this.steps.get(event.stepName);
    if (!step) return;
    step.dataset.status = "done";
    if (!this.isJoined) step.append(element("span", { class: "step-time", text: duration(at - step.startedAt) }));
  },
  TEXT_MESSAGE_START(event) {
    this.bubbleOf(event.messageId);
  },
  TEXT_MESSAGE_CONTENT(event) {
    this.texts.get(event.messageId)?.add(event.delta);
  },
  TEXT_MESSAGE_END(event) {
    this.texts.get(event.messageId)?.end();
  },
  TOOL_CALL_START(event) {
    this.cardOf(event.toolCallId, event.toolCallName);
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
    this.reasoningOf(event.messageId);
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
    if (event.name === "run_recovered") this.discard(event.value?.discarded ?? []);
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
