// Drives CopilotKit's browser client against the service, with no runtime between, and prints what it saw as JSON.
//
//   node drive.mjs <scenario> <base address> <user id>

const [scenario, base, userId] = process.argv.slice(2);

// It connects in a browser only: this much of one is enough for it.
globalThis.window = globalThis;
globalThis.location = new URL(base);
const { CopilotKitCore } = await import("@copilotkit/core");

const headers = { "X-Supabase-User-ID": userId };
const threadId = crypto.randomUUID();

async function connected() {
  const core = new CopilotKitCore({ runtimeUrl: `${base}/ag-ui`, runtimeTransport: "rest", headers });
  const deadline = Date.now() + 10_000;
  while (core.runtimeConnectionStatus !== "connected") {
    if (Date.now() > deadline) throw new Error(`the client did not connect: ${core.runtimeConnectionStatus}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const agent = core.getAgent("assistant");
  agent.threadId = threadId;
  return { core, agent };
}

const say = (agent, content) => agent.addMessage({ id: crypto.randomUUID(), role: "user", content });
const shown = (agent) => agent.messages.map(({ role, content }) => [role, content ?? ""]);

function firstText(agent) {
  return new Promise((resolve) => {
    const watching = agent.subscribe({
      onTextMessageContentEvent: () => {
        watching.unsubscribe();
        resolve();
      },
    });
  });
}

const scenarios = {
  async run() {
    const { core, agent } = await connected();
    say(agent, "What is the weather like in London?");
    await core.runAgent({ agent });
    return { shown: shown(agent) };
  },
  async reload() {
    const first = await connected();
    say(first.agent, "hello");
    await first.core.runAgent({ agent: first.agent });
    const second = await connected();
    await second.core.connectAgent({ agent: second.agent });
    return { before: shown(first.agent), after: shown(second.agent) };
  },
  async reconnect() {
    const first = await connected();
    say(first.agent, "demo: slow 60");
    const begun = firstText(first.agent);
    const running = first.core.runAgent({ agent: first.agent });
    await begun;
    const second = await connected();
    await second.core.connectAgent({ agent: second.agent });
    await running;
    return { before: shown(first.agent), after: shown(second.agent) };
  },
  async stop() {
    const { core, agent } = await connected();
    say(agent, "demo: slow 2000");
    const begun = firstText(agent);
    const running = core.runAgent({ agent });
    await begun;
    core.stopAgent({ agent });
    await running;
    return { shown: shown(agent), threadId };
  },
};

const seen = await scenarios[scenario]();
console.log(JSON.stringify(seen));
process.exit(0);
