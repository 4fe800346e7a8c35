// The playground's page: it joins composer, thread, run views and the events panel.

import { RUN_MAY_GO_ON } from "./advice.js";
import { asCurl } from "./curl.js";
import { byId, copyText, element } from "./dom.js";
import { EventsPanel } from "./events_panel.js";
import { identityHeaders, uuid } from "./identity.js";
import { RunView } from "./run_view.js";
import { ThreadConnection } from "./transport.js";

const STOP_PATIENCE_MS = 4000;

class Playground {
  constructor(config) {
    this.config = config;
    this.parts = {
      log: byId("log"), scroller: byId("scroller"), empty: byId("empty"), form: byId("composer"), input: byId("message"),
      send: byId("send"), stop: byId("stop"), agent: byId("agent"), role: document.getElementById("role"),
      threadId: byId("thread-id"), runId: byId("run-id"), curl: byId("copy-curl"), said: byId("said"),
    };
    this.panel = new EventsPanel({
      list: byId("events"), filter: byId("events-filter"), count: byId("events-count"), copy: byId("events-copy"), clear: byId("events-clear"),
    });
    this.listen();
    this.newThread();
  }

  listen() {
    const { form, input, stop, agent, role, curl, scroller } = this.parts;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    input.addEventListener("keydown", (event) => this.onKey(event));
    input.addEventListener("input", () => this.fitInput());
    stop.addEventListener("click", () => this.stop());
    agent.addEventListener("change", () => this.newThread());
    role?.addEventListener("change", () => this.newThread());
    curl.addEventListener("click", () => copyText(this.curl(), curl));
    byId("new-thread").addEventListener("click", () => this.newThread());
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => copyText(byId(button.dataset.copy).textContent, button));
    }
    for (const button of document.querySelectorAll("[data-suggestion]")) {
      button.addEventListener("click", () => this.ask(button.dataset.suggestion));
    }
    for (const button of document.querySelectorAll("[data-toggle-events]")) {
      button.addEventListener("click", () => this.toggleEvents());
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.onEscape();
    });
    scroller.addEventListener("scroll", () => this.noteScroll(), { passive: true });
  }

  // --- the thread

  newThread() {
    this.connection?.leave();
    this.running = null;
    this.lastText = "";
    this.connection = new ThreadConnection({
      ...this.urls(),
      headers: identityHeaders(this.config, this.parts.role?.value ?? "user"),
      threadId: uuid(),
    });
    this.parts.log.replaceChildren();
    this.parts.empty.hidden = false;
    this.parts.threadId.textContent = this.connection.threadId;
    this.showRunId("");
    this.panel.clear();
    this.setRunning(false);
    this.staysAtEnd = true;
    this.parts.input.focus();
  }

  urls() {
    const agent = this.config.agents.find(({ slug }) => slug === this.parts.agent.value) ?? this.config.agents[0];
    return { url: agent?.url ?? this.config.eventsUrl, cancelUrl: this.config.cancelUrl, followUrl: this.config.followUrl };
  }

  // --- a run

  ask(text) {
    this.parts.input.value = text;
    this.submit();
  }

  submit() {
    const text = this.parts.input.value.trim();
    if (!text || this.running) return;
    this.parts.input.value = "";
    this.fitInput();
    this.start(text);
  }

  async start(text) {
    const run = { id: uuid(), seen: 0, view: new RunView({ onDraw: () => this.scrollToEnd() }), connection: this.connection };
    this.lastText = text;
    this.parts.empty.hidden = true;
    this.staysAtEnd = true;
    this.parts.log.append(element("div", { class: "bubble user", text }), run.view.root);
    this.showRunId(run.id);
    this.scrollToEnd();
    const message = { id: uuid(), role: "user", content: text };
    await this.read(run, (listeners) => run.connection.send({ runId: run.id, message, ...listeners }));
  }

  /** Read a run's events until they end, by sending it or by following it. */
  async read(run, open) {
    this.running = run;
    this.setRunning(true);
    try {
      await open({ onEvent: (event) => this.onEvent(run, event), onFrame: (frame) => this.onFrame(run, frame) });
      if (!run.view.ended) this.onLeft(run);
    } catch (error) {
      this.onFailure(run, error);
    }
    if (this.running === run) {
      this.running = null;
      this.setRunning(false);
      this.parts.input.focus({ preventScroll: true });
    }
  }

  onEvent(run, event) {
    if (event.type === "RUN_ERROR" && RUN_MAY_GO_ON.has(event.code)) {
      this.onFailure(run, { code: event.code, message: event.message });
      return;
    }
    run.view.apply(event, performance.now());
    if (event.type === "TEXT_MESSAGE_END") this.announce(run);
  }

  onFrame(run, frame) {
    const number = Number(frame.id.slice(frame.id.lastIndexOf(".") + 1));
    if (frame.id && number > run.seen) run.seen = number;
    if (run.connection === this.connection) this.panel.add(frame);
  }

  onFailure(run, error) {
    const actions = RUN_MAY_GO_ON.has(error.code) && this.config.followUrl ? [this.followButton(run)] : [];
    run.view.fail({ code: error.code ?? "internal_error", message: error.message, requestId: error.requestId, actions }, performance.now());
  }

  /** The reader stopped listening before the run ended. */
  onLeft(run) {
    run.view.close(performance.now(), "left");
    run.view.note("You stopped reading. The run itself may go on; the console shows how it ends.");
  }

  followButton(run) {
    const button = element("button", { class: "button", type: "button", text: "Follow the run" });
    button.addEventListener("click", () => {
      if (this.running) return;
      button.disabled = true;
      run.view.reopen();
      this.read(run, (listeners) => run.connection.follow({ runId: run.id, after: run.seen, ...listeners }));
    });
    return button;
  }

  /** Ask the service to stop; a run that does not end soon after is left alone. */
  stop() {
    const run = this.running;
    if (!run) return;
    this.parts.stop.disabled = true;
    run.connection.stop(run.id);
    setTimeout(() => {
      if (this.running === run) run.connection.leave();
    }, STOP_PATIENCE_MS);
  }

  // --- the page

  setRunning(isRunning) {
    this.parts.send.hidden = isRunning;
    this.parts.stop.hidden = !isRunning;
    this.parts.stop.disabled = false;
    this.parts.log.setAttribute("aria-busy", String(isRunning));
  }

  showRunId(id) {
    this.parts.runId.textContent = id || "none yet";
    this.parts.curl.disabled = !id;
  }

  /** Tell a screen reader the finished message, once; the text that streams in would be read word by word. */
  announce(run) {
    this.parts.said.textContent = [...run.view.texts.values()].at(-1)?.text ?? "";
  }

  curl() {
    const headers = this.config.debug ? this.connection.headers : { "X-Supabase-User-ID": "USER_ID" };
    return asCurl({
      origin: location.origin, path: this.config.eventsUrl, headers, threadId: this.connection.threadId, text: this.lastText,
    });
  }

  onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.submit();
  }

  onEscape() {
    if (this.running) this.stop();
    else if (document.body.classList.contains("events-open")) this.toggleEvents();
    else this.parts.input.focus();
  }

  toggleEvents() {
    const isOpen = getComputedStyle(byId("events-panel")).display === "none";
    document.body.classList.toggle("events-open", isOpen);
    document.body.classList.toggle("events-closed", !isOpen);
    for (const button of document.querySelectorAll("[data-toggle-events]")) button.setAttribute("aria-expanded", String(isOpen));
  }

  fitInput() {
    this.parts.input.rows = Math.min(8, this.parts.input.value.split("\n").length);
  }

  noteScroll() {
    const { scroller } = this.parts;
    this.staysAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
  }

  scrollToEnd() {
    if (!this.staysAtEnd) return;
    requestAnimationFrame(() => {
      this.parts.scroller.scrollTop = this.parts.scroller.scrollHeight;
    });
  }
}

new Playground(JSON.parse(byId("playground-config").textContent));
