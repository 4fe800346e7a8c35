// Drives the real AG-UI client on top of the resume client, one scenario a process, and prints what the application saw as JSON.
//
//   node resume.mjs <package of the client> <scenario> <base address> <user id> <the resume client's index.js>

const [packageName, scenario, baseUrl, userId, modulePath] = process.argv.slice(2);
const { HttpAgent } = await import(packageName);
const { followRun, joinThread, resumingFetch } = await import(modulePath);

const headers = { "X-Supabase-User-ID": userId };
const seen = { events: [], text: "", runs: [], errors: [], reconnecting: 0, reconnected: 0, followed: [], joinedMessages: [] };
const options = {
  initialDelayMs: 20,
  maxDelayMs: 200,
  onReconnecting: () => void (seen.reconnecting += 1),
  onReconnected: () => void (seen.reconnected += 1),
};
const watcher = {
  onEvent: ({ event }) => {
    seen.events.push(event.type);
    if (event.type === "TEXT_MESSAGE_CONTENT") seen.text += event.delta;
  },
  onRunErrorEvent: ({ event }) => void seen.errors.push({ code: event.code, message: event.message }),
};
let agent;

function make(changes = {}) {
  const fetch = resumingFetch({ ...options, ...changes });
  agent = new HttpAgent({ url: `${baseUrl}/events`, threadId: crypto.randomUUID(), headers, fetch });
}

async function ask(content, parameters = {}) {
  agent.addMessage({ id: crypto.randomUUID(), role: "user", content });
  try {
    await agent.runAgent(parameters, watcher);
    seen.runs.push({ ok: true });
  } catch (error) {
    seen.runs.push({ ok: false, name: error.name, code: error.code, status: error.status, message: error.message });
  }
}

async function take(events) {
  for await (const { id, event } of events) seen.followed.push({ id, type: event.type });
}

const runId = crypto.randomUUID();

const scenarios = {
  async long() {
    make();
    await ask("Tell me a long story", { runId });
  },
  async tools() {
    make();
    await ask("Compare the weather in Paris, Tokyo and Cairo.", { runId });
    await ask("hello again");
  },
  async silence() {
    make({ idleTimeoutMs: 1200 });
    await ask("demo: slow 100", { runId });
  },
  async cancelledFromElsewhere() {
    make({
      onReconnected: async () => {
        seen.reconnected += 1;
        await fetch(`${baseUrl}/runs/${runId}/cancel`, { method: "POST", headers });
      },
    });
    await ask("demo: slow 1000", { runId });
  },
  async aborted() {
    make({ cancelOnAbort: true });
    const stopsAtThirdWord = agent.subscribe({
      onTextMessageContentEvent: ({ textMessageBuffer }) => void (textMessageBuffer.includes("word3") && agent.abortRun()),
    });
    await ask("demo: slow 200", { runId });
    stopsAtThirdWord.unsubscribe();
    await new Promise((resolve) => setTimeout(resolve, 500)); // a page lives on; this process would end before its last request
  },
  async refused() {
    make();
    agent.threadId = "x".repeat(200);
    await ask("hello", { runId });
  },
  async joined() {
    make();
    const reader = new HttpAgent({
      url: `${baseUrl}/agent/assistant/connect`, threadId: agent.threadId, headers, fetch: resumingFetch(options),
    });
    const isAnswering = new Promise((resolve) => agent.subscribe({ onTextMessageContentEvent: () => void resolve() }));
    const asked = ask("demo: slow 200", { runId });
    await isAnswering;
    const joined = { ...watcher, onEvent: ({ event }) => void seen.followed.push({ type: event.type }) };
    await reader.runAgent({}, joined);
    await asked;
    seen.joinedMessages = reader.messages;
  },
  async joinedAfterwards() {
    make();
    await ask("hello", { runId });
    await take(joinThread({ ...options, baseUrl, headers, threadId: agent.threadId, agentId: "assistant" }));
  },
  async followed() {
    make();
    await ask("hello", { runId });
    await take(followRun({ ...options, baseUrl, headers, runId, after: 2 }));
  },
};

await scenarios[scenario]();
console.log(JSON.stringify({ ...seen, runId, threadId: agent.threadId, messages: agent.messages }));
process.exit(0);
