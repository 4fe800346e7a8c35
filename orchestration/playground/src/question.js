// A question that a run ends with: what it asks, and the answers that its schema allows.

import { element } from "./dom.js";

/** One interrupt as a card. `onAnswer({status, payload?, said})` is called once; `said` is the answer in words. */
export class Question {
  constructor(interrupt, onAnswer) {
    this.interrupt = interrupt;
    this.onAnswer = onAnswer;
    this.fields = fieldsOf(interrupt.responseSchema);
    this.controls = element("div", { class: "question-answers" }, ...this.answers());
    this.root = element(
      "form",
      { class: "question", role: "group", "aria-label": "A question to you", "data-reason": interrupt.reason },
      element("p", { class: "question-text", text: interrupt.message ?? "The agent waits for your decision." }),
      this.controls,
    );
    this.root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.onSubmit();
    });
  }

  onSubmit() {
    this.answer({ status: "resolved", payload: payloadOf(this.fields), said: "Answered" });
  }

  get isSettled() {
    return this.root.dataset.answered === "yes";
  }

  /** One choice among few: a button each. Anything else: a form. */
  answers() {
    const [only] = this.fields;
    if (this.fields.length === 0) return [this.choice("Go on", undefined, true), this.dismissal()];
    if (this.fields.length === 1 && only.choices) {
      const buttons = only.choices.map(({ label, value }, index) => this.choice(label, { [only.name]: value }, index === 0));
      return [...buttons, this.dismissal()];
    }
    const inputs = this.fields.map((field) => element("label", { class: "question-field" }, element("span", { text: field.title }), field.input));
    return [...inputs, element("button", { class: "button primary", type: "submit", text: "Answer" }), this.dismissal()];
  }

  choice(label, payload, isFirst) {
    const on = { click: () => this.answer({ status: "resolved", payload, said: label }) };
    return element("button", { class: isFirst ? "button primary" : "button", type: "button", text: label, on });
  }

  dismissal() {
    const on = { click: () => this.answer({ status: "cancelled", said: "Not answered" }) };
    return element("button", { class: "link", type: "button", text: "Dismiss", on });
  }

  answer(given) {
    if (this.given) return;
    this.settle(given.said);
    this.given = given;
    this.onAnswer(given);
  }

  /** Answered, here or by going on without an answer: no button is left. */
  settle(said) {
    this.controls.replaceChildren(element("span", { class: "question-said", text: said }));
    this.root.dataset.answered = "yes";
  }

  /** The entry for the next run's `resume`. */
  entry() {
    const { status = "cancelled", payload } = this.given ?? {};
    return { interruptId: this.interrupt.id, status, ...(payload === undefined ? {} : { payload }) };
  }
}

/** The properties that an answer may have: `{name, title, choices}` or `{name, title, input}`. */
function fieldsOf(schema) {
  const properties = Object.entries(schema?.properties ?? {});
  const isSingle = properties.length === 1;
  return properties.map(([name, property]) => {
    const title = property.title ?? sentence(name);
    const choices = choicesOf(property, title, isSingle);
    if (choices && isSingle) return { name, title, choices };
    const input = choices ? selection(choices) : typed(property, name);
    input.required = schema.required?.includes(name) ?? false;
    return { name, title, input, choices: null, values: choices?.map(({ value }) => value), property };
  });
}

function choicesOf(property, title, isSingle) {
  if (Array.isArray(property.enum)) return property.enum.map((value) => ({ label: sentence(String(value)), value }));
  if (property.const !== undefined) return [{ label: title, value: property.const }];
  if (property.type !== "boolean") return null;
  return [{ label: property.title && isSingle ? title : "Yes", value: true }, { label: "No", value: false }];
}

function selection(choices) {
  const none = element("option", { value: "", text: "Choose…" }); // nothing is agreed to by default
  return element("select", {}, none, ...choices.map(({ label }, index) => element("option", { value: String(index), text: label })));
}

function typed(property, name) {
  const isNumber = property.type === "number" || property.type === "integer";
  return element("input", { type: isNumber ? "number" : "text", step: isNumber ? "any" : null, name, placeholder: property.description ?? "" });
}

function payloadOf(fields) {
  const payload = {};
  for (const { name, input, values, property } of fields) {
    if (input.value === "") continue;
    if (values) payload[name] = values[Number(input.value)];
    else payload[name] = ["number", "integer"].includes(property.type) ? Number(input.value) : asJson(input.value, property);
  }
  return payload;
}

/** What is no plain text (an object, a list) is typed as JSON. */
function asJson(text, property) {
  if (property.type !== "object" && property.type !== "array") return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function sentence(name) {
  const words = name.replaceAll("_", " ").replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}
