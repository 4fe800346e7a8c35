// What is promised of one run's stream, against a scripted service.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ConnectionLostError, followRun, joinThread, RefusedError, resumingFetch } from "../src/index.js";
import {
  destroy, interrupted, LAST, nothing, numbered, refuse, RUN, ScriptedService, stream, unnumbered,
} from "./scripted_service.mjs";

const QUICK = { initialDelayMs: 5, maxDelayMs: 20 };
const INPUT = { threadId: "t", runId: RUN, protocolVersion: "1.0", messages: [] };

function post(service, options = {}, init = {}) {
  const headers = { "Content-Type": "application/json", "X-Who": "me" };
  const request = { method: "POST", headers, body: JSON.stringify(INPUT), ...init };
  return resumingFetch({ ...QUICK, ...options })(`${service.base}/events`, request);
}

const textOf = async (service, options, init) => (await post(service, options, init)).text();

const numbersIn = (text) => [...text.matchAll(/^id: .*\.(\d+)$/gm)].map(([, number]) => Number(number));

const lastEvent = (text) => JSON.parse(text.trimEnd().split("\n").at(-1).slice(6));

const all = async (iterable) => {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
};

const everyNumber = Array.from({ length: LAST }, (_, index) => index + 1);

test("a stream that is never cut comes as it is", async (t) => {
  const service = await ScriptedService.serving(t, stream(`: heartbeat\n\n${numbered(1, LAST)}`));
  const response = await post(service);
  assert.equal(response.headers.get("x-run-id"), RUN);
  assert.equal(await response.text(), `: heartbeat\n\n${numbered(1, LAST)}`);
  assert.equal(service.requests.length, 1);
});

test("a stream cut in the middle of an event goes on after the last whole one", async (t) => {
  const half = numbered(4).slice(0, 40);
  const service = await ScriptedService.serving(t, stream(numbered(1, 3) + half, { then: "cut" }), stream(numbered(4, LAST)));
  assert.equal(await textOf(service), numbered(1, LAST));
  const [first, second] = service.requests;
  assert.equal(first.method, "POST");
  assert.equal(second.method, "GET");
  assert.equal(second.url, `/ag-ui/runs/${RUN}/events?protocolVersion=1.0`);
  assert.equal(second.headers["last-event-id"], `${RUN}.3`);
  assert.equal(second.headers["x-who"], "me");
  assert.equal(second.headers["content-type"], undefined);
  assert.equal(second.body, "");
});

test("an end without a terminal event is no end", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2)), stream(""), stream(numbered(3, LAST)));
  assert.deepEqual(numbersIn(await textOf(service)), everyNumber);
});

test("an interruption is not handed on, and the run goes on", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2) + interrupted), stream(numbered(3, LAST)));
  assert.equal(await textOf(service), numbered(1, LAST));
});

test("an event that comes twice is handed on once", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 3) + numbered(2, 3)), stream(numbered(2, LAST)));
  assert.deepEqual(numbersIn(await textOf(service)), everyNumber);
});

test("missing numbers are asked for once; what the log does not have was never sent", async (t) => {
  const holed = numbered(1, 2) + numbered(4, LAST);
  const filled = await ScriptedService.serving(t, stream(holed), stream(numbered(3, LAST)));
  assert.deepEqual(numbersIn(await textOf(filled)), everyNumber);
  const skipping = await ScriptedService.serving(t, stream(holed), stream(numbered(4, LAST)));
  assert.deepEqual(numbersIn(await textOf(skipping)), [1, 2, 4, 5, 6]);
});

test("nothing after the terminal event is handed on", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, LAST) + interrupted, { then: "stay" }));
  assert.equal(await textOf(service), numbered(1, LAST));
});

test("what a gateway puts into the stream is passed over", async (t) => {
  const foreign = "event: reconnect\ndata: soon\n\ndata: {\"status\": \"closing\"}\n\n";
  const service = await ScriptedService.serving(t, stream(numbered(1, 3) + foreign), stream(numbered(4, LAST)));
  assert.equal(await textOf(service), numbered(1, LAST));
});

test("CR LF, a byte order mark, comments and several data lines are understood, and LF is written", async (t) => {
  const broken = numbered(1, LAST).replace('{"type"', '{\ndata: "type"').replaceAll("\n", "\r\n");
  const service = await ScriptedService.serving(t, stream(`\uFEFF: hi\r\n\r\n${broken}`));
  const text = await textOf(service);
  assert.ok(!text.includes("\r"));
  assert.deepEqual(numbersIn(text), everyNumber);
});

test("bytes may be cut anywhere, also within a letter", async (t) => {
  const bytes = Buffer.from(numbered(1, LAST));
  const service = await ScriptedService.serving(t, async (_, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (const byte of bytes) await new Promise((resolve) => response.write(Buffer.from([byte]), () => setImmediate(resolve)));
    response.end();
  });
  assert.equal(await textOf(service), numbered(1, LAST));
});

