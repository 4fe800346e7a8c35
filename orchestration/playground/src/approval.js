// A question about a tool call: the call as it would be made, and the ways to answer. It is answered here, by somebody else, or not in time.

import { element, prettyJson } from "./dom.js";
import { Question } from "./question.js";

const POLL_MS = 2000;
const SAID = { approved: "Approved", denied: "Denied", withdrawn: "Withdrawn", expired: "Expired" };

/** The card for an interrupt: with the call in it, where it is about one of the service's tools. */
export function questionFor(interrupt, onAnswer) {
  return interrupt.metadata?.question ? new ApprovalQuestion(interrupt, onAnswer) : new Question(interrupt, onAnswer);
}

export class ApprovalQuestion extends Question {
  constructor(interrupt, onAnswer) {
    super(interrupt, onAnswer);
    const { arguments: text = "" } = interrupt.metadata;
    this.controls.before(element("pre", { class: "code question-call", text: prettyJson(text) }), this.deadline());
  }

  get isForSomebodyElse() {
    return this.interrupt.metadata.decider === "someone_else";
  }

  answers() {
    if (this.isForSomebodyElse) {
      const waits = element("span", { class: "question-waits", role: "status", text: "Waits for somebody else to decide." });
      return [waits, this.button("Withdraw", () => this.answer({ status: "cancelled", said: "Withdrawn" }))];
    }
    this.reason = element("input", { type: "text", name: "reason", maxlength: "500", placeholder: "Why (the agent is told)" });
    const reason = element("label", { class: "question-field" }, element("span", { text: "Reason" }), this.reason);
    const buttons = [this.button("Approve", () => this.approve(), true), this.button("Deny", () => this.deny())];
    if (this.mayBeEdited()) buttons.push(this.button("Change the arguments", () => this.edit()));
    return [reason, ...buttons];
  }

  mayBeEdited() {
    return Boolean(this.interrupt.responseSchema?.properties?.editedArgs);
  }

  /** The form's own submission, by the Enter key in the reason, decides nothing: a call is not made by accident. */
  onSubmit() {}

  approve() {
    let editedArgs;
    if (this.editor) {
      editedArgs = this.editedArguments();
      if (editedArgs === null) return;
    }
    const said = this.editor ? "Approved with changes" : "Approved";
    this.answer({ status: "resolved", payload: { approved: true, ...(this.editor ? { editedArgs } : {}), ...this.because() }, said });
  }

  deny() {
    this.answer({ status: "resolved", payload: { approved: false, ...this.because() }, said: "Denied" });
  }

  because() {
    const reason = this.reason.value.trim();
    return reason ? { reason } : {};
  }

  edit() {
    if (this.editor) return;
    this.editor = element("textarea", { name: "arguments", rows: "6", spellcheck: "false" });
    this.editor.value = prettyJson(this.interrupt.metadata.arguments ?? "{}");
    this.complaint = element("span", { class: "question-complaint", role: "alert" });
    this.controls.prepend(element("label", { class: "question-field" }, element("span", { text: "Arguments" }), this.editor, this.complaint));
    this.editor.focus();
  }

  /** The edited arguments, or null when they are no JSON object, which is said. */
  editedArguments() {
    try {
      const value = JSON.parse(this.editor.value);
      if (value !== null && typeof value === "object" && !Array.isArray(value)) return value;
      this.complaint.textContent = "A JSON object is expected.";
    } catch (error) {
      this.complaint.textContent = `This is no JSON: ${error.message}`;
    }
    return null;
  }

  button(text, click, isFirst = false) {
    return element("button", { class: isFirst ? "button primary" : "button", type: "button", text, on: { click } });
  }

  deadline() {
    const { expiresAt } = this.interrupt;
    const text = expiresAt ? `Until ${new Date(expiresAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}.` : "";
    return element("p", { class: "question-until", text });
  }

  /** Look until it was decided elsewhere: resolves to the run that carries it out, or to null when none will, or it was answered here. */
  async decidedElsewhere({ baseUrl, headers, isShown }) {
    const address = `${baseUrl}/approvals/${encodeURIComponent(this.interrupt.id)}`;
    while (!this.isSettled && isShown()) {
      const found = document.hidden ? null : await lookAt(address, headers);
      if (this.isSettled || !isShown()) return null;
      if (found?.status === "expired") {
        this.settle(SAID.expired);
        return null;
      }
      if (found && found.status !== "open") {
        this.settle(SAID[found.status] ?? found.status);
        if (found.runId) return found.runId;
        return this.runOf(address, headers, isShown);
      }
      await pause(POLL_MS);
    }
    return null;
  }

  /** Decided; the run begins when all questions of the thread are. */
  async runOf(address, headers, isShown) {
    while (isShown()) {
      await pause(POLL_MS);
      const found = await lookAt(address, headers);
      if (found?.runId) return found.runId;
    }
    return null;
  }
}

/** The question as it stands; null while it cannot be asked for. */
async function lookAt(address, headers) {
  try {
    const response = await fetch(address, { headers });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
