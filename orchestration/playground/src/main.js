// The playground's page: it joins composer, thread, run views and the events panel.

import { RUN_MAY_GO_ON } from "./advice.js";
import { questionFor } from "./approval.js";
import { asCurl } from "./curl.js";
import { byId, copyText, element } from "./dom.js";
import { EventsPanel } from "./events_panel.js";
import { drawHistory, userBubble } from "./history.js";
import { identityHeaders, uuid } from "./identity.js";
import { RunView } from "./run_view.js";
import { ThreadsPanel } from "./threads_panel.js";
import { ThreadConnection } from "./transport.js";

const STOP_PATIENCE_MS = 4000;
const NARROW = "(max-width: 1000px)"; // where panels are drawers, as in the style sheet
const PLACEHOLDER = "Send a message";
const PLACEHOLDER_ASKED = "Answer above, or go on without an answer";

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
    this.threads = new ThreadsPanel({
      list: byId("threads"), more: byId("threads-more"), note: byId("threads-note"), baseUrl: config.baseUrl,
      headers: () => this.identity(), onOpen: (thread) => this.choose(thread),
    });
    this.questions = [];
    this.listen();
    this.openAddressed();
    this.threads.refresh();
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
    for (const button of document.querySelectorAll("[data-new-thread]")) button.addEventListener("click", () => this.newThread());
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => copyText(byId(button.dataset.copy).textContent, button));
    }
    for (const button of document.querySelectorAll("[data-suggestion]")) {
      button.addEventListener("click", () => this.ask(button.dataset.suggestion));
    }
    for (const button of document.querySelectorAll("[data-toggle]")) {
      button.setAttribute("aria-expanded", String(isShown(button.dataset.toggle)));
      button.addEventListener("click", () => this.togglePanel(button.dataset.toggle));
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.onEscape();
    });
    scroller.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    addEventListener("popstate", () => this.openAddressed());
  }

  // --- the thread

  newThread() {
    this.setThread(uuid());
    this.parts.empty.hidden = false;
    this.parts.input.focus();
    if (location.hash) history.pushState(null, "", location.pathname);
  }

  /** Open a thread of the list; the browser's way back leads to the one before. */
  choose({ id, agentId }) {
    if (matchMedia(NARROW).matches) this.togglePanel("threads");
    if (id === this.connection.threadId) return;
    history.pushState(null, "", `#${new URLSearchParams({ agent: agentId, thread: id })}`);
    this.openAddressed();
  }

  /** A page with a thread in its address goes on with that thread, also after a reload. */
  openAddressed() {
    const address = new URLSearchParams(location.hash.slice(1));
    const threadId = address.get("thread");
    if (threadId && threadId === this.connection?.threadId) return;
    if (!threadId) {
      this.newThread();
      return;
    }
    this.openThread(threadId, address.get("agent"));
  }

  /** Show a thread's history and follow the run that is going on in it. */
  async openThread(threadId, agent) {
    if (this.config.agents.some(({ slug }) => slug === agent)) this.parts.agent.value = agent;
    this.setThread(threadId);
    this.parts.empty.hidden = true;
    this.keepAddress();
    const run = this.makeRun("", { isJoined: true });
    this.parts.log.append(run.view.root);
    await this.read(run, (listeners) => run.connection.join(listeners));
  }

  /** Begin with an empty page for this thread. */
  setThread(threadId) {
    this.connection?.leave();
    this.running = null;
    this.lastText = "";
    this.setQuestions([]);
    this.connection = new ThreadConnection({
      ...this.urls(),
      headers: this.identity(),
      threadId,
    });
    this.threads.mark(threadId);
    this.parts.log.replaceChildren();
    this.parts.threadId.textContent = threadId;
    this.showRunId("");
    this.panel.clear();
    this.setRunning(false);
    this.staysAtEnd = true;
  }

  identity() {
    return identityHeaders(this.config, this.parts.role?.value ?? "user");
  }

  agent() {
    return this.config.agents.find(({ slug }) => slug === this.parts.agent.value) ?? this.config.agents[0];
  }

  urls() {
    const { baseUrl } = this.config;
    const { slug, runUrl } = this.agent() ?? { slug: "", runUrl: `${baseUrl}/events` };
    return { baseUrl, runUrl, connectUrl: `${baseUrl}/agent/${encodeURIComponent(slug)}/connect` };
  }

  keepAddress() {
    const address = new URLSearchParams({ agent: this.agent()?.slug ?? "", thread: this.connection.threadId });
    history.replaceState(null, "", `#${address}`);
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

  /** Begin a run with a message; open questions count as not answered. */
  async start(text) {
    const resume = this.questions.map((question) => question.entry());
    for (const question of this.questions) question.settle("Not answered");
    this.lastText = text;
    this.parts.empty.hidden = true;
    this.parts.log.append(userBubble(text));
    await this.begin({ message: { id: uuid(), role: "user", content: text }, resume });
  }

  /** Go on with the thread when each question has its answer. */
  async onAnswer() {
    if (this.running || this.questions.some((question) => !question.given)) return;
    await this.begin({ resume: this.questions.map((question) => question.entry()) });
  }

  async begin(wish) {
    const run = this.makeRun(uuid());
    const asked = this.questions;
    this.setQuestions([]);
    this.keepAddress();
    this.staysAtEnd = true;
    this.parts.log.append(run.view.root);
    this.showRunId(run.id);
    this.scrollToEnd();
    await this.read(run, (listeners) => run.connection.send({ runId: run.id, ...wish, ...listeners }));
    if (!run.hasBegun && !run.isLeft) this.askAgain(run, asked);
  }

  /** The answers were refused, so nothing is decided. */
  askAgain(run, asked) {
    for (const question of asked) question.settle("Not accepted");
    if (asked.length) this.showQuestions(run, asked.map((question) => question.interrupt));
  }

  makeRun(id, { isJoined = false } = {}) {
    return { id, seen: 0, isJoined, hasHistory: false, view: this.makeView(isJoined), connection: this.connection };
  }

  makeView(isJoined) {
    return new RunView({ isJoined, onDraw: () => this.scrollToEnd() });
  }

  /** Read a run's events until they end, by sending it or by following it. */
  async read(run, open) {
    this.running = run;
    this.setRunning(true);
    try {
      await open({
        onEvent: (event) => this.onEvent(run, event),
        onFrame: (frame) => this.onFrame(run, frame),
        onReconnecting: ({ attempt }) => run.view.showReconnecting(attempt),
        onReconnected: () => run.view.showReconnecting(null),
      });
      if (!run.view.ended) this.onLeft(run);
    } catch (error) {
      this.onFailure(run, error);
    }
    if (this.running === run) {
      this.running = null;
      this.setRunning(false);
      this.threads.refresh();
      this.parts.input.focus({ preventScroll: true });
    }
  }

  onEvent(run, event) {
    if (event.type === "RUN_ERROR" && RUN_MAY_GO_ON.has(event.code)) {
      this.onFailure(run, { code: event.code, message: event.message });
      return;
    }
    if (event.type === "RUN_STARTED") run.hasBegun = true;
    if (run.isJoined) this.onJoined(run, event);
    run.view.apply(event, performance.now());
    if (event.type === "TEXT_MESSAGE_END") this.announce(run);
    if (event.type === "RUN_STARTED" && !run.isJoined) this.threads.refresh();
    if (event.type === "RUN_FINISHED" && event.outcome?.type === "interrupt") this.showQuestions(run, event.outcome.interrupts);
  }

  /** A joined thread says first which run it is about and what was said before. */
  onJoined(run, event) {
    if (event.type === "RUN_STARTED") {
      run.id = event.runId;
      this.showRunId(run.id);
    }
    if (event.type === "RUN_FINISHED" && !run.hasHistory) this.onNothingThere(run);
    if (event.type !== "MESSAGES_SNAPSHOT" || run.hasHistory) return;
    run.hasHistory = true;
    run.view.root.remove();
    const last = drawHistory(event.messages, this.parts.log, () => this.makeView(true));
    if (!last) this.parts.log.append(run.view.root);
    run.view = last ?? run.view;
    this.staysAtEnd = true;
  }

  showQuestions(run, interrupts) {
    if (run.connection !== this.connection) return;
    const questions = interrupts.map((interrupt) => questionFor(interrupt, () => this.onAnswer()));
    for (const question of questions) run.view.ask(question);
    this.setQuestions(questions);
    for (const question of questions) this.watch(question, run.connection);
  }

  /** Somebody else may decide: then the thread goes on, and so does this page. */
  async watch(question, connection) {
    if (!question.decidedElsewhere) return;
    const isShown = () => this.connection === connection && this.questions.includes(question);
    const { baseUrl, headers } = connection;
    const runId = await question.decidedElsewhere({ baseUrl, headers, isShown });
    if (runId && isShown()) this.openThread(connection.threadId, this.agent()?.slug);
  }

  setQuestions(questions) {
    this.questions = questions;
    this.parts.input.placeholder = questions.length ? PLACEHOLDER_ASKED : PLACEHOLDER;
  }

  onFrame(run, frame) {
    if (run.connection !== this.connection) return;
    const number = Number(frame.id.slice(frame.id.lastIndexOf(".") + 1));
    if (frame.id && number > run.seen) run.seen = number;
    if (frame.data !== null || !frame.id) this.panel.add(frame); // an id alone only moves the cursor
  }

  onFailure(run, error) {
    const actions = RUN_MAY_GO_ON.has(error.code) && run.id ? [this.followButton(run)] : [];
    run.view.fail({ code: error.code ?? "internal_error", message: error.message, requestId: error.requestId, actions }, performance.now());
  }

  /** The address named a thread that does not exist: it begins now. */
  onNothingThere(run) {
    run.view.root.remove();
    this.showRunId("");
    this.parts.empty.hidden = false;
  }

  /** The reader stopped listening before the run ended. */
  onLeft(run) {
    run.isLeft = true;
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
      origin: location.origin, path: this.config.curlUrl, headers, threadId: this.connection.threadId, text: this.lastText,
    });
  }

  onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.submit();
  }

  onEscape() {
    if (this.running) this.stop();
    else if (document.body.classList.contains("threads-open")) this.togglePanel("threads");
    else if (document.body.classList.contains("events-open")) this.togglePanel("events");
    else this.parts.input.focus();
  }

  /** Show or hide `events` or `threads`. */
  togglePanel(name) {
    const isOpen = !isShown(name);
    document.body.classList.toggle(`${name}-open`, isOpen);
    document.body.classList.toggle(`${name}-closed`, !isOpen);
    for (const button of document.querySelectorAll(`[data-toggle=${name}]`)) button.setAttribute("aria-expanded", String(isOpen));
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

/** Whether a panel can be seen; the width of the page has a say in it. */
function isShown(name) {
  return getComputedStyle(byId(`${name}-panel`)).display !== "none";
}

new Playground(JSON.parse(byId("playground-config").textContent));