test("a request that fails before its answer is made again under the same key", async (t) => {
  const service = await ScriptedService.serving(t, destroy, destroy, stream(numbered(1, LAST)));
  assert.deepEqual(numbersIn(await textOf(service)), everyNumber);
  assert.deepEqual(service.requests.map(({ method }) => method), ["POST", "POST", "POST"]);
  const keys = new Set(service.requests.map(({ headers }) => headers["idempotency-key"]));
  assert.equal(keys.size, 1);
  assert.match([...keys][0], /^[0-9a-f-]{36}$/);
  assert.equal(new Set(service.requests.map(({ body }) => body)).size, 1);
});

test("each run has a key of its own, or the application's", async (t) => {
  const service = await ScriptedService.serving(t, ...Array(3).fill(stream(numbered(1, LAST))));
  await textOf(service);
  await textOf(service);
  await textOf(service, {}, { headers: { "Idempotency-Key": "mine" } });
  const [first, second, third] = service.requests.map(({ headers }) => headers["idempotency-key"]);
  assert.notEqual(first, second);
  assert.equal(third, "mine");
});

test("a service without keys says that the run exists, and it is followed from its beginning", async (t) => {
  const exists = refuse(409, { code: "run_exists", detail: "This run id was already used." });
  const service = await ScriptedService.serving(t, destroy, exists, stream(numbered(1, LAST)));
  assert.deepEqual(numbersIn(await textOf(service)), everyNumber);
  assert.equal(service.requests[2].headers["last-event-id"], `${RUN}.0`);
});

test("a run id that somebody else used is refused at once", async (t) => {
  const service = await ScriptedService.serving(t, refuse(409, { code: "run_exists", detail: "This run id was already used." }));
  await assert.rejects(post(service), { code: "run_exists", status: 409 });
});

test("a run in the background is followed", async (t) => {
  const accepted = (_, response) => {
    response.writeHead(202, { "Content-Type": "application/json", "X-Run-ID": RUN });
    response.end(JSON.stringify({ runId: RUN }));
  };
  const service = await ScriptedService.serving(t, accepted, stream(numbered(1, LAST)));
  assert.deepEqual(numbersIn(await textOf(service)), everyNumber);
});

test("Retry-After is honoured", async (t) => {
  const waits = [];
  const busy = { code: "shutting_down", detail: "This process is shutting down.", retryable: true };
  const service = await ScriptedService.serving(t, refuse(503, busy, { "Retry-After": "1" }), stream(numbered(1, LAST)));
  await textOf(service, { onReconnecting: (attempt) => waits.push(attempt) });
  assert.equal(waits.length, 1);
  assert.ok(waits[0].delay >= 1000);
  assert.equal(waits[0].cause.code, "shutting_down");
});

test("a Retry-After beyond all patience is an end at once", async (t) => {
  const service = await ScriptedService.serving(t, refuse(503, { code: "unavailable" }, { "Retry-After": "86400" }));
  await assert.rejects(post(service), ConnectionLostError);
});

test("a refusal is final and says why", async (t) => {
  const problem = { code: "thread_busy", detail: "A run is going on.", retryable: true, request_id: "r-1" };
  const service = await ScriptedService.serving(t, refuse(409, problem));
  await assert.rejects(post(service), (error) => {
    assert.ok(error instanceof RefusedError);
    const { status, code, detail, requestId, retryable, payload } = error;
    assert.deepEqual([status, code, detail, requestId, retryable], [409, "thread_busy", "A run is going on.", "r-1", true]);
    assert.deepEqual(payload, problem);
    return true;
  });
  assert.equal(service.requests.length, 1);
});

test("a refusal while resuming ends the stream with its code", async (t) => {
  const service = await ScriptedService.serving(
    t, stream(numbered(1, 2)), refuse(401, { code: "invalid_token", detail: "The token has run out." }),
  );
  const text = await textOf(service);
  assert.deepEqual(numbersIn(text), [1, 2]);
  assert.deepEqual(lastEvent(text), { type: "RUN_ERROR", message: "The token has run out.", code: "invalid_token" });
});

test("a page in the place of the stream is refused", async (t) => {
  const page = (_, response) => {
    response.writeHead(200, { "Content-Type": "text/html" });
    response.end("<p>Log in</p>");
  };
  await assert.rejects(post(await ScriptedService.serving(t, page)), { code: "not_a_stream" });
});

test("an end that is no longer there is an error", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2)), nothing);
  assert.equal(lastEvent(await textOf(service)).code, "end_not_seen");
});

test("a silent connection counts as cut", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2), { then: "stay" }), stream(numbered(3, LAST)));
  assert.deepEqual(numbersIn(await textOf(service, { idleTimeoutMs: 150 })), everyNumber);
  await service.requests[0].gone;
});

