// Drives the real AG-UI client against the service, one scenario a process, and prints what the application saw as JSON.
//
//   node drive.mjs <package of the client> <scenario> <address> <user id>

const [packageName, scenario, address, userId] = process.argv.slice(2);
const { HttpAgent } = await import(packageName);

const agent = new HttpAgent({ url: address, threadId: crypto.randomUUID(), headers: { "X-Supabase-User-ID": userId } });
const seen = { events: [], runs: [], errors: [] };
const watcher = {
  onEvent: ({ event }) => void seen.events.push(event.type),
  onRunFinishedEvent: ({ event }) => void (seen.interrupts = event.outcome?.interrupts ?? seen.interrupts),
  onRunErrorEvent: ({ event }) => void seen.errors.push({ code: event.code, message: event.message }),
};

const say = (content) => agent.addMessage({ id: crypto.randomUUID(), role: "user", content });

async function run(parameters = {}) {
  try {
    const { newMessages } = await agent.runAgent(parameters, watcher);
    seen.runs.push({ ok: true, newMessages: newMessages.length });
  } catch (error) {
    seen.runs.push({ ok: false, error: String(error.message ?? error) });
  }
}

const clock = { name: "get_client_time", description: "The user's time", parameters: { type: "object", properties: {} } };

const scenarios = {
  async plain() {
    say("hello");
    await run();
  },
  async tool() {
    say("What is the weather like in London?");
    await run();
  },
  async reasoning() {
    say("please think aloud");
    await run();
  },
  async delegation() {
    say("ask the researcher about tea");
    await run();
    say("hello again");
    await run();
  },
  async twoTurns() {
    say("What is the weather like in Oslo?");
    await run();
    say("hello again");
    await run();
  },
  async plan() {
    agent.state = { theme: "dark" };
    say("plan: compare the weather in London and Paris");
    await run();
    say("hello again");
    await run();
  },
  async frontendTool() {
    say("what time is it for me?");
    await run({ tools: [clock] });
    const call = agent.messages.at(-1).toolCalls[0];
    agent.addMessage({ id: crypto.randomUUID(), role: "tool", toolCallId: call.id, content: "12:34" });
    await run({ tools: [clock] });
  },
  async abort() {
    say("demo: slow 300");
    const stopsAtFirstWord = agent.subscribe({ onTextMessageContentEvent: () => void agent.abortRun() });
    await run();
    stopsAtFirstWord.unsubscribe();
  },
  // a call that waits for a person: approved with other arguments, in the next run's `resume`
  async approval() {
    say(`demo: call ${process.argv[6]} {"expression": "6*7"}`);
    await run();
    const asked = seen.interrupts;
    say("hello");
    await run(); // while a question is open the client refuses to run
    agent.messages = agent.messages.slice(0, -1);
    const payload = { approved: true, editedArgs: { expression: "5*5" }, reason: "smaller" };
    await run({ resume: asked.map(({ id }) => ({ interruptId: id, status: "resolved", payload })) });
    say("hello");
    await run();
  },
  async badModel() {
    say("demo: cut");
    await run();
    say("hello");
    await run();
  },
};

await scenarios[scenario]();
console.log(JSON.stringify({ ...seen, messages: agent.messages, state: agent.state, threadId: agent.threadId }));
process.exit(0);