test("a service that takes the request and does not answer is asked again", async (t) => {
  const service = await ScriptedService.serving(t, () => {}, stream(numbered(1, LAST)));
  assert.deepEqual(numbersIn(await textOf(service, { idleTimeoutMs: 150 })), everyNumber);
});

test("trying has an end, and says so as the stream's terminal event", async (t) => {
  const attempts = [];
  const service = await ScriptedService.serving(t, stream(numbered(1, 2)), ...Array(9).fill(destroy));
  const text = await textOf(service, { maxAttempts: 3, onReconnecting: ({ attempt }) => attempts.push(attempt) });
  assert.equal(lastEvent(text).code, "connection_lost");
  assert.deepEqual(attempts, [1, 2, 3]);
  assert.equal(service.requests.length, 4);
});

test("what is new restores the patience", async (t) => {
  const pieces = everyNumber.map((number) => stream(numbered(number)));
  const service = await ScriptedService.serving(t, ...pieces);
  assert.deepEqual(numbersIn(await textOf(service, { maxAttempts: 1 })), everyNumber);
});

test("the application is told of each break and of its end", async (t) => {
  const told = [];
  const service = await ScriptedService.serving(t, stream(numbered(1, 2)), destroy, stream(numbered(3, LAST)));
  await textOf(service, {
    onReconnecting: ({ attempt, delay, runId }) => told.push(["reconnecting", attempt, delay > 0, runId]),
    onReconnected: ({ attempt, runId }) => told.push(["reconnected", attempt, runId]),
  });
  assert.deepEqual(told, [["reconnecting", 1, true, RUN], ["reconnecting", 2, true, RUN], ["reconnected", 2, RUN]]);
});

test("headers are asked for anew for each request", async (t) => {
  let asked = 0;
  const service = await ScriptedService.serving(t, stream(numbered(1, 2)), stream(numbered(3, LAST)));
  await textOf(service, { headers: async () => ({ Authorization: `Bearer ${(asked += 1)}` }) });
  assert.deepEqual(service.requests.map(({ headers }) => headers.authorization), ["Bearer 1", "Bearer 2"]);
});

test("a client without a protocol version is sent the older form when it resumes, too", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2)), stream(numbered(3, LAST)));
  await textOf(service, {}, { body: JSON.stringify({ ...INPUT, protocolVersion: undefined }) });
  assert.equal(service.requests[1].url, `/ag-ui/runs/${RUN}/events?protocolVersion=0`);
});

test("an abort stops the reading and leaves the run alone", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2), { then: "stay" }));
  const abort = new AbortController();
  const response = await post(service, {}, { signal: abort.signal });
  const reader = response.body.getReader();
  await reader.read();
  abort.abort();
  await assert.rejects(reader.read(), { name: "AbortError" });
  await service.requests[0].gone;
  assert.equal(service.requests.length, 1);
});

test("an abort while waiting for the next attempt ends the waiting", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2)));
  const abort = new AbortController();
  const options = { initialDelayMs: 60_000, maxDelayMs: 60_000, onReconnecting: () => setImmediate(() => abort.abort()) };
  await assert.rejects(textOf(service, options, { signal: abort.signal }), { name: "AbortError" });
});

test("an abort can stop the run, too", async (t) => {
  let cancelled;
  const isCancelled = new Promise((resolve) => (cancelled = resolve));
  const service = await ScriptedService.serving(t, stream(numbered(1, 2), { then: "stay" }), (request, response) => {
    cancelled(`${request.method} ${request.url}`);
    refuse(202, {})(request, response);
  });
  const abort = new AbortController();
  const response = await post(service, { cancelOnAbort: true }, { signal: abort.signal });
  const reader = response.body.getReader();
  await reader.read();
  abort.abort();
  assert.equal(await isCancelled, `POST /ag-ui/runs/${RUN}/cancel`);
});

test("an abort after the end stops nothing", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, LAST)), refuse(202, {}));
  const abort = new AbortController();
  await textOf(service, { cancelOnAbort: true }, { signal: abort.signal });
  abort.abort();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(service.requests.length, 1);
});

test("who lets go of the body stops the reading", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2), { then: "stay" }));
  const response = await post(service);
  const reader = response.body.getReader();
  await reader.read();
  await reader.cancel();
  await service.requests[0].gone;
});

test("other requests pass unchanged", async (t) => {
  const service = await ScriptedService.serving(t, refuse(404, { code: "not_found" }));
  const response = await resumingFetch()(`${service.base}/info`);
  assert.equal(response.status, 404);
  assert.equal(service.requests[0].headers["idempotency-key"], undefined);
});

test("an address that says nothing of the others wants a base", async () => {
  await assert.rejects(resumingFetch()("http://127.0.0.1:9/run", { method: "POST", body: "{}" }), /baseUrl/);
});

test("a run is followed from any number", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(3)), stream(numbered(4, LAST)));
  const seen = await all(followRun({ ...QUICK, baseUrl: `${service.base}/`, runId: RUN, after: 2 }));
  assert.deepEqual(seen.map(({ id }) => id), [3, 4, 5, 6].map((number) => `${RUN}.${number}`));
  assert.equal(seen.at(-1).event.type, "RUN_FINISHED");
  assert.deepEqual(service.requests.map(({ headers }) => headers["last-event-id"]), [`${RUN}.2`, `${RUN}.3`]);
});

test("a run that has nothing more gives nothing", async (t) => {
  const service = await ScriptedService.serving(t, nothing);
  assert.deepEqual(await all(followRun({ baseUrl: service.base, runId: RUN, after: LAST })), []);
});

test("a stranger's run is refused", async (t) => {
  const service = await ScriptedService.serving(t, refuse(404, { code: "not_found", detail: "Nothing is known." }));
  await assert.rejects(all(followRun({ baseUrl: service.base, runId: RUN })), { code: "not_found" });
});

test("leaving the loop lets go of the connection", async (t) => {
  const service = await ScriptedService.serving(t, stream(numbered(1, 2), { then: "stay" }));
  for await (const { event } of followRun({ baseUrl: service.base, runId: RUN })) if (event.type === "RUN_STARTED") break;
  await service.requests[0].gone;
});

const HISTORY = [
  { type: "RUN_STARTED", threadId: "t", runId: RUN },
  { type: "MESSAGES_SNAPSHOT", messages: [{ id: "m", role: "assistant", content: "Hel" }] },
  { type: "TEXT_MESSAGE_START", messageId: "m", role: "assistant" },
].map(unnumbered).join("");

test("a joined thread gives its history, then the run that is going on", async (t) => {
  const service = await ScriptedService.serving(t, stream(HISTORY + numbered(4)), stream(numbered(5, LAST)));
  const seen = await all(joinThread({ ...QUICK, baseUrl: service.base, threadId: "t", agentId: "a b" }));
  assert.deepEqual(seen.map(({ event }) => event.type), [
    "RUN_STARTED", "MESSAGES_SNAPSHOT", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED",
  ]);
  const [joined, resumed] = service.requests;
  assert.equal(joined.url, "/ag-ui/agent/a%20b/connect");
  assert.equal(joined.headers["idempotency-key"], undefined);
  assert.equal(JSON.parse(joined.body).threadId, "t");
  assert.equal(resumed.headers["last-event-id"], `${RUN}.4`);
});

test("joining that breaks within the history begins anew, and the history comes once", async (t) => {
  const service = await ScriptedService.serving(t, stream(HISTORY, { then: "cut" }), stream(HISTORY + numbered(4, LAST)));
  const seen = await all(joinThread({ ...QUICK, baseUrl: service.base, threadId: "t", agentId: "a" }));
  assert.equal(seen.filter(({ event }) => event.type === "MESSAGES_SNAPSHOT").length, 1);
  assert.equal(seen.length, 6);
  assert.deepEqual(service.requests.map(({ method }) => method), ["POST", "POST"]);
});

test("a history that says how far it goes is not asked for again", async (t) => {
  const standing = `${HISTORY}id: ${RUN}.3\n\n`;
  const service = await ScriptedService.serving(t, stream(standing, { then: "cut" }), stream(numbered(4, LAST)));
  const seen = await all(joinThread({ ...QUICK, baseUrl: service.base, threadId: "t", agentId: "a" }));
  assert.equal(seen.length, 6);
  assert.equal(service.requests[1].headers["last-event-id"], `${RUN}.3`);
});

test("a run that has not begun is joined from its first event", async (t) => {
  const standing = `${HISTORY}id: ${RUN}.0\n\n`;
  const service = await ScriptedService.serving(t, stream(standing, { then: "cut" }), stream(numbered(1, LAST)));
  const seen = await all(joinThread({ ...QUICK, baseUrl: service.base, threadId: "t", agentId: "a" }));
  assert.equal(seen.length, 3 + LAST);
  assert.equal(service.requests[1].headers["last-event-id"], `${RUN}.0`);
});

test("joining a thread in which nothing goes on gives its history", async (t) => {
  const ended = HISTORY.split("\n\n").slice(0, 2).join("\n\n") + "\n\n" + unnumbered({ type: "RUN_FINISHED", threadId: "t", runId: RUN });
  const service = await ScriptedService.serving(t, stream(ended));
  const seen = await all(joinThread({ baseUrl: service.base, threadId: "t", agentId: "a" }));
  assert.deepEqual(seen.map(({ event }) => event.type), ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]);
});
